"""Finds objects in images: the same as `swin-dense predict`."""

import sys

from swin_dense.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])

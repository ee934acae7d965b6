"""Trains a detector: the same as `swin-dense train`."""

import sys

from swin_dense.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])

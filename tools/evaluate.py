"""Scores a detector or a result file: the same as `swin-dense evaluate`."""

import sys

from swin_dense.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])

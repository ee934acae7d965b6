"""Scores a detector or a result file: the same as `swin-dense evaluate`."""

import sys

from swin_dense.cli import main

main(["evaluate", *sys.argv[1:]])

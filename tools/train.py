"""Trains a detector: the same as `swin-dense train`."""

import sys

from swin_dense.cli import main

main(["train", *sys.argv[1:]])

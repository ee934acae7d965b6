"""`python -m swin_dense.cli`, where the console script is not on the path."""

from swin_dense.cli import main

main()

"""Data sets of annotation tools and other projects, read into one form and written as COCO files or label maps."""

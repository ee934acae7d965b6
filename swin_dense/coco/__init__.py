"""COCO annotation and result files: reading them, and judging them, once."""

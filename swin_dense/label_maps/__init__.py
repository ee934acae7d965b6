"""Label maps, class lists and palettes as files: reading them, and judging them, once."""

"""How models are run on images: views, windows, slices, and merging of what they find."""

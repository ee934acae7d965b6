"""Video files, clips of them, and lists of videos with a class each; see `reader` for how frames are counted."""

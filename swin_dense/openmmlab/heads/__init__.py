"""Necks, heads and losses that mmdet lacks; `registry.HEADS` registers them in it like its own."""

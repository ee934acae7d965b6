"""Images out of folders, zip files and lists."""

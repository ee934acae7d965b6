"""What may be wrong with an installation, and whether everything computes on a device what it computes on the CPU."""

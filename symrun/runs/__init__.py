"""All that touches the disk of a run: its folder, its tables."""

"""What there is to tell of runs, read from their folders: of many, of one, of one under way."""

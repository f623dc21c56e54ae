"""What can be said of runs, read from their folders: of many, of one, of one that goes on."""

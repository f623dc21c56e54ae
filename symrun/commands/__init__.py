"""The commands, one a file: `add` gives each its options, and `_run` runs it."""

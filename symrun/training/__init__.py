"""The one place where a training step happens."""

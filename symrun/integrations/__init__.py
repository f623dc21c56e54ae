"""Callbacks that track a run in the training loop of another library."""

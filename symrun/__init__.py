"""symrun: the mechanics of learning, measured and predicted while a network trains."""

__version__ = "0.1.0"

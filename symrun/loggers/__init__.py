"""Curves of a run that goes on, for TensorBoard, Weights & Biases or MLflow."""

from symrun.loggers.scalar_logger import ScalarLogger, logging_to, require_installed

__all__ = ["ScalarLogger", "logging_to", "require_installed"]

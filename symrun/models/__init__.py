"""The networks that can be trained by name."""

from symrun.models.registry import MODELS, Model, ModelConfig, VggConfig

__all__ = ["MODELS", "Model", "ModelConfig", "VggConfig"]

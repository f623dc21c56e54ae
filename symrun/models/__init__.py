"""The networks that can be trained by name."""

from symrun.models.registry import MODELS, Model, ModelConfig, build_model, entry_of

__all__ = ["MODELS", "Model", "ModelConfig", "build_model", "entry_of"]

"""The networks that can be trained by name."""

from symrun.models.vgg import VGG, vgg

__all__ = ["VGG", "vgg"]

"""Symmetries of a network's loss: which parameters they act on, found in the module itself."""

from symrun.symmetry.graph import Layer, Structure, find_structure
from symrun.symmetry.groups import Block, Group, Symmetry

__all__ = ["Block", "Group", "Layer", "Structure", "Symmetry", "find_structure"]

"""Symmetries of a network's loss: which parameters they act on, found in the module itself."""

import importlib
from typing import TYPE_CHECKING, Any

from symrun.symmetry.groups import Group, Members, Symmetry, columns, rows

if TYPE_CHECKING:
    from symrun.symmetry.graph import Layer, Structure, find_structure

__all__ = [
    "Group",
    "Layer",
    "Members",
    "Structure",
    "Symmetry",
    "columns",
    "find_structure",
    "rows",
]

_OF_GRAPH = ("Layer", "Structure", "find_structure")


def __getattr__(name: str) -> Any:
    """Imported when first asked for: torch takes a second, and reading tables needs none of it."""
    if name not in _OF_GRAPH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.graph"), name)

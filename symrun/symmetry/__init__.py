"""Symmetries of a network's loss: which parameters they act on, found in the module itself."""

from typing import TYPE_CHECKING

from symrun.lazy import imported_when_asked
from symrun.symmetry.groups import Group, Members, Symmetry, columns, rows

if TYPE_CHECKING:
    from symrun.symmetry.family import Family
    from symrun.symmetry.search import Layer, Structure, find_structure

__all__ = [
    "Family",
    "Group",
    "Layer",
    "Members",
    "Structure",
    "Symmetry",
    "columns",
    "find_structure",
    "rows",
]

__getattr__ = imported_when_asked(
    __name__,
    {
        "Family": "symrun.symmetry.family",
        **dict.fromkeys(("Layer", "Structure", "find_structure"), "symrun.symmetry.search"),
    },
)

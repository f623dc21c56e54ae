"""Whether a state of an earlier run is that of this one."""

from collections.abc import Mapping
from typing import Any

from symrun.errors import UsageError
from symrun.symmetry import Group, Structure
from symrun.symmetry.groups import entries_of_blocks


def asked_for(structure: Structure) -> dict[str, str]:
    """The settings of `track` that decide which groups of a network there are."""
    mixing = [group for group in structure.groups if group.pairs]
    full = all(list(group.pairs) == entries_of_blocks(group.blocks) for group in mixing)
    matrices = "diagonal" if not mixing else "full" if full else "sample"
    return {"homogeneity": str(structure.balanced is not None), "matrices": matrices}


def names_of(structure: Structure) -> list[list[Any]]:
    """Of each group its symmetry, its name and how many units it has."""
    return [[one.symmetry.value, one.name, one.units] for one in structure.groups]


def groups_in(state: Mapping[str, Any], structure: Structure) -> tuple[Group, ...]:
    """Those of `structure` that `state` has."""
    pairs = zip(names_of(structure), structure.groups, strict=True)
    return tuple(group for name, group in pairs if name in state["groups"])


def require_same(state: Mapping[str, Any], structure: Structure, path: object) -> None:
    """Error: UsageError if `structure` lacks a group of `state`, or was asked for otherwise."""
    for setting, now in asked_for(structure).items():
        before = state.get("asked", {}).get(setting, now)
        if before != now:
            raise UsageError(
                f"{path} was tracked with {setting}={before}, and now has {setting}={now}: ask "
                "for the same, or choose another path"
            )
    if any(one not in names_of(structure) for one in state.get("groups", [[]])):
        raise UsageError(f"{path} was made with another network, or by another symrun")

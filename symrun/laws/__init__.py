"""What theory predicts for the conserved quantities: float64 matrices, one law a file."""

import importlib
from typing import TYPE_CHECKING, Any

from symrun.laws.conservation import gradient_flow
from symrun.laws.sgd import Kind, kinds_of_sgd, laws_of_sgd

if TYPE_CHECKING:
    from symrun.laws.discrete import DiscreteLaw
    from symrun.laws.law import SGD, Input, Law
    from symrun.laws.modified_flow import ModifiedFlow
    from symrun.laws.oscillator import Oscillator
    from symrun.laws.propagation import Propagation

__all__ = [
    "SGD",
    "DiscreteLaw",
    "Input",
    "Kind",
    "Law",
    "ModifiedFlow",
    "Oscillator",
    "Propagation",
    "gradient_flow",
    "kinds_of_sgd",
    "laws_of_sgd",
]

# Imported when first asked for: torch takes a second, and reading tables needs none of it.
_WITH_TORCH = ("law", "discrete", "modified_flow", "oscillator", "propagation")


def __getattr__(name: str) -> Any:
    for module in _WITH_TORCH if name in __all__ else ():
        found = vars(importlib.import_module(f"{__name__}.{module}")).get(name)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

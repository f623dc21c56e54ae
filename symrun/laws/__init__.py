"""What theory predicts for the conserved quantities: float64 matrices, one law a file."""

from typing import TYPE_CHECKING

from symrun.laws.conservation import gradient_flow, steady_forcing
from symrun.laws.sgd import Kind, kinds_of_sgd, laws_of_sgd
from symrun.lazy import imported_when_asked

if TYPE_CHECKING:
    from symrun.laws.discrete import DiscreteLaw
    from symrun.laws.law import SGD, Input, Law
    from symrun.laws.modified_flow import ModifiedFlow
    from symrun.laws.observed import ObservedUpdate
    from symrun.laws.oscillator import Oscillator
    from symrun.laws.propagation import Propagation, Rule

__all__ = [
    "SGD",
    "DiscreteLaw",
    "Input",
    "Kind",
    "Law",
    "ModifiedFlow",
    "ObservedUpdate",
    "Oscillator",
    "Propagation",
    "Rule",
    "gradient_flow",
    "kinds_of_sgd",
    "laws_of_sgd",
    "steady_forcing",
]

__getattr__ = imported_when_asked(
    __name__,
    {
        "DiscreteLaw": "symrun.laws.discrete",
        **dict.fromkeys(("SGD", "Input", "Law"), "symrun.laws.law"),
        "ModifiedFlow": "symrun.laws.modified_flow",
        "ObservedUpdate": "symrun.laws.observed",
        "Oscillator": "symrun.laws.oscillator",
        **dict.fromkeys(("Propagation", "Rule"), "symrun.laws.propagation"),
    },
)

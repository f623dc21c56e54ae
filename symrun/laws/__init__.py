"""What theory predicts for the conserved quantities: float64 recursions, one law a file."""

from symrun.laws.conservation import gradient_flow
from symrun.laws.discrete import DiscreteLaw
from symrun.laws.law import SGD, Drive, Law, MomentumDrive
from symrun.laws.modified_flow import ModifiedFlow
from symrun.laws.oscillator import Oscillator
from symrun.laws.propagation import Propagation
from symrun.laws.sgd import laws_of_sgd

__all__ = [
    "SGD",
    "DiscreteLaw",
    "Drive",
    "Law",
    "ModifiedFlow",
    "MomentumDrive",
    "Oscillator",
    "Propagation",
    "gradient_flow",
    "laws_of_sgd",
]

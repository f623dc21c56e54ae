"""What theory predicts for the conserved quantities: float64 recursions, one law a file."""

from symrun.laws.conservation import gradient_flow
from symrun.laws.discrete import DiscreteLaw
from symrun.laws.law import Drive, Law
from symrun.laws.modified_flow import ModifiedFlow
from symrun.laws.sgd import laws_of_sgd

__all__ = ["DiscreteLaw", "Drive", "Law", "ModifiedFlow", "gradient_flow", "laws_of_sgd"]

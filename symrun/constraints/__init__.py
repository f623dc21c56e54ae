"""The constraints that symmetries put on the gradient and the Hessian, held against a network."""

from symrun.constraints.check import check_model, check_run, run_or_overrides
from symrun.constraints.gradient import GradientConstraint, gradient_constraints
from symrun.constraints.hessian import HessianConstraint, hessian_constraints
from symrun.constraints.report import Report, as_json, as_table, shortcomings

__all__ = [
    "GradientConstraint",
    "HessianConstraint",
    "Report",
    "as_json",
    "as_table",
    "check_model",
    "check_run",
    "gradient_constraints",
    "hessian_constraints",
    "run_or_overrides",
    "shortcomings",
]

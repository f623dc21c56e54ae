"""The constraints that a symmetry puts on the gradient, from the tables that a run recorded.

    translation   sum of g over A               = 0      beside |g| sqrt(entries)
    scale         <g, theta_A>                  = 0      beside |g| |theta_A|
    rescale       <g, theta_A2> - <g, theta_A1> = 0      beside |g| |theta_A|, A = A1 and A2
    homogeneity   sum of a_p <g_p, theta_p> - h S = 0    beside |g| |theta|, both with weights a_p

The quotient is the cosine between the gradient and the symmetry's generator: 0 for a perfect
symmetry in exact arithmetic. In a run it comes from rounding and from BatchNorm's eps. Where signs
are larger than 1, all three are sums with these weights, so that the quotient stays at most 1.

Source: Kunin et al. 2021, section 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.runs.directory import RunDirectory
from symrun.runs.network import GroupInfo
from symrun.runs.tables import unit_curves

_SMALLEST = float(np.finfo(np.float32).tiny)
"""Below it, float32 tables lose digits."""


@dataclass(frozen=True)
class GradientConstraint:
    """The cosines of one group, over its units and the records of a run.

    Records without a gradient (the last, and what is not finite) and units without one
    (|g|^2 = 0 in float32) are left out; None if that leaves nothing.
    """

    symmetry: str
    group: str
    units: int
    median_cosine: float | None
    largest_cosine: float | None


def gradient_constraints(run: RunDirectory) -> Iterator[GradientConstraint]:
    """Group by group, in the order of run.json.

    Error: UsageError if run.json lacks the number of entries in a unit, or the tables are
    unreadable.
    Example: worst = max(row.largest_cosine for row in gradient_constraints(run))
    """
    for group in run.info().groups:
        cosines = _cosines(run, group)
        median, largest = (
            (float(np.median(cosines)), float(cosines.max())) if cosines.size else (None, None)
        )
        yield GradientConstraint(group.symmetry.value, group.group, group.units, median, largest)


def _cosines(run: RunDirectory, group: GroupInfo) -> NDArray[np.float64]:
    """|defect| / (|g| |v|) of each unit and record that has one: [cosines]."""
    if group.entries is None:
        lacking = f"does not say how many entries {group.group} has"
        remedy = "the gradient constraint needs it: train again with this symrun"
        raise UsageError(f"{run.run_json} {lacking}; {remedy}")
    columns = ["defect", "grad_norm_sq", "magnitude"]
    curves = unit_curves(run, group.symmetry.value, group.group, columns)
    defect, grad_norm_sq, magnitude = (curves.values[column] for column in columns)
    # For translation `magnitude` is sum |theta|, and the generator is a vector of ones.
    linear = group.symmetry.degree == 1
    along_sq = np.full_like(magnitude, group.entries) if linear else magnitude
    known = np.isfinite(defect) & np.isfinite(grad_norm_sq) & np.isfinite(along_sq)
    known[known] = (grad_norm_sq[known] >= _SMALLEST) & (along_sq[known] > 0)
    cosines: NDArray[np.float64] = np.abs(defect[known])
    cosines /= np.sqrt(grad_norm_sq[known]) * np.sqrt(along_sq[known])
    return cosines

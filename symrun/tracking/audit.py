"""Holds each record against the identity `exact`, and the gradient against its constraint."""

import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from symrun.symmetry import Group, Symmetry
from symrun.tracking.tracker import recorded_as

_ROUNDINGS = 16
"""Of a unit's magnitude that an update may cause: two for each of theta, the step, the buffer, the
gradient, doubled since Q is quadratic. The step counts as if it were as large as theta."""

_BROKEN = 0.05
"""Of |B(theta, g)| / (|theta| |g|), in the median unit of a group: far above what bfloat16 does."""

_UNBALANCED = 5e-4
"""Of |B(theta, g) - h S| / (|theta| |g|), small even where clipping halves g: below, it may
be what bfloat16 does."""

_SMALL_GRADIENT = 1e-3
"""Of the largest gradient of a group so far, what is left out: it may be rounding."""

_DIVERGED = 1e18
"""A unit of this magnitude is on its way to overflow, where the laws may arrive first."""


@dataclass(frozen=True)
class Violation:
    """A record that contradicts the identity `exact`, or a gradient its constraint.

    before, step: the records between which it happened. group: its place among the groups. unit:
    the worst. size: relative to the unit's magnitude, and `bound`, what rounding explains at most.
    of_gradient: the gradient breaks its constraint; else the identity missed.
    """

    before: int
    step: int
    group: int
    unit: int
    size: float
    bound: float
    of_gradient: bool = False


class Audit:
    """A Watcher that notices the first violation of each kind.

    Between two records, `exact` may depart from the measurement by rounding alone: 16 roundings of
    the weights' type an update, relative to the magnitude, and those of the table's type.

    weights: their type; that of the tables is float64 with float64 weights, else float32.
    incomplete: the places of groups whose gradient is not that of the update; the set may grow.
    """

    def __init__(
        self, groups: Sequence[Group], weights: torch.dtype, incomplete: Set[int] = frozenset()
    ) -> None:
        self._groups, self._incomplete = groups, incomplete
        self._rounding = torch.finfo(weights).eps / 2
        self._recorded = torch.finfo(recorded_as(weights)).eps / 2
        sizes = [group.units for group in groups]
        self._ends = np.cumsum([0, *sizes])
        self._entries = np.repeat([group.entries for group in groups], sizes)
        self._linear = np.repeat([group.symmetry.degree == 1 for group in groups], sizes)
        balanced = [group.symmetry is Symmetry.homogeneity for group in groups]
        self._balanced = np.repeat(balanced, sizes)
        self._steepest = np.zeros(len(groups))
        """The largest squared gradient of a unit in each group so far."""
        self._last: tuple[int, NDArray[Any], NDArray[Any]] | None = None
        self.missed: Violation | None = None
        self.broken: Violation | None = None

    def on_record(self, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        with np.errstate(all="ignore"):  # a diverged run holds what is not finite
            measured, magnitude = (
                values[name].astype(np.float64) for name in ("measured", "magnitude")
            )
            error = measured - values["exact"].astype(np.float64)
            error[~np.isfinite(error) & (magnitude < _DIVERGED)] = np.inf
            if self._last is not None and self.missed is None:
                self._compare(step, error, magnitude, *self._last)
            self._last = step, error, magnitude
            if self.broken is None and "defect" in values:
                self._hold_gradient(step, values, magnitude)

    def lines(self) -> list[str]:
        """What was noticed so far, in words."""
        return [self.line(one) for one in (self.broken, self.missed) if one is not None]

    def line(self, violation: Violation) -> str:
        """What happened, in words."""
        group = self._groups[violation.group]
        place = list(group.pairs[violation.unit]) if group.pairs else [violation.unit]
        unit = f"{group.symmetry.value} of {group.name} {place}"
        if violation.of_gradient and group.symmetry is Symmetry.homogeneity:
            return (
                f"at step {violation.step} the gradient of {unit} is another than the outputs have "
                f"as their source, by {violation.size:.1e}: it is changed between backward and "
                "update, as by clipping or a GradScaler, the loss depends on more than the "
                "outputs, these are not finite or changed in place, or gradients are kept from "
                "earlier updates"
            )
        if violation.of_gradient:
            return (
                f"at step {violation.step} the gradient breaks the constraint of {unit} by "
                f"{violation.size:.1e}: the loss is another one than was named, something is added "
                "to it, a hook changes gradients, or a normalisation's eps is felt"
            )
        return (
            f"between steps {violation.before} and {violation.step} {unit} changed by "
            f"{violation.size:.1e} otherwise than by updates, where rounding explains "
            f"{violation.bound:.0e}"
        )

    def _compare(
        self,
        step: int,
        error: NDArray[Any],
        magnitude: NDArray[Any],
        before: int,
        error_before: NDArray[Any],
        magnitude_before: NDArray[Any],
    ) -> None:
        bound = _ROUNDINGS * (step - before) * self._rounding + 4 * self._recorded
        largest = np.maximum(magnitude, magnitude_before)
        excess = np.abs(error - error_before) / np.where(largest > 0, largest, np.inf)
        excess = np.nan_to_num(excess, nan=0, posinf=np.inf)  # NaN: it was infinite before as well
        if excess.size and excess.max() > bound:
            self.missed = self._violation(before, step, excess, bound)

    def _hold_gradient(
        self, step: int, values: Mapping[str, NDArray[Any]], magnitude: NDArray[Any]
    ) -> None:
        norm_sq = values["grad_norm_sq"].astype(np.float64)
        size = np.sqrt(norm_sq * np.where(self._linear, self._entries, magnitude))
        share = np.abs(values["defect"].astype(np.float64)) / size
        if "source" in values:
            share = np.where(self._balanced, self._imbalance(values, share), share)
        for group, (first, end) in enumerate(itertools.pairwise(self._ends)):
            if group in self._incomplete:
                continue
            here = share[first:end]
            norms = np.nan_to_num(norm_sq[first:end], nan=0, posinf=0)
            self._steepest[group] = max(self._steepest[group], norms.max())
            here = here[np.isfinite(here) & (norms > _SMALL_GRADIENT**2 * self._steepest[group])]
            if here.size and np.median(here) > _BROKEN:
                found = np.zeros_like(share)
                found[first:end] = np.nan_to_num(share[first:end], nan=0, posinf=0)
                self.broken = self._violation(step, step, found, _BROKEN, of_gradient=True)
                return

    def _imbalance(
        self, values: Mapping[str, NDArray[Any]], share: NDArray[Any]
    ) -> NDArray[np.float64]:
        """How much of B(theta, g) or of h S, whichever is larger, the other lacks."""
        defect, source = (values[name].astype(np.float64) for name in ("defect", "source"))
        larger = np.maximum(np.abs(source), np.abs(source + defect))
        return np.where(share > _UNBALANCED, np.abs(defect) / larger, 0.0)

    def _violation(
        self, before: int, step: int, sizes: NDArray[Any], bound: float, of_gradient: bool = False
    ) -> Violation:
        worst = int(np.argmax(sizes))
        group = int(np.searchsorted(self._ends, worst, side="right")) - 1
        unit = worst - int(self._ends[group])
        return Violation(before, step, group, unit, float(sizes[worst]), bound, of_gradient)

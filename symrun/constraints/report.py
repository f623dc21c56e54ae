"""The constraints as tables for people, as JSON, and as a verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from symrun.analysis.report import aligned, rows_as_json, scientific
from symrun.constraints.gradient import GradientConstraint
from symrun.constraints.hessian import HessianConstraint

_IDENTITY = ("symmetry", "group", "units")
_ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24}
_FELT = 1e3
"""Errors of so many roundings are no rounding any more."""


@dataclass(frozen=True)
class Report:
    """One kind of constraint for every group.

    title: includes precision and device. step: the step of the weights; None if the rows summarise
    the records of a run.
    """

    constraint: str
    step: int | None
    precision: str
    device: str
    title: str
    rows: Sequence[GradientConstraint] | Sequence[HessianConstraint]


def as_table(report: Report) -> str:
    """The title, then one line per group."""
    if not report.rows:
        return f"{report.title}\nno symmetry group"
    numbers = [field.name for field in fields(report.rows[0])[len(_IDENTITY) :]]
    lines = [[*_IDENTITY, *(name.replace("_", " ") for name in numbers)]]
    for row in report.rows:
        measured = [scientific(getattr(row, name)) for name in numbers]
        lines.append([row.symmetry, row.group, str(row.units), *measured])
    return "\n".join([report.title, aligned(lines), *_eps_note(report)])


def _eps_note(report: Report) -> list[str]:
    """What a normalisation's eps breaks: always scale, and rescale and homogeneity where it is
    felt, as where a tied weight stands both in front of a normalisation and behind it."""
    bound = _FELT * _ROUNDING.get(report.precision, 1.0)
    broken = {
        row.symmetry
        for row in report.rows
        if row.symmetry == "scale"
        or (row.symmetry in ("rescale", "homogeneity") and _error(row) > bound)
    }
    what = "this symmetry" if len(broken) == 1 else "these symmetries"
    names = ", ".join(sorted(broken, reverse=True))
    note = f"{names}: a normalisation's eps breaks {what}, in proportion to eps"
    return [note] if broken else []


def _error(row: GradientConstraint | HessianConstraint) -> float:
    error = row.relative_error if isinstance(row, HessianConstraint) else row.largest_cosine
    return error or 0.0


def as_json(reports: Sequence[Report]) -> str:
    """{"rows": [{"constraint", "step", "precision", "device", and the row's own fields}, ...]}"""
    shared = ("constraint", "step", "precision", "device")
    return rows_as_json(
        [
            {name: getattr(report, name) for name in shared} | asdict(row)
            for report in reports
            for row in report.rows
        ]
    )


def shortcomings(reports: Sequence[Report], max_residual: float) -> list[str]:
    """One line per group whose Hessian constraint exceeds the bar or is not finite.

    One line as well if no group could be compared with the bar.
    """
    compared = [
        (report, row, row.relative_error)
        for report in reports
        for row in report.rows
        if isinstance(row, HessianConstraint) and row.relative_error is not None
    ]
    if not compared:
        return ["no group has a relative error of its Hessian constraint"]
    return [
        f"Hessian constraint of {row.symmetry} {row.group} at step {report.step}: "
        f"relative error {error:.6g}, the bar is {max_residual:g}"
        for report, row, error in compared
        if not error <= max_residual  # so that NaN falls short
    ]

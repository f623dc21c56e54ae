"""The constraints as tables for people, as JSON, and as a verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from symrun.analysis.report import aligned, rows_as_json, scientific
from symrun.constraints.gradient import GradientConstraint
from symrun.constraints.hessian import HessianConstraint

_IDENTITY = ("symmetry", "group", "units")
_EPS_NOTE = "scale: a normalisation's eps breaks this symmetry, in proportion to eps"


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
    eps_note = [_EPS_NOTE] if any(row.symmetry == "scale" for row in report.rows) else []
    return "\n".join([report.title, aligned(lines), *eps_note])


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

"""How well `flow` did in a run: which bars it clears, and one sentence that says so."""

from collections.abc import Sequence
from dataclasses import dataclass

from symrun.analysis import Agreement, silences
from symrun.analysis.agreement import FEW
from symrun.analysis.report import predicts
from symrun.report.document import Table, code, formatted, literal
from symrun.report.evidence import Evidence
from symrun.runs.info import RunInfo, Status

_BARS: tuple[tuple[str, str, float], ...] = (
    ("`flow` leaves 1 − R² ≤ 1e-6 for the median unit", "unexplained", 1e-6),
    ("`flow` leaves 1 − R² ≤ 1e-4 for 99 in 100 units", "unexplained_99", 1e-4),
    ("residual of `flow` ≤ 1e-3", "residual", 1e-3),
)
"""The bar in words; the field of Agreement; the largest value.

Null laws leave 1e-4 or more. Where no unit of a symmetry moved there is no R²: with a
constant weight decay translation moves by rounding alone.
"""

_UNTIL = {
    Status.running: "so far",
    Status.finished: "",
    Status.interrupted: "until it was interrupted",
    Status.failed: "until it failed",
    Status.diverged: "until it diverged",
    Status.killed: "until it was killed",
}
"""How far the numbers of a run reach, by its status."""


@dataclass(frozen=True)
class Verdict:
    """label: in a few words. good: whether `flow` clears every bar; None if it predicts nothing, or
    clears all of them in a run that has not finished. sentence: its numbers."""

    label: str
    good: bool | None
    sentence: str


def verdict(one: Evidence) -> Verdict:
    """What the tables say about `flow` in this run, and nothing of what it does not predict."""
    rows = [row for row in one.summary if row.law == "flow" and row.residual is not None]
    if not rows:
        return _without_flow(one)
    held = [(row, bar) for row in rows for bar in _BARS if getattr(row, bar[1]) is not None]
    missed = [
        f"{what} in {row.symmetry} ({formatted(getattr(row, key), '.1e')})"
        for row, (what, key, bar) in held
        if not _clears(one.setup, row, key, bar)
    ]
    until = _UNTIL[one.setup.status]
    label = f"{until and until + ' '}flow clears {len(held) - len(missed)} of {len(held)} bars"
    numbers = "; ".join(_numbers(one.setup, row) for row in rows)
    sentence = f"{_beginning(one.setup)}`flow` leaves unexplained: {numbers}."
    sentence += f" Missed: {'; '.join(missed)}." if missed else ""
    if all(row.unexplained is None for row in rows):
        return Verdict(f"{nothing_moved(one.setup)}: nothing to explain", None, sentence)
    cleared = True if one.setup.status is Status.finished else None
    return Verdict(label, False if missed else cleared, sentence)


def _without_flow(one: Evidence) -> Verdict:
    """The verdict on a run of which `flow` makes no prediction."""
    if not one.summary:
        nothing = "No symmetry was found in this network, so there is nothing to predict."
        return Verdict("no symmetry was found", None, nothing)
    others = dict.fromkeys(row.law for row in one.summary if predicts(row))
    why = " ".join(literal(f"{line}.") for line in silences(one.setup))
    if not others:
        return Verdict("no law predicts it", None, f"No law predicts this run: {why}")
    rows = [row for row in one.summary if row.law == next(iter(others))]
    numbers = "; ".join(_numbers(one.setup, row) for row in rows if row.residual is not None)
    sentence = (
        f"`flow` makes no prediction of this run. `{rows[0].law}` leaves unexplained: {numbers}."
    )
    return Verdict("flow makes no prediction", None, f"{sentence} {why}")


def _beginning(setup: RunInfo) -> str:
    if setup.diverged:
        return f"The run diverged at step {setup.diverged.step:,}; up to there "
    until = _UNTIL[setup.status]
    return until and f"{until.capitalize()}, "


def nothing_moved(setup: RunInfo) -> str:
    """What is said where no unit moved: with weight decay they did, with exp(−λt)."""
    optim = setup.planned_optim
    decay = optim.flow_decay if optim else setup.config.by_name.get("optim.weight_decay")
    return "no unit left exp(−λt)" if decay else "no unit moved"


def _numbers(setup: RunInfo, row: Agreement) -> str:
    residual = f"residual {formatted(row.residual, '.1e')}"
    if row.unexplained is None:
        return f"nothing in {row.symmetry}, where {nothing_moved(setup)} ({residual})"
    share = f"1 − R² = {formatted(row.unexplained, '.1e')} in {row.symmetry}"
    judged = f"{row.moved:,} of {row.units:,} units" if row.excluded else f"{row.units:,} units"
    return f"{share} (median of {judged}; {residual})"


def bars_table(evidences: Sequence[Evidence]) -> Table | None:
    """Each bar, and whether each run clears it; None if `flow` predicts no run."""
    rows = [
        [code(one.name), row.symmetry, what, *_judged(one.setup, row, key, bar)]
        for one in evidences
        for row in one.summary
        if row.law == "flow" and row.residual is not None
        for what, key, bar in _BARS
    ]
    return Table(["run", "symmetry", "bar", "measured", "cleared"], rows) if rows else None


def _clears(setup: RunInfo, row: Agreement, key: str, bar: float) -> bool:
    return not setup.diverged and bool(getattr(row, key) <= bar)


def _judged(setup: RunInfo, row: Agreement, key: str, bar: float) -> list[str]:
    """The number, and whether it clears the bar, by how many units if not by all of them."""
    value = getattr(row, key)
    if value is None:
        return ["-", f"not judged: {nothing_moved(setup)}"]
    words = ["yes" if _clears(setup, row, key, bar) else "no"]
    if key != "residual" and (row.excluded or row.moved < FEW):
        words.append(f"{row.moved:,} of {row.units:,} units judged")
    words += filter(None, [_UNTIL[setup.status]])
    if setup.diverged:
        words = ["no", "it diverged"]
    return [formatted(value, ".1e"), ", ".join(words)]

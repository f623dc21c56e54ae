"""Loss and accuracy over training, for the HTML page."""

from collections.abc import Sequence
from typing import Any

from symrun.report.evidence import Evidence

_POINTS = 400
"""Of a curve: more than a screen tells apart."""
MOST_ROWS = 4000
"""Of the tables `progress` that the page carries, all runs together."""
_QUANTITIES = ("loss", "top1")


def evenly(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` of `rows`, evenly spaced, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[place * (len(rows) - 1) // (most - 1)] for place in range(most)]


def curves(progress: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Split -> steps and each quantity, with five digits; None where nobody knows it."""
    found = {}
    for split in ("train", "val"):
        rows = evenly([row for row in progress if row["split"] == split], _POINTS)
        columns = {name: [_rounded(row[name]) for row in rows] for name in _QUANTITIES}
        found[split] = {"step": [row["step"] for row in rows], **columns}
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None or abs(value) == float("inf") else float(f"{value:.5g}")


def scores_in_words(evidences: Sequence[Evidence]) -> str:
    """Where loss and accuracy of each run begin and end, in words."""
    lines = []
    for one in evidences:
        for split, word in (("train", "training"), ("val", "validation")):
            for name, form in (("loss", ".3g"), ("top1", ".1%")):
                values = [
                    row[name]
                    for row in one.progress
                    if row["split"] == split and _rounded(row[name]) is not None
                ]
                if values:
                    what = f"{word} {'loss' if name == 'loss' else 'top-1'}"
                    lines.append(f"{one.name}: {what} {values[0]:{form}} to {values[-1]:{form}}.")
    return " ".join(lines)

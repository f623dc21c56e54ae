"""One run at a glance: what it was, how it went, what it takes on the disk."""

import contextlib
import stat
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from symrun.analysis import is_null
from symrun.analysis.report import (
    aligned,
    json_values,
    law_in_words,
    moved_units,
    scientific,
    silences,
)
from symrun.display import duration
from symrun.errors import in_one_line
from symrun.listing.filters import shown
from symrun.listing.summary import SCORES, Summary
from symrun.listing.words import (
    clock,
    count,
    decimal,
    of_planned,
    optimiser_in_words,
    resumption,
    share,
    size,
    typed,
)
from symrun.places import as_typed
from symrun.runs.differences import changed_settings
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.info import RunInfo, Status

_PLACES = {
    **{name: f"tables/{name}" for name in TABLES},
    **{name: name for name in ("checkpoints", "figures")},
}
"""What lies in a run's folder, and where."""

_WRAP = 66
"""Characters of a line beside the names of what it tells."""


@dataclass(frozen=True)
class Card:
    """changed: setting -> its value and the default; every setting and None where there are no
    defaults, in a loop of the user's own. symmetries: groups, units and parameters (None where
    nobody counted) of each. files: what lies in the run's folder -> files and bytes."""

    info: RunInfo
    summary: Summary
    changed: dict[str, tuple[object, object]] | None
    symmetries: dict[str, dict[str, int | None]]
    files: dict[str, tuple[int, int]]
    checkpoints: list[int]


def card(run: RunDirectory, summary: Summary) -> Card:
    """Error: UsageError if run.json cannot be read."""
    info = run.info()
    return Card(
        info,
        summary,
        _changed(info),
        _symmetries(info),
        {name: _files(run.path / path) for name, path in _PLACES.items()},
        run.checkpointed(),
    )


def _changed(info: RunInfo) -> dict[str, tuple[object, object]] | None:
    """As `changed_settings`, without the precision: run.json holds the one that `auto` became."""
    changed = changed_settings(info)
    if changed is not None and changed.get("precision", ("", ""))[1] == "auto":
        del changed["precision"]
    return changed


def _symmetries(info: RunInfo) -> dict[str, dict[str, int | None]]:
    found: dict[str, dict[str, int | None]] = {}
    for symmetry in dict.fromkeys(group.symmetry for group in info.groups):
        groups = info.groups_of(symmetry)
        counts = [group.parameters for group in groups if group.parameters is not None]
        found[symmetry.value] = {
            "groups": len(groups),
            "units": sum(group.units for group in groups),
            "parameters": sum(counts) if len(counts) == len(groups) else None,
        }
    return found


def _files(folder: Path) -> tuple[int, int]:
    """How many, and their bytes; what another process removes meanwhile is none."""
    sizes = []
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            sizes += [found.st_size] if stat.S_ISREG(found.st_mode) else []
    return len(sizes), sum(sizes)


def as_json(one: Card) -> dict[str, Any]:
    """All of the card; the settings are every one that was recorded."""
    summary, info = one.summary, one.info
    recorded = {key: value for key, value in info.to_json().items() if key in _RECORDED}
    places = one.files.items()
    return {
        "path": as_typed(str(summary.path)),
        "status": summary.status,
        "step": summary.step,
        "planned": summary.planned,
        **recorded,
        "settings": dict(summary.settings),
        "changed": one.changed and {name: pair[0] for name, pair in one.changed.items()},
        "symmetries": one.symmetries,
        "laws": [json_values(asdict(row)) for row in summary.laws],
        "unjudged": summary.unjudged,
        "train": json_values(summary.train),
        "val": json_values(summary.val),
        "files": {name: {"files": files, "bytes": total} for name, (files, total) in places},
        "checkpoints": one.checkpoints,
    }


_RECORDED = (
    *("created", "seconds", "device", "precision", "hardware", "threads", "ranks", "versions"),
    *("revision", "model", "dataset", "resumed", "thinned", "diverged", "unpredicted", "loop"),
)
"""What the JSON has of run.json as it is."""


def as_text(one: Card) -> str:
    """The card in paragraphs, each a table with a heading."""
    paragraphs = [
        _paragraph("run", _circumstances(one)),
        _paragraph(*_settings(one)),
        _symmetries_as_text(one),
        _laws(one),
        _scores(one.summary),
        _paragraph("on disk", _disk(one)),
        _paragraph("next", _next(one)),
    ]
    return "\n\n".join([in_one_line(one.summary.path), *filter(None, paragraphs)])


def _paragraph(heading: str, lines: Sequence[Sequence[str]]) -> str:
    """Empty without lines."""
    if not lines:
        return ""
    return f"{heading}\n" + "\n".join(f"  {line}" for line in aligned(lines).splitlines())


def _circumstances(one: Card) -> list[list[str]]:
    info, summary = one.info, one.summary
    status = f"{summary.status}, {of_planned(summary.step, summary.planned)} steps"
    status += ": nobody writes it any more" if summary.status == Status.killed else ""
    processor = info.hardware.processor if info.hardware else ""
    network, data = info.model, info.dataset
    size_of = "" if network.parameters is None else f", {network.parameters:,} parameters"
    where = [info.device, processor, info.processes, info.precision.value]
    took = "" if info.seconds is None else f", {duration(info.seconds)} of training"
    lines = [
        ["model", network.title + size_of],
        ["data", "" if data is None else f"{data.title}, {data.counted}"],
        ["optimiser", optimiser_in_words(info)],
        ["status", status],
        ["", "" if info.diverged is None else str(info.diverged)],
        ["started", clock(info.created) + took],
        *(["resumed", f"{clock(one.at)} at step {one.step:,}"] for one in info.resumed),
        ["device", ", ".join(filter(None, where))],
        ["versions", ", ".join(f"{name} {version}" for name, version in info.versions.items())],
        ["revision", info.revision or ""],
        ["loop", info.loop or ""],
        ["records", ", ".join(info.spacing())],
    ]  # fmt: skip
    return [part for line in lines if line[1] for part in _wrapped(*line)]


def _wrapped(name: str, text: str) -> list[list[str]]:
    lines = textwrap.wrap(text, _WRAP, break_on_hyphens=False)
    return [[name if place == 0 else "", line] for place, line in enumerate(lines)]


def _settings(one: Card) -> tuple[str, list[list[str]]]:
    if one.changed is None:
        settings = one.summary.settings.items()
        return "settings", [[name, shown(value)] for name, value in settings]
    if not one.changed:
        return "settings", [["all are the defaults"]]
    lines = [["", "", "default"]]
    lines += [[name, shown(value), shown(usual)] for name, (value, usual) in one.changed.items()]
    return "settings that are not the defaults", lines


def _symmetries_as_text(one: Card) -> str:
    lines = [["symmetry", "groups", "units", "parameters"]]
    for name, counts in one.symmetries.items():
        lines.append([name, *map(count, counts.values())])
    return aligned(lines) if one.symmetries else "no symmetry group"


def _laws(one: Card) -> str:
    table = [["symmetry", "law", "moved", "residual", "1 - R^2", "99 in 100", "worst unit"]]
    for row in one.summary.laws:
        if not is_null(row.law):
            shares = (row.unexplained, row.unexplained_99, row.unexplained_worst)
            cells = map(scientific, (row.residual, *shares))
            table.append([row.symmetry, law_in_words(row.law), moved_units(row), *cells])
    lines = [aligned(table)] if one.summary.laws else []
    if one.summary.unjudged:
        what = "numbers are missing" if one.summary.laws else "no law was judged"
        lines.append(f"{what}: {in_one_line(one.summary.unjudged)}")
    return "\n".join([*lines, *silences(one.info)])


def _scores(summary: Summary) -> str:
    lines = [["", "step", "loss", "top-1", "top-5", "images/s"]]
    for split, scores in (("training", summary.train), ("validation", summary.val)):
        if scores:
            lines.append([split, count(scores["step"]), *_scores_in_words(scores)])
    return aligned(lines) if len(lines) > 1 else ""


def _scores_in_words(scores: Mapping[str, float]) -> list[str]:
    forms = (decimal, share, share, count)
    return [form(scores.get(name)) for form, name in zip(forms, SCORES, strict=True)]


def _disk(one: Card) -> list[list[str]]:
    steps = ", ".join(f"{step:,}" for step in sorted(one.checkpoints))
    lines = []
    for name, (files, total) in one.files.items():
        many = f"{files:,} file{'s' * (files != 1)}"
        of_steps = f", of step {steps}" if name == "checkpoints" and steps else ""
        lines += [[name, size(total), many + of_steps]] if files else []
    return lines


def _next(one: Card) -> list[list[str]]:
    """The commands that make sense for this run, each with what it does if that is not obvious."""
    folder, status = typed(one.summary.path), one.summary.status
    goes_on = one.info.loop is None and one.info.thinned is None
    stopped = status in (Status.killed, Status.interrupted, Status.failed)
    names = ("check", "report", "plot symmetries") if one.summary.laws else ()
    read = [[f"symrun {name} {folder}", ""] for name in names]
    if status == Status.running:
        return [[f"symrun watch {folder}", ""], *read]
    if not (stopped and goes_on):
        return read
    resume = [[f"symrun resume {folder}", resumption(one.checkpoints)]]
    # A run that starts again loses its records: one may want to read them before
    return resume + read if one.checkpoints else read + resume

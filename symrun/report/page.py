"""What a page says of runs: what they were, how good each law was, what it cost."""

import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from symrun.errors import UsageError
from symrun.figures import FIGURES
from symrun.figures.captions import optimiser, settings
from symrun.figures.style import save
from symrun.report.document import Block, Heading, Paragraph, Picture, Table, as_html
from symrun.report.evidence import Evidence, Summary, evidence
from symrun.runs.directory import RunDirectory, planned_steps

_LAWS = (
    "**flow** is the paper's law, **discrete** the update itself projected on the symmetry, "
    "**exact** the same with the measured imperfection. *Explained* is the share of the broken "
    "conservation that a law accounts for, in percent and rounded down: the median over the units "
    "that moved; what it is at least for 99 in 100 of them; the median of the worst layer. "
    "*Residual* is the largest distance between measurement and prediction, over units and time, "
    "relative to the unit's magnitude, and *drift* the largest motion of any unit."
)
_BARS: tuple[tuple[str, str, str, float], ...] = (
    ("`flow` explains 99.9 % for the median unit", "flow", "explained", 0.999),
    ("`flow` explains 99 % for the median unit of the worst layer", "flow", "worst_group", 0.99),
    ("residual of `exact` at most 1e-4", "exact", "residual", 1e-4),
)
"""In words; the law and its number; the least that a share may be, the most that a residual."""


def report(runs: Sequence[RunDirectory], out: Path) -> Path:
    """One self-contained HTML page about `runs`, written to `out`.

    Error: UsageError if a run has fewer than two records, or `out` cannot be written.
    Example: report([RunDirectory.open("outputs/fig1/...")], Path("report.html"))
    """
    told = [evidence(name, run) for name, run in zip(_names(runs), runs, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        drawn = list(draw(dict(zip(_names(runs), runs, strict=True)), Path(folder), ["png"]))
        pictures = [Picture(title, png=path.read_bytes()) for title, path in drawn]
    title = f"symrun: {settings(one.setup for one in told)}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(as_html(title, [Heading(title, 1), *section(told, pictures)]))
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from None
    return out


def _names(runs: Sequence[RunDirectory]) -> list[str]:
    """Of each run the end of its path that no other shares."""
    parts = 1
    while True:
        names = ["/".join(run.path.resolve().parts[-parts:]) for run in runs]
        if len(set(names)) == len(names) or parts == 16:
            return names
        parts += 1


def section(told: Sequence[Evidence], pictures: Sequence[Picture]) -> Iterator[Block]:
    """What there is to say of runs that belong together, after a heading."""
    yield runs_table(told)
    yield machine(told)
    yield from pictures
    yield Paragraph(_LAWS)
    yield laws_table(told)
    if bars := bars_table(told):
        yield bars


def draw(
    runs: dict[str, RunDirectory], folder: Path, formats: Sequence[str]
) -> Iterator[tuple[str, Path]]:
    """Each figure of the page, drawn into `folder`; its title and the first of its files."""
    for title, kind, name, chosen in _figures(runs):
        try:
            figure = FIGURES[kind].draw(FIGURES[kind].RUNS.choose(kind, chosen, list))
        except UsageError:  # no unit moved, or no law predicts it: the tables tell
            continue
        yield title, save(figure, folder, name, formats)[0]


def _figures(runs: dict[str, RunDirectory]) -> Iterator[tuple[str, str, str, list[RunDirectory]]]:
    """Title, figure, name of its file and runs: Figs. 1 and 5 of the first that fit."""
    singles = [[run] for run in runs.values()]
    pairs = [[one, other] for one in runs.values() for other in runs.values()]
    alike = [pair for pair in pairs if len({str(r.info()["config"]["optim"]) for r in pair}) == 1]
    for figure, candidates in (("fig1", singles), ("fig5", alike)):
        if fitting := [chosen for chosen in candidates if _fits(figure, chosen)]:
            yield figure.replace("fig", "Fig. "), figure, figure, fitting[0]
    yield "Loss and accuracy", "progress", "progress", list(runs.values())
    for kind, title in (("units", "Each unit of"), ("residual", "Residual over training of")):
        for name, run in runs.items():
            yield f"{title} {name}", kind, f"{kind}_{name.replace('/', '_')}", [run]


def _fits(figure: str, runs: Sequence[RunDirectory]) -> bool:
    try:
        FIGURES[figure].RUNS.choose(figure, runs, list)
    except UsageError:
        return False
    return True


def runs_table(told: Sequence[Evidence]) -> Table:
    """What each run was, how well it learned, how long it took."""
    head = ["run", "network", "optimiser", "epochs", "updates", "training loss"]
    head += ["top-1, %", "top-5, %", "at chance until update", "time", "images/s"]
    return Table(head, [_run_row(one) for one in told])


def _run_row(one: Evidence) -> list[str]:
    setup = one.setup
    training = [row for row in one.progress if row["split"] == "train"]
    validation = [row for row in one.progress if row["split"] == "val"]
    last, planned = setup["last_step"], planned_steps(setup)
    whole = setup["status"] == "finished"
    updates = f"{last:,}" if whole else f"{last:,} of {planned:,}, {setup['status']}"
    accuracy = (
        [f"{100 * validation[-1][key]:.1f}" for key in ("top1", "top5")] if validation else []
    )
    speed = statistics.median(row["images_per_second"] for row in training) if training else None
    return [
        f"`{one.name}`",
        f"{setup['model']['title']}, width {setup['model']['width']:g}",
        ", ".join(optimiser(setup)) + f", batch {setup['config']['train']['batch_size']}",
        f"{last / setup['steps_per_epoch']:.3g}",
        updates,
        f"{training[-1]['loss']:.3f}" if training else "-",
        *(accuracy or ["-", "-"]),
        _chance(training, setup["dataset"]["classes"]),
        _time(setup.get("seconds")),
        "-" if speed is None else f"{speed:,.0f}",
    ]


def _chance(training: Sequence[dict[str, Any]], classes: int) -> str:
    """The update from which on the loss stays 1 % below ln(classes), that of equal odds."""
    above = [
        place
        for place, row in enumerate(training)
        if row["loss"] is None or not row["loss"] < 0.99 * math.log(classes)
    ]
    first = above[-1] + 1 if above else 0
    return f"{training[first]['step']:,}" if first < len(training) else "the end"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def machine(told: Sequence[Evidence]) -> Paragraph:
    """Data, precision, hardware and versions, each combination once."""
    lines = []
    for one in told:
        setup, data = one.setup, one.setup["dataset"]
        hardware = setup.get("hardware", {})
        cpu = f"{hardware.get('processor', 'CPU')}, {setup.get('threads', '?')} threads"
        where = cpu if setup["device"] == "cpu" else f"{setup['device']} ({cpu})"
        versions = setup.get("versions", {})
        known = ("symrun", "torch", "cuda", "python")
        named = ", ".join(f"{name} {versions[name]}" for name in known if name in versions)
        images = f"{data['train_images']:,} + {data['val_images']:,} images"
        size = f"{data['image_size']}×{data['image_size']}"
        lines.append(
            f"{data['title']}, {images} of {data['classes']} classes, {size}; "
            f"{setup['precision']} on {where}; {named}, revision {setup['revision']}, "
            f"seed {setup['seed']}; a record every {setup['config']['track']['every']} updates."
        )
    return Paragraph(" ".join(dict.fromkeys(lines)))


def laws_table(told: Sequence[Evidence]) -> Table:
    """Every law in every symmetry of every run."""
    head = ["run", "symmetry", "law", "units", "moved"]
    head += ["explained, median", "99 in 100 units", "worst layer", "residual", "drift"]
    return Table(head, [_law_row(one.name, row) for one in told for row in one.summary])


def _law_row(name: str, row: Summary) -> list[str]:
    shares = (row.explained, row.explained_by_99, row.worst_group)
    cells = [f"`{name}`", row.symmetry, row.law, f"{row.units:,}", f"{row.moved:,}"]
    residual = "-" if row.residual is None else f"{row.residual:.1e}"
    return [*cells, *map(_percent, shares), residual, f"{row.drift:.1e}"]


def _percent(share: float | None) -> str:
    """Rounded down, so that it never says 100 for less."""
    return "-" if share is None else f"{math.floor(share * 1e7) / 1e5:.5f}"


def bars_table(told: Sequence[Evidence]) -> Table | None:
    """What was to be shown of each run, and whether it was; None if no law predicts any."""
    rows = []
    for one in told:
        for what, law, key, bar in _BARS:
            for row in one.summary:
                value = getattr(row, key)
                if row.law != law or value is None:
                    continue
                share = key != "residual"
                if share and row.symmetry == "translation":  # moves by rounding, if at all
                    continue
                shown = f"{_percent(value)} %" if share else f"{value:.1e}"
                cleared = value >= bar if share else value <= bar
                cells = [f"`{one.name}`", row.symmetry, what, shown, "yes" if cleared else "no"]
                rows.append(cells)
    return Table(["run", "symmetry", "bar", "measured", "cleared"], rows) if rows else None

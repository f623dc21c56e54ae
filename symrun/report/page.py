"""The tables and figures about runs: what they were, how good each law was, how long they took."""

import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symrun.analysis import Agreement, is_identity, silences
from symrun.analysis.agreement import FEW
from symrun.analysis.report import law_in_words, moved_units
from symrun.display import bar, duration
from symrun.errors import UsageError
from symrun.figures import FIGURES, select_runs
from symrun.figures.captions import optimiser, settings
from symrun.figures.style import save
from symrun.laws import kinds_of_sgd
from symrun.report.document import Block, Paragraph, Picture, Table, code, formatted, literal
from symrun.report.evidence import Evidence
from symrun.report.verdict import bars_table
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo, Status
from symrun.runs.reading import parts_of
from symrun.runs.tables import progress_curves

_log = logging.getLogger(__name__)

_NUMBERS = (
    "R² is the share of the broken conservation that a law explains. It judges the units that "
    f"moved, with a star where they are fewer than {FEW}, and excludes the others. 1 − R² is that "
    "of the median unit, and RMS its square root, the error relative to the motion; then come the "
    "bound that 99 in 100 units keep, the median of the worst layer, and the worst unit with its "
    "name. Residual is the largest distance between measurement and "
    "prediction, over units and time, relative to the unit's magnitude, and motion the largest of "
    "any unit, measured alike. Every law takes the gradient norms of the run as its input: it "
    "explains the run that was made, and forecasts none. The motion of translation is measured "
    "from exp(−λt). Without weight decay and momentum `flow` and `discrete` are the same law, so "
    "such a run tests the symmetry and not the continuous limit. Null laws are wrong on purpose, "
    "and an R² that they reach as well proves little: they take the motion that the first law "
    "predicts 1 % too large, or as gradients of a constant norm would cause it, or from another "
    "unit of the group."
)


def title_of(evidences: Sequence[Evidence]) -> str:
    """The name, network and data of one run; data and networks of several, each once."""
    if len(evidences) > 1:
        return settings(one.setup for one in evidences)
    (one,) = evidences
    data = "" if one.setup.dataset is None else f" on {one.setup.dataset.title}"
    return f"{one.name}: {_network(one.setup)}{data}"


def section(evidences: Sequence[Evidence], pictures: Sequence[Picture]) -> Iterator[Block]:
    """The blocks of one section, without its heading, about runs that belong together."""
    yield runs_table(evidences)
    yield machine(evidences)
    yield from pictures
    yield Paragraph(legend())
    yield laws_table(evidences)
    yield from filter(None, (silent(evidences), bars_table(evidences), audit(evidences)))


def draw(
    runs: dict[str, RunDirectory],
    folder: Path,
    formats: Sequence[str],
    progress: str = "progress",
    each: bool = True,
) -> Iterator[tuple[str, Path]]:
    """Each figure of the page, drawn into `folder`; its title and the first of its files.

    progress: the file name of the figure that all runs share. each: also those of a single run.
    A figure that cannot be drawn, for example because no unit moved, is left out with a warning.
    Error: UsageError if a file cannot be written.
    """
    figures = list(_figures(runs, progress, each))
    with bar("drawing", len(figures), " figures", passing=True) as drawn:
        for title, kind, name, chosen in figures:
            try:
                figure = FIGURES[kind].draw(select_runs(kind, chosen))
            except UsageError as error:
                _log.warning("without %s: %s", name, error)
            else:
                yield title, save(figure, folder, name, formats)[0]
            drawn.update()


def _figures(
    runs: dict[str, RunDirectory], progress: str, each: bool
) -> Iterator[tuple[str, str, str, list[RunDirectory]]]:
    """Title, figure, file name and runs of each figure; Figs. 1 and 5 show the first that fit.

    The networks that are no VGG, which those figures are not about, have `symmetries` instead.
    """
    singles = [[run] for run in runs.values()]
    pairs = [[one, other] for one in runs.values() for other in runs.values()]
    alike = [pair for pair in pairs if len({r.info().config.optim for r in pair}) == 1]
    for figure, candidates in (("fig1", singles), ("fig5", alike)):
        if fitting := [chosen for chosen in candidates if _fits(figure, chosen)]:
            yield figure.replace("fig", "Fig. "), figure, figure, fitting[0]
    single = runs if each else {}
    others = {name: run for name, run in single.items() if not run.info().model.is_vgg}
    yield from _each("symmetries", "Symmetries of", others)
    if scored := [run for run in runs.values() if _tells_loss(run)]:
        yield "Loss and accuracy", "progress", progress, scored
    yield from _each("units", "Each unit of", single)
    yield from _each("residual", "Residual over training of", single)


def _each(
    kind: str, title: str, runs: dict[str, RunDirectory]
) -> Iterator[tuple[str, str, str, list[RunDirectory]]]:
    """As `_figures`: a figure of that kind for each run."""
    for name, run in runs.items():
        yield f"{title} {name}", kind, f"{kind}_{name.replace('/', '_')}", [run]


def _tells_loss(run: RunDirectory) -> bool:
    """Whether there is a loss to draw; a loop of the user's own may have told none."""
    if run.info().loop is None:
        return True
    return bool(parts_of(run, "progress")) and any(
        np.isfinite(progress_curves(run, split, ["loss"]).values["loss"]).any()
        for split in ("train", "val")
    )


def _fits(figure: str, runs: Sequence[RunDirectory]) -> bool:
    try:
        select_runs(figure, runs)
    except UsageError:
        return False
    return True


def runs_table(evidences: Sequence[Evidence]) -> Table:
    """What each run was, how well it learned, how long it took."""
    head = ["run", "network", "optimiser", "epochs", "updates", "training loss"]
    head += ["top-1", "top-5", "at chance until update", "time", "images/s"]
    return Table(head, [_run_row(one) for one in evidences])


def _run_row(one: Evidence) -> list[str]:
    setup = one.setup
    training = [row for row in one.progress if row["split"] == "train"]
    validation = [row for row in one.progress if row["split"] == "val"]
    # only a run that has ended has its last step in run.json
    last = max([setup.last_step, *(row["step"] for row in one.progress)])
    speeds = [speed for row in training if (speed := row["images_per_second"]) is not None]
    speed = statistics.median(speeds) if speeds else None
    return [
        code(one.name),
        literal(_network(setup)),
        ", ".join([*optimiser(setup), setup.batch]),
        formatted(setup.epochs(last), ".3g"),
        _updates(setup, last),
        formatted(training[-1]["loss"] if training else None, ".3f"),
        *(
            formatted(validation[-1][key] if validation else None, ".1%")
            for key in ("top1", "top5")
        ),
        "-" if setup.loss is None else _chance(training, setup.loss.chance),
        "-" if setup.seconds is None else duration(setup.seconds),
        formatted(speed, ",.0f"),
    ]


def _network(setup: RunInfo) -> str:
    width = setup.model.width
    return setup.model.title + ("" if width is None else f", width {width:g}")


def _updates(setup: RunInfo, last: int) -> str:
    """How many updates a run made, and whether it broke off, diverged or was resumed."""
    words = [f"{last:,}"]
    if setup.status is not Status.finished:
        words = [f"{last:,}{setup.of_planned_steps}", setup.status]
    if setup.diverged:
        words.append(f"not finite from {setup.diverged.step:,}")
    if setup.resumed:
        steps = ", ".join(f"{event.step:,}" for event in setup.resumed)
        anyway = any(event.changed for event in setup.resumed)
        words.append(f"resumed at {steps}" + (", changed" if anyway else ""))
    return "; ".join(words)


def _chance(training: Sequence[dict[str, Any]], chance: float) -> str:
    """The update after which the loss stays 1 % below that of a pure guess."""
    rows = [row for row in training if row["loss"] is not None and math.isfinite(row["loss"])]
    above = [place for place, row in enumerate(rows) if row["loss"] >= 0.99 * chance]
    first = above[-1] + 1 if above else 0
    return f"{rows[first]['step']:,}" if first < len(rows) else "the end"


def machine(evidences: Sequence[Evidence]) -> Paragraph:
    """Data, precision, hardware and versions, once where all runs share them."""
    names: dict[str, list[str]] = {}
    for one in evidences:
        names.setdefault(literal(circumstances(one.setup)), []).append(code(one.name))
    if len(names) == 1:
        return Paragraph(*names)
    return Paragraph(" ".join(f"{', '.join(runs)}: {line}" for line, runs in names.items()))


def circumstances(setup: RunInfo) -> str:
    """A run's data, precision, hardware, versions, seed and spacing of records, in one line; in
    place of the data whose loop it was if it was not symrun's."""
    data, versions, seed = setup.dataset, setup.versions, setup.config.seed
    what = [setup.loop or "", "" if data is None else f"{data.title}, {data.counted}"]
    processor = setup.hardware.processor if setup.hardware else "CPU"
    cpu = f"{processor}, {setup.processes or '? threads'}"
    where = cpu if setup.device == "cpu" else f"{setup.device} ({cpu})"
    named = [f"{name} {versions[name]}" for name in _VERSIONS if name in versions]
    named += [f"revision {setup.revision}"] if setup.revision else []
    named += [] if seed is None else [f"seed {seed}"]
    what += [f"{setup.precision.value} on {where}", ", ".join(named), ", ".join(setup.spacing())]
    return f"{'; '.join(filter(None, what))}."


def legend() -> str:
    """What each law of the tables is, and what each of their numbers means."""
    laws = []
    for column, kind in kinds_of_sgd(momentum=False).items():
        labels = dict.fromkeys([kind.label, kinds_of_sgd(momentum=True)[column].label])
        identity = ", an identity" if kind.identity else ""
        laws.append(f"`{column}` is {' or, with momentum, '.join(labels)}{identity}")
    return f"{'; '.join(laws)}. {_NUMBERS}"


_VERSIONS = ("symrun", "torch", "cuda", "python")


def laws_table(evidences: Sequence[Evidence]) -> Table:
    """Every law in every symmetry of every run, and beside them the null laws."""
    head = ["run", "symmetry", "law", "moved", "excluded", "residual", "motion"]
    head += ["1 − R²", "RMS", "99 in 100 units", "worst layer", "worst unit", "its name"]
    return Table(head, [_law_row(one.name, row) for one in evidences for row in one.summary])


def silent(evidences: Sequence[Evidence]) -> Paragraph | None:
    """Which laws make no prediction of which run, and why; None if every law predicts each."""
    lines = [f"{code(one.name)}: {literal('; '.join(found))}." for one in evidences
             if (found := silences(one.setup))]  # fmt: skip
    return Paragraph(" ".join(lines)) if lines else None


def _law_row(name: str, row: Agreement) -> list[str]:
    shares = (row.unexplained, row.rms, row.unexplained_99, row.worst_group, row.unexplained_worst)
    numbers = [formatted(value, ".1e") for value in (row.residual, row.motion, *shares)]
    counts = [moved_units(row), f"{row.excluded:,}"]
    worst = literal(row.worst_unit or "-")
    return [code(name), row.symmetry, law_in_words(row.law), *counts, *numbers, worst]


def audit(evidences: Sequence[Evidence]) -> Paragraph | None:
    """How closely the measurement audits itself; None if no run has the law `exact`."""
    found = [
        f"{row.residual:.1e} for {row.symmetry} in {code(one.name)}"
        for one in evidences
        for row in one.summary
        if is_identity(row.law) and row.residual is not None
    ]
    if not found:
        return None
    what = "The residual of the identity `exact` is the instrument's own error and no prediction"
    return Paragraph(f"{what}: {', '.join(found)}. One rounding of float32 is 6.0e-08.")

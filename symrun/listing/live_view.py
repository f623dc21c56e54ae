"""What `symrun watch` shows of a run, on a terminal and in lines."""

import statistics
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from symrun.analysis.report import law_in_words, scientific
from symrun.display import duration
from symrun.errors import in_one_line
from symrun.listing.live_state import Curve, LiveState
from symrun.listing.sparkline import BLOCKS, PLAIN, sparkline
from symrun.listing.words import (
    UNKNOWN,
    count,
    decimal,
    of_planned,
    optimiser_in_words,
    resumption,
    share,
    size,
    typed,
)
from symrun.runs.info import Status

_COLOURS = {
    Status.running: "cyan",
    Status.finished: "green",
    Status.interrupted: "yellow",
    Status.killed: "yellow",
    Status.failed: "red",
    Status.diverged: "red",
}
_LABELS = 10
"""Characters of the names on the left."""

_GAP = 2
"""Characters between columns of the residuals."""

_LEAST, _MOST = 8, 80
"""Characters of a curve."""


def view(state: LiveState, console: Console, now: float) -> RenderableType:
    """Everything, in 20 lines for three symmetries and three laws. now: seconds since the epoch."""
    width = console.width
    blocks = BLOCKS if console.encoding.startswith("utf") else PLAIN
    return Group(
        _heading(state),
        Text(_network(state), style="dim"),
        _progress(state, width),
        _facts(state, width, blocks, now),
        Text(""),
        _residuals(state, width, blocks),
        Text(_footnote(state), style="dim"),
    )


def _heading(state: LiveState) -> RenderableType:
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    colour = f"bold {_COLOURS[state.status]}"
    line.add_row(Text(in_one_line(state.run.path), style="bold"), Text(state.status, style=colour))
    return line


def _network(state: LiveState) -> str:
    info = state.info
    data = "" if info.dataset is None else f" on {info.dataset.title}"
    how = [optimiser_in_words(info), info.batch, info.precision.value]
    return ", ".join([f"{info.model.title}{data}", *how])


def _progress(state: LiveState, width: int) -> RenderableType:
    steps = f"{of_planned(state.step, state.planned)} steps"
    if not state.planned:
        return Text(steps)
    steps += f"  {100 * state.step // state.planned}%"
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(state.planned, state.step, width=max(width - len(steps) - 2, 4))
    line.add_row(bar, steps)
    return line


def _facts(state: LiveState, width: int, blocks: str, now: float) -> RenderableType:
    facts = Table.grid(padding=(0, 1))
    facts.add_column(min_width=_LABELS, no_wrap=True)
    facts.add_column()
    facts.add_row("time", time_in_words(state, now))
    facts.add_row("speed", _speed(state))
    facts.add_row("tables", _disk(state, now))
    loss = state.train.get("loss", [])
    if loss:
        facts.add_row("loss", sparkline(loss, min(width - _LABELS - 2, _MOST), blocks=blocks))
        facts.add_row("", _scores(state))
    return facts


def _residuals(state: LiveState, width: int, blocks: str) -> RenderableType:
    """A line for each law in each symmetry."""
    if not state.residuals:
        return Text("no records yet" if state.whole else "reading the tables")
    columns = _columns(state)
    room = width - sum(max(map(len, (head, *cells))) + _GAP for head, cells in columns.items())
    if room >= _LEAST:
        curves = [
            sparkline(curve, min(room, _MOST), True, blocks) for curve in state.residuals.values()
        ]
        columns = {"symmetry": [], "law": [], "residual": curves} | columns
    elif room + _GAP < 0:
        del columns["largest"]
    table = Table.grid(padding=(0, _GAP, 0, 0))
    for head in columns:
        number = head in ("now", "largest")
        table.add_column(justify="right" if number else "left", no_wrap=head != "law")
    table.add_row(*columns, style="bold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _columns(state: LiveState) -> dict[str, list[str]]:
    """Head -> cells, but for the curves."""
    columns: dict[str, list[str]] = {"symmetry": [], "law": [], "now": [], "largest": []}
    before = ""
    for (symmetry, law), curve in state.residuals.items():
        name, before = "" if symmetry == before else symmetry, symmetry
        row = (name, law_in_words(law), *_last_and_largest(curve))
        for cells, cell in zip(columns.values(), row, strict=True):
            cells.append(cell)
    return columns


def _last_and_largest(curve: Curve) -> tuple[str, str]:
    values = [value for _, value in curve]
    return scientific(values[-1] if values else None), scientific(max(values, default=None))


def time_in_words(state: LiveState, now: float) -> str:
    """How long it has gone on, and how long it will."""
    if not state.under_way and state.info.seconds is not None:
        return f"{duration(state.info.seconds)} of training"
    started, left = state.started, state.seconds_left(now)
    until = now if state.under_way else state.written
    gone = duration(None if started is None or until is None else max(until - started, 0.0))
    if not state.under_way:
        return f"{gone} until the last record"
    if state.planned is None:
        return f"{gone}, the end is not known"
    return f"{gone}, about {duration(left)} left" if left is not None else gone


def _speed(state: LiveState) -> str:
    speed, images = state.steps_per_second(), state.train.get("images_per_second", [])
    words = [] if speed is None else [f"{speed:,.3g} steps/s"]
    examples = state.info.dataset.examples if state.info.dataset else "images"
    typical = statistics.median(value for _, value in images) if images else None
    words += [f"{typical:,.0f} {examples}/s in training"] if images else []
    return ", ".join(words) or UNKNOWN


def _disk(state: LiveState, now: float) -> str:
    words = f"{size(state.size_bytes)} in {count(state.parts)} part{'s' * (state.parts != 1)}"
    if state.under_way and state.written is not None:
        words += f", the last {duration(round(max(now - state.written, 0.0)))} ago"
    return words if state.whole else f"{words}, being read"


def _scores(state: LiveState) -> str:
    """The last losses and accuracies."""
    words = []
    for name, curves in (("", state.train), ("validation ", state.val)):
        for score, form in (("loss", decimal), ("top1", share)):
            if curve := curves.get(score):
                label = "" if score == "loss" else "top-1 "
                words.append(f"{name}{label}{form(curve[-1][1])}")
                name = ""
    return ", ".join(words)


def _footnote(state: LiveState) -> str:
    if state.under_way:
        return "residual: of the worst unit, logarithmic. Ctrl-C leaves; the run goes on."
    return outcome(state)


def outcome(state: LiveState) -> str:
    """How the run ended, and what to type next."""
    info, path = state.info, typed(state.run.path)
    resume = ""
    if info.loop is None and info.thinned is None:
        checkpoints = state.run.checkpointed()
        before = "" if checkpoints else f"symrun check {path} and symrun report {path} read it; "
        resume = f": {before}symrun resume {path} {resumption(checkpoints)}"
    steps = f"at step {state.step:,}"
    if state.status == Status.killed:
        return f"killed {steps}: nobody writes it any more{resume}"
    if state.status == Status.diverged:
        return f"diverged: {info.diverged}" if info.diverged else f"diverged {steps}"
    if state.status == Status.finished:
        return f"finished: symrun show {path} tells more"
    return f"{state.status} {steps}{resume}"


def line(state: LiveState, now: float) -> str:
    """What is new, for a log: steps, time, scores, and the last residual of each law."""
    words = [f"{state.status}: {of_planned(state.step, state.planned)} steps"]
    words += [time_in_words(state, now)] if state.under_way else []
    words += [f"loss {scores}"] if (scores := _scores(state)) else []
    words += list(_last_residuals(state))
    return ", ".join(words)


def _last_residuals(state: LiveState) -> Iterator[str]:
    for (symmetry, law), curve in state.residuals.items():
        if curve:
            yield f"{symmetry} {law} {scientific(curve[-1][1])}"

"""One HTML page about runs, which needs no other file and no network."""

import base64
import hashlib
import html
import io
import math
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from symrun.analysis import is_identity
from symrun.display import bar
from symrun.errors import UsageError, refusal
from symrun.files import require_place, write_text
from symrun.report.comparing import differing, environments, figures_of_merit, heat, settings_table
from symrun.report.document import Table, formatted
from symrun.report.evidence import Evidence, csv_text, evidence
from symrun.report.explorer import explorer
from symrun.report.page import (
    audit,
    draw,
    laws_table,
    legend,
    machine,
    runs_table,
    silent,
    title_of,
)
from symrun.report.training import MOST_ROWS, curves, evenly, scores_in_words
from symrun.report.verdict import Verdict, bars_table, nothing_moved, verdict
from symrun.runs.differences import command
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import LAWS
from symrun.symmetry import Symmetry

_HERE = Path(__file__).parent
_CURVES_BYTES = 2.4e6
"""Of the units' curves of all runs, so that a page stays below 5 MB."""
_SCRIPTS = ("uPlot-1.6.32.min.js", "charts.js", "training.js", "report.js")
_PAUSE_SECONDS, _PAUSES = 30, 10
_MOST_PICTURED = 4
"""Of more runs than these only the figures that they share are drawn."""
_PICTURE_WIDTH = 1100
"""In pixels, of the static pictures."""


def report(runs: Sequence[RunDirectory], out: Path) -> Path:
    """One self-contained HTML page about `runs`, written to `out`.

    Error: UsageError if a run has fewer than two records, or `out` cannot be written or has no
    folder to lie in.
    Example: report([RunDirectory.open("outputs/mine")], Path("report.html"))
    """
    require_place("--out", out)
    for run in runs:
        run.warn_unless_finished()
    text = page(runs)
    try:
        write_text(out, text)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {refusal(error)}") from None
    return out


def page(runs: Sequence[RunDirectory], state: str = "") -> str:
    """The page as text.

    state: of the tables that it shows. A page with one asks the server for it; once it is another,
    it offers to load itself anew, and does so by itself after `_PAUSE_SECONDS`, or `_PAUSES` times
    what it took to make if that is longer.
    Error: UsageError if a run has fewer than two records.
    """
    began = time.monotonic()
    named = dict(zip(_names(runs), runs, strict=True))
    views = []
    with bar("reading runs", len(runs), " runs", passing=True) as read:
        for name, run in named.items():
            groups = explorer(run, _CURVES_BYTES / len(runs))
            views.append(_RunView(evidence(name, run), groups, MOST_ROWS // len(runs)))
            read.update()
    evidences = [one.evidence for one in views]
    template, pictures = _environment().get_template("page.html"), _pictures(named, views)
    pause = max(_PAUSE_SECONDS, _PAUSES * (time.monotonic() - began))
    return template.render(
        title=title_of(evidences),
        state=state,
        pause=round(pause, 1),
        runs=views,
        data={"runs": [one.data for one in views]},
        summary=runs_table(evidences),
        merit=figures_of_merit(evidences),
        differing=differing(evidences),
        laws=laws_table(evidences),
        bars=bars_table(evidences),
        notes=[note.text for note in (silent(evidences), audit(evidences)) if note],
        legend=legend(),
        settings=settings_table(evidences),
        environments=environments(evidences),
        machine=machine(evidences).text,
        pictures=pictures,
        trained=scores_in_words(evidences),
        script=Markup("\n").join(map(_asset, _SCRIPTS)),
        asset=_asset,
        digest=_digest,
    )


def _names(runs: Sequence[RunDirectory]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart.

    Error: UsageError for a run that is given twice.
    """
    paths = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise UsageError("a run is given twice")


@dataclass(frozen=True)
class _RunView:
    """What the page says of one run. groups: as in `explorer`. most_rows: of a CSV."""

    evidence: Evidence
    groups: list[dict[str, Any]]
    most_rows: int

    @property
    def name(self) -> str:
        return self.evidence.name

    @cached_property
    def verdict(self) -> Verdict:
        return verdict(self.evidence)

    @property
    def command(self) -> str | None:
        return command(self.evidence.setup)

    @property
    def heat(self) -> dict[str, Table]:
        return heat(self.evidence)

    @cached_property
    def first(self) -> dict[str, int]:
        """Symmetry -> the place of that group among those with `law` whose median unit moved most,
        or which is the largest if no unit moved."""

        def rank(place: int) -> tuple[bool, float, int]:
            group = self.groups[place]
            moved = group["motion"] if group["moved"] else 0.0
            return self.law in group["laws"], moved, group["of"]

        places = range(len(self.groups))
        order = (kind.value for kind in sorted(Symmetry, key=lambda kind: -kind.degree))
        alike = {name: [p for p in places if self.groups[p]["symmetry"] == name] for name in order}
        return {name: max(found, key=rank) for name, found in alike.items() if found}

    @property
    def numbers(self) -> dict[str, str]:
        """Symmetry -> how good the law that the page shows first is in the layer that it shows."""
        rows = {(row["symmetry"], row["group"], row["law"]): row for row in self.evidence.check}
        groups = [self.groups[place] for place in self.first.values()]
        return {
            group["symmetry"]: self._number(rows[group["symmetry"], group["group"], self.law])
            for group in groups
        }

    def _number(self, row: dict[str, Any]) -> str:
        if row["residual"] is None:
            return "not predicted"
        share, still = row["unexplained"], nothing_moved(self.evidence.setup)
        unexplained = f"1 − R² {formatted(share, '.1e')}" if row["moved"] else still
        return f"{unexplained}, residual {formatted(row['residual'], '.1e')}"

    @property
    def law(self) -> str:
        """The law that the page shows first: one that predicts, if there is any."""
        there = {law for group in self.groups for law in group["laws"]}
        return next(law for law in (*LAWS, LAWS[-1]) if law in there or law == LAWS[-1])

    @property
    def data(self) -> dict[str, Any]:
        """What the scripts of the page know of the run, as JSON values."""
        laws = [{"name": law, "identity": is_identity(law)} for law in LAWS]
        progress = curves(self.evidence.progress)
        return {
            "name": self.name, "laws": laws, "law": self.law, "groups": self.groups,
            "first": list(self.first.values()), "numbers": self.numbers, "progress": progress,
        }  # fmt: skip

    @property
    def files(self) -> list[tuple[str, str, str]]:
        """Name, what it holds and address of each CSV that the page carries."""
        one = self.evidence
        progress = evenly(one.progress, self.most_rows)
        left = f", {len(progress):,} of {len(one.progress):,}" * (progress != one.progress)
        tables = [
            ("summary", "a row a law and symmetry", [asdict(row) for row in one.summary]),
            ("check", "a row a law and layer", one.check),
            ("progress", f"losses and accuracies{left}", progress),
        ]
        stem = re.sub(r"[^\w.-]+", "_", self.name)
        return [
            (f"{stem}_{name}.csv", what, _address("text/csv", csv_text(rows).encode()))
            for name, what, rows in tables
            if rows
        ]


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _pictures(runs: dict[str, RunDirectory], views: Sequence[_RunView]) -> list[dict[str, Any]]:
    """The static figures: title, what is seen, address, width and height of each."""
    verdicts = " ".join(f"{one.name}: {_inline(one.verdict.sentence).striptags()}" for one in views)
    trained = scores_in_words([one.evidence for one in views])
    found = []
    with tempfile.TemporaryDirectory() as folder:
        few = len(runs) <= _MOST_PICTURED
        for title, path in draw(runs, Path(folder), ["png"], "progress", few):
            with Image.open(path) as picture:
                height = round(picture.height * _PICTURE_WIDTH / picture.width)
                small = picture.convert("RGB").resize((_PICTURE_WIDTH, height))
            file = io.BytesIO()
            small.save(file, "webp", quality=80)
            numbers = trained if title.startswith("Loss") else verdicts
            found.append({
                "title": title, "alt": f"{title}. {numbers}", "width": _PICTURE_WIDTH,
                "height": height, "address": _address("image/webp", file.getvalue()),
            })  # fmt: skip
    return found


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"inline": _inline, "heat": _heat}
    environment.tests["identity"] = is_identity
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


_CODE = re.compile(r"\\`|(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)


def _inline(text: str) -> Markup:
    """Text as `document.code` and `document.literal` write it, and with no other Markdown; no line
    breaks inside 1.2e-03."""
    pieces = _CODE.split(text)
    parts = [_whole_numbers(pieces[0])]
    for fence, code, words in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        inside = code[1:-1] if fence and len(fence) > 1 and code[0] == code[-1] == " " else code
        parts += [Markup("<code>{}</code>").format(inside) if fence else Markup("`")]
        parts += [_whole_numbers(words)]
    return Markup("").join(parts)


def _whole_numbers(text: str) -> Markup:
    whole = r'<span class="whole">\g<0></span>'
    return Markup(re.sub(r"\b\d\.\de[-+]\d\d\b", whole, html.escape(text, quote=True)))


def _heat(cell: str) -> int | None:
    """How strongly a cell is shaded, in percent: 0 for 1e-12, 60 for 1; None for words."""
    try:
        power = math.log10(max(float(cell), 1e-12))
    except ValueError:
        return None
    return round(60 * min(1 + power / 12, 1))


def _asset(name: str) -> Markup:
    """A file of the package as it is, for a script or a style."""
    return Markup((_HERE / "assets" / name).read_text(encoding="utf-8"))


def _digest(script: str) -> str:
    """What a content security policy calls a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

"""Publish what runs show: their evidence and figures in a folder, and one page of all such folders.

FOLDER gets setup.json, check.json, summary.csv and progress.csv of each run, under its NAME, and
the figures as PNG and PDF. The page, README.md beside FOLDER, is written anew from every folder
there and from nothing else, so that no number in it was typed.

Usage: python scripts/publish.py FOLDER NAME=RUN ...     python scripts/publish.py --page RESULTS
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from symrun.errors import SymrunError, UsageError
from symrun.figures.captions import is_the_papers, settings
from symrun.files import complete_or_absent
from symrun.report.document import Block, Heading, Paragraph, Picture, Table, as_markdown
from symrun.report.evidence import Evidence, evidence
from symrun.report.page import draw, section
from symrun.runs.directory import RunDirectory

LARGEST_BYTES = 2_000_000
"""Of a file that goes into git."""
FIRST = ("fig1", "fig5", "progress")
INTRODUCTION = (
    "Written by `scripts/publish.py` from the files beside it: every number comes from the tables "
    "of a run, none was typed. Each folder holds, for each run, its settings and versions "
    "(`setup.json`), the rows of `symrun check --json` (`check.json`), one row a law and symmetry "
    "(`summary.csv`) and losses and accuracies (`progress.csv`); and the figures, as PNG and PDF."
)
TOLD = ("model.name", "model.width", "model.eps", "data.name", "optim.lr", "optim.weight_decay")
TOLD += ("train.steps", "train.batch_size", "precision", "seed")
LIMITS = (
    "Each run of `scripts/limits.py` changes one setting of one base run. What `exact` misses is "
    "rounding; `discrete` misses also what breaks the symmetry, BatchNorm's eps and the rounding "
    "of gradients; `flow` misses also what the continuous limit leaves out. The table has the "
    "residual of each law, and how far each lies from the next better one, since two errors can "
    "cancel: the largest over units and records, relative to the unit's magnitude. The drift is "
    "what there was to predict."
)


def publish(folder: Path, runs: dict[str, RunDirectory]) -> None:
    """Evidence and figures of `runs` into `folder`. Error: UsageError, OSError."""
    for name, run in runs.items():
        evidence(name, run).save(folder)
    for _, path in draw(runs, folder, ["png", "pdf"]):
        print(path)
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > LARGEST_BYTES:
            size = f"{path.stat().st_size / 1e6:.1f} MB"
            raise UsageError(f"{path} has {size}: more than git should hold; raise track.every")


def page(results: Path) -> str:
    """All folders of `results` as one page of Markdown."""
    blocks: list[Block] = [Heading("Results", 1), Paragraph(INTRODUCTION)]
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        told = [Evidence.load(path.parent) for path in sorted(folder.glob("*/setup.json"))]
        if told:
            blocks += reproduction(folder, told)
        elif (folder / "limits.json").exists():
            blocks += limits(folder)
    if (results / "literature.csv").exists():
        blocks += literature(results / "literature.csv")
    return as_markdown(blocks)


def reproduction(folder: Path, told: list[Evidence]) -> Iterator[Block]:
    setups = [one.setup for one in told]
    papers = all(is_the_papers(one, one["config"]["optim"]["weight_decay"]) for one in setups)
    reduced = "" if papers else ": not the paper's setting"
    yield Heading(f"{folder.name}: {settings(setups)}{reduced}")
    names = sorted(path.stem for path in folder.glob("*.png"))
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    yield from section(told, [Picture(name, f"{folder.name}/{name}.png") for name in names])


def limits(folder: Path) -> Iterator[Block]:
    """Of scripts/limits.py."""
    found = json.loads((folder / "limits.json").read_text(encoding="utf-8"))
    base = ", ".join(f"`{name}={value}`" for name, value in found["base"].items() if name in TOLD)
    yield Heading(f"{folder.name}: what limits the agreement")
    yield Paragraph(f"{LIMITS} The base: {base}.")
    yield Picture("What limits the agreement", f"{folder.name}/limits.png")
    cells: dict[tuple[str, str, str], list[str]] = {}
    for row in found["rows"]:
        key = (row["effect"], str(row["value"]), row["symmetry"])
        law = [f"{row['residual']:.1e}"]
        law += [f"{row['from_next']:.1e}"] if row["law"] != "exact" else []
        law += [f"{row['drift']:.1e}"] if row["law"] == "exact" else []
        cells.setdefault(key, []).extend(law)
    head = ["effect", "value", "symmetry", "flow", "flow − discrete"]
    head += ["discrete", "discrete − exact", "exact", "drift"]
    yield Table(head, [[*key, *numbers] for key, numbers in cells.items()])


def literature(path: Path) -> Iterator[Block]:
    """What others measured, as listed in a file with its sources."""
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    yield Heading("What accuracy to expect at full width")
    yield Table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("runs", metavar="NAME=RUN", nargs="*")
    parser.add_argument("--page", action="store_true", help="the page of the folders in FOLDER")
    options = parser.parse_args()
    results = options.folder if options.page else options.folder.parent
    if not options.page:
        pairs = [text.partition("=") for text in options.runs]
        if not pairs or not all(name and path for name, _, path in pairs):
            raise UsageError("publish needs runs: NAME=RUN")
        publish(options.folder, {name: RunDirectory.open(path) for name, _, path in pairs})
    with complete_or_absent(results / "README.md") as draft:
        draft.write_text(page(results), encoding="utf-8")
    print(results / "README.md")


if __name__ == "__main__":
    try:
        main()
    except SymrunError as error:
        sys.exit(f"publish: {error}")
    except OSError as error:
        sys.exit(f"publish: {error.filename}: {error.strerror}")

"""Publish what runs show: their evidence and figures in a folder, and one page of all such folders.

FOLDER gets setup.json, check.json, summary.csv and progress.csv of each run, under its NAME, and
the figures as PNG and PDF. The page, README.md beside FOLDER, is written anew from every folder
there and from nothing else, so that no number of a run in it was typed. Where FOLDER has an
expected.json, the page also says which of the runs that it names are missing, or shorter.

Usage: python scripts/publish.py [--add] FOLDER NAME=RUN ...
       python scripts/publish.py --page RESULTS
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from symrun.cli import exit_code
from symrun.errors import UsageError
from symrun.figures.captions import captions, settings, settings_and_papers
from symrun.files import write_text
from symrun.report.document import Block, Heading, Paragraph, Picture, Table, as_markdown
from symrun.report.evidence import Evidence, evidence
from symrun.report.page import circumstances, draw, section
from symrun.runs.directory import RunDirectory
from symrun.runs.run_json import info_from

LARGEST_BYTES = 2_000_000
"""Of a file that goes into git."""
FIRST = ("fig1", "fig5", "progress")
FIGURES = ("fig1.*", "fig5.*", "progress*.*", "units_*.*", "residual_*.*")
PAPERS_DECAYS = (0.0, 1e-4)
TITLE = "# Results\n"
REMARKS = "remarks.md"
"""What somebody has to say that tables cannot: in a folder, of its runs; beside the folders, of
what no result shows yet."""
EXPECTED = "expected.json"
"""In a folder, {"epochs": how many its runs are to have, "runs": {NAME: what it is, ...}}."""
INTRODUCTION = (
    "Written by `scripts/publish.py` from the files beside it: what it says of runs comes from "
    "their tables, none of it was typed. Each folder holds, for each run, its settings and "
    "versions (`setup.json`), the rows of `symrun check --json` (`check.json`), one row a law and "
    "symmetry (`summary.csv`) and losses and accuracies (`progress.csv`); and the figures, as PNG "
    "and PDF."
)
LIMITS = (
    "Each run of `scripts/limits.py` changes one setting of one base run. What `exact` misses is "
    "rounding; `discrete` misses also what breaks the symmetry, BatchNorm's eps and the rounding "
    "of gradients; `flow` misses also what the continuous limit leaves out. The table has the "
    "residual of each law, and how far each lies from the next better one, since two errors can "
    "cancel: the largest over units and records, relative to the unit's magnitude. The change "
    "since the start is what there was to predict."
)

NETWORKS = (
    "`python scripts/networks_study.py --tiny-imagenet DIR` trains networks of reduced size by "
    "SGD, by SGD with momentum and by AdamW, all with weight decay, in three precisions. A row "
    "of the tables is a family of symmetry in one run. `general_linear` has the entries off "
    "the diagonal of conserved matrices, all of them, and `rescale` has the diagonals among "
    "its units ([the laws](../laws.md)). *Change* is the largest since the start: the error of "
    "saying that the quantity is conserved, and what a law has to predict. `flow`, `discrete` "
    "and `exact` are residuals, the largest over units and records. All four are relative to "
    "the unit's magnitude. 1 − R² is that of the median unit that moved. `exact` is an "
    "identity: it audits the measurement."
)
NETWORKS_ADAMW = (
    "AdamW breaks the symmetries, and no law predicts it. What one of its updates adds to a "
    "quantity is measured, and is no prediction: *projection* is kη\\|B(θ, u)\\|, which a perfect "
    "symmetry makes 0 under SGD, and *discretisation* is η²\\|B(u, u)\\|. Both are the median over "
    "units and records, relative to the magnitude. What is 0 of `exact` is less than the rounding "
    "of the tables."
)


def publish(folder: Path, runs: dict[str, RunDirectory], add: bool = False) -> None:
    """Evidence and figures of `runs` into `folder`, in place of earlier ones of the same runs.

    add: what other runs have there stays, such as those from another machine.
    Error: UsageError, with nothing changed, if it holds those of others; OSError.
    """
    told = [evidence(name, run) for name, run in runs.items()]
    others = 0
    for path in folder.glob("*/setup.json"):
        earlier = Evidence.load(path.parent)
        if add and earlier.name not in runs:
            others += 1
        elif not any(alike(earlier, one) for one in told):
            reason = "has results of other settings: take another FOLDER (RESULT_NAME)"
            raise UsageError(f"{path.parent} {reason}, or remove it")
    progress = f"progress_{'_'.join(runs)}" if others else "progress"
    own = [f"{kind}_{name}.*" for kind in ("units", "residual") for name in runs]
    for pattern in own if others else FIGURES:
        for path in folder.glob(pattern):
            path.unlink()
    for one in told:
        one.save(folder)
    for _, path in draw(runs, folder, ["png", "pdf"], progress):
        print(path)
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > LARGEST_BYTES:
            size = f"{path.stat().st_size / 1e6:.1f} MB"
            raise UsageError(f"{path} has {size}: more than git should hold; raise track.every")


def alike(one: Evidence, other: Evidence) -> bool:
    """Whether two come from runs of one name and the same settings."""
    return one.name == other.name and one.setup.config.settings == other.setup.config.settings


def page(results: Path) -> str:
    """All folders of `results` as one page of Markdown."""
    blocks: list[Block] = [Heading(TITLE.strip("# \n"), 1), Paragraph(INTRODUCTION)]
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        told = [Evidence.load(path.parent) for path in sorted(folder.glob("*/setup.json"))]
        if told or (folder / EXPECTED).exists():
            blocks += reproduction(folder, told)
        elif (folder / "limits.json").exists():
            blocks += limits(folder)
        elif (folder / "overview.png").exists():
            blocks += networks(folder)
    if (results / REMARKS).exists():
        blocks += [Heading("What is not shown yet"), remarks(results / REMARKS)]
    if (results / "literature.csv").exists():
        blocks += literature(results / "literature.csv")
    return as_markdown(blocks)


def reproduction(folder: Path, told: list[Evidence]) -> Iterator[Block]:
    setups = [one.setup for one in told]
    what = settings_and_papers(setups, *PAPERS_DECAYS) if told else "nothing has been run yet"
    yield Heading(f"{folder.name}: {what}")
    if (folder / EXPECTED).exists():
        yield expected(folder / EXPECTED, told)
    if told:
        names = sorted(path.stem for path in folder.glob("*.png"))
        names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
        yield from section(told, [Picture(name, f"{folder.name}/{name}.png") for name in names])
    if (folder / REMARKS).exists():
        yield remarks(folder / REMARKS)


def remarks(path: Path) -> Paragraph:
    """What somebody wrote by hand."""
    return Paragraph(path.read_text(encoding="utf-8").strip())


def expected(path: Path, told: list[Evidence]) -> Table:
    """What a folder is to hold, and what of that is there."""
    plan = json.loads(path.read_text(encoding="utf-8"))
    there = {one.name: one for one in told}
    rows = []
    for name, what in plan["runs"].items():
        found = f"**missing**, of {plan['epochs']} epochs"
        if name in there:
            setup = there[name].setup
            epochs = setup.epochs(setup.last_step) or 0.0
            short = "" if epochs >= plan["epochs"] else f" of {plan['epochs']}: **shorter**"
            found = f"{epochs:.3g} epochs{short}; {setup.precision.value} on {setup.device}"
        rows.append([f"`{name}`", what, found])
    return Table(["run", "what it is", "what is there"], rows)


def limits(folder: Path) -> Iterator[Block]:
    """Of scripts/limits.py."""
    found = json.loads((folder / "limits.json").read_text(encoding="utf-8"))
    base = info_from(found["base"])
    yield Heading(f"{folder.name}: what limits the agreement, on {settings([base])}")
    yield Paragraph(LIMITS)
    yield Paragraph(f"The base: {captions([(base, base.last_step)])[0]}.")
    yield Paragraph(circumstances(base))
    yield Picture("What limits the agreement", f"{folder.name}/limits.png")
    yield Table(**found["table"])


def networks(folder: Path) -> Iterator[Block]:
    """Of scripts/networks_study.py."""
    paths = sorted(folder.glob("*.json"))
    told = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    yield Heading(f"{folder.name}: the laws in {len(told)} networks of reduced size")
    yield from (Paragraph(NETWORKS), Paragraph(NETWORKS_ADAMW))
    yield Picture("Residuals of the laws, by network", f"{folder.name}/overview.png")
    for content, path in zip(told, paths, strict=True):
        yield Heading(content["title"], 3)
        yield Paragraph(f"The first run: {circumstances(info_from(content['base']))}")
        if path.with_suffix(".png").exists():
            yield Picture(f"{content['network']}", f"{folder.name}/{path.stem}.png")
        yield from (Table(**table) for table in content["tables"])


def literature(path: Path) -> Iterator[Block]:
    """What others measured, as listed in a file with its sources."""
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    yield Heading("What others measured, at other settings")
    yield Table(head, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("runs", metavar="NAME=RUN", nargs="*")
    parser.add_argument("--add", action="store_true", help="beside what FOLDER has of other runs")
    parser.add_argument("--page", action="store_true", help="the page of the folders in FOLDER")
    options = parser.parse_args()
    results = options.folder if options.page else options.folder.parent
    if not options.page:
        pairs = [text.partition("=") for text in options.runs]
        if not pairs or not all(Path(name).name == name and path for name, _, path in pairs):
            raise UsageError("publish needs runs: NAME=RUN, with a NAME without slashes")
        runs = {name: RunDirectory.open(path) for name, _, path in pairs}
        publish(options.folder, runs, options.add)
    target = results / "README.md"
    if target.exists() and not target.read_text(encoding="utf-8").startswith(TITLE):
        raise UsageError(f"{target} is another page: take a FOLDER elsewhere")
    write_text(target, page(results))
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("publish", main))

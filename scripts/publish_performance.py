"""What GPUs have measured into docs/performance.md, from files and from nothing else.

Takes what scripts/gpu_box.py left in RESULTS into docs/performance/MACHINE/, each file in place of
an earlier one of the same name, and writes the GPUs' section of the page anew: of every machine
what an update costs, beside the bars; where its time goes; ways to sum over units; what failed.

Usage: python scripts/publish_performance.py RESULTS MACHINE     without either: the page alone
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symrun.bench.report import way
from symrun.cli import exit_code
from symrun.errors import UsageError
from symrun.files import write_text
from symrun.report.document import Block, Heading, Paragraph, Table, as_markdown

DOCS = Path(__file__).parent.parent / "docs"
FILES = ("bench_*.json", "parts.json", "box.json", "tests.json", "profile.txt")
BEGIN = "<!-- GPUs: by scripts/publish_performance.py from performance/*/*.json -->"
END = "<!-- end of GPUs -->"
BARS = {"bf16": 6.5e-3, "tf32": 12e-3}
"""Seconds of a tracked update of full VGG16-BN, batch 256."""
RATIO = 1.02
"""At most, of a tracked to an untracked update."""
NONE = "No GPU has measured anything yet: `make gpu` does, and CONTRIBUTING.md says how."


def take(results: Path, folder: Path) -> None:
    """File by file, since a later box measures what an earlier one did not. Error: UsageError if
    there is nothing to take, or a file is not what it should be; then nothing is changed."""
    found = [path for pattern in FILES for path in sorted(results.glob(pattern))]
    if not any(path.name.startswith(("bench_", "parts")) for path in found):
        raise UsageError(f"{results} holds no bench_*.json and no parts.json of scripts/gpu_box.py")
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / folder.name
        draft.mkdir()
        for path in [*folder.glob("*"), *found]:
            shutil.copyfile(path, draft / path.name)
        done = loaded(folder / "box.json") | loaded(results / "box.json")
        (draft / "box.json").write_text(json.dumps(done, indent=1))
        list(machine(draft))
        folder.mkdir(parents=True, exist_ok=True)
        for path in draft.iterdir():
            shutil.copyfile(path, folder / path.name)


def section(machines: Path) -> str:
    """Of all machines, as Markdown."""
    folders = sorted(path for path in machines.glob("*") if path.is_dir())
    if not folders:
        return NONE + "\n"
    return as_markdown([block for folder in folders for block in machine(folder)])


def machine(folder: Path) -> Iterator[Block]:
    """What one machine has measured. Error: UsageError if its files are not what they should be."""
    try:
        yield from _machine(folder)
    except (LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder} holds something else than scripts/gpu_box.py left") from error


def _machine(folder: Path) -> Iterator[Block]:
    steps = [step for path in sorted(folder.glob("bench_*.json")) for step in loaded(path)["steps"]]
    found = loaded(folder / "parts.json").get("configurations", [])
    first = (steps or found or [{"device": folder.name, "torch": "?", "threads": "?"}])[0]
    yield Heading(f"{first['device']}, torch {first['torch']}, {first['threads']} CPU threads", 3)
    if steps:
        yield updates(steps)
    for one in found:
        yield from parts(one)
    yield box(loaded(folder / "box.json"), loaded(folder / "tests.json"))


def loaded(path: Path) -> dict[str, Any]:
    """Empty if there is no such file, since a box may have run out of time.

    Error: UsageError if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        raise UsageError(f"{path} is damaged: fetch it again, or remove it") from None


def updates(steps: list[dict[str, Any]]) -> Table:
    """What an update costs, fastest first, and whether the bars are cleared."""
    head = ["network", "width", "batch", "precision", "way", "untracked", "tracked", "bar"]
    head += ["tracked / untracked", "bar", "images/s", "of floor", "first update"]
    rows = []
    for step in sorted(steps, key=lambda step: (step["precision"], step["tracked_seconds"])):
        full = step["width"] == 1 and step["batch_size"] == 256 and step["model"] == "vgg16_bn"
        bar = BARS.get(step["precision"]) if full else None
        low, high = step["ratio_quartiles"]
        tracked = step["tracked_seconds"]
        rows.append(
            [
                *(step["model"], f"{step['width']:g}", str(step["batch_size"])),
                *(step["precision"], way(step["cuda_graph"], step["compile"])),
                *(milliseconds(step["untracked_seconds"]), milliseconds(tracked)),
                "-" if bar is None else f"{milliseconds(bar)}: {verdict(tracked <= bar)}",
                f"{step['ratio']:.4f} ({low:.3f} to {high:.3f})",
                f"{RATIO:g}: {verdict(step['ratio'] <= RATIO)}",
                f"{step['images_per_second']:,.0f}",
                f"{step['floor_seconds'] / tracked:.0%}",
                f"{step['first_update_seconds']:.1f} s",
            ]
        )
    return Table(head, rows)


def parts(found: dict[str, Any]) -> Iterator[Block]:
    """Where the time of one configuration goes."""
    yield Paragraph(
        f"Parts of an update: {found['model']}, width {found['width']:g}, batch "
        f"{found['batch_size']}, {found['precision']}, sums by {found['sums']}; medians of "
        f"{found['repeats']}."
    )
    rows = []
    own = [part for part in found["parts"] if part["kind"] == "part"]
    whole = [part for part in found["parts"] if part["kind"] != "part"]
    for part in [*own, *([found["sum"]] if found.get("sum") else []), *whole]:
        cost, launches = part["cost"], part["launches"]
        if cost is None:
            rows.append([part["name"], f"failed: {part['failed']}", "-", "-", "-"])
            continue
        counted = "-" if launches is None else f"{launches['count']:.0f}"
        rows.append(
            [
                *(part["name"], milliseconds(cost["seconds"])),
                *(milliseconds(cost["host_seconds"]), counted),
                f"{cost['peak_bytes'] / 2**20:,.0f} MiB",
            ]
        )
    yield Table(["part", "device", "host", "launches", "memory"], rows)
    for remark in found["remarks"]:
        yield Paragraph(remark)


def box(done: dict[str, Any], tests: dict[str, Any]) -> Paragraph:
    """What the box did besides, and what failed."""
    failed = [f"`{name}` ({part['exit_code']})" for name, part in done.items() if part["exit_code"]]
    told = [f"Done there: {', '.join(f'`{name}`' for name in done) or 'nothing'}."]
    told += [f"Failed, with exit code: {', '.join(failed)}."] if failed else []
    if tests:
        told.append(
            f"Of {tests['collected']} tests marked `gpu`, {tests['passed']} passed and "
            f"{len(tests['failed'])} failed before the time was up or all were done."
        )
        names = ", ".join(f"`{name}`" for name in tests["failed"])
        told += [f"Failed: {names}."] if names else []
    return Paragraph(" ".join(told))


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g} ms"


def verdict(cleared: bool) -> str:
    return "yes" if cleared else "no"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", metavar="RESULTS", nargs="?", type=Path)
    parser.add_argument("machine", metavar="MACHINE", nargs="?", help="such as nvidia-h100")
    parser.add_argument("--docs", type=Path, default=DOCS, help="default: this checkout's")
    options = parser.parse_args()
    machines, page = options.docs / "performance", options.docs / "performance.md"
    if options.results is not None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", options.machine or ""):
            given = options.machine or "nothing"
            raise UsageError(f"MACHINE must be a name such as nvidia-h100, got {given}")
        take(options.results, machines / options.machine)
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UsageError(f"{page} lacks the lines between which this writes: {BEGIN} and {END}")
    write_text(page, f"{before}{BEGIN}\n\n{section(machines)}\n{END}{after}")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("publish_performance", main))

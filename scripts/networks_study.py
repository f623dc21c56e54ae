"""How well the laws hold in today's networks: a ResNet, two transformers and a deep linear network.

Each network is trained by SGD, by SGD with momentum and by AdamW, all with weight decay, in
float64, float32 and bf16. Every family of symmetry that it has is measured, the conserved matrices
entry by entry. For each there is a row of

    change            how far its units move from their start: the error of "it is conserved"
    flow, discrete    the residual of each law and its 1 - R^2; AdamW has neither law
    exact             the same of the identity, which is the error of the instrument

and for AdamW what an update adds to a unit: k eta B(theta, u), which is 0 under SGD and perfect
symmetry, and eta^2 B(u, u). Those are measurements and no predictions.

The ResNet and the GPT are also trained by plain SGD at three learning rates, from several seeds:
the counterparts of the figures of Marcotte, Gribonval and Peyre 2025 (arXiv 2506.06194), with laws
that have no fitted constant.

OUT gets NETWORK.json and its figure, and overview.png of all networks there. Without
--tiny-imagenet the networks of images train on synthetic textures. All networks take 21 minutes of
a core, half as many on two. Runs that are finished are found in outputs/networks and not trained
again, so that the same command goes on after a signal.
Usage: python scripts/networks_study.py [NETWORK ...] [--tiny-imagenet DIR] [--out DIR] [--jobs N]
           [--set SETTING ...]
"""

import argparse
import dataclasses
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import networks_figures as figures
import numpy as np

from symrun.analysis import comparisons, judge
from symrun.cli import exit_code
from symrun.config import Config
from symrun.errors import RunError, UsageError
from symrun.figures.captions import width_label
from symrun.figures.style import save
from symrun.files import write_text
from symrun.launch import compose
from symrun.members import Composed, sweep
from symrun.report.document import Table, as_markdown
from symrun.runs.directory import OUTPUTS, RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.tables import LAWS, UPDATE, unit_curves
from symrun.sweeps.settings import ProcessesConfig, SweepConfig
from symrun.symmetry import Symmetry
from symrun.training.lifecycle import earlier_run
from symrun.training.plan import Plan
from symrun.training.signals import StopRequest

COMMON = ["run.name=networks", "device=cpu", "track.parameters=0"]
STUDY = ["train.steps=200", "track.every=10", "track.matrices=full"]
BATCH = "train.batch_size=32"
TRANSFORMER = ("model.layers=2", "model.heads=4", "model.width=32")
PRECISIONS = ("float64", "float32", "bf16")
DECAY = "optim.weight_decay=5e-4"
ADAMW, MOMENTUM = "AdamW", "momentum"
OPTIMISERS = ("SGD", MOMENTUM, ADAMW)
CLASSES = 20
"""Of Tiny ImageNet: the first, so that a run is not mostly validation."""
WORDS = 40_000


@dataclass(frozen=True)
class Network:
    """words: its settings. lr: of SGD, and ten times that of SGD with momentum. rates: the learning
    rates of its figure, if it has one, which `detail` trains from each of `seeds`."""

    words: tuple[str, ...]
    lr: float
    images: bool = True
    rates: tuple[float, ...] = ()
    detail: tuple[str, ...] = ()
    seeds: int = 0


NETWORKS = {
    "resnet": Network(
        ("model=resnet18_64", "model.width=0.125", BATCH),
        lr=0.1,
        rates=(1e-3, 3e-3, 5e-3),
        detail=("train.steps=50", "track.every=1"),
        seeds=3,
    ),
    "gpt": Network(
        ("model=gpt", "task=next_token", *TRANSFORMER, BATCH),
        lr=0.5,
        images=False,
        rates=(0.1, 0.2, 0.5),
        detail=("train.steps=200", "track.every=2", "track.matrices=full"),
        seeds=1,
    ),
    "vit": Network(
        ("model=vit", "model.patch=16", *TRANSFORMER, BATCH),
        lr=0.5,
    ),
    "linear": Network(
        (
            "model=mlp",
            "model.activation=identity",
            "model.depth=3",
            "model.hidden=16",
            "train.batch_size=64",
        ),
        lr=0.02,
    ),
}


@dataclass(frozen=True)
class Member:
    """One run: of the study, or of the network's figure, which `figure` says."""

    network: str
    optimiser: str
    figure: bool
    words: list[str]
    config: Config


@dataclass(frozen=True)
class Row:
    """One family of symmetry in one run; all but 1 - R^2 are relative to the units' magnitudes.

    change: the largest since the start. residual, unexplained: by law, without those that predict
    nothing. projection, discretisation: of AdamW, the median of k eta |B(theta, u)| and of
    eta^2 |B(u, u)| over units and records.
    """

    network: str
    optimiser: str
    precision: str
    symmetry: str
    units: int
    moved: int
    change: float
    residual: dict[str, float]
    unexplained: dict[str, float]
    projection: float | None = None
    discretisation: float | None = None


def members(name: str, data: Sequence[str], overrides: Sequence[str]) -> Iterator[Member]:
    """The runs of a network: of the study, then of its figure."""
    network = NETWORKS[name]
    base = [*network.words, *data, *COMMON]
    plans = [
        (optimiser, False, [*STUDY, *optimiser_words(optimiser, network.lr), f"precision={one}"])
        for optimiser in OPTIMISERS
        for one in PRECISIONS
    ]
    plans += [
        ("SGD", True, [*network.detail, "precision=float64", f"optim.lr={rate}", f"seed={seed}"])
        for rate in network.rates
        for seed in range(network.seeds)
    ]
    for optimiser, figure, words in plans:
        every = [*base, *words, *overrides]
        yield Member(name, optimiser, figure, every, compose(every))


def optimiser_words(optimiser: str, lr: float) -> list[str]:
    if optimiser == ADAMW:
        return ["optim=adamw", "optim.lr=1e-3", "optim.weight_decay=0.1"]
    if optimiser == MOMENTUM:
        return [f"optim.lr={lr / 10:g}", "optim.momentum=0.9", DECAY]
    return [f"optim.lr={lr:g}", DECAY]


def trained(study: Sequence[Member], jobs: int) -> Iterator[tuple[Member, RunDirectory]]:
    """Each member with its run: found finished, resumed, or trained. Error: as in `sweep`.

    jobs: processes at a time; 1 trains all in this one.
    """
    engine = SweepConfig("one_by_one") if jobs == 1 else ProcessesConfig("processes", jobs)
    composed = Composed.all_of([member.words for member in study], compose)
    with StopRequest() as stop:
        sweep(engine, composed, stop)
    for member in study:
        run = earlier_run(Plan.of(member.config).config)
        if run is None:
            raise RunError("a run of the study is gone: give the same command again")
        yield member, run


def images(tiny: Path | None) -> list[str]:
    """The settings of the data of networks of images. tiny: the folder of Tiny ImageNet, of whose
    first classes a folder of links is made."""
    if tiny is None:
        return ["data=synthetic", "data.image_size=64"]
    classes = sorted(path.name for path in (tiny / "train").glob("n*"))[:CLASSES]
    labels = tiny / "val" / "val_annotations.txt"
    if not classes or not labels.is_file():
        raise UsageError(f"{tiny} is not Tiny ImageNet: it lacks train/n* or {labels.name}")
    root = OUTPUTS / "networks" / f"tiny_imagenet_{CLASSES}"
    (root / "train").mkdir(parents=True, exist_ok=True)
    (root / "val").mkdir(exist_ok=True)
    links = {root / "train" / name: tiny / "train" / name for name in classes}
    for link, target in {**links, root / "val" / "images": tiny / "val" / "images"}.items():
        if not link.is_symlink():
            link.symlink_to(target.resolve())
    lines = labels.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split("\t")[1] in classes]
    (root / "val" / labels.name).write_text("".join(kept), encoding="utf-8")
    return ["data=tiny_imagenet", f"data.root={root}"]


def text() -> list[str]:
    """The settings of a text: words of random letters, each said twice, so that the second time
    attention tells what comes next."""
    draws = random.Random(0)
    words = ("".join(draws.choices("abcdefghijklmnop", k=5)) for _ in range(WORDS))
    path = OUTPUTS / "networks" / "words.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{word} {word}\n" for word in words), encoding="utf-8")
    return ["data=text", f"data.root={path}", "data.length=36", "data.val_share=0.05"]


def rows_of(member: Member, run: RunDirectory) -> list[Row]:
    """A row for each family of symmetry of one run."""
    info = run.info()
    found = {(one.symmetry, one.law): one for one in judge(run)[1]}
    changes: dict[str, float] = {}
    for group in comparisons(run):
        still = dataclasses.replace(group, baseline=group.measured[:1])
        largest = float(still.motion.max())
        changes[group.symmetry] = max(largest, changes.get(group.symmetry, 0.0))
    rows = []
    for symmetry, change in changes.items():
        laws = {law: found[symmetry, law] for law in LAWS}
        numbers = dict(zip(UPDATE, of_updates(info, run, symmetry), strict=True))
        row = Row(
            member.network,
            member.optimiser,
            info.precision.value,
            symmetry,
            laws["exact"].units,
            laws["exact"].moved,
            change,
            {law: one.residual for law, one in laws.items() if one.residual is not None},
            {law: one.unexplained for law, one in laws.items() if one.unexplained is not None},
            **numbers if member.optimiser == ADAMW else {},
        )
        rows.append(row)
    return rows


def of_updates(info: RunInfo, run: RunDirectory, symmetry: str) -> tuple[float, float]:
    """The medians over units and records of what an update adds, relative to the magnitude: by its
    projection, and by its length. NaN of a run that does not record them."""
    if not set(UPDATE) <= set(info.columns):
        return float("nan"), float("nan")
    rate = Symmetry(symmetry).degree * float(info.config.optim.lr)
    projections, lengths = [], []
    for group in info.groups_of(symmetry):
        columns = ["magnitude", *UPDATE]
        values = unit_curves(run, symmetry, group.group, columns).values
        size = np.where(values["magnitude"] > 0, values["magnitude"], np.nan)
        projections.append(np.abs(rate * values["projection"] / size).ravel())
        lengths.append(np.abs(values["discretisation"] / size).ravel())
    return tuple(float(np.nanmedian(np.concatenate(one))) for one in (projections, lengths))


def label_of(info: RunInfo) -> str:
    """The network with its size: "ResNet-18, width 1/8"."""
    return ", ".join(filter(None, [info.model.title, width_label(info)]))


def tables(rows: Sequence[Row]) -> list[Table]:
    """The laws of SGD, and what updates of AdamW do."""
    predicted = [law for law in LAWS if law != "exact"]
    start = ["optimiser", "precision", "family", "units", "moved", "change"]
    laws = [*start, *LAWS, *(f"1 − R², {law}" for law in LAWS)]
    updates = [*start, "exact", "1 − R², exact", "projection", "discretisation"]
    of_sgd, of_adamw = [], []
    for row in rows:
        cells = [row.optimiser, row.precision, row.symmetry, f"{row.units:,}", f"{row.moved:,}"]
        cells.append(shown(row.change))
        exact = [shown(row.residual.get("exact")), shown(row.unexplained.get("exact"))]
        if row.optimiser == ADAMW:
            of_adamw.append([*cells, *exact, shown(row.projection), shown(row.discretisation)])
        else:
            residuals, shares = (
                [shown(numbers.get(law)) for law in predicted]
                for numbers in (row.residual, row.unexplained)
            )
            of_sgd.append([*cells, *residuals, exact[0], *shares, exact[1]])
    return [Table(laws, of_sgd), Table(updates, of_adamw)]


def shown(number: float | None) -> str:
    return "-" if number is None or np.isnan(number) else f"{number:.1e}"


def write(name: str, info: RunInfo, rows: Sequence[Row], out: Path) -> Path:
    """NAME.json: what its first run was, all numbers, and the tables."""
    content = {
        "title": figures.title_of(info),
        "network": label_of(info),
        "base": info.published().to_json(),
        "rows": [dataclasses.asdict(row) for row in rows],
        "tables": [dataclasses.asdict(table) for table in tables(rows)],
    }
    path = out / f"{name}.json"
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def overview(out: Path) -> list[Path]:
    """The figure of all networks that `out` has numbers of."""
    paths = sorted(out.glob("*.json"))
    told = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows = [Row(**row) for content in told for row in content["rows"]]
    names = {content["rows"][0]["network"]: content["network"] for content in told}
    return save(figures.overview(rows, names), out, "overview", ["png", "pdf"])


def study(name: str, overrides: Sequence[str], options: argparse.Namespace) -> None:
    """Train, print and write all of one network."""
    data = images(options.tiny_imagenet) if NETWORKS[name].images else text()
    rows: list[Row] = []
    base, drawn = None, []
    for member, run in trained(list(members(name, data, overrides)), options.jobs):
        base = base or run.info()
        if member.figure:
            drawn.append(run)
        else:
            rows += rows_of(member, run)
    assert base is not None, "a network without runs"
    print(as_markdown(tables(rows)), flush=True)
    print(write(name, base, rows, options.out))
    if drawn:
        draw = figures.matrices if base.groups_of(Symmetry.general_linear) else figures.convolutions
        for path in save(draw(drawn), options.out, name, ["png", "pdf"]):
            print(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", metavar="NETWORK", nargs="*", help=", ".join(NETWORKS))
    parser.add_argument("--tiny-imagenet", metavar="DIR", type=Path, help="its folder")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("docs/results/networks"))
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--set", dest="overrides", metavar="SETTING", nargs="+", default=[])
    options = parser.parse_args()
    unknown = [name for name in options.networks if name not in NETWORKS]
    if unknown:
        raise UsageError(f"there is no network {unknown[0]}: it is one of {', '.join(NETWORKS)}")
    for name in options.networks or NETWORKS:
        study(name, options.overrides, options)
    for path in overview(options.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("networks_study", main))

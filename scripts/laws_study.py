"""How far each law is off, optimiser by optimiser: the tables of docs/accuracy.md.

Small VGG11s in float64 on synthetic textures, 400 updates each; about ten minutes on two cores.
Usage: python scripts/laws_study.py [--steps N] [optimisers | oscillator | modified_flow ...]
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from symrun.analysis import Comparison, comparisons
from symrun.config import Config
from symrun.data import load
from symrun.launch import compose
from symrun.laws import SGD, Law, ModifiedFlow, Oscillator, laws_of_sgd
from symrun.optimizers import SgdConfig
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training.loop import Update
from symrun.training.metrics import Scores
from symrun.training.plan import Plan
from symrun.training.provenance import describe
from symrun.training.setup import make_tracker, prepare

SETTING = ["data=synthetic", "model.width=0.0625", "train.batch_size=32", "track.every=10"]
SETTING += ["precision=float64", "device=cpu", "data.train_images=640"]
MOMENTUM = "optim.momentum=0.9"
OPTIMISERS = {
    "plain": ["optim.lr=0.1"],
    "momentum 0.9": [MOMENTUM, "optim.lr=0.02"],
    "momentum 0.99": ["optim.momentum=0.99", "optim.lr=0.002"],
    "momentum 0.9, dampening 0.5": [MOMENTUM, "optim.dampening=0.5", "optim.lr=0.04"],
    "momentum 0.9, Nesterov": [MOMENTUM, "optim.nesterov=true", "optim.lr=0.02"],
    "momentum 0.9, lr / 10 half-way": [
        MOMENTUM,
        "optim.lr=0.02",
        "optim.schedule=multistep",
        "optim.milestones=[0.5]",
        "optim.gamma=0.1",
    ],
    "momentum 0.9, cosine with warm-up": [
        MOMENTUM,
        "optim.lr=0.02",
        "optim.schedule=warmup_cosine",
        "optim.warmup=0.05",
    ],
}


def tracked(
    config: Config, laws: Mapping[str, Law], unpredicted: Mapping[str, str]
) -> RunDirectory:
    """Train as configured, with any laws in the tables' columns."""
    config = replace(config, track=replace(config.track, parameters=0))
    plan = replace(Plan.of(config), laws=laws, unpredicted=unpredicted)
    dataset = load(config.data)
    training = prepare(plan, dataset)
    run = RunDirectory.create(config.run.dir, "")
    run.write_info(describe(training, dataset))
    with TableWriter(run) as writer:
        tracker = make_tracker(training, writer, Tracker)
        update = Update(training, tracker, Scores(training.device))
        for step, batch in zip(range(training.steps), training.batches.stream(0), strict=False):
            update(*batch, step)
        tracker.finish(training.steps)
    return run


def error_of_motion(group: Comparison, law: str) -> float:
    """Largest error of the group over its largest motion since the start; NaN without a law."""
    if law not in group.predicted or not group.moved.any():
        return math.nan
    motion = np.abs(group.measured - group.measured[0]).max()
    return float(np.abs(group.measured - group.predicted[law]).max() / motion)


def studied(
    overrides: list[str], laws_for: Callable[[SGD], tuple[dict[str, Law], dict[str, str]]]
) -> Iterator[tuple[str, list[Comparison]]]:
    """The two networks, trained with these settings beside these laws."""
    for model in ("vgg11", "vgg11_bn"):
        with tempfile.TemporaryDirectory() as folder:
            place = [f"model={model}", f"run.dir={folder}/run"]
            config = compose([*SETTING, *place, *overrides])
            optim = config.optim
            assert isinstance(optim, SgdConfig)
            sgd = SGD(optim.weight_decay, optim.momentum, optim.dampening, optim.nesterov)
            run = tracked(config, *laws_for(sgd))
            yield f"{'with' if 'bn' in model else 'without'} BN", list(comparisons(run))


def worst(values: Iterable[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{max(known):.1e}" if known else "-"


def optimisers(steps: str) -> None:
    """All laws, in all variants of SGD."""
    print("| optimiser | weight decay | network | exact | discrete | flow | flow, of the motion |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, overrides in OPTIMISERS.items():
        for decay in (0, 1e-4, 1e-2):
            settings = [steps, *overrides, f"optim.weight_decay={decay}"]
            for network, groups in studied(settings, laws_of_sgd):
                residuals = [
                    worst(group.residual(law).max() for group in groups if law in group.predicted)
                    for law in ("exact", "discrete", "flow")
                ]
                motion = worst(error_of_motion(group, "flow") for group in groups)
                cells = [name, f"{decay:g}", network, *residuals, motion]
                print(f"| {' | '.join(cells)} |", flush=True)


def both_oscillators(sgd: SGD) -> tuple[dict[str, Law], dict[str, str]]:
    """The paper's in the place of `discrete`: the tracker takes any law in any column."""
    laws: dict[str, Law] = {"flow": Oscillator(sgd, corrected=True), "discrete": Oscillator(sgd)}
    return laws, {"exact": "not asked for"}


def both_modified_flows(sgd: SGD) -> tuple[dict[str, Law], dict[str, str]]:
    decay = sgd.weight_decay
    laws: dict[str, Law] = {"flow": ModifiedFlow(decay, True), "discrete": ModifiedFlow(decay)}
    return laws, {"exact": "not asked for"}


def oscillator(steps: str) -> None:
    """The oscillator against weight decay, as published and corrected."""
    print("| momentum | weight decay | network | (re)scale | corrected | translation | corrected |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for momentum in (0.9, 0.99):
        for decay in (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1):
            settings = [f"optim.momentum={momentum}", f"optim.lr={0.2 * (1 - momentum):.4g}"]
            settings += [steps, f"optim.weight_decay={decay}"]
            for network, groups in studied(settings, both_oscillators):
                errors = [
                    worst(
                        error_of_motion(group, law)
                        for group in groups
                        if (group.symmetry == "translation") == linear
                    )
                    for linear in (False, True)
                    for law in ("discrete", "flow")
                ]
                print(f"| {momentum} | {decay:g} | {network} | {' | '.join(errors)} |", flush=True)


def modified_flow(steps: str) -> None:
    """Law 1 with the decay rate of the paper and with the next order of it: residuals."""
    print("| weight decay | network | 2λ | 2λ + ηλ² | error left |")
    print("| --- | --- | --- | --- | --- |")
    for decay in (1e-4, 5e-4, 1e-3, 1e-2, 1e-1):
        settings = [steps, f"optim.weight_decay={decay}"]
        for network, groups in studied(settings, both_modified_flows):
            plain, corrected = (
                max(group.residual(law).max() for group in groups) for law in ("discrete", "flow")
            )
            cells = [f"{plain:.1e}", f"{corrected:.1e}", f"{corrected / plain:.2f}"]
            print(f"| {decay:g} | {network} | {' | '.join(cells)} |", flush=True)


STUDIES = {"optimisers": optimisers, "oscillator": oscillator, "modified_flow": modified_flow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    options = parser.parse_args()
    for name in options.studies or STUDIES:
        print(f"{STUDIES[name].__doc__}\n")
        STUDIES[name](f"train.steps={options.steps}")
        print()


if __name__ == "__main__":
    main()

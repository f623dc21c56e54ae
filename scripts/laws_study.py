"""How far each law is off, optimiser by optimiser: the tables of docs/laws.md.

Small VGG11s in float64 on synthetic textures, 400 updates each; about ten minutes on two cores.
Usage: python scripts/laws_study.py [--steps N] [optimisers | decays | corrected ...]
"""

import argparse
import contextlib
import io
import math
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np

from symrun.analysis import Comparison, comparisons
from symrun.config import Config, SgdConfig
from symrun.data import load
from symrun.launch import compose
from symrun.laws import Law, ModifiedFlow
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import LAWS
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training.loop import prepare, update
from symrun.training.optimizers import laws_of
from symrun.training.precision import select_device
from symrun.training.provenance import describe

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
    device = select_device(config.device)
    dataset = load(config.data)
    training = prepare(config, dataset, device)
    model, structure, epoch_steps = (
        training.model,
        training.structure,
        training.batches.steps_per_epoch,
    )
    run = RunDirectory.create(config.run.dir, "")
    info = describe(config, dataset, model, structure, device, epoch_steps)
    run.write_info(info | {"unpredicted": dict(unpredicted)})
    with TableWriter(run) as writer:
        every = config.track.every
        tracker = Tracker(model, training.optimizer, structure, laws, writer, every, 0, config.seed)
        step, epoch = 0, 0
        while step < training.steps:
            epoch += 1
            for images, labels in training.batches.epoch(epoch):
                if step < training.steps:
                    update(training, images, labels, tracker, step)
                    step += 1
        tracker.finish(step)
    return run


def error_of_motion(group: Comparison, law: str) -> float:
    """Largest error of the group over its largest motion since the start; NaN without a law."""
    if law not in group.predicted or not group.moved.any():
        return math.nan
    motion = np.abs(group.measured - group.measured[0]).max()
    return float(np.abs(group.measured - group.predicted[law]).max() / motion)


def rows(steps: int, settings: Mapping[str, list[str]]) -> Iterator[tuple[str, list[Comparison]]]:
    for model in ("vgg11", "vgg11_bn"):
        for name, overrides in settings.items():
            with tempfile.TemporaryDirectory() as folder:
                place = [f"model={model}", f"train.steps={steps}", f"run.dir={folder}/run"]
                config = compose([*SETTING, *place, *overrides])
                with contextlib.redirect_stderr(io.StringIO()):
                    run = tracked(config, *laws_of(config.optim))
                yield (
                    f"{'with' if 'bn' in model else 'without'} BN | {name}",
                    list(comparisons(run)),
                )


def worst(values: list[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{max(known):.1e}" if known else "-"


def optimisers(steps: int) -> None:
    settings = {
        f"{name} | {decay:g}": [*overrides, f"optim.weight_decay={decay}"]
        for name, overrides in OPTIMISERS.items()
        for decay in (0, 1e-4, 1e-2)
    }
    print("Residual: worst unit and record. Error of the motion: `flow`, largest of any group.\n")
    print("| network | optimiser | weight decay | exact | discrete | flow | flow, of the motion |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, groups in rows(steps, settings):
        residuals = [
            worst([group.residual(law).max() for group in groups if law in group.predicted])
            for law in reversed(LAWS)
        ]
        motion = worst([error_of_motion(group, "flow") for group in groups])
        print(f"| {name} | {' | '.join([*residuals, motion])} |", flush=True)


def decays(steps: int) -> None:
    """The oscillator against weight decay."""
    settings = {
        f"{momentum} | {decay:g}": [
            f"optim.momentum={momentum}",
            f"optim.lr={0.2 * (1 - momentum):.4g}",
            f"optim.weight_decay={decay}",
        ]
        for momentum in (0.9, 0.99)
        for decay in (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    }
    print("Error of the motion of `flow`, largest of any group of a symmetry.\n")
    print("| network | momentum | weight decay | scale | rescale | translation |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, groups in rows(steps, settings):
        errors = [
            worst([error_of_motion(g, "flow") for g in groups if g.symmetry == symmetry])
            for symmetry in ("scale", "rescale", "translation")
        ]
        print(f"| {name} | {' | '.join(errors)} |", flush=True)


def corrected(steps: int) -> None:
    """Law 1 with the decay rate of the paper and with the next order of it."""
    print("Largest residual of any group, law 1 without momentum, learning rate 0.1.\n")
    print("| network | weight decay | 2 lambda | 2 lambda + eta lambda^2 | error left |")
    print("| --- | --- | --- | --- | --- |")
    for model in ("vgg11", "vgg11_bn"):
        for decay in (1e-4, 5e-4, 1e-3, 1e-2, 1e-1):
            with tempfile.TemporaryDirectory() as folder:
                place = [f"model={model}", f"train.steps={steps}", f"run.dir={folder}/run"]
                config = compose([*SETTING, *place, f"optim.weight_decay={decay}"])
                assert isinstance(config.optim, SgdConfig)
                # The second law in the place of `discrete`: the tracker takes any.
                laws = {"flow": ModifiedFlow(decay), "discrete": ModifiedFlow(decay, True)}
                run = tracked(config, laws, {"exact": "not asked for"})
                plain, better = (
                    max(group.residual(law).max() for group in comparisons(run)) for law in laws
                )
            name = f"{'with' if 'bn' in model else 'without'} BN | {decay:g}"
            print(f"| {name} | {plain:.1e} | {better:.1e} | {better / plain:.2f} |", flush=True)


STUDIES = {"optimisers": optimisers, "decays": decays, "corrected": corrected}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    options = parser.parse_args()
    for name in options.studies or STUDIES:
        STUDIES[name](options.steps)
        print()


if __name__ == "__main__":
    main()

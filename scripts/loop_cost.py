"""What tracking costs in a loop of one's own, beside other ways of looking at a training.

A small network of CIFAR's size, batch 128, random images: `plain`, three convolutions and three
linear layers, 0.57 million parameters, without BatchNorm, which Cockpit does not take; or `resnet`,
a ResNet-18 for small images, at a quarter of its width unless --width says otherwise; or `gpt`, the
transformer of experiment=gpt_chars on random characters. Each way trains a copy of it. Their
updates alternate, in an order drawn at random, so that a drift of the machine affects all alike;
on a GPU, which works through what is queued, rounds of 20 updates do. A ratio is a way's time for a
round to that of the plain loop in the same round, the median over rounds.

- symrun: every step measured, a record every 20
- Cockpit's configuration "economy", every step (pip install cockpit-for-pytorch "setuptools<80")
- TensorBoard: a histogram of each weight and gradient every 20 steps (pip install tensorboard)
- no optimiser: the loop without its step, to show what torch's own takes

    python scripts/loop_cost.py [--network plain|resnet|gpt] [--optimizer momentum|sgd|adamw]
                                [--device cuda] [--width 1] [--batch 256]
                                [--matrices diagonal sample full]
"""

import argparse
import contextlib
import importlib.util
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symrun
from symrun.models.gpt import GPT
from symrun.models.resnet import SmallImageResNet

STEPS = 20
"""Of a round: one record."""
_WARM_UP = 2

Update = Callable[[int], None]


def plain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 96, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(96, 128, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)),
    )


NETWORKS: dict[str, Callable[[float], nn.Module]] = {
    "plain": lambda width: plain(),
    "resnet": lambda width: SmallImageResNet(18, channels=3, classes=10, width=width),
    "gpt": lambda width: GPT(vocabulary=65, tokens=64, layers=4, heads=4, width=128),
}
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=5e-4),
    "momentum": lambda model: torch.optim.SGD(
        model.parameters(), lr=0.01, weight_decay=5e-4, momentum=0.9
    ),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
}


class Loop:
    """A plain training loop, and the ways to look at it.

    batches: inputs and labels of each step, over and over. Ways leave their files in `folder`, and
    their networks in `models`.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        batches: Sequence[tuple[Tensor, Tensor]],
        folder: Path,
    ) -> None:
        self._network, self._optimizer = network, optimizer
        self._batches, self.folder = batches, folder
        self.models: list[nn.Module] = []

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        self.models.append(self._network().to(self._batches[0][0].device))
        return self.models[-1]

    def made(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = self.model()
        return model, self._optimizer(model)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self._batches[step % len(self._batches)]

    def gradients(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        inputs, labels = self.batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs).movedim(-1, 1), labels).backward()

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        self.gradients(model, optimizer, step)
        optimizer.step()

    @contextlib.contextmanager
    def plain(self) -> Iterator[Update]:
        yield partial(self.update, *self.made())

    @contextlib.contextmanager
    def without_step(self) -> Iterator[Update]:
        model, optimizer = self.made()
        yield partial(self.gradients, model, optimizer)

    @contextlib.contextmanager
    def symrun(self, matrices: str) -> Iterator[Update]:
        model, optimizer = self.made()
        inputs, folder = self.batch(0)[0], self.folder / matrices
        with symrun.track(model, optimizer, inputs, folder, every=STEPS, matrices=matrices):
            yield partial(self.update, model, optimizer)

    @contextlib.contextmanager
    def tensorboard(self) -> Iterator[Update]:
        from torch.utils.tensorboard import SummaryWriter

        model, optimizer = self.made()
        writer = SummaryWriter(self.folder / "tensorboard")

        def update(step: int) -> None:
            self.gradients(model, optimizer, step)
            if step % STEPS == 0:
                for name, parameter in model.named_parameters():
                    writer.add_histogram(name, parameter, step)
                    writer.add_histogram(f"{name}.grad", parameter.grad, step)
            optimizer.step()

        yield update
        writer.close()

    @contextlib.contextmanager
    def cockpit(self) -> Iterator[Update]:
        warnings.simplefilter("ignore")
        from backpack import extend
        from cockpit import Cockpit
        from cockpit.utils.configuration import configuration

        model, optimizer = self.made()
        model = extend(model)
        mean, each = (extend(nn.CrossEntropyLoss(reduction=kind)) for kind in ("mean", "none"))
        looking = Cockpit(model.parameters(), quantities=configuration("economy"))

        def update(step: int) -> None:
            optimizer.zero_grad()
            inputs, labels = self.batch(step)
            outputs = model(inputs)
            loss, losses = mean(outputs, labels), each(outputs, labels)
            info: dict[str, Any] = {"batch_size": len(labels), "optimizer": optimizer}
            with looking(step, info={**info, "individual_losses": losses, "loss": loss}):
                loss.backward(create_graph=looking.create_graph(step))
            optimizer.step()

        yield update
        with contextlib.redirect_stdout(None):
            looking.write(str(self.folder / "cockpit"))


def alternated(
    updates: Mapping[str, Update], rounds: int, warm_up: int, cuda: bool = False
) -> dict[str, list[float]]:
    """Seconds of a step of each way, the mean over each round of STEPS.

    Their order is drawn anew each time, so that none always starts with the caches that one other
    has left.
    """
    shuffler = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    names = list(updates)
    at_once = STEPS if cuda else 1
    for turn in range(-warm_up, rounds):
        spent = dict.fromkeys(names, 0.0)
        for first in range(0, STEPS, at_once):
            for name in shuffler.sample(names, len(names)):
                started = time.perf_counter()
                for step in range(first, first + at_once):
                    updates[name]((turn + warm_up) * STEPS + step)
                if cuda:
                    torch.cuda.synchronize()
                spent[name] += time.perf_counter() - started
        if turn >= 0:
            for name in names:
                seconds[name].append(spent[name] / STEPS)
    return seconds


def ratios(seconds: Sequence[float], plain: Sequence[float]) -> list[float]:
    """Quartiles over rounds of a way's time to the plain loop's, within what was measured."""
    found = [one / two for one, two in zip(seconds, plain, strict=True)]
    return statistics.quantiles(found, n=4, method="inclusive")


def inputs_and_labels(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Random ones of one batch."""
    if options.network == "gpt":
        inputs, labels = torch.randint(65, (2, options.batch, 64), device=options.device)
        return inputs, labels
    inputs = torch.randn(options.batch, 3, 32, 32, device=options.device)
    return inputs, torch.randint(10, (options.batch,), device=options.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--network", choices=NETWORKS, default="plain")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="momentum")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--matrices", nargs="+", choices=("diagonal", "sample", "full"), default=["diagonal"]
    )
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.rounds < 2 or options.batch < 2:
        parser.error("--rounds and --batch must be >= 2")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        network = partial(NETWORKS[options.network], options.width)
        optimizer = OPTIMIZERS[options.optimizer]
        loop = Loop(network, optimizer, [inputs_and_labels(options)], Path(folder))
        ways = {
            "plain loop": loop.plain,
            **{
                f"symrun, every step, matrices={kind}": partial(loop.symrun, kind)
                for kind in options.matrices
            },
            "no optimiser step": loop.without_step,
        }
        if importlib.util.find_spec("tensorboard") is not None:
            ways[f"TensorBoard histograms, every {STEPS} steps"] = loop.tensorboard
        if importlib.util.find_spec("cockpit") is not None and options.network == "plain":
            ways["Cockpit economy, every step"] = loop.cockpit
        updates = {name: stack.enter_context(way()) for name, way in ways.items()}
        seconds = alternated(updates, options.rounds, _WARM_UP, options.device == "cuda")
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{options.network}, {options.optimizer}, batch {options.batch}, {where}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{options.rounds} rounds of {STEPS} steps")  # fmt: skip
    print("| way | ms a step | ratio, quartiles |\n| --- | --- | --- |")
    for name, found in seconds.items():
        low, middle, high = ratios(found, seconds["plain loop"])
        print(f"| {name} | {1000 * statistics.median(found):.1f} | {middle:.3f} "
              f"({low:.3f} to {high:.3f}) |")  # fmt: skip


if __name__ == "__main__":
    main()

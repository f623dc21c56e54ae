"""What the paper's own way of tracking costs, beside symrun's.

The paper keeps the integrals that its theory needs inside the optimiser, one number for each
parameter, saves a full checkpoint of weights and integrals at each record, and later reads the
checkpoints back to sum over filters and columns. symrun sums first and keeps only the sums.
Written here from that description, in the fastest form found, never copied.

Both sides follow one network with the gradients of a real step, in turns of alternating order. A
turn is `every` steps and one record of each side. Before whatever is timed, the caches are emptied
of weights and gradients, as forward and backward do. Seconds are wall time.

- paper: the step of IntegralSGD less that of torch.optim.SGD; the record: `checkpoint`, then
  `reduce_checkpoint`, which reads what is still in memory; on the disk only with --fsync.
- symrun: Tracker.before_update; the record: what that takes longer at a record, and all the time
  of the writing thread, as if nothing ran beside it: from the first row handed to TableWriter
  until it is closed and the parts are on the disk (always fsync). Once alone in its parts, as when
  records are more than ten seconds apart, once as one of --records records in a run.

Usage: python scripts/paper_tracking.py [--width W] [--records N] [--json] [overrides ...]
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symrun.config import Config
from symrun.data import load
from symrun.launch import compose
from symrun.optimizers import SgdConfig
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.writer import Record, TableWriter
from symrun.symmetry import Group
from symrun.symmetry.lines import lines_of
from symrun.tracking import Tracker
from symrun.training.device import device_title
from symrun.training.plan import Plan
from symrun.training.setup import prepare

Array = NDArray[np.floating[Any]]

SETTING = ["model=vgg16_bn", "data=synthetic", "data.image_size=64", "data.classes=200"]
SETTING += ["optim.weight_decay=1e-4"]
REAL_STEPS = 3
WARM_UP = 1
BARS = {"total_seconds": 10, "total_among_seconds": 10, "bytes": 500, "bytes_among": 500}
"""How many times less symrun is to need."""
CACHES_BYTES = 2**27
"""More than the last-level cache of the machine holds."""


class IntegralSGD(torch.optim.SGD):
    """torch.optim.SGD without momentum, which also keeps an integral for each parameter.

        I(t + eta) = e^{-2 lambda eta} I(t) + eta^2 g^2       of the parameter's shape and dtype

    so that by the paper's theory |theta|^2 = e^{-2 lambda t} |theta(0)|^2 + the sum of I, over
    any filter or channel. This is the stable form: nothing in it grows with time.

    Source: Kunin et al. 2021, section 5.
    Example: IntegralSGD(model.named_parameters(), lr=0.1, weight_decay=1e-4)
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay=weight_decay)
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["integral"] = torch.zeros_like(weight)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = [weight.grad for weight in weights]
            integrals = [self.state[weight]["integral"] for weight in weights]
            decay = math.exp(-2 * group["weight_decay"] * group["lr"])
            lr_sq = group["lr"] ** 2
            if weights and weights[0].is_cuda:
                torch._foreach_mul_(integrals, decay)
                torch._foreach_addcmul_(integrals, gradients, gradients, lr_sq)
                continue
            # On the CPU _foreach takes 1.2 to 1.4 times as long: by its second operation the
            # integral has left the cache. torch.optim.SGD itself chooses like this.
            for integral, gradient in zip(integrals, gradients, strict=True):
                integral.mul_(decay).addcmul_(gradient, gradient, value=lr_sq)
        super().step()


def checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, fsync: bool = False
) -> None:
    """All weights and all integrals. `fsync`: return once they are on the disk."""
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    if fsync:
        with open(path, "rb") as file:
            os.fsync(file)


def reduce_checkpoint(path: Path, groups: Sequence[Group], output: Path) -> dict[str, Array]:
    """What the theory is held against: sums over every unit of every group, saved as `output`.

    Returns: both [units], the groups one after the other.
        weights: filters' and columns' squared norms, with the groups' signs; column sums where
            the symmetry is translation
        integrals: the same sums of I
    Assumes: an IntegralSGD of `model.named_parameters()`.
    """
    # Mapped, for nothing is used twice; unpickled by C, which takes a file to be trusted.
    saved = torch.load(path, mmap=True, weights_only=False)
    model, optimizer = saved["model"], saved["optimizer"]
    names = [name for group in optimizer["param_groups"] for name in group["param_names"]]
    integral_of = {name: optimizer["state"][n]["integral"] for n, name in enumerate(names)}
    square_of: dict[str, Tensor] = {}
    sums: dict[str, list[Tensor]] = {"weights": [], "integrals": []}
    for group in groups:
        of_weights: list[Tensor] = []
        of_integrals: list[Tensor] = []
        for members in group.members:
            name = members.parameter
            unit_of = torch.tensor(members.units) % (group.units + 1)  # -1 stands last
            if group.symmetry.degree == 2 and name not in square_of:
                square_of[name] = model[name].square()
            values = square_of[name] if group.symmetry.degree == 2 else model[name]
            for tensor, terms in ((values, of_weights), (integral_of[name], of_integrals)):
                of_lines = lines_of(members, tensor).sum(1)
                of_units = of_lines.new_zeros(group.units + 1).index_add(0, unit_of, of_lines)
                terms.append(members.sign * of_units[:-1])
        sums["weights"].append(torch.stack(of_weights).sum(0))
        sums["integrals"].append(torch.stack(of_integrals).sum(0))
    arrays = {name: torch.cat(tensors).cpu().numpy() for name, tensors in sums.items()}
    np.savez(output, **arrays)
    return arrays


class Held:
    """Takes the tracker's records; it keeps what it is handed until it is asked to write it."""

    def __init__(self) -> None:
        self._records: list[tuple[str, Record]] = []

    def put(self, table: str, record: Record, size_bytes: int = 0) -> None:
        self._records.append((table, record))

    def write(self, run: RunDirectory) -> None:
        with TableWriter(run) as writer:
            for table, record in self._records:
                writer.put(table, record)
        self._records.clear()


class Sides:
    """The paper's way and symrun's around one network, whose gradients are those of a real step."""

    def __init__(self, config: Config, fsync: bool, folder: Path) -> None:
        self.every, self.lr = config.track.every, config.optim.lr
        self.fsync, self.folder = fsync, folder
        self.training = prepare(Plan.of(config), load(config.data))
        self.device = self.training.device
        self.evicting = torch.zeros(CACHES_BYTES, dtype=torch.uint8, device=self.device)
        self.model, self.groups = self.training.model, self.training.structure.groups
        weights, weight_decay = self.model.named_parameters(), config.optim.weight_decay
        self.integral_sgd = IntegralSGD(weights, self.lr, weight_decay)
        self.torch_sgd = torch.optim.SGD(
            self.model.parameters(), self.lr, weight_decay=weight_decay
        )
        self.images, self.labels = next(iter(self.training.batches.epoch(1)))
        real = [self._seconds(self._real_step) for _ in range(1 + REAL_STEPS)]
        self.real_step_seconds = statistics.median(real[1:])
        self.held, self.runs = Held(), 0
        self.tracker = Tracker(
            self.model,
            self.training.optimizer,
            self.training.structure,
            self.training.plan.laws,
            self.held,
            every=self.every,
            sample=config.track.parameters,
            seed=config.seed,
        )

    def turn(self, number: int, records: int) -> dict[str, tuple[float, float]]:
        """What tracking adds: name -> the paper's, symrun's; `total` is all steps and a record.

        `among`: symrun's record as one of `records` in a run, not alone.
        """
        back = number % 2 == 1
        torch_steps, integral_steps, symrun_steps = self._steps(back)
        paper_steps = integral_steps - torch_steps
        works: list[Callable[[], tuple[float, float]]] = [
            self._paper_record,
            partial(self._symrun_records, 1),
            partial(self._symrun_records, records),
        ]
        found = [work() for work in (works[::-1] if back else works)]
        (record, size), (alone, alone_size), (among, among_size) = found[::-1] if back else found
        step = symrun_steps / self.every
        alone, among = alone - step, among / records - step
        return {
            "step_seconds": (paper_steps / self.every, step),
            "record_seconds": (record, alone),
            "record_among_seconds": (record, among),
            "total_seconds": (paper_steps + record, symrun_steps + alone),
            "total_among_seconds": (paper_steps + record, symrun_steps + among),
            "bytes": (size, alone_size),
            "bytes_among": (size, among_size / records),
        }

    def _real_step(self) -> None:
        """Leaves its gradients behind."""
        self.torch_sgd.zero_grad()
        _, loss = self.training.outputs_and_loss(self.images, self.labels)
        loss.backward()
        self.torch_sgd.step()

    def _steps(self, back: bool) -> tuple[float, float, float]:
        """Of torch.optim.SGD, IntegralSGD and the tracker: seconds of `every` steps."""
        totals = [0.0, 0.0, 0.0]
        for n in range(self.every):
            # The tracker's steps are those between two records.
            step = n % (self.every - 1) + 1
            works: list[Callable[[], object]] = [
                self.torch_sgd.step,
                self.integral_sgd.step,
                partial(self.tracker.before_update, step, self.lr),
            ]
            order = [0, 1, 2] if back == (n % 2 == 1) else [2, 1, 0]
            for side in order:
                totals[side] += self._seconds(works[side])
        return totals[0], totals[1], totals[2]

    def _paper_record(self) -> tuple[float, float]:
        """Seconds and bytes."""
        saved, reduced = self.folder / "checkpoint.pt", self.folder / "sums.npz"
        seconds = self._seconds(
            lambda: checkpoint(self.model, self.integral_sgd, saved, self.fsync)
        )
        seconds += self._seconds(lambda: reduce_checkpoint(saved, self.groups, reduced))
        size = saved.stat().st_size + reduced.stat().st_size
        saved.unlink()
        return seconds, size

    def _symrun_records(self, count: int) -> tuple[float, float]:
        """Seconds and bytes of so many records in one run, their steps included."""
        self.runs += 1
        run = RunDirectory.create(self.folder / f"run-{self.runs}", "")
        seconds = 0.0
        for n in range(count):
            self._move()
            seconds += self._seconds(partial(self.tracker.before_update, n * self.every, self.lr))
        seconds += self._seconds(lambda: self.held.write(run))
        parts = [part for table in TABLES for part in run.table(table).iterdir()]
        return seconds, sum(part.stat().st_size for part in parts)

    @torch.no_grad()
    def _move(self) -> None:
        """Other weights and gradients, so that no record packs well for being like the last."""
        for weight in self.model.parameters():
            assert weight.grad is not None
            weight.grad.mul_(1 + 0.1 * torch.randn_like(weight))
        self.torch_sgd.step()

    def _seconds(self, work: Callable[[], object]) -> float:
        """From caches without weights or gradients to when the device has caught up."""
        self.evicting.add_(1)
        self._synchronize()
        started = time.perf_counter()
        work()
        self._synchronize()
        return time.perf_counter() - started

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def table(adds: dict[str, dict[str, list[float]]], every: int, records: int) -> str:
    """adds: name -> paper, symrun, ratio -> quartiles."""
    among = f"  as one of {records} in a run"
    titles = ["a step, ms", "a record, ms", among, f"{every} steps and a record, ms", among]
    titles += ["a record, bytes", among]
    lines = [f"{'tracking adds to':<27}{'paper':>27}{'symrun':>27}{'paper / symrun':>28}"]
    for title, (name, of) in zip(titles, adds.items(), strict=True):
        shown = _milliseconds if name.endswith("seconds") else _bytes
        line = f"{title:<27}{shown(of['paper']):>27}{shown(of['symrun']):>27}"
        line += f"{_spread(of['ratio']):>28}"
        if name in BARS:
            met = of["ratio"][1] >= BARS[name]
            line += f"   bar {BARS[name]}: {'met' if met else 'missed'}"
        lines.append(line)
    return "\n".join(lines)


def _spread(quartiles: Sequence[float]) -> str:
    low, median, high = (f"{quartile:.2f}" for quartile in quartiles)
    return f"{median} ({low} to {high})"


def _milliseconds(quartiles: Sequence[float]) -> str:
    return _spread([1e3 * quartile for quartile in quartiles])


def _bytes(quartiles: Sequence[float]) -> str:
    return f"{quartiles[1]:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--every", type=int, default=20, help="steps between records")
    parser.add_argument("--records", type=int, default=10, help="turns, with a record each")
    parser.add_argument("--fsync", action="store_true", help="checkpoints to the disk, too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*", help="settings of `symrun train`")
    options = parser.parse_args(arguments)
    if options.every < 2 or options.records < 1:
        parser.error("--every must be >= 2 and --records >= 1")
    sizes = [f"model.width={options.width}", f"train.batch_size={options.batch_size}"]
    config = compose([*SETTING, *sizes, f"track.every={options.every}", *options.overrides])
    if not isinstance(config.optim, SgdConfig) or config.optim.momentum:
        parser.error("the paper's integral is that of SGD without momentum")

    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(config, options.fsync, Path(folder))
        numbers = range(-WARM_UP, options.records)
        turns = [sides.turn(number, options.records) for number in numbers][WARM_UP:]
    adds = {}
    for name in turns[0]:
        paper, symrun = np.array([turn[name] for turn in turns]).T
        sides_of = {"paper": paper, "symrun": symrun, "ratio": paper / symrun}
        adds[name] = {
            side: np.quantile(values, (0.25, 0.5, 0.75)).tolist()
            for side, values in sides_of.items()
        }
    setting = vars(options) | {
        "model": config.model.name,
        "precision": sides.training.plan.config.precision.value,
        "device": device_title(sides.device),
        "threads": torch.get_num_threads(),
        "real_step_seconds": sides.real_step_seconds,
    }
    if options.json:
        print(json.dumps({"setting": setting, "adds": adds}))
        return
    title = "{model}, width {width:g}, batch {batch_size}, {precision} on {device}, "
    title += "{threads} CPU threads, a step without tracking {real_step_seconds:.3f} s"
    print(title.format(**setting))
    print(f"{len(turns)} turns; medians, quartiles in brackets")
    print(table(adds, options.every, options.records))


if __name__ == "__main__":
    main()

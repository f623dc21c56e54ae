"""How training goes: rows of the table `progress`, a bar for people, and a watch for divergence."""

import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from symrun.display import bar
from symrun.runs.info import DivergenceInfo
from symrun.runs.tables import PROGRESS_SCHEMA
from symrun.runs.writer import RecordSink
from symrun.tracking.staging import Staged
from symrun.training.metrics import Means, Scores, means

if TYPE_CHECKING:
    from tqdm import tqdm


class Progress:
    """The rows of the table `progress`, a bar on standard error, and a watch for divergence.

    The bar shows what the writing thread saw last, so training never waits for a number. Only the
    training thread draws: an interruption can leave the bar's lock with whoever holds it.
    """

    def __init__(self, writer: RecordSink, model: nn.Module, steps: int) -> None:
        self._weights = dict(model.named_parameters())
        self.scores = Scores(next(iter(self._weights.values())).device)
        self.updates = 0
        """Updates made so far."""
        self.diverged: DivergenceInfo | None = None
        """Noticed in the writing thread, once a row for the training batches is due."""
        self._writer = writer
        self._shown = ""
        self._lines: deque[str] = deque()
        self._bar = bar("train", steps, "step")
        self._images = 0
        self._first = 0
        """The first update that the scores count."""
        self._since = self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training and validation so far; what came after the last checkpoint of a run that
        broke off is not among them."""
        return time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """What `restore` takes to go on from here, on the device."""
        counts = {"updates": self.updates, "images": self._images, "first": self._first}
        seconds = {"seconds": time.monotonic() - self._since, "all_seconds": self.seconds}
        return {"sums": self.scores.state(), **counts, **seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.scores.restore(state["sums"])
        self.updates, self._images, self._first = (
            int(state[name]) for name in ("updates", "images", "first")
        )
        self._since = time.monotonic() - float(state["seconds"])
        self._started = time.monotonic() - float(state["all_seconds"])
        self._bar.initial = self._bar.n = self.updates

    def updated(self, images: int) -> None:
        """One update was made from a batch of so many images."""
        self.updates += 1
        self._images += images
        self._bar.set_postfix_str(self._shown, refresh=False)
        self._print_lines()
        self._bar.update()

    def validating(self, images: int) -> "tqdm[Any]":
        """A bar of its own for a validation of so many images, to be updated and closed."""
        return bar("validate", images, "image", passing=True)

    def say(self, line: str) -> None:
        """A line above the bar. For the training thread."""
        self._bar.write(line, file=sys.stderr)

    @torch.no_grad()
    def record_training(self, epoch: int, lr: float) -> None:
        """A row for the batches since the last one, if there were any."""
        if self._images == 0:
            return
        speed = self._images / (time.monotonic() - self._since)
        largest = Staged(torch.stack(torch._foreach_norm(list(self._weights.values()), math.inf)))
        self._put("train", epoch, self.scores.read_and_reset(), lr, speed, largest)
        self._first = self.updates

    def record_validation(self, epoch: int, scores: Scores, images: int, seconds: float) -> None:
        self._put("val", epoch, scores.read_and_reset(), None, images / seconds)

    def _put(
        self,
        split: str,
        epoch: int,
        staged: Staged,
        lr: float | None,
        speed: float,
        largest: Staged | None = None,
    ) -> None:
        step, first = self.updates, self._first

        def row() -> pa.Table:
            mean = means(staged)
            if largest is not None:
                self._watch(step, first, mean, largest.wait())
            shown = f"{split} loss {mean.loss:.3f}, top-1 {mean.top1:.1%}, {speed:,.0f} images/s"
            if split == "train":
                self._shown = shown
            else:
                self._lines.append(f"epoch {epoch}, step {step}: {shown}, top-5 {mean.top5:.1%}")
            values = {
                "step": step,
                "epoch": epoch,
                "split": split,
                "loss": mean.loss,
                "top1": mean.top1,
                "top5": mean.top5,
                "lr": lr,
                "images_per_second": speed,
            }
            return pa.Table.from_pylist([values], schema=PROGRESS_SCHEMA)

        self._writer.put("progress", row)
        self._images = 0
        self._since = time.monotonic()

    def _watch(self, step: int, first: int, mean: Means, largest: Tensor) -> None:
        """largest: of each of the weights the largest magnitude, [parameters]."""
        finite = math.isfinite(mean.loss)
        names = [
            name.rpartition(".")[0]
            for name, here in zip(self._weights, largest.isfinite().tolist(), strict=True)
            if not here
        ]
        if self.diverged is None and (names or not finite):
            step = step if finite else first + mean.finite
            self.diverged = DivergenceInfo(step, not finite, tuple(dict.fromkeys(names)))

    def _print_lines(self) -> None:
        while self._lines:
            self.say(self._lines.popleft())

    def close(self) -> None:
        """Once the writer is closed, so that all rows have been seen."""
        self._print_lines()
        self._bar.close()

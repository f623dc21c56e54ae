"""How training goes: running means on the device, a row and a line for people now and then."""

import sys
import time
from collections import deque
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from symrun.runs.tables import PROGRESS_SCHEMA
from symrun.runs.writer import TableWriter
from symrun.tracking.staging import Staged


class Scores:
    """Sums of loss and hits over images, kept on the device; no call waits for it."""

    def __init__(self, device: torch.device) -> None:
        # loss, hits in the first, hits in the first five, images
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """logits [batch, classes], labels [batch], loss: mean over the batch."""
        first = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = first == labels[:, None]
        self.sums[0] += loss * len(labels)
        self.sums[1] += hits[:, 0].sum()
        self.sums[2] += hits.sum()
        self.sums[3] += len(labels)

    def take(self) -> Staged:
        """The sums so far, on their way to the host; counting starts again."""
        staged = Staged(self.sums)
        self.sums.zero_()  # in place: a graph adds to it there
        return staged


@dataclass(frozen=True)
class Means:
    loss: float
    top1: float
    top5: float
    images: int


def means(staged: Staged) -> Means:
    """Waits for the device."""
    loss, top1, top5, images = staged.wait().tolist()
    return Means(loss / images, top1 / images, top5 / images, int(images))


class Progress:
    """The rows of the table `progress`, and a bar on standard error.

    The bar shows what the writing thread saw last, so training never waits for a number. Only the
    training thread draws: an interruption can leave the bar's lock with whoever holds it.
    """

    def __init__(self, writer: TableWriter, steps: int, device: torch.device) -> None:
        self.scores = Scores(device)
        self.updates = 0
        """Updates made so far."""
        self.last: Means | None = None
        self._writer = writer
        self._shown = ""
        self._lines: deque[str] = deque()
        self._bar = tqdm(total=steps, unit="step", desc="train", dynamic_ncols=True)
        self._images = 0
        self._since = time.monotonic()

    def updated(self, images: int) -> None:
        """One update was made from a batch of so many images."""
        self.updates += 1
        self._images += images
        self._bar.set_postfix_str(self._shown, refresh=False)
        self._print_lines()
        self._bar.update()

    def say(self, line: str) -> None:
        """A line above the bar. For the training thread."""
        self._bar.write(line, file=sys.stderr)

    def record_training(self, epoch: int, lr: float) -> None:
        """A row for the batches since the last one, if there were any."""
        if self._images == 0:
            return
        speed = self._images / (time.monotonic() - self._since)
        self._put("train", epoch, self.scores.take(), lr, speed)

    def record_validation(self, epoch: int, scores: Scores, images: int, seconds: float) -> None:
        self._put("val", epoch, scores.take(), None, images / seconds)

    def _put(self, split: str, epoch: int, staged: Staged, lr: float | None, speed: float) -> None:
        step = self.updates

        def row() -> pa.Table:
            mean = means(staged)
            self.last = mean
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

    def _print_lines(self) -> None:
        while self._lines:
            self.say(self._lines.popleft())

    def close(self) -> None:
        """Once the writer is closed, so that all rows have been seen."""
        self._print_lines()
        self._bar.close()

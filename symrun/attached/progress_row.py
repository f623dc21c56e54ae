"""A row of the table `progress`, from what the user's loop knows."""

import pyarrow as pa
import torch
from torch import Tensor

from symrun.runs.tables import PROGRESS_SCHEMA
from symrun.runs.writer import Record
from symrun.tracking.staging import Staged
from symrun.typed import require


def progress_row(
    step: int, lr: float, split: str, epoch: int | None, **numbers: float | Tensor | None
) -> Record:
    """What makes the row, for the writing thread; tensors are not waited for.

    numbers: by column. Error: UsageError for a value that the table does not hold.
    """
    require("split", split in ("train", "val"), "train or val", repr(split))
    require("epoch", epoch is None or isinstance(epoch, int), "an integer", repr(epoch))
    staged: dict[str, Staged] = {}
    for name, value in numbers.items():
        if value is None:
            continue
        number = torch.tensor(value, dtype=torch.float64) if type(value) in (int, float) else value
        single = isinstance(number, Tensor) and number.numel() == 1
        require(name, single, "a number, or a tensor of one", repr(value))
        assert isinstance(number, Tensor)
        staged[name] = Staged(number.detach().to(torch.float64, copy=True))

    def row() -> pa.Table:
        found: dict[str, object] = {"step": step, "epoch": epoch, "split": split, "lr": lr}
        found |= {name: float(value.wait()) for name, value in staged.items()}
        columns = {name: found.get(name) for name in PROGRESS_SCHEMA.names}
        return pa.Table.from_pylist([columns], schema=PROGRESS_SCHEMA)

    return row

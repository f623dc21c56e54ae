"""Weights & Biases: offline, in the run's folder, unless the user set WANDB_MODE."""

import os
from collections.abc import Mapping

import wandb

from symrun.runs.directory import RunDirectory


class Sink:
    """A run of its own beside any that the user's loop logs to, whose steps are not ours to count.

    A resumed run is another one with the same name.
    """

    def __init__(self, run: RunDirectory, step: int) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "symrun"),
            name=str(run.path),
            dir=run.path,
            mode=None if "WANDB_MODE" in os.environ else "offline",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("symrun/*", step_metric="symrun/step")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"symrun/step": step, **scalars})

    def close(self) -> None:
        self._run.finish()

"""Tracks a network while a Trainer of Lightning fits it."""

from pathlib import Path
from typing import Any

import symrun

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    from pytorch_lightning import Callback, LightningModule, Trainer


class SymrunCallback(Callback):
    """Leaves a run folder of what a Trainer fits, of `lightning` or `pytorch_lightning`.

    It tracks the first optimiser, in the first process. Lightning's checkpoints hold its state, so
    that a fit that goes on from one goes on being tracked.

    path: the run's folder. example_input: as the forward of the network takes it; None: the
    module's `example_input_array`. network: the name of the submodule that is tracked; the module
    as a whole if it is empty. options: as of `symrun.track`.
    """

    def __init__(
        self, path: str | Path, example_input: Any = None, network: str = "", **options: Any
    ) -> None:
        self.tracker: symrun.TrackedRun | None = None
        self._example_input = example_input
        self._network = network
        self._options = {"path": path, **options}
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        example = self._example_input
        if example is None:
            example = pl_module.example_input_array
        network = pl_module.get_submodule(self._network)
        self.tracker = symrun.track(network, trainer.optimizers[0], example, **self._options)
        if self._restored is not None:
            self.tracker.load_state_dict(self._restored)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close(None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close(exception)

    def state_dict(self) -> dict[str, Any]:
        return self.tracker.state_dict() if self.tracker is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict  # there is no optimiser yet

    def _close(self, error: BaseException | None) -> None:
        if self.tracker is not None:  # which keeps its state for checkpoints that come later
            self.tracker.__exit__(type(error) if error is not None else None)

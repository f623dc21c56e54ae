"""TensorBoard: the curves lie in the run's folder; `tensorboard --logdir outputs` shows them."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from symrun.runs.directory import RunDirectory


class Sink:
    """A resumed run goes on with its curves: what came after its checkpoint disappears."""

    def __init__(self, run: RunDirectory, step: int) -> None:
        self._writer = SummaryWriter(run.tensorboard, purge_step=step)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()

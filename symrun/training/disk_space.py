"""Room on the disk, asked for before a run starts rather than missed in the middle."""

import shutil

from symrun.errors import UsageError
from symrun.optimizers import OPTIMIZERS
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import unpacked_bytes
from symrun.training.setup import Training


def table_bytes(training: Training) -> int:
    """The numbers that a whole run records; on the disk they take less."""
    config = training.plan.config
    records = -(-training.steps // config.track.every) + 1
    units = sum(group.units for group in training.structure.groups)
    weights = [
        training.model.get_parameter(f"{layer.name}.weight") for layer in training.structure.layers
    ]
    sample = sum(min(config.track.parameters, weight.numel()) for weight in weights)
    value_bytes = weights[0].dtype.itemsize
    return unpacked_bytes(records, units, sample, value_bytes, training.columns)


def checkpoint_bytes(training: Training) -> int:
    """One checkpoint: the model, and what the optimiser keeps."""
    state: int = sum(value.nbytes for value in training.model.state_dict().values())
    weights: int = sum(parameter.nbytes for parameter in training.model.parameters())
    optim = training.plan.config.optim
    return state + OPTIMIZERS[optim.name].buffers(optim) * weights


def require_space(run: RunDirectory, training: Training) -> None:
    """Error: UsageError if the disk lacks room for the tables and the checkpoints of a run."""
    tables, checkpoint = table_bytes(training), checkpoint_bytes(training)
    # One more than stay: the next is whole before the oldest goes
    count = training.plan.config.train.checkpoint_keep + 1
    free = shutil.disk_usage(run.path).free
    if tables + count * checkpoint > free:
        needed = f"{tables / 1e6:,.1f} MB of tables and {count} checkpoints of "
        needed += f"{checkpoint / 1e6:,.1f} MB may not fit into the {free / 1e6:,.1f} MB free there"
        raise UsageError(f"{run.path}: {needed}: make room, or raise track.every")

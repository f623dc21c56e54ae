"""The tracker measures every step, advances the laws, and records every few steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symrun.config import Sums
from symrun.laws import Input, Law, Propagation
from symrun.runs.tables import MEASUREMENTS, parameters_schema, units_schema
from symrun.runs.writer import RecordSink
from symrun.symmetry import Group, Structure, Symmetry
from symrun.tracking.measure import Measure
from symrun.tracking.momentum import momentum_of
from symrun.tracking.sample import ParameterSample
from symrun.tracking.staging import Staged


@dataclass(frozen=True)
class Observation:
    """The values of one record, on the device: units [columns, units], parameters [sample]."""

    columns: tuple[str, ...]
    units: Tensor
    parameters: Tensor


class Watcher(Protocol):
    """Sees each record of the units while the run goes on: an audit, or a logger."""

    def saw(self, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Called in the writing thread. values: the columns that are not null, each [units], the
        units of one group after those of another."""
        ...


class Tracker:
    """Measures a model's conserved quantities during training, and what the laws predict.

    Call `before_update` between backward and the optimiser's step, and `finish` after the last
    one. The tracker never changes weights, gradients, momentum buffers or random states: training
    gives the same weights with and without it, bit for bit.

    Error: UsageError for an SGD that the laws do not describe, as in `momentum_of`.
    Example:
        with TableWriter(run) as writer:
            tracker = Tracker(model, optimizer, structure, laws, writer, 20, sample=100, seed=0)
            for step, (images, labels) in enumerate(batches):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                tracker.before_update(step, lr=0.1)
                optimizer.step()
            tracker.finish(step + 1)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        structure: Structure,
        laws: Mapping[str, Law],
        writer: RecordSink,
        every: int,
        sample: int,
        seed: int,
        sums: Sums = Sums.auto,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self._watchers = watchers
        self._momentum = momentum_of(optimizer)
        self._measure = Measure(model, structure.groups, self._momentum, sums)
        self._writer = writer
        self.every = every
        self._sample = ParameterSample(model, structure.layers, sample, seed)
        self._laws = Propagation(
            laws,
            self._measure.weights().measured,
            self._measure.degree,
            momentum=self._momentum is not None,
        )
        weights_dtype = next(model.parameters()).dtype
        self._dtype = torch.float64 if weights_dtype is torch.float64 else torch.float32
        self._unit_keys = _unit_keys(structure.groups)
        self._value_type = pa.float64() if self._dtype is torch.float64 else pa.float32()
        self._units_schema = units_schema(self._value_type)
        self._parameters_schema = parameters_schema(self._value_type)

    def before_update(self, step: int, lr: float) -> None:
        """Measure theta_n and g_n, record them if due, and advance the laws by update n.

        lr: the learning rate of this update. It calls `prepare`, `observe` and `record`.
        """
        self.prepare(lr)
        self.record(step, self.observe(self.due(step)))

    def due(self, step: int) -> bool:
        """Whether `step` is recorded."""
        return step % self.every == 0

    def prepare(self, lr: float) -> None:
        """Copy the next update's settings to the device; call it at any time before `observe`."""
        self._laws.prepare(lr, first=self._momentum is not None and self._momentum.first)

    def observe(self, due: bool) -> Observation | None:
        """Measure, and advance the laws by the next update. Returns the record if one is due.

        All of it runs on the device, so that a CUDA graph can capture it.
        """
        gradients = self._measure.gradients()
        observation = None
        if due:
            defect = gradients.inputs[Input.defect]
            observation = self._observation(
                {"grad_norm_sq": gradients.grad_norm_sq, "defect": defect}
            )
        self._laws.advance(gradients.inputs)
        return observation

    def record(self, step: int, observation: Observation | None) -> None:
        """Pass `observation`, if any, to the writer, without waiting for the device."""
        if observation is None:
            return
        columns, units = observation.columns, Staged(observation.units)
        self._writer.put("units", lambda: self._units_rows(step, columns, units))
        parameters = Staged(observation.parameters)
        self._writer.put("parameters", lambda: self._parameter_rows(step, parameters))

    @property
    def state(self) -> Tensor:
        """The laws' state, float64 [rows, units]: the tracker's only state. Set it in place."""
        return self._laws.state

    def finish(self, step: int) -> None:
        """Record the weights after the last update. They have no gradient: its columns are null."""
        self.record(step, self._observation({}))

    def _observation(self, gradients: dict[str, Tensor]) -> Observation:
        weights = self._measure.weights()
        columns = {
            "measured": weights.measured,
            "magnitude": weights.magnitude,
            **self._laws.predicted,
            **gradients,
        }
        units = torch.stack(list(columns.values())).to(self._dtype)
        return Observation(tuple(columns), units, self._sample.values())

    def _units_rows(self, step: int, columns: Sequence[str], staged: Staged) -> pa.Table:
        values = dict(zip(columns, staged.wait().numpy(), strict=True))
        for watcher in self._watchers:
            watcher.saw(step, values)
        units = len(self._measure.degree)
        arrays = [pa.array(np.full(units, step, np.int32)), *self._unit_keys]
        for column in MEASUREMENTS:
            value = values.get(column)
            nulls = pa.nulls(units, self._value_type)
            arrays.append(nulls if value is None else pa.array(value, self._value_type))
        return pa.Table.from_arrays(arrays, schema=self._units_schema)

    def _parameter_rows(self, step: int, staged: Staged) -> pa.Table:
        steps = pa.array(np.full(len(self._sample.indices), step, np.int32))
        values = pa.array(staged.wait().numpy(), self._value_type)
        arrays = [steps, self._sample.layers, self._sample.indices, values]
        return pa.Table.from_arrays(arrays, schema=self._parameters_schema)


def _unit_keys(groups: Sequence[Group]) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The columns symmetry, group and unit of every record."""
    sizes = [group.units for group in groups]
    group_of = np.repeat(np.arange(len(groups), dtype=np.int16), sizes)
    unit = np.concatenate([np.empty(0, np.int32), *(np.arange(n, dtype=np.int32) for n in sizes)])
    names = pa.array([group.name for group in groups], pa.string())
    kinds = list(Symmetry)
    kind_of = np.array([kinds.index(group.symmetry) for group in groups], np.int16)
    symmetries = pa.array([kind.value for kind in kinds], pa.string())
    return (
        pa.DictionaryArray.from_arrays(pa.array(kind_of[group_of]), symmetries),
        pa.DictionaryArray.from_arrays(pa.array(group_of), names),
        pa.array(unit),
    )

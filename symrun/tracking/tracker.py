"""The tracker measures every step, advances the laws, and records every few steps."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from symrun.config import Sums
from symrun.errors import in_one_line
from symrun.laws import Input, Law, Propagation
from symrun.runs.tables import DYNAMICS, MEASUREMENTS, UPDATE, parameters_schema, units_schema
from symrun.runs.writer import RecordSink
from symrun.symmetry import Group, Structure, Symmetry
from symrun.tracking.movement import Movement, OneRule
from symrun.tracking.output_source import OutputSource
from symrun.tracking.parts import PartMeasures
from symrun.tracking.sample import ParameterSample
from symrun.tracking.shares import Shares
from symrun.tracking.staging import Staged
from symrun.tracking.update_terms import UpdateTerms

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observation:
    """The values of one record, on the device: units [columns, units], parameters [sample]."""

    columns: tuple[str, ...]
    units: Tensor
    parameters: Tensor


class Watcher(Protocol):
    """Sees each record of the units while the run goes on: an audit, or a logger."""

    def on_record(self, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Called in the writing thread. values: the columns that are not null, each [units], the
        units of one group after those of another."""
        ...


class Tracker:
    """Measures a model's conserved quantities during training, and what the laws predict.

    Call `before_update` between backward and the optimiser's step, `after_update` after the step,
    and `finish` after the last one. SGD's update is known from its gradient, so `after_update` does
    nothing then; any other update is observed. The tracker never changes weights, gradients,
    momentum buffers or random states: training gives the same weights with and without it, bit for
    bit.

    laws: by column, for an optimiser that moves all groups by one rule; or a Movement, which tells
    the groups apart. more: optional columns to record, of `runs.tables.OPTIONAL`.
    ranks: processes that hold the same model, or each a part of it (DTensors, for which None means
    the default process group). Each sums its share; all call the same methods at the same time and
    have the same `state`, and only the first writes.
    source: what drives homogeneity, if `structure` has a group of it.
    Error: UsageError for an SGD that the laws do not describe, as in `momentum_of`.
    Example:
        with TableWriter(run) as writer:
            tracker = Tracker(model, optimizer, structure, laws, writer, 20, sample=100, seed=0)
            for step, (images, labels) in enumerate(batches):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                tracker.before_update(step, lr=0.1)
                optimizer.step()
                tracker.after_update()
            tracker.finish(step + 1)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        structure: Structure,
        laws: Mapping[str, Law] | Movement,
        writer: RecordSink,
        every: int,
        sample: int,
        seed: int,
        sums: Sums = Sums.auto,
        watchers: Sequence[Watcher] = (),
        more: Sequence[str] = (),
        ranks: "dist.ProcessGroup | None" = None,
        source: OutputSource | None = None,
    ) -> None:
        groups = structure.groups
        self._model, self._groups, self._sums = model, groups, sums
        self._movement = OneRule(optimizer, groups, laws) if isinstance(laws, Mapping) else laws
        self._writer, self._watchers, self._more = writer, list(watchers), tuple(more)
        self.every = every
        self._shares = Shares(model, ranks)
        self._shares.require_all(model)
        self._sample = ParameterSample(model, structure.layers, sample, seed, self._shares)
        self._dtype = recorded_as(next(model.parameters()).dtype)
        self._unit_keys = _unit_keys(groups)
        self._value_type = pa.float64() if self._dtype is torch.float64 else pa.float32()
        self._units_schema = units_schema(self._value_type, self._more)
        self._parameters_schema = parameters_schema(self._value_type)
        self._source = source
        exponents = [float(group.outputs) for group in groups for _ in range(group.units)]
        device = next(model.parameters()).device
        self._exponents = torch.tensor(exponents, dtype=torch.float64, device=device)
        """h of each unit, 0 but for homogeneity."""
        self.scale: Tensor | None = None
        """What gradients are multiplied by until within the update, where that is so."""
        self._recorded = self._undone = -1
        """The last step that was recorded, and one whose record stays from an update undone."""
        self._before = torch.empty(0)
        """The laws' state before the update that is under way."""
        self._begun: tuple[int, Observation | None] | None = None
        self._inputs = torch.empty(0)
        self.divide()

    def divide(self, by_law: Mapping[str, Tensor] | None = None) -> None:
        """Measure by the parts into which the movement divides the groups now.

        by_law: what the laws predict so far; None: they start from the weights as they are.
        """
        parts = self._movement.parts
        self._measures = PartMeasures(self._model, self._groups, parts, self._sums, self._shares)
        self._laws = Propagation(
            [part.laws for part in parts],
            self._measures.weights().measured,
            self._measures.degree,
            self._measures.momentum,
            self._measures.rule_of,
            self._measures.carried(),
        )
        terms = set(self._more) & {*UPDATE, *DYNAMICS}
        self._terms = UpdateTerms(self._measures) if terms else None
        if by_law is not None:
            self._laws.continue_from(by_law)

    def before_update(self, step: int, lr: float | None = None) -> None:
        """Measure theta_n and g_n before update n. If the update is known, also advance the laws by
        it and record.

        lr: its learning rate; None if the Movement knows it. It calls `prepare`, `observe` and
        `record`.
        """
        self.prepare(lr)
        self._before = self._laws.state.clone()
        observation = self.observe(self.due(step))
        if self._measures.observed:
            self._begun = step, observation
        else:
            self.record(step, observation)

    def after_update(self) -> None:
        """Once an observed update is made: advance the laws by it and record. Else nothing."""
        if self._begun is not None:
            step, observation = self._begun
            self._begun = None
            self.record(step, self.complete(observation))

    def undo(self) -> None:
        """Forget the last `before_update`, but for what it recorded: the update was not made."""
        self._begun, self._undone = None, self._recorded
        if self._before.shape == self._laws.state.shape:
            self._laws.state.copy_(self._before)

    @property
    def measured(self) -> Tensor:
        """The conserved quantities as they are, float64 [units]."""
        return self._measures.weights().measured

    def due(self, step: int) -> bool:
        """Whether `step` is recorded."""
        return step % self.every == 0

    def watch(self, outputs: Tensor) -> None:
        """Measure at `outputs`, in the backward pass to come, what the source of homogeneity is."""
        if self._source is not None:
            self._source.watch(outputs)

    def prepare(self, lr: float | None = None) -> None:
        """Copy the next update's settings to the device; call it at any time before `observe`."""
        rules = self._movement.rules(lr)
        self._laws.prepare(rules)
        if self._terms is not None:
            self._terms.prepare(rules)

    def observe(self, due: bool) -> Observation | None:
        """Measure, and advance the laws by the next update if it is known. Returns the record if
        one is due.

        All of it runs on the device, so that a CUDA graph can capture it.
        """
        gradients, observation = self._measures.gradients(due), None
        inputs = gradients.inputs
        if self._source is not None:
            source = self._exponents * self._source.taken()
            inputs = inputs.clone()
            inputs[Input.source] = torch.where(self._exponents > 0, source, 0.0)
        if due:
            norm_sq = gradients.grad_norm_sq
            defect = inputs[Input.defect] - inputs[Input.source]
            columns = {"grad_norm_sq": norm_sq, "defect": defect}
            if self._source is not None:
                columns["source"] = inputs[Input.source]
            if self.scale is not None:
                columns = {name: one / self.scale for name, one in columns.items()}
                columns["grad_norm_sq"] = norm_sq / self.scale**2
            observation = self._observation(columns)
        if not self._measures.observed:
            return self._advanced(inputs, observation)
        self._measures.keep()
        self._inputs = inputs
        return observation

    def complete(self, observation: Observation | None) -> Observation | None:
        """Once the update is made: advance the laws by it if it is observed. Returns `observation`
        with what was missing."""
        if not self._measures.observed:
            return observation
        return self._advanced(self._measures.step(self._inputs), observation)

    def record(self, step: int, observation: Observation | None) -> None:
        """Pass `observation`, if any, to the writer, without waiting for the device."""
        if observation is None or step == self._undone:
            return
        self._recorded = step
        if not self._shares.first:
            return
        columns, units = observation.columns, Staged(observation.units)
        size_bytes = observation.units.nbytes
        self._writer.put("units", lambda: self._units_rows(step, columns, units), size_bytes)
        parameters = Staged(observation.parameters)
        self._writer.put("parameters", lambda: self._parameter_rows(step, parameters))

    @property
    def state(self) -> Tensor:
        """The laws' state, float64 [rows, units]: the tracker's only state. Set it in place."""
        return self._laws.state

    @property
    def by_law(self) -> dict[str, Tensor]:
        """The rows of `state` of each law, which `divide` takes."""
        return self._laws.by_law

    def finish(self, step: int) -> None:
        """Record the weights after the last update. They have no gradient: its columns are null."""
        self.record(step, self._observation({}))

    def _advanced(self, inputs: Tensor, observation: Observation | None) -> Observation | None:
        terms = self._terms if observation is not None else None
        before = self._laws.exact.clone() if terms is not None else inputs
        self._laws.advance(inputs)
        if observation is None or terms is None:
            return observation
        measured = observation.units[observation.columns.index("measured")]
        found = terms.columns(measured.double(), inputs, before - self._laws.exact)
        wanted = [name for name in self._more if name in found]
        more = torch.stack([found[name] for name in wanted]).to(self._dtype)
        units = torch.cat([observation.units, more])
        return Observation((*observation.columns, *wanted), units, observation.parameters)

    def _observation(self, gradients: dict[str, Tensor]) -> Observation:
        weights = self._measures.weights()
        columns = {
            "measured": weights.measured,
            "magnitude": weights.magnitude,
            **self._laws.predicted,
            **gradients,
        }
        units = torch.stack(list(columns.values())).to(self._dtype)
        return Observation(tuple(columns), units, self._sample.values().to(self._dtype))

    def _units_rows(self, step: int, columns: Sequence[str], staged: Staged) -> pa.Table:
        values = dict(zip(columns, staged.wait().numpy(), strict=True))
        for watcher in tuple(self._watchers):
            try:
                watcher.on_record(step, values)
            except Exception as error:
                self._watchers.remove(watcher)
                name = type(watcher).__name__
                _LOG.warning("%s is switched off at step %d: %s", name, step, in_one_line(error))
        units = len(self._measures.degree)
        arrays = [pa.array(np.full(units, step, np.int32)), *self._unit_keys]
        for column in (*MEASUREMENTS, *self._more):
            value = values.get(column)
            nulls = pa.nulls(units, self._value_type)
            arrays.append(nulls if value is None else pa.array(value, self._value_type))
        return pa.Table.from_arrays(arrays, schema=self._units_schema)

    def _parameter_rows(self, step: int, staged: Staged) -> pa.Table:
        steps = pa.array(np.full(len(self._sample.indices), step, np.int32))
        values = pa.array(staged.wait().numpy(), self._value_type)
        arrays = [steps, self._sample.layers, self._sample.indices, values]
        return pa.Table.from_arrays(arrays, schema=self._parameters_schema)


def recorded_as(weights: torch.dtype) -> torch.dtype:
    """The type of the numbers in the tables, for weights of this type."""
    return torch.float64 if weights is torch.float64 else torch.float32


def _unit_keys(groups: Sequence[Group]) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The columns symmetry, group and unit of every record."""
    sizes = [group.units for group in groups]
    group_of = np.repeat(np.arange(len(groups)), sizes)
    unit = np.concatenate([np.empty(0, np.int32), *(np.arange(n, dtype=np.int32) for n in sizes)])
    # Two symmetries may share a name, such as a matrix's diagonal and its other entries
    names = {name: place for place, name in enumerate(dict.fromkeys(one.name for one in groups))}
    name_of = np.array([names[group.name] for group in groups], np.int16)
    kinds = list(Symmetry)
    kind_of = np.array([kinds.index(group.symmetry) for group in groups], np.int16)
    symmetries = pa.array([kind.value for kind in kinds], pa.string())
    return (
        pa.DictionaryArray.from_arrays(pa.array(kind_of[group_of]), symmetries),
        pa.DictionaryArray.from_arrays(
            pa.array(name_of[group_of]), pa.array(list(names), pa.string())
        ),
        pa.array(unit),
    )

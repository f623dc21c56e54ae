"""Splits an update into parts that can be called repeatedly."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from symrun.bench.clock import Work
from symrun.bench.sums import CompiledSums, Making, checked, ways_to_sum
from symrun.bench.tracking_cost import endless
from symrun.config import Config
from symrun.data import load
from symrun.laws import Propagation, Rule
from symrun.runs.writer import Record
from symrun.tracking import Tracker
from symrun.tracking.measure import Measure
from symrun.tracking.momentum import momentum_of
from symrun.tracking.reductions import Reductions
from symrun.tracking.select import select_sums
from symrun.training.loop import Update
from symrun.training.metrics import Scores
from symrun.training.plan import Plan
from symrun.training.setup import Training, make_tracker, prepare

Works = dict[str, Callable[[], Work]]
"""Work by name. Each is made just before it is timed, so that one that fails does so alone."""

_LR_SCALE = 1e-9
"""Scales the learning rates down, so that repeated updates do not move the weights."""


class Step:
    """The parts of an update of `config`, on one network.

    Gradients and momentum buffers exist from the start, as they do from the second update on.

    Error: as in `prepare` and Tracker.
    Example: Step(config).parts()["forward"]().call()
    """

    def __init__(self, config: Config) -> None:
        training = prepare(Plan.of(config), load(config.data))
        training.model.train()
        rates = [_LR_SCALE * lr for lr in training.learning_rates]
        self._training = replace(training, learning_rates=rates)
        self._eager = replace(self._training, forward=training.model, cuda_graph=False)
        self._compiled = config.train.compile
        groups = training.structure.groups
        self._reductions = Reductions(training.model, [one for one in groups if not one.pairs])
        self._momentum = momentum_of(training.optimizer)
        sums = select_sums(config.track.sums, self._reductions, self._momentum)
        self.sums = type(sums).__name__
        self._measure = Measure(training.model, groups, self._momentum, config.track.sums)
        self._laws = Propagation(
            [training.plan.laws],
            self._measure.weights().measured,
            self._measure.degree,
            momentum=self._momentum is not None,
        )
        self._records = _HeldRecords()
        self._tracker = make_tracker(training, self._records, _TrackerWithoutRecords)
        self._batches = endless(training)
        self._steps = itertools.cycle(range(training.steps))
        """Every call takes the next step: laws cache their matrices for one learning rate."""
        self._images, self._labels = next(self._batches)
        self._update(self._eager, None).call()

    def parts(self) -> Works:
        """The parts of an eager update, and what a record adds to it."""
        return {
            "batch": lambda: Work(lambda: next(self._batches)),
            **self._network(self._eager, ""),
            "measuring": lambda: Work(partial(self._measure.gradients, norms=False)),
            "laws": self._law_step,
            "optimiser step": self._optimiser_step,
            "scores": self._score,
            "record": lambda: Work(
                lambda: self._tracker.observe(True), less=lambda: self._tracker.observe(False)
            ),
            "record, handed over": self._hand_over,
        }

    def updates(self) -> Works:
        return self._updates(self._eager, "")

    def ways_to_sum(self) -> Works:
        return self._checked(ways_to_sum(self._reductions, self._momentum))

    def compiled_sums(self) -> Works:
        compiled = partial(CompiledSums, self._reductions, self._momentum)
        return self._checked({"plain torch, compiled": compiled})

    def compiled_parts(self) -> Works:
        """The compiled parts; none without train.compile."""
        return self._network(self._training, ", compiled") if self._compiled else {}

    def fast_updates(self) -> Works:
        """Updates with train.compile and train.cuda_graph if set, each alone and together."""
        works: Works = {}
        if self._compiled:
            works |= self._updates(replace(self._training, cuda_graph=False), ", compiled")
        if self._training.cuda_graph:
            works |= self._updates(replace(self._eager, cuda_graph=True), ", graph")
        if self._compiled and self._training.cuda_graph:
            works |= self._updates(self._training, ", compiled, graph")
        return works

    def release_records(self) -> None:
        """Free the memory of the records so far. It waits for the device."""
        self._records.release()

    def _checked(self, ways: dict[str, Making]) -> Works:
        return {
            name: partial(checked, making, self._reductions, self._momentum)
            for name, making in ways.items()
        }

    def _network(self, training: Training, suffix: str) -> Works:
        forward = partial(training.outputs_and_loss, self._images, self._labels)

        def both() -> None:
            training.optimizer.zero_grad()
            _, loss = forward()
            loss.backward()

        return {
            f"forward{suffix}": lambda: Work(forward),
            f"backward{suffix}": lambda: Work(both, less=forward),
        }

    def _law_step(self) -> Work:
        inputs = self._measure.gradients().inputs
        rates, laws = self._training.learning_rates, self._training.plan.laws

        def call() -> None:
            self._laws.prepare([Rule(laws, rates[next(self._steps)], first=False)])
            self._laws.advance(inputs)

        return Work(call)

    def _optimiser_step(self) -> Work:
        def call() -> None:
            self._training.set_lr(next(self._steps))
            self._training.optimizer.step()

        return Work(call)

    def _score(self) -> Work:
        scores = Scores(self._training.device)
        outputs, loss = self._eager.outputs_and_loss(self._images, self._labels)
        outputs, loss = outputs.detach(), loss.detach()
        return Work(lambda: scores.add(outputs, self._labels, loss))

    def _hand_over(self) -> Work:
        observation = self._tracker.observe(True)
        return Work(lambda: self._tracker.record(0, observation))

    def _updates(self, training: Training, suffix: str) -> Works:
        return {
            f"update, {how}{suffix}": partial(self._update, training, tracker)
            for how, tracker in (("untracked", None), ("tracked", self._tracker))
        }

    def _update(self, training: Training, tracker: Tracker | None) -> Work:
        update = Update(training, tracker, Scores(training.device))

        def call() -> None:
            images, labels = next(self._batches)
            update(images, labels, next(self._steps))

        return Work(call, queued=False)


class _TrackerWithoutRecords(Tracker):
    def due(self, step: int) -> bool:
        return False


class _HeldRecords:
    """Stands in for a writer and holds its records; building rows would disturb the timing."""

    def __init__(self) -> None:
        self._held: list[Record] = []

    def put(self, table: str, record: Record, size_bytes: int = 0) -> None:
        self._held.append(record)

    def release(self) -> None:
        for record in self._held:
            record()
        self._held.clear()

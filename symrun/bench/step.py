"""An update taken apart: each part as something that can be called again and again."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from symrun.bench.clock import Work
from symrun.bench.steps import endless
from symrun.bench.sums import CompiledSums, checked, ways_to_sum
from symrun.config import Config
from symrun.data import load
from symrun.laws import Propagation
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
"""By name; each is made when it is its turn, so that what cannot be made fails alone."""

_STANDSTILL = 1e-9
"""Of the learning rates: weights stay where they are, however often they are updated."""


class Step:
    """What an update of `config` consists of, on one network.

    Gradients and momentum buffers are there from the start, as from the second update on.

    Error: as in `prepare` and Tracker.
    Example: Step(config).parts()["forward"]().call()
    """

    def __init__(self, config: Config) -> None:
        training = prepare(Plan.of(config), load(config.data))
        training.model.train()
        rates = [_STANDSTILL * lr for lr in training.learning_rates]
        self._training = replace(training, learning_rates=rates)
        self._eager = replace(self._training, forward=training.model, cuda_graph=False)
        self._compiled = config.train.compile
        groups = training.structure.groups
        self._reductions = Reductions(training.model, groups)
        self._momentum = momentum_of(training.optimizer)
        sums = select_sums(config.track.sums, self._reductions, self._momentum)
        self.sums = type(sums).__name__
        self._measure = Measure(training.model, groups, self._momentum, config.track.sums)
        self._laws = Propagation(
            training.plan.laws,
            self._measure.weights().measured,
            self._measure.degree,
            momentum=self._momentum is not None,
        )
        self._records = _Records()
        self._tracker = make_tracker(training, self._records, _Unrecorded)
        self._batches = endless(training)
        self._steps = itertools.cycle(range(training.steps))
        """One after the other, whatever is called: laws keep what they know of a learning rate."""
        self._images, self._labels = next(self._batches)
        self._update(self._eager, None).call()

    def parts(self) -> Works:
        """Those of an eager update, and what a record takes beyond one."""
        return {
            "batch": lambda: Work(lambda: next(self._batches)),
            **self._network(self._eager, ""),
            "measuring": lambda: Work(self._measure.gradients),
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
        """Each is first held against plain torch."""
        reductions, momentum = self._reductions, self._momentum
        return {
            name: partial(checked, making, reductions, momentum)
            for name, making in ways_to_sum(reductions, momentum).items()
        }

    def compiled_sums(self) -> Works:
        making = partial(CompiledSums, self._reductions, self._momentum)
        return {"plain torch, compiled": partial(checked, making, self._reductions, self._momentum)}

    def compiled_parts(self) -> Works:
        """None unless train.compile is asked for."""
        return self._network(self._training, ", compiled") if self._compiled else {}

    def fast_updates(self) -> Works:
        """As train.compile and train.cuda_graph ask for, each alone and together."""
        works: Works = {}
        if self._compiled:
            works |= self._updates(replace(self._training, cuda_graph=False), ", compiled")
        if self._training.cuda_graph:
            works |= self._updates(replace(self._eager, cuda_graph=True), ", graph")
        if self._compiled and self._training.cuda_graph:
            works |= self._updates(self._training, ", compiled, graph")
        return works

    def let_go(self) -> None:
        """Of the records handed over so far. Waits for the device."""
        self._records.let_go()

    def _network(self, training: Training, suffix: str) -> Works:
        forward = partial(training.outputs_and_loss, self._images, self._labels)

        def both() -> None:
            training.optimizer.zero_grad()
            _, loss = forward()
            loss.backward()  # type: ignore[no-untyped-call]

        return {
            f"forward{suffix}": lambda: Work(forward),
            f"backward{suffix}": lambda: Work(both, less=forward),
        }

    def _law_step(self) -> Work:
        inputs = self._measure.gradients().inputs
        rates = self._training.learning_rates

        def call() -> None:
            self._laws.prepare(rates[next(self._steps)], first=False)
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


class _Unrecorded(Tracker):
    def due(self, step: int) -> bool:
        return False


class _Records:
    """Takes records as a writer does, and keeps them: rows would be made beside what is timed."""

    def __init__(self) -> None:
        self._kept: list[Record] = []

    def put(self, table: str, record: Record) -> None:
        self._kept.append(record)

    def let_go(self) -> None:
        for record in self._kept:
            record()
        self._kept.clear()

"""Reads off an optimiser how it moves each group of a network, update by update."""

import copy
import dataclasses
import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from symrun.laws import SGD, Law, ObservedUpdate, Oscillator, Rule, laws_of_sgd
from symrun.laws.baseline import DecayAlone, SteadyForcing
from symrun.symmetry import Group
from symrun.tracking.momentum import Momentum
from symrun.tracking.parts import Part


class Settings(NamedTuple):
    """Those of a group of parameters that laws depend on; 0 where an optimiser has none."""

    lr: float
    weight_decay: float
    momentum: float
    dampening: float
    nesterov: bool
    maximize: bool

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> "Settings":
        """As they stand now. A learning rate in a GPU's memory is waited for."""
        numbers = ("lr", "weight_decay", "momentum", "dampening")
        lr, weight_decay, momentum, dampening = (float(group.get(name) or 0.0) for name in numbers)
        nesterov, maximize = (bool(group.get(name, False)) for name in ("nesterov", "maximize"))
        return cls(lr, weight_decay, momentum, dampening, nesterov, maximize)

    def differences(self, other: "Settings") -> list[str]:
        """Such as "weight_decay 0.0005 and 0"."""
        pairs = zip(self._fields, self, other, strict=True)
        return [f"{name} {one:g} and {two:g}" for name, one, two in pairs if one != two]


class FollowedOptimizer:
    """A Movement that is what the optimiser's own settings say, as they stand at each update.

    Units all of whose parameters `torch.optim.SGD` moves with the same settings have its laws. The
    update of all others is observed, for a reason that `reasons` holds: then `exact` is an identity
    and no law predicts. A group that was observed once is observed from then on.

    declared: the settings of an optimiser of the user's own that is SGD by another name. The laws
    of SGD are used then, whatever the optimiser does.

    reasons: of each group; None for one that laws predict. incomplete: the groups some of whose
    parameters have no gradient of their update, or are not in the optimiser.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        groups: Sequence[Group],
        declared: SGD | None = None,
    ) -> None:
        self._optimizer, self.groups, self._declared = optimizer, groups, declared
        self._parameters = dict(model.named_parameters())
        step, of_sgd = (inspect.unwrap(one.step) for one in (type(optimizer), torch.optim.SGD))
        self._is_sgd = declared is not None or step is of_sgd
        self._decays_alone = decays_alone(optimizer)
        self.reasons: list[str | None] = [None] * len(groups)
        self.incomplete: set[int] = set()
        self.divide()

    def divide(self) -> None:
        """Settle the parts anew, from the optimiser as it is."""
        self._before = self._settings = self._read()
        self._members = [len(group["params"]) for group in self._optimizer.param_groups]
        place = {
            parameter: number
            for number, group in enumerate(self._optimizer.param_groups)
            for parameter in group["params"]
        }
        self._used: list[list[int]] = []
        """Of each part, the optimiser's groups of parameters that move it."""
        divided: dict[tuple[bool, int | None], list[int]] = {}
        used: dict[tuple[bool, int | None], set[int]] = defaultdict(set)
        for number, group in enumerate(self.groups):
            names = [members.parameter for members in group.members]
            self.reasons[number] = self.reasons[number] or self._reason(names, place)
            places = {place.get(self._parameters[name]) for name in names}
            found = [one for one in places if one is not None]
            if len(found) < len(places):
                self.incomplete.add(number)
            alike = len(found) == len(places) and len({self._settings[one] for one in found}) == 1
            observed = self.reasons[number] is not None
            key = observed, min(found) if alike else None
            divided.setdefault(key, []).append(number)
            used[key].update(found)
        self.parts: list[Part] = []
        self._moving: list[int | None] = []
        for (observed, moving), numbers in divided.items():
            momentum = None
            if not observed and moving is not None and self._settings[moving].momentum:
                momentum = Momentum(self._optimizer, moving, self._declared)
            laws = self._laws(observed, moving)
            self.parts.append(Part(tuple(numbers), laws, momentum, observed))
            self._moving.append(moving)
            self._used.append(sorted(used[observed, moving]))
        self._predicted = [
            (name, self._parameters[name], number)
            for number, group in enumerate(self.groups)
            if self.reasons[number] is None
            for name in dict.fromkeys(members.parameter for members in group.members)
        ]

    def rules(self, lr: float | None = None) -> list[Rule]:
        """Of each part, with the optimiser's own learning rates. Units whose parameters have
        different ones get 0."""
        found = []
        for part, moving, used in zip(self.parts, self._moving, self._used, strict=True):
            laws = self._laws(part.observed, moving)
            if moving is None:
                rates = {self._settings[one].lr for one in used}
                found.append(Rule(laws, rates.pop() if len(rates) == 1 else 0.0, first=False))
                continue
            settings, before = self._settings[moving], self._before[moving]
            first = part.momentum is not None and part.momentum.first
            if part.momentum is not None and before.momentum != settings.momentum:
                laws = _after_another(laws, before.momentum)
            found.append(Rule(laws, settings.lr, first))
        return found

    def follow(self, step: int) -> set[str] | None:
        """Read the settings of the next update. Returns None, or that `divide` has to be called:
        the reasons why the laws of some groups do not hold any more."""
        before, self._settings = self._settings, self._read()
        self._before = before if len(before) == len(self._settings) else self._settings
        members = [len(group["params"]) for group in self._optimizer.param_groups]
        ended = {
            number: f"{name} had no gradient at update {step}"
            for name, parameter, number in self._predicted
            if parameter.grad is None
        }
        self.incomplete.update(ended)
        if getattr(self._optimizer, "grad_scale", None) is not None and self._predicted:
            reason = "the gradient is unscaled within the update"
            ended |= {number: reason for _, _, number in self._predicted}
        if before != self._settings:
            for part, used in zip(self.parts, self._used, strict=True):
                changed = None if part.observed else self._changed(part, used)
                if changed is not None:
                    ended |= dict.fromkeys(part.groups, changed)
        for number, reason in ended.items():
            self.reasons[number] = self.reasons[number] or reason
        return set(ended.values()) if ended or members != self._members else None

    @property
    def observed(self) -> list[bool]:
        """Of each group, whether its update is observed."""
        return [reason is not None for reason in self.reasons]

    def observe(self, groups: Sequence[bool]) -> set[str]:
        """Observe as well the groups that another rank observes; then `divide` has to be called.

        Returns the reason, if there was one that this rank did not observe.
        """
        reason = "another rank had no gradient for it, or other settings"
        ended = [n for n, one in enumerate(groups) if one and self.reasons[n] is None]
        for number in ended:
            self.reasons[number] = reason
        self.incomplete.update(ended)
        return {reason} if ended else set()

    def _changed(self, part: Part, used: list[int]) -> str | None:
        """Why one set of laws does not describe a part any more; None if it does."""
        first, *others = (self._settings[one] for one in used)
        for other in others:
            if first != other:
                return f"its parameters have {first.differences(other)[0]} now"
        if first.maximize:
            return "the optimizer maximises now"
        if bool(first.momentum) != (part.momentum is not None):
            return f"the optimizer has momentum {first.momentum:g} now"
        if first.nesterov == ("flow" in part.laws):
            return f"the optimizer has nesterov={first.nesterov} now"
        return None

    def _reason(self, names: Sequence[str], place: Mapping[nn.Parameter, int]) -> str | None:
        if not self._is_sgd:
            name = type(self._optimizer).__name__
            return f"no law predicts {name}: its update is observed"
        found = {}
        for name in names:
            parameter = self._parameters[name]
            if parameter not in place:
                return f"{name} is not in the optimizer"
            if parameter.dtype not in (torch.float32, torch.float64):
                kind = str(parameter.dtype).removeprefix("torch.")
                return f"{name} is {kind}, which rounds most of an update away"
            found[name] = self._settings[place[parameter]]
        first = found[names[0]]
        for name, settings in found.items():
            if settings != first:
                return f"{names[0]} and {name} have {first.differences(settings)[0]}"
        return "the optimizer maximises" if first.maximize else None

    def _laws(self, observed: bool, moving: int | None) -> Mapping[str, Law]:
        settings = None if moving is None else self._settings[moving]
        if not observed:
            assert settings is not None
            return _laws_predicting(settings._replace(lr=0.0))
        decay = settings.weight_decay if settings is not None and self._decays_alone else 0.0
        return _laws_observing(decay)

    def _read(self) -> list[Settings]:
        found = [Settings.of(group) for group in self._optimizer.param_groups]
        if self._declared is None:
            return found
        declared = {**vars(self._declared), "maximize": False}
        return [one._replace(**declared) for one in found]


@lru_cache(1024)
def _laws_predicting(settings: Settings) -> Mapping[str, Law]:
    momentum = settings.momentum
    dampening = settings.dampening if momentum else 0.0
    sgd = SGD(settings.weight_decay, momentum, dampening, settings.nesterov)
    rate = (1 - dampening) / (1 - momentum)
    return {
        **laws_of_sgd(sgd)[0],
        "baseline": DecayAlone(settings.weight_decay, rate),
        "steady": SteadyForcing(settings.weight_decay, rate),
    }


def _after_another(laws: Mapping[str, Law], momentum: float) -> Mapping[str, Law]:
    """The laws of an update, where the one before it had another momentum."""
    flow = laws.get("flow")
    if isinstance(flow, Oscillator):
        return {**laws, "flow": dataclasses.replace(flow, momentum_before=momentum)}
    return laws


@lru_cache(1024)
def _laws_observing(decay: float) -> Mapping[str, Law]:
    return {"exact": ObservedUpdate(decay), "baseline": DecayAlone(decay, stepwise=True)}


def groups_moved_by(
    optimizer: torch.optim.Optimizer, model: nn.Module, groups: Sequence[Group]
) -> tuple[Group, ...]:
    """Those of `groups` of which the optimiser moves a parameter."""
    moved = {id(one) for group in optimizer.param_groups for one in group["params"]}
    parameters = dict(model.named_parameters())
    return tuple(
        group
        for group in groups
        if any(id(parameters[members.parameter]) in moved for members in group.members)
    )


@torch.no_grad()
def decays_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Whether weight decay acts beside the update, as in AdamW: without a gradient it multiplies
    the weights by 1 - eta lambda at each of three updates.

    Tried on one number, with a copy of the optimiser that shares nothing which an update changes;
    one that cannot be copied so does not.
    """
    given = optimizer.param_groups[0]
    if "weight_decay" not in given or "lr" not in given or isinstance(optimizer, torch.optim.SGD):
        return False
    number = torch.ones(1, 1, dtype=torch.float64)  # a matrix, which some optimisers ask for
    number.requires_grad_()
    try:
        trial = object.__new__(type(optimizer))
        for name, value in vars(optimizer).items():
            shared = isinstance(value, dict | list | set)
            setattr(trial, name, copy.copy(value) if shared else value)
        trial.state = defaultdict(dict)
        settings = {**given, "params": [number], "lr": 0.125, "weight_decay": 0.25}
        trial.param_groups = [{**settings, "fused": False, "capturable": False}]
        trial._optimizer_step_pre_hooks = OrderedDict()
        trial._optimizer_step_post_hooks = OrderedDict()
        expected = 1.0
        for _ in range(3):
            number.grad = torch.zeros_like(number)
            type(optimizer).step(trial)
            expected *= 1 - 0.125 * 0.25
            if abs(float(number) - expected) > 1e-12:
                return False
    except Exception:  # an optimiser of the user's can raise anything
        return False
    return True

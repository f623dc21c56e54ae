"""What run.json says of a run in a loop of the user's own."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import torch
from torch import nn

from symrun.attached.subject import name_of
from symrun.config import Precision
from symrun.laws import kinds_of_sgd
from symrun.runs.info import RunInfo, Status
from symrun.runs.network import GroupInfo, LayerInfo, ModelInfo
from symrun.runs.settings import RecordedConfig
from symrun.runs.tables import BASELINE, UPDATE
from symrun.symmetry import Structure
from symrun.tracking.followed import FollowedOptimizer, Settings
from symrun.training.provenance import describe_machine

OWN_LOOP = "tracked in a loop of one's own"


def describe(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    structure: Structure,
    followed: FollowedOptimizer,
    columns: Sequence[str],
    settings: dict[str, object],
) -> RunInfo:
    """The content of run.json at the first update. settings: of `track` itself."""
    weights = next(model.parameters())
    title = name_of(model)
    first = Settings.of(optimizer.param_groups[0])
    own = {
        "name": "own",
        "title": type(optimizer).__name__,
        "lr": first.lr,
        "weight_decay": first.weight_decay,
        "momentum": first.momentum,
    }
    return RunInfo(
        status=Status.running,
        created=datetime.now().astimezone().isoformat(),
        last_step=0,
        config=RecordedConfig.of({"optim": own, **settings}),
        **describe_machine(weights.device),
        precision=_precision(weights),
        model=ModelInfo(title, title, title, parameters=sum(p.numel() for p in model.parameters())),
        layers=tuple(LayerInfo(layer.name, layer.kind, layer.block) for layer in structure.layers),
        groups=describe_groups(structure, followed),
        unpredicted=unpredicted(followed),
        loop=OWN_LOOP,
        columns=tuple(columns),
    )


def describe_groups(structure: Structure, followed: FollowedOptimizer) -> tuple[GroupInfo, ...]:
    """Each with the reason why no law predicts it, where that is not the whole run's."""
    whole = bool(unpredicted(followed).get("discrete"))
    return tuple(
        GroupInfo.of(group, None if whole else reason)
        for group, reason in zip(structure.groups, followed.reasons, strict=True)
    )


def unpredicted(followed: FollowedOptimizer) -> dict[str, str]:
    """The laws that predict no group, each with the reason."""
    kinds = kinds_of_sgd(momentum=False)
    predictions = [name for name, kind in kinds.items() if not kind.identity]
    if all(followed.reasons):
        ((reason, _),) = Counter(one for one in followed.reasons if one).most_common(1)
        return dict.fromkeys(predictions, reason)
    silent: dict[str, str] = {}
    for part in followed.parts:
        if not part.observed and "flow" not in part.laws:
            silent["flow"] = "the paper's oscillator does not describe Nesterov's look-ahead"
    return silent


def columns_of(followed: FollowedOptimizer) -> tuple[str, ...]:
    """The columns that not every run records."""
    observed = any(part.observed for part in followed.parts)
    return (*(UPDATE if observed else ()), *BASELINE)


def _precision(weights: nn.Parameter) -> Precision:
    """Of products of the weights, as far as their type and torch's settings tell."""
    if weights.dtype is torch.float64:
        return Precision.float64
    if weights.dtype is torch.bfloat16:
        return Precision.bf16
    tf32 = weights.is_cuda and torch.backends.cudnn.allow_tf32
    return Precision.tf32 if tf32 else Precision.float32

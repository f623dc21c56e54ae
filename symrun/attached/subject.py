"""The network of a loop of the user's own: within its wrappers, and what it conserves."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from symrun.errors import UsageError
from symrun.symmetry import Structure, find_structure
from symrun.symmetry.homogeneity import find_homogeneity
from symrun.symmetry.matrices import find_matrices, with_off_diagonal
from symrun.symmetry.proof import prove
from symrun.symmetry.search import cross_entropy
from symrun.symmetry.stand_ins import Criterion, all_tensors, each_tensor, first_line
from symrun.tasks import output_of
from symrun.training.setup import proven

_LOG = logging.getLogger(__name__)
_PROVEN_ON = 4
"""Examples on which symmetries are proven, where the batch can be cut."""
_LOOKED_FOR_ON, _NUMBERS = 16, 2**16
"""Examples on which matrices are looked for at most, and numbers in these: a branch may first act
at the fifth."""

Loss = Callable[..., Tensor]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that DataParallel, DistributedDataParallel or torch.compile was given.

    Error: UsageError for FullyShardedDataParallel, whose parameters have no rows.
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            break
    if any(isinstance(one, _fsdp("FullyShardedDataParallel")) for one in model.modules()):
        raise UsageError(
            "FullyShardedDataParallel flattens parameters, so that no unit is left in them: use "
            "torch.distributed.fsdp.fully_shard"
        )
    reshard(model)
    return model


def reshard(model: nn.Module) -> None:
    """Let go of what fully_shard left gathered after a pass, so that parameters are shards."""
    for module in model.modules():
        if isinstance(module, _fsdp("FSDPModule")):
            module.reshard()


def name_of(model: nn.Module) -> str:
    """Of its class, before fully_shard made another of it."""
    kind = type(model)
    return (kind.__bases__[1] if isinstance(model, _fsdp("FSDPModule")) else kind).__name__


def _fsdp(name: str) -> Any:
    """That class of torch.distributed.fsdp; where nobody imported it, what nothing is."""
    return getattr(sys.modules.get("torch.distributed.fsdp"), name, ())


def require_of(structure: Structure, model: nn.Module) -> None:
    """Error: UsageError if `structure` is not that of `model`."""
    sizes = {name: one.numel() for name, one in model.named_parameters(remove_duplicate=False)}
    needed = {
        f"{layer.name}.weight": sizes.get(f"{layer.name}.weight") for layer in structure.layers
    }
    needed |= {
        members.parameter: len(members.units) * members.length
        for group in structure.groups
        for members in group.members
    }
    for name, size in needed.items():
        if sizes.get(name) != size:
            has = f"one of {sizes[name]}" if name in sizes else "none of this name"
            raise UsageError(
                f"structure has a parameter {name} of {size} numbers, and the model {has}: it must "
                "be that of this model, within the wrappers that its layers have now"
            )


def proven_structure(
    model: nn.Module,
    example_input: Any,
    loss: Loss | None,
    target: Any,
    homogeneity: bool,
    matrices: bool,
    given: Structure | None = None,
) -> Structure:
    """The layers of `model`, and its symmetry groups that are proven with this loss.

    One that fails the proof is left out, with a warning. homogeneity: whether what scales the
    outputs is asked for. matrices: whether those are that its groups are the diagonals of. given:
    what was found before, to which homogeneity alone is added.
    Error: UsageError if the model or the loss fails on the example, or nothing scales the outputs.
    """
    if not all_tensors(example_input):
        raise UsageError("example_input holds no tensor: give a batch such as the loop's")
    if next(model.parameters(), None) is None:
        raise UsageError(f"{name_of(model)} has no parameters: there is nothing to track")
    if not model.training:
        _LOG.warning("%s is in eval mode: its symmetries are those of eval mode", name_of(model))
    cuts = loss is None or target is not None
    whole = example_input, target
    example_input, target = (_cut(one, _PROVEN_ON) if cuts else one for one in whole)
    criterion = _criterion(loss, target)
    with torch.compiler.set_stance("force_eager"):
        structure = given or find_structure(model, example_input, criterion)
        if homogeneity:
            structure = with_homogeneity(structure, model, example_input)
        device = next(model.parameters()).device
        inputs = _varied_on(device, example_input)
        varies = structure.varies
        known = () if given is None else given.groups
        unproven = [group for group in structure.groups if group not in known]
        proofs = prove(model, unproven, inputs, criterion, varies, output=scored)
        if given is not None:
            proven(structure, proofs)
            return structure
        structure = proven(structure, proofs)
        if matrices:
            more = _examples_of_matrices(whole[0])
            inputs, target = (_cut(one, more) if cuts else one for one in whole)
            inputs, criterion = _varied_on(device, inputs), _criterion(loss, target)
            groups = find_matrices(model, structure.groups, inputs, criterion, varies)
            structure = replace(structure, groups=tuple(groups))
    return structure


def with_entries(structure: Structure, matrices: str, model: nn.Module, given: bool) -> Structure:
    """`structure` with the entries of its matrices that are asked for; a warning if it has none."""
    whole = with_off_diagonal(structure, matrices == "sample")
    if not any(group.pairs for group in whole.groups):
        lacks = "structure holds no matrix: add those of find_matrices, or leave structure out"
        lacks = lacks if given else f"{name_of(model)} has no matrix"
        _LOG.warning("matrices=%s has no effect: %s", matrices, lacks)
    return whole


def with_homogeneity(structure: Structure, model: nn.Module, example_input: Any) -> Structure:
    """`structure` with a group of what scales the outputs. Error: UsageError if nothing does."""
    if structure.balanced is not None:
        return structure
    group = find_homogeneity(model, example_input, scored)
    if group is None:
        unscaled = f"no exponents of the parameters scale all outputs of {name_of(model)}"
        raise UsageError(f"homogeneity must be False here: {unscaled}")
    groups = sorted((*structure.groups, group), key=lambda one: bool(one.pairs))
    return replace(structure, groups=tuple(groups))


def scored(returned: Any) -> Tensor:
    """The outputs whose scale counts, among what a model of the user's own returns."""
    return output_of(returned, None)


def _beside(outputs: Any, target: Any) -> Any:
    """`target` on the device of the outputs, and its floats in their precision."""
    (first, *_) = all_tensors(outputs)

    def fitting(tensor: Tensor) -> Tensor:
        floats = tensor.is_floating_point() and first.is_floating_point()
        return tensor.to(first.device, first.dtype if floats else tensor.dtype)

    return each_tensor(target, fitting)


def _criterion(loss: Loss | None, target: Any) -> Criterion:
    """The user's loss, or the cross entropy."""

    def criterion(outputs: Any) -> Tensor:
        try:
            if loss is None:
                return cross_entropy(output_of(outputs, None))
            return loss(outputs) if target is None else loss(outputs, _beside(outputs, target))
        except Exception as error:
            remedy = "`loss` takes what the model returns, and with `target` that too"
            kind = type(outputs).__name__
            reason = f"the loss fails on the {kind} that it returns: {first_line(error)}: {remedy}"
            raise RuntimeError(reason) from None

    return criterion


def _cut(values: Any, count: int) -> Any:
    """The first `count` examples of a batch."""
    return each_tensor(values, lambda one: one[:count] if one.dim() else one)


def _examples_of_matrices(inputs: Any) -> int:
    """On how many examples matrices are looked for: more where these are small and floats."""
    tensors = [one for one in all_tensors(inputs) if one.dim()]
    if not all(one.is_floating_point() for one in tensors):
        return _PROVEN_ON
    numbers = sum(one[:1].numel() for one in tensors)
    return min(max(_NUMBERS // max(numbers, 1), _PROVEN_ON), _LOOKED_FOR_ON)


def _varied_on(device: torch.device, inputs: Any) -> Any:
    return each_tensor(inputs, lambda one: _varied(one).to(device))


def _varied(tensor: Tensor) -> Tensor:
    """`tensor`, or random numbers if it is floats that are all the same."""
    if not tensor.is_floating_point() or bool((tensor != tensor.flatten()[:1]).any()):
        return tensor.detach()
    draws = torch.Generator().manual_seed(0)
    return torch.randn(tensor.shape, generator=draws, dtype=tensor.dtype)

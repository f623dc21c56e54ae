"""Exponents with which the parameters scale so that all outputs of a network scale alike.

Where theta_p' = e^{s a_p} theta_p for each parameter p makes e^{s h} f(theta) of the outputs f, the
gradient of any loss of them obeys

    B(theta, g) = sum of a_p <theta_p, g_p> = h S,    S = sum of z dL/dz over the outputs z

The norm Q = B(theta, theta) is then not conserved but balanced: gradient flow has Q' = -2 h S, and
S is known from the outputs alone.

Source: Euler's theorem; Du et al. 2018 and Lyu and Li 2020 (arXiv 1906.05890) for networks in which
all layers are homogeneous.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from symrun.symmetry.exponents import Block, Exponents
from symrun.symmetry.groups import Group, Members, Symmetry
from symrun.symmetry.linear_system import (
    Combination,
    LinearSystem,
    common_denominator,
    substituted,
)
from symrun.symmetry.parameters import Transformed, in_forward_order
from symrun.symmetry.search import follow, passes_differ, without_data
from symrun.symmetry.trace import Trace

NAME = "outputs"
"""Of the group: there is one in a network."""


def find_homogeneity(
    model: nn.Module,
    example_input: Any,
    output: Callable[[Any], Tensor] = lambda returned: returned,
) -> Group | None:
    """The exponents of the parameters that scale the outputs of `model`; None if none do.

    One exponent for each parameter, 1 where it can be, and none negative; a layer's bias in a
    network with biases has as many as there are layers up to it. What has no part in it is left
    out, such as all that stands in front of a normalisation.

    example_input: as in `find_structure`. output: the tensor that is scored, among what the model
    returns.
    Error: UsageError if the model fails on the example.
    Example:
        group = find_homogeneity(model, torch.zeros(2, 3, 32, 32))
        {members.parameter: members.sign for members in group.members}
    """
    return without_data(
        model, example_input, lambda example, device: _found(model, example, output, device)
    )


def _found(
    model: nn.Module, example: Any, output: Callable[[Any], Tensor], device: torch.device | str
) -> Group | None:
    exponents = Exponents()
    common = exponents.system.fresh(1)

    def end(trace: Trace, returned: Any) -> Tensor:
        outputs = output(returned)
        scale = trace.state_of(outputs).scale
        exponents.system.equate(exponents.total(scale, outputs.shape), common)
        return outputs

    varies = passes_differ(model, example, lambda returned: output(returned).sum())
    parameters, _ = follow(model, example, exponents, _with_one_exponent, end, device, varies)
    used = in_forward_order(parameters.values())
    solution = exponents.system.solution()
    of_parameters = [solution[int(one.scales[0].variables)] for one in used]
    found = _chosen(of_parameters, solution[int(common)])
    if found is None:
        return None
    members = tuple(
        Members(one.name, 0, (0,) * prod(one.shape[:1]), prod(one.shape[1:]), exponent)
        for one, exponent in zip(used, found[:-1], strict=True)
        if exponent
    )
    layers = dict.fromkeys(one.parameter.rpartition(".")[0] or one.parameter for one in members)
    return Group(Symmetry.homogeneity, NAME, tuple(layers), members, outputs=found[-1])


def _with_one_exponent(name: str, tensor: Tensor, order: int, system: LinearSystem) -> Transformed:
    """A parameter that is scaled as a whole, and not shifted."""
    shape = tuple(tensor.shape)
    block = Block(system.fresh(1).view([1] * len(shape)), ())
    return Transformed(name, shape, order, [block], [])


def _chosen(exponents: Sequence[Combination], outputs: Combination) -> list[int] | None:
    """A number for each exponent and, at the end, for that of the outputs, which is > 0; None if
    there are none.

    Of exponents that have something to do with the outputs, each is set to 1 in turn, or else to 0,
    where that leaves some for the outputs and makes none negative.
    """
    every = [*exponents, outputs]
    connected = _connected(every, outputs)
    fixed = _forced(every)
    for exponent in exponents:
        if not connected & exponent.keys():
            continue
        for value in (Fraction(1), Fraction(0)):
            more = _with(fixed, exponent, value)
            if more is None:
                continue
            now = [substituted(one, more) for one in every if connected & one.keys()]
            known = [one.get(_ONE, Fraction(0)) for one in now if not one.keys() - {_ONE}]
            last = substituted(outputs, more)
            if min(known, default=Fraction(0)) >= 0 and (last.keys() - {_ONE} or last):
                fixed = more
                break
    numbers = [
        substituted(one, fixed).get(_ONE, Fraction(0)) if connected & one.keys() else Fraction(0)
        for one in every
    ]
    if not connected or min(numbers) < 0 or not numbers[-1]:
        return None
    factor = common_denominator(numbers)
    return [int(number * factor) for number in numbers]


_ONE = 0
"""The variable that stands for the constant 1 in what `_with` returns."""


def _connected(every: Iterable[Combination], outputs: Combination) -> set[int]:
    """The free variables that share an exponent with those of the outputs, directly or not."""
    found, before = set(outputs), set[int]()
    while found != before:
        before = set(found)
        found |= {free for one in every if found & one.keys() for free in one}
    return found


def _forced(every: Sequence[Combination]) -> dict[int, Combination]:
    """The free variables that are zero if no exponent is negative, as those of queries and keys
    are, which must cancel."""
    fixed: dict[int, Combination] = {}
    while True:
        now = [one for one in (substituted(one, fixed) for one in every) if one]
        positive = {free for one in now if len(one) == 1 and max(one.values()) > 0 for free in one}
        zero = {
            free for one in now if one.keys() <= positive and max(one.values()) < 0 for free in one
        }
        if not zero:
            return fixed
        fixed |= {free: {} for free in zero}


def _with(
    fixed: dict[int, Combination], exponent: Combination, value: Fraction
) -> dict[int, Combination] | None:
    """`fixed`, which expresses variables by others and by a constant, where `exponent` is `value`
    as well; None if that cannot be."""
    rest = substituted(exponent, fixed)
    rest[_ONE] = rest.get(_ONE, Fraction(0)) - value
    free = next((variable for variable, c in rest.items() if variable != _ONE and c), None)
    if free is None:
        return None if rest[_ONE] else fixed
    c = rest.pop(free)
    more = {free: {variable: -other / c for variable, other in rest.items()}}
    return {variable: substituted(one, more) for variable, one in fixed.items()} | more

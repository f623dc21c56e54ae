"""What operations do to exponents that move entries or act on each entry by itself."""

from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from symrun.symmetry.exponents import State, Term
from symrun.symmetry.linear_system import WILDCARD, compact
from symrun.symmetry.trace import Operation, rule

EPS = 1e-3
"""A constant of at most this size that is added to a magnitude, or bounds it from below, keeps a
division safe and is not meant to be felt: it breaks a symmetry no more than BatchNorm's eps does."""


@rule("clone", "alias", "detach", "_to_copy", "lift_fresh", "contiguous", "positive")
def _same(op: Operation) -> State:
    return op.state("self")


@rule("t", "permute", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze", "roll",
      "flip", "unfold", "repeat", "split", "split_with_sizes", "unbind", "movedim", "narrow",
      "diagonal", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "repeat_interleave",
      "chunk", "tile", "swapaxes", "unsafe_split", "unsafe_chunk", "rot90", "squeeze_copy",
      "tril", "triu")  # fmt: skip
def _moving(op: Operation) -> Any:
    """The variables move as the entries do."""
    rest = {name: value for name, value in op.arguments.items() if name != "self"}

    function = getattr(torch.ops.aten, op.name) if op.in_place else op.function

    def moved(variables: Tensor) -> Any:
        return variables if op.name in ("tril", "triu") else function(variables, **rest)

    state = op.state("self")
    if not isinstance(op.output, (tuple, list)):
        name = state.parameter if op.name in ("t", "transpose") else None
        return State(
            tuple(term.moved(moved) for term in state.scale),
            tuple(term.moved(moved) for term in state.shift),
            name,
        )
    scales = [[term.moved(lambda v, n=n: moved(v)[n]) for term in state.scale]
              for n in range(len(op.output))]  # fmt: skip
    shifts = [[term.moved(lambda v, n=n: moved(v)[n]) for term in state.shift]
              for n in range(len(op.output))]  # fmt: skip
    return [State(tuple(a), tuple(b)) for a, b in zip(scales, shifts, strict=True)]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "flatten", "unflatten")
def _reshaped(op: Operation) -> State:
    """A shift keeps its pattern only where no axis along which m may vary is merged into it."""
    state, shape = op.state("self"), op.shape

    def spread(variables: Tensor) -> int:
        return compact(variables).numel()

    shifts = []
    for term in state.shift:
        moved = term.moved(lambda variables: variables.reshape(shape))
        if term.uniform or spread(term.variables) == spread(moved.variables):
            shifts.append(moved)
        else:
            op.exponents.pin(State(shift=(term,)))
    scales = tuple(term.moved(lambda variables: variables.reshape(shape)) for term in state.scale)
    return State(scales, tuple(shifts))


@rule("cat", "stack", "concat")
def _joined(op: Operation) -> State:
    tensors, axis = op["tensors"], op["dim"]
    axis = axis % (tensors[0].dim() + (op.name == "stack"))
    states = op.states("tensors")
    join = torch.cat if op.name != "stack" else torch.stack
    kept = [(t, s) for t, s in zip(tensors, states, strict=True) if t.shape != (0,)]

    def placed(number: int, variables: Tensor) -> Tensor:
        parts = [
            variables if n == number else torch.zeros((), dtype=torch.int64).expand(tensor.shape)
            for n, (tensor, _) in enumerate(kept)
        ]
        return join(parts, axis)

    totals = [op.exponents.total(s.scale, t.shape) for t, s in kept]
    sizes = list(torch.broadcast_shapes(*([*t.shape[:axis], 1, *t.shape[axis + 1 :]]
                 if op.name != "stack" else t.shape for t in totals)))  # fmt: skip
    spread = [total.expand([t.shape[a] if a == axis and op.name != "stack" else size
              for a, size in enumerate(sizes)])
              for (t, _), total in zip(kept, totals, strict=True)]  # fmt: skip
    scale = Term(join(spread, axis).expand(op.shape))
    shift = [
        term.moved(lambda v, n=number: placed(n, v))
        for number, (_, state) in enumerate(kept)
        for term in state.shift
    ]
    return State((scale,), tuple(shift))


@rule("constant_pad_nd")
def _padded(op: Operation) -> State:
    """Zeros and infinities have any exponent, other numbers have none."""
    state, shape = op.state("self"), op.shape
    if op["value"] not in (0, inf, -inf):
        op.exponents.pin(state)
        return State()
    op.exponents.pin(state, scale=False)
    old = op["self"].shape

    def padded(variables: Tensor) -> Tensor:
        narrow = compact(variables)
        pads = []
        for axis in reversed(range(len(shape))):
            number = len(shape) - 1 - axis
            pair = op["pad"][2 * number : 2 * number + 2] or [0, 0]
            pads += list(pair) if narrow.shape[axis] > 1 or old[axis] == 0 else [0, 0]
        found = torch.nn.functional.pad(narrow, pads, value=WILDCARD)
        return found.expand(shape)

    return State(tuple(term.moved(padded) for term in state.scale))


@rule("zeros_like", "zeros", "new_zeros", "zero")
def _zeros(op: Operation) -> State:
    variables = torch.full((), WILDCARD, dtype=torch.int64)
    return State((Term(variables.expand(op.shape)),))


@rule("fill", "bernoulli", "empty_like", "new_empty", "ones_like", "rand_like", "randn_like",
      "new_ones", "full_like", "new_full", "uniform", "normal", "ones", "random",
      "sym_size", "sign", "sgn")  # fmt: skip
def _new(op: Operation) -> State:
    """New entries, which no transformation changes."""
    return State()


@rule("copy")
def _copied(op: Operation) -> State:
    state = op.state("src")
    return State(
        tuple(term.to(op.shape) for term in state.scale),
        tuple(term.to(op.shape) for term in state.shift),
    )


@rule("gt", "lt", "ge", "le", "eq", "ne", "logical_not", "isnan", "isinf")
def _compared(op: Operation) -> State:
    """With zero, nothing changes under a positive factor."""
    if "Scalar" in op.function._overloadname and op["other"] == 0:
        op.exponents.pin(op.state("self"), scale=False)
    else:
        op.exponents.pin(*op.read())
    return State()


@rule("relu", "abs", "leaky_relu", "rrelu_with_noise", "rrelu_with_noise_functional",
      "_prelu_kernel", "prelu")  # fmt: skip
def _homogeneous(op: Operation) -> State:
    """f(c x) = c f(x) for c > 0."""
    state = op.state("self")
    op.exponents.pin(state, scale=False)
    op.exponents.pin(op.state("weight"))
    return State(state.scale)


@rule("hardtanh", "clamp", "clamp_min", "clamp_max", "threshold")
def _clamped(op: Operation) -> State:
    """Homogeneous if it bounds by zero alone, or keeps a division safe."""
    state = op.state("self")
    below, above = (
        next((op.arguments[name] for name in names if op.arguments.get(name) is not None), None)
        for names in (("min", "min_val", "threshold"), ("max", "max_val"))
    )
    if any(isinstance(bound, Tensor) for bound in (below, above)):
        op.exponents.pin(*op.read())
        return State()
    same_value = op.arguments.get("value", 0) == 0
    bounds = [bound for bound in (below, above) if bound is not None and abs(bound) != inf]
    homogeneous = same_value and (
        all(bound == 0 for bound in bounds) or (above is None and 0 < bounds[0] <= EPS)
    )
    op.exponents.pin(state, scale=not homogeneous)
    return State(state.scale) if homogeneous else State()


@rule("neg")
def _negated(op: Operation) -> State:
    return replace(op.state("self"), parameter=None)


@rule("dropout", "native_dropout", "feature_dropout")
def _dropped(op: Operation) -> Any:
    state = op.state("input")
    op.exponents.pin(state, scale=False)
    return [State(state.scale), State()]


@rule("add", "sub", "rsub", "lerp")
def _added(op: Operation) -> State:
    """Both have the same exponents. Shifts add up, each with a number of its own."""
    one, other = op.state("self"), op.arguments.get("other", op.arguments.get("end"))
    if not isinstance(other, Tensor):
        if other != 0 and not (op.name == "add" and 0 < other <= EPS):
            op.exponents.pin(one, shift=False)
            return State(shift=one.shift)
        return State(one.scale, one.shift)
    two = op.state("other" if "other" in op.arguments else "end")
    shape = op.shape
    shifts = tuple(term.to(shape) for term in (*one.shift, *two.shift))
    if op.name == "lerp":
        op.exponents.pin(op.state("weight"))
    if not one.scale and not two.scale:
        return State(shift=shifts)
    for value, state in ((op["self"], one), (other, two)):
        if value.dim() == 0 and not state.scale and not value.requires_grad:
            op.exponents.pin(one, two, shift=False)  # a number
            return State(shift=shifts)
    return State(op.exponents.equated(one.scale, two.scale, shape), shifts)


@rule("maximum", "minimum", "where")
def _chosen(op: Operation) -> State:
    """Both have the same exponents."""
    names = ("self", "other")
    one, two = (op.state(name) for name in names)
    op.exponents.pin(one, two, op.state("condition"), scale=False)
    op.exponents.pin(op.state("condition"))
    for name, state in zip(names, (one, two), strict=True):
        value = op.arguments.get(name)
        if not isinstance(value, Tensor) or (value.dim() == 0 and not state.scale):
            op.exponents.pin(one, two)
            return State()
    return State(op.exponents.equated(one.scale, two.scale, op.shape))


@rule("masked_fill")
def _masked(op: Operation) -> State:
    state, value = op.state("self"), op["value"]
    op.exponents.pin(state, scale=isinstance(value, Tensor) or value not in (0, inf, -inf))
    return State(state.scale) if not isinstance(value, Tensor) else State()


@rule("mul", "div", "true_divide")
def _multiplied(op: Operation) -> State:
    """Exponents add up. A shift survives a factor that is the same all along its pattern."""
    one, other = op.state("self"), op["other"]
    if not isinstance(other, Tensor):
        return State(one.scale, one.shift)
    if op.arguments.get("rounding_mode") is not None:
        op.exponents.pin(*op.read())
        return State()
    two, shape, system = op.state("other"), op.shape, op.exponents.system
    second = [term.to(shape) for term in two.scale]
    if op.name != "mul":
        op.exponents.pin(two, scale=False)
        second = [Term(system.multiple(t.variables, -1).expand(shape)) for t in second]
        shifts = _kept(op, one, other)
    else:
        shifts = (*_kept(op, one, other), *_kept(op, two, op["self"]))
    first = [term.to(shape) for term in one.scale]
    return State(op.exponents.merged([*first, *second], shape), shifts)


def _kept(op: Operation, state: State, factor: Tensor) -> tuple[Term, ...]:
    kept, shape = [], op.shape
    sizes = (1,) * (len(shape) - factor.dim()) + tuple(factor.shape)
    for term in state.shift:
        spread = term.to(shape)
        if all(sizes[axis] == 1 for axis in spread.varies):
            kept.append(replace(spread, uniform=spread.uniform and factor.dim() == 0))
        else:
            op.exponents.pin(State(shift=(term,)))
    return tuple(kept)


@rule("sqrt", "rsqrt", "reciprocal", "square", "pow")
def _power(op: Operation) -> State:
    """x^k multiplies exponents by k; a root asks for the exponents of what it gives."""
    state, system = op.state("self"), op.exponents.system
    op.exponents.pin(state, scale=False)
    exponent = op.arguments.get("exponent")
    powers = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1, "square": 2, "pow": exponent}
    power = powers[op.name]
    if isinstance(power, Tensor) or not isinstance(op.arguments["self"], Tensor):
        op.exponents.pin(*op.read())
        return State()
    if float(power).is_integer():
        return State(_multiples(op, state, int(power)))
    if float(2 * power).is_integer():
        return State(tuple(
            replace(term, variables=_half(op, term.variables, int(2 * power)), block=None)
            for term in state.scale
        ))  # fmt: skip
    op.exponents.pin(state)
    return State()


def _multiples(op: Operation, state: State, factor: int) -> tuple[Term, ...]:
    if factor == 0:
        op.exponents.pin(state)
        return ()
    system = op.exponents.system
    return tuple(
        Term(system.multiple(term.variables, factor).expand(op.shape)) for term in state.scale
    )


def _half(op: Operation, variables: Tensor, factor: int) -> Tensor:
    """New variables h with 2 h = factor * variables."""
    system = op.exponents.system
    narrow = compact(variables)
    distinct, back = torch.unique(narrow.reshape(-1), return_inverse=True)
    halves = torch.where(distinct > 0, system.fresh(len(distinct)), distinct)
    system.equate(system.multiple(halves, 2), system.multiple(distinct, factor))
    return halves[back].view(narrow.shape).expand(variables.shape)

"""What operations do to exponents that move entries or act on each entry by itself."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from symrun.symmetry.exponents import State, Term
from symrun.symmetry.guards import guard_of
from symrun.symmetry.linear_system import WILDCARD, LinearSystem, compact
from symrun.symmetry.trace import Operation, rule


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

    def part(number: int) -> Callable[[Tensor], Tensor]:
        return lambda variables: moved(variables)[number]

    state = op.state("self")
    if isinstance(op.output, (tuple, list)):
        return [state.moved(part(number)) for number in range(len(op.output))]
    name = state.parameter if op.name in ("t", "transpose") else None
    return replace(state.moved(moved), parameter=name)


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
    """Each part keeps its exponents. A shift of one part is none of the others."""
    tensors, states = op["tensors"], op.states("tensors")
    if op.name == "stack":
        axis = op["dim"] % (tensors[0].dim() + 1)
        shapes = [[*t.shape[:axis], 1, *t.shape[axis:]] for t in tensors]
        states = [state.moved(lambda v: v.unsqueeze(axis)) for state in states]
    else:
        axis = op["dim"] % max(tensor.dim() for tensor in tensors)
        shapes = [list(tensor.shape) for tensor in tensors]
    kept = [(shape, state) for shape, state in zip(shapes, states, strict=True) if 0 not in shape]

    def joined(parts: list[Tensor]) -> Term:
        """Parts of size 1 where nothing varies."""
        sizes = [max(part.shape[one] for part in parts) for one in range(len(op.shape))]
        spread = [
            part.expand([*sizes[:axis], shape[axis], *sizes[axis + 1 :]])
            for part, (shape, _) in zip(parts, kept, strict=True)
        ]
        return Term(torch.cat(spread, axis).expand(op.shape))

    def alone(number: int, term: Term) -> Term:
        none = torch.zeros([1] * len(op.shape), dtype=torch.int64)
        parts = [compact(term.variables) if n == number else none for n in range(len(kept))]
        return joined(parts)

    scale = joined([op.exponents.total(state.scale, shape) for shape, state in kept])
    shifts = [alone(n, term) for n, (_, state) in enumerate(kept) for term in state.shift]
    return State((scale,), tuple(shifts))


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
    names = ("min", "min_val", "threshold", "max", "max_val")
    bounds = [op[name] for name in names if op.arguments.get(name) is not None]
    if any(isinstance(bound, Tensor) for bound in bounds):
        op.exponents.pin(*op.read())
        return State()
    finite = [bound for bound in bounds if abs(bound) != inf]
    guards = guard_of(op.name, op.arguments) is not None
    homogeneous = guards or not any([*finite, op.arguments.get("value", 0)])
    op.exponents.pin(state, scale=not homogeneous)
    return State(state.scale, guarded=guards) if homogeneous else State()


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
    name = "end" if op.name == "lerp" else "other"
    one, other = op.state("self"), op[name]
    if not isinstance(other, Tensor):
        guards = guard_of(op.name, op.arguments) is not None
        if other != 0 and not guards:
            op.exponents.pin(one, shift=False)
            return State(shift=one.shift)
        return State(one.scale, one.shift, guarded=guards and bool(one.scale))
    two, shape = op.state(name), op.shape
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
    """x^k multiplies exponents by k, a whole number or half of one."""
    state = op.state("self")
    op.exponents.pin(state, scale=False)
    powers = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "square": 2.0}
    power = powers[op.name] if op.name in powers else op["exponent"]
    power_is_known = isinstance(op["self"], Tensor) and not isinstance(power, Tensor)
    if not power_is_known or power == 0 or 2 * power % 1:
        op.exponents.pin(*op.read())
        return State()
    system = op.exponents.system

    def multiplied(variables: Tensor) -> Tensor:
        if power % 1:
            return _halves(system, variables, int(2 * power))
        return system.multiple(variables, int(power))

    return State(tuple(Term(multiplied(term.variables).expand(op.shape)) for term in state.scale))


def _halves(system: LinearSystem, variables: Tensor, factor: int) -> Tensor:
    """New variables h with 2 h = factor * variables; compact."""
    narrow = compact(variables)
    distinct, back = torch.unique(narrow.reshape(-1), return_inverse=True)
    halves = torch.where(distinct > 0, system.fresh(len(distinct)), distinct)
    system.equate(system.multiple(halves, 2), system.multiple(distinct, factor))
    return halves[back].view(narrow.shape)

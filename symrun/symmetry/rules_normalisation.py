"""What normalisations do to exponents and shifts: they take away what all that they normalise
has in common."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from symrun.symmetry.exponents import State, Term
from symrun.symmetry.trace import Operation, rule


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional",
      "_batch_norm_with_update", "_batch_norm_with_update_functional", "cudnn_batch_norm",
      "_native_batch_norm_legit_no_training", "batch_norm", "miopen_batch_norm")  # fmt: skip
def _batch_norm(op: Operation) -> Any:
    """With the batch's own statistics, a channel's scale goes; with running ones, none may."""
    x, state = op["input"], op.state("input")
    own = op.arguments.get("training", "no_training" not in op.name)
    op.exponents.pin(state, scale=not own)  # a shift of one channel is that of a bias alone
    axes = [axis for axis in range(x.dim()) if axis != 1]
    op.exponents.constant_along(state.scale, axes, x.shape)
    return [_affine(op, [x.shape[1]], [1, -1, *[1] * (x.dim() - 2)]), *[State()] * 4]


@rule("native_layer_norm", "_fused_rms_norm", "layer_norm", "rms_norm")
def _layer_norm(op: Operation) -> Any:
    x, state, shape = op["input"], op.state("input"), op["normalized_shape"]
    axes = list(range(x.dim() - len(shape), x.dim()))
    op.exponents.constant_along(state.scale, axes, x.shape)
    if "rms" in op.name:
        op.exponents.pin(state, scale=False)
    else:
        absorb(op, state, x.shape, axes)
    return [_affine(op, shape, shape), State(), State()]


@rule("native_group_norm", "group_norm")
def _group_norm(op: Operation) -> Any:
    x, state = op["input"], op.state("input")
    groups = op.arguments.get("group", op.arguments.get("num_groups"))
    folded = [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]]

    def fold(variables: Tensor) -> Tensor:
        return variables.reshape(folded)

    axes = list(range(2, len(folded)))
    op.exponents.constant_along([t.moved(fold) for t in state.scale], axes, folded)
    absorb(op, State(shift=tuple(t.moved(fold) for t in state.shift)), folded, axes)
    return [_affine(op, [x.shape[1]], [1, -1, *[1] * (x.dim() - 2)]), State(), State()]


def _affine(op: Operation, shape: Sequence[int], placed: Sequence[int]) -> State:
    """The exponents of weight and bias behind a normalisation, which must agree."""
    weight, bias = op.state("weight"), op.state("bias")
    has_weight, has_bias = (isinstance(op.arguments.get(n), Tensor) for n in ("weight", "bias"))

    def place(term: Term) -> Term:
        return term.moved(lambda v: v.reshape(list(placed)).expand(op.shape))

    shifts = tuple(place(term) for term in bias.shift) if has_bias else ()
    op.exponents.pin(weight, scale=False)
    if has_weight and has_bias:
        if not weight.scale and not bias.scale:
            return State(shift=shifts)
        scale: tuple[Term, ...] = op.exponents.equated(weight.scale, bias.scale, list(shape))
    elif has_bias:
        op.exponents.pin(bias, shift=False)
        scale = ()
    else:
        scale = weight.scale
    return State(tuple(place(term) for term in scale), shifts)


def absorb(op: Operation, state: State, shape: Sequence[int], axes: Sequence[int]) -> None:
    """The mean along `axes` is subtracted: what is the same along them goes, all else may not be.

    A shift whose m may vary along one of them, because its weights do not, is not the same.
    """
    system = op.exponents.system
    for term in state.shift:
        variables = term.variables.expand(list(shape))
        alike = [a for a in axes if shape[a] > 1 and a not in term.to(shape).varies]
        if alike and not term.uniform:
            op.exponents.pin(State(shift=(term,)))
        else:
            narrow = system.canonical(variables)
            system.equate(narrow, narrow.amax(tuple(axes), keepdim=True))


@rule("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax")
def _softmax(op: Operation) -> State:
    state, tensor = op.state("self"), op["self"]
    op.exponents.pin(state, shift=False)
    absorb(op, state, tensor.shape, [op["dim"] % max(tensor.dim(), 1)])
    return State()


@rule("_weight_norm_interface")
def _weight_norm(op: Operation) -> Any:
    """g v / |v|: the scale of v goes, and g stands for it."""
    v, state, shape = op["v"], op.state("v"), op["v"].shape
    op.exponents.pin(state, op.state("g"), scale=False)
    axes = [axis for axis in range(v.dim()) if axis != op["dim"] % v.dim()]
    op.exponents.constant_along(state.scale, axes, shape)
    return [State(tuple(term.to(shape) for term in op.state("g").scale)), State()]

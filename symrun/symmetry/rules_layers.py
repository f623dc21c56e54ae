"""What operations do to exponents that sum over entries: products, pooling, normalisation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from symrun.symmetry.exponents import State, Term
from symrun.symmetry.trace import Operation, rule


def _aligned(term: Term, axes: str, order: str, sizes: dict[str, int]) -> Term:
    """A term of a tensor with `axes`, as one of a tensor with all axes of `order`."""
    variables = term.variables.permute([axes.index(axis) for axis in order if axis in axes])
    for place, axis in enumerate(order):
        if axis not in axes:
            variables = variables.unsqueeze(place)
    return replace(term, variables=variables.expand([sizes[axis] for axis in order]))


Factor = tuple[State, Sequence[int], str]
"""Of a product: a tensor's state and shape, and a letter for each of its axes."""


def _factor(op: Operation, argument: str, axes: str) -> Factor:
    return op.state(argument), op[argument].shape, axes


def contracted(op: Operation, one: Factor, other: Factor, out: str) -> State:
    """Of a product that sums over the axes that are not in `out`: what varies along them must
    cancel."""
    sizes = {
        axis: size
        for _, shape, axes in (one, other)
        for axis, size in zip(axes, shape, strict=True)
    }
    summed = "".join(axis for axis in sizes if axis not in out)
    order = out + summed
    shape = [sizes[axis] for axis in order]
    terms = [
        _aligned(term, axes, order, sizes)
        for state, _, axes in (one, other)
        for term in state.scale
    ]
    places = range(len(out), len(order))
    kept = op.exponents.constant_along(terms, places, shape) if terms else ()
    scale = tuple(
        replace(t, variables=t.variables.reshape(t.variables.shape[: len(out)])) for t in kept
    )
    shifts = []
    for (state, _, axes), (_, _, others) in ((one, other), (other, one)):
        for term in state.shift:
            spread = _aligned(term, axes, order, sizes)
            if state.parameter is None or any(order[axis] in others for axis in spread.varies):
                op.exponents.pin(State(shift=(term,)))
                continue
            first = spread.variables.flatten(len(out))[..., 0] if summed else spread.variables
            shifts.append(Term(first))
    return State(op.exponents.merged(scale, [sizes[a] for a in out]), tuple(shifts))


_PRODUCTS = {
    "mm": (("self", "mk"), ("mat2", "kn"), "mn"),
    "bmm": (("self", "bmk"), ("mat2", "bkn"), "bmn"),
    "mv": (("self", "mk"), ("vec", "k"), "m"),
    "dot": (("self", "k"), ("tensor", "k"), ""),
    "vdot": (("self", "k"), ("other", "k"), ""),
    "addmm": (("mat1", "mk"), ("mat2", "kn"), "mn"),
    "baddbmm": (("batch1", "bmk"), ("batch2", "bkn"), "bmn"),
}
"""The factors with their axes, and the axes of the output."""


@rule(*_PRODUCTS)
def _product(op: Operation) -> State:
    one, other, out = _PRODUCTS[op.name]
    product = contracted(op, _factor(op, *one), _factor(op, *other), out)
    if op.name not in ("addmm", "baddbmm"):
        return product
    return _with_bias(op, product, op["self"], op.state("self"))


def _with_bias(op: Operation, state: State, bias: Any, bias_state: State) -> State:
    if not isinstance(bias, Tensor):
        return state
    shape = op.shape
    shifts = (*state.shift, *(term.to(shape) for term in bias_state.shift))
    if not state.scale and not bias_state.scale:
        return State(shift=shifts)
    return State(op.exponents.equated(state.scale, bias_state.scale, shape), shifts)


@rule("linear")
def _linear(op: Operation) -> State:
    batch = "abcdefg"[: op["input"].dim() - 1]
    inputs, weight = _factor(op, "input", f"{batch}k"), _factor(op, "weight", "nk")
    product = contracted(op, inputs, weight, f"{batch}n")
    return _with_bias(op, product, op["bias"], op.state("bias"))


@rule("convolution", "_convolution")
def _convolution(op: Operation) -> State:
    """Over positions nothing may vary; each group of channels sums over its own."""
    x, weight, groups = op["input"], op["weight"], op["groups"]
    transposed = op["transposed"]
    shape = op.shape
    positions = range(2, x.dim())
    if groups > 1:
        op.regroup("weight", groups)
    ones = [1] * len(positions)
    taken, given = x.shape[1], shape[1]
    x_shape = [x.shape[0], groups, taken // groups]
    w_shape = [groups, weight.shape[0] // groups, weight.shape[1]]
    w_axes = "gio" if transposed else "goi"

    def folded(name: str, sizes: list[int]) -> State:
        """Without positions, along which nothing varies, and with an axis for the groups."""
        state, full = op.state(name), op[name].shape
        narrow = op.exponents.alike(state, positions, full)
        moved = narrow.moved(lambda v: v.expand([*full[:2], *ones]).reshape(sizes))
        return replace(moved, parameter=state.parameter)

    product = contracted(
        op,
        (folded("input", x_shape), x_shape, "ngi"),
        (folded("weight", w_shape), w_shape, w_axes),
        "ngo",
    )

    def unfold(variables: Tensor) -> Tensor:
        return variables.reshape(shape[0], given, *ones).expand(shape)

    sizes = (shape[0], groups, given // groups)
    result = product.moved(lambda v: unfold(v.expand(sizes)))
    column = [1, given, *ones]
    bias = op.state("bias").moved(lambda v: v.reshape(column).expand(shape))
    return _with_bias(op, result, op["bias"], bias)


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable",
      "_scaled_dot_product_attention_math_for_mps")  # fmt: skip
def _attention(op: Operation) -> State:
    scores = contracted(op, _factor(op, "query", "abqd"), _factor(op, "key", "abkd"), "abqk")
    op.exponents.pin(scores, op.state("attn_mask"), op.state("attn_bias"))
    weights = State(), (*op["query"].shape[:3], op["key"].shape[2]), "abqk"
    return contracted(op, weights, _factor(op, "value", "abkd"), "abqd")


@rule("sum", "mean", "amax", "amin", "max", "min", "std", "var", "var_mean",
      "std_mean", "linalg_vector_norm", "norm", "nansum")  # fmt: skip
def _reduced(op: Operation) -> Any:
    """Nothing may vary along what is summed. A variance has twice the exponents."""
    state, tensor = op.state("self"), op["self"]
    given = op.arguments.get("dim")
    given = [given] if isinstance(given, int) else given or range(tensor.dim())
    axes = sorted({axis % max(tensor.dim(), 1) for axis in given})
    kept = op.exponents.alike(state, axes, tensor.shape, op.name in ("sum", "mean", "nansum"))
    outputs = op.output if isinstance(op.output, (tuple, list)) else (op.output,)
    shape = outputs[0].shape
    narrow = [1 if axis in axes else size for axis, size in enumerate(tensor.shape)]
    first = kept.moved(lambda v: v.expand(narrow).reshape(shape))
    if op.name.startswith("var"):
        doubled = op.exponents.system.multiple
        twice = tuple(Term(doubled(t.variables, 2).expand(shape)) for t in first.scale)
        return [State(twice), first] if len(outputs) > 1 else State(twice)
    return [first, State()] if op.name in ("max", "min") else [first] * len(outputs)


_POOLING = (
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "max_pool2d"),
    *("max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d"),
    *("_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool2d"),
    *("adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad1d"),
    *("reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d"),
    "replication_pad3d",
)


@rule(*_POOLING)
def _pooled(op: Operation) -> Any:
    """Nothing may vary over positions, the last axes."""
    name = "self" if "self" in op.arguments else "input"
    state, tensor = op.state(name), op[name]
    digits = [int(c) for c in op.name if c in "123"]
    axes = range(tensor.dim() - digits[0], tensor.dim())
    result = op.exponents.alike(state, axes, tensor.shape, linear="max" not in op.name)
    result = result.moved(lambda v: v.expand(op.shape))
    return [result, State()] if isinstance(op.output, (tuple, list)) else result


@rule("cumsum", "sort", "topk")
def _along_one(op: Operation) -> Any:
    state, tensor = op.state("self"), op["self"]
    axis = op["dim"] % max(tensor.dim(), 1)
    result = op.exponents.alike(state, [axis], tensor.shape, linear=False)
    result = result.moved(lambda v: v.expand(op.shape))
    return [result, State()] if isinstance(op.output, (tuple, list)) else result


@rule("embedding", "index_select", "index")
def _looked_up(op: Operation) -> State:
    """By numbers that are not known: nothing may vary along the axes that they index."""
    name = "weight" if op.name == "embedding" else "self"
    state, tensor = op.state(name), op[name]
    if op.name == "index":
        indices = _numbers_only(op["indices"])
        axes = [axis for axis, one in enumerate(indices) if one is not None]
        if axes != list(range(axes[0], axes[0] + len(axes))):
            op.exponents.pin(state)
            return State()
        ranks = max(indices[axis].dim() for axis in axes)
    elif op.name == "embedding":
        op.exponents.pin(state if op["padding_idx"] >= 0 else State())  # a row without gradient
        axes, ranks = [0], op["indices"].dim()
    else:
        axes, ranks = [op["dim"] % tensor.dim()], 1
    narrow = op.exponents.alike(state, axes, tensor.shape)
    before, after = tensor.shape[: axes[0]], tensor.shape[axes[-1] + 1 :]
    indexed = [1] * len(axes)

    def placed(variables: Tensor) -> Tensor:
        spread = variables.expand([*before, *indexed, *after])
        return spread.reshape([*before, *[1] * ranks, *after]).expand(op.shape)

    return narrow.moved(placed)


def _numbers_only(indices: Sequence[Any]) -> list[Any]:
    """What torch makes of masks: the places of what is true, as a vector for each axis."""
    found: list[Any] = []
    for one in indices:
        mask = one is not None and one.dtype in (torch.bool, torch.uint8)
        found += [one.new_zeros(1)] * one.dim() if mask else [one]
    return found

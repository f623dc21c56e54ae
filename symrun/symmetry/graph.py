"""Symmetry groups found in a module's traced graph: never by name, never by position.

From each layer that could own a symmetry (the *producer*) the search follows its output through
everything that keeps positive scaling of a unit (ReLU, pooling, dropout, flatten), to the layers
that take it up: a normalisation absorbs a unit's scale, a linear layer or convolution
compensates it in its columns. Whatever the search does not understand ends the group.

Source: Kunin et al. 2021, section 3; Du et al. 2018 for rescale across positive homogeneity.
"""

import contextlib
import copy
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from symrun.errors import UsageError
from symrun.symmetry.groups import Group, Members, Symmetry, columns, rows
from symrun.symmetry.homogeneous import UnitAxis, channel_axis, pass_through

_CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Types are compared exactly: a subclass (lazy, quantised, parametrised) may compute anything.


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer; `block` counts runs of convolutions of one output size."""

    name: str
    kind: str
    block: int | None


@dataclass(frozen=True)
class Structure:
    """The layers of a network in forward order, and its symmetry groups."""

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]


def find_structure(
    model: nn.Module, example_input: Tensor, shift_invariant: bool = True
) -> Structure:
    """The layers of `model` and every symmetry group that can be proven from its graph.

    Nothing is computed and nothing of `model` changes: a copy without data is traced.
    Batch normalisation counts as a scale symmetry where it uses batch statistics, that is as
    the modules' `training` flags stand now.

    shift_invariant: whether the loss stays as it is when a constant is added to all of an image's
    outputs, as softmax cross-entropy does: the last layer then has translation symmetry.

    Assumes: the loss takes the model's output [batch, classes], and no part of forward runs
    without gradients: the trace does not show `torch.no_grad`.
    Error: UsageError if torch.fx cannot trace the model.
    Example:
        structure = find_structure(model, torch.zeros(2, 3, 32, 32))
        sum(group.units for group in structure.groups)
    """
    graph = _traced(model, example_input)
    search = _Search(model, graph)
    found = [search.group_of(node) for node in graph.nodes]
    groups = [
        group
        for symmetry in Symmetry
        for group in found  # in forward order
        if group is not None and group.symmetry is symmetry
    ]
    translations = search.translations() if shift_invariant else []
    return Structure(_layers(search), (*groups, *translations))


def _traced(model: nn.Module, example_input: Tensor) -> fx.Graph:
    try:
        skeleton = copy.deepcopy(model).to("meta")
        traced = fx.symbolic_trace(skeleton)
        with contextlib.redirect_stderr(io.StringIO()):  # ShapeProp prints tracebacks
            ShapeProp(traced).propagate(example_input.to("meta"))
    except Exception as error:  # a user's forward can raise anything
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = str(first).splitlines()[0] if str(first) else type(first).__name__
        raise UsageError(
            f"{type(model).__name__} cannot be traced by torch.fx, so its symmetries "
            f"cannot be found: {reason}"
        ) from error
    return traced.graph


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of a node's output; None where it is not a tensor."""
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


class _Search:
    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.graph = graph
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self._calls = Counter(str(n.target) for n in graph.nodes if n.op == "call_module")
        self._read_directly = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
        self._owners = Counter(
            _storage(tensor)
            for module in self.modules.values()
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
        )
        tensors = {*dict(model.named_parameters()), *dict(model.named_buffers())}
        # A tensor that forward made without its input may have been made from any parameter.
        self._untraced = not self._read_directly <= tensors

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that is called; None if hooks or a forward of its own change what it does."""
        if node.op != "call_module":
            return None
        path = str(node.target).split(".")
        around = [".".join(path[:depth]) for depth in range(len(path) + 1)]
        if any(_is_altered(self.modules[name]) for name in around):
            return None
        return self.modules[str(node.target)]

    def owns_its_parameters(self, name: str) -> bool:
        """Whether a module is used once, trained, and shares no parameter with another use."""
        module = self.modules[name]
        parameters = dict(module.named_parameters(recurse=False))
        return (
            not self._untraced
            and self._calls[name] == 1
            and not any(name.startswith(f"{called}.") for called in self._calls)
            and "weight" in parameters
            and all(
                parameter.requires_grad
                and self._owners[_storage(parameter)] == 1
                and f"{name}.{leaf}" not in self._read_directly
                for leaf, parameter in parameters.items()
            )
        )

    def group_of(self, node: fx.Node) -> Group | None:
        """The scale or rescale group whose units are the outputs of this node."""
        module, shape = self.module(node), _shape(node)
        if module is None or shape is None:
            return None
        axis = _output_axis(module, len(shape))
        name = str(node.target)
        if axis is None or not self.owns_its_parameters(name):
            return None
        ends = self._follow(node, UnitAxis(axis, spread=1))
        if not ends:
            return None
        compensating = [end for end in ends if end is not _ABSORBED]
        if not compensating:
            return Group(Symmetry.scale, name, (name,), self._rows(name, sign=1))
        consumers = [members.parameter.removesuffix(".weight") for members in compensating]
        return Group(
            Symmetry.rescale,
            f"{name} -> {', '.join(consumers)}",
            (name, *consumers),
            (*self._rows(name, sign=-1), *compensating),
        )

    def _rows(self, name: str, sign: int) -> tuple[Members, ...]:
        parameters = self.modules[name].named_parameters(recurse=False)
        return tuple(rows(f"{name}.{leaf}", values.shape, sign) for leaf, values in parameters)

    def _follow(self, node: fx.Node, units: UnitAxis) -> list[Members] | None:
        """Where the units end: a layer's columns each, or _ABSORBED; None if not understood."""
        ends: list[Members] = []
        shape = _shape(node)
        if shape is None or not node.users:
            return None
        for user in node.users:
            if user.all_input_nodes != [node] or user.args[:1] != (node,):
                return None
            module = self.module(user)
            end = self._end(str(user.target), module, shape, units) if module else None
            if end is not None:
                ends.append(end)
                continue
            passed = pass_through(user, module, shape, units)
            further = self._follow(user, passed) if passed else None
            if further is None:
                return None
            ends += further
        return ends

    def _end(
        self, name: str, module: nn.Module, shape: tuple[int, ...], units: UnitAxis
    ) -> Members | None:
        if type(module) in _NORMALISATIONS:
            batch_statistics = module.training or module.running_mean is None
            return _ABSORBED if batch_statistics and units.axis == 1 else None
        takes = _input_axis(module, len(shape))
        if takes != units.axis or not self.owns_its_parameters(name):
            return None
        weight: Any = module.weight
        return columns(f"{name}.weight", weight.shape, shape[units.axis] // units.spread)

    def translations(self) -> list[Group]:
        """The columns, and the bias, of a linear layer whose outputs are the logits."""
        (output,) = [node for node in self.graph.nodes if node.op == "output"]
        logits = output.args[0]
        if not isinstance(logits, fx.Node) or len(logits.users) != 1:
            return []
        name, module, shape = str(logits.target), self.module(logits), _shape(logits)
        if type(module) is not nn.Linear or shape is None or len(shape) != 2:
            return []
        if not self.owns_its_parameters(name):
            return []
        weight = columns(f"{name}.weight", module.weight.shape, module.in_features)
        groups = [Group(Symmetry.translation, name, (name,), (weight,))]
        if module.bias is not None:
            bias = columns(f"{name}.bias", module.bias.shape, 1)
            groups.append(Group(Symmetry.translation, f"{name}.bias", (name,), (bias,)))
        return groups


def _storage(tensor: Tensor) -> int:
    """The address of a tensor's memory, the same for tensors that share it."""
    return tensor.data_ptr() or id(tensor)


def _is_altered(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(getattr(module, kind) for kind in hooks)


# A normalisation takes the unit's scale away and needs nothing to compensate it.
_ABSORBED = rows("", (0,))


def _output_axis(module: nn.Module, ndim: int) -> int | None:
    """Axis of a layer's output that counts its units; None for what owns no symmetry."""
    if type(module) is nn.Linear:
        return ndim - 1
    if type(module) in _NORMALISATIONS:
        return 1 if module.affine else None
    return _convolution_axis(module, ndim)


def _input_axis(module: nn.Module, ndim: int) -> int | None:
    """Axis of the input that a layer's columns count; None where columns do not pair with it."""
    if type(module) is nn.Linear:
        return ndim - 1
    ungrouped = getattr(module, "groups", 1) == 1
    return _convolution_axis(module, ndim) if ungrouped else None


def _convolution_axis(module: nn.Module, ndim: int) -> int | None:
    dimensions = _CONVOLUTIONS.get(type(module))
    return None if dimensions is None else channel_axis(ndim, dimensions)


def _layers(search: _Search) -> tuple[Layer, ...]:
    """The layers that own their weight; a parametrised weight is computed at every use."""
    layers: dict[str, Layer] = {}
    sizes: list[tuple[int, ...]] = []
    for node in search.graph.nodes:
        module, shape, name = search.module(node), _shape(node), str(node.target)
        if module is None or shape is None or "weight" not in module._parameters:
            continue
        dimensions = _CONVOLUTIONS.get(type(module))
        if dimensions is not None:
            size = shape[-dimensions:]
            if sizes[-1:] != [size]:
                sizes.append(size)
            layers.setdefault(name, Layer(name, "convolution", len(sizes) - 1))
        elif type(module) is nn.Linear:
            layers.setdefault(name, Layer(name, "linear", None))
    return tuple(layers.values())

"""The kernels against the sums in plain torch: on a GPU, or without one in Triton's interpreter.

Triton decides when it is imported whether it interprets, so a process of its own runs this file
once more with TRITON_INTERPRET=1, on the CPU, and `test_unit_layouts.py` as well.
"""

import contextlib
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_unit_layouts import GROUPS, Network
from torch import nn

from symrun.bench.sums import SHAPES
from symrun.models.vgg import vgg
from symrun.symmetry import Group, Symmetry, columns, find_structure, rows
from symrun.tracking.momentum import momentum_of
from symrun.tracking.reductions import Reductions
from symrun.tracking.shares import Shares
from symrun.tracking.tiles import LANES, TileShape
from symrun.tracking.torch_sums import TorchSums

triton = pytest.importorskip("triton")
from symrun.tracking.kernel import KernelSums  # noqa: E402
from symrun.tracking.tile_kernels import add_partials, sum_tiles  # noqa: E402

# Triton's interpreter before 3.7 counts loops in a way that NumPy warned of until it refused it.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
MOMENTUM = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


def on_device(test):
    return test if INTERPRETED else pytest.mark.gpu(test)


def version(module):
    return tuple(int(part) for part in module.__version__.split(".")[:2])


@pytest.mark.skipif(INTERPRETED, reason="it is what runs")
@pytest.mark.skipif(
    version(triton) < (3, 7) and version(np) >= (2, 4),
    reason="Triton's interpreter before 3.7 cannot loop with NumPy from 2.4 on",
)
def test_everything_here_in_tritons_interpreter():
    layouts = str(Path(__file__).with_name("test_unit_layouts.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, layouts]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"OMP_NUM_THREADS": "1"}  # no tensor here is worth a second thread
    ran = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
    assert int(re.search(r"(\d+) passed", ran.stdout)[1]) >= 10, ran.stdout


class Case:
    """A model with random gradients, and both ways to sum over its groups."""

    def __init__(self, model, groups, dtype=torch.float32, layout=torch.channels_last, **sgd):
        self.model = model.to(DEVICE, dtype, memory_format=layout)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01, **sgd)
        self.momentum = momentum_of(self.optimizer)
        self.reductions = Reductions(self.model, groups)
        self.kernel = KernelSums(self.reductions, self.momentum)
        self.reference = TorchSums(self.reductions, self.momentum)
        self.draw()

    def draw(self):
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)

    def bound(self, call, reference):
        """[planes, slots]: how far two computations of a slot may lie apart.

        A float64 sum of n terms is off by at most n 2^-53 times the sum of their sizes. The terms
        are products of sums, of which u b takes most roundings: 2 for g + weight_decay theta, 2
        for the buffer, 2 more for Nesterov's update and 1 for the product, the first 4 of them in
        both factors, 11 in all. Taking all that enters by its size bounds what those are relative
        to: every coefficient is positive.
        """
        inputs = [*self.model.parameters(), *(p.grad for p in self.model.parameters())]
        inputs += [s["momentum_buffer"] for s in self.optimizer.state.values()]
        with replaced(inputs, torch.ones_like):
            terms = reference.weights()[0]
        with replaced(inputs, torch.abs):
            sizes = call(reference)
        return 2 * (terms + 11) * 2.0**-53 * sizes

    def check(self, call):
        off = (call(self.kernel) - call(self.reference)).abs()
        assert (off <= self.bound(call, self.reference)).all()


@contextlib.contextmanager
def replaced(tensors, function):
    with torch.no_grad():
        saved = [tensor.clone() for tensor in tensors]
        for tensor in tensors:
            tensor.copy_(function(tensor))
        yield
        for tensor, value in zip(tensors, saved, strict=True):
            tensor.copy_(value)


def weights(sums):
    with torch.no_grad():
        return sums.weights()


def gradients(sums):
    with torch.no_grad():
        return sums.gradients()


def vgg_case(name, width, **settings):
    model = vgg(name, 10, 64, width, 0.5)
    return Case(model, find_structure(model, torch.zeros(2, 3, 64, 64)).groups, **settings)


def small_case(**settings):
    """No size is a multiple of a tile's, some are larger, and one convolution has 1x1 filters."""
    model = nn.Sequential(
        nn.Conv2d(2, 70, 3, padding=1),
        nn.BatchNorm2d(70),
        nn.ReLU(),
        nn.Conv2d(70, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 5, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 4, 66),
        nn.ReLU(),
        nn.Linear(66, 7),
    )
    return Case(model, find_structure(model, torch.zeros(2, 2, 2, 2)).groups, **settings)


def linear_groups():
    """Rows, columns in two shapes, and columns of a linear reducer, all of one weight [67, 130]."""

    def group(symmetry, *members):
        return Group(symmetry, "", (), members)

    shape = (67, 130)
    return [
        group(Symmetry.scale, rows("weight", shape), rows("bias", shape[:1])),
        group(Symmetry.rescale, columns("weight", shape, 130)),
        group(Symmetry.rescale, columns("weight", shape, 26, -1)),
        group(Symmetry.translation, columns("weight", shape, 130)),
        group(Symmetry.translation, columns("bias", shape[:1], 1)),
    ]


@on_device
@pytest.mark.parametrize(
    ("name", "width", "kind"),
    [
        ("vgg11", 1 / 8, "dampening"),
        pytest.param("vgg11_bn", 0.11, "plain", marks=pytest.mark.slow),
    ],
)
def test_networks_of_the_paper(name, width, kind):
    case = vgg_case(name, width, **MOMENTUM[kind])
    if case.momentum is None:
        case.check(weights)
    case.optimizer.step()
    case.draw()
    case.check(gradients)


@on_device
@pytest.mark.parametrize(
    ("kind", "dtype", "layout"),
    [
        ("plain", torch.float64, torch.channels_last),
        ("momentum", torch.float32, torch.contiguous_format),
        ("dampening", torch.float64, torch.contiguous_format),
        ("nesterov", torch.float32, torch.channels_last),
    ],
)
def test_every_update(kind, dtype, layout):
    case = small_case(dtype=dtype, layout=layout, **MOMENTUM[kind])
    case.check(gradients)
    if case.momentum is None:
        case.check(weights)
    else:
        case.optimizer.step()
        case.draw()
        case.check(gradients)


@on_device
def test_gradients_and_buffers_in_another_layout():
    case = small_case(momentum=0.9)
    for parameter in case.model.parameters():
        parameter.grad = parameter.grad.contiguous()
    assert case.model[0].weight.stride() != case.model[0].weight.grad.stride()
    case.check(gradients)
    case.optimizer.step()  # the buffers are shaped as the gradients are
    case.draw()
    case.check(gradients)


@on_device
def test_the_same_input_gives_the_same_bits():
    case = small_case()
    assert torch.equal(gradients(case.kernel), gradients(case.kernel))


@on_device
def test_all_kinds_of_sums_over_one_parameter():
    case = Case(nn.Linear(130, 67), linear_groups())
    case.check(weights)
    case.check(gradients)


@on_device
@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        pytest.param("plain", torch.channels_last, marks=pytest.mark.slow),
        ("nesterov", torch.contiguous_format),
    ],
)
def test_parts_that_are_larger_and_smaller_than_a_tile(kind, layout):
    """Of 70 x 135 and 3 x 180 entries, and single rows."""
    model = nn.Sequential(
        nn.Conv2d(30, 140, 3, groups=2),
        nn.Conv2d(140, 21, 3, groups=7),
        nn.Conv2d(21, 21, 3, groups=21),
    )
    shapes = [module.weight.shape for module in model]
    groups = [
        Group(Symmetry.scale, "", (), (rows("1.weight", shapes[1]), rows("1.bias", (21,)))),
        Group(Symmetry.translation, "", (), (columns("0.weight", shapes[0], 270, parts=2),)),
        Group(Symmetry.translation, "", (), (columns("1.bias", (21,), 7, parts=7),)),
        Group(
            Symmetry.rescale,
            "",
            (),
            (rows("0.weight", shapes[0], -1), columns("1.weight", shapes[1], 140, parts=7)),
        ),
        Group(
            Symmetry.rescale,
            "",
            (),
            (rows("1.weight", shapes[1], -1), columns("2.weight", shapes[2], 21, 2, parts=21)),
        ),
        Group(Symmetry.scale, "", (), (columns("2.weight", shapes[2], 189, parts=21),)),
    ]
    case = Case(model, groups, layout=layout, **MOMENTUM[kind])
    if case.momentum is None:
        case.check(weights)
    case.optimizer.step()
    case.draw()
    case.check(gradients)


@on_device
@pytest.mark.parametrize("kind", ["plain", pytest.param("momentum", marks=pytest.mark.slow)])
def test_every_shape_of_tiles_that_bench_times(kind):
    """Over rows and columns of a weight that each shape cuts into whole tiles and narrow rests."""
    groups = [
        Group(Symmetry.scale, "", (), (rows("weight", (129, 257)),)),
        Group(Symmetry.rescale, "", (), (columns("weight", (129, 257), 257),)),
    ]
    case = Case(nn.Linear(257, 129), groups, **MOMENTUM[kind])
    case.optimizer.step()
    case.draw()
    assert TileShape() in SHAPES and len(set(SHAPES)) == len(SHAPES)
    for shape in SHAPES[::4] if INTERPRETED else SHAPES:  # the interpreter takes a second for each
        case.kernel = KernelSums(case.reductions, case.momentum, shape)
        assert case.kernel._tiles[:, 3:5].amax(0).tolist() == [shape.rows, shape.columns]
        case.check(gradients)


@on_device
@pytest.mark.parametrize(("ranks", "place"), [(3, 0), (3, 1), (20, 19)])
def test_the_share_of_a_rank(ranks, place):
    """Parts of which it has some rows, or all, and parameters of which it has none."""
    groups = [Group(one[0], name, (), one[1]) for name, one in GROUPS.items()]
    case = Case(Network(), groups, momentum=0.9, nesterov=True)
    shares = Shares(case.model)
    shares._ranks, shares._place = list(range(ranks)), place
    case.reductions = Reductions(case.model, groups, shares=shares)
    case.kernel = KernelSums(case.reductions, case.momentum)
    case.reference = TorchSums(case.reductions, case.momentum)
    case.optimizer.step()
    case.draw()
    case.check(gradients)


def test_a_shape_that_would_lose_rows_is_refused():
    for wrong in ((128, 128, 2), (0, 128, 4), (64, 48, 4), (64, 96, 4), (64, 128, 3), (64, 0, 4)):
        with pytest.raises(AssertionError):
            TileShape(*wrong)


@on_device
def test_against_exact_sums_in_plain_python():
    case = Case(nn.Linear(130, 67), linear_groups(), momentum=0.9, nesterov=True)
    last = None
    for _ in range(2):
        case.draw()
        entries = {
            name: list(zip(p.flatten().tolist(), p.grad.flatten().tolist(), strict=True))
            for name, p in case.model.named_parameters()
        }
        last = {
            name: [
                (g + 0.01 * theta) if last is None else 0.9 * last[name][i] + g + 0.01 * theta
                for i, (theta, g) in enumerate(entries[name])
            ]
            for name in entries
        }
        units = case.reductions.signed(gradients(case.kernel)).T.tolist()
        bounds = case.reductions.unsigned(case.bound(gradients, case.reference)).T.tolist()
        for parts, found, bound in zip(python_units(), units, bounds, strict=True):
            terms = [[], [], [], []]
            for symmetry, sign, name, places in parts:
                for place in places:
                    theta, g = entries[name][place]
                    buffer = last[name][place]
                    update = g + 0.01 * theta + 0.9 * buffer
                    products = [theta * g, g * g, update * update, update * buffer]
                    if symmetry is Symmetry.translation:
                        products = [g, g * g, 0.0, 0.0]
                    for plane, product in zip(terms, products, strict=True):
                        plane.append(sign * product)
            off = [abs(math.fsum(plane) - ours) for plane, ours in zip(terms, found, strict=True)]
            assert all(error <= most for error, most in zip(off, bound, strict=True))
        case.optimizer.step()
        # torch's own buffer is float32: what the kernel reads next
        state = case.optimizer.state
        last = {
            name: state[p]["momentum_buffer"].flatten().tolist()
            for name, p in case.model.named_parameters()
        }


def python_units():
    """For each unit of `linear_groups`: [(symmetry, sign, parameter, indices of its entries)]."""
    scale, rescale, translation = Symmetry.scale, Symmetry.rescale, Symmetry.translation
    for row in range(67):
        row_entries = range(row * 130, (row + 1) * 130)
        yield [(scale, 1, "weight", row_entries), (scale, 1, "bias", [row])]
    for column in range(130):
        yield [(rescale, 1, "weight", range(column, 67 * 130, 130))]
    for unit in range(26):
        columns = range(5 * unit, 5 * unit + 5)
        yield [(rescale, -1, "weight", [130 * row + c for row in range(67) for c in columns])]
    for column in range(130):
        yield [(translation, 1, "weight", range(column, 67 * 130, 130))]
    yield [(translation, 1, "bias", range(67))]


@on_device
def test_settings_in_float32_would_show():
    """Settings rounded to float32, as Triton takes Python's floats, are out of the tolerance."""
    case = small_case(momentum=0.9, dampening=0.3)
    case.optimizer.step()
    case.draw()
    exact, bound = gradients(case.kernel), case.bound(gradients, case.reference)
    (group,) = case.optimizer.param_groups
    for name in ("momentum", "weight_decay"):
        kept, group[name] = group[name], float(np.float32(group[name]))
        off = (exact - gradients(case.reference)).abs()
        assert (off[2:] > bound[2:]).any()
        group[name] = kept


@on_device
def test_memory_for_the_full_network():
    """Under 20 MiB in all; `tiles.py` has the arithmetic."""
    case = vgg_case("vgg16_bn", 1.0, momentum=0.9)
    held = [value for value in vars(case.kernel).values() if isinstance(value, torch.Tensor)]
    assert sum(value.nbytes for value in held) < 20 * 2**20
    partials = max(held, key=lambda value: value.nbytes)
    entries = sum(parameter.numel() for parameter in case.model.parameters())
    assert len(partials) == 4 and partials.shape[1] < 1.2 * entries * (1 / 64 + 1 / 128)


@on_device
def test_what_fits():
    def fits(**parameters):
        model = nn.Module()
        members = []
        for name, value in parameters.items():
            model.register_parameter(name, nn.Parameter(value.to(DEVICE)))
            members.append(rows(name, value.shape))
        groups = [Group(Symmetry.scale, "", (), tuple(members))] if members else []
        model.register_parameter("other", nn.Parameter(torch.ones(1, device=DEVICE)))
        return KernelSums.fits(Reductions(model, groups))

    whole = torch.randn(6, 4, 3, 3)
    assert fits(a=whole) and fits(a=whole.double())
    assert fits(a=whole.to(memory_format=torch.channels_last), b=torch.randn(6))
    assert not fits()
    assert not fits(a=whole.half())
    assert not fits(a=whole, b=torch.randn(6).double())
    model = nn.Linear(4, 6, device=DEVICE)
    groups = [Group(Symmetry.scale, "", (), (rows("weight", (6, 4)),))]
    for gaps in (torch.randn(6, 8, device=DEVICE)[:, ::2], torch.randn(4, 6, device=DEVICE).T):
        model.weight.data = gaps
        assert not KernelSums.fits(Reductions(model, groups))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MOMENTUM)
def test_a_cuda_graph_reads_new_gradients(kind):
    case = vgg_case("vgg11_bn", 1 / 8, **MOMENTUM[kind])
    case.optimizer.step()
    gradients(case.kernel)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradients(case.kernel)
    for _ in range(3):
        for _ in range(20):  # would take over the host memory that the graph reads, were it free
            weights(case.kernel)
        for parameter in case.model.parameters():
            parameter.grad.copy_(torch.randn_like(parameter))
        graph.replay()
        off = (found - gradients(case.reference)).abs()
        assert (off <= case.bound(gradients, case.reference)).all()


@pytest.mark.gpu
def test_no_call_waits_for_the_device():
    case = vgg_case("vgg11_bn", 1 / 8, momentum=0.9)
    case.optimizer.step()
    weights(case.kernel), gradients(case.kernel)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            case.draw()
            weights(case.kernel), gradients(case.kernel)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def registers_and_stack(kernel, types, constants, warps=4):
    """Of `kernel` compiled for an H100, which needs none here."""
    constexprs = dict.fromkeys(constants, "constexpr")
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if "*" in kind
    }
    source = triton.compiler.ASTSource(kernel, types | constexprs, constants, aligned)
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(n) for n in re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())


@pytest.mark.skipif(INTERPRETED, reason="compiles")
def test_kernels_compile_for_an_h100_and_four_programs_fit(monkeypatch, tmp_path):
    """A multiprocessor has 65536 registers, and its programs share them."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = dict.fromkeys(("tiles", "addresses"), "*i64") | {"parameters": "i32"}
    pointers |= {"settings": "*fp64", "partials": "*fp64", "partial_count": "i32"}
    used, shape = [], TileShape()
    for dtype in (triton.language.float32, triton.language.float64):
        for read, planes, nesterov in [(1, 2, 0), (2, 2, 0), (2, 4, 0), (3, 4, 0), (3, 4, 1)]:
            constants = {"DTYPE": dtype, "READ": read, "PLANES": planes, "NESTEROV": bool(nesterov)}
            constants |= {"WARPS": shape.warps, "WIDTH": shape.columns}
            registers, stack = registers_and_stack(sum_tiles, pointers, constants, shape.warps)
            used.append((registers * LANES * shape.warps, stack))
    types = {"blocks": "*i64", "terms": "*i32", "partials": "*fp64", "partial_count": "i32"}
    types |= {"slots": "*fp64", "slot_count": "i32"}
    registers, stack = registers_and_stack(add_partials, types, {"SLOTS": 64, "TERMS": 32})
    used.append((registers * LANES * 4, stack))
    # A thread's sums of one plane, spilled, would take 32 bytes of stack.
    assert all(4 * registers <= 65536 and stack <= 16 for registers, stack in used), used


@pytest.mark.skipif(INTERPRETED, reason="compiles")
def test_no_shape_of_tiles_spills_on_an_h100(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = dict.fromkeys(("tiles", "addresses"), "*i64") | {"parameters": "i32"}
    pointers |= {"settings": "*fp64", "partials": "*fp64", "partial_count": "i32"}
    constants = {"DTYPE": triton.language.float32, "READ": 3, "PLANES": 4, "NESTEROV": False}
    for width, warps in {(shape.columns, shape.warps) for shape in SHAPES}:
        kernel = constants | {"WARPS": warps, "WIDTH": width}
        _, stack = registers_and_stack(sum_tiles, pointers, kernel, warps)
        assert stack <= 16, (width, warps)

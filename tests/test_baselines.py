"""The two baselines in scripts/: they do what they claim, so that holding symrun against them is
fair."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from symrun.models.vgg import vgg
from symrun.symmetry import Group, Symmetry, columns, find_structure, rows
from symrun.symmetry.lines import lines_of

SCRIPTS = Path(__file__).parents[1] / "scripts"
LR, WEIGHT_DECAY, STEPS = 0.05, 1e-2, 5
HALF_ULP = 2.0**-24
"""What rounding to float32 does to a number at most, relative to it."""


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paper, plain = script("paper_tracking"), script("plain_training")


def network():
    torch.manual_seed(0)
    return vgg("vgg11_bn", classes=3, image_size=32, width=0.0625, dropout=0.0)


def trained(optimizer_of):
    """The network after a few steps, its optimiser, and each step's gradients in float64."""
    model, generator = network(), torch.Generator().manual_seed(1)
    optimizer, gradients = optimizer_of(model), []
    for step in range(STEPS):
        for group in optimizer.param_groups:  # a schedule: I must follow the rate of its step
            group["lr"] = LR / (1 + step)
        images = torch.randn(8, 3, 32, 32, generator=generator)
        labels = torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        gradients.append([weight.grad.double() for weight in model.parameters()])
        optimizer.step()
    return model, optimizer, gradients


def with_integrals(model):
    return paper.IntegralSGD(model.named_parameters(), LR, WEIGHT_DECAY)


def test_integral_sgd_moves_the_weights_as_torch_does():
    ours, _, _ = trained(with_integrals)
    torchs, _, _ = trained(
        lambda model: torch.optim.SGD(model.parameters(), LR, weight_decay=WEIGHT_DECAY)
    )
    pairs = zip(ours.parameters(), torchs.parameters(), strict=True)
    assert all(torch.equal(our, torchs_own) for our, torchs_own in pairs)


def test_its_buffer_is_the_integral():
    """Against the closed sum over steps k: e^{-2 lambda (t_n - t_{k+1})} eta_k^2 g_k^2, in float64.

    Terms are not negative, so errors do not grow relative to the sum: for each step the decay
    rounds once as a number and once as a product, the term as g^2, as eta^2, as their product and
    when it is added.
    """
    model, optimizer, gradients = trained(with_integrals)
    rates = [LR / (1 + step) for step in range(STEPS)]
    tolerance = 6 * STEPS * HALF_ULP
    for number, weight in enumerate(model.parameters()):
        expected = sum(
            math.exp(-2 * WEIGHT_DECAY * sum(rates[step + 1 :])) * rate**2 * of[number].square()
            for step, (rate, of) in enumerate(zip(rates, gradients, strict=True))
        )
        integral = optimizer.state[weight]["integral"]
        assert integral.shape == weight.shape
        assert integral.dtype is torch.float32
        # Squares below float32's smallest normal number lose digits, or all of them.
        absolute = STEPS * torch.finfo(torch.float32).tiny
        torch.testing.assert_close(integral.double(), expected, rtol=tolerance, atol=absolute)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_checkpoint_is_reduced_to_the_sums_of_every_unit(tmp_path, layout):
    model = network().to(memory_format=layout)
    name, shape = "features.4.weight", model.get_parameter("features.4.weight").shape
    halves = columns(name, shape, 2 * shape[1], -2, parts=2)
    found = find_structure(model, torch.zeros(2, 3, 32, 32)).groups
    groups = (*found, Group(Symmetry.rescale, "", (), (halves, rows(name, shape, 3))))
    optimizer = with_integrals(model)
    for weight in model.parameters():
        optimizer.state[weight]["integral"].uniform_()
    paper.checkpoint(model, optimizer, tmp_path / "saved.pt", fsync=True)
    sums = paper.reduce_checkpoint(tmp_path / "saved.pt", groups, tmp_path / "sums.npz")
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    integrals = {name: optimizer.state[w]["integral"] for name, w in model.named_parameters()}

    expected = {"weights": [], "integrals": []}
    entries, sizes = [], {"weights": [], "integrals": []}
    for group in groups:
        for unit in range(group.units):
            parts = [
                (one.sign, lines_of(one, tensors[one.parameter]), torch.tensor(one.units) == unit)
                for tensors in (weights, integrals)
                for one in group.members
            ]
            parts = [(sign, lines[here].flatten().tolist()) for sign, lines, here in parts]
            half = len(parts) // 2
            power = group.symmetry.degree
            for name, of, exponent in (
                ("weights", parts[:half], power),
                ("integrals", parts[half:], 1),
            ):
                terms = [sign * value**exponent for sign, values in of for value in values]
                expected[name].append(math.fsum(terms))
                sizes[name].append(math.fsum(map(abs, terms)))
            entries.append(sum(len(values) for _, values in parts[:half]))
    with np.load(tmp_path / "sums.npz") as saved:
        for name, units in sums.items():
            # n numbers, squared and added in float32 in any order: n roundings of the sum of sizes.
            bound = (np.array(entries) + 1) * HALF_ULP * np.array(sizes[name])
            assert np.all(np.abs(units - np.array(expected[name])) <= bound)
            np.testing.assert_array_equal(saved[name], units)
    assert len(sums["weights"]) == sum(group.units for group in groups)


def test_paper_tracking_compares_both_sides(capsys):
    small = ["model=vgg11_bn", "data.image_size=32", "data.classes=10", "data.train_images=32"]
    size = ["--width", "0.0625", "--batch-size", "8", "--every", "2", "--records", "2"]
    paper.main([*size, *small, "device=cpu"])
    out = capsys.readouterr().out
    assert "2 steps and a record, ms" in out
    assert out.count("bar 10: ") == out.count("bar 500: ") == 2
    paper.main([*size, *small, "device=cpu", "--json"])
    adds = json.loads(capsys.readouterr().out)["adds"]
    for side in ("paper", "symrun"):
        low, median, high = adds["bytes"][side]
        assert 0 < low <= median <= high
    # The checkpoint holds each parameter and its integral.
    numbers = sum(weight.numel() for weight in vgg("vgg11_bn", 10, 32, 0.0625, 0.5).parameters())
    assert adds["bytes"]["paper"][0] > 2 * 4 * numbers


@pytest.fixture
def photographs(tmp_path):
    """Two classes of four JPEGs, one of them grey."""
    random = np.random.default_rng(0)
    for wnid in ("n01", "n02"):
        folder = tmp_path / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for number in range(4):
            shape = (64, 64) if number == 0 else (64, 64, 3)
            pixels = random.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(folder / f"{wnid}_{number}.JPEG")
    return tmp_path


@pytest.fixture(autouse=True)
def _cudnns_own_choice(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


TWO_STEPS = ["--model", "vgg11_bn", "--width", "0.0625", "--batch-size", "4", "--steps", "2"]
TWO_STEPS += ["--warm-up", "1", "--workers", "0", "--device", "cpu"]


@pytest.mark.parametrize("layout", [[], ["--channels-last"]])
def test_plain_training_says_how_fast_it_was(photographs, capsys, layout):
    plain.main(["--root", str(photographs), *TWO_STEPS, *layout])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("plain PyTorch: ")
    assert "images/s, median step" in line
    plain.main(["--root", str(photographs), *TWO_STEPS, *layout, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["images_per_second"] > 0
    assert math.isfinite(result["loss"])


def test_plain_training_refuses_a_folder_without_images(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        plain.main(["--root", str(tmp_path), *TWO_STEPS])
    assert exit_.value.code == 2
    assert "got 0" in capsys.readouterr().err


def test_its_images_are_crops_of_the_padded_photograph_or_their_mirror(photographs):
    dataset = plain.TinyImageNet(photographs)
    path, _ = dataset.samples[5]
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4)))
    crops = [padded[:, y : y + 64, x : x + 64] for y in range(9) for x in range(9)]
    allowed = {crop[..., ::step].tobytes() for crop in crops for step in (1, -1)}
    drawn = {dataset[5][0].numpy().tobytes() for _ in range(40)}
    assert drawn <= allowed
    assert len(drawn) > 10
    assert [label for _, label in dataset.samples] == [0] * 4 + [1] * 4

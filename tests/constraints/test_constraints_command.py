"""`symrun check --constraints` as a person uses it, on a run and on a model."""

import json
import math
import sys

import pytest
import torch
from run_json import recorded, rewrite, with_settings

from symrun import constraints
from symrun.cli import main
from symrun.constraints import HessianConstraint, as_table, check
from symrun.data import load
from symrun.errors import RunError, UsageError
from symrun.launch import compose
from symrun.runs.checkpoint import save_checkpoint
from symrun.runs.directory import RunDirectory
from symrun.training.lifecycle import train
from symrun.training.plan import Plan
from symrun.training.setup import prepare

SMALL = ["data=synthetic", "data.train_images=40", "data.val_images=20", "device=cpu"]
SMALL += ["model.width=0.03125", "train.batch_size=8", "train.steps=4", "track.every=2"]
MODEL = ["vgg11", "model.width=0.03125", "data.image_size=32", "data.train_images=40", "device=cpu"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)


def small_run(capfd, *overrides):
    train(compose([*SMALL, "run.dir=run", *overrides]))
    capfd.readouterr()
    return RunDirectory.open("run")


def command(capfd, *arguments):
    """Exit code, standard output and standard error."""
    code = main(["check", "--constraints", *arguments])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def refused(capfd, *arguments, code=2):
    assert main(["check", *arguments]) == code
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("symrun: ")
    return line


def rows_of(out, **equal):
    rows = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["rows"]
    return [row for row in rows if all(row[key] == value for key, value in equal.items())]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_at_its_initialisation_and_at_its_last_weights(capfd, precision):
    """In float64 whatever the run's precision, at the weights as they were in it."""
    run = small_run(capfd, "model=vgg11_bn", f"precision={precision}", "model.dropout=0")
    config = compose([*SMALL, "model=vgg11_bn", "precision=float64", "model.dropout=0"])
    model = prepare(Plan.of(config), load(config.data)).model
    (at_init,) = constraints.check_model(config, batch=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    weights = {name: value.float() for name, value in model.state_dict().items()}
    save_checkpoint(run, 1000, {"model": {**model.state_dict(), **weights}}, keep=2)

    code, out, err = command(capfd, "run", "--batch", "100000")
    assert code == 2 and out == "" and "--batch must be at most the" in err
    code, out, err = command(capfd, "run", "--batch", "5", "--json")
    assert code == 0 and err == ""
    info = recorded(run)
    gradient = rows_of(out, constraint="gradient")
    assert {(row["precision"], row["device"], row["step"]) for row in gradient} == {
        (precision, "cpu", None)
    }
    assert [row["group"] for row in gradient] == [row["group"] for row in info["groups"]]
    first, last = (rows_of(out, constraint="hessian", step=step) for step in (0, 1000))
    assert len(first) == len(last) == len(gradient)
    for row, expected in zip(first, at_init.rows, strict=True):
        assert row["precision"] == "float64" and row["group"] == expected.group
        assert row["relative_error"] == expected.relative_error
        assert row["largest_cosine"] == expected.largest_cosine
    assert [row["relative_error"] for row in last] != [row["relative_error"] for row in first]
    for row in (*first, *last):
        # one rounding of float32 is 6e-8
        assert (row["relative_error"] < 1e-12) == (row["symmetry"] != "scale"), row
    # rounding of the run's own precision, 2^-24 or 2^-9, which a mean over many terms reduces
    rescale = [row["median_cosine"] for row in gradient if row["symmetry"] == "rescale"]
    low, high = {"float32": (1e-10, 1e-6), "bf16": (1e-6, 1e-1)}[precision]
    assert low < min(rescale) and max(rescale) < high


def test_a_table_for_people_names_precision_and_device(capfd):
    small_run(capfd, "model=vgg11_bn")
    code, out, err = command(capfd, "run")
    assert "entries off the diagonal of matrices are not checked" in err
    gradient, first, last = tables = out.split("\n\n")
    assert code == 0
    assert gradient.splitlines()[0].endswith("of run: float32 on cpu")
    for table, where in ((first, "at initialisation"), (last, "after step 4")):
        assert where in table.splitlines()[0] and "float64 on cpu" in table.splitlines()[0]
    for table in tables:
        assert len(table.splitlines()) == 1 + 1 + 8 + 10 + 2 + 1
        assert "eps breaks this symmetry" in table.splitlines()[-1]


def test_a_model_without_training(capfd, tmp_path):
    code, out, err = command(capfd, *MODEL, "--json", "--max-residual", "1e-8", "data.classes=7")
    assert code == 0 and err == "" and not list(tmp_path.iterdir())
    rows = rows_of(out)
    assert {row["constraint"] for row in rows} == {"hessian"} and len(rows) == 10 + 2
    assert rows[-2]["group"] == "classifier.6" and rows[-2]["units"] == 32
    config = compose(constraints.run_or_overrides(MODEL[0], [*MODEL[1:], "data.classes=7"]))
    (report,) = constraints.check_model(config, None)
    assert [row["relative_error"] for row in rows] == [row.relative_error for row in report.rows]


def test_the_bar_holds_for_every_group(capfd):
    code, out, err = command(capfd, "vgg11_bn", *MODEL[1:], "--max-residual", "1e-8")
    lines = err.splitlines()
    assert code == 1 and len(lines) == 8 and "eps" in out  # the 8 groups of filters
    assert "Hessian constraint of scale features.0 at step 0: relative error" in lines[0]
    assert all("the bar is 1e-08" in line for line in lines)
    assert command(capfd, "vgg11_bn", *MODEL[1:], "--max-residual", "0.1")[0] == 0
    less_eps = [*MODEL, "model=vgg11_bn", "model.eps=1e-12"]
    assert command(capfd, *less_eps, "--max-residual", "1e-8")[0] == 0


def test_matrices_of_a_model_are_checked_without_a_setting(capfd):
    code, _, err = command(capfd, *MODEL, "track.matrices=full")
    assert code == 2 and "all entries of matrices are checked already: leave" in err


def test_settings_win_over_what_spares_a_download():
    default = constraints.run_or_overrides("vgg16", [])
    assert compose(default).data.image_size == 64 and compose(default).model.name == "vgg16"
    own = constraints.run_or_overrides("model=vgg13_bn", ["data.image_size=32", "data.classes=9"])
    config = compose(own)
    assert (config.model.name, config.data.image_size, config.data.classes) == ("vgg13_bn", 32, 9)
    other = constraints.run_or_overrides("vgg16", ["data=tiny_imagenet", "data.root=here"])
    assert compose(other).data.name == "tiny_imagenet"
    preset = constraints.run_or_overrides("experiment=fig5_plain", [])
    assert compose(preset).data.name == "synthetic" and compose(preset).model.name == "vgg16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--constraints", "nowhere"], "nowhere is neither a run folder (it has no run.json) nor"),
        (["--constraints", "vgg99"], "vgg11, vgg11_bn"),
        (["--constraints", "model=vgg99"], "model must be one of gpt, mlp"),
        (["--constraints", "vgg16", "model.foo=1"], "model.foo"),
        (["--constraints", "vgg16", "model.width=-1"], "model.width must be in [1/64, 8], got -1"),
        (["--constraints", "model=vgg16,vgg11"], "vgg16,vgg11"),
        (
            ["--constraints", "vgg16", "optim.lr=1"],
            "optim.lr has no effect on a model's constraints",
        ),
        (["--constraints", "vgg16", "precision=bf16"], "precision has no effect"),
        (["--constraints", "vgg16", "device=cuda"], "device=cuda needs a CUDA GPU"),
        (["--constraints", "vgg16", "--min-explained", "1"], "--min-explained is for laws"),
        (["--constraints", *MODEL, "--batch", "1"], "--batch must be >= 2, got 1"),
        (["--constraints", *MODEL, "--batch", "41"], "at most the 40 training images, got 41"),
        (["run", "model.width=1"], "settings need --constraints and a model: leave"),
        (["run", "--batch", "2"], "--batch has no effect without --constraints"),
    ],
)
def test_wrong_usage_is_one_line(capfd, monkeypatch, arguments, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert message in refused(capfd, *arguments)


def test_wrong_runs_are_one_line(capfd, tmp_path):
    run = small_run(capfd, "model=vgg11")
    info = recorded(run)
    message = "run is a run, whose settings are recorded"
    assert message in refused(capfd, "--constraints", "run", "model.width=1")

    groups = [{k: v for k, v in group.items() if k != "entries"} for group in info["groups"]]
    rewrite(run, groups=groups)
    assert "does not say how many entries" in refused(capfd, "--constraints", "run")
    rewrite(run, **info)

    rewrite(run, dataset={**info["dataset"], "classes": 200})
    code, out, err = command(capfd, "run")
    assert code == 2 and err == "symrun: run had classes = 200, its data has 10 now\n" and out
    rewrite(run, **info)

    save_checkpoint(run, 1000, {"model": {"features.0.weight": torch.ones(1)}}, keep=2)
    code, out, err = command(capfd, "run")
    assert code == 2 and "step-1000.pt does not fit the network" in err
    run.checkpoint(1000).write_bytes(b"PK")
    assert "step-1000.pt is damaged" in refused(capfd, "--constraints", "run")


def test_a_run_recorded_on_a_gpu_is_checked_without_one(capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = small_run(capfd, "model=vgg11")
    with_settings(run, device="cuda", precision="tf32")
    rewrite(run, device="H100")
    code, out, _ = command(capfd, "run", "--json")
    assert code == 0
    assert {row["device"] for row in rows_of(out, constraint="gradient")} == {"H100"}
    assert {row["device"] for row in rows_of(out, constraint="hessian")} == {"cpu"}


def test_weights_that_diverged_fall_short_and_are_null_in_json(capfd):
    run = small_run(capfd, "model=vgg11")
    config = compose([*SMALL, "model=vgg11"])
    model = prepare(Plan.of(config), load(config.data)).model
    with torch.no_grad():
        model.classifier[6].weight[0, 0] = math.inf
    save_checkpoint(run, 1000, {"model": model.state_dict()}, keep=2)
    code, out, err = command(capfd, "run", "--json", "--max-residual", "1e-8")
    assert code == 1 and "at step 1000: relative error nan, the bar is 1e-08" in err
    assert "at step 0:" not in err
    assert {row["relative_error"] for row in rows_of(out, step=1000)} == {None}


def test_a_full_memory_is_one_line(monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to\nmore")
        yield

    monkeypatch.setattr(check, "hessian_constraints", full)
    config = compose([*SMALL, "model=vgg11"])
    with pytest.raises(RunError, match="out of memory: lower --batch"):
        list(constraints.check_model(config, None))


def test_the_first_images_of_the_run_s_own_first_epoch(monkeypatch):
    seen = []

    def see(model, groups, images, labels, seed, criterion, *output):
        seen.append((images, labels, next(model.parameters()).dtype))
        return iter(())

    monkeypatch.setattr(check, "hessian_constraints", see)
    config = compose([*SMALL, "model=vgg11", "precision=float32", "seed=5"])
    list(constraints.check_model(config, 6))
    images, labels, dtype = seen[0]
    assert len(labels) == 6 and dtype is images.dtype is torch.float64
    training = prepare(Plan.of(config), load(config.data))
    first_images, first_labels = next(training.batches.epoch(1))
    assert torch.equal(labels, first_labels[:6])
    # normalised in float64 instead of float32, values up to 2
    assert (images - first_images[:6]).abs().max() <= 4 * 2.0**-24
    with pytest.raises(UsageError):
        list(constraints.check_model(config, 0))


@pytest.mark.parametrize(
    ("symmetry", "error", "noted"),
    [
        ("scale", 0.0, True),
        ("rescale", 1e-2, True),
        ("rescale", 1e-14, False),
        ("homogeneity", 1e-2, True),
        ("translation", 1e-2, False),
    ],
)
def test_eps_is_named_where_it_is_felt(symmetry, error, noted):
    row = HessianConstraint(symmetry, "embedding -> norm", 1, error, 0.0)
    table = as_table(constraints.Report("hessian", 0, "float64", "cpu", "title", [row]))
    note = f"{symmetry}: a normalisation's eps breaks this symmetry, in proportion to eps"
    assert (table.splitlines()[-1] == note) == noted

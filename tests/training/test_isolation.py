"""A run computes the same whatever its caller has set, and the caller's settings stay."""

import contextlib
import os
import random
import signal
import sys

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.version import getbase
from killing import same, tables

from symrun.constraints import check_model
from symrun.errors import UsageError
from symrun.launch import compose, configs
from symrun.runs.checkpoint import checkpoints
from symrun.runs.directory import RunDirectory
from symrun.training.lifecycle import train
from symrun.training.loop import fit

SMALL = [
    *("data=synthetic", "data.train_images=40", "data.val_images=20", "model=vgg11_bn"),
    *("model.width=0.0625", "train.batch_size=16", "train.steps=4", "track.every=2", "device=cpu"),
]


def trained(folder):
    return RunDirectory.open(train(compose([*SMALL, f"run.dir={folder}"])))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("clean") / "run")


@contextlib.contextmanager
def changed(read, change, value):
    before = read()
    change(value)
    yield
    change(before)


def default_device(name):
    return changed(lambda: None, torch.set_default_device, name)


@contextlib.contextmanager
def seeded():
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    yield


@contextlib.contextmanager
def switched():
    switches, cudnn = torch.backends.mkldnn, torch.backends.cudnn
    torch.set_float32_matmul_precision("medium")
    switches.enabled = cudnn.enabled = False
    cudnn.deterministic = cudnn.benchmark = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    switches.enabled = cudnn.enabled = True
    cudnn.deterministic = False


CALLERS = {
    "nothing": contextlib.nullcontext,
    "float64": lambda: changed(
        torch.get_default_dtype, torch.set_default_dtype, torch.float64
    ),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "grad disabled": lambda: torch.set_grad_enabled(False),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "seeds": seeded,
    "switches": switched,
    "hydra": lambda: hydra.initialize_config_dir(str(configs()), version_base="1.2"),
}  # fmt: skip


def state():
    """All of a process that a library may be expected to leave alone."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    switches = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, mkldnn.matmul, mkldnn.conv)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    return {
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": (random.getstate(), str(np.random.get_state()), torch.initial_seed()),
        "torch random": torch.get_rng_state().numpy().tobytes(),
        "determinism": torch.get_deterministic_debug_mode(),
        "cudnn": (cudnn.enabled, cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32),
        "precision": [switch.fp32_precision for switch in switches],
        "matmul": (torch.get_float32_matmul_precision(), mkldnn.enabled),
        "threads": torch.get_num_threads(),
        "hydra": (GlobalHydra.instance().hydra, getbase()),
        "handlers": [signal.getsignal(number) for number in numbers],
        "process": (os.getcwd(), list(sys.argv), dict(os.environ), sys.stdout, sys.stderr),
    }


@pytest.mark.parametrize("caller", CALLERS)
def test_a_caller_has_no_effect_and_keeps_what_was_set(caller, undisturbed, tmp_path):
    with CALLERS[caller]():
        before = state()
        run = trained(tmp_path / "run")
        after = state()
    assert before == after
    for name, frame in tables(undisturbed.path).items():
        pd.testing.assert_frame_equal(frame, tables(run.path)[name], check_exact=True)
    (_, expected), (_, found) = next(checkpoints(undisturbed)), next(checkpoints(run))
    del expected["config"], found["config"]
    assert same(expected, found)


@pytest.mark.parametrize("caller", ["float64", "no_grad", "inference_mode", "default device"])
def test_constraints_too(caller):
    config = compose([*SMALL, "data.image_size=32"])
    (expected,) = check_model(config, 4)
    with CALLERS[caller]():
        before = state()
        (found,) = check_model(config, 4)
        assert state() == before
    assert found == expected


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_is_refused_since_its_cache_keeps_old_weights(enabled, tmp_path):
    config = compose([*SMALL, f"run.dir={tmp_path}/run"])
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        with pytest.raises(UsageError, match="torch.autocast is active"):
            train(config)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_refuses_leaves_no_folder(tmp_path, monkeypatch):
    def refuse(*_):
        raise UsageError("not this network")

    monkeypatch.setattr("symrun.training.trainer.make_tracker", refuse)
    with pytest.raises(UsageError, match="not this network"):
        trained(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_records_keeps_its_folder_whatever_happens_to_its_description(
    tmp_path, monkeypatch
):
    def then_damaged(*arguments):
        fit(*arguments)
        (tmp_path / "run/run.json").write_text("{")

    monkeypatch.setattr("symrun.training.trainer.fit", then_damaged)
    with pytest.raises(UsageError, match=r"run\.json"):
        trained(tmp_path / "run")
    assert (tmp_path / "run/run.json").read_text() == "{"
    assert list((tmp_path / "run/tables/units").iterdir())

"""Several processes train what one does, and a run that loses one of them goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from killing import same, tables
from torch import nn

from symrun.data.batches import Batches
from symrun.data.synthetic import synthetic_textures
from symrun.errors import UsageError
from symrun.runs.checkpoint import checkpoints
from symrun.runs.directory import RunDirectory
from symrun.training.batch_norm import SyncBatchNorm, synchronised

TESTS = Path(__file__).parents[1]
CLOSE = 1e-10
"""Of the largest number in a column. 14 updates of sums of a few hundred terms in float64, whose
order differs, leave 1e-13; the networks are trained together or they are not."""
EXACT = 1e-12


def started(folder, which):
    """What `several.py` says of each start."""
    path = f"{TESTS}{os.pathsep}{TESTS.parent}"
    command = [sys.executable, str(TESTS / "several.py"), str(folder), which]
    environment = {**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    return folder, started(folder, "quick")


@pytest.fixture(scope="module")
def thorough(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thorough")
    return folder, started(folder, "thorough")


def require_close(one, other):
    for name, frame in tables(one).items():
        found = tables(other)[name]
        for column in frame.select_dtypes("number"):
            expected, got = frame[column].to_numpy(), found[column].to_numpy()
            largest = np.nanmax(np.abs(expected), initial=0)
            if column == "defect":  # <theta, g>, which cancels: at most |theta| |g|
                largest = np.sqrt(frame["magnitude"].max() * frame["grad_norm_sq"].max())
            bound = CLOSE * largest
            np.testing.assert_allclose(got, expected, rtol=0, atol=bound, err_msg=column)


def require_same(one, other):
    for name, frame in tables(one).items():
        pd.testing.assert_frame_equal(frame, tables(other)[name], check_exact=True)
    (_, first), *_ = checkpoints(RunDirectory.open(one))
    (_, second), *_ = checkpoints(RunDirectory.open(other))
    for content in (first, second):
        del content["config"]
    assert same(first, second)


def info(run):
    return RunDirectory.open(run).info()


def test_two_processes_train_what_one_does(quick):
    folder, starts = quick
    assert starts["two"]["statuses"] == [0, 0]
    require_close(folder / "one", folder / "two")
    assert (info(folder / "one").ranks, info(folder / "two").ranks) == (1, 2)


def test_only_the_first_process_prints(quick):
    one, two = (quick[1][name]["lines"] for name in ("one", "two"))
    assert len(one) == len(two) and sum("val loss" in line for line in two) == 5


def test_symmetries_hold_with_batch_norm_of_shares_of_unequal_size(quick):
    folder, starts = quick
    assert starts["local"]["statuses"] == [0, 0, 0]
    frame, whole = (tables(folder / name)["units"] for name in ("local", "one"))
    assert not np.allclose(frame["measured"], whole["measured"], rtol=1e-6, atol=0)
    for law in ("exact", "discrete"):
        scale = frame[frame["symmetry"] == "scale"]
        bound = EXACT if law == "exact" else 1e-3
        assert (scale[law] - scale["measured"]).abs().max() <= bound * scale["magnitude"].max()
    assert info(folder / "local").config.settings["train"]["batch_norm"] == "local"


def test_a_run_goes_on_bit_for_bit_after_one_of_its_processes_was_killed(quick):
    folder, starts = quick
    assert starts["killed"]["statuses"] == [1, -9]
    (line,) = [line for line in starts["killed"]["lines"] if line.startswith("symrun: ")]
    assert "a process of this run was lost" in line
    assert line.endswith("torchrun --nproc-per-node 2 -m symrun resume killed")
    assert starts["killed goes on"]["statuses"] == [0, 0]
    require_same(folder / "two", folder / "killed")


def test_a_signal_to_any_process_stops_all_and_fewer_go_on(quick):
    folder, starts = quick
    assert starts["stopped"]["statuses"] == [75, 75]
    assert "stopped by SIGUSR1 after step 6, and saved" in starts["stopped"]["lines"][-1]
    resumed = starts["stopped goes on"]
    assert resumed["statuses"] == [0]
    assert "not the same bits: on 1 process now, on 2 before" in " ".join(resumed["lines"])
    require_close(folder / "one", folder / "stopped")
    assert info(folder / "stopped").ranks == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wrong", "optim.lr must be > 0, got -1.0"),
        (
            "few",
            "train.batch_size must be >= 8 for 4 processes and train.batch_norm=local, got 7",
        ),
        ("no_data", "there is no data here"),
        (
            "other_data",
            "process 1 has another data set: as many examples as process 0, with other contents: "
            "give all processes the same copy",
        ),
    ],
)
def test_wrong_settings_are_one_line(name, reason, quick):
    folder, starts = quick
    assert starts[name]["lines"] == [f"symrun: {reason}"]
    assert set(starts[name]["statuses"]) == {2}
    assert not (folder / name).exists()


def test_a_failure_of_one_process_is_one_line_of_the_first(quick):
    folder, starts = quick
    for name, reason in (
        ("no_room", "no_room cannot be written: No space left on device: make room there"),
        ("bug", "a process of this run was lost: RuntimeError: boom"),
        ("late_divergence", "not finite (nan or inf) at step 14"),
    ):
        assert starts[name]["statuses"] == [1, 1]
        (line,) = [line for line in starts[name]["lines"] if line.startswith("symrun: ")]
        assert reason in line
    assert info(folder / "late_divergence").status == "diverged"
    assert not (folder / "no_room").exists() and not (folder / "bug").exists()


def test_a_process_that_fails_alone_ends_a_sweep_at_once_whatever_failed_before(quick):
    _, starts = quick
    assert starts["second"]["statuses"] == [1, 1]
    first, second = [line for line in starts["second"]["lines"] if line.startswith("symrun: ")]
    assert "member 1 of 3 (train.batch_size=40): train.batch_size must be at most" in first
    assert "a process of this run was lost: RuntimeError: boom; go on from" in second
    assert starts["second"]["seconds"] < 30  # others wait 5 minutes for one that says nothing


def test_a_signal_to_one_process_after_the_last_update_ends_the_sweep_in_all(quick):
    folder, starts = quick
    assert starts["late"]["statuses"] == [130, 130]
    assert starts["late"]["lines"][-1] == "symrun: interrupted"
    (run,) = [path for path in (folder / "outputs" / "late").iterdir() if path.name[0] != "."]
    assert info(run).status == "finished"


@pytest.mark.slow
def test_any_number_of_processes_takes_over(thorough):
    folder, starts = thorough
    for name in ("two", "four", "first", "alone", "full"):
        require_close(folder / "one", folder / name)
    assert starts["first"]["statuses"] == [-9, 1]
    assert starts["first"]["lines"][-1].endswith("--nproc-per-node 2 -m symrun resume first")
    assert info(folder / "first").ranks == 4


@pytest.mark.slow
def test_dropout_goes_on_bit_for_bit(thorough):
    folder, starts = thorough
    assert starts["masks killed"]["statuses"].count(-9) == 1
    require_same(folder / "masks", folder / "masks_killed")


@pytest.mark.slow
def test_a_full_disk_ends_all_processes(thorough):
    folder, starts = thorough
    assert starts["full"]["statuses"] == [1, 1]
    (line,) = [line for line in starts["full"]["lines"] if line.startswith("symrun: ")]
    assert "no room" in line
    require_same(folder / "two", folder / "full")


@pytest.mark.slow
def test_a_run_with_local_batch_norm_belongs_to_its_number_of_processes(thorough):
    folder, starts = thorough
    assert starts["local elsewhere"]["statuses"] == [2]
    assert "on 1 process now, on 2 before: --anyway" in starts["local elsewhere"]["lines"][-1]
    require_same(folder / "local", folder / "local_stopped")


@pytest.mark.slow
def test_divergence_ends_all_processes(thorough):
    folder, starts = thorough
    assert starts["diverged"]["statuses"] == [1, 1]
    assert info(folder / "diverged").status == "diverged"
    assert starts["compile"]["lines"][0].endswith("needs a single process, got 2: leave it out")


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
def test_shares_are_the_batches_of_one_process(shares):
    dataset = synthetic_textures(2, 8, 23, 11, 0)
    device = torch.device("cpu")

    def batches(share, count):
        return Batches(dataset, 7, 3, device, torch.float64, share=share, shares=count, least=count)

    def joined(pieces):
        return torch.cat([images for images, _ in pieces]), [len(labels) for _, labels in pieces]

    whole = batches(0, 1)
    parts = [batches(place, shares) for place in range(shares)]
    for split in (lambda one: one.epoch(2), lambda one: one.validation()):
        for expected, *pieces in zip(split(whole), *map(split, parts), strict=False):
            images, sizes = joined(pieces)
            assert torch.equal(images, expected[0])
            assert max(sizes) - min(sizes) <= 1
    assert [parts[0].size(step) for step in range(5)] == (
        [7, 7, 7, 2, 7] if shares < 3 else [7] * 5
    )
    assert parts[0].left_out == (0 if shares < 3 else 2)


def test_a_layer_that_stands_twice_in_a_network_is_synchronised_in_both_places():
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(norm, nn.Sequential(nn.ReLU(), norm), norm)
    made = synchronised(model, torch.device("cpu"))
    assert isinstance(made[0], SyncBatchNorm)
    assert made[0] is made[1][1] and made[0] is made[2]


class Scaled(nn.BatchNorm1d):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def test_batch_norm_that_does_more_than_torchs_own_is_refused():
    hooked = nn.BatchNorm1d(3)
    hooked.register_forward_hook(lambda *details: None)
    for layer, reason in ((Scaled(3), "a class of its own, Scaled"), (hooked, "hooks")):
        with pytest.raises(UsageError, match=f"^1 has {reason}: .*train.batch_norm=local$"):
            synchronised(nn.Sequential(nn.Linear(3, 3), layer), torch.device("cpu"))


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 4, 5)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_process_alone_has_batch_norm_as_torch_has_it(shape, affine, momentum):
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    theirs = kind(3, affine=affine, momentum=momentum).double()
    ours = synchronised(kind(3, affine=affine, momentum=momentum).double(), torch.device("cpu"))
    assert isinstance(ours, SyncBatchNorm)
    found = []
    for layer in (theirs, ours):
        torch.manual_seed(0)
        inputs = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for _ in range(2):
            (layer(inputs) ** 3).sum().backward()
        found.append([inputs.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))

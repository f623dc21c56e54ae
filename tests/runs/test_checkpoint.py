"""Saved weights: read back as they were, or one clear line."""

from random import Random

import pytest
import torch
from mutations import mutated

from symrun.errors import RunError, UsageError
from symrun.runs.checkpoint import latest_weights, save_checkpoint
from symrun.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "")


def save_weights(run, step, weights, keep=5):
    save_checkpoint(run, step, {"model": weights}, keep)


WEIGHTS = {"layer.weight": torch.randn(20, 30), "layer.batches": torch.tensor(7)}


def test_what_was_saved_after_the_most_updates_comes_back_as_it_was(run):
    assert latest_weights(run) is None
    save_weights(run, 9, {})
    save_weights(run, 10, WEIGHTS)
    step, weights = latest_weights(run)
    assert step == 10 and list(weights) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert weights[name].dtype == value.dtype and torch.equal(weights[name], value)
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == [
        "step-10.pt",
        "step-9.pt",
    ]


def test_saving_again_replaces(run):
    save_weights(run, 10, {})
    save_weights(run, 10, WEIGHTS)
    assert len(latest_weights(run)[1]) == 2


def test_other_files_are_passed_over(run):
    save_weights(run, 10, WEIGHTS)
    for name in (".step-99.pt", "step-99.pt.part", "step-099.pt", "step--99.pt"):
        (run.checkpoints / name).touch()
    assert latest_weights(run)[0] == 10


def flipped(content):
    """One bit of a weight: the archive is whole, and torch alone would not notice."""
    place = content.index(WEIGHTS["layer.weight"].numpy().tobytes()) + 100
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [flipped, lambda content: content[:-1], lambda content: content[:500], lambda _: b"",
     lambda _: b"\xff\xfe"],
    ids=["bit", "end", "half", "empty", "noise"],
)  # fmt: skip
def test_a_damaged_file_is_one_clear_line(run, damage):
    save_weights(run, 10, WEIGHTS)
    path = run.checkpoints / "step-10.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"step-10\.pt is damaged") as caught:
        latest_weights(run)
    assert "\n" not in str(caught.value)


class Harmful:
    def __reduce__(self):
        return print, ("this code was run",)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.ones(1)}, {"a": Harmful()}])
def test_what_holds_no_weights_is_refused_and_never_run(run, content, capsys):
    save_weights(run, 10, content)
    with pytest.raises(UsageError, match="no weights|is damaged"):
        latest_weights(run)
    assert capsys.readouterr().out == ""


def test_a_file_that_cannot_be_opened_says_why(run):
    (run.checkpoints / "step-10.pt").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        latest_weights(run)


def test_a_disk_that_refuses_is_one_clear_line_and_leaves_nothing(run, monkeypatch):
    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"step-10\.pt cannot be written") as caught:
        save_weights(run, 10, WEIGHTS)
    assert "\n" not in str(caught.value) and list(run.checkpoints.iterdir()) == []


def test_the_last_ones_are_kept(run):
    for step in (3, 20, 100):
        save_weights(run, step, WEIGHTS, keep=2)
    assert run.checkpointed() == [100, 20]


def test_a_checkpoint_of_another_version_or_step_is_refused(run):
    save_checkpoint(run, 10, {"model": WEIGHTS, "schema": 99}, keep=2)
    with pytest.raises(UsageError, match="has schema 99"):
        latest_weights(run)
    save_checkpoint(run, 10, {"model": WEIGHTS, "step": 11}, keep=2)
    with pytest.raises(UsageError, match="another step"):
        latest_weights(run)


@pytest.mark.parametrize("count", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_mutated_checkpoints_are_read_as_they_were_or_refused(run, count):
    save_weights(run, 10, WEIGHTS)
    path, random = run.checkpoint(10), Random(0)
    content, refused = path.read_bytes(), 0
    for _ in range(count):
        path.write_bytes(mutated(content, random))
        try:
            step, weights = latest_weights(run)
        except UsageError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert step == 10 and weights.keys() == WEIGHTS.keys()
            assert all(torch.equal(weights[name], value) for name, value in WEIGHTS.items())
    assert count * 0.8 < refused

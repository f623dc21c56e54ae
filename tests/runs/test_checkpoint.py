"""Saved weights: read back as they were, or one clear line."""

import pytest
import torch

from symrun.errors import RunError, UsageError
from symrun.runs.checkpoint import latest_weights, save_weights
from symrun.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "")


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
        "weights-10.pt",
        "weights-9.pt",
    ]


def test_saving_again_replaces(run):
    save_weights(run, 10, {})
    save_weights(run, 10, WEIGHTS)
    assert len(latest_weights(run)[1]) == 2


def test_other_files_are_passed_over(run):
    save_weights(run, 10, WEIGHTS)
    for name in (".weights-99.pt", "weights-99.pt.part", "weights-099.pt", "weights--99.pt"):
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
    path = run.checkpoints / "weights-10.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"weights-10\.pt is damaged") as caught:
        latest_weights(run)
    assert "\n" not in str(caught.value)


class Harmful:
    def __reduce__(self):
        return print, ("this code was run",)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.ones(1)}, {"a": Harmful()}])
def test_what_holds_no_weights_is_refused_and_never_run(run, content, capsys):
    run.checkpoints.mkdir()
    torch.save(content, run.checkpoints / "weights-10.pt")
    with pytest.raises(UsageError, match="holds no weights"):
        latest_weights(run)
    assert capsys.readouterr().out == ""


def test_a_file_that_cannot_be_opened_says_why(run):
    (run.checkpoints / "weights-10.pt").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        latest_weights(run)


def test_a_disk_that_refuses_is_one_clear_line_and_leaves_nothing(run, monkeypatch):
    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"weights-10\.pt cannot be written") as caught:
        save_weights(run, 10, WEIGHTS)
    assert "\n" not in str(caught.value) and list(run.checkpoints.iterdir()) == []

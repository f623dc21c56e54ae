"""Blocks of a text: the characters as they are, each once an epoch, the next one as the label."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from symrun.cli import main
from symrun.data import Batches, TextDataset, load
from symrun.data.registry import TextConfig
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.training.plan import Plan
from symrun.training.setup import prepare

TEXT = "".join(Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=400)) + "Zoë"
LENGTH = 8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "novel$.txt"
    path.write_bytes(TEXT.encode())
    return path


def loaded(file: Path, length: int = LENGTH, val_share: float = 0.1) -> TextDataset:
    data = load(TextConfig("text", file, length, val_share))
    assert isinstance(data, TextDataset)
    return data


def batches(data: TextDataset, seed: int = 0, batch_size: int = 5) -> Batches:
    return Batches(data, batch_size, seed, torch.device("cpu"), torch.float32)


def written(ids: torch.Tensor) -> str:
    """The text whose ids these are: they number the characters of the file in order."""
    vocabulary = sorted(set(TEXT))
    return "".join(vocabulary[number] for number in ids.tolist())


def epoch(made: Batches, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = zip(*made.epoch(number), strict=True)
    return torch.cat(inputs), torch.cat(labels)


def test_data_set_is_what_the_file_holds(file: Path) -> None:
    data = loaded(file)
    assert (data.title, data.synthetic, data.classes) == ("novel.txt", False, len(set(TEXT)))
    assert data.shape == (LENGTH,) and data.train_ids.dtype == torch.uint8
    split = len(TEXT) - round(0.1 * len(TEXT))
    assert written(data.train_ids) == TEXT[:split]
    assert written(data.val.inputs.flatten()) == TEXT[split : split + data.val.inputs.numel()]
    assert len(data.train.labels) == split // LENGTH - 1


def test_an_epoch_is_a_stretch_of_the_text_cut_into_blocks_and_shuffled(file: Path) -> None:
    """Against the plain text: each block once, no gaps, labels one further."""
    data = loaded(file)
    made, offsets = batches(data), set()
    for number in range(1, 30):
        inputs, labels = epoch(made, number)
        assert inputs.dtype == labels.dtype == torch.int64 and len(inputs) == len(data.train.labels)
        assert torch.equal(inputs[:, 1:], labels[:, :-1])
        # The blocks lie at offset + n * length; their order tells them apart, as no two are equal.
        texts = (written(torch.cat([x, y[-1:]])) for x, y in zip(inputs, labels, strict=True))
        places = [TEXT.index(text) for text in texts]
        first = min(places)
        assert places != sorted(places)
        assert sorted(places) == list(range(first, first + LENGTH * len(places), LENGTH))
        offsets.add(first)
    # One of 8 is missing after 29 epochs with a probability of 8 (7/8)^29 < 0.17, most are there.
    assert offsets <= set(range(LENGTH)) and len(offsets) >= 5


def test_an_epoch_depends_on_seed_and_epoch_alone(file: Path) -> None:
    data = loaded(file)
    inputs, _ = epoch(batches(data), 3)
    assert torch.equal(epoch(batches(data, batch_size=9), 3)[0], inputs)
    assert not torch.equal(epoch(batches(data, seed=1), 3)[0], inputs)
    assert torch.equal(torch.cat([x for x, _ in batches(data).epoch(3, 2)]), inputs[10:])


def test_validation_is_the_end_of_the_text_in_order(file: Path) -> None:
    made = batches(loaded(file))
    inputs, labels = (torch.cat(part) for part in zip(*made.validation(), strict=True))
    end = TEXT[len(TEXT) - round(0.1 * len(TEXT)) :]
    assert written(inputs.flatten()) == end[: inputs.numel()]
    assert written(labels.flatten()) == end[1 : inputs.numel() + 1]
    assert len(made.val_labels) == len(inputs)


def test_an_example_is_ids(file: Path) -> None:
    example = loaded(file).example(2, torch.float64)
    assert example.shape == (2, LENGTH) and example.dtype == torch.int64 and not example.any()


@pytest.mark.parametrize(
    ("characters", "kind"),
    [(256, torch.uint8), (257, torch.int16), (2**15, torch.int16), (2**15 + 1, torch.int32)],
)
def test_ids_are_as_small_as_the_vocabulary_allows(
    tmp_path: Path, characters: int, kind: torch.dtype
) -> None:
    (tmp_path / "all").write_text("".join(map(chr, range(10**5, 10**5 + characters))) * 2)
    data = loaded(tmp_path / "all")
    assert data.train_ids.dtype == kind and data.classes == characters
    assert data.train_ids[:characters].long().tolist() == list(range(characters))


def test_characters_are_kept_as_they_are(tmp_path: Path) -> None:
    """Carriage returns, too, which a file opened as text would lose."""
    (tmp_path / "dos").write_bytes(b"a\r\nb" * 100)
    assert loaded(tmp_path / "dos").classes == 4


def test_the_digest_is_of_the_content(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(TEXT)
    assert loaded(other).digest == loaded(file).digest
    other.write_text(TEXT[:-1] + "e")
    assert loaded(other).digest != loaded(file).digest


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("naïve".encode("latin1") * 100)
    (tmp_path / "short").write_text("abcdefgh" * 3)
    (tmp_path / "empty").write_text("")
    for name, message in {
        "nowhere": "does not exist: name a text file",
        "": "is no file: name a text file",
        "latin": "is not text in UTF-8 (byte 2): convert it",
        "short": "has 22 characters for training and 2 for validation, but data.length=8 needs 24 "
        "and 9: lower it",
        "empty": "has 0 characters for training",
    }.items():
        with pytest.raises(UsageError) as error:
            loaded(tmp_path / name)
        (line,) = str(error.value).splitlines()
        assert line.startswith(f"data.root={tmp_path / name} ") and message in line


@pytest.mark.parametrize(("characters", "val_share"), [(240, 0.1), (34, 0.28), (33, 0.28)])
def test_the_least_that_is_enough(tmp_path: Path, characters: int, val_share: float) -> None:
    """The last block of an epoch from the last offset has its last label."""
    (tmp_path / "text").write_text("ab" * (characters // 2) + "c" * (characters % 2))
    data = loaded(tmp_path / "text", 8, val_share)
    count = len(data.train.labels)
    assert (count + 1) * 8 <= len(data.train_ids) < (count + 2) * 8
    for number in range(40):
        inputs, _ = epoch(batches(data, batch_size=2), number)
        assert 2 * (count // 2) <= len(inputs) <= count and np.isin(inputs, [0, 1, 2]).all()


def test_a_text_is_prepared_ahead_of_time(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "data=text", f"data.root={file}", "data.length=8"]) == 0
    expected = f"novel.txt: 44 + 4 blocks of {len(set(TEXT))} characters, 8 at a time: ready\n"
    assert capfd.readouterr().out == expected


def test_a_network_for_images_refuses_text(file: Path) -> None:
    config = compose(["data=text", f"data.root={file}", "data.length=8", "device=cpu"])
    with pytest.raises(UsageError, match="^data must be images for model=vgg16_bn, got text$"):
        prepare(Plan.of(config), load(config.data))

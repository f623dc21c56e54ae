"""CIFAR and MNIST by way of torchvision: the pixels of small files that were made up here."""

import gzip
import pickle
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from symrun.cli import main
from symrun.data import ImageDataset, load
from symrun.data.registry import DATA_SETS, Augment
from symrun.errors import UsageError

datasets = pytest.importorskip("torchvision.datasets")

CIFAR = ["cifar10", "cifar100"]
MNIST = ["mnist", "fashion_mnist"]
KINDS = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
}
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


def noise(seed: int, count: int, *shape: int) -> Arrays:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    return pixels, random.integers(0, 10, count)


def make_cifar(name: str, root: Path) -> tuple[Arrays, Arrays]:
    """Pickles as the official archive has them; what is in the batches, one after the other."""
    kind, made = KINDS[name], {}
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for seed, (file, _) in enumerate([*kind.train_list, *kind.test_list]):
        pixels, labels = noise(seed, 4, 3, 32, 32)
        key = "labels" if name == "cifar10" else "fine_labels"
        content = {"data": pixels.reshape(4, -1), key: labels.tolist()}
        (folder / file).write_bytes(pickle.dumps(content))
        made[file] = pixels, labels
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["a"]}))
    *train, val = made.values()
    return (np.concatenate([p for p, _ in train]), np.concatenate([n for _, n in train])), val


def make_mnist(name: str, root: Path) -> tuple[Arrays, Arrays]:
    folder = root / KINDS[name].__name__ / "raw"
    folder.mkdir(parents=True)
    made = []
    for seed, split in enumerate(("train", "t10k")):
        pixels, labels = noise(seed, 5 - seed, 28, 28)
        for kind, array in (("images", pixels), ("labels", labels.astype(np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            file = folder / f"{split}-{kind}-idx{array.ndim}-ubyte"
            file.write_bytes(header + array.tobytes())
        made.append((pixels[:, None], labels))
    return made[0], made[1]


def make(name: str, root: Path) -> tuple[Arrays, Arrays]:
    return (make_cifar if name in CIFAR else make_mnist)(name, root)


@pytest.fixture(autouse=True)
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made up has other checksums than the official files: those that exist count."""
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file()
    )


def loaded(name: str, root: Path | None, cache: Path, **settings: Any) -> ImageDataset:
    data = load(DATA_SETS[name].settings(name, root, cache, **settings))  # type: ignore[call-arg]
    assert isinstance(data, ImageDataset)
    return data


def refusal(name: str, root: Path | None, cache: Path) -> str:
    with pytest.raises(UsageError) as error:
        loaded(name, root, cache)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize("name", KINDS)
def test_images_and_labels_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    train, val = make(name, tmp_path)
    data = loaded(name, tmp_path, tmp_path / "cache")
    for split, (pixels, labels) in ((data.train, train), (data.val, val)):
        assert torch.equal(split.inputs, torch.from_numpy(pixels)) and split.inputs.is_contiguous()
        assert torch.equal(split.labels, torch.from_numpy(labels))
    assert data.classes == DATA_SETS[name].classes and not data.synthetic
    assert data.shape[-1] == DATA_SETS[name].image_size(None)
    assert len(data.mean) == len(data.std) == data.shape[0]
    assert (data.flip, data.crop_padding) == ((True, 4) if name in CIFAR else (False, 0))
    assert not (tmp_path / "cache").exists()


def test_settings_are_followed(tmp_path: Path) -> None:
    make("mnist", tmp_path)
    settings = {"mean": (0.5,), "std": (0.25,), "augment": Augment.crop, "crop_padding": 2}
    data = loaded("mnist", tmp_path, tmp_path, **settings)
    assert (data.mean, data.std, data.flip, data.crop_padding) == ((0.5,), (0.25,), False, 2)


def test_the_digest_is_of_images_and_labels(tmp_path: Path) -> None:
    make("mnist", tmp_path)
    first = loaded("mnist", tmp_path, tmp_path).digest
    assert loaded("mnist", tmp_path, tmp_path).digest == first
    labels = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
    assert loaded("mnist", tmp_path, tmp_path).digest != first


def plays_the_server(monkeypatch: pytest.MonkeyPatch, name: str, act: Any) -> None:
    """`act(root)` stands for what torchvision downloads and unpacks."""
    monkeypatch.setattr(KINDS[name], "download", lambda self: act(Path(self.root)))


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_without_root_the_files_are_downloaded_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[Path] = []

    def download(root: Path) -> None:
        downloads.append(root)
        make(name, root)
        (root / "archive.tar.gz").write_bytes(gzip.compress(b"unpacked already"))

    plays_the_server(monkeypatch, name, download)
    first = loaded(name, None, tmp_path)
    assert loaded(name, None, tmp_path).digest == first.digest and len(downloads) == 1
    assert {path.name for path in tmp_path.iterdir()} == {name, f".{name}.lock"}
    assert not list(tmp_path.rglob("*.gz"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), None),
        (
            URLError("no route"),
            "the download of MNIST failed (<urlopen error no route>): run again",
        ),
        (RuntimeError("a\nb"), "(a b): run again, or give data.root=DIR with MNIST/raw/ in it"),
        (TimeoutError(), "the download of MNIST failed (TimeoutError): run again"),
        (OSError(28, "x"), "MNIST cannot be stored in data.cache={tmp}: No space left on device"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    error: BaseException, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(root: Path) -> None:
        make("mnist", root)
        raise error

    plays_the_server(monkeypatch, "mnist", download)
    if message is None:
        with pytest.raises(KeyboardInterrupt):
            loaded("mnist", None, tmp_path)
    else:
        assert message.format(tmp=tmp_path) in refusal("mnist", None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mnist.lock"]


def test_files_that_are_not_those_are_refused(tmp_path: Path) -> None:
    expected = "does not hold CIFAR-10 in cifar-10-batches-py/ as torchvision has it"
    remedy = "(Dataset not found or corrupted.): leave data.root out to download it"
    line = refusal("cifar10", tmp_path, tmp_path)
    assert line == f"data.root={tmp_path} {expected} {remedy}"
    make("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py/data_batch_3").write_bytes(b"no pickle")
    assert "does not hold CIFAR-10" in refusal("cifar10", tmp_path, tmp_path)


@pytest.mark.parametrize("spoil", [lambda c: c[:-1], lambda c: c[:8], lambda c: c[:-1] + b"\x0b"])
def test_damaged_labels_are_refused(tmp_path: Path, spoil: Any) -> None:
    make("mnist", tmp_path)
    labels = tmp_path / "MNIST/raw/train-labels-idx1-ubyte"
    labels.write_bytes(spoil(labels.read_bytes()))
    assert refusal("mnist", tmp_path, tmp_path).startswith(
        f"data.root={tmp_path} does not hold MNIST in MNIST/raw/"
    )


def test_without_torchvision_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    line = refusal("cifar100", tmp_path, tmp_path)
    assert line.startswith("data=cifar100 needs torchvision, which cannot be imported (")
    assert line.endswith("): pip install torchvision")


def test_images_that_the_model_could_not_take_are_prepared(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make("mnist", tmp_path)
    assert main(["data", "prepare", "data=mnist", f"data.root={tmp_path}"]) == 0
    assert capfd.readouterr().out == "MNIST: 5 + 4 images of 10 classes, 28x28, grey: ready\n"

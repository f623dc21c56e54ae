"""Many images are decoded by several processes: the same bytes, the same errors, nobody left."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from symrun.data import decoding, jpeg, load
from symrun.data.decoding import all_pixels, pixels
from symrun.data.registry import TinyImageNetConfig
from symrun.data.source import Source
from symrun.errors import RunError, UsageError

MODES = ("RGB", "L", "CMYK")


def photograph(seed: int) -> bytes:
    """Noise. Of every third image Pillow warns, since it only begins like a file of several."""
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).convert(MODES[seed % 5 % 3]).save(file, "JPEG")
    content = file.getvalue()
    return content if seed % 3 else content[:2] + b"\xff\xe2\x00\x08MPF\0??" + content[2:]


CONTENTS = {f"{seed}.JPEG": photograph(seed) for seed in range(10, 68)}
NAMES = list(CONTENTS)


def source(contents: dict[str, bytes]) -> Source:
    """One without a folder; the content b"missing" cannot be read."""

    def content(name: str) -> bytes:
        if contents[name] == b"missing":
            raise OSError("it is gone")
        return contents[name]

    return Source({name: (0, 0) for name in contents}, "here/", content)


def tiny_imagenet(folder: Path, contents: dict[str, bytes], archived: bool) -> Path:
    """A folder or a zip of two classes; every seventh image is for validation, too."""
    root = folder / "tiny-imagenet-200"
    annotations = root / "val/val_annotations.txt"
    for number, (name, content) in enumerate(contents.items()):
        wnid = f"n{2 * number // len(contents)}"
        for images in (f"train/{wnid}/images", "val/images")[: 1 + (number % 7 == 0)]:
            (root / images).mkdir(parents=True, exist_ok=True)
            (root / images / name).write_bytes(content)
        if number % 7 == 0:
            with open(annotations, "a") as file:
                file.write(f"{name}\t{wnid}\n")
    if not archived:
        return root
    with zipfile.ZipFile(folder / "some.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in root.rglob("*"):
            archive.write(path, path.relative_to(folder))
    shutil.rmtree(root)
    return folder / "some.zip"


def decoded_files(root: Path, cache: Path) -> dict[str, bytes]:
    load(TinyImageNetConfig("tiny_imagenet", root, cache))
    (folder,) = cache.glob("tiny_imagenet-*")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kept(cache: Path) -> list[str]:
    """All that lies in the cache, save the lock."""
    return [path.name for path in cache.iterdir() if path.name != ".tiny_imagenet.lock"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes, as they are started."""
    processes: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)
    return processes


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many processes there are; each gets four images at a time."""
    monkeypatch.setattr(decoding, "_CHUNK", 4)
    return lambda count: monkeypatch.setattr(decoding, "_process_count", lambda _: count)


Use = Callable[[int], None]
Started = list[subprocess.Popen[bytes]]


def none_left(started: Started) -> bool:
    """All have ended, and have been waited for."""
    return all(process.returncode is not None for process in started)


@pytest.mark.parametrize("archived", [False, True])
def test_files_are_the_same_for_any_number_of_processes(
    tmp_path: Path,
    archived: bool,
    use: Use,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever the surroundings ask of Python, too; and nobody hears of odd images."""
    root = tiny_imagenet(tmp_path, CONTENTS, archived)
    alone = decoded_files(root, tmp_path / "alone")
    assert started == []
    monkeypatch.setenv("PYTHONWARNINGS", "always")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.setattr(sys, "path", [*sys.path, Path("no text: Python passes over it")])
    for count in (1, 2, 3, 7):
        use(count)
        assert decoded_files(root, tmp_path / f"{count}") == alone
        assert len(started) == count and none_left(started)
        started.clear()
    assert "MPO" not in capfd.readouterr().err


def test_pixels_are_those_of_numpy() -> None:
    for name, content in CONTENTS.items():
        with Image.open(BytesIO(content.replace(b"MPF", b"???"))) as image:
            expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1).tobytes()
        assert pixels(source(CONTENTS), name) == expected


def test_files_far_larger_than_a_pipe_holds(use: Use) -> None:
    use(3)
    large = {name: content.ljust(2**20, b"\0") for name, content in islice(CONTENTS.items(), 26)}
    expected = [pixels(source(CONTENTS), name) for name in large]
    assert list(all_pixels(source(large), list(large))) == expected


def test_little_is_read_ahead(use: Use) -> None:
    read: list[str] = []

    def content(name: str) -> bytes:
        read.append(name)
        return CONTENTS[name]

    use(3)
    images = all_pixels(Source({name: (0, 0) for name in NAMES}, "", content), NAMES)
    for number, _ in enumerate(images):
        assert len(read) - number <= 4 * (3 + 1)
    assert read == NAMES


@pytest.mark.parametrize("damage", [photograph(1)[:-9], b"", b"missing"])
@pytest.mark.parametrize("place", [0, 41, 57])
def test_damaged_image_is_told_in_its_turn(
    damage: bytes, place: int, use: Use, started: Started
) -> None:
    """What comes before it comes, and what is wrong behind it is not spoken of."""
    damaged = source(CONTENTS | {NAMES[place]: damage, NAMES[-1]: b"missing"})
    with pytest.raises(UsageError) as alone:
        [pixels(damaged, name) for name in NAMES]
    use(3)
    came = 0
    with pytest.raises(UsageError) as error:
        for _ in all_pixels(damaged, NAMES):
            came += 1
    assert str(error.value) == str(alone.value)
    assert str(error.value).startswith(f"here/{NAMES[place]} ")
    assert came == place and len(started) == 3 and none_left(started)


@pytest.mark.parametrize("archived", [False, True])
def test_damaged_image_leaves_nothing(
    tmp_path: Path, archived: bool, use: Use, started: Started
) -> None:
    root = tiny_imagenet(tmp_path, CONTENTS | {NAMES[50]: b"no JPEG"}, archived)
    use(2)
    with pytest.raises(UsageError) as error:
        decoded_files(root, tmp_path / "cache")
    problem = "is not a JPEG or PNG of 64x64 pixels, or is damaged or cut short"
    name = f"train/n1/images/{NAMES[50]}"
    assert f"tiny-imagenet-200/{name} {problem}" in str(error.value)
    assert kept(tmp_path / "cache") == []
    assert len(started) == 2 and none_left(started)


def test_image_that_a_process_fails_at_is_decoded_all_the_same(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of memory, say: the program has room for the image when it is asked itself."""
    receive = jpeg.receive
    monkeypatch.setattr(jpeg, "receive", lambda stream: [b"" for _ in receive(stream)])
    use(2)
    expected = [pixels(source(CONTENTS), name) for name in NAMES]
    assert list(all_pixels(source(CONTENTS), NAMES)) == expected


def test_out_of_memory_passes(use: Use, started: Started) -> None:
    def content(name: str) -> bytes:
        if name == NAMES[30]:
            raise MemoryError
        return CONTENTS[name]

    use(2)
    with pytest.raises(MemoryError):
        list(all_pixels(Source({name: (0, 0) for name in NAMES}, "", content), NAMES))
    assert len(started) == 2 and none_left(started)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_process_is_one_line(
    number: signal.Signals, victim: int, use: Use, started: Started
) -> None:
    use(2)
    images = all_pixels(source(CONTENTS), NAMES)
    next(images)
    started[victim].send_signal(number)
    started[victim].wait()
    with pytest.raises(RunError) as error:
        list(images)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"a process that decodes images ended early (signal {number:d}, ")
    assert none_left(started)


def test_process_that_does_not_move_is_ended(use: Use, started: Started) -> None:
    """And none is in the group of this one, so that a Ctrl-C of a terminal goes past them."""
    use(2)
    images = all_pixels(source(CONTENTS), NAMES)
    next(images)
    assert {os.getpgid(process.pid) for process in started} == {each.pid for each in started}
    for process in started:
        process.send_signal(signal.SIGSTOP)
    closing = Thread(target=images.close, daemon=True)
    closing.start()
    closing.join(timeout=30)
    for process in started:
        process.send_signal(signal.SIGCONT)
    assert not closing.is_alive() and none_left(started)


def test_full_disk_leaves_nothing(tmp_path: Path, use: Use, started: Started) -> None:
    root = tiny_imagenet(tmp_path, CONTENTS, archived=False)
    use(2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30 * 64 * 64 * 3, hard))
    try:
        with pytest.raises(UsageError) as error:
            decoded_files(root, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written: File too large" in str(error.value)
    assert kept(tmp_path / "cache") == []
    assert len(started) == 2 and none_left(started)


def test_process_that_cannot_start_is_one_line(
    tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no fault of the cache, as another error of the system would be."""
    use(2)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    root = tiny_imagenet(tmp_path, CONTENTS, archived=False)
    with pytest.raises(RunError, match="^no process to decode images can be started: .*python"):
        decoded_files(root, tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from tqdm import tqdm
from symrun.cli import exit_code
from symrun.data.registry import TinyImageNetConfig
from symrun.data import decoded, decoding, load
print("once")
decoding._CHUNK = {chunk}
decoding._process_count = lambda images: 2
class Bar(tqdm):
    def update(self):
        if self.n == 30:
            {act}
        super().update()
decoded.bar = lambda title, total, unit: Bar(total=total)
config = TinyImageNetConfig("tiny_imagenet", Path({root!r}), Path({cache!r}))
sys.exit(exit_code("symrun", lambda: load(config).classes))
"""


def script(folder: Path, act: str, chunk: int = 4) -> subprocess.CompletedProcess[str]:
    """A script on standard input, that loads two classes without a guard around it.

    It returns once nobody has the script's standard error open any more, not one of its processes.
    """
    root = tiny_imagenet(folder, CONTENTS, archived=False)
    cache = str(folder / "cache")
    code = SCRIPT.format(act=act, chunk=chunk, root=str(root), cache=cache)
    return subprocess.run(
        [sys.executable, "-"],
        input=code,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,  # a terminal's Ctrl-C is for all processes of a group
    )


def test_script_on_standard_input_runs_once(tmp_path: Path) -> None:
    done = script(tmp_path, "pass")
    assert (done.stdout, done.returncode) == ("once\n", 2)  # classes


def test_ctrl_c_leaves_nobody_and_nothing(tmp_path: Path) -> None:
    done = script(tmp_path, "os.killpg(0, signal.SIGINT)")
    assert done.returncode == 130
    assert done.stderr.endswith("symrun: interrupted\n") and "Traceback" not in done.stderr
    assert kept(tmp_path / "cache") == []


@pytest.mark.parametrize("chunk", [4, 8])
def test_killed_script_leaves_nobody(tmp_path: Path, chunk: int) -> None:
    """Whether its processes wait to be asked, or are held up since eight images fill a pipe."""
    done = script(tmp_path, "time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)", chunk)
    assert done.returncode == -signal.SIGKILL
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("images", "cores", "count"),
    [(60, 16, 0), (1999, 16, 0), (2000, 16, 2), (5500, 16, 5), (110_000, 2, 2), (110_000, 1, 0),
     (110_000, 16, 16), (110_000, 128, 16)],
)  # fmt: skip
def test_few_images_or_one_core_start_nobody(
    images: int, cores: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert decoding._process_count(images) == count
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert decoding._process_count(images) == count


def test_program_imports_nothing_slow() -> None:
    code = f"import runpy, sys; runpy.run_path({jpeg.__file__!r}); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert "PIL.Image" in modules and not {"torch", "numpy", "symrun"} & set(modules)

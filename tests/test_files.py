"""What `complete_or_absent` makes is whole, or is not there."""

import errno
import subprocess
import sys

import pytest

from symrun.errors import UsageError, refusal
from symrun.files import complete_or_absent, is_locked, locked, require_place


def test_a_file_is_there_once_it_is_whole(tmp_path):
    target = tmp_path / "new" / "file"
    with complete_or_absent(target) as draft:
        draft.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and list(target.parent.iterdir()) == [target]


def test_an_error_leaves_nothing_and_spares_the_old(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), complete_or_absent(target) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_of_two_folders_the_earlier_stays_but_a_file_never_passes_for_a_folder(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").touch()
    with complete_or_absent(tmp_path / "target") as draft:
        draft.mkdir()
        (draft / "yours").touch()
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["mine"]
    with pytest.raises(OSError), complete_or_absent(tmp_path / "target") as draft:
        draft.write_text("a file")


def test_a_file_needs_a_folder_that_exists(tmp_path):
    require_place("--out", tmp_path / "page.html")
    with pytest.raises(UsageError, match=r"^--out=.*x\.html: the folder .*nowhere does not exist"):
        require_place("--out", tmp_path / "nowhere" / "x.html")
    with pytest.raises(UsageError, match="is a folder: name a file in it"):
        require_place("--out", tmp_path)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (errno.ENOSPC, "No space left on device: make room"),
        (errno.EFBIG, "File too large: raise the limit on the size of files (ulimit -f)"),
        (errno.EROFS, "Read-only file system: choose a folder that you may write to"),
        (errno.ENOTDIR, "Not a directory: a file is in the way"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_refusal_says_why_and_what_to_do(code, line):
    assert refusal(OSError(code, "a page of another library's words\n" * 9)).startswith(line)
    try:
        try:
            raise OSError(code, "")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904
    except RuntimeError as error:
        assert refusal(error).startswith(line)


def test_a_lock_is_seen_by_others_and_left_alone(tmp_path):
    path = tmp_path / ".lock"
    assert not is_locked(path) and not path.exists()
    with locked(path, wait=False):
        assert is_locked(path)
    assert not is_locked(path)
    with locked(path, wait=False):  # looking took no lock that stays
        pass
    assert is_locked(tmp_path / ("x" * 300))  # nobody can tell


def test_an_output_that_is_full_is_one_line():
    code = "from symrun.cli import exit_code; exit(exit_code('me', lambda: print('x') or 0))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith(b"me: standard output: No space left on device: make room")
    assert done.stderr.count(b"\n") == 1

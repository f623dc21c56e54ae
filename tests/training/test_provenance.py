"""run.json says which code ran, wherever the code lies."""

import shutil
import subprocess
from pathlib import Path

import pytest

import symrun
from symrun.training.provenance import source_digest, source_revision

PACKAGE = Path(symrun.__file__).parent


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package, in place of the one that runs."""
    copy = shutil.copytree(PACKAGE, tmp_path / "copy" / "symrun")
    monkeypatch.setattr(symrun, "__file__", str(copy / "__init__.py"))
    return copy


def test_a_copy_without_git_says_what_it_was_told_or_the_digest_of_its_code(copied, monkeypatch):
    digest = f"{source_digest()} (digest of the code)"
    for given, expected in {
        None: digest,
        "  ": digest,
        "1a2b$": "1a2b$ (SYMRUN_REVISION)",
        "1a\n2b": r"1a\n2b (SYMRUN_REVISION)",
    }.items():
        if given is not None:
            monkeypatch.setenv("SYMRUN_REVISION", given)
        assert source_revision() == expected
    monkeypatch.delenv("SYMRUN_REVISION")
    for path in ("figures/fig1.py", "cli.py", "training/lifecycle.py"):  # they compute nothing
        (copied / path).write_text("")
    assert source_revision() == digest
    (copied / "laws" / "law.py").write_text("")
    assert source_revision() != digest


def test_a_checkout_says_its_commit_whatever_it_was_told(copied, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", str(copied.parent), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "all of it")
    monkeypatch.setenv("SYMRUN_REVISION", "1a2b")
    commit = git("rev-parse", "HEAD")
    assert source_revision() == commit
    (copied / "another.py").touch()
    assert source_revision() == f"{commit}-dirty"

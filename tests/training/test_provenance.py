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


COMPUTE = ["training/lifecycle.py", "training/__init__.py", "laws/law.py", "models/vgg.py"]
COMPUTE += ["tracking/kernel.py", "data/synthetic.py", "optimizers.py", "runs/writer.py"]


def test_the_digest_is_that_of_what_computes_and_records_a_run(copied):
    digest = source_digest()
    for path in ("figures/fig1.py", "cli.py", "launch.py", "report/page.py", "bench/step.py"):
        (copied / path).write_text("import somewhere.else_entirely")
    assert source_digest() == digest
    for path in COMPUTE:
        content = (copied / path).read_text()
        (copied / path).write_text(content + "\n# changed")
        assert source_digest() != digest, path
        (copied / path).write_text(content)


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

"""What is published: the wheel has all that it needs, and the source archive makes the same one."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import symrun

ROOT = Path(symrun.__file__).parent.parent


def built(source, kind, folder):
    """The archive of `kind` that hatchling makes from `source`."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What Git has of the project, so that nothing that lies about here is taken along."""
    folder = tmp_path_factory.mktemp("checkout") / "symrun"
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = listed.stdout.splitlines()
    for name in files:
        if not name.startswith(("docs/", "tests/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def test_wheel_and_source_archive(checkout, tmp_path):
    wheel = built(checkout, "wheel", tmp_path / "wheel")
    source = built(checkout, "sdist", tmp_path / "sdist")
    assert wheel.name == f"symrun-{symrun.__version__}-py3-none-any.whl"
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    again = built(tmp_path / f"symrun-{symrun.__version__}", "wheel", tmp_path / "again")
    assert again.read_bytes() == wheel.read_bytes()
    names = zipfile.ZipFile(wheel).namelist()
    package = {path.relative_to(checkout).as_posix() for path in checkout.glob("symrun/**/*.*")}
    presets = {
        f"symrun/{path.relative_to(checkout)}" for path in checkout.glob("configs/**/*.yaml")
    }
    assert package | presets <= set(names) and "symrun/py.typed" in names
    metadata = f"symrun-{symrun.__version__}.dist-info"
    assert {f"{metadata}/licenses/LICENSE", f"{metadata}/entry_points.txt"} <= set(names)
    folders = {name.split("/")[0] for name in names}
    assert folders == {"symrun", metadata}


def test_git_has_no_large_files():
    """Figures of up to 1 MB are the largest that belong there; a downloaded package is larger."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {path.name: path.stat().st_size for path in files if path.is_file()}
    assert sizes
    assert [name for name, size in sizes.items() if size > 2**21] == []


def test_version_in_citation_and_changelog():
    assert f"version: {symrun.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {symrun.__version__}" in (ROOT / "CHANGELOG.md").read_text()

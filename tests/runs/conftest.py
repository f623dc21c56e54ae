import pytest
from fsspec.implementations.memory import MemoryFileSystem

from symrun.runs import mirror


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """The memory store, empty, as is the folder of this test with its cache."""
    system = MemoryFileSystem()
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.01)
    yield system
    system.store.clear()

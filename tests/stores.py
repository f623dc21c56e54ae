"""Stores for tests: fsspec's own, in the memory of this process, with what may go wrong in one."""

import contextlib
import threading

from fsspec.implementations.memory import MemoryFileSystem

URL = "memory://bucket/mine"
SETTINGS = [
    *("model=vgg11_bn", "data=synthetic", "data.train_images=40", "data.val_images=20"),
    *("model.width=0.0625", "train.batch_size=16", "train.steps=8", "track.every=2"),
    *("device=cpu", "train.checkpoint_every=3", "train.checkpoint_keep=1"),
]


class Plain(MemoryFileSystem):
    """A file system on which a file may be seen half written, as over sftp."""

    protocol = ("plain",)
    store: dict = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("plain://", "memory://"))


def files_of(run):
    """The files of a run that belong into the store, by their names."""
    found = [run.run_json, *run.parts(), *map(run.checkpoint, run.checkpointed())]
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in found}


@contextlib.contextmanager
def failing(monkeypatch, times=None, error=None):
    """Writing to the memory store raises an error, the first times or until this is left."""
    left = [float("inf") if times is None else times]
    lock = threading.Lock()

    def refuse():
        with lock:
            left[0] -= 1
            if left[0] >= 0:
                raise error or OSError(101, "Network is unreachable")

    def around(method):
        def call(self, *arguments, **keywords):
            refuse()
            return method(self, *arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for name in ("put_file", "pipe_file", "find", "cat_file"):
            patch.setattr(MemoryFileSystem, name, around(getattr(MemoryFileSystem, name)))
        yield left

"""Which files of a folder are the same as in a store, and how they come from there."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from symrun.display import bar
from symrun.errors import UsageError
from symrun.files import complete_or_absent, locked
from symrun.remote.store import Store

NAME = ".remote.json"
_LOCK = ".remote.lock"
_AT_ONCE = 8
_LOOKS = 3
"""How often a folder is looked at again, of which a file went away while it was fetched."""

Stamp = tuple[int, int]
"""Modification time and size of a local file."""


class Copies:
    """A file of the folder, which remembers the state on both sides of each file that was sent or
    fetched. One that is missing or damaged only means that all is sent, or fetched, again.

    url: of the other side. token: of the last claim of it. listed: all names that a store had when
    files were fetched last, whether or not they were.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url: str | None = None
        self.token: str | None = None
        self.listed: list[str] = []
        self._known: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            content = json.loads((folder / NAME).read_bytes())
            self.url, self.token = content["url"], content["token"]
            self._known = {
                name: [*map(int, known[:2]), str(known[2])]
                for name, known in content["files"].items()
            }
            self.listed = list(content["listed"])

    def same(self, name: str, state: str | None) -> bool:
        """Whether the file is there, and as in the store, where its state is `state` now."""
        there = stamp(self._folder / name)
        return there is not None and self._known.get(name) == [*there, state]

    def state_of(self, name: str) -> object:
        """What the file had in the store when it was sent or fetched; None if it never was."""
        return self._known[name][2] if name in self._known else None

    def names(self) -> list[str]:
        return sorted(self._known)

    def note(self, name: str, here: Stamp, state: str) -> None:
        """The file that had the stamp `here` is the one that has `state` in the store."""
        self._known[name] = [*here, state]

    def forget(self, name: str) -> None:
        self._known.pop(name, None)

    def save(self) -> None:
        """Error: OSError."""
        draft = self._folder / f"{NAME}.new"
        content: dict[str, object] = {"url": self.url, "token": self.token, "listed": self.listed}
        content |= {"files": self._known}
        draft.write_text(json.dumps(content))
        draft.rename(self._folder / NAME)


def stamp(path: Path) -> Stamp | None:
    """None if the file is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def fetch(
    store: Store, listed: Mapping[str, str], folder: Path, first: str, wanted: Callable[[str], bool]
) -> None:
    """Bring `folder` up to date with a store: files that changed there are fetched, and files that
    are gone there are removed.

    listed: what `store.files()` said. first: the file that comes before all others, since it tells
    of them. wanted: which names to fetch.

    Error: StoreError; OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK, wait=True):
        copies = Copies(folder)
        copies.url = store.url
        for _ in range(_LOOKS):
            head = {first: listed[first]} if first in listed else {}
            if _missing(head, copies):
                _fetch_all(store, head, folder, copies)
                listed = store.files()  # all that it tells of is there by now
            for name in reversed(copies.names()):
                if name not in listed:
                    (folder / name).unlink(missing_ok=True)
                    copies.forget(name)
            others = {name: state for name, state in listed.items() if wanted(name)}
            whole = _fetch_all(store, others, folder, copies)
            copies.listed = sorted(listed)
            copies.save()
            if whole:
                return
            listed = store.files()
    raise UsageError(f"{store.url} changes faster than it can be fetched: try again")


def _missing(files: Mapping[str, str], copies: Copies) -> list[str]:
    return sorted(name for name, state in files.items() if not copies.same(name, state))


def _fetch_all(store: Store, files: Mapping[str, str], folder: Path, copies: Copies) -> bool:
    """False if one of the files was gone."""

    def fetched(name: str) -> bool:
        target = folder / name
        try:
            with complete_or_absent(target) as draft:
                store.get(name, draft)
        except FileNotFoundError:
            return False
        here = stamp(target)
        assert here is not None
        copies.note(name, here, files[name])
        shown.update()
        return True

    missing = _missing(files, copies)
    with (
        bar(f"fetching {store.url}", len(missing), "file", passing=True) as shown,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        return all(list(pool.map(fetched, missing)))

"""The numbers of runs that have ended, kept in the user's cache folder.

$XDG_CACHE_HOME/symrun/runs (~/.cache/symrun/runs) has a file for each run, named by the digest of
its path. It counts only while run.json, the parts of the tables and the code that judges them are
as they were. Where the cache cannot be read or written, tables are read again. What is old, or of a
run that is gone, is removed.
"""

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import symrun
from symrun.analysis import Agreement
from symrun.errors import UsageError
from symrun.listing.summary import Summary, described, with_tables
from symrun.places import cache
from symrun.runs.directory import TABLES, RunDirectory

_CODE = ("analysis/*.py", "laws/*.py", "listing/*.py", "runs/*.py", "schedule.py")

_KEPT_SECONDS = 90 * 24 * 3600


class Listed:
    """A run of a list, whose tables are read when they are asked for.

    described: what run.json says, and perhaps the tables too. It may be sent to another process.

    Error: UsageError if run.json cannot be read.
    Example: Listed(RunDirectory.open("outputs/mine")).summary.unexplained
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._state = _state(run)
        self._known = _read(run, self._state)
        self.described = self._known or described(run)

    @property
    def is_known(self) -> bool:
        """Whether the tables need not be read."""
        return self._known is not None

    @functools.cached_property
    def summary(self) -> Summary:
        """What run.json and the tables say."""
        if self._known is not None:
            return self._known
        whole = with_tables(self.run, self.described)
        if whole.has_ended and whole.unjudged is None:  # the disk may be well next time
            _write(self.run, self._state, whole)
        return whole


def listed(runs: Iterable[RunDirectory]) -> tuple[list[Listed], dict[str, str]]:
    """Those whose run.json can be read, and why others cannot, by path."""
    readable, refused = [], {}
    for run in runs:
        try:
            readable.append(Listed(run))
        except UsageError as error:
            refused[str(run.path)] = str(error)
    return readable, refused


def _state(run: RunDirectory) -> str:
    """A digest of the names, sizes and times of run.json and all parts, and of the code."""
    found = [_code()]
    with contextlib.suppress(OSError):
        found.append(_stamp(os.stat(run.run_json)))
        for table in TABLES:
            with os.scandir(run.table(table)) as entries:
                parts = [f"{one.name} {_stamp(one.stat())}" for one in entries]
            found += [table, *sorted(parts)]
    return hashlib.sha256("\n".join(found).encode(errors="surrogateescape")).hexdigest()


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns} {status.st_size}"


@functools.cache
def _code() -> str:
    """A digest of the code that reads and judges tables."""
    digest, root = hashlib.sha256(), Path(symrun.__file__).parent
    for file in sorted(file for pattern in _CODE for file in root.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _file(run: RunDirectory) -> Path:
    """Error: RuntimeError without a home."""
    name = hashlib.sha256(os.fsencode(run.path.resolve())).hexdigest()[:32]
    return cache() / "runs" / f"{name}.json"


def _read(run: RunDirectory, state: str) -> Summary | None:
    with contextlib.suppress(OSError, RuntimeError, ValueError, LookupError, TypeError):
        content = json.loads(_file(run).read_bytes())
        if content.pop("state") == state and content.pop("path"):
            groups, laws = (
                tuple(Agreement(**row) for row in content.pop(name)) for name in ("groups", "laws")
            )
            return Summary(path=run.path, groups=groups, laws=laws, **content)
    return None


def _write(run: RunDirectory, state: str, one: Summary) -> None:
    """A file that is cut short is no JSON, and is then passed over."""
    rows = {name: [vars(row) for row in getattr(one, name)] for name in ("groups", "laws")}
    content = vars(one) | rows | {"path": str(run.path.resolve()), "state": state}
    with contextlib.suppress(OSError, RuntimeError):
        file = _file(run)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        _sweep(file.parent)


@functools.cache
def _sweep(folder: Path) -> None:
    """Once a process, remove what is older than 90 days, damaged, or of a run that is gone."""
    for file in folder.glob("*.json"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _KEPT_SECONDS or not _is_there(file):
                file.unlink()


def _is_there(file: Path) -> bool:
    """Whether there is the run of which `file` tells."""
    try:
        return RunDirectory(Path(json.loads(file.read_bytes())["path"])).run_json.exists()
    except (ValueError, LookupError, TypeError):
        return False

"""What a tracked run leaves on the disk: a folder with its tables and run.json."""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symrun.errors import Busy, UsageError
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.info import RunInfo, Status
from symrun.runs.mirror import written
from symrun.runs.writer import Record, TableWriter


class Records:
    """Writes the tables and run.json of one run, of which it keeps other processes away.

    goes_on: the folder has a run already, which is gone on with.
    Error: UsageError if another process writes to the folder.
    """

    def __init__(self, run: RunDirectory, goes_on: bool) -> None:
        self._run, self.goes_on, self.path = run, goes_on, run.path
        self._writer: TableWriter | None = None
        self._early: list[tuple[str, Record, int]] = []
        self._started, self._seconds = time.monotonic(), 0.0
        self._resources = contextlib.ExitStack()
        try:
            self._resources.enter_context(written(run))
        except Busy as error:
            raise UsageError(
                f"{error}; if that is a tracker of this program, close it first"
            ) from None

    @property
    def seconds(self) -> float:
        """How long the run has been tracked, with what came before it was gone on with."""
        return self._seconds + time.monotonic() - self._started

    def start(self, info: RunInfo, state: Mapping[str, Any] | None, step: int) -> RunInfo:
        """Begin to write. state: as from `TrackedRun.state_dict`; what was written after it is
        removed. Returns what run.json says."""
        parts = dict.fromkeys(TABLES, 0)
        if state is not None:
            parts |= state["parts"]
            before = self._run.info()
            info = dataclasses.replace(info, created=before.created, columns=before.columns)
            self._run.truncate_to(parts, step)
            self._seconds = float(state["seconds"])
        self._info = info
        self.update(last_step=step)
        self._writer = TableWriter(self._run, parts)
        for early in self._early:
            self._writer.put(*early)
        return self._info

    def put(self, table: str, record: Record, size_bytes: int = 0) -> None:
        """As of a RecordSink; what comes before `start` is kept until then."""
        if self._writer is None:
            self._early.append((table, record, size_bytes))
        else:
            self._writer.put(table, record, size_bytes)

    def update(self, **changes: Any) -> None:
        """Change what run.json says."""
        self._info = dataclasses.replace(self._info, **changes)
        self._run.write_info(self._info)

    def flushed(self) -> dict[str, int]:
        """The parts of each table, once all records so far are on the disk.

        Error: RunError if the disk refused something.
        """
        assert self._writer is not None
        found: dict[str, int] = {}
        done = threading.Event()

        def note(parts: dict[str, int]) -> None:
            found.update(parts)
            done.set()

        self._writer.checkpoint(note)
        while not done.wait(0.05):
            self._writer.raise_failure()
        return found

    def end(self, status: Status, step: int) -> None:
        """Write what is left, or remove the folder of a run that never started."""
        with self._resources:
            if self._writer is None:
                if not self.goes_on:
                    self._run.discard()
                return
            try:
                self._writer.__exit__(None, None, None)
            except Exception:
                status = Status.failed
                raise
            finally:
                with contextlib.suppress(OSError, UsageError):
                    self.update(last_step=step, status=status, seconds=self.seconds)


class NoRecords(Records):
    """On a rank that writes nothing, of a run in the folder `path`."""

    def __init__(self, path: Path = Path(os.devnull), goes_on: bool = False) -> None:
        self.path, self.goes_on = path, goes_on

    @property
    def seconds(self) -> float:
        return 0.0

    def start(self, info: RunInfo, state: Mapping[str, Any] | None, step: int) -> RunInfo:
        return info

    def put(self, table: str, record: Record, size_bytes: int = 0) -> None:
        pass

    def update(self, **changes: Any) -> None:
        pass

    def flushed(self) -> dict[str, int]:
        return {}

    def end(self, status: Status, step: int) -> None:
        pass

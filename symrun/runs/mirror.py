"""A run that is written here and sent to a store as it grows, so that it can be read there."""

import contextlib
import logging
import math
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from symrun.errors import Busy, RunError, SymrunError, UsageError, refusal
from symrun.places import is_url
from symrun.remote.claim import NAME, RENEWED_SECONDS, Claim, now
from symrun.remote.copies import Copies, Stamp, fetch, stamp
from symrun.remote.store import Store, StoreError, size_of
from symrun.runs.copied import is_part, is_read, require_run, run_around, step_of
from symrun.runs.directory import RunDirectory, working_copy
from symrun.runs.info import RunInfo, Status
from symrun.runs.reading import require_whole
from symrun.runs.run_json import read_info

_log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between looks at the folder, while all that was there is sent."""

_LONGEST_WAIT = 60.0
_LAST_TRIES = 5
"""How often the end of a run tries, with pauses of 1, 2, 4 and 8 seconds. The package of the store
tries again within each, so that all of it may take two minutes with a server that is dead."""

_LONGEST_SILENCE = 300.0
"""At the end: how long a store may take nothing before it is left alone."""

_RUN_JSON = "run.json"


@contextlib.contextmanager
def written(run: RunDirectory) -> Iterator[None]:
    """Keep others from writing to this run; if it has a URL, send what is written there as well.

    Leaving it waits until all is sent, or the store has refused for long enough.

    Error: Busy if another process or machine writes to it; UsageError if it cannot be written, or
    there is another run at its URL; RunError, on leaving, if files are missing there.
    """
    with run.locked():
        try:
            mirror = None if run.url is None else _Mirror(run, run.url)
        except BaseException:
            if not run.run_json.exists():
                run.discard()
            raise
        with mirror or contextlib.nullcontext():
            yield


def check_out(url: str) -> RunDirectory:
    """The working copy of the run at `url`, with its last checkpoints, as all that is there now.

    Error: UsageError if there is no run, or the working copy has what the store lacks; Busy if
    another process writes to it.
    """
    store, run = Store(url), RunDirectory(working_copy(url), url)
    listed = store.files()
    require_run(url, listed)
    theirs = read_info(store.read(_RUN_JSON) or b"")
    run.path.mkdir(parents=True, exist_ok=True)
    with run.locked():
        if run.run_json.exists():
            _refuse_if_ahead(run, run.info(), theirs, listed)
        fetch(store, listed, run.path, _RUN_JSON, lambda name: is_read(name, checkpoints=True))
    return run


def _refuse_if_ahead(
    run: RunDirectory, ours: RunInfo, theirs: RunInfo, listed: Iterable[str]
) -> None:
    if not _is_same(ours, theirs):
        raise UsageError(f"{run.path} holds another run than {run.url}: move it away")
    last = max((step_of(name) for name in listed), default=-1)
    ended = ours.status is Status.finished and theirs.status is not Status.finished
    if _goes_on_from(ours, theirs) and (ended or max(run.checkpointed(), default=-1) > last):
        remedy = f"type {_push(run, str(run.url))}, or symrun resume {shlex.quote(str(run.path))}"
        raise UsageError(f"{run.path} has records that {run.url} does not have: {remedy}")


def _is_same(one: RunInfo, other: RunInfo) -> bool:
    return one.created == other.created and one.thinned == other.thinned


def _goes_on_from(one: RunInfo, other: RunInfo) -> bool:
    """Whether `one` is `other`, at the same time or later."""
    return _is_same(one, other) and one.resumed[: len(other.resumed)] == other.resumed


class _Mirror:
    """Sends the files of a run to a store, in a thread of its own.

    It reads them from the disk once they are complete, so it needs little memory, and whoever
    writes them never waits. Parts go before the checkpoint and the run.json that tell of them, so
    that what is in the store is a run at every instant. While the store fails it tries again, less
    and less often.

    Error: UsageError from making it, with nothing changed, as in `written`.
    """

    def __init__(self, run: RunDirectory, url: str) -> None:
        self._run, self._store = run, Store(url)
        self._url = url = self._store.url
        self._copies = Copies(run.path)
        self._refuse_another_run()
        self._claim = Claim(self._store, self._copies.token if self._copies.url == url else None)
        self._claim.take()
        self._copies.url, self._copies.token = url, self._claim.token
        self._copies.save()
        self._looked = -math.inf
        """When the claim was renewed and the store listed last."""
        self._in_store: dict[str, str] = {}
        """What the store had then."""
        self._sent: dict[str, Stamp] = {}
        """What was sent since then."""
        self._ending, self._given_up = threading.Event(), False
        self._complete = self._is_lost = False
        self._reason = "it took too long"
        self._note_progress()
        self._thread = threading.Thread(target=self._work, name="symrun-mirror", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        try:
            self._wait_for_the_rest()
        except BaseException:
            self._reason = "interrupted"
            if line := self._what_is_missing():
                _log.warning("%s", line)
            raise
        finally:
            self._given_up = True
        line = self._what_is_missing()
        if line and kind is None:
            raise RunError(line)
        if line:  # the error that is under way is the one to raise
            _log.warning("%s", line)

    def _wait_for_the_rest(self) -> None:
        self._ending.set()
        self._note_progress()
        self._thread.join(LOOK_SECONDS)
        if self._thread.is_alive():
            waits = "Ctrl-C leaves it to symrun push"
            _log.warning("the rest is being sent to %s: %s", self._url, waits)
        while self._thread.is_alive() and time.monotonic() - self._progressed < _LONGEST_SILENCE:
            self._thread.join(0.2)

    def _what_is_missing(self) -> str:
        """What the store lacks, and the command that sends it; empty if it has all."""
        if self._is_lost:
            return f"{self._reason}; what is not there stays in {self._run.path}"
        missing = [] if self._complete else self._missing()
        if not missing:
            return ""
        few = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        many = f"{len(missing):,} file{'s' * (len(missing) != 1)} of {self._run.path}"
        remedy = f"{_push(self._run, self._url)} sends them"
        return f"{self._reason}; {self._url} lacks {many} ({few}): {remedy}"

    def _refuse_another_run(self) -> None:
        """Error: UsageError unless the store has nothing, or what this run was before."""
        listed = self._store.files()
        remedy = "choose another place"
        if self._run.run_json.exists() and _RUN_JSON in listed:
            ours, theirs = self._run.info(), read_info(self._store.read(_RUN_JSON) or b"")
            if _goes_on_from(ours, theirs):
                return
            which = "has gone on without" if _is_same(ours, theirs) else "holds another run than"
            remedy = f"type symrun resume {shlex.quote(self._url)}, or {remedy}"
            raise UsageError(f"{self._url} {which} {self._run.path}: {remedy}")
        if not self._run.run_json.exists():
            strange = set(listed) - {NAME}
        else:  # what was sent before a kill is no obstacle
            strange = {name for name in listed if name != NAME and not is_read(name, True)}
        if _RUN_JSON not in listed and (other := run_around(self._url)):
            raise UsageError(f"{self._url} lies in the run {other}: {remedy}")
        if strange:
            if _RUN_JSON in listed:
                remedy += f", or go on with it: symrun resume {shlex.quote(self._url)}"
            refused = "exists already; a run is never overwritten"
            raise UsageError(f"{self._url} {refused}: {remedy}")

    def _note_progress(self) -> None:
        """The store took something."""
        self._progressed = time.monotonic()

    def _work(self) -> None:
        ending, failures, wait = False, 0, 0.0
        while not (self._complete or self._given_up):
            if ending:
                time.sleep(wait)
            elif self._ending.wait(wait):
                ending, failures = True, 0
            try:
                more = self._pass(ending)
            except Busy as error:
                self._reason, self._is_lost = str(error), True
                if not ending:
                    _log.warning("%s: what follows stays in %s", error, self._run.path)
                return
            except Exception as error:  # whatever it is, training goes on
                self._looked = -math.inf
                self._reason = str(error) if isinstance(error, SymrunError) else refusal(error)
                if failures == 0 and not ending:
                    _log.warning("%s; training goes on, and it is tried again", self._reason)
                failures += 1
                if ending and failures >= _LAST_TRIES:
                    return
                wait = min(2.0 ** (failures - 1), _LONGEST_WAIT)
                continue
            if failures and not ending:
                _log.warning("%s takes files again", self._url)
            failures, wait = 0, 0.0 if more or ending else LOOK_SECONDS

    def _pass(self, ending: bool) -> bool:
        """Bring the store up to date once; whether there is more to do at once.

        ending: nothing is written any more, and the last pass leaves nothing out.
        Error: Busy if another machine writes there; StoreError, OSError.
        """
        is_due = now() - self._looked > RENEWED_SECONDS
        if is_due or ending:
            self._require_own()
        if is_due:
            self._claim.renew()
        if not self._run.run_json.exists():  # not yet, or the run was discarded
            if ending:
                self._withdraw()
            return False
        if is_due:
            self._look()
        described = stamp(self._run.run_json)
        content = self._run.run_json.read_bytes()
        checkpoints = [self._name(self._run.checkpoint(step)) for step in self._run.checkpointed()]
        parts = [self._name(path) for path in self._run.parts()]  # later, so none is missed
        self._remove(self._stale(checkpoints, parts))
        unsent = [name for name in checkpoints if not self._is_sent(name)]
        for name in [*parts, *unsent[:1]]:  # of checkpoints the newest: parts go before the next
            self._send(name)
        if not unsent[1:]:
            old = (name for name in self._known() if step_of(name) >= 0)
            self._remove([name for name in old if name not in checkpoints])
        if described is not None and not self._is_sent(_RUN_JSON):
            self._require_own_lately()
            self._store.write(_RUN_JSON, content)
            self._sent[_RUN_JSON] = described
        if ending and not unsent[1:]:
            self._end()
        return bool(unsent[1:])

    def _require_own_lately(self) -> None:
        """Error: Busy if another machine has taken the run over, as this one slept perhaps."""
        if not self._claim.was_seen_lately():
            self._require_own()

    def _require_own(self) -> None:
        """Error: Busy if another machine has the claim, or went on with the run and is done."""
        if self._claim.is_there():
            return
        try:
            self._refuse_another_run()
        except StoreError:
            raise
        except UsageError as error:
            raise Busy(str(error)) from None

    def _look(self) -> None:
        """See what the store has, and note which of it is the same here."""
        self._in_store = self._store.files()
        for name, here in self._sent.items():
            if name in self._in_store and size_of(self._in_store[name]) == here[1]:
                self._copies.note(name, here, self._in_store[name])
        self._sent.clear()
        self._copies.save()
        self._looked = now()

    def _end(self) -> None:
        """Error: StoreError unless the store has all that there is."""
        self._look()
        if missing := self._missing():
            raise StoreError(f"{self._url} lacks what it took, such as {missing[0]}")
        self._claim.release()
        self._complete = True

    def _stale(self, checkpoints: Sequence[str], parts: Sequence[str]) -> list[str]:
        """What the store has and must lose before anything is sent, the last first: checkpoints
        later than those there are, and parts that were truncated or written again since."""
        newest = max(map(step_of, checkpoints), default=-1)
        later = [name for name in self._known() if step_of(name) > newest]
        old = [
            name
            for name in self._known()
            if is_part(name) and (name not in parts or self._is_another(name))
        ]
        return later + sorted(old, key=lambda name: name.rpartition("/")[2], reverse=True)

    def _is_another(self, name: str) -> bool:
        """Whether the store has a file of that name with another content; one that was on its way
        when a process was killed is not taken for another."""
        here, state = stamp(self._run.path / name), self._in_store.get(name)
        if here is None or self._is_sent(name):
            return False
        if name in self._sent:
            return True
        return state is not None and (
            size_of(state) != here[1] or self._copies.state_of(name) == state
        )

    def _known(self) -> list[str]:
        """The names of all that is in the store."""
        return list(self._in_store | dict.fromkeys(self._sent, ""))

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            self._require_own_lately()
            self._store.remove(name)
            self._in_store.pop(name, None)
            self._sent.pop(name, None)
            self._note_progress()

    def _send(self, name: str) -> None:
        """One that was removed meanwhile is passed over."""
        path = self._run.path / name
        here = stamp(path)
        if self._given_up or here is None or self._is_sent(name):
            return
        self._require_own_lately()
        with contextlib.suppress(FileNotFoundError):
            self._store.put(name, path, self._note_progress)
            self._sent[name] = here

    def _is_sent(self, name: str) -> bool:
        here = stamp(self._run.path / name)
        if here is not None and self._sent.get(name) == here:
            return True
        return self._copies.same(name, self._in_store.get(name))

    def _missing(self) -> list[str]:
        """The files of the run that the store does not have, as far as is known."""
        paths = [self._run.run_json, *self._run.parts()]
        paths += [self._run.checkpoint(step) for step in self._run.checkpointed()]
        names = [self._name(path) for path in paths if path.exists()]
        return [name for name in names if not self._is_sent(name)]

    def _withdraw(self) -> None:
        """Leave nothing of a run that was discarded."""
        self._remove(self._known())
        self._claim.release()
        self._complete = True

    def _name(self, path: Path) -> str:
        return path.relative_to(self._run.path).as_posix()


def push(run: RunDirectory, url: str | None) -> str:
    """Send to a store what is missing there of a run, and return its URL there.

    url: None for the run's own, which is that of its setting run.dir, else that to which it was
    sent last.

    Error: UsageError if there is none, or a part of a table is damaged; else as in `written`.
    """
    url = url or _own_url(run)
    if url is None or not is_url(url):
        where = f"type symrun push {shlex.quote(str(run.path))} s3://BUCKET/FOLDER"
        raise UsageError(f"{url or run.path} is in no store: {where}")
    for part in run.parts():
        require_whole(part)
    with written(RunDirectory(run.path, url)):
        return url


def _own_url(run: RunDirectory) -> str | None:
    info = run.info()
    chosen = info.config.by_name.get("run.dir") if info.thinned is None else None
    return str(chosen) if is_url(chosen) else Copies(run.path).url


def _push(run: RunDirectory, url: str) -> str:
    return f"symrun push {shlex.quote(str(run.path))} {shlex.quote(url)}"

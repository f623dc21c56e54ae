"""Who writes to a folder of a store: a small file there, which its owner renews while it lives."""

import contextlib
import json
import math
import socket
import time
import uuid

from symrun.errors import Busy
from symrun.remote.store import Store, StoreError

NAME = ".claim"
RENEWED_SECONDS = 60.0
_DEAD_SECONDS = 300.0
"""An owner who did not renew its claim for this long is taken for dead."""

_LATELY_SECONDS = 5.0
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It goes on while the machine sleeps, where there is such a clock."""


def now() -> float:
    """Seconds that tell how long ago something was, even if the machine slept in between."""
    return time.clock_gettime(_CLOCK)


class Claim:
    """Keeps other machines from writing to a folder of a store.

    token: tells this owner from others; None for a new one.

    Error: StoreError, as all that talks to the store has; Busy if another owner lives.
    Example: Claim(Store("memory://runs/mine")).take()
    """

    def __init__(self, store: Store, token: str | None = None) -> None:
        self._store = store
        self.token = token or uuid.uuid4().hex
        self._content = json.dumps({"token": self.token, "host": socket.gethostname()}).encode()
        self._seen = -math.inf

    def take(self) -> None:
        """Claim the folder, for the first time or from a dead owner."""
        if not self._store.create(NAME, self._content):
            token, host = self._owner()
            if token != self.token and is_renewed(self._store):
                raise Busy(self._in_use(host))
            self._store.write(NAME, self._content)
        self.is_there()  # two may have written, where the store cannot keep them apart

    def renew(self) -> None:
        """Write it again. Error: Busy if somebody else has taken it over."""
        self.is_there()
        self._store.write(NAME, self._content)

    def release(self) -> None:
        """Remove it. Error: Busy, and it stays, if somebody else has taken it over."""
        if self.is_there():
            self._store.remove(NAME)

    def is_there(self) -> bool:
        """Whether the claim is still this owner's; False if there is none any more.

        Error: Busy if somebody else has taken it over.
        """
        token, host = self._owner()
        if token not in (None, self.token):
            raise Busy(f"{self._store.url} is written by {host} now")
        self._seen = now()
        return token is not None

    def was_seen_lately(self) -> bool:
        """Whether it was this owner's, or nobody's, a few seconds ago."""
        return now() - self._seen < _LATELY_SECONDS

    def _in_use(self, host: str) -> str:
        age = self._store.age_seconds(NAME)
        renewed = f"its claim was last renewed {_in_words(age)} ago by {host}"
        again = f"if it was killed, type this again in {_in_words(_DEAD_SECONDS - age)}"
        return f"{self._store.url} is being written, {renewed}: {again}"

    def _owner(self) -> tuple[str | None, str]:
        """Token and machine; None if nobody has claimed it, or what is there is no claim."""
        with contextlib.suppress(ValueError, LookupError, TypeError):
            content = json.loads(self._store.read(NAME) or b"")
            return str(content["token"]), str(content["host"])
        return None, "another machine"


def is_renewed(store: Store) -> bool:
    """Whether somebody has claimed the folder and lives, or nobody can tell."""
    try:
        return store.read(NAME) is not None and store.age_seconds(NAME) < _DEAD_SECONDS
    except StoreError:
        return True


def _in_words(seconds: float) -> str:
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

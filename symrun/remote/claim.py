"""Who writes to a folder of a store: a small file there, which its owner renews while it lives."""

import contextlib
import json
import socket
import uuid

from symrun.errors import Busy
from symrun.remote.store import Store, StoreError

NAME = ".claim"
RENEWED_SECONDS = 60.0
_DEAD_SECONDS = 300.0
"""An owner who did not renew its claim for this long is taken for dead."""


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

    def take(self) -> None:
        """Claim the folder, for the first time or from a dead owner."""
        if not self._store.create(NAME, self._content):
            token, host = self._owner()
            if token != self.token and is_renewed(self._store):
                when = (
                    f"one that was killed is taken for dead {_DEAD_SECONDS / 60:.0f} minutes later"
                )
                raise Busy(f"{self._store.url} is being written by {host}: {when}")
            self._store.write(NAME, self._content)
        self._require_own()  # two may have written, where the store cannot keep them apart

    def renew(self) -> None:
        """Write it again. Error: Busy if somebody else has taken it over."""
        self._require_own()
        self._store.write(NAME, self._content)

    def release(self) -> None:
        self._store.remove(NAME)

    def _require_own(self) -> None:
        token, host = self._owner()
        if token not in (None, self.token):
            raise Busy(f"{self._store.url} is written by {host} now")

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

"""A folder in a store that fsspec knows, such as s3://bucket/runs/mine."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from symrun.errors import UsageError, in_one_line

_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory")
"""Where a file appears whole. Elsewhere it is written beside its place, and moved there."""

_LITTLE_MEMORY = {"chunksize": 8 * 2**20, "max_concurrency": 4}
"""What s3fs holds of a file at a time while it sends it; its own defaults come to 500 MB."""

_CREDENTIALS = {
    "s3": ": set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or type aws configure",
    "gs": ": type gcloud auth application-default login",
}


class StoreError(UsageError):
    """A store cannot be reached, or refused."""


class Store:
    """The files at a URL. Each is complete or absent there, whatever happens while it is sent.

    Names are relative to the URL, with slashes. Credentials and endpoints are those that the
    store's own package finds, such as AWS_ENDPOINT_URL. fsspec is imported here alone.

    Error: StoreError, in one line that names the URL, from whatever talks to the store.
    Example: Store("memory://runs/empty").files() == {}
    """

    def __init__(self, url: str) -> None:
        protocol, _, path = url.rstrip("/").partition("://")
        self._protocol = protocol.lower()
        self.url = f"{self._protocol}://{path}"
        if "::" in url:
            raise StoreError(f"{url} chains file systems: type the URL of the store alone")
        if self._protocol in ("file", "local"):
            raise StoreError(f"{url} is a folder of this machine: type it without file://")
        if _is_no_path(path):
            raise StoreError(f"{url} names no folder: type a URL such as s3://bucket/runs/mine")
        with self._in_one_line():
            from fsspec.core import url_to_fs

            self._system, root = url_to_fs(self.url)
        self._root = str(root).rstrip("/")

    def files(self) -> dict[str, str]:
        """All files in the folder and below, and what tells each from another of its name. An
        object whose name is no path, such as a/../b or a//b, is passed over."""
        with self._in_one_line():
            self._system.invalidate_cache()
            found = self._system.find(self._root, detail=True)
        names = {path: path[len(self._root) + 1 :] for path in found}
        return {name: _state(found[path]) for path, name in names.items() if not _is_no_path(name)}

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if it is not there."""
        try:
            with self._in_one_line(absent=True):
                content: bytes = self._system.cat_file(self._place(name))
        except FileNotFoundError:
            return None
        return content

    def get(self, name: str, target: Path) -> None:
        """Copy a file to `target`. Error: FileNotFoundError if it is not there any more."""
        with self._in_one_line(absent=True):
            self._system.get_file(self._place(name), str(target))

    def put(self, name: str, source: Path, moved: Callable[[], object]) -> None:
        """Send a file. moved: called as bytes go out.

        Error: FileNotFoundError if `source` is not there any more.
        """
        from fsspec.callbacks import Callback

        told = Callback(hooks={"moved": lambda *_, **__: moved()})
        memory = _LITTLE_MEMORY if self._protocol in ("s3", "s3a") else {}
        with self._in_one_line(absent=not source.exists()), self._whole(name) as place:
            self._system.put_file(str(source), place, callback=told, **memory)
        moved()

    def write(self, name: str, content: bytes) -> None:
        """Send a small file."""
        with self._in_one_line(), self._whole(name) as place:
            self._system.pipe_file(place, content)

    def create(self, name: str, content: bytes) -> bool:
        """Send a small file unless there is one; whether it was sent. Of two at once, one is, where
        the store has conditional writes, as S3, Google and MinIO have."""
        with self._in_one_line():
            if self._system.exists(self._place(name)):
                return False
            try:
                self._system.makedirs(self._root, exist_ok=True)
                self._system.pipe_file(self._place(name), content, mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError, ValueError):
                # No such write: open() lacks the mode "xb", or pipe_file the argument
                self._system.pipe_file(self._place(name), content)
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._in_one_line(absent=True):
            self._system.rm_file(self._place(name))

    def age_seconds(self, name: str) -> float:
        """Since the file was written, by the clocks of the store and of this machine."""
        with self._in_one_line():
            self._system.invalidate_cache()
            written: datetime = self._system.modified(self._place(name))
        written = written if written.tzinfo else written.replace(tzinfo=UTC)
        return (datetime.now(UTC) - written).total_seconds()

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[str]:
        """A place to write to, which becomes that of `name` once it is left without an error."""
        place = self._place(name)
        if self._protocol in _OBJECT_STORES:
            yield place
            return
        folder, _, last = place.rpartition("/")
        draft = f"{folder}/.{last}-{uuid.uuid4().hex[:8]}"
        self._system.makedirs(folder, exist_ok=True)
        yield draft
        self._system.mv(draft, place)

    @contextlib.contextmanager
    def _in_one_line(self, absent: bool = False) -> Iterator[None]:
        """absent: a missing file is the caller's affair, and raises FileNotFoundError."""
        try:
            yield
        except FileNotFoundError as error:
            if absent:
                raise
            raise StoreError(f"{self.url}: {self._reason(error)}") from None
        except Exception as error:  # each package has its own
            raise StoreError(f"{self.url}: {self._reason(error)}") from None

    def _reason(self, error: Exception) -> str:
        """What went wrong, and the remedy."""
        kind, text = type(error).__name__, in_one_line(str(error) or type(error).__name__)
        if isinstance(error, ImportError):
            return f"{text}: pip install 'symrun[remote]' installs what s3:// and gs:// need"
        if "Protocol not known" in text:
            return (
                f"fsspec knows no {self._protocol}://; there are s3://, gs://, sftp:// and others"
            )
        if "Credential" in kind or "credentials" in text.lower():
            return f"the store asks for credentials{_CREDENTIALS.get(self._protocol, '')} ({text})"
        if isinstance(error, FileNotFoundError):
            bucket = self.url.partition("://")[2].partition("/")[0]
            return f"there is no {self._protocol}://{bucket}: make it, or name another"
        if isinstance(error, PermissionError):
            return f"the store refused ({text}): use credentials that may read and write there"
        if isinstance(error, OSError) or "Connect" in kind or "Timeout" in kind:
            endpoint = ", and AWS_ENDPOINT_URL if it is not Amazon's" * (self._protocol == "s3")
            return f"the store cannot be reached ({text}): look at the network{endpoint}"
        return f"the store failed ({text})"


def _is_no_path(name: str) -> bool:
    return not {"", ".", ".."}.isdisjoint(name.split("/"))


def size_of(state: str) -> int:
    """Of the file that has this state, in bytes."""
    return int(state.partition(" ")[0])


def _state(info: Mapping[str, Any]) -> str:
    """The digest that the store keeps of a file, else its time, and the size."""
    known = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")
    mark = next((info[key] for key in known if info.get(key)), "")
    return f"{info['size']} {mark}"

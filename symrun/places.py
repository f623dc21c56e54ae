"""Where things lie that users name: a folder of this machine, or a URL such as s3://bucket/runs.

What is read from a URL is copied into $XDG_CACHE_HOME/symrun/remote (~/.cache/symrun/remote), to
the place that the URL names: s3://bucket/runs/mine to s3/bucket/runs/mine in it.
"""

import os
import re
from pathlib import Path

_URL = re.compile(r"([a-z][a-z0-9+.:-]+)://", re.IGNORECASE)


def is_url(place: object) -> bool:
    """Whether `place` is the URL of a store, and no path of this machine.

    Example: is_url("s3://bucket/runs") and not is_url("outputs/mine")
    """
    return isinstance(place, str) and _URL.match(place) is not None


def place(text: str) -> str | Path:
    """What the user typed: a URL as it is, since a Path would lose one of its slashes.

    Example: place("outputs/mine") == Path("outputs/mine")
    """
    return text.rstrip("/") if is_url(text) else Path(text)


def below(folder: Path, url: str) -> Path:
    """The place of `url` in a folder that has a place for each.

    Example: below(Path("outputs"), "s3://bucket/mine") == Path("outputs/s3/bucket/mine")
    """
    protocol, _, rest = url.partition("://")
    return folder / protocol.lower() / rest.strip("/")


def cache() -> Path:
    """symrun's folder in the user's cache. Error: RuntimeError without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "symrun"


def copy_of(url: str) -> Path:
    """The folder into which what lies at `url` is copied. Error: as in `cache`."""
    return below(cache() / "remote", url)


def url_of(folder: Path) -> str | None:
    """The URL of which `folder` is a copy; None for any other folder."""
    url = as_typed(str(folder))
    return url if is_url(url) else None


def as_typed(text: str) -> str:
    """`text` with the URL in place of each path in a copy of it."""
    try:
        copies = str(cache() / "remote")
    except RuntimeError:
        return text
    if copies not in text:
        return text
    return re.sub(rf"{re.escape(copies)}/([a-z0-9+.-]+)/", r"\1://", text)

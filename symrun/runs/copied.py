"""Runs that lie in a store, copied to this machine to be read."""

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from symrun.errors import UsageError
from symrun.places import copy_of, is_url
from symrun.remote import copies
from symrun.remote.store import Store, StoreError

TABLES = ("units", "parameters", "progress")
PART = re.compile(r"part-([0-9]{6,9})\.parquet")
CHECKPOINT = re.compile(r"step-(0|[1-9][0-9]{0,9})\.pt")
_SHOWN = 3
"""Runs that are named in place of a URL that is none."""


def local(place: str | Path, checkpoints: bool = False, one: bool = False) -> Path:
    """The folder `place`, or a copy of what lies at that URL, which is brought up to date first.

    checkpoints: fetch them too, which only going on with a run needs. one: it must be a run.

    Error: UsageError if a store fails, or there is no run where there must be one.
    Example: local("outputs") == Path("outputs")
    """
    if not (isinstance(place, str) and is_url(place)):
        return Path(place)
    store = Store(place)
    listed = store.files()
    if one:
        require_run(place, listed)
    try:
        folder = copy_of(store.url)
    except RuntimeError:
        raise UsageError(f"{place} is copied to a cache: set XDG_CACHE_HOME to a folder") from None
    if not listed:  # as a folder of this machine that is not there
        shutil.rmtree(folder, ignore_errors=True)
        return folder
    heads = {name.removesuffix("run.json") for name in listed if Path(name).name == "run.json"}
    folder.mkdir(parents=True, exist_ok=True)
    for run_json in list(folder.glob("**/run.json")):
        if run_json.relative_to(folder).as_posix().removesuffix("run.json") not in heads:
            shutil.rmtree(run_json.parent)
    for head in heads:
        inside = {name[len(head) :]: listed[name] for name in listed if name.startswith(head)}
        run = Store(f"{store.url}/{head}")
        copies.fetch(
            run, inside, folder / head, "run.json", lambda name: is_read(name, checkpoints)
        )
    return folder


def require_run(url: str, listed: Iterable[str]) -> None:
    """Error: UsageError unless a run lies at `url`, in which `listed` are the files."""
    if "run.json" in (names := list(listed)):
        return
    inside = [f"{url}/{name[:-9]}" for name in names if name.endswith("/run.json")][:_SHOWN]
    where = f"it holds the runs {', '.join(inside)}" if inside else "it has no run.json"
    raise UsageError(f"{url} is not a run folder: {where}")


def run_around(url: str) -> str | None:
    """The run in whose folder `url` lies; None if there is none, or one may not look."""
    while not (url := url.rpartition("/")[0]).endswith("/"):
        with contextlib.suppress(StoreError):
            if Store(url).read("run.json") is not None:
                return url
    return None


def is_read(name: str, checkpoints: bool = False) -> bool:
    """Whether a file in the folder of a run is one that is read. checkpoints: these too.

    Example: is_read("tables/units/part-000000.parquet") and not is_read("figures/fig1.png")
    """
    if name == "run.json" or step_of(name) >= 0:
        return name == "run.json" or checkpoints
    return is_part(name)


def is_part(name: str) -> bool:
    """Whether a file in the folder of a run is a part of a table."""
    folder, _, last = name.rpartition("/")
    return folder in map("tables/{}".format, TABLES) and PART.fullmatch(last) is not None


def step_of(name: str) -> int:
    """The step of the checkpoint of that name in the folder of a run; -1 if it is none."""
    folder, _, last = name.rpartition("/")
    found = CHECKPOINT.fullmatch(last)
    return int(found[1]) if found and folder == "checkpoints" else -1

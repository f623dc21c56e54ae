"""A run's folder: the one place where the names of its files stand."""

import contextlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from symrun.errors import UsageError
from symrun.files import complete_or_absent

OUTPUTS = Path("outputs")
SCHEMA = 2
"""Version of run.json and the tables."""

_DESCRIBED = {
    "config": dict,
    "dataset": dict,
    "model": dict,
    "layers": list,
    "groups": list,
    "unpredicted": dict,
    "steps_per_epoch": int,
}
TABLES = ("units", "parameters", "progress")


class RunDirectory:
    """The files of one run.

    Example:
        run = RunDirectory.open("outputs/fig1/2026-01-31_12-00-00")
        run.info()["config"]["optim"]["lr"]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_json = path / "run.json"
        self.figures = path / "figures"
        self.checkpoints = path / "checkpoints"

    def table(self, name: str) -> Path:
        return self.path / "tables" / name

    @classmethod
    def create(cls, path: Path | None, name: str) -> "RunDirectory":
        """Claim a new folder: `path`, or outputs/<name>/<date and time> where it is None.

        Error: UsageError if `path` exists (a run is never overwritten, never mixed) or cannot
        be made. `mkdir` is the claim, so two runs started in the same second get two folders.
        """
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        attempt = 0
        while True:
            attempt += 1
            suffix = "" if attempt == 1 else f"-{attempt}"
            run = cls(path if path is not None else OUTPUTS / name / (stamp + suffix))
            try:
                run.path.parent.mkdir(parents=True, exist_ok=True)
                if _claim(run.path):
                    for table in TABLES:
                        run.table(table).mkdir(parents=True)
                    return run
            except OSError as error:
                reason = error.strerror
                raise UsageError(f"run.dir={run.path} cannot be made: {reason}") from None
            if path is not None:
                remedy = "a run is never overwritten: choose another run.dir"
                raise UsageError(f"run.dir={path} exists already; {remedy}")

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """The run that lies in `path`. Error: UsageError if none does that this symrun can read."""
        run = cls(Path(path))
        info = run.info()
        schema = info.get("schema")
        if schema != SCHEMA:
            remedy = f"this symrun reads {SCHEMA}"
            raise UsageError(f"{run.run_json} has schema {schema}; {remedy}")
        for key, kind in _DESCRIBED.items():
            if not isinstance(info.get(key), kind):
                raise UsageError(f"{run.run_json} does not describe a run: {key} is missing")
        return run

    def discard(self) -> None:
        """Remove the folder of a run that never started; what is not empty stays."""
        self.run_json.unlink(missing_ok=True)
        tables = [self.table(table) for table in TABLES]
        with contextlib.suppress(OSError):
            for folder in (*tables, tables[0].parent, self.path):
                folder.rmdir()

    def info(self) -> dict[str, Any]:
        """run.json. Error: UsageError if it is missing or unreadable."""
        try:
            content = json.loads(self.run_json.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{self.path} is not a run folder: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.run_json} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise UsageError(f"{self.run_json} does not describe a run")
        return content

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace run.json at once: a reader sees the old or the new one, never a half."""
        with complete_or_absent(self.run_json) as draft:
            draft.write_text(json.dumps(info, indent=2))

    def update_info(self, **fields: Any) -> None:
        self.write_info({**self.info(), **fields})


def planned_steps(info: dict[str, Any]) -> int:
    """Updates that the run of this run.json was to make."""
    train = info["config"]["train"]
    return int(train["steps"] or train["epochs"] * info["steps_per_epoch"])


def newest_first(outputs: Path = OUTPUTS) -> list[RunDirectory]:
    """The runs below `outputs`, the one started last first, without unreadable and empty ones."""
    started: dict[RunDirectory, str] = {}
    for run_json in outputs.glob("**/run.json"):
        with contextlib.suppress(UsageError):
            run = RunDirectory.open(run_json.parent)
            if not list(run.table("units").glob("part-*")):
                continue
            started[run] = str(run.info().get("created", ""))
    return sorted(started, key=started.__getitem__, reverse=True)


def _claim(folder: Path) -> bool:
    """Make `folder`; False if it is there already, whoever made it, also a moment ago."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True

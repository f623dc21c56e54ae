"""What to type in place of a path that is not a run."""

import os
from pathlib import Path

from symrun.errors import UsageError
from symrun.models.registry import MODELS
from symrun.runs.directory import OUTPUTS, RunDirectory, runs_below

_SHOWN = 3


def require_run(path: str | Path) -> None:
    """Error: UsageError, naming runs nearby, if `path` is not the folder of a run."""
    path = Path(path)
    if RunDirectory(path).run_json.exists():
        return
    owner = next(
        (folder for folder in path.parents if RunDirectory(folder).run_json.exists()), None
    )
    if owner is not None and path.exists():
        raise UsageError(f"{path} is not a run folder but lies in one: type {owner}")
    if str(path) in MODELS:
        remedy = f"type symrun check {path} --constraints"
        raise UsageError(f"{path} is not a run folder but a model: {remedy}")
    state = "it has no run.json" if os.path.lexists(path) else "there is nothing of that name"
    inside = runs_below(path) if path.is_dir() else []
    near = [str(run.path) for run in inside or runs_below(OUTPUTS)][:_SHOWN]
    where = "it holds the runs" if inside else "the newest runs are"
    found = f"{where} {', '.join(near)}" if near else "`symrun train` makes one"
    raise UsageError(f"{path} is not a run folder: {state}; {found}")

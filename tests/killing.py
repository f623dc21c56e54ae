"""Runs that are killed or stopped at random instants and resumed until they are finished; so many
runs at least, and so many kills, or stops with everything saved.

A program of its own, since it forks: python tests/killing.py SIGKILL|SIGTERM RUNS SEED FOLDER.
Prints a line of JSON with what happened; an assertion fails if a bit is lost.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import torch

from symrun.cli import main
from symrun.runs import writer
from symrun.training import lifecycle  # noqa: F401  imported once, before forking

SETTINGS = [
    *("data=synthetic", "data.train_images=40", "data.val_images=16", "model=vgg11_bn"),
    *("model.width=0.0625", "train.batch_size=8", "train.steps=42", "track.every=2"),
    *("train.checkpoint_every=3", "optim.momentum=0.9", "optim.schedule=cosine", "device=cpu"),
]
KEYS = {
    "units": ["step", "symmetry", "group", "unit"],
    "parameters": ["step", "layer", "index"],
    "progress": ["step", "split"],
}


def command(arguments, delay=None, number=None):
    """The exit status of `symrun ...`, which gets signal `number` after `delay` seconds."""
    child = os.fork()
    if child == 0:
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os._exit(main(arguments))
    if delay is not None:
        time.sleep(delay)
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def table(run, name):
    """A table as a reader sees it now, in order; None without a part. Timings are left out."""
    if not list((run / "tables" / name).glob("part-*")):
        return None
    frame = pd.read_parquet(run / "tables" / name).drop(
        columns="images_per_second", errors="ignore"
    )
    for column in frame.select_dtypes("category"):
        frame[column] = frame[column].astype(str)
    assert not frame.duplicated(KEYS[name]).any(), f"a record twice in {run}"
    return frame.sort_values(KEYS[name]).reset_index(drop=True)


def tables(run):
    return {name: table(run, name) for name in KEYS}


def weights(run):
    return torch.load(run / "checkpoints" / "step-42.pt", weights_only=True)


def same(one, other):
    """Whether two checkpoints agree in every bit, but for times and where the run lies."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(value, other[key])
            for key, value in one.items()
            if key not in ("seconds", "all_seconds", "parts", "run")
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def require_prefix(run, whole):
    """What is readable are the first records of the uninterrupted run, none missing in between."""
    for name, frame in tables(run).items():
        if frame is not None:
            expected = whole[name]
            steps = set(frame["step"])
            expected = expected[expected["step"].isin(steps)]
            if name != "progress":  # whose step has two rows, of training and of validation
                left = whole[name]["step"].unique()
                assert sorted(steps) == sorted(left)[: len(steps)], f"a gap in {run} {name}"
                pd.testing.assert_frame_equal(frame, expected.reset_index(drop=True))


def require_same(run, whole, final):
    for name, frame in tables(run).items():
        pd.testing.assert_frame_equal(frame, whole[name], check_exact=True)
    assert same(weights(run), final), f"other weights in {run}"
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def go(number, least, chance):
    train = ["train", *SETTINGS]
    started = time.monotonic()
    assert command([*train, "run.dir=whole"]) == 0
    seconds = time.monotonic() - started
    whole, final = tables(Path("whole")), weights(Path("whole"))
    counts, runs = Counter(), 0
    wanted = (-signal.SIGKILL,) if number == signal.SIGKILL else (75, 130)
    while runs < least or counts[wanted[0]] < least:
        run, info, runs = Path(f"run-{runs}"), {}, runs + 1
        while info.get("status") != "finished":
            before = sorted(run.rglob("*"))
            arguments = ["resume", str(run)] if info else [*train, f"run.dir={run}"]
            undisturbed = run.exists() and chance.random() < 0.5
            delay = None if undisturbed else chance.uniform(0, 1.1) * seconds
            status = command(arguments, delay, number)
            counts[status] += 1
            if run.exists():
                require_prefix(run, whole)
            if (run / "run.json").exists():
                info = json.loads((run / "run.json").read_text())
            if status == 75:  # nothing is to do again
                saved = max(int(p.stem[5:]) for p in (run / "checkpoints").glob("step-*.pt"))
                assert saved == info["last_step"], (saved, info["last_step"])
            # Signalled before the process listened, or after it was done
            untouched = info.get("status") == "finished" or sorted(run.rglob("*")) == before
            assert status in (0, *wanted) or (status < 0 and untouched), (status, run)
        require_same(run, whole, final)
    return {
        "runs": runs,
        "statuses": {str(status): count for status, count in counts.items()},
        "seconds": round(time.monotonic() - started),
    }


if __name__ == "__main__":
    name, runs, seed, folder = sys.argv[1:]
    os.chdir(folder)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    writer.FLUSH_SECONDS = 0.02  # a part every few steps, as every 10 s in a long run
    print(json.dumps(go(signal.Signals[name], int(runs), random.Random(int(seed)))))

"""Runs that several processes train together: whole ones, and ones that lose a process or are
stopped, and go on with as many processes or others.

A program of its own, since it forks, which is faster than torchrun:
python tests/several.py FOLDER quick|thorough.
Leaves the runs in FOLDER, and prints a line of JSON: of each start, the exit statuses of its
processes and what they printed.
"""

import dataclasses
import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.distributed import TCPStore

from symrun import ranks
from symrun.cli import main
from symrun.errors import RunError, UsageError
from symrun.runs.directory import RunDirectory
from symrun.runs.info import DivergenceInfo
from symrun.training import (
    checkpointing,
    lifecycle,  # noqa: F401  imported once, before forking
    provenance,
)
from symrun.training.checkpointing import Checkpointer
from symrun.training.data_parallel import DataParallel
from symrun.training.progress import Progress

SMALL = [
    *("data=synthetic", "data.image_size=8", "data.train_images=39", "data.val_images=21"),
    *("model=several:network", "train.batch_size=16", "train.steps=14", "track.every=3"),
    *("train.checkpoint_every=4", "device=cpu", "precision=float64", "optim.momentum=0.9"),
    "optim.weight_decay=1e-3",
]
"""The last of an epoch's 3 batches has 7 examples, and no batch can be cut into 3 equal shares."""


def network(dropout=0.0):
    """Two convolutions with batch norm, the second of which has no weights of its own."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3)),
        *(nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout)),
        nn.Linear(96, 10),
    )


def with_dropout():
    """It draws other numbers in each process."""
    return network(0.5)


def plain():
    """No batch norm keeps its outputs finite."""
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 10))


def host(count):
    """The ports of so many stores; torchrun has one for a start. Their threads live in a process of
    their own: a fork beside them could inherit a lock that nobody holds any more."""
    reading, writing = os.pipe()
    program = os.getpid()
    if os.fork() == 0:
        os.close(1)
        stores = [
            TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(count)
        ]
        os.write(writing, " ".join(str(store.port) for store in stores).encode())
        while os.getppid() == program:
            time.sleep(0.1)
        os._exit(0)
    return iter(os.read(reading, 1024).decode().split())


def start(count, arguments, act=None, spoil=None):
    """Exit statuses, printed lines and seconds of `symrun ...` on `count` processes.

    act(progress): called in each after each update. spoil(rank): called in each before it begins.
    """
    began = time.monotonic()
    children, port = [], next(PORTS)
    log = os.open("log", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for rank in range(count):
        child = os.fork()
        if child == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
            place |= {"LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
            place |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
            os.environ |= {name: str(value) for name, value in place.items()}
            os.dup2(log, 1)
            os.dup2(log, 2)
            if act is not None:
                watch(act)
            if spoil is not None:
                spoil(rank)
            try:
                os._exit(main(arguments))
            except RuntimeError:  # a bug, whose traceback python would print
                os._exit(1)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(log)
    lines, seconds = Path("log").read_text().splitlines(), time.monotonic() - began
    return {"statuses": statuses, "lines": lines, "seconds": seconds}


def watch(act):
    updated = Progress.updated

    def watched(self, images):
        updated(self, images)
        act(self)

    Progress.updated = watched


def signalled(number, rank, step):
    """A signal that a process gets right after an update."""

    def act(progress):
        if (ranks.rank(), progress.updates) == (rank, step):
            os.kill(os.getpid(), number)

    return act


def full_disk(progress):
    """The disk refuses the checkpoint of step 8."""
    save = checkpointing.save_checkpoint

    def refuse(run, step, *details):
        if step >= 8:
            raise RunError("no room")
        save(run, step, *details)

    if progress.updates == 5:
        checkpointing.save_checkpoint = refuse
    time.sleep(0.05)  # the writing thread is asked at the next update


def no_data(rank):
    """The data set is not on the machine of the last process."""
    if rank == 1:
        lifecycle.load = refuse(UsageError("there is no data here"))


def other_data(rank):
    """The last process has as many images, and others."""
    load = lifecycle.load
    lifecycle.load = lambda config: dataclasses.replace(load(config), digest=f"of {rank}")


def no_room(rank):
    """The disk is full before run.json is there."""
    RunDirectory.write_info = refuse(OSError(errno.ENOSPC, ""))


def bug(rank):
    """One process fails in its warm-up by what nobody foresaw."""
    if rank == 1:
        DataParallel.warm_up = refuse(RuntimeError("boom"))


def bug_in_update(rank):
    """As `bug`, but later."""

    def act(progress):
        if (rank, progress.updates) == (1, 3):
            raise RuntimeError("boom")

    watch(act)


def late_signal(rank):
    """One process is asked to stop once nothing is left to stop."""
    finish = Checkpointer.finish

    def asked(self):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        finish(self)

    Checkpointer.finish = asked


def late_divergence(rank):
    """The writing thread sees at the end what diverged in the last updates."""
    finish = Checkpointer.finish

    def seen(self):
        if rank == 0:
            self._state.progress.diverged = DivergenceInfo(14, True, ())
        finish(self)

    Checkpointer.finish = seen


def refuse(error):
    def refused(*arguments):
        raise error

    return refused


def train(count, name, *settings, act=None, spoil=None):
    return start(count, ["train", *SMALL, *settings, f"run.dir={name}"], act, spoil)


def sweep(name, varied, *settings, spoil=None):
    words = [*SMALL, *settings, varied, f"run.name={name}"]
    return start(2, ["train", "-m", *words], spoil=spoil)


def resume(count, name, *words):
    return start(count, ["resume", name, *words])


KILLED = [signalled(signal.SIGKILL, rank, 10) for rank in range(2)]
STOPPED = signalled(signal.SIGUSR1, 1, 6)


def quick():
    yield "one", train(1, "one")
    yield "two", train(2, "two")
    yield "local", train(3, "local", "train.batch_norm=local")
    yield "killed", train(2, "killed", act=KILLED[1])
    yield "killed goes on", resume(2, "killed")
    yield "stopped", train(2, "stopped", act=STOPPED)
    yield "stopped goes on", resume(1, "stopped")
    yield "wrong", train(2, "wrong", "optim.lr=-1")
    for spoil in (no_data, other_data, no_room, bug, late_divergence):
        yield spoil.__name__, train(2, spoil.__name__, spoil=spoil)
    yield "second", sweep("second", "train.batch_size=40,16,15", spoil=bug_in_update)
    yield "late", sweep("late", "train.steps=2,4", spoil=late_signal)
    yield "few", train(4, "few", "train.batch_size=7", "train.batch_norm=local")


def thorough():
    yield "one", train(1, "one")
    yield "two", train(2, "two")
    yield "four", train(4, "four")
    yield "masks", train(4, "masks", "model=several:with_dropout")
    killed = train(4, "masks_killed", "model=several:with_dropout", act=KILLED[1])
    yield "masks killed", killed
    yield "masks killed goes on", resume(4, "masks_killed")
    yield "first", train(2, "first", act=KILLED[0])
    yield "first goes on", resume(4, "first")
    yield "alone", train(1, "alone", act=signalled(signal.SIGUSR1, 0, 6))
    yield "alone goes on", resume(2, "alone")
    yield "full", train(2, "full", act=full_disk)
    yield "full goes on", resume(2, "full")
    yield "local", train(2, "local", "train.batch_norm=local")
    yield "local stopped", train(2, "local_stopped", "train.batch_norm=local", act=STOPPED)
    yield "local elsewhere", resume(1, "local_stopped")
    yield "local stopped goes on", resume(2, "local_stopped")
    yield (
        "diverged",
        train(2, "diverged", "model=several:plain", "optim.lr=1e100", "optim.weight_decay=0"),
    )
    yield "compile", train(2, "compile", "train.compile=true")


if __name__ == "__main__":
    folder, which = sys.argv[1:]
    os.chdir(folder)
    torch.set_num_threads(1)
    PORTS = host(30)
    torch.use_deterministic_algorithms(False)  # what this imports, each run would
    digest = provenance.source_digest()
    provenance.source_digest = lambda: digest
    print(json.dumps(dict({"quick": quick, "thorough": thorough}[which]())))

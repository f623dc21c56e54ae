"""Several processes of gloo on this machine, which run one function together."""

import os
import sys
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def on_ranks(function, folder, ranks=2):
    """function(rank, folder) in each of `ranks` processes; it stands in a module.

    Error: an exception in any of them.
    """
    folder.mkdir(exist_ok=True)
    multiprocessing.spawn(_work, (function, str(folder), ranks), nprocs=ranks)


def _work(rank, function, folder, ranks):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", ranks)
    wait = timedelta(seconds=60)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=store, timeout=wait)
    try:
        function(rank, folder)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)  # torch's threads now and then abort a process that takes them down

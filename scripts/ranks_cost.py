"""What an update costs on several processes, tracked and untracked.

Updates with and without the tracker alternate, and so does which of the two comes first: a drift of
the machine then affects both alike. The ratio is that of a pair, the median over pairs. Start it
alone and by torchrun on the same machine, with as many threads for each process as its share of the
cores:

    OMP_NUM_THREADS=2 python scripts/ranks_cost.py experiment=quickstart_bn
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 scripts/ranks_cost.py experiment=quickstart_bn

PAIRS=N measures N pairs, 200 by default; all other words are settings of `symrun train`.
"""

import os
import statistics
import sys
import time

import torch

from symrun import ranks
from symrun.cli import exit_code
from symrun.data import load
from symrun.launch import compose
from symrun.runs.writer import NoWriter
from symrun.tracking import Tracker
from symrun.training.device import device_title
from symrun.training.loop import Update
from symrun.training.metrics import Scores
from symrun.training.plan import Plan
from symrun.training.setup import make_tracker, prepare

_WARM_UP = 5


def main() -> int:
    config = compose(sys.argv[1:])
    pairs = int(os.environ.get("PAIRS", "200"))
    training = prepare(Plan.of(config), load(config.data))
    tracker = make_tracker(training, NoWriter(), Tracker)
    scores = Scores(training.device)
    updates = {on: Update(training, tracker if on else None, scores) for on in (False, True)}
    full = config.train.batch_size
    batches = enumerate(training.batches.stream(0))

    def seconds(tracked: bool) -> float:
        step, (images, labels) = next(
            one for one in batches if training.batches.size(one[0]) == full
        )
        started = time.perf_counter()
        updates[tracked](images, labels, step % training.steps)
        if training.device.type == "cuda":
            torch.cuda.synchronize(training.device)
        return time.perf_counter() - started

    training.model.train()
    found: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(-_WARM_UP, pairs):
        order = (False, True) if pair % 2 else (True, False)
        taken = {tracked: seconds(tracked) for tracked in order}
        if pair >= 0:
            for tracked in order:
                found[tracked].append(taken[tracked])
    ratios = [one / plain for plain, one in zip(found[False], found[True], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    plain, tracked = (1000 * statistics.median(found[on]) for on in (False, True))
    threads = torch.get_num_threads()
    print(f"{ranks.count()} processes of {threads} threads, {device_title(training.device)}, batch "
          f"{full}, a record every {tracker.every}, {pairs} pairs: untracked {plain:.1f} ms, "
          f"tracked {tracked:.1f} ms, ratio {middle:.3f} ({low:.3f} to {high:.3f})")  # fmt: skip
    return 0


if __name__ == "__main__":
    here = exit_code("ranks_cost", lambda: ranks.together(main) if ranks.started() else main())
    sys.exit(here)

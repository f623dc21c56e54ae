"""How long the command line takes to answer."""

import statistics
import subprocess
import sys
import time

_RUNS = 5


def help_seconds() -> float:
    """Median of `symrun --help`, from nothing to the prompt."""
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        command = [sys.executable, "-m", "symrun", "--help"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)

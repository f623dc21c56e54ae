"""A step's memory is not handed back to the system and asked for again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from symrun.training.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def touch():
    torch.empty(2**26, dtype=torch.uint8).fill_(1)

for _ in range(20):  # until the heap has places for it
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how):
    """Pages that the system had to give for 20 times the same 64 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told to")
def test_freed_memory_is_used_again():
    # glibc keeps up to 32 MiB by itself. In pages of 4 KiB or of 2 MiB: at least 32 for each time
    assert page_faults("usual") >= 20 * 32 > 32 > page_faults("kept")

"""The tracker's memory on the host does not grow."""

import sys
from pathlib import Path

import pytest
import torch

from symrun.laws import SGD, laws_of_sgd
from symrun.models.vgg import vgg
from symrun.runs import writer as writer_module
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.symmetry import find_structure
from symrun.tracking import Tracker


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_growth_over_thousands_of_steps(tmp_path, monkeypatch):
    """Beside what waits to be written, here a few records. 3000 steps make 300 records of 20 kB
    each: less is left than half of that, 3 MB. Allocators come and go by 1 MB."""
    monkeypatch.setattr(writer_module, "FLUSH_SECONDS", 0.05)
    model = vgg("vgg11", 10, 64, 0.0625, 0.5)
    groups = find_structure(model, torch.zeros(2, 3, 64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    laws, _ = laws_of_sgd(SGD(1e-4, momentum=0.9))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with TableWriter(RunDirectory.create(tmp_path / "run", "")) as writer:
        tracker = Tracker(model, optimizer, groups, laws, writer, 10, sample=50, seed=0)
        optimizer.step()
        for step in range(3500):
            tracker.before_update(step, 0.1)
            if step == 500:
                early = resident_bytes()
        assert resident_bytes() - early < 300 * 20_000 // 2

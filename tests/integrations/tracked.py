"""What stands in for `symrun.track` where a test is about who calls it, and when; and what is
asked of a run where it is called in earnest."""

import symrun
from symrun.analysis import agreement
from symrun.runs.directory import RunDirectory


class Tracked:
    """Counts the updates of an optimiser."""

    def __init__(self, model, optimizer, example_input, **options):
        assert type(optimizer).__module__.startswith("torch.optim")
        self.model, self.optimizer, self.options = model, optimizer, options
        self.example_input = example_input
        self.step, self.closed = 0, []
        optimizer.register_step_post_hook(self._updated)

    def _updated(self, *_):
        self.step += not self.closed

    def state_dict(self):
        return {"step": self.step}

    def __exit__(self, kind, *details):
        self.closed.append(kind)


def require_whole(path, steps):
    """A finished run with these records, over which `exact` holds: an identity, up to rounding."""
    run = symrun.open_run(path)
    assert run.info.status == "finished"
    assert sorted(set(run.units().step)) == steps
    rows = [row for row in agreement(RunDirectory.open(path)) if row.law == "exact"]
    assert rows and max(row.residual for row in rows) < 1e-6  # a float32 rounding an update

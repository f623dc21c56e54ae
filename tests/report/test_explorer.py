"""The curves in the page: chosen as it says, and as the tables have them."""

import base64

import numpy as np
import pytest
from own_loop import STEPS

from symrun.analysis import comparisons, judge
from symrun.report.explorer import explorer


def curves_of(group):
    flat = np.frombuffer(base64.b64decode(group["curves"]), "<f4")
    return flat.reshape(2 + len(group["laws"]), len(group["units"]), len(group["steps"]))


@pytest.mark.parametrize("kind", ["sgd", "adamw", "mixed"])
def test_each_curve_is_that_of_its_unit(own_loops, kind):
    run = own_loops[kind]
    for group, whole in zip(explorer(run, 1e6), comparisons(run), strict=True):
        records = np.searchsorted(whole.steps, group["steps"])
        place = np.ix_(records, group["units"])
        measured, magnitude, *off = curves_of(group)
        assert np.array_equal(measured, whole.measured[place].T.astype("f4"))
        assert np.array_equal(magnitude, whole.magnitude[place].T.astype("f4"))
        for law, missed in zip(group["laws"], off, strict=True):
            difference = whole.measured[place] - whole.predicted[law][place]
            assert np.array_equal(missed, difference.T.astype("f4"))
        assert sorted(group["units"]) == list(range(group["of"]))  # few enough: all of them


def test_the_worst_unit_comes_first(own_loops):
    rows = {
        (row.symmetry, row.group): row for row in judge(own_loops["sgd"])[0] if row.law == "flow"
    }
    for group in explorer(own_loops["sgd"], 1e6):
        row = rows[group["symmetry"], group["group"]]
        shares = group["unexplained"]["flow"]
        if row.moved:
            assert f"{row.group} [{group['units'][0]}]" == row.worst_unit
            assert shares[0] == pytest.approx(row.unexplained_worst, rel=1e-12)
            moved = [share for share in shares if share is not None]
            assert moved == sorted(moved, reverse=True) and len(moved) == row.moved
        else:
            assert set(shares) == {None}


def test_a_page_of_many_groups_has_fewer_units_and_then_fewer_records(own_loops):
    run, (conv1, *_) = own_loops["sgd"], explorer(own_loops["sgd"], 1e6)
    for most in (2e4, 5e3, 3e3):
        groups = explorer(run, most)
        assert sum(len(group["curves"]) for group in groups) <= most
        first = groups[0]
        assert first["steps"][0] == 0 and first["steps"][-1] == STEPS
        assert {conv1["units"][0], conv1["units"][-1]} <= {*first["units"]}  # the worst, the best
    assert len(first["units"]) == 2 and len(first["steps"]) < len(conv1["steps"])

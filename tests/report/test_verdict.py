"""The sentence about a run: what flow did, never what an identity did."""

import dataclasses
import math

import pytest
from run_json import described

from symrun.analysis import Agreement
from symrun.launch import compose
from symrun.report import Evidence
from symrun.report.verdict import verdict

ROW = Agreement("flow", "scale", "all", 10, 10, 0, 1e-4, 0.1, None, False)
GOOD = dataclasses.replace(ROW, explained=1 - 1e-7, unexplained=1e-7, unexplained_99=1e-5)
STILL = dataclasses.replace(ROW, symmetry="translation", moved=0, excluded=10)
EXACT = dataclasses.replace(GOOD, law="exact")
NESTEROV = "the paper's oscillator does not describe Nesterov's look-ahead"


def of(*rows, **setup):
    found = verdict(Evidence("one", described(**setup), [], list(rows), []))
    return found.label, found.good, found.sentence


def test_a_run_that_clears_its_bars():
    label, good, sentence = of(GOOD, STILL, EXACT)
    assert (label, good) == ("flow clears 4 of 4 bars", True)
    assert sentence == (
        "`flow` leaves unexplained: 1 − R² = 1.0e-07 in scale (median of 10 units; residual "
        "1.0e-04); nothing in translation, where no unit moved (residual 1.0e-04)."
    )


@pytest.mark.parametrize("value", [1e-2, math.nan, math.inf])
def test_what_it_misses_is_told(value):
    label, good, sentence = of(dataclasses.replace(GOOD, residual=value))
    assert (label, good) == ("flow clears 2 of 3 bars", False)
    shown = "1.0e-02" if math.isfinite(value) else "-"
    assert sentence.endswith(f" Missed: residual of `flow` ≤ 1e-3 in scale ({shown}).")


def test_units_left_out_and_runs_under_way_are_told():
    some = dataclasses.replace(GOOD, moved=4, excluded=6)
    label, good, sentence = of(some, status="running")
    assert (label, good) == ("so far flow clears 3 of 3 bars", None)
    assert sentence.startswith("So far, `flow`") and "median of 4 of 10 units" in sentence


def test_a_diverged_run_clears_nothing():
    label, good, sentence = of(
        GOOD, status="diverged", diverged={"step": 3, "loss": True, "layers": []}
    )
    assert (label, good) == ("until it diverged flow clears 0 of 3 bars", False)
    assert sentence.startswith("The run diverged at step 3; up to there `flow`")


def test_where_nothing_moved_nothing_is_praised():
    for decay, still in (("0", "no unit moved"), ("1e-4", "no unit left exp(−λt)")):
        config = compose(["data=synthetic", f"optim.weight_decay={decay}"]).to_dict()
        assert of(STILL, config=config)[:2] == (f"{still}: nothing to explain", None)


def test_an_identity_is_no_prediction():
    silent = dataclasses.replace(ROW, residual=None)
    reasons = dict.fromkeys(("flow", "discrete"), NESTEROV)
    label, good, sentence = of(silent, EXACT, unpredicted=reasons)
    assert (label, good) == ("no law predicts it", None)
    assert sentence.startswith("No law predicts this run: ") and NESTEROV in sentence
    assert "e-" not in sentence

    other = dataclasses.replace(GOOD, law="discrete")
    label, good, sentence = of(silent, other, EXACT, unpredicted={"flow": NESTEROV})
    assert (label, good) == ("flow makes no prediction", None)
    assert "`discrete` leaves unexplained: 1 − R² = 1.0e-07 in scale" in sentence


def test_a_network_without_symmetries_is_told():
    assert of() == (
        "no symmetry was found",
        None,
        "No symmetry was found in this network, so there is nothing to predict.",
    )

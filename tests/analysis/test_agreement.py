"""Residual and explained against hand-made tables whose numbers are known."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from run_json import described

from symrun.analysis import (
    agreement,
    as_json,
    as_table,
    judge,
    shortcomings,
    skipped,
)
from symrun.errors import UsageError
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import LAWS, MEASUREMENTS, units_schema
from symrun.runs.writer import write_part

STEPS = np.array([0, 10, 20])


def make_run(tmp_path, symmetry, columns, unpredicted=(), overrides=()):
    """A run of one group and 20 updates; columns: name -> [records, units]."""
    run = RunDirectory.create(tmp_path / "run", "")
    settings = ["data=synthetic", "train.steps=20", "optim.weight_decay=0.01", *overrides]
    groups = [{"symmetry": symmetry, "group": "g", "units": 2, "layers": ["g"]}]
    silent = dict.fromkeys(unpredicted, "because")
    run.write_info(described(settings, steps_per_epoch=10, unpredicted=silent, groups=groups))
    records, units = columns["measured"].shape
    name = pa.dictionary(pa.int16(), pa.string())
    arrays = [
        pa.array(np.repeat(STEPS[:records], units), pa.int32()),
        pa.array([symmetry] * records * units).cast(name),
        pa.array(["g"] * records * units).cast(name),
        pa.array(np.tile(np.arange(units), records), pa.int32()),
    ]
    for column in MEASUREMENTS:
        if column in columns:
            arrays.append(pa.array(columns[column].reshape(-1), pa.float64()))
        else:
            arrays.append(pa.nulls(records * units, pa.float64()))
    table = pa.Table.from_arrays(arrays, schema=units_schema(pa.float64()))
    for number in range(records):  # a part for each record
        rows = table.slice(number * units, units)
        write_part(run.table("units") / f"part-{number:06d}.parquet", rows)
    return run


def of_symmetry(run):
    """{law: row} of a run's only symmetry, null laws as well."""
    return {row.law: row for row in judge(run)[1]}


def decayed(initial, degree):
    return np.exp(-degree * 0.01 * 0.1 * STEPS)[:, None] * np.array(initial)


def test_residual_and_explained_by_hand(tmp_path):
    baseline = decayed([4.0, 2.0], degree=2)
    measured = baseline + np.array([[0, 0], [0.5, 0], [1.0, 0]])  # unit 1 moves, unit 2 does not
    magnitude = np.full_like(measured, 5.0)
    off = np.array([[0, 0], [0.1, 0], [0.0, 1e-7]])
    columns = {"measured": measured, "magnitude": magnitude, "flow": measured + off}
    columns |= {"discrete": baseline, "exact": measured}
    rows = {row.law: row for row in agreement(make_run(tmp_path, "scale", columns))}
    assert list(rows) == list(LAWS)
    flow = rows["flow"]
    assert (flow.units, flow.moved) == (2, 1)
    assert flow.residual == pytest.approx(0.1 / 5)
    assert flow.explained == pytest.approx(1 - 0.1**2 / (0.5**2 + 1.0**2))
    assert flow.drift < 1e-15
    assert rows["discrete"].explained == pytest.approx(0.0)  # no better than the baseline
    assert rows["exact"].residual == 0 and rows["exact"].explained == 1


NULLS = ("null: 1 % too large", "null: constant gradient norm", "null: another unit's")


def test_null_laws_by_hand(tmp_path):
    """A perfect law; with weight decay 0.01 and lr 0.1, steady gradients move Q by
    R' = -2 0.01 R + 0.1, in closed form."""
    baseline = decayed([4.0, 2.0], degree=2)
    motion = np.array([[0.0, 0.0], [0.5, 0.1], [1.0, 0.4]])
    columns = dict.fromkeys(LAWS, baseline + motion)
    columns |= {"measured": baseline + motion, "magnitude": np.full_like(motion, 5.0)}
    rows = of_symmetry(make_run(tmp_path, "scale", columns))
    assert list(rows) == [*LAWS, *NULLS]
    assert [rows[law].residual for law in (*LAWS, *NULLS)] == [0, 0, 0, None, None, None]
    time = 0.1 * STEPS
    steady = (1 - np.exp(-0.02 * time)) / (1 - np.exp(-0.02 * time[-1]))
    wrong = [1.01 * motion, steady[:, None] * motion[-1], motion[:, ::-1]]
    for law, other in zip(NULLS, wrong, strict=True):
        shares = ((motion - other) ** 2).sum(axis=0) / (motion**2).sum(axis=0)
        row = rows[law]
        assert row.unexplained == pytest.approx(np.median(shares), rel=1e-9)
        assert row.explained == pytest.approx(1 - np.median(shares), rel=1e-9)
        assert row.rms == pytest.approx(np.sqrt(np.median(shares)), rel=1e-9)
        assert row.unexplained_worst == pytest.approx(max(shares), rel=1e-9)
        assert row.unexplained_99 == pytest.approx(max(shares), rel=1e-9)  # of two units
    assert rows[NULLS[0]].unexplained == pytest.approx(1e-4)
    assert rows[NULLS[2]].worst_unit == "g [1]"


def test_the_identity_and_an_optimiser_without_laws_have_no_null_laws(tmp_path):
    measured = decayed([4.0, 2.0], degree=2) + 0.1 * STEPS[:, None]
    columns = dict.fromkeys(("measured", "magnitude", "exact"), measured)
    run = make_run(tmp_path, "scale", columns, unpredicted=("flow", "discrete"))
    assert list(of_symmetry(run)) == list(LAWS)
    only_exact = list(agreement(run))
    assert shortcomings(only_exact, max_residual=1.0) == [
        "no law has a number for residual in this run"
    ]
    assert shortcomings(only_exact, min_explained=0.0) == [
        "no law has a number for explained in this run"
    ]


def test_a_linear_quantity_has_no_steady_forcing(tmp_path):
    measured = decayed([4.0, 2.0], degree=1) + 0.1 * STEPS[:, None]
    columns = dict.fromkeys(("measured", "magnitude", *LAWS), measured)
    rows = of_symmetry(make_run(tmp_path, "translation", columns))
    assert list(rows) == [*LAWS, NULLS[0], NULLS[2]]


def test_what_was_excluded_and_too_few_units_are_said(tmp_path):
    measured = decayed([4.0, 2.0], degree=2)
    measured[1:, 0] += 0.5
    columns = dict.fromkeys(("measured", *LAWS), measured)
    columns["magnitude"] = np.full_like(measured, 5.0)
    run = make_run(tmp_path, "scale", columns)
    rows, symmetries = judge(run)
    assert rows[0].excluded == 1 and rows[0].worst_unit == "g [0]"
    line = skipped(symmetries)
    assert line is not None and line.endswith("excluded: 1 of 2 of scale")
    text = as_table(rows, symmetries)
    assert text.splitlines()[2].split()[:4] == ["scale", "g", "2", "1*"]
    assert text.endswith("*: judged by fewer than 5 units.")
    assert shortcomings(rows, min_explained=0.9, min_moved=0.5) == []
    assert shortcomings(rows, min_moved=0.6) == ["scale g: moved 0.5, the bar is 0.6"]
    # A matrix has two groups of one name, its diagonal and its other entries
    others = [dataclasses.replace(row, symmetry="rescale", moved=2) for row in rows]
    assert shortcomings(rows + others, min_moved=0.6) == shortcomings(rows, min_moved=0.6)


@pytest.mark.parametrize(
    ("overrides", "time"),
    [
        (["optim.momentum=0.9", "optim.dampening=0.5"], 0.1 * STEPS * 0.5 / 0.1),
        (["optim.schedule=multistep", "optim.milestones=[0.5]", "optim.gamma=0.1"], [0, 1, 1.1]),
        (["optim=adam", "optim.weight_decay=0.01"], [0, 0, 0]),  # no flow that decays
    ],
)
def test_the_baseline_follows_schedule_and_momentum(tmp_path, overrides, time):
    measured = np.exp(-2 * 0.01 * np.array(time))[:, None] * np.array([1.0, 4.0])
    columns = dict.fromkeys(("measured", "magnitude", *LAWS), measured)
    for row in agreement(make_run(tmp_path, "scale", columns, overrides=overrides)):
        assert row.moved == 0 and row.drift < 1e-15


def test_translation_decays_at_half_the_rate(tmp_path):
    measured = decayed([3.0, -1.0], degree=1)
    columns = dict.fromkeys(("measured", *LAWS), measured)
    columns["magnitude"] = np.abs(measured)
    for row in agreement(make_run(tmp_path, "translation", columns)):
        assert row.moved == 0 and row.explained is None and row.residual == 0
        assert row.drift < 1e-15


@pytest.mark.parametrize(("motion", "moved"), [(5e-6, 0), (7e-6, 1)])
def test_conserved_means_within_100_float32_roundings_of_the_magnitude(tmp_path, motion, moved):
    """100 * 2^-24 = 6.0e-6."""
    measured = decayed([1.0, 1.0], degree=2)
    measured[2, 0] += motion
    columns = dict.fromkeys(("measured", *LAWS), measured)
    columns["magnitude"] = np.ones_like(measured)
    rows = list(agreement(make_run(tmp_path, "scale", columns)))
    assert all(row.moved == moved for row in rows)


def test_a_law_without_prediction_has_no_numbers(tmp_path):
    measured = decayed([1.0, 2.0], degree=2) + 0.1 * STEPS[:, None]
    columns = {"measured": measured, "magnitude": measured}
    rows = list(agreement(make_run(tmp_path, "scale", columns, unpredicted=LAWS)))
    assert all(row.residual is None and row.explained is None for row in rows)
    assert shortcomings(rows, 0.9, None) == ["no law has a number for explained in this run"]


def test_a_bias_that_starts_at_zero_has_no_residual(tmp_path):
    zeros = np.zeros((3, 2))
    columns = dict.fromkeys(("measured", "magnitude", *LAWS), zeros)
    assert all(row.residual == 0 for row in agreement(make_run(tmp_path, "translation", columns)))


def test_a_diverged_run_is_compared_up_to_there_with_a_warning(tmp_path, caplog):
    measured = decayed([1.0, 2.0], degree=2)
    measured[2] = np.nan
    columns = dict.fromkeys(("measured", "magnitude", *LAWS), measured)
    rows = list(agreement(make_run(tmp_path, "scale", columns)))
    assert "not finite after step 10" in caplog.text
    assert all(row.residual == 0 and row.diverged for row in rows)
    assert shortcomings(rows, min_explained=None, max_residual=1.0) == ["the run diverged"]


def test_a_run_that_diverged_at_once_cannot_be_compared(tmp_path):
    measured = decayed([1.0, 2.0], degree=2)
    measured[1:] = np.nan
    columns = dict.fromkeys(("measured", "magnitude", *LAWS), measured)
    with pytest.raises(UsageError, match="diverged before its second record"):
        list(agreement(make_run(tmp_path, "scale", columns)))


def test_a_single_record_shows_no_motion(tmp_path):
    columns = dict.fromkeys(("measured", "magnitude", *LAWS), np.ones((1, 2)))
    with pytest.raises(UsageError, match="a single record"):
        list(agreement(make_run(tmp_path, "scale", columns)))


def test_bars(tmp_path):
    measured = decayed([1.0, 1.0], degree=2) + 0.01 * STEPS[:, None]
    columns = dict.fromkeys(("measured", *LAWS), measured)
    columns |= {"magnitude": np.ones_like(measured), "flow": measured + [[0, 0], [0, 0], [0.1, 0]]}
    rows = list(agreement(make_run(tmp_path, "scale", columns)))
    assert shortcomings(rows, min_explained=0.5, max_residual=0.2) == []
    off = [dataclasses.replace(row, residual=0.3) if row.law == "exact" else row for row in rows]
    assert shortcomings(off, max_residual=0.2) == ["exact of scale g: residual 0.3, the bar is 0.2"]
    (line,) = shortcomings(rows, min_explained=None, max_residual=0.05)
    assert line == "flow of scale g: residual 0.1, the bar is 0.05"
    assert len(shortcomings(rows, min_explained=0.9999, max_residual=0.05)) == 2


def test_table_and_json(tmp_path):
    measured = decayed([1.0, 1.0], degree=2) + 0.01 * STEPS[:, None]
    columns = dict.fromkeys(("measured", "magnitude", *LAWS), measured)
    run = make_run(tmp_path, "rescale", columns)
    rows, symmetries = judge(run)
    parsed = json.loads(as_json(rows, symmetries))
    keys = {"law", "symmetry", "group", "units", "moved", "residual", "explained"}
    assert len(parsed["rows"]) == 3 and all(keys <= set(row) for row in parsed["rows"])
    assert [row["law"] for row in parsed["symmetries"]] == [*LAWS, *NULLS]
    lines = as_table(rows, symmetries).splitlines()
    assert lines[1].split()[:2] == ["symmetry", "group"]
    worst = ["0.0e+00", "[0]"]
    assert lines[2].split() == ["rescale", "g", "2", "2*", "-"] + ["0.0e+00"] * 6 + worst


def test_a_run_without_records_is_one_clear_error(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "")
    groups = [{"symmetry": "scale", "group": "g", "units": 1, "layers": ["g"]}]
    run.write_info(described(groups=groups))
    with pytest.raises(UsageError, match="has no records yet"):
        list(agreement(run))

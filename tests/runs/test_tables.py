"""Reading: what was written comes back unit by unit, and a damaged table is one clear line."""

import numpy as np
import pyarrow as pa
import pytest
from run_json import described
from test_writer import UNITS, record

from symrun.errors import UsageError
from symrun.figures import layers
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import MEASUREMENTS, unit_curves, unpacked_bytes
from symrun.runs.writer import write_part


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "")
    for number, steps in enumerate(([0, 1], [2])):
        rows = pa.concat_tables([record(step) for step in steps])
        write_part(run.table("units") / f"part-{number:06d}.parquet", rows)
    return run


def test_curves_are_records_by_units(run):
    curves = unit_curves(run, "rescale", "a -> b", ["measured", "flow"])
    assert curves.steps.tolist() == [0, 1, 2]
    assert curves.values["measured"].tolist() == [[2, 3], [12, 13], [22, 23]]
    assert curves.values["measured"].dtype == np.float64
    assert np.isnan(curves.values["flow"]).all()  # null


def test_a_part_written_while_a_figure_reads_does_not_disturb_it(run, monkeypatch):
    """It reads one group after the other, and then has fewer records of the first."""

    def then_goes_on(*arguments):
        curves = unit_curves(*arguments)
        write_part(run.part("units", 2), record(3))
        return curves

    monkeypatch.setattr(layers, "unit_curves", then_goes_on)
    groups = [{"symmetry": "scale", "group": "a", "units": 2, "layers": ["a"]}] * 2
    run.write_info(described(groups=groups))
    means = layers.layer_means(run, "scale")
    assert means.steps.tolist() == [0, 1, 2]
    assert means.values["measured"].tolist() == [[0.5] * 2, [10.5] * 2, [20.5] * 2]


def refusal(run, group="a"):
    with pytest.raises(UsageError) as caught:
        unit_curves(run, "scale", group)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_group_that_is_not_there(run):
    assert "missing or doubled" in refusal(run, "z")


def test_doubled_records_are_noticed(run):
    write_part(run.table("units") / "part-000002.parquet", record(2))
    assert "missing or doubled" in refusal(run)


def test_an_incomplete_record_is_noticed(run):
    write_part(run.table("units") / "part-000002.parquet", record(3).slice(0, UNITS - 3))
    assert "missing or doubled" in refusal(run)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:40], lambda data: b"", lambda data: data[::-1]]
)
def test_a_damaged_part_is_named(run, damage):
    part = run.table("units") / "part-000001.parquet"
    part.write_bytes(damage(part.read_bytes()))
    assert "tables/units cannot be read" in refusal(run)


def test_the_estimate_is_no_less_than_what_a_run_of_some_size_takes(tmp_path):
    """500 units of random numbers, which pack badly: 7 columns of float32 in 30 records."""
    random = np.random.default_rng(0)
    keys = record(0).slice(0, 1).select(["symmetry", "group"])
    run = RunDirectory.create(tmp_path / "big", "")
    columns = {name: random.random(15_000).astype(np.float32) for name in MEASUREMENTS}
    table = pa.table(
        {
            "step": pa.array(np.tile(np.arange(30, dtype=np.int32), 500)),
            **{name: keys[name].take(pa.array([0] * 15_000)) for name in keys.column_names},
            "unit": pa.array(np.repeat(np.arange(500, dtype=np.int32), 30)),
            **columns,
        }
    )
    part = run.table("units") / "part-000000.parquet"
    write_part(part, table)
    estimate = unpacked_bytes(records=30, units=500, parameters=0, value_bytes=4)
    assert estimate == 30 * 500 * 7 * 4
    assert 0.5 * estimate < part.stat().st_size <= estimate

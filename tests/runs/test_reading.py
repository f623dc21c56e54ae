"""Reading part by part: only what is asked for is decoded, whatever the size of the parts."""

import os

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symrun.errors import UsageError
from symrun.runs import writer as writer_module
from symrun.runs.directory import RunDirectory
from symrun.runs.reading import read_parts
from symrun.runs.tables import parameter_curves, parameters_schema, unit_curves, units_schema
from symrun.runs.writer import write_part, write_records

GROUPS = {"b": ("scale", 700), "a": ("scale", 300), "a -> b": ("rescale", 300), "c": ("scale", 1)}
"""In the order of a network, not of the alphabet."""
UNITS = sum(units for _, units in GROUPS.values())


def record(step, groups=GROUPS):
    """measured = 1000 step + place among all units; flow is null."""
    sizes = [units for _, units in groups.values()]
    count = sum(sizes)
    codes = np.repeat(np.arange(len(groups), dtype=np.int16), sizes)
    kinds = pa.array([kind for kind, _ in groups.values()])
    columns = {
        "step": np.full(count, step, np.int32),
        "symmetry": pa.DictionaryArray.from_arrays(codes, kinds).cast(pa.string()),
        "group": pa.DictionaryArray.from_arrays(codes, pa.array(list(groups))),
        "unit": np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
    }
    schema = units_schema(pa.float32())
    for field in schema:
        columns.setdefault(field.name, pa.nulls(count, field.type))
    columns["measured"] = (1000.0 * step + np.arange(count)).astype(np.float32)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "")


def write(run, sizes, first=0):
    """Parts of so many records each."""
    step = 0
    for number, size in enumerate(sizes, start=first):
        write_records(run, "units", number, [record(step + i) for i in range(size)])
        step += size


def expected(group, records):
    places = [place for name, (_, n) in GROUPS.items() for place in [name] * n]
    units = [unit for unit, name in enumerate(places) if name == group]
    return 1000.0 * np.arange(records)[:, None] + np.array(units)


def test_a_row_group_holds_one_group_and_is_read_alone(run, monkeypatch):
    write(run, [20])
    (part,) = run.table("units").iterdir()
    metadata = pq.read_metadata(part)
    place = metadata.schema.names.index("group")
    spans = [
        (metadata.row_group(i).num_rows, statistics.min, statistics.max)
        for i in range(metadata.num_row_groups)
        if (statistics := metadata.row_group(i).column(place).statistics)
    ]
    assert spans == [(20 * units, name, name) for name, (_, units) in GROUPS.items()]

    asked = []
    read = pq.ParquetFile.read_row_groups

    def watched(file, row_groups, columns, **how):
        asked.append((row_groups, columns))
        return read(file, row_groups, columns=columns, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", watched)
    curves = unit_curves(run, "scale", "a", ["measured"])
    assert asked == [([1], ["step", "unit", "measured"])]
    assert np.array_equal(curves.values["measured"], expected("a", 20))


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), least=st.sampled_from([1, 1024]))
def test_parts_of_any_size_give_the_same_curves(tmp_path_factory, sizes, least):
    run = RunDirectory.create(tmp_path_factory.mktemp("any") / "run", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "_LEAST_ROWS", least)
        write(run, sizes)
    for group, (symmetry, units) in GROUPS.items():
        curves = unit_curves(run, symmetry, group, ["measured", "flow"])
        assert curves.steps.tolist() == list(range(sum(sizes)))
        assert np.array_equal(curves.values["measured"], expected(group, sum(sizes)))
        assert curves.values["flow"].shape == (sum(sizes), units)
        assert np.isnan(curves.values["flow"]).all()


def test_rows_in_any_order_give_the_same_curves(run):
    rows = pa.concat_tables([record(step) for step in range(5)])
    shuffled = rows.take(np.random.default_rng(0).permutation(rows.num_rows))
    write_part(run.table("units") / "part-000000.parquet", shuffled)
    curves = unit_curves(run, "scale", "b", ["measured"])
    assert np.array_equal(curves.values["measured"], expected("b", 5))


def test_a_group_of_that_name_in_another_symmetry_is_another(run):
    both = {"a": ("scale", 3)}, {"a": ("rescale", 2)}
    rows = pa.concat_tables([record(0, groups) for groups in both])
    write_part(run.table("units") / "part-000000.parquet", rows)
    assert unit_curves(run, "scale", "a", ["measured"]).values["measured"].shape == (1, 3)
    assert unit_curves(run, "rescale", "a", ["measured"]).values["measured"].shape == (1, 2)


def test_a_record_that_a_part_holds_twice_is_refused(run):
    write_records(run, "units", 0, [record(step) for step in (0, 1, 1)])
    refused(run)


def test_a_record_that_two_parts_hold_is_refused(run):
    write(run, [3])
    write_records(run, "units", 1, [record(step) for step in (2, 3)])
    refused(run)


def test_a_part_that_lacks_a_unit_is_refused(run):
    write(run, [2])
    write_records(run, "units", 1, [record(2, {**GROUPS, "a": ("scale", 299)})])
    refused(run)


def test_a_record_that_lacks_a_unit_is_refused(run):
    rows = pa.concat_tables([record(0), record(1).slice(0, 999), record(1).slice(1000)])
    write_part(run.table("units") / "part-000000.parquet", rows)  # unit 299 of "a"
    refused(run)
    assert len(unit_curves(run, "scale", "b").steps) == 2


def refused(run):
    with pytest.raises(UsageError, match="missing or doubled records"):
        unit_curves(run, "scale", "a")


def test_a_part_that_was_replaced_is_read_anew(run):
    write(run, [2])
    assert len(unit_curves(run, "scale", "a").steps) == 2
    write(run, [5])
    (part,) = run.table("units").iterdir()
    os.utime(part, ns=(0, 0))  # the clock of a file system may stand still that long
    assert len(unit_curves(run, "scale", "a").steps) == 5


def test_a_part_without_the_column_is_one_clear_line(run):
    folder = run.table("units")
    write_part(folder / "part-000000.parquet", record(0).drop_columns(["flow"]))
    with pytest.raises(UsageError, match=r"units cannot be read: part-000000\.parquet") as caught:
        list(read_parts(run, "units", ["flow"], group="a"))
    assert "\n" not in str(caught.value)


def test_no_rows_where_nothing_was_sampled(run):
    folder = run.table("parameters")
    write_part(folder / "part-000000.parquet", parameters_schema(pa.float32()).empty_table())
    with pytest.raises(UsageError, match="missing or doubled records"):
        parameter_curves(run, "features.0")


def test_row_groups_are_nothing_that_other_readers_notice(run):
    write(run, [1, 20])
    folder = run.table("units")
    assert pq.read_metadata(folder / "part-000001.parquet").num_row_groups == len(GROUPS)
    frame = pd.read_parquet(folder, filters=[("group", "==", "a")])
    assert len(frame) == 21 * 300 and set(frame["symmetry"]) == {"scale"}
    query = f"select count(*), sum(measured) from '{folder}/*.parquet' where \"group\" = 'a'"
    assert duckdb.sql(query).fetchall() == [(21 * 300, expected("a", 21).sum())]

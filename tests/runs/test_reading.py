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
from symrun.runs.info import SCHEMA
from symrun.runs.reading import SCHEMA_KEY, read_parts
from symrun.runs.tables import (
    PROGRESS_SCHEMA,
    parameter_curves,
    parameters_schema,
    unit_curves,
    units_schema,
)
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
    monkeypatch.setattr(writer_module, "_LEAST_ROWS", 20)
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


def test_short_groups_share_a_row_group_which_knows_no_other_names(run):
    sizes = {f"layer.{place}": ("scale", size) for place, size in enumerate([300, 5, 200, 300, 3])}
    write_records(run, "units", 0, [record(step, sizes) for step in range(10)])
    (part,) = run.table("units").iterdir()
    with pq.ParquetFile(part) as file:
        pieces = [file.read_row_group(number) for number in range(file.num_row_groups)]
    assert [piece.num_rows for piece in pieces] == [5050, 3030]
    assert [piece["group"].combine_chunks().dictionary.to_pylist() for piece in pieces] == [
        ["layer.0", "layer.1", "layer.2"],
        ["layer.3", "layer.4"],
    ]
    start = 0
    for name, (_, units) in sizes.items():
        values = unit_curves(run, "scale", name, ["measured"]).values["measured"]
        expected = 1000 * np.arange(10)[:, None] + np.arange(start, start + units)
        assert np.array_equal(values, expected)
        start += units


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


def replaced(name, values):
    place = record(0).schema.get_field_index(name)
    return record(0).set_column(place, name, values)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (record(0).drop_columns(["flow"]), "it has no column flow"),
        (replaced("flow", pa.array(["1.0"] * UNITS)), "column flow holds string, not floating"),
        (replaced("flow", pa.nulls(UNITS)), "column flow holds null, not floating"),
        (replaced("step", pa.array([0.0] * UNITS)), "column step holds double, not integers"),
        (replaced("step", pa.nulls(UNITS, pa.int32())), "Float value nan was truncated"),
        (replaced("group", pa.array([1] * UNITS)), "column group holds int64, not names"),
        (replaced("group", pa.array([1] * UNITS).dictionary_encode()), "column group holds int64"),
    ],
)
def test_a_part_of_another_shape_is_one_clear_line(run, rows, reason):
    write_part(run.part("units", 0), rows)
    assert reason in why_unreadable(run)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (b"4", "has schema 4, written by a newer symrun: this one reads 3; update symrun"),
        (b"2", "has schema 2, written by an older symrun: this one reads 3"),
        (b"3.0", "has schema '3.0'; this symrun reads 3"),
        ("²".encode(), "has schema '²'; this symrun reads 3"),
        (b"\xff\n", "codec can't decode byte 0xff"),
        (b"9" * 5000, "Exceeds the limit"),
        (None, "has schema 'none'; this symrun reads 3"),
    ],
    ids=range(7),
)
def test_a_part_of_another_version_is_one_clear_line(run, version, reason):
    metadata = {} if version is None else {SCHEMA_KEY: version}
    write_part(run.part("units", 0), record(0).replace_schema_metadata(metadata))
    assert reason in why_unreadable(run)


def test_a_part_that_something_else_wrote_is_one_clear_line(run):
    """Such as a part of an older version, which has no seal."""
    pq.write_table(record(0), run.part("units", 0))
    assert "not written by this version of symrun: it has no seal" in why_unreadable(run)


def why_unreadable(run):
    with pytest.raises(UsageError, match=r"units cannot be read: part-000000\.parquet: ") as caught:
        list(read_parts(run, "units", ["step", "flow"], group="a"))
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("table", ["units", "parameters", "progress"])
def test_each_table_carries_its_version_and_page_checksums_into_its_parts(run, table):
    schemas = {"units": units_schema(pa.float32()), "parameters": parameters_schema(pa.float64())}
    schema = schemas.get(table, PROGRESS_SCHEMA)
    row = [pa.array(["a" if pa.types.is_dictionary(f.type) else 1]).cast(f.type) for f in schema]
    write_records(run, table, 0, [pa.table(row, schema=schema)] * 3)
    file = pq.ParquetFile(run.part(table, 0))
    assert file.metadata.metadata[b"symrun.schema"] == str(SCHEMA).encode()
    content = bytearray(run.part(table, 0).read_bytes())
    steps = file.metadata.row_group(0).column(0)
    content[steps.data_page_offset + steps.total_compressed_size - 1] ^= 1
    with pytest.raises(OSError, match="CRC"):  # as other readers may see it
        pq.ParquetFile(pa.BufferReader(bytes(content)), page_checksum_verification=True).read()


def test_no_rows_where_nothing_was_sampled(run):
    folder = run.table("parameters")
    write_part(folder / "part-000000.parquet", parameters_schema(pa.float32()).empty_table())
    with pytest.raises(UsageError, match="missing or doubled records"):
        parameter_curves(run, "features.0")


def test_row_groups_are_nothing_that_other_readers_notice(run):
    write(run, [1, 20])
    folder = run.table("units")
    assert pq.read_metadata(folder / "part-000001.parquet").num_row_groups == 4
    frame = pd.read_parquet(folder, filters=[("group", "==", "a")])
    assert len(frame) == 21 * 300 and set(frame["symmetry"]) == {"scale"}
    query = f"select count(*), sum(measured) from '{folder}/*.parquet' where \"group\" = 'a'"
    assert duckdb.sql(query).fetchall() == [(21 * 300, expected("a", 21).sum())]

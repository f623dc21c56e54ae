"""The gradient's constraints against hand-made tables whose numbers are known."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from run_json import described, recorded, rewrite

from symrun.constraints import gradient_constraints
from symrun.errors import UsageError
from symrun.models.vgg import vgg
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import MEASUREMENTS, units_schema
from symrun.runs.writer import write_part
from symrun.symmetry import find_structure

STEPS = np.array([0, 10, 20])


def make_run(tmp_path, symmetry, value=None, **columns):
    """A run of one group of 2 units of 4 entries; columns: name -> [records, units]."""
    value = value or pa.float64()
    run = RunDirectory.create(tmp_path / "run", "")
    row = {"symmetry": symmetry, "group": "g", "units": 2, "entries": 4, "layers": ["g"]}
    run.write_info(described(groups=[row]))
    name = pa.dictionary(pa.int16(), pa.string())
    arrays = [
        pa.array(np.repeat(STEPS, 2), pa.int32()),
        pa.array([symmetry] * 6).cast(name),
        pa.array(["g"] * 6).cast(name),
        pa.array(np.tile([0, 1], 3), pa.int32()),
    ]
    for column in MEASUREMENTS:
        rows = columns.get(column, [[None, None]] * 3)
        arrays.append(pa.array([entry for record in rows for entry in record], value))
    table = pa.Table.from_arrays(arrays, schema=units_schema(value))
    write_part(run.table("units") / "part-000000.parquet", table)
    return run


# |defect| / (|g| |theta|): 1/10, 1/100 at step 0; 1/5 and a unit without gradient at step 10
DEFECT = [[1.0, -0.1], [2.0, 0.0], [None, None]]
GRAD_NORM_SQ = [[4.0, 4.0], [4.0, 0.0], [None, None]]
MAGNITUDE = [[25.0, 25.0], [25.0, 25.0], [25.0, 25.0]]


@pytest.mark.parametrize("symmetry", ["scale", "rescale"])
def test_cosines_by_hand(tmp_path, symmetry):
    run = make_run(
        tmp_path, symmetry, defect=DEFECT, grad_norm_sq=GRAD_NORM_SQ, magnitude=MAGNITUDE
    )
    (row,) = gradient_constraints(run)
    assert (row.symmetry, row.group, row.units) == (symmetry, "g", 2)
    assert row.median_cosine == pytest.approx(0.1, rel=1e-15)
    assert row.largest_cosine == pytest.approx(0.2, rel=1e-15)


def test_translation_is_measured_beside_a_vector_of_ones(tmp_path):
    """|sum of g| / (|g| sqrt(4)); |theta| has no part in it."""
    run = make_run(
        tmp_path, "translation", defect=DEFECT, grad_norm_sq=GRAD_NORM_SQ, magnitude=MAGNITUDE
    )
    (row,) = gradient_constraints(run)
    assert row.median_cosine == pytest.approx(0.25, rel=1e-15)
    assert row.largest_cosine == pytest.approx(0.5, rel=1e-15)


def test_a_gradient_along_the_symmetry_has_cosine_one(tmp_path):
    """g = theta for scale: defect = |g|^2 = |theta|^2."""
    same = [[3.0, 5.0]] * 3
    run = make_run(tmp_path, "scale", defect=same, grad_norm_sq=same, magnitude=same)
    (row,) = gradient_constraints(run)
    assert [row.median_cosine, row.largest_cosine] == pytest.approx([1, 1], rel=1e-15)


def test_without_any_gradient_there_is_no_cosine(tmp_path):
    zeros = [[0.0, 0.0]] * 3
    run = make_run(tmp_path, "scale", defect=zeros, grad_norm_sq=zeros, magnitude=MAGNITUDE)
    (row,) = gradient_constraints(run)
    assert row.median_cosine is None and row.largest_cosine is None


def test_what_diverged_or_has_no_digits_left_in_float32_is_left_out(tmp_path):
    tiny = 1e-44  # a float32 of three bits
    run = make_run(
        tmp_path,
        "scale",
        pa.float32(),
        defect=[[0.5, np.inf], [tiny, 1.0], [np.nan, 1.0]],
        grad_norm_sq=[[1.0, 1.0], [tiny, np.inf], [1.0, 1.0]],
        magnitude=[[1.0, 1.0], [1.0, 1.0], [1.0, np.nan]],
    )
    (row,) = gradient_constraints(run)
    assert row.median_cosine == row.largest_cosine == 0.5


def test_a_run_that_does_not_say_how_many_entries_is_one_clear_line(tmp_path):
    run = make_run(tmp_path, "translation", defect=DEFECT)
    (group,) = recorded(run)["groups"]
    rewrite(run, groups=[{**group, "entries": None}])
    with pytest.raises(UsageError, match="how many entries g has; .*train again") as caught:
        list(gradient_constraints(run))
    assert "\n" not in str(caught.value)


def test_entries_count_a_units_parameters():
    """Width 1/32 at 64x64: filters of 2, 4, ..., 16 channels behind 2x2 positions, 32 hidden."""
    plain, bn = (
        {
            group.name: group.entries
            for group in find_structure(
                vgg(name, 5, 64, 1 / 32, 0.5), torch.zeros(2, 3, 64, 64)
            ).groups
        }
        for name in ("vgg11", "vgg11_bn")
    )
    assert bn["features.0"] == 3 * 9 + 1
    assert bn["features.1 -> features.4"] == 1 + 1 + 4 * 9
    assert plain["features.0 -> features.3"] == 3 * 9 + 1 + 4 * 9
    assert plain["features.18 -> classifier.0"] == 16 * 9 + 1 + 32 * 4
    assert plain["classifier.3 -> classifier.6"] == 32 + 1 + 5
    assert plain["classifier.6"] == 5 and plain["classifier.6.bias"] == 5

"""Conserved matrices put together from the units that are their entries."""

import heads
import numpy as np
import pytest
from own_loop import own_loop_run

import symrun
from symrun.runs.matrices import matrices_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return heads.heads_run(tmp_path_factory.mktemp("runs") / "full")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    return heads.heads_run(tmp_path_factory.mktemp("runs") / "sampled", "sample")


@pytest.fixture(scope="module")
def truth():
    """The conserved matrices at the records, [records, heads, size, size]."""
    q, k, *_ = heads.fitted()
    return heads.matrices(q, k)[:: heads.EVERY]


def test_a_row_is_what_the_matrices_of_the_weights_give(run, truth):
    """Values are float64: what differs are orders of summation, some 30 of numbers below 100."""
    table = symrun.open_run(run.path).matrices()
    assert len(table) == truth.shape[0] * truth.shape[1]
    assert set(table.group) == {"q -> k"} and {*table.entries} == {10} and {*table["size"]} == {4}
    for head in range(heads.HEADS):
        rows, matrices = table[table.matrix == head], truth[:, head]
        assert [*rows.step] == [*range(0, heads.STEPS + 1, heads.EVERY)]
        norms = {
            "trace": np.trace(matrices, axis1=1, axis2=2),
            "frobenius": np.linalg.norm(matrices, axis=(1, 2)),
            "change": np.linalg.norm(matrices - matrices[0], axis=(1, 2)),
        }
        for name, expected in norms.items():
            assert np.abs(rows[name] - expected).max() < 1e-12
        assert rows.exact.max() == 0 and rows.change.max() > 0.1
        assert rows.discrete.max() < 1e-11 < 1e-5 < rows.flow.max() < 2e-3 * rows.change.max()


def test_the_square_of_a_sampled_norm_is_an_estimate_from_what_is_there(sampled, truth):
    table = symrun.open_run(sampled.path).matrices()
    assert {*table.entries} == {8}
    rows, matrices = table[table.matrix == 0], truth[:, 0]
    off = sum(matrices[:, a, b] ** 2 for a, b in heads.SAMPLE[:4])
    diagonal = np.square(np.diagonal(matrices, axis1=1, axis2=2)).sum(axis=1)
    assert np.abs(rows.frobenius - np.sqrt(diagonal + 12 / 4 * off)).max() < 1e-12
    assert np.abs(rows.trace - np.trace(matrices, axis1=1, axis2=2)).max() < 1e-12


@pytest.mark.parametrize("entries", ["full", "sample"])
def test_a_square_has_its_entries_in_place_and_nan_elsewhere(run, sampled, truth, entries):
    for matrix in matrices_of((run if entries == "full" else sampled).info()):
        expected = truth[3, matrix.place]
        square = matrix.square(expected[matrix.rows, matrix.columns])
        there = ~np.isnan(square)
        assert matrix.is_whole == there.all() == (entries == "full")
        assert np.array_equal(square[there], expected[there])


def test_a_law_that_predicts_nothing_has_no_norm(tmp_path):
    run = heads.heads_run(tmp_path / "run", silent="its rates differ")
    table = symrun.open_run(run.path).matrices()
    assert table.flow.isna().all() and table.discrete.isna().all() and table.exact.max() == 0


def test_without_entries_there_is_one_line_with_the_remedy(tmp_path):
    diagonal = heads.heads_run(tmp_path / "diagonal", "diagonal")
    with pytest.raises(symrun.UsageError, match=r"alone: train with track.matrices=full$"):
        symrun.open_run(diagonal.path).matrices()
    with pytest.raises(symrun.UsageError, match="has no conserved matrix: nothing mixes"):
        symrun.open_run(own_loop_run(tmp_path / "own", "sgd").path).matrices()

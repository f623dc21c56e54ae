"""Conserved matrices put together from the units that are their entries."""

import heads
import numpy as np
import pytest
import torch

import symrun
from symrun.launch import compose
from symrun.runs.matrices import matrices_of
from symrun.training.lifecycle import train


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


SMALL = ["data=synthetic", "data.image_size=8", "data.train_images=16", "data.val_images=10"]
SMALL += ["train.batch_size=8", "train.steps=2", "track.every=1", "device=cpu"]
VIT = ["model=vit", "model.layers=1", "model.width=8", "model.heads=2", "model.patch=4"]


@pytest.mark.parametrize("model", [VIT, ["model=mlp"]])
def test_a_run_that_did_not_look_for_matrices_does_not_say_that_there_are_none(model, tmp_path):
    run = train(compose([*model, *SMALL, f"run.dir={tmp_path}/run"]))
    remedy = f"train with track.matrices=full; `symrun symmetries {model[0]}` says whether"
    with pytest.raises(symrun.UsageError, match=f"no entries off .*: {remedy} the network has any"):
        symrun.open_run(run).matrices()


def test_one_that_looked_and_found_none_says_so(tmp_path):
    run = train(compose(["model=mlp", *SMALL, "track.matrices=full", f"run.dir={tmp_path}/run"]))
    with pytest.raises(symrun.UsageError, match="has no conserved matrix: nothing mixes units"):
        symrun.open_run(run).matrices()


def test_a_loop_of_ones_own_is_told_what_track_takes(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    optimizer, inputs = torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(6, 3)
    with symrun.track(model, optimizer, inputs, path=tmp_path / "run"):
        torch.nn.functional.cross_entropy(model(inputs), torch.arange(6) % 3).backward()
        optimizer.step()
    with pytest.raises(symrun.UsageError, match='track with matrices="full", which says'):
        symrun.open_run(tmp_path / "run").matrices()

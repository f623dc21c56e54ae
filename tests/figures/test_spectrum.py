"""Eigenvalues over time against those of matrices that are put together from the weights."""

import heads
import numpy as np
import pytest
from run_json import rewrite

import symrun
from symrun.cli import main
from symrun.figures import FIGURES, plot
from symrun.figures.style import StepLines
from symrun.runs.matrices import matrices_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return heads.heads_run(tmp_path_factory.mktemp("runs") / "full")


@pytest.fixture(scope="module")
def truth():
    """[steps, heads, size, size]"""
    q, k, *_ = heads.fitted()
    return heads.matrices(q, k)


def panels(figure):
    """For each panel and each strip, arrays [records, lines] in the order of drawing."""
    drawn = [
        [one for one in axes.collections if isinstance(one, StepLines)] for axes in figure.axes
    ]
    return [[np.array(one.get_segments())[:, :, 1].T for one in lines] for lines in drawn if lines]


def caption(figure):
    return " ".join(figure.get_supxlabel().split())


def legend(figure):
    return [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]


def spectra(matrices):
    return np.linalg.eigvalsh(matrices[:: heads.EVERY])


def test_lines_are_eigenvalues_measured_and_predicted_and_their_difference(run, truth, overlaps):
    figure = FIGURES["spectrum"].draw([run])
    shown = panels(figure)
    assert len(shown) == 2 * heads.HEADS
    decay = (1 - heads.RATE * heads.DECAY) ** (2 * np.arange(heads.STEPS + 1))[:, None, None]
    for head in range(heads.HEADS):
        (measured, predicted), (strip,) = shown[2 * head : 2 * head + 2]
        matrix = truth[:, head]
        law = matrix + heads.OFF * (matrix - decay * matrix[0])
        assert np.abs(measured - spectra(matrix)).max() < 1e-12
        assert np.abs(predicted - spectra(law)).max() < 1e-12
        assert np.array_equal(strip, measured - predicted) and np.abs(strip).max() > 1e-6
    assert "These are all matrices. Lines: eigenvalues (all of a matrix)" in caption(figure)
    assert legend(figure) == ["measured", "predicted (law 1: modified gradient flow)"]
    assert overlaps(figure) == []


def test_where_flow_is_silent_the_law_is_discrete(tmp_path, truth):
    run = heads.heads_run(tmp_path / "nesterov")
    rewrite(run, unpredicted={"flow": "not this look-ahead"})
    figure = FIGURES["spectrum"].draw([run])
    (_, predicted), _ = panels(figure)[:2]
    assert np.abs(predicted - spectra(truth[:, 0])).max() < 1e-12
    assert legend(figure)[1].startswith("predicted (law 3")


def test_where_no_law_predicts_eigenvalues_stand_alone_with_the_reason(tmp_path, truth, overlaps):
    run = heads.heads_run(tmp_path / "silent", silent="its rates differ")
    figure = FIGURES["spectrum"].draw([run])
    for head, lines in enumerate(panels(figure)):
        (measured,) = lines
        assert np.abs(measured - spectra(truth[:, head])).max() < 1e-12
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["theory: not predicted\nits rates differ"] * heads.HEADS
    assert legend(figure) == ["measured"] and "Dashed" not in caption(figure)
    assert overlaps(figure) == []


def test_of_a_large_matrix_a_few_eigenvalues_from_the_lowest_to_the_highest(
    run, truth, monkeypatch
):
    monkeypatch.setattr("symrun.figures.spectrum._MOST_LINES", 2)
    figure = FIGURES["spectrum"].draw([run])
    measured, _ = panels(figure)[0]
    assert np.abs(measured - spectra(truth[:, 0])[:, [0, -1]]).max() < 1e-12
    assert "eigenvalues (at most 2, by rank)" in caption(figure)


def test_titles_of_long_names_do_not_overlap(tmp_path, overlaps):
    sides = "features.0, features.3 -> classifier.weight", "blocks.100.value -> blocks.100.project"
    names = [*sides, "q -> k"]
    figure = FIGURES["spectrum"].draw([heads.heads_run(tmp_path / "run", names=names)])
    assert overlaps(figure) == []
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[2:] == ["blocks.100\nvalue -> project\nmatrix 1, 4×4", "q -> k\nmatrix 1, 4×4"]


@pytest.mark.parametrize("entries", ["diagonal", "sample"])
def test_without_all_entries_there_is_one_line(entries, tmp_path):
    path = heads.heads_run(tmp_path / entries, entries).path
    remedy = r"its matrices whole \(track.matrices=full\); .* does not fit"
    with pytest.raises(symrun.UsageError, match=remedy):
        plot("spectrum", [path], tmp_path, ["png"])


def test_a_single_record_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(heads, "STEPS", 0)
    run = heads.heads_run(tmp_path / "short")
    assert main(["plot", "spectrum", str(run.path)]) == 2
    assert "has a single record so far" in capsys.readouterr().err


def test_a_record_that_is_not_finite_has_no_eigenvalues(run, truth):
    matrix = matrices_of(run.info())[0]
    entries = truth[:3, 0][:, matrix.rows, matrix.columns]
    entries[1, -1] = np.inf
    found = matrix.eigenvalues(entries)
    assert np.isnan(found[1]).all()
    assert np.array_equal(found[[0, 2]], np.linalg.eigvalsh(truth[[0, 2], 0]))

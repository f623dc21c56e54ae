"""Fig. 2: what is drawn runs down the loss, and crosses the generator at right angles."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver
from PIL import Image

from symrun.errors import UsageError
from symrun.figures import plot, select_runs
from symrun.figures.fig2 import _MAGNITUDES, _SLOPES, _TOLERANCE, _seeds, draw
from symrun.figures.toys import TEACHER, TOYS


@pytest.fixture(scope="module")
def figure():
    return draw([])


def parts(figure):
    """(toy, lines of the generator, its heads, lines of -grad L, their heads) for each panel."""
    for axes, toy in zip(figure.axes, TOYS, strict=False):  # the last axes are the colour bar's
        generators, gradients = (
            [artist for artist in axes.collections if isinstance(artist, kind)]
            for kind in (LineCollection, Quiver)
        )
        yield toy, *zip(generators, gradients, strict=True)


def middles_and_chords(lines):
    """[2, segments] each."""
    ends = np.array(lines.get_segments())
    return ends.mean(axis=1).T, (ends[:, 1] - ends[:, 0]).T


def test_lines_of_the_gradient_cross_the_generator_at_right_angles(figure):
    for toy, _, (lines, _) in parts(figure):
        middles, chords = middles_and_chords(lines)
        generator = toy.generator(middles)
        # <generator, chord> at the middle is the change of what is conserved along the chord, or
        # half of it, as that has degree 2. Each step of the integrator, none longer than a chord,
        # may add _TOLERANCE (1 + |theta|) |generator|, as a root mean square over all lines; so
        # sqrt(2 lines) times that for a single one. Two steps share a chord
        one = np.sqrt(_seeds(toy.symmetry)[0].size) * _TOLERANCE
        sizes = 2 * one * (1 + np.hypot(*middles)) * np.hypot(*generator)
        assert (np.abs((generator * chords).sum(axis=0)) <= sizes).all()
        assert len(middles.T) > 500 and np.median(np.hypot(*chords)) > 0.04


def test_lines_of_the_gradient_run_down_the_loss(figure):
    for toy, _, (lines, _) in parts(figure):
        starts, ends = np.array(lines.get_segments()).transpose(1, 2, 0)
        fall = toy.loss(starts) - toy.loss(ends)
        assert (fall > -_TOLERANCE).all() and np.median(fall) > 1e-3


def test_lines_of_the_generator_keep_the_loss(figure):
    for toy, (lines, _), _ in parts(figure):
        starts, ends = np.array(lines.get_segments()).transpose(1, 2, 0)
        near = np.hypot(*starts) > 0.2  # at the origin the loss of `scale` has no value
        change = toy.loss(starts[:, near]) - toy.loss(ends[:, near])
        slopes = np.maximum(1, np.hypot(*toy.gradient(starts[:, near])))
        one = np.sqrt(_seeds(toy.symmetry)[1].size) * _TOLERANCE  # as above
        sizes = 2 * one * (1 + np.hypot(*starts[:, near])) * slopes
        assert near.sum() > 400 and (np.abs(change) <= sizes).all()


def test_colour_is_the_size_of_the_gradient_from_yellow_to_red(figure):
    for toy, (generator, _), (lines, heads) in parts(figure):
        middles, _ = middles_and_chords(lines)
        np.testing.assert_allclose(lines.get_array(), np.hypot(*toy.gradient(middles)), rtol=1e-12)
        at_heads = np.hypot(*toy.gradient(np.stack([heads.X, heads.Y])))
        np.testing.assert_allclose(heads.get_array(), at_heads, rtol=1e-12)
        for artist in (lines, heads):
            assert artist.norm is _MAGNITUDES and artist.cmap is _SLOPES
        assert generator.get_array() is None
    (yellow, red) = (to_rgb(_SLOPES(end)) for end in (0.0, 1.0))
    assert min(yellow[:2]) > 0.8 > 0.3 > yellow[2] and red[0] > 0.6 > 0.2 > max(red[1:])


def test_heads_point_along_the_fields(figure):
    for toy, (_, along), (_, across) in parts(figure):
        for heads, sign, field in ((along, 1, toy.generator), (across, -1, toy.gradient)):
            direction = sign * field(np.stack([heads.X, heads.Y]))
            direction = direction / np.hypot(*direction)
            np.testing.assert_allclose(np.stack([heads.U, heads.V]), direction, atol=1e-12)
            assert len(heads.X) > 8


def test_the_field_of_scale_vanishes_along_the_teacher_alone(figure):
    _, scale, _ = parts(figure)
    lines = scale[2][0]
    middles, _ = middles_and_chords(lines)
    faint = middles[:, lines.get_array() < 0.01]
    sines = (TEACHER[0] * faint[1] - TEACHER[1] * faint[0]) / np.hypot(*faint)
    assert len(faint.T) > 20 and np.abs(sines).max() < 0.03
    assert (TEACHER @ faint > 0).any() and (TEACHER @ faint < 0).any()


def test_panels_are_square_and_named(figure):
    titles = [axes.get_title().splitlines()[0] for axes in figure.axes[:3]]
    assert titles == ["Translation", "Scale", "Rescale"]
    for axes in figure.axes[:3]:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("$θ_1$", "$θ_2$")
        assert axes.get_xlim() == axes.get_ylim() and axes.get_aspect() == 1
    (bar,) = figure.axes[3:]
    assert bar.get_ylabel() == "$|∇L|$"
    (legend,) = figure.subfigs[0].legends
    first, second = (text.get_text() for text in legend.get_texts())
    assert "gradient flow" in first and "generator" in second
    assert figure.get_suptitle().startswith("Fig. 2, drawn from equations (toy losses): ")


@pytest.mark.parametrize("dpi", [100, 300])
def test_no_text_lies_on_another(overlaps, dpi):
    figure = draw([])
    figure.set_dpi(dpi)
    assert overlaps(figure) == []


@pytest.mark.slow
@pytest.mark.slow
def test_every_still_format_is_written_the_same_each_time(tmp_path):
    formats = ["png", "pdf", "svg"]
    paths = plot("fig2", [], tmp_path / "a", formats)
    assert paths == [tmp_path / "a" / f"fig2.{name}" for name in formats]
    with Image.open(paths[0]) as image:
        assert image.size == (2100, 975)
    again = plot("fig2", [], tmp_path / "b", formats)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_nothing_in_it_moves(tmp_path):
    with pytest.raises(UsageError) as caught:
        plot("fig2", [], tmp_path, ["png", "gif"])
    assert str(caught.value) == (
        "fig2 shows nothing that moves: --format must be some of png, pdf, svg"
    )
    assert not list(tmp_path.iterdir())


def test_it_takes_no_runs(write_run):
    with pytest.raises(UsageError, match=r"^fig2 is drawn from equations and takes no runs$"):
        select_runs("fig2", [write_run(True)])
    assert select_runs("fig2", []) == []

"""Fig. 3: the trajectories are gradient flow of the real networks, and keep to their level sets."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from symrun.errors import UsageError
from symrun.figures import plot, select_runs, style
from symrun.figures.fig3 import _DURATIONS, _FLOW, _POINTS, _STARTS, _TOLERANCE, draw
from symrun.figures.style import Trajectory
from symrun.figures.toys import TOYS


@pytest.fixture(scope="module")
def figure():
    return draw([])


def trajectories(axes):
    return [line for line in axes.lines if isinstance(line, Trajectory)]


def paths(figure):
    """(toy, path [2, points]) for each trajectory."""
    for axes, toy in zip(figure.axes, TOYS, strict=False):  # the last axes are the colour bar's
        drawn = trajectories(axes)
        assert len(drawn) == len(_STARTS[toy.symmetry]) >= 5
        yield from ((toy, np.stack(line.get_data())) for line in drawn)


def test_each_trajectory_keeps_what_is_conserved(figure):
    for toy, path in paths(figure):
        conserved = toy.conserved(path)
        # The exact flow keeps it, so that errors only add up: each of the integrator's steps, which
        # are fewer than the points, gives at most _TOLERANCE (1 + |theta|) |grad of it|, which is
        # at most 2 |theta|
        reach = np.hypot(*path).max()
        allowed = _POINTS * _TOLERANCE * (1 + reach) * 2 * max(reach, 1)
        assert np.abs(conserved - conserved[0]).max() < allowed < 1e-6
        assert np.hypot(*np.diff(path)).sum() > 0.5  # and yet it moves
        assert (np.diff(toy.loss(path)) < 0).all()


def test_each_trajectory_is_gradient_flow_by_another_integrator(figure):
    for toy, path in paths(figure):
        time = _DURATIONS[toy.symmetry] / (_POINTS - 1)
        fine, coarse = runge_kutta(toy, path[:, 0], time, 1), runge_kutta(toy, path[:, 0], time, 2)
        # Halving the step of a method of order 4 divides its error by 16: what is left is less than
        # 1 / 15 of the change
        error = np.abs(fine[:, ::2] - coarse).max()
        assert error < 1e-3
        allowed = error + _POINTS * _TOLERANCE * (1 + np.abs(path).max())
        np.testing.assert_allclose(path, fine, rtol=0, atol=allowed)


def runge_kutta(toy, start, time, every):
    """Order 4, on autograd's gradient of the loss, in steps of every * time."""
    step = time * every

    def slope(theta):
        theta = torch.from_numpy(theta).requires_grad_()
        (gradient,) = torch.autograd.grad(LOSSES[toy.symmetry](theta), theta)
        return -gradient.numpy()

    path = [start]
    for _ in range((_POINTS - 1) // every):
        theta = path[-1]
        first = slope(theta)
        second = slope(theta + step / 2 * first)
        third = slope(theta + step / 2 * second)
        fourth = slope(theta + step * third)
        path.append(theta + step / 6 * (first + 2 * second + 2 * third + fourth))
    return np.stack(path, axis=1)


LOSSES = {
    "translation": lambda theta: -torch.log_softmax(theta, 0)[0],
    "scale": lambda theta: 1 - theta.sum() / 2**0.5 / theta.norm(),
    "rescale": lambda theta: (theta.prod() - 1) ** 2 / 2,
}


def test_trajectories_start_at_their_marks_and_stay_in_the_panel(figure):
    for axes, toy in zip(figure.axes, TOYS, strict=False):
        marks = [line for line in axes.lines if not isinstance(line, Trajectory)]
        for mark, line, start in zip(marks, trajectories(axes), _STARTS[toy.symmetry], strict=True):
            x, y = line.get_data()
            assert (x[0], y[0]) == start == tuple(np.ravel(mark.get_data()))
            assert mark.get_marker() == "o" and np.abs([x, y]).max() < 2


def test_heads_point_where_the_flow_goes(figure):
    for axes, toy in zip(figure.axes, TOYS, strict=False):
        for line in trajectories(axes):
            end = np.stack(line.get_data())[:, -1]
            corners, _, degrees = line.get_marker()
            angle = np.radians(degrees + 90)  # the triangle's own points up
            slope = -toy.gradient(end)
            cosine = slope @ [np.cos(angle), np.sin(angle)] / np.hypot(*slope)
            assert corners == 3 and cosine > 0.99
            assert line.get_markevery() == [len(line.get_xdata()) - 1]


def test_blue_is_positive_and_red_negative_on_one_symmetric_scale(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3].astype(int)  # from the bottom up
    for axes, toy in zip(figure.axes, TOYS, strict=False):
        for theta in ((-1.9, -1.5), (1.95, 1.2), (0.05, 0.3), (0.0, -1.9), (-1.95, 0.05)):
            x, y = axes.transData.transform(theta).astype(int)
            red, _, blue = pixels[y, x]
            assert np.sign(blue - red) == np.sign(toy.conserved(np.array(theta)))
    bands = [axes.collections[0] for axes in figure.axes[:3]]
    for band in bands:
        assert band.get_clim() == bands[0].get_clim()
        assert band.levels[0] == -band.levels[-1]


def test_black_lines_are_level_sets(figure):
    for axes, toy in zip(figure.axes, TOYS, strict=False):
        lines = axes.collections[1]
        assert set(np.ravel(lines.get_edgecolor()[:, :3])) == {0.0}
        assert lines.linestyles == "solid"
        side = 4 / 100
        for level, path in zip(lines.levels, lines.get_paths(), strict=True):
            # Linear interpolation along the edges of cells: off by at most side^2 / 8 of the second
            # derivative, 2
            error = np.abs(toy.conserved(path.vertices.T) - level)
            assert error.max(initial=0) <= 2 * side**2 / 8 + 1e-12
        assert sum(len(path.vertices) > 10 for path in lines.get_paths()) >= 7


def test_panels_are_named(figure):
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert [title.split(":")[0] for title in titles] == ["Translation", "Scale", "Rescale"]
    surfaces = ["hyperplane (fixed intercept)", "sphere (fixed radius)", "hyperbola (fixed axes)"]
    assert [title.splitlines()[1] for title in titles] == surfaces
    assert "$θ_2^2 - θ_1^2$" in titles[2]
    for axes in figure.axes[:3]:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("$θ_1$", "$θ_2$")
    assert figure.axes[3].get_ylabel() == "Conserved quantity"
    assert figure.get_suptitle().startswith("Fig. 3, drawn from equations (toy losses): ")


@pytest.mark.parametrize("dpi", [100, 300])
def test_no_text_lies_on_another(overlaps, dpi):
    figure = draw([])
    figure.set_dpi(dpi)
    assert overlaps(figure) == []


def test_trajectories_grow_in_time():
    figure = draw([])
    lines = [line for axes in figure.axes for line in trajectories(axes)]
    limits = [(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes]
    whole = [np.stack(line.get_data()) for line in lines]
    for share in (0.25, 1.0):
        for line, path in zip(lines, whole, strict=True):
            line.reveal(share)
            shown = 1 + int(share * (_POINTS - 1))
            np.testing.assert_array_equal(np.stack(line.get_data()), path[:, :shown])
            assert line.get_markevery() == [shown - 1]
    assert limits == [(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes]


@pytest.mark.slow
@pytest.mark.slow
def test_every_format_is_written_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_GIF_FRAMES", 4)
    formats = ["png", "pdf", "svg", "gif"]
    written = plot("fig3", [], tmp_path / "a", formats)
    assert written == [tmp_path / "a" / f"fig3.{name}" for name in formats]
    again = plot("fig3", [], tmp_path / "b", formats)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_only_the_trajectories_move_in_a_gif(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_GIF_FRAMES", 4)
    (gif,) = plot("fig3", [], tmp_path, ["gif"])
    with Image.open(gif) as image:
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"), dtype=int))
    flow = np.round(255 * np.array(to_rgb(_FLOW)))
    green = [(np.abs(frame - flow).max(axis=-1) < 24) for frame in frames]
    assert len(frames) == 4 and green[0].any()
    assert green[0].sum() < green[1].sum() < green[2].sum() < green[3].sum()
    # What differs from the first frame to the last is near a trajectory of the last
    changed = np.argwhere((frames[0] != frames[3]).any(axis=-1))
    near = np.argwhere(green[3])
    far = [np.abs(near - pixel).max(axis=-1).min() for pixel in changed]
    assert max(far) <= 12  # a head is 5 points, of 150 / 72 pixels each, across


def test_it_takes_no_runs(write_run):
    with pytest.raises(UsageError, match=r"^fig3 is drawn from equations and takes no runs$"):
        select_runs("fig3", [write_run(True)])
    assert select_runs("fig3", []) == []

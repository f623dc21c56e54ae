"""Conserved matrices as figures, and the two families beyond the paper's in every page."""

import json

import heads
import numpy as np
import pytest
from matplotlib.collections import PathCollection

import symrun
from symrun.analysis.comparison import comparisons
from symrun.cli import main
from symrun.figures import FIGURES, plot
from symrun.figures.style import StepLines
from symrun.runs.directory import RunDirectory

DEEP = "encoder.layers.encoder_layer_11.mixer.query -> encoder.layers.encoder_layer_11.mixer.key"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: heads.heads_run(folder / name, name) for name in ("full", "sample", "diagonal")}


@pytest.fixture(scope="module")
def truth():
    q, k, *_ = heads.fitted()
    return heads.matrices(q, k)


def test_maps_are_the_matrices_at_both_ends_on_one_scale(runs, truth):
    figure = FIGURES["heads"].draw([runs["full"]])
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 2 * heads.HEADS
    for head in range(heads.HEADS):
        start, end = images[2 * head : 2 * head + 2]
        largest = np.abs(truth[[0, -1], head]).max()
        for image, expected in ((start, truth[0, head]), (end, truth[-1, head])):
            assert np.array_equal(image.get_array(), expected)
            assert image.get_clim() == (-largest, largest)


@pytest.mark.parametrize(("name", "entries"), [("full", 10), ("sample", 8)])
def test_dots_are_the_motion_of_every_entry_measured_and_predicted(runs, truth, name, entries):
    figure = FIGURES["heads"].draw([runs[name]])
    clouds = [
        np.concatenate([one.get_offsets() for one in dots])
        for axes in figure.axes
        if (dots := [one for one in axes.collections if isinstance(one, PathCollection)])
    ]
    assert [len(cloud) for cloud in clouds] == [entries, entries]
    decayed = (1 - heads.RATE * heads.DECAY) ** (2 * heads.STEPS)
    for head, cloud in enumerate(clouds):
        motion = truth[-1, head] - decayed * truth[0, head]
        assert np.abs(cloud[: heads.SIZE, 1] - np.diagonal(motion)).max() < 1e-12
        assert np.allclose(cloud[:, 0], (1 + heads.OFF) * cloud[:, 1], rtol=1e-9, atol=1e-12)
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == [f"1 − R² = {heads.OFF**2:.1e}"] * heads.HEADS


def test_lines_are_changes_since_the_start(runs):
    figure = FIGURES["heads"].draw([runs["sample"]])
    lines = [one for axes in figure.axes for one in axes.collections if isinstance(one, StepLines)]
    assert len(lines) == 2 * heads.HEADS and not any(axes.images for axes in figure.axes)
    for measured, predicted in zip(lines[::2], lines[1::2], strict=True):
        for curves in (measured, predicted):
            assert all(curve[0, 1] == 0 for curve in curves.get_segments())


def test_where_no_law_predicts_the_reason_stands_in_place_of_dots(tmp_path):
    run = heads.heads_run(tmp_path / "silent", silent="its rates differ")
    figure = FIGURES["heads"].draw([run])
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["not predicted:\nits rates differ"] * heads.HEADS
    # A matrix has two groups of one name, which is said once
    assert figure.get_supxlabel().count("q -> k") == 1


def gpt_groups(count):
    """Names of groups as a gpt of `count` / 2 blocks has them, from the input to the output."""
    sides = "query -> {0}.key", "value -> {0}.project"
    blocks = [f"blocks.{100 + number}.attention" for number in range(count)]
    return [f"{one}.{side}".format(one) for one in blocks for side in sides][:count]


def row_labels(figure):
    """Those beside the rows, and their axes."""
    labels = [(axes.yaxis.label, axes) for axes in figure.axes]
    return [one for one in labels if "matrix" in one[0].get_text()]


@pytest.mark.parametrize(
    ("groups", "drawn"),
    [
        (1, [(0, 0), (0, 1)]),
        (2, [(0, 0), (0, 1), (1, 0), (1, 1)]),
        (3, [(0, 0), (0, 1), (1, None), (2, None)]),
        (6, [(0, None), (2, None), (3, None), (5, None)]),
    ],
)
def test_a_matrix_of_each_group_comes_before_a_second_one(groups, drawn, truth, tmp_path):
    """None: the head that moved most from where weight decay alone would have it."""
    path = np.arange(heads.STEPS + 1)[:: heads.EVERY, None, None, None]
    weights = [one[:: heads.EVERY] for one in heads.fitted()[:2]]
    sizes = sum(one @ one.swapaxes(-1, -2) for one in weights)
    halves = np.diagonal(sizes, axis1=-2, axis2=-1) / 2
    sizes = np.linalg.norm(halves[..., :, None] + halves[..., None, :], axis=(-2, -1))
    decayed = truth[0] * (1 - heads.RATE * heads.DECAY) ** (2 * path)
    motion = np.linalg.norm(truth[:: heads.EVERY] - decayed, axis=(-2, -1))
    most = np.argmax(motion.max(axis=0) / sizes.max(axis=0))
    names = gpt_groups(groups)
    figure = FIGURES["heads"].draw([heads.heads_run(tmp_path / "run", names=names)])
    labels = [label.get_text().split("\n") for label, _ in row_labels(figure)]
    expected = [(names[group], most if place is None else place) for group, place in drawn]
    for (block, sides, place), (name, head) in zip(labels, expected, strict=True):
        left, right = sides.split(" -> ")
        assert f"{block}.{left} -> {block}.{right}" == name
        assert place == f"matrix {head}, 4×4"
    said = " ".join(figure.get_supxlabel().split())
    wanted = {1: "all matrices", 2: "all matrices", 3: "4 of 6 matrices, from the input to the "}
    assert f"These are {wanted.get(groups, '4 of 12 matrices')}" in said
    assert ("of each group those that moved most" in said) == (groups == 3)
    assert ("of 4 of 6 groups those that moved most" in said) == (groups == 6)


@pytest.mark.parametrize("entries", ["full", "sample"])
@pytest.mark.parametrize("last", [DEEP, "features.0, features.3 -> classifier.weight_of_layer_12"])
def test_labels_of_rows_are_no_longer_than_their_axes_are_high(entries, last, tmp_path, overlaps):
    names = [*gpt_groups(3), last]
    figure = FIGURES["heads"].draw([heads.heads_run(tmp_path / "run", entries, names=names)])
    assert overlaps(figure) == []
    labels = row_labels(figure)
    assert len(labels) == 4
    for label, axes in labels:
        assert label.get_window_extent().height <= axes.bbox.height


def test_of_a_sample_it_says_how_many_entries_there_are(runs):
    for name, title, share in (
        ("sample", "Entries at the end,\na sample of 8 of 10", "estimated from the entries that"),
        ("full", "All entries at the end", "1 − R² is of the whole matrix, over the run."),
    ):
        figure = FIGURES["heads"].draw([runs[name]])
        titles = [axes.get_title() for axes in figure.axes]
        assert [one for one in titles if "ntries at the end" in one] == [title]
        assert share in " ".join(figure.get_supxlabel().split())


def test_without_entries_off_the_diagonal_there_is_one_line(runs, tmp_path):
    with pytest.raises(
        symrun.UsageError, match=r"its matrices \(track.matrices=full\); .* not fit"
    ):
        plot("heads", [runs["diagonal"].path], tmp_path, ["png"])
    with pytest.raises(symrun.UsageError, match="records no entries off the diagonal"):
        FIGURES["heads"].draw([runs["diagonal"]])


def test_an_entry_is_called_by_its_row_and_column(runs, capsys):
    """Of the sample, the fourth is (2, 3) and the eighth (5, 7)."""
    assert main(["check", str(runs["sample"].path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    (row,) = (r for r in rows if (r["symmetry"], r["law"]) == ("general_linear", "flow"))
    pairs = [f"q -> k [{a},{b}]" for a, b in heads.SAMPLE]
    shares = [one for one in comparisons(runs["sample"]) if one.pairs][0]
    worst = np.argmax(shares.unexplained_by_unit(shares.predicted["flow"]))
    assert row["worst_unit"] == pairs[worst]


def test_what_gradient_norms_do_not_drive_is_not_held_against_their_null_law(runs):
    nulls = {
        one.symmetry: [name for name, _ in one.null_laws()] for one in comparisons(runs["full"])
    }
    assert nulls["homogeneity"] == ["null: 1 % too large"]
    assert len(nulls["general_linear"]) == len(nulls["rescale"]) == 3


@pytest.mark.parametrize("figure", ["symmetries", "units", "residual", "phase"])
def test_figures_of_all_families_draw_them(runs, figure, tmp_path):
    drawn = FIGURES[figure].draw([runs["full"]])
    labels = " ".join(
        text.get_text() for text in drawn.findobj(lambda one: hasattr(one, "get_text"))
    )
    wanted = {
        "symmetries": ("General linear: 8 of 12 units", "Homogeneity: 1 of 1 unit", "balanced"),
        "units": ("General linear: 12 of 12 units moved", "Homogeneity: 1 of 1"),
        "residual": ("general_linear", "homogeneity"),
        "phase": ("Phase portrait of rescale",),
    }
    for words in wanted[figure]:
        assert words in labels


def test_there_is_no_grid_of_means_that_say_nothing():
    grids = {name for name in FIGURES if name.startswith("grid_")}
    assert grids == {"grid_scale", "grid_rescale", "grid_translation"}


def test_pages_and_copies_of_such_a_run(runs, tmp_path, capsys):
    folder, page = str(runs["full"].path), tmp_path / "report.html"
    assert main(["report", folder, "--out", str(page)]) == 0
    text = page.read_text()
    assert "General linear" in text and "<h3>Homogeneity</h3>" in text and '"0,3"' in text
    assert main(["show", folder]) == 0
    shown = capsys.readouterr().out
    # Two heads of 4 units with 7 entries in q and 7 in k each, once
    assert "general_linear  1       12     112" in shown
    thinned = tmp_path / "thinned"
    assert main(["thin", folder, str(thinned), "--every", "40"]) == 0
    table = symrun.open_run(thinned).matrices()
    whole = symrun.open_run(folder).matrices()
    kept = whole[whole.step % 40 == 0].reset_index(drop=True)
    numbers = [one.drop(columns="group") for one in (table, kept)]
    assert np.allclose(*numbers, rtol=1e-12, atol=0) and len(kept) == 6 * heads.HEADS
    assert main(["plot", "heads", str(thinned), "--format", "png"]) == 0
    assert RunDirectory(thinned).figures.joinpath("heads.png").exists()

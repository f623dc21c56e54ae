"""Fig. 1: every line is a row of the tables, in the colour of its block, under honest words."""

import colorsys
import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from run_json import recorded, rewrite, with_settings

from symrun.errors import UsageError
from symrun.figures import plot, select_runs, style
from symrun.figures.fig1 import draw
from symrun.figures.style import HUES, shaded

BLOCKS = [0, 1, 2, 2, 3, 3, 4, 4]


def curves(run, table, name, column, unit):
    """[records, units], read without symrun."""
    rows = pd.read_parquet(run.table(table))
    key = "layer" if table == "parameters" else "group"
    return rows[rows[key] == name].pivot(index="step", columns=unit, values=column)


def words(figure):
    return figure.get_suptitle(), " ".join(figure.get_supxlabel().split())


def layers_of(axes):
    """[lines, records, 2] of each colour, from the top line down, in the order of its top line."""
    (lines,) = axes.collections
    found = {}
    for colour, line in zip(lines.get_color()[::-1], lines.get_segments()[::-1], strict=True):
        found.setdefault(tuple(colour[:3]), []).append(line)
    return {colour: np.array(found[colour]) for colour in reversed(found)}


def test_the_lines_are_the_tables(write_run):
    run = write_run(True, records=7)
    left, right = draw([run]).axes
    convolutions = [row.layer for row in run.info().layers if row.block is not None]
    drawn_left, drawn_right = (layers_of(axes).values() for axes in (left, right))
    for layer, values, norms in zip(convolutions, drawn_left, drawn_right, strict=True):
        for drawn, (table, column, unit) in (
            (values, ("parameters", "value", "index")),
            (norms, ("units", "measured", "unit")),
        ):
            expected = curves(run, table, layer, column, unit)
            assert drawn.shape == (expected.shape[1], 7, 2)
            assert (drawn[0, :, 0] == expected.index).all()
            np.testing.assert_array_equal(drawn[:, :, 1].T, expected.to_numpy())


def test_every_layer_has_a_line_in_the_last_round_and_all_its_lines_in_rounds(write_run):
    """A layer that is drawn after all others would hide them: it is the widest."""
    run = write_run(True)
    for axes in draw([run]).axes:
        (lines,) = axes.collections
        drawn = [tuple(colour[:3]) for colour in lines.get_color()[::-1]]
        counts = [len(layer) for layer in layers_of(axes).values()]
        for round_ in range(min(counts)):
            assert len(set(drawn[8 * round_ : 8 * round_ + 8])) == 8
    assert counts == [8, 16, 32, 32, 64, 64, 64, 64]
    assert len(set(drawn[-4 * (64 - 32) :])) == 4  # below are the widest layers alone


def test_the_hues_differ_for_eyes_without_green_cones():
    """Machado, Oliveira and Fernandes (2009), severity 1, and CIE 1976 distances.

    A just noticeable difference is about 2.3; ten of them for hues, and three between any shades of
    two blocks, of which 0.2 is the most.
    """
    sets = [[shaded(to_rgb(hue), shade) for shade in (-0.2, 0, 0.2)] for hue in HUES[:5]]
    for one, other in combinations(range(5), 2):
        colours = lab(np.array([sets[one], sets[other]]))
        distances = np.linalg.norm(colours[0][:, None] - colours[1], axis=-1)
        assert distances[1, 1] > 10 * 2.3 and distances.min() > 3 * 2.3
    before = lab(np.array([to_rgb("#009E73"), to_rgb("#CC79A7")]))
    assert np.linalg.norm(before[0] - before[1]) < 10 * 2.3  # the bound can fail


def lab(colours):
    """CIE L*a*b* (D65) of sRGB `colours` [..., 3] as a deuteranope sees them."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413]]
    seen += [[-0.011820, 0.042940, 0.968881]]
    xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750]]
    xyz += [[0.0193339, 0.1191920, 0.9503041]]
    x, y, z = np.moveaxis((linear @ np.transpose(seen)).clip(0, 1) @ np.transpose(xyz), -1, 0)
    x, y, z = (
        np.where(part > (6 / 29) ** 3, np.cbrt(part), part * (29 / 6) ** 2 / 3 + 4 / 29)
        for part in (x / 0.95047, y, z / 1.08883)
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize(
    ("steps", "epochs"), [(1, "0.12"), (4, "0.5"), (8, "1"), (300, "37.5"), (8001, "1,000.1")]
)
def test_a_short_run_does_not_end_at_epoch_0(write_run, steps, epochs):
    _, caption = words(draw([write_run(True, steps=steps, records=2)]))
    assert f"(epoch {epochs})" in caption


def test_the_start_of_the_first_layer_is_explained_where_it_is_not_the_papers(write_run):
    run = write_run(True, width=0.25, records=3)
    start = curves(run, "units", "features.0", "measured", "unit").loc[0].mean()
    _, caption = words(draw([run]))
    assert f"At width 1/4 the first layer's norms start near {start:.2g}, not near 0.09" in caption
    _, caption = words(draw([write_run(True, name="full", width=1.0, records=2)]))
    assert "start near" not in caption


def test_the_time_of_the_laws_has_dampening_in_it(write_run):
    run = write_run(True, momentum=0.9, dampening=0.5, records=2)
    figure = draw([run])
    assert figure.axes[0].get_xlabel() == "Step $n$  (time $t = η(1 - α)n$, $η$ = 0.1)"
    assert "dampening α = 0.5" in words(figure)[1]


def test_axes_are_named_and_hold_the_whole_run(write_run):
    left, right = draw([write_run(True, steps=600)]).axes
    assert [left.get_ylabel(), right.get_ylabel()] == ["Parameter", "Squared filter norm"]
    for axes in (left, right):
        assert axes.get_xlabel() == "Step $n$  (time $t = ηn$, $η$ = 0.1)"
        assert axes.get_xlim() == (0, 600)
        assert not axes.spines["top"].get_visible() and not axes.spines["right"].get_visible()
        assert all(lines.get_rasterized() for lines in axes.collections)
    assert right.get_ylim()[0] == 0


def test_a_block_has_a_hue_and_a_layer_a_shade(write_run):
    figure = draw([write_run(True)])
    for axes in figure.axes:
        colours = list(layers_of(axes))
        hues = [round(colorsys.rgb_to_hsv(*colour)[0], 3) for colour in colours]
        assert len(set(colours)) == 8
        assert [sorted(set(hues), key=hues.index).index(hue) for hue in hues] == BLOCKS
    (legend,) = figure.subfigs[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [f"block {n}" for n in range(1, 6)]
    shown = [colorsys.rgb_to_hsv(*to_rgb(line.get_color()))[0] for line in legend.get_lines()]
    assert [round(hue, 3) for hue in shown] == sorted(set(hues), key=hues.index)


def test_many_records_are_thinned_evenly_with_the_first_and_the_last(write_run):
    figure = draw([write_run(True, records=1000, steps=999, sample=2)])
    for axes in figure.axes:
        (lines,) = axes.collections
        steps = lines.get_segments()[0][:, 0]
        assert len(steps) == 400 and steps[0] == 0 and steps[-1] == 999
        assert set(np.diff(steps)) == {2, 3}


def test_the_papers_setting_is_named_as_it_is(write_run, paper):
    title, caption = words(draw([write_run(True, **paper, weight_decay=1e-4, records=2)]))
    assert title == "Fig. 1 on Tiny ImageNet, VGG16"
    assert caption == (
        "Tiny ImageNet (200 classes, 64×64), VGG16 with BN, width 1, SGD, η = 0.1, λ = 0.0001, "
        "batch 256, 39,100 steps (epoch 100), float32"
    )


@pytest.mark.parametrize(
    "change, named",
    [
        ({"synthetic": True}, "synthetic textures"),
        ({"classes": 50}, "50 classes of Tiny ImageNet"),
        ({"width": 0.25}, "VGG16 at width 1/4"),
        ({"depth": 11}, "VGG11"),
        ({"weight_decay": 0.0}, "Tiny ImageNet"),
        ({"lr": 0.01}, "Tiny ImageNet"),
        ({"momentum": 0.9}, "Tiny ImageNet"),
        ({"steps": 39_099}, "Tiny ImageNet"),
    ],
)
def test_no_other_setting_passes_for_the_papers(write_run, paper, change, named):
    run = write_run(True, **paper | {"weight_decay": 1e-4} | change, records=2, sample=1)
    title, _ = words(draw([run]))
    assert named in title and title.endswith(": not the paper's setting")


def test_another_batch_size_does_not_pass_for_the_papers(write_run, paper):
    run = write_run(True, **paper, weight_decay=1e-4, records=2, sample=1)
    with_settings(run, train={"batch_size": 128})
    title, caption = words(draw([run]))
    assert title.endswith("not the paper's setting") and "batch 128" in caption


def test_another_eps_does_not_pass_for_the_papers_and_is_in_the_caption(write_run, paper):
    run = write_run(True, **paper, weight_decay=1e-4, records=2, sample=1)
    config = recorded(run)["config"]
    before = {name: value for name, value in config["model"].items() if name != "eps"}
    for model, named in ((before | {"eps": 1e-3}, True), (before, False)):
        rewrite(run, config=config | {"model": model})
        title, caption = words(draw([run]))
        assert title.endswith("not the paper's setting") == named
        assert ("width 1, BN eps 1e-3, SGD" in caption) == named
        assert ("BN eps" in caption) == named


def test_the_caption_tells_an_unfinished_run_and_its_optimiser(write_run):
    for settings, words_of_it in (
        ({"dampening": 0.5}, "dampening α = 0.5"),
        ({"nesterov": True}, "Nesterov"),
    ):
        run = write_run(True, words_of_it, last_step=300, momentum=0.9, **settings)
        _, caption = words(draw([run]))
        assert f"λ = 0, momentum 0.9, {words_of_it}, batch 256" in caption
    assert "300 of 600 steps (epoch 37.5)" in caption


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 1e5},
        {"scale": 1e-6, "depth": 16, "synthetic": False, "classes": 50, "lr": 0.025},
    ],
)
@pytest.mark.parametrize("dpi", [100, 300])
def test_no_text_lies_on_another(write_run, overlaps, settings, dpi):
    figure = draw([write_run(True, **settings)])
    figure.set_dpi(dpi)
    assert overlaps(figure) == []


def test_every_format_is_written_whole(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_GIF_FRAMES", 4)
    run = write_run(True)
    formats = ["png", "pdf", "svg", "gif"]
    paths = plot("fig1", [run.path], tmp_path / "a" / "b", formats)
    assert paths == [tmp_path / "a" / "b" / f"fig1.{name}" for name in formats]
    assert sorted((tmp_path / "a" / "b").iterdir()) == sorted(paths)
    with Image.open(paths[0]) as image:
        assert image.size == (1650, 1050)
    pdf = paths[1].read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"/CreationDate" not in pdf
    svg = paths[2].read_text()
    assert "Squared filter norm</text>" in svg and "<image" in svg and "dc:date" not in svg

    again = plot("fig1", [run.path], tmp_path / "again", formats)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    assert plot("fig1", [run.path], None, ["png"]) == [run.path / "figures" / "fig1.png"]


def test_the_curves_of_a_gif_grow_to_those_of_the_png(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_GIF_FRAMES", 4)
    monkeypatch.setattr(style, "_GIF_DPI", 100)
    monkeypatch.setattr(style, "_DPI", 100)
    run = write_run(True)
    png, gif = plot("fig1", [run.path], tmp_path, ["png", "gif"])
    with Image.open(png) as image:
        still = np.asarray(image.convert("RGB"), dtype=int)
    with Image.open(gif) as image:
        assert image.n_frames == 4
        frames = []
        for number in range(4):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"), dtype=int))
        assert image.info["duration"] == 2000
    for hue in (tuple(round(255 * part) for part in to_rgb(hue)) for hue in HUES[:5]):
        assert (still == hue).all(axis=-1).any(), "the legend of the png"
        assert np.abs(frames[0] - hue).max(axis=-1).min() < 8, "a palette without the legend's hues"
    inked = [(frame < 250).any(axis=-1) for frame in frames]
    assert inked[0].sum() < inked[1].sum() < inked[2].sum() < inked[3].sum()
    right_panel = np.s_[60:-110, -50:]  # in the last quarter of the right panel
    assert not inked[2][right_panel].any() and inked[3][right_panel].any()


def test_a_run_without_bn_does_not_fit(write_run):
    run = write_run(False)
    with pytest.raises(
        UsageError, match=r"^fig1 needs a run with BN behind convolutions; .*run does not fit$"
    ):
        select_runs("fig1", [run])


def test_too_many_runs_are_refused(write_run):
    runs = [write_run(True, name="one"), write_run(True, name="two")]
    with pytest.raises(
        UsageError,
        match=r"fig1 needs .*two is a second one with BN behind convolutions$",
    ):
        select_runs("fig1", runs)


def test_a_run_without_layers_does_not_fit(write_run):
    run = write_run(True)
    rewrite(run, layers=[], groups=[])
    with pytest.raises(UsageError, match="does not fit"):
        select_runs("fig1", [run])


@pytest.mark.parametrize("records, message", [(0, "no records yet"), (1, "a single record so far")])
def test_a_run_without_curves_is_one_clear_line(write_run, records, message):
    with pytest.raises(UsageError, match=message) as caught:
        draw([write_run(True, records=records)])
    assert "\n" not in str(caught.value)


def test_a_run_without_sampled_parameters_is_told_why(write_run):
    run = write_run(True)
    with_settings(run, track={"parameters": 0})
    with pytest.raises(UsageError, match="track.parameters > 0"):
        draw([run])


def test_unknown_names_are_answered_with_the_known(write_run, tmp_path):
    run = write_run(True)
    with pytest.raises(
        UsageError, match=r"^--format must be some of png, pdf, svg, gif, got 'jpg'$"
    ):
        plot("fig1", [run.path], tmp_path, ["png", "jpg"])
    with pytest.raises(UsageError, match=r"^there is no figure fig9; there are fig1, fig2, "):
        plot("fig9", [run.path], tmp_path, ["png"])
    assert not list(tmp_path.glob("*.png"))


def test_a_folder_that_cannot_be_written_is_one_clear_line(write_run, tmp_path):
    run = write_run(True)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"fig1.png cannot be written: \w+"):
            plot("fig1", [run.path], out, ["png"])


def test_figures_need_no_torch():
    program = "import sys; sys.modules['torch'] = None; import symrun.figures"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_more_blocks_than_hues_are_told_by_depth(write_run):
    run = write_run(True)
    layers = [
        layer | ({"block": place} if layer["kind"] == "convolution" else {})
        for place, layer in enumerate(recorded(run)["layers"])
    ]
    rewrite(run, layers=layers)
    (legend,) = draw([run]).subfigs[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["block 1", "block 5", "block 8"]
    colours = [sum(line.get_color()) for line in legend.get_lines()]
    assert colours == sorted(colours)


def test_what_a_narrow_vgg_starts_with_is_said_of_no_other_network(any_network):
    run = any_network("resnet")
    assert "first layer" not in draw([run]).get_supxlabel()

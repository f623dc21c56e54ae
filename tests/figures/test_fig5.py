"""Fig. 5: measured curves are the table's, dashed ones the law's, and absent where it is silent."""

import numpy as np
import pandas as pd
import pytest
from run_json import recorded, rewrite

from symrun.errors import UsageError
from symrun.figures import plot, select_runs
from symrun.figures.fig5 import draw

GROUPS = ["classifier.6", "features.4", "features.8 -> features.11"]
SYMMETRIES = ["translation", "scale", "rescale"]


@pytest.fixture
def runs(write_run):
    """One without BN, one with BN."""
    return [write_run(False, name="plain"), write_run(True, name="bn")]


def curves(run, symmetry, group, column):
    """[records, units], read without symrun."""
    rows = pd.read_parquet(run.table("units"))
    rows = rows[(rows["symmetry"] == symmetry) & (rows["group"] == group)]
    return rows.pivot(index="step", columns="unit", values=column).to_numpy()


def panels_of(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def strips_of(figure):
    return [axes for axes in figure.axes if axes.get_ylabel() == "Measured\n− predicted"]


def legend_of(figure):
    (legend,) = figure.subfigs[0].legends
    return [text.get_text() for text in legend.get_texts()]


def is_dashed(lines):
    return lines.get_linestyle()[0][1] is not None


def test_each_panel_shows_its_group_measured_and_predicted(runs):
    plain, bn = runs
    panels = zip(panels_of(draw(runs)), [plain, bn, plain], SYMMETRIES, GROUPS, strict=True)
    for axes, run, symmetry, group in panels:
        measured, predicted = axes.collections
        tables = [curves(run, symmetry, group, column) for column in ("measured", "flow")]
        lines = [np.array(lines.get_segments())[:, :, 1] for lines in (measured, predicted)]
        count = min(16, tables[0].shape[1])
        assert lines[0].shape == lines[1].shape == (count, 12)
        units = [int(np.argmin(np.abs(tables[0].T - line).max(axis=1))) for line in lines[0]]
        assert len(set(units)) == count
        for drawn, table in zip(lines, tables, strict=True):
            np.testing.assert_array_equal(drawn, table.T[units])
        ends = tables[0][-1]
        assert lines[0][0, -1] == ends.min() and lines[0][-1, -1] == ends.max()
        assert (np.diff(lines[0][:, -1]) >= 0).all()
        assert symmetry.capitalize() in axes.get_title()
        assert f"{count} of {len(ends)}" in axes.get_title()


def test_units_are_picked_evenly_by_rank(runs):
    axes = draw(runs).axes[0]
    ends = np.sort(curves(runs[0], "translation", "classifier.6", "measured")[-1])
    drawn = np.array(axes.collections[0].get_segments())[:, -1, 1]
    ranks = np.searchsorted(ends, drawn)
    assert len(ends) == 128 and set(np.diff(ranks)) <= {8, 9}


def test_predictions_are_black_and_dashed_over_coloured_lines(runs):
    for axes in panels_of(draw(runs)):
        measured, predicted = axes.collections
        assert is_dashed(predicted) and not is_dashed(measured)
        assert predicted.get_color().tolist() == [[0, 0, 0, 1]]
        assert len({tuple(colour) for colour in measured.get_color()}) == len(
            measured.get_segments()
        )
        assert predicted.get_linewidth()[0] < measured.get_linewidth()[0]


def test_axes_and_legend_are_named(runs):
    figure = draw(runs)
    labels = [axes.get_ylabel() for axes in panels_of(figure)]
    assert labels == [
        "Column sum,\nlast linear layer",
        "Squared channel norm,\n2nd convolution",
        "Squared channel norms,\n5th − 4th convolution",
    ]
    for axes in strips_of(figure):
        assert axes.get_xlabel() == "Step $n$  (time $t = ηn$, $η$ = 0.1)"
        assert axes.get_xlim() == (0, 600)
    assert legend_of(figure) == ["measured", "predicted (law 1: modified gradient flow)"]


def test_where_the_law_is_silent_nothing_is_dashed_and_the_reason_is_given(write_run, overlaps):
    nesterov = {"momentum": 0.9, "nesterov": True}
    runs = [write_run(norm, name=str(norm), **nesterov) for norm in (False, True)]
    figure = draw(runs)
    for axes in figure.axes:
        (measured,) = axes.collections
        (text,) = axes.texts
        reason = " ".join(text.get_text().split())
        assert reason == (
            "theory: not predicted the paper's oscillator does not describe Nesterov's look-ahead"
        )
    assert legend_of(figure) == ["measured"]
    assert overlaps(figure) == []
    for axes in figure.axes:
        box = axes.texts[0].get_window_extent()
        assert axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1
        highest = max(line[:, 1].max() for line in axes.collections[0].get_segments())
        assert axes.transData.transform((0, highest))[1] < box.y0


def test_the_legend_names_the_law_of_each_run(write_run):
    plain = write_run(False, name="plain")
    with_momentum = [write_run(norm, name=f"m{norm}", momentum=0.9) for norm in (False, True)]
    assert legend_of(draw(with_momentum))[1] == "predicted (law 2: driven damped oscillator)"
    assert legend_of(draw([plain, with_momentum[1]]))[1] == (
        "predicted (law 1: modified gradient flow; law 2: driven damped oscillator)"
    )


def test_time_is_told_where_the_learning_rate_is_constant(write_run):
    runs = [write_run(False, name="plain", schedule="cosine"), write_run(True, name="bn")]
    labels = [axes.get_xlabel() for axes in strips_of(draw(runs))]
    assert labels[0] == labels[2] == "Step $n$" and "time" in labels[1]
    assert "cosine schedule" in captions(draw(runs))[0]


def test_one_run_predicted_and_one_not(write_run):
    runs = [write_run(False, name="plain"), write_run(True, name="bn", momentum=0.9, nesterov=True)]
    figure = draw(runs)
    assert [len(axes.collections) for axes in figure.axes] == [2, 1, 1, 2, 1]
    assert len(legend_of(figure)) == 2


def test_each_panel_names_its_own_learning_rate(write_run):
    runs = [write_run(False, name="plain", lr=0.05), write_run(True, name="bn", lr=0.01)]
    labels = [axes.get_xlabel() for axes in strips_of(draw(runs))]
    assert [label.rsplit(" ", 1)[1] for label in labels] == ["0.05)", "0.01)", "0.05)"]


def captions(figure):
    """Of each run; what follows on colours, strips and laws is in `notes`."""
    runs, _, _ = " ".join(figure.get_supxlabel().split()).partition(" Colours: ")
    return runs.replace(" synthetic", "\nsynthetic").splitlines()


def notes(figure):
    return " ".join(figure.get_supxlabel().split()).partition(" Colours: ")[2]


def test_a_strip_is_measured_minus_predicted_in_the_colours_of_its_panel(runs):
    figure = draw(runs)
    panels, strips = panels_of(figure), strips_of(figure)
    assert len(strips) == 3
    for panel, strip in zip(panels, strips, strict=True):
        measured, predicted = (np.array(lines.get_segments()) for lines in panel.collections)
        (lines,) = strip.collections
        missed = np.array(lines.get_segments())
        assert (missed[:, :, 0] == measured[:, :, 0]).all()
        np.testing.assert_array_equal(missed[:, :, 1], measured[:, :, 1] - predicted[:, :, 1])
        assert (lines.get_color() == panel.collections[0].get_color()).all()
        assert strip.get_xlim() == panel.get_xlim()
        low, high = strip.get_ylim()
        assert low <= missed[:, :, 1].min() and missed[:, :, 1].max() <= high
        if missed[:, :, 1].any():  # its own scale, not the panel's
            assert high - low < 1.2 * np.ptp(missed[:, :, 1])


def test_the_notes_say_no_more_than_holds_for_these_runs(write_run, runs):
    same = "the laws flow and discrete are the same"
    assert "rank of the final value" in notes(draw(runs)) and same in notes(draw(runs))
    assert "laws explain a run, they do not forecast it" in notes(draw(runs))
    for number, settings in enumerate(({"weight_decay": 1e-4}, {"momentum": 0.9})):
        other = write_run(True, name=str(number), **settings)
        assert same not in notes(draw([runs[0], other]))
    nesterov = {"momentum": 0.9, "nesterov": True}
    silent = [write_run(norm, name=f"s{norm}", **nesterov) for norm in (False, True)]
    assert notes(draw(silent)) == "rank of the final value, dark: lowest."


def test_the_title_and_the_captions_tell_both_runs(write_run, runs, paper):
    figure = draw(runs)
    assert figure.get_suptitle() == (
        "Fig. 5 on synthetic textures, VGG11 at width 1/8: not the paper's setting"
    )
    (caption,) = captions(figure)  # the runs differ in the model alone
    assert ", VGG11 without BN and VGG11 with BN, " in caption

    plain, bn = captions(draw([runs[0], write_run(True, name="other", lr=0.01)]))
    assert "VGG11 without BN" in plain and "η = 0.1," in plain
    assert "VGG11 with BN" in bn and "η = 0.01," in bn

    papers = [write_run(norm, name=f"paper{norm}", records=2, **paper) for norm in (False, True)]
    assert draw(papers).get_suptitle() == "Fig. 5 on Tiny ImageNet, VGG16"
    assert draw([papers[0], runs[1]]).get_suptitle() == (
        "Fig. 5 on Tiny ImageNet, VGG16; synthetic textures, VGG11 at width 1/8:"
        " not the paper's setting"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 1e5},
        {"scale": 1e-6, "depth": 16, "synthetic": False, "classes": 50, "weight_decay": 5e-4},
        {"depth": 16, "width": 1.0, "classes": 200, "synthetic": False, "steps": 39_100},
    ],
)
@pytest.mark.parametrize("dpi", [150, 300])
def test_no_text_lies_on_another(write_run, overlaps, settings, dpi):
    figure = draw([write_run(norm, name=str(norm), **settings) for norm in (False, True)])
    figure.set_dpi(dpi)
    assert overlaps(figure) == []


def test_runs_may_be_given_in_any_order(runs, tmp_path):
    plain, bn = runs
    for given in ([plain, bn], [bn, plain]):
        assert select_runs("fig5", given) == [plain, bn]
    written = plot("fig5", [bn.path, plain.path], None, ["pdf", "svg"])
    assert [path.parent for path in written] == [bn.path / "figures"] * 2


@pytest.mark.parametrize("norm, preset", [(True, "fig5_plain"), (False, "fig5_bn")])
def test_a_missing_run_is_named(write_run, norm, preset):
    missing = "of a VGG without BN" if norm else "of a VGG with BN"
    with pytest.raises(UsageError) as caught:
        select_runs("fig5", [write_run(norm)])
    assert str(caught.value) == (
        "fig5 needs a run of a VGG without BN and a run of a VGG with BN; there is none"
        f" {missing} among those given: `symrun train experiment={preset}` makes one"
    )


def test_a_second_run_of_a_kind_is_refused(write_run):
    runs = [write_run(True, name="one"), write_run(True, name="two")]
    with pytest.raises(UsageError, match=r"two is a second one of a VGG with BN$"):
        select_runs("fig5", runs)


def test_without_runs_the_newest_that_fit_are_taken(write_run, tmp_path, monkeypatch, select_from):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"none of a VGG without BN in outputs: .*experiment=fig5_plain"
    ):
        select_runs("fig5", [])
    for day, (name, norm) in enumerate([("a", False), ("b", True), ("c", False), ("d", True)]):
        run = write_run(norm, name=f"outputs/{name}")
        rewrite(run, created=f"2026-01-{day + 1:02d}T00:00:00")
    assert [run.path.name for run in select_runs("fig5", [])] == ["c", "d"]
    assert [run.path.name for run in select_runs("fig1", [])] == ["d"]
    older = [write_run(False, name="e"), write_run(True, name="f")]
    assert select_from("fig5", older) == older


def test_a_shallow_network_does_not_fit(write_run):
    run = write_run(False)
    rewrite(run, layers=recorded(run)["layers"][:4])
    with pytest.raises(UsageError, match="does not fit"):
        select_runs("fig5", [run])


@pytest.mark.parametrize("records, message", [(0, "no records yet"), (1, "a single record so far")])
def test_a_run_without_curves_is_one_clear_line(write_run, records, message):
    runs = [write_run(False, name="plain", records=records), write_run(True, name="bn")]
    with pytest.raises(UsageError, match=message) as caught:
        draw(runs)
    assert "\n" not in str(caught.value)

"""The symmetries of a run: a panel is the table's change of a group; what is left out is said."""

import numpy as np
import pandas as pd
import pytest
from run_json import rewrite

from symrun.errors import UsageError
from symrun.figures import FIGURES, plot, select_runs
from symrun.figures.layers import shortened
from symrun.figures.symmetries import draw


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def lines(collection):
    return np.array(collection.get_segments())[:, :, 1]


def changes(run, symmetry, group, column):
    """[units, records], read without symrun."""
    rows = pd.read_parquet(run.table("units"))
    rows = rows[(rows["symmetry"] == symmetry) & (rows["group"] == group)]
    start = rows[rows["step"] == 0].set_index("unit")["measured"]
    table = rows.pivot(index="unit", columns="step", values=column)
    return table.sub(start, axis=0).to_numpy()


def caption(figure):
    return " ".join(figure.get_supxlabel().split())


@pytest.mark.parametrize("name", ["resnet", "gpt", "mlp"])
def test_each_panel_shows_changes_of_units_and_what_theory_says(any_network, name):
    run = any_network(name)
    figure = draw([run])
    shown = panels(figure)
    groups = {shortened(group.group, 29): group for group in run.info().groups}
    assert {groups[title.split("\n")[1]].symmetry for title in shown} == {
        group.symmetry for group in run.info().groups
    }
    for title, axes in shown.items():
        group = groups[title.split("\n")[1]]
        measured, predicted = axes.collections
        tables = [
            changes(run, group.symmetry.value, group.group, column)
            for column in ("measured", "flow")
        ]
        drawn = lines(measured)
        units = [int(np.argmin(np.abs(tables[0] - line).max(axis=1))) for line in drawn]
        assert len(drawn) == min(8, group.units)
        for collection, table in zip((measured, predicted), tables, strict=True):
            np.testing.assert_array_equal(lines(collection), table[units])
        assert (np.diff(drawn[:, -1]) >= 0).all()
    others = len(run.info().groups) - len(shown)
    assert f"These are {len(shown)} of {len(run.info().groups)} groups" in caption(figure)
    assert f"{others} {'are' if others > 1 else 'is'} left out" in caption(figure)


def test_of_each_kind_the_group_that_moved_most_is_shown(any_network):
    run = any_network("resnet")
    rows = pd.read_parquet(run.table("units"))
    rows = rows[rows["symmetry"] == "scale"]
    units = rows.groupby(["group", "unit"], observed=True)
    start = units["measured"].transform("first")
    decayed = start * np.exp(-2 * 1e-3 * 0.1 * rows["step"])
    motion = ((rows["measured"] - decayed).abs() / rows["magnitude"]).groupby(
        [rows["group"], rows["unit"]], observed=True
    )
    most = motion.max().groupby("group", observed=True).median().idxmax()
    (title,) = [title for title in panels(draw([run])) if title.startswith("Scale")]
    assert title.endswith(f"\n{shortened(most, 29)}")


def test_a_group_at_rest_is_drawn_flat(write_run):
    """Its axis spans the rounding of its weights, not that of the table."""
    run = write_run(False, weight_decay=0.0)
    table = run.part("units", 0).parent
    assert table.is_dir()
    for title, axes in panels(draw([run])).items():
        if title.startswith("Translation"):
            drawn, (low, high) = lines(axes.collections[0]), axes.get_ylim()
            assert np.abs(drawn).max() < 0.5 * (high - low)


def test_where_no_law_predicts_the_reason_is_given(write_run):
    figure = draw([write_run(False, momentum=0.9, nesterov=True)])
    for axes in figure.axes:
        assert len(axes.collections) == 1 and "not predicted" in axes.texts[0].get_text()


@pytest.mark.parametrize("name", ["resnet", "gpt", "mlp"])
def test_no_text_lies_on_another(any_network, name, overlaps):
    """In any figure that such a run fits; the others say so in one line."""
    run, drawn = any_network(name), []
    for figure, module in FIGURES.items():
        try:
            found = module.draw(select_runs(figure, [run]))
        except UsageError as error:
            assert "\n" not in str(error)
            continue
        assert overlaps(found) == [], figure
        drawn.append(figure)
    assert {"symmetries", "grid", "phase", "residual", "units", "progress"} <= set(drawn)
    assert "fig5" not in drawn and ("fig1" in drawn) is (name == "resnet")


def test_each_side_of_a_name_is_shortened():
    assert shortened("features.0", 10) == "features.0"
    assert shortened("features.0", 9) == "features…"
    assert shortened("blocks.0.up -> blocks.0.down", 22) == "blocks.0: up -> down"
    attention = "blocks.1.attention.value -> blocks.1.attention.project"
    assert shortened(attention, 36) == "blocks.1.attention: value -> project"
    assert shortened(attention, 29) == "blocks.1.a…: value -> project"
    assert shortened("blocks.0.norm -> blocks.0.up", 27) == "blocks.0: norm -> up"
    assert shortened("net.up -> norm, head", 15) == "net.… -> norm,…"
    assert shortened("bn1, bn2, bn3 -> fc", 13) == "bn1, b… -> fc"
    assert shortened("fc -> conv1, conv2", 13) == "fc -> conv1,…"


def test_a_run_without_groups_does_not_fit_and_the_same_tables_give_the_same_bytes(
    write_run, tmp_path
):
    run = write_run(True)
    one, other = (
        plot("symmetries", [run.path], tmp_path / name, ["png"])[0] for name in ("one", "other")
    )
    assert one.read_bytes() == other.read_bytes()
    rewrite(run, groups=[])
    with pytest.raises(UsageError, match="needs a run with a symmetry; .*does not fit"):
        plot("symmetries", [run.path], tmp_path, ["png"])

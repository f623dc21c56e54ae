"""The distribution over units, on tables in which the share that a law misses is known."""

import numpy as np
import pyarrow as pa
import pytest
from run_json import rewrite

from symrun.errors import UsageError
from symrun.figures import plot, units
from symrun.runs.tables import LAWS, units_schema
from symrun.runs.writer import write_part

STEPS = np.array([0, 150, 300, 600])
FLOW = {"a": [1e-4, 1e-2, 4.0], "b": [0.5], "c": [1e-3, 1e-3]}
DISCRETE = {"a": [0, 1e-8, 1e-6], "b": [1e-7], "c": [1e-5, 0]}
EXACT = {"a": [1e-10] * 3, "b": [1e-9], "c": [1e-12, 1e-11]}
SYMMETRIES = {"a": "scale", "b": "scale", "c": "translation"}


@pytest.fixture
def write_known(write_run):
    """A run in which each unit of group a, b, c has a law miss the given share of what is broken;
    and a last unit in each group that never moves."""

    def write(missed=(FLOW, DISCRETE, EXACT), motion=1.0, diverged=False, **info):
        run = write_run(True, records=0, weight_decay=0.0)
        groups = [
            {"symmetry": symmetry, "group": group, "units": len(FLOW[group]) + 1, "layers": [group]}
            for group, symmetry in SYMMETRIES.items()
        ]
        rewrite(run, groups=groups, precision="float64", **info)
        rows = []
        for group in groups:
            moves = np.append(np.full(group["units"] - 1, motion), 0)
            broken = np.sqrt(STEPS / 600)[:, None] * moves
            measured = 2 + broken
            if diverged:
                measured[-1] = np.nan
            columns = {"measured": measured, "magnitude": np.full_like(broken, 2)}
            for law, shares in zip(LAWS, missed, strict=True):
                error = np.sqrt(np.append(shares[group["group"]], 0))
                columns[law] = np.multiply(broken, 1 + error, where=broken > 0, out=0 * broken) + 2
            rows += [
                {"step": step, "symmetry": group["symmetry"], "group": group["group"]}
                | {"unit": unit, **{name: column[i, unit] for name, column in columns.items()}}
                for i, step in enumerate(STEPS)
                for unit in range(group["units"])
            ]
        table = pa.Table.from_pylist(rows, schema=units_schema(pa.float64()))
        write_part(run.part("units", 0), table)
        return run

    return write


def legend(figure):
    (found,) = figure.subfigs[0].legends
    return {
        text.get_text(): line.get_color()
        for text, line in zip(found.get_texts(), found.get_lines(), strict=True)
    }


def curve(figure, panel, law):
    """x and percent, of the line of the law's colour."""
    colour = legend(figure)[law]
    (line,) = [line for line in figure.axes[panel].lines if line.get_color() == colour]
    assert line.get_drawstyle() == "steps-post"
    return np.asarray(line.get_xydata()).T


@pytest.mark.parametrize(
    ("panel", "law", "points"),
    [
        (0, "flow", [(9e-5, 0), (1e-4, 25), (1e-2, 50), (0.4, 50), (0.5, 75), (3.9, 75), (4, 100)]),
        (0, "discrete", [(1e-10, 25), (1e-8, 50), (1e-7, 75), (9e-7, 75), (1e-6, 100), (1, 100)]),
        (0, "exact", [(9e-11, 0), (1e-10, 75), (1e-9, 100)]),
        (1, "flow", [(9e-4, 0), (1e-3, 100)]),
        (1, "discrete", [(9e-6, 50), (1e-5, 100)]),
    ],
)
def test_a_curve_counts_the_units_a_law_leaves_so_much_of(write_known, panel, law, points):
    drawn = curve(units.draw([write_known()]), panel, law)
    assert (np.diff(drawn) >= 0).all() and drawn[1][0] == 0 and drawn[1][-1] == 100
    for x, percent in points:  # the shares are known to the rounding of measured and predicted
        assert drawn[1][drawn[0] <= x * (1 + 1e-6)].max(initial=0) == percent, x


def test_panels_titles_and_guides(write_known):
    run = write_known()
    figure = units.draw([run])
    titles = ["Scale: 4 of 6 units moved", "Translation: 2 of 3 units moved"]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert list(legend(figure)) == list(LAWS) and len(set(legend(figure).values())) == 3
    for axes in figure.axes:
        assert axes.get_xscale() == "log" and axes.get_ylim() == (0, 100)
        left, right = axes.get_xlim()
        assert 0 < left <= 1e-12 * (1 + 1e-6) and right == 10
        guides = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        texts = {text.get_text(): text.xy[0] for text in axes.texts}
        assert guides == [1e-3, 1e-2] and texts == {"R² = 0.999": 1e-3, "0.99": 1e-2}
        assert axes.get_xlabel() == "1 − explained (1 − R²), at most"
    assert figure.get_suptitle().startswith("How well each law predicts each unit, on synthetic")
    assert "600 steps" in figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")


def test_without_any_error_a_curve_counts_from_the_left_edge(write_known):
    nothing = {group: np.zeros(len(shares)) for group, shares in FLOW.items()}
    figure = units.draw([write_known((FLOW, nothing, nothing))])
    left, right = figure.axes[0].get_xlim()
    assert left == 1e-6
    drawn = curve(figure, 0, "exact")
    assert drawn.tolist() == [[left] * 5 + [right], [0, 25, 50, 75, 100, 100]]


def test_a_law_that_is_not_finite_does_not_reach_all_units(write_known):
    blown = FLOW | {"b": [np.inf]}
    figure = units.draw([write_known((blown, DISCRETE, EXACT), unpredicted={"exact": "silent"})])
    assert list(legend(figure)) == ["flow", "discrete"]
    drawn = curve(figure, 0, "flow")
    assert drawn[1][-1] == 75 and np.isfinite(drawn).all()


def test_a_diverged_run_is_compared_up_to_there(write_known, caplog):
    run = write_known(diverged=True)
    figure = units.draw([run])
    assert "diverged: a is not finite after step 300" in caplog.text
    assert curve(figure, 0, "flow")[1].tolist() == [0, 25, 50, 75, 100, 100]
    assert "300 of 600 steps" in figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"motion": 1e-6}, "no unit moved: nothing was broken that a law could explain$"),
        ({"unpredicted": dict.fromkeys(LAWS, "of Adam")}, "no law predicts it: of Adam$"),
    ],
)
def test_nothing_to_explain_and_no_law_are_one_line(write_known, settings, reason):
    with pytest.raises(UsageError, match=rf"run: {reason}"):
        units.draw([write_known(**settings)])


def test_no_text_lies_on_another(write_known, overlaps):
    assert overlaps(units.draw([write_known()])) == []


def test_the_same_tables_give_the_same_bytes(write_known, tmp_path):
    run, formats = write_known().path, ["png", "pdf", "svg"]
    drawn = [plot("units", [run], tmp_path / name, formats) for name in ("one", "other")]
    for one, other in zip(*drawn, strict=True):
        assert one.read_bytes() == other.read_bytes()

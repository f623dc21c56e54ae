"""The progress figure draws the rows of the table, and says of each run which it is."""

import math

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.colors import to_rgb

from symrun.errors import UsageError
from symrun.figures import plot, progress, select_runs
from symrun.runs.tables import PROGRESS_SCHEMA, progress_curves
from symrun.runs.writer import write_part

PER_EPOCH = 8  # of 2,000 images, batch 256
COLUMNS = ("split", "step", "loss", "top1", "top5")
OTHERS = {"epoch": 1, "lr": None, "images_per_second": 1.0}
ROWS = [
    ("train", 4, 2.3, 0.1, 0.5), ("train", 8, 2.2, 0.2, 0.6), ("val", 8, 2.1, 0.25, 0.65),
    ("train", 12, 2.0, 0.3, 0.7), ("train", 16, 1.5, 0.4, 0.8), ("val", 16, 1.4, 0.45, 0.9),
]  # fmt: skip


@pytest.fixture
def write_progress(write_run):
    """A run with rows (split, step, loss, top1, top5), the last ones in a part of their own."""

    def write(rows=ROWS, batch_norm=True, **settings):
        run = write_run(batch_norm, records=0, **settings)
        run.table("progress").mkdir()
        for number, part in enumerate((rows[:4], rows[4:])):
            if part:
                values = [dict(zip(COLUMNS, row, strict=True)) | OTHERS for row in part]
                table = pa.Table.from_pylist(values, schema=PROGRESS_SCHEMA)
                write_part(run.part("progress", number), table)
        return run

    return write


def drawn(axes, linestyle="-"):
    """Points of training and validation, [[x, y], ...] each, without what is not finite."""
    lines = [line for line in axes.lines if line.get_linestyle() == linestyle]
    points = [np.reshape(line.get_xydata(), (-1, 2)) for line in lines]
    return [each[np.isfinite(each).all(axis=1)].tolist() for each in points]


def expected(split, column, factor):
    return [[row[1] / PER_EPOCH, factor * row[column]] for row in ROWS if row[0] == split]


def legends(figure):
    return [[text.get_text() for text in found.get_texts()] for found in figure.subfigs[0].legends]


def test_it_draws_the_rows_over_epochs_in_percent(write_progress):
    figure = progress.draw([write_progress(last_step=16)])
    left, right = figure.axes
    for axes, linestyle, column, factor in (
        (left, "-", 2, 1), (right, "-", 3, 100), (right, "--", 4, 100),
    ):  # fmt: skip
        both = [expected(split, column, factor) for split in ("train", "val")]
        assert drawn(axes, linestyle) == both
    assert [axes.get_xlabel() for axes in figure.axes] == ["Epoch"] * 2
    assert [axes.get_ylabel() for axes in figure.axes] == ["Loss", "Accuracy, %"]
    assert figure.get_suptitle() == "Loss and accuracy on synthetic textures, VGG11 at width 1/8"
    assert "16 of 600" in figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")


def test_the_guide_is_the_loss_of_chance(write_progress):
    run = write_progress(synthetic=False, classes=200)
    left, right = (figure := progress.draw([run])).axes
    guides = [line for line in left.lines if line.get_linestyle() == ":"]
    assert [set(line.get_ydata()) for line in guides] == [{math.log(200)}]
    assert ":" not in [line.get_linestyle() for line in right.lines]
    assert legends(figure)[1][-1] == "chance, ln 200"
    assert left.get_ylim() == (0, 1.1 * math.log(200))  # a plateau lies inside, at any loss
    both = progress.draw([run, write_progress(name="other")])
    assert legends(both)[1][-1] == "chance, ln 10 and ln 200"


def test_a_hue_a_run_in_the_given_order(write_progress):
    runs = [write_progress(weight_decay=0.001), write_progress(batch_norm=False, name="plain")]
    names = ["VGG11 with BN, λ = 0.001", "VGG11 without BN, λ = 0"]
    for order in (runs, runs[::-1]):
        figure = progress.draw(select_runs("progress", order))
        assert legends(figure)[0] == (names if order is runs else names[::-1])
        shown = figure.subfigs[0].legends[0].get_lines()
        lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        colours = [to_rgb(line.get_color()) for line in lines]
        assert colours == [to_rgb(line.get_color()) for line in shown] and len(set(colours)) == 2


def test_rows_that_are_not_finite_are_gaps(write_progress):
    bad = [("train", 20, math.nan, 0.1, 0.5), ("train", 22, math.inf, 0.1, 0.5)]
    figure = progress.draw([write_progress([*ROWS, *bad, ("val", 24, math.nan, 0.1, 0.5)])])
    assert drawn(figure.axes[0]) == [expected(split, 2, 1) for split in ("train", "val")]
    # also where their accuracy is a number: that of guesses by a network of NaN
    assert drawn(figure.axes[1]) == [expected(split, 3, 100) for split in ("train", "val")]
    figure = progress.draw([write_progress([*ROWS, ("train", 20, 1e30, 0.1, 0.5)], name="huge")])
    assert figure.axes[0].get_ylim() == (0, 2 * math.log(10))


@pytest.mark.parametrize(
    ("rows", "validations"), [(ROWS[:3], 1), (ROWS[:2], 0), (ROWS[:1], 0), (ROWS[2:3], 1)]
)
def test_a_run_that_has_just_begun(write_progress, overlaps, rows, validations):
    figure = progress.draw([write_progress(rows)])
    counts = [len(points) for points in drawn(figure.axes[0])]
    assert counts == [len(rows) - validations, validations]
    line, other = figure.axes[0].lines[:2]
    assert (line.get_marker() == ".") == (counts[0] == 1)  # a line needs two
    assert other.get_marker() == "o" and overlaps(figure) == []


def test_training_rows_are_thinned_and_validation_is_not(write_progress):
    rows = [("train", step, 2.0, 0.1, 0.5) for step in range(1, 2001)]
    rows += [("val", step, 2.0, 0.1, 0.5) for step in range(1, 601)]
    training, validation = drawn(progress.draw([write_progress(rows, steps=2000)]).axes[0])
    assert len(training) == 400 and len(validation) == 600
    assert (training[0][0], training[-1][0]) == (1 / PER_EPOCH, 2000 / PER_EPOCH)


def test_selection_and_its_errors_in_one_line(write_progress, select_from):
    older, newer = write_progress(name="older"), write_progress(name="newer")
    assert select_from("progress", [newer, older]) == [newer]
    with pytest.raises(UsageError, match=r"there is none in outputs: `symrun train exp[^\n]*$"):
        select_from("progress", [])
    with pytest.raises(UsageError, match=r"takes each run once; \S*older is given twice$"):
        select_runs("progress", [older, newer, older])
    with pytest.raises(UsageError, match=r"no_rows has no records yet[^\n]*$"):
        progress.draw([write_progress([], name="no_rows")])
    with pytest.raises(UsageError, match=r"lost has no finite loss: there is no curve[^\n]*$"):
        progress.draw([write_progress([("train", 1, math.nan, 0.1, 0.5)], name="lost")])
    with pytest.raises(UsageError, match=r"doubled, val: the table has missing or doubled"):
        progress_curves(write_progress([ROWS[2], ROWS[2]], name="doubled"), "val")


@pytest.mark.parametrize("count", [2, 9])
def test_no_text_lies_on_another(write_progress, overlaps, count):
    large = {"depth": 16, "classes": 200, "synthetic": False}
    runs = [write_progress(name=f"run{n}", lr=0.1 + 0.01 * n, **large) for n in range(count)]
    assert overlaps(progress.draw(runs)) == []


def test_the_same_tables_give_the_same_bytes(write_progress, tmp_path):
    run, formats = write_progress().path, ["png", "pdf", "svg"]
    drawn = [plot("progress", [run], tmp_path / name, formats) for name in ("one", "other")]
    for one, other in zip(*drawn, strict=True):
        assert one.read_bytes() == other.read_bytes()

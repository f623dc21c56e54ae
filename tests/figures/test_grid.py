"""The grids: a panel a setting, in it the means that the tables give."""

import numpy as np
import pandas as pd
import pytest
from run_json import recorded, rewrite, with_settings

from symrun.errors import UsageError
from symrun.figures import FIGURES, plot, select_runs

DECAYS = [0.0, 1e-4, 5e-4, 1e-3]


@pytest.fixture
def sweep(write_run):
    def make(norm, lrs=(0.1, 0.01), decays=DECAYS, **settings):
        return [
            write_run(norm, name=f"{norm}-{lr}-{decay}", lr=lr, weight_decay=decay, **settings)
            for decay in decays
            for lr in lrs
        ]

    return make


def table(run, symmetry, column):
    """[records, (group, unit)], groups as in run.json, read without symrun."""
    rows = pd.read_parquet(run.table("units"))
    rows = rows[rows["symmetry"] == symmetry].astype({"group": str})
    return rows.pivot(index="step", columns=["group", "unit"], values=column)


def drawn(lines):
    return np.array(lines.get_segments())[:, :, 1].T


@pytest.mark.parametrize(("norm", "symmetry"), [(True, "scale"), (False, "rescale")])
def test_a_panel_a_setting_and_a_line_a_layer(sweep, norm, symmetry):
    runs = sweep(norm)
    figure = FIGURES[f"grid_{symmetry}"].draw(select_runs(f"grid_{symmetry}", runs))
    panels = np.array(figure.axes).reshape(2, 4)
    for run in runs:
        optim = recorded(run)["config"]["optim"]
        place = [0.1, 0.01].index(optim["lr"]), DECAYS.index(optim["weight_decay"])
        measured, predicted = panels[place].collections
        groups = [group.group for group in run.info().groups_of(symmetry)]
        for lines, column in ((measured, "measured"), (predicted, "flow")):
            values = table(run, symmetry, column)
            means = np.stack([values[group].mean(axis=1) for group in groups], axis=1)
            np.testing.assert_allclose(drawn(lines), means, rtol=1e-6, atol=1e-5)
    assert [axes.get_title() for axes in panels[0]] == [f"$λ$ = {decay:g}" for decay in DECAYS]
    assert panels[0, 0].get_ylabel().startswith("η = 0.1\n")
    assert panels[1, 0].get_ylabel().startswith("η = 0.01\n")
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in panels.flat}
    assert len(limits) == 1
    assert "synthetic textures, VGG11 at width 1/8" in figure.get_suptitle()


def test_translation_draws_single_columns(sweep):
    runs = sweep(False, lrs=[0.1])
    figure = FIGURES["grid_translation"].draw(select_runs("grid_translation", runs))
    assert len(figure.axes) == 4
    for axes, run in zip(figure.axes, runs, strict=True):
        values = table(run, "translation", "measured")["classifier.6"].to_numpy()
        np.testing.assert_array_equal(drawn(axes.collections[0]), values[:, :10])


def test_momentum_has_rows_of_its_own_and_a_silent_law_says_so(write_run):
    runs = [
        write_run(True, name="a", momentum=0.9),
        write_run(True, name="b", momentum=0.99),
        write_run(True, name="c", momentum=0.9, nesterov=True),
    ]
    figure = FIGURES["grid"].draw(select_runs("grid", runs))
    labels = [axes.get_ylabel().split("\n")[:-1] for axes in figure.axes]
    assert labels == [
        ["η = 0.1", "momentum 0.99"],
        ["η = 0.1", "momentum 0.9", "Nesterov"],
        ["η = 0.1", "momentum 0.9"],
    ]
    assert [len(axes.collections) for axes in figure.axes] == [2, 1, 2]
    assert figure.axes[1].texts[0].get_text() == "not predicted"
    (legend,) = figure.subfigs[0].legends
    assert legend.get_texts()[-1].get_text() == "predicted (law 2: driven damped oscillator)"


@pytest.mark.parametrize("dpi", [150, 300])
@pytest.mark.parametrize("symmetry", ["scale", "rescale", "translation"])
def test_no_text_lies_on_another(sweep, overlaps, symmetry, dpi):
    lrs = [0.1] if symmetry == "translation" else [0.1, 0.01]
    figure = FIGURES[f"grid_{symmetry}"].draw(sweep(symmetry == "scale", lrs=lrs))
    figure.set_dpi(dpi)
    assert overlaps(figure) == []


def test_a_missing_setting_leaves_its_place_empty_and_its_row_labelled(sweep, write_run):
    runs = sweep(True)[1:]
    figure = FIGURES["grid"].draw(select_runs("grid", runs))
    drawn = [len(axes.collections) for axes in figure.axes]
    visible = [axes.spines["left"].get_visible() for axes in figure.axes]
    assert drawn == [0] + [2] * 7 and visible == [False] + [True] * 7
    assert figure.axes[0].get_ylabel().startswith("η = 0.1\n") and figure.axes[0].axison
    assert figure.axes[0].get_title() == "$λ$ = 0"


def test_every_setting_in_which_runs_differ_has_a_row(write_run):
    schedule = {"schedule": "multistep", "gamma": 0.1}
    runs = [
        write_run(True, name=str(share), milestones=[share], **schedule) for share in (0.25, 0.5)
    ]
    figure = FIGURES["grid"].draw(select_runs("grid", runs))
    assert [len(axes.collections) for axes in figure.axes] == [2, 2]
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert "milestones [0.5]" in labels[0] and "milestones [0.25]" in labels[1]


def test_the_caption_tells_how_far_a_run_in_progress_is(write_run):
    run = write_run(True, steps=600, last_step=400)
    rewrite(run, last_step=0)
    caption = FIGURES["grid"].draw([run]).get_supxlabel()
    assert "400 of 600" in caption.replace("\N{NO-BREAK SPACE}", " ")


def test_runs_of_another_family_are_refused(write_run):
    one, other = write_run(True, name="one"), write_run(True, name="other", width=0.25)
    unlike = write_run(True, name="unlike")
    with_settings(unlike, train={"batch_size": 64})
    with pytest.raises(UsageError, match=r"differ in optim alone; .*unlike differs in train.batch"):
        select_runs("grid", [one, unlike])
    with pytest.raises(UsageError, match="other differs in model.width"):
        select_runs("grid", [one, other])
    part = write_run(True, name="part", lr=0.01)
    rewrite(part, dataset=recorded(part)["dataset"] | {"train_images": 7})
    with pytest.raises(UsageError, match="part differs in the images of its data set"):
        select_runs("grid", [one, part])
    moved = write_run(True, name="moved", lr=0.02)
    with_settings(moved, device="cuda")
    assert select_runs("grid", [one, moved]) == [one, moved]
    with pytest.raises(UsageError, match="again: it repeats the optim of another"):
        select_runs("grid", [one, write_run(True, name="again")])
    with pytest.raises(UsageError, match="lacks the symmetry"):
        select_runs("grid_scale", [one, write_run(False, name="plain")])


def test_without_runs_the_newest_family(sweep, write_run, tmp_path, monkeypatch, select_from):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"1 run or more that fit; 0 in outputs: .*grid_scale"):
        plot("grid", [], None, ["png"])
    runs = sweep(True, decays=[0.0, 1e-3])
    plain = write_run(False, name="plain")
    assert select_from("grid_scale", [plain, *runs]) == runs
    other = write_run(True, name="fig1", lr=0.1, weight_decay=0.0, run_name="fig1")
    assert select_from("grid_scale", [*runs, other]) == runs
    assert select_from("grid_scale", [other, *runs]) == [other]
    again = write_run(True, name="again", lr=0.1, weight_decay=0.0)
    assert select_from("grid_scale", [again, *runs]) == [again, *runs[1:]]


@pytest.mark.parametrize("optim", [{}, {"lr": "fast"}])
@pytest.mark.parametrize("figure", ["fig1", "grid", "phase"])
def test_a_run_json_with_a_broken_optimiser_is_one_line(write_run, tmp_path, figure, optim):
    run = write_run(True)
    config = recorded(run)["config"]
    rewrite(run, config=config | {"optim": (config["optim"] | optim) if optim else {}})
    with pytest.raises(UsageError, match="optim"):
        plot(figure, [run.path], tmp_path, ["png"])


def test_two_laws_and_a_silent_one_fit_on_the_page(write_run, overlaps):
    settings = [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}]
    runs = [write_run(True, name=str(i), **optim) for i, optim in enumerate(settings)]
    assert overlaps(FIGURES["grid"].draw(runs)) == []


def test_units_of_another_layer_than_the_last_are_named(any_network):
    """The last layer of a GPT is its embedding, whose columns are not conserved."""
    figure = FIGURES["grid_translation"].draw([any_network("gpt")])
    assert figure.get_suptitle().startswith("Translation, units of blocks.1.down, on text.txt")

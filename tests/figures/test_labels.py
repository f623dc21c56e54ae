"""Labels of runs say what tells them apart, and no more."""

from dataclasses import replace
from pathlib import Path

import pytest
from run_json import rewrite, with_settings

from symrun.config import Precision
from symrun.figures.captions import captions, labels, settings

ALIKE = "VGG11 with BN, λ = 0"


@pytest.fixture
def labelled(write_run):
    """A function that labels runs of settings of `run_info`, or of `folder` and `precision`."""

    def label(*settings):
        runs = []
        for number, setting in enumerate(settings):
            folder = setting.pop("folder", str(number))
            precision = Precision(setting.pop("precision", "float32"))
            run = write_run(True, name=str(number), records=0, **setting)
            runs.append(
                (replace(run.info(), precision=Precision(precision)), Path("outputs") / folder)
            )
        return labels(runs)

    return label


def test_model_and_weight_decay_suffice_where_they_differ(labelled):
    found = labelled({"weight_decay": 1e-4}, {"depth": 16, "seed": 1}, {"weight_decay": 0.001})
    assert found == [
        "VGG11 with BN, λ = 0.0001",
        "VGG16 with BN, λ = 0",
        "VGG11 with BN, λ = 0.001",
    ]


@pytest.mark.parametrize(
    ("made", "endings"),
    [
        ([{"seed": 0}, {"seed": 1}], [", seed 0", ", seed 1"]),
        ([{"lr": 0.1}, {"lr": 0.01, "seed": 1}], [", η = 0.1", ", η = 0.01"]),
        ([{}, {"momentum": 0.9}], ["", ", momentum 0.9"]),
        ([{"width": 0.25}, {}], [", width 1/4", ", width 1/8"]),
        ([{}, {"synthetic": False}], [", synthetic textures", ", Tiny ImageNet"]),
        (
            [{"precision": "bf16"}, {"seed": 0}, {"seed": 1}],
            [", bf16", ", float32, seed 0", ", float32, seed 1"],
        ),
        ([{"folder": "a $1"}, {"folder": "b"}], [r", a \$1", ", b"]),
        ([{"folder": "a/x"}, {"folder": "b/x"}], [", outputs/a/x", ", outputs/b/x"]),
    ],
)
def test_what_tells_runs_apart_follows(labelled, made, endings):
    assert labelled(*made) == [ALIKE + ending for ending in endings]


def test_a_caption_of_runs_that_differ_in_their_seed_names_their_model_once(write_run):
    infos = [write_run(True, name=str(seed), records=0, seed=seed).info() for seed in range(2)]
    (caption,) = captions([(info, 600) for info in infos])
    assert caption.count("VGG11") == 1


def test_the_caption_of_a_run_that_broke_off_counts_its_updates(write_run):
    """The last record is of step 284, before the last update that was made."""
    run = write_run(True, records=0, steps=800, last_step=285)
    rewrite(run, status="interrupted")
    (caption,) = captions([(run.info(), 284)])
    assert "285 of 800 steps" in caption.replace("\N{NO-BREAK SPACE}", " ")


def test_a_part_of_a_data_set_is_called_so(write_run, paper):
    assert (
        settings([write_run(True, name="a", records=0, **paper).info()]) == "Tiny ImageNet, VGG16"
    )
    part = write_run(True, name="b", records=0, **paper | {"classes": 20}).info()
    assert settings([part]) == "20 classes of Tiny ImageNet, VGG16"
    other = write_run(True, name="c", records=0, **paper | {"classes": 10})
    with_settings(other, data={"name": "cifar10"})
    assert not settings([other.info()]).startswith("10 classes of")


def test_without_runs_a_finished_one_comes_before_a_newer_unfinished_one(write_run, select_from):
    newest, older = (write_run(True, name=name, records=2) for name in ("newest", "older"))
    for status in ("diverged", "interrupted", "running"):
        rewrite(newest, status=status)
        assert select_from("residual", [newest, older]) == [older]
        assert select_from("residual", [newest]) == [newest]
        assert select_from("fig1", [newest, older]) == [older]

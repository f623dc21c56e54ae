"""The study of what limits the laws isolates each effect, and trains no run twice."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import pytest

import symrun
from symrun.errors import UsageError
from symrun.runs.directory import RunDirectory

SCRIPT = Path(symrun.__file__).parent.parent / "scripts" / "limits.py"
SMALL = ["model=vgg11_bn", "model.width=0.0625", "data=synthetic", "data.train_images=64"]
SMALL += ["data.val_images=20", "train.batch_size=32", "train.steps=20", "track.every=5"]
VALUES = {"eps": (1e-3,), "precision": ("float32",), "decay": (0.0, 1e-2), "lr": (0.025,)}
ROUNDING = 1e-12
"""20 updates of sums over some hundred numbers: 1e4 roundings of 2^-53, at most."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The script's names with fewer values of each effect, and the folder in which it ran once."""
    names = runpy.run_path(str(SCRIPT))["main"].__globals__
    for name, effect in names["EFFECTS"].items():
        names["EFFECTS"][name] = dataclasses.replace(effect, values=VALUES[name])
    folder = tmp_path_factory.mktemp("limits")
    with pytest.MonkeyPatch.context() as patch:
        run(names, folder, patch)
    return names, folder


@pytest.fixture
def rows(study):
    return json.loads((study[1] / "out" / "limits.json").read_text())["rows"]


def run(names, folder, patch):
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["limits.py", "--out", "out", *SMALL])
    names["main"]()


def of(rows, key="residual", **equal):
    """{value of the effect: a number} of the rows in which all of `equal` holds."""
    chosen = [row for row in rows if all(row[name] == value for name, value in equal.items())]
    assert len(chosen) == len({row["value"] for row in chosen}) > 0
    return {row["value"]: row[key] for row in chosen}


def test_every_run_differs_from_the_base_in_one_setting():
    names = runpy.run_path(str(SCRIPT))
    base = names["base_of"](SMALL)
    values = {}
    for member in names["members"](SMALL):
        setting = names["EFFECTS"][member.effect].setting
        changed = [line.split()[0] for line in base.differences(member.config)]
        assert changed == ([] if member.is_base else [setting])
        values.setdefault(member.effect, []).append(member.is_base)
    numbers = {effect: len(runs) for effect, runs in values.items()}
    assert numbers["eps"] == 7 and numbers["decay"] == numbers["lr"] == 4
    assert 3 <= numbers["precision"] <= 4  # tf32 on a GPU alone
    assert all(runs.count(True) == 1 for runs in values.values())


def test_a_base_of_other_values_is_among_the_runs_of_each_effect():
    names = runpy.run_path(str(SCRIPT))
    other = [*SMALL, "optim.lr=0.15", "precision=auto"]
    members = [member for member in names["members"](other) if member.effect == "lr"]
    assert [member.value for member in members] == [0.025, 0.05, 0.1, 0.15, 0.2]
    assert [member.value for member in members if member.is_base] == [0.15]
    with pytest.raises(UsageError, match="model.eps must be 1e-05 without BN"):
        list(names["members"]([*SMALL, "model=vgg11"]))


@pytest.mark.parametrize("symmetry", ["scale", "rescale", "translation"])
def test_each_effect_shows_where_it_should_and_nowhere_else(rows, symmetry):
    exact, discrete = (
        {effect: of(rows, effect=effect, symmetry=symmetry, law=law) for effect in VALUES}
        for law in ("exact", "discrete")
    )
    for effect in ("eps", "decay", "lr"):
        assert max(exact[effect].values()) < ROUNDING
    assert exact["precision"]["float64"] < ROUNDING < 1e-9 < exact["precision"]["float32"] < 1e-5
    if symmetry == "scale":  # in proportion to eps, as far as it is small beside the variances
        assert 20 < discrete["eps"][1e-3] / discrete["eps"][1e-5] < 200
    else:
        assert max(discrete["eps"].values()) < ROUNDING
    limit, steps = (
        of(rows, "from_next", effect=effect, symmetry=symmetry, law="flow")
        for effect in ("decay", "lr")
    )
    assert limit[0.0] < ROUNDING < limit[1e-4] < limit[1e-2]
    assert ROUNDING < steps[0.025] < steps[0.1]


def test_laws_miss_less_than_there_was_to_predict(rows):
    for row in rows:
        if row["symmetry"] != "translation" and row["law"] != "flow":
            assert row["residual"] < row["change"]


def test_a_second_call_trains_nothing_and_says_the_same(study, monkeypatch, capsys):
    def trained_again(*_):
        pytest.fail("a finished run was trained again")

    names, folder = study
    files = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    assert {path.name for path in files} == {"limits.json", "limits.png", "limits.pdf"}
    monkeypatch.setattr("symrun.training.lifecycle.train", trained_again)
    run(names, folder, monkeypatch)
    assert {path: path.read_bytes() for path in files} == files
    assert len(list(Path("outputs/limits").glob("2*"))) == 1 + sum(map(len, VALUES.values()))

    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3 * sum(1 + len(values) for values in VALUES.values())
    assert table[2].startswith("| BatchNorm's eps | 1e-5 | scale | ")


def test_the_numbers_name_the_base_and_no_place_on_this_machine(study):
    text = (study[1] / "out" / "limits.json").read_text()
    base = json.loads(text)["base"]["config"]
    assert base["model"]["eps"] == 1e-5 and base["train"]["steps"] == 20
    assert base["optim"]["lr"] == 0.1 and base["precision"] == "float64" and "run" not in base
    assert str(study[1]) not in text


@pytest.mark.parametrize("dpi", [100, 300])
def test_no_text_lies_on_another(study, rows, overlaps, monkeypatch, dpi):
    names, folder = study
    monkeypatch.chdir(folder)
    path = next(Path("outputs/limits").glob("2*"))
    rows = [names["Row"](**row) for row in rows]
    figure = names["draw"](rows, names["base_of"](SMALL), RunDirectory.open(path))
    figure.set_dpi(dpi)
    assert overlaps(figure) == []

"""Symmetries that a user names by hand: proven like those that are found, refused where false."""

import json
import re
import sys
from pathlib import Path

import pytest

import symrun
from symrun.cli import main
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.training.lifecycle import train

PAGE = Path(symrun.__file__).parent.parent / "docs" / "models.md"
SMALL = ["data=synthetic", "data.train_images=40", "data.val_images=20", "device=cpu"]
SMALL += ["train.batch_size=8", "train.steps=30", "track.every=1", "precision=float64"]
WRONG = """
from symrun.symmetry import *
from my_networks import *

def filters(name):
    return Group(Symmetry.translation, name, ("0",), (rows("0.weight", (8, 3, 3, 3)),))

class Columns(Family):
    def groups(self, model):
        return [Group(Symmetry.translation, "4.rows", ("4",), (rows("4.weight", (10, 8)),))]

class Found(Family):
    def groups(self, model):
        return [Group(Symmetry.translation, "4", ("4",), (columns("4.weight", (10, 8), 8),))]

class Nowhere(Family):
    def groups(self, model):
        return [Group(Symmetry.scale, "9", ("9",), (rows("9.weight", (10, 8)),))]

class OtherShape(Family):
    def groups(self, model):
        return [Group(Symmetry.scale, "4", ("4",), (rows("4.weight", (8, 10)),))]

class Fails(Family):
    def groups(self, model):
        raise KeyError("first line\\nsecond line")

class Abstract(Family):
    pass

number = 3
"""


@pytest.fixture(autouse=True)
def _my_networks(tmp_path, monkeypatch):
    """The example of the page, beside what is wrong."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (block for block in blocks if "Family" in block)
    assert len([line for line in example.splitlines() if line]) <= 20
    Path("my_networks.py").write_text(example)
    Path("wrong.py").write_text(WRONG)
    yield
    for name in ("my_networks", "wrong"):
        sys.modules.pop(name, None)


def trained(*families):
    named = f"track.families=[{','.join(families)}]"
    return train(compose([*SMALL, "model=my_networks:network", named, "run.dir=run"]))


def test_the_sum_of_a_standardised_filter_is_conserved_as_the_exact_law_says(capfd):
    trained("my_networks:FilterSums")
    assert capfd.readouterr().err.count("left out") == 0
    groups = json.loads(Path("run/run.json").read_text())["groups"]
    sums = {"symmetry": "translation", "group": "0"}
    assert [group["units"] for group in groups if group | sums == group] == [8]
    assert groups[-1] | sums == groups[-1]  # behind those that were found
    assert main(["check", "run", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    (exact,) = (row for row in rows if row | sums | {"law": "exact"} == row)
    assert exact["residual"] <= 1e-12


def test_a_false_one_is_left_out_with_a_warning(caplog):
    trained("wrong:Columns", "my_networks:FilterSums")
    groups = json.loads(Path("run/run.json").read_text())["groups"]
    names = [group["group"] for group in groups if group["symmetry"] == "translation"]
    assert "4.rows" not in names and "0" in names
    (line,) = (line for line in caplog.messages if "left out" in line)
    assert line.startswith("translation of 4.rows is left out: the loss changes by")


@pytest.mark.parametrize(
    ("families", "message"),
    [
        (["wrong:Found"], "there is a group translation 4 already: give it another name"),
        (["my_networks:FilterSums"] * 2, "there is a group translation 0 already"),
        (["wrong:Nowhere"], "group 9: the network trains no parameter 9.weight"),
        (["wrong:OtherShape"], "8 lines of 10 entries do not make up 4.weight, which is [10, 8]"),
        (["wrong:Fails"], "failed with KeyError: 'first line\\nsecond line'"),
        (["wrong:Abstract"], "failed with TypeError"),
        (["wrong:filters"], "wrong:filters must be a subclass of symrun.symmetry.Family"),
        (["wrong:Colums"], "wrong has no function Colums; did you mean track.families=wrong:Col"),
        (["nowhere:Sums"], "there is no module nowhere"),
        (["wrong"], "track.families must be a list such as [module:Class], got 'wrong'"),
    ],
)
def test_what_cannot_be_used_is_one_line(families, message):
    with pytest.raises(UsageError) as refused:
        trained(*families)
    line = str(refused.value)
    assert message in line and "track.families" in line and "\n" not in line


def test_a_run_from_before_the_setting_is_read_as_one_without():
    config = compose(["data=synthetic"])
    older = config.to_dict()
    del older["track"]["families"]
    assert type(config).from_mapping(older) == config

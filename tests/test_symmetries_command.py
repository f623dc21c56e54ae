"""`symrun symmetries` as a person uses it: what a network conserves, without training it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from symrun.cli import main
from symrun.data import Dataset, TextDataset, load
from symrun.data.blank import blank, blank_or_read
from symrun.launch import compose
from symrun.training.lifecycle import train
from symrun.training.plan import Plan
from symrun.training.setup import prepare

SMALL = ["model.width=0.0625", "data.image_size=32", "device=cpu"]
NETS = """
import torch
from torch import nn

class Noisy(nn.Sequential):
    def forward(self, images):
        return super().forward(images) * (1 + torch.rand(()))

class Counting(nn.Sequential):
    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images) * self.calls

class Trained(nn.Sequential):
    def forward(self, images):
        return super().forward(images) if self.training else super().forward(images) + 1

class Deceptive(nn.Sequential):
    def forward(self, images):
        hidden = self[2](self[1](self[0](images)))
        hidden.register_hook(lambda gradient: 2 * gradient)
        return self[3](hidden)

def layers():
    return nn.Flatten(), nn.Linear(3 * 32 * 32, 5), nn.ReLU(), nn.Linear(5, 10)

noisy, counting = lambda: Noisy(*layers()), lambda: Counting(*layers())
trained, deceptive = lambda: Trained(*layers()), lambda: Deceptive(*layers())

def fails():
    class Fails(nn.Sequential):
        def forward(self, images):
            raise ValueError("not today")
    return Fails(*layers())
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("command_nets.py").write_text(NETS)
    yield
    sys.modules.pop("command_nets", None)


def command(capfd, *arguments, code=0):
    """Standard output and the lines of standard error."""
    assert main(["symmetries", *arguments]) == code
    captured = capfd.readouterr()
    return captured.out, captured.err.splitlines()


def found(capfd, *arguments, code=0):
    return json.loads(command(capfd, *arguments, "--json", code=code)[0])


def test_the_groups_of_a_run_and_of_its_model_are_those_that_it_tracks(capfd, tmp_path):
    small = ["model=vgg11_bn", *SMALL, "data=synthetic", "data.train_images=40"]
    small += ["data.val_images=20", "train.steps=2", "train.batch_size=8", "run.dir=run"]
    run = train(compose(small))
    tracked = json.loads((run / "run.json").read_text())["groups"]
    capfd.readouterr()
    of_run, of_model = found(capfd, "run"), found(capfd, "vgg11_bn", *SMALL)
    assert of_run == of_model
    keys = ("symmetry", "group", "units")
    assert [[row[key] for key in keys] for row in of_run["rows"]] == [
        [group[key] for key in keys] for group in tracked
    ]
    model = prepare(Plan.of(compose(small)), load(compose(small).data)).model
    assert of_run["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_entries_are_counted_once_and_by_hand(capfd):
    """A hidden layer of 5 units on 12 inputs, 3 classes: 65 entries in, 15 and 3 out."""
    own = found(capfd, "mlp", "model.depth=1", "model.hidden=5", "data.image_size=8",
                "data.channels=1", "data.classes=3")  # fmt: skip
    rows = {(row["symmetry"], row["group"]): row for row in own["rows"]}
    assert rows["rescale", "1 -> 3"]["parameters"] == 64 * 5 + 5 + 5 * 3
    assert rows["translation", "3"]["parameters"] == 5 * 3
    assert rows["translation", "3.bias"]["parameters"] == 3
    assert own["covered"] == own["parameters"] == 64 * 5 + 5 + 5 * 3 + 3
    assert own["units"] == 5 + 5 + 1 and own["without_group"] == {} and own["passes"] == 0
    # Around tanh nothing can be rescaled
    smooth = found(capfd, "mlp", "model.depth=1", "model.hidden=5", "model.activation=tanh",
                   "data.image_size=8", "data.channels=1", "data.classes=3")  # fmt: skip
    assert smooth["without_group"] == {"1.weight": 320, "1.bias": 5}
    assert smooth["covered"] == 15 + 3


def test_without_verify_nothing_is_proven_and_it_says_so(capfd):
    out, err = command(capfd, "vgg11", *SMALL)
    assert not err and out.splitlines()[-1] == "nothing of this is proven: --verify proves it"
    out, err = command(capfd, "vgg11", *SMALL, "model.dropout=0", "--verify")
    head, _, *rows = out.split("\n\n")[0].splitlines()
    assert not err and head.startswith("VGG11 without BN on 3×32×32, 10 classes")
    assert len(rows) == 12 and all(row.endswith("proven") for row in rows)
    assert "not" not in out.split("\n\n")[1]


@pytest.mark.parametrize(("name", "passes"), [("noisy", 8), ("counting", 8), ("trained", 1)])
def test_a_loss_that_differs_from_pass_to_pass_is_told(capfd, name, passes):
    """Scaling the outputs at random leaves rescale alone, and the shift of the logits."""
    out, _ = command(capfd, f"command_nets:{name}", "data.image_size=32", "--verify")
    told = "a pass differs from the next, at random or by counting: 8 passes"
    assert (told in out) == (passes == 8)
    assert "in training mode" in out and out.count(" proven\n") == 3


def test_what_fails_its_proof_is_told_and_counts_for_nothing(capfd):
    """A hook doubles the gradient of the first layer, which no forward pass shows."""
    arguments = ("command_nets:deceptive", "data.image_size=32", "--verify")
    out, err = command(capfd, *arguments, code=1)
    (line,) = err
    assert line.startswith("symrun: rescale of 1 -> 3 is no symmetry: the gradient breaks its")
    (row,) = (row for row in out.splitlines() if row.startswith("rescale"))
    assert "the gradient breaks its constraint" in row and "proven" not in row
    own = found(capfd, *arguments, code=1)
    assert [row["proven"] for row in own["rows"]] == [False, True, True]
    assert own["units"] == 5 + 1 and own["covered"] == 50 + 10


def test_data_suit_the_model_and_are_neither_made_nor_downloaded(capfd, monkeypatch):
    for module in ("registry", "blank"):
        monkeypatch.setattr(f"symrun.data.{module}.load", lambda config: pytest.fail("data"))
    sizes = {"torchvision/squeezenet1_1": "3×224×224", "gpt": "128 tokens", "vgg11": "3×64×64"}
    for model, shape in sizes.items():
        assert f" on {shape}, " in found(capfd, model)["network"]
    assert " on 1×28×28, 10 " in found(capfd, "mlp", "data=mnist")["network"]
    preset = found(capfd, "experiment=fig5_plain", "model.width=0.0625")["network"]
    assert preset.startswith("VGG16 without BN on 3×64×64, 200 classes")


def test_a_file_that_is_named_is_read(tmp_path):
    Path("text.txt").write_text("abc" * 400)
    settings = ["model=gpt", "data=text", "task=next_token", "data.root=text.txt"]
    text = blank_or_read(compose([*settings, "data.length=16"]).data)
    assert isinstance(text, TextDataset) and text.shape == (16,) and text.classes == 3
    images = blank((3, 8, 9), 5)
    assert (
        isinstance(images, Dataset) and images.shape == (3, 8, 9) and not len(images.train.labels)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "symrun symmetries needs MODEL: type symrun symmetries MODEL"),
        (["nowhere"], "nowhere is neither a run folder (it has no run.json) nor a model"),
        (["torchvision/resnet99"], "torchvision has no classifier resnet99; did you mean"),
        (["vgg11", "optim.lr=1"], "optim.lr has no effect on a model's symmetries; only model"),
        (["vgg11", "model.depth=3"], "model.depth"),
        (["vgg11", "data.image_size=30"], "data.image_size must be a multiple of 32"),
        (["mlp", "task=next_token"], "data must be images for model=mlp, got text"),
        (["gpt", "data=text", "task=next_token"], "data.root must be a text file"),
        (
            ["command_nets:fails", "data.image_size=32"],
            "fails on inputs of shape [4, 3, 32, 32]: not today",
        ),
        (["mlp", "track.families=[nowhere:Sums]"], "there is no module nowhere"),
        (["mlp", "--verfy"], "did you mean --verify?"),
    ],
)
def test_wrong_usage_is_one_line(capfd, arguments, message):
    out, (line,) = command(capfd, *arguments, code=2)
    assert message in line and line.startswith("symrun: ") and out == ""


def test_help_imports_no_torch():
    code = "import sys, symrun.cli\ntry: symrun.cli.main(['symmetries', '--help'])\n"
    code += "except SystemExit: print([m for m in ('torch', 'hydra') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "--verify" in shown and shown.splitlines()[-1] == "[]"


def test_matrices_are_counted_and_proven_with_or_without_verify(capfd):
    small = ["gpt", "model.layers=1", "model.width=16", "model.heads=2"]
    rows = {row["group"]: row for row in found(capfd, *small)["rows"]}
    sizes = {name: row["matrices"] for name, row in rows.items() if row["matrices"]}
    assert sizes == {
        "blocks.0.attention.query -> blocks.0.attention.key": [8, 8],
        "blocks.0.attention.value -> blocks.0.attention.project": [8, 8],
    }
    out, _ = command(capfd, *small)
    assert out.count("2 of 8×8") == 2
    assert "4 conserved matrices, found and proven" in out and "their 112 entries" in out
    assert out.splitlines()[-1] == "the groups themselves are not proven: --verify proves them"
    out, err = command(capfd, *small, "--verify")
    assert not err and out.count("2 of 8×8") == 2 and "nothing" not in out

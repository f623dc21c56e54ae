"""The command line as a person uses it: a mistake is one line and an exit code, no traceback."""

import json
import re
import signal
import sys

import pandas as pd
import pytest
from stopping import training

from symrun.cli import main

TINY = [
    "data=synthetic",
    "data.train_images=40",
    "data.val_images=20",
    "model.width=0.0625",
    "train.batch_size=16",
    "track.every=2",
    "device=cpu",
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Runs land in tmp_path/outputs; what launching sets for the process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


def train(capfd, *overrides):
    assert main(["train", *TINY, "train.steps=5", *overrides]) == 0
    captured = capfd.readouterr()
    return captured.out.splitlines()[-1], captured.err


def refused(capfd, arguments, code=2):
    """The one line that such a command prints."""
    assert main(arguments) == code
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("symrun: ") and "Traceback" not in line
    return line


def test_train_check_and_plot_from_any_folder(capfd, tmp_path):
    bn, err = train(capfd, "model=vgg11_bn")
    assert bn.startswith("outputs/vgg11_bn/") and "symrun check" in err
    plain, err = train(capfd, "model=vgg11", "run.dir=plain")
    assert plain == "plain" and "symrun plot symmetries plain" in err
    assert not [path for path in tmp_path.iterdir() if path.name not in ("outputs", "plain")]

    assert main(["check", bn, "--json", "--max-residual", "1e-4"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    info = json.loads((tmp_path / bn / "run.json").read_text())
    assert len(rows) == 3 * len(info["groups"])
    assert {row["law"] for row in rows} == {"flow", "discrete", "exact"}

    assert main(["check", plain]) == 0
    groups, symmetries, _ = capfd.readouterr().out.split("\n\n")
    assert len(groups.splitlines()) == 2 + 10 + 2  # ten of rescale, two of translation
    assert len(symmetries.splitlines()) >= 1 + 2 * 3
    assert main(["check", plain, "--min-explained=-9", "--min-moved", "0"]) == 0
    assert "excluded: " in capfd.readouterr().err

    assert main(["check", plain, "--max-residual", "1e-12"]) == 1
    assert "the bar is 1e-12" in capfd.readouterr().err

    for bar in (["--min-explained", "2"], ["--min-explained", "nan"], ["--max-residual", "-1"]):
        assert f"{bar[0]} must be a number" in refused(capfd, ["check", plain, *bar])

    assert main(["plot", "fig1", "--out", "figures", "--format", "png"]) == 0
    assert main(["plot", "fig5", plain, bn, "--out", "figures", "--format", "png,svg"]) == 0
    drawn = capfd.readouterr().out.split()
    assert drawn == ["figures/fig1.png", "figures/fig5.png", "figures/fig5.svg"]
    assert all((tmp_path / path).stat().st_size > 0 for path in drawn)


def test_a_sweep_trains_every_member(capfd):
    code = main(["train", "-m", *TINY, "model=vgg11", "train.steps=2", "optim.lr=0.1,0.01"])
    folders = [line for line in capfd.readouterr().out.splitlines() if line.startswith("outputs/")]
    assert code == 0 and len(set(folders)) == 2


def test_a_broken_member_does_not_stop_a_sweep_and_is_told_once(capfd):
    lr = "optim.lr=0.01,1e20,0.02,1e25"
    code = main(["train", "-m", *TINY, "model=vgg11", "train.steps=9", lr])
    captured = capfd.readouterr()
    told = [line for line in captured.err.splitlines() if line.startswith("symrun: ")]
    assert code == 1 and len(captured.out.splitlines()) == 2
    assert told[0].startswith("symrun: member 2 of 4 (optim.lr=1e+20): ")
    assert told[1].startswith("symrun: member 4 of 4 (optim.lr=1e+25): ")
    failed = "2 of 4 (optim.lr=1e+20), 4 of 4 (optim.lr=1e+25)"
    assert told[2:] == [f"symrun: 2 of 4 members failed: {failed}"]


def test_a_sweep_of_one_may_have_a_folder_of_its_own(capfd):
    assert main(["train", "-m", *TINY, "model=vgg11", "train.steps=2", "run.dir=one"]) == 0
    assert capfd.readouterr().out == "one\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=tiny_imagenet", "data.root=nowhere"], "nowhere"),
        (["device=cuda"], "device=cuda needs a CUDA GPU"),
        (["precision=tf32"], "precision=tf32 needs a CUDA GPU"),
        (["run.dir=."], "exists already"),
        (["run.dir=/proc/run"], "cannot be made"),
    ],
)
def test_wrong_settings(capfd, tmp_path, monkeypatch, overrides, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tiny = [
        setting for setting in TINY if not overrides[0].startswith("data=") or "data" not in setting
    ]
    assert message in refused(capfd, ["train", *tiny, *overrides])
    assert not list(tmp_path.rglob("run.json")) and not list(tmp_path.rglob("tables"))


def test_a_full_memory_is_one_line(capfd, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("symrun.runs.directory.RunDirectory.open", full)
    assert refused(capfd, ["check", "."], code=1) == "symrun: out of memory"


def test_help_and_version(capfd):
    for arguments in (["--help"], ["--version"], ["plot", "--help"], ["check", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    assert "symrun 0." in capfd.readouterr().out
    assert main(["train", "--help", "optim.lr=0.01"]) == 0
    assert "optim.lr=0.01" in capfd.readouterr().out


def test_cfg_prints_and_does_not_train(capfd, tmp_path):
    assert main(["train", "--cfg", "job", "experiment=fig1"]) == 0
    assert "weight_decay: 0.0001" in capfd.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle(tmp_path, kind):
    units = tmp_path / "run" / "tables" / "units"
    with training(tmp_path / "run", *TINY, "model=vgg11") as process:
        during = pd.read_parquet(units)  # readable while the run is going on
        process.send_signal(kind)
        out, err = process.communicate(timeout=60)
    assert out == "" and "Traceback" not in err
    after = pd.read_parquet(units)
    assert len(after) >= len(during) > 0
    if kind is signal.SIGINT:
        assert process.returncode == 75
        assert re.search(r"^symrun: stopped by SIGINT .* symrun resume \S+run$", err, re.MULTILINE)
        assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"

"""Whatever is wrong on the command line is one line that names it and says what to type."""

import os
import subprocess
import sys

import pytest
from made_small import MADE_SMALL

from symrun.bench.tables import make_run
from symrun.cli import main
from symrun.launch import compose

SETTINGS = {  # after `symrun train`: what the line must contain
    "train train": "train is not a setting: a setting is NAME=VALUE",
    "fig1": "fig1 is not a setting: type experiment=fig1",
    "[fig1": "type experiment=fig1",
    "--experiment fig1": "--experiment: a setting has no dashes: type experiment=fig1",
    "--experiment=fig1": "type experiment=fig1",
    "seed=1 --lr 0.1": "--lr: a setting has no dashes: type optim.lr=0.1",
    "experiment=fig1 experiment=fig5_bn": "experiment is chosen twice",
    "optim.lr:0.1": "optim.lr:0.1 is not a setting: type optim.lr=0.1",
    "optim.lr 0.1": "optim.lr is not a setting: type optim.lr=0.1",
    "optim.lr = 0.1": "type optim.lr=0.1",
    "=1": "=1 is not a setting: a setting is NAME=VALUE",
    "optim.lr=": "optim.lr= has no value: type optim.lr=VALUE, such as optim.lr=0.1",
    "lr=0.1": "there is no setting lr; there are model, data, task, optim,",
    "lr": "lr is not a setting: type optim.lr=VALUE",
    "+x=1": "leave the + out: type x=1",
    "++x=1": "there is no setting x",
    "~optim.lr": "a setting cannot be removed: type optim.lr=VALUE",
    "-x": "symrun train has no option -x: symrun train --help lists them",
    "--config-dir": "--config-dir/-cd needs a value: type --config-dir DIR",
    "--config-dir nowhere": "--config-dir must be a folder of presets, got nowhere",
    "--config-name x": "no option --config-name: type experiment=NAME",
    "--mulitrun": "did you mean --multirun?",
    "--multirun=x": "takes no value, got x",
    "--cfg": "--cfg/-c needs a value",
    "--cfg jbo": "--cfg/-c must be one of job, hydra, all, got jbo; did you mean job?",
    "--resolve": "--resolve needs --cfg: type --cfg job --resolve",
    "-p optim": "--package needs --cfg",
    "--cfg job -p foo": "--package/-p must be one of _global_, model",
    "-m --cfg job seed=0,1": "-m and --cfg do not go together: leave one out",
    "--cfg job --info": "--cfg and --info do not go together",
    "--info wrong": "must be one of all, config",
    "-sc install=bash": "no option -sc: type symrun completion bash",
    "run.name='abc": "the quotes do not close: type run.name=VALUE",
    "optim.lr=0.1(": "optim.lr=0.1( cannot be read: type optim.lr=0.1",
    "run.name=${foo}": "run.name=${foo}: no setting has the name in braces",
    "optim.lr=0,1": "lists several values, and only `symrun train -m`",
    "-m optim.lr=interval(0,1)": "type optim.lr=A,B,C or range(A,B)",
    "-m model=glob(alex*)": "model=glob(alex*) fits none of model's choices",
    "optim.learning_rate=0.1": "did you mean optim.lr?",
    "train.step=3": "did you mean train.steps?",
    "train.bs=3": "did you mean train.batch_size?",
    "wd=1": "did you mean optim.weight_decay?",
    "track.evry=3": "families, dynamics, matrices, homogeneity; did you mean track.every?",
    "modle.width=1": "did you mean model.width?",
    "model.widht=1": "model has width, dropout, eps; did you mean model.width?",
    "optim=adam optim.momentum=0.9": "with optim=adam; optim has lr, weight_decay, schedule,",
    "optimizer=adam": "did you mean optim?",
    "optim.name=adam": "optim.name=adam brings no settings: type optim=adam",
    "model=vgg61": "model must be one of gpt, mlp,",
    "model=null": "model must be one of gpt, mlp,",
    "model=[vgg11,vgg13]": "model must be one of gpt, mlp,",
    "task=null": "task must be one of bce, cross_entropy, mse, next_token, got null",
    "task=crossentropy": "did you mean task=cross_entropy?",
    "task=mse task.label_smoothing=0.1": "no setting task.label_smoothing with task=mse",
    "loss=mse": "did you mean task?",
    "model=torchvision": "lacks the network's name: type model=torchvision/NAME",
    "model=torchvison/resnet18": "did you mean model=torchvision/NAME?",
    "model=own": "lacks the network's name: type model=package.module:function",
    "model=nets:make model.args=3": "model.args must be an object with names, got 3",
    "experiment=fgi1": "did you mean experiment=fig1?",
    "experiment=[fig1,fgi5_bn]": "did you mean experiment=fig5_bn?",
    "data=imagnet": "got imagnet; did you mean data=tiny_imagenet?",
    "optim=sdg": "did you mean optim=sgd?",
    "optim={a": "optim must be one of adam,",
    "seed=abc": "seed must be an integer, got 'abc'",
    "precision=fp16": "precision must be one of auto, float64, float32, tf32, bf16, got fp16",
    "device=gpu": "device must be one of auto, cpu, cuda, got gpu",
    "hydra.run.dir=x": "has no effect on symrun: type run.dir=DIR",
    "-m hydra.sweep.dir=x": "type run.dir=DIR",
    "hydra.job.chdir=true": "type run.dir=DIR",
    "-m hydra/launcher=joblib": "type sweep=processes; sweep is one of one_by_one, processes,",
    "-m hydra/launcher=submitit_local": "type sweep=slurm sweep.cluster=local;",
    "-m hydra/sweeper=optuna": "every combination of the values is trained: leave it out",
    "sweep=processes": "sweep=processes has no effect on one run: type symrun train -m",
    "-m sweep=proceses": "got proceses; did you mean sweep=processes?",
    "-m sweep=processes sweep.job=2": "sweep has jobs; did you mean sweep.jobs?",
    "-m sweep=processes sweep.jobs=0": "sweep.jobs must be >= 1, got 0",
    "-m sweep=processes sweep.jobs=1,2": "a sweep is run in one way: type sweep.jobs=VALUE",
    "-m sweep.jobs=2": "there is no setting sweep.jobs",
    "-m sweep=slurm sweep.minutes=1": "sweep.notice must be < 60 seconds",
    "-m sweep=slurm sweep.gpus=1 device=cpu": "type sweep.gpus=0",
    "-m sweep=slurm sweep.cluster=local sweep.gpus=1": "needs a CUDA GPU",
    "-m sweep=slurm sweep.cluster=local sweep.gpus=2": "sweep.gpus must be <= 1 with",
    "-m sweep=ray sweep.gpus=0 device=cuda": "type sweep.gpus=1",
    "-m run.dir=x optim.lr=0.1,0.2": "run.dir=x is one folder for 2 runs: leave it out",
    "-m optim.lr=0.1,-1": "member 2 of 2 (optim.lr=-1): optim.lr must be > 0, got -1",
    "experiment=quickstart_bn model=m:net": "sets model.width, which model=m:net does not have",
    "experiment=quickstart_bn model=gpt": "=gpt cannot take: type model.width=VALUE; model",
    "experiment=momentum optim.lr=-1": "member 1 of 2 (optim.momentum=0.9): optim.lr must be > 0",
    "-m model=vgg11,vgg61": "member 2 of 2 (model=vgg61): model must be one of",
}
COMMANDS = {  # after `symrun`, in a folder with the runs RUN and outputs/other
    "": "symrun needs COMMAND: type symrun --help",
    "--verison": "symrun has no option --verison; did you mean --version?",
    "plot --form png": "symrun plot needs FIGURE",
    "plot --formt png": "symrun plot has no option --formt; did you mean --format?",
    "trian": "got trian; did you mean train?",
    "plot": "symrun plot needs FIGURE: type symrun plot fig1 RUN",
    "plot fig6": "there is no figure fig6; there are fig1, fig2",
    "plot residuals RUN": "did you mean residual?",
    "plot RUN fig1": "the figure comes first: type symrun plot fig1 RUN",
    "plot fig1 RUN/run.json": "RUN/run.json is not a run folder but lies in one: type RUN",
    "plot fig1 RUN --format tiff": "--format must be some of png",
    "symmetries": "symrun symmetries needs MODEL: type symrun symmetries MODEL",
    "check": "symrun check needs RUN: type symrun check RUN",
    "check RUN outputs/other": "check takes one run, got outputs/other too",
    "check RUN optim.lr=1": "leave optim.lr=1 out",
    "check vgg16": "not a run folder but a model: type symrun check vgg16 --constraints",
    "check outputs": "outputs is not a run folder: it has no run.json; it holds the runs outputs/",
    "check nowhere": "there is nothing of that name; the newest runs are outputs/",
    "check RUN --max-residual": "--max-residual needs a value: type --max-residual Y",
    "check RUN --max-residual low": "--max-residual must be a number, got low",
    "check RUN --m 1": "--m may be --min-explained, --min-moved, --max-residual",
    "check RUN --batch 2.5": "--batch must be a whole number, got 2.5",
    "check RUN --jsn": "symrun check has no option --jsn; did you mean --json?",
    "check --constraints vgg61": "nor a model: one of vgg11,",
    "check --constraints vgg16 modl.width=1": "did you mean model.width?",
    "check --constraints vgg16 model.width": "type model.width=VALUE",
    "check --constraints RUN seed=1": "leave seed=1 out",
    "resume": "symrun resume needs RUN: type symrun resume RUN",
    "resume RUN/run.json": "type RUN",
    "resume RUN model=vgg11": "a run keeps its model, data, task, optim and experiment",
    "resume RUN train.step=9": "did you mean train.steps?",
    "resume RUN outputs/other": "outputs/other is not a setting",
    "resume RUN +seed=1": "leave the + out: type seed=1",
    "resume RUN seed=1,2": "lists several values",
    "report": "symrun report needs RUN: type symrun report RUN",
    "report RUN/tables": "RUN/tables is not a run folder but lies in one: type RUN",
    "thin": "symrun thin needs RUN and NEW: type symrun thin RUN NEW",
    "thin RUN": "symrun thin needs NEW",
    "thin RUN new other": "symrun thin takes no other here",
    "thin nowhere new --every 10": "nowhere is not a run folder",
    "data": "symrun data needs ACTION: type symrun data prepare",
    "data prepar": "ACTION must be one of prepare, got prepar; did you mean prepare?",
    "data prepare data=synthtic": "did you mean data=synthetic?",
    "data prepare data.rot=x": "did you mean data.root?",
    "bench --pair": "needs a value",
    "bench track.evry=1,2": "did you mean track.every?",
    "bench seed": "seed is not a setting: type seed=VALUE",
    "completion": "symrun completion needs SHELL: type symrun completion bash",
    "completion fish": "SHELL must be one of bash, zsh, got fish",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("RUN", "outputs/other"):
        (folder / name).parent.mkdir(exist_ok=True)
        make_run(folder / name, compose(MADE_SMALL), records_per_part=4)
    return folder


def is_one_line(code, out, err, message):
    (line,) = err.splitlines()
    assert code == 2 and out == "" and line.startswith("symrun: ") and message in line
    assert not any(word in line.lower() for word in ("hydra.cc", "traceback", "omegaconf"))
    return line


@pytest.mark.parametrize("words", SETTINGS)
def test_settings(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code = main(["train", *words.split(" ")])
    line = is_one_line(code, *capsys.readouterr(), SETTINGS[words])
    assert "hydra" in words or "Hydra" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", COMMANDS)
def test_commands(capsys, monkeypatch, folder, words):
    monkeypatch.chdir(folder)
    code = main(words.split())
    assert "Hydra" not in is_one_line(code, *capsys.readouterr(), COMMANDS[words])


@pytest.mark.parametrize("words", ["train -m optim.lr=1,-1", "trian"])
def test_in_a_process_of_its_own(tmp_path, words):
    command = [sys.executable, "-m", "symrun", *words.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    is_one_line(done.returncode, done.stdout, done.stderr, "")


@pytest.mark.parametrize(
    "value",
    ["/data/a=b#c", "/a b", "/a$b", "/a,b", "/a(b", "/é", "a'b", "[x", "a{b", "2026", "~x"],
)
@pytest.mark.parametrize("name", ["run.name", "data.root"])
def test_any_character_may_stand_in_a_path(name, value):
    group, key = name.split(".")
    if "/" in value and name == "run.name":
        value = value.removeprefix("/").replace("/", "-")
    if value == "~x" and name == "data.root":
        value = "x~"
    config = compose(["data=tiny_imagenet", f"{name}={value}"])
    assert str(getattr(getattr(config, group), key)) == value


def test_what_hydra_reads_stays_as_it_was():
    config = compose(
        ["++optim.lr=0.2", "run.name=${model.name}_x", "run.dir=null", "data.root=null"]
    )
    assert (config.optim.lr, config.run.name, config.run.dir) == (0.2, "vgg16_bn_x", None)
    assert compose(["experiment=[fig1,reproduce_cpu]"]).model.width == 0.125


def test_completion_in_bash(tmp_path):
    """What bash offers for the words of a line, with its own splitting at = ."""
    program = tmp_path / "symrun"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m symrun "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    offered = """
        source <(symrun completion bash)
        offer() {
            COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMPREPLY=()
            _python_argcomplete symrun
            echo "${COMPREPLY[@]}"
        }
        offer symrun tr
        offer symrun check RUN --max
        offer symrun plot fig5
        offer symrun train -m optim.l
        offer symrun train experiment=fig
        offer symrun resume RUN device=c
    """
    done = subprocess.run(
        ["bash", "-c", offered], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [
        ["train"],
        ["--max-residual"],
        ["fig5"],
        ["optim.lr="],
        ["fig1", "fig5_bn", "fig5_plain"],
        ["cpu", "cuda"],
    ], done.stderr

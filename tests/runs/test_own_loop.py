"""Runs made in a loop of the user's own: each reader takes them, or says in one line why not."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from made_small import MADE_SMALL
from own_loop import ADAMW, EVERY, RATES, STEPS
from run_json import changed, recorded, rewrite

import symrun
from symrun.analysis import comparisons, judge, silences
from symrun.bench.tables import make_run
from symrun.cli import main
from symrun.errors import UsageError
from symrun.figures.captions import captions, labels
from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.runs.reading import read_whole_part
from symrun.runs.run_json import info_from
from symrun.runs.tables import BASELINE, OPTIONAL, unit_curves
from symrun.runs.writer import write_part

OWN = {"name": "own", "title": "SGD", "lr": 0.1, "weight_decay": 0.01, "momentum": 0.0}


def test_what_is_written_is_read_back(own_loops):
    for run in own_loops.values():
        info = run.info()
        assert info_from(info.to_json()) == info
        assert info_from(info.published().to_json()).config.optim == info.config.optim
        nothing = (info.dataset, info.loss, info.steps_per_epoch, info.epochs(7))
        assert {*nothing, info.config.train, info.config.seed, info.planned_optim} == {None}
        assert (info.planned_steps, info.of_planned_steps) == (STEPS, "")


@pytest.mark.parametrize("absent", ["dataset", "loss", "steps_per_epoch"])
def test_what_nobody_knows_may_be_null(own_loops, absent):
    content = recorded(own_loops["sgd"])
    assert info_from(content | {absent: None}) == info_from(content)
    config = content["config"] | dict.fromkeys(("train", "seed", "data", "model"))
    assert info_from(content | {"config": config}).config.model.eps == 1e-5


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("loop", None, "steps_per_epoch is missing"),
        ("loop", 7, "loop must be text, got 7"),
        ("loop", "$", "loop must be one printable line without $"),
        ("columns", "baseline", "columns must be a list, got 'baseline'"),
        ("columns", [7], "columns[0] must be text, got 7"),
        ("columns", ["steady"], "a list with baseline and steady where flow or discrete predicts"),
        ("groups 0 unpredicted", 7, "groups[0].unpredicted must be text, got 7"),
        ("groups 0 unpredicted", "$", "groups[0].unpredicted must be one printable line"),
        ("config optim lr", -1.0, "optim.lr must be a finite number >= 0, got -1.0"),
        ("config optim lr", None, "optim.lr must be a number, got None"),
        ("config optim momentum", float("inf"), "optim.momentum must be a finite number >= 0"),
        ("config optim title", "two\nlines", "optim.title must be one printable line"),
        ("config optim", {"name": "own"}, "optim.title is missing"),
        ("config seed", -1, "seed must be in [0, 2^63), got -1"),
        ("config train", {"epochs": 1}, "train.steps is missing"),
        ("config track", None, "track is missing"),
        ("last_step", 10**8, "last_step must be an integer in [0, 10000000], got 100000000"),
    ],
)
def test_what_is_not_as_it_must_be_is_one_line(own_loops, place, value, reason):
    with pytest.raises(UsageError, match=r"^does not describe a run: [^\n]*$") as caught:
        info_from(changed(recorded(own_loops["sgd"]), place, value))
    assert reason in str(caught.value)


def test_an_optimiser_that_symrun_did_not_make_needs_a_loop_that_it_did_not_write(own_loops):
    content = recorded(own_loops["sgd"]) | {"loop": None, "steps_per_epoch": 8}
    content["dataset"] = {"title": "t", "synthetic": True, "classes": 10, "image_size": 32}
    content["config"] |= {"train": {"epochs": 1, "steps": None, "batch_size": 2}, "seed": 0}
    with pytest.raises(UsageError, match="config.optim.name must be an optimiser of symrun's"):
        info_from(content)


def test_a_law_is_judged_from_the_recorded_baseline_as_from_the_settings(tmp_path):
    """One run twice: once with its schedule, once with the columns that stand in for it."""
    settings = ["model=vgg11_bn", *MADE_SMALL, "train.steps=40", "track.every=4"]
    settings += ["optim.weight_decay=0.01", "optim.schedule=cosine", "precision=float64"]
    run = make_run(tmp_path / "planned", compose(settings), records_per_part=100)
    own = RunDirectory(shutil.copytree(run.path, tmp_path / "own"))
    groups = {(group.symmetry, group.group): group for group in comparisons(run)}
    for part in own.table("units").glob("part-*"):
        table = read_whole_part(part)
        rows = list(zip(*(table[key].to_pylist() for key in KEYS), strict=True))
        for name in BASELINE:
            table = table.append_column(name, [[_at(groups, name, *row) for row in rows]])
        write_part(part, table)
    config = {"optim": OWN | {"lr": 7.0}, "track": recorded(run)["config"]["track"]}
    rewrite(own, loop="a loop", columns=list(BASELINE), config=config, dataset=None, loss=None)

    judged = judge(run)
    assert any(row.explained for row in judged[0]) and any("null" in row.law for row in judged[1])
    assert judge(own) == judged


KEYS = ("symmetry", "group", "step", "unit")


def _at(groups, name, symmetry, group, step, unit):
    one = groups[symmetry, group]
    values = np.broadcast_to(getattr(one, name), one.measured.shape)
    return values[np.searchsorted(one.steps, step), unit]


def test_groups_that_no_law_predicts_are_rows_without_a_number(own_loops):
    rows, symmetries = judge(own_loops["mixed"])
    for row in rows:
        silent = row.group in ("conv2", "conv3 -> fc") and row.law != "exact"
        assert (row.residual is None) == silent
        assert (row.explained is None) == (silent or not row.moved)
    units = {(row.symmetry, row.law): row.units for row in symmetries}
    assert units["scale", "flow"] == units["scale", "null: 1 % too large"] == 8
    assert units["scale", "exact"] == 14 and ("rescale", "null: 1 % too large") not in units
    exact = {row.residual for row in judge(own_loops["adamw"])[0] if row.law == "exact"}
    assert max(exact) < 2 * 2.0**-24


def test_the_baseline_of_what_nothing_predicts_is_its_start(own_loops):
    for group in comparisons(own_loops["adamw"]):
        assert (group.baseline == group.measured[0]).all() and set(group.predicted) == {"exact"}
        assert list(group.null_laws()) == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mixed", f"no law but an identity predicts conv2, conv3 -> fc: {RATES}"),
        ("adamw", f"flow, discrete predict nothing here: {ADAMW}"),
    ],
)
def test_check_gives_each_reason_once(own_loops, capsys, kind, reason):
    run = own_loops[kind]
    assert silences(run.info()) == [reason]
    groups = [dataclasses.replace(group, unpredicted=RATES) for group in run.info().groups]
    alike = dataclasses.replace(run.info(), groups=tuple(groups))
    assert silences(alike) == [
        reason
        if kind == "adamw"
        else f"no law but an identity predicts conv1, conv2, conv3 -> fc and 1 more: {RATES}"
    ]
    assert main(["check", str(run.path)]) == 0
    assert capsys.readouterr().out.count(reason) == 1
    assert main(["check", str(run.path), "--json", "--max-residual", "1"]) == (kind == "adamw")
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["rows"]) == 12
    assert ("no law has a number for residual" in captured.err) == (kind == "adamw")
    main(["check", str(run.path), "--json", "--min-explained", "0.9"])
    assert f"symrun: {reason}\n" in capsys.readouterr().err


def test_the_constraints_are_those_of_the_gradient(own_loops, capsys):
    folder = str(own_loops["sgd"].path)
    assert main(["check", "--constraints", folder, "--json"]) == 0
    captured = capsys.readouterr()
    assert {row["constraint"] for row in json.loads(captured.out)["rows"]} == {"gradient"}
    assert "without the Hessian" in captured.err
    assert main(["check", "--constraints", folder, "--batch", "4"]) == 2
    assert "--batch must be left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "remedy"), [("resume", "resume it there"), ("symmetries", "call symrun.find_struc")]
)
def test_what_needs_the_network_says_where_it_is(own_loops, capsys, command, remedy):
    assert main([command, str(own_loops["sgd"].path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"was made in a loop of one's own: {remedy}" in line


def test_a_run_that_broke_off_was_not_planned_to_go_on(own_loops, tmp_path, caplog):
    run = RunDirectory(shutil.copytree(own_loops["sgd"].path, tmp_path / "run"))
    rewrite(run, status="interrupted", last_step=STEPS)
    run.warn_unless_finished()
    assert caplog.messages == [f"{run.path} is interrupted at step {STEPS}"]
    rewrite(run, status="running", last_step=0)
    assert judge(run) == judge(own_loops["sgd"])
    (caption,) = captions([(run.info(), STEPS)])
    assert f"{STEPS} steps, float32" in caption.replace("\N{NO-BREAK SPACE}", " ")


def test_a_thinned_copy_has_the_same_values(own_loops, tmp_path):
    run, every = own_loops["mixed"], 5 * EVERY
    assert main(["thin", str(run.path), str(tmp_path / "thin"), "--every", str(every)]) == 0
    thinned = RunDirectory.open(tmp_path / "thin")
    names = ["measured", *BASELINE]
    whole, few = (unit_curves(one, "scale", "conv1", names) for one in (run, thinned))
    assert few.steps.tolist() == list(range(0, STEPS + 1, every))
    for name in names:
        assert np.array_equal(whole.values[name][::5], few.values[name])
    assert "predicts conv2, conv3 -> fc" in silences(thinned.info())[0]
    judge(thinned)


def test_tables_open_with_the_columns_that_the_run_names(own_loops):
    for run in own_loops.values():
        opened = symrun.open_run(run.path)
        units = opened.units(group="conv1")
        assert {*OPTIONAL} & {*units.columns} == {*opened.info.columns}
        last = units[units.step == STEPS]
        assert last.filter(["projection", "angle"]).isna().all(axis=None)
        assert units[list(opened.info.columns)].notna().any().all()


def test_a_report_of_such_runs_leaves_out_what_nobody_knows(
    own_loops, tmp_path, blank_pictures, capsys
):
    folders = [str(run.path) for run in own_loops.values()]
    assert main(["report", *folders, "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "tracked in a loop of one&#x27;s own; float32 on CPU" in page
    optimiser = "AdamW, η = 0.001 at the start, λ = 0.01, own loop</td>"
    assert re.search(optimiser + r"\s*<td class=\"number\">-</td>", page)
    assert ADAMW in page and RATES in page and page.count("There is none: this run was") == 3
    assert "None" not in page and 'alt="Loss and accuracy' in page
    printed = capsys.readouterr().err.splitlines()
    warnings = [line for line in printed if not line.startswith("drawing: ")]
    assert len(warnings) == 1 and "without units_adamw" in warnings[0]


def test_captions_and_labels_say_whose_loop_it_was(own_loops):
    info = own_loops["mixed"].info()
    (caption,) = captions([(info, STEPS)])
    assert caption.replace("\N{NO-BREAK SPACE}", " ") == (
        "MyNetwork, SGD, η = 0.1 at the start, λ = 0.01, momentum 0.9, own loop, 400 steps, float32"
    )
    runs = [(one.info(), one.path) for one in own_loops.values()]
    alike = "MyNetwork, λ = 0.01"
    assert labels(runs) == [f"{alike}, SGD", f"{alike}, AdamW", f"{alike}, SGD, momentum 0.9"]

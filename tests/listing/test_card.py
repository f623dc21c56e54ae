"""One run at a glance, and several beside each other."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from run_json import recorded, rewrite

from symrun.analysis import judge
from symrun.listing import side_by_side
from symrun.listing.cached import Listed
from symrun.listing.card import as_json, as_text, card
from symrun.listing.live_state import LiveState
from symrun.listing.live_view import outcome
from symrun.listing.summary import last_scores
from symrun.listing.words import typed
from symrun.runs.differences import changed_settings
from symrun.runs.directory import RunDirectory
from symrun.runs.reading import read_table
from symrun.runs.writer import write_records


def told(run):
    return card(run, Listed(run).summary)


@pytest.fixture(scope="module")
def mlp(any_network):
    return any_network("mlp")


def test_only_settings_that_are_not_the_defaults_are_told(mlp):
    changed = changed_settings(mlp.info())
    assert changed["optim.weight_decay"] == (1e-3, 0.0)
    assert changed["train.steps"] == (50, None) and changed["precision"] == ("float64", "auto")
    assert told(mlp).changed == {name: changed[name] for name in changed if name != "precision"}
    assert "device" not in changed and "run.dir" not in changed and "optim.lr" not in changed
    text = as_text(told(mlp))
    assert re.search(r"optim.weight_decay +0.001 +0.0\n", text) and "data.root" not in text


def test_the_card_of_a_trained_run(mlp):
    one = told(mlp)
    info = mlp.info()
    for symmetry, counts in one.symmetries.items():
        groups = info.groups_of(symmetry)
        assert counts["units"] == sum(group.units for group in groups)
        assert counts["parameters"] == sum(group.units * group.entries for group in groups)
    parts = list(mlp.table("units").glob("part-*"))
    assert one.files["units"] == (len(parts), sum(part.stat().st_size for part in parts))
    assert one.checkpoints == [50]
    text = as_text(one)
    for words in (
        "optimiser  SGD, lr 0.1, weight",
        "exact, an identity",
        "finished, 50 steps",
        "a record every 5 updates",
        "of step 50",
        "symrun report",
    ):
        assert words in text
    assert "symrun resume" not in text and "null" not in text
    assert max(map(len, text.splitlines()[1:])) <= 100


def test_a_run_of_ones_own_loop_has_no_defaults(own_loops):
    one = told(own_loops["mixed"])
    assert one.changed is None
    text = as_text(one)
    assert "tracked in a loop of one's own" in text and "optim.title" in text
    assert "no law but an identity predicts conv2, conv3 -> fc" in text


def test_the_json_has_every_number_and_setting(mlp):
    values = json.loads(json.dumps(as_json(told(mlp)), allow_nan=False))
    assert values["settings"] == mlp.info().config.by_name
    assert len(values["laws"]) == len(judge(mlp)[1])
    assert values["versions"] == recorded(mlp)["versions"] and values["step"] == 50
    assert values["files"]["checkpoints"]["bytes"] == mlp.checkpoint(50).stat().st_size


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": "running"}, "killed, 400 steps: nobody writes it any more"),
        ({"status": "diverged", "diverged": {"step": 3, "loss": True, "layers": ["fc"]}},
         "the loss and the weights of fc not finite (nan or inf) at step 3"),
        ({"resumed": [{"step": 20, "at": "2026-02-01T10:11:12"}]},
         "2026-02-01 10:11 XYZ at step 20"),
    ],
)  # fmt: skip
def test_what_befell_a_run(copied, fields, words, two_hours_east):
    assert words in as_text(told(copied("one", **fields)))


def test_a_run_without_records(copied):
    run = copied("one")
    for table in ("units", "parameters", "progress"):
        for part in run.table(table).iterdir():
            part.unlink()
    text = as_text(told(run))
    assert "no law was judged" in text and "has no records yet" in text
    assert "on disk" not in text and "symrun check" not in text


@pytest.mark.parametrize("checkpoints", [(20, 40), ()])
def test_what_resume_would_do(mlp, tmp_path, checkpoints):
    run = RunDirectory(tmp_path / "it's\x1b")
    shutil.copytree(mlp.path, run.path)
    run.checkpoint(50).unlink()
    for step in checkpoints:
        run.checkpoint(step).touch()
    rewrite(run, status="interrupted", last_step=50)
    state = LiveState(run)
    state.look()
    text = as_text(told(run))
    commands = text.partition("\nnext\n")[2].splitlines()
    (place,) = [place for place, line in enumerate(commands) if "symrun resume" in line]
    does = "goes on from step 40" if checkpoints else "starts again at step 0"
    assert commands[place].endswith(does) and outcome(state).endswith(does)
    assert place == (0 if checkpoints else len(commands) - 1)
    assert ("symrun check" in outcome(state)) == (not checkpoints)
    for shown in (text, outcome(state)):
        assert "/it\\x27s\\x1b' " in shown and "\x1b" not in shown


def test_a_path_is_typed_as_a_shell_reads_it(tmp_path):
    path = Path("it's\x1b \\ \n\udcff1")
    for one in (path, Path("it's a")):
        command = ["bash", "-c", f"printf %s {typed(one)}"]
        assert subprocess.check_output(command) == os.fsencode(one)


def test_files_that_are_removed_meanwhile_are_none(copied, monkeypatch):
    run = copied("one")
    before = card(run, Listed(run).summary).files
    gone = run.table("units") / "part-000009.parquet"
    whole = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, what: [*whole(self, what), gone])
    assert card(run, Listed(run).summary).files == before


def test_the_speed_is_the_median_over_the_run(copied):
    run = copied("one", "mixed")
    rows = read_table(run, "progress")
    rows = rows.set_column(
        rows.schema.get_field_index("images_per_second"),
        "images_per_second",
        pa.array([100.0 + (place == rows.num_rows - 1) for place in range(rows.num_rows)]),
    )
    assert rows.num_rows > 2
    run.part("progress", 0).unlink()
    write_records(run, "progress", 0, [rows])
    assert last_scores(run, "train")["images_per_second"] == 100.0


def test_runs_beside_each_other(copied):
    runs = [copied("one"), copied("other", "mixed")]
    rewrite(runs[1], last_step=380)
    summaries = [Listed(run).summary for run in runs]
    rows = {row.pop("name"): list(row.values()) for row in side_by_side.as_rows(summaries)}
    assert rows["optim.momentum"] == [0.0, 0.9] and "optim.lr" not in rows
    assert rows["step"] == [400, 380] and rows["train top1"][0] is None
    flow = [next(row for row in judge(run)[1] if row.law == "flow") for run in runs]
    expected = [row.unexplained for row in flow]
    assert rows[f"{flow[0].symmetry} flow 1 - R^2"] == expected
    table = side_by_side.as_table(summaries)
    lines = table.splitlines()
    assert lines[0] == f"A  {runs[0].path}" and lines[1] == f"B  {runs[1].path}"
    (momentum,) = [line.split() for line in lines if line.startswith("optim.momentum")]
    assert momentum[1:] == ["0.0", "0.9"] and "null" not in table

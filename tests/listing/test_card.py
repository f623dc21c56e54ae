"""One run at a glance, and several beside each other."""

import json
import re

import pytest
from run_json import recorded, rewrite

from symrun.analysis import judge
from symrun.listing import side_by_side
from symrun.listing.cached import Listed
from symrun.listing.card import as_json, as_text, card
from symrun.runs.differences import changed_settings


def told(run):
    return card(run, Listed(run).summary)


@pytest.fixture(scope="module")
def mlp(any_network):
    return any_network("mlp")


def test_only_settings_that_are_not_the_defaults_are_told(mlp):
    changed = changed_settings(mlp.info())
    assert changed["optim.weight_decay"] == (1e-3, 0.0)
    assert changed["train.steps"] == (50, None) and changed["precision"] == ("float64", "auto")
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
    for words in ("finished, 50 steps", "a record every 5 updates", "of step 50", "symrun report"):
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
        ({"resumed": [{"step": 20, "at": "2026-02-01T10:11:12"}]}, "2026-02-01 10:11 at step 20"),
    ],
)  # fmt: skip
def test_what_befell_a_run(copied, fields, words):
    assert words in as_text(told(copied("one", **fields)))


def test_a_run_without_records(copied):
    run = copied("one")
    for table in ("units", "parameters", "progress"):
        for part in run.table(table).iterdir():
            part.unlink()
    text = as_text(told(run))
    assert "no law was judged" in text and "has no records yet" in text
    assert "on disk" not in text and "symrun check" not in text


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

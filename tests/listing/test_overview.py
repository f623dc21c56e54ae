"""Many runs: their order, what is read of them, and tables that fit."""

import csv
import io
import json

import pytest

from symrun.listing import overview
from symrun.listing.cached import Listed
from symrun.listing.filters import Condition
from symrun.listing.summary import Summary
from symrun.runs.thinning import thin


def run(place, **fields):
    known = dict(path=f"outputs/run-{place}", status="finished", name="n", model="m", data="d")
    known |= dict(created="2026", step=7, planned=8, every=1, seconds=None)
    known |= dict(settings={}, val={"top1": 0.5})
    return Summary(**{**known, **fields})


MANY = [
    run(place, settings={"optim.lr": place / 3, "model.lr": place % 2, "run.name": str(place)})
    for place in range(9)
]


def chosen(runs, *words):
    return overview.chosen(runs, [Condition.of(word) for word in words])


def test_newest_first_and_a_run_before_its_thinned_copies(copied, tmp_path):
    for name, created in [("old", "2026-01-01"), ("new", "2026-03-01"), ("a/b", "2026-02-01")]:
        copied(name, created=f"{created}T00:00:00+00:00")
    thin(copied("x", created="2026-04-01"), tmp_path / "outputs" / "copy", 40)
    copied(".draft")
    (tmp_path / "outputs" / "bad").mkdir()
    (tmp_path / "outputs" / "bad" / "run.json").write_text("{")
    runs, refused = overview.found_below(tmp_path / "outputs")
    found = [str(one.run.path.relative_to(tmp_path / "outputs")) for one in runs]
    assert found == ["x", "copy", "new", "a/b", "old"]
    assert len(refused) == 1 and "bad/run.json cannot be read" in str(refused[0])


def test_tables_are_read_only_of_runs_that_may_be_chosen(copied, tmp_path, monkeypatch):
    copied("one", created="2026-01-01")
    copied("mixed", "mixed", created="2026-02-01")
    runs, _ = overview.found_below(tmp_path / "outputs")
    read = []
    whole = Listed.summary.func
    monkeypatch.setattr(
        Listed, "summary", property(lambda self: read.append(self.run.path.name) or whole(self))
    )
    assert [one.path.name for one in chosen(runs, "optim.momentum=0.9", "loss<9")] == ["mixed"]
    assert read == ["mixed"]
    assert chosen(runs, "created<2025") == []
    assert read == ["mixed"]
    assert [one.path.name for one in chosen(runs, "unexplained<1", "top1=none")] == ["one"]


def test_sorting_by_a_key_leaves_the_unknown_to_the_end():
    runs = [run(0, seconds=2.0), run(1), run(2, seconds=10.0)]
    for key, order in (("seconds", [0, 2, 1]), ("-seconds", [2, 0, 1])):
        assert overview.by_key(runs, key) == [runs[place] for place in order]


@pytest.mark.parametrize("width", range(13, 110, 3))
def test_a_table_fits_and_says_what_it_leaves_out(width):
    table, _, rest = overview.as_table(MANY, width).partition("\n\n")
    assert all(len(line) <= width for line in table.splitlines())
    assert "outputs/run-8" in table
    heads = {"run", "status", "optim.lr", "model.lr", "steps", "top-1", "loss", "1 - R^2"}
    shown = {head for head in heads if head in table.splitlines()[0]}
    assert bool(rest) == (shown != heads)
    if "model.lr" in shown:  # two values tell less than nine
        assert "optim.lr" in shown


def test_settings_without_effect_are_no_columns_and_short_names_are_enough():
    assert "run.name" not in overview.as_table(MANY)
    few = [run(place, settings={"optim.lr": place}) for place in range(2)]
    assert overview.as_table(few).split()[:3] == ["run", "status", "lr"]
    few = [run(place, settings={"optim.name": place, "step.of": 1}) for place in range(2)]
    assert "optim.name" in overview.as_table(few).split()  # `name` is a key of its own


def test_csv_and_json_have_the_same_rows(copied, tmp_path):
    copied("one"), copied("other", "mixed")
    summaries = chosen(overview.found_below(tmp_path / "outputs")[0])
    names = overview.columns_of(summaries, ["seed"])
    rows = overview.as_rows(summaries, names)
    read = list(csv.DictReader(io.StringIO(overview.as_csv(names, rows))))
    assert [set(row) for row in read] == [set(row) for row in rows]
    for row, text in zip(json.loads(json.dumps(rows)), read, strict=True):
        for name, value in row.items():
            assert text[name] == ("" if value is None else str(value))
    assert {"optim.momentum", "unexplained", "path", "seed", "unjudged"} <= set(rows[0])
    for one, row in zip(summaries, rows, strict=True):
        flow = [law for law in one.laws if law.symmetry == row["unexplained_symmetry"]]
        assert row["unexplained"] in [law.unexplained for law in flow if law.law == "flow"]


def test_csv_has_paths_as_they_are():
    rows = [{"path": "a\rb\nc,\x1b"}]
    text = overview.as_csv(["path"], rows)
    assert [*csv.DictReader(io.StringIO(text, newline=""))] == rows


def test_times_are_ordered_across_zones(copied, tmp_path):
    copied("late", created="2026-01-01T10:00:00-05:00")
    copied("early", created="2026-01-01T12:00:00+00:00")
    runs, _ = overview.found_below(tmp_path / "outputs")
    assert [one.run.path.name for one in runs] == ["late", "early"]
    ordered = overview.by_key([one.described for one in runs], "created")
    assert [one.path.name for one in ordered] == ["early", "late"]

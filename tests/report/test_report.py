"""A page about runs: its numbers are those of the tables, its words those of run.json."""

import dataclasses
import json
import math
import re
import shutil

import markupsafe
import numpy as np
import pandas as pd
import pytest
from made_small import MADE_SMALL
from run_json import described

from symrun.analysis import Agreement, judge
from symrun.analysis.comparison import CONSERVED
from symrun.bench.tables import make_run
from symrun.cli import main
from symrun.errors import Diverged, UsageError
from symrun.launch import compose
from symrun.report import Evidence, evidence, html_page, report
from symrun.report.comparing import environments
from symrun.report.document import (
    Heading,
    Paragraph,
    Picture,
    Table,
    as_markdown,
    code,
    literal,
)
from symrun.report.html_page import _inline
from symrun.report.page import audit, draw, laws_table, runs_table
from symrun.report.verdict import bars_table, verdict
from symrun.runs.directory import RunDirectory
from symrun.runs.info import Status
from symrun.runs.run_json import info_from
from symrun.training.lifecycle import train

LR, DECAY = 0.1, 1e-3
TINY = [
    *("data=synthetic", "data.train_images=40", "data.val_images=20", "model.width=0.0625"),
    *("train.batch_size=16", "train.steps=7", "track.every=2", "device=cpu"),
    *(f"optim.lr={LR}", f"optim.weight_decay={DECAY}"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained run with BN and one without."""
    folder = tmp_path_factory.mktemp("reported")
    return {
        name: RunDirectory.open(
            train(compose([*TINY, f"model={name}", f"run.dir={folder / name}"]))
        )
        for name in ("vgg11_bn", "vgg11")
    }


@pytest.fixture(scope="module")
def told(runs):
    return [evidence(name, run) for name, run in runs.items()]


def relative(difference, magnitude):
    return 0.0 if difference == 0 else abs(difference) / magnitude


def by_hand(run, symmetry, law):
    """What the law leaves unexplained, {(group, unit): share} and {group: [shares]}, for the units
    that moved; the largest residual; the largest motion: in plain loops."""
    rows = pd.read_parquet(run.table("units")).astype({"symmetry": str, "group": str})
    degree = 1 if symmetry == "translation" else 2
    missed, groups, residual, largest = {}, {}, 0.0, 0.0
    for (group, number), unit in rows[rows.symmetry == symmetry].groupby(["group", "unit"]):
        unit = unit.sort_values("step")
        start = float(unit.measured.iloc[0])
        broken = failed = moved = 0.0
        for step, q, p, m in zip(unit.step, unit.measured, unit[law], unit.magnitude, strict=True):
            kept = start * math.exp(-degree * DECAY * LR * step)
            broken += (float(q) - kept) ** 2
            failed += (float(q) - float(p)) ** 2
            moved = max(moved, relative(float(q) - kept, float(m)))
            residual = max(residual, relative(float(q) - float(p), float(m)))
        largest = max(largest, moved)
        if moved > CONSERVED:
            missed[f"{group} [{number}]"] = failed / broken
            groups.setdefault(group, []).append(failed / broken)
    return missed, groups, residual, largest


@pytest.mark.parametrize("law", ["flow", "discrete", "exact"])
@pytest.mark.parametrize(
    ("name", "symmetry"), [("vgg11_bn", "scale"), ("vgg11", "rescale"), ("vgg11", "translation")]
)
def test_a_summary_is_that_of_its_units(runs, told, name, symmetry, law):
    (one,) = [one for one in told if one.name == name]
    (row,) = [row for row in one.summary if (row.symmetry, row.law) == (symmetry, law)]
    missed, groups, residual, motion = by_hand(runs[name], symmetry, law)
    assert row.moved == len(missed) and row.moved + row.excluded == row.units
    # Some hundred products and sums in float64, of values that are read exactly
    close = {"rel": 1e-9, "abs": 1e-15}
    assert row.residual == pytest.approx(residual, **close)
    assert row.motion == pytest.approx(motion, **close)
    if missed:
        shares = sorted(missed.values())
        expected = [np.median(shares), shares[math.ceil(0.99 * len(shares)) - 1], shares[-1]]
        expected.append(max(np.median(group) for group in groups.values()))
        found = [row.unexplained, row.unexplained_99, row.unexplained_worst, row.worst_group]
        assert found == pytest.approx(expected, rel=1e-9)
        assert missed[row.worst_unit] == pytest.approx(shares[-1], rel=1e-9)
        assert row.rms == pytest.approx(math.sqrt(np.median(shares)), rel=1e-9)
        assert row.explained == pytest.approx(1 - np.median(shares), abs=1e-15)
    else:
        assert row.explained is row.unexplained_99 is row.worst_group is row.worst_unit is None


def test_evidence_comes_back_as_it_was(told, tmp_path):
    for one in told:
        one.save(tmp_path)
        assert Evidence.load(tmp_path / one.name) == one


def test_evidence_says_nothing_of_the_machines_folders(told, runs):
    for one in told:
        text = json.dumps([one.setup.to_json(), one.check, one.progress])
        assert str(runs[one.name].path.parent) not in text and "~/.cache" not in text
        assert "cache" not in one.setup.config.settings.get("data", {})
        assert one.setup.config.optim.lr == LR
    settings = ["data.root=/here", "data.cache=/there", "run.dir=/elsewhere", "seed=3"]
    kept = described(settings).published().config.settings
    assert kept["data"].keys() & {"root", "cache"} == set() and "run" not in kept
    assert kept["seed"] == 3 and "/" not in json.dumps(kept)


def test_evidence_that_is_damaged_is_refused(told, tmp_path):
    told[0].save(tmp_path)
    (tmp_path / told[0].name / "check.json").write_text("{}")
    with pytest.raises(UsageError, match="does not hold"):
        Evidence.load(tmp_path / told[0].name)
    with pytest.raises(UsageError, match="cannot be read"):
        Evidence.load(tmp_path / "nowhere")


def test_progress_is_the_table(told, runs):
    for one in told:
        table = pd.read_parquet(runs[one.name].table("progress"))
        assert len(one.progress) == len(table)
        last = table[table.split == "val"].sort_values("step").iloc[-1]
        (row,) = runs_table([one]).rows
        assert row[6:8] == [f"{100 * last.top1:.1f}%", f"{100 * last.top5:.1f}%"]
        assert row[4] == "7"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([5.30, 5.29, 5.20, 5.10], "30"),
        ([5.30, 5.20, 5.28, 5.10], "40"),
        ([4.0, 3.9], "10"),
        ([5.3, 5.3], "the end"),
        ([5.3, 5.2, None], "20"),
        ([5.3, None], "the end"),
    ],
)
def test_where_the_plateau_ends(told, losses, expected):
    rows = [
        {"split": "train", "step": 10 * (place + 1), "loss": loss, "images_per_second": 1.0}
        for place, loss in enumerate(losses)
    ]
    loss = dataclasses.replace(told[0].setup.loss, chance=math.log(200))
    setup = dataclasses.replace(told[0].setup, loss=loss)
    one = Evidence("made", setup, [], [], rows)
    assert runs_table([one]).rows[0][8] == expected


BLOWN_UP = ["optim.lr=1e6", "optim.weight_decay=0", "train.steps=40", "track.every=1"]
FLOW = Agreement("flow", "scale", "all", 10, 10, 0, 1e-3, 0.1, None, False)
FLOW = dataclasses.replace(FLOW, explained=1 - 1e-6, unexplained=1e-6, unexplained_99=1e-4)


def verdicts(one, **setup):
    """[(measured, cleared)] for each bar on a single row of a summary."""
    table = bars_table([Evidence("one", described(**setup), [], [one], [])])
    return [tuple(row[3:]) for row in table.rows] if table else []


def test_each_bar_is_held_against_its_number():
    measured = ["1.0e-06", "1.0e-04", "1.0e-03"]
    assert verdicts(FLOW) == [(number, "yes") for number in measured]
    for key, place in (("unexplained", 0), ("unexplained_99", 1), ("residual", 2)):
        for value in (1.01 * getattr(FLOW, key), math.nan, math.inf):
            cleared = [what for _, what in verdicts(dataclasses.replace(FLOW, **{key: value}))]
            assert cleared == ["no" if place == other else "yes" for other in range(3)]


def test_a_bar_that_is_met_by_skipping_units_says_so():
    some = dataclasses.replace(FLOW, moved=9, excluded=1)
    judged = "yes, 9 of 10 units judged"
    assert [what for _, what in verdicts(some)] == [judged, judged, "yes"]
    still = dict.fromkeys(("explained", "unexplained", "unexplained_99"))
    none = dataclasses.replace(FLOW, moved=0, excluded=10, **still)
    assert verdicts(none)[:2] == [("-", "not judged: no unit moved")] * 2


@pytest.mark.parametrize("law", ["discrete", "exact", "null: 1 % too large"])
def test_no_bar_is_cleared_by_an_identity_or_a_null_law(law):
    assert verdicts(dataclasses.replace(FLOW, law=law)) == []


def test_the_audit_is_that_of_the_identity():
    exact = dataclasses.replace(FLOW, law="exact", residual=2e-7)
    setup = described()
    paragraph = audit([Evidence("one", setup, [], [FLOW, exact], [])])
    assert "2.0e-07 for scale in `one`" in paragraph.text and "1.0e-03" not in paragraph.text
    assert audit([Evidence("one", setup, [], [FLOW], [])]) is None


def test_what_is_not_finished_clears_no_bar_for_good():
    assert {what for _, what in verdicts(FLOW, status="running")} == {"yes, so far"}
    diverged = verdicts(FLOW, diverged={"step": 3, "loss": True, "layers": []})
    assert {what for _, what in diverged} == {"no, it diverged"}


def test_how_far_a_run_came_is_told(told):
    one = told[0]

    def updates(**setup):
        changed = info_from(one.setup.to_json() | setup)
        return runs_table([dataclasses.replace(one, setup=changed)]).rows[0][4]

    assert updates() == "7"
    assert updates(status="running", last_step=0) == "7 of 7; running"
    assert updates(diverged={"step": 3, "loss": True, "layers": []}) == "7; not finite from 3"
    events = [{"step": 2, "changed": []}, {"step": 4, "changed": ["seed 0 -> 1"]}]
    assert updates(resumed=events) == "7; resumed at 2, 4, changed"


def test_a_killed_run_is_told(runs, tmp_path, caplog):
    run = RunDirectory(shutil.copytree(runs["vgg11_bn"].path, tmp_path / "run"))
    run.write_info(dataclasses.replace(run.info(), status=Status.running, last_step=0))
    shutil.rmtree(run.table("progress"))
    with run.locked():
        under_way = evidence("one", run)
    one = evidence("one", run)
    assert [runs_table([each]).rows[0][4].split("; ")[1] for each in (under_way, one)] == [
        "running",
        "killed",
    ]
    assert ["status", "killed"] in environments([one]).rows
    assert verdict(one).label.startswith("until it was killed flow clears ")
    assert verdict(one).good is not True
    run.warn_unless_finished()
    assert caplog.messages == [f"{run.path} was killed: this is what it has so far"]


def test_a_diverged_run_is_told(tmp_path, without_pictures, caplog):
    config = compose([*TINY, "model=vgg11_bn", *BLOWN_UP, f"run.dir={tmp_path / 'lost'}"])
    with pytest.raises(Diverged):
        train(config)
    run = RunDirectory.open(tmp_path / "lost")
    report([run], tmp_path / "page.html")
    assert "diverged: " in caplog.text
    text = (tmp_path / "page.html").read_text()
    assert "not finite from" in text and "no, it diverged" in text


def test_a_run_without_laws_has_no_bars(tmp_path):
    settings = [*MADE_SMALL, "model=vgg11_bn", "train.steps=5", "track.every=1", "optim=adam"]
    one = evidence("adam", make_run(tmp_path / "adam", compose(settings), records_per_part=4))
    assert bars_table([one]) is None
    rows = laws_table([one]).rows
    assert {row[5] for row in rows if row[2] in ("flow", "discrete")} == {"-"}


def test_figures_of_a_page(runs, tmp_path, blank_pictures):
    drawn = dict(draw(runs, tmp_path, ["png", "pdf"], pytest.fail))
    assert list(drawn)[:3] == ["Fig. 1", "Fig. 5", "Loss and accuracy"]
    assert {"Each unit of vgg11_bn", "Residual over training of vgg11"} <= set(drawn)
    for path in drawn.values():
        assert path.stat().st_size > 0 and path.with_suffix(".pdf").exists()


def test_html_needs_no_other_file(runs, tmp_path, capfd):
    out = tmp_path / "page.html"
    paths = [str(run.path) for run in runs.values()]
    assert main(["report", *paths, "--out", str(out)]) == 0
    assert capfd.readouterr().out.strip() == str(out)
    text = out.read_text()
    sources = re.findall(r'\b(?:src|href)="([^"]{0,30})', text)
    inside = ("data:image/webp;base64,", "data:text/csv;base64,", "data:,", "#")
    assert len(sources) >= 15 and all(one.startswith(inside) for one in sources)
    assert not re.search(r"<(link|script)[^>]*\b(src|href)=\"(?!data:)", text)


def test_runs_with_the_same_last_folder_are_told_apart(tmp_path, without_pictures, capfd):
    settings = [*MADE_SMALL, "model=vgg11_bn", "train.steps=5", "track.every=1"]
    made = [
        make_run(tmp_path / name / "run", compose(settings), records_per_part=4) for name in "ab"
    ]
    assert main(["report", *(str(run.path) for run in made)]) == 0
    assert capfd.readouterr().out.strip() == f"{made[0].path}/report.html"
    text = (made[0].path / "report.html").read_text()
    assert "a/run" in text and "b/run" in text
    with pytest.raises(UsageError, match="given twice"):
        report([made[0], made[0]], tmp_path / "page.html")


def test_wrong_input_is_one_line(tmp_path, capfd, runs):
    path = str(runs["vgg11"].path)
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["nowhere"], "not a run folder"),
        ([path, "--out", f"{tmp_path}/file/page.html"], "the folder"),
        ([path, "--out", f"{tmp_path}/new/page.html"], "does not exist: make it"),
    ):
        assert main(["report", *arguments]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line


@pytest.mark.parametrize("name", ["a", "a`b", "`", "``a` b", "[x](https:evil)", r"\`a\`", "a\nb`"])
def test_names_stand_in_a_page_as_they_are(name):
    escaped = str(markupsafe.escape(name))
    assert _inline(f"`flow` {code(name)}, {literal(name)}.") == (
        f"<code>flow</code> <code>{escaped}</code>, {escaped}."
    )


def test_the_number_beside_curves_is_that_of_their_layer(runs, tmp_path, without_pictures):
    run = runs["vgg11"]
    (data,) = data_of(report([run], tmp_path / "page.html"))["runs"]
    rows = {(row.symmetry, row.group): row for row in judge(run)[0] if row.law == "flow"}
    for place in data["first"]:
        group = data["groups"][place]
        row = rows[group["symmetry"], group["group"]]
        share = f"1 − R² {row.unexplained:.1e}" if row.moved else "no unit left exp(−λt)"
        assert data["numbers"][row.symmetry] == f"{share}, residual {row.residual:.1e}"
    assert {*data["numbers"]} == {"rescale", "translation"}


def test_a_page_of_one_run_is_called_by_its_name(runs, tmp_path, without_pictures):
    for names, title in (
        (["vgg11_bn"], "vgg11_bn: VGG11 with BN, width 0.0625 on synthetic"),
        (["vgg11_bn", "vgg11"], "synthetic"),
    ):
        text = report([runs[name] for name in names], tmp_path / "page.html").read_text()
        assert f"<title>symrun: {title}" in text and f'<h1 id="title">{title}' in text
        assert 'href="#bars"' in text and 'id="bars"' in text


def test_of_many_runs_only_what_they_share_is_drawn(runs, tmp_path, blank_pictures, monkeypatch):
    monkeypatch.setattr(html_page, "_MOST_PICTURED", 1)
    text = report(list(runs.values()), tmp_path / "page.html").read_text()
    titles = re.findall(r"<details[^>]*><summary>(.*?)</summary>\n<img", text)
    assert titles == ["Fig. 1", "Fig. 5", "Loss and accuracy"]


def data_of(page):
    """What the scripts of a page know."""
    text = re.search(r'<script type="application/json" id="data">(.*)</script>', page.read_text())
    return json.loads(text[1])


def test_a_document_as_markdown():
    blocks = [
        Heading("a < b", 1),
        Paragraph("see `x|y` and [there](https://example.org/a?b=1&c=2)"),
        Table(["name", "value", "text"], [["a|b", "1", "1"], ["c", "-", "x"]]),
        Picture("curve", "folder/curve.png"),
    ]
    assert as_markdown(blocks) == (
        "# a < b\n\nsee `x|y` and [there](https://example.org/a?b=1&c=2)\n\n"
        "| name | value | text |\n| --- | ---: | --- |\n| a\\|b | 1 | 1 |\n| c | - | x |\n\n"
        "![curve](folder/curve.png)\n"
    )


def test_data_are_prepared_ahead_of_time(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["data=synthetic", "data.train_images=40", "data.val_images=20"]
    assert main(["data", "prepare", *settings]) == 0
    assert "40 + 20 images of 10 classes, 32x32: ready" in capfd.readouterr().out
    assert main(["data", "prepare", "data.root=nowhere"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "nowhere" in line


def test_a_table_without_rows_is_its_head():
    table = Table(["law", "units"], [])
    assert as_markdown([table]) == "| law | units |\n| --- | --- |\n"

"""A thinned run: fewer records, each as it was, and every command reads it and says so."""

import dataclasses
import errno
import functools
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_small import MADE_SMALL
from matplotlib.text import Text
from run_json import recorded, rewrite

import symrun
from symrun.analysis import agreement, as_json
from symrun.bench.tables import make_run
from symrun.cli import main
from symrun.errors import RunError, UsageError
from symrun.figures import FIGURES
from symrun.figures.captions import captions, common_caption
from symrun.launch import compose
from symrun.report import evidence
from symrun.runs import thinning
from symrun.runs.directory import TABLES, RunDirectory, newest_first, runs_below
from symrun.runs.info import ThinningInfo
from symrun.runs.reading import parts_of
from symrun.runs.settings import TrackSettings
from symrun.runs.tables import PROGRESS_SCHEMA, progress_curves, unit_curves
from symrun.runs.thinning import size_bytes, thin, thin_to_size
from symrun.runs.writer import write_part
from symrun.training.lifecycle import earlier_run

PUBLISH = Path(symrun.__file__).parent.parent / "scripts" / "publish.py"
EVERY, LAST = 5, 103
STEPS = [*range(0, LAST, EVERY), LAST]
SMALL = [*MADE_SMALL, f"train.steps={LAST}", f"track.every={EVERY}"]
KINDS = {
    "bn": ["model=vgg11_bn"],
    "plain": ["model=vgg11", "precision=float64"],
    "momentum": ["model=vgg11_bn", "optim.momentum=0.9", "optim.weight_decay=1e-3"],
    "adam": ["model=vgg11", "optim=adam"],
    "unsampled": ["model=vgg11_bn", "track.parameters=0"],
}
THINNED = "a record every 20 updates, thinned from every 5"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function from a kind to its run of 22 records in 7 parts, which is made once; finished,
    with progress, and a checkpoint."""
    folder = tmp_path_factory.mktemp("made")
    return functools.cache(lambda kind: made_run(folder / kind, *KINDS[kind]))


@pytest.fixture
def run(made):
    return made("bn")


@pytest.fixture
def copied(run, tmp_path):
    """A copy of `run` that a test may change."""
    return RunDirectory(shutil.copytree(run.path, tmp_path / "copied"))


def made_run(folder, *settings):
    run = make_run(folder, compose([*settings, *SMALL]), records_per_part=4)
    for number, first in enumerate(range(0, LAST, 25)):
        rows = [row(step, split) for step in range(first + 5, first + 26, 5) for split in SPLITS]
        write_part(run.part("progress", number), pa.Table.from_pylist(rows, PROGRESS_SCHEMA))
    run.checkpoints.mkdir()
    run.checkpoint(100).write_bytes(bytes(1000))
    return run


SPLITS = ("train", "val")


def row(step, split):
    numbers = {"loss": 2.3 - step / 1000, "top1": 0.1, "top5": 0.5, "images_per_second": 9.0}
    return {"step": step, "epoch": 1, "split": split, "lr": None} | numbers


def bits(run, table, steps=None):
    """Column -> null or not and bits of its rows, by name, unit and step; of these steps alone."""
    whole = pq.read_table(run.table(table))
    names = [f.name for f in whole.schema if pa.types.is_dictionary(f.type)]
    for name in names:
        place = whole.schema.get_field_index(name)
        whole = whole.set_column(place, name, whole[name].cast(pa.string()))
    if steps is not None:
        whole = whole.filter(np.isin(whole["step"].to_numpy(), steps))
    keys = [name for name in whole.column_names if name in (*names, "unit", "index", "step")]
    whole = whole.sort_by([(key, "ascending") for key in keys])
    return {name: _bits(whole[name].combine_chunks()) for name in whole.column_names}


def _bits(column):
    null = column.is_null().to_pylist()
    if pa.types.is_floating(column.type):
        number = column.fill_null(0).to_numpy(zero_copy_only=False)
        return column.type, null, number.view(f"u{number.itemsize}").tolist()
    return column.type, null, column.to_pylist()


def kept(every):
    return [step for step in STEPS if step % every == 0 or step == LAST]


@pytest.mark.parametrize("every", [5, 35, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_what_it_was(made, tmp_path, kind, every):
    run = made(kind)
    new = thin(run, tmp_path / "new", every)
    for table in ("units", "parameters"):
        assert bits(new, table) == bits(run, table, kept(every)), table
        before, after = (pq.read_schema(one.part(table, 0)) for one in (run, new))
        assert after.equals(before, check_metadata=True)
    assert pq.read_table(new.table("progress")).equals(pq.read_table(run.table("progress")))
    thinned = {"every": every, "records": len(kept(every)), "of": len(STEPS)}
    assert recorded(RunDirectory.open(new.path)) == recorded(run) | {"thinned": thinned}
    files = {str(path.relative_to(new.path)) for path in new.path.rglob("*") if path.is_file()}
    assert files == {"run.json", *(f"tables/{table}/part-000000.parquet" for table in TABLES)}


def test_odd_values_and_nulls_stay_as_they_are(copied, tmp_path):
    """nan with a payload, -0.0, the least float and a null among numbers."""
    part = copied.part("units", 2)
    table = pq.read_table(part)
    number = table["exact"].to_numpy().copy()
    odd = np.array([0x7FC12345, 0xFFC00001, 0x80000000, 1, 0xFF800000], np.uint32)
    at_40 = np.flatnonzero(table["step"].to_numpy() == 40)
    number[at_40[: odd.size]] = odd.view(np.float32)
    null = np.zeros(len(number), np.bool_)
    null[at_40[odd.size]] = True
    place = table.schema.get_field_index("exact")
    write_part(part, table.set_column(place, "exact", pa.array(number, mask=null)))
    new = thin(copied, tmp_path / "new", 20)
    assert bits(new, "units") == bits(copied, "units", kept(20))
    _, nulls, found = bits(new, "units")["exact"]
    assert sum(nulls) == 1 and set(odd.tolist()) <= set(found)


@pytest.mark.parametrize("rows", [1, 600, 10**6])
def test_a_part_holds_as_many_records_as_the_writer_would_put_there(
    run, tmp_path, monkeypatch, rows
):
    """By unit, then step, a row group a group where they are long enough."""
    monkeypatch.setattr(thinning, "MOST_ROWS", rows)
    monkeypatch.setattr("symrun.runs.writer._LEAST_ROWS", 1)
    new = thin(run, tmp_path / "new", 10)
    units = pq.read_table(run.part("units", 0)).num_rows
    together = rows // units + 1  # the record that goes beyond is the last one of its part
    parts = parts_of(new, "units")
    assert len(parts) == -(-len(kept(10)) // together)
    for number, part in enumerate(parts):
        file = pq.ParquetFile(part)
        steps = kept(10)[number * together :][:together]
        assert file.read()["step"].to_pylist() == steps * units
        assert file.metadata.num_row_groups == len(run.info().groups)
    assert bits(new, "units") == bits(run, "units", kept(10))


def test_a_run_of_two_precisions_keeps_both(copied, tmp_path):
    """As one that went on in another precision, with --anyway."""
    part = copied.part("units", 3)
    table = pq.read_table(part)
    schema = pa.schema(
        [f.with_type(pa.float64()) if f.type == pa.float32() else f for f in table.schema],
        table.schema.metadata,
    )
    write_part(part, table.cast(schema))
    new = thin(copied, tmp_path / "new", 10)
    assert len(parts_of(new, "units")) == 3
    curves, expected = (unit_curves(one, "scale", "features.4") for one in (new, copied))
    places = np.isin(expected.steps, kept(10))
    assert curves.steps.tolist() == kept(10)
    for name, values in expected.values.items():
        np.testing.assert_array_equal(curves.values[name], values[places])


def test_rows_in_any_order_are_kept_too(copied, tmp_path):
    part = copied.part("units", 1)
    table = pq.read_table(part)
    shuffled = np.random.default_rng(0).permutation(table.num_rows)
    write_part(part, table.take(pa.array(shuffled)))
    new = thin(copied, tmp_path / "new", 10)
    assert bits(new, "units") == bits(copied, "units", kept(10))
    assert len(list(agreement(new))) == len(list(agreement(copied)))


def test_a_thinned_run_thinned_again_tells_what_the_original_had(run, tmp_path):
    once = thin(run, tmp_path / "once", 10)
    twice = thin(once, tmp_path / "twice", 20)
    directly = thin(run, tmp_path / "directly", 20)
    assert twice.info() == directly.info()
    assert twice.info().thinned == ThinningInfo(20, 7, 22)
    assert ", ".join(twice.info().spacing()) == THINNED
    for table in TABLES:
        assert bits(twice, table) == bits(directly, table)
    with pytest.raises(UsageError, match=r"--every must be a multiple of 10, .*, got 15"):
        thin(once, tmp_path / "uneven", 15)


def test_as_many_records_stay_as_fit(run, tmp_path):
    """Against every multiple of the run's written and measured."""
    sizes = {}
    for every in range(EVERY, LAST + EVERY, EVERY):
        new = thin(run, tmp_path / str(every), every)
        sizes.setdefault(new.info().thinned.records, (every, size_bytes(new.path)))
    limits = np.linspace(sizes[2][1], sizes[22][1], 6)
    found = set()
    for place, limit in enumerate([*limits, 1e12]):
        new = thin_to_size(run, tmp_path / f"limit-{place}", limit)
        fitting = [count for count, (_, size) in sizes.items() if size <= limit]
        thinned = recorded(new)["thinned"]
        assert (thinned["records"], thinned["every"]) == (max(fitting), sizes[max(fitting)][0])
        assert size_bytes(new.path) == sizes[max(fitting)][1] <= limit
        assert bits(new, "units") == bits(run, "units", kept(thinned["every"]))
        found.add(thinned["records"])
    assert {2, 22} < found and not list(tmp_path.glob(".*"))


def test_the_search_writes_few_candidates(tmp_path, monkeypatch):
    settings = ["model=vgg11_bn", *MADE_SMALL, "train.steps=1000", "track.every=1"]
    run = make_run(tmp_path / "run", compose(settings), records_per_part=500)
    write, written = thinning._Original.write, []

    def watched(original, folder, every):
        written.append(every)
        return write(original, folder, every)

    monkeypatch.setattr(thinning._Original, "write", watched)
    for limit in (1e5, 2e5, 1e6):
        written.clear()
        thinned = thin_to_size(run, tmp_path / f"{limit}", limit).info().thinned
        assert 2 < thinned.records < 500 and len(written) <= 6, written


def test_a_run_under_way_is_thinned_as_far_as_it_is_on_the_disk(copied, tmp_path):
    """Killed between the part of one table and that of the other, with half a part beside them."""
    last = parts_of(copied, "parameters")[-1]
    last.unlink()
    (copied.table("units") / ".part-000009.parquet-abc").mkdir()
    rewrite(copied, status="running", last_step=0)
    new = thin(copied, tmp_path / "new", 20)
    steps = [0, 20, 40, 60, 80, 100]
    for table in ("units", "parameters"):
        assert bits(new, table) == bits(copied, table, steps)
    info = new.info()
    assert (info.status, info.last_step) == ("interrupted", 100)
    assert info.thinned == ThinningInfo(20, 6, 21)
    rewrite(copied, status="interrupted", last_step=102)
    info = thin(copied, tmp_path / "other", 20).info()
    assert (info.status, info.last_step) == ("interrupted", 102)


@pytest.mark.parametrize("table", ["units", "parameters"])
def test_a_run_without_records_is_refused(copied, tmp_path, table):
    for part in parts_of(copied, table):
        part.unlink()
    with pytest.raises(UsageError, match="copied has no records yet"):
        thin(copied, tmp_path / "new", 20)
    assert not (tmp_path / "new").exists()


def test_a_run_without_progress_stays_one_without(copied, tmp_path):
    for part in parts_of(copied, "progress"):
        part.unlink()
    new = thin(copied, tmp_path / "new", 20)
    assert evidence("new", new).progress == []


def test_progress_is_whole(run, tmp_path):
    new = thin(run, tmp_path / "new", 100)
    for split in SPLITS:
        one, other = (progress_curves(each, split) for each in (new, run))
        assert one.steps.tolist() == other.steps.tolist() == list(range(5, 126, 5))


@pytest.mark.parametrize("kind", ["bn", "momentum", "adam"])
def test_check_reads_a_thinned_run_and_says_so(made, tmp_path, capfd, kind):
    """Over the records that stayed: those alone are what it was held against."""
    path = thin(made(kind), tmp_path / "new", 20).path
    assert main(["check", str(path), "--json"]) == 0
    printed = capfd.readouterr()
    assert printed.err == f"symrun: {path}: {THINNED}\n"
    rows = json.loads(printed.out)["rows"]
    assert len(rows) == len(json.loads(as_json(list(agreement(made(kind))), []))["rows"])
    silent = {row["law"] for row in rows if row["residual"] is None}
    assert silent == ({"flow", "discrete"} if kind == "adam" else set())
    assert main(["check", str(made(kind).path), "--json"]) == 0
    assert capfd.readouterr().err == ""


def test_figures_say_that_a_run_is_thinned(made, tmp_path):
    new = {kind: thin(made(kind), tmp_path / kind, 20) for kind in ("bn", "plain", "momentum")}
    for figure, kinds in (("fig1", ["bn"]), ("fig5", ["plain", "bn"]), ("grid", ["bn"])):
        drawn = FIGURES[figure].draw([new[kind] for kind in kinds])
        texts = [text.get_text() for text in drawn.findobj(Text)]
        (caption,) = [text for text in texts if "float" in text]
        assert caption.replace("\N{NO-BREAK SPACE}", " ").count(THINNED) == len(kinds)
    whole, thinned = made("bn").info(), new["bn"].info()
    assert "a record" not in captions([(whole, LAST)])[0].replace("\N{NO-BREAK SPACE}", " ")
    both = common_caption([whole, thinned], LAST, []).replace("\N{NO-BREAK SPACE}", " ")
    assert both.endswith(f", a record every 5 updates, {THINNED}")


def test_report_and_publish_say_that_a_run_is_thinned(run, tmp_path, blank_pictures, monkeypatch):
    new = thin(run, tmp_path / "new", 20)
    assert main(["report", str(new.path)]) == 0
    assert f"seed 0; {THINNED}." in (new.path / "report.html").read_text()
    publish = runpy.run_path(str(PUBLISH))
    publish["publish"](tmp_path / "results" / "made", {"bn": new})
    assert f"seed 0; {THINNED}." in publish["page"](tmp_path / "results")
    setup = json.loads((tmp_path / "results" / "made" / "bn" / "setup.json").read_text())
    assert setup["thinned"] == {"every": 20, "records": 7, "of": 22}


def test_the_spacing_in_words(run):
    info = run.info()
    assert info.spacing() == ["a record every 5 updates"]
    assert replace(info, thinned=ThinningInfo(5, 22, 22)).spacing() == info.spacing()
    each = replace(info, config=replace(info.config, track=TrackSettings(every=1, parameters=5)))
    assert each.spacing() == ["a record every update"]
    thinned = replace(each, thinned=ThinningInfo(2000, 2, 9))
    assert thinned.spacing() == ["a record every 2,000 updates", "thinned from every update"]


def test_the_command_prints_the_folder_and_what_stayed(run, tmp_path, capfd):
    new = tmp_path / "not" / "there" / "new"
    assert main(["thin", str(run.path), str(new), "--every", "20"]) == 0
    printed = capfd.readouterr()
    size = f"{size_bytes(new) / 1e6:.1f} MB"
    assert printed.out == f"{new}\n"
    assert printed.err == f"symrun: 7 of 22 records, {THINNED}: {size}\n"
    assert main(["thin", str(run.path), str(tmp_path / "all"), "--max-mb", "9"]) == 0
    assert "22 of 22 records, a record every 5 updates" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("RUN new", "one of --every K and --max-mb N, got neither"),
        ("RUN new --every 20 --max-mb 1", "one of --every K and --max-mb N, got both"),
        ("RUN new --every 0", r"--every must be in \[1, 10000000\], got 0"),
        ("RUN new --every -20", r"--every must be in \[1, 10000000\], got -20"),
        ("RUN new --every 100000000", r"--every must be in \[1, 10000000\], got 100000000"),
        ("RUN new --every 12", "--every must be a multiple of 5, the updates between .*, got 12"),
        ("RUN new --max-mb 0", "--max-mb must be a number > 0, got 0"),
        ("RUN new --max-mb -1", "--max-mb must be a number > 0, got -1"),
        ("RUN new --max-mb nan", "--max-mb must be a number > 0, got nan"),
        ("RUN new --max-mb inf", "--max-mb must be a number > 0, got inf"),
        ("RUN new --max-mb 0.01", "--max-mb must be >= 0.[0-9]+, which the first .*, got 0.01"),
        ("nowhere new --every 20", "nowhere is not a run folder"),
        ("RUN there --every 20", "there exists already; a run is never overwritten"),
        ("RUN file --max-mb 1", "file exists already"),
        ("RUN link --every 20", "link exists already"),
        ("RUN RUN --every 20", "exists already"),
        ("RUN RUN/new --every 20", "lies in the run itself: name a folder elsewhere"),
        ("RUN RUN/tables/../new/new --every 20", "lies in the run itself"),
    ],
)
def test_wrong_input_is_one_line(run, tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    words = [word.replace("RUN", str(run.path)) for word in arguments.split()]
    assert main(["thin", *words]) == 2
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == "" and re.search(message, line)
    assert {path.name for path in tmp_path.iterdir()} == {"there", "file", "link"}
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_the_least_size_that_is_named_suffices(run, tmp_path):
    with pytest.raises(UsageError) as caught:
        thin_to_size(run, tmp_path / "new", 1)
    (least,) = re.findall(r">= ([0-9.]+)", str(caught.value))
    assert thin_to_size(run, tmp_path / "new", float(least) * 1e6).info().thinned.records == 2


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_part_is_one_line_and_leaves_nothing(copied, tmp_path, table):
    part = parts_of(copied, table)[1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(bytes(content))
    for make in (lambda: thin(copied, tmp_path / "new", 20),
                 lambda: thin_to_size(copied, tmp_path / "new", 1e6)):  # fmt: skip
        with pytest.raises(UsageError, match=rf"{table} cannot be read: {part.name}: damaged"):
            make()
        assert [path.name for path in tmp_path.iterdir()] == ["copied"]


@pytest.mark.parametrize(("option", "stride"), [("--every 20", 1), ("--max-mb 0.2", 7)])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_interruption_or_a_full_disk_leaves_nothing(
    run, tmp_path, monkeypatch, capfd, option, stride, error
):
    """At each file or folder in turn that is put on the disk; at the last the run is whole."""
    fsync = os.fsync
    command = ["thin", str(run.path), str(tmp_path / "new"), *option.split()]
    for target in range(0, 1000, stride):
        calls = 0

        def failing(file, target=target):
            nonlocal calls
            calls += 1
            if calls > target:
                raise error
            fsync(file)

        monkeypatch.setattr(os, "fsync", failing)
        code = main(command)
        if calls <= target:
            break
        (line,) = capfd.readouterr().err.splitlines()
        assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
        assert "interrupted" in line or f"{tmp_path}/new cannot be written: No space" in line
        left = list(tmp_path.iterdir())
        assert not left or len(parts_of(RunDirectory.open(tmp_path / "new"), "progress")) == 1
        if left:
            shutil.rmtree(left.pop())
        assert left == []
    assert target > 10 and code == 0


KILLED = """
import os, signal, sys
from symrun.cli import main
calls, fsync = 0, os.fsync
def killing(file):
    global calls
    calls += 1
    if calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)
os.fsync = killing
main(["thin", *sys.argv[2:], "--max-mb", "0.2"])
"""


@pytest.mark.parametrize("call", [3, 9, 20])
def test_a_killed_command_leaves_no_run(run, tmp_path, call):
    command = [sys.executable, "-c", KILLED, str(call), str(run.path), str(tmp_path / "new")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "new").exists() and list(tmp_path.glob(".new-*"))
    assert runs_below(tmp_path) == []
    thin(run, tmp_path / "new", 20)
    assert [found.path for found in newest_first(tmp_path)] == [tmp_path / "new"]


def test_a_thinned_run_cannot_go_on(copied, tmp_path, capfd):
    rewrite(copied, status="interrupted")
    for status in ("interrupted", "finished"):
        rewrite(copied, status=status)
        new = thin(copied, tmp_path / status, 20)
        for anyway in ([], ["--anyway"]):
            assert main(["resume", str(new.path), *anyway]) == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert line.endswith("is a thinned copy: resume the run that it was made from")
        assert {path.name for path in new.path.iterdir()} == {"run.json", "tables"}


def test_a_sweep_does_not_take_a_thinned_copy_for_the_run(tmp_path):
    outputs = tmp_path / "outputs"
    settings = [*KINDS["bn"], *SMALL, f"run.dir={outputs}"]
    run = made_run(outputs / "run", *settings)
    thin(run, outputs / "copy", 5)
    config = compose(settings)
    assert earlier_run(config).path == run.path
    shutil.rmtree(run.path)
    assert earlier_run(config) is None
    other = dataclasses.replace(config, seed=1)
    assert earlier_run(other) is None


def test_a_run_is_found_before_its_thinned_copies(copied, tmp_path):
    """Whatever their names; of the copies the one that holds more."""
    for name, every in (("a", 50), ("z", 100), ("m", 20)):
        thin(copied, tmp_path / name, every)
    order = [run.path.name for run in newest_first(tmp_path)]
    assert order == ["copied", "m", "a", "z"]
    shutil.rmtree(copied.path)
    assert [run.path.name for run in newest_first(tmp_path)] == ["m", "a", "z"]


def test_thinning_needs_no_torch(run, tmp_path):
    code = "import sys; from symrun.cli import main; main(sys.argv[1:]);"
    code += "print([name for name in ('torch', 'hydra', 'matplotlib') if name in sys.modules])"
    command = [sys.executable, "-c", code, "thin", str(run.path), str(tmp_path / "new")]
    done = subprocess.run([*command, "--max-mb", "0.2"], capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(tmp_path / "new"), "[]"], done.stderr


def test_a_full_disk_names_the_folder_that_was_asked_for(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/new cannot be written: "):
        thin(run, tmp_path / "file" / "new", 20)

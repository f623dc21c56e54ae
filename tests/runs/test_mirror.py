"""A run that goes to a store: readable there at every instant, complete in the end, and never in
the way of training."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from threading import Timer

import fsspec
import pandas as pd
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from killing import same, tables
from run_json import described
from stopping import stopping_at
from stores import SETTINGS, URL, Plain, failing, files_of

import symrun
from symrun.cli import main
from symrun.errors import Busy, RunError, UsageError
from symrun.launch import compose
from symrun.remote import claim
from symrun.remote.claim import Claim
from symrun.remote.store import Store
from symrun.runs import mirror
from symrun.runs.checkpoint import checkpoints, save_checkpoint
from symrun.runs.directory import RunDirectory
from symrun.runs.info import ThinningInfo
from symrun.runs.mirror import check_out, written
from symrun.runs.reading import seal
from symrun.training.lifecycle import train
from symrun.training.signals import StopRequest

pytestmark = pytest.mark.usefixtures("memory")


def there(system):
    """The files at the URL, by their names."""
    return {path.removeprefix("/bucket/mine/"): system.cat_file(path) for path in system.find("/")}


def trained(*more, stop=None):
    return RunDirectory(train(compose([*SETTINGS, f"run.dir={URL}", *more]), stop))


def stopped_after(step, monkeypatch):
    """Train to the URL until a signal comes while update `step` is under way."""
    with stopping_at(step, monkeypatch) as stop:
        trained(stop=stop)


@contextlib.contextmanager
def sent(url=URL, **fields):
    """A run without training, as it is written and sent."""
    run = RunDirectory.create(url, "")
    with written(run):
        run.write_info(described(**fields))
        yield run


def part(run, number, content=b"rows"):
    path = run.part("units", number)
    draft = path.with_suffix(".draft")
    draft.write_bytes(content + b"\0\0\0\0PAR1")
    seal(draft)
    return draft.rename(path)


def until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def no_more_looks(monkeypatch):
    """From now on nothing is sent before the run ends, however busy the machine is."""
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 60.0)
    time.sleep(0.5)  # a wait of the old length ends, and the new one begins


def test_a_trained_run_is_in_the_store_file_by_file(memory, monkeypatch):
    run = trained()
    assert run.path == Path("outputs/memory/bucket/mine")
    assert there(memory) == files_of(run)
    assert [name for name in there(memory) if name.startswith("checkpoints/")] == [
        "checkpoints/step-8.pt"
    ]
    frame = pd.read_parquet("memory://bucket/mine/tables/units")
    assert len(frame) == len(pd.read_parquet(run.table("units")))


def test_a_checkpoint_comes_after_the_parts_that_it_names(memory, monkeypatch):
    put, counted = MemoryFileSystem.put_file, []

    def checked(self, source, place, **keywords):
        if place.endswith(".pt"):
            content = torch.load(source, weights_only=True)
            for table, parts in content["parts"].items():
                found = self.find(f"/bucket/mine/tables/{table}")
                assert len(found) >= parts, f"{place} came before parts of {table}"
            counted.append(place)
        put(self, source, place, **keywords)

    monkeypatch.setattr(MemoryFileSystem, "put_file", checked)
    monkeypatch.setattr("symrun.runs.writer.FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.0)
    run = trained("train.checkpoint_every=1")
    assert counted and there(memory) == files_of(run)


def test_a_store_that_fails_for_a_while_is_told_once_and_then_complete(memory, monkeypatch, caplog):
    monkeypatch.setattr(mirror, "_LONGEST_WAIT", 0.01)
    with sent() as run:
        with failing(monkeypatch, times=4) as left:
            part(run, 0)
            until(lambda: left[0] < 0)
        until(lambda: "run.json" in there(memory))
    assert there(memory) == files_of(run)
    failed, works = [record.getMessage() for record in caplog.records]
    assert failed.startswith(URL) and "Network is unreachable" in failed
    assert works == f"{URL} takes files again"


def test_a_store_that_stays_dead_is_told_with_the_command_that_sends_the_rest(
    memory, monkeypatch, capsys
):
    monkeypatch.setattr(mirror, "_LONGEST_WAIT", 0.01)
    run = RunDirectory.create(URL, "")
    with failing(monkeypatch, times=0) as left:
        with pytest.raises(RunError) as caught, written(run):
            left[0] = float("inf")
            part(run, 0)
            run.write_info(described())
    assert f"{URL} lacks 2 files of {run.path} (run.json, tables/units/part-000000.parquet)" in str(
        caught.value
    )
    assert "run.json" not in there(memory)
    command = str(caught.value).partition(": symrun ")[2].removesuffix(" sends them")
    assert main(command.split()) == 0
    assert there(memory) == files_of(run)


def test_training_never_waits_for_a_store_that_hangs(memory, monkeypatch):
    """Every call takes a second for ever; 1,000 parts are written meanwhile."""
    monkeypatch.setattr(mirror, "_LONGEST_SILENCE", 0.0)
    put = MemoryFileSystem.put_file
    monkeypatch.setattr(
        MemoryFileSystem, "put_file", lambda *args, **kw: (time.sleep(1), put(*args, **kw))
    )
    with pytest.raises(RunError, match="took too long"), sent() as run:
        started = time.monotonic()
        for number in range(1000):
            part(run, number)
        assert time.monotonic() - started < 1


def test_pruned_checkpoints_go_once_a_newer_one_is_there(memory):
    with sent() as run:
        for step in range(5):
            save_checkpoint(run, step, {}, keep=2)
            until(lambda step=step: f"checkpoints/step-{step}.pt" in there(memory))
    assert {name for name in there(memory) if name.endswith(".pt")} == {
        "checkpoints/step-3.pt",
        "checkpoints/step-4.pt",
    }


def test_truncated_parts_go_from_the_last_before_new_ones_come(memory, monkeypatch):
    with sent() as run:
        for number in range(3):
            part(run, number)
        until(lambda: len(there(memory)) == 5)
    removed, rm = [], MemoryFileSystem.rm_file
    monkeypatch.setattr(
        MemoryFileSystem, "rm_file", lambda self, path: (removed.append(path), rm(self, path))
    )
    with written(RunDirectory(run.path, URL)):
        run.truncate_to({"units": 1, "parameters": 0, "progress": 0}, 0)
        part(run, 1, b"others")
    assert [path[-14:-8] for path in removed if "part" in path] == ["000002", "000001"]
    assert there(memory) == files_of(run)


def test_a_part_that_was_sent_before_a_kill_is_not_taken_away_again(memory, monkeypatch):
    """A checkpoint there may count on it."""
    with sent() as run:
        part(run, 0)
    (run.path / ".remote.json").unlink()
    removed = []
    monkeypatch.setattr(MemoryFileSystem, "rm_file", lambda self, path: removed.append(path))
    with written(RunDirectory(run.path, URL)):
        pass
    assert [path.rpartition("/")[2] for path in removed] == [".claim"]


def test_a_thinned_copy_does_not_take_the_place_of_its_run(memory):
    with sent() as run:
        part(run, 0)
    info = run.info()
    run.write_info(dataclasses.replace(info, thinned=ThinningInfo(every=2, records=1, of=2)))
    before = there(memory)
    with pytest.raises(UsageError, match="holds another run"):
        mirror.push(run, URL)
    assert there(memory) == before


def test_a_store_that_was_emptied_meanwhile_is_filled_again(memory):
    with sent() as run:
        part(run, 0)
        until(lambda: len(there(memory)) == 3)
        memory.store.clear()
        part(run, 1)
    assert there(memory) == files_of(run)


def test_on_a_file_system_a_file_appears_at_once(memory, monkeypatch):
    fsspec.register_implementation("plain", Plain, clobber=True)
    Plain.store.clear()
    seen, put = [], Plain.put_file
    monkeypatch.setattr(
        Plain,
        "put_file",
        lambda self, one, two, **kw: (seen.append(two), put(self, one, two, **kw)),
    )
    with sent("plain://bucket/mine") as run:
        part(run, 0)
    assert seen and all(path.rpartition("/")[2].startswith(".part-0") for path in seen)
    assert {path.removeprefix("/bucket/mine/") for path in Plain().find("/")} == set(files_of(run))


# Who may write


def test_a_run_in_the_store_is_never_overwritten(memory):
    with sent() as run:
        part(run, 0)
    shutil.rmtree(run.path)
    before = there(memory)
    with pytest.raises(UsageError, match=f"{URL} exists already.*symrun resume {URL}"):
        trained()
    assert there(memory) == before and not run.path.exists()


def test_a_folder_in_the_store_that_holds_something_else_is_not_used(memory):
    memory.pipe_file("/bucket/mine/thesis.tex", b"")
    with pytest.raises(UsageError, match="exists already; a run is never overwritten"):
        trained()
    assert list(there(memory)) == ["thesis.tex"]


def test_of_two_machines_one_gets_the_folder(memory, monkeypatch):
    other = Claim(Store(URL))
    other.take()
    with pytest.raises(
        Busy, match=f"{URL} is being written, .* renewed .* s ago by .*again in [45] min"
    ):
        trained()
    assert not Path("outputs/memory/bucket/mine").exists()
    monkeypatch.setattr(claim, "_DEAD_SECONDS", 0.0)
    with sent():
        pass
    assert list(there(memory)) == ["run.json"]


def test_a_run_that_another_machine_took_over_stays_out_of_its_way(memory, monkeypatch, caplog):
    monkeypatch.setattr(mirror, "RENEWED_SECONDS", 0.0)
    with pytest.raises(RunError, match="is written by .* now"), sent() as run:
        until(lambda: "run.json" in there(memory))
        memory.pipe_file("/bucket/mine/.claim", b'{"token": "other", "host": "other"}')
        until(lambda: caplog.records)
        part(run, 0)
    assert "tables/units/part-000000.parquet" not in there(memory)
    assert json.loads(there(memory)[".claim"])["host"] == "other"


def test_a_run_that_ends_at_once_after_another_machine_took_over_sends_nothing(memory, monkeypatch):
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.1)
    with pytest.raises(RunError, match="is written by other now.*stays in outputs"), sent() as run:
        until(lambda: "run.json" in there(memory))
        no_more_looks(monkeypatch)
        memory.pipe_file("/bucket/mine/.claim", b'{"token": "other", "host": "other"}')
        before = there(memory)
        part(run, 0)
        run.write_info(described(status="finished", last_step=8))
    assert there(memory) == before


def test_a_machine_that_slept_takes_nothing_away_from_the_run_that_went_on(memory, monkeypatch):
    """The other one has finished, so that there is no claim any more."""
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.1)
    again = {"step": 3, "at": "2026-01-02", "device": "cpu", "reasons": []}
    with pytest.raises(RunError, match=f"{URL} has gone on without"), sent() as run:
        part(run, 0)
        until(lambda: "run.json" in there(memory))
        no_more_looks(monkeypatch)
        theirs = json.loads(there(memory)["run.json"]) | {"resumed": [again]}
        memory.pipe_file("/bucket/mine/run.json", json.dumps(theirs).encode())
        memory.rm_file("/bucket/mine/.claim")
        before = there(memory)
    assert there(memory) == before


def test_a_claim_is_looked_at_again_before_anything_is_removed_after_a_sleep(memory, monkeypatch):
    moment = [0.0]
    monkeypatch.setattr(claim, "now", lambda: moment[0])
    with pytest.raises(RunError, match="is written by other now"), sent() as run:
        part(run, 0)
        until(lambda: len(there(memory)) == 3)
        memory.pipe_file("/bucket/mine/.claim", b'{"token": "other", "host": "other"}')
        moment[0] = 6.0
        run.part("units", 0).unlink()
        time.sleep(0.2)
        assert len(there(memory)) == 3


def test_a_second_ctrl_c_says_what_the_store_lacks(memory, monkeypatch, caplog):
    """The first one ended training; the second comes while the rest is sent."""
    put = MemoryFileSystem.put_file

    def slow(*arguments, **keywords):
        time.sleep(1)
        put(*arguments, **keywords)

    monkeypatch.setattr(MemoryFileSystem, "put_file", slow)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop, sent() as run:
        with stop.deferred(quiet=True):
            signal.raise_signal(signal.SIGINT)
        assert stop.requested == "SIGINT"
        part(run, 0)
        Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    message = caplog.records[-1].getMessage()
    assert message.startswith("interrupted; ") and f"symrun push {run.path} {URL} sends" in message


def test_a_place_inside_of_another_run_is_refused(memory, capsys):
    with sent() as run:
        part(run, 0)
    before = there(memory)
    with pytest.raises(UsageError, match=f"{URL}/figures/b lies in the run {URL}: choose another"):
        mirror.push(run, f"{URL}/figures/b")
    assert main(["train", *SETTINGS, f"run.dir={URL}/b"]) == 2
    assert there(memory) == before and not Path("outputs/memory/bucket/mine/b").exists()


def test_a_run_that_never_starts_leaves_nothing_in_the_store(memory):
    with pytest.raises(UsageError, match="batch_size"):
        trained("train.batch_size=41")
    assert there(memory) == {} and not list(Path("outputs").iterdir())


def test_a_run_under_way_elsewhere_is_not_called_killed_while_its_claim_is_renewed(
    memory, monkeypatch
):
    with sent(status="running"):
        until(lambda: "run.json" in there(memory))
        assert RunDirectory.open(URL).is_written()
        monkeypatch.setattr(claim, "_DEAD_SECONDS", 0.0)
        assert not RunDirectory.open(URL).is_written()
    assert not RunDirectory.open(URL).is_written()


# Going on elsewhere


def test_a_stopped_run_goes_on_from_the_store_bit_for_bit(memory, tmp_path, monkeypatch):
    whole = RunDirectory(train(compose([*SETTINGS, f"run.dir={tmp_path}/whole"])))
    stopped_after(5, monkeypatch)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["resume", URL]) == 0
    run = RunDirectory(Path("outputs/memory/bucket/mine"))
    assert run.info().resumed[0].step == 5
    assert there(memory) == files_of(run)
    for name, frame in tables(whole.path).items():
        pd.testing.assert_frame_equal(frame, tables(run.path)[name], check_exact=True)
    (_, first), (_, second) = *checkpoints(whole), *checkpoints(run)
    del first["config"], second["config"]
    assert same(first, second)


def test_the_first_machine_does_not_go_on_once_a_second_did(memory):
    with sent() as run:
        part(run, 0)
    again = {"step": 3, "at": "2026-01-02", "device": "cpu", "reasons": []}
    theirs = json.loads(there(memory)["run.json"]) | {"resumed": [again]}
    memory.pipe_file("/bucket/mine/run.json", json.dumps(theirs).encode())
    before = there(memory)
    with pytest.raises(UsageError, match=f"{URL} has gone on without {run.path}"):
        with written(RunDirectory(run.path, URL)):
            pass
    assert there(memory) == before


def test_a_working_copy_that_is_ahead_is_not_replaced(memory):
    with sent() as run:
        save_checkpoint(run, 5, {}, keep=2)
    save_checkpoint(run, 6, {}, keep=2)
    with pytest.raises(UsageError, match=f"{run.path} has records that {URL} does not have: type"):
        check_out(URL)
    assert run.checkpointed() == [6, 5]


# Pushed later


def test_a_damaged_part_is_not_pushed_as_complete(memory, capsys):
    with sent() as run:
        path = part(run, 0)
    before = there(memory)
    path.write_bytes(path.read_bytes()[:-5] + b"?PAR1")
    assert main(["push", str(run.path)]) == 2
    assert "units cannot be read: part-000000.parquet: damaged" in capsys.readouterr().err
    assert there(memory) == before


def test_a_run_is_pushed_to_its_own_place_unless_another_is_named(memory, capsys):
    with sent(overrides=["data=synthetic", f"run.dir={URL}"]) as run:
        part(run, 0)
    other = "MEMORY://backup/mine"
    assert main(["push", str(run.path), other]) == 0
    assert "complete in MEMORY://backup/mine" in capsys.readouterr().err
    assert memory.exists("/backup/mine/run.json")
    part(run, 1)
    assert main(["push", str(run.path)]) == 0
    assert f"complete in {URL}" in capsys.readouterr().err
    assert memory.exists("/bucket/mine/tables/units/part-000001.parquet")


# A loop of one's own


def test_track_takes_a_url(memory):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs, labels = torch.randn(8, 4), torch.arange(8) % 2

    def steps(tracker, count):
        for _ in range(count):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        return tracker.state_dict()

    with symrun.track(model, optimizer, inputs, URL, every=1) as tracker:
        state = steps(tracker, 5)
    shutil.rmtree("outputs")
    with symrun.track(model, optimizer, inputs, URL, every=1) as tracker:
        tracker.load_state_dict(state)
        steps(tracker, 5)
    assert sorted(set(symrun.open_run(URL).units()["step"])) == list(range(11))

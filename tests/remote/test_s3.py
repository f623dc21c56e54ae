"""A run in a server that speaks S3, in another process, which dies in the middle and comes back."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from killing import same, tables
from stores import SETTINGS, files_of

from symrun.cli import main
from symrun.errors import RunError, Stopped, UsageError
from symrun.launch import compose
from symrun.remote.store import Store
from symrun.runs import mirror
from symrun.runs.checkpoint import checkpoints
from symrun.runs.directory import RunDirectory
from symrun.runs.reading import read_table
from symrun.training.lifecycle import train
from symrun.training.progress import Progress
from symrun.training.signals import StopRequest

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
URL = "s3://bucket/runs/mine"
_SERVE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


class Server:
    """moto's, which keeps its objects in memory: they are gone when it comes back."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._process = None

    def start(self, bucket=True):
        arguments = [sys.executable, "-c", _SERVE, str(self.port)]
        self._process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                path = "/bucket" if bucket else "/moto-api/"
                request = urllib.request.Request(
                    self.address + path, method="PUT" if bucket else "GET"
                )
                request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=a/1/us-east-1/s3/")
                urllib.request.urlopen(request).close()
                return
            time.sleep(0.1)
        raise AssertionError("the server does not start")

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def one_server():
    server = Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(one_server, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", one_server.address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.05)
    yield one_server
    system = Store("s3://bucket/runs")
    for name in system.files():
        system.remove(name)


def in_store():
    store = Store(URL)
    return {name: store.read(name) for name in store.files()}


def at_step(monkeypatch, what):
    """Call what[step]() while that update is under way."""
    updated = Progress.updated

    def watched(self, images):
        updated(self, images)
        what.get(self.updates, lambda: None)()

    monkeypatch.setattr(Progress, "updated", watched)


def trained(*more, stop=None):
    return RunDirectory(train(compose([*SETTINGS, f"run.dir={URL}", *more]), stop))


def test_a_run_is_trained_into_s3_read_from_it_and_resumed_from_it(server, tmp_path, monkeypatch):
    whole = RunDirectory(train(compose([*SETTINGS, f"run.dir={tmp_path}/whole"])))
    stop = StopRequest()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        at_step(patch, {5: lambda: setattr(stop, "requested", "SIGTERM")})
        trained(stop=stop)
    assert in_store() == files_of(RunDirectory(Path("outputs/s3/bucket/runs/mine")))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["resume", URL]) == 0
    run = RunDirectory(Path("outputs/s3/bucket/runs/mine"))
    assert in_store() == files_of(run)
    for name, frame in tables(whole.path).items():
        pd.testing.assert_frame_equal(frame, tables(run.path)[name], check_exact=True)
    (_, first), (_, second) = *checkpoints(whole), *checkpoints(run)
    del first["config"], second["config"]
    assert same(first, second)
    assert main(["check", URL]) == 0


def test_a_server_that_dies_and_comes_back_empty_has_all_in_the_end(server, monkeypatch, caplog):
    def die():
        end = time.monotonic() + 30
        while "run.json" not in Store(URL).files():
            assert time.monotonic() < end
            time.sleep(0.05)
        server.stop()

    at_step(monkeypatch, {2: die, 6: server.start})
    run = trained()
    assert in_store() == files_of(run)


@pytest.mark.slow
def test_a_server_that_stays_away_leaves_a_run_that_is_pushed_later(server, monkeypatch):
    monkeypatch.setattr(mirror, "_LAST_TRIES", 1)
    at_step(monkeypatch, {2: server.stop})
    with pytest.raises(
        RunError, match="cannot be reached.*symrun push outputs/s3/bucket/runs/mine"
    ):
        trained()
    run = RunDirectory.open("outputs/s3/bucket/runs/mine")
    assert run.info().status == "finished"
    server.start()
    assert main(["push", str(run.path)]) == 0
    assert in_store() == files_of(run)


def test_what_is_wrong_at_the_start_is_one_line_and_leaves_nothing(server, monkeypatch, capsys):
    arguments = ["train", *SETTINGS]
    assert main([*arguments, "run.dir=s3://nowhere/mine"]) == 2
    assert "there is no s3://nowhere: make it" in capsys.readouterr().err
    system = pytest.importorskip("s3fs").S3FileSystem
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        system.clear_instance_cache()
        assert main([*arguments, "run.dir=s3://bucket/runs/dead"]) == 2
        assert "the store cannot be reached" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        system.clear_instance_cache()
        assert main([*arguments, "run.dir=s3://bucket/runs/keyless"]) == 2
        assert "set AWS_ACCESS_KEY_ID" in capsys.readouterr().err
    system.clear_instance_cache()
    assert not list(Path("outputs").iterdir())


@pytest.mark.slow
def test_what_a_killed_run_left_in_the_store_is_a_run_or_none(server, tmp_path, monkeypatch):
    """20 kills at random instants; each time it goes on, here or from the store as if elsewhere."""
    steps = ["train.steps=400", "train.checkpoint_every=5", "track.every=1"]
    whole = RunDirectory(train(compose([*SETTINGS, *steps, f"run.dir={tmp_path}/whole"])))
    expected, chance = tables(whole.path), random.Random(1)
    code = "import sys; from symrun.runs import writer, mirror; writer.FLUSH_SECONDS = 0.1; "
    code += "mirror.LOOK_SECONDS = 0.05; from symrun.cli import main; sys.exit(main())"
    kills, readable, ended = 0, 0, True
    while kills < 20:
        if ended:
            for name in Store(URL).files():
                Store(URL).remove(name)
            shutil.rmtree("outputs", ignore_errors=True)
            words = ["train", *SETTINGS, *steps, f"run.dir={URL}"]
        elif "run.json" in Store(URL).files() and chance.random() < 0.5:
            Store(URL).remove(".claim")  # as after five minutes
            shutil.rmtree("outputs")
            words = ["resume", URL]
        elif (working := RunDirectory(Path("outputs/s3/bucket/runs/mine"))).run_json.exists():
            words = ["resume", str(working.path)]
        else:  # killed before it had begun
            ended = True
            continue
        with open("log", "ab") as log:
            process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=log, stdout=log)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(3, 9))
        ended = process.poll() is not None
        assert not ended or process.returncode == 0, Path("log").read_text()
        process.kill()
        process.wait()
        kills += not ended
        if "run.json" not in Store(URL).files():
            continue
        run = RunDirectory.open(URL, checkpoints=True)
        readable += 1
        for name in ("units", "parameters"):
            if run.table(name).exists() and any(run.table(name).iterdir()):
                rows = read_table(run, name)
                found = tables(run.path)[name]
                present = expected[name]["step"].isin(found["step"])
                assert len(rows) == len(found) == present.sum(), f"{name} has a gap"
        for _, content in checkpoints(run):
            assert not isinstance(content, UsageError)
            for table, count in content["parts"].items():
                assert all(run.part(table, number).exists() for number in range(count))
    print(f"{kills} kills, {readable} times a run")
    assert readable > 0

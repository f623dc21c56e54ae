"""`symrun report --serve`: this machine's browser alone, and each state of the tables once."""

import http.client
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from made_small import MADE_SMALL
from started import started

from symrun.bench.tables import make_run
from symrun.cli import main
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.report import html_page, serve
from symrun.report.serve import ReportServer
from symrun.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = [*MADE_SMALL, "model=vgg11_bn", "train.steps=8", "track.every=1"]
    return make_run(tmp_path_factory.mktemp("made") / "run", compose(settings), records_per_part=4)


@pytest.fixture
def run(made, tmp_path):
    """A copy that a test may change."""
    return RunDirectory(shutil.copytree(made.path, tmp_path / "run"))


@contextmanager
def serving(runs):
    with ReportServer(runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path="/", host=None):
    """Status, kind and text of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers["Content-Type"], text


def grow(run):
    """As a run under way does: a part more, by a name that sorts last."""
    parts = sorted(run.table("units").glob("part-*"))
    held = parts[-1].read_bytes()
    parts[-1].unlink()
    return lambda: parts[-1].write_bytes(held)


def test_the_page_is_that_of_the_newest_tables(run):
    files = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    with serving([run]) as server:
        status, kind, text = ask(server)
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert f'data-state="{ask(server, "/state")[2]}"' in text
        assert ask(server)[2] == text
        assert files == {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
        put_back = grow(run)
        shorter = ask(server)[2]
        assert "over updates 0 to 4:" in shorter and "over updates 0 to 8:" in text
        put_back()
        assert "over updates 0 to 8:" in ask(server)[2]
        assert ask(server, "/run.json")[0] == 404


def test_a_page_is_made_once_for_all_who_ask(run, monkeypatch):
    made = []

    def slowly(runs, state):
        made.append(state)
        time.sleep(0.3)
        return f"page {state}"

    monkeypatch.setattr(serve, "page", slowly)
    with serving([run]) as server, ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: ask(server), range(8)))
    assert len(made) == 1 and answers == {(200, "text/html; charset=utf-8", f"page {made[0]}")}


def test_a_page_that_took_long_is_made_less_often(run, monkeypatch):
    now = [0.0]

    def pause_after(seconds):
        def draw(*_):
            now[0] += seconds
            return []

        monkeypatch.setattr(html_page, "draw", draw)
        return float(re.search(r'data-pause="(.*?)"', html_page.page([run], "one"))[1])

    monkeypatch.setattr(html_page, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert pause_after(2.9) == 30
    assert pause_after(3.1) == 31


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1"]
)
def test_another_name_than_this_machines_is_refused(run, host):
    with serving([run]) as server:
        for path in ("/", "/state"):
            status, _, text = ask(server, path, host.format(port=server.server_port))
            assert status == 403 and "symrun" not in text
        assert ask(server, "/state", f"localhost:{server.server_port}")[0] == 200
        assert server.server_address[0] == "127.0.0.1"


def test_a_run_without_two_records_is_waited_for(run):
    for part in sorted(run.table("units").glob("part-*"))[1:]:
        part.unlink()
    with serving([run]) as server:
        status, _, text = ask(server)
        assert status == 503 and "has a single record so far" in text and "refresh" in text


def test_a_port_that_is_taken_is_one_line(run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=f"--port={port}: another program has it: name another"
        ):
            ReportServer([run], port)
        assert main(["report", "--serve", str(run.path), "--port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"symrun: --port={port}: another program has it")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "80"], "--port has no effect without --serve"),
        (["--serve", "--out", "page.html"], "--out has no effect with --serve"),
        (["--serve", "--port", "65536"], "--port must be in [0, 65535], got 65536"),
    ],
)
def test_options_that_do_not_go_together(run, capsys, words, message):
    assert main(["report", str(run.path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_ctrl_c_ends_it(run):
    command = [sys.executable, "-m", "symrun", "report", "--serve", str(run.path), "--port", "0"]
    pipe = subprocess.PIPE
    with started(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors == "symrun: interrupted\n"


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_page_that_was_served_loads_itself_anew_and_keeps_the_choices(
    run, opened, wait, monkeypatch, by_itself
):
    if by_itself:
        monkeypatch.setattr(html_page, "_PAUSE_SECONDS", 0)
        monkeypatch.setattr(html_page, "_PAUSES", 0)
    put_back = grow(run)
    with serving([run]) as server, opened(server.address) as page:
        page.locator("#symmetry").select_option("rescale")
        page.locator("[data-finds]").fill("flow")
        assert page.locator("#step").inner_text() == "update 4"
        state = page.evaluate("document.documentElement.dataset.state")
        newer = page.get_by_role("button", name="Newer data")
        assert not newer.is_visible()
        put_back()
        if not by_itself:
            newer.wait_for()
            page.wait_for_timeout(5000)  # it asks every 2 seconds
            assert page.evaluate("document.documentElement.dataset.state") == state
            newer.click()
        wait(page, f"document.documentElement.dataset.state !== '{state}'")
        page.wait_for_load_state()
        assert "over updates 0 to 8:" in page.locator("#curves").get_attribute("aria-label")
        assert page.locator("#symmetry").input_value() == "rescale"
        assert page.locator("[data-finds]").input_value() == "flow"

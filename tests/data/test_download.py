"""The download against a server on this machine that misbehaves in every way that servers do."""

import hashlib
import itertools
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pytest
from started import started

from symrun.data import download as module
from symrun.data.download import download
from symrun.errors import UsageError
from symrun.files import locked

CONTENT = Random(0).randbytes(300_000)
SIZE = len(CONTENT)


class Server(ThreadingHTTPServer):
    """Serves `content`, with the faults that its attributes name.

    drops: after how many bytes each connection ends; no more of them: none does. before_reset:
    called before it ends as after a crash, if there is one. stalls: it stays open instead, with
    nothing more coming. length: what Content-Length claims, None for no such field.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.status: int | None = None
        self.refuses_ranges = False
        self.drops: Iterator[int] = iter(())
        self.before_reset: Callable[[], object] | None = None
        self.stalls = False
        self.length: str | None = str(SIZE)
        self.content_range: str | None = None
        self.reason: str | None = None
        self.on_request: Callable[[], object] = lambda: None
        self.closing = threading.Event()
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some.zip"

    def handle_error(self, *_: object) -> None:
        """A client that goes is no fault of the server's."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        server.on_request()
        if server.status or (asked and server.refuses_ranges):
            self.send_response(server.status or 416, server.reason)
            self.end_headers()
            return
        start = 0
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206, server.reason)
            whole = f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            self.send_header("Content-Range", server.content_range or whole)
        else:
            self.send_response(200, server.reason)
            if server.length is not None:
                self.send_header("Content-Length", server.length)
        self.end_headers()
        self.wfile.write(server.content[start:][: next(server.drops, None)])
        self.wfile.flush()
        if server.stalls:
            server.closing.wait(30)
        if server.before_reset:
            server.before_reset()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(module, "URL", server.url)
        monkeypatch.setattr(module, "SIZE_BYTES", SIZE)
        monkeypatch.setattr(module, "MD5", hashlib.md5(CONTENT).hexdigest())
        monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 10.0)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def part_in(cache: Path) -> Path:
    return cache / ".tiny-imagenet-200.zip.part"


def begun(cache: Path, content: bytes) -> Path:
    cache.mkdir()
    part_in(cache).write_bytes(content)
    return part_in(cache)


def wait_for_bytes(cache: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not part_in(cache).exists() or part_in(cache).stat().st_size < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_whole(cache: Path) -> None:
    """The archive is there, and no other file save the lock."""
    assert (cache / "tiny-imagenet-200.zip").read_bytes() == CONTENT
    assert len(list(cache.iterdir())) == 2 and not part_in(cache).exists()


def refusal(cache: Path) -> str:
    with pytest.raises(UsageError) as error:
        download(cache)
    (line,) = str(error.value).splitlines()
    assert line.isprintable()
    return line


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("every_line_of_a_bar")
def test_whole_at_once(server: Server, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download(cache) == cache / "tiny-imagenet-200.zip"
    assert_whole(cache)
    assert server.asked == [None]
    output = capsys.readouterr()
    assert output.out == "" and "100%" in output.err and "293k/293k" in output.err  # kB of 1024


def test_dropped_connection_goes_on_where_it_stopped(server: Server, cache: Path) -> None:
    server.drops = iter([100_000, 50_000])
    download(cache)
    assert_whole(cache)
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_connection_that_is_reset_goes_on_where_it_stopped(server: Server, cache: Path) -> None:
    def once_some_has_come() -> None:  # a reset overtakes what is on its way
        wait_for_bytes(cache, 50_000)
        server.before_reset = None

    server.drops, server.before_reset = iter([100_000]), once_some_has_come
    download(cache)
    assert_whole(cache)
    first, again = server.asked
    assert first is None and again is not None
    assert 50_000 <= int(again.removeprefix("bytes=").removesuffix("-")) <= 100_000


def test_an_attempt_that_brings_nothing_is_the_last_and_the_next_call_goes_on(
    server: Server, cache: Path
) -> None:
    server.drops = iter([1000, 0])
    message = refusal(cache)
    assert f"came to 1000 of {SIZE} bytes (the connection ended early)" in message
    assert "run again to go on from there" in message and "data.root=DIR" in message
    assert not (cache / "tiny-imagenet-200.zip").exists()
    download(cache)
    assert_whole(cache)
    assert server.asked == [None, "bytes=1000-", "bytes=1000-"]


def test_attempts_are_limited(server: Server, cache: Path) -> None:
    server.drops = itertools.repeat(10)
    assert f"came to 100 of {SIZE} bytes" in refusal(cache)
    assert len(server.asked) == 10


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_bytes_outlive_the_process(server: Server, cache: Path, end: signal.Signals) -> None:
    server.drops, server.stalls = iter([123_456]), True
    code = f"""
from pathlib import Path
from symrun.data import download as module
module.URL, module.SIZE_BYTES = {server.url!r}, {SIZE}
module.download(Path({str(cache)!r}))
"""
    with started([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        wait_for_bytes(cache, 100_000)
        process.send_signal(end)
        assert process.wait(30) == -end
    kept = part_in(cache).stat().st_size
    assert part_in(cache).read_bytes() == CONTENT[:kept]
    server.stalls = False
    download(cache)
    assert_whole(cache)
    assert server.asked == [None, f"bytes={kept}-"]


def test_archive_is_on_the_disk_before_it_has_its_name(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[int, bool]] = []

    def watched(descriptor: int) -> None:
        named = (cache / "tiny-imagenet-200.zip").exists()
        flushed.append((os.fstat(descriptor).st_size, named))

    monkeypatch.setattr(os, "fsync", watched)
    download(cache)
    assert flushed == [(SIZE, False)]


def test_server_without_ranges_sends_all_again(server: Server, cache: Path) -> None:
    server.ranges, server.drops = False, iter([100_000])
    download(cache)
    assert_whole(cache)
    assert server.asked == [None, "bytes=100000-"]


def test_server_without_ranges_that_drops_sooner_takes_nothing_away(
    server: Server, cache: Path
) -> None:
    server.ranges, server.drops = False, iter([100_000, 50_000])
    assert f"came to 100000 of {SIZE} bytes" in refusal(cache)
    assert part_in(cache).read_bytes() == CONTENT[:100_000]


def test_server_that_refuses_the_range_is_asked_for_the_whole(server: Server, cache: Path) -> None:
    begun(cache, CONTENT[:1000])
    server.refuses_ranges = True
    download(cache)
    assert_whole(cache)
    assert server.asked == ["bytes=1000-", None]


def test_bytes_that_were_whole_already_are_not_asked_for(server: Server, cache: Path) -> None:
    """A process that was killed between the last byte and the rename."""
    begun(cache, CONTENT)
    download(cache)
    assert_whole(cache)
    assert server.asked == []


@pytest.mark.parametrize(
    "content", [CONTENT[:1000] + b"?" + CONTENT[1001:], CONTENT + b"?"], ids=["damaged", "longer"]
)
def test_wrong_digest_removes_our_bytes_so_that_the_next_call_starts_afresh(
    server: Server, cache: Path, content: bytes
) -> None:
    part = begun(cache, content)
    message = refusal(cache)
    digest = hashlib.md5(content).hexdigest()
    assert message.startswith(f"the download of tiny-imagenet-200.zip has MD5 {digest} instead")
    assert "data.root=DIR" in message
    assert not part.exists() and not (cache / "tiny-imagenet-200.zip").exists()
    download(cache)
    assert_whole(cache)
    assert server.asked == [None]


def test_wrong_content_of_the_right_length_is_refused(server: Server, cache: Path) -> None:
    server.content = bytes(SIZE)
    assert "has MD5" in refusal(cache)
    assert list(cache.glob("*")) == [cache / ".tiny-imagenet-200.zip.lock"]


def another_file(server: Server) -> None:
    """The login page of a wireless network."""
    server.content, server.ranges, server.length = b"<html>", False, "6"


def longer_by_its_header(server: Server) -> None:
    server.ranges, server.length = False, str(SIZE + 1)


def senseless_length(server: Server) -> None:
    server.ranges, server.length = False, "-1"


def part_of_another_file(server: Server) -> None:
    server.content_range = f"bytes 1000-2000/{SIZE + 1}"


def another_part(server: Server) -> None:
    server.content_range = f"bytes 0-{SIZE - 1}/{SIZE}"


def senseless_range(server: Server) -> None:
    server.content_range = "\x1b[2J\x85 bytes"


@pytest.mark.parametrize(
    "fault",
    [
        another_file,
        longer_by_its_header,
        senseless_length,
        part_of_another_file,
        another_part,
        senseless_range,
    ],
)
def test_another_file_is_refused_before_a_byte_of_ours_changes(
    server: Server, cache: Path, fault: Callable[[Server], None]
) -> None:
    part = begun(cache, CONTENT[:1000])
    fault(server)
    assert "(the server has another file, of Content-" in refusal(cache)
    assert part.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    "content_range", [f"bytes 1000-{SIZE - 1}/*", f"bytes 1000-50000/{SIZE}"], ids=["total", "end"]
)
def test_range_may_leave_open_the_total_or_end_sooner(
    server: Server, cache: Path, content_range: str
) -> None:
    begun(cache, CONTENT[:1000])
    server.content_range = content_range
    download(cache)
    assert_whole(cache)


def test_without_a_length_the_size_decides(server: Server, cache: Path) -> None:
    server.length, server.ranges, server.drops = None, False, iter([100_000, 100_000])
    assert f"came to 100000 of {SIZE} bytes" in refusal(cache)
    download(cache)
    assert_whole(cache)


def test_answer_without_end_is_read_no_further_than_the_archive(
    server: Server, cache: Path
) -> None:
    server.length, server.content = None, CONTENT + bytes(10**6)
    download(cache)
    assert_whole(cache)


@pytest.mark.parametrize("status", [404, 416, 500, 503])
def test_refused_request_keeps_what_is_there(server: Server, cache: Path, status: int) -> None:
    part = begun(cache, CONTENT[:1000])
    server.status, server.reason = status, "No\x1b[2J\x85 luck"
    assert f"came to 1000 of {SIZE} bytes (HTTP Error {status}: No\\x1b" in refusal(cache)
    assert part.read_bytes() == CONTENT[:1000]


def test_unreachable_server_keeps_what_is_there(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = begun(cache, CONTENT[:1000])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and listens not
        monkeypatch.setattr(module, "URL", f"http://127.0.0.1:{unused.getsockname()[1]}/")
        assert "refused" in refusal(cache)
    assert part.read_bytes() == CONTENT[:1000]


def test_silent_server_is_given_up(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.2)
    server.drops, server.stalls = iter([1000, 0]), True
    assert f"came to 1000 of {SIZE} bytes (timed out)" in refusal(cache)


@pytest.mark.parametrize("answer", [b"", b"\0\xff\n\n", b"HTTP/9 abc\r\n\r\n", b"HTTP/1.1 200\r\n"])
def test_answer_that_is_no_http_is_refused(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    def speak(handler: Handler) -> None:
        handler.wfile.write(answer)

    monkeypatch.setattr(Handler, "do_GET", speak)
    assert f"came to 0 of {SIZE} bytes" in refusal(cache)


def regular_file(archive: Path) -> None:
    archive.write_bytes(b"the user's own")


def empty_file(archive: Path) -> None:
    archive.touch()


def folder(archive: Path) -> None:
    archive.mkdir()


def link_that_leads_nowhere(archive: Path) -> None:
    archive.symlink_to("a disk that is not mounted")


def state(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns


USERS_OWN = [regular_file, empty_file, folder, link_that_leads_nowhere]


@pytest.mark.parametrize("put", USERS_OWN)
def test_what_has_the_name_already_stays(
    server: Server, cache: Path, put: Callable[[Path], None]
) -> None:
    cache.mkdir()
    archive = cache / "tiny-imagenet-200.zip"
    put(archive)
    before = state(archive)
    assert download(cache) == archive
    assert state(archive) == before and list(cache.iterdir()) == [archive]
    assert server.asked == []


@pytest.mark.parametrize("put", USERS_OWN)
def test_what_gets_the_name_meanwhile_stays(
    server: Server, cache: Path, put: Callable[[Path], None]
) -> None:
    archive = cache / "tiny-imagenet-200.zip"
    states: list[tuple[int, int, int]] = []

    def act() -> None:
        put(archive)
        states.append(state(archive))

    server.on_request = act
    assert download(cache) == archive
    assert [state(archive)] == states and not part_in(cache).exists()


def test_of_two_at_once_one_downloads(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_came = threading.Barrier(2, timeout=30)

    @contextmanager
    def watched(path: Path, wait: bool) -> Iterator[None]:
        both_came.wait()
        with locked(path, wait):
            yield

    monkeypatch.setattr(module, "locked", watched)
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(download(cache))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [cache / "tiny-imagenet-200.zip"] * 2
    assert_whole(cache)
    assert server.asked == [None]


def test_full_disk_keeps_what_has_come(server: Server, cache: Path) -> None:
    with files_of_at_most(200_000):
        message = refusal(cache)
    assert (
        f"cannot be stored in data.cache={cache}" in message and "what has come is kept" in message
    )
    assert part_in(cache).read_bytes() == CONTENT[:200_000]
    download(cache)
    assert_whole(cache)
    assert server.asked == [None, "bytes=200000-"]


def test_cache_that_cannot_be_made_is_refused(server: Server, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert f"cannot be stored in data.cache={cache}" in refusal(cache)
    assert server.asked == []


def test_damage_to_the_disk_is_not_taken_for_the_network(server: Server, cache: Path) -> None:
    """The partial file of ours, made a folder: nothing of it is removed."""
    cache.mkdir()
    (part_in(cache) / "inside").mkdir(parents=True)
    assert "cannot be stored" in refusal(cache)
    assert os.listdir(part_in(cache)) == ["inside"]

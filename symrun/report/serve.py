"""`symrun report --serve`: the page on this machine alone, made anew once tables change."""

import errno
import hashlib
import html
import logging
import sys
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from symrun.errors import UsageError, in_one_line, refusal
from symrun.report.html_page import page
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.reading import parts_of

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"


class ReportServer(ThreadingHTTPServer):
    """Answers / with the page of `runs` and /state with what tells its tables from newer ones.

    It writes nothing. port: 0 for any that is free; `address` tells which.
    Error: UsageError if the port is taken or may not be had.
    """

    daemon_threads = True

    def __init__(self, runs: Sequence[RunDirectory], port: int) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._made = ("", "")
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "another program has it" if taken else refusal(error)
            raise UsageError(
                f"--port={port}: {reason}: name another, or 0 for a free one"
            ) from None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def state(self) -> str:
        """What changes with run.json and with each part of a table."""
        for run in self._runs:
            run.refresh()
        files = [run.run_json for run in self._runs]
        files += [part for run in self._runs for name in TABLES for part in parts_of(run, name)]
        stamps = []
        for file in files:
            try:
                stamp = file.stat()
            except OSError:  # it is being replaced
                continue
            stamps.append(f"{file} {stamp.st_mtime_ns} {stamp.st_size}")
        return hashlib.sha256("\n".join(stamps).encode(errors="surrogateescape")).hexdigest()[:16]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say in one line why a request failed; nothing of a browser that went away."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            _log.warning("a request failed: %s", in_one_line(error))

    def page(self) -> str:
        """The page of the tables as they are now, made once for all who ask meanwhile.

        Error: UsageError as in `html_page.page`.
        """
        with self._lock:
            state = self.state()
            if state != self._made[0]:
                self._made = (state, page(self._runs, state))
            return self._made[1]


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self._names():
            # Else a page from elsewhere, whose name leads here, could read what only this user may
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "this server is for its own machine")
        elif self.path == "/state":
            self._answer(HTTPStatus.OK, "text/plain", self.server.state())
        elif self.path == "/":
            self._answer_page()
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is / alone")

    def _names(self) -> set[str]:
        return {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}

    def _answer_page(self) -> None:
        try:
            self._answer(HTTPStatus.OK, "text/html", self.server.page())
        except UsageError as error:
            text = _WAITING.format(html.escape(str(error)))
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/html", text)

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode(errors="backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        _log.debug(format, *arguments)


_WAITING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<title>symrun: no report yet</title></head>
<body><h1>There is no report yet</h1><p>{}</p><p>This page tries again every 3 seconds.</p></body>
</html>
"""

"""Warnings as the command line shows them."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

from symrun.errors import in_one_line


class _OneLine(logging.Handler):
    """Shows a warning as one line on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = in_one_line(f"symrun: {record.levelname.lower()}: {record.getMessage()}")
        tqdm = sys.modules.get("tqdm")
        (tqdm.tqdm.write if tqdm else print)(line, file=sys.stderr)


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show symrun's own warnings, and those of other libraries, as one line each."""
    log, handler = logging.getLogger("symrun"), _OneLine()
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: log.warning("%s", message)
            yield
    finally:
        log.removeHandler(handler)

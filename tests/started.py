"""Processes that a test starts, which end with it."""

import contextlib
import subprocess


@contextlib.contextmanager
def started(command, **options):
    """subprocess.Popen, killed where the test failed before the process had ended."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()

"""The command line: each command is a file of `commands/`, and each error becomes one line."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator

from symrun import __version__, ranks
from symrun.commands import (
    bench,
    check,
    collect,
    compare,
    completion,
    data,
    plot,
    push,
    report,
    resume,
    runs,
    show,
    symmetries,
    thin,
    train,
    watch,
)
from symrun.commands.parser import Parser
from symrun.display import guarded
from symrun.errors import Interrupted, SymrunError, in_one_line, refusal

_RESULTS_ARE_PRINTED = ("check", "symmetries", "bench", "runs", "show", "compare", "watch")
"""Commands that fail once their output can no longer be written; others go on without it."""

_ON_SEVERAL_PROCESSES = ("train", "resume")
"""Commands that torchrun may start on several processes, which then work together."""

_COMMANDS = (
    *(train, resume, runs, show, compare, watch, plot, check, symmetries, report, thin, push),
    *(collect, data, bench, completion),
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 wrong usage, 75 stopped and saved,
    130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = next(iter(arguments), "")

    def run() -> int:
        with ranks.losses_in_one_line():
            return _run(arguments)

    def act() -> int:
        return exit_code("symrun", run, command in _RESULTS_ARE_PRINTED)

    if command in _ON_SEVERAL_PROCESSES and ranks.started():
        return exit_code("symrun", lambda: ranks.together(act))
    return act()


def exit_code(program: str, act: Callable[[], int], output_needed: bool = True) -> int:
    """Return what `act` returns. If it fails in a way that the user can mend, print one line that
    begins with `program` and return the exit code of that failure.

    output_needed: as in `guarded`.
    Example: exit_code("publish", lambda: 0) == 0
    """
    with guarded(output_needed):
        try:
            code = act()
            sys.stdout.flush()
            return code
        except SymrunError as error:
            print(in_one_line(f"{program}: {error}"), file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print(f"{program}: interrupted", file=sys.stderr)
            return Interrupted.exit_code
        except BrokenPipeError:  # `symrun check RUN | head`
            return 1
        except OSError as error:  # without a name: `symrun check RUN > FILE`
            where = "standard output" if error.filename is None else in_one_line(error.filename)
            print(f"{program}: {where}: {refusal(error)}", file=sys.stderr)
            return 1
        except MemoryError as error:
            print(f"{program}: {str(error) or 'out of memory'}", file=sys.stderr)
            return 1


class _OneLine(logging.Handler):
    """Shows a warning as one line on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = in_one_line(f"symrun: {record.levelname.lower()}: {record.getMessage()}")
        tqdm = sys.modules.get("tqdm")
        (tqdm.tqdm.write if tqdm else print)(line, file=sys.stderr)


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show symrun's own warnings, and those of other libraries, as one line each."""
    log, handler = logging.getLogger("symrun"), _OneLine()
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: log.warning("%s", message)
            yield
    finally:
        log.removeHandler(handler)


def _run(arguments: list[str]) -> int:
    parser = _parser()
    completion.answer(parser)
    options = parser.parse_args(arguments)
    options.arguments = arguments[1:]
    with _warnings_in_one_line():
        return int(options.run(options))


def _parser() -> Parser:
    parser = Parser(
        prog="symrun", description="The mechanics of learning, tested.", example="symrun --help"
    )
    parser.add_argument("--version", action="version", version=f"symrun {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser

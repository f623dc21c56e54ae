"""The command line: each command is a file of `commands/`, and each error becomes one line."""

import sys
from collections.abc import Callable

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
from symrun.warned import warnings_in_one_line

_RESULTS_ARE_PRINTED = ("check", "symmetries", "bench", "runs", "show", "compare", "watch")
"""Commands that fail once nobody can take their output; others go on without it."""

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
    output_needed = bool(arguments) and arguments[0] in _RESULTS_ARE_PRINTED

    def run() -> int:
        with ranks.losses_in_one_line():
            return _run(arguments)

    def act() -> int:
        return exit_code("symrun", run, output_needed)

    if arguments[:1] and arguments[0] in _ON_SEVERAL_PROCESSES and ranks.started():
        return exit_code("symrun", lambda: ranks.together(act))
    return act()


def exit_code(program: str, act: Callable[[], int], output_needed: bool = True) -> int:
    """Return what `act` returns. If it fails in a way that the user can mend, print one line that
    begins with `program` and return the exit code of that failure.

    output_needed: as in `guarded`.
    Example: exit_code("publish", lambda: 0) == 0
    """
    with guarded(output_needed):
        return _explained(program, act)


def _explained(program: str, act: Callable[[], int]) -> int:
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


def _run(arguments: list[str]) -> int:
    parser = _parser()
    completion.answer(parser)
    options = parser.parse_args(arguments)
    options.arguments = arguments[1:]
    with warnings_in_one_line():
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

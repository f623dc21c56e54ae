"""`symrun completion`: what a shell offers at the press of Tab."""

import argparse
import os

from symrun.commands.parser import Commands, Parser


def add(commands: Commands) -> None:
    completion = commands.add_parser(
        "completion",
        help="the shell's completion: source <(symrun completion bash)",
        example="symrun completion bash",
    )
    completion.add_argument("shell", metavar="SHELL", choices=("bash", "zsh"))
    completion.set_defaults(run=_run)


def answer(parser: Parser) -> None:
    """If a shell asks what may come next, tell it and end the process."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def _run(options: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["symrun"], shell=options.shell))
    return 0

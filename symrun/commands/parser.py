"""Argparse with symrun's own words: a wrong argument is one line that says what to type."""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from symrun.errors import UsageError, did_you_mean, nearest
from symrun.places import is_url

_ELSEWHERE = {
    **dict.fromkeys(("-sc", "--shell-completion"), "symrun completion bash"),
    **dict.fromkeys(("-cn", "--config-name", "-cp", "--config-path"), "experiment=NAME"),
    "--hydra-help": "symrun train --help",
}
"""What to type for an option that Hydra has and symrun has not."""


class Commands(Protocol):
    """Where a command's parser is added."""

    def add_parser(self, name: str, **keywords: Any) -> "Parser": ...


class Parser(argparse.ArgumentParser):
    """Of one command.

    example: the command as one may type it; it stands in the message if an argument is missing.
    Settings may stand between the options of a command that takes them.

    Error: UsageError wherever argparse would print its own message and exit.
    """

    def __init__(self, *, example: str = "", **keywords: Any) -> None:
        super().__init__(**keywords)
        self._example = example
        self._given: list[str] = []

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        args = self._given = list(sys.argv[1:] if args is None else args)
        options, rest = super().parse_known_args(args, namespace)
        for place, word in enumerate(rest):
            if word.startswith("-"):
                raise UsageError(self._unknown_option(word, rest[place + 1 :], options))
        if "overrides" in options:
            options.overrides += rest  # argparse stops at the first option in between
        elif "words" in options:
            options.words += rest
        elif rest:
            raise UsageError(f"{self.prog} takes no {rest[0]} here: type {self._example}")
        return options, []

    def error(self, message: str) -> NoReturn:
        """Error: UsageError, always."""
        raise UsageError(self._in_our_words(message))

    def _in_our_words(self, message: str) -> str:
        if found := re.fullmatch(r"the following arguments are required: (.*)", message):
            known = tuple(self._option_string_actions)
            for word in self._given:
                option = word.partition("=")[0]
                if word.startswith("-") and not any(name.startswith(option) for name in known):
                    return self._unknown_option(word, [], argparse.Namespace())
            optional = {action.metavar for action in self._actions if action.nargs == "*"}
            named = [name for name in found[1].split(", ") if name not in optional]
            return f"{self.prog} needs {' and '.join(named)}: type {self._example}"
        found = re.match(r"(?:argument (\S+): )?(.*)", message, re.DOTALL)
        assert found is not None
        name, reason = found[1] or self.prog, found[2]
        if wrong := re.match(r"invalid choice: '(.*)' \(choose from (.*)\)", reason, re.DOTALL):
            choices = re.findall(r"[\w-]+", wrong[2])
            meant = did_you_mean(wrong[1], choices)
            return f"{name} must be one of {', '.join(choices)}, got {wrong[1]}{meant}"
        if wrong := re.match(r"invalid (int|float) value: '(.*)'", reason, re.DOTALL):
            kind = "a whole number" if wrong[1] == "int" else "a number"
            return f"{name} must be {kind}, got {wrong[2]}"
        if wrong := re.match(r"ignored explicit argument '(.*)'", reason, re.DOTALL):
            return f"{name} takes no value, got {wrong[1]}: type {name} alone"
        if wrong := re.match(r"ambiguous option: (.*) could match (.*)", reason):
            return f"{wrong[1]} may be {wrong[2]}: type one of them in full"
        if reason.startswith("expected"):
            metavar = next(a.metavar for a in self._actions if name in "/".join(a.option_strings))
            return f"{name} needs a value: type {name.split('/')[0]} {metavar}"
        return f"{name}: {reason}"

    def _unknown_option(self, word: str, rest: list[str], options: argparse.Namespace) -> str:
        name = word.partition("=")[0]
        if name in _ELSEWHERE:
            return f"{self.prog} has no option {name}: type {_ELSEWHERE[name]}"
        if "overrides" in options:
            from symrun.overrides import suggestion

            typed = suggestion(word, [*rest, *options.overrides])
            if typed is not None and not nearest(name, self._option_string_actions, 0.8):
                return f"{word}: a setting has no dashes: type {typed}"
        meant = did_you_mean(name, self._option_string_actions)
        remedy = meant or f": {self.prog} --help lists them"
        return f"{self.prog} has no option {name}{remedy}"


def folder(text: str) -> Path:
    """A place of this machine to write to, which argparse gives this function to read."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{text} is in a store: name a place of this machine")
    return Path(text)


def add_overrides(parser: Parser, meaning: str) -> None:
    """Let a command take settings. meaning: its help says so."""
    settings: Any = parser.add_argument("overrides", metavar="SETTING", nargs="*", help=meaning)
    settings.completer = _completions  # argcomplete's own attribute


def _completions(prefix: str, **_: object) -> list[str]:
    from symrun.overrides import completions

    return completions(prefix)

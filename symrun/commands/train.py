"""`symrun train`: its options, most of which are Hydra's."""

import argparse
from pathlib import Path
from typing import Any

from symrun.commands.parser import Commands, add_overrides
from symrun.errors import UsageError

_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_GROUPS = ("model", "data", "task", "optim", "train", "track", "run", "sweep")
_PACKAGES = ("_global_", *_GROUPS, "hydra")
_OPTIONS: tuple[Any, ...] = (
    ("-m", "--multirun", "a sweep: settings may list values", {"action": "store_true"}),
    ("--config-dir", "-cd", "a folder with presets of your own", {"metavar": "DIR", "type": Path}),
    ("--cfg", "-c", "print the settings (job) and do nothing",
     {"choices": ["job", "hydra", "all"]}),
    ("--resolve", "with --cfg: references as values", {"action": "store_true"}),
    ("--package", "-p", "with --cfg: one group alone", {"choices": _PACKAGES}),
    ("--info", "-i", "what Hydra composed the settings from",
     {"nargs": "?", "const": "all", "choices": _INFO}),
    ("--help", "-h", "this page, for the settings given", {"action": "store_true"}),
)  # fmt: skip


def add(commands: Commands) -> None:
    train = commands.add_parser(
        "train",
        help="train a network and record its conserved quantities (settings: symrun train --help)",
        add_help=False,
    )
    add_overrides(train, "NAME=VALUE")
    for *names, what, keywords in _OPTIONS:
        train.add_argument(*names, help=what, **keywords)
    train.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.launch import launch, show, show_help

    settings = options.overrides
    if options.config_dir is not None:
        if not options.config_dir.is_dir():
            raise UsageError(f"--config-dir must be a folder of presets, got {options.config_dir}")
        settings.append(f"hydra.searchpath=['file://{options.config_dir.absolute()}']")
    for name in ("resolve", "package"):
        if getattr(options, name) and not options.cfg:
            raise UsageError(f"--{name} needs --cfg: type --cfg job --{name}")
    alone = {"-m": options.multirun, "--cfg": options.cfg, "--info": options.info}
    given = [name for name, value in alone.items() if value]
    if len(given) > 1 and not options.help:
        raise UsageError(f"{' and '.join(given)} do not go together: leave one out")
    if options.help:
        show_help(settings, {", ".join(names): what for *names, what, _ in _OPTIONS})
    elif options.cfg or options.info:
        show(options.arguments, settings)
    else:
        launch(settings, options.multirun)
    return 0

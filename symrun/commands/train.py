"""`symrun train`: its options, most of which are Hydra's."""

import argparse
from pathlib import Path

from symrun.commands.parser import Commands, add_overrides
from symrun.errors import UsageError

_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_PACKAGES = ("_global_", "model", "data", "task", "optim", "train", "track", "run", "hydra")


def add(commands: Commands) -> None:
    train = commands.add_parser(
        "train",
        help="train a network and record its conserved quantities (settings: symrun train --help)",
        add_help=False,
    )
    add_overrides(train, "NAME=VALUE")
    train.add_argument("-m", "--multirun", action="store_true")
    train.add_argument("--config-dir", "-cd", metavar="DIR", type=Path)
    train.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    train.add_argument("--resolve", action="store_true")
    train.add_argument("--package", "-p", choices=_PACKAGES)
    train.add_argument("--info", "-i", nargs="?", const="all", choices=_INFO)
    train.add_argument("--help", "-h", action="store_true")
    train.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.launch import launch, show

    settings = options.overrides
    if options.config_dir is not None:
        if not options.config_dir.is_dir():
            raise UsageError(f"--config-dir must be a folder of presets, got {options.config_dir}")
        settings.append(f"hydra.searchpath=['file://{options.config_dir.absolute()}']")
    for name in ("resolve", "package"):
        if getattr(options, name) and not options.cfg:
            raise UsageError(f"--{name} needs --cfg: type --cfg job --{name}")
    if options.cfg or options.info or options.help:
        show(options.arguments, settings)
    else:
        launch(settings, options.multirun)
    return 0

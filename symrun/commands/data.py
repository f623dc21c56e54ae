"""`symrun data`: data sets, apart from training."""

import argparse

from symrun.commands.parser import Commands, add_overrides


def add(commands: Commands) -> None:
    data = commands.add_parser(
        "data",
        help="data sets, apart from training",
        example="symrun data prepare data=tiny_imagenet",
    )
    prepare = data.add_subparsers(required=True, metavar="ACTION").add_parser(
        "prepare", help="download, verify and decode a data set ahead of time"
    )
    add_overrides(prepare, "as in `symrun train`: data.root=DIR")
    prepare.set_defaults(run=_prepare)


def _prepare(options: argparse.Namespace) -> int:
    from symrun.data import load
    from symrun.launch import compose_data
    from symrun.training.provenance import describe_dataset

    info = describe_dataset(load(compose_data(options.overrides)))
    print(f"{info.title}: {info.counted.replace('×', 'x')}: ready")
    return 0

"""The settings that a benchmark runs through."""

import itertools
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from symrun.config import Config
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.training.precision import select_device

_COMMON = ["data=synthetic", "data.image_size=64", "data.classes=200", "optim.weight_decay=1e-4"]
_ON_CPU = ["model.width=0.25", "train.batch_size=128"]
"""What a CPU can do in a minute; a GPU gets the paper's own size."""


def configurations(overrides: Sequence[str]) -> Iterator[Config]:
    """One for every combination of the values that overrides list, as `symrun train -m` takes them.

    Error: UsageError for what cannot be composed.
    Example: [config.track.every for config in configurations(["track.every=1,20"])] == [1, 20]
    """
    for chosen in _combinations(overrides):
        config = compose([*_COMMON, *chosen])
        on_cpu = select_device(config.device).type == "cpu"
        yield compose([*_COMMON, *_ON_CPU, *chosen]) if on_cpu else config


def _combinations(overrides: Sequence[str]) -> Iterator[list[str]]:
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UsageError(str(error).splitlines()[0]) from None
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in parsed
    ]
    yield from map(list, itertools.product(*choices))

"""The words of the figures about their runs: data, model, optimiser, length, how far reduced."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from symrun.config import BN_EPS
from symrun.errors import in_one_line
from symrun.laws import kinds_of_sgd
from symrun.runs.directory import planned_steps
from symrun.runs.thinning import spacing

_MODEL = "<model>"


def title(number: int, weight_decay: float, infos: Sequence[dict[str, Any]]) -> str:
    """Figure `number` of the paper, data and model, and whether they are the paper's.

    `weight_decay`: the paper's, for this figure.
    """
    return f"Fig. {number} on {settings_and_papers(infos, weight_decay)}"


def settings_and_papers(infos: Sequence[dict[str, Any]], *weight_decays: float) -> str:
    """As `settings`, and whether they are not the paper's, with one of its `weight_decays`."""
    papers = all(any(_is_the_papers(info, decay) for decay in weight_decays) for info in infos)
    return settings(infos) + ("" if papers else ": not the paper's setting")


def settings(infos: Iterable[dict[str, Any]]) -> str:
    """Data, model and width of runs, each combination once."""
    return "; ".join(dict.fromkeys(_setting(info) for info in infos))


def _setting(info: dict[str, Any]) -> str:
    data, model = info["dataset"], info["model"]
    part = "" if data["synthetic"] or data["classes"] == 200 else f"{data['classes']} classes of "
    width = "" if model["width"] == 1 else f" at width {_fraction(model['width'])}"
    return f"{part}{data['title']}, {model['name'].removesuffix('_bn').upper()}{width}"


def _is_the_papers(info: dict[str, Any], weight_decay: float) -> bool:
    """Whether a run is the paper's in all but its precision and its seed."""
    data, model, config = info["dataset"], info["model"], info["config"]
    optim = {"name": "sgd", "lr": 0.1, "weight_decay": weight_decay}
    optim |= {"momentum": 0, "schedule": "constant"}
    return (
        not data["synthetic"]
        and data["classes"] == 200
        and model["name"] in ("vgg16", "vgg16_bn")
        and model["width"] == 1
        and _eps(info) == BN_EPS
        and optim.items() <= config["optim"].items()
        and config["train"]["batch_size"] == 256
        and planned_steps(info) >= 100 * info["steps_per_epoch"]
    )


def captions(drawn: Iterable[tuple[dict[str, Any], int]]) -> list[str]:
    """Data, model, optimiser, batch size, length and precision of runs, each up to its last step.

    Runs that differ in nothing but the model's title share one.
    """
    titles: dict[str, list[str]] = {}
    for info, last_step in drawn:
        titles.setdefault(_caption(info, last_step), []).append(info["model"]["title"])
    return [
        text.replace(_MODEL, " and ".join(dict.fromkeys(models)).replace(" ", "\N{NO-BREAK SPACE}"))
        for text, models in titles.items()
    ]


def _caption(info: dict[str, Any], last_step: int) -> str:
    parts = [*_network(info), *optimiser(info), *_length(info, last_step), *_thinning([info])]
    return _joined(parts)


def common_caption(infos: Sequence[dict[str, Any]], last_step: int, varied: Sequence[str]) -> str:
    """One caption for runs that differ in settings which `varied` tells, each in words."""
    (model,) = {info["model"]["title"] for info in infos}
    parts = [*_network(infos[0]), *varied, *_length(infos[0], last_step), *_thinning(infos)]
    return _joined(parts).replace(_MODEL, model.replace(" ", "\N{NO-BREAK SPACE}"))


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts if part)


def _network(info: dict[str, Any]) -> list[str]:
    data = info["dataset"]
    return [
        f"{data['title']} ({data['classes']} classes, {data['image_size']}×{data['image_size']})",
        f"{_MODEL}, width {_fraction(info['model']['width'])}",
        "" if _eps(info) == BN_EPS else f"BN eps {power(_eps(info))}",
    ]


def _eps(info: dict[str, Any]) -> float:
    """BatchNorm's; of runs that were recorded before it was a setting, torch's."""
    return float(info["config"]["model"].get("eps", BN_EPS))


def _length(info: dict[str, Any], last_step: int) -> list[str]:
    planned = planned_steps(info)
    length = f"{last_step:,}" if last_step == planned else f"{last_step:,} of {planned:,}"
    return [
        f"batch {info['config']['train']['batch_size']}",
        f"{length} steps (epoch {round(last_step / info['steps_per_epoch'], 1):,g})",
        info["precision"],
    ]


def _thinning(infos: Sequence[dict[str, Any]]) -> list[str]:
    """How far apart the records of runs are, if one of them was thinned; else nothing."""
    if not any("thinned" in info for info in infos):
        return []
    return list(dict.fromkeys(part for info in infos for part in spacing(info)))


_OPTIMISERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}


def optimiser(info: dict[str, Any]) -> list[str]:
    """The optimiser of a run, its learning rate, its weight decay, and what else is switched on."""
    optim = info["config"]["optim"]
    schedule = optim["schedule"].replace("_", " ")
    switches = [
        "" if schedule == "constant" else f"{schedule} schedule",
        f"momentum {optim['momentum']:g}" if optim.get("momentum") else "",
        f"dampening {optim['dampening']:g}" if optim.get("dampening") else "",
        "Nesterov" if optim.get("nesterov") else "",
    ]
    name, lr, decay = _OPTIMISERS[optim["name"]], optim["lr"], optim["weight_decay"]
    return [name, f"η = {lr:g}", f"λ = {decay:g}", *filter(None, switches)]


def labels(runs: Sequence[tuple[dict[str, Any], Path]]) -> list[str]:
    """Model and weight decay of each run; where runs agree in that, what tells them apart.

    runs: what run.json says, and the folder; no folder is there twice.
    Example: labels([(run.info(), run.path)])   # ["VGG16 with BN, λ = 0.0001"]
    """
    told = [f"{info['model']['title']}, {optimiser(info)[2]}" for info, _ in runs]
    for words in _DISTINCTIONS:
        also = [words(info, folder) for info, folder in runs]
        kinds: dict[str, set[str]] = {}
        for label, word in zip(told, also, strict=True):
            kinds.setdefault(label, set()).add(word)
        told = [
            f"{label}, {word}" if word and len(kinds[label]) > 1 else label
            for label, word in zip(told, also, strict=True)
        ]
    return told


def _folder(path: Path | str) -> str:
    """Its name, of which nothing is read as mathematics."""
    return in_one_line(path).replace("$", r"\$")


_DISTINCTIONS: tuple[Callable[[dict[str, Any], Path], str], ...] = (
    lambda info, _: str(info["dataset"]["title"]),
    lambda info, _: f"width {_fraction(info['model']['width'])}",
    lambda info, _: f"BN eps {power(_eps(info))}",
    lambda info, _: optimiser(info)[0],
    lambda info, _: optimiser(info)[1],
    lambda info, _: ", ".join(optimiser(info)[3:]),
    lambda info, _: f"batch {info['config']['train']['batch_size']}",
    lambda info, _: str(info["precision"]),
    lambda info, _: f"seed {info['config']['seed']}",
    lambda _, path: _folder(path.name),
    lambda _, path: _folder(path),
)
"""Words in which runs may differ, those that say most first."""


def law_label(infos: Iterable[dict[str, Any]]) -> str:
    """Which laws the column `flow` of these runs holds; empty if it is null in all of them."""
    laws = [
        kinds_of_sgd(bool(info["config"]["optim"].get("momentum")))["flow"].label
        for info in infos
        if "flow" not in info["unpredicted"]
    ]
    return f"predicted ({'; '.join(sorted(set(laws)))})" if laws else ""


def step_label(info: dict[str, Any]) -> str:
    """Of an x axis of steps: how time follows from them."""
    optim = info["config"]["optim"]
    if optim["schedule"] == "constant":
        return f"Step $n$  (time $t = ηn$, $η$ = {optim['lr']:g})"
    return "Step $n$"


def power(number: float) -> str:
    """0.001 as "1e-3"."""
    digits, _, exponent = f"{number:e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


def _fraction(width: float) -> str:
    fraction = Fraction(width).limit_denominator(100)
    return str(fraction) if abs(fraction - width) < 1e-9 else f"{width:g}"

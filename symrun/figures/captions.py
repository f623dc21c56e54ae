"""Titles, captions and labels: what a figure says about the runs that it shows."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from symrun.analysis.report import silent_groups
from symrun.data import DATA_SETS
from symrun.data.registry import Augment
from symrun.errors import in_one_line
from symrun.laws import kinds_of_sgd
from symrun.models.registry import BN_EPS
from symrun.optimizers import Schedule, SgdConfig
from symrun.runs.info import RunInfo, Status

NOT_THE_PAPERS = ": not the paper's setting"
"""The note in the title of a figure whose runs do not have the settings of the paper."""

_MODEL = "<model>"


def title(number: int, weight_decay: float, infos: Sequence[RunInfo]) -> str:
    """The title of figure `number` of the paper: data, model, and whether they are the paper's.

    `weight_decay`: the one that the paper uses in this figure.
    """
    return f"Fig. {number} on {settings_and_papers(infos, weight_decay)}"


def settings_and_papers(infos: Sequence[RunInfo], *weight_decays: float) -> str:
    """As `settings`, with a note unless every run has the paper's and one of `weight_decays`."""
    papers = all(any(_is_the_papers(info, decay) for decay in weight_decays) for info in infos)
    return settings(infos) + ("" if papers else NOT_THE_PAPERS)


def settings(infos: Iterable[RunInfo]) -> str:
    """Data, model and width of runs, each combination once."""
    return "; ".join(dict.fromkeys(_setting(info) for info in infos))


def _setting(info: RunInfo) -> str:
    data, width = info.dataset, info.model.width
    at_width = "" if width in (None, 1) else f" at {width_label(info)}"
    network = f"{info.model.family}{at_width}"
    if data is None:
        return network
    part = "" if _is_whole(info) else f"{data.classes} classes of "
    return f"{part}{data.title}, {network}"


def _is_whole(info: RunInfo) -> bool:
    """Whether a run had all classes of its data set; yes for one that this symrun does not know."""
    entry, data = DATA_SETS.get(str(info.config.by_name.get("data.name"))), info.dataset
    return entry is None or data is None or entry.classes in (None, data.classes)


def _is_the_papers(info: RunInfo, weight_decay: float) -> bool:
    """Whether a run has the paper's settings; precision and seed may differ."""
    model, config, optim = info.model, info.config, info.planned_optim
    return (
        config.by_name.get("data.name") == "tiny_imagenet"
        and config.by_name.get("data.augment") == Augment.flip_crop
        and _is_whole(info)
        and model.family == "VGG16"
        and model.width == 1
        and config.model.eps == BN_EPS
        and isinstance(optim, SgdConfig)
        and (optim.lr, optim.weight_decay, optim.momentum) == (0.1, weight_decay, 0)
        and optim.schedule is Schedule.constant
        and config.train is not None
        and config.train.batch_size == 256
        and (info.epochs(info.planned_steps) or 0) >= 100
    )


def captions(drawn: Iterable[tuple[RunInfo, int]]) -> list[str]:
    """Data, model, optimiser, batch size, length and precision of runs, each up to its last step:
    the last that is drawn, or the last update of a run that broke off after it.

    Runs that differ in nothing but the model's title share one.
    """
    titles: dict[str, list[str]] = {}
    for info, last_step in drawn:
        length = _length(info, _reached(info, last_step))
        parts = [*_network(info), *optimiser(info), *length, *_thinning([info])]
        titles.setdefault(_joined(parts), []).append(info.model.title)
    return [
        text.replace(_MODEL, _unbroken(" and ".join(dict.fromkeys(models))))
        for text, models in titles.items()
    ]


def left_out(info: RunInfo) -> list[str]:
    """A sentence for each reason why groups have no prediction to show, for a caption."""
    return [f"{line[:1].upper()}{line[1:]}." for line in silent_groups(info)]


def common_caption(infos: Sequence[RunInfo], last_step: int, varied: Sequence[str]) -> str:
    """One caption for runs that differ only in what the phrases `varied` describe."""
    (model,) = {info.model.title for info in infos}
    length = _length(infos[0], max(_reached(info, last_step) for info in infos))
    parts = [*_network(infos[0]), *varied, *length, *_thinning(infos)]
    return _joined(parts).replace(_MODEL, _unbroken(model))


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(_unbroken(part) for part in parts if part)


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _network(info: RunInfo) -> list[str]:
    data, eps = info.dataset, info.config.model.eps
    return [
        "" if data is None else f"{data.title} ({data.contents})",
        ", ".join(filter(None, [_MODEL, width_label(info)])),
        "" if eps == BN_EPS else f"BN eps {power(eps)}",
    ]


def _reached(info: RunInfo, last_step: int) -> int:
    """The updates made, which a run that broke off may have more of than its last record says."""
    broke_off = info.status in (Status.interrupted, Status.failed) and info.diverged is None
    return max(last_step, info.last_step) if broke_off else last_step


def _length(info: RunInfo, last_step: int) -> list[str]:
    of_planned = "" if last_step == info.planned_steps else info.of_planned_steps
    epochs, epoch = info.epochs(last_step), ""
    if epochs is not None:
        epoch = f" (epoch {f'{epochs:.2g}' if epochs < 1 else f'{round(epochs, 1):,g}'})"
    return [info.batch, f"{last_step:,}{of_planned} steps{epoch}", info.precision.value]


def _thinning(infos: Sequence[RunInfo]) -> list[str]:
    """How far apart the records are, if any run was thinned; else nothing."""
    if not any(info.thinned for info in infos):
        return []
    return list(dict.fromkeys(part for info in infos for part in info.spacing()))


def optimiser(info: RunInfo) -> list[str]:
    """The optimiser of a run, its learning rate, its weight decay, then its options in use."""
    optim, planned = info.config.optim, info.planned_optim
    momentum, dampening = (getattr(optim, name, 0) for name in ("momentum", "dampening"))
    schedule = Schedule.constant if planned is None else planned.schedule
    switches = [
        "" if schedule is Schedule.constant else f"{schedule.value} schedule",
        f"momentum {momentum:g}" if momentum else "",
        f"dampening α = {dampening:g}" if dampening else "",
        "Nesterov" if getattr(optim, "nesterov", False) else "",
    ]
    rate = f"η = {optim.lr:g}" + (" at the start" if planned is None else "")
    words = [optim.title, rate, f"λ = {optim.weight_decay:g}"]
    return [*words, *(switch.replace("_", " ") for switch in switches if switch)]


def labels(runs: Sequence[tuple[RunInfo, Path]]) -> list[str]:
    """Model and weight decay of each run; runs that share both also get what tells them apart.

    runs: the run.json and the folder of each; no folder twice.
    Example: labels([(run.info(), run.path)])   # ["VGG16 with BN, λ = 0.0001"]
    """
    labels = [f"{info.model.title}, {optimiser(info)[2]}" for info, _ in runs]
    for distinction in _DISTINCTIONS:
        words = [distinction(info, folder) for info, folder in runs]
        words_of: dict[str, set[str]] = {}
        for label, word in zip(labels, words, strict=True):
            words_of.setdefault(label, set()).add(word)
        labels = [
            f"{label}, {word}" if word and len(words_of[label]) > 1 else label
            for label, word in zip(labels, words, strict=True)
        ]
    return labels


def _folder(path: Path | str) -> str:
    """The path in one line, with $ escaped, which matplotlib reads as mathematics."""
    return in_one_line(path).replace("$", r"\$")


_DISTINCTIONS: tuple[Callable[[RunInfo, Path], str], ...] = (
    lambda info, _: info.dataset.title if info.dataset else "",
    lambda info, _: width_label(info),
    lambda info, _: f"BN eps {power(info.config.model.eps)}",
    lambda info, _: info.loss.title if info.loss else "",
    lambda info, _: optimiser(info)[0],
    lambda info, _: optimiser(info)[1],
    lambda info, _: ", ".join(optimiser(info)[3:]),
    lambda info, _: info.batch,
    lambda info, _: info.precision.value,
    lambda info, _: "" if info.config.seed is None else f"seed {info.config.seed}",
    lambda _, path: _folder(path.name),
    lambda _, path: _folder(path),
)
"""What may tell two runs apart, in the order in which it is tried."""


def law_label(infos: Iterable[RunInfo], law: str = "flow") -> str:
    """Names the laws in the column `law` of these runs; empty if all make no prediction."""
    laws = [
        kinds_of_sgd(getattr(info.config.optim, "momentum", 0) > 0)[law].label
        for info in infos
        if info.predicts(law)
    ]
    return f"predicted ({'; '.join(sorted(set(laws)))})" if laws else ""


def step_label(info: RunInfo) -> str:
    """The label of an x axis of steps; with a constant lr it also says what time they mean.

    That is the time of the laws, in which dampening is a factor of the learning rate.
    """
    optim = info.planned_optim
    if optim is not None and optim.schedule is Schedule.constant:
        rate = "η(1 - α)" if getattr(optim, "dampening", 0) else "η"
        return f"Step $n$  (time $t = {rate}n$, $η$ = {optim.lr:g})"
    return "Step $n$"


def power(number: float) -> str:
    """0.001 as "1e-3"."""
    digits, _, exponent = f"{number:e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


def width_label(info: RunInfo) -> str:
    """ "width 1/8"; empty for a model without a width."""
    width = info.model.width
    if width is None:
        return ""
    fraction = Fraction(width).limit_denominator(100)
    return f"width {fraction if abs(fraction - width) < 1e-9 else f'{width:g}'}"

"""`symrun check --constraints`: the constraints of a run, or of a model at its initialisation."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from symrun.config import Config, Device, Matrices, Precision, Sums
from symrun.constraints.gradient import gradient_constraints
from symrun.constraints.hessian import HessianConstraint, hessian_constraints
from symrun.constraints.report import Report
from symrun.data import Batches, Dataset, load
from symrun.display import bar
from symrun.errors import UsageError, did_you_mean
from symrun.models import MODELS, entry_of
from symrun.overrides import GROUPS, NAMED_MODELS, names, read
from symrun.places import as_typed, is_url
from symrun.runs.checkpoint import latest_weights
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.tasks import output_of
from symrun.training.device import device_title, memory_in_one_line
from symrun.training.isolation import isolated
from symrun.training.plan import Plan
from symrun.training.provenance import describe_dataset
from symrun.training.setup import prepare
from symrun.typed import require

_log = logging.getLogger(__name__)

DEFAULT_BATCH = 16
"""Images: enough for BatchNorm's statistics, few enough for a full-width VGG16 on a laptop."""

_WITHOUT_DOWNLOAD = ("data=synthetic", "data.image_size=64")
_EFFECTIVE = (
    "model",
    "data",
    "task",
    "experiment",
    "seed",
    "device",
    "track.families",
    "track.homogeneity",
)


def run_or_overrides(
    target: str,
    overrides: list[str],
    without_download: Sequence[str] = _WITHOUT_DOWNLOAD,
    asked: str = "constraints",
) -> RunDirectory | list[str]:
    """The run in the folder `target`, or else the settings of a model.

    target: a folder, the name of a model, or the first override. without_download: settings that
    stand in front unless an override chooses other data; they are synthetic images, so that nothing
    is downloaded. asked: what of the model is asked for, in messages.

    Error: UsageError if it is neither, or a setting has no effect here.
    Example: run_or_overrides("vgg16", ["model.width=0.125"])
    """
    if is_url(target) or (Path(target) / "run.json").exists():
        if overrides:
            remedy = f"leave {overrides[0]} out, or name a model instead"
            raise UsageError(f"{target} is a run, whose settings are recorded: {remedy}")
        return RunDirectory.open(target, checkpoints=True)
    if entry_of(target) not in MODELS and "=" not in target:
        typed = [NAMED_MODELS.get(name, name) for name in MODELS]
        models = f"a model: one of {', '.join(typed)}{did_you_mean(target, typed)}"
        raise UsageError(f"{target} is neither a run folder (it has no run.json) nor {models}")
    settings = [target if "=" in target else f"model={target}", *overrides]
    for override in read(settings):
        name = override.key_or_group
        effective = name in _EFFECTIVE or name.split(".")[0] in _EFFECTIVE
        if name == "track.matrices" and asked == "constraints":
            raise UsageError(f"all entries of matrices are checked already: leave {name} out")
        if not effective and name in (*GROUPS, *names()):
            remedy = f"only {', '.join(_EFFECTIVE)} have: leave it out"
            raise UsageError(f"{name} has no effect on a model's {asked}; {remedy}")
    other_data = [s for s in settings if s.startswith("data=") and s != "data=synthetic"]
    return [*(() if other_data else without_download), *settings]


def check_run(run: RunDirectory, batch: int | None) -> Iterator[Report]:
    """The gradient's constraints over the run's records; then the Hessian's, at the initialisation
    and at the weights saved last, if any were. Of a loop of the user's own, the gradient's alone.

    batch: images for the Hessian, as in `check_model`.

    Error: UsageError if a file of the run or its data cannot be used; RunError if the memory is
    too small.
    """
    info = run.info()
    if info.loop is not None:
        remedy = "left out: the Hessian needs the network, and symrun cannot build that of this run"
        require("--batch", batch is None, remedy, batch)
        _log.warning("%s: without the Hessian, for which symrun cannot build the network", run.path)
        yield _gradient(run, info)
        return
    saved, config = latest_weights(run), run.config()
    assert info.dataset is not None  # of symrun's own loop
    if info.dataset.train_images:  # an older run does not say
        _batch_size(batch, info.dataset.train_images)  # before anything is shown
    yield _gradient(run, info)

    # A run recorded on a GPU can be checked without one: the report names the device.
    device_now = config.device if torch.cuda.is_available() else Device.cpu
    dataset = load(config.data)
    now = describe_dataset(dataset)
    for key in ("classes", "image_size", "channels", "length"):
        recorded, found = getattr(info.dataset, key), getattr(now, key)
        if recorded != found:
            raise UsageError(f"{run.path} had {key} = {recorded}, its data has {found} now")
    network = _Network(dataclasses.replace(config, device=device_now), dataset, batch)
    yield network.report(0, "at initialisation")
    if saved is not None:
        step, state_dict = saved
        try:
            network.training.model.load_state_dict(state_dict)
        except RuntimeError:
            where = run.checkpoint(step)
            raise UsageError(f"{where} does not fit the network of {run.run_json}") from None
        yield network.report(step, f"after step {step}")


def _gradient(run: RunDirectory, info: RunInfo) -> Report:
    precision, device = info.precision.value, info.device
    title = f"Gradient constraint over the records of {as_typed(str(run.path))}: {precision}"
    title += f" on {device}"
    return Report("gradient", None, precision, device, title, list(gradient_constraints(run)))


def check_model(config: Config, batch: int | None) -> Iterator[Report]:
    """The Hessian's constraints, and the gradient's beside them, at initialisation; of conserved
    matrices for all entries.

    batch: images, the first of epoch 1; None for DEFAULT_BATCH, or all where there are fewer.

    Error: UsageError if data, batch or device cannot be used; RunError if the memory is too small.
    Example: check_model(compose(["data=synthetic", "model=vgg16", "model.width=0.125"]), None)
    """
    track = dataclasses.replace(config.track, matrices=Matrices.full)
    config = dataclasses.replace(config, track=track)
    yield _Network(config, load(config.data), batch).report(0, "at initialisation")


def _batch_size(batch: int | None, images: int) -> int:
    size = min(DEFAULT_BATCH, images) if batch is None else batch
    require("--batch", size >= 2, ">= 2", size)
    require("--batch", size <= images, f"at most the {images} training images", size)
    return size


class _Network:
    """The network of `config`, in float64 whatever its precision, and one batch for it."""

    @isolated()
    def __init__(self, config: Config, dataset: Dataset, batch: int | None) -> None:
        size = _batch_size(batch, len(dataset.train.labels))
        train = dataclasses.replace(config.train, compile=False, cuda_graph=False)
        track = dataclasses.replace(config.track, sums=Sums.auto)
        config = dataclasses.replace(config, precision=Precision.float64, train=train, track=track)
        plan = Plan.of(config)
        with memory_in_one_line("lower --batch or model.width"):
            self.training = prepare(plan, dataset)
            # The order depends on seed and epoch alone, so these are the run's first images.
            batches = Batches(dataset, size, config.seed, plan.device, plan.dtype)
            self.images, self.labels = next(batches.epoch(1))
        self._seed = config.seed
        width = config.model.relative_width
        network = config.model.name + ("" if width is None else f" at width {width:g}")
        where = f"float64 on {device_title(plan.device)}"
        examples = describe_dataset(dataset).examples
        self._what = f"{where}, {network}, {size} {examples} of {dataset.title}"

    @isolated()
    def report(self, step: int, where: str) -> Report:
        """The constraints at the model's present weights."""
        model, groups = self.training.model, self.training.structure.groups
        rows = hessian_constraints(
            model,
            groups,
            self.images,
            self.labels,
            self._seed,
            self.training.criterion,
            lambda returned: output_of(returned, self.training.plan.config.task.output),
        )
        device = device_title(self.training.device)
        title = f"Hessian constraint {where}: {self._what}"
        found: list[HessianConstraint] = []
        with (
            memory_in_one_line("lower --batch or model.width"),
            bar(f"Hessian {where}", len(groups), "group", passing=True) as shown,
        ):
            for row in rows:
                found.append(row)
                shown.update()
        return Report("hessian", step, "float64", device, title, found)

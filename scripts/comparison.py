"""symrun beside other tools on the same work: docs/comparison.json and its part of comparison.md.

VGG16, at a quarter of its width unless --width says otherwise and without BatchNorm, which Cockpit
does not take, trains on images of 64x64 by SGD with weight decay, once without momentum and once
with it. Each tool trains a copy; their steps alternate as in scripts/loop_cost.py, which has all of
them but one:

- the paper's code: its utils/optimize.train does each step with its own optimiser and buffers, and
  saves a checkpoint at each record; afterwards its extract.py writes them as HDF5. It runs as it
  is, with what NumPy 2 has removed put back for deepdish.

    pip install cockpit-for-pytorch "setuptools<80" tensorboard deepdish
    git clone https://github.com/danielkunin/neural-mechanics DIR
    python scripts/comparison.py --original DIR [--data TINY_IMAGENET]    # ten minutes of 2 cores
    python scripts/comparison.py --page                                   # measure nothing
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from loop_cost import STEPS, Loop, Update, alternated, ratios
from plain_training import MEAN, STD, TinyImageNet
from torch import Tensor, nn

import symrun
from symrun.cli import exit_code
from symrun.errors import UsageError
from symrun.files import write_text
from symrun.models.vgg import vgg
from symrun.report.document import Block, Paragraph, Table, as_markdown
from symrun.training.provenance import processor

DOCS = Path(symrun.__file__).parent.parent / "docs"
BEGIN = "<!-- by scripts/comparison.py from comparison.json -->"
END = "<!-- end of comparison.json -->"
PACKAGES = {
    "cockpit": "cockpit-for-pytorch",
    "tensorboard": "tensorboard",
    "deepdish": "deepdish",
}
"""What is to be installed: module -> distribution."""
REMOVED = {
    "ComplexWarning": np.exceptions.ComplexWarning,
    "unicode_": np.str_,
    "string_": np.bytes_,
    "object": object,
}
"""What NumPy 2 lacks and deepdish, with which extract.py writes, still asks for."""
BATCHES, SIZE, CLASSES = 20, 64, 200
LR, WEIGHT_DECAY = 0.01, 1e-4
MOMENTA = (0.0, 0.9)
WARM_UP = 1
QUIET = 0.5
"""A load of the machine before it starts that the page need not mention."""
TITLES = {
    "plain": "plain PyTorch",
    "symrun": f"`symrun.track`: every step, a record every {STEPS}",
    "original": f"the paper's code: buffers at every step, a checkpoint every {STEPS}",
    "extraction": "the same: its `extract.py`, after training",
    "tensorboard": f"TensorBoard: histograms of weights and gradients every {STEPS} steps",
    "cockpit": 'Cockpit "economy": every step',
}

FILES = {
    "symrun": "diagonal/tables/**/*.parquet",
    "original": "original/ckpt/*.tar",
    "extraction": "original/feats/*.h5",
    "tensorboard": "tensorboard/*",
    "cockpit": "cockpit.json",
}
"""Where the records lie, in the folder of a Loop."""

Batches = Sequence[tuple[Tensor, Tensor]]
Way = Callable[[], contextlib.AbstractContextManager[Update]]


def sgd(momentum: float, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), LR, momentum, weight_decay=WEIGHT_DECAY)


def batches(data: Path | None, batch: int) -> Batches:
    """Of the training images in `data`, or random ones: float32 [batch, 3, SIZE, SIZE]."""
    torch.manual_seed(0)
    count = batch * BATCHES
    if data is None:
        images, labels = torch.randn(count, 3, SIZE, SIZE), torch.randint(CLASSES, (count,))
    else:
        dataset = TinyImageNet(data)
        if len(dataset) < count or len(dataset.wnids) > CLASSES:
            raise UsageError(f"{data} must hold train/*/images/*.JPEG of Tiny ImageNet")
        random.seed(0)
        chosen = [dataset[number] for number in random.sample(range(len(dataset)), count)]
        mean, std = (255 * torch.tensor([MEAN, STD])[..., None, None]).unbind()
        images = (torch.stack([image for image, _ in chosen]).float() - mean) / std
        labels = torch.tensor([label for _, label in chosen])
    return list(zip(images.split(batch), labels.split(batch), strict=True))


def originals(checkout: Path) -> dict[str, ModuleType]:
    """The paper's modules of a step, and of the extraction."""
    if not (checkout / "utils" / "optimize.py").is_file():
        raise UsageError(
            f"{checkout} is no checkout of github.com/danielkunin/neural-mechanics: clone it"
        )
    for name, there in REMOVED.items():
        setattr(np, name, there)
    for module, distribution in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"there is no {module}: pip install {distribution}") from error
    for module in ("torch.utils.tensorboard", "symrun.attached.attach"):
        importlib.import_module(module)  # before anything is timed, as the rest
    sys.path.insert(0, str(checkout))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        names = ("utils.load", "utils.optimize", "extract")
        return {name: importlib.import_module(name) for name in names}


@contextlib.contextmanager
def original(loop: Loop, modules: Mapping[str, ModuleType], momentum: float) -> Iterator[Update]:
    """The paper's training step, as its train.py sets it up with --optimizer custom_sgd."""
    load, optimize = modules["utils.load"], modules["utils.optimize"]
    folder = loop.folder / "original"
    (folder / "ckpt").mkdir(parents=True)
    model = loop.model()
    buffers = ["mom" if momentum else "sgd"]
    optimizer_class, settings = load.optimizer("custom_sgd", momentum, save_buffers=buffers)
    settings |= {"lr": LR, "weight_decay": WEIGHT_DECAY}
    optimizer = optimizer_class(model.parameters(), **settings)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[])
    train = partial(
        optimize.train, model, load.loss("ce"), optimizer, scheduler,
        device=torch.device("cpu"), verbose=0, save=True, save_freq=STEPS, save_path=str(folder),
        num_batches=1,
    )  # fmt: skip
    yield lambda step: train(dataloader=[loop.batch(step)], epoch=step)


def extracted(extract: Any, folder: Path) -> dict[str, Any]:
    """What the paper's extract.py takes for the checkpoints of a run."""
    extract.ARGS = argparse.Namespace(
        save_dir=str(folder), experiment="original", expid=".", gpu=0, overwrite=False
    )
    started = time.perf_counter()
    extract.main()
    return {"end_seconds": time.perf_counter() - started} | left("extraction", folder, 0)


def measured(ways: Mapping[str, Way], folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """What each way takes: seconds before, of a step in each round, and after; records and bytes.

    ways: by their names in TITLES. folder: that of their Loop.
    """
    found: dict[str, dict[str, Any]] = {}
    updates, exits = {}, {}
    for name, way in ways.items():
        exits[name], started = contextlib.ExitStack(), time.perf_counter()
        updates[name] = exits[name].enter_context(way())
        found[name] = {"start_seconds": time.perf_counter() - started}
    for name, seconds in alternated(updates, rounds, WARM_UP).items():
        found[name]["step_seconds"] = seconds
    for name, one in found.items():
        started = time.perf_counter()
        exits[name].close()
        one["end_seconds"] = time.perf_counter() - started
        one |= left(name, folder, (rounds + WARM_UP) * STEPS)
    return found


def left(name: str, folder: Path, steps: int) -> dict[str, int]:
    """Records and bytes on the disk after so many steps."""
    if name == "plain":
        return {}
    files = list(folder.glob(FILES[name]))
    found = {"records": len(files), "bytes": sum(path.stat().st_size for path in files)}
    match name:
        case "symrun":
            run = folder / "diagonal"
            found["records"] = symrun.open_run(run).units()["step"].nunique()
            found["once_bytes"] = (run / "run.json").stat().st_size
        case "tensorboard":
            found["records"] = steps // STEPS
        case "cockpit":
            found["records"] = steps
    return found


def everything(options: argparse.Namespace) -> dict[str, Any]:
    """All that the page shows."""
    modules, work = originals(options.original), batches(options.data, options.batch)
    network = partial(vgg, "vgg16", CLASSES, SIZE, options.width, dropout=0.0)
    load, runs, same = os.getloadavg()[0], {}, True
    for momentum in MOMENTA:
        with tempfile.TemporaryDirectory() as name:
            loop = Loop(network, partial(sgd, momentum), work, Path(name))
            ways = {
                "plain": loop.plain,
                "symrun": partial(loop.symrun, "diagonal"),
                "original": partial(original, loop, modules, momentum),
                "tensorboard": loop.tensorboard,
                "cockpit": loop.cockpit,
            }
            found = measured(ways, loop.folder, options.rounds)
            same &= same_weights(loop.models)
            found["extraction"] = extracted(modules["extract"], loop.folder)
        runs[str(momentum)] = {name: found[name] for name in TITLES}
        print(f"momentum {momentum:g}", json.dumps(runs[str(momentum)]), flush=True)
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "load": load,
        "versions": {"torch": torch.__version__}
        | {name: importlib.metadata.version(PACKAGES[name]) for name in ("cockpit", "tensorboard")},
        "images": "Tiny ImageNet" if options.data else "random numbers",
        "parameters": sum(weight.numel() for weight in network().parameters()),
        "width": options.width,
        "batch": options.batch,
        "rounds": options.rounds,
        "same_weights": same,
        "runs": runs,
    }


def same_weights(models: Sequence[nn.Module]) -> bool:
    """Whether all networks have those of the first, bit for bit."""
    vectors = [nn.utils.parameters_to_vector(model.parameters()) for model in models]
    return all(torch.equal(vectors[0], vector) for vector in vectors)


def section(found: dict[str, Any]) -> str:
    """The part of the page, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    threads = "1 thread" if found["threads"] == 1 else f"{found['threads']} threads"
    busy = f" beside other work, a load of {found['load']:.1f}" if found["load"] >= QUIET else ""
    same = "the same weights, bit for bit" if found["same_weights"] else "weights that differ"
    blocks: list[Block] = [
        Paragraph(
            f"VGG16 without BatchNorm at {found['width']:g} of its width, "
            f"{found['parameters']:,} parameters, on batches of {found['batch']} images of "
            f"{SIZE}x{SIZE} ({found['images']}), by SGD with weight decay {WEIGHT_DECAY:g}; "
            f"{found['processor']}, {threads}{busy}; {versions}. The steps of all tools alternate; "
            f"a ratio is a tool's time for {STEPS} steps to that of plain PyTorch in the same "
            f"round, the median and quartiles over {found['rounds']} rounds. All end with {same}."
        )
    ]
    for momentum, tools in found["runs"].items():
        blocks.append(Paragraph(f"Momentum {float(momentum):g}:"))
        blocks.append(_table(tools))
    return as_markdown(blocks)


def _table(tools: dict[str, Any]) -> Table:
    head = ["tool", "before the first step", "a step", "to plain PyTorch", "after the last step"]
    rows = []
    for name, one in tools.items():
        step = ratio = before = "-"
        if "step_seconds" in one:
            before = f"{one['start_seconds']:.1f} s"
            step = f"{1e3 * statistics.median(one['step_seconds']):,.0f} ms"
            low, middle, high = ratios(one["step_seconds"], tools["plain"]["step_seconds"])
            ratio = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        record = f"{_bytes(one['bytes'] / one['records'])}" if "records" in one else "-"
        if "once_bytes" in one:
            record += f", and {_bytes(one['once_bytes'])} once"
        after = f"{one['end_seconds']:.1f} s"
        rows.append(
            [TITLES[name], before, step, ratio, after, str(one.get("records", "-")), record]
        )
    return Table([*head, "records", "bytes a record"], rows)


def _bytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, help="a checkout of danielkunin/neural-mechanics")
    parser.add_argument("--data", type=Path, help="Tiny ImageNet's folder; default: random images")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4, help=f"of {STEPS} steps")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--docs", type=Path, default=DOCS, help="default: this checkout's")
    options = parser.parse_args()
    store, path = options.docs / "comparison.json", options.docs / "comparison.md"
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UsageError(f"{path} lacks the lines between which this writes: {BEGIN} and {END}")
    if options.page:
        try:
            found = json.loads(store.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            whole = "holds no comparison.json that is whole: measure without --page"
            raise UsageError(f"{options.docs} {whole}") from error
    else:
        if options.original is None:
            parser.error("--original DIR, a checkout of danielkunin/neural-mechanics, is missing")
        if options.rounds < 2 or options.batch < 2 or options.width <= 0:
            parser.error("--rounds and --batch must be >= 2, --width > 0")
        found = everything(options)
    write_text(store, json.dumps(found, indent=1) + "\n")
    write_text(path, f"{before}{BEGIN}\n\n{section(found)}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("comparison", main))

"""VGG on Tiny ImageNet in plain PyTorch: the training loop that symrun's own is held against.

What one would write without symrun: a Dataset of JPEG files, a DataLoader, torch.optim.SGD, no
tracking. The network alone is symrun's. Prints how fast it trains, the loading included.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from symrun.models import MODELS
from symrun.models.vgg import vgg

SIZE, PADDING = 64, 4
MEAN, STD = (0.480, 0.448, 0.397), (0.276, 0.269, 0.282)


class TinyImageNet(Dataset[tuple[Tensor, int]]):
    """The training images, cropped and flipped at random: uint8 [3, 64, 64], and their labels."""

    def __init__(self, root: Path) -> None:
        files = sorted(root.glob("train/*/images/*.JPEG"))
        self.wnids = sorted({file.parts[-3] for file in files})
        label_of = {wnid: label for label, wnid in enumerate(self.wnids)}
        self.samples = [(file, label_of[file.parts[-3]]) for file in files]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        padded = np.zeros((SIZE + 2 * PADDING, SIZE + 2 * PADDING, 3), np.uint8)
        with Image.open(path) as image:
            padded[PADDING:-PADDING, PADDING:-PADDING] = np.asarray(image.convert("RGB"))
        top, left = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
        crop = padded[top : top + SIZE, left : left + SIZE]
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))), label


def mark(device: torch.device) -> Any:
    """This moment: on a GPU by its own clock, so that nothing waits for it."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="holds train/*/images/*.JPEG")
    vggs = [name for name in MODELS if name.startswith("vgg")]
    parser.add_argument("--model", choices=vggs, default="vgg16_bn")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100, help="timed, after the warm-up")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before the clock starts")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    cuda = torch.cuda.is_available() and options.device != "cpu"
    if not cuda and (options.device == "cuda" or options.precision == "tf32"):
        parser.error("--device cuda and --precision tf32 need a CUDA GPU, and torch finds none")
    if options.steps < 1 or options.warm_up < 0:
        parser.error("--steps must be >= 1 and --warm-up >= 0")

    device = torch.device("cuda" if cuda else "cpu")
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
    torch.backends.cudnn.benchmark = True
    autocast = torch.autocast(device.type, torch.bfloat16, options.precision == "bf16")
    random.seed(options.seed)
    torch.manual_seed(options.seed)

    dataset = TinyImageNet(options.root)
    if len(dataset) < options.batch_size:
        parser.error(f"--root must hold a batch of train/*/images/*.JPEG, got {len(dataset)}")
    loader = DataLoader(
        dataset,
        options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        pin_memory=cuda,
        persistent_workers=options.workers > 0,
    )
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    mean, std = (255 * torch.tensor([MEAN, STD], device=device)[..., None, None]).unbind()

    model = vgg(options.model, len(dataset.wnids), SIZE, options.width, dropout=0.5)
    model = model.to(device, memory_format=layout)
    optimizer = torch.optim.SGD(
        model.parameters(), options.lr, weight_decay=options.weight_decay, fused=cuda
    )

    marks = [mark(device)]
    for images, labels in itertools.islice(endless, options.warm_up + options.steps):
        images = images.to(device, non_blocking=True).to(memory_format=layout)
        labels = labels.to(device, non_blocking=True)
        images = images.float().sub_(mean).div_(std)
        with autocast:
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        marks.append(mark(device))

    last_loss = loss.item()  # waits for the device
    pairs = itertools.pairwise(marks[options.warm_up :])
    seconds = [start.elapsed_time(end) / 1e3 if cuda else end - start for start, end in pairs]
    result = vars(options) | {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "images_per_second": options.batch_size * len(seconds) / sum(seconds),
        "step_ms": statistics.median(seconds) * 1e3,
        "loss": last_loss,
    }
    line = (
        "plain PyTorch: {images_per_second:.1f} images/s, median step {step_ms:.1f} ms ({model}, "
        "width {width:g}, batch {batch_size}, {precision}, channels_last {channels_last}, "
        "{device}, {threads} threads, {workers} workers, {steps} steps, last loss {loss:.3f})"
    )
    print(json.dumps(result, default=str) if options.json else line.format(**result))


if __name__ == "__main__":
    main()

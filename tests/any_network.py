"""Short runs in float64 of networks that are no VGG: a ResNet, a GPT, an MLP on squared error."""

from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.training.lifecycle import train

_IMAGES = ("data=synthetic", "data.train_images=64", "data.val_images=20")
NETWORKS = {
    "resnet": ("model=resnet18_64", "model.width=0.0625", "train.batch_size=8", *_IMAGES),
    "gpt": (
        *("model=gpt", "model.layers=2", "model.heads=2", "model.width=16"),
        *("data=text", "data.length=16", "task=next_token", "train.batch_size=8"),
    ),
    "mlp": ("model=mlp", "model.hidden=16", "task=mse", "train.batch_size=8", *_IMAGES),
}
_TEXT = "it is a truth that a quiet unit in want of motion must be in want of a gradient; "


def trained(name, folder):
    """The run of one of NETWORKS, 50 updates with weight decay."""
    settings = ["device=cpu", "precision=float64", "optim.weight_decay=1e-3", "train.steps=50"]
    settings += ["track.every=5", f"run.dir={folder}/{name}", *NETWORKS[name]]
    if name == "gpt":
        text = folder / "text.txt"
        text.write_text("".join(_TEXT[place:] + _TEXT[:place] for place in range(0, 80, 7)))
        settings.append(f"data.root={text}")
    return RunDirectory.open(train(compose(settings)))

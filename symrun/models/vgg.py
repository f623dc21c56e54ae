"""VGG for small images: 11 to 19 layers, with and without batch normalisation."""

import math

import torch
from torch import Tensor, nn

# Convolutions in each block
_PLANS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_BLOCK_CHANNELS = (64, 128, 256, 512, 512)  # of each convolution at width 1
_HIDDEN = 1024


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions, each ended by max pooling, then three linear layers.

    images [batch, channels, height, width] -> logits [batch, classes]

    At width 1 and 64x64 the linear layers are 2048 -> 1024 -> 1024 -> classes.
    Source: Kunin et al. 2021, their code: convolutions Kaiming normal (fan out), linear weights
    N(0, 0.01), biases 0. The linear std is divided by sqrt(width), so that a narrow network's
    logits start at the scale of the full one's and training does not stall.
    """

    def __init__(
        self,
        depth: int,
        batch_norm: bool,
        shape: tuple[int, int, int],
        classes: int,
        width: float,
        dropout: float,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels, height, image_width = shape
        for convolutions, full_width in zip(_PLANS[depth], _BLOCK_CHANNELS, strict=True):
            for _ in range(convolutions):
                filters = max(1, round(full_width * width))
                features.append(nn.Conv2d(channels, filters, kernel_size=3, padding=1))
                if batch_norm:
                    features.append(nn.BatchNorm2d(filters, eps))
                features.append(nn.ReLU())
                channels = filters
            features.append(nn.MaxPool2d(kernel_size=2))
        halved = 2 ** len(_BLOCK_CHANNELS)
        positions = (height // halved) * (image_width // halved)
        hidden = max(1, round(_HIDDEN * width))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Linear(channels * positions, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )
        self._initialise(width)

    def _initialise(self, width: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01 / math.sqrt(width))
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.features(images), 1))
        return logits


def vgg(name: str, classes: int, image_size: int, width: float, dropout: float) -> VGG:
    """The VGG called `name`, such as "vgg16_bn", for square RGB images.

    Example: vgg("vgg11_bn", classes=10, image_size=32, width=0.25, dropout=0.5)
    """
    depth, _, norm = name.removeprefix("vgg").partition("_")
    shape = (3, image_size, image_size)
    return VGG(int(depth), norm == "bn", shape, classes, width, dropout)

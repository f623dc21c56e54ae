"""ResNet for images of at most 64 pixels along a side."""

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

_BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
}
_FIRST, _LAST = 64, 512  # channels at width 1


class SmallImageResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet with a stem that keeps the resolution: 3x3, stride 1, no pooling.

    images [batch, channels, height, width] -> logits [batch, classes]

    width: scales the channels of every layer.
    Source: He et al. 2016, section 4.2, for the stem; weights are drawn as torchvision draws them.
    Example: SmallImageResNet(18, channels=3, classes=10, width=0.25)
    """

    def __init__(self, depth: int, channels: int, classes: int, width: float) -> None:
        self._width = width  # `_make_layer` needs it before ResNet is made
        block, blocks = _BLOCKS[depth]
        super().__init__(block, blocks, classes)
        filters = self._scaled(_FIRST)
        self.conv1 = nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(filters)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(self._scaled(_LAST) * block.expansion, classes)

    def _make_layer(self, block: Any, planes: int, *others: Any, **settings: Any) -> nn.Sequential:
        if planes == _FIRST:
            self.inplanes = self._scaled(_FIRST)  # what the stem gives
        layer = super()._make_layer(block, self._scaled(planes), *others, **settings)
        assert isinstance(layer, nn.Sequential)
        return layer

    def _scaled(self, channels: int) -> int:
        return max(1, round(channels * self._width))

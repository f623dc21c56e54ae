"""A fixed random sample of single parameters, for curves like those of Fig. 1, left."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symrun.symmetry import Layer
from symrun.tracking.shares import Share, Shares


class ParameterSample:
    """Up to `size` single weights of each layer, drawn once from `seed`.

    Drawn with NumPy's own generator: torch's random states, which training uses, stay as they are.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], size: int, seed: int, shares: Shares
    ) -> None:
        random = np.random.default_rng(np.random.SeedSequence((seed, size)))
        self._shares = shares
        self._places: list[tuple[Tensor, Share, tuple[Tensor, ...]]] = []
        layer_of, index_of = [np.empty(0, np.int16)], [np.empty(0, np.int64)]
        held = [np.empty(0, np.bool_)]
        for number, layer in enumerate(layers):
            weight = model.get_parameter(f"{layer.name}.weight")
            index = np.sort(random.choice(weight.numel(), min(size, weight.numel()), replace=False))
            share = shares.share_of(weight)
            place, here = _within(share, np.unravel_index(index, tuple(weight.shape)))
            held.append(here)
            on_device = tuple(torch.as_tensor(one).to(weight.device) for one in place)
            self._places.append((weight, share, on_device))
            layer_of.append(np.full(len(index), number, np.int16))
            index_of.append(index)
        names = pa.array([layer.name for layer in layers], pa.string())
        self.layers = pa.DictionaryArray.from_arrays(pa.array(np.concatenate(layer_of)), names)
        self.indices = pa.array(np.concatenate(index_of), pa.int64())
        self._held = torch.as_tensor(np.concatenate(held)).to(next(model.parameters()).device)

    @torch.no_grad()
    def values(self) -> Tensor:
        """The sampled weights now, [sample] over all layers, on the weights' device, each from the
        rank that holds it."""
        values = [share.of(weight)[place] for weight, share, place in self._places]
        here = torch.cat(values) if values else torch.empty(0)
        if self._shares.single:
            return here
        everywhere = torch.zeros(len(self._held), dtype=torch.float64, device=self._held.device)
        return self._shares.added(everywhere.masked_scatter_(self._held, here.double()))


def _within(
    share: Share, place: Sequence[NDArray[Any]]
) -> tuple[list[NDArray[Any]], NDArray[np.bool_]]:
    """Where entries at `place` of a parameter stand in its share, and which of them are there."""
    held = np.ones(len(place[0]), np.bool_)
    found = []
    for axis, index in zip(share.axes, place, strict=True):
        here = axis.numpy()
        position = np.searchsorted(here, index)
        held &= np.isin(index, here)
        found.append(position)
    return [position[held] for position in found], held

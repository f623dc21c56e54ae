"""A fixed random sample of single parameters, for curves like those of Fig. 1, left."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from symrun.symmetry import Layer


class ParameterSample:
    """Up to `size` single weights of each layer, drawn once from `seed`.

    Drawn with NumPy's own generator: torch's random states, which training uses, stay as they are.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], size: int, seed: int) -> None:
        random = np.random.default_rng(np.random.SeedSequence((seed, size)))
        self._places: list[tuple[Tensor, tuple[Tensor, ...]]] = []
        layer_of, index_of = [np.empty(0, np.int16)], [np.empty(0, np.int64)]
        for number, layer in enumerate(layers):
            weight = model.get_parameter(f"{layer.name}.weight")
            index = np.sort(random.choice(weight.numel(), min(size, weight.numel()), replace=False))
            place = np.unravel_index(index, tuple(weight.shape))
            self._places.append(
                (weight, tuple(torch.as_tensor(p).to(weight.device) for p in place))
            )
            layer_of.append(np.full(len(index), number, np.int16))
            index_of.append(index)
        names = pa.array([layer.name for layer in layers], pa.string())
        self.layers = pa.DictionaryArray.from_arrays(pa.array(np.concatenate(layer_of)), names)
        self.indices = pa.array(np.concatenate(index_of), pa.int64())

    @torch.no_grad()
    def values(self) -> Tensor:
        """The sampled weights now, [sample] over all layers, on the weights' device."""
        values = [weight[place] for weight, place in self._places]
        return torch.cat(values) if values else torch.empty(0)

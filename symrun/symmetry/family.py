"""Symmetries that a user knows and the search does not find."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from symrun.symmetry.groups import Group


class Family(ABC):
    """A family of symmetries, named by hand: a subclass says which parameters each moves.

    The setting `track.families=[module:Class]` makes a run call the class without arguments and
    ask it for its groups. They come after those that the search found, and are proven as these
    are: a run leaves a false one out, with a warning.

    The filters of a convolution whose weight is standardised, (w - mean) / std, keep their sums:

    Example:
        from symrun.symmetry import Family, Group, Symmetry, rows

        class FilterSums(Family):
            def groups(self, model):
                shapes = {name: p.shape for name, p in model.named_parameters() if p.ndim == 4}
                return [
                    Group(Symmetry.translation, name, (name,), (rows(name, shape),))
                    for name, shape in shapes.items()
                ]

        FilterSums().groups(model)[0].units == 4
    """

    @abstractmethod
    def groups(self, model: nn.Module) -> Sequence[Group]:
        """The groups of `model`. No other group of their symmetry may have the name of one."""

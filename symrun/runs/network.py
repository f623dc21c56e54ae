"""What run.json says of the network: its name, its layers and its symmetry groups."""

from dataclasses import dataclass

from symrun.symmetry import Group, Symmetry
from symrun.symmetry.groups import entries_of_blocks
from symrun.typed import require, require_lines, require_within


@dataclass(frozen=True)
class ModelInfo:
    """The network. family: its name without its variant, "VGG16" of "VGG16 with BN".

    width: relative to the usual number of channels; None for a model that has no such setting.
    """

    name: str
    title: str
    family: str
    width: float | None = None
    parameters: int | None = None

    def __post_init__(self) -> None:
        require_lines(self, "name", "title", "family")
        allowed = self.width is None or 0 < self.width <= 1000
        require("width", allowed, "a number in (0, 1000]", self.width)
        require_within(self, 0, 2**63 - 1, "parameters")

    @property
    def is_vgg(self) -> bool:
        """Whether the paper's figures are about such a network."""
        return self.family.startswith("VGG")


@dataclass(frozen=True)
class LayerInfo:
    """A layer with weights. block: which stack of convolutions it is in; None outside of any."""

    layer: str
    kind: str
    block: int | None

    def __post_init__(self) -> None:
        require_lines(self, "layer", "kind")
        if self.block is None:
            require("block", not self.is_convolution, "an integer in a convolution", "null")
        require_within(self, 0, 1000, "block")

    @property
    def is_convolution(self) -> bool:
        return self.kind == "convolution"


@dataclass(frozen=True)
class GroupInfo:
    """The units of one symmetry in one place of the network, as in `symmetry.Group`.

    unpredicted: why no law but the identity `exact` predicts these units; None if one does.
    blocks: the sets of units of rescale that make up a conserved matrix each. pairs: of
    general_linear, the entries (a, b) of these matrices that its units are; None: all with a < b.
    """

    symmetry: Symmetry
    group: str
    units: int
    layers: tuple[str, ...]
    entries: int | None = None
    unpredicted: str | None = None
    blocks: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def of(cls, group: Group, unpredicted: str | None = None) -> "GroupInfo":
        """What run.json says of `group`."""
        whole = list(group.pairs) in ([], entries_of_blocks(group.blocks))
        return cls(
            group.symmetry,
            group.name,
            group.units,
            group.layers,
            group.entries,
            unpredicted,
            group.blocks,
            None if whole else group.pairs,
        )

    @property
    def matrix_entries(self) -> list[tuple[int, int]]:
        """Of general_linear, row and column of each unit among the units of the diagonal."""
        return entries_of_blocks(self.blocks) if self.pairs is None else list(self.pairs)

    @property
    def parameters(self) -> int | None:
        """In all units, each once: an entry of a matrix has those of two units of its diagonal."""
        if self.entries is None:
            return None
        pairs = self.is_of_pairs
        return (
            sum(map(len, self.blocks)) * self.entries // 2 if pairs else self.units * self.entries
        )

    @property
    def is_of_pairs(self) -> bool:
        """Whether its units are entries off the diagonal of matrices."""
        return self.symmetry is Symmetry.general_linear

    def __post_init__(self) -> None:
        require_lines(self, "group", "layers", "unpredicted")
        require("layers", bool(self.layers), "a list with an entry", [])
        require_within(self, 1, 10**9, "units")
        require_within(self, 1, 2**63 - 1, "entries")

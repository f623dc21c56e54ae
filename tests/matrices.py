"""A network with conserved matrices, and its groups with entries off their diagonals."""

import dataclasses

import torch.nn.functional as F
from torch import nn

from symrun.symmetry import find_structure
from symrun.symmetry.groups import off_diagonal


class Mixing(nn.Module):
    """Two linear layers and a convolution in a row, then two heads of attention that share their
    keys: a unit of query -> key has a line of the key and two of the queries, and one of second ->
    third has two columns of the kernel.

    float64 [batch, tokens, 5] -> [batch, 4]
    """

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 5)
        self.third = nn.Conv1d(5, 6, 2)
        self.query, self.key, self.value = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 6)
        self.project = nn.Linear(6, 4, bias=False)

    def forward(self, inputs):
        stream = self.third(self.second(self.first(inputs)).mT).mT
        query, value = (
            one(stream).unflatten(-1, (2, 3)).transpose(1, 2) for one in (self.query, self.value)
        )
        key = self.key(stream)[:, None].expand_as(query)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2)).mean(1)


BLOCKS = {
    "first -> second": ((0, 1, 2, 3),),
    "second -> third": ((0, 1, 2, 3, 4),),
    "third -> query, value, key": ((0, 1, 2, 3, 4, 5),),
    "query -> key": ((0, 1, 2),),
    "value -> project": ((0, 1, 2), (3, 4, 5)),
}
"""The units that any invertible matrix may mix."""


def structure_of(model, inputs, sampled=False, diagonals=True):
    """The groups of `Mixing` named above, those of pairs after all others."""
    structure = find_structure(model, inputs)
    found = [
        dataclasses.replace(group, blocks=BLOCKS[group.name])
        for group in structure.groups
        if group.name in BLOCKS and group.symmetry.value == "rescale"
    ]
    assert [group.name for group in found] == list(BLOCKS)
    pairs = [off_diagonal(group, sampled, seed=3) for group in found]
    return dataclasses.replace(structure, groups=(*(found if diagonals else ()), *pairs))

"""Every diagonal symmetry of a small network's loss, from gradients alone.

A symmetry that multiplies each entry theta_i by e^{s a_i} leaves the loss as it is for all theta if
and only if sum over i of a_i theta_i g_i = 0 at every theta, g being the gradient; one that adds
s w_i to it if sum over i of w_i g_i = 0. So the exponents a that exist are the null space of the
matrix whose rows are theta * g at many random theta, batches and targets, and the weights w that
of the rows g. Nothing here knows how a network computes what it computes.

In the same way every quadratic form sum over p of <W_p, S_p W_p + W_p R_p> that is conserved is
found, with symmetric matrices S_p and R_p that mix the rows and the columns of each parameter:
those with <g_p, S_p W_p + W_p R_p> = 0, summed, everywhere.
"""

from collections import Counter
from dataclasses import dataclass

import torch

DEAD = 1e-12
"""The gradient of an entry that has none, in rounding, beside the largest."""
NULL = 1e-9
"""Singular values of symmetries, in rounding, beside the largest."""
GAP = 1e3
"""The least ratio of the smallest singular value that is none of these to the largest that is."""


def log_probabilities(outputs):
    """What softmax cross-entropy over axis 1 knows of the outputs."""
    first = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs))
    return first.log_softmax(1)


def numbers(outputs):
    """What squared errors know of the outputs: all."""
    return outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs))


@dataclass(frozen=True)
class Directions:
    """Of one kind of symmetry, scales or shifts: the dimensions that exist; those that were found,
    by how many units; and the names of found units that are none. Entries whose gradient is zero
    everywhere do not count."""

    exist: int
    found: int
    units: int
    false: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """dead: of each parameter, how many entries never have a gradient."""

    scales: Directions
    shifts: Directions
    dead: dict[str, int]


def prove(model, example, groups, known=log_probabilities):
    """Compare `groups` with the symmetries that exist.

    The parameters of `model` are drawn anew. known: what the loss depends on, of the outputs.
    """
    model.double()
    for module in model.modules():  # a normalisation is invariant up to its eps
        if hasattr(module, "eps"):
            module.eps = 1e-30
    theta, gradients = _sampled(model, example, known)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    columns = gradients.abs().amax(0)
    alive = columns > DEAD * columns.max()
    names = [name for name, size in sizes.items() for _ in range(size)]
    dead = Counter(name for name, lives in zip(names, alive.tolist(), strict=True) if not lives)
    units = {
        degree: [
            (f"{group.name}[{unit}]", vector)
            for group in groups
            if group.symmetry.degree == degree
            for unit, vector in enumerate(_vectors(group, model, sizes))
        ]
        for degree in (1, 2)
    }
    return Proof(
        _directions((theta * gradients)[:, alive], units[2], alive),
        _directions(gradients[:, alive], units[1], alive),
        dict(dead),
    )


def _sampled(model, example, known, rows=None):
    """Parameters and gradients at random points, float64 [rows, entries]."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    entries = sum(parameter.numel() for parameter in parameters)
    thetas, gradients = [], []
    while len(gradients) < 1.1 * (rows or entries) + 10:
        _draw(parameters)
        outputs = known(model(_batch(example)))
        flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
        for _ in range(4):
            cotangent = torch.randn_like(outputs)
            found = torch.autograd.grad(
                outputs, parameters, cotangent, retain_graph=True, materialize_grads=True
            )
            row = torch.cat([gradient.flatten() for gradient in found])
            thetas.append(flat)
            gradients.append(row / row.norm().clamp_min(1e-30))
    return torch.stack(thetas), torch.stack(gradients)


@torch.no_grad()
def _draw(parameters):
    """Entries of either sign, of which none is near zero, so large that sums are of order 1."""
    for parameter in parameters:
        fan_in = max(1, parameter[:1].numel()) if parameter.dim() > 1 else 1
        size = (0.5 + torch.rand_like(parameter)) * fan_in**-0.5
        parameter.copy_(torch.where(torch.rand_like(parameter) < 0.5, -size, size))


def _batch(example):
    if example.is_floating_point():
        return torch.randn_like(example, dtype=torch.float64)
    return torch.randint(0, int(example.max()) + 1, example.shape)


def _vectors(group, model, sizes):
    """Of each unit, the exponents or weights of all entries, float64 [units, entries]."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    vectors = torch.zeros(group.units, sum(sizes.values()), dtype=torch.float64)
    starts = dict(zip(sizes, torch.tensor([0, *sizes.values()]).cumsum(0).tolist(), strict=False))
    for members in group.members:
        size = sizes[members.parameter]
        lines = torch.arange(size)
        if members.axis == 0:
            lines = lines.view(len(members.units), -1)
        else:
            shape = shapes[members.parameter]
            height = (shape[0] if shape else 1) // members.parts
            lines = lines.view(members.parts, height, -1).transpose(1, 2).flatten(0, 1)
        weight = members.sign if group.symmetry.degree == 2 else 1
        for line, unit in zip(lines, members.units, strict=True):
            if unit >= 0:
                vectors[unit, starts[members.parameter] + line] += weight
    return vectors


def _directions(matrix, units, alive):
    """Of the rows of `matrix`, over the entries that are alive."""
    columns = matrix.norm(dim=0)
    matrix = matrix / columns
    values = torch.linalg.svdvals(matrix)
    null = values < NULL * values[0]
    if null.any() and not null.all():
        assert values[~null][-1] > GAP * values[null][0], "no gap: draw more points"
    kept = [(name, vector[alive]) for name, vector in units if vector[alive].any()]
    false = tuple(
        name
        for name, vector in kept
        if (matrix @ (vector * columns)).norm() > NULL * values[0] * (vector * columns).norm()
    )
    rank = int(torch.linalg.matrix_rank(torch.stack([v for _, v in kept]))) if kept else 0
    empty = tuple(name for name, vector in units if not vector.any())
    return Directions(int(null.sum()), rank, len(kept), false + empty)


def prove_forms(model, example, groups, known=numbers):
    """Compare the units of degree 2 in `groups` with all conserved quadratic forms.

    known: what the loss depends on. It must conserve no sum: a product of two would be a form too.
    The parameters of `model` are drawn anew.
    """
    model.double()
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    sides = {name: (shape[0], shape[1:].numel()) for name, shape in shapes.items()}
    unknown = sum(n * (n + 1) // 2 + m * (m + 1) // 2 - 1 for n, m in sides.values())
    sizes = [n * m for n, m in sides.values()]
    rows = []
    for theta, gradient in zip(*_sampled(model, example, known, unknown), strict=True):
        forms = []
        for (n, m), w, g in zip(
            sides.values(), theta.split(sizes), gradient.split(sizes), strict=True
        ):
            w, g = w.view(n, m), g.view(n, m)
            # S_aa stands beside the diagonal of g w^T, and S_ab beside both entries
            forms += [_upper(both + both.T - both.diag().diag()) for both in (g @ w.T, g.T @ w)]
            forms[-1] = forms[-1][1:]
        rows.append(torch.cat(forms))
    matrix = torch.stack(rows)
    columns = matrix.abs().amax(0)
    alive = columns > DEAD * columns.max()
    units = [
        (f"{group.name}[{unit}]", _form(group, unit, sides))
        for group in groups
        if group.symmetry.degree == 2
        for unit in range(group.units)
    ]
    return _directions(matrix[:, alive], units, alive)


def _upper(matrix):
    return matrix[torch.triu_indices(*matrix.shape).unbind()]


def _form(group, unit, sides):
    """The entries of S and R of each parameter, without R_00: the identity of rows is that of
    columns."""
    mixed = {name: [torch.zeros(size, size).double() for size in of] for name, of in sides.items()}
    one, other = group.pairs[unit] if group.pairs else (unit, unit)
    for members in group.members:
        of = mixed[members.parameter][members.axis]
        lines, others = (
            [line for line, owner in enumerate(members.units) if owner == which]
            for which in (one, other)
        )
        for first, second in zip(lines, others, strict=True):
            of[first, second] += members.sign / 2
            of[second, first] += members.sign / 2
    found = []
    for left, right in mixed.values():
        corner = right[0, 0].clone()
        found += [_upper(left + corner * torch.eye(len(left)).double())]
        found += [_upper(right - corner * torch.eye(len(right)).double())[1:]]
    return torch.cat(found)

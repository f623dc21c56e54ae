"""Homogeneous linear equations over many variables, nearly all of them equalities of two.

Variable 0 is zero. WILDCARD stands for the exponent of an entry that is zero itself: any will do.
Arrays of variables are int64 tensors on the CPU; one that does not vary along an axis has stride 0
there, so that it takes no memory.
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import torch
from torch import Tensor

ZERO = 0
WILDCARD = -1

Combination = dict[int, Fraction]
"""Coefficients by variable."""


class LinearSystem:
    """Collects equations, then gives every variable in terms of the free ones.

    Example:
        system = LinearSystem()
        x, y = system.fresh(2), system.fresh(2)
        system.equate(x, system.multiple(y, -1))
        system.solution()[int(x[0])]  # {y[0]: -1} or {x[0]: 1}
    """

    def __init__(self) -> None:
        self.count = 1
        self._equations: set[tuple[tuple[int, int], ...]] = set()
        self._sums: dict[tuple[tuple[int, int], ...], int] = {}

    def fresh(self, count: int) -> Tensor:
        """New variables, int64 [count]."""
        start, self.count = self.count, self.count + count
        return torch.arange(start, self.count)

    def equate(self, one: Tensor, other: Tensor) -> None:
        """one = other, entry by entry; the two are broadcast."""
        for a, b in _rows([one, other])[0]:
            if a != b and WILDCARD not in (a, b):
                self._add({a: 1, b: -1})

    def pin(self, variables: Tensor) -> None:
        """All of `variables` are zero."""
        for (a,) in _rows([variables])[0]:
            if a > ZERO:
                self._add({a: 1})

    def sum(self, one: Tensor, other: Tensor, sign: int = 1) -> Tensor:
        """one + sign * other, entry by entry, broadcast. What times a zero is a zero."""
        return self._combined([one, other], [1, sign])

    def multiple(self, variables: Tensor, factor: int) -> Tensor:
        return self._combined([variables], [factor])

    def _combined(self, parts: list[Tensor], factors: list[int]) -> Tensor:
        rows, back, shape = _rows(parts)
        found = [self._variable(dict_of(row, factors)) for row in rows]
        return torch.tensor(found, dtype=torch.int64)[back].view(shape)

    def _variable(self, combination: dict[int, int] | None) -> int:
        """The variable that is equal to a combination; None: a wildcard."""
        if combination is None:
            return WILDCARD
        if not combination:
            return ZERO
        key = tuple(sorted(combination.items()))
        if len(key) == 1 and key[0][1] == 1:
            return key[0][0]
        if key not in self._sums:
            self._sums[key] = self.count
            self._add({**combination, self.count: -1})
            self.count += 1
        return self._sums[key]

    def _add(self, equation: dict[int, int]) -> None:
        kept = tuple(sorted((v, c) for v, c in equation.items() if v != ZERO and c != 0))
        if kept:
            self._equations.add(kept)

    def solution(self) -> list[Combination]:
        """Every variable as a combination of free variables, with whole coefficients for each free
        variable over all that it moves.

        Where there is a choice, what few equations mention is expressed by what many do.
        """
        classes = _Classes(self.count)
        waiting = [dict(equation) for equation in sorted(self._equations)]
        while True:
            left = []
            progress = False
            for equation in waiting:
                reduced = classes.reduced(equation)
                if len(reduced) > 2:
                    left.append(reduced)
                elif reduced:
                    classes.merge(reduced)
                    progress = True
            waiting = left
            if not progress:
                break
        expressed = _eliminated(waiting, classes)
        return [classes.in_terms_of(variable, expressed) for variable in range(self.count)]


class _Classes:
    """Variables that are multiples of one another: each has a root and a factor."""

    def __init__(self, count: int) -> None:
        self.root = list(range(count))
        self.factor: list[Fraction | int] = [1] * count
        self.size = [1] * count

    def find(self, variable: int) -> tuple[int, Fraction | int]:
        path = []
        while self.root[variable] != variable:
            path.append(variable)
            variable = self.root[variable]
        factor: Fraction | int = 1
        for one in reversed(path):
            factor = self.factor[one] = factor * self.factor[one]
            self.root[one] = variable
        return variable, factor

    def reduced(self, equation: dict[int, int] | dict[int, Fraction]) -> Combination:
        found: Combination = {}
        for variable, coefficient in equation.items():
            root, factor = self.find(variable)
            if root != ZERO:
                found[root] = found.get(root, Fraction(0)) + coefficient * factor
        return {root: c for root, c in found.items() if c}

    def merge(self, equation: Combination) -> None:
        """Take in an equation of one or two roots."""
        if len(equation) == 1:
            (root,) = equation
            self.root[root], self.factor[root] = ZERO, 0
            return
        (a, ca), (b, cb) = equation.items()
        if self.size[a] > self.size[b]:
            (a, ca), (b, cb) = (b, cb), (a, ca)
        ratio = -cb / ca
        self.root[a] = b
        self.factor[a] = int(ratio) if ratio.denominator == 1 else ratio
        self.size[b] += self.size[a]

    def in_terms_of(self, variable: int, expressed: dict[int, Combination]) -> Combination:
        root, factor = self.find(variable)
        if root == ZERO:
            return {}
        return {v: c * factor for v, c in expressed.get(root, {root: Fraction(1)}).items()}


def _eliminated(equations: list[Combination], classes: _Classes) -> dict[int, Combination]:
    """Roots in terms of the free ones, by elimination. Pivots are roots that few equations hold,
    then those that stand for few variables."""
    using: dict[int, set[int]] = {}
    rows = dict(enumerate(equations))
    for number, row in rows.items():
        for root in row:
            using.setdefault(root, set()).add(number)
    solved: list[tuple[int, Combination]] = []
    for number in range(len(equations)):
        row = rows.pop(number)
        for root in row:
            using[root].discard(number)
        if not row:
            continue
        pivot = min(row, key=lambda root: (len(using[root]), classes.size[root], -root))
        definition = {root: -c / row[pivot] for root, c in row.items() if root != pivot}
        for other in list(using.pop(pivot)):
            coefficient = rows[other].pop(pivot)
            for root, c in definition.items():
                total = rows[other].get(root, Fraction(0)) + coefficient * c
                if total:
                    rows[other][root] = total
                    using[root].add(other)
                else:
                    del rows[other][root]
                    using[root].discard(other)
        solved.append((pivot, definition))
    expressed: dict[int, Combination] = {}
    for pivot, definition in reversed(solved):
        total: Combination = {}
        for root, c in definition.items():
            for free, inner in expressed.get(root, {root: Fraction(1)}).items():
                total[free] = total.get(free, Fraction(0)) + c * inner
        expressed[pivot] = {free: c for free, c in total.items() if c}
    return expressed


def dict_of(variables: list[int], factors: list[int]) -> dict[int, int] | None:
    """Coefficients by variable, of a sum; None if one of them is the exponent of a zero."""
    if WILDCARD in variables:
        return None
    total: Counter[int] = Counter()
    for variable, factor in zip(variables, factors, strict=True):
        total[variable] += factor
    return {variable: c for variable, c in total.items() if variable != ZERO and c != 0}


def compact(variables: Tensor) -> Tensor:
    """The same, with size 1 along each axis along which nothing varies."""
    for axis, stride in enumerate(variables.stride()):
        if stride == 0:
            variables = variables.narrow(axis, 0, min(1, variables.shape[axis]))
    for axis, size in enumerate(variables.shape):
        first = variables.narrow(axis, 0, min(1, size))
        if size > 1 and torch.equal(variables, first.expand(variables.shape)):
            variables = first
    return variables


def whole(combinations: list[Combination]) -> int:
    """The least number that makes all coefficients whole."""
    return lcm(*(c.denominator for one in combinations for c in one.values()))


def _rows(parts: Sequence[Tensor]) -> tuple[list[list[int]], Tensor, torch.Size]:
    """The different tuples of entries that stand at one place; which of them stands at each place,
    int64 [places]; and the shape of these places, compact and broadcast."""
    spread = [compact(part) for part in torch.broadcast_tensors(*parts)]
    spread = list(torch.broadcast_tensors(*spread))
    shape = spread[0].shape
    codes, bases = spread[0].reshape(-1) + 1, []
    for part in spread[1:]:
        bases.append(int(part.max()) + 2)
        codes = codes * bases[-1] + part.reshape(-1) + 1
    distinct, back = torch.unique(codes, return_inverse=True)
    columns = []
    for base in reversed(bases):
        columns.append(distinct % base - 1)
        distinct = distinct // base
    columns.append(distinct - 1)
    return torch.stack(columns[::-1], 1).tolist(), back, shape

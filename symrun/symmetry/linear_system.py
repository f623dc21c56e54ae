"""Homogeneous linear equations over many variables, nearly all of them equalities of two.

Variable 0 is zero. WILDCARD stands for the exponent of an entry that is zero itself: any will do.
Arrays of variables are int64 tensors on the CPU; one that does not vary along an axis has stride 0
there, so that it takes no memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import lcm

import numpy as np
import torch
from torch import Tensor

ZERO = 0
WILDCARD = -1

Combination = dict[int, Fraction]
"""Coefficients by variable."""

_Terms = tuple[tuple[int, int], ...]
"""Variables with their coefficients, in order."""


class LinearSystem:
    """Collects equations, then gives every variable in terms of the free ones.

    Equalities, also with a minus sign, hold at once: `canonical` shows them.

    Example:
        system = LinearSystem()
        x, y = system.fresh(2), system.fresh(2)
        system.equate(x, system.multiple(y, -1))
        system.solution()  # of each variable: {} for zero, {x[0]: 1} and {x[0]: -1} for the pair
    """

    def __init__(self) -> None:
        self.count = 1
        # Of each variable: one that it equals, but for the sign; that variable points at itself
        self._root = np.zeros(1, dtype=np.int64)
        self._sign = np.ones(1, dtype=np.int64)
        self._opposite = np.zeros(1, dtype=np.int64)
        self._equations: list[_Terms] = []
        self._sums: dict[_Terms, int] = {}

    def fresh(self, count: int) -> Tensor:
        """New variables, int64 [count]."""
        start, self.count = self.count, self.count + count
        if self.count > len(self._root):
            more = max(count, len(self._root))
            self._root = np.append(self._root, np.arange(len(self._root), len(self._root) + more))
            self._sign = np.append(self._sign, np.ones(more, dtype=np.int64))
            self._opposite = np.append(self._opposite, np.zeros(more, dtype=np.int64))
        return torch.arange(start, self.count)

    def canonical(self, variables: Tensor) -> Tensor:
        """The same variables, those that are equal with one name; compact."""
        narrow = compact(variables)
        values = narrow.reshape(-1).numpy()
        roots, signs = self._resolved(np.maximum(values, 0))
        turned = np.flatnonzero((signs < 0) & (roots != ZERO))
        if len(turned):
            without = turned[self._opposite[roots[turned]] == 0]
            self._opposite[roots[without]] = values[without]
            roots[turned] = self._opposite[roots[turned]]
        roots[values < 0] = WILDCARD
        return compact(torch.from_numpy(roots).view(narrow.shape))

    def _resolved(self, variables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The root of each variable and the sign that it has beside it."""
        roots, signs = self._root[variables], self._sign[variables]
        while True:
            further = self._root[roots]
            if np.array_equal(further, roots):
                break
            signs, roots = signs * self._sign[roots], further
        self._root[variables], self._sign[variables] = roots, signs
        return roots, signs

    def equate(self, one: Tensor, other: Tensor) -> None:
        """one = other, entry by entry; the two are broadcast."""
        pairs, _, _ = self._rows([one, other])
        a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        known = (a != b) & (a >= 0) & (b >= 0)
        self._unite(a[known], b[known])

    def pin(self, variables: Tensor) -> None:
        """All of `variables` are zero."""
        roots = self.canonical(variables).reshape(-1).numpy()
        roots, _ = self._resolved(roots[roots > 0])
        self._root[roots], self._sign[roots] = ZERO, 1

    def _unite(self, a: np.ndarray, b: np.ndarray) -> None:
        (a, sign_a), (b, sign_b) = self._resolved(a), self._resolved(b)
        parent: dict[int, tuple[int, int]] = {ZERO: (ZERO, 1)}

        def find(variable: int) -> tuple[int, int]:
            path, sign = [], 1
            while True:
                above, turn = parent.setdefault(variable, (variable, 1))
                if above == variable:
                    break
                path.append((variable, turn))
                variable = above
            for step, turn in reversed(path):
                sign *= turn
                parent[step] = (variable, sign)
            return variable, sign

        for x, y, turn in zip(a.tolist(), b.tolist(), (sign_a * sign_b).tolist(), strict=True):
            (root_x, sign_x), (root_y, sign_y) = find(x), find(y)
            turn *= sign_x * sign_y
            if root_x == root_y:
                if turn < 0:
                    parent[root_x] = (ZERO, 1)
            elif root_x < root_y:
                parent[root_y] = (root_x, turn)
            else:
                parent[root_x] = (root_y, turn)
        for variable in list(parent):
            self._root[variable], self._sign[variable] = find(variable)

    def sum(self, one: Tensor, other: Tensor) -> Tensor:
        """one + other, entry by entry, broadcast; a wildcard where one of them is."""
        return self._combined([one, other], [1, 1])

    def multiple(self, variables: Tensor, factor: int) -> Tensor:
        return self._combined([variables], [factor])

    def _combined(self, parts: list[Tensor], factors: list[int]) -> Tensor:
        rows, back, shape = self._rows(parts)
        found = [self._variable(row, factors) for row in rows]
        return torch.tensor(found, dtype=torch.int64)[back].view(shape)

    def _variable(self, row: list[int], factors: list[int]) -> int:
        """The variable that is equal to a combination."""
        if WILDCARD in row:
            return WILDCARD
        total: dict[int, int] = {}
        for variable, factor in zip(row, factors, strict=True):
            if variable != ZERO:
                root, sign = int(self._root[variable]), int(self._sign[variable])
                total[root] = total.get(root, 0) + factor * sign
        key = tuple(sorted((root, c) for root, c in total.items() if c))
        if not key:
            return ZERO
        if key[0][1] == 1 and len(key) == 1:
            return key[0][0]
        if key not in self._sums:
            new = int(self.fresh(1))
            self._sums[key] = new
            if len(key) == 1 and key[0][1] == -1:
                self._root[new], self._sign[new] = key[0]
            else:
                self._equations.append((*key, (new, -1)))
        return self._sums[key]

    def _rows(self, parts: Sequence[Tensor]) -> tuple[list[list[int]], Tensor, torch.Size]:
        """The different tuples of entries that stand at one place; which of them stands at each
        place, int64 [places]; and the shape of these places, compact and broadcast."""
        spread = torch.broadcast_tensors(*map(self.canonical, parts))
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
        return torch.stack(columns[::-1], 1).tolist(), back, spread[0].shape

    def solution(self) -> list[Combination]:
        """Every variable as a combination of free variables. Where there is a choice, what few
        equations mention is expressed by what many do."""
        expressed = _eliminated(self._reduced())
        roots, signs = self._resolved(np.arange(self.count))
        one = Fraction(1)
        found: list[Combination] = []
        for root, sign in zip(roots.tolist(), signs.tolist(), strict=True):
            combination = expressed.get(root, {root: one} if root != ZERO else {})
            found.append({v: sign * c for v, c in combination.items()})
        return found

    def _reduced(self) -> list[Combination]:
        """The equations between roots."""
        roots, signs = self._resolved(np.arange(self.count))
        found: list[Combination] = []
        for equation in self._equations:
            total: dict[int, int] = {}
            for variable, coefficient in equation:
                root = int(roots[variable])
                if root != ZERO:
                    total[root] = total.get(root, 0) + coefficient * int(signs[variable])
            found.append({root: Fraction(c) for root, c in total.items() if c})
        return found


def _eliminated(equations: list[Combination]) -> dict[int, Combination]:
    """Variables in terms of the free ones. Pivots are variables that few equations hold."""
    using: dict[int, set[int]] = {}
    rows = dict(enumerate(equations))
    for number, row in rows.items():
        for variable in row:
            using.setdefault(variable, set()).add(number)
    solved: list[tuple[int, Combination]] = []
    for number in sorted(rows, key=lambda n: len(rows[n])):
        row = rows.pop(number)
        for variable in row:
            using[variable].discard(number)
        if not row:
            continue
        pivot = min(row, key=lambda variable: (len(using[variable]), -variable))
        definition = {variable: -c / row[pivot] for variable, c in row.items() if variable != pivot}
        for other in list(using.pop(pivot)):
            coefficient = rows[other].pop(pivot)
            for variable, c in definition.items():
                total = rows[other].get(variable, Fraction(0)) + coefficient * c
                if total:
                    rows[other][variable] = total
                    using[variable].add(other)
                else:
                    rows[other].pop(variable, None)
                    using[variable].discard(other)
        solved.append((pivot, definition))
    expressed: dict[int, Combination] = {}
    for pivot, definition in reversed(solved):
        expressed[pivot] = substituted(definition, expressed)
    return expressed


def substituted(combination: Combination, expressed: Mapping[int, Combination]) -> Combination:
    """`combination` with what `expressed` has in place of its variables."""
    total: Combination = {}
    for variable, c in combination.items():
        for free, factor in expressed.get(variable, {variable: Fraction(1)}).items():
            total[free] = total.get(free, Fraction(0)) + c * factor
    return {free: c for free, c in total.items() if c}


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


def common_denominator(coefficients: Iterable[Fraction]) -> int:
    """The least positive number whose product with each coefficient is an integer."""
    return lcm(*(c.denominator for c in coefficients))

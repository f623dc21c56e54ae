"""Equations are solved as the null space of a matrix says, whatever their order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symrun.symmetry.linear_system import WILDCARD, ZERO, LinearSystem, common_denominator, compact

VARIABLES = 6
EQUATION = st.lists(
    st.tuples(st.integers(0, VARIABLES - 1), st.integers(-3, 3)), min_size=1, max_size=4
)


def stated(equations):
    """The system with these equations, and the matrix of their coefficients."""
    system = LinearSystem()
    variables = system.fresh(VARIABLES)
    matrix = np.zeros((len(equations), VARIABLES))
    for row, equation in zip(matrix, equations, strict=True):
        total = torch.tensor(ZERO)
        for index, coefficient in equation:
            row[index] += coefficient
            total = system.sum(total, system.multiple(variables[index], coefficient))
        system.pin(total)
    return system, variables, matrix


@given(st.lists(EQUATION, max_size=7))
def test_the_solution_is_the_whole_null_space(equations):
    system, variables, matrix = stated(equations)
    solution = [system.solution()[variable] for variable in variables]
    free = sorted({variable for combination in solution for variable in combination})
    basis = np.array(
        [[float(combination.get(variable, 0)) for variable in free] for combination in solution]
    ).reshape(VARIABLES, len(free))
    rank = np.linalg.matrix_rank(matrix) if equations else 0
    assert np.allclose(matrix @ basis, 0)
    assert np.linalg.matrix_rank(basis) == len(free) == VARIABLES - rank if free else rank == 6


@given(st.lists(EQUATION, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_equations_does_not_matter(equations, shuffle):
    def dimensions(some):
        system, variables, _ = stated(some)
        solution = system.solution()
        return len({free for variable in variables for free in solution[variable]})

    other = list(equations)
    shuffle.shuffle(other)
    assert dimensions(equations) == dimensions(other)


@given(
    st.lists(st.tuples(*[st.integers(0, VARIABLES - 1)] * 2, st.sampled_from([1, -1])), max_size=9)
)
def test_equalities_hold_at_once_with_their_signs(pairs):
    system = LinearSystem()
    variables = system.fresh(VARIABLES)
    matrix = np.zeros((len(pairs), VARIABLES))
    for row, (one, other, sign) in zip(matrix, pairs, strict=True):
        system.equate(variables[one], system.multiple(variables[other], sign))
        row[one] += 1
        row[other] -= sign
    names = system.canonical(variables).expand(VARIABLES).tolist()
    projector = np.eye(VARIABLES) - np.linalg.pinv(matrix) @ matrix if pairs else np.eye(VARIABLES)
    for one in range(VARIABLES):
        for other in range(VARIABLES):
            equal = np.allclose(projector[one], projector[other])
            assert (names[one] == names[other]) is equal
        assert (names[one] == ZERO) is np.allclose(projector[one], 0)


def test_a_variable_and_its_opposite_are_zero():
    system = LinearSystem()
    x = system.fresh(1)
    system.equate(x, system.multiple(x, -1))
    assert system.canonical(x).tolist() == [ZERO]


def test_arrays_are_broadcast_and_wildcards_fit_anything():
    system = LinearSystem()
    rows, columns = system.fresh(2).view(2, 1), system.fresh(3)
    total = system.sum(rows, columns)
    assert total.shape == (2, 3) and total.unique().numel() == 6
    wild = torch.tensor([WILDCARD, ZERO, WILDCARD])
    system.equate(columns, wild)
    assert (system.canonical(columns) == ZERO).tolist() == [False, True, False]
    assert system.sum(columns, wild).tolist() == [WILDCARD, ZERO, WILDCARD]


def test_the_same_sum_is_the_same_variable():
    system = LinearSystem()
    x, y = system.fresh(2)
    assert system.sum(x, y) == system.sum(y, x)
    assert system.sum(system.sum(x, y), x).item() != system.sum(x, y).item()
    assert system.sum(x, system.multiple(x, -1)).item() == ZERO


def test_fractions_come_out_exactly():
    system = LinearSystem()
    x, y, z = system.fresh(3)
    system.equate(system.multiple(x, 3), system.multiple(y, 2))
    system.equate(system.multiple(y, 5), system.multiple(z, 7))
    found = [next(iter(system.solution()[v].values())) for v in (x, y, z)]
    factor = common_denominator(found)
    assert [abs(c / found[0]) for c in found] == [1, 3 / 2, pytest.approx(15 / 14)]
    assert all((c * factor).denominator == 1 for c in found)


def test_compact_drops_the_axes_along_which_nothing_varies():
    variables = torch.arange(3).view(3, 1).expand(3, 4).contiguous()
    assert compact(variables).shape == (3, 1)
    assert compact(torch.full((2, 5), 7)).shape == (1, 1)
    assert compact(torch.arange(6).view(2, 3)).shape == (2, 3)

"""A curve in one line: as wide as it may be, its highest block where the curve is highest."""

import math

from hypothesis import given
from hypothesis import strategies as st

from symrun.listing.sparkline import BLOCKS, NOT_FINITE, PLAIN, sparkline

CURVES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200).map(lambda v: list(enumerate(v)))


@given(CURVES, st.integers(1, 90), st.booleans())
def test_it_fits_and_has_one_of_the_blocks_in_each_place(curve, width, log):
    line = sparkline(curve, width, log)
    assert 1 <= len(line) <= width and set(line) <= set(BLOCKS)


@given(CURVES)
def test_each_point_of_a_short_curve_has_its_block(curve):
    line = sparkline(curve, len(curve), blocks=PLAIN)
    values = [value for _, value in curve]
    assert len(line) == len(curve)
    if max(values) > min(values) + 1e-6:
        assert line[values.index(max(values))] == PLAIN[-1]
        assert line[values.index(min(values))] == PLAIN[0]
    for one, other in zip(range(len(curve) - 1), range(1, len(curve)), strict=True):
        if values[one] <= values[other]:
            assert PLAIN.index(line[one]) <= PLAIN.index(line[other])


def test_a_peak_between_two_places_stays_visible():
    curve = [(step, 1.0 if step == 501 else 0.0) for step in range(1000)]
    assert sparkline(curve, 10) == "▁▁▁▁▁█▁▁▁▁"


def test_logarithms_span_a_factor_of_ten_and_take_zero_for_the_least():
    assert sparkline([(0, 0.0), (1, 1e-6), (2, 1e-3), (3, 1.0)], 4, log=True) == "▁▁▅█"
    assert sparkline([(0, 1.0), (1, 1.01)], 2, log=True) == "▁▁"


def test_what_is_not_finite_is_said():
    assert sparkline([(0, 1.0), (1, math.inf), (2, math.nan), (3, 2.0)], 4) == f"▁{NOT_FINITE * 2}█"
    assert sparkline([], 4) == ""

"""A curve in one line of text."""

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-~=+*#"
"""For terminals that cannot show blocks."""

NOT_FINITE = "!"


def sparkline(
    curve: Sequence[tuple[float, float]], width: int, log: bool = False, blocks: str = BLOCKS
) -> str:
    """A curve (place, value) in at most `width` characters, each the largest value of its stretch.

    The lowest block is the least value and the highest the largest. log: by the logarithm, in
    which no curve spans less than a factor of 10, and 0 is as low as the least other value. What
    is not finite is NOT_FINITE.
    Example: sparkline([(0, 0.0), (1, 7.0)], 2) == "▁█"
    """
    heights = [_height(value, log) for value in _largest(curve, width)]
    finite = [height for height in heights if math.isfinite(height)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (max(high, low + log) - low) / len(blocks) or 1.0
    return "".join(_block((height - low) / step, blocks) for height in heights)


def _block(level: float, blocks: str) -> str:
    if math.isnan(level) or level == math.inf:
        return NOT_FINITE
    return blocks[int(min(max(level, 0), len(blocks) - 1))]


def _largest(curve: Sequence[tuple[float, float]], width: int) -> list[float]:
    """Of each stretch that has a point, the largest value."""
    if not curve or width < 1:
        return []
    first, span = curve[0][0], curve[-1][0] - curve[0][0]
    found: dict[int, float] = {}
    cells = min(width, len(curve))
    for place, value in curve:
        cell = min(int((place - first) / span * cells), cells - 1) if span else 0
        found[cell] = value if math.isnan(value) else max(value, found.get(cell, -math.inf))
    return list(found.values())


def _height(value: float, log: bool) -> float:
    if log and value <= 0:
        return -math.inf
    return math.log10(value) if log else value

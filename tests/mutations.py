"""Damage of every kind that disks, networks and people do to a file, from a seed."""

from random import Random


def mutated(content: bytes, random: Random) -> bytes:
    """`content` with one to three kinds of damage; not the same bytes again."""
    damaged = content
    while damaged == content:
        for _ in range(random.randint(1, 3)):
            damaged = random.choice(_KINDS)(damaged, random)
    return damaged


def _flip(content, random):
    """One to four bits."""
    damaged = bytearray(content)
    for _ in range(random.randint(1, 4)):
        if damaged:
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def _cut(content, random):
    return content[: random.randrange(len(content) + 1)]


def _overwrite(content, random):
    """A stretch with noise, zeros or ones."""
    start = random.randrange(len(content) + 1)
    length = random.choice((1, 4, 8, 64, 4096))
    stretch = random.choice((random.randbytes(length), b"\0" * length, b"\xff" * length))
    return content[:start] + stretch + content[start + length :]


def _remove(content, random):
    start = random.randrange(len(content) + 1)
    return content[:start] + content[start + random.choice((1, 4, 64, 4096)) :]


def _insert(content, random):
    start = random.randrange(len(content) + 1)
    return content[:start] + random.randbytes(random.choice((1, 4, 64))) + content[start:]


def _double(content, random):
    """A stretch again where another was."""
    start, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] + content[end:]


def _swap_ends(content, random):
    place = random.randrange(len(content) + 1)
    return content[place:] + content[:place]


_KINDS = (_flip, _flip, _flip, _cut, _overwrite, _overwrite, _remove, _insert, _double, _swap_ends)

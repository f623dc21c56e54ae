"""Numbers as lists and cards show them."""

UNKNOWN = "-"


def count(value: float | None) -> str:
    """ "39,100" """
    return UNKNOWN if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """ "62.3%" """
    return UNKNOWN if value is None else f"{value:.1%}"


def decimal(value: float | None) -> str:
    """ "0.416" """
    return UNKNOWN if value is None else f"{value:.3f}"


def of_planned(step: int, planned: int | None) -> str:
    """ "1,240 of 2,000" updates; "2,000" where that is all, or nobody planned it."""
    return f"{step:,}" if planned in (None, step) else f"{step:,} of {planned:,}"


def size(count_bytes: float) -> str:
    """ "13.4 MB", of 10^6 bytes."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6)):
        if count_bytes >= bytes_each:
            return f"{count_bytes / bytes_each:.1f} {unit}"
    return f"{count_bytes / 1e3:.1f} kB"

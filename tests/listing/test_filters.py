"""Conditions on runs: what they parse to, and of what they hold."""

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symrun.errors import UsageError
from symrun.listing.filters import Condition, shown, value_of, whole_key
from symrun.listing.summary import Summary

SIGNS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z0-9_]{1,8})?", fullmatch=True).filter(
    lambda key: key not in ("status", "created")
)
NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)


def run(**fields):
    known = dict(path="p", status="finished", name="n", model="vgg16_bn", data="synthetic")
    known |= dict(created="2026-01-31T12:00:00+00:00", step=7, planned=8, every=1, seconds=None)
    return Summary(
        **{**known, "settings": {"optim.lr": 0.1, "seed": 0, "model.width": 1.0}, **fields}
    )


@given(KEYS, st.sampled_from([*SIGNS]), NUMBERS, NUMBERS)
def test_a_number_is_compared_as_python_compares_it(key, sign, value, wanted):
    condition = Condition.of(f"{key}{sign}{wanted!r}")
    assert condition == Condition(key, sign, repr(wanted))
    assert condition.holds(value) == SIGNS[sign](value, wanted)


@given(
    KEYS, st.sampled_from(["=", "!=", "~"]), st.from_regex(r"[A-Za-z_/][\w/. -]*\w", fullmatch=True)
)
def test_a_text_is_compared_without_regard_to_case(key, sign, text):
    condition = Condition.of(f"{key}{sign}{text}")
    assert condition == Condition(key, sign, text)
    if text.lower() == text.casefold() and text.isascii():
        assert condition.holds(text.upper()) == (sign != "!=")
        assert condition.holds(f"x{text}x") == (sign != "=")


@given(st.text() | st.from_regex(r"\w{1,5}(=|!=|<|>|~|<=|>=|==).{0,9}"))
def test_any_word_is_a_condition_or_none_or_one_line(word):
    try:
        condition = Condition.of(word)
    except UsageError as error:
        assert str(error)
    else:
        assert condition is None or condition.holds(3.0) in (True, False)


@given(KEYS, NUMBERS)
def test_what_is_unknown_is_none_and_nothing_else(key, number):
    for sign in SIGNS:
        assert Condition.of(f"{key}{sign}{number!r}").holds(None) == (sign == "!=")
    assert Condition.of(f"{key}=none").holds(None)
    assert not Condition.of(f"{key}!=none").holds(None)
    assert Condition.of(f"{key}!=none").holds(number)


@pytest.mark.parametrize(
    ("word", "holds"),
    [
        ("created=2026-01", True),
        ("created=2026-01-31", True),
        ("created=2026-01-30", False),
        ("created>2026-01-31", False),
        ("created>=2026-01-31", True),
        ("created<2026", False),
        ("created<2026-02", True),
        ("created>2026-01-31T11", True),
        ("created!=2025", True),
    ],
)
def test_a_time_counts_as_far_as_it_is_written(word, holds):
    condition = Condition.of(word)
    assert condition.holds(value_of(run(), condition.key)) is holds


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lr>big", "> compares numbers, got big"),
        ("optim.lr=", "has no value: type optim.lr=VALUE"),
        ("created>yesterday", "a time is written 2026-01-31, got yesterday"),
        ("status=finish", "status must be one of .*, got finish; did you mean finished?"),
    ],
)
def test_what_cannot_hold_is_refused(word, message):
    with pytest.raises(UsageError, match=message):
        Condition.of(word)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model.lr", "; did you mean optim.lr?"),
        ("top_1", "; did you mean top1?"),
        ("optim.rl", "; did you mean optim.lr?"),
        ("model.widht", "; did you mean model.width?"),
        ("zzz", "; there are status, model"),
    ],
)
def test_an_unknown_key_has_a_near_one(key, meant):
    for known in ("optim.lr", "seed", "loss", "unexplained"):
        assert whole_key(known, [run()]) == known
    with pytest.raises(UsageError, match=f"no run has {key}") as caught:
        whole_key(key, [run()])
    assert meant in str(caught.value)


def test_a_short_name_is_enough_if_it_means_one_setting():
    others = run(settings={"data.width": 3, "run.name": "a"})
    assert whole_key("lr", [run(), others]) == "optim.lr"
    assert whole_key("name", [others]) == "name"  # a key of its own
    with pytest.raises(UsageError, match="width may be model.width or data.width: type one of"):
        whole_key("width", [run(), others])


@pytest.mark.parametrize(
    ("word", "holds"),
    [
        ("created=2026-01-31T14", True),
        ("created>=2026-01-31 15:00", False),
        ("created=2026-01-31T12:00:00+00:00", True),
        ("created<2026-01-31T09:30:00-03:00", True),
        ("created<2026-01-31T13:30:00+02:00", False),
    ],
)
def test_times_are_compared_across_zones(word, holds, two_hours_east):
    assert Condition.of(word).holds("2026-01-31T12:00:00+00:00") is holds


def test_a_share_may_be_written_in_percent():
    assert Condition.of("top1>38%").holds(0.381) and not Condition.of("top1>38%").holds(0.38)
    assert Condition.of("top1=62.3%").holds(0.623) and Condition.of("name=50%").holds("50%")


def test_values_are_shown_as_one_types_them():
    values = [None, True, 1e-05, 3, [0.5, None], "a\nb"]
    assert [shown(one) for one in values] == ["none", "true", "1e-05", "3", "[0.5,none]", "a\\nb"]

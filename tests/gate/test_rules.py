"""Filters against names and filters against filters, each checked against every name of a small world."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.broker.rules import Pattern, covers, filter_problem, matches, overlaps

LETTERS = ("a", "b", "", "z", "$s")
WORLD = [list(name) for depth in (1, 2, 3, 4) for name in product(LETTERS, repeat=depth) if "$s" not in name[1:]]


@st.composite
def filters(draw: st.DrawFn) -> list[str]:
    levels = draw(st.lists(st.sampled_from(["a", "b", "+", "+", ""]), min_size=0, max_size=3))
    if draw(st.booleans()) or not levels:
        levels.append("#")
    if draw(st.integers(0, 5)) == 0:
        levels[0] = "$s"
    return levels


def slow_match(rule: list[str], name: list[str]) -> bool:
    """The definition, as a recursion."""
    if rule[0] in "+#" and name[0].startswith("$"):
        return False

    def step(left: list[str], right: list[str]) -> bool:
        if left == ["#"]:
            return True
        if not left or not right:
            return left == right
        return (left[0] in ("+", right[0])) and step(left[1:], right[1:])

    return step(rule, name)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(filters())
def test_matches_is_the_definition(rule: list[str]) -> None:
    for name in WORLD:
        assert matches(rule, name) == slow_match(rule, name), (rule, name)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(filters(), filters())
def test_covers_and_overlaps_agree_with_every_name(rule: list[str], asked: list[str]) -> None:
    theirs = [name for name in WORLD if slow_match(asked, name)]
    mine = [name for name in theirs if slow_match(rule, name)]
    # The world's names are one level deeper than any filter and hold a letter no filter names, so it can tell.
    assert covers(rule, asked) == (mine == theirs), (rule, asked)
    assert overlaps(rule, asked) == bool(mine), (rule, asked)


def test_a_name_that_looks_like_a_filter_is_text() -> None:
    assert not matches(["a", "b"], ["a", "#"])
    assert not matches(["a", "b"], ["a", "+"])
    assert matches(["a", "+"], ["a", "#"])


@pytest.mark.parametrize(
    ("text", "part"),
    [("", "empty"), ("a/#/b", "last level"), ("a#", "mixes"), ("a/b+", "mixes"), ("a/%x", "%c"), ("a/%", "%c")],
)
def test_a_wrong_filter_is_explained(text: str, part: str) -> None:
    problem = filter_problem(text)
    assert problem is not None
    assert part in problem


@pytest.mark.parametrize("text", ["#", "+", "a/+/#", "/", "a//b", "dev-%c/%u", "100%%", "$mesh/#"])
def test_a_right_filter_is_taken(text: str) -> None:
    assert filter_problem(text) is None


def test_patterns_take_agent_and_principal() -> None:
    levels = Pattern("own/%u/dev-%c/100%%/#").for_whom(Principal("ann"), "pump")
    assert levels == ["own", "ann", "dev-pump", "100%", "#"]


@pytest.mark.parametrize("agent", ["", "#", "+", "a/b", "a+", "$SYS", "a\x00"])
def test_a_value_that_could_widen_a_filter_never_goes_into_one(agent: str) -> None:
    assert Pattern("own/%c").for_whom(Principal("ann"), agent) is None
    assert Pattern("own/%u").for_whom(Principal(agent), "pump") is None


def test_nobody_vouched_for_the_name_anonymous() -> None:
    assert Pattern("own/%u").for_whom(ANONYMOUS, "pump") is None
    assert Pattern("own/%c").for_whom(ANONYMOUS, "pump") == ["own", "pump"]

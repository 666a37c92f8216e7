"""The grammar of names and filters."""

from __future__ import annotations

import pytest

from dragoman.routing.names import (
    AGENT_BYTES_MAX,
    LEVELS_MAX,
    NAME_BYTES_MAX,
    check_agent,
    check_filter,
    check_name,
    is_exact,
    matches,
    parse_shared,
    shown,
)
from dragoman.routing.refusals import Reason, Refusal


@pytest.mark.parametrize(
    "name",
    ["a", "/", "//", "a//b", "$SYS/x", "$share", "a b", ".", "..", "a/../b", "\x01\x7f", "ß/温度/🌡", "\ufeff", "￿"],
)
def test_every_mqtt_topic_name_is_a_channel_name(name):
    assert check_name(name) is None
    assert check_filter(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is empty"),
        ("a/+/b", "wildcard"),
        ("a#", "wildcard"),
        ("a\x00b", "NUL"),
        ("a/\ud800", "UTF-8"),
        ("/".join("x" * (LEVELS_MAX + 1)), "129 levels, at most 128"),
        ("x" * (NAME_BYTES_MAX + 1), "65536 bytes, at most 65535"),
        ("ß" * 32_768, "65536 bytes, at most 65535"),
    ],
)
def test_what_is_no_name_is_refused_with_a_sentence(name, says):
    refusal = check_name(name)
    assert refusal is not None
    assert refusal.reason is Reason.NAME_INVALID
    assert says in refusal.detail


def test_the_limits_themselves_are_allowed():
    assert check_name("x" * NAME_BYTES_MAX) is None
    assert check_name("ß" * 32_767) is None
    assert check_name("/".join("x" * LEVELS_MAX)) is None
    assert check_filter("/".join("+" * LEVELS_MAX)) is None


@pytest.mark.parametrize("filter", ["#", "+", "a/#", "/#", "+/+", "+/#", "a/+/b/#", "$SYS/#", "//+", "/+/"])
def test_legal_filters(filter):
    assert check_filter(filter) is None
    assert not is_exact(filter)


@pytest.mark.parametrize(
    ("filter", "says"),
    [
        ("", "is empty"),
        ("#/a", "last level"),
        ("a/#/b", "last level"),
        ("#/#", "last level"),
        ("a#", "whole level"),
        ("a/#b", "whole level"),
        ("##", "whole level"),
        ("++", "whole level"),
        ("a+/b", "whole level"),
        ("a/+b", "whole level"),
        ("+#", "whole level"),
        ("a/\x00/#", "NUL"),
        ("\udfff/#", "UTF-8"),
        ("/".join("+" * (LEVELS_MAX + 1)), "levels"),
        ("x" * NAME_BYTES_MAX + "/#", "bytes"),
    ],
)
def test_what_is_no_filter_is_refused_with_a_sentence(filter, says):
    refusal = check_filter(filter)
    assert refusal is not None
    assert refusal.reason is Reason.FILTER_INVALID
    assert says in refusal.detail


def test_a_name_is_an_exact_filter():
    assert is_exact("a/b")
    assert not is_exact("a/+")
    assert not is_exact("a/#")


@pytest.mark.parametrize(
    ("filter", "name"),
    [
        ("a", "a"),
        ("a/#", "a"),
        ("a/#", "a/"),
        ("a/#", "a/b/c"),
        ("a/+/#", "a/b"),
        ("#", "a/b"),
        ("#", "/"),
        ("+", "a"),
        ("+/+", "/"),
        ("/+", "/a"),
        ("+/b/+", "a/b/c"),
        ("a/+", "a/"),
        ("$SYS/#", "$SYS"),
        ("$SYS/+", "$SYS/x"),
        ("a/+", "a/$x"),
        ("a/#", "a/$x/y"),
        ("+/+", "a/$x"),
    ],
)
def test_matches(filter, name):
    assert matches(filter, name)


@pytest.mark.parametrize(
    ("filter", "name"),
    [
        ("a", "b"),
        ("a", "a/"),
        ("a", "A"),
        ("a/#", "ab"),
        ("a/#", "b/a"),
        ("a/b/#", "a"),
        ("+", "/a"),
        ("+", "a/b"),
        ("a/+", "a"),
        ("a/+", "a/b/c"),
        ("a/+/#", "a"),
        ("+/b/+", "a/c/c"),
        ("#", "$SYS/x"),
        ("#", "$"),
        ("+", "$SYS"),
        ("+/x", "$SYS/x"),
        ("+/#", "$SYS/x"),
    ],
)
def test_does_not_match(filter, name):
    assert not matches(filter, name)


@pytest.mark.parametrize("filter", ["a", "$share", "$shared/g/a", "$SYS/#", "share/g/a", "a/$share/g/b"])
def test_an_ordinary_filter_is_not_shared(filter):
    assert parse_shared(filter) is None


@pytest.mark.parametrize(
    ("filter", "parts"),
    [
        ("$share/g/a", ("g", "a")),
        ("$share/g/a/+/#", ("g", "a/+/#")),
        ("$share/g//a", ("g", "/a")),
        ("$share/g/#", ("g", "#")),
        ("$share/g/$SYS/x", ("g", "$SYS/x")),
        ("$share/g g/a", ("g g", "a")),
        ("$share/g/" + "/".join("x" * LEVELS_MAX), ("g", "/".join("x" * LEVELS_MAX))),
    ],
)
def test_a_shared_filter_is_taken_apart(filter, parts):
    assert parse_shared(filter) == parts


@pytest.mark.parametrize(
    ("filter", "says"),
    [
        ("$share/", "group name"),
        ("$share//a", "group name"),
        ("$share/+/a", "group name"),
        ("$share/g#/a", "group name"),
        ("$share/g", "no filter"),
        ("$share/g/", "no filter"),
        ("$share/g/a/#/b", "last level"),
        ("$share/g/a+", "whole level"),
        ("$share/g/$share/h/a", "another shared"),
        ("$share/g\x00/a", "NUL"),
        ("$share/\ud800/a", "UTF-8"),
        ("$share/" + "g" * NAME_BYTES_MAX + "/a", "bytes"),
        ("$share/g/" + "/".join("x" * (LEVELS_MAX + 1)), "levels"),
    ],
)
def test_a_broken_shared_filter_is_refused(filter, says):
    refusal = parse_shared(filter)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.FILTER_INVALID
    assert says in refusal.detail


@pytest.mark.parametrize("agent", ["a", "device/7", "urn:air:acme:x", " + # $", "..", "温度", "x" * AGENT_BYTES_MAX])
def test_agent_ids_may_be_any_text(agent):
    assert check_agent(agent) is None


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        ("", "empty"),
        ("a\nb", "control"),
        ("a\x00", "control"),
        ("\x7f", "control"),
        ("\x9b31m", "control"),
        ("\ud83d", "UTF-8"),
        ("x" * (AGENT_BYTES_MAX + 1), "1025 bytes, at most 1024"),
        ("ß" * 513, "1026 bytes"),
    ],
)
def test_agent_ids_that_would_break_headers_and_logs_are_refused(agent, says):
    refusal = check_agent(agent)
    assert refusal is not None
    assert refusal.reason is Reason.NAME_INVALID
    assert says in refusal.detail


def test_a_hostile_name_does_not_drown_the_sentence_about_it():
    assert shown("a\ud800\n") == "'a\\ud800\\n'"
    assert len(shown("x" * 60_000)) < 120
    refusal = check_name("#" * 60_000)
    assert refusal is not None
    assert len(refusal.detail.encode()) < 250

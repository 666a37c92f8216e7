"""Every spelling of a name is reversible, and says so when it cannot hold a name."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl
from yarl import URL

from dragoman.routing.names import (
    TOOL_NAME_MAX,
    check_name,
    from_kafka,
    from_level,
    from_nats,
    from_path,
    from_uri,
    to_kafka,
    to_level,
    to_nats,
    to_path,
    to_uri,
    tool_name,
)
from dragoman.routing.refusals import Reason, Refusal

KAFKA_TOPIC = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9._-]{1,249}")
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

characters = st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00+#/")
awkward = st.text(alphabet="_x25efF.%~$-=aé", max_size=6)
levels = st.one_of(
    awkward, st.sampled_from(["", ".", "..", "$SYS", "_x", "%2F", "a b"]), st.text(characters, max_size=8)
)
names = st.lists(levels, min_size=1, max_size=6).map("/".join).filter(bool)
quick = settings(max_examples=120, derandomize=True, deadline=None)


@quick
@given(names)
def test_the_strategy_makes_legal_names(name):
    assert check_name(name) is None


# -- Kafka ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("factory/line1/temp", "factory.line1.temp"),
        ("orders", "orders"),
        ("a.b", "a_x2eb"),
        ("/a/", "_x.a._x"),
        ("/", "_x._x"),
        ("$SYS/x", "_x24SYS.x"),
        ("events_2024", "events_2024"),
        ("my_topic", "my_topic"),
        ("__consumer_offsets", "__consumer_offsets"),
        ("_x", "_x5fx"),
        ("_x2e", "_x5fx2e"),
        ("_.", "__x2e"),
        ("__x", "__x5fx"),
        ("é", "_xc3_xa9"),
        (".", "_x2e"),
    ],
)
def test_kafka_topics(name, topic):
    assert to_kafka(name) == topic
    assert from_kafka(topic) == name


@quick
@given(names)
def test_kafka_topics_are_legal_and_reversible(name):
    topic = to_kafka(name)
    if isinstance(topic, Refusal):
        assert len(name.encode()) > 40
        return
    assert KAFKA_TOPIC.fullmatch(topic)
    assert from_kafka(topic) == name


@quick
@given(st.text(alphabet="_x25efEF.-a0c3", min_size=1, max_size=12))
@example("_x00")
@example("_xc3_xa9")
def test_no_two_kafka_topics_are_one_channel(topic):
    name = from_kafka(topic)
    if isinstance(name, str):
        assert to_kafka(name) == topic
        assert check_name(name) is None


@pytest.mark.parametrize(
    "topic",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.",
        "a/b",
        "a b",
        "é",
        "a\n",
        "_x2E",
        "_x61",
        "_x2d",
        "a_x",
        "_xa",
        "_xzz",
        "_xff",
        "_xc3",
        "_x2b",
        "_x23",
        "_x00",
        "_x2f",
        "_xed_xa0_x80",
        "x" * 250,
    ],
)
def test_kafka_topics_we_never_write_are_refused(topic):
    refusal = from_kafka(topic)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NAME_INVALID


def test_a_name_too_long_for_kafka_is_refused_and_never_shortened():
    assert to_kafka("x" * 249) == "x" * 249
    assert from_kafka("x" * 249) == "x" * 249
    for name in ("", "x" * 250, "é" * 32, "/" * 100):
        refusal = to_kafka(name)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.NAME_NOT_EXPRESSIBLE


# -- NATS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("factory/line1/temp", "factory.line1.temp"),
        ("a.b/c", "a//b.c"),
        ("/a//b/", "/.a./.b./"),
        ("...", "//////"),
        ("ß/a*", "ß.a*"),
    ],
)
def test_nats_subjects(name, subject):
    assert to_nats(name) == subject
    assert from_nats(subject) == name


@quick
@given(names)
def test_every_nats_subject_reads_back(name):
    subject = to_nats(name)
    if isinstance(subject, Refusal):
        assert subject.reason is Reason.NAME_NOT_EXPRESSIBLE
        assert any(c <= " " or c == "\x7f" for c in name) or {"*", ">"} & set(name.split("/"))
    else:
        assert from_nats(subject) == name


@pytest.mark.parametrize("subject", ["", ".", "a..b", "a/b", "a///b", "a.+", "a.b#", "a b", "a.*", ">"])
def test_a_nats_subject_that_is_no_channels_is_refused(subject):
    assert isinstance(from_nats(subject), Refusal)


# -- HTTP paths ----------------------------------------------------------------------------------


@quick
@given(names)
@example("a/b c/%2F/é")
def test_paths_are_reversible_through_a_real_url_parser(name):
    path = to_path(name)
    if path is None:
        assert {"", ".", ".."} & set(name.split("/"))
        return
    assert not {"", ".", ".."} & set(name.split("/"))
    assert from_path(path) == name
    assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", path)
    root = "/v1/channels/"
    for url in (URL("http://h" + root + path), URL("http://h" + root + path, encoded=True)):
        assert url.raw_path.startswith(root)
        assert from_path(url.raw_path[len(root) :]) == name


@quick
@given(st.text(alphabet="%2eEfF0c3a9./+~é\ud800", max_size=10))
def test_a_path_gives_a_name_that_a_path_can_hold_or_a_refusal(path):
    name = from_path(path)
    if isinstance(name, str):
        assert check_name(name) is None
        assert to_path(name) is not None
    else:
        assert name.reason is Reason.NAME_INVALID


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "a/../b",
        "a/%2e%2E/b",
        "a%2Fb",
        "a/%2f",
        "%",
        "a%2",
        "%zz",
        "%ff",
        "%ED%A0%80",
        "%00",
        "a/+",
        "%23",
        "\ud800",
        "a" * 70_000,
        "%" * 5_000,
    ],
)
def test_paths_that_are_no_channel_are_refused(path):
    refusal = from_path(path)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NAME_INVALID
    assert len(refusal.detail) < 250


def test_how_a_client_encodes_does_not_matter():
    assert from_path("%24SYS/x") == from_path("$SYS/x") == "$SYS/x"
    assert from_path("%c3%a9") == from_path("%C3%A9") == from_path("é") == "é"


# -- MCP resource URIs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("factory/line1/temp", "channel:///factory/line1/temp"),
        ("a b/é", "channel:///a%20b/%C3%A9"),
        ("a/../b", "channel:///?name=a%2F..%2Fb"),
        ("/a", "channel:///?name=%2Fa"),
        ("?name=a", "channel:///%3Fname%3Da"),
    ],
)
def test_uris(name, uri):
    assert to_uri(name) == uri
    assert from_uri(uri) == name


@quick
@given(names)
@example("..")
@example("?name=a")
def test_uris_are_reversible_through_the_parser_of_the_mcp_sdk(name):
    uri = to_uri(name)
    assert from_uri(uri) == name
    assert from_uri(str(AnyUrl(uri))) == name


@pytest.mark.parametrize(
    "uri",
    ["", "a", "channel:", "channel:///", "channel://a", "channel://a/b", "file:///a", "channel:///a/", "channel:////a"],
)
def test_uris_that_are_no_channel_are_refused(uri):
    assert isinstance(from_uri(uri), Refusal)


@pytest.mark.parametrize("query", ["", "a+b", "%23", "%", "%ff", "%00"])
def test_the_query_form_is_checked_as_well(query):
    refusal = from_uri(f"channel:///?name={query}")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NAME_INVALID


# -- one level -----------------------------------------------------------------------------------


@quick
@given(st.one_of(names, st.text(alphabet="+#/$. %fF", min_size=1, max_size=6)))
@example(".")
@example("..")
@example(".%FF")
@example("%2E%2E")
@example("$share")
def test_a_level_is_one_level_anywhere(text):
    level = to_level(text)
    assert from_level(level) == text
    assert re.fullmatch(r"[A-Za-z0-9._~%-]+", level)
    assert level not in (".", "..")
    assert check_name(level) is None
    assert from_path(level) == text or "/" in text or check_name(text) is not None or text in (".", "..")


@quick
@given(st.text(alphabet="+#/$.%fF=~2eE", min_size=1, max_size=6))
@example("..")
@example("=.")
def test_a_level_survives_the_url_parsers_that_fold_and_requote(text):
    level = to_level(text)
    for url in (URL(f"http://h/v1/agents/{level}/x"), URL(f"http://h/v1/agents/{level}/x", encoded=True)):
        root, agents, raw, tail = url.raw_path.removeprefix("/").split("/")
        assert (root, agents, tail) == ("v1", "agents", "x")
        assert from_level(raw) == text
    assert from_level(str(AnyUrl(f"http://h/{level}/x")).split("/")[3]) == text


def test_levels_are_what_encodeuricomponent_and_quote_write():
    for agent in ("planner", "device/7", "urn:x:y", "é ü", "50%"):
        assert to_level(agent) == quote(agent, safe="")
    assert from_level("urn:x") == from_level("urn%3Ax") == from_level("urn%3ax") == "urn:x"
    assert from_level("it's(a)!*") == "it's(a)!*"
    assert from_level("..%ff") == ".."


@pytest.mark.parametrize(
    "level", ["", "a/b", "/", "%", "%2", "a%zz", "%ff", "...%FF", "%C3", ".%ﬀ", "%ED%A0%80", "\ud800"]
)
def test_levels_that_say_nothing_are_refused(level):
    refusal = from_level(level)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NAME_INVALID


# -- MCP tool names --------------------------------------------------------------------------------


def test_a_legal_free_name_is_kept():
    assert tool_name("set_temperature", "key", set()) == "set_temperature"
    assert tool_name("x" * TOOL_NAME_MAX, "key", set()) == "x" * TOOL_NAME_MAX


def test_a_changed_name_stays_readable_and_gets_a_digest():
    assert re.fullmatch(r"set_temperature_[0-9a-f]{8}", tool_name("set temperature", "key", set()))
    assert re.fullmatch(r"a_b_[0-9a-f]{8}", tool_name("a/.b?", "key", set()))
    assert re.fullmatch(r"skill_[0-9a-f]{8}", tool_name("温度", "key", set()))
    assert re.fullmatch(r"x{55}_[0-9a-f]{8}", tool_name("x" * 65, "key", set()))


def test_names_made_alike_stay_apart():
    made = {tool_name(skill, skill, set()) for skill in ("a b", "a.b", "a/b", "a  b", "a_b", "温度", "湿度", "")}
    assert len(made) == 8


def test_a_taken_name_gets_a_digest_of_the_identity_and_a_longer_one_if_need_be():
    first = tool_name("read", "one", {"read"})
    assert re.fullmatch(r"read_[0-9a-f]{8}", first)
    assert tool_name("read", "two", {"read"}) != first
    longer = tool_name("read", "one", {"read", first})
    assert longer.startswith(first)
    assert len(longer) == len(first) + 8


def test_a_legal_skill_name_that_looks_made_does_not_collide():
    made = tool_name("a b", "one", set())
    assert tool_name(made, "two", {made}) != made


def test_no_name_left_is_our_own_mistake():
    class Everything:
        def __contains__(self, name: object) -> bool:
            return True

    with pytest.raises(AssertionError, match="named twice"):
        tool_name("read", "one", Everything())


@quick
@given(st.text(max_size=90), st.text(alphabet="abc", max_size=5), st.sets(st.sampled_from(["a", "b", "ab"])))
def test_tool_names_are_legal_free_and_repeatable(skill, identity, taken):
    name = tool_name(skill, identity, taken)
    assert TOOL_NAME.fullmatch(name)
    assert name not in taken
    assert tool_name(skill, identity, taken) == name

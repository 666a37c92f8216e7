"""Which channel a Kafka client means by the topic it names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.routing.names import check_name, kafka_channel, to_kafka
from dragoman.routing.refusals import Reason, Refusal


@pytest.mark.parametrize(
    ("topic", "channel"),
    [
        ("factory.line1.temp", "factory/line1/temp"),
        ("factory/line1/temp", "factory/line1/temp"),
        ("a_x2eb", "a.b"),
        ("a/b.c", "a/b.c"),
        ("$SYS/x", "$SYS/x"),
        ("/a/", "/a/"),
        ("events_2024", "events_2024"),
        ("ünï/code", "ünï/code"),
    ],
)
def test_dots_first_then_the_channels_own_name(topic, channel):
    assert kafka_channel(topic) == channel


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", Reason.NAME_INVALID),
        ("..", Reason.NAME_INVALID),
        ("a..b", Reason.NAME_INVALID),
        ("a b", Reason.NAME_INVALID),
        ("$SYS", Reason.NAME_INVALID),
        ("a/+", Reason.NAME_INVALID),
        ("a/#", Reason.NAME_INVALID),
        ("a/\0", Reason.NAME_INVALID),
        ("x" * 250, Reason.NAME_INVALID),
        ("a/" + "x" * 250, Reason.NAME_NOT_EXPRESSIBLE),
    ],
)
def test_what_is_no_channel_is_refused(topic, reason):
    refusal = kafka_channel(topic)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason


names = st.text(st.sampled_from("abx/._-$ ü5"), min_size=1, max_size=12)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(names)
def test_a_channel_is_found_by_the_topic_it_is_listed_as_and_by_its_name(name):
    topic = to_kafka(name)
    if check_name(name) is not None or isinstance(topic, Refusal):
        return
    assert kafka_channel(topic) == name
    if "/" in name:
        assert kafka_channel(name) == name

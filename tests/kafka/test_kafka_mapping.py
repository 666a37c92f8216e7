"""A message's facts as record headers, both ways: what each is called, and what a client may not say."""

from __future__ import annotations

import pytest

from dragoman.adapters.kafka.mapping import envelope_from, headers_of
from dragoman.routing.message import NEVER, Envelope, Message

EVENT = (
    ("specversion", b"1.0"),
    ("id", b"1"),
    ("source", b"/s"),
    ("type", b"t"),
    ("partitionkey", b"p"),
    ("time", b"2020-01-01T00:00:00Z"),
)
EVENT_MS = 1_577_836_800_000


def heard(*headers, key=None, sent_ms=-1):
    return envelope_from(key, headers, sent_ms)[0]


def spelt(envelope, **more):
    return headers_of(Message("a/b", b"", envelope=envelope, **more))


SPELLINGS = [
    ("content_type", "text/plain; charset=utf-8", "content-type", b"text/plain; charset=utf-8"),
    ("reply_to", "factory/line1.b", "reply-to", b"factory.line1_x2eb"),
    ("correlation", b"\x00\xff", "correlation-id", b"\x00\xff"),
    ("correlation", b"", "correlation-id", b""),
    ("expires_ms", 1_800_000_000_000, "expires-at", b"1800000000000"),
    ("cause", "a7-9", "mesh-cause", b"a7-9"),
    ("hops", 3, "mesh-hops", b"3"),
]


@pytest.mark.parametrize(("slot", "fact", "name", "value"), SPELLINGS)
def test_each_fact_has_one_spelling_both_ways(slot, fact, name, value):
    assert spelt(Envelope(**{slot: fact})) == [(name, value)]
    envelope = heard((name, value))
    assert getattr(envelope, slot) == fact
    assert envelope.headers == ()


@pytest.mark.parametrize(
    ("name", "value", "slot", "left"),
    [
        ("content-type", b"\xff", "content_type", None),
        ("content-type", None, "content_type", None),
        ("reply-to", b"\xff\xfe", "reply_to", None),
        ("expires-at", b"soon", "expires_ms", NEVER),
        ("expires-at", b"9" * 16, "expires_ms", NEVER),
        ("expires-at", "\u0663".encode(), "expires_ms", NEVER),
        ("mesh-cause", b"nonsense", "cause", None),
        ("mesh-hops", b"1000", "hops", 0),
        ("mesh-hops", b"-1", "hops", 0),
        ("mesh-sent-ms", b"1e3", "sent_ms", None),
    ],
)
def test_what_is_no_such_fact_stays_a_header(name, value, slot, left):
    envelope = heard((name, value))
    assert getattr(envelope, slot) == left
    assert envelope.headers == ((name, value),)


def test_headers_keep_order_duplicates_nulls_and_bytes():
    headers = (("b", b"\xff"), ("a", None), ("b", b""), ("a", b"1"), ("Ü", b"2"))
    assert heard(*headers).headers == headers
    assert spelt(Envelope(headers=headers)) == list(headers)


@pytest.mark.parametrize(
    "name", ["mesh-id", "mesh-from", "mesh-key", "mesh-null", "content-type", "expires-at", "mesh-retain", "mesh-h-x"]
)
def test_a_header_named_as_ours_is_escaped_and_comes_back(name):
    ((said, value),) = spelt(Envelope(headers=((name, b"own"),)))
    assert (said, value) == ("mesh-h-" + name, b"own")
    assert heard((said, value)).headers == ((name, b"own"),)


def test_who_said_it_and_which_it_is_are_ours_to_say():
    message = Message("a/b", b"", sender="thermo", envelope=Envelope(headers=(("mesh-from", b"forged"),)))
    message.number, message.offset = 0x2A, 7
    assert headers_of(message) == [
        ("mesh-h-mesh-from", b"forged"),
        ("mesh-id", b"2a-7"),
        ("mesh-from", b"thermo"),
    ]


@pytest.mark.parametrize("name", ["mesh-id", "mesh-from", "mesh-lost"])
def test_a_client_cannot_say_them(name):
    assert heard((name, b"admin"), ("a", b"1")).headers == (("a", b"1"),)


def test_key_and_clock_are_the_records_own():
    envelope = heard(key=b"k", sent_ms=5)
    assert (envelope.key, envelope.sent_ms) == (b"k", 5)
    assert (heard().key, heard().sent_ms) == (None, None)
    assert heard(("mesh-key", b"said"), key=b"k").key == b"k"
    assert heard(("mesh-key", b"said")).key == b"said"
    assert heard(("mesh-sent-ms", b"7"), sent_ms=5).sent_ms == 7, "through another cluster the record's is its own"
    assert "mesh-key" not in dict(spelt(Envelope(key=b"k")))


def test_retained_is_said_and_asked_for():
    assert spelt(Envelope(), retain=True) == [("mesh-retain", b"true")]
    for value, asked in ((b"true", True), (b"1", True), (b"", True), (b"false", False), (b"0", False), (None, False)):
        envelope, retain = envelope_from(None, [("mesh-retain", value)], 0)
        assert retain is asked
        assert envelope.headers == ()


@pytest.mark.parametrize(
    ("channel", "topic"),
    [
        ("a/b", b"a.b"),
        ("a.b", b"a_x2eb"),
        ("mesh/to/me/reply/1", b"mesh.to.me.reply.1"),
        ("x" * 250, b"x" * 250),
        (".", b"_x2e"),
    ],
)
def test_an_answer_is_produced_to_a_topic(channel, topic):
    assert spelt(Envelope(reply_to=channel)) == [("reply-to", topic)]
    assert heard(("reply-to", topic)).reply_to == channel


def test_a_reply_to_in_slashes_is_taken_as_it_is():
    assert heard(("reply-to", b"a/b.c")).reply_to == "a/b.c"
    assert heard(("reply-to", b"a/+")).reply_to == "a/+"
    assert spelt(Envelope(reply_to="a/+")) == [("reply-to", b"a/+")], "what is no channel is no topic either"


# -- CloudEvents -----------------------------------------------------------------------------------


def test_an_event_has_a_prefix_here_and_none_inside():
    said = [("ce_" + name, value) for name, value in EVENT]
    envelope = heard(("content-type", b"application/json"), *said)
    assert envelope.headers == EVENT
    assert (envelope.content_type, envelope.key, envelope.sent_ms) == ("application/json", b"p", EVENT_MS)
    assert spelt(envelope) == [
        ("content-type", b"application/json"),
        *said,
        ("mesh-sent-ms", str(EVENT_MS).encode()),
    ]


def test_the_records_key_and_no_events_are_left_alone():
    assert heard(*(("ce_" + name, value) for name, value in EVENT), key=b"k").key == b"k"
    loose = (("ce_id", b"1"), ("id", b"2"))
    assert heard(*loose).headers == loose, "without a version it is no event"
    assert spelt(Envelope(headers=loose)) == list(loose)


def test_of_an_event_only_attributes_have_the_prefix():
    others = (("Capital", b"1"), ("with-dash", b"2"), ("nothing", None))
    trace = (("traceparent", b"00-1-2-01"), ("tracestate", b"a=b"))
    found = spelt(Envelope(headers=(("specversion", b"1.0"), *others, *trace)))
    assert found == [("ce_specversion", b"1.0"), *others, *trace]


def test_a_structured_event_is_its_value():
    envelope = heard(("content-type", b"application/cloudevents+json"))
    assert envelope.content_type == "application/cloudevents+json"
    assert spelt(envelope) == [("content-type", b"application/cloudevents+json")]

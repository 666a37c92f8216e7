"""Batches made of what came by other protocols: what consumers read in them, and what comes back from them."""

from __future__ import annotations

import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.kafka.batches import build, check, open_bundle
from dragoman.adapters.kafka.mapping import RAW_KAFKA
from dragoman.adapters.kafka.synthesis import RUN_MAX, Synthesis
from dragoman.routing.message import Envelope, Message
from tests.attributes import attributes
from tests.kafka.batch_forms import RICH, TAIL, Record, bundle_of, by_aiokafka, read_by_kafka_python

T0 = 1_700_000_000_000


def said(offset: int, payload: bytes | None = b"v", envelope: Envelope | None = None, **more) -> Message:
    message = Message("a/b", payload, 1, "", envelope=envelope, **more)
    message.offset = offset
    message.time_ms = T0 + offset
    return message


def read(messages: list[Message]) -> list[tuple[int, Record]]:
    return read_by_kafka_python(build(messages))


# -- what consumers read ---------------------------------------------------------------------------


def test_offsets_keep_their_holes():
    data = build([said(40), said(45), said(1_000_000)])
    assert struct.unpack_from(">qii", data) == (40, len(data) - 12, 0)
    attributes, last, base, newest, *producer, count = TAIL.unpack_from(data, 21)
    assert (attributes, last, base, newest, producer, count) == (0, 999_960, T0 + 40, T0 + 1_000_000, [-1, -1, -1], 3)
    assert [offset for offset, _ in read_by_kafka_python(data)] == [40, 45, 1_000_000]
    assert [record.offset for record in DefaultRecordBatch(data)] == [40, 45, 1_000_000]


def test_a_batch_of_ours_would_be_taken_back():
    data = build([said(40), said(41)])
    assert not isinstance(check(memoryview(data), max_bytes=len(data), produce_version=3), int)


def test_nulls_and_bytes_that_are_no_text_survive():
    headers = (("a", b"\xff\x00"), ("a", None), ("ü", b""))
    envelope = Envelope(key=b"\xfe", headers=headers, sent_ms=T0)
    found = read([said(1, None, envelope), said(2, b"", Envelope(key=b""))])
    assert [record.key for _, record in found] == [b"\xfe", b""]
    assert [record.value for _, record in found] == [None, b""]
    assert found[0][1].headers[:3] == headers


def test_a_record_has_the_senders_clock_or_ours():
    found = read([said(1, envelope=Envelope(sent_ms=5)), said(2), said(3, envelope=Envelope())])
    assert [record.time_ms for _, record in found] == [5, T0 + 2, T0 + 3]


@pytest.mark.parametrize("before", [-1, -86_400_000, 1 << 63])
def test_a_clock_kafka_cannot_show_is_ours(before):
    """Kafka's -1 is "no clock"; a builder that sees it first would take the next record's for it."""
    found = read([said(1, envelope=Envelope(sent_ms=before)), said(2, envelope=Envelope(sent_ms=9))])
    assert [record.time_ms for _, record in found] == [T0 + 1, 9]


@pytest.mark.parametrize("payload", [b"", None])
def test_a_cleared_retained_value_is_a_null_value(payload):
    ((_, record),) = read([said(1, payload, retain=True)])
    assert record.value is None
    assert ("mesh-retain", b"true") in record.headers
    ((_, kept),) = read([said(1, b"on", retain=True)])
    assert kept.value == b"on"


def test_long_names_and_many_headers_fit():
    headers = tuple((f"{i}" + "😀" * 200, b"v" * 300) for i in range(500))
    envelope = Envelope(headers=headers, reply_to="ü" * 60, content_type="😀" * 900, correlation=b"c" * 5_000)
    found = read([said(1), said(2, b"x" * 100_000, envelope)])
    assert [h for h in found[1][1].headers if h in headers] == list(headers)


# -- there and back --------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
data = st.none() | st.binary(max_size=30)
envelopes = st.builds(
    Envelope,
    sent_ms=st.integers(0, 10**15 - 1),
    key=data,
    headers=st.lists(
        st.tuples(texts | st.sampled_from(["mesh-id", "content-type", "mesh-h-x", "mesh-retain"]), data), max_size=4
    ).map(tuple),
    content_type=st.none() | texts,
    correlation=data,
    expires_ms=st.integers(0, 10**15 - 1),
    cause=st.none() | st.just("a7-9"),
    hops=st.integers(0, 255),
)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.none() | st.binary(min_size=1, max_size=50), envelopes, st.booleans()), min_size=1, max_size=5))  # fmt: skip # noqa: E501
def test_what_is_made_of_a_message_is_that_message(parts):
    messages = [said(7 + i, payload, envelope, retain=retain) for i, (payload, envelope, retain) in enumerate(parts)]
    back = open_bundle(bundle_of(build(messages)))
    assert [(m.payload, m.retain) for m in back] == [(payload, retain) for payload, _, retain in parts]
    for message, (_, envelope, _) in zip(back, parts, strict=True):
        assert message.envelope is not None
        for slot in attributes(Envelope):
            assert getattr(message.envelope, slot) == getattr(envelope, slot), slot


@pytest.mark.parametrize("codec", range(5))
def test_what_came_from_kafka_leaves_to_kafka_as_it_came(codec):
    """Fields in the order of their sender, said twice, spelt oddly, null; the clock of an event beside the record's."""
    odd = (
        Record(
            b"k",
            b"v",
            (
                ("mesh-retain", b"true"),
                ("z", None),
                ("content-type", None),
                ("content-type", b"a/b"),
                ("content-type", b"c/d"),
                ("mesh-h-z", b"1"),
                ("mesh-cause", b"nonsense"),
                ("mesh-sent-ms", b"17"),
                ("reply-to", b"a/slash"),
            ),
        ),
        Record(
            None,
            b"event",
            (
                ("ce_specversion", b"1.0"),
                ("ce_id", b"1"),
                ("id", b"2"),
                ("ce_time", b"2020-01-01T00:00:00Z"),
                ("ce_partitionkey", b"p"),
                ("mesh-key", b"other"),
            ),
        ),
        *RICH,
    )
    messages = open_bundle(bundle_of(by_aiokafka(odd, codec)), keep_form=True)
    for message in messages:
        message.sender = "somebody"
    assert read(messages) == list(enumerate(odd, 40))


@pytest.mark.parametrize("name", ["mesh-id", "mesh-from", "mesh-lost"])
def test_who_says_what_only_we_may_say_is_not_repeated(name):
    forged = Record(headers=((name, b"admin"), ("a", b"1")))
    (message,) = open_bundle(bundle_of(by_aiokafka([forged])), keep_form=True)
    assert message.envelope is not None
    assert message.envelope.raw_form == 0
    ((_, record),) = read([message])
    assert ("a", b"1") in record.headers
    assert b"admin" not in [value for _, value in record.headers]
    assert ("mesh-from", b"agent") in record.headers


def test_readers_of_other_protocols_cost_no_second_copy():
    (message,) = open_bundle(bundle_of(by_aiokafka([Record(headers=(("a", b"1"),))])))
    assert message.envelope is not None
    assert (message.envelope.raw, message.envelope.raw_form) == (b"", 0)
    (kept,) = open_bundle(bundle_of(by_aiokafka([Record()])), keep_form=True)
    assert kept.envelope is not None
    assert kept.envelope.raw_form == RAW_KAFKA


# -- runs of entries -------------------------------------------------------------------------------


def test_entries_become_batches_in_their_order():
    bundle = bundle_of(by_aiokafka(RICH))
    pieces = list(Synthesis(1 << 20).records([said(38), said(39), bundle, said(44), said(46)]))
    assert len(pieces) == 4
    assert pieces[2].obj is bundle.body
    assert [offset for offset, _ in read_by_kafka_python(b"".join(pieces))] == [38, 39, 40, 41, 42, 43, 44, 46]


def test_a_long_run_is_several_batches():
    pieces = list(Synthesis(1 << 20).records(said(i) for i in range(RUN_MAX + 1)))
    assert [len(read_by_kafka_python(bytes(piece))) for piece in pieces] == [RUN_MAX, 1]


def test_what_was_made_is_remembered_within_bounds():
    def made(offset: int, number: int) -> bytes | memoryview:
        message = said(offset)
        message.number = number
        (piece,) = synthesis.records([message])
        return piece

    synthesis = Synthesis(0)
    one = len(made(1, 7))
    synthesis = Synthesis(2 * one)
    first, second = made(1, 7), made(2, 7)
    assert made(1, 7) is first
    assert made(1, 8) is not first
    assert made(1, 7) is first
    assert made(2, 7) is not second, "the least recently used went"

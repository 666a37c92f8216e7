"""Batches opened for who does not speak Kafka: all that clients can write, and nothing that hostile bytes can do."""

from __future__ import annotations

import tracemalloc

import cramjam
import lz4.frame
import pytest
import zstandard
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.kafka import records
from dragoman.adapters.kafka.batches import OPENED_BYTES_MAX, open_bundle
from dragoman.adapters.kafka.compression import decompressed
from dragoman.adapters.kafka.records import PARTS_MAX, check_parts
from dragoman.routing.message import Wish
from tests.kafka.batch_forms import (
    CODECS,
    MAKERS,
    NAMES,
    PLAIN,
    RICH,
    Record,
    batch,
    bundle_of,
    by_aiokafka,
    compressed,
    gzipped,
    record_of,
    varint,
    xerial,
)

COMPRESSING = pytest.mark.parametrize("codec", CODECS[1:], ids=NAMES[1:])
HUGE = (1 << 63) - 1


def opened(body: bytes, count: int | None = None) -> list[Record]:
    found = []
    for message in open_bundle(bundle_of(body, count)):
        envelope = message.envelope
        assert envelope is not None
        found.append(Record(envelope.key, message.payload, envelope.headers, envelope.sent_ms))
    return found


# -- what clients write ----------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
@pytest.mark.parametrize("make", MAKERS)
def test_every_record_is_read_as_it_was_written(make, codec):
    assert opened(make(RICH, codec)) == list(RICH)


def test_messages_have_the_places_of_their_bundle():
    messages = open_bundle(bundle_of(by_aiokafka(RICH)))
    assert [m.offset for m in messages] == [40, 41, 42, 43]
    assert [m.position for m in messages] == [900, 901, 902, 903]
    assert {(m.name, m.number, m.time_ms, m.sender, m.wish, m.retain) for m in messages} == {
        ("a/b", 7, 1_800_000_000_000, "agent", Wish.AT_LEAST_ONCE, False)
    }


def test_offsets_do_not_follow_what_records_say():
    """The channel has counted them; a producer that numbers its records oddly changes nothing."""
    odd = record_of(b"\0", varint(99), b"\x01", b"\x01", b"\0")
    assert [m.offset for m in open_bundle(bundle_of(batch(odd * 2, 2)))] == [40, 41]


def test_snappy_is_read_framed_and_raw():
    plain = by_aiokafka(RICH)[61:]
    for packed in (xerial(plain), xerial(plain, 100), bytes(cramjam.snappy.compress_raw(plain))):
        assert len(opened(batch(packed, len(RICH), attributes=2))) == len(RICH)


def test_framed_snappy_that_ends_early_says_so():
    with pytest.raises(ValueError, match="ends too early"):
        decompressed(2, memoryview(xerial(b"abc")[:-1]), 100)


def test_a_record_without_a_clock_has_none():
    assert opened(batch(PLAIN, base_ms=-1)) == [Record(value=None, time_ms=None)]


def test_the_time_of_appending_counts_where_the_batch_says_so():
    assert opened(batch(PLAIN, attributes=8, base_ms=5, newest_ms=77))[0].time_ms == 77


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
values = st.none() | st.binary(max_size=40)
rich = st.lists(
    st.builds(
        Record, values, values, st.lists(st.tuples(texts.map("h ".__add__), values), max_size=4).map(tuple),
        st.integers(0, 1 << 48),
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@settings(max_examples=90, derandomize=True, deadline=None)
@given(rich, st.sampled_from(CODECS))
def test_anything_a_client_can_say_comes_back(said, codec):
    assert opened(by_aiokafka(said, codec)) == said


# -- what is malformed -----------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_cut_anywhere_it_cannot_be_read(codec):
    data = by_aiokafka(RICH, codec)
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"."):
            open_bundle(bundle_of(data[:at], len(RICH)))


def test_more_than_announced_cannot_be_read():
    data = by_aiokafka(RICH)
    for body, count in ((data + b"\0", 4), (data, 3), (data, 5), (data, 0), (data, -1)):
        with pytest.raises(ValueError, match=r"."):
            open_bundle(bundle_of(body, count) if count > 0 else _counted(body, count))


def _counted(body, count):
    bundle = bundle_of(body, 1)
    bundle.count = count
    return bundle


MALFORMED = {
    "key beyond the end": record_of(b"\0\0", varint(50), b"k\x01\0"),
    "key of 2^63 bytes": record_of(b"\0\0", varint(HUGE), b"k\x01\0"),
    "key that wraps around": record_of(b"\0\0", varint(HUGE - 40), b"k\x01\0"),
    "value beyond the end": record_of(b"\0\0\x01", varint(50), b"v\0"),
    "value that wraps around": record_of(b"\0\0\x01", varint(HUGE - 40), b"v\0"),
    "no header name": record_of(b"\0\0\x01\x01\x02\x01\x01"),
    "header name beyond the end": record_of(b"\0\0\x01\x01\x02", varint(50), b"n\x01"),
    "header name that wraps around": record_of(b"\0\0\x01\x01\x02", varint(HUGE - 40), b"n\x01"),
    "header value that wraps around": record_of(b"\0\0\x01\x01\x02\x02n", varint(HUGE - 40), b"v"),
    "header name that is no UTF-8": record_of(b"\0\0\x01\x01\x02", varint(2), b"\xff\xfe", b"\x01"),
    "headers that are not there": record_of(b"\0\0\x01\x01", varint(3)),
    "2^62 headers": record_of(b"\0\0\x01\x01", varint(1 << 62)),
    "fewer than no headers": record_of(b"\0\0\x01\x01", varint(-2)),
    "length too small": record_of(b"\0\0\x01\x01\0", length=5),
    "length too great": record_of(b"\0\0\x01\x01\0", length=7),
    "negative length": record_of(b"\0\0\x01\x01\0", length=-1),
    "a number without end": record_of(b"\xff" * 12),
}


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
@pytest.mark.parametrize("record", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_record_is_a_sentence(record, codec):
    with pytest.raises(ValueError, match=r"malformed|announce"):
        open_bundle(bundle_of(batch(compressed(codec, record), attributes=codec)))


def test_an_unknown_codec_is_a_sentence():
    with pytest.raises(ValueError, match="codec 6 is none of Kafka's"):
        open_bundle(bundle_of(batch(PLAIN, attributes=6)))


@COMPRESSING
def test_what_is_not_compressed_so_is_a_sentence(codec):
    with pytest.raises(ValueError, match=NAMES[codec]):
        open_bundle(bundle_of(batch(b"\x05nothing of the kind", attributes=codec)))


@settings(max_examples=250, derandomize=True, deadline=None)
@given(st.data(), st.sampled_from(CODECS), st.booleans())
def test_whatever_is_changed_only_a_value_error_comes_out(data, codec, inside):
    """Changed inside the compression, so that the record reader sees it, or outside."""
    body = by_aiokafka(RICH)[61:]
    if not inside:
        body = compressed(codec, body)
    at = data.draw(st.integers(0, len(body) - 1))
    patch = data.draw(st.binary(max_size=12))
    cut = data.draw(st.integers(0, 3))
    body = body[:at] + patch + body[at + len(patch) + cut :]
    if inside:
        body = compressed(codec, body)
    try:
        messages = open_bundle(bundle_of(batch(body, len(RICH), attributes=codec)))
    except ValueError:
        return
    assert len(messages) == len(RICH)


# -- what unfolds ----------------------------------------------------------------------------------


def _peak(act) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than"):
            act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


CAP = 1 << 20
BOMB = bytes(48 * CAP)


def _streamed_zstd(data: bytes) -> bytes:
    """Without the size in front."""
    deflater = zstandard.ZstdCompressor().compressobj()
    return deflater.compress(data) + deflater.flush()


BOMBS = {
    "gzip": (1, gzipped),
    "snappy framed": (2, lambda data: xerial(data, 1 << 22)),
    "snappy framed in small blocks": (2, xerial),
    "snappy raw": (2, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "lz4": (3, lz4.frame.compress),
    "lz4 without size": (3, lambda data: lz4.frame.compress(data, store_size=False)),
    "zstd": (4, zstandard.ZstdCompressor().compress),
    "zstd without size": (4, _streamed_zstd),
}


@pytest.mark.parametrize(("codec", "pack"), BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_stopped_at_the_cap(codec, pack):
    packed = memoryview(bytes(pack(BOMB)))
    assert _peak(lambda: decompressed(codec, packed, CAP)) < 4 * CAP


@pytest.mark.parametrize(("codec", "pack"), BOMBS.values(), ids=BOMBS.keys())
def test_the_cap_is_taken_exactly(codec, pack):
    packed = memoryview(bytes(pack(BOMB[:CAP])))
    assert len(decompressed(codec, packed, CAP)) == CAP
    with pytest.raises(ValueError, match="more than"):
        decompressed(codec, packed, CAP - 1)


def test_what_snappy_only_announces_is_not_allocated():
    announced = b"\xff\xff\xff\xff\x0f" + b"\0" * 20
    assert _peak(lambda: decompressed(2, memoryview(announced), CAP)) < CAP


def test_a_batch_has_the_cap_for_its_records():
    value = record_of(b"\0\0\x01", varint(OPENED_BYTES_MAX), bytes(OPENED_BYTES_MAX), b"\0")
    with pytest.raises(ValueError, match="more than 16777216 bytes"):
        open_bundle(bundle_of(batch(gzipped(value), attributes=1)))


def _with_headers(count: int) -> bytes:
    return record_of(b"\0\0\x01\x01", varint(count), b"\0\x01" * count)


def test_headers_are_counted_before_they_are_made():
    bomb = batch(gzipped(_with_headers(4_000_000)), attributes=1)
    assert len(bomb) < 10_000
    assert _peak(lambda: open_bundle(bundle_of(bomb))) < 40 << 20


def test_headers_are_counted_behind_a_key_and_a_value():
    zeroes = varint(30) + bytes(30)
    record = record_of(b"\0\0", zeroes, zeroes, varint(PARTS_MAX), b"\0\x01" * PARTS_MAX)
    with pytest.raises(ValueError, match="more than"):
        check_parts(record, 1)


def test_records_are_counted_before_they_are_made():
    bomb = batch(gzipped(PLAIN * (PARTS_MAX + 1)), PARTS_MAX + 1, attributes=1)
    with pytest.raises(ValueError, match="announce"):
        open_bundle(bundle_of(bomb))


def test_records_and_headers_count_together():
    many = _with_headers(1_000) * 130
    assert len(many) < PARTS_MAX * 7
    assert len(opened(batch(many, 130))) == 130
    with pytest.raises(ValueError, match="more than"):
        open_bundle(bundle_of(batch(many + _with_headers(1_000), 131)))


def test_headers_do_not_hide_behind_a_byte_that_is_read_two_ways():
    """Attributes are a number of any length to the reader that makes the objects: its headers come a byte later."""
    hidden = record_of(b"\0\0\0\x01\x01", varint(PARTS_MAX), attributes=b"\x80")
    with pytest.raises(ValueError, match="attributes"):
        check_parts(hidden + bytes(PARTS_MAX * 2), 1)


def test_a_number_is_not_read_for_ever():
    with pytest.raises(ValueError, match="64 bits"):
        check_parts(b"\xff" * (PARTS_MAX * 2 + 1), 1)


@settings(max_examples=250, derandomize=True, deadline=None)
@given(
    st.lists(
        st.binary(max_size=30)
        | st.lists(st.sampled_from([b"\0", b"\x01", b"\x02", b"\x0c", b"\x80", b"\x28"]), max_size=30).map(b"".join)
        | st.integers(0, 30).map(_with_headers),
        max_size=4,
    ).map(b"".join),
    st.integers(1, 8),
)
def test_who_counts_sees_no_less_than_who_reads(plain, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "PARTS_MAX", 8)
        try:
            check_parts(plain, count)
        except ValueError:
            return
    try:
        found = list(DefaultRecordBatch(batch(plain, count)))
    except (CorruptRecordException, UnicodeDecodeError, OverflowError, MemoryError):
        return
    assert count + sum(len(record.headers) for record in found) <= 8

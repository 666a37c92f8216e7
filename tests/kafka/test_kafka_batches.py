"""Batches are checked by their head and checksum alone, and leave with nothing changed but offset and epoch."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.kafka.batches import Checked, check, contains_header, patched
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.records import PARTS_MAX
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
    read_by_kafka_python,
)

LIMIT = 1 << 20


def judged(data: bytes, *, max_bytes: int = LIMIT, produce_version: int = 13) -> Checked | ErrorCode:
    return check(memoryview(data), max_bytes=max_bytes, produce_version=produce_version)


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
@pytest.mark.parametrize("make", MAKERS)
def test_what_clients_make_is_taken(make, codec):
    checked = judged(make(RICH, codec))
    assert isinstance(checked, Checked)
    assert checked.record_count == len(RICH)
    assert checked.codec == codec
    assert checked.max_timestamp == max(record.time_ms for record in RICH)


def test_the_head_is_read():
    checked = judged(batch(PLAIN * 3, 3, attributes=0x48, newest_ms=77, producer=(5, 6, 7)))
    assert checked == Checked(3, 0x48, 5, 6, 7, 77)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", ErrorCode.CORRUPT_MESSAGE, id="nothing"),
        pytest.param(batch(PLAIN, magic=1), ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, id="older format"),
        pytest.param(batch(PLAIN, magic=3), ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, id="newer format"),
        pytest.param(batch(PLAIN)[:16] + b"\x01" + bytes(13), ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, id="short old"),
        pytest.param(batch(PLAIN, length=9 + 40 + len(PLAIN) + 1), ErrorCode.CORRUPT_MESSAGE, id="length beyond"),
        pytest.param(batch(PLAIN, length=48), ErrorCode.CORRUPT_MESSAGE, id="length within the head"),
        pytest.param(batch(PLAIN, length=-12), ErrorCode.CORRUPT_MESSAGE, id="negative length"),
        pytest.param(batch(PLAIN) + b"\0", ErrorCode.INVALID_RECORD, id="a byte more"),
        pytest.param(batch(PLAIN) * 2, ErrorCode.INVALID_RECORD, id="two batches"),
        pytest.param(batch(PLAIN, crc=0), ErrorCode.CORRUPT_MESSAGE, id="checksum"),
        pytest.param(batch(b"", 0), ErrorCode.INVALID_RECORD, id="no record"),
        pytest.param(batch(PLAIN, -1), ErrorCode.INVALID_RECORD, id="negative count"),
        pytest.param(batch(PLAIN, last=1), ErrorCode.INVALID_RECORD, id="holes"),
        pytest.param(batch(PLAIN, attributes=0x20), ErrorCode.INVALID_RECORD, id="control"),
        pytest.param(batch(PLAIN, attributes=0x10), ErrorCode.INVALID_RECORD, id="transactional"),
        pytest.param(batch(PLAIN, attributes=5), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, id="codec 5"),
        pytest.param(batch(PLAIN, attributes=7), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, id="codec 7"),
        pytest.param(batch(PLAIN, 2), ErrorCode.INVALID_RECORD, id="more records than bytes"),
        pytest.param(batch(b"z", PARTS_MAX + 1, attributes=1), ErrorCode.MESSAGE_TOO_LARGE, id="too many to open"),
    ],
)
def test_what_is_wrong_has_its_code(data, code):
    assert judged(data) is code


def test_the_limits_are_taken_exactly():
    data = batch(PLAIN)
    assert isinstance(judged(data, max_bytes=len(data)), Checked)
    assert judged(data, max_bytes=len(data) - 1) is ErrorCode.MESSAGE_TOO_LARGE
    assert isinstance(judged(batch(b"z", PARTS_MAX, attributes=1)), Checked)


def test_zstd_is_of_produce_7():
    data = by_aiokafka(RICH, 4)
    assert judged(data, produce_version=6) is ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert isinstance(judged(data, produce_version=7), Checked)
    assert isinstance(judged(by_aiokafka(RICH, 3), produce_version=3), Checked)


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_a_cut_batch_is_never_taken(codec):
    data = by_aiokafka(RICH, codec)
    assert {judged(data[:at]) for at in range(len(data))} == {ErrorCode.CORRUPT_MESSAGE}


def test_any_flipped_bit_under_the_checksum_is_seen():
    data = by_aiokafka(RICH[:2])
    for at in range(17, len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            assert judged(bytes(broken)) is ErrorCode.CORRUPT_MESSAGE, at


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_noise_gets_a_code(noise):
    assert isinstance(judged(noise), ErrorCode)
    head = bytearray(by_aiokafka(RICH)[:61])
    head[17:61] = (noise + bytes(44))[:44]
    assert isinstance(judged(bytes(head)), ErrorCode)


# -- on the way out ------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_a_batch_leaves_with_its_offset_and_all_else_as_it_came(codec):
    data = by_aiokafka(RICH, codec)
    head, rest = patched(bundle_of(data))
    assert struct.unpack(">qii", head) == (40, len(data) - 12, 0)
    assert rest == data[16:]
    assert read_by_kafka_python(head + bytes(rest)) == list(enumerate(RICH, 40))


def test_what_goes_out_is_not_copied():
    bundle = bundle_of(by_aiokafka(RICH))
    _, rest = patched(bundle)
    assert rest.obj is bundle.body


# -- a first look for a header -------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_a_header_is_found_through_every_compression(codec):
    asking = Record(headers=(("mesh-retain", b"true"),))
    for records, there in (([*RICH, asking], True), (RICH, False)):
        data = by_aiokafka(records, codec)
        checked = judged(data)
        assert isinstance(checked, Checked)
        assert contains_header(checked, memoryview(data), b"mesh-retain") is there


@pytest.mark.parametrize("codec", CODECS[1:], ids=NAMES[1:])
def test_what_cannot_be_decompressed_may_have_any_header(codec):
    for body in (b"no such thing", compressed(codec, bytes(16 << 20) + b"!")):
        data = batch(body, attributes=codec)
        checked = judged(data)
        assert isinstance(checked, Checked)
        assert contains_header(checked, memoryview(data), b"mesh-retain")

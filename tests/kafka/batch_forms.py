"""Record batches made by others and by hand, for the tests of what reads, checks and makes them."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import cramjam
import lz4.frame
import zstandard
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from crc32c import crc32c

from dragoman.routing.message import Bundle

with warnings.catch_warnings():
    # Its import reads its schemas in a way Python is about to give up.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

CODECS = range(5)
NAMES = ("none", "gzip", "snappy", "lz4", "zstd")

HEAD = 61
TAIL = struct.Struct(">hiqqqhii")
"""From the attributes on: what the checksum covers of the head."""


class Record(NamedTuple):
    """What one record says."""

    key: bytes | None = None
    value: bytes | None = b"value"
    headers: tuple[tuple[str, bytes | None], ...] = ()
    time_ms: int = 1_700_000_000_000


RICH = (
    Record(),
    Record(b"key", None, (("a", b"1"), ("b", None), ("a", b"2")), 1_700_000_000_007),
    Record(b"", b"", (("bytes", b"\xff\x00\xfe"), ("ümläut", b""))),
    Record(b"\xff\x00", b"x" * 300, (), 1_699_999_999_000),
)
"""Nulls, empties, bytes that are no text, duplicates in order, two-byte lengths, a clock that goes back."""


def by_aiokafka(records: Sequence[Record], codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 30)
    for index, record in enumerate(records):
        builder.append(index, record.time_ms, record.key, record.value, list(record.headers))
    return bytes(builder.build())


def by_kafka_python(records: Sequence[Record], codec: int = 0) -> bytes:
    builder = MemoryRecordsBuilder(2, codec, 1 << 30)
    for record in records:
        builder.append(record.time_ms, record.key, record.value, list(record.headers))
    builder.close()
    return bytes(builder.buffer())


MAKERS = (by_aiokafka, by_kafka_python)


def batch(
    body: bytes,
    count: int = 1,
    *,
    attributes: int = 0,
    last: int | None = None,
    magic: int = 2,
    length: int | None = None,
    crc: int | None = None,
    base_ms: int = 0,
    newest_ms: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> bytes:
    """A batch with a right checksum and anything in it."""
    delta = count - 1 if last is None else last
    covered = TAIL.pack(attributes, delta, base_ms, newest_ms, *producer, count) + body
    size = len(covered) + 9 if length is None else length
    return struct.pack(">qiibI", 0, size, -1, magic, crc32c(covered) if crc is None else crc) + covered


def varint(number: int) -> bytes:
    """Zigzag, as everywhere in a record."""
    left = (number << 1) ^ (number >> 63) if -(1 << 63) <= number < 1 << 63 else number << 1
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes(out) + bytes((left,))


def record_of(*parts: bytes, attributes: bytes = b"\0", length: int | None = None) -> bytes:
    """A record of these parts: both deltas, key, value and headers are the caller's."""
    body = attributes + b"".join(parts)
    return varint(len(body) if length is None else length) + body


PLAIN = record_of(b"\0", b"\0", b"\x01", b"\x01", b"\0")
"""The shortest record there is: no key, no value, no header."""


def numbered(first: int, count: int = 1, *, producer: int = 7, epoch: int = 0) -> bytes:
    """A batch of an idempotent producer, whose records have no value."""
    return batch(PLAIN * count, count, producer=(producer, epoch, first))


def xerial(data: bytes, block: int = 32_768) -> bytes:
    """Java's framing of snappy."""
    out = bytearray(b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1))
    for at in range(0, len(data), block):
        packed = bytes(cramjam.snappy.compress_raw(data[at : at + block]))
        out += struct.pack(">i", len(packed)) + packed
    return bytes(out)


def gzipped(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, 31)
    return deflater.compress(data) + deflater.flush()


def compressed(codec: int, data: bytes) -> bytes:
    """As Java's clients would have it."""
    if codec == 1:
        return gzipped(data)
    if codec == 2:
        return xerial(data)
    if codec == 3:
        return bytes(lz4.frame.compress(data))
    if codec == 4:
        return zstandard.ZstdCompressor().compress(data)
    return data


def bundle_of(body: bytes, count: int | None = None) -> Bundle:
    """A batch as a channel has taken it in."""
    said = int.from_bytes(body[57:61], "big", signed=True) if count is None else count
    bundle = Bundle("a/b", body, 1, said, "agent")
    bundle.number, bundle.offset, bundle.position, bundle.time_ms = 7, 40, 900, 1_800_000_000_000
    return bundle


def read_by_kafka_python(data: bytes) -> list[tuple[int, Record]]:
    """(offset, record) of everything in a records field, as a consumer would see it; the checksums too."""
    found = []
    batches = MemoryRecords(data)
    while (one := batches.next_batch()) is not None:
        assert one.validate_crc()
        found += [(r.offset, Record(r.key, r.value, tuple(r.headers), r.timestamp)) for r in one]
    return found

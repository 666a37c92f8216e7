"""Record batches, format 2: checked without being read, passed on patched, opened for who is not Kafka, and made.

A batch carries its own checksum over all but its first 21 bytes, so that a broker may write the offset and the
epoch without touching the rest. The body of a bundle of kind 1 is a batch exactly as it came.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from crc32c import crc32c

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.compression import Codec, decompressed
from dragoman.adapters.kafka.mapping import RAW_KAFKA, envelope_from, headers_of, verbatim
from dragoman.adapters.kafka.records import PARTS_MAX, RECORD_BYTES_MIN, check_parts
from dragoman.routing.message import EMPTY, Bundle, Header, Message, Wish

if TYPE_CHECKING:
    from aiokafka.record.default_records import DefaultRecord

KIND: Final = 1
"""Of a bundle whose body is a record batch; on disk."""

MAGIC: Final = 2
LEADER_EPOCH: Final = 0

_HEAD: Final = struct.Struct(">qiibIhiqqqhii")
"""base offset, length, leader epoch, magic, crc, attributes, last offset delta, base and max timestamp, producer id,
producer epoch, base sequence, count."""
HEAD_BYTES: Final = _HEAD.size
_BEFORE_LENGTH: Final = 12
_CHECKED_FROM: Final = 21
_PATCH: Final = struct.Struct(">qii")

_MAGIC_AT: Final = 16
_COUNT_AT: Final = 57
_CODEC_BITS: Final = 0x07
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20

ZSTD_FROM: Final = 7
"""The version of Produce from which a client may say zstd (KIP-110)."""

OPENED_BYTES_MAX: Final = 16 << 20
"""What the records of one batch may come to when decompressed."""


_CLOCK_MAX: Final = (1 << 63) - 1


class Checked(NamedTuple):
    """What the head of a batch says."""

    record_count: int
    attributes: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    max_timestamp: int

    @property
    def codec(self) -> int:
        """How its records are compressed."""
        return self.attributes & _CODEC_BITS


def check(records: memoryview, *, max_bytes: int, produce_version: int) -> Checked | ErrorCode:
    """The head of the one batch that ``records`` is, or what is wrong with it. The records themselves are not read."""
    if len(records) > _MAGIC_AT and records[_MAGIC_AT] != MAGIC:
        return ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT
    if len(records) < HEAD_BYTES:
        return ErrorCode.CORRUPT_MESSAGE
    _, length, _, _, crc, attributes, last, _, newest, producer, epoch, sequence, count = _HEAD.unpack_from(records)
    if length + _BEFORE_LENGTH > len(records) or length < HEAD_BYTES - _BEFORE_LENGTH:
        return ErrorCode.CORRUPT_MESSAGE
    if length + _BEFORE_LENGTH < len(records):
        return ErrorCode.INVALID_RECORD
    if len(records) > max_bytes:
        return ErrorCode.MESSAGE_TOO_LARGE
    if crc32c(records[_CHECKED_FROM:]) != crc:
        return ErrorCode.CORRUPT_MESSAGE
    if count <= 0 or last != count - 1 or attributes & (_CONTROL | _TRANSACTIONAL):
        return ErrorCode.INVALID_RECORD
    codec = attributes & _CODEC_BITS
    if codec > Codec.ZSTD or (codec == Codec.ZSTD and produce_version < ZSTD_FROM):
        return ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    if codec == Codec.NONE and count * RECORD_BYTES_MIN > len(records) - HEAD_BYTES:
        return ErrorCode.INVALID_RECORD
    if count > PARTS_MAX:
        # Nobody but Kafka clients could ever read it. Java's producer splits a batch that is too large.
        return ErrorCode.MESSAGE_TOO_LARGE
    return Checked(count, attributes, producer, epoch, sequence, newest)


def contains_header(checked: Checked, records: memoryview, name: bytes) -> bool:
    """Whether a record may have a header of this name: looks for the bytes, in what has been decompressed if need be.

    True for what cannot be decompressed: who reads it finds out why.
    """
    if checked.codec == Codec.NONE:
        return name in bytes(records[HEAD_BYTES:])
    try:
        return name in decompressed(checked.codec, records[HEAD_BYTES:], OPENED_BYTES_MAX)
    except ValueError:
        return True


def patched(bundle: Bundle) -> tuple[bytes, memoryview]:
    """A batch as consumers get it: with its offset and our epoch, both outside its checksum; the rest uncopied."""
    body = memoryview(bundle.body)
    return _PATCH.pack(bundle.offset, len(body) - _BEFORE_LENGTH, LEADER_EPOCH), body[_PATCH.size :]


def open_bundle(bundle: Bundle, *, keep_form: bool = False) -> list[Message]:
    """The messages of a batch. Raises ValueError with a sentence if it cannot be read.

    With ``keep_form`` each also keeps what ``build`` needs to say it as it came.
    """
    messages: list[Message] = []
    for index, record in enumerate(_read(bundle.body, bundle.count)):
        envelope, retain = envelope_from(record.key, record.headers, record.timestamp)
        if keep_form and verbatim(record.headers):
            envelope.raw = _formed(record.key, record.headers, record.timestamp)
            envelope.raw_form = RAW_KAFKA
        message = Message(bundle.name, record.value, Wish.AT_LEAST_ONCE, bundle.sender, retain, envelope)
        message.number = bundle.number
        message.offset = bundle.offset + index
        message.position = bundle.position + index
        message.time_ms = bundle.time_ms
        messages.append(message)
    return messages


def build(messages: Sequence[Message]) -> bytes:
    """One batch of messages that came by other protocols, uncompressed. Their offsets may have holes."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    assert messages, "a batch of nothing"
    first = messages[0].offset
    builder = DefaultRecordBatchBuilder(MAGIC, Codec.NONE, 0, -1, -1, -1, sys.maxsize)
    for message in messages:
        envelope = message.envelope or EMPTY
        # A retained value is cleared by an empty one elsewhere; the word for that here is no value at all.
        value = None if message.retain and not message.payload else message.payload
        if envelope.raw_form == RAW_KAFKA:
            key, headers, sent_ms = _form_of(envelope.raw)
        else:
            key, headers = envelope.key, headers_of(message)
            sent_ms = -1 if envelope.sent_ms is None else envelope.sent_ms
        if not 0 <= sent_ms <= _CLOCK_MAX:
            sent_ms = message.time_ms
        builder.append(message.offset - first, sent_ms, key, value, headers)
    batch = builder.build()
    _PATCH.pack_into(batch, 0, first, len(batch) - _BEFORE_LENGTH, LEADER_EPOCH)
    return bytes(batch)


def _read(body: bytes, count: int) -> list[DefaultRecord]:
    """The records of a batch, decompressed. Raises ValueError."""
    from aiokafka.errors import CorruptRecordException
    from aiokafka.record.default_records import DefaultRecordBatch

    attributes = int.from_bytes(body[21:23], "big")
    plain = decompressed(attributes & _CODEC_BITS, memoryview(body)[HEAD_BYTES:], OPENED_BYTES_MAX)
    if not 0 < count <= PARTS_MAX or count * RECORD_BYTES_MIN > len(plain):
        raise ValueError(f"{len(plain)} bytes that announce {count} records")
    check_parts(plain, count)
    head = bytearray(body[:HEAD_BYTES])
    head[21:23] = (attributes & ~_CODEC_BITS).to_bytes(2, "big")
    head[_COUNT_AT:] = count.to_bytes(4, "big")
    try:
        # From bytes, which end in a zero: the reader looks at one byte after the last before it knows better.
        return list(DefaultRecordBatch(bytes(head) + plain))
    except (CorruptRecordException, UnicodeDecodeError, OverflowError, MemoryError) as error:
        # The last two: it takes any length it is told for one to allocate.
        raise ValueError(f"the records of the batch are malformed: {error}") from None


def _formed(key: bytes | None, headers: Iterable[Header], sent_ms: int) -> bytes:
    """All of a record but its value, as a batch of one."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    builder = DefaultRecordBatchBuilder(MAGIC, Codec.NONE, 0, -1, -1, -1, sys.maxsize)
    builder.append(0, sent_ms, key, None, list(headers))
    return bytes(builder.build())


def _form_of(raw: bytes) -> tuple[bytes | None, list[Header], int]:
    """``_formed`` the other way. The bytes are our own, so what is wrong with them is our bug."""
    (record,) = _read(raw, 1)
    return record.key, list(record.headers), record.timestamp

"""Record batches, format 2: checked without being read, passed on patched, opened for who is not Kafka, and made.

A batch carries its own checksum over all but its first 21 bytes, so that a broker may write the offset and the
epoch without touching the rest. The body of a bundle of kind 1 is a batch exactly as it came.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from crc32c import crc32c

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.compression import Codec, decompressed
from dragoman.adapters.kafka.mapping import envelope_from, headers_of
from dragoman.routing.message import EMPTY, Bundle, Message, Wish

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

_CODEC_BITS: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20

ZSTD_FROM: Final = 7
"""The version of Produce from which a client may say zstd (KIP-110)."""

OPENED_BYTES_MAX: Final = 16 << 20
"""What the records of one batch may come to when decompressed."""


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
    if len(records) < HEAD_BYTES:
        return ErrorCode.CORRUPT_MESSAGE
    _, length, _, magic, crc, attributes, last, _, newest, producer, epoch, sequence, count = _HEAD.unpack_from(records)
    if magic != MAGIC:
        return ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT
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


def open_bundle(bundle: Bundle) -> list[Message]:
    """The messages of a batch. Raises ValueError with a sentence if it cannot be read."""
    from aiokafka.errors import CorruptRecordException
    from aiokafka.record.default_records import DefaultRecordBatch

    body = memoryview(bundle.body)
    attributes = int.from_bytes(body[21:23], "big")
    plain = decompressed(attributes & _CODEC_BITS, body[HEAD_BYTES:], OPENED_BYTES_MAX)
    head = bytearray(body[:HEAD_BYTES])
    _PATCH.pack_into(head, 0, bundle.offset, HEAD_BYTES - _BEFORE_LENGTH + len(plain), LEADER_EPOCH)
    head[21:23] = (attributes & ~_CODEC_BITS).to_bytes(2, "big")
    messages: list[Message] = []
    try:
        for index, record in enumerate(DefaultRecordBatch(bytes(head) + plain)):
            envelope, retain = envelope_from(record.key, record.headers, record.timestamp)
            message = Message(bundle.name, record.value, Wish.AT_LEAST_ONCE, bundle.sender, retain, envelope)
            message.number = bundle.number
            message.offset = bundle.offset + index
            message.position = bundle.position + index
            message.time_ms = bundle.time_ms
            messages.append(message)
    except (CorruptRecordException, UnicodeDecodeError, IndexError, OverflowError, MemoryError) as error:
        raise ValueError(f"record {len(messages)} of {bundle.count} is malformed: {error}") from None
    if len(messages) != bundle.count:
        raise ValueError(f"{len(messages)} records in a batch that announces {bundle.count}")
    return messages


def build(messages: Sequence[Message]) -> bytes:
    """One batch of messages that came by other protocols, uncompressed. Their offsets may have holes."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder

    first = messages[0].offset
    size = HEAD_BYTES + sum(map(_size, messages))
    builder = DefaultRecordBatchBuilder(MAGIC, Codec.NONE, 0, -1, -1, -1, size)
    for message in messages:
        envelope = message.envelope or EMPTY
        sent_ms = message.time_ms if envelope.sent_ms is None else envelope.sent_ms
        # A retained value is cleared by an empty one elsewhere; the word for that here is no value at all.
        value = None if message.retain and not message.payload else message.payload
        added = builder.append(message.offset - first, sent_ms, envelope.key, value, headers_of(message))
        assert added is not None, f"{size} bytes are too few for {len(messages)} records"
    batch = bytearray(builder.build())
    _PATCH.pack_into(batch, 0, first, len(batch) - _BEFORE_LENGTH, LEADER_EPOCH)
    return bytes(batch)


def _size(message: Message) -> int:
    """More than a record of it can take: names are at most three bytes a character more than counted."""
    envelope = message.envelope or EMPTY
    texts = (envelope.content_type, envelope.reply_to, envelope.cause, message.sender)
    named = sum(len(text) * 8 for text in texts if text)
    pairs = sum(len(name) * 4 + len(value or b"") + 40 for name, value in envelope.headers)
    return (
        len(message.payload or b"") + len(envelope.key or b"") + len(envelope.correlation or b"") + named + pairs + 600
    )

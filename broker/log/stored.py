"""How messages lie in a batch: bytes to messages and back. Decides the format of a batch; knows no file.

A batch is a head, the channel's name and a body. Kind 2 (native) bodies are one msgpack array of
messages, each an array that only ever grows at its end. Any other kind is a bundle: when and by whom it was
said, then its bytes as they came; kind 1 is a Kafka record batch.
A batch carries its own checksum, since it is read alone and copied from the journal to LMDB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, final

import msgspec
from crc32c import crc32c

from dragoman.broker.log.weight import weight
from dragoman.routing.message import NEVER, Bundle, Entry, Envelope, Header, Message

BATCH_VERSION: Final = 1
KIND_KAFKA: Final = 1
KIND_NATIVE: Final = 2

_HEAD: Final = struct.Struct("<BBHIQQQQQ")
"""version, kind, name bytes, count, number, first offset, last offset, first position, last position."""
_TAIL: Final = struct.Struct("<QI")
"""weight, crc32c of head, weight, name and body."""
_WEIGHT: Final = struct.Struct("<Q")
_BUNDLE: Final = struct.Struct("<QH")
"""time in ms, bytes of the sender's name."""
HEAD_BYTES: Final = _HEAD.size + _TAIL.size

_ARRAY32: Final = b"\xdd"
_WISH_MASK: Final = 3
_RETAIN_BIT: Final = 4


class FormatError(Exception):
    """Bytes that are not what they should be: rot, or a newer version. The text is for the operator."""


class _StoredEnvelope(msgspec.Struct, array_like=True, frozen=True):
    sent_ms: int | None = None
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    content_type: str | None = None
    reply_to: str | None = None
    correlation: bytes | None = None
    expires_ms: int = NEVER
    cause: str | None = None
    hops: int = 0
    text: bool = False
    raw: bytes = b""
    raw_form: int = 0


class _StoredMessage(msgspec.Struct, array_like=True, frozen=True):
    offset: int
    position: int
    time_ms: int
    payload: bytes | None
    flags: int
    sender: str = ""
    envelope: _StoredEnvelope | None = None


Pieces = tuple[bytes, bytes]
"""A record that is yet to be joined; the second may be empty."""

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[_StoredMessage])


@final
class Batch:
    """What the head of a stored batch says, and where its record lies in the frame or value it came in."""

    __slots__ = (
        "count",
        "first_position",
        "kind",
        "last_offset",
        "last_position",
        "length",
        "name",
        "number",
        "offset",
        "start",
        "weight",
    )

    def __init__(
        self, number: int, offset: int, last_offset: int, first_position: int, last_position: int, count: int
    ) -> None:
        self.number = number
        self.offset = offset
        self.last_offset = last_offset
        self.first_position = first_position
        self.last_position = last_position
        self.count = count
        self.kind = KIND_NATIVE
        self.weight = 0
        self.name = b""
        self.start = 0
        self.length = 0


def pack_entries(entries: Sequence[Entry]) -> Iterator[tuple[Batch, Pieces]]:
    """The records of a channel's entries of one commit, in order: a bundle is one, a run of messages another.

    In pieces, so that a bundle's body is first copied where the whole commit is put together.
    """
    for bundled, run in groupby(entries, key=_is_bundle):
        if bundled:
            for entry in run:
                assert isinstance(entry, Bundle)
                yield _pack_bundle(entry)
        else:
            yield _pack_messages([entry for entry in run if isinstance(entry, Message)])


def _is_bundle(entry: Entry) -> bool:
    return isinstance(entry, Bundle)


def _pack_messages(messages: Sequence[Message]) -> tuple[Batch, Pieces]:
    """The record of a run of messages. Raises ``TypeError`` or ``ValueError`` if one cannot be stored."""
    first, last = messages[0], messages[-1]
    batch = Batch(first.number, first.offset, last.offset, first.position, last.position, len(messages))
    batch.name = first.name.encode()
    batch.weight = sum(map(weight, messages))
    return batch, _seal(batch, _encoder.encode([_message_row(message) for message in messages]))


def _pack_bundle(bundle: Bundle) -> tuple[Batch, Pieces]:
    assert bundle.kind != KIND_NATIVE, "a bundle of the kind that messages are"
    last = bundle.count - 1
    batch = Batch(
        bundle.number, bundle.offset, bundle.offset + last, bundle.position, bundle.position + last, bundle.count
    )
    batch.kind = bundle.kind
    batch.name = bundle.name.encode()
    batch.weight = weight(bundle)
    sender = bundle.sender.encode()
    return batch, _seal(batch, _BUNDLE.pack(bundle.time_ms, len(sender)) + sender, bundle.body)


def merge(parts: Sequence[tuple[Batch, bytes]]) -> tuple[Batch, bytes]:
    """One native batch of several adjacent ones of a channel, given as (head, record). Messages are copied unread."""
    first, last = parts[0][0], parts[-1][0]
    batch = Batch(first.number, first.offset, last.last_offset, first.first_position, last.last_position, 0)
    batch.name = last.name
    bodies = []
    for part, record in parts:
        assert part.kind == KIND_NATIVE, "only native batches can be merged"
        batch.count += part.count
        batch.weight += part.weight
        bodies.append(_items(record[HEAD_BYTES + len(part.name) :]))
    return batch, b"".join(_seal(batch, _ARRAY32 + struct.pack(">I", batch.count) + b"".join(bodies)))


def batch_at(content: bytes, start: int, length: int) -> Batch:
    """Reads the head of the record at ``start``. Does not look at the checksum."""
    if length < HEAD_BYTES:
        raise FormatError(f"a batch of {length} bytes is shorter than its head")
    version, kind, name_bytes, count, number, offset, last_offset, first_position, last_position = _HEAD.unpack_from(
        content, start
    )
    if version > BATCH_VERSION:
        raise FormatError(f"a batch of format {version}; this program knows up to {BATCH_VERSION}: use a newer one")
    batch = Batch(number, offset, last_offset, first_position, last_position, count)
    batch.kind = kind
    batch.weight = _TAIL.unpack_from(content, start + _HEAD.size)[0]
    batch.name = content[start + HEAD_BYTES : start + HEAD_BYTES + name_bytes]
    batch.start = start
    batch.length = length
    return batch


def unpack_batch(record: bytes) -> Sequence[Entry]:
    """The entries of a record. Raises ``FormatError`` if its checksum or its content is wrong."""
    batch = batch_at(record, 0, len(record))
    if _checksum(record) != _TAIL.unpack_from(record, _HEAD.size)[1]:
        raise FormatError(f"a batch of channel {batch.number:x} at offset {batch.offset} has a wrong checksum")
    try:
        if batch.kind != KIND_NATIVE:
            return (_bundle(batch, record),)
        stored = _decoder.decode(memoryview(record)[HEAD_BYTES + len(batch.name) :])
        name = batch.name.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, struct.error) as error:
        raise FormatError(f"a batch of channel {batch.number:x} at offset {batch.offset} is malformed") from error
    return [_message(row, name, batch.number) for row in stored]


def _bundle(batch: Batch, record: bytes) -> Bundle:
    at = HEAD_BYTES + len(batch.name)
    time_ms, sender_bytes = _BUNDLE.unpack_from(record, at)
    at += _BUNDLE.size + sender_bytes
    sender = record[at - sender_bytes : at].decode()
    bundle = Bundle(batch.name.decode(), record[at:], batch.kind, batch.count, sender)
    bundle.number = batch.number
    bundle.offset = batch.offset
    bundle.position = batch.first_position
    bundle.time_ms = time_ms
    return bundle


def _seal(batch: Batch, start: bytes, body: bytes = b"") -> Pieces:
    """The record's pieces: head, name and ``start`` of the body in one, then the rest of it as it is."""
    head = _HEAD.pack(
        BATCH_VERSION,
        batch.kind,
        len(batch.name),
        batch.count,
        batch.number,
        batch.offset,
        batch.last_offset,
        batch.first_position,
        batch.last_position,
    )
    batch.length = HEAD_BYTES + len(batch.name) + len(start) + len(body)
    check = crc32c(start, crc32c(batch.name, crc32c(_WEIGHT.pack(batch.weight), crc32c(head))))
    if body:
        check = crc32c(body, check)
    return b"".join((head, _TAIL.pack(batch.weight, check), batch.name, start)), body


def _checksum(record: bytes) -> int:
    view = memoryview(record)
    return crc32c(view[HEAD_BYTES:], crc32c(view[: _HEAD.size + _WEIGHT.size]))


def _items(body: bytes) -> bytes:
    """A msgpack array without its header."""
    marker = body[0]
    if marker & 0xF0 == 0x90:
        return body[1:]
    return body[3:] if marker == 0xDC else body[5:]


_Row = tuple[object, ...]


def _message_row(message: Message) -> _Row:
    flags = message.wish | _RETAIN_BIT if message.retain else int(message.wish)
    if message.envelope is not None:
        return (
            message.offset,
            message.position,
            message.time_ms,
            message.payload,
            flags,
            message.sender,
            _envelope_row(message.envelope),
        )
    return message.offset, message.position, message.time_ms, message.payload, flags, message.sender


def _envelope_row(envelope: Envelope) -> _Row:
    return (
        envelope.sent_ms,
        envelope.key,
        envelope.headers,
        envelope.content_type,
        envelope.reply_to,
        envelope.correlation,
        envelope.expires_ms,
        envelope.cause,
        envelope.hops,
        envelope.text,
        envelope.raw,
        envelope.raw_form,
    )


def _message(row: _StoredMessage, name: str, number: int) -> Message:
    envelope = None
    stored = row.envelope
    if stored is not None:
        envelope = Envelope(
            sent_ms=stored.sent_ms,
            key=stored.key,
            headers=stored.headers,
            content_type=stored.content_type,
            reply_to=stored.reply_to,
            correlation=stored.correlation,
            expires_ms=stored.expires_ms,
            cause=stored.cause,
            hops=stored.hops,
            text=stored.text,
            raw=stored.raw,
            raw_form=stored.raw_form,
        )
    flags = row.flags
    message = Message(name, row.payload, flags & _WISH_MASK, row.sender, bool(flags & _RETAIN_BIT), envelope)
    message.number = number
    message.offset = row.offset
    message.time_ms = row.time_ms
    message.position = row.position
    return message

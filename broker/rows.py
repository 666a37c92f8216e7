"""How the broker's own state rows are written. Array structs: fields are only ever added, at the end, with a default.

Each row begins with its format version; a newer one than this build knows is refused, so that an old
build never rewrites what it cannot read.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from dragoman.broker.log.contract import LogError
from dragoman.routing.message import NEVER, Envelope, Message

VERSION: Final = 1


class Row(msgspec.Struct, array_like=True, omit_defaults=False):
    """What every row has."""

    version: int = VERSION


class NumbersRow(Row):
    """Channel numbers below ``next`` may have been handed out."""

    next: int = 1


class ChannelRow(Row):
    """A channel whose creation survives a restart. ``reserved``: offsets below it may have been handed out.

    Of one that keeps all, the offsets from there on are those in the log. ``settled``: the mesh stopped in
    good order and ``reserved`` is the next offset, so that no reader need be told of a gap that is none.
    ``partition``: above 0 it is a further partition of the channel of that name.
    """

    name: str = ""
    declared: int = 0
    reserved: int = 0
    creator: str = ""
    retention_ms: int | None = None
    retention_bytes: int | None = None
    retention_messages: int | None = None
    settled: bool = False
    partition: int = 0


class CursorRow(Row):
    """A reader's place: all below ``low`` is done, and so is ``done`` above it. ``filters``: from which position on.

    ``past``: filters of before, from which position on and up to which one.
    ``left_out``: spans of positions that it is not given. ``waits``: of a reader with bounds how many messages and
    bytes wait, from which position on and up to which one they were counted.
    Here, and not beside its reader: that is compiled, and what is compiled forgets what its tuples are made of.
    """

    low: int = 1
    done: tuple[int, ...] = ()
    filters: dict[str, int] = {}
    left_out: tuple[tuple[int, int], ...] = ()
    waits: tuple[int, int, int, int] = (0, 0, 0, 0)
    past: dict[str, tuple[int, int]] = {}


class MessageRow(Row):
    """A whole message, for rows that hold one (retained values, wills, mail)."""

    name: str = ""
    number: int = 0
    offset: int = 0
    time_ms: int = 0
    payload: bytes | None = None
    wish: int = 0
    sender: str = ""
    retain: bool = False
    position: int = 0
    envelope: EnvelopeRow | None = None


class EnvelopeRow(msgspec.Struct, array_like=True):
    """The optional facts of a message."""

    sent_ms: int | None = None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    content_type: str | None = None
    reply_to: str | None = None
    correlation: bytes | None = None
    expires_ms: int = NEVER
    cause: str | None = None
    hops: int = 0
    text: bool = False
    raw: bytes = b""
    raw_form: int = 0


R = TypeVar("R", bound=Row)

_encode: Final = msgspec.msgpack.Encoder().encode


def encode_row(row: Row) -> bytes:
    """The bytes of a row."""
    return _encode(row)


def decode_row(data: bytes, kind: type[R]) -> R:
    """A row of ``kind``. Raises ``LogError`` for one written by a newer build."""
    row = msgspec.msgpack.decode(data, type=kind)
    if row.version > VERSION:
        raise LogError(
            f"the data folder holds a {kind.__name__} of format {row.version}, this build knows {VERSION}: "
            "start the newer build, or restore a backup made by this one"
        )
    return row


def channel_key(number: int) -> bytes:
    """The key of everything that belongs to one channel: sorts by number."""
    return number.to_bytes(8, "big")


def encode_message(message: Message) -> bytes:
    """A message as a row's bytes."""
    envelope = message.envelope
    return _encode(
        MessageRow(
            name=message.name,
            number=message.number,
            offset=message.offset,
            time_ms=message.time_ms,
            payload=message.payload,
            wish=message.wish,
            sender=message.sender,
            retain=message.retain,
            position=message.position,
            envelope=None
            if envelope is None
            else EnvelopeRow(**{field: getattr(envelope, field) for field in EnvelopeRow.__struct_fields__}),
        )
    )


def decode_message(data: bytes) -> Message:
    """The message a row holds."""
    row = decode_row(data, MessageRow)
    envelope = None
    if row.envelope is not None:
        envelope = Envelope(**{field: getattr(row.envelope, field) for field in EnvelopeRow.__struct_fields__})
    message = Message(row.name, row.payload, row.wish, row.sender, row.retain, envelope)
    message.number = row.number
    message.offset = row.offset
    message.time_ms = row.time_ms
    message.position = row.position
    return message

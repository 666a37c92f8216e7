"""The JSON documents of the HTTP API. Their definitions are the schemas of ``/openapi.json``."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import msgspec

from dragoman.routing.message import EMPTY, NEVER, Message

Limit = Annotated[int, msgspec.Meta(ge=1, le=(1 << 53) - 1)]
"""At least one, and a number that every JSON reader holds exactly."""


class Document(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What we send. Fields at their default are left out."""


class Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What we are sent. An unknown field is a mistake and is said to be one."""


class HeaderDocument(Document):
    """One header: its value as text, as base64 where it is not UTF-8, or neither where it is null."""

    name: str
    value: str | None = None
    value_base64: str | None = None


class MessageDocument(Document):
    """A message. ``payload`` where it is UTF-8 text, otherwise ``payload_base64``; neither for a tombstone.

    ``number`` is hexadecimal, since it may exceed what JSON numbers hold in a browser. ``retained``: given as the
    channel's retained value and not as news.
    """

    id: str
    channel: str
    number: str
    offset: int
    time_ms: int
    sender: str = msgspec.field(default="", name="from")
    payload: str | None = None
    payload_base64: str | None = None
    tombstone: bool = False
    content_type: str | None = None
    headers: list[HeaderDocument] = []
    key: str | None = None
    key_base64: str | None = None
    reply_to: str | None = None
    correlation: str | None = None
    correlation_base64: str | None = None
    cause: str | None = None
    hops: int = 0
    sent_ms: int | None = None
    expires_ms: int | None = None
    retain: bool = False
    retained: bool = False


class PageDocument(Document):
    """Messages of one creation of a channel, in order. Go on with ``number`` and ``next_offset``.

    ``lost``: how many before the first are gone. ``restarted``: the number asked for was of an older creation of the
    channel; how much of that was missed is not known.
    """

    channel: str
    number: str
    first_offset: int
    next_offset: int
    messages: list[MessageDocument]
    lost: int = 0
    restarted: bool = False


class PublishedDocument(Document):
    """A message was taken in. ``kept``: ``log`` = on disk now, ``memory`` = gone if the mesh stops."""

    id: str
    channel: str
    number: str
    offset: int
    kept: str


class GapDocument(Document):
    """Messages are gone before this reader could have them. ``count`` 0 = unknown; no channel = any of several."""

    channel: str = ""
    count: int = 0
    detail: str = ""


class DeclareRequest(Request):
    """What a channel is to keep in the log: ``none``, ``acked`` (what wishes at least once) or ``all``.

    At most so old, so many bytes and so many messages; a limit left out is none, also where there was one. The
    log's own budget holds in any case.
    """

    keeps: Literal["none", "acked", "all"]
    retention_ms: Limit | None = None
    retention_bytes: Limit | None = None
    retention_messages: Limit | None = None


class ChannelDocument(Document):
    """A channel as it is now. ``keeps`` is none, acked or all; ``retention_…`` what it was declared to keep at most."""

    name: str
    number: str
    next_offset: int
    keeps: str
    declared: str = "none"
    time_ms: int = 0
    retained: bool = False
    retention_ms: int | None = None
    retention_bytes: int | None = None
    retention_messages: int | None = None


class ChannelsDocument(Document):
    """Channels in the order of their names. ``next``: ask again with ``after`` set to this."""

    channels: list[ChannelDocument]
    next: str | None = None


def message_document(message: Message, *, retained: bool = False) -> MessageDocument:
    """A message as JSON."""
    envelope = message.envelope or EMPTY
    payload, payload_base64 = text_or_base64(message.payload)
    key, key_base64 = text_or_base64(envelope.key)
    correlation, correlation_base64 = text_or_base64(envelope.correlation)
    return MessageDocument(
        id=message.id,
        channel=message.name,
        number=f"{message.number:x}",
        offset=message.offset,
        time_ms=message.time_ms,
        sender=message.sender,
        payload=payload,
        payload_base64=payload_base64,
        tombstone=message.payload is None,
        content_type=envelope.content_type,
        headers=[_header(name, value) for name, value in envelope.headers],
        key=key,
        key_base64=key_base64,
        reply_to=envelope.reply_to,
        correlation=correlation,
        correlation_base64=correlation_base64,
        cause=envelope.cause,
        hops=envelope.hops,
        sent_ms=envelope.sent_ms,
        expires_ms=None if envelope.expires_ms == NEVER else envelope.expires_ms,
        retain=message.retain,
        retained=retained,
    )


def _header(name: str, value: bytes | None) -> HeaderDocument:
    text, text_base64 = text_or_base64(value)
    return HeaderDocument(name=name, value=text, value_base64=text_base64)


def text_or_base64(value: bytes | None) -> tuple[str | None, str | None]:
    """(text, base64) of bytes; one of them None, both if the value is."""
    if value is None:
        return None, None
    try:
        return value.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(value).decode()

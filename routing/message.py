"""What a message is. Decides which facts travel with a payload; knows no protocol and no clock.

The payload is the sender's bytes and is never re-encoded. What every message has is a slot of
``Message``; what few have lives in one ``Envelope``, shared and absent by default, so that a plain
reading costs nothing for what it does not use.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias, final

Header: TypeAlias = tuple[str, bytes | None]

NODE_BITS: Final = 16
"""A channel number is a u64 whose high 16 bits name the node that handed it out."""

NEVER: Final = 0
"""The value of ``expires_ms`` of a message that does not expire."""


class Wish(IntEnum):
    """The delivery the sender asks for. The numbers are MQTT's QoS, so that no table is needed on the hot path."""

    AT_MOST_ONCE = 0
    AT_LEAST_ONCE = 1
    EXACTLY_ONCE = 2


@final
class Envelope:
    """The optional facts about a message. Immutable by convention, so one envelope may serve many messages.

    ``sent_ms``     the sender's own clock, milliseconds since the epoch; None if it did not say
    ``key``         partition or compaction key
    ``headers``     in order, duplicates legal, a value may be None; names are text, values bytes
    ``content_type``, ``reply_to`` (a channel name), ``correlation`` (opaque bytes)
    ``expires_ms``  absolute, milliseconds since the epoch; ``NEVER`` if it does not expire
    ``cause``       id of the message this one answers or follows, ``{number:x}-{offset}``
    ``hops``        how many links or calls it came through
    ``text``        the sender declares the payload to be UTF-8 (MQTT payload format indicator 1)
    ``raw``         the sender's own bytes of all this, for going on verbatim in the same protocol
    ``raw_form``    which protocol's ``raw``: an adapter's constant, 0 = none
    """

    __slots__ = (
        "cause",
        "content_type",
        "correlation",
        "expires_ms",
        "headers",
        "hops",
        "key",
        "raw",
        "raw_form",
        "reply_to",
        "sent_ms",
        "text",
    )

    def __init__(
        self,
        *,
        sent_ms: int | None = None,
        key: bytes | None = None,
        headers: tuple[Header, ...] = (),
        content_type: str | None = None,
        reply_to: str | None = None,
        correlation: bytes | None = None,
        expires_ms: int = NEVER,
        cause: str | None = None,
        hops: int = 0,
        text: bool = False,
        raw: bytes = b"",
        raw_form: int = 0,
    ) -> None:
        self.sent_ms = sent_ms
        self.key = key
        self.headers = headers
        self.content_type = content_type
        self.reply_to = reply_to
        self.correlation = correlation
        self.expires_ms = expires_ms
        self.cause = cause
        self.hops = hops
        self.text = text
        self.raw = raw
        self.raw_form = raw_form

    def header(self, name: str) -> bytes | None:
        """The value of the first header called ``name``; None if there is none (or its value is None)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def respelt(self, reply_to: str | None) -> Envelope:
        """The same with another ``reply_to``, and so without the sender's own bytes."""
        return Envelope(
            sent_ms=self.sent_ms,
            key=self.key,
            headers=self.headers,
            content_type=self.content_type,
            reply_to=reply_to,
            correlation=self.correlation,
            expires_ms=self.expires_ms,
            cause=self.cause,
            hops=self.hops,
            text=self.text,
        )


EMPTY: Final = Envelope()
"""The envelope of a message that has none, for readers that do not want to ask first."""


@final
class Message:
    """One immutable thing said in a channel.

    The sender makes it with name, payload, wish, sender, retain and envelope; the channel that takes
    it in fills ``number``, ``offset`` and ``time_ms`` once, and the log ``position``. After that
    nobody writes but to ``wire``/``wire_form``, the one cache slot for its encoded form, which
    belongs to whichever adapter encoded last (``wire_form`` says whose and which).

    ``payload``   None is a tombstone, which is not the same as empty
    ``time_ms``   our clock, milliseconds since the epoch, never decreasing within a channel
    ``position``  its place in commit order, from 1; 0 = not in the log (memory only)
    ``retain``    the sender asked that this be the channel's retained value
    """

    __slots__ = (
        "envelope",
        "name",
        "number",
        "offset",
        "payload",
        "position",
        "retain",
        "sender",
        "time_ms",
        "wire",
        "wire_form",
        "wish",
    )

    def __init__(
        self,
        name: str,
        payload: bytes | None,
        wish: int = 0,
        sender: str = "",
        retain: bool = False,
        envelope: Envelope | None = None,
    ) -> None:
        self.name = name
        self.payload = payload
        self.wish = wish
        self.sender = sender
        self.retain = retain
        self.envelope = envelope
        self.number = 0
        self.offset = 0
        self.time_ms = 0
        self.position = 0
        self.wire_form = 0
        self.wire = b""

    @property
    def id(self) -> str:
        """The id on the wire, ``{number:x}-{offset}``."""
        return f"{self.number:x}-{self.offset}"

    def expired(self, now_ms: int) -> bool:
        """Whether delivery may no longer start. ``now_ms`` is milliseconds since the epoch."""
        envelope = self.envelope
        return envelope is not None and envelope.expires_ms != NEVER and envelope.expires_ms <= now_ms


@final
class Bundle:
    """Messages said at once in one channel, still in the bytes of the protocol that said them.

    A Kafka record batch is one. It takes ``count`` offsets and as many positions, in a row, and is kept,
    read and freed whole; who wants single messages asks the body codec of its ``kind``. Like a message
    it is filled in once, by the channel (``number``, ``offset``, ``time_ms``) and the log (``position``).

    ``body``      exactly as it was received: where it says its own offset, that is still the sender's
    ``kind``      which codec can open it: a number on disk, never reused
    ``offset``    of its first message; ``position`` likewise
    """

    __slots__ = ("body", "count", "kind", "name", "number", "offset", "position", "sender", "time_ms")

    def __init__(self, name: str, body: bytes, kind: int, count: int, sender: str = "") -> None:
        assert count > 0, "a bundle of nothing"
        self.name = name
        self.body = body
        self.kind = kind
        self.count = count
        self.sender = sender
        self.number = 0
        self.offset = 0
        self.time_ms = 0
        self.position = 0


Entry: TypeAlias = Message | Bundle
"""What a log keeps: one message, or several in one piece."""


def count_of(entry: Entry) -> int:
    """How many messages an entry is."""
    return entry.count if isinstance(entry, Bundle) else 1


def end_of(entry: Entry) -> int:
    """The offset after an entry's last message."""
    return entry.offset + (entry.count if isinstance(entry, Bundle) else 1)


def position_after(entry: Entry) -> int:
    """The position after an entry's last message."""
    return entry.position + (entry.count if isinstance(entry, Bundle) else 1)


def parse_id(text: str) -> tuple[int, int] | None:
    """(number, offset) of a message id as written on the wire, or None if it is not one."""
    number, dash, offset = text.partition("-")
    if not dash or not offset.isascii() or not offset.isdigit() or not 0 < len(number) <= 16 or len(offset) > 20:
        return None
    try:
        value = int(number, 16)
    except ValueError:
        return None
    if f"{value:x}" != number:
        return None
    return value, int(offset)

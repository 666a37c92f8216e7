"""How a message looks as a Kafka record. Tables and pure functions; no state.

Headers cross by name, in order, with duplicates; a value may be anything, or nothing. What Kafka has no field for
travels in headers of the names every carrier has (``routing.carriers``). CloudEvents' attributes are ``ce_…``
here (Kafka protocol binding 1.0, binary mode) and stay in the value in structured mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from dragoman.routing.carriers import OURS_TO_SAY, REPLY_TO, RETAIN, envelope_of, pairs_of
from dragoman.routing.message import EMPTY, Envelope, Header, Message
from dragoman.routing.names import from_kafka, kafka_channel, to_kafka
from dragoman.routing.refusals import Refusal

RAW_KAFKA: Final = 2
"""``Envelope.raw_form`` of a Kafka record without its value; on disk."""

EVENT_PREFIX: Final = "ce_"
_VERSION: Final = "specversion"
_EVENT_NAME: Final = re.compile(r"[a-z0-9]{1,255}")
_TRACE: Final = ("traceparent", "tracestate")
"""Not an event's alone: whoever follows traces through Kafka looks for these names."""
_ASKED: Final = (b"true", b"1", b"")


def envelope_from(key: bytes | None, headers: Iterable[Header], sent_ms: int) -> tuple[Envelope, bool]:
    """The envelope of a record, and whether it asks to be retained. ``sent_ms`` below 0: its sender has no clock."""
    pairs = list(headers)
    retain = False
    event = any(name == EVENT_PREFIX + _VERSION for name, _ in pairs)
    said: list[Header] = []
    for name, value in pairs:
        if name == RETAIN:
            retain = value in _ASKED
        elif name == REPLY_TO and value is not None:
            said.append((name, _channel(value)))
        elif event and name.startswith(EVENT_PREFIX):
            said.append((name[len(EVENT_PREFIX) :], value))
        else:
            said.append((name, value))
    envelope = envelope_of(said)
    if key is not None:
        envelope.key = key
    if sent_ms >= 0 and envelope.sent_ms is None:
        envelope.sent_ms = sent_ms
    return envelope, retain


def verbatim(headers: Iterable[Header]) -> bool:
    """Whether a record may go on as it came: what a reader may believe is said by us or not at all."""
    return all(name not in OURS_TO_SAY for name, _ in headers)


def headers_of(message: Message) -> list[Header]:
    """The headers of a record that is to say a message. Its key and its time are the record's own."""
    envelope = message.envelope or EMPTY
    event = envelope.header(_VERSION) is not None
    bare = envelope.respelt(None if envelope.reply_to is None else _topic(envelope.reply_to))
    bare.headers = tuple((_spelt(name, event=event and value is not None), value) for name, value in envelope.headers)
    headers = pairs_of(message, bare)
    if message.retain:
        headers.append((RETAIN, b"true"))
    return headers


def _channel(topic: bytes) -> bytes:
    """The channel a reply-to names; as it stands, if it names none."""
    try:
        name = kafka_channel(topic.decode())
    except UnicodeDecodeError:
        return topic
    return topic if isinstance(name, Refusal) else name.encode()


def _topic(channel: str) -> str:
    """The topic an answer is to be produced to."""
    topic = to_kafka(channel)
    return channel if isinstance(topic, Refusal) or isinstance(from_kafka(topic), Refusal) else topic


def _spelt(name: str, *, event: bool) -> str:
    """A header's name where attributes of events have a prefix."""
    if event and name not in _TRACE and _EVENT_NAME.fullmatch(name):
        return EVENT_PREFIX + name
    return name

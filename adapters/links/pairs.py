"""A message's envelope as named values, for outsides whose messages have headers and little else: NATS and Kafka.

The names are those of every carrier (``routing.carriers``). The attributes of a CloudEvent have the prefix of that
protocol's binding there, and none here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from dragoman.routing.carriers import RETAIN, envelope_of, pairs_of
from dragoman.routing.message import Envelope, Header, Message

_VERSION: Final = "specversion"
_EVENT_NAME: Final = re.compile(r"[a-z0-9]{1,255}")


def envelope_from(pairs: Iterable[Header], prefix: str) -> tuple[Envelope, bool]:
    """The envelope of a message from outside, and whether it asks to be retained."""
    said = list(pairs)
    event = any(name == prefix + _VERSION for name, _ in said)
    retain = any(name == RETAIN and value == b"true" for name, value in said)
    return envelope_of(
        (name.removeprefix(prefix) if event else name, value) for name, value in said if name != RETAIN
    ), retain


def pairs_from(message: Message, envelope: Envelope, prefix: str) -> list[Header]:
    """What is said outside of a message beside its payload and its key."""
    event = envelope.header(_VERSION) is not None
    spelt = envelope.respelt(envelope.reply_to)
    spelt.headers = tuple(
        (_spelt(name, prefix, event=event and value is not None), value) for name, value in envelope.headers
    )
    pairs = pairs_of(message, spelt)
    if message.retain:
        pairs.append((RETAIN, b"true"))
    return pairs


def _spelt(name: str, prefix: str, *, event: bool) -> str:
    return prefix + name if event and _EVENT_NAME.fullmatch(name) else name

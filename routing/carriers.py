"""The names under which a message's facts travel where a protocol has no field for them: one spelling in every carrier.

A carrier is a list of named values: MQTT user properties, Kafka record headers, NATS headers. Where values are
text only, bytes that are none go as base64 under a marked name, and no value at all has a mark too. Knows no
protocol's framing; ``docs/crossings.md`` is the table for people.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final

from dragoman.routing.events import event_facts
from dragoman.routing.message import NEVER, Envelope, Header, Message, parse_id

CAUSE: Final = "mesh-cause"
HOPS: Final = "mesh-hops"
KEY: Final = "mesh-key"
SENT: Final = "mesh-sent-ms"
NULL: Final = "mesh-null"
ID: Final = "mesh-id"
FROM: Final = "mesh-from"
LOST: Final = "mesh-lost"
OURS_TO_SAY: Final = frozenset((ID, FROM, LOST))
"""What a reader may believe, since a client that says one is not repeated."""

FACTS: Final = OURS_TO_SAY | {CAUSE, HOPS, KEY, SENT, NULL}

ESCAPE: Final = "mesh-h-"
"""Stands before a header's name that would be taken for one of the names above."""

BASE64_SUFFIX: Final = ";b64"
NULL_SUFFIX: Final = ";null"

CONTENT_TYPE: Final = "content-type"
REPLY_TO: Final = "reply-to"
CORRELATION: Final = "correlation-id"
EXPIRES: Final = "expires-at"
"""Milliseconds since the epoch. These four are for carriers whose protocol has no field of its own for them."""

RETAIN: Final = "mesh-retain"
"""Asks that this be the channel's retained value, and says that it was published so: in carriers without a flag for it.

Whoever speaks such a carrier says and hears it himself; a header of that name is escaped here."""

_FIELDS: Final = frozenset((CONTENT_TYPE, REPLY_TO, CORRELATION, EXPIRES))


def text_pair(name: str, value: bytes | None) -> tuple[str, str]:
    """A header where values are text only; bytes that are none go as base64 under a marked name."""
    if value is None:
        return name + NULL_SUFFIX, ""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or name.endswith((BASE64_SUFFIX, NULL_SUFFIX)):
        return name + BASE64_SUFFIX, base64.b64encode(value).decode()
    return name, text


def header_of(name: str, text: str) -> Header:
    """``text_pair`` the other way. A mark that fits not is part of the name."""
    if name.endswith(NULL_SUFFIX) and not text:
        return name.removesuffix(NULL_SUFFIX), None
    if name.endswith(BASE64_SUFFIX):
        try:
            return name.removesuffix(BASE64_SUFFIX), base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    return name, text.encode()


def escaped(name: str) -> str:
    """A header's own name in a carrier that also has ours."""
    return ESCAPE + name if name in FACTS or name.startswith(ESCAPE) else name


def take_fact(envelope: Envelope, name: str, value: bytes | None) -> bool:
    """Takes a header that is a fact of the envelope into it; False if it is a header like any other."""
    if name not in FACTS or value is None:
        return False
    text = value.decode("ascii", "replace")
    if name == KEY:
        envelope.key = value
    elif name == CAUSE and parse_id(text) is not None:
        envelope.cause = text
    elif name == HOPS and text.isascii() and text.isdigit() and len(text) < 4:
        envelope.hops = int(text)
    elif name == SENT and text.isascii() and text.isdigit() and len(text) < 16:
        envelope.sent_ms = int(text)
    else:
        return False
    return True


def facts_of(message: Message, envelope: Envelope) -> list[Header]:
    """What every carrier has to be told by name: id, sender, cause, hops, the sender's clock. Not key and payload."""
    said: list[Header] = []
    if message.number:
        said.append((ID, message.id.encode()))
    if message.sender:
        said.append((FROM, message.sender.encode()))
    if envelope.cause is not None:
        said.append((CAUSE, envelope.cause.encode()))
    if envelope.hops:
        said.append((HOPS, str(envelope.hops).encode()))
    if envelope.sent_ms is not None:
        said.append((SENT, str(envelope.sent_ms).encode()))
    return said


def pairs_of(message: Message, envelope: Envelope) -> list[Header]:
    """The whole envelope but its key as pairs, for a carrier that has nothing else."""
    pairs: list[Header] = []
    if envelope.content_type is not None:
        pairs.append((CONTENT_TYPE, envelope.content_type.encode()))
    if envelope.reply_to is not None:
        pairs.append((REPLY_TO, envelope.reply_to.encode()))
    if envelope.correlation is not None:
        pairs.append((CORRELATION, envelope.correlation))
    if envelope.expires_ms != NEVER:
        pairs.append((EXPIRES, str(envelope.expires_ms).encode()))
    pairs += (
        (ESCAPE + name if name in _FIELDS or name == RETAIN else escaped(name), value)
        for name, value in envelope.headers
    )
    return pairs + facts_of(message, envelope)


def envelope_of(pairs: Iterable[Header]) -> Envelope:
    """The envelope that pairs describe: ``pairs_of`` the other way. What only the mesh may say is left out."""
    envelope = Envelope()
    headers: list[Header] = []
    for name, value in pairs:
        if (
            name in OURS_TO_SAY
            or name == NULL
            or _take_field(envelope, name, value)
            or take_fact(envelope, name, value)
        ):
            continue
        headers.append((name.removeprefix(ESCAPE), value))
    envelope.headers = tuple(headers)
    facts = event_facts(headers)
    envelope.key = facts.key if envelope.key is None else envelope.key
    envelope.sent_ms = facts.sent_ms if envelope.sent_ms is None else envelope.sent_ms
    return envelope


def _take_field(envelope: Envelope, name: str, value: bytes | None) -> bool:
    if name not in _FIELDS or value is None:
        return False
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if name == CORRELATION:
        envelope.correlation = value
    elif name == CONTENT_TYPE and text:
        envelope.content_type = text
    elif name == REPLY_TO and text:
        envelope.reply_to = text
    elif name == EXPIRES and text.isascii() and text.isdigit() and len(text) < 16:
        envelope.expires_ms = int(text)
    else:
        return False
    return True

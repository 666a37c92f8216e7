"""The words for messages and agents in JSON that models read and write. One set for every protocol that has them.

The payload is the sender's bytes: text if it is UTF-8, base64 otherwise, never anything else.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Any, Final, TypeAlias

from dragoman.routing.cards import Card
from dragoman.routing.events import event_facts
from dragoman.routing.message import EMPTY, NEVER, Envelope, Header, Message
from dragoman.routing.refusals import Reason, Refusal

JsonObject: TypeAlias = dict[str, Any]

TRACE: Final = ("traceparent", "tracestate")
"""W3C trace context: unprefixed in a request's metadata, headers of a message."""


# -- shown ------------------------------------------------------------------------------------------


def text_of(payload: bytes) -> str | None:
    """The payload as text; None if it is not UTF-8."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def base64_of(payload: bytes) -> str:
    """The payload in base64."""
    return b64encode(payload).decode("ascii")


def message_json(message: Message) -> JsonObject:
    """A message as mesh tools show it. Absent facts are absent; ``text``, ``base64`` or ``tombstone``."""
    envelope = message.envelope or EMPTY
    shown: JsonObject = {
        "channel": message.name,
        "id": message.id,
        "offset": message.offset,
        "time_ms": message.time_ms,
    }
    if message.payload is not None:
        text = text_of(message.payload)
        shown["base64" if text is None else "text"] = base64_of(message.payload) if text is None else text
    else:
        shown["tombstone"] = True
    if message.sender:
        shown["sender"] = message.sender
    if message.retain:
        shown["retained"] = True
    for word, value in (
        ("content_type", envelope.content_type),
        ("reply_to", envelope.reply_to),
        ("cause", envelope.cause),
        ("sent_ms", envelope.sent_ms),
    ):
        if value is not None:
            shown[word] = value
    _show(shown, "correlation", envelope.correlation)
    _show(shown, "key", envelope.key)
    if envelope.expires_ms != NEVER:
        shown["expires_ms"] = envelope.expires_ms
    if envelope.hops:
        shown["hops"] = envelope.hops
    if envelope.headers:
        shown["headers"] = [_show({"name": name}, "value", value) for name, value in envelope.headers]
    return shown


def agent_json(agent: str, state: str, since_ms: int, card: Card | None) -> JsonObject:
    """An agent as a search shows it."""
    found: JsonObject = {"agent": agent, "state": state, "since_ms": since_ms}
    if card is not None:
        found["name"] = card.name
        if card.description:
            found["description"] = card.description
        found["skills"] = [skill.name for skill in card.skills]
        if card.tags:
            found["tags"] = list(card.tags)
    return found


# -- said -------------------------------------------------------------------------------------------


def payload_of(given: JsonObject) -> bytes | Refusal | None:
    """The payload, None for a tombstone."""
    tombstone = given.get("tombstone", False)
    if ("text" in given) + ("base64" in given) + tombstone != 1:
        return Refusal(Reason.ARGUMENTS_INVALID, "give the payload as text, or as base64, not both; or a tombstone")
    if tombstone:
        return None
    return from_base64(given["base64"]) if "base64" in given else str(given["text"]).encode()


def envelope_of(given: JsonObject, now_ms: int) -> Envelope | Refusal:
    """All the rest of a message."""
    headers = _headers(given.get("headers", {}))
    correlation, key = _bytes(given, "correlation"), _bytes(given, "key")
    for fact in (headers, correlation, key):
        if isinstance(fact, Refusal):
            return fact
    assert not isinstance(headers, Refusal)
    assert not isinstance(correlation, Refusal)
    assert not isinstance(key, Refusal)
    facts = event_facts(headers)
    expires_s = given.get("expires_s")
    return Envelope(
        sent_ms=facts.sent_ms,
        content_type=given.get("content_type"),
        headers=headers,
        reply_to=given.get("reply_to"),
        correlation=correlation,
        key=facts.key if key is None else key,
        cause=given.get("cause"),
        expires_ms=NEVER if expires_s is None else now_ms + int(expires_s * 1000),
        text="text" in given,
    )


def traced(given: JsonObject, meta: object) -> JsonObject:
    """The arguments of a publish with the trace context of its request's metadata, unless they have their own."""
    if not isinstance(meta, dict) or not isinstance(meta.get(TRACE[0]), str):
        return given
    said = given.get("headers", [])
    headers = [{"name": name, "value": value} for name, value in said.items()] if isinstance(said, dict) else [*said]
    if any(header["name"] in TRACE for header in headers):
        return given
    headers += [{"name": name, "value": meta[name]} for name in TRACE if isinstance(meta.get(name), str)]
    return {**given, "headers": headers}


def _headers(said: dict[str, str] | list[dict[str, str]]) -> tuple[Header, ...] | Refusal:
    if isinstance(said, dict):
        return tuple((name, value.encode()) for name, value in said.items())
    headers: list[Header] = []
    for header in said:
        value = _bytes(header, "value")
        if isinstance(value, Refusal):
            return value
        headers.append((header["name"], value))
    return tuple(headers)


def _bytes(given: dict[str, Any], word: str) -> bytes | Refusal | None:
    """What is given under ``word`` as text, or under ``word_base64``; None if neither is."""
    text, base64 = given.get(word), given.get(f"{word}_base64")
    if text is not None and base64 is not None:
        return Refusal(Reason.ARGUMENTS_INVALID, f"give {word} or {word}_base64, not both")
    if base64 is not None:
        return from_base64(base64)
    return None if text is None else str(text).encode()


def from_base64(text: str) -> bytes | Refusal:
    """The bytes some base64 stands for."""
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        return Refusal(Reason.PAYLOAD_INVALID, "base64 is not base64")


def _show(shown: JsonObject, word: str, value: bytes | None) -> JsonObject:
    """Adds bytes under ``word`` if they are text, else under ``word_base64``; nothing for None."""
    if value is not None:
        text = text_of(value)
        shown[word if text is not None else f"{word}_base64"] = text if text is not None else base64_of(value)
    return shown

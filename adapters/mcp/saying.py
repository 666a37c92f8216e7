"""What the arguments of mesh_publish say: JSON in, payload and envelope out. Knows no broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dragoman.adapters.mcp.contents import from_base64
from dragoman.routing.events import event_facts
from dragoman.routing.message import NEVER, Envelope, Header
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mcp.kernel import JsonObject

TRACE: Final = ("traceparent", "tracestate")
"""W3C trace context: unprefixed in a request's ``_meta``, headers of a message."""


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


def traced(given: JsonObject, params: JsonObject | None) -> JsonObject:
    """The arguments of a publish with the trace context of its request as headers, unless they have their own."""
    meta = (params or {}).get("_meta")
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

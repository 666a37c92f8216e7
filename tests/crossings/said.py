"""A message as a client says or sees it, in no protocol's terms; and how each text protocol spells bytes."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

Header = tuple[str, bytes | None]

EVENT_ATTRIBUTES = ("specversion", "id", "source", "type", "subject")
TRACE = ("traceparent", "tracestate")


@dataclass
class Said:
    """None: not said, or not shown. ``payload`` None is a tombstone. ``wish`` is a QoS."""

    payload: bytes | None = b""
    retain: bool | None = None
    wish: int | None = None
    text: bool | None = None
    headers: list[Header] = field(default_factory=list)
    content_type: str | None = None
    reply_to: str | None = None
    correlation: bytes | None = None
    expires_s: float | None = None
    key: bytes | None = None
    cause: str | None = None
    hops: int | None = None
    sent_ms: int | None = None
    time_ms: int | None = None
    id: str | None = None
    sender: str | None = None

    @property
    def event(self) -> bool:
        """Whether its headers are a CloudEvent's attributes."""
        return any(name == "specversion" for name, _ in self.headers)


# -- MQTT 5: user properties -----------------------------------------------------------------------------

FACTS = ("mesh-key", "mesh-cause", "mesh-hops", "mesh-sent-ms", "mesh-null", "mesh-id", "mesh-from", "mesh-lost")


def user_properties(said: Said) -> list[tuple[str, str]]:
    """What of a message MQTT 5 says in user properties."""
    pairs = [_pair(f"mesh-h-{name}" if name in FACTS else name, value) for name, value in said.headers]
    if said.key is not None:
        pairs.append(_pair("mesh-key", said.key))
    for name, value in (("mesh-cause", said.cause), ("mesh-hops", said.hops), ("mesh-sent-ms", said.sent_ms)):
        if value is not None:
            pairs.append((name, str(value)))
    if said.payload is None:
        pairs.append(("mesh-null", "payload"))
    return pairs


def from_user_properties(said: Said, pairs: list[tuple[str, str]]) -> None:
    """Takes user properties apart again."""
    for spelt, text in pairs:
        name, value = _header(spelt, text)
        if name not in FACTS:
            said.headers.append((name.removeprefix("mesh-h-"), value))
        elif name == "mesh-key":
            said.key = value
        elif name == "mesh-null":
            assert said.payload == b""
            said.payload = None
        elif name in ("mesh-hops", "mesh-sent-ms"):
            setattr(said, {"mesh-hops": "hops", "mesh-sent-ms": "sent_ms"}[name], int(text))
        else:
            setattr(said, {"mesh-cause": "cause", "mesh-id": "id", "mesh-from": "sender"}[name], text)


def _pair(name: str, value: bytes | None) -> tuple[str, str]:
    if value is None:
        return f"{name};null", ""
    try:
        return name, value.decode()
    except UnicodeDecodeError:
        return f"{name};b64", base64.b64encode(value).decode()


def _header(name: str, text: str) -> Header:
    if name.endswith(";null"):
        return name.removesuffix(";null"), None
    if name.endswith(";b64"):
        return name.removesuffix(";b64"), base64.b64decode(text)
    return name, text.encode()


# -- HTTP: header fields ---------------------------------------------------------------------------------


def fields(said: Said) -> list[tuple[str, str]]:
    """A message as the header fields of a POST."""
    given: list[tuple[str, str | None]] = [
        ("Content-Type", said.content_type if not said.text else "text/plain; charset=utf-8"),
        ("Mesh-Reply-To", said.reply_to),
        ("Mesh-Correlation", _escaped(said.correlation)),
        ("Mesh-Key", _escaped(said.key)),
        ("Mesh-Cause", said.cause),
        ("Mesh-Hops", None if said.hops is None else str(said.hops)),
        ("Mesh-Sent-Ms", None if said.sent_ms is None else str(said.sent_ms)),
        ("Mesh-Expires-Ms", None if said.expires_s is None else str(int(said.expires_s * 1000))),
    ]
    for name, value in said.headers:
        prefix = "ce-" if said.event else "" if name in TRACE else "Mesh-N-" if value is None else "Mesh-H-"
        given.append((prefix + _token(name), _escaped(value) or "") if prefix else (name, (value or b"").decode()))
    return [(name, value) for name, value in given if value is not None]


def from_fields(status: int, body: bytes, seen: list[tuple[str, str]]) -> Said:
    """A message given raw: its payload as the body, the rest as header fields."""
    said = Said(body if status == 200 else None)
    for spelt, value in seen:
        name = spelt.lower()
        if name.startswith(("mesh-h-", "mesh-n-", "ce-")):
            prefix = "ce-" if name.startswith("ce-") else name[:7]
            header = unquote_to_bytes(name.removeprefix(prefix)).decode()
            said.headers.append((header, None if prefix == "mesh-n-" else unquote_to_bytes(value)))
        elif name in TRACE:
            said.headers.append((name, value.encode()))
        elif name == "content-type" and value != "application/octet-stream":
            said.content_type = value
        elif name in ("mesh-correlation", "mesh-key"):
            setattr(said, name.removeprefix("mesh-"), unquote_to_bytes(value))
        elif name == "mesh-expires-ms":
            said.expires_s = int(value) / 1000
        elif name in ("mesh-hops", "mesh-sent-ms", "mesh-time-ms"):
            setattr(said, name.removeprefix("mesh-").replace("-", "_"), int(value))
        elif name in ("mesh-cause", "mesh-id", "mesh-reply-to"):
            setattr(said, name.removeprefix("mesh-").replace("-", "_"), unquote_to_bytes(value).decode())
        elif name == "mesh-from":
            said.sender = unquote_to_bytes(value).decode()
    return said


def _escaped(value: bytes | None) -> str | None:
    return None if value is None else quote_from_bytes(value, safe="/:;, ")


def _token(name: str) -> str:
    """A header's name in a field's: capitals, which HTTP does not know, are escaped."""
    return re.sub(r"%[0-9A-F]{2}|[A-Z]", lambda m: m[0] if len(m[0]) > 1 else f"%{ord(m[0]):02X}", quote(name, safe=""))


# -- JSON ------------------------------------------------------------------------------------------------


def from_json(seen: dict[str, Any], words: tuple[str, str, str, str], now_s: float) -> Said:
    """A message in JSON. ``words``: what text, base64, the sender and the retain flag are called."""
    text, binary, sender, retain = words
    payload = seen[text].encode() if text in seen else base64.b64decode(seen[binary]) if binary in seen else None
    assert (payload is None) == seen.get("tombstone", False)
    expires_ms = seen.get("expires_ms")
    return Said(
        payload=payload,
        retain=seen.get(retain, False),
        headers=[(header["name"], _bytes(header, "value")) for header in seen.get("headers", [])],
        content_type=seen.get("content_type"),
        reply_to=seen.get("reply_to"),
        correlation=_bytes(seen, "correlation"),
        expires_s=None if expires_ms is None else expires_ms / 1000 - now_s,
        key=_bytes(seen, "key"),
        cause=seen.get("cause"),
        hops=seen.get("hops"),
        sent_ms=seen.get("sent_ms"),
        time_ms=seen["time_ms"],
        id=seen["id"],
        sender=seen.get(sender),
    )


def _bytes(seen: dict[str, Any], word: str) -> bytes | None:
    if word in seen:
        value = seen[word]
        assert isinstance(value, str)
        return value.encode()
    return base64.b64decode(seen[f"{word}_base64"]) if f"{word}_base64" in seen else None

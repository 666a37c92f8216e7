"""A message's envelope as HTTP headers, both ways, and CloudEvents 1.0 over HTTP. Knows no socket and no broker.

    Content-Type        content type            Mesh-Reply-To     reply-to, a channel name
    Mesh-H-{name}       the header {name}       Mesh-Correlation  correlation bytes
    Mesh-N-{name}       the same, its value null
    Mesh-Cause          id of what it follows   Mesh-Key          key bytes
    Mesh-Expires-Ms     lifetime left, ms       Mesh-Sent-Ms      the sender's clock, ms since the epoch
    Mesh-Hops           links it came through   traceparent, tracestate as they are

Values are percent-encoded where a header could not hold them. Header names are case-insensitive in HTTP and not
in the mesh: a capital letter (or what is no token character) in {name} is percent-encoded, and without that it
means the small letter.

CloudEvents attributes are headers under their own names, as in the MQTT binding, recognised by ``specversion``;
in HTTP they are ``ce-…`` (binary mode) or stay in the body, which passes untouched (structured mode).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import msgspec

from dragoman.adapters.serving.json_in import read_json
from dragoman.adapters.serving.problems import MediaTypeError
from dragoman.routing.events import event_facts
from dragoman.routing.message import EMPTY, NEVER, Envelope, Header, Message, parse_id
from dragoman.routing.refusals import Reason, Refusal, RefusedError

USER_PREFIX: Final = "mesh-h-"
NULL_PREFIX: Final = "mesh-n-"
EVENT_PREFIX: Final = "ce-"
STRUCTURED: Final = "application/cloudevents+json"
STRUCTURED_BATCH: Final = "application/cloudevents-batch"

HOPS_MAX: Final = 255
SENT_MAX_MS: Final = 1 << 49
"""Fifteen digits, which is the year 19,000."""

LIFETIME_MAX_MS: Final = (1 << 32) * 1000
"""MQTT counts an expiry in seconds as a u32; longer could not be carried there."""

_TRACE: Final = ("traceparent", "tracestate")
_SAFE_VALUE: Final = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
_SAFE_EVENT: Final = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '%"')
_SAFE_NAME: Final = "!#$&'*^`|~"
_EVENT_NAME: Final = re.compile(r"[a-z0-9]{1,255}")
_REQUIRED: Final = ("id", "source", "type")
_FIELD_VALUE: Final = re.compile(r"[\x20-\x7e]*")

Fields = Iterable[tuple[str, str]]
"""Header fields as they came, in order, duplicates kept; bytes that are not UTF-8 as surrogates."""


def envelope_of(fields: Fields, body: bytes, now_ms: int) -> Envelope:
    """The envelope a publisher's header fields describe. Raises RefusedError."""
    said: dict[str, str] = {}
    headers: list[Header] = []
    event: dict[str, str] = {}
    for name, value in fields:
        field = name.lower()
        if field.startswith(USER_PREFIX):
            headers.append((_user_name(field, USER_PREFIX), unescaped(value)))
        elif field.startswith(NULL_PREFIX):
            headers.append((_user_name(field, NULL_PREFIX), None))
        elif field.startswith(EVENT_PREFIX):
            event[field[len(EVENT_PREFIX) :]] = _event_value(field, value)
        elif field in _TRACE:
            headers.append((field, value.encode("utf-8", "surrogateescape")))
        else:
            said[field] = value
    content_type = said.get("content-type")
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind.startswith(STRUCTURED_BATCH):
        raise _unsupported("a batch of CloudEvents is several messages; send one event a request")
    if kind == STRUCTURED:
        event = _structured(body)
    elif kind.startswith("application/cloudevents"):
        raise _unsupported(f"structured CloudEvents are taken as {STRUCTURED}, not as {kind}")
    if event:
        headers = [*_event_headers(event), *headers]
    facts = event_facts(headers)
    sent_ms = _integer(said, "mesh-sent-ms", SENT_MAX_MS)
    lifetime = _integer(said, "mesh-expires-ms", LIFETIME_MAX_MS)
    key = said.get("mesh-key")
    correlation = said.get("mesh-correlation")
    return Envelope(
        sent_ms=facts.sent_ms if sent_ms is None else sent_ms,
        key=facts.key if key is None else unescaped(key),
        headers=tuple(headers),
        content_type=_content_type(content_type),
        reply_to=_text(said, "mesh-reply-to"),
        correlation=None if correlation is None else unescaped(correlation),
        expires_ms=NEVER if lifetime is None else now_ms + lifetime,
        cause=_cause(said),
        hops=_integer(said, "mesh-hops", HOPS_MAX) or 0,
        text="charset=utf-8" in (content_type or "").lower().replace('"', "").replace(" ", ""),
    )


def fields_of(message: Message, now_ms: int) -> list[tuple[str, str]]:
    """The header fields under which a message's payload is given raw."""
    envelope = message.envelope or EMPTY
    fields = [
        ("Mesh-Id", message.id),
        ("Mesh-Channel", quote(message.name, safe="/")),
        ("Mesh-Time-Ms", str(message.time_ms)),
    ]
    if message.sender:
        fields.append(("Mesh-From", quote(message.sender, safe="")))
    if envelope is EMPTY:
        return fields
    if envelope.reply_to is not None:
        fields.append(("Mesh-Reply-To", quote(envelope.reply_to, safe="/")))
    if envelope.correlation is not None:
        fields.append(("Mesh-Correlation", escaped(envelope.correlation)))
    if envelope.key is not None:
        fields.append(("Mesh-Key", escaped(envelope.key)))
    if envelope.cause is not None:
        fields.append(("Mesh-Cause", quote(envelope.cause, safe="")))
    if envelope.hops:
        fields.append(("Mesh-Hops", str(envelope.hops)))
    if envelope.sent_ms is not None:
        fields.append(("Mesh-Sent-Ms", str(envelope.sent_ms)))
    if envelope.expires_ms != NEVER:
        fields.append(("Mesh-Expires-Ms", str(max(0, envelope.expires_ms - now_ms))))
    event = envelope.header("specversion") is not None
    for name, value in envelope.headers:
        if value is None:
            fields.append((NULL_PREFIX + _spelt(name), ""))
        elif name in _TRACE and _FIELD_VALUE.fullmatch(value.decode("latin-1")):
            fields.append((name, value.decode("ascii")))
        elif event and _EVENT_NAME.fullmatch(name):
            fields.append((EVENT_PREFIX + name, quote_from_bytes(value, safe=_SAFE_EVENT)))
        else:
            fields.append((USER_PREFIX + _spelt(name), escaped(value)))
    return fields


def content_type_of(message: Message) -> str:
    """What the payload is called when it is given raw. One that no header can hold becomes plain bytes."""
    said = (message.envelope or EMPTY).content_type
    return said if said and _FIELD_VALUE.fullmatch(said) else "application/octet-stream"


def escaped(value: bytes) -> str:
    """Bytes as a header value: printable ASCII but ``%`` as it is; the rest, and spaces at the ends, as ``%HH``."""
    text = quote_from_bytes(value, safe=_SAFE_VALUE)
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    return "%20" * before + inner + "%20" * (len(text) - before - len(inner))


def unescaped(value: str) -> bytes:
    """The bytes of a header value, percent-encoding undone."""
    return unquote_to_bytes(value.encode("utf-8", "surrogateescape"))


def _spelt(name: str) -> str:
    token = quote(name, safe=_SAFE_NAME)
    # The digits of an escape are capital or not as one likes; letters that are the name's own must not be.
    return re.sub(r"%[0-9A-F]{2}|[A-Z]", lambda m: m[0] if len(m[0]) > 1 else f"%{ord(m[0]):02X}", token)


def _user_name(field: str, prefix: str) -> str:
    try:
        name = unescaped(field[len(prefix) :]).decode()
    except UnicodeDecodeError:
        name = ""
    if not name:
        raise _invalid(f"{field!r} names no header")
    return name


def _text(said: Mapping[str, str], field: str) -> str | None:
    value = said.get(field)
    if value is None:
        return None
    try:
        return unescaped(value).decode()
    except UnicodeDecodeError:
        raise _invalid(f"{field} is not UTF-8") from None


def _integer(said: Mapping[str, str], field: str, high: int) -> int | None:
    value = said.get(field)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 16 and int(value) <= high):
        raise _invalid(f"{field} is a number from 0 to {high}, not {value!r}")
    return int(value)


def _cause(said: Mapping[str, str]) -> str | None:
    cause = _text(said, "mesh-cause")
    if cause is not None and parse_id(cause) is None:
        raise _invalid(f"mesh-cause is the id of a message, such as 1a-42, not {cause!r}")
    return cause


def _content_type(value: str | None) -> str | None:
    return None if value is None else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# -- CloudEvents -----------------------------------------------------------------------------------


def _event_value(field: str, value: str) -> str:
    try:
        return unescaped(value.strip('"')).decode()
    except UnicodeDecodeError:
        raise _invalid(f"{field} is not UTF-8") from None


def _structured(body: bytes) -> dict[str, str]:
    """The attributes of an event in JSON. Those that are no text are written as the specification's types are."""
    try:
        event = read_json(body, dict[str, object])
    except msgspec.MsgspecError as error:
        raise _invalid(f"the body is no CloudEvent in JSON: {error}") from None
    attributes: dict[str, str] = {}
    for name, value in event.items():
        if name in ("data", "data_base64") or value is None:
            continue
        if isinstance(value, bool):
            attributes[name] = "true" if value else "false"
        elif isinstance(value, str | int):
            attributes[name] = str(value)
        else:
            raise _invalid(f"the CloudEvents attribute {name!r} is neither text, number nor truth value")
    if not attributes:
        raise _invalid("the body is no CloudEvent: it has no attributes")
    return attributes


def _event_headers(event: dict[str, str]) -> list[Header]:
    if event.get("specversion") != "1.0":
        raise _invalid(f"CloudEvents of specversion 1.0 are understood, this one has {event.get('specversion')!r}")
    for name in _REQUIRED:
        if not event.get(name):
            raise _invalid(f"a CloudEvent needs the attribute {name!r}")
    for name in event:
        if not _EVENT_NAME.fullmatch(name):
            raise _invalid(f"CloudEvents attributes are named with small letters and digits, not {name!r}")
    return [(name, value.encode()) for name, value in event.items() if name != "datacontenttype"]


def _invalid(detail: str) -> RefusedError:
    return RefusedError(Refusal(Reason.PAYLOAD_INVALID, detail))


def _unsupported(detail: str) -> RefusedError:
    return MediaTypeError(Refusal(Reason.UNSUPPORTED, detail))

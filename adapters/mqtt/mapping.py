"""How a message looks in MQTT and how our refusals are said there. Tables and pure functions; no state."""

from __future__ import annotations

import base64
from typing import Final

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.packets import Publish, Will
from dragoman.adapters.mqtt.properties import Properties, forward_properties, parse_properties
from dragoman.routing.message import NEVER, Envelope, Header, Message
from dragoman.routing.refusals import Reason

RAW_MQTT5: Final = 1
"""``Envelope.raw_form`` of raw MQTT 5.0 PUBLISH properties."""

CAUSE: Final = "mesh-cause"
HOPS: Final = "mesh-hops"
KEY: Final = "mesh-key"
NULL: Final = "mesh-null"
BASE64_SUFFIX: Final = ";b64"

CODES: Final[dict[Reason, Code]] = {
    Reason.NOT_AUTHENTICATED: Code.BAD_USER_NAME_OR_PASSWORD,
    Reason.NOT_AUTHORIZED: Code.NOT_AUTHORIZED,
    Reason.NAME_INVALID: Code.TOPIC_NAME_INVALID,
    Reason.FILTER_INVALID: Code.TOPIC_FILTER_INVALID,
    Reason.NAME_NOT_EXPRESSIBLE: Code.TOPIC_NAME_INVALID,
    Reason.PAYLOAD_INVALID: Code.PAYLOAD_FORMAT_INVALID,
    Reason.ARGUMENTS_INVALID: Code.PAYLOAD_FORMAT_INVALID,
    Reason.CARD_INVALID: Code.PAYLOAD_FORMAT_INVALID,
    Reason.TOO_LARGE: Code.PACKET_TOO_LARGE,
    Reason.QUOTA_EXCEEDED: Code.QUOTA_EXCEEDED,
    Reason.RATE_EXCEEDED: Code.MESSAGE_RATE_TOO_HIGH,
    Reason.BUSY: Code.SERVER_BUSY,
    Reason.MAILBOX_FULL: Code.QUOTA_EXCEEDED,
    Reason.STORAGE_FULL: Code.QUOTA_EXCEEDED,
    Reason.STORAGE_FAILED: Code.QUOTA_EXCEEDED,
    Reason.UNKNOWN_CHANNEL: Code.TOPIC_NAME_INVALID,
    Reason.UNKNOWN_AGENT: Code.NO_MATCHING_SUBSCRIBERS,
    Reason.UNKNOWN_SKILL: Code.NO_MATCHING_SUBSCRIBERS,
    Reason.UNKNOWN_CALL: Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.UNKNOWN_GROUP: Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.UNKNOWN_DELIVERY: Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.AGENT_TAKEN: Code.CLIENT_IDENTIFIER_NOT_VALID,
    Reason.AGENT_UNREACHABLE: Code.NO_MATCHING_SUBSCRIBERS,
    Reason.CONFLICT: Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.GONE: Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.DEADLINE_PASSED: Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.CANCELLED: Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.FAILED: Code.UNSPECIFIED_ERROR,
    Reason.UNSUPPORTED: Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Reason.TAKEN_OVER: Code.SESSION_TAKEN_OVER,
    Reason.DISCONNECTED: Code.ADMINISTRATIVE_ACTION,
    Reason.SHUTTING_DOWN: Code.SERVER_SHUTTING_DOWN,
}
"""One table from our reasons to MQTT 5.0 reason codes; 3.1.1 codes follow from these (``codes.return_code``)."""

assert set(CODES) == set(Reason), set(Reason) - set(CODES)

_NEAREST: Final[dict[Code, Code]] = {
    Code.MESSAGE_RATE_TOO_HIGH: Code.QUOTA_EXCEEDED,
    Code.PACKET_TOO_LARGE: Code.QUOTA_EXCEEDED,
    Code.SERVER_BUSY: Code.QUOTA_EXCEEDED,
    Code.SERVER_SHUTTING_DOWN: Code.SERVER_UNAVAILABLE,
    Code.BAD_USER_NAME_OR_PASSWORD: Code.NOT_AUTHORIZED,
}


def code_for(kind: int, reason: Reason) -> Code:
    """The code of a refusal in a packet of type ``kind``: not every packet may say every code."""
    code = CODES[reason]
    for candidate in (code, _NEAREST.get(code, code)):
        if candidate in codes.FROM_SERVER[kind]:
            return candidate
    return Code.IMPLEMENTATION_SPECIFIC_ERROR


STORAGE: Final = frozenset((Reason.STORAGE_FULL, Reason.STORAGE_FAILED))
"""Refusals of what was wished durable: 3.1.1 cannot say them, so it closes and the client keeps its message."""


def to_message(packet: Publish, name: str, sender: str, now_ms: int) -> Message:
    """The message a PUBLISH says. Its properties were checked by the codec."""
    envelope = _envelope(packet.properties, packet.expiry, now_ms) if packet.properties else None
    return Message(name, packet.payload, packet.qos, sender, packet.retain, envelope)


def will_message(will: Will, sender: str, now_ms: int) -> Message:
    """The message a will says. Its expiry begins now, when it is published (§3.1.3.2.4)."""
    raw = forward_properties(will.properties, expiry=None) if will.properties else b""
    envelope = _envelope(raw, will.expiry, now_ms) if raw or will.expiry >= 0 else None
    return Message(will.topic.decode(), will.payload, will.qos, sender, will.retain, envelope)


def _envelope(raw: bytes, expiry_s: int, now_ms: int) -> Envelope:
    found = parse_properties(raw, codes.PUBLISH)
    headers: list[Header] = []
    cause: str | None = None
    hops = 0
    key: bytes | None = None
    for name, text in found.user_properties:
        if name == CAUSE:
            cause = text
        elif name == HOPS and text.isascii() and text.isdigit() and len(text) < 4:
            hops = int(text)
        elif name == KEY:
            key = text.encode()
        else:
            headers.append((name, text.encode()))
    return Envelope(
        key=key,
        headers=tuple(headers),
        content_type=found.content_type,
        reply_to=found.response_topic,
        correlation=found.correlation_data,
        expires_ms=now_ms + expiry_s * 1000 if expiry_s >= 0 else NEVER,
        cause=cause,
        hops=hops,
        text=found.payload_format_indicator == 1,
        raw=raw,
        raw_form=RAW_MQTT5,
    )


def properties_of(message: Message, identifiers: tuple[int, ...], now_ms: int) -> bytes:
    """The raw 5.0 properties a receiver gets: the sender's own bytes if it spoke 5.0, else made from the envelope."""
    envelope = message.envelope
    if envelope is None:
        return forward_properties(b"", expiry=None, subscription_ids=identifiers)
    expiry = None
    if envelope.expires_ms != NEVER:
        expiry = min(max(0, (envelope.expires_ms - now_ms + 999) // 1000), 0xFFFF_FFFF)
    raw = envelope.raw if envelope.raw_form == RAW_MQTT5 else _encoded(message, envelope)
    return forward_properties(raw, expiry=expiry, subscription_ids=identifiers)


def _encoded(message: Message, envelope: Envelope) -> bytes:
    user = [_user_property(name, value) for name, value in envelope.headers]
    if envelope.cause is not None:
        user.append((CAUSE, envelope.cause))
    if envelope.hops:
        user.append((HOPS, str(envelope.hops)))
    if envelope.key is not None:
        user.append(_user_property(KEY, envelope.key))
    if message.payload is None:
        user.append((NULL, "payload"))
    return Properties(
        payload_format_indicator=1 if envelope.text else None,
        content_type=_fitting(envelope.content_type),
        response_topic=_fitting(envelope.reply_to),
        correlation_data=envelope.correlation if len(envelope.correlation or b"") <= 0xFFFF else None,
        user_properties=user,
    ).encode()


def _fitting(text: str | None) -> str | None:
    """Text that MQTT can carry: 65,535 bytes, no NUL."""
    return text if text and "\0" not in text and len(text.encode()) <= 0xFFFF else None


def _user_property(name: str, value: bytes | None) -> tuple[str, str]:
    """A header as a user property; bytes that are no text go as base64 under a marked name (docs/crossings.md)."""
    if value is None:
        return name + ";null", ""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return name + BASE64_SUFFIX, base64.b64encode(value).decode()
    if "\0" in text:
        return name + BASE64_SUFFIX, base64.b64encode(value).decode()
    return name, text

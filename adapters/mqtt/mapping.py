"""How a message looks in MQTT and how our refusals are said there. Tables and pure functions; no state."""

from __future__ import annotations

from typing import Final

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.packets import Publish, Will
from dragoman.adapters.mqtt.properties import Properties, forward_properties, parse_properties
from dragoman.routing.carriers import (
    ESCAPE,
    KEY,
    LOST,
    NULL,
    OURS_TO_SAY,
    escaped,
    facts_of,
    header_of,
    take_fact,
    text_pair,
)
from dragoman.routing.events import event_facts
from dragoman.routing.message import NEVER, Envelope, Header, Message
from dragoman.routing.names import check_name
from dragoman.routing.refusals import Reason, Refusal

RAW_MQTT5: Final = 1
"""``Envelope.raw_form`` of raw MQTT 5.0 PUBLISH properties."""

TEXT_BYTES_MAX: Final = 0xFFFF

CODES: Final[dict[Reason, Code]] = {
    Reason.NOT_AUTHENTICATED: Code.BAD_USER_NAME_OR_PASSWORD,
    Reason.NOT_AUTHORIZED: Code.NOT_AUTHORIZED,
    Reason.BANNED: Code.BANNED,
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
    # 0x8A is a word of CONNACK alone: whoever is in already is told 0x98.
    Code.BANNED: Code.ADMINISTRATIVE_ACTION,
}


def code_for(kind: int, reason: Reason) -> Code:
    """The code of a refusal in a packet of type ``kind``: not every packet may say every code."""
    code = CODES[reason]
    for candidate in (code, _NEAREST.get(code, code)):
        if candidate in codes.FROM_SERVER[kind]:
            return candidate
    return Code.IMPLEMENTATION_SPECIFIC_ERROR


PASSING: Final = frozenset((Reason.STORAGE_FULL, Reason.STORAGE_FAILED, Reason.RATE_EXCEEDED))
"""Refusals of what may be taken later: 3.1.1 cannot say them, so it closes and the client keeps its message."""


def to_message(packet: Publish, name: str, sender: str, now_ms: int) -> Message:
    """The message a PUBLISH says. Its properties were checked by the codec."""
    if not packet.properties:
        return Message(name, packet.payload, packet.qos, sender, packet.retain)
    envelope, null = _envelope(packet.properties, packet.expiry, now_ms)
    payload = None if null and not packet.payload else packet.payload
    return Message(name, payload, packet.qos, sender, packet.retain, envelope)


def will_message(will: Will, sender: str, now_ms: int) -> Message:
    """The message a will says. Its expiry begins now, when it is published (§3.1.3.2.4)."""
    raw = forward_properties(will.properties, expiry=None) if will.properties else b""
    envelope, null = _envelope(raw, will.expiry, now_ms) if raw or will.expiry >= 0 else (None, False)
    payload = None if null and not will.payload else will.payload
    return Message(will.topic.decode(), payload, will.qos, sender, will.retain, envelope)


def misformed(message: Message) -> Refusal | None:
    """Why the payload is not what Payload Format Indicator 1 calls it (§3.3.2.3.2): well-formed UTF-8. NUL is."""
    if message.envelope is None or not message.envelope.text or not message.payload:
        return None
    try:
        message.payload.decode()
    except UnicodeDecodeError as error:
        return Refusal(Reason.PAYLOAD_INVALID, f"Payload Format Indicator is 1, byte {error.start} is not UTF-8")
    return None


def _envelope(raw: bytes, expiry_s: int, now_ms: int) -> tuple[Envelope, bool]:
    """The envelope that properties describe, and whether they say that there is no payload, not even an empty one."""
    found = parse_properties(raw, codes.PUBLISH)
    envelope = Envelope(
        content_type=found.content_type,
        reply_to=found.response_topic,
        correlation=found.correlation_data,
        expires_ms=now_ms + expiry_s * 1000 if expiry_s >= 0 else NEVER,
        text=found.payload_format_indicator == 1,
        raw=raw,
        raw_form=RAW_MQTT5,
    )
    headers: list[Header] = []
    null = False
    for name, text in found.user_properties:
        if name in OURS_TO_SAY:
            # Not verbatim then: what a reader may believe is said by us or not at all.
            envelope.raw, envelope.raw_form = b"", 0
        elif name == NULL:
            null = True
        else:
            header = header_of(name, text)
            if not take_fact(envelope, *header):
                headers.append((header[0].removeprefix(ESCAPE), header[1]))
    if headers:
        envelope.headers = tuple(headers)
        facts = event_facts(headers)
        envelope.key = facts.key if envelope.key is None else envelope.key
        envelope.sent_ms = facts.sent_ms if envelope.sent_ms is None else envelope.sent_ms
    return envelope, null


def properties_of(message: Message, identifiers: tuple[int, ...], now_ms: int) -> bytes:
    """The raw 5.0 properties a receiver gets: the sender's own bytes if it spoke 5.0, else made from the envelope."""
    envelope = message.envelope
    if envelope is None:
        return forward_properties(b"", expiry=None, subscription_ids=identifiers)
    expiry = None if envelope.expires_ms == NEVER else _seconds(envelope.expires_ms - now_ms)
    raw = envelope.raw if envelope.raw_form == RAW_MQTT5 else _encoded(message, envelope)
    return forward_properties(raw, expiry=expiry, subscription_ids=identifiers)


def user_property(name: str, text: str) -> bytes:
    """One more property for the end of those that ``properties_of`` gives."""
    return Properties(user_properties=[(name, text)]).encode()


def _seconds(left_ms: int) -> int:
    """An expiry in whole seconds: the nearest, so that a clock a little late makes no second of it; 0 = over."""
    return 0 if left_ms <= 0 else min(max(1, (left_ms + 500) // 1000), 0xFFFF_FFFF)


def _encoded(message: Message, envelope: Envelope) -> bytes:
    """The properties of what comes from elsewhere. What does not fit is named, so that its reader knows of it."""
    lost: list[str] = []
    content_type, reply_to, correlation = envelope.content_type, envelope.reply_to, envelope.correlation
    if content_type is not None and not _fits(content_type):
        content_type = None
        lost.append("content-type")
    if reply_to is not None and check_name(reply_to) is not None:
        reply_to = None
        lost.append("reply-to")
    if correlation is not None and len(correlation) > TEXT_BYTES_MAX:
        correlation = None
        lost.append("correlation")
    user: list[tuple[str, str]] = []
    for name, value in envelope.headers:
        pair = text_pair(escaped(name), value)
        if _fits(pair[0]) and _fits(pair[1]):
            user.append(pair)
        else:
            lost.append(name if _fits(name) else "header")
    user += _facts_of(message, envelope, lost)
    return Properties(
        payload_format_indicator=1 if envelope.text and message.payload is not None else None,
        content_type=content_type,
        response_topic=reply_to,
        correlation_data=correlation,
        user_properties=user,
    ).encode()


def _facts_of(message: Message, envelope: Envelope, lost: list[str]) -> list[tuple[str, str]]:
    """What MQTT has no property for. The id and the sender are told of what comes from elsewhere."""
    said = [text_pair(name, value) for name, value in facts_of(message, envelope)]
    if envelope.key is not None:
        key = text_pair(KEY, envelope.key)
        if _fits(key[1]):
            said.append(key)
        else:
            lost.append(KEY)
    if message.payload is None:
        said.append((NULL, "payload"))
    return [*said, *((LOST, what) for what in lost)]


def _fits(text: str) -> bool:
    """Whether it can be a string of MQTT's: 65,535 bytes, no NUL."""
    return "\0" not in text and len(text.encode()) <= TEXT_BYTES_MAX

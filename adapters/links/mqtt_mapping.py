"""A message's envelope as MQTT 5.0 properties of the paho client, by the same table as our MQTT listener's."""

from __future__ import annotations

from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

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

TEXT_BYTES_MAX: Final = 0xFFFF


def message_of(said: paho.MQTTMessage, name: str, now_ms: int) -> Message:
    """The message that a PUBLISH from outside says, called ``name`` here."""
    found = said.properties
    if found is None:
        return Message(name, bytes(said.payload), said.qos, "", said.retain)
    expiry_s: int | None = getattr(found, "MessageExpiryInterval", None)
    envelope = Envelope(
        content_type=getattr(found, "ContentType", None),
        reply_to=getattr(found, "ResponseTopic", None),
        correlation=getattr(found, "CorrelationData", None),
        expires_ms=NEVER if expiry_s is None else now_ms + expiry_s * 1000,
        text=getattr(found, "PayloadFormatIndicator", 0) == 1,
    )
    headers: list[Header] = []
    null = False
    for key, text in getattr(found, "UserProperty", ()):
        if key == NULL:
            null = True
        elif key not in OURS_TO_SAY:
            header = header_of(key, text)
            if not take_fact(envelope, *header):
                headers.append((header[0].removeprefix(ESCAPE), header[1]))
    envelope.headers = tuple(headers)
    facts = event_facts(headers)
    envelope.key = facts.key if envelope.key is None else envelope.key
    envelope.sent_ms = facts.sent_ms if envelope.sent_ms is None else envelope.sent_ms
    payload = None if null and not said.payload else bytes(said.payload)
    return Message(name, payload, said.qos, "", said.retain, envelope)


def properties_of(message: Message, envelope: Envelope, now_ms: int) -> Any:
    """The properties with which a message goes out. What does not fit is named, so that its reader knows of it."""
    said = blank(PacketTypes.PUBLISH)
    lost: list[str] = []
    if envelope.text and message.payload is not None:
        said.PayloadFormatIndicator = 1
    if envelope.expires_ms != NEVER:
        said.MessageExpiryInterval = min(max(1, (envelope.expires_ms - now_ms + 500) // 1000), 0xFFFF_FFFF)
    if envelope.content_type is not None:
        if _fits(envelope.content_type):
            said.ContentType = envelope.content_type
        else:
            lost.append("content-type")
    if envelope.reply_to is not None:
        if check_name(envelope.reply_to) is None:
            said.ResponseTopic = envelope.reply_to
        else:
            lost.append("reply-to")
    if envelope.correlation is not None:
        if len(envelope.correlation) <= TEXT_BYTES_MAX:
            said.CorrelationData = envelope.correlation
        else:
            lost.append("correlation")
    pairs = [text_pair(escaped(name), value) for name, value in envelope.headers]
    pairs += (text_pair(name, value) for name, value in facts_of(message, envelope))
    if envelope.key is not None:
        pairs.append(text_pair(KEY, envelope.key))
    if message.payload is None:
        pairs.append((NULL, "payload"))
    fitting = [pair for pair in pairs if _fits(pair[0]) and _fits(pair[1])]
    lost += (pair[0] if _fits(pair[0]) else "header" for pair in pairs if pair not in fitting)
    fitting += ((LOST, what) for what in lost)
    if fitting:
        said.UserProperty = fitting
    return said


def blank(packet_type: int) -> Any:
    """No properties yet. paho makes their attributes while it runs, so that no type checker knows them."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]


def _fits(text: str) -> bool:
    return "\0" not in text and len(text.encode()) <= TEXT_BYTES_MAX

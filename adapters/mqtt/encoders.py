"""Packets to bytes. What is passed in is ours and already checked, so it is asserted, not judged.

A code is the version's own: in CONNACK before 5.0 a ``ReturnCode``. Properties before 5.0 are
left out, since there is no place for them.
"""

from __future__ import annotations

from typing import Final

from dragoman.adapters.mqtt.codes import SUBACK_FAILURE, ReturnCode
from dragoman.adapters.mqtt.packets import Connect, Subscribe, Unsubscribe, Will
from dragoman.adapters.mqtt.primitives import encode_binary, encode_text, encode_varint
from dragoman.adapters.mqtt.properties import Properties

FORM_4: Final = 1
FORM_5: Final = 2
"""``Message.wire_form`` of a QoS 0 PUBLISH without properties: MQTT 3.x, MQTT 5."""
FORM_OWN: Final = -1
"""The form of a connection whose topics have aliases: no message has it, so each is encoded for it alone."""

PINGREQ: Final = b"\xc0\x00"
PINGRESP: Final = b"\xd0\x00"


def encode_publish(
    version: int,
    topic: bytes,
    payload: bytes,
    qos: int = 0,
    retain: bool = False,
    dup: bool = False,
    packet_id: int = 0,
    properties: bytes = b"",
) -> bytes:
    """A whole PUBLISH; ``properties`` are raw bytes without their length, as ``forward_properties`` gives them."""
    assert (packet_id != 0) == (qos != 0), (qos, packet_id)
    head, tail = publish_parts(version, topic, payload, qos, retain, properties)
    if not qos:
        return head + tail
    if dup:
        head = bytes((head[0] | 8,)) + head[1:]
    return head + packet_id.to_bytes(2, "big") + tail


def publish_parts(
    version: int, topic: bytes, payload: bytes, qos: int = 0, retain: bool = False, properties: bytes = b""
) -> tuple[bytes, bytes]:
    """(head, tail) of a PUBLISH without DUP, to be shared between receivers.

    The frame is ``head + tail`` for QoS 0 and ``head + packet_id.to_bytes(2, "big") + tail`` above it.
    """
    topic_size = len(topic)
    assert topic_size <= 0xFFFF, topic_size
    if version != 5:
        tail = payload
    elif properties:
        tail = encode_varint(len(properties)) + properties + payload
    else:
        tail = b"\x00" + payload
    first = 0x30 | qos << 1 | retain
    size = topic_size + len(tail) + (4 if qos else 2)
    # One integer holds type, remaining length and topic length: a third of the time of joining three pieces.
    if size < 0x80:
        return (first << 24 | size << 16 | topic_size).to_bytes(4, "big") + topic, tail
    if size < 0x4000:
        varint = (size & 0x7F | 0x80) << 8 | size >> 7
        return (first << 32 | varint << 16 | topic_size).to_bytes(5, "big") + topic, tail
    return bytes((first,)) + encode_varint(size) + topic_size.to_bytes(2, "big") + topic, tail


def _frame(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_varint(len(body)) + body


def _sized(properties: Properties | None) -> bytes:
    """Raw properties with their length in front."""
    raw = b"" if properties is None else properties.encode()
    return encode_varint(len(raw)) + raw


def _answer(first: int, version: int, body: bytes, code: int, properties: Properties | None) -> bytes:
    """A packet that ends in reason code and properties, in its shortest form."""
    if version == 5:
        raw = b"" if properties is None else properties.encode()
        if raw:
            body += bytes((code,)) + encode_varint(len(raw)) + raw
        elif code:
            body += bytes((code,))
    return _frame(first, body)


def encode_connack(version: int, session_present: bool, code: int, properties: Properties | None = None) -> bytes:
    """CONNACK. 3.1 has no session-present flag: the bit is reserved there and stays 0."""
    assert version == 5 or code <= max(ReturnCode), (version, code)
    assert not (session_present and code), code
    body = bytes((session_present and version > 3, code))
    return _frame(0x20, body + _sized(properties) if version == 5 else body)


def encode_puback(version: int, packet_id: int, code: int = 0, properties: Properties | None = None) -> bytes:
    """PUBACK; four bytes when there is nothing to add."""
    return _answer(0x40, version, packet_id.to_bytes(2, "big"), code, properties)


def encode_pubrec(version: int, packet_id: int, code: int = 0, properties: Properties | None = None) -> bytes:
    """PUBREC; four bytes when there is nothing to add."""
    return _answer(0x50, version, packet_id.to_bytes(2, "big"), code, properties)


def encode_pubrel(version: int, packet_id: int, code: int = 0, properties: Properties | None = None) -> bytes:
    """PUBREL; four bytes when there is nothing to add."""
    return _answer(0x62, version, packet_id.to_bytes(2, "big"), code, properties)


def encode_pubcomp(version: int, packet_id: int, code: int = 0, properties: Properties | None = None) -> bytes:
    """PUBCOMP; four bytes when there is nothing to add."""
    return _answer(0x70, version, packet_id.to_bytes(2, "big"), code, properties)


def encode_suback(version: int, packet_id: int, codes: list[int], properties: Properties | None = None) -> bytes:
    """SUBACK. Before 5.0 every refusal is 0x80, the only one there is."""
    body = packet_id.to_bytes(2, "big")
    if version == 5:
        return _frame(0x90, body + _sized(properties) + bytes(codes))
    return _frame(0x90, body + bytes(code if code <= 2 else SUBACK_FAILURE for code in codes))


def encode_unsuback(version: int, packet_id: int, codes: list[int], properties: Properties | None = None) -> bytes:
    """UNSUBACK. Before 5.0 it has no codes."""
    body = packet_id.to_bytes(2, "big")
    return _frame(0xB0, body + _sized(properties) + bytes(codes) if version == 5 else body)


def encode_disconnect(version: int, code: int = 0, properties: Properties | None = None) -> bytes:
    """DISCONNECT; before 5.0 it is a client's and says nothing."""
    return _answer(0xE0, version, b"", code, properties)


def encode_auth(code: int = 0, properties: Properties | None = None) -> bytes:
    """AUTH (5.0 only); the two byte form is success with nothing to add."""
    raw = b"" if properties is None else properties.encode()
    if not code and not raw:
        return b"\xf0\x00"
    return _frame(0xF0, bytes((code,)) + encode_varint(len(raw)) + raw)


def encode_connect(packet: Connect) -> bytes:
    """CONNECT, in the packet's own version."""
    version = packet.version
    will = packet.will
    flags = packet.clean_start << 1 | (packet.password is not None) << 6 | (packet.username is not None) << 7
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
    name = b"MQIsdp" if version == 3 else b"MQTT"
    parts = [encode_binary(name), bytes((version, flags)), packet.keepalive.to_bytes(2, "big")]
    if version == 5:
        parts.append(_sized(packet.properties))
    parts.append(encode_text(packet.client_id))
    if will is not None:
        parts.append(_will(will, version))
    if packet.username is not None:
        parts.append(encode_text(packet.username))
    if packet.password is not None:
        parts.append(encode_binary(packet.password))
    return _frame(0x10, b"".join(parts))


def _will(will: Will, version: int) -> bytes:
    sized = encode_varint(len(will.properties)) + will.properties if version == 5 else b""
    return sized + encode_binary(will.topic) + encode_binary(will.payload)


def encode_subscribe(version: int, packet: Subscribe) -> bytes:
    """SUBSCRIBE. Before 5.0 only the QoS of each subscription is sent."""
    parts = [packet.packet_id.to_bytes(2, "big")]
    if version == 5:
        parts.append(_sized(packet.properties))
    for wanted in packet.subscriptions:
        options = wanted.qos
        if version == 5:
            options |= wanted.no_local << 2 | wanted.retain_as_published << 3 | wanted.retain_handling << 4
        parts.append(encode_text(wanted.filter) + bytes((options,)))
    return _frame(0x82, b"".join(parts))


def encode_unsubscribe(version: int, packet: Unsubscribe) -> bytes:
    """UNSUBSCRIBE."""
    parts = [packet.packet_id.to_bytes(2, "big")]
    if version == 5:
        parts.append(_sized(packet.properties))
    parts.extend(encode_text(topic_filter) for topic_filter in packet.filters)
    return _frame(0xA2, b"".join(parts))

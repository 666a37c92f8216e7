"""The bodies of every packet but CONNECT and PUBLISH: one function a form, one table.

Each gets a cursor over the body, the version (0 before CONNECT), and whether a client sent it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codes import FROM_CLIENT, FROM_SERVER, SUBACK_FAILURE, ReturnCode, malformed, protocol_error
from dragoman.adapters.mqtt.packets import (
    Auth,
    Connack,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from dragoman.adapters.mqtt.primitives import Cursor
from dragoman.adapters.mqtt.properties import NO_PROPERTIES, Properties, parse_properties

_ACKS: Final[dict[int, type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp]]] = {
    codes.PUBACK: Puback,
    codes.PUBREC: Pubrec,
    codes.PUBREL: Pubrel,
    codes.PUBCOMP: Pubcomp,
}


def decode_body(kind: int, cursor: Cursor, version: int, from_client: bool) -> Packet:
    """The packet of type ``kind`` whose whole body is under the cursor."""
    ack = _ACKS.get(kind)
    if ack is not None:
        packet_id = cursor.packet_id()
        code, properties = _read_answer(cursor, kind, version, from_client)
        return ack(packet_id, code, properties)
    return _BODIES[kind](cursor, version, from_client)


def _read_answer(cursor: Cursor, kind: int, version: int, from_client: bool) -> tuple[int, Properties]:
    """Reason code and properties, either of which may be left out from the end when there is nothing to say."""
    code = 0
    properties = NO_PROPERTIES
    if version == 5 and cursor.pos < cursor.end:
        code = _read_code(cursor, kind, from_client)
        if cursor.pos < cursor.end:
            properties = _read_properties(cursor, kind, version)
    cursor.finish()
    return code, properties


def _read_code(cursor: Cursor, kind: int, from_client: bool) -> int:
    code = cursor.byte()
    if code not in (FROM_CLIENT if from_client else FROM_SERVER)[kind]:
        raise protocol_error(f"reason code {code:#04x} is not one of packet type {kind} from this side")
    return code


def _read_properties(cursor: Cursor, kind: int, version: int) -> Properties:
    if version != 5:
        return NO_PROPERTIES
    return parse_properties(cursor.take(cursor.varint()), kind)


def _connack(cursor: Cursor, version: int, from_client: bool) -> Connack:
    flags = cursor.byte()
    if flags > 1:
        raise malformed(f"CONNACK with flags {flags:#010b}, of which 7 are reserved [3.2.2-1]")
    if version == 5:
        code = _read_code(cursor, codes.CONNACK, from_client)
    else:
        code = cursor.byte()
        if code > max(ReturnCode):
            raise protocol_error(f"CONNACK with return code {code}")
    if flags and code:
        raise protocol_error("CONNACK refuses and yet has a session [3.2.2-6]")
    properties = _read_properties(cursor, codes.CONNACK, version)
    cursor.finish()
    return Connack(flags == 1, code, properties)


def _subscribe(cursor: Cursor, version: int, from_client: bool) -> Subscribe:
    packet_id = cursor.packet_id()
    properties = _read_properties(cursor, codes.SUBSCRIBE, version)
    subscriptions: list[Subscription] = []
    while cursor.pos < cursor.end:
        topic_filter = cursor.text()
        subscriptions.append(_subscription(topic_filter, cursor.byte(), version))
    if not subscriptions:
        raise protocol_error("SUBSCRIBE without a filter [3.8.3-2]")
    return Subscribe(packet_id, subscriptions, properties)


def _subscription(topic_filter: str, options: int, version: int) -> Subscription:
    if options & (0xC0 if version == 5 else 0xFC):
        raise malformed(f"subscription options {options:#010b} with reserved bits [3.8.3-5]")
    qos = options & 3
    if qos == 3:
        raise protocol_error("subscription with QoS 3 (§3.8.3.1)")
    retain_handling = options >> 4 & 3
    if retain_handling == 3:
        raise protocol_error("subscription with retain handling 3 (§3.8.3.1)")
    return Subscription(topic_filter, qos, options & 4 != 0, options & 8 != 0, retain_handling)


def _unsubscribe(cursor: Cursor, version: int, from_client: bool) -> Unsubscribe:
    packet_id = cursor.packet_id()
    properties = _read_properties(cursor, codes.UNSUBSCRIBE, version)
    filters: list[str] = []
    while cursor.pos < cursor.end:
        filters.append(cursor.text())
    if not filters:
        raise protocol_error("UNSUBSCRIBE without a filter [3.10.3-2]")
    return Unsubscribe(packet_id, filters, properties)


def _suback(cursor: Cursor, version: int, from_client: bool) -> Suback:
    packet_id = cursor.packet_id()
    properties = _read_properties(cursor, codes.SUBACK, version)
    granted: list[int] = []
    while cursor.pos < cursor.end:
        if version == 5:
            granted.append(_read_code(cursor, codes.SUBACK, from_client))
            continue
        code = cursor.byte()
        if code > 2 and code != SUBACK_FAILURE:
            raise protocol_error(f"SUBACK with return code {code:#04x}")
        granted.append(code)
    if not granted:
        raise protocol_error("SUBACK without a code")
    return Suback(packet_id, granted, properties)


def _unsuback(cursor: Cursor, version: int, from_client: bool) -> Unsuback:
    packet_id = cursor.packet_id()
    properties = _read_properties(cursor, codes.UNSUBACK, version)
    answers: list[int] = []
    while version == 5 and cursor.pos < cursor.end:
        answers.append(_read_code(cursor, codes.UNSUBACK, from_client))
    if version == 5 and not answers:
        raise protocol_error("UNSUBACK without a code")
    cursor.finish()
    return Unsuback(packet_id, answers, properties)


def _pingreq(cursor: Cursor, version: int, from_client: bool) -> Pingreq:
    cursor.finish()
    return Pingreq()


def _pingresp(cursor: Cursor, version: int, from_client: bool) -> Pingresp:
    cursor.finish()
    return Pingresp()


def _disconnect(cursor: Cursor, version: int, from_client: bool) -> Disconnect:
    if version < 5 and not from_client:
        raise protocol_error("DISCONNECT from a server, which only 5.0 has")
    code, properties = _read_answer(cursor, codes.DISCONNECT, version, from_client)
    if from_client and properties.server_reference is not None:
        raise protocol_error("a client's DISCONNECT has a server reference")
    if not from_client and properties.session_expiry_interval is not None:
        raise protocol_error("a server's DISCONNECT has a session expiry [3.14.2-2]")
    return Disconnect(code, properties)


def _auth(cursor: Cursor, version: int, from_client: bool) -> Auth:
    if cursor.pos == cursor.end:
        if from_client:
            raise protocol_error("a client's AUTH says success, which is the server's to say")
        return Auth()
    code = _read_code(cursor, codes.AUTH, from_client)
    properties = _read_properties(cursor, codes.AUTH, version)
    if properties.authentication_method is None:
        raise protocol_error("AUTH without an authentication method (§3.15.2.2.2)")
    cursor.finish()
    return Auth(code, properties)


_BODIES: Final[dict[int, Callable[[Cursor, int, bool], Packet]]] = {
    codes.CONNACK: _connack,
    codes.SUBSCRIBE: _subscribe,
    codes.SUBACK: _suback,
    codes.UNSUBSCRIBE: _unsubscribe,
    codes.UNSUBACK: _unsuback,
    codes.PINGREQ: _pingreq,
    codes.PINGRESP: _pingresp,
    codes.DISCONNECT: _disconnect,
    codes.AUTH: _auth,
}

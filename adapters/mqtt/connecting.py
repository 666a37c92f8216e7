"""The body of CONNECT, the one packet that differs in every version (§3.1)."""

from __future__ import annotations

from typing import Final

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codes import malformed, protocol_error
from dragoman.adapters.mqtt.packets import Connect, Will
from dragoman.adapters.mqtt.primitives import Cursor, check_topic
from dragoman.adapters.mqtt.properties import NO_PROPERTIES, parse_properties

VERSIONS: Final[dict[tuple[bytes, int], int]] = {(b"MQTT", 5): 5, (b"MQTT", 4): 4, (b"MQIsdp", 3): 3}
"""Protocol name and level on the wire → version."""
BEGINNING_OF_5: Final = b"\x00\x04MQTT\x05"
"""Name and level of 5.0 as they stand in the packet."""
PROTOCOL_NAMES: Final = frozenset(name for name, _ in VERSIONS)
BRIDGE_LEVELS: Final = frozenset((0x83, 0x84))
"""Levels 3 and 4 as mosquitto's bridges say them at first; refused in the words of 3.1.1, they say 3 and 4."""

_RESERVED: Final = 0x01
_CLEAN_START: Final = 0x02
_WILL: Final = 0x04
_WILL_RETAIN: Final = 0x20
_PASSWORD: Final = 0x40
_USERNAME: Final = 0x80


def read_protocol(cursor: Cursor) -> tuple[bytes, int]:
    """Protocol name and level, the two fields that no version will ever move."""
    return cursor.binary(), cursor.byte()


def decode_connect(cursor: Cursor, version: int) -> Connect:
    """The rest of CONNECT, after the protocol's name and level."""
    flags = cursor.byte()
    _check_flags(flags, version)
    keepalive = cursor.two()
    properties = parse_properties(cursor.take(cursor.varint()), codes.CONNECT) if version == 5 else NO_PROPERTIES
    client_id = cursor.text()
    will = _read_will(cursor, flags, version) if flags & _WILL else None
    username = None
    # 3.1: the length of the packet overrules the flag, so a user name announced may be missing.
    if flags & _USERNAME and not (version == 3 and cursor.pos == cursor.end):
        username = cursor.text()
    password = None
    if flags & _PASSWORD and not (version == 3 and cursor.pos == cursor.end):
        password = cursor.binary()
    cursor.finish()
    clean_start = flags & _CLEAN_START != 0
    return Connect(version, client_id, clean_start, keepalive, username, password, will, properties)


def _check_flags(flags: int, version: int) -> None:
    if flags & _RESERVED and version > 3:
        raise malformed("CONNECT with its reserved flag set [3.1.2-3]")
    will_qos = flags >> 3 & 3
    if will_qos == 3:
        raise malformed("CONNECT with will QoS 3 [3.1.2-12]")
    if not flags & _WILL and (will_qos or flags & _WILL_RETAIN):
        raise protocol_error("CONNECT with will QoS or will retain but no will [3.1.2-11, 3.1.2-13]")
    if version < 5 and flags & _PASSWORD and not flags & _USERNAME:
        raise protocol_error("CONNECT with a password but no user name, which only 5.0 allows")


def _read_will(cursor: Cursor, flags: int, version: int) -> Will:
    raw = cursor.take(cursor.varint()) if version == 5 else b""
    properties = parse_properties(raw, codes.WILL)
    topic = check_topic(cursor.binary())
    if not topic:
        raise protocol_error("CONNECT with an empty will topic [4.7.3-1]")
    expiry = properties.message_expiry_interval
    return Will(
        topic,
        cursor.binary(),
        qos=flags >> 3 & 3,
        retain=flags & _WILL_RETAIN != 0,
        properties=raw,
        delay=properties.will_delay_interval or 0,
        expiry=-1 if expiry is None else expiry,
    )

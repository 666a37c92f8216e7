"""The property table of MQTT 5.0 (§2.2.2.2) as data: name, type, packets, range of each of the 27."""

from __future__ import annotations

from typing import Final, final

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.primitives import VARINT_MAX

EXPIRY: Final = 0x02
RESPONSE_TOPIC: Final = 0x08
SUBSCRIPTION_ID: Final = 0x0B
WILL_DELAY: Final = 0x18
ALIAS: Final = 0x23
USER: Final = 0x26
CORRELATION: Final = 0x09
CONTENT_TYPE: Final = 0x03

BYTE: Final = 0
TWO: Final = 1
FOUR: Final = 2
VARINT: Final = 3
TEXT: Final = 4
BINARY: Final = 5
PAIR: Final = 6
FIXED_SIZES: Final = (1, 2, 4)
"""Bytes of the first three types."""
_LARGEST: Final = (1, 0xFFFF, 0xFFFF_FFFF, VARINT_MAX)  # every property that is a byte is 0 or 1


@final
class Row:
    """One property: its name in ``Properties``, its type, the packets it may be in, the numbers it may have."""

    __slots__ = ("ident", "kind", "largest", "name", "packets", "smallest")

    def __init__(self, ident: int, name: str, kind: int, packets: tuple[int, ...], smallest: int = 0) -> None:
        self.ident = ident
        self.name = name
        self.kind = kind
        self.packets = packets
        self.smallest = smallest
        self.largest = _LARGEST[kind] if kind <= VARINT else 0


_MESSAGE: Final = (codes.PUBLISH, codes.WILL)
_ANY_ANSWER: Final = (
    *(codes.CONNACK, codes.PUBACK, codes.PUBREC, codes.PUBREL, codes.PUBCOMP),
    *(codes.SUBACK, codes.UNSUBACK, codes.DISCONNECT, codes.AUTH),
)
_ANY: Final = (codes.CONNECT, codes.PUBLISH, codes.WILL, codes.SUBSCRIBE, codes.UNSUBSCRIBE, *_ANY_ANSWER)
_HANDSHAKE: Final = (codes.CONNECT, codes.CONNACK)

ROWS: Final = (
    Row(0x01, "payload_format_indicator", BYTE, _MESSAGE),
    Row(0x02, "message_expiry_interval", FOUR, _MESSAGE),
    Row(0x03, "content_type", TEXT, _MESSAGE),
    Row(0x08, "response_topic", TEXT, _MESSAGE),
    Row(0x09, "correlation_data", BINARY, _MESSAGE),
    Row(0x0B, "subscription_identifiers", VARINT, (codes.PUBLISH, codes.SUBSCRIBE), smallest=1),
    Row(0x11, "session_expiry_interval", FOUR, (*_HANDSHAKE, codes.DISCONNECT)),
    Row(0x12, "assigned_client_identifier", TEXT, (codes.CONNACK,)),
    Row(0x13, "server_keep_alive", TWO, (codes.CONNACK,)),
    Row(0x15, "authentication_method", TEXT, (*_HANDSHAKE, codes.AUTH)),
    Row(0x16, "authentication_data", BINARY, (*_HANDSHAKE, codes.AUTH)),
    Row(0x17, "request_problem_information", BYTE, (codes.CONNECT,)),
    Row(0x18, "will_delay_interval", FOUR, (codes.WILL,)),
    Row(0x19, "request_response_information", BYTE, (codes.CONNECT,)),
    Row(0x1A, "response_information", TEXT, (codes.CONNACK,)),
    Row(0x1C, "server_reference", TEXT, (codes.CONNACK, codes.DISCONNECT)),
    Row(0x1F, "reason_string", TEXT, _ANY_ANSWER),
    Row(0x21, "receive_maximum", TWO, _HANDSHAKE, smallest=1),
    Row(0x22, "topic_alias_maximum", TWO, _HANDSHAKE),
    Row(0x23, "topic_alias", TWO, (codes.PUBLISH,), smallest=1),
    Row(0x24, "maximum_qos", BYTE, (codes.CONNACK,)),
    Row(0x25, "retain_available", BYTE, (codes.CONNACK,)),
    Row(0x26, "user_properties", PAIR, _ANY),
    Row(0x27, "maximum_packet_size", FOUR, _HANDSHAKE, smallest=1),
    Row(0x28, "wildcard_subscription_available", BYTE, (codes.CONNACK,)),
    Row(0x29, "subscription_identifier_available", BYTE, (codes.CONNACK,)),
    Row(0x2A, "shared_subscription_available", BYTE, (codes.CONNACK,)),
)
BY_IDENT: Final = {row.ident: row for row in ROWS}

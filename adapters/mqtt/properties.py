"""The 27 properties of MQTT 5.0 (§2.2.2.2): one table, a decoded view, and verbatim forwarding.

PUBLISH does not pay for the view: ``scan_publish`` checks its raw bytes in one pass, and
``forward_properties`` rewrites them for the next receiver without decoding what only passes through.
"""

from __future__ import annotations

from typing import Final, final

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codes import Code, ProtocolError, malformed, protocol_error
from dragoman.adapters.mqtt.primitives import (
    Cursor,
    decode_text,
    encode_binary,
    encode_text,
    encode_varint,
    read_varint,
)
from dragoman.adapters.mqtt.property_table import (
    ALIAS,
    BINARY,
    BY_IDENT,
    CONTENT_TYPE,
    CORRELATION,
    EXPIRY,
    FIXED_SIZES,
    FOUR,
    PAIR,
    RESPONSE_TOPIC,
    ROWS,
    SUBSCRIPTION_ID,
    TEXT,
    TWO,
    USER,
    VARINT,
    WILL_DELAY,
    Row,
)


@final
class Properties:
    """The properties of one packet, decoded; None is absent. The constructor takes every one by its name."""

    __slots__ = (
        "assigned_client_identifier",
        "authentication_data",
        "authentication_method",
        "content_type",
        "correlation_data",
        "maximum_packet_size",
        "maximum_qos",
        "message_expiry_interval",
        "payload_format_indicator",
        "reason_string",
        "receive_maximum",
        "request_problem_information",
        "request_response_information",
        "response_information",
        "response_topic",
        "retain_available",
        "server_keep_alive",
        "server_reference",
        "session_expiry_interval",
        "shared_subscription_available",
        "subscription_identifier_available",
        "subscription_identifiers",
        "topic_alias",
        "topic_alias_maximum",
        "user_properties",
        "wildcard_subscription_available",
        "will_delay_interval",
    )

    def __init__(
        self,
        *,
        payload_format_indicator: int | None = None,
        message_expiry_interval: int | None = None,
        content_type: str | None = None,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        subscription_identifiers: list[int] | None = None,
        session_expiry_interval: int | None = None,
        assigned_client_identifier: str | None = None,
        server_keep_alive: int | None = None,
        authentication_method: str | None = None,
        authentication_data: bytes | None = None,
        request_problem_information: int | None = None,
        will_delay_interval: int | None = None,
        request_response_information: int | None = None,
        response_information: str | None = None,
        server_reference: str | None = None,
        reason_string: str | None = None,
        receive_maximum: int | None = None,
        topic_alias_maximum: int | None = None,
        topic_alias: int | None = None,
        maximum_qos: int | None = None,
        retain_available: int | None = None,
        user_properties: list[tuple[str, str]] | None = None,
        maximum_packet_size: int | None = None,
        wildcard_subscription_available: int | None = None,
        subscription_identifier_available: int | None = None,
        shared_subscription_available: int | None = None,
    ) -> None:
        self.payload_format_indicator = payload_format_indicator
        self.message_expiry_interval = message_expiry_interval
        self.content_type = content_type
        self.response_topic = response_topic
        self.correlation_data = correlation_data
        self.subscription_identifiers = [] if subscription_identifiers is None else subscription_identifiers
        self.session_expiry_interval = session_expiry_interval
        self.assigned_client_identifier = assigned_client_identifier
        self.server_keep_alive = server_keep_alive
        self.authentication_method = authentication_method
        self.authentication_data = authentication_data
        self.request_problem_information = request_problem_information
        self.will_delay_interval = will_delay_interval
        self.request_response_information = request_response_information
        self.response_information = response_information
        self.server_reference = server_reference
        self.reason_string = reason_string
        self.receive_maximum = receive_maximum
        self.topic_alias_maximum = topic_alias_maximum
        self.topic_alias = topic_alias
        self.maximum_qos = maximum_qos
        self.retain_available = retain_available
        self.user_properties = [] if user_properties is None else user_properties
        self.maximum_packet_size = maximum_packet_size
        self.wildcard_subscription_available = wildcard_subscription_available
        self.subscription_identifier_available = subscription_identifier_available
        self.shared_subscription_available = shared_subscription_available

    def encode(self) -> bytes:
        """The raw property bytes in the order of the identifiers, without the length in front."""
        return b"".join(_encode_field(row, getattr(self, row.name)) for row in ROWS)


NO_PROPERTIES: Final = Properties()
"""Shared by every packet that has none; nobody writes to a packet's properties."""


def _encode_field(row: Row, value: object) -> bytes:
    ident = bytes((row.ident,))
    if value is None:
        return b""
    if isinstance(value, int):
        assert row.smallest <= value <= row.largest, (row.name, value)
        return ident + value.to_bytes(FIXED_SIZES[row.kind], "big")
    if isinstance(value, str):
        return ident + encode_text(value)
    if isinstance(value, bytes):
        return ident + encode_binary(value)
    assert isinstance(value, list), (row.name, value)
    if row.kind == PAIR:
        return b"".join(ident + encode_text(name) + encode_text(text) for name, text in value)
    return encode_subscription_ids(value)


def encode_subscription_ids(numbers: list[int] | tuple[int, ...]) -> bytes:
    """The property bytes that name the subscriptions a PUBLISH answers (§3.3.2.3.8)."""
    return b"".join(b"\x0b" + encode_varint(number) for number in numbers)


def parse_properties(raw: bytes, packet_type: int) -> Properties:
    """The decoded view of a packet's raw property bytes; ``codes.WILL`` is a packet type here.

    Raises ProtocolError: 0x81 for what the packet may not have or what does not parse, 0x82 for a
    repeated property or a number out of its range, 0x94 for the topic alias 0.
    """
    found = Properties()
    cursor = Cursor(raw, 0, len(raw))
    seen = 0
    while cursor.pos < cursor.end:
        ident = cursor.varint()
        row = BY_IDENT.get(ident)
        if row is None or packet_type not in row.packets:
            raise malformed(f"property {ident:#04x} is not one of this packet")
        if seen >> ident & 1 and not _may_repeat(ident, packet_type):
            raise protocol_error(f"{row.name} appears twice")
        seen |= 1 << ident
        _read_field(found, row, cursor)
    if found.authentication_data is not None and found.authentication_method is None:
        raise protocol_error("authentication data without an authentication method")
    return found


def _may_repeat(ident: int, packet_type: int) -> bool:
    return ident == USER or (ident == SUBSCRIPTION_ID and packet_type == codes.PUBLISH)


def _read_field(found: Properties, row: Row, cursor: Cursor) -> None:
    kind = row.kind
    if kind == PAIR:
        name = cursor.text()
        found.user_properties.append((name, cursor.text()))
    elif kind == TEXT:
        text = cursor.text()
        if row.ident == RESPONSE_TOPIC:
            _check_response_topic(text)
        setattr(found, row.name, text)
    elif kind == BINARY:
        setattr(found, row.name, cursor.binary())
    elif kind == VARINT:
        found.subscription_identifiers.append(_in_range(row, cursor.varint()))
    elif kind == FOUR:
        setattr(found, row.name, _in_range(row, cursor.four()))
    elif kind == TWO:
        setattr(found, row.name, _in_range(row, cursor.two()))
    else:
        setattr(found, row.name, _in_range(row, cursor.byte()))


def _in_range(row: Row, value: int) -> int:
    if row.smallest <= value <= row.largest:
        return value
    if row.ident == ALIAS:
        raise ProtocolError(Code.TOPIC_ALIAS_INVALID, "topic alias 0")
    raise protocol_error(f"{row.name} is {value}, allowed are {row.smallest} to {row.largest}")


def _check_response_topic(text: str) -> None:
    if not text or "+" in text or "#" in text:
        raise protocol_error(f"response topic {text[:80]!r} is not a topic name [3.3.2-14]")


def scan_publish(raw: bytes, *, from_client: bool) -> tuple[int, int]:
    """Check the raw properties of a PUBLISH by the rules of ``parse_properties``; (alias or 0, expiry or -1).

    A client must not send subscription identifiers [3.3.4-6].
    """
    pos = 0
    end = len(raw)
    alias = 0
    expiry = -1
    seen = 0
    ascii_only = raw.isascii()
    while pos < end:
        ident = raw[pos]
        pos += 1
        if ident == USER:
            pos = _skip_text(raw, _skip_text(raw, pos, end, ascii_only), end, ascii_only)
            continue
        if seen >> ident & 1 and (ident != SUBSCRIPTION_ID or from_client):
            raise protocol_error(f"property {ident:#04x} appears twice")
        seen |= 1 << ident
        if ident == CORRELATION:
            pos = _skip_binary(raw, pos, end)
        elif ident == CONTENT_TYPE:
            pos = _skip_text(raw, pos, end, ascii_only)
        elif ident == RESPONSE_TOPIC:
            start = pos + 2
            pos = _skip_text(raw, pos, end, ascii_only)
            topic = raw[start:pos]
            if not topic or b"+" in topic or b"#" in topic:
                _check_response_topic(topic.decode())
        else:
            value, pos = _scan_number(raw, pos, end, ident, from_client=from_client)
            if ident == ALIAS:
                alias = value
            elif ident == EXPIRY:
                expiry = value
    return alias, expiry


def _scan_number(raw: bytes, pos: int, end: int, ident: int, *, from_client: bool) -> tuple[int, int]:
    row = BY_IDENT.get(ident)
    if row is None or codes.PUBLISH not in row.packets:
        raise malformed(f"property {ident:#04x} is not one of PUBLISH")
    if row.kind == VARINT:
        if from_client:
            raise protocol_error("a client's PUBLISH has a subscription identifier [3.3.4-6]")
        value, after = read_varint(raw, pos, end)
    else:
        after = pos + FIXED_SIZES[row.kind]
        value = int.from_bytes(raw[pos:after], "big")
    if after > end or value < 0:
        raise malformed("a property does not fit into the property length")
    return _in_range(row, value), after


def _skip_binary(raw: bytes, pos: int, end: int) -> int:
    after = pos + 2
    if after <= end:
        after += raw[pos] << 8 | raw[pos + 1]
    if after > end:
        raise malformed("a property does not fit into the property length")
    return after


def _skip_text(raw: bytes, pos: int, end: int, ascii_only: bool) -> int:
    after = pos + 2
    if after <= end:
        after += raw[pos] << 8 | raw[pos + 1]
    if after > end:
        raise malformed("a property does not fit into the property length")
    if not ascii_only or raw.find(0, pos + 2, after) >= 0:
        decode_text(raw[pos + 2 : after])
    return after


_NOT_FORWARDED: Final = frozenset((EXPIRY, SUBSCRIPTION_ID, WILL_DELAY, ALIAS))


def forward_properties(raw: bytes, *, expiry: int | None, subscription_ids: tuple[int, ...] | list[int] = ()) -> bytes:
    """What a receiver gets of the sender's (already checked) PUBLISH or will properties.

    Expiry, topic alias, subscription identifiers and the will's delay are the hop's own: they are
    replaced by those given (``expiry`` None = does not expire) or left out; the rest stays as it came.
    """
    kept = _without_hop_fields(raw) if raw else b""
    if expiry is not None:
        kept += b"\x02" + expiry.to_bytes(4, "big")
    if subscription_ids:
        kept += encode_subscription_ids(subscription_ids)
    return kept


def _without_hop_fields(raw: bytes) -> bytes:
    kept = []
    pos = keep_from = 0
    end = len(raw)
    while pos < end:
        start = pos
        ident = raw[pos]
        kind = BY_IDENT[ident].kind
        pos += 1
        if kind <= FOUR:
            pos += FIXED_SIZES[kind]
        elif kind == VARINT:
            while raw[pos] >= 0x80:
                pos += 1
            pos += 1
        else:
            pos = _skip_binary(raw, pos, end)
            if kind == PAIR:
                pos = _skip_binary(raw, pos, end)
        if ident in _NOT_FORWARDED:
            kept.append(raw[keep_from:start])
            keep_from = pos
    if not kept:
        return raw
    kept.append(raw[keep_from:])
    return b"".join(kept)

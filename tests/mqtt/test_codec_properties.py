"""The 27 properties: where each may be, how often, what it may say; and what forwarding leaves of them."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codes import ProtocolError
from dragoman.adapters.mqtt.properties import (
    NO_PROPERTIES,
    Properties,
    forward_properties,
    parse_properties,
    scan_publish,
)
from tests.attributes import attributes
from tests.mqtt.corpus import fields, wire

# §2.2.2.2, table 2-4, copied out as it is printed: identifier, a value on the wire, the view, the packets.
TABLE = """
01 | 01               | payload_format_indicator=1                | PUBLISH WILL
02 | 0000003C         | message_expiry_interval=60                | PUBLISH WILL
03 | 0003 "t/p"       | content_type="t/p"                        | PUBLISH WILL
08 | 0003 "r/t"       | response_topic="r/t"                      | PUBLISH WILL
09 | 0002 00FF        | correlation_data=b"\\x00\\xff"            | PUBLISH WILL
0B | 8101             | subscription_identifiers=[129]            | PUBLISH SUBSCRIBE
11 | FFFFFFFF         | session_expiry_interval=0xFFFFFFFF        | CONNECT CONNACK DISCONNECT
12 | 0002 "id"        | assigned_client_identifier="id"           | CONNACK
13 | 003C             | server_keep_alive=60                      | CONNACK
15 | 0001 "m"         | authentication_method="m"                 | CONNECT CONNACK AUTH
16 | 0001 FF          | authentication_data=b"\\xff"              | CONNECT CONNACK AUTH
17 | 00               | request_problem_information=0             | CONNECT
18 | 00000005         | will_delay_interval=5                     | WILL
19 | 01               | request_response_information=1            | CONNECT
1A | 0001 "r"         | response_information="r"                  | CONNACK
1C | 0001 "s"         | server_reference="s"                      | CONNACK DISCONNECT
1F | 0002 C3B6        | reason_string="ö"                         | CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH
21 | FFFF             | receive_maximum=65535                     | CONNECT CONNACK
22 | 0000             | topic_alias_maximum=0                     | CONNECT CONNACK
23 | 0001             | topic_alias=1                             | PUBLISH
24 | 01               | maximum_qos=1                             | CONNACK
25 | 00               | retain_available=0                        | CONNACK
26 | 0001 "k" 0000    | user_properties=[("k", "")]               | CONNECT CONNACK PUBLISH WILL PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH
27 | 00000001         | maximum_packet_size=1                     | CONNECT CONNACK
28 | 00               | wildcard_subscription_available=0         | CONNACK
29 | 01               | subscription_identifier_available=1       | CONNACK
2A | 00               | shared_subscription_available=0           | CONNACK
"""  # noqa: E501
PACKETS = (
    *("WILL", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP"),
    *("SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "DISCONNECT", "AUTH"),
)


def _rows() -> list[tuple[str, bytes, Properties, list[str]]]:
    rows = []
    for line in TABLE.strip().splitlines():
        ident, value, view, packets = (cell.strip() for cell in line.split("|"))
        rows.append((view.partition("=")[0], wire(f"{ident} {value}"), eval(f"Properties({view})"), packets.split()))
    return rows


ROWS = _rows()
every_property = pytest.mark.parametrize(("name", "raw", "view", "packets"), ROWS, ids=[row[0] for row in ROWS])
METHOD = wire('15 0001 "m"')


def code_of(raw: bytes, packet: str = "PUBLISH") -> int:
    with pytest.raises(ProtocolError) as caught:
        parse_properties(raw, getattr(codes, packet))
    return caught.value.code


def test_the_table_is_whole():
    assert len(ROWS) == 27
    assert {row[0] for row in ROWS} == set(attributes(Properties))


@every_property
def test_in_each_packet(name: str, raw: bytes, view: Properties, packets: list[str]):
    for packet in PACKETS:
        if packet in packets:
            if name == "authentication_data":
                view = Properties(authentication_method="m", authentication_data=view.authentication_data)
                raw = METHOD + raw.removeprefix(METHOD)
            assert fields(parse_properties(raw, getattr(codes, packet))) == fields(view), packet
        else:
            assert code_of(raw, packet) == 0x81, packet


@every_property
def test_round(name: str, raw: bytes, view: Properties, packets: list[str]):
    assert view.encode() == raw


@every_property
def test_twice(name: str, raw: bytes, view: Properties, packets: list[str]):
    for packet in packets:
        if name == "user_properties" or (name == "subscription_identifiers" and packet == "PUBLISH"):
            parsed = parse_properties(raw + raw, getattr(codes, packet))
            assert getattr(parsed, name) == getattr(view, name) * 2
        else:
            assert code_of(raw + raw, packet) == 0x82


@every_property
def test_cut_short(name: str, raw: bytes, view: Properties, packets: list[str]):
    for cut in range(1, len(raw)):
        assert code_of(raw[:cut], packets[0]) == 0x81


@pytest.mark.parametrize(
    ("raw", "packet", "code"),
    [
        ("01 02", "WILL", 0x82),
        ("0B 00", "SUBSCRIBE", 0x82),
        ("0B 8000", "SUBSCRIBE", 0x81),
        ("17 02", "CONNECT", 0x82),
        ("19 FF", "CONNECT", 0x82),
        ("21 0000", "CONNECT", 0x82),
        ("21 0000", "CONNACK", 0x82),
        ("23 0000", "PUBLISH", 0x94),
        ("24 02", "CONNACK", 0x82),
        ("25 02", "CONNACK", 0x82),
        ("27 00000000", "CONNECT", 0x82),
        ("28 02", "CONNACK", 0x82),
        ("29 02", "CONNACK", 0x82),
        ("2A 02", "CONNACK", 0x82),
        ('08 0001 "+"', "WILL", 0x82),
        ('08 0003 "a/#"', "PUBLISH", 0x82),
        ("08 0000", "PUBLISH", 0x82),
        ("16 0001 00", "CONNACK", 0x82),
        ("16 0001 00", "AUTH", 0x82),
        ("26 0001 FF 0000", "CONNECT", 0x81),
        ("26 0000 0001 00", "CONNECT", 0x81),
        ("1F 0003 EDA080", "PUBACK", 0x81),
        ("12 0001 00", "CONNACK", 0x81),
        ("FF FF FF 7F 00", "CONNECT", 0x81),
        ("80", "CONNECT", 0x81),
    ],
)
def test_values_nobody_may_send(raw: str, packet: str, code: int):
    assert code_of(wire(raw), packet) == code


def test_order_of_user_properties_is_kept():
    raw = wire('26 0001 "b" 0001 "1"  26 0001 "a" 0001 "2"  26 0001 "b" 0001 "1"')
    parsed = parse_properties(raw, codes.CONNECT)
    assert parsed.user_properties == [("b", "1"), ("a", "2"), ("b", "1")]
    assert parsed.encode() == raw


def test_nothing_is_written_to_the_shared_empty_view():
    parse_properties(b"", codes.CONNECT).user_properties.append(("a", "b"))
    parse_properties(wire("26 0000 0000 0B 01"), codes.PUBLISH)
    assert NO_PROPERTIES.encode() == b""


@pytest.mark.parametrize(("ident", "value"), [("receive_maximum", 0), ("maximum_qos", 2), ("topic_alias", 0x10000)])
def test_our_own_bad_values_are_our_bug(ident: str, value: int):
    with pytest.raises(AssertionError):
        Properties(**{ident: value}).encode()


@every_property
def test_the_scan_agrees_with_the_view(name: str, raw: bytes, view: Properties, packets: list[str]):
    if "PUBLISH" not in packets:
        with pytest.raises(ProtocolError) as caught:
            scan_publish(raw, from_client=True)
        assert caught.value.code == 0x81
        return
    expected = (view.topic_alias or 0, -1 if view.message_expiry_interval is None else view.message_expiry_interval)
    assert scan_publish(raw, from_client=False) == expected
    for cut in range(1, len(raw)):
        with pytest.raises(ProtocolError) as caught:
            scan_publish(raw[:cut], from_client=False)
        assert caught.value.code == 0x81


SENT = wire("""
    26 0001 "a" 0001 "1"
    02 0000003C
    01 01
    26 0001 "a" 0001 "2"
    0B FFFFFF7F
    0B 01
    23 0007
    09 0003 02 23 0B ; correlation data that looks like properties
    18 00000005
    03 0003 "t/p"
    08 0003 "r/t" """)
KEPT = wire("""
    26 0001 "a" 0001 "1"
    01 01
    26 0001 "a" 0001 "2"
    09 0003 02 23 0B
    03 0003 "t/p"
    08 0003 "r/t" """)


def test_forwarding_keeps_what_is_not_the_hops_own():
    assert forward_properties(SENT, expiry=None) == KEPT
    assert forward_properties(KEPT, expiry=None) == KEPT
    assert forward_properties(b"", expiry=None) == b""


def test_forwarding_adds_the_hops_own():
    added = wire("02 00000009  0B 01  0B 8001")
    assert forward_properties(SENT, expiry=9, subscription_ids=(1, 128)) == KEPT + added
    assert forward_properties(b"", expiry=0) == wire("02 00000000")


def test_forwarding_strips_at_the_edges():
    for own in (wire("02 0000003C"), wire("23 0007"), wire("0B 01"), wire("18 00000005")):
        assert forward_properties(own, expiry=None) == b""
        assert forward_properties(own + KEPT, expiry=None) == KEPT
        assert forward_properties(KEPT + own, expiry=None) == KEPT

"""Packets as they are on the wire, byte for byte, and what they mean.

A line of a case is a field: hexadecimal bytes and "quoted text", then ``;`` and what it is. ``role``
is who receives it; ``version`` is what the connection has agreed on, 0 before CONNECT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dragoman.adapters.mqtt import packets, properties
from dragoman.adapters.mqtt.codec import CLIENT, SERVER, Decoder
from dragoman.adapters.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from dragoman.adapters.mqtt.properties import Properties
from tests.attributes import attributes


def wire(text: str) -> bytes:
    """The bytes of an annotated packet."""
    raw = b""
    for line in text.splitlines():
        for token in re.findall(r'"[^"]*"|[^\s"]+', line.partition(";")[0]):
            raw += token[1:-1].encode() if token[0] == '"' else bytes.fromhex(token)
    return raw


def fields(packet: Any) -> Any:
    """A packet as comparable data, without ``frame``, which is a copy of its bytes (test_the_frame_is_what_came)."""
    if isinstance(packet, list):
        return [fields(each) for each in packet]
    if type(packet).__module__ in (packets.__name__, properties.__name__):
        return (
            type(packet).__name__,
            {name: fields(getattr(packet, name)) for name in attributes(type(packet)) if name != "frame"},
        )
    return packet


def decoder(version: int, role: str = SERVER, **limits: int) -> Decoder:
    most = limits.get("max_packet_bytes", 1 << 20)
    return Decoder(max_packet_bytes=most, max_alias=0xFFFF, role=role, version=version)


@dataclass(frozen=True)
class Case:
    id: str
    says: str
    version: int
    role: str
    text: str
    packet: Any
    canonical: bool = True
    """Whether we would send the same bytes for it."""

    @property
    def raw(self) -> bytes:
        return wire(self.text)


CASES = [
    Case(
        "connect-5-minimal",
        "nothing but an empty client id",
        0,
        SERVER,
        """
        10 0D         ; CONNECT, 13 bytes follow
        0004 "MQTT"   ; protocol name
        05            ; level
        02            ; flags: clean start
        003C          ; keep alive 60 s
        00            ; no properties
        0000          ; client id""",
        Connect(5, "", True, 60),
    ),
    Case(
        "connect-5-full",
        "will, user, password and properties",
        0,
        SERVER,
        """
        10 41         ; CONNECT
        0004 "MQTT" 05
        F6            ; user name, password, will retain, will QoS 2, will, clean start
        000A          ; keep alive 10 s
        11            ; 17 bytes of properties
        11 0000000A   ; session expiry 10
        21 0003       ; receive maximum 3
        26 0001 "a" 0003 "b c" ; user property
        0003 "cid"    ; client id
        0D            ; 13 bytes of will properties
        02 00000007   ; message expiry 7
        03 0000       ; content type, empty
        18 00000005   ; will delay 5
        0003 "w/t"    ; will topic
        0002 FF00     ; will payload, no text
        0003 C3B6 "u" ; user name
        0002 00FF     ; password, no text""",
        Connect(
            5,
            "cid",
            True,
            10,
            "öu",
            b"\x00\xff",
            Will(b"w/t", b"\xff\x00", 2, True, wire("02 00000007 03 0000 18 00000005"), 5, 7),
            Properties(session_expiry_interval=10, receive_maximum=3, user_properties=[("a", "b c")]),
        ),
    ),
    Case(
        "connect-5-password-only",
        "5.0 allows a password without a user name",
        0,
        SERVER,
        """
        10 11
        0004 "MQTT" 05
        40            ; password, no clean start
        0000 00 0001 "x"
        0001 "p"      ; password""",
        Connect(5, "x", False, 0, None, b"p"),
    ),
    Case(
        "connect-5-enhanced-auth",
        "authentication method and data",
        0,
        SERVER,
        """
        10 19
        0004 "MQTT" 05 02 0000
        0C            ; 12 bytes of properties
        15 0005 "SCRAM"
        16 0001 00    ; authentication data
        0000""",
        Connect(5, properties=Properties(authentication_method="SCRAM", authentication_data=b"\0")),
    ),
    Case(
        "connect-5-empty-user",
        "a user name may be empty and is then not absent",
        0,
        SERVER,
        """
        10 0F
        0004 "MQTT" 05 82 0000 00
        0000          ; client id
        0000          ; user name""",
        Connect(5, username=""),
    ),
    Case(
        "connect-4-minimal",
        "3.1.1",
        0,
        SERVER,
        """
        10 0E
        0004 "MQTT" 04 02 0000
        0002 "id" """,
        Connect(4, "id"),
    ),
    Case(
        "connect-4-full",
        "3.1.1 with everything",
        0,
        SERVER,
        """
        10 1A
        0004 "MQTT" 04
        CC            ; user name, password, will QoS 1, will, no clean session
        FFFF          ; keep alive
        0002 "id"
        0001 "t" 0000 ; will topic, empty will payload
        0001 "u" 0002 "pw" """,
        Connect(4, "id", False, 65535, "u", b"pw", Will(b"t", b"", 1)),
    ),
    Case(
        "connect-4-empty-id-kept-session",
        "well-formed; the refusal is the session's",
        0,
        SERVER,
        """
        10 0C
        0004 "MQTT" 04 00 0000 0000""",
        Connect(4, "", False),
    ),
    Case(
        "connect-3",
        "MQTT 3.1",
        0,
        SERVER,
        """
        10 10
        0006 "MQIsdp" ; protocol name
        03 02 003C
        0002 "id" """,
        Connect(3, "id", True, 60),
    ),
    Case(
        "connect-3-reserved-flag",
        "bit 0 was merely unused in 3.1",
        0,
        SERVER,
        """
        10 10
        0006 "MQIsdp" 03 03 003C
        0002 "id" """,
        Connect(3, "id", True, 60),
        canonical=False,
    ),
    Case(
        "connect-3-user-missing",
        "3.1: the length overrules the user name flag",
        0,
        SERVER,
        """
        10 10
        0006 "MQIsdp" 03
        C2            ; user name, password, clean session
        003C
        0002 "id"     ; and nothing more""",
        Connect(3, "id", True, 60),
        canonical=False,
    ),
    Case(
        "connect-3-password-missing",
        "3.1: the same for the password",
        0,
        SERVER,
        """
        10 13
        0006 "MQIsdp" 03 C2 003C
        0002 "id"
        0001 "u" """,
        Connect(3, "id", True, 60, "u"),
        canonical=False,
    ),
    Case("connack-5", "accepted", 5, CLIENT, "20 03  00 ; no session\n 00 ; success\n 00", Connack()),
    Case("connack-5-session", "session present", 5, CLIENT, "20 03  01  00  00", Connack(True)),
    Case(
        "connack-5-refused",
        "with a reason string",
        5,
        CLIENT,
        """
        20 08
        00 87         ; not authorized
        05
        1F 0002 "no"  ; reason string""",
        Connack(False, 0x87, Properties(reason_string="no")),
    ),
    Case("connack-4", "accepted with session", 4, CLIENT, "20 02  01 00", Connack(True)),
    Case("connack-4-refused", "not authorized", 4, CLIENT, "20 02  00 05", Connack(False, 5)),
    Case("connack-3-refused", "bad version", 3, CLIENT, "20 02  00 01", Connack(False, 1)),
    Case(
        "publish-4-qos0",
        "smallest useful",
        4,
        SERVER,
        """
        30 05
        0001 "a"      ; topic
        "hi"          ; payload""",
        Publish(b"a", b"hi"),
    ),
    Case(
        "publish-4-empty", "empty payload, retained: clears", 4, SERVER, '31 03  0001 "a"', Publish(b"a", retain=True)
    ),
    Case(
        "publish-4-qos1",
        "packet identifier after the topic",
        4,
        SERVER,
        """
        32 07
        0001 "a"
        0102          ; packet identifier 258
        "hi" """,
        Publish(b"a", b"hi", 1, packet_id=258),
    ),
    Case(
        "publish-4-qos2-dup-retain",
        "all flags",
        4,
        SERVER,
        """
        3D 05
        0001 "a"
        FFFF""",
        Publish(b"a", b"", 2, True, True, 65535),
    ),
    Case(
        "publish-3-qos1-dup",
        "3.1 is the same",
        3,
        SERVER,
        '3A 05  0001 "a"  0001',
        Publish(b"a", b"", 1, False, True, 1),
    ),
    Case(
        "publish-4-looks-like-properties",
        "no property length before 5.0",
        4,
        SERVER,
        '30 05  0001 "a"  01 02',
        Publish(b"a", b"\x01\x02"),
    ),
    Case(
        "publish-5-qos0",
        "no properties",
        5,
        SERVER,
        """
        30 06
        0001 "a"
        00            ; no properties
        "hi" """,
        Publish(b"a", b"hi"),
    ),
    Case(
        "publish-5-qos1",
        "packet identifier, then properties",
        5,
        SERVER,
        '32 08  0001 "a"  0007  00  "hi"',
        Publish(b"a", b"hi", 1, packet_id=7),
    ),
    Case("publish-5-qos2", "to a client", 5, CLIENT, '34 06  0001 "a"  0007  00', Publish(b"a", b"", 2, packet_id=7)),
    Case(
        "publish-5-unicode",
        "characters of one to four bytes",
        5,
        SERVER,
        """
        30 0F
        000C          ; twelve bytes of topic
        C3A4 "/" E282AC "/" F09F9880 "x"
        00""",
        Publish("ä/€/😀x".encode()),
    ),
    Case(
        "publish-5-bom",
        "U+FEFF is a character like others [1.5.4-3]",
        5,
        SERVER,
        "30 06  0003 EFBBBF  00",
        Publish(b"\xef\xbb\xbf"),
    ),
    Case(
        "publish-5-properties",
        "verbatim, expiry and alias noted",
        5,
        SERVER,
        """
        30 2E
        0001 "t"
        29            ; 41 bytes of properties
        26 0001 "k" 0001 "v"
        02 0000003C   ; expires in 60 s
        08 0003 "r/t" ; response topic
        09 0002 00FF  ; correlation data
        23 0005       ; topic alias 5
        03 0004 "text"
        01 01         ; payload is UTF-8
        26 0001 "k" 0000
        "!" """,
        Publish(
            b"t",
            b"!",
            properties=wire(
                """26 0001 "k" 0001 "v"  02 0000003C  08 0003 "r/t"  09 0002 00FF  23 0005
                03 0004 "text"  01 01  26 0001 "k" 0000"""
            ),
            expiry=60,
        ),
    ),
    Case(
        "publish-5-alias-only",
        "given to its topic, and with nothing else to pass on",
        5,
        SERVER,
        """
        30 08
        0001 "t"
        03
        23 FFFF       ; topic alias 65535
        "x" """,
        Publish(b"t", b"x"),
        canonical=False,
    ),
    Case(
        "publish-5-expiry-zero",
        "0 is not absent",
        5,
        SERVER,
        '30 09  0001 "t"  05  02 00000000',
        Publish(b"t", properties=wire("02 00000000"), expiry=0),
    ),
    Case(
        "publish-5-subscription-ids",
        "a server may name several",
        5,
        CLIENT,
        """
        30 0B
        0001 "t"
        07
        0B 01         ; subscription identifier 1
        0B FFFFFF7F   ; and 268,435,455""",
        Publish(b"t", properties=wire("0B 01 0B FFFFFF7F")),
    ),
    *[
        Case(f"{name}-{version}", "short form", version, role, f"{first} 02  0102", make(258))
        for name, first, make in (
            ("puback", "40", Puback),
            ("pubrec", "50", Pubrec),
            ("pubrel", "62", Pubrel),
            ("pubcomp", "70", Pubcomp),
        )
        for version, role in ((3, SERVER), (4, SERVER), (5, CLIENT))
    ],
    Case(
        "puback-5-code",
        "reason code, no property length",
        5,
        SERVER,
        "40 03  0001  10 ; nobody subscribed",
        Puback(1, 0x10),
    ),
    Case(
        "puback-5-code-long",
        "an empty property length is legal",
        5,
        SERVER,
        "40 04  0001  87  00",
        Puback(1, 0x87),
        canonical=False,
    ),
    Case("puback-5-success-long", "code 0 spelt out", 5, SERVER, "40 03  0001  00", Puback(1), canonical=False),
    Case(
        "pubrec-5-properties",
        "reason string and user property",
        5,
        CLIENT,
        """
        50 11
        0001 97       ; quota exceeded
        0D
        1F 0003 "why"
        26 0001 "a" 0001 "b" """,
        Pubrec(1, 0x97, Properties(reason_string="why", user_properties=[("a", "b")])),
    ),
    Case(
        "pubrec-5-success-properties",
        "success with a reason string",
        5,
        CLIENT,
        '50 08  0001 00  04  1F 0001 "k"',
        Pubrec(1, 0, Properties(reason_string="k")),
    ),
    Case("pubrel-5-not-found", "", 5, SERVER, "62 03  0001 92", Pubrel(1, 0x92)),
    Case("pubcomp-5-not-found", "", 5, SERVER, "70 03  0001 92", Pubcomp(1, 0x92)),
    Case("pubrel-3-dup", "3.1 allowed DUP on PUBREL", 3, SERVER, "6A 02  0001", Pubrel(1), canonical=False),
    Case(
        "subscribe-5",
        "two filters with all options",
        5,
        SERVER,
        """
        82 12
        0001          ; packet identifier
        02 0B 07      ; subscription identifier 7
        0003 "a/#" 2E ; retain handling 2, retain as published, no local, QoS 2
        0004 "$x/+" 11 ; retain handling 1, QoS 1""",
        Subscribe(
            1,
            [Subscription("a/#", 2, True, True, 2), Subscription("$x/+", 1, retain_handling=1)],
            Properties(subscription_identifiers=[7]),
        ),
    ),
    Case("subscribe-4", "QoS only", 4, SERVER, '82 08  0001  0003 "a/b" 01', Subscribe(1, [Subscription("a/b", 1)])),
    Case(
        "subscribe-3-dup",
        "3.1 allowed DUP on SUBSCRIBE",
        3,
        SERVER,
        '8A 06  0001  0001 "a" 00',
        Subscribe(1, [Subscription("a")]),
        canonical=False,
    ),
    Case(
        "subscribe-5-empty-filter",
        "the grammar of filters is not the codec's",
        5,
        SERVER,
        "82 06  0001  00  0000 00",
        Subscribe(1, [Subscription("")]),
    ),
    Case(
        "suback-5", "one code a filter", 5, CLIENT, "90 08  0001  00  00 01 02 87 A2", Suback(1, [0, 1, 2, 0x87, 0xA2])
    ),
    Case("suback-4", "granted and failed", 4, CLIENT, "90 06  0001  00 01 02 80", Suback(1, [0, 1, 2, 0x80])),
    Case(
        "unsubscribe-5",
        "with a user property",
        5,
        SERVER,
        """
        A2 0F
        0001
        07 26 0001 "a" 0001 "b"
        0003 "a/b" """,
        Unsubscribe(1, ["a/b"], Properties(user_properties=[("a", "b")])),
    ),
    Case("unsubscribe-4", "two filters", 4, SERVER, 'A2 08  0001  0001 "a"  0001 "b"', Unsubscribe(1, ["a", "b"])),
    Case(
        "unsubscribe-3-dup",
        "3.1 allowed DUP on UNSUBSCRIBE",
        3,
        SERVER,
        'AA 05  0001  0001 "a"',
        Unsubscribe(1, ["a"]),
        canonical=False,
    ),
    Case("unsuback-5", "one code a filter", 5, CLIENT, "B0 05  0001  00  00 11", Unsuback(1, [0, 0x11])),
    Case("unsuback-4", "no codes", 4, CLIENT, "B0 02  0001", Unsuback(1, [])),
    Case("pingreq-5", "", 5, SERVER, "C0 00", Pingreq()),
    Case("pingreq-0", "the same in every version, so readable before CONNECT", 0, SERVER, "C0 00", Pingreq()),
    Case("pingresp-4", "", 4, CLIENT, "D0 00", Pingresp()),
    Case("disconnect-4", "", 4, SERVER, "E0 00", Disconnect()),
    Case("disconnect-3", "", 3, SERVER, "E0 00", Disconnect()),
    Case("disconnect-5", "", 5, SERVER, "E0 00", Disconnect()),
    Case("disconnect-5-will", "with will message", 5, SERVER, "E0 01  04", Disconnect(4)),
    Case(
        "disconnect-5-spelt-out",
        "code 0 and an empty property length",
        5,
        SERVER,
        "E0 02  00 00",
        Disconnect(),
        canonical=False,
    ),
    Case(
        "disconnect-5-expiry",
        "a client changes its session expiry",
        5,
        SERVER,
        "E0 07  00  05  11 0000000A",
        Disconnect(0, Properties(session_expiry_interval=10)),
    ),
    Case(
        "disconnect-5-moved",
        "a server names another",
        5,
        CLIENT,
        'E0 06  9D  04  1C 0001 "b"',
        Disconnect(0x9D, Properties(server_reference="b")),
    ),
    Case(
        "auth-5-continue",
        "",
        5,
        SERVER,
        'F0 0A  18  08  15 0001 "m"  16 0001 FF',
        Auth(0x18, Properties(authentication_method="m", authentication_data=b"\xff")),
    ),
    Case(
        "auth-5-again",
        "a client starts over",
        5,
        SERVER,
        'F0 06  19  04  15 0001 "m"',
        Auth(0x19, Properties(authentication_method="m")),
    ),
    Case("auth-5-success", "the two byte form is a server's success", 5, CLIENT, "F0 00", Auth()),
    Case(
        "auth-5-success-method",
        "success, spelt out",
        5,
        CLIENT,
        'F0 06  00  04  15 0001 "m"',
        Auth(0, Properties(authentication_method="m")),
    ),
]

"""Packets that must not pass: each wrong in the one way its id names, with the reason code that ends the connection."""

from __future__ import annotations

from dataclasses import dataclass

from dragoman.adapters.mqtt.codec import CLIENT, SERVER
from tests.mqtt.corpus import wire

MALFORMED = 0x81
PROTOCOL = 0x82
VERSION = 0x84
TOPIC = 0x90
ALIAS = 0x94


@dataclass(frozen=True)
class Refused:
    id: str
    version: int
    role: str
    text: str
    code: int
    because: str
    """What the error's detail says, so that a packet is not refused for another fault than its own."""
    framed: bool = True
    """Whether the remaining length is that of the bytes given."""

    @property
    def raw(self) -> bytes:
        return wire(self.text)


def _connect(id: str, flags: str, rest: str, code: int, because: str, *, level: int = 5) -> Refused:
    """CONNECT with an empty property length in 5.0; ``rest`` is everything after the keep alive."""
    name = '0006 "MQIsdp"' if level == 3 else '0004 "MQTT"'
    body = f"{name} {level:02X} {flags} 003C {rest}"
    return Refused(f"connect-{level}-{id}", 0, SERVER, f"10 {len(wire(body)):02X} {body}", code, because)


def _publish(
    id: str, body: str, code: int, because: str, *, first: str = "30", version: int = 5, role: str = SERVER
) -> Refused:
    return Refused(f"publish-{version}-{id}", version, role, f"{first} {len(wire(body)):02X} {body}", code, because)


REFUSED = [
    # The fixed header.
    Refused("type-0", 5, SERVER, "00 00", MALFORMED, "packet type 0"),
    Refused("type-0-before-connect", 0, SERVER, "00 00", MALFORMED, "packet type 0"),
    Refused("type-15-in-4", 4, SERVER, "F0 00", MALFORMED, "packet type 15"),
    Refused("type-15-in-3", 3, SERVER, "F0 00", MALFORMED, "packet type 15"),
    Refused("length-five-bytes", 5, SERVER, "30 80 80 80 80 01", MALFORMED, "longer than 4 bytes", framed=False),
    Refused("length-not-minimal", 5, SERVER, "C0 80 00", MALFORMED, "fewest bytes", framed=False),
    Refused("length-not-minimal-publish", 4, SERVER, '30 83 00 0001 "a"', MALFORMED, "fewest bytes", framed=False),
    Refused("length-not-minimal-three", 5, SERVER, "30 FF 80 00", MALFORMED, "fewest bytes", framed=False),
    *[
        Refused(f"flags-{first}-in-{version}", version, role, f"{first} 00", MALFORMED, "flags")
        for first, version, role in (
            ("11", 0, SERVER),
            ("21", 5, CLIENT),
            ("41", 5, SERVER),
            ("51", 5, SERVER),
            ("60", 5, SERVER),
            ("63", 4, SERVER),
            ("71", 5, SERVER),
            ("80", 5, SERVER),
            ("83", 5, SERVER),
            ("91", 5, CLIENT),
            ("A0", 5, SERVER),
            ("A6", 4, SERVER),
            ("B8", 5, CLIENT),
            ("C1", 5, SERVER),
            ("D2", 5, CLIENT),
            ("E4", 5, SERVER),
            ("F1", 5, SERVER),
            ("6A", 4, SERVER),
            ("8A", 5, SERVER),
            ("AA", 4, SERVER),
            ("68", 3, SERVER),
            ("48", 3, SERVER),
        )
    ],
    *[
        Refused(f"other-way-{first}", 5, role, f"{first} 00", PROTOCOL, "other way")
        for role, firsts in ((SERVER, ("20", "90", "B0", "D0")), (CLIENT, ("10", "82", "A2", "C0")))
        for first in firsts
    ],
    Refused("disconnect-4-from-server", 4, CLIENT, "E0 00", PROTOCOL, "only 5.0"),
    *[
        Refused(f"before-connect-{first}", 0, SERVER, f"{first} 02 0001", PROTOCOL, "before CONNECT")
        for first in ("30", "40", "50", "62", "70", "82", "A2", "E0", "F0")
    ],
    Refused("connect-again", 5, SERVER, '10 0D 0004 "MQTT" 05 02 003C 00 0000', PROTOCOL, "second CONNECT"),
    # CONNECT.
    Refused("connect-name-unknown", 0, SERVER, '10 0D 0004 "MQTX" 05 02 003C 00 0000', VERSION, "MQTX"),
    Refused("connect-name-lower-case", 0, SERVER, '10 0D 0004 "mqtt" 05 02 003C 00 0000', VERSION, "mqtt"),
    Refused("connect-level-6", 0, SERVER, '10 0D 0004 "MQTT" 06 02 003C 00 0000', VERSION, "level 6"),
    Refused("connect-level-3-new-name", 0, SERVER, '10 0C 0004 "MQTT" 03 02 003C 0000', VERSION, "level 3"),
    Refused("connect-level-4-old-name", 0, SERVER, '10 0E 0006 "MQIsdp" 04 02 003C 0000', VERSION, "level 4"),
    Refused("connect-empty", 0, SERVER, "10 00", MALFORMED, "does not fit"),
    Refused("connect-ends-in-name", 0, SERVER, '10 05 0004 "MQT"', MALFORMED, "does not fit"),
    Refused("connect-ends-before-level", 0, SERVER, '10 06 0004 "MQTT"', MALFORMED, "does not fit"),
    Refused("connect-ends-before-flags", 0, SERVER, '10 07 0004 "MQTT" 05', MALFORMED, "does not fit"),
    Refused("connect-ends-in-keep-alive", 0, SERVER, '10 09 0004 "MQTT" 05 02 00', MALFORMED, "does not fit"),
    _connect("ends-before-properties", "02", "", MALFORMED, "variable byte integer"),
    _connect("ends-in-properties", "02", "05 11 0000", MALFORMED, "does not fit"),
    _connect("ends-before-client-id", "02", "00", MALFORMED, "does not fit"),
    _connect("ends-in-client-id", "02", '00 0003 "ab"', MALFORMED, "does not fit"),
    _connect("ends-before-will", "06", "00 0000", MALFORMED, "variable byte integer"),
    _connect("ends-before-will-topic", "06", "00 0000 00", MALFORMED, "does not fit"),
    _connect("ends-before-will-payload", "06", '00 0000 00 0001 "t"', MALFORMED, "does not fit"),
    _connect("ends-before-user", "82", "00 0000", MALFORMED, "does not fit"),
    _connect("ends-before-password", "C2", "00 0000 0000", MALFORMED, "does not fit"),
    _connect("ends-before-user", "82", "0000", MALFORMED, "does not fit", level=4),
    _connect("too-long", "02", "00 0000 00", MALFORMED, "bytes too many"),
    _connect("too-long", "02", "0000 0000", MALFORMED, "bytes too many", level=4),
    _connect("too-long", "02", "0000 00", MALFORMED, "bytes too many", level=3),
    _connect("reserved-flag", "03", "00 0000", MALFORMED, "reserved flag"),
    _connect("reserved-flag", "03", "0000", MALFORMED, "reserved flag", level=4),
    _connect("will-qos-3", "1E", '00 0000 00 0001 "t" 0000', MALFORMED, "will QoS 3"),
    _connect("qos-3-without-will", "1A", "00 0000", MALFORMED, "will QoS 3"),
    _connect("will-qos-without-will", "0A", "00 0000", PROTOCOL, "no will"),
    _connect("will-retain-without-will", "22", "0000", PROTOCOL, "no will", level=4),
    _connect("will-retain-without-will", "22", "00 0000", PROTOCOL, "no will"),
    _connect("password-without-user", "42", '0000 0001 "p"', PROTOCOL, "no user name", level=4),
    _connect("password-without-user", "42", '0001 "x" 0001 "p"', PROTOCOL, "no user name", level=3),
    _connect("client-id-not-utf8", "02", "00 0001 FF", MALFORMED, "not UTF-8"),
    _connect("client-id-surrogate", "02", "00 0003 EDA080", MALFORMED, "not UTF-8"),
    _connect("client-id-overlong", "02", "00 0002 C080", MALFORMED, "not UTF-8"),
    _connect("client-id-nul", "02", '0002 "a" 00', MALFORMED, "NUL", level=4),
    _connect("client-id-nul", "02", '0002 "a" 00', MALFORMED, "NUL", level=3),
    _connect("user-nul", "82", "00 0000 0001 00", MALFORMED, "NUL"),
    _connect("user-not-utf8", "82", "0000 0001 80", MALFORMED, "not UTF-8", level=4),
    _connect("user-not-utf8", "82", "00 0000 0001 80", MALFORMED, "not UTF-8"),
    _connect("will-topic-wildcard", "06", '00 0000 00 0001 "#" 0000', TOPIC, "wildcard"),
    _connect("will-topic-not-utf8", "06", "00 0000 00 0001 FF 0000", MALFORMED, "not UTF-8"),
    _connect("will-topic-nul", "06", "0000 0001 00 0000", MALFORMED, "NUL", level=4),
    _connect("will-topic-empty", "06", "00 0000 00 0000 0000", PROTOCOL, "empty will topic"),
    _connect("will-topic-alias", "06", '00 0000 03 23 0001 0001 "t" 0000', MALFORMED, "not one of this packet"),
    _connect("auth-data-without-method", "02", "04 16 0001 00 0000", PROTOCOL, "without an authentication method"),
    _connect("property-length-not-minimal", "02", "80 00 0000", MALFORMED, "fewest bytes"),
    _connect("property-id-not-minimal", "02", "03 A1 00 01 0000", MALFORMED, "fewest bytes"),
    _connect("property-unknown", "02", "02 7F 00 0000", MALFORMED, "0x7f"),
    _connect("property-past-length", "02", "03 11 0000 0000 0000", MALFORMED, "does not fit"),
    # PUBLISH.
    _publish("qos-3", '0001 "a" 0001 00', MALFORMED, "QoS 3", first="36"),
    _publish("qos-3-dup-retain", '0001 "a" 0001', MALFORMED, "QoS 3", first="3F", version=4),
    _publish("dup-qos-0", '0001 "a" 00', PROTOCOL, "DUP", first="38"),
    _publish("dup-qos-0-retain", '0001 "a"', PROTOCOL, "DUP", first="39", version=4),
    _publish("empty", "", MALFORMED, "before its topic"),
    _publish("one-byte", "00", MALFORMED, "before its topic", version=4),
    _publish("ends-in-topic", '0002 "a"', MALFORMED, "within its topic", version=4),
    _publish("ends-before-packet-id", '0001 "a"', MALFORMED, "packet identifier", first="32", version=4),
    _publish("ends-in-packet-id", '0001 "a" 00', MALFORMED, "packet identifier", first="34"),
    _publish("packet-id-0", '0001 "a" 0000 00', PROTOCOL, "packet identifier 0", first="32"),
    _publish("packet-id-0", '0001 "a" 0000', PROTOCOL, "packet identifier 0", first="34", version=4),
    _publish("ends-before-properties", '0001 "a"', MALFORMED, "within its properties"),
    _publish("ends-in-properties", '0001 "a" 03 23 00', MALFORMED, "within its properties"),
    _publish("ends-in-property-length", '0001 "a" 80', MALFORMED, "within its properties"),
    _publish("property-length-not-minimal", '0001 "a" 80 00', MALFORMED, "fewest bytes"),
    _publish("no-topic-no-alias", "0000 00", PROTOCOL, "neither topic nor alias"),
    _publish("no-topic-other-property", "0000 02 01 00", PROTOCOL, "neither topic nor alias"),
    _publish("no-topic", '0000 "x"', PROTOCOL, "neither topic nor alias", version=4),
    _publish("topic-plus", '0003 "a/+" 00', TOPIC, "wildcard"),
    _publish("topic-hash", '0003 "a/#"', TOPIC, "wildcard", version=4),
    _publish("topic-nul", '0003 "a" 00 "b" 00', MALFORMED, "NUL"),
    _publish("topic-not-utf8", "0002 C328 00", MALFORMED, "not UTF-8"),
    _publish("topic-surrogate", "0003 EDBFBF", MALFORMED, "not UTF-8", version=4),
    _publish("alias-unknown", "0000 03 23 0001", PROTOCOL, "stands for nothing"),
    _publish("alias-0", '0001 "a" 03 23 0000', ALIAS, "topic alias 0"),
    _publish("alias-0-to-client", '0001 "a" 03 23 0000', ALIAS, "topic alias 0", role=CLIENT),
    _publish("alias-twice", '0001 "a" 06 23 0001 23 0002', PROTOCOL, "twice"),
    _publish("expiry-twice", '0001 "a" 0A 02 00000001 02 00000001', PROTOCOL, "twice"),
    _publish("content-type-twice", '0001 "a" 06 03 0000 03 0000', PROTOCOL, "twice"),
    _publish("content-type-not-utf8", '0001 "a" 04 03 0001 FF', MALFORMED, "not UTF-8"),
    _publish("content-type-nul", '0001 "a" 05 03 0002 "a" 00', MALFORMED, "NUL"),
    _publish("user-name-nul", '0001 "a" 06 26 0001 00 0000', MALFORMED, "NUL"),
    _publish("user-value-not-utf8", '0001 "a" 06 26 0000 0001 80', MALFORMED, "not UTF-8"),
    _publish("user-value-missing", '0001 "a" 04 26 0001 "a"', MALFORMED, "does not fit"),
    _publish("response-topic-wildcard", '0001 "a" 04 08 0001 "#"', PROTOCOL, "response topic"),
    _publish("response-topic-empty", '0001 "a" 03 08 0000', PROTOCOL, "response topic"),
    _publish("response-topic-not-utf8", '0001 "a" 04 08 0001 FF', MALFORMED, "not UTF-8"),
    _publish("response-topic-nul", '0001 "a" 04 08 0001 00', MALFORMED, "NUL"),
    _publish("correlation-cut", '0001 "a" 04 09 0002 "x"', MALFORMED, "does not fit"),
    _publish("expiry-cut", '0001 "a" 04 02 000000', MALFORMED, "does not fit"),
    _publish("payload-format-2", '0001 "a" 02 01 02', PROTOCOL, "payload_format_indicator is 2"),
    _publish("will-delay", '0001 "a" 05 18 00000001', MALFORMED, "not one of PUBLISH"),
    _publish("property-unknown", '0001 "a" 02 FF 01', MALFORMED, "not one of PUBLISH"),
    _publish("subscription-id-from-client", '0001 "a" 02 0B 01', PROTOCOL, "subscription identifier"),
    _publish("subscription-id-0", '0001 "a" 02 0B 00', PROTOCOL, "subscription_identifiers is 0", role=CLIENT),
    _publish("subscription-id-cut", '0001 "a" 02 0B 80', MALFORMED, "does not fit", role=CLIENT),
    # Answers.
    *[
        Refused(f"ack-{first}-id-0-in-{version}", version, SERVER, f"{first} 02 0000", PROTOCOL, "packet identifier 0")
        for first in ("40", "50", "62", "70")
        for version in (4, 5)
    ],
    Refused("puback-id-0-long", 5, SERVER, "40 03 0000 00", PROTOCOL, "packet identifier 0"),
    Refused("puback-cut", 5, SERVER, "40 01 00", MALFORMED, "does not fit"),
    Refused("puback-4-too-long", 4, SERVER, "40 03 0001 00", MALFORMED, "bytes too many"),
    Refused("puback-5-too-long", 5, SERVER, "40 05 0001 00 00 00", MALFORMED, "bytes too many"),
    Refused("puback-code-of-pubrel", 5, SERVER, "40 03 0001 92", PROTOCOL, "reason code 0x92"),
    Refused("pubrec-code-unknown", 5, SERVER, "50 03 0001 42", PROTOCOL, "reason code 0x42"),
    Refused("pubrel-code-of-puback", 5, SERVER, "62 03 0001 10", PROTOCOL, "reason code 0x10"),
    Refused("pubcomp-code-of-puback", 5, SERVER, "70 03 0001 87", PROTOCOL, "reason code 0x87"),
    Refused("puback-property-of-publish", 5, SERVER, "40 07 0001 00 03 23 0001", MALFORMED, "not one of this packet"),
    Refused(
        "puback-reason-twice", 5, SERVER, "40 0A 0001 00 06 1F 0000 1F 0000", PROTOCOL, "reason_string appears twice"
    ),
    # SUBSCRIBE, UNSUBSCRIBE and their answers.
    Refused("subscribe-id-0", 5, SERVER, '82 07 0000 00 0001 "a" 00', PROTOCOL, "packet identifier 0"),
    Refused("subscribe-no-filter", 5, SERVER, "82 03 0001 00", PROTOCOL, "without a filter"),
    Refused("subscribe-4-no-filter", 4, SERVER, "82 02 0001", PROTOCOL, "without a filter"),
    Refused("subscribe-no-options", 5, SERVER, '82 06 0001 00 0001 "a"', MALFORMED, "does not fit"),
    Refused("subscribe-reserved-6", 5, SERVER, '82 07 0001 00 0001 "a" 40', MALFORMED, "reserved"),
    Refused("subscribe-reserved-7", 5, SERVER, '82 07 0001 00 0001 "a" 80', MALFORMED, "reserved"),
    Refused("subscribe-qos-3", 5, SERVER, '82 07 0001 00 0001 "a" 03', PROTOCOL, "QoS 3"),
    Refused("subscribe-retain-handling-3", 5, SERVER, '82 07 0001 00 0001 "a" 30', PROTOCOL, "retain handling 3"),
    Refused("subscribe-second-bad", 5, SERVER, '82 0B 0001 00 0001 "a" 00 0001 "b" 33', PROTOCOL, "QoS 3"),
    Refused("subscribe-4-no-local", 4, SERVER, '82 06 0001 0001 "a" 04', MALFORMED, "reserved"),
    Refused("subscribe-4-qos-3", 4, SERVER, '82 06 0001 0001 "a" 03', PROTOCOL, "QoS 3"),
    Refused("subscribe-filter-nul", 5, SERVER, "82 07 0001 00 0001 00 00", MALFORMED, "NUL"),
    Refused("subscribe-filter-not-utf8", 4, SERVER, "82 06 0001 0001 FF 00", MALFORMED, "not UTF-8"),
    Refused("subscribe-5-filter-not-utf8", 5, SERVER, "82 07 0001 00 0001 FF 00", MALFORMED, "not UTF-8"),
    Refused("subscribe-subscription-id-0", 5, SERVER, '82 09 0001 02 0B 00 0001 "a" 00', PROTOCOL, "is 0"),
    Refused("subscribe-subscription-id-twice", 5, SERVER, '82 0B 0001 04 0B 01 0B 02 0001 "a" 00', PROTOCOL, "twice"),
    Refused("unsubscribe-id-0", 4, SERVER, 'A2 05 0000 0001 "a"', PROTOCOL, "packet identifier 0"),
    Refused("unsubscribe-no-filter", 5, SERVER, "A2 03 0001 00", PROTOCOL, "without a filter"),
    Refused("unsubscribe-filter-cut", 5, SERVER, 'A2 06 0001 00 0002 "a"', MALFORMED, "does not fit"),
    Refused("unsubscribe-filter-not-utf8", 5, SERVER, "A2 06 0001 00 0001 FF", MALFORMED, "not UTF-8"),
    Refused("unsubscribe-filter-nul", 5, SERVER, "A2 06 0001 00 0001 00", MALFORMED, "NUL"),
    Refused("suback-no-code", 5, CLIENT, "90 03 0001 00", PROTOCOL, "without a code"),
    Refused("suback-code", 5, CLIENT, "90 04 0001 00 03", PROTOCOL, "reason code 0x03"),
    Refused("suback-4-code", 4, CLIENT, "90 03 0001 03", PROTOCOL, "return code 0x03"),
    Refused("suback-id-0", 4, CLIENT, "90 03 0000 00", PROTOCOL, "packet identifier 0"),
    Refused("unsuback-code", 5, CLIENT, "B0 04 0001 00 10", PROTOCOL, "reason code 0x10"),
    Refused("unsuback-no-code", 5, CLIENT, "B0 03 0001 00", PROTOCOL, "without a code"),
    Refused("unsuback-4-code", 4, CLIENT, "B0 03 0001 00", MALFORMED, "bytes too many"),
    Refused("unsuback-id-0", 5, CLIENT, "B0 04 0000 00 00", PROTOCOL, "packet identifier 0"),
    # The rest.
    Refused("connack-flags", 5, CLIENT, "20 03 02 00 00", MALFORMED, "flags"),
    Refused("connack-session-and-refusal", 5, CLIENT, "20 03 01 87 00", PROTOCOL, "yet has a session"),
    Refused("connack-code", 5, CLIENT, "20 03 00 04 00", PROTOCOL, "reason code 0x04"),
    Refused("connack-no-properties", 5, CLIENT, "20 02 00 00", MALFORMED, "variable byte integer"),
    Refused("connack-too-long", 5, CLIENT, "20 04 00 00 00 00", MALFORMED, "bytes too many"),
    Refused("connack-4-code", 4, CLIENT, "20 02 00 06", PROTOCOL, "return code 6"),
    Refused("connack-4-too-long", 4, CLIENT, "20 03 00 00 00", MALFORMED, "bytes too many"),
    Refused("pingreq-too-long", 5, SERVER, "C0 01 00", MALFORMED, "bytes too many"),
    Refused("pingresp-too-long", 4, CLIENT, "D0 01 00", MALFORMED, "bytes too many"),
    Refused("disconnect-4-too-long", 4, SERVER, "E0 01 00", MALFORMED, "bytes too many"),
    Refused("disconnect-5-too-long", 5, SERVER, "E0 03 00 00 00", MALFORMED, "bytes too many"),
    Refused("disconnect-code-of-server", 5, SERVER, "E0 01 8E", PROTOCOL, "reason code 0x8e"),
    Refused("disconnect-code-of-client", 5, CLIENT, "E0 01 04", PROTOCOL, "reason code 0x04"),
    Refused("disconnect-reference-from-client", 5, SERVER, 'E0 06 00 04 1C 0001 "b"', PROTOCOL, "server reference"),
    Refused("disconnect-expiry-from-server", 5, CLIENT, "E0 07 00 05 11 00000001", PROTOCOL, "session expiry"),
    Refused("auth-success-from-client", 5, SERVER, "F0 00", PROTOCOL, "success"),
    Refused("auth-code-success-from-client", 5, SERVER, 'F0 06 00 04 15 0001 "m"', PROTOCOL, "reason code 0x00"),
    Refused("auth-again-from-server", 5, CLIENT, 'F0 06 19 04 15 0001 "m"', PROTOCOL, "reason code 0x19"),
    Refused("auth-no-method", 5, SERVER, "F0 02 18 00", PROTOCOL, "without an authentication method"),
    Refused("auth-no-properties", 5, SERVER, "F0 01 18", MALFORMED, "variable byte integer"),
    Refused("auth-too-long", 5, SERVER, 'F0 07 18 04 15 0001 "m" 00', MALFORMED, "bytes too many"),
]

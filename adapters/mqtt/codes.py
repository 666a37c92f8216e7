"""The numbers of MQTT: packet types, reason codes, return codes, and who may send which of them in what.

Pure tables. Section numbers are those of the OASIS MQTT 5.0 standard unless 3.1.1 is named.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

WILL: Final = 0
"""Not a packet type: the will inside CONNECT has a property table of its own and borrows the free number."""
CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
PUBREC: Final = 5
PUBREL: Final = 6
PUBCOMP: Final = 7
SUBSCRIBE: Final = 8
SUBACK: Final = 9
UNSUBSCRIBE: Final = 10
UNSUBACK: Final = 11
PINGREQ: Final = 12
PINGRESP: Final = 13
DISCONNECT: Final = 14
AUTH: Final = 15


class Code(IntEnum):
    """The v5 reason codes (§2.4). ``SUCCESS`` is also "granted QoS 0" in SUBACK and a normal end in DISCONNECT."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    RE_AUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2

    @property
    def text(self) -> str:
        """The code in words, for people and reason strings: "not authorized"."""
        return self.name.lower().replace("_", " ").replace("qos", "QoS")


class ReturnCode(IntEnum):
    """The CONNACK return codes of 3.1 and 3.1.1 (3.1.1 §3.2.2.3)."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


SUBACK_FAILURE: Final = 0x80
"""The only failure a 3.1.1 SUBACK can tell, whatever the reason."""

_RETURN_CODES: Final[dict[int, ReturnCode]] = {
    Code.SUCCESS: ReturnCode.ACCEPTED,
    Code.UNSUPPORTED_PROTOCOL_VERSION: ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION,
    Code.CLIENT_IDENTIFIER_NOT_VALID: ReturnCode.IDENTIFIER_REJECTED,
    Code.BAD_USER_NAME_OR_PASSWORD: ReturnCode.BAD_USER_NAME_OR_PASSWORD,
    Code.NOT_AUTHORIZED: ReturnCode.NOT_AUTHORIZED,
    Code.BANNED: ReturnCode.NOT_AUTHORIZED,
    Code.BAD_AUTHENTICATION_METHOD: ReturnCode.NOT_AUTHORIZED,
    # "Server unavailable" would ask for another try.
    Code.QOS_NOT_SUPPORTED: ReturnCode.NOT_AUTHORIZED,
    Code.RETAIN_NOT_SUPPORTED: ReturnCode.NOT_AUTHORIZED,
}


def return_code(code: int) -> ReturnCode:
    """What a 3.1 or 3.1.1 CONNACK says for a v5 reason; whatever has no word of its own is "server unavailable"."""
    return _RETURN_CODES.get(code, ReturnCode.SERVER_UNAVAILABLE)


class ProtocolError(Exception):
    """The peer broke the protocol: the v5 reason ``code`` to close with, and in ``detail`` what was seen."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{Code(code).text}: {detail}")
        self.code = code
        self.detail = detail


def malformed(detail: str) -> ProtocolError:
    """The packet cannot be parsed by its specification (0x81)."""
    return ProtocolError(Code.MALFORMED_PACKET, detail)


def protocol_error(detail: str) -> ProtocolError:
    """The packet can be parsed and says what it must not (0x82)."""
    return ProtocolError(Code.PROTOCOL_ERROR, detail)


_PUBLISH_FAILURES: Final = (
    Code.UNSPECIFIED_ERROR,
    Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Code.NOT_AUTHORIZED,
    Code.TOPIC_NAME_INVALID,
    Code.PACKET_IDENTIFIER_IN_USE,
    Code.QUOTA_EXCEEDED,
    Code.PAYLOAD_FORMAT_INVALID,
)
_PUBLISH_ANSWERS: Final = frozenset((Code.SUCCESS, Code.NO_MATCHING_SUBSCRIBERS, *_PUBLISH_FAILURES))
_RELEASE_ANSWERS: Final = frozenset((Code.SUCCESS, Code.PACKET_IDENTIFIER_NOT_FOUND))
_UNSUBSCRIBE_FAILURES: Final = (
    Code.UNSPECIFIED_ERROR,
    Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Code.NOT_AUTHORIZED,
    Code.TOPIC_FILTER_INVALID,
    Code.PACKET_IDENTIFIER_IN_USE,
)
# What either side may put into DISCONNECT; the rest is each side's own (§3.14.2.1).
_DISCONNECT_BY_EITHER: Final = (
    Code.SUCCESS,
    Code.UNSPECIFIED_ERROR,
    Code.MALFORMED_PACKET,
    Code.PROTOCOL_ERROR,
    Code.IMPLEMENTATION_SPECIFIC_ERROR,
    Code.TOPIC_NAME_INVALID,
    Code.RECEIVE_MAXIMUM_EXCEEDED,
    Code.TOPIC_ALIAS_INVALID,
    Code.PACKET_TOO_LARGE,
    Code.MESSAGE_RATE_TOO_HIGH,
    Code.QUOTA_EXCEEDED,
    Code.ADMINISTRATIVE_ACTION,
    Code.PAYLOAD_FORMAT_INVALID,
)

FROM_CLIENT: Final[dict[int, frozenset[Code]]] = {
    PUBACK: _PUBLISH_ANSWERS,
    PUBREC: _PUBLISH_ANSWERS,
    PUBREL: _RELEASE_ANSWERS,
    PUBCOMP: _RELEASE_ANSWERS,
    DISCONNECT: frozenset((*_DISCONNECT_BY_EITHER, Code.DISCONNECT_WITH_WILL)),
    AUTH: frozenset((Code.CONTINUE_AUTHENTICATION, Code.RE_AUTHENTICATE)),
}
"""The reason codes a client may send, by packet type."""

FROM_SERVER: Final[dict[int, frozenset[Code]]] = {
    CONNACK: frozenset(
        (
            Code.SUCCESS,
            Code.UNSPECIFIED_ERROR,
            Code.MALFORMED_PACKET,
            Code.PROTOCOL_ERROR,
            Code.IMPLEMENTATION_SPECIFIC_ERROR,
            Code.UNSUPPORTED_PROTOCOL_VERSION,
            Code.CLIENT_IDENTIFIER_NOT_VALID,
            Code.BAD_USER_NAME_OR_PASSWORD,
            Code.NOT_AUTHORIZED,
            Code.SERVER_UNAVAILABLE,
            Code.SERVER_BUSY,
            Code.BANNED,
            Code.BAD_AUTHENTICATION_METHOD,
            Code.TOPIC_NAME_INVALID,
            Code.PACKET_TOO_LARGE,
            Code.QUOTA_EXCEEDED,
            Code.PAYLOAD_FORMAT_INVALID,
            Code.RETAIN_NOT_SUPPORTED,
            Code.QOS_NOT_SUPPORTED,
            Code.USE_ANOTHER_SERVER,
            Code.SERVER_MOVED,
            Code.CONNECTION_RATE_EXCEEDED,
        )
    ),
    PUBACK: _PUBLISH_ANSWERS,
    PUBREC: _PUBLISH_ANSWERS,
    PUBREL: _RELEASE_ANSWERS,
    PUBCOMP: _RELEASE_ANSWERS,
    SUBACK: frozenset(
        (
            Code.SUCCESS,
            Code.GRANTED_QOS_1,
            Code.GRANTED_QOS_2,
            *_UNSUBSCRIBE_FAILURES,
            Code.QUOTA_EXCEEDED,
            Code.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
            Code.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
            Code.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED,
        )
    ),
    UNSUBACK: frozenset((Code.SUCCESS, Code.NO_SUBSCRIPTION_EXISTED, *_UNSUBSCRIBE_FAILURES)),
    DISCONNECT: frozenset(
        (
            *_DISCONNECT_BY_EITHER,
            Code.NOT_AUTHORIZED,
            Code.SERVER_BUSY,
            Code.SERVER_SHUTTING_DOWN,
            Code.BAD_AUTHENTICATION_METHOD,
            Code.KEEP_ALIVE_TIMEOUT,
            Code.SESSION_TAKEN_OVER,
            Code.TOPIC_FILTER_INVALID,
            Code.RETAIN_NOT_SUPPORTED,
            Code.QOS_NOT_SUPPORTED,
            Code.USE_ANOTHER_SERVER,
            Code.SERVER_MOVED,
            Code.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
            Code.CONNECTION_RATE_EXCEEDED,
            Code.MAXIMUM_CONNECT_TIME,
            Code.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
            Code.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED,
        )
    ),
    AUTH: frozenset((Code.SUCCESS, Code.CONTINUE_AUTHENTICATION)),
}
"""The reason codes a server may send, by packet type."""

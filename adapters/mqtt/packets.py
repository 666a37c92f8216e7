"""The packets of MQTT 3.1, 3.1.1 and 5.0 as plain records, the same for all versions.

What a version does not have is at its default: no properties and reason code 0 before 5.0.
"""

from __future__ import annotations

from typing import TypeAlias, final

from dragoman.adapters.mqtt.properties import NO_PROPERTIES, Properties


@final
class Will:
    """The message a connection leaves behind.

    ``properties``  raw will property bytes as received, fit for ``forward_properties``
    ``delay``       seconds from the end of the connection, 0 = at once
    ``expiry``      seconds from publication, -1 = does not expire
    """

    __slots__ = ("delay", "expiry", "payload", "properties", "qos", "retain", "topic")

    def __init__(
        self,
        topic: bytes,
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        properties: bytes = b"",
        delay: int = 0,
        expiry: int = -1,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.properties = properties
        self.delay = delay
        self.expiry = expiry


@final
class Connect:
    """``version`` is 3 (MQTT 3.1), 4 (3.1.1) or 5; ``keepalive`` is in seconds, 0 = none."""

    __slots__ = ("clean_start", "client_id", "keepalive", "password", "properties", "username", "version", "will")

    def __init__(
        self,
        version: int = 5,
        client_id: str = "",
        clean_start: bool = True,
        keepalive: int = 0,
        username: str | None = None,
        password: bytes | None = None,
        will: Will | None = None,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        self.version = version
        self.client_id = client_id
        self.clean_start = clean_start
        self.keepalive = keepalive
        self.username = username
        self.password = password
        self.will = will
        self.properties = properties


@final
class Connack:
    """``code`` is a reason code in 5.0 and a ``ReturnCode`` before."""

    __slots__ = ("code", "properties", "session_present")

    def __init__(self, session_present: bool = False, code: int = 0, properties: Properties = NO_PROPERTIES) -> None:
        self.session_present = session_present
        self.code = code
        self.properties = properties


@final
class Publish:
    """One message on its way. Made once per message, so it holds the wire's bytes and no views of them.

    ``topic``       checked UTF-8 bytes of the topic name, which an alias may have stood for
    ``properties``  checked raw property bytes as received, b"" before 5.0 and for an alias alone
    ``expiry``      message expiry interval in seconds, -1 = none
    ``frame``       the whole packet as received if it has QoS 0, no flags and no properties: then it can go
                    out as it came, to any receiver of the same version; otherwise b""
    """

    __slots__ = ("dup", "expiry", "frame", "packet_id", "payload", "properties", "qos", "retain", "topic")

    def __init__(
        self,
        topic: bytes,
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        dup: bool = False,
        packet_id: int = 0,
        properties: bytes = b"",
        expiry: int = -1,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.dup = dup
        self.packet_id = packet_id
        self.properties = properties
        self.expiry = expiry
        self.frame = b""


@final
class Puback:
    """QoS 1: the message was taken over, or refused (``code`` 0x80 and up)."""

    __slots__ = ("code", "packet_id", "properties")

    def __init__(self, packet_id: int, code: int = 0, properties: Properties = NO_PROPERTIES) -> None:
        self.packet_id = packet_id
        self.code = code
        self.properties = properties


@final
class Pubrec:
    """QoS 2, first answer: the message was taken over, or refused (``code`` 0x80 and up)."""

    __slots__ = ("code", "packet_id", "properties")

    def __init__(self, packet_id: int, code: int = 0, properties: Properties = NO_PROPERTIES) -> None:
        self.packet_id = packet_id
        self.code = code
        self.properties = properties


@final
class Pubrel:
    """QoS 2: the sender lets go of the packet identifier."""

    __slots__ = ("code", "packet_id", "properties")

    def __init__(self, packet_id: int, code: int = 0, properties: Properties = NO_PROPERTIES) -> None:
        self.packet_id = packet_id
        self.code = code
        self.properties = properties


@final
class Pubcomp:
    """QoS 2, last answer: the packet identifier is free."""

    __slots__ = ("code", "packet_id", "properties")

    def __init__(self, packet_id: int, code: int = 0, properties: Properties = NO_PROPERTIES) -> None:
        self.packet_id = packet_id
        self.code = code
        self.properties = properties


@final
class Subscription:
    """One filter of a SUBSCRIBE. The filter is UTF-8 text; its grammar is not checked here."""

    __slots__ = ("filter", "no_local", "qos", "retain_as_published", "retain_handling")

    def __init__(
        self,
        filter: str,
        qos: int = 0,
        no_local: bool = False,
        retain_as_published: bool = False,
        retain_handling: int = 0,
    ) -> None:
        self.filter = filter
        self.qos = qos
        self.no_local = no_local
        self.retain_as_published = retain_as_published
        self.retain_handling = retain_handling


@final
class Subscribe:
    """At least one subscription, in the order of the packet."""

    __slots__ = ("packet_id", "properties", "subscriptions")

    def __init__(
        self, packet_id: int, subscriptions: list[Subscription], properties: Properties = NO_PROPERTIES
    ) -> None:
        self.packet_id = packet_id
        self.subscriptions = subscriptions
        self.properties = properties


@final
class Suback:
    """One code per subscription, in order; before 5.0 the granted QoS or 0x80."""

    __slots__ = ("codes", "packet_id", "properties")

    def __init__(self, packet_id: int, codes: list[int], properties: Properties = NO_PROPERTIES) -> None:
        self.packet_id = packet_id
        self.codes = codes
        self.properties = properties


@final
class Unsubscribe:
    """At least one filter, in the order of the packet; the grammar is not checked here."""

    __slots__ = ("filters", "packet_id", "properties")

    def __init__(self, packet_id: int, filters: list[str], properties: Properties = NO_PROPERTIES) -> None:
        self.packet_id = packet_id
        self.filters = filters
        self.properties = properties


@final
class Unsuback:
    """One code per filter, in order; none before 5.0."""

    __slots__ = ("codes", "packet_id", "properties")

    def __init__(self, packet_id: int, codes: list[int], properties: Properties = NO_PROPERTIES) -> None:
        self.packet_id = packet_id
        self.codes = codes
        self.properties = properties


@final
class Pingreq:
    """Are you there?"""

    __slots__ = ()


@final
class Pingresp:
    """I am."""

    __slots__ = ()


@final
class Disconnect:
    """The last packet of a connection; before 5.0 only a client sends it, without a code."""

    __slots__ = ("code", "properties")

    def __init__(self, code: int = 0, properties: Properties = NO_PROPERTIES) -> None:
        self.code = code
        self.properties = properties


@final
class Auth:
    """One step of an enhanced authentication (5.0 only)."""

    __slots__ = ("code", "properties")

    def __init__(self, code: int = 0, properties: Properties = NO_PROPERTIES) -> None:
        self.code = code
        self.properties = properties


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)

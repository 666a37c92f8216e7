"""Bytes to packets, for MQTT 3.1, 3.1.1 and 5.0, in either role.

Decides what is a well-formed packet and with which reason code a bad one ends the connection. It
refuses to know sockets, time, sessions and the order of packets, but for two things it cannot do
without: a packet whose form depends on the version cannot come before the CONNECT that names it,
and the version is named once. Encoding is in ``encoders``.
"""

from __future__ import annotations

from typing import Final, final

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.bodies import decode_body
from dragoman.adapters.mqtt.codes import Code, ProtocolError, malformed, protocol_error
from dragoman.adapters.mqtt.connecting import (
    BEGINNING_OF_5,
    BRIDGE_LEVELS,
    PROTOCOL_NAMES,
    VERSIONS,
    decode_connect,
    read_protocol,
)
from dragoman.adapters.mqtt.packets import Connect, Packet, Puback, Pubcomp, Publish, Pubrec, Pubrel
from dragoman.adapters.mqtt.primitives import VALID_TOPICS, Cursor, check_topic, read_varint
from dragoman.adapters.mqtt.properties import scan_publish

SERVER: Final = "server"
CLIENT: Final = "client"

_ONLY_FROM_CLIENT: Final = frozenset((codes.CONNECT, codes.SUBSCRIBE, codes.UNSUBSCRIBE, codes.PINGREQ))
_ONLY_FROM_SERVER: Final = frozenset((codes.CONNACK, codes.SUBACK, codes.UNSUBACK, codes.PINGRESP))
_WITHOUT_VERSION: Final = frozenset((codes.CONNECT, codes.PINGREQ, codes.PINGRESP))
_FLAGS_2: Final = frozenset((codes.PUBREL, codes.SUBSCRIBE, codes.UNSUBSCRIBE))

_SHORT_ACKS: Final[dict[int, type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp]]] = {
    0x40: Puback,
    0x50: Pubrec,
    0x62: Pubrel,
    0x70: Pubcomp,
}


@final
class Decoder:
    """Takes bytes as they come, gives whole packets.

    ``role``     who we are: a ``server`` gets what clients send, a ``client`` what servers send
    ``version``  0 until a CONNECT says it. If that CONNECT is then found bad, it stays the version to
                 answer in; for a version we do not speak it is the nearest we do
    ``error``    the first thing the peer did wrong; nothing is parsed after it
    Sizes count the whole packet, as the Maximum Packet Size of 5.0 does; ``max_connect_bytes``
    holds until the version is known, and on to ``admit`` if the CONNECT names an authentication method.
    A PUBLISH of more than ``qos_max``, or retained where ``retain`` is not, is an error (§3.2.2.3.4, §3.2.2.3.5).
    A topic alias is put in the place of its topic, up to the number ``max_alias``: aliases live as long as
    a connection, and so does this (§3.3.2.3.4).
    """

    __slots__ = (
        "_framed",
        "_held",
        "_limit",
        "_need",
        "_plain_max",
        "_qos_max",
        "_retain",
        "_topics",
        "begun",
        "error",
        "from_client",
        "max_alias",
        "max_packet_bytes",
        "version",
    )

    def __init__(
        self,
        *,
        max_packet_bytes: int,
        max_connect_bytes: int = 65_536,
        max_alias: int = 0,
        role: str = SERVER,
        version: int = 0,
        qos_max: int = 2,
        retain: bool = True,
        frames: bool = True,
    ) -> None:
        """``frames``: plain publishes come with their own bytes, to be sent on as they are."""
        assert role in (SERVER, CLIENT), role
        assert version in (0, 3, 4, 5), version
        assert max_connect_bytes > 0, max_connect_bytes
        assert max_packet_bytes > 0, max_packet_bytes
        self.from_client = role == SERVER
        self.max_packet_bytes = max_packet_bytes
        self.max_alias = max_alias
        self.version = version
        self.error: ProtocolError | None = None
        self._topics: dict[int, bytes] = {}
        self._limit = max_packet_bytes if version else min(max_connect_bytes, max_packet_bytes)
        self._held = bytearray()
        self._need = 0
        self._qos_max = qos_max
        self._retain = retain
        #: the first byte of a PUBLISH may be anything up to this
        self._plain_max = 0x31 + 2 * qos_max if retain else 0x30
        #: the first byte of a PUBLISH whose bytes are kept
        self._framed = 0x30 if frames else -1
        #: how many packets were not whole when a feed ended: the number of the one that is ``buffered``
        self.begun = 0

    def admit(self) -> None:
        """The peer has shown who it is: its packets may be as large as anybody's."""
        self._limit = self.max_packet_bytes

    @property
    def buffered(self) -> int:
        """Bytes held back for a packet that is not complete; never more than one packet and one feed."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that ``data`` completes, in order. Never raises for what the peer sent: see ``error``."""
        packets: list[Packet] = []
        if self.error is not None:
            return packets
        held = self._held
        before = len(held)
        if before:
            held += data
            if len(held) < self._need:
                return packets
            data = bytes(held)
            held.clear()
        self._need = 0
        try:
            pos = self._parse(data, packets)
        except ProtocolError as error:
            self.error = error
            return packets
        if pos < len(data):
            held += data[pos:] if pos else data
            if pos or not before:
                self.begun += 1
        return packets

    def _parse(self, data: bytes, packets: list[Packet]) -> int:
        """Append what is complete; the position of what is not."""
        pos = 0
        end = len(data)
        topics = VALID_TOPICS
        version = self.version
        limit, plain_max, framed = self._limit, self._plain_max, self._framed
        while end - pos >= 2:
            first = data[pos]
            length = data[pos + 1]
            body = pos + 2
            if length >= 0x80:
                if body < end and 0 < data[body] < 0x80:
                    length = length & 0x7F | data[body] << 7
                    body += 1
                else:
                    length, body = read_varint(data, pos + 1, end)
                    if length < 0:
                        break
            stop = body + length
            if first & 0xF0 != 0x30 or stop > end or stop - pos > limit or not version:
                if not self._take_other(data, pos, body, stop, packets):
                    break
                version = self.version
                limit = self._limit
                pos = stop
                continue
            # PUBLISH, written out here since it is nine packets of ten.
            qos = first >> 1 & 3
            if first > plain_max:
                self._check_publish(first)
            if length < 2:
                raise malformed("PUBLISH ends before its topic")
            at = body + 2 + (data[body] << 8 | data[body + 1])
            if at > stop:
                raise malformed("PUBLISH ends within its topic")
            raw_topic = data[body + 2 : at]
            topic = topics.get(raw_topic)
            if topic is None:
                topic = check_topic(raw_topic)
            packet_id = 0
            if qos:
                if at + 2 > stop:
                    raise malformed("PUBLISH ends before its packet identifier")
                packet_id = data[at] << 8 | data[at + 1]
                if packet_id == 0:
                    raise protocol_error("PUBLISH with packet identifier 0 [2.2.1-3]")
                at += 2
            if version == 5 and (at >= stop or data[at]):
                packets.append(self._publish_with_properties(data, at, stop, first, topic, packet_id))
            elif topic:
                if version == 5:
                    at += 1
                publish = Publish(topic, data[at:stop], qos, first & 1 == 1, first & 8 == 8, packet_id)
                if first == framed:
                    publish.frame = data[pos:stop]
                packets.append(publish)
            else:
                raise protocol_error("PUBLISH has neither topic nor alias")
            pos = stop
        return pos

    def _publish_with_properties(
        self, data: bytes, at: int, stop: int, first: int, topic: bytes, packet_id: int
    ) -> Publish:
        if at < stop and data[at] < 0x80:
            size = data[at]
            at += 1
        else:
            size, at = read_varint(data, at, stop)
        after = at + size
        if size < 0 or after > stop:
            raise malformed("PUBLISH ends within its properties")
        raw = data[at:after]
        alias, expiry = scan_publish(raw, from_client=self.from_client)
        if alias:
            topic = self._aliased(topic, alias)
            if size == 3 and self.from_client:
                # Nothing to pass on: an alias is this connection's own.
                raw = b""
        elif not topic:
            raise protocol_error("PUBLISH has neither topic nor alias")
        qos = first >> 1 & 3
        return Publish(topic, data[after:stop], qos, first & 1 == 1, first & 8 == 8, packet_id, raw, expiry)

    def _aliased(self, topic: bytes, alias: int) -> bytes:
        """The topic that is meant; given both, the alias means this topic from now on."""
        if alias > self.max_alias:
            raise ProtocolError(
                Code.TOPIC_ALIAS_INVALID, f"topic alias {alias}, allowed are {self.max_alias} [3.3.2-9]"
            )
        if topic:
            self._topics[alias] = topic
            return topic
        known = self._topics.get(alias)
        if known is None:
            raise ProtocolError(Code.PROTOCOL_ERROR, f"topic alias {alias} stands for nothing on this connection")
        return known

    def _take_other(self, data: bytes, pos: int, body: int, stop: int, packets: list[Packet]) -> bool:
        """Whatever is not a complete PUBLISH; False if it is not complete."""
        first = data[pos]
        self._check_first(first)
        if stop - pos > self._limit:
            if not self.version and first == 0x10 and data.startswith(BEGINNING_OF_5, body):
                # It is not read any further, and yet can be told why in words it knows.
                self.version = 5
            raise ProtocolError(Code.PACKET_TOO_LARGE, f"packet of {stop - pos} bytes, allowed are {self._limit}")
        if stop > len(data):
            self._need = stop - pos
            return False
        ack = _SHORT_ACKS.get(first) if stop - body == 2 else None
        if ack is not None:
            packet_id = data[body] << 8 | data[body + 1]
            if packet_id == 0:
                raise protocol_error("packet identifier 0 [2.2.1-3]")
            packets.append(ack(packet_id))
        elif first == 0x10:
            packets.append(self._connect(Cursor(data, body, stop)))
        else:
            packets.append(decode_body(first >> 4, Cursor(data, body, stop), self.version, self.from_client))
        return True

    def _check_first(self, first: int) -> None:
        """Judge type and flags, before the body is waited for."""
        kind = first >> 4
        flags = first & 15
        if kind == 0 or (kind == codes.AUTH and self.version in (3, 4)):
            raise malformed(f"packet type {kind} does not exist")
        if kind == codes.PUBLISH:
            self._check_publish(first)
        elif kind in _FLAGS_2:
            # 3.1 had a DUP flag here, and its clients set it when they repeat themselves.
            if flags != 2 and not (self.version == 3 and flags == 10):
                raise malformed(f"packet type {kind} with flags {flags:#06b}, reserved as 0b0010 [2.1.3-1]")
        elif flags:
            raise malformed(f"packet type {kind} with flags {flags:#06b}, reserved as 0 [2.1.3-1]")
        if kind in (_ONLY_FROM_SERVER if self.from_client else _ONLY_FROM_CLIENT):
            raise protocol_error(f"packet type {kind} goes the other way")
        if self.version == 0 and kind not in _WITHOUT_VERSION:
            raise protocol_error(f"packet type {kind} before CONNECT [3.1.0-1]")
        if self.version and kind == codes.CONNECT:
            raise protocol_error("a second CONNECT [3.1.0-2]")

    def _check_publish(self, first: int) -> None:
        qos = first >> 1 & 3
        if qos == 3:
            raise malformed("PUBLISH with QoS 3 [3.3.1-4]")
        if first & 0x0E == 0x08:
            raise protocol_error("PUBLISH with DUP and QoS 0 [3.3.1-2]")
        if qos > self._qos_max:
            raise ProtocolError(
                Code.QOS_NOT_SUPPORTED, f"PUBLISH with QoS {qos}, allowed are {self._qos_max} [3.2.2-11]"
            )
        if first & 1 and not self._retain:
            raise ProtocolError(Code.RETAIN_NOT_SUPPORTED, "PUBLISH with RETAIN, which is not allowed [3.2.2-14]")

    def _connect(self, cursor: Cursor) -> Connect:
        name, level = read_protocol(cursor)
        version = VERSIONS.get((name, level), 0)
        if version == 0:
            if name in PROTOCOL_NAMES:
                self.version = 5 if level >= 5 and level not in BRIDGE_LEVELS else 4
            raise ProtocolError(Code.UNSUPPORTED_PROTOCOL_VERSION, f"protocol {name[:16]!r} level {level}")
        self.version = version
        packet = decode_connect(cursor, version)
        if packet.properties.authentication_method is None:
            self._limit = self.max_packet_bytes
        return packet

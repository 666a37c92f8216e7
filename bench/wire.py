"""The frames the load is made of, as raw bytes: MQTT 3.1.1 and the NATS client protocol.

Written once by hand and sent as they are, so that no client library is measured along with the broker. All topics
have the same length, so every delivered frame has the same size and counting bytes counts messages.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol

Address = tuple[str, int]

PAYLOAD_BYTES: Final = 100
TOPICS: Final = tuple(f"bench/{n:02}" for n in range(10))
SETUP_S: Final = 10.0
PACKET_IDS: Final = 65_535

_SEQUENCE = struct.Struct(">Q")
_FILLER: Final = b"x" * (PAYLOAD_BYTES - _SEQUENCE.size)


def payload(sequence: int) -> bytes:
    """A payload that says which message it is."""
    return _SEQUENCE.pack(sequence) + _FILLER


def sequence_in(frame: bytes, at: int) -> int:
    """The sequence number of the payload that begins at ``at``."""
    found: int = _SEQUENCE.unpack_from(frame, at)[0]
    return found


class Wire(Protocol):
    """How one protocol joins, listens and publishes at most once."""

    frame_bytes: int
    """Size of a delivered frame."""
    payload_at: int
    """Where in a delivered frame the payload begins."""
    begins_with: bytes
    """What every delivered frame begins with."""

    def join(self, address: Address, client: str) -> socket.socket:
        """A connected, accepted client."""

    def listen(self, connection: socket.socket, topics: Sequence[str]) -> None:
        """Subscribes and waits until the broker has confirmed it."""

    def publish(self, topic: str, payload: bytes) -> bytes:
        """The frame of one publish."""


class Mqtt:
    """MQTT 3.1.1, QoS 0 both ways."""

    frame_bytes = 2 + 2 + len(TOPICS[0]) + PAYLOAD_BYTES
    payload_at = frame_bytes - PAYLOAD_BYTES
    begins_with = b"\x30"

    def join(self, address: Address, client: str, *, clean: bool = True) -> socket.socket:
        """A connected client; raises ConnectionRefusedError with the return code if the broker declines."""
        connection = socket.create_connection(address, SETUP_S)
        connection.sendall(connect_frame(client, clean=clean))
        answer = _exactly(connection, 4)
        if answer[:2] != b"\x20\x02" or answer[3] != 0:
            connection.close()
            raise ConnectionRefusedError(f"CONNACK {answer.hex(' ')}")
        return connection

    def listen(self, connection: socket.socket, topics: Sequence[str], qos: int = 0) -> None:
        """Subscribes to all topics in one packet; raises ConnectionRefusedError if any is refused."""
        connection.sendall(subscribe_frame(topics, qos))
        answer = _exactly(connection, 4 + len(topics))
        if answer[0] != 0x90 or any(code > 2 for code in answer[4:]):
            raise ConnectionRefusedError(f"SUBACK {answer.hex(' ')}")

    def publish(self, topic: str, payload: bytes) -> bytes:
        """A PUBLISH of QoS 0."""
        return _packet(0x30, _text(topic) + payload)


class Nats:
    """The NATS client protocol, core only: nothing is stored or acknowledged."""

    _head = f"MSG {TOPICS[0].replace('/', '.')} 1 {PAYLOAD_BYTES}\r\n"
    frame_bytes = len(_head) + PAYLOAD_BYTES + 2
    payload_at = len(_head)
    begins_with = b"MSG "

    def join(self, address: Address, client: str) -> socket.socket:
        """A connected client that the server has answered."""
        connection = socket.create_connection(address, SETUP_S)
        _until(connection, b"\r\n")
        connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
        _until(connection, b"PONG\r\n")
        return connection

    def listen(self, connection: socket.socket, topics: Sequence[str]) -> None:
        """Subscribes under one-digit ids, so that all frames have one size."""
        assert len(topics) <= 10, "more topics than one-digit ids"
        lines = "".join(f"SUB {topic.replace('/', '.')} {n}\r\n" for n, topic in enumerate(topics))
        connection.sendall(lines.encode() + b"PING\r\n")
        _until(connection, b"PONG\r\n")

    def publish(self, topic: str, payload: bytes) -> bytes:
        """A PUB line and its payload."""
        return f"PUB {topic.replace('/', '.')} {len(payload)}\r\n".encode() + payload + b"\r\n"


MQTT: Final = Mqtt()
NATS: Final = Nats()


def connect_frame(client: str, *, clean: bool = True) -> bytes:
    """A CONNECT without credentials, keepalive off."""
    return _packet(0x10, _text("MQTT") + bytes((4, 2 if clean else 0, 0, 0)) + _text(client))


DISCONNECT: Final = b"\xe0\x00"


def subscribe_frame(topics: Sequence[str], qos: int = 0) -> bytes:
    """A SUBSCRIBE with packet id 1."""
    return _packet(0x82, b"\x00\x01" + b"".join(_text(topic) + bytes((qos,)) for topic in topics))


def acked_publishes(topics: Sequence[str], count: int, *, retain: bool = False) -> tuple[bytes, int]:
    """``count`` PUBLISH frames of QoS 1 joined, packet ids from 1, topics in turn, sequence = place; and one's size."""
    assert count <= PACKET_IDS
    assert len({len(topic) for topic in topics}) == 1, "frames must have one size"
    head = 0x33 if retain else 0x32
    frames = [
        _packet(head, _text(topics[n % len(topics)]) + struct.pack(">H", n + 1) + payload(n)) for n in range(count)
    ]
    return b"".join(frames), len(frames[0])


QOS_FRAME_BYTES: Final = 2 + 2 + len(TOPICS[0]) + 2 + PAYLOAD_BYTES
"""Size of a delivered PUBLISH above QoS 0."""


def publish_frame(head: int, topic: str, packet_id: int, payload: bytes) -> bytes:
    """A PUBLISH above QoS 0 with any flags; ``head`` is its first byte."""
    return _packet(head, _text(topic) + struct.pack(">H", packet_id) + payload)


def acks(count: int) -> bytes:
    """The PUBACKs of ``acked_publishes``, joined, in the order the specification demands [MQTT-4.6.0-2]."""
    return b"".join(b"\x40\x02" + struct.pack(">H", n + 1) for n in range(count))


def _packet(head: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | 0x80 if size else low)
        if not size:
            return bytes((head,)) + bytes(length) + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw


def _exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        part = connection.recv(size - len(got))
        if not part:
            raise ConnectionResetError(f"closed after {got.hex(' ') or 'nothing'}")
        got += part
    return got


def _until(connection: socket.socket, mark: bytes) -> None:
    got = b""
    while not got.endswith(mark):
        part = connection.recv(4_096)
        if not part:
            raise ConnectionResetError(f"closed after {got!r}")
        got += part

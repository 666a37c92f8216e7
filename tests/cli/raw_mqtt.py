"""An MQTT 5 client on a bare socket, so that what is on the wire is what is tested."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

CONNACK, PUBLISH, PUBACK, SUBACK, DISCONNECT = 0x20, 0x30, 0x40, 0x90, 0xE0


class RawMqtt:
    """Connected when made. Every wait ends after ten seconds."""

    def __init__(self, address: tuple[str, int], client: str, *, expiry_s: int = 0) -> None:
        self._socket = socket.create_connection(address, timeout=10)
        properties = b"\x11" + expiry_s.to_bytes(4, "big")
        body = b"\x00\x04MQTT\x05\x00\x00\x3c" + bytes([len(properties)]) + properties + _text(client)
        self.send(0x10, body)
        kind, body = self.receive()
        assert (kind, body[1]) == (CONNACK, 0), body
        self.session_present = bool(body[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def end(self) -> None:
        """Hangs up; whoever waits to receive is told that the connection has ended."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def subscribe(self, filter_: str) -> None:
        """Subscribes with QoS 1."""
        self.send(0x82, b"\x00\x01\x00" + _text(filter_) + b"\x01")
        kind, body = self.receive()
        assert (kind, body[-1]) == (SUBACK, 1), body

    def publish(self, name: str, payload: bytes, packet_id: int) -> None:
        """Publishes with QoS 1; the acknowledgement is to be received."""
        self.send(0x32, _text(name) + packet_id.to_bytes(2, "big") + b"\x00" + payload)

    def acknowledge(self, publish: bytes) -> bytes:
        """Acknowledges what came with QoS 1 and is its payload."""
        length = 2 + int.from_bytes(publish[:2], "big")
        self.send(PUBACK, publish[length : length + 2])
        return publish[length + 3 + publish[length + 2] :]

    def send(self, head: int, body: bytes) -> None:
        """Sends one packet of less than 16 KiB."""
        assert len(body) < 1 << 14
        size = bytes([len(body)]) if len(body) < 128 else bytes([0x80 | len(body) & 0x7F, len(body) >> 7])
        self._socket.sendall(bytes([head]) + size + body)

    def receive(self) -> tuple[int, bytes]:
        """The next packet: its kind without flags, and its body. (0, b"") when the connection has ended."""
        head = self._take(1)
        if not head:
            return 0, b""
        size = shift = 0
        while True:
            (part,) = self._take(1)
            size |= (part & 0x7F) << shift
            shift += 7
            if part < 128:
                return head[0] & 0xF0, self._take(size)

    def _take(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = self._socket.recv(count - len(found))
            if not piece:
                return b""
            found += piece
        return found


def _text(text: str) -> bytes:
    content = text.encode()
    return len(content).to_bytes(2, "big") + content

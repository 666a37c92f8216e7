"""Sockets that flood, stall, half-close and drip, on a real mesh: each pays itself, and an innocent client goes on."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dragoman.adapters.mqtt.codec import CLIENT, Decoder
from dragoman.adapters.mqtt.encoders import encode_connect, encode_publish, encode_subscribe
from dragoman.adapters.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from tests.clients.mesh import MeshProcess

pytestmark = pytest.mark.slow

WAIT_S = 20.0
ROUND_S = 5.0
"""Most that a message of an innocent client may take to itself and back, on a busy machine."""


class Peer:
    """A socket that speaks MQTT 5 by hand."""

    def __init__(self, mesh: MeshProcess, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(mesh.address("mqtt"))
        self.decoder = Decoder(max_packet_bytes=1 << 28, role=CLIENT, version=5)
        self.waiting: list[Packet] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def packet(self) -> Packet | None:
        """The next packet; None when the mesh has closed."""
        while not self.waiting:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.waiting = self.decoder.feed(data)
        return self.waiting.pop(0)

    def connect(self, client_id: str, will: Will | None = None) -> Peer:
        self.socket.sendall(encode_connect(Connect(5, client_id, True, 0, will=will)))
        answer = self.packet()
        assert isinstance(answer, Connack)
        assert answer.code == 0
        return self

    def subscribe(self, filter_: str, qos: int = 0) -> None:
        self.socket.sendall(encode_subscribe(5, Subscribe(1, [Subscription(filter_, qos)])))
        assert isinstance(self.packet(), Suback)

    def publish(self, topic: bytes, payload: bytes, qos: int = 0) -> None:
        self.socket.sendall(encode_publish(5, topic, payload, qos, False, False, 1 if qos else 0))


class Innocent(Peer):
    """Who says something to itself now and then, and always gets it back in time."""

    def __init__(self, mesh: MeshProcess) -> None:
        super().__init__(mesh)
        self.connect("innocent")
        self.subscribe("innocent")
        self.socket.settimeout(ROUND_S)
        self.rounds = 0

    def goes_on(self) -> None:
        self.rounds += 1
        payload = b"%d" % self.rounds
        self.publish(b"innocent", payload, 1)
        got = {type(packet): packet for packet in (self.packet(), self.packet())}
        assert set(got) == {Puback, Publish}
        assert got[Publish].payload == payload  # type: ignore[union-attr]


@pytest.fixture
def innocent_on(mesh_process: Callable[..., MeshProcess]) -> Iterator[Callable[[str], tuple[MeshProcess, Innocent]]]:
    """A mesh with this configuration and an innocent client on it."""
    with contextlib.ExitStack() as peers:

        def start(config: str) -> tuple[MeshProcess, Innocent]:
            mesh = mesh_process(config, memory=True)
            return mesh, peers.enter_context(Innocent(mesh))

        yield start


def ask(mesh: MeshProcess, path: str) -> Any:
    with urllib.request.urlopen(mesh.url + path, timeout=WAIT_S) as answer:
        return json.loads(answer.read())


def resident_mb(mesh: MeshProcess) -> int:
    with open(f"/proc/{mesh.pid}/statm") as file:
        return int(file.read().split()[1]) * 4_096 >> 20


def until_closed(peer: Peer) -> float:
    """Seconds until the mesh ends the connection."""
    begin = time.monotonic()
    while peer.packet() is not None:
        pass
    return time.monotonic() - begin


@pytest.mark.parametrize("qos", [0, 1])
def test_a_flood_is_not_read_faster_than_its_rate_and_nobody_else_waits(
    innocent_on: Callable[[str], tuple[MeshProcess, Innocent]], qos: int
):
    mesh, innocent = innocent_on("[mqtt]\nclient_bytes_per_s = 100_000\nclient_bytes_burst = 100_000\n")
    before_mb = resident_mb(mesh)
    one = encode_publish(5, b"flood", b"x" * 1_000, qos, False, False, 1 if qos else 0)
    flood = memoryview(one * 64)
    with Peer(mesh).connect("flood") as attacker:
        attacker.socket.setblocking(False)
        sent = at = stalled = 0
        while sent < 256 << 20 and stalled < 10:
            try:
                count = attacker.socket.send(flood[at:])
            except BlockingIOError:
                stalled += 1
                innocent.goes_on()
                continue
            sent += count
            at = (at + count) % len(flood)
            if sent % (1 << 20) < count:
                innocent.goes_on()
        assert stalled == 10, "everything was taken"
        innocent.goes_on()
        assert resident_mb(mesh) - before_mb < 32
    innocent.goes_on()


def test_a_reader_that_stalls_with_megabytes_outstanding_is_listed_and_ended_by_the_policy(
    innocent_on: Callable[[str], tuple[MeshProcess, Innocent]],
):
    mesh, innocent = innocent_on(
        '[broker]\nslow_policy = "disconnect"\nslow_after_s = 2\nsweep_ms = 50\nring_bytes_max = 1048576\n'
    )
    with Peer(mesh, 1 << 12) as stalling, Peer(mesh) as reader, Peer(mesh) as publisher:
        stalling.connect("stalling").subscribe("big")
        reader.connect("reader").subscribe("big")
        publisher.connect("publisher")
        for n in range(200):
            publisher.publish(b"big", b"%03d" % n + b"x" * 100_000)
            got = reader.packet()
            assert isinstance(got, Publish)
            assert got.payload[:3] == b"%03d" % n
        innocent.goes_on()
        listed = mesh.child.until(lambda: ask(mesh, "/v1/admin/slow")["readers"] or None, "a slow reader", WAIT_S)
        assert [one["agent"] for one in listed] == ["stalling"]
        assert listed[0]["messages"] > 10
        assert listed[0]["bytes"] > 1_000_000
        gone = mesh.child.until(
            lambda: not ask(mesh, "/v1/admin/slow")["readers"] or None, "the slow one's end", WAIT_S
        )
        assert gone
        assert until_closed(stalling) < ROUND_S
        publisher.publish(b"big", b"still")
        last = reader.packet()
        assert isinstance(last, Publish)
        assert last.payload == b"still"
        innocent.goes_on()


def test_a_half_closed_connection_is_over_with_its_will(innocent_on: Callable[[str], tuple[MeshProcess, Innocent]]):
    mesh, innocent = innocent_on("")
    with Peer(mesh) as half, Peer(mesh) as watcher, Peer(mesh) as stranger:
        watcher.connect("watcher").subscribe("wills")
        half.connect("half", Will(b"wills", b"gone"))
        half.socket.shutdown(socket.SHUT_WR)
        will = watcher.packet()
        assert isinstance(will, Publish)
        assert will.payload == b"gone"
        assert until_closed(half) < ROUND_S
        stranger.socket.sendall(b"\x10")
        stranger.socket.shutdown(socket.SHUT_WR)
        assert until_closed(stranger) < ROUND_S
        innocent.goes_on()


def test_a_byte_now_and_then_before_connect_ends_at_the_deadline(
    innocent_on: Callable[[str], tuple[MeshProcess, Innocent]],
):
    mesh, innocent = innocent_on("[limits]\nconnect_deadline_s = 1\n")
    with Peer(mesh) as dripping:
        begin = time.monotonic()
        packet = encode_connect(Connect(5, "x" * 500, True, 0))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for byte in packet:
                dripping.socket.sendall(bytes([byte]))
                innocent.goes_on()
                assert time.monotonic() - begin < ROUND_S, "it is never cut"
                mesh.child.until(_after(time.monotonic() + 0.02), "the next drop", WAIT_S)
        assert time.monotonic() - begin >= 1
        assert until_closed(dripping) < ROUND_S
        innocent.goes_on()


def _after(moment: float) -> Callable[[], bool | None]:
    return lambda: time.monotonic() >= moment or None


def test_a_packet_too_large_before_connect_is_not_waited_for(
    innocent_on: Callable[[str], tuple[MeshProcess, Innocent]],
):
    mesh, innocent = innocent_on("[mqtt]\nconnect_bytes_max = 1000\n")
    for announced in (b"\x10\xe9\x07", b"\x10\xff\xff\xff\x7f", b"\x30\xff\xff\xff\x7f"):
        with Peer(mesh) as large:
            large.socket.sendall(announced)
            assert until_closed(large) < ROUND_S
            innocent.goes_on()
    with Peer(mesh) as large:
        large.socket.sendall(encode_connect(Connect(5, "x" * 60_000, True, 0)))
        said = large.packet()
        assert isinstance(said, Connack)
        assert said.code == 0x95
        assert until_closed(large) < ROUND_S
    with Peer(mesh) as fits:
        fits.connect("y" * 900)
    with Peer(mesh).connect("later") as later:
        later.socket.sendall(b"\x30\xff\xff\xff\x7f")
        said = later.packet()
        assert isinstance(said, Disconnect)
        assert said.code == 0x95
        innocent.goes_on()

"""Who finds no room at a listener: told so, a few at a time and not for long; the others are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from dragoman import Mesh
from dragoman.adapters.mqtt.encoders import encode_connect
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.no_room import AT_ONCE_MAX, HEARD_MS
from dragoman.adapters.mqtt.packets import Connack, Connect, Pingreq, Subscribe, Subscription
from dragoman.adapters.serving.settings import LimitSettings, LoginSettings, TlsSettings
from tests.mqtt.certificates import Authority
from tests.mqtt.encode_any import encode_any
from tests.mqtt.listener_play import ANYWHERE, LOOPS, Peer, context, play, until
from tests.mqtt.wire import Client, World


def full(**limits: int) -> World:
    """A mesh with room for one, who is there."""
    if limits:
        world = World(limits=LimitSettings(**limits), login=LoginSettings(anonymous="always"))
    else:
        world = World(listener=ListenerSettings("small", ANYWHERE, connections_max=1))
    world.connected("first")
    return world


def told(client: Client) -> Connack:
    (packet,) = client.packets()
    assert isinstance(packet, Connack)
    assert client.closed
    return packet


@pytest.mark.parametrize(("version", "code"), [(3, 3), (4, 3), (5, 0x89)])
def test_it_is_told_in_its_own_words(version: int, code: int) -> None:
    world = full()
    client = world.client(version)
    assert client.connect("second").code == code
    assert client.closed
    assert not world.clients[0].closed
    assert (world.metrics.wire("mqtt").turned_away, world.limits.open) == (1, 1)
    assert not world.listener.no_room.connections
    assert "second" not in world.realm.standings.by_client


def test_a_connect_that_comes_in_pieces_or_with_more_behind_it() -> None:
    world = full()
    data = encode_connect(Connect(5, "second", True, 0))
    client = world.client()
    for at in range(len(data)):
        assert not client.closed
        client.raw(data[at : at + 1])
    assert told(client).code == 0x89
    client = world.client()
    client.raw(data + encode_any(5, Subscribe(1, [Subscription("a", 0)])) * 10)
    assert told(client).code == 0x89


def test_the_reason_gives_way_to_the_maximum_packet_size() -> None:
    world = full()
    answer = world.client().connect("second", maximum_packet_size=20)
    assert (answer.code, answer.properties.reason_string) == (0x89, None)
    answer = world.client().connect("second")
    assert answer.properties.reason_string == "this listener has as many connections as it may"


@pytest.mark.parametrize(
    "data", [encode_any(5, Pingreq()), b"\x30\x03\x00\x01a", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00"]
)
def test_what_is_no_connect_is_cut(data: bytes) -> None:
    world = full()
    client = world.client()
    client.raw(data)
    client.expect(closed=True)
    assert not world.listener.no_room.connections


def test_a_connect_larger_than_may_be_is_cut() -> None:
    client = full().client()
    client.raw(b"\x10\xff\xff\x7f\x00\x04MQTT\x05")
    client.expect(closed=True)


def test_who_says_nothing_is_cut_soon() -> None:
    world = full()
    client = world.client()
    client.raw(b"\x10")
    world.advance(HEARD_MS - 1)
    assert not client.closed
    world.advance(3)
    client.expect(closed=True)
    assert not world.listener.no_room.connections


def test_only_so_many_are_heard_at_a_time() -> None:
    world = full()
    silent = [world.client() for _ in range(AT_ONCE_MAX)]
    assert not any(client.transport.aborted for client in silent)
    late = world.client()
    assert late.transport.aborted
    silent[3].vanish()
    assert world.client().connect("second").code == 0x89
    assert world.metrics.wire("mqtt").turned_away == AT_ONCE_MAX + 2
    world.clients[0].vanish()
    assert world.client().connect("third").code == 0, "they take up no room themselves"


def test_the_limits_of_the_mesh_are_told_too_but_to_no_flood_and_to_nobody_banned() -> None:
    assert full(connections_max=1).client().connect("second").code == 0x89
    assert full(connections_per_s=1).client().transport.aborted
    world = full(connections_max=1)
    world.broker.bans.add("address", "192.0.2.7", reason="", by="test", duration_ms=0)
    assert world.client(host="192.0.2.7").transport.aborted
    assert not world.client(host="192.0.2.8").transport.aborted


# -- on real sockets ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Authority:
    return Authority(require("openssl"), tmp_path_factory.mktemp("pki"))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("encrypted", [False, True])
def test_on_a_socket(loop: str, encrypted: bool, authority: Authority) -> None:
    async def scene(mesh: Mesh) -> None:
        tls = context(authority) if encrypted else None
        first = await Peer.open(mesh, "small", tls=tls)
        assert (await first.connect("first")).code == 0
        for version, code in ((5, 0x89), (4, 3)):
            peer = await Peer.open(mesh, "small", version=version, tls=tls)
            assert (await peer.connect("second")).code == code
            assert await peer.ended()
        silent = await Peer.open(mesh, "small", tls=tls)
        wire = mesh.broker.metrics.wire("mqtt")
        await until(lambda: wire.turned_away == 3)
        first.close()
        await until(lambda: wire.open == 0)
        third = await Peer.open(mesh, "small", tls=tls)
        assert (await third.connect("third")).code == 0
        third.close()
        await until(lambda: wire.open == 0)
        silent.close()
        await asyncio.sleep(0)

    certificate, key = signed(authority)
    listener = ListenerSettings("small", ANYWHERE, connections_max=1, tls=encrypted)
    play(scene, listener, loop=loop, tls=TlsSettings(str(certificate), str(key)))


def test_a_mesh_that_stops_waits_for_none_of_them() -> None:
    silent: list[Peer] = []

    async def scene(mesh: Mesh) -> None:
        first = await Peer.open(mesh, "small")
        assert (await first.connect("first")).code == 0
        silent.append(await Peer.open(mesh, "small"))
        await until(lambda: mesh.broker.metrics.wire("mqtt").turned_away == 1)
        first.close()
        await mesh.stop()
        assert await silent[0].ended()

    play(scene, ListenerSettings("small", ANYWHERE, connections_max=1))


def signed(authority: Authority) -> tuple[Path, Path]:
    return authority.sign("server", "/CN=mesh", "IP:127.0.0.1,DNS:localhost")

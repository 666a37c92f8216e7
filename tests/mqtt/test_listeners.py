"""MQTT listeners with settings of their own: versions, strangers, room; and who a relay says it speaks for."""

from __future__ import annotations

import asyncio
import struct

import pytest

from dragoman import Mesh
from dragoman.adapters.mqtt.codes import Code, ReturnCode
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.serving.credentials import hash_password
from dragoman.adapters.serving.entrance import Arrival, arrival_at, introduced
from dragoman.adapters.serving.proxy_protocol import SIGNATURE, ProxyHeader
from dragoman.adapters.serving.settings import LimitSettings, LoginSettings, UserSettings
from dragoman.broker.bans import ADDRESS
from tests.mqtt.listener_play import ANYWHERE, LOOPS, Peer, play, sessions, until
from tests.mqtt.wire import World

FAR = "203.0.113.9"
LINE = b"PROXY TCP4 203.0.113.9 10.0.0.1 50000 1883\r\n"
RELAYED = ListenerSettings("relayed", ANYWHERE, proxy_protocol=True, anonymous="always")
ANN = UserSettings(name="ann", password=hash_password(b"right"))


def block(source: bytes, target: bytes, kind: int = 0x21) -> bytes:
    family = {4: 0x11, 16: 0x21, 108: 0x31, 0: 0x00}[len(source)]
    ports = b"" if len(source) in (0, 108) else struct.pack("!HH", 50_000, 1883)
    return SIGNATURE + struct.pack("!BBH", kind, family, len(source + target + ports)) + source + target + ports


# -- versions, strangers, room -----------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["3.1", "3.1.1", "5.0"])
def test_a_version_that_is_not_taken_is_told_so_in_its_own_words(taken: str) -> None:
    world = World(listener=ListenerSettings("only", ANYWHERE, versions=(taken,)))
    answers = {version: world.client(version).connect(f"c{version}").code for version in (3, 4, 5)}
    expected = {
        3: ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION,
        4: ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION,
        5: Code.UNSUPPORTED_PROTOCOL_VERSION,
    }
    expected[{"3.1": 3, "3.1.1": 4, "5.0": 5}[taken]] = 0
    assert answers == expected
    assert [client.closed for client in world.clients] == [bool(expected[version]) for version in (3, 4, 5)]


@pytest.mark.parametrize(
    ("listener", "everywhere", "here", "there"),
    [
        ("inherit", "loopback", True, False),
        ("inherit", "always", True, True),
        ("loopback", "always", True, False),
        ("always", "never", True, True),
        ("never", "always", False, False),
    ],
)
def test_a_listener_may_decide_by_itself_about_strangers(
    listener: str, everywhere: str, here: bool, there: bool
) -> None:
    login = LoginSettings(anonymous=everywhere, users=(ANN,))
    world = World(login=login, listener=ListenerSettings("it", ANYWHERE, anonymous=listener))
    for host, comes_in in (("127.0.0.1", here), ("::ffff:127.0.0.1", here), (FAR, there)):
        code = world.client(5, host).connect(f"c-{host.replace(':', '-')}").code
        assert code == (0 if comes_in else Code.BAD_USER_NAME_OR_PASSWORD) or (not comes_in and code == 0x87), host


def test_a_listener_may_be_full_while_the_mesh_is_not() -> None:
    world = World(listener=ListenerSettings("small", ANYWHERE, connections_max=2))
    first, _ = world.connected("a"), world.connected("b")
    turned_away = world.client()
    assert turned_away.connect("c").code == Code.SERVER_BUSY
    assert turned_away.closed
    assert world.metrics.wire("mqtt").turned_away == 1
    assert world.limits.open == 2
    first.vanish()
    assert world.limits.open == 1
    world.connected("c")
    assert world.limits.open == 2


# -- who it is ---------------------------------------------------------------------------------------

NEAR_RELAY = ("127.0.0.1", 40_000)
FAR_RELAY = ("198.51.100.1", 40_000)


@pytest.mark.parametrize(
    ("relay", "header", "host", "text", "local"),
    [
        (NEAR_RELAY, ProxyHeader(host=FAR, port=5), FAR, f"{FAR}:5", False),
        (NEAR_RELAY, ProxyHeader(host="127.0.0.1", port=5), "127.0.0.1", "127.0.0.1:5", True),
        (NEAR_RELAY, ProxyHeader(host="::1", port=5), "::1", "[::1]:5", True),
        (FAR_RELAY, ProxyHeader(host="127.0.0.1", port=5), "127.0.0.1", "127.0.0.1:5", False),
        (NEAR_RELAY, ProxyHeader(unix=True), "", "unix by 127.0.0.1:40000", True),
        (FAR_RELAY, ProxyHeader(unix=True), "", "unix by 198.51.100.1:40000", False),
        (NEAR_RELAY, ProxyHeader(), "", "unknown by 127.0.0.1:40000", False),
        (NEAR_RELAY, ProxyHeader(own=True), "127.0.0.1", "127.0.0.1:40000", True),
        (FAR_RELAY, ProxyHeader(own=True), "198.51.100.1", "198.51.100.1:40000", False),
    ],
)
def test_what_a_relay_says_and_what_of_it_makes_a_peer_local(
    relay: tuple[str, int], header: ProxyHeader, host: str, text: str, local: bool
) -> None:
    found = introduced(header, arrival_at(relay, unix=False))
    assert (found.host, found.text, found.local) == (host, text, local)


def test_a_peer_that_has_gone_is_not_taken_for_a_local_one() -> None:
    assert not arrival_at(None, unix=False).local
    assert not arrival_at("", unix=False).local
    assert arrival_at("", unix=True).local


def test_a_certificate_that_the_relay_has_checked_goes_with_its_client() -> None:
    relay = Arrival("127.0.0.1", "127.0.0.1:1", local=True)
    assert introduced(ProxyHeader(host=FAR, port=1, common_name="dev1"), relay).certificate == ("cn:dev1",)
    assert introduced(ProxyHeader(host=FAR, port=1), relay).certificate == ()


# -- PROXY on sockets --------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (LINE, f"{FAR}:50000"),
        (block(bytes([203, 0, 113, 9]), bytes(4)), f"{FAR}:50000"),
        (block(bytes(15) + b"\x01", bytes(16)), "[::1]:50000"),
        (b"PROXY UNKNOWN\r\n", "unknown by 127.0.0.1:"),
        (block(b"", b"", kind=0x20), "127.0.0.1:"),
    ],
)
@pytest.mark.parametrize("pieces", ["one", "bytes"])
def test_the_peer_is_whom_the_relay_says(loop: str, header: bytes, peer: str, pieces: str) -> None:
    async def scene(mesh: Mesh) -> None:
        client = await Peer.open(mesh, "relayed", header if pieces == "one" else b"")
        if pieces == "bytes":
            for at in range(len(header)):
                client.writer.write(header[at : at + 1])
                await asyncio.sleep(0)
        assert (await client.connect()).code == 0
        (session,) = sessions(mesh)
        assert session.peer.startswith(peer)
        assert session.listener_name == "relayed"
        client.close()
        await until(lambda: not mesh.broker.metrics.wire("mqtt").open)

    play(scene, RELAYED, loop=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_whether_a_peer_is_local_is_decided_by_its_own_address(loop: str) -> None:
    async def scene(mesh: Mesh) -> None:
        for header, code in (
            (LINE, 0x86),
            (b"PROXY TCP4 127.0.0.1 127.0.0.1 5 6\r\n", 0),
            (b"PROXY UNKNOWN\r\n", 0x86),
            (block(b"", b"", kind=0x20), 0),
            (block(bytes(108), bytes(108)), 0),
        ):
            client = await Peer.open(mesh, "relayed", header)
            answer = (await client.connect()).code
            assert bool(answer) == bool(code), header
            client.close()
        with_password = await Peer.open(mesh, "relayed", LINE)
        assert (await with_password.connect("d", "ann", b"right")).code == 0
        with_password.close()

    listener = ListenerSettings("relayed", ANYWHERE, proxy_protocol=True)
    play(scene, listener, loop=loop, login=LoginSettings(users=(ANN,)))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "said",
    [
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"PROXY TCP4 nonsense 10.0.0.1 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * 200,
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_no_header_ends_its_connection_alone(loop: str, said: bytes) -> None:
    async def scene(mesh: Mesh) -> None:
        good = await Peer.open(mesh, "relayed", LINE)
        assert (await good.connect()).code == 0
        bad = await Peer.open(mesh, "relayed", said)
        assert await bad.ended()
        wire = mesh.broker.metrics.wire("mqtt")
        assert (wire.errors, wire.turned_away, wire.connections) == (1, 0, 1)
        good.writer.write(b"\xc0\x00")
        await good.packet()
        good.close()

    play(scene, RELAYED, loop=loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 203.", SIGNATURE[:5], SIGNATURE + b"\x21\x11\x00\x0c\x01"])
def test_a_relay_that_never_finishes_is_cut_in_time_and_costs_nothing(loop: str, said: bytes) -> None:
    async def scene(mesh: Mesh) -> None:
        slow = await Peer.open(mesh, "relayed", said)
        assert await slow.ended()
        half = await Peer.open(mesh, "relayed", said)
        half.writer.write_eof()
        assert await half.ended()
        assert mesh.broker.metrics.wire("mqtt").errors == 2

    play(scene, RELAYED, loop=loop, limits=LimitSettings(connect_deadline_s=0.2))


@pytest.mark.parametrize("loop", LOOPS)
def test_only_trusted_relays_may_speak_for_others(loop: str) -> None:
    async def scene(mesh: Mesh) -> None:
        foreign = await Peer.open(mesh, "relayed", LINE)
        assert await foreign.ended()
        assert mesh.broker.metrics.wire("mqtt").turned_away == 1

    listener = ListenerSettings("relayed", ANYWHERE, proxy_protocol=True, proxy_trusted=("10.0.0.0/8", "::1"))
    play(scene, listener, loop=loop)


def test_limits_and_bans_are_for_the_peer_and_not_for_its_relay() -> None:
    async def scene(mesh: Mesh) -> None:
        first = await Peer.open(mesh, "relayed", LINE)
        assert (await first.connect("a")).code == 0
        second = await Peer.open(mesh, "relayed", LINE)
        assert await second.ended()
        other = await Peer.open(mesh, "relayed", LINE.replace(b".9 ", b".8 "))
        assert (await other.connect("b")).code == 0
        mesh.broker.bans.add(ADDRESS, FAR, reason="", by="ann", duration_ms=0)
        assert not await first.ended()
        again = await Peer.open(mesh, "relayed", LINE)
        assert await again.ended()
        other.writer.write(b"\xc0\x00")
        await other.packet()
        other.close()

    play(scene, RELAYED, limits=LimitSettings(connections_per_address_max=1))


def test_a_stop_ends_those_who_are_only_half_in() -> None:
    async def scene(mesh: Mesh) -> None:
        half = await Peer.open(mesh, "relayed", b"PROXY TCP4 203.")
        await until(lambda: len(asyncio.all_tasks()) > 1)
        async with asyncio.timeout(5):  # half of what they have
            await mesh.stop(1)
        assert await half.ended()

    play(scene, RELAYED)

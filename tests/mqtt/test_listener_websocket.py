"""MQTT over WebSocket on a port of its own, and over Unix sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from dragoman import Mesh
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.no_room import AT_ONCE_MAX
from dragoman.adapters.serving.settings import LimitSettings, LoginSettings, UserSettings
from dragoman.broker.bans import ADDRESS
from dragoman.mesh import CannotStartError
from tests.mqtt.listener_play import ANYWHERE, LOOPS, Peer, play, sessions, until

CONNECT_5 = bytes.fromhex("101200044d51545405020014000005") + b"frame"
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"
PORT = ListenerSettings("web", ANYWHERE, transport="websocket")
CLOSED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR)

Scene = Callable[[Mesh, aiohttp.ClientSession, str], Awaitable[None]]


def play_web(scene: Scene, listener: ListenerSettings = PORT, **settings: object) -> None:
    async def with_client(mesh: Mesh) -> None:
        async with aiohttp.ClientSession() as web:
            await scene(mesh, web, f"http://{mesh.addresses['web']}")
        await until(lambda: not mesh.broker.metrics.wire("mqtt").open)

    loop = str(settings.pop("loop", "asyncio"))
    play(with_client, listener, loop=loop, **settings)


async def refused(web: aiohttp.ClientSession, url: str, **options: object) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await web.ws_connect(url, **{"protocols": ("mqtt",), **options})  # type: ignore[arg-type]
    return error.value.status


# -- WebSocket ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("path", ["/", "/mqtt", "/any/thing?x=1"])
def test_any_path_does_unless_one_is_given(loop: str, path: str) -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        async with web.ws_connect(url + path, protocols=("mqtt",)) as ws:
            assert ws.protocol == "mqtt"
            await ws.send_bytes(CONNECT_5 + PINGREQ)
            said = b""
            while not said.endswith(PINGRESP):
                said += await ws.receive_bytes()
            (session,) = sessions(mesh)
            assert (session.listener_name, session.peer.startswith("127.0.0.1:")) == ("web", True)
            assert mesh.broker.metrics.wire("mqtt").open == 1

    play_web(scene, loop=loop)


def test_a_path_that_is_given_is_the_only_one() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        assert await refused(web, url + "/") == 404
        async with web.get(url + "/other") as answer:
            assert "MQTT is at /mqtt here" in await answer.text()
        async with web.ws_connect(url + "/mqtt", protocols=("mqttv3.1",)) as ws:
            assert ws.protocol == "mqttv3.1"

    play_web(scene, ListenerSettings("web", ANYWHERE, transport="websocket", path="/mqtt"))


@pytest.mark.parametrize("protocols", [(), ("other",), ("MQTT",)])
def test_another_subprotocol_is_refused(protocols: tuple[str, ...]) -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        assert await refused(web, url, protocols=protocols) == 400

    play_web(scene)


def test_only_websockets_are_answered_and_only_once() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        for method, headers in (("GET", {}), ("GET", {"Sec-WebSocket-Protocol": "mqtt"}), ("POST", {})):
            async with web.request(method, url, headers=headers) as answer:
                assert answer.status == 400
                assert answer.headers["Connection"] == "close"

    play_web(scene)


def test_text_frames_end_it() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        async with web.ws_connect(url, protocols=("mqtt",)) as ws:
            await ws.send_str("CONNECT")
            closed = await ws.receive()
            assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1003)

    play_web(scene)


def test_pages_need_leave_and_programs_do_not() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "https://app.example.evil"):
            assert await refused(web, url, origin=origin) == 403, origin
        # A name of somebody else's that was made to mean our address is its own origin.
        assert await refused(web, url, origin="http://rebound.example", headers={"Host": "rebound.example"}) == 403
        for origin in ("https://app.example", url, None):
            async with web.ws_connect(url, protocols=("mqtt",), origin=origin) as ws:
                await ws.send_bytes(CONNECT_5)
                assert (await ws.receive_bytes())[0] == 0x20

    play_web(scene, ListenerSettings("web", ANYWHERE, transport="websocket", origins=("https://app.example",)))


def test_every_page_may_where_that_is_said() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        async with web.ws_connect(url, protocols=("mqtt",), origin="https://any.example"):
            pass

    play_web(scene, ListenerSettings("web", ANYWHERE, transport="websocket", origins=("*",)))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_who_never_finishes_a_request_is_cut_in_time(loop: str, said: bytes) -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        peer = await Peer.open(mesh, "web", said)
        assert await peer.ended()

    play_web(scene, loop=loop, limits=LimitSettings(connect_deadline_s=0.2))


def test_who_never_says_connect_is_cut_in_time() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        async with web.ws_connect(url, protocols=("mqtt",)) as ws:
            assert (await ws.receive()).type in CLOSED

    play_web(scene, limits=LimitSettings(connect_deadline_s=0.2))


def test_what_is_no_http_is_answered_and_counted() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        peer = await Peer.open(mesh, "web", CONNECT_5)
        assert (await peer.reader.read()).startswith(b"HTTP/1.0 400")
        peer.close()
        assert mesh.broker.metrics.wire("mqtt").errors == 1

    play_web(scene)


def test_room_limits_and_bans_hold_here_too() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        async with web.ws_connect(url, protocols=("mqtt",)) as ws:
            await ws.send_bytes(CONNECT_5)
            await ws.receive_bytes()
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await web.ws_connect(url, protocols=("mqtt",))
            assert caught.value.status == 503
            assert mesh.broker.metrics.wire("mqtt").turned_away == 1
            mesh.broker.bans.add(ADDRESS, "127.0.0.1", reason="", by="ann", duration_ms=0)
            assert (await ws.receive()).type in CLOSED

    play_web(scene, ListenerSettings("web", ANYWHERE, transport="websocket", connections_max=1))


def test_only_so_many_are_told_that_there_is_no_room() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        wire = mesh.broker.metrics.wire("mqtt")
        silent = [await Peer.open(mesh, "web") for _ in range(1 + AT_ONCE_MAX)]
        await until(lambda: wire.open == len(silent))
        assert await (await Peer.open(mesh, "web")).ended()
        assert wire.turned_away == 1
        # The first was in; when it goes there is room, whoever else waits to be told.
        silent.pop(0).close()
        await until(lambda: wire.open == len(silent))
        async with web.ws_connect(url, protocols=("mqtt",)) as ws:
            await ws.send_bytes(CONNECT_5)
            assert (await ws.receive_bytes())[3] == 0
        for peer in silent:
            peer.close()
        await until(lambda: wire.open == 0)

    play_web(scene, ListenerSettings("web", ANYWHERE, transport="websocket", connections_max=1))


@pytest.mark.parametrize(("forwarded", "code"), [(False, 0), (True, 0x86)])
def test_what_a_proxy_on_this_machine_passes_on_is_not_local(forwarded: bool, code: int) -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        headers = {"X-Forwarded-For": "203.0.113.9"} if forwarded else {}
        async with web.ws_connect(url, protocols=("mqtt",), headers=headers) as ws:
            await ws.send_bytes(CONNECT_5)
            assert bool((await ws.receive_bytes())[3]) == bool(code)

    users = (UserSettings(name="ann", certificates=("cn:x",)),)
    play_web(scene, login=LoginSettings(users=users))


def test_a_relay_may_introduce_a_websocket() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        head = (
            b"GET / HTTP/1.1\r\nHost: mqtt.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        peer = await Peer.open(mesh, "web", b"PROXY TCP4 203.0.113.9 10.0.0.1 5 6\r\n" + head)
        assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        frame = bytes([0x82, 0x80 | len(CONNECT_5)]) + bytes(4) + CONNECT_5
        peer.writer.write(frame)
        await peer.reader.readexactly(4)
        assert sessions(mesh)[0].peer == "203.0.113.9:5"
        peer.close()

    listener = ListenerSettings("web", ANYWHERE, transport="websocket", proxy_protocol=True, anonymous="always")
    play_web(scene, listener)


def test_a_stop_says_goodbye_and_does_not_wait_for_who_says_nothing() -> None:
    async def scene(mesh: Mesh, web: aiohttp.ClientSession, url: str) -> None:
        idle = await Peer.open(mesh, "web")
        async with web.ws_connect(url, protocols=("mqtt",)) as ws:
            await ws.send_bytes(CONNECT_5)
            await ws.receive_bytes()
            wire = mesh.broker.metrics.wire("mqtt")
            async with asyncio.timeout(5):
                stopping = asyncio.create_task(mesh.stop(30))
                said = await ws.receive_bytes()
                assert (said[0], said[2]) == (0xE0, 0x8B)
                assert (await ws.receive()).type in CLOSED
                await stopping
        assert await idle.ended()
        await until(lambda: not wire.open)

    async def with_client(mesh: Mesh) -> None:
        async with aiohttp.ClientSession() as web:
            await scene(mesh, web, f"http://{mesh.addresses['web']}")

    play(with_client, PORT)


# -- Unix sockets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_unix_socket_is_as_local_as_can_be(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"

    async def scene(mesh: Mesh) -> None:
        assert mesh.addresses == {"local": f"unix:{path}"}
        client = await Peer.open(mesh, "local")
        assert (await client.connect()).code == 0
        (session,) = sessions(mesh)
        assert (session.peer, session.arrival.local) == ("unix", True)
        client.close()
        await until(lambda: not mesh.broker.metrics.wire("mqtt").open)
        assert path.exists()

    users = (UserSettings(name="ann", certificates=("cn:x",)),)
    play(scene, ListenerSettings("local", f"unix:{path}"), loop=loop, login=LoginSettings(users=users))
    assert not path.exists()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_relay_may_use_a_unix_socket(loop: str, tmp_path: Path) -> None:
    async def scene(mesh: Mesh) -> None:
        for header, peer, comes_in in (
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 5 6\r\n", "203.0.113.9:5", False),
            (b"PROXY TCP4 127.0.0.1 127.0.0.1 5 6\r\n", "127.0.0.1:5", True),
        ):
            client = await Peer.open(mesh, "local", header)
            code = (await client.connect()).code
            assert (code == 0) is comes_in, peer
            assert [session.peer for session in sessions(mesh)] == [peer] * comes_in
            client.close()
            await until(lambda: not mesh.broker.metrics.wire("mqtt").open)

    users = (UserSettings(name="ann", certificates=("cn:x",)),)
    listener = ListenerSettings("local", f"unix:{tmp_path}/a.sock", proxy_protocol=True)
    play(scene, listener, loop=loop, login=LoginSettings(users=users))


def test_a_unix_socket_carries_websockets_too(tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")

    async def scene(mesh: Mesh) -> None:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as web,
            web.ws_connect("http://localhost/mqtt", protocols=("mqtt",)) as ws,
        ):
            await ws.send_bytes(CONNECT_5)
            assert (await ws.receive_bytes())[3] == 0
            assert sessions(mesh)[0].peer == "unix"
        await until(lambda: not mesh.broker.metrics.wire("mqtt").open)

    users = (UserSettings(name="ann", certificates=("cn:x",)),)
    listener = ListenerSettings("local", f"unix:{path}", transport="websocket")
    play(scene, listener, login=LoginSettings(users=users))


def test_a_socket_that_is_in_use_stops_the_start_and_what_it_had_taken_is_given_back(tmp_path: Path) -> None:
    first, second = tmp_path / "first.sock", tmp_path / "second.sock"

    async def scene(mesh: Mesh) -> None:
        raise AssertionError("it has started")

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(second))
        other.listen()
        with pytest.raises(CannotStartError, match=r"another program listens on .*second\.sock"):
            play(scene, *(ListenerSettings(path.stem, f"unix:{path}") for path in (first, second)))
    assert not first.exists()
    assert second.exists()

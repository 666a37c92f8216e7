"""MQTT in WebSocket frames: real clients, and frames that fit no packet (MQTT 5.0 §6)."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Awaitable, Callable

import aiohttp
import paho.mqtt.client as mqtt
import pytest
from aiohttp import web

from dragoman import Mesh
from dragoman.adapters.mqtt.encoders import encode_connect
from dragoman.adapters.mqtt.packets import Connect
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.session import MqttSession
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.credentials import scram_verifier
from dragoman.adapters.serving.settings import LimitSettings, ListenSettings, LoginSettings, UserSettings
from dragoman.broker.settings import BrokerSettings
from dragoman.config import Config

CONNECT_5 = bytes.fromhex("101200044d51545405020014000005") + b"frame"
CONNACK, AUTH = 0x20, 0xF0
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"
LISTEN = ListenSettings(mqtt="127.0.0.1:0", kafka="off", http="127.0.0.1:0")


def play(scene: Callable[[Mesh, str], Awaitable[None]], **settings: object) -> None:
    async def main() -> None:
        config = Config(data=":memory:", listen=LISTEN, **settings)  # type: ignore[arg-type]
        async with asyncio.timeout(15), Mesh(config) as mesh:
            await scene(mesh, f"http://{mesh.addresses['http']}/mqtt")

    asyncio.run(main())


@pytest.mark.parametrize("version", [mqtt.MQTTv311, mqtt.MQTTv5])
def test_paho_says_and_hears_across_carriers(version: int) -> None:
    async def scene(mesh: Mesh, url: str) -> None:
        await asyncio.to_thread(_paho, mesh, version)
        while mesh.broker.metrics.wire("mqtt").open:  # noqa: ASYNC110 - it notices in its own time
            await asyncio.sleep(0)

    play(scene)


def _paho(mesh: Mesh, version: int) -> None:
    heard: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
    ready: queue.Queue[int] = queue.Queue()
    clients = []
    for name, carrier, listener in (("over-ws", "websockets", "http"), ("over-tcp", "tcp", "mqtt")):
        host, _, port = mesh.addresses[listener].partition(":")
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, transport=carrier, protocol=version)
        client.on_connect = lambda client, *_: client.subscribe("ws/#", qos=2)
        client.on_subscribe = lambda *_: ready.put(1)
        client.on_message = lambda *args: heard.put(args[2])
        client.connect(host, int(port))
        client.loop_start()
        ready.get(timeout=10)
        clients.append(client)
    payload = bytes(range(256)) * 2_000
    for client in clients:
        client.publish("ws/large", payload, qos=2).wait_for_publish(10)
    got = [heard.get(timeout=10) for _ in range(4)]
    assert [(m.topic, m.qos, m.payload == payload) for m in got] == [("ws/large", 2, True)] * 4
    left = [queue.Queue[int]() for _ in clients]
    for client, gone in zip(clients, left, strict=True):
        client.on_disconnect = lambda *_, gone=gone: gone.put(1)
        client.disconnect()
        gone.get(timeout=10)
        client.loop_stop()


def test_packets_and_frames_need_not_fall_together() -> None:
    async def scene(mesh: Mesh, url: str) -> None:
        async with aiohttp.ClientSession() as web, web.ws_connect(url, protocols=("mqtt",)) as socket:
            assert socket.protocol == "mqtt"
            said = CONNECT_5 + PINGREQ + PINGREQ
            for at in range(len(said) - 1):
                await socket.send_bytes(said[at : at + 1])
            await socket.send_bytes(said[-1:] + PINGREQ)
            got = b""
            while not got.endswith(PINGRESP * 3):
                got += await socket.receive_bytes()
            assert got[0] == CONNACK

    play(scene)


def test_what_is_no_mqtt_is_refused_in_words_of_its_layer() -> None:
    async def scene(mesh: Mesh, url: str) -> None:
        async with aiohttp.ClientSession() as web:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await web.ws_connect(url, protocols=("other",))
            assert refused.value.status == 400
            async with web.get(url) as answer:
                assert answer.status == 400
                assert "subprotocol mqtt" in await answer.text()
            async with web.ws_connect(url, protocols=("mqtt",)) as socket:
                await socket.send_str("CONNECT")
                closed = await socket.receive()
                assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1003)
            async with web.ws_connect(url, protocols=("mqtt",)) as socket:
                await socket.send_bytes(b"\x00\x00")
                assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            async with web.ws_connect(url, protocols=("mqtt", "mqttv3.1")) as socket:
                await socket.send_bytes(CONNECT_5)
                assert (await socket.receive_bytes())[0] == CONNACK

    play(scene)


def test_a_frame_larger_than_any_packet_ends_the_connection_alone() -> None:
    async def scene(mesh: Mesh, url: str) -> None:
        async with aiohttp.ClientSession() as web, web.ws_connect(url, protocols=("mqtt",)) as good:
            await good.send_bytes(CONNECT_5)
            await good.receive_bytes()
            async with web.ws_connect(url, protocols=("mqtt",)) as bad:
                await bad.send_bytes(b"\x10" + bytes(2_000))
                assert (await bad.receive()).type is aiohttp.WSMsgType.CLOSE
            await good.send_bytes(PINGREQ)
            assert await good.receive_bytes() == PINGRESP

    play(scene, mqtt=MqttSettings(packet_bytes_max=1_024))


def test_who_never_says_connect_is_cut() -> None:
    async def scene(mesh: Mesh, url: str) -> None:
        async with aiohttp.ClientSession() as web, web.ws_connect(url, protocols=("mqtt",)) as socket:
            ended = await socket.receive()
            assert ended.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        while mesh.broker.metrics.wire("mqtt").open:  # noqa: ASYNC110 - it notices in its own time
            await asyncio.sleep(0)

    play(scene, limits=LimitSettings(connect_deadline_s=0.2))


def test_who_is_silent_within_an_authentication_is_told_so() -> None:
    async def scene(mesh: Mesh, url: str) -> None:
        connect = Connect(5, "c", True, properties=Properties(authentication_method="SCRAM-SHA-256"))
        async with aiohttp.ClientSession() as web, web.ws_connect(url, protocols=("mqtt",)) as socket:
            await socket.send_bytes(encode_connect(connect))
            assert (await socket.receive_bytes())[0] == AUTH
            said = await socket.receive_bytes()
            assert (said[0], said[3]) == (CONNACK, 0x87)
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        while mesh.broker.metrics.wire("mqtt").open:  # noqa: ASYNC110 - it notices in its own time
            await asyncio.sleep(0)

    ann = UserSettings("ann", scram=scram_verifier(b"secret"))
    play(scene, limits=LimitSettings(connect_deadline_s=0.2), login=LoginSettings(users=(ann,)))


def test_the_mesh_says_goodbye_in_both_protocols() -> None:
    async def scene(mesh: Mesh, url: str) -> None:
        async with aiohttp.ClientSession() as web, web.ws_connect(url, protocols=("mqtt",)) as socket:
            await socket.send_bytes(CONNECT_5)
            await socket.receive_bytes()
            mesh.broker.say_goodbye()
            said = await socket.receive_bytes()
            assert (said[0], said[2]) == (0xE0, 0x8B)
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE

    play(scene)


def test_nowhere_when_it_is_switched_off() -> None:
    async def scene(mesh: Mesh, url: str) -> None:
        async with aiohttp.ClientSession() as web, web.get(url) as answer:
            assert answer.status == 404

    play(scene, mqtt=MqttSettings(websocket_path=""))


@pytest.mark.parametrize("way", ["take_out", "received", "go_on"])
def test_a_fault_of_ours_ends_the_connection_and_is_logged(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection whose one half is dead would be heard and never answered."""

    def fault(*_: object) -> bytes:
        raise AssertionError("a fault of ours")

    async def scene(mesh: Mesh, url: str) -> None:
        async with aiohttp.ClientSession() as web, web.ws_connect(url, protocols=("mqtt",)) as socket:
            await socket.send_bytes(CONNECT_5)
            await socket.receive_bytes()
            (session,) = (each for each in mesh.broker.sessions() if isinstance(each, MqttSession))
            monkeypatch.setattr(MqttSession, way, fault)
            session.starved = way == "go_on"
            await socket.send_bytes(PINGREQ)
            while (said := await socket.receive()).type is aiohttp.WSMsgType.BINARY:
                assert said.data == PINGRESP
            monkeypatch.undo()
        while mesh.broker.metrics.wire("mqtt").open:  # noqa: ASYNC110 - it notices in its own time
            await asyncio.sleep(0)

    play(scene)
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (line.name, line.getMessage()) == ("dragoman.mqtt", "a fault of ours; the connection pays for it")
    assert line.exc_info is not None


def test_a_peer_that_asks_and_never_reads_is_cut(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And no other: what is answered late is answered whole."""
    reads = asyncio.Event()
    really = web.WebSocketResponse.send_bytes

    async def unread(self: web.WebSocketResponse, data: bytes, compress: int | None = None) -> None:
        if data[0] != CONNACK:
            await reads.wait()
        await really(self, data, compress)

    monkeypatch.setattr(web.WebSocketResponse, "send_bytes", unread)
    mqtt_settings = MqttSettings(packet_bytes_max=1 << 10, out_bytes_max=1 << 12)
    bound = 2 * ((1 << 12) + (1 << 10))

    async def ask(socket: aiohttp.ClientWebSocketResponse, times: int) -> None:
        await socket.send_bytes(CONNECT_5)
        await socket.receive_bytes()
        for _ in range(times):
            await socket.send_bytes(PINGREQ * 256)

    async def scene(mesh: Mesh, url: str) -> None:
        async with aiohttp.ClientSession() as client, client.ws_connect(url, protocols=("mqtt",)) as socket:
            await ask(socket, bound // 512)
            reads.set()
            got = 0
            while got < bound:
                got += len(await socket.receive_bytes())
            assert got == bound
        reads.clear()
        async with aiohttp.ClientSession() as client, client.ws_connect(url, protocols=("mqtt",)) as socket:
            await ask(socket, 2 * bound // 512)
            assert (await socket.receive()).type is not aiohttp.WSMsgType.BINARY
        assert any("does not read the answers" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.INFO, "dragoman.mqtt"):
        play(scene, mqtt=mqtt_settings, broker=BrokerSettings(message_bytes_max=1 << 10))

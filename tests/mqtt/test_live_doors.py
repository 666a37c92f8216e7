"""Real clients at doors that say no, not here, or not for ever: what paho and mosquitto make of it."""

from __future__ import annotations

import json
import queue
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from dragoman.adapters.mqtt.encoders import encode_connect, encode_publish
from dragoman.adapters.mqtt.packets import Connect
from tests.clients.mesh import MeshProcess

pytestmark = pytest.mark.slow

WAIT_S = 20.0
THERE = "b.example:1883"

CONFIG = f"""
[listen]
mqtt = "127.0.0.1:0"
kafka = "off"
http = "127.0.0.1:0"

[mqtt]
packet_time_max_s = 1

[[mqtt.listeners]]
name = "moved"
address = "127.0.0.1:0"
redirect_to = "{THERE}"
redirect_permanent = true

[[mqtt.listeners]]
name = "small"
address = "127.0.0.1:0"
connections_max = 1

[[mqtt.listeners]]
name = "short"
address = "127.0.0.1:0"
connect_time_max_s = 1
qos_max = 1
shared_subscriptions = false
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    with MeshProcess(tmp_path_factory.mktemp("doors"), CONFIG, memory=True, listeners={}) as made:
        yield made


class Client:
    """Paho, with what it was told: (what, code, Server Reference)."""

    def __init__(self, mesh: MeshProcess, listener: str, client_id: str, version: MQTTProtocolVersion) -> None:
        self.told: queue.Queue[tuple[str, Any, Any]] = queue.Queue()
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, reconnect_on_failure=False)
        self.paho.on_connect = lambda _c, _u, _f, code, said: self._tell("connack", code, said)
        self.paho.on_disconnect = lambda _c, _u, _f, code, said: self._tell("disconnect", code, said)
        self.paho.on_subscribe = lambda _c, _u, _m, codes, said: self._tell("suback", codes[0], said)
        self.paho.connect(*mesh.address(listener))
        self.paho.loop_start()

    def _tell(self, what: str, code: Any, said: Any) -> None:
        self.told.put((what, code.value, getattr(said, "ServerReference", None)))

    def hears(self) -> tuple[str, Any, Any]:
        return self.told.get(timeout=WAIT_S)


@pytest.fixture
def client(mesh: MeshProcess) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(listener: str, client_id: str, version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5) -> Client:
        made.append(Client(mesh, listener, client_id, version))
        return made[-1]

    yield make
    for each in made:
        each.paho.disconnect()
        each.paho.loop_stop()


def admin(mesh: MeshProcess, method: str, path: str, **order: Any) -> Any:
    body = json.dumps(order).encode() if order else None
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{mesh.url}/v1/admin/{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def test_a_server_that_has_moved_says_where_to(client: Callable[..., Client]) -> None:
    assert client("moved", "a").hears() == ("connack", 0x9D, THERE)
    assert client("moved", "b", MQTTProtocolVersion.MQTTv311).hears()[:2] == ("connack", 0x88)  # paho's word for 3


def test_a_node_is_emptied_by_the_administration(mesh: MeshProcess, client: Callable[..., Client]) -> None:
    one, other, old = (
        client("mqtt", "one"),
        client("mqtt", "other"),
        client("mqtt", "old", MQTTProtocolVersion.MQTTv311),
    )
    for each in (one, other, old):
        assert each.hears()[:2] == ("connack", 0)
    listed = {found["agent"]: found["id"] for found in admin(mesh, "GET", "connections")["connections"]}
    admin(mesh, "POST", f"connections/{listed['one']}/redirect", to=THERE)
    assert one.hears() == ("disconnect", 0x9C, THERE)
    assert other.told.empty()
    admin(mesh, "POST", "redirect", to=THERE, permanent=True, per_s=100)
    try:
        assert other.hears() == ("disconnect", 0x9D, THERE)
        assert old.hears()[0] == "disconnect"
        assert client("mqtt", "late").hears() == ("connack", 0x9D, THERE)
    finally:
        admin(mesh, "DELETE", "redirect")
    assert client("mqtt", "later").hears()[:2] == ("connack", 0)


def test_who_finds_no_room_is_told_so(client: Callable[..., Client]) -> None:
    first = client("small", "first")
    assert first.hears()[:2] == ("connack", 0)
    assert client("small", "second").hears()[:2] == ("connack", 0x89)
    assert client("small", "third", MQTTProtocolVersion.MQTTv311).hears()[:2] == ("connack", 0x88)
    assert first.told.empty()


def test_a_connection_that_may_not_last_is_told_so(client: Callable[..., Client]) -> None:
    brief = client("short", "brief")
    assert brief.hears()[:2] == ("connack", 0)
    brief.paho.subscribe("$share/g/a", 1)
    assert brief.hears()[:2] == ("suback", 0x9E)
    assert brief.hears()[:2] == ("disconnect", 0xA0)


def test_paho_is_told_what_qos_there_is(client: Callable[..., Client]) -> None:
    eager = client("short", "eager")
    assert eager.hears()[:2] == ("connack", 0)
    eager.paho.publish("a", b"x", 2)
    assert eager.hears()[:2] == ("disconnect", 0x9B)


def test_a_byte_now_and_then_keeps_nobody_alive(mesh: MeshProcess) -> None:
    whole = encode_publish(5, b"a", b"x" * 1_000)
    with socket.create_connection(mesh.address("mqtt"), WAIT_S) as peer:
        peer.sendall(encode_connect(Connect(5, "drip", True, 30)))
        assert peer.recv(1_000)[3] == 0
        peer.settimeout(0.2)
        said = b""
        deadline = time.monotonic() + WAIT_S
        for at in range(len(whole)):
            assert time.monotonic() < deadline, "it drips on"
            peer.sendall(whole[at : at + 1])
            try:
                said = peer.recv(1_000)
                break
            except TimeoutError:
                continue
        assert (said[0], said[2]) == (0xE0, 0x8D)
    with urllib.request.urlopen(f"{mesh.url}/metrics", timeout=WAIT_S) as answer:
        assert b"dragoman_mqtt_packets_unfinished_total 1" in answer.read()

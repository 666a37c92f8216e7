"""The mesh is killed, and then its clients: what they left is said by the next mesh, and their sessions end on time."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import Child

pytestmark = pytest.mark.slow

WAIT_S = 20.0


class Watcher:
    """A paho client with a session of its own, in MQTT 5.0."""

    def __init__(self, mesh: MeshProcess, client_id: str, expiry_s: int = 3_600) -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self.messages: queue.Queue[tuple[float, bytes]] = queue.Queue()
        self.connects: queue.Queue[bool] = queue.Queue()
        self.subscribed: queue.Queue[None] = queue.Queue()
        self.client.on_message = lambda c, u, m: self.messages.put((time.monotonic(), bytes(m.payload)))
        self.client.on_connect = lambda c, u, flags, code, props: self.connects.put(flags.session_present)
        self.client.on_subscribe = lambda c, u, mid, codes, props: self.subscribed.put(None)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry_s
        self.client.connect(*mesh.address("mqtt"), clean_start=False, properties=properties)
        self.client.loop_start()
        self.present = self.connects.get(timeout=WAIT_S)

    def subscribe(self, filter_: str) -> None:
        self.client.subscribe(filter_, 2)
        self.subscribed.get(timeout=WAIT_S)

    def take(self) -> tuple[float, bytes]:
        return self.messages.get(timeout=WAIT_S)

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def until(mesh: MeshProcess, agent: str, state: str) -> None:
    """Waits until the mesh says that the client is in this state, and until that is safe."""
    looking = Watcher(mesh, f"looks at {agent}")
    looking.subscribe(f"$mesh/v1/presence/{agent}")
    while json.loads(looking.take()[1])["state"] != state:
        pass
    looking.subscribe("anything")
    looking.end()


def willing(mesh: MeshProcess, program: str, name: str, *more: str) -> Child:
    """A mosquitto_sub that says ``name`` when it is gone, and is connected."""
    host, port = mesh.address("mqtt")
    will = ["--will-topic", f"will/{name}", "--will-payload", name, "--will-qos", "2"]
    child = Child([program, "-h", host, "-p", str(port), "-t", "x", "-i", name, *will, *more])
    until(mesh, name, "online")
    return child


def test_wills_are_said_after_kill_9_once_and_when_they_are_due(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
):
    mesh = mesh_process(listeners=MQTT_ONLY)
    sub = require("mosquitto_sub")
    watcher = Watcher(mesh, "watcher")
    watcher.subscribe("will/#")
    kept = ("-V", "5", "-c", "-x", "60", "-D", "will", "will-delay-interval")
    children = [
        willing(mesh, sub, "plain"),
        willing(mesh, sub, "delayed", *kept, "3"),
        willing(mesh, sub, "back", *kept, "2"),
    ]
    willing(mesh, sub, "early").kill()
    assert watcher.take()[1] == b"early"
    watcher.end()
    mesh.kill()
    for child in children:
        child.kill()
    mesh.restart()
    began = time.monotonic()
    with willing(mesh, sub, "back", *kept, "2"):
        watcher = Watcher(mesh, "watcher")
        assert watcher.present
        assert watcher.take()[1] == b"plain"
        at, said = watcher.take()
        assert said == b"delayed"
        assert at - began > 1.0, "the delay counts from the restart"
        watcher.end()
        mesh.kill()
    mesh.restart()
    watcher = Watcher(mesh, "watcher")
    # The will of the last connection; it waits for its delay, and those that were said are not said again.
    assert watcher.take()[1] == b"back"
    watcher.end()


def test_a_session_that_ran_out_while_the_mesh_was_dead_is_gone(mesh_process: Callable[..., MeshProcess]):
    mesh = mesh_process(listeners=MQTT_ONLY)
    for name, expiry_s in (("brief", 2), ("long", 3_600)):
        Watcher(mesh, name, expiry_s).end()
        until(mesh, name, "asleep")
    ended = time.monotonic()
    mesh.kill()
    mesh.restart()
    # The clock of the next mesh has gone on as well: only the rest of its time is waited for.
    while time.monotonic() < ended + 2.1:
        time.sleep(0.05)
    for name, present in (("brief", False), ("long", True)):
        watcher = Watcher(mesh, name)
        assert watcher.present is present
        watcher.end()

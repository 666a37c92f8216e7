"""Delayed messages with the clients people use, over kill -9."""

from __future__ import annotations

import time
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import run_client
from tests.mqtt.test_live_wills import Watcher

pytestmark = pytest.mark.slow

WAIT_S = 20.0


def test_a_delayed_message_survives_kill_9_with_its_deadline_and_comes_once(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
):
    mesh = mesh_process(listeners=MQTT_ONLY)
    watcher = Watcher(mesh, "watcher")
    watcher.subscribe("alarm/#")
    watcher.end()
    host, port = mesh.address("mqtt")
    command = [require("mosquitto_pub"), "-h", host, "-p", str(port)]
    run_client([*command, "-t", "$delayed/1/alarm/a", "-m", "overdue", "-q", "1"])
    run_client([*command, "-V", "31", "-t", "$delayed/7/alarm/b", "-m", "kept", "-q", "2"])
    said = time.monotonic()
    run_client([*command, "-t", "$delayed/4000000/alarm/c", "-m", "never seen here", "-q", "1"])
    mesh.kill()
    time.sleep(max(0.0, said + 1.1 - time.monotonic()))
    mesh.restart()
    watcher = Watcher(mesh, "watcher")
    assert watcher.present
    assert watcher.take()[1] == b"overdue"
    at, payload = watcher.take()
    assert payload == b"kept"
    assert 6.5 < at - said < 7 + WAIT_S
    watcher.end()
    mesh.kill()
    mesh.restart()
    watcher = Watcher(mesh, "watcher")
    run_client([*command[:1], "-h", host, "-p", str(mesh.port("mqtt")), "-t", "alarm/end", "-m", "end", "-q", "1"])
    assert watcher.take()[1] == b"end"
    watcher.end()


def test_paho_is_told_why_a_delay_is_refused(mesh_process: Callable[..., MeshProcess]):
    mesh = mesh_process("[broker]\ndelayed_max = 1\n", listeners=MQTT_ONLY)
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    codes: list[int] = []
    client.on_publish = lambda c, u, mid, code, props: codes.append(code.value)
    client.connect(*mesh.address("mqtt"), properties=Properties(PacketTypes.CONNECT))
    client.loop_start()
    for _ in range(2):
        client.publish("$delayed/60/a", b"x", 1).wait_for_publish(WAIT_S)
    client.disconnect()
    client.loop_stop()
    assert codes == [0, 0x97]

"""paho with a kept session in the middle of retained values, and the mesh is killed: each comes."""

from __future__ import annotations

import queue
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import run_client

pytestmark = pytest.mark.slow

WAIT_S = 20.0


def test_retained_values_in_flight_and_owed_come_after_a_kill(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
) -> None:
    mesh = mesh_process(listeners=MQTT_ONLY)
    for n in range(5):
        say = [require("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(mesh.port("mqtt")), "-q", "1", "-r"]
        run_client([*say, "-t", f"kept/{n}", "-m", str(n)])
    got, connects = queue.Queue[tuple[int, bool, bool, int]](), queue.Queue[bool]()
    client = paho.Client(CallbackAPIVersion.VERSION2, "reader", protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
    client.on_connect = lambda client, data, flags, code, properties: connects.put(flags.session_present)
    client.on_message = lambda client, data, message: got.put(
        (int(message.payload), message.retain, message.dup, message.mid)
    )
    client.reconnect_delay_set(1, 1)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3_600
    properties.ReceiveMaximum = 2
    client.connect(*mesh.address("mqtt"), clean_start=False, properties=properties)
    client.loop_start()
    try:
        assert connects.get(timeout=WAIT_S) is False
        client.subscribe("kept/+", 1)
        first = [got.get(timeout=WAIT_S) for _ in range(2)]
        assert [(n, retain, dup) for n, retain, dup, _ in first] == [(0, True, False), (1, True, False)]
        mesh.kill()
        mesh.restart()
        assert connects.get(timeout=WAIT_S) is True
        again = [got.get(timeout=WAIT_S) for _ in range(2)]
        assert again == [(n, True, True, mid) for n, _, _, mid in first]
        rest: list[int] = []
        for _, _, _, mid in again:
            client.ack(mid, 1)
        while len(rest) < 3:
            n, retain, dup, mid = got.get(timeout=WAIT_S)
            assert (retain, dup) == (True, False)
            rest.append(n)
            client.ack(mid, 1)
        assert rest == [2, 3, 4]
        assert got.empty()
    finally:
        client.disconnect()
        client.loop_stop()

"""The rights to subscribe and to receive, told apart by rules: paho and mosquitto's clients on a real mesh."""

from __future__ import annotations

import queue
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import run_client

pytestmark = pytest.mark.slow

WAIT_S = 20.0

RULES = """
[gate]
default = "deny"

[[gate.rules]]
effect = "deny"
actions = ["wildcard"]
filters = ["site/#"]

[[gate.rules]]
effect = "allow"
actions = ["publish", "subscribe"]

[[gate.rules]]
effect = "allow"
actions = ["receive"]
filters = ["plant/%c/#", "site/#"]
"""


def test_a_device_that_subscribes_to_everything_hears_what_is_its_own(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
) -> None:
    mesh = mesh_process(RULES, listeners=MQTT_ONLY, memory=True)
    device = paho.Client(CallbackAPIVersion.VERSION2, "pump", protocol=MQTTProtocolVersion.MQTTv5)
    subscribed, heard = queue.Queue[list[int]](), queue.Queue[str]()
    device.on_subscribe = lambda client, data, mid, codes, properties: subscribed.put([code.value for code in codes])
    device.on_message = lambda client, data, message: heard.put(message.topic)
    device.connect(*mesh.address("mqtt"))
    device.loop_start()
    try:
        device.subscribe([("#", 1), ("site/+", 1), ("site/news", 1)])
        assert subscribed.get(timeout=WAIT_S) == [1, 0x87, 1]
        for topic in ("plant/fan/up", "plant/pump/up", "site/news"):
            say = [require("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(mesh.port("mqtt"))]
            run_client([*say, "-q", "1", "-t", topic, "-m", "x"])
        assert [heard.get(timeout=WAIT_S) for _ in range(2)] == ["plant/pump/up", "site/news"]
        assert heard.empty()
    finally:
        device.disconnect()
        device.loop_stop()

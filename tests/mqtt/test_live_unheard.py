"""0x10, nobody listens: what paho and mosquitto's client make of it on a real mesh, with a reader over HTTP."""

from __future__ import annotations

import queue
import urllib.request
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.clients.mesh import MeshProcess
from tests.clients.processes import run_client

pytestmark = pytest.mark.slow

WAIT_S = 20.0


def test_publishers_are_told_and_take_it_for_a_success(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
) -> None:
    mesh = mesh_process(memory=True)
    told = queue.Queue[int]()
    client = paho.Client(CallbackAPIVersion.VERSION2, "p", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_publish = lambda client, data, mid, code, properties: told.put(code.value)
    client.connect(*mesh.address("mqtt"))
    client.loop_start()

    def codes() -> list[int]:
        for qos in (1, 2):
            client.publish("quiet/a", b"x", qos).wait_for_publish(WAIT_S)
        return [told.get(timeout=WAIT_S) for _ in range(2)]

    try:
        # paho speaks of QoS 2 by its PUBCOMP, which has no such word.
        assert codes() == [0x10, 0]
        to = ["-h", "127.0.0.1", "-p", str(mesh.port("mqtt")), "-V", "5"]
        ended = run_client([require("mosquitto_pub"), *to, "-q", "1", "-t", "quiet/a", "-m", "x"])
        assert ended.code == 0
        with urllib.request.urlopen(f"{mesh.url}/v1/stream?filter=quiet/%23", timeout=WAIT_S):
            assert codes() == [0, 0]
    finally:
        client.disconnect()
        client.loop_stop()

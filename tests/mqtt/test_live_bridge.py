"""A mosquitto that is told to be a bridge to us connects as it is configured by default, and messages cross it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import Child, run_client

BRIDGE = """
user root
listener 0 {socket}
allow_anonymous true
connection to-the-mesh
address {address}
restart_timeout 1
topic # both 1 here/ there/
bridge_protocol_version {version}
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv50"])
def test_a_bridge_of_mosquitto_s(
    version: str, tmp_path: Path, mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
) -> None:
    """Before 5.0 it says 0x80 more than its level at first, which we do not take; told so, it leaves that."""
    mosquitto, pub = require("mosquitto"), require("mosquitto_pub")
    mesh = mesh_process(memory=True, listeners=MQTT_ONLY)
    host, port = mesh.address("mqtt")
    config = tmp_path / "bridge.conf"
    socket = tmp_path / "local.sock"
    config.write_text(BRIDGE.format(socket=socket, address=f"{host}:{port}", version=version), "utf-8")
    with Child([mosquitto, "-v", "-c", str(config)]) as bridge:
        bridge.until_complained("Received SUBACK from local.")
        run_client([pub, "-h", host, "-p", str(port), "-t", "there/x", "-m", "in", "-q", "1"])
        bridge.until_complained(r"Received PUBLISH from local\..*'here/x'")
        run_client([pub, "--unix", str(socket), "-t", "here/y", "-m", "out", "-q", "1"])
        bridge.until_complained(r"Sending PUBLISH to local\..*'there/y'")

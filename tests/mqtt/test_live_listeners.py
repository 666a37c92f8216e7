"""Real clients on every kind of MQTT listener of a mesh in a process of its own."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import stat
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.clients import tools
from tests.clients.mesh import MeshProcess
from tests.clients.processes import Child, run_client
from tests.mqtt.certificates import Authority

pytestmark = pytest.mark.slow

WAIT_S = 20.0

CONFIG = """
[listen]
mqtt = "127.0.0.1:0"
kafka = "off"
http = "127.0.0.1:0"

[tls]
certificate = "{server}"
private_key = "{server_key}"

[[mqtt.listeners]]
name = "devices"
address = "127.0.0.1:0"
tls = true
client_certificates = "required"
client_ca = "{ca}"
certificate_users = "any"

[[mqtt.listeners]]
name = "local"
address = "unix:{socket}"
socket_mode = "660"

[[mqtt.listeners]]
name = "pages"
address = "127.0.0.1:0"
transport = "websocket"
path = "/mqtt"

[[mqtt.listeners]]
name = "secure-pages"
address = "127.0.0.1:0"
transport = "websocket"
tls = true

[[mqtt.listeners]]
name = "relayed"
address = "127.0.0.1:0"
proxy_protocol = true
anonymous = "always"

[[mqtt.listeners]]
name = "legacy"
address = "127.0.0.1:0"
versions = ["3.1.1"]
"""


class Plant:
    """A mesh with one listener of each kind, and the files its clients need."""

    def __init__(self, mesh: MeshProcess, authority: Authority, folder: Path) -> None:
        self.mesh = mesh
        self.ca = str(authority.ca)
        self.device = [str(path) for path in authority.sign("device", "/CN=dev1")]
        self.foreign = [str(path) for path in Authority(tools.find("openssl"), folder / "x").sign("device", "/CN=dev1")]
        self.socket = folder / "mqtt.sock"

    def at(self, listener: str) -> list[str]:
        host, port = self.mesh.address(listener)
        return ["-h", host, "-p", str(port)]

    def connections(self) -> dict[str, dict[str, Any]]:
        """What the administration says of who is connected, by agent."""
        with urllib.request.urlopen(f"{self.mesh.url}/v1/admin/connections", timeout=WAIT_S) as answer:
            return {found["agent"]: found for found in json.load(answer)["connections"]}

    def reader(self, agent: str) -> dict[str, Any] | None:
        """The same of one agent, once it has subscribed."""
        found = self.connections().get(agent)
        return found if found is not None and found["subscriptions"] else None


def config_for(folder: Path, authority: Authority) -> str:
    server, server_key = authority.sign("server", "/CN=localhost", "IP:127.0.0.1,DNS:localhost")
    return CONFIG.format(server=server, server_key=server_key, ca=authority.ca, socket=folder / "mqtt.sock")


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    authority = Authority(require("openssl"), folder / "pki")
    with MeshProcess(folder / "mesh", config_for(folder, authority), memory=True, listeners={}) as mesh:
        yield Plant(mesh, authority, folder)


# -- mosquitto's -------------------------------------------------------------------------------------


def test_mosquitto_by_a_unix_socket(plant: Plant, require: Callable[[str], str]) -> None:
    there = ["--unix", str(plant.socket)]
    with Child([require("mosquitto_sub"), *there, "-i", "s", "-t", "unix/#", "-C", "1"]) as reader:
        found = reader.until(lambda: plant.reader("s"), "subscription")
        assert (found["listener"], found["peer"]) == ("local", "unix")
        run_client([require("mosquitto_pub"), *there, "-t", "unix/a", "-m", "by a file", "-q", "2"])
        assert "by a file" in reader.wait(WAIT_S).stdout
    assert stat.S_IMODE(plant.socket.lstat().st_mode) == 0o660


@pytest.mark.parametrize("version", ["311", "5"])
def test_mosquitto_with_a_client_certificate(plant: Plant, require: Callable[[str], str], version: str) -> None:
    there = [*plant.at("devices"), "--cafile", plant.ca, "-V", version]
    there += ["--cert", plant.device[0], "--key", plant.device[1]]
    reading = [require("mosquitto_sub"), *there, "-i", f"s{version}", "-t", f"cert/{version}", "-C", "1"]
    with Child(reading) as reader:
        found = reader.until(lambda: plant.reader(f"s{version}"), "subscription")
        assert (found["listener"], found["principal"]) == ("devices", "dev1")
        run_client([require("mosquitto_pub"), *there, "-t", f"cert/{version}", "-m", "vouched for", "-q", "1"])
        assert "vouched for" in reader.wait(WAIT_S).stdout


def test_mosquitto_without_the_right_certificate(plant: Plant, require: Callable[[str], str]) -> None:
    publish = [require("mosquitto_pub"), *plant.at("devices"), "--cafile", plant.ca, "-t", "never", "-m", "x"]
    before = _errors(plant)
    for shown in ([], ["--cert", plant.foreign[0], "--key", plant.foreign[1]]):
        assert run_client([*publish, *shown], code=None).code != 0
    plant.mesh.child.until(lambda: _errors(plant) - before == 2 or None, "two errors counted")
    assert plant.mesh.stderr.count("mqtt connection closed before it began") >= 2


def _errors(plant: Plant) -> int:
    with urllib.request.urlopen(f"{plant.mesh.url}/metrics", timeout=WAIT_S) as answer:
        lines = answer.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith('dragoman_protocol_errors_total{protocol="mqtt"}')]
    return int(float(line.split()[-1]))


@pytest.mark.parametrize(("version", "code"), [("mqttv311", 0), ("mqttv5", 132), ("mqttv31", 1)])
def test_mosquitto_in_a_version_that_is_not_taken(
    plant: Plant, require: Callable[[str], str], version: str, code: int
) -> None:
    publish = [require("mosquitto_pub"), *plant.at("legacy"), "-V", version, "-i", "v", "-t", "x", "-m", "x"]
    assert run_client(publish, code=None).code == code


# -- paho --------------------------------------------------------------------------------------------


def talk(client: paho.Client, host: str, port: int) -> tuple[str, bytes]:
    """Subscribes, publishes at QoS 2 and gives back what comes."""
    heard: queue.Queue[paho.MQTTMessage] = queue.Queue()
    client.on_connect = lambda client, *_: client.subscribe("talk/#", qos=2)
    client.on_subscribe = lambda client, *_: client.publish("talk/a", b"hello", qos=2)
    client.on_message = lambda _, __, message: heard.put(message)
    client.connect(host, port)
    client.loop_start()
    try:
        message = heard.get(timeout=WAIT_S)
    finally:
        client.disconnect()
        client.loop_stop()
    return message.topic, message.payload


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
@pytest.mark.parametrize("listener", ["devices", "pages", "secure-pages", "local"])
def test_paho(plant: Plant, listener: str, version: MQTTProtocolVersion) -> None:
    carrier: Any = {"devices": "tcp", "local": "unix"}.get(listener, "websockets")
    client = paho.Client(CallbackAPIVersion.VERSION2, f"paho-{listener}-{version}", protocol=version, transport=carrier)
    if listener == "devices":
        client.tls_set(plant.ca, *plant.device)
    elif listener == "secure-pages":
        client.tls_set(plant.ca)
    host, port = (str(plant.socket), 1) if listener == "local" else plant.mesh.address(listener)
    assert talk(client, host, port) == ("talk/a", b"hello")


MQTT_JS = """
import mqtt from "mqtt";
const [url, version] = process.argv.slice(2);
const client = await mqtt.connectAsync(url, { protocolVersion: Number(version), clientId: "js-" + version });
const heard = new Promise((done) => client.on("message", (topic, payload) => done(topic + " " + payload)));
await client.subscribeAsync("js/" + version, { qos: 1 });
await client.publishAsync("js/" + version, "from a page", { qos: 1 });
console.log(await heard);
await client.endAsync();
"""


@pytest.mark.parametrize("version", ["3", "4", "5"])
def test_mqtt_js_on_a_port_for_pages(plant: Plant, require: Callable[[str], str], version: str) -> None:
    require("npm:mqtt")
    host, port = plant.mesh.address("pages")
    oldest = '{ protocolId: "MQIsdp", protocolVersion'
    script = MQTT_JS.replace("{ protocolVersion", oldest) if version == "3" else MQTT_JS
    argv = [require("node"), "--input-type=module", "-", f"ws://{host}:{port}/mqtt", version]
    said = run_client(argv, stdin=script.encode(), cwd=tools.NODE_FOLDER).stdout
    assert said.strip() == f"js/{version} from a page"


# -- operators ---------------------------------------------------------------------------------------


def test_the_administration_shows_whom_a_relay_speaks_for(plant: Plant) -> None:
    with socket.create_connection(plant.mesh.address("relayed"), timeout=WAIT_S) as relay:
        relay.sendall(b"PROXY TCP4 203.0.113.9 10.0.0.1 50000 1883\r\n\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x03far")
        assert relay.recv(4) == b"\x20\x02\x00\x00"
        found = plant.connections()["far"]
        assert (found["listener"], found["peer"]) == ("relayed", "203.0.113.9:50000")


def test_start_up_lines_and_ready_file_name_every_listener(plant: Plant) -> None:
    names = {"mqtt", "devices", "local", "pages", "secure-pages", "relayed", "legacy", "http"}
    ready = json.loads((plant.mesh.folder / "ready.json").read_text())
    assert set(ready) == {"pid", *names}
    assert ready["local"] == f"unix:{plant.socket}"
    said = plant.mesh.child.stdout
    for name, about in (
        ("devices", "tcp, tls, certificates required"),
        ("pages", "websocket"),
        ("relayed", "tcp, PROXY"),
    ):
        assert f"mqtt   {ready[name]}  ({name}: {about})" in said


def test_a_unix_socket_left_by_a_killed_mesh_is_taken_over_and_given_back(
    tmp_path: Path, require: Callable[[str], str], mesh_process: Callable[..., MeshProcess]
) -> None:
    path = tmp_path / "mqtt.sock"
    config = '[listen]\nmqtt = "off"\nkafka = "off"\nhttp = "off"\n[[mqtt.listeners]]\nname = "local"\n'
    config += f'address = "unix:{path}"\n'
    mesh = mesh_process(config, memory=True, listeners={})
    publish = [require("mosquitto_pub"), "--unix", str(path), "-t", "x", "-m", "x", "-q", "1"]
    run_client(publish)
    os.kill(mesh.pid, signal.SIGKILL)
    mesh.kill()
    assert path.is_socket()
    mesh.restart()
    run_client(publish)
    serve = [mesh.child.argv[0], "-m", "dragoman", "serve", "--data", ":memory:", "--config", str(mesh.config)]
    second = run_client(serve, code=None, cwd=tmp_path)
    assert second.code != 0
    assert f"another program listens on {path}" in second.stderr
    run_client(publish)
    assert mesh.terminate().code == 0
    assert not path.exists()

"""Real clients on a real mesh: paho, aiomqtt, MQTT.js, mosquitto's, and bare sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from dragoman.adapters.mqtt.codec import CLIENT, Decoder
from dragoman.adapters.mqtt.encoders import encode_connect, encode_publish, encode_subscribe
from dragoman.adapters.mqtt.packets import Connack, Connect, Disconnect, Packet, Publish, Subscribe, Subscription
from dragoman.adapters.serving.credentials import hash_password
from dragoman.adapters.serving.settings import ListenSettings, LoginSettings, TlsSettings, UserSettings
from dragoman.config import Config
from dragoman.mesh import Mesh
from tests.clients import tools
from tests.clients.mesh import MeshProcess
from tests.clients.processes import Child, run_client

pytestmark = pytest.mark.slow

WAIT_S = 20.0
V4, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """One mesh for all tests that do not end it; each uses names of its own."""
    with MeshProcess(tmp_path_factory.mktemp("live"), memory=True, listeners={"mqtt": "127.0.0.1:0"}) as process:
        yield process


class Paho:
    """A paho client with its network thread; what it gets lands in queues."""

    def __init__(
        self,
        mesh: MeshProcess,
        client_id: str,
        version: MQTTProtocolVersion = V4,
        *,
        kept: bool = False,
        username: str | None = None,
        password: str | None = None,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        options = {"clean_session": not kept} if version == V4 else {}
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, **options)
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.connects: queue.Queue[tuple[int, bool]] = queue.Queue()
        self.subscribed: queue.Queue[list[int]] = queue.Queue()
        self.published: set[int] = set()
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_connect = lambda c, u, flags, code, props: self.connects.put((code.value, flags.session_present))
        self.client.on_subscribe = lambda c, u, mid, codes, props: self.subscribed.put([code.value for code in codes])
        self.client.on_publish = lambda c, u, mid, code, props: self.published.add(mid)
        self.client.reconnect_delay_set(1, 1)
        if username is not None:
            self.client.username_pw_set(username, password)
        if will is not None:
            self.client.will_set(*will)
        extra: dict[str, Any] = {}
        if version == V5:
            properties = PahoProperties(PacketTypes.CONNECT)
            if kept:
                properties.SessionExpiryInterval = 3_600
            extra = {"clean_start": not kept, "properties": properties}
        self.client.connect(*mesh.address("mqtt"), keepalive=30, **extra)
        self.client.loop_start()
        self.code, self.present = self.connects.get(timeout=WAIT_S)

    def __enter__(self) -> Paho:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, filter_: str, qos: int = 0) -> list[int]:
        self.client.subscribe(filter_, qos)
        return self.subscribed.get(timeout=WAIT_S)

    def take(self, count: int) -> list[tuple[str, bytes, int, bool]]:
        found = [self.messages.get(timeout=WAIT_S) for _ in range(count)]
        return [(m.topic, m.payload, m.qos, m.retain) for m in found]

    def break_off(self) -> None:
        """Cuts the connection without DISCONNECT, as a crash of the client does."""
        self.client.loop_stop()
        sock = self.client.socket()
        assert sock is not None
        sock.shutdown(socket.SHUT_RDWR)


class Bare:
    """A socket that speaks MQTT by hand."""

    def __init__(self, mesh: MeshProcess, version: int = 5) -> None:
        self.socket = socket.create_connection(mesh.address("mqtt"), timeout=WAIT_S)
        self.version = version
        self.decoder = Decoder(max_packet_bytes=1 << 28, role=CLIENT, version=version)
        self.waiting: list[Packet] = []

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def packet(self) -> Packet | None:
        """The next packet; None when the mesh has closed."""
        while not self.waiting:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self.waiting = self.decoder.feed(data)
        return self.waiting.pop(0)

    def connect(self, client_id: str, keepalive: int = 0) -> None:
        self.socket.sendall(encode_connect(Connect(self.version, client_id, True, keepalive)))
        assert isinstance(self.packet(), Connack)


@pytest.mark.parametrize("version", [V4, V5])
def test_paho_at_every_qos_retained_and_properties(mesh: MeshProcess, version: MQTTProtocolVersion):
    name = f"paho/{version}"
    with Paho(mesh, f"sub{version}", version) as subscriber, Paho(mesh, f"pub{version}", version) as publisher:
        assert subscriber.subscribe(f"{name}/#", 2) == [2]
        for qos in (0, 1, 2):
            publisher.client.publish(f"{name}/{qos}", b"%d" % qos, qos).wait_for_publish(WAIT_S)
        assert sorted(subscriber.take(3)) == [(f"{name}/{qos}", b"%d" % qos, qos, False) for qos in (0, 1, 2)]
        properties = None
        if version == V5:
            properties = PahoProperties(PacketTypes.PUBLISH)
            properties.UserProperty = [("b", "1"), ("a", "2")]
            properties.ResponseTopic = "reply"
            properties.CorrelationData = b"\x00\x01"
        publisher.client.publish(f"{name}/kept", b"value", 1, True, properties).wait_for_publish(WAIT_S)
        assert subscriber.take(1) == [(f"{name}/kept", b"value", 1, False)]
        with Paho(mesh, f"late{version}", version) as late:
            late.subscribe(f"{name}/kept", 1)
            message = late.messages.get(timeout=WAIT_S)
            assert (message.payload, message.retain) == (b"value", True)
            if version == V5:
                assert message.properties is not None
                assert message.properties.UserProperty == [("b", "1"), ("a", "2")]
                assert message.properties.ResponseTopic == "reply"
                assert message.properties.CorrelationData == b"\x00\x01"


def test_will_when_a_client_breaks_off(mesh: MeshProcess):
    with Paho(mesh, "will-watcher") as watcher, Paho(mesh, "will-owner", V5, will=("wills/owner", b"gone")) as owner:
        watcher.subscribe("wills/#", 1)
        owner.break_off()
        assert watcher.take(1) == [("wills/owner", b"gone", 0, False)]


@pytest.mark.parametrize("version", [V4, V5])
def test_a_kept_session_finds_what_was_said_meanwhile(mesh: MeshProcess, version: MQTTProtocolVersion):
    name = f"sleep/{version}"
    with Paho(mesh, f"sleeper{version}", version, kept=True) as sleeper:
        assert not sleeper.present
        sleeper.subscribe(name, 1)
    with Paho(mesh, f"waker{version}", version) as waker:
        for n in range(100):
            info = waker.client.publish(name, b"%d" % n, 1)
        info.wait_for_publish(WAIT_S)
    with Paho(mesh, f"sleeper{version}", version, kept=True) as sleeper:
        assert sleeper.present
        assert [payload for _, payload, _, _ in sleeper.take(100)] == [b"%d" % n for n in range(100)]


def test_a_megabyte(mesh: MeshProcess):
    payload = bytes(range(256)) * 4_096
    with Paho(mesh, "big-sub", V5) as subscriber, Paho(mesh, "big-pub", V4) as publisher:
        subscriber.subscribe("big", 2)
        for qos in (0, 1, 2):
            publisher.client.publish("big", payload, qos).wait_for_publish(WAIT_S)
        assert [got == payload for _, got, _, _ in subscriber.take(3)] == [True] * 3


def test_mosquitto_clients(mesh: MeshProcess, require: Callable[[str], str]):
    host, port = mesh.address("mqtt")
    where = ["-h", host, "-p", str(port), "-V", "5"]
    with Child(
        [require("mosquitto_sub"), *where, "-t", "mosq/#", "-q", "2", "-C", "9", "-F", "%t %q %p"]
    ) as subscriber:
        # It says nowhere in time that it has subscribed, so it is told until it has enough.
        for _ in range(100):
            for qos in "012":
                run_client([require("mosquitto_pub"), *where, "-t", f"mosq/{qos}", "-q", qos, "-m", f"hello {qos}"])
            if not subscriber.running:
                break
        said = subscriber.wait().stdout.splitlines()
    assert sorted(said) == sorted([f"mosq/{qos} {qos} hello {qos}" for qos in "012"] * 3)
    run_client([require("mosquitto_pub"), *where, "-t", "mosq/kept", "-r", "-m", "kept"])
    told = run_client([require("mosquitto_sub"), *where, "-t", "mosq/kept", "-C", "1", "-F", "%r %p"]).stdout
    assert told == "1 kept\n"


MQTT_JS = """
import mqtt from "mqtt";
const [url, version] = process.argv.slice(2);
const options = { protocolVersion: Number(version), clean: true, reconnectPeriod: 0 };
const sub = await mqtt.connectAsync(url, { ...options, clientId: "js-sub-" + version });
const got = [];
const all = new Promise((done) => sub.on("message", (topic, payload, packet) => {
  got.push([topic, payload.toString(), packet.qos]);
  if (got.length === 3) done();
}));
await sub.subscribeAsync("js/" + version + "/#", { qos: 2 });
const pub = await mqtt.connectAsync(url, { ...options, clientId: "js-pub-" + version });
for (const qos of [0, 1, 2]) await pub.publishAsync("js/" + version + "/" + qos, "hello " + qos, { qos });
await all;
console.log(JSON.stringify(got));
await pub.endAsync();
await sub.endAsync();
"""


@pytest.mark.parametrize("version", ["4", "5"])
def test_mqtt_js(mesh: MeshProcess, require: Callable[[str], str], version: str):
    require("npm:mqtt")
    host, port = mesh.address("mqtt")
    argv = [require("node"), "--input-type=module", "-", f"mqtt://{host}:{port}", version]
    said = run_client(argv, stdin=MQTT_JS.encode(), cwd=tools.NODE_FOLDER).stdout
    expected = ",".join(f'["js/{version}/{qos}","hello {qos}",{qos}]' for qos in (0, 1, 2))
    assert said.strip() == f"[{expected}]"


def test_aiomqtt_over_tls_with_a_password(tmp_path: Path, require: Callable[[str], str]):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = [require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    key.chmod(0o600)
    config = Config(
        data=":memory:",
        listen=ListenSettings(mqtt="off", mqtts="127.0.0.1:0", http="off"),
        tls=TlsSettings(certificate=str(certificate), private_key=str(key)),
        login=LoginSettings(users=(UserSettings(name="ann", password=hash_password(b"right")),), anonymous="never"),
    )

    async def main() -> None:
        async with Mesh(config) as mesh:
            port = int(mesh.addresses["mqtts"].rpartition(":")[2])

            def client(password: str) -> aiomqtt.Client:
                context = ssl.create_default_context(cafile=str(certificate))
                return aiomqtt.Client("127.0.0.1", port, username="ann", password=password, tls_context=context)

            async with client("right") as ann:
                await ann.subscribe("tls/#", 1)
                await ann.publish("tls/x", b"secret", 1)
                message = await asyncio.wait_for(anext(aiter(ann.messages)), WAIT_S)
                assert message.payload == b"secret"
            with pytest.raises(aiomqtt.MqttError, match=r"(?i)bad user name|not authori[sz]ed|code:?.?4"):
                async with client("wrong"):
                    pass

    asyncio.run(main())


def test_a_wrong_password_is_told_in_both_versions(mesh_process: Callable[..., MeshProcess]):
    hashed = hash_password(b"right")
    config = f'[login]\nanonymous = "never"\n[[login.users]]\nname = "ann"\npassword = "{hashed}"\n'
    mesh = mesh_process(config, memory=True, listeners={"mqtt": "127.0.0.1:0"})
    for version, code in ((V4, 134), (V5, 134)):
        for password, expected in (("right", 0), ("wrong", code), (None, code)):
            client = Paho(mesh, "ann", version, username="ann" if password else None, password=password)
            assert client.code == expected, (version, password)
            client.client.disconnect()
            client.client.loop_stop()


def test_five_hundred_at_once(mesh: MeshProcess):
    with contextlib.ExitStack() as all_of_them:
        clients = [all_of_them.enter_context(Bare(mesh, 4)) for _ in range(500)]
        for n, client in enumerate(clients):
            client.socket.sendall(encode_connect(Connect(4, f"crowd{n}", True)))
            client.socket.sendall(encode_subscribe(4, Subscribe(1, [Subscription("crowd/all")])))
        for client in clients:
            assert isinstance(client.packet(), Connack)
            client.packet()
        clients[0].socket.sendall(encode_publish(4, b"crowd/all", b"hello"))
        for client in clients:
            packet = client.packet()
            assert isinstance(packet, Publish)
            assert packet.payload == b"hello"


def test_a_byte_at_a_time(mesh: MeshProcess):
    with Bare(mesh) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = encode_connect(Connect(5, "slowly", True))
        data += encode_subscribe(5, Subscribe(1, [Subscription("slowly")])) + encode_publish(5, b"slowly", b"there")
        for at in range(len(data)):
            client.socket.sendall(data[at : at + 1])
        kinds = [type(client.packet()).__name__ for _ in range(3)]
    assert kinds == ["Connack", "Suback", "Publish"]


def test_a_half_open_peer_ends_by_its_keepalive(mesh: MeshProcess):
    with Bare(mesh) as client:
        client.connect("silent", keepalive=1)
        before = time.monotonic()
        packet = client.packet()
        assert isinstance(packet, Disconnect)
        assert packet.code == 0x8D
        assert client.packet() is None
        assert 1.0 < time.monotonic() - before < 5.0


def test_a_peer_that_never_reads_disturbs_nobody(mesh: MeshProcess):
    with Bare(mesh) as deaf, Paho(mesh, "listening") as listening, Paho(mesh, "talking") as talking:
        deaf.connect("deaf")
        deaf.socket.sendall(encode_subscribe(5, Subscribe(1, [Subscription("loud/#")])))
        deaf.packet()
        listening.subscribe("loud/#", 0)
        for n in range(300):
            talking.client.publish("loud/x", b"%04d" % n + b"x" * 50_000)
        assert [payload[:4] for _, payload, _, _ in listening.take(300)] == [b"%04d" % n for n in range(300)]
        info = talking.client.publish("loud/x", b"end", 1)
        info.wait_for_publish(WAIT_S)
        assert listening.take(1)[0][1] == b"end"


def test_acknowledged_messages_survive_kill_9_and_qos_2_is_exactly_once(mesh_process: Callable[..., MeshProcess]):
    mesh = mesh_process(listeners={"mqtt": "127.0.0.1:0"})
    count = 400
    with (
        Paho(mesh, "reader", V4, kept=True) as reader,
        Paho(mesh, "writer-1", V4, kept=True) as once,
        Paho(mesh, "writer-2", V5, kept=True) as exactly,
    ):
        reader.subscribe("one", 1)
        reader.subscribe("two", 2)
        sent_1 = [once.client.publish("one", b"%d" % n, 1) for n in range(count)]
        sent_2 = [exactly.client.publish("two", b"%d" % n, 2) for n in range(count)]
        sent_2[count // 4].wait_for_publish(WAIT_S)
        assert len(exactly.published) < count, "killed while publishing"
        mesh.kill()
        mesh.restart()
        for info in (*sent_1, *sent_2):
            info.wait_for_publish(WAIT_S)
        got: dict[str, list[int]] = {"one": [], "two": []}
        while len(set(got["one"])) < count or len(set(got["two"])) < count:
            topic, payload, _, _ = reader.take(1)[0]
            got[topic].append(int(payload))
        with contextlib.suppress(queue.Empty):
            while True:
                message = reader.messages.get(timeout=0.5)
                got[message.topic].append(int(message.payload))
    assert sorted(got["two"]) == list(range(count)), "exactly once"
    assert set(got["one"]) == set(range(count)), "at least once"
    first = list(dict.fromkeys(got["two"]))
    assert first == sorted(first), "in order"

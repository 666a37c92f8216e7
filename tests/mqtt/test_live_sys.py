"""``$SYS`` seen by who reads it today: mosquitto_sub and paho; beside a real mosquitto, which is told the same."""

from __future__ import annotations

import contextlib
import json
import queue
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.clients.mesh import MeshProcess
from tests.clients.processes import run_client
from tests.links.outsides import Mosquitto

pytestmark = pytest.mark.slow

WAIT_S = 20.0
SYS_1_S = "[mqtt]\nsys_interval_s = 1\n"
V4, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
SINCE_2_1 = {"connections/socket/count"}
NOT_SAID = {"heap/current", "heap/maximum", "messages/stored", "store/messages/count", "store/messages/bytes"}
"""What docs/mqtt.md says is left out."""


@contextlib.contextmanager
def connected(
    address: tuple[str, int], client_id: str, version: MQTTProtocolVersion = V4
) -> Iterator[tuple[paho.Client, queue.Queue[paho.MQTTMessage]]]:
    """A paho client that was taken in, and what it gets."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=version)
    messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
    codes: queue.Queue[int] = queue.Queue()
    client.on_message = lambda c, u, message: messages.put(message)
    client.on_connect = lambda c, u, flags, code, props: codes.put(code.value)
    client.on_subscribe = lambda c, u, mid, granted, props: codes.put(granted[0].value)
    client.connect(*address)
    client.loop_start()
    assert codes.get(timeout=WAIT_S) == 0
    client.user_data_set(codes)
    try:
        yield client, messages
    finally:
        client.disconnect()
        client.loop_stop()


def subscribed(client: paho.Client, filter_: str, options: SubscribeOptions | None = None) -> int:
    """Subscribes at QoS 0; the code of the SUBACK."""
    client.subscribe(filter_, 0, options=options)
    code: int = client.user_data_get().get(timeout=WAIT_S)
    return code


def until(messages: queue.Queue[paho.MQTTMessage], wanted: dict[str, str]) -> dict[str, str]:
    """Reads until the newest values hold all that is wanted; every newest value, by name below ``$SYS/broker/``."""
    newest: dict[str, str] = {}
    end = time.monotonic() + WAIT_S
    while not wanted.items() <= newest.items():
        try:
            message = messages.get(timeout=end - time.monotonic())
        except (queue.Empty, ValueError):
            got = {name: newest.get(name) for name in wanted}
            pytest.fail(f"wanted {wanted}, got {got}")
        newest[message.topic.removeprefix("$SYS/broker/")] = message.payload.decode()
    return newest


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """One mesh for the tests that count nothing."""
    with MeshProcess(tmp_path_factory.mktemp("sys"), SYS_1_S, memory=True) as process:
        yield process


@pytest.fixture(params=["dragoman", "mosquitto"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, require: Callable[[str], str]) -> Iterator[tuple[str, int]]:
    """A broker of its own, ours or the one we take after."""
    if request.param == "dragoman":
        with MeshProcess(tmp_path, SYS_1_S, memory=True, listeners={"mqtt": "127.0.0.1:0"}) as process:
            yield process.address("mqtt")
    else:
        with Mosquitto(require("mosquitto"), tmp_path, more="sys_interval 1").start() as outside:
            yield "127.0.0.1", outside.port


def test_after_known_traffic_both_say_the_same(broker: tuple[str, int]):
    """The numbers that reading them does not change."""
    with (
        connected(broker, "monitor") as (monitor, told),
        connected(broker, "reader") as (reader, read),
        connected(broker, "writer") as (writer, _),
    ):
        assert subscribed(monitor, "$SYS/#") == 0
        assert subscribed(reader, "x/#") == 0
        assert subscribed(reader, "y") == 0
        assert subscribed(reader, "$share/g/z") == 0
        for n in range(5):
            writer.publish("x/0", b"12345", 0)
            writer.publish(f"x/{n}", b"123", 1).wait_for_publish(WAIT_S)
        for _ in range(10):
            read.get(timeout=WAIT_S)
        with connected(broker, "brief"):
            pass
        wanted = {
            # 4 CONNECT, 4 SUBSCRIBE, 10 PUBLISH, 1 DISCONNECT. Not at QoS 2: mosquitto 2.0 does not count those.
            "messages/received": "19",
            "bytes/received": str(
                sum(14 + len(c) for c in ("monitor", "reader", "writer", "brief"))
                + sum(7 + len(f) for f in ("$SYS/#", "x/#", "y", "$share/g/z"))
                + 5 * (2 + 2 + 3 + 5)
                + 5 * (2 + 2 + 3 + 2 + 3)
                + 2
            ),
            "publish/messages/received": "10",
            "publish/bytes/received": str(5 * 5 + 5 * 3),
            "publish/messages/dropped": "0",
            "clients/connected": "3",
            "clients/active": "3",
            "clients/total": "3",
            "clients/disconnected": "0",
            "clients/inactive": "0",
            "clients/expired": "0",
            "shared_subscriptions/count": "1",
            "subscriptions/count": "3",
        }
        until(told, wanted)


def test_the_names_are_mosquitto_s(mesh: MeshProcess, tmp_path: Path, require: Callable[[str], str]):
    with Mosquitto(require("mosquitto"), tmp_path, more="sys_interval 1").start() as outside:
        theirs = names_of(("127.0.0.1", outside.port))
    ours = names_of(mesh.address("mqtt"))
    assert ours - theirs == SINCE_2_1
    assert theirs - ours == NOT_SAID


def names_of(address: tuple[str, int]) -> set[str]:
    with connected(address, "names") as (client, told):
        subscribed(client, "$SYS/#")
        # mosquitto says clients/maximum for the first time when there has been a client.
        return set(until(told, {"clients/maximum": "1", "clients/connected": "1"}))


@pytest.mark.parametrize("version", [V4, V5])
@pytest.mark.parametrize("filter_", ["$SYS/#", "$SYS/broker/+", "$SYS/broker/uptime"])
def test_paho_reads_every_kind_of_filter(mesh: MeshProcess, version: MQTTProtocolVersion, filter_: str):
    with connected(mesh.address("mqtt"), "kinds", version) as (client, told):
        subscribed(client, filter_)
        flags: list[tuple[int, bool]] = []
        while len(flags) < 2:
            message = told.get(timeout=WAIT_S)
            if message.topic == "$SYS/broker/uptime":
                flags.append((int(message.payload.removesuffix(b" seconds")), message.retain))
    first = flags[0][0]
    assert flags == [(first, True), (first + 1, False)]


def test_retain_as_published(mesh: MeshProcess):
    with connected(mesh.address("mqtt"), "rap", V5) as (client, told):
        subscribed(client, "$SYS/broker/uptime", SubscribeOptions(retainAsPublished=True))
        assert [told.get(timeout=WAIT_S).retain for _ in range(2)] == [True, True]


@pytest.mark.parametrize("version", ["mqttv311", "5"])
def test_mosquitto_sub(mesh: MeshProcess, require: Callable[[str], str], version: str):
    host, port = mesh.address("mqtt")
    sub = [require("mosquitto_sub"), "-h", host, "-p", str(port), "-V", version, "-F", "%r %q %t %p"]
    assert run_client([*sub, "-t", "$SYS/broker/version", "-C", "1"]).stdout.startswith(
        "1 0 $SYS/broker/version dragoman "
    )
    lines = run_client([*sub, "-t", "$SYS/broker/uptime", "-q", "2", "-C", "2"]).stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [[retain, "2", "$SYS/broker/uptime"] for retain in "10"]
    silent = run_client([*sub, "-t", "#", "-t", "+/broker/uptime", "-W", "3"], code=None)
    assert silent.stdout == ""


def test_other_protocols_read_it_as_channels(mesh: MeshProcess):
    def get(path: str, **headers: str) -> urllib.request.Request:
        return urllib.request.Request(mesh.url + path, headers=headers)

    with urllib.request.urlopen(get("/v1/channels/%24SYS/broker/version?retained=true"), timeout=WAIT_S) as answer:
        assert answer.read().startswith(b"dragoman version ")
    stream = get("/v1/stream?filter=%24SYS/broker/%2B", Accept="text/event-stream")
    said: list[bool] = []
    with urllib.request.urlopen(stream, timeout=WAIT_S) as events:
        while len(said) < 3:
            line = events.readline().decode()
            if line.startswith("data: ") and json.loads(line[6:])["channel"] == "$SYS/broker/uptime":
                said.append(json.loads(line[6:]).get("retained", False))
    assert said == [True, False, False]

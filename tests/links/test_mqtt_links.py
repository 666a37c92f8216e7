"""Links to a real mosquitto: both ways, kept over kills of either side, refused, absent, and in circles."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.config import Config
from dragoman.mesh import Mesh
from dragoman.routing.message import Envelope
from tests.clients.mesh import MeshProcess
from tests.links.outsides import WAIT_S, Mosquitto, free_port, link, linked, reports, route, settled, until, up

pytestmark = pytest.mark.slow

V5 = aiomqtt.ProtocolVersion.V5
HEADERS = (("a", b"1"), ("b", b"\xff"), ("a", b"2"), ("n", None), ("mesh-id", b"x"))


@pytest.fixture
def mosquitto(require: Callable[[str], str], tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(require("mosquitto"), tmp_path / "mosquitto") as broker:
        yield broker


@contextlib.asynccontextmanager
async def client(port: int, identifier: str = "", *, kept: bool = False) -> AsyncIterator[aiomqtt.Client]:
    wanted = Properties(PacketTypes.CONNECT)
    wanted.SessionExpiryInterval = 3_600 if kept else 0
    wanted.ReceiveMaximum = 1_000
    async with aiomqtt.Client(
        "127.0.0.1", port, identifier=identifier, protocol=V5, clean_start=not kept, properties=wanted
    ) as connected:
        connected.pending_calls_threshold = 10_000
        yield connected


async def heard(connected: aiomqtt.Client) -> aiomqtt.Message:
    return await asyncio.wait_for(anext(connected.messages), WAIT_S)


def user(message: aiomqtt.Message) -> dict[str, str]:
    return dict(getattr(message.properties, "UserProperty", []))


def test_what_comes_in_with_its_whole_envelope(mosquitto: Mosquitto):
    async def main() -> None:
        mosquitto.start()
        settings = link("mqtt", mosquitto.port, pull=(route("plant/+/#", "in/{1}/{2}"),))
        async with linked(settings) as mesh, client(mosquitto.port) as outside, mesh.subscribe("in/#") as reading:
            await up(mesh)
            said = Properties(PacketTypes.PUBLISH)
            said.ContentType, said.ResponseTopic, said.CorrelationData = "image/x", "back/here", b"\x00\xff"
            said.PayloadFormatIndicator, said.MessageExpiryInterval = 1, 60
            said.UserProperty = [("a", "1"), ("b;b64", "/w=="), ("a", "2"), ("n;null", ""), ("mesh-key", "k")]
            said.UserProperty = [("mesh-from", "liar"), ("mesh-id", "1-1"), ("mesh-sent-ms", "5")]
            said.UserProperty = ("mesh-h-mesh-id", "x")
            await outside.publish("plant/l1/t/x", b"\xff\x00", qos=1, retain=True, properties=said)
            message = await asyncio.wait_for(anext(reading), WAIT_S)
            envelope = message.envelope
            assert envelope is not None
            assert (message.name, message.payload, message.wish, message.retain) == ("in/l1/t/x", b"\xff\x00", 1, True)
            assert message.sender == "link:out"
            assert (envelope.content_type, envelope.reply_to) == ("image/x", "back/here")
            assert envelope.correlation == b"\x00\xff"
            assert envelope.headers == HEADERS
            assert (envelope.key, envelope.sent_ms, envelope.hops, envelope.text) == (b"k", 5, 1, True)
            assert 50_000 < envelope.expires_ms - mesh.broker.clock.now_ms() <= 60_000
            await outside.publish("plant/l1/empty", b"", qos=0)
            bare = await asyncio.wait_for(anext(reading), WAIT_S)
            assert (bare.name, bare.payload, bare.wish) == ("in/l1/empty", b"", 0)
            report = reports(mesh)[0]
            assert (report["pulled"], report["dropped"], report["connects"]) == (2, {}, 1)

    asyncio.run(main())


def test_what_goes_out_with_its_whole_envelope(mosquitto: Mosquitto):
    async def main() -> None:
        mosquitto.start()
        async with (
            linked(link("mqtt", mosquitto.port, push=(route("cmd/#"),))) as mesh,
            client(mosquitto.port) as outside,
        ):
            await up(mesh)
            await outside.subscribe("cmd/#", options=SubscribeOptions(1, retainAsPublished=True))
            envelope = Envelope(
                content_type="image/x",
                reply_to="back/here",
                correlation=b"\x00\xff",
                headers=HEADERS,
                key=b"k",
                sent_ms=5,
                cause="1-2",
                expires_ms=mesh.broker.clock.now_ms() + 60_000,
                text=True,
            )
            sent = await mesh.publish("cmd/x", b"\xff\x00", retain=True, envelope=envelope)
            got = await heard(outside)
            assert (got.topic.value, got.payload, got.qos, got.retain) == ("cmd/x", b"\xff\x00", 1, True)
            told = got.properties
            assert (told.ContentType, told.ResponseTopic, told.CorrelationData) == ("image/x", "back/here", b"\x00\xff")
            assert told.PayloadFormatIndicator == 1
            assert 50 <= told.MessageExpiryInterval <= 60
            assert [pair for pair in told.UserProperty if pair[0] not in ("mesh-via", "mesh-origin")] == [
                *(("a", "1"), ("b;b64", "/w=="), ("a", "2"), ("n;null", ""), ("mesh-h-mesh-id", "x")),
                *(("mesh-id", sent.id), ("mesh-cause", "1-2"), ("mesh-hops", "1"), ("mesh-sent-ms", "5")),
                ("mesh-key", "k"),
            ]
            await mesh.publish("cmd/gone", None)
            tombstone = await heard(outside)
            assert (tombstone.payload, user(tombstone)["mesh-null"]) == (b"", "payload")
            await mesh.publish("cmd/once", b"fast", durable=False)
            fast = await heard(outside)
            assert (fast.topic.value, fast.payload, fast.qos) == ("cmd/once", b"fast", 0)
            await settled(mesh)
            assert (reports(mesh)[0]["pushed"], reports(mesh)[0]["dropped"]) == (3, {})

    asyncio.run(main())


def test_overlapping_pulls_take_a_message_once_by_the_first(mosquitto: Mosquitto):
    async def main() -> None:
        mosquitto.start()
        pull = (route("a/b", "exact"), route("a/+", "level/{1}"), route("#", "rest/{name}"))
        async with linked(link("mqtt", mosquitto.port, pull=pull)) as mesh, client(mosquitto.port) as outside:
            await up(mesh)
            async with mesh.subscribe("#") as reading:
                for topic in ("a/b", "a/c", "x", "end"):
                    await outside.publish(topic, qos=1)
                names = [(await asyncio.wait_for(anext(reading), WAIT_S)).name for _ in range(4)]
            assert names == ["exact", "level/c", "rest/x", "rest/end"]
            assert reports(mesh)[0]["pulled"] == 4

    asyncio.run(main())


def test_an_outside_that_comes_later_gets_what_was_kept_and_comes_back_after_a_kill(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
):
    """One line a change, however many attempts fail."""

    async def main() -> None:
        settings = link("mqtt", mosquitto.port, pull=(route("in/#"),), push=(route("out/#"),))
        async with linked(settings) as mesh:
            await until(lambda: reports(mesh)[0]["error"], "error")
            await asyncio.sleep(1.0)
            assert reports(mesh)[0]["state"] in ("down", "connecting")
            assert "refused" in reports(mesh)[0]["error"]
            for start in (0, 10):
                # Retained, so that a reader who comes later still sees each.
                for number in range(start, start + 10):
                    await mesh.publish(f"out/{number}", b"x", retain=True)
                mosquitto.start()
                await up(mesh)
                await settled(mesh)
                assert reports(mesh)[0]["pushed"] == start + 10
                async with client(mosquitto.port) as outside:
                    await outside.subscribe("out/#", qos=1)
                    wanted = {f"out/{number}" for number in range(start, start + 10)}
                    while wanted:
                        wanted.discard((await heard(outside)).topic.value)
                if not start:
                    mosquitto.kill()
                    await until(lambda: reports(mesh)[0]["state"] != "up", "end of the connection")
            async with mesh.subscribe("in/#") as reading, client(mosquitto.port) as outside:
                await outside.publish("in/again", b"", qos=1)
                assert (await asyncio.wait_for(anext(reading), WAIT_S)).name == "in/again"
            assert reports(mesh)[0]["connects"] == 2

    with caplog.at_level(logging.INFO, "dragoman.links"):
        asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records if record.name == "dragoman.links"]
    assert len([line for line in lines if "is up" in line]) == 2
    assert 2 <= len([line for line in lines if "is down" in line]) <= 4, lines


def test_what_is_said_outside_while_the_mesh_is_away_comes_after_its_kill(mosquitto: Mosquitto, mesh_process):
    """And what it said and the outside had not acknowledged goes out: neither side loses what it acknowledged."""
    config = f"""
[[links]]
name = "out"
kind = "mqtt"
address = "mqtt://127.0.0.1:{mosquitto.port}"
retry_s_max = 0.2
window = 16
pull = [{{filter = "in/#"}}]
push = [{{filter = "out/#"}}]
"""
    total = 600

    async def main(mesh: MeshProcess) -> None:
        async with client(mosquitto.port, "reader", kept=True) as outside:
            await outside.subscribe("out/#", qos=1)
            async with client(mesh.port("mqtt"), "inner", kept=True) as inner:
                await inner.subscribe("in/#", qos=1)
                report = await asyncio.to_thread(linked_up, mesh)
                assert report["state"] == "up"
                # Killed with messages of both ways on their way.
                sending = [
                    asyncio.gather(*(outside.publish("in/x", str(n).encode(), qos=1) for n in range(total))),
                    asyncio.gather(*(inner.publish("out/x", str(n).encode(), qos=1) for n in range(total))),
                ]
                inward, outward = set(), set()
                while len(inward) < 50:
                    inward.add((await heard(inner)).payload)
                await asyncio.to_thread(mesh.kill)
                sending[1].cancel()
                await sending[0]
                with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                    await sending[1]
                with contextlib.suppress(aiomqtt.MqttError):
                    while True:
                        inward.add((await heard(inner)).payload)
            await asyncio.to_thread(mesh.restart)
            async with client(mesh.port("mqtt"), "inner", kept=True) as inner:
                await inner.publish("out/x", b"end", qos=1)
                await outside.publish("in/x", b"end", qos=1)
                while b"end" not in inward:
                    inward.add((await heard(inner)).payload)
                while b"end" not in outward:
                    outward.add((await heard(outside)).payload)
            assert inward >= {str(n).encode() for n in range(total)}
            assert len(outward) > 1

    mosquitto.start()
    asyncio.run(main(mesh_process(config)))


def linked_up(mesh: MeshProcess) -> dict[str, object]:
    """The administration's view of the first link, once it is up."""

    def look() -> dict[str, object] | None:
        with urllib.request.urlopen(f"{mesh.url}/v1/admin/links") as answer:
            report: dict[str, object] = json.load(answer)["links"][0]
        return report if report["state"] == "up" else None

    return mesh.child.until(look, "link up")


def test_every_acknowledged_message_reaches_a_mesh_that_is_killed_while_it_is_the_outside(mesh_process, tmp_path: Path):
    """Our own listener as the outside: it acknowledges only what is on disk, so not one may be missing."""
    far: MeshProcess = mesh_process(listeners={"mqtt": "127.0.0.1:0"})
    total = 500

    async def main() -> None:
        settings = link("mqtt", far.port("mqtt"), window=32, push=(route("out/#"),))
        async with linked(settings, data=str(tmp_path / "near")) as mesh:
            await up(mesh)
            async with client(far.port("mqtt"), "reader", kept=True) as reader:
                await reader.subscribe("out/#", qos=1)
            for number in range(total):
                await mesh.publish("out/x", str(number).encode())
                if number in (150, 300):
                    await until(lambda: reports(mesh)[0]["pushed"] > 20, "pushes")
                    await asyncio.to_thread(far.restart)
            await up(mesh)
            await settled(mesh)
            got: list[int] = []
            async with client(far.port("mqtt"), "reader", kept=True) as reader:
                while total - 1 not in got:
                    got.append(int((await heard(reader)).payload))
            assert set(got) == set(range(total))
            first = list(dict.fromkeys(got))
            assert first == sorted(first), "out of order"
            assert reports(mesh)[0]["connects"] == 3

    asyncio.run(main())


def test_wrong_credentials_and_unknown_hosts_are_a_state_and_not_an_end(
    require: Callable[[str], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async def main(port: int) -> None:
        links = (
            link("mqtt", port, "wrong", username="ann", password="no", push=(route("a/#"),)),
            link("mqtt", port, "right", username="ann", password="yes", push=(route("a/#"),)),
            dataclasses.replace(
                link("mqtt", port, "lost", push=(route("a/#"),)), address="mqtt://no-such-host.invalid"
            ),
        )
        async with linked(*links) as mesh:
            await until(lambda: reports(mesh)[1]["state"] == "up", "the right one up")
            await until(lambda: reports(mesh)[0]["error"] and reports(mesh)[2]["error"], "errors")
            await mesh.publish("a/b", b"x")
            await until(lambda: reports(mesh)[1]["pushed"] == 1, "push")
            wrong, _, lost = reports(mesh)
            assert "ot authorized" in wrong["error"] or "user name" in wrong["error"]
            assert "ame" in lost["error"]
            assert wrong["push_lag"] >= 1
            assert "yes" not in json.dumps(reports(mesh))

    with Mosquitto(require("mosquitto"), tmp_path / "m", users={"ann": "yes"}) as outside:
        outside.start()
        asyncio.run(main(outside.port))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_outside_that_answers_nothing_is_given_up_and_left_without_a_socket(monkeypatch):
    monkeypatch.setattr("dragoman.adapters.links.mqtt.CONNECT_S", 0.3)
    accepted: list[socket.socket] = []

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.append(server.accept()[0])

    async def main(port: int) -> None:
        async with linked(link("mqtt", port, push=(route("a"),))) as mesh:
            await until(lambda: "timed out" in reports(mesh)[0]["error"], "giving up")
            await until(lambda: len(accepted) > 1, "a second attempt")
            await until(lambda: _closed(accepted[0]), "the first socket's end")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, args=(server,))
        thread.start()
        asyncio.run(main(server.getsockname()[1]))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for sock in accepted:
        sock.close()


def _closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    return True


def test_a_stop_before_any_connection_leaves_nothing_behind():
    async def main() -> None:
        async with linked(link("mqtt", free_port(), push=(route("a"),))):
            pass

    asyncio.run(main())


# -- circles -----------------------------------------------------------------------------------------


def test_two_meshes_that_share_an_outside_say_each_message_once(mosquitto: Mosquitto):
    async def main() -> None:
        mosquitto.start()
        everything = {"pull": (route("#"),), "push": (route("#"),)}
        async with (
            linked(link("mqtt", mosquitto.port, client_id="a", **everything)) as a,
            linked(link("mqtt", mosquitto.port, client_id="b", **everything)) as b,
            client(mosquitto.port) as outside,
        ):
            await up(a)
            await up(b)
            heard_a, heard_b = a.subscribe("#"), b.subscribe("#")
            await a.publish("x", b"from a")
            await b.publish("x", b"from b")
            await outside.publish("x", b"from outside", qos=1)
            said = {b"from a", b"from b", b"from outside"}
            for reading in (heard_a, heard_b):
                assert {(await asyncio.wait_for(anext(reading), WAIT_S)).payload for _ in range(3)} == said
            await _nothing_more(a, b, heard_a, heard_b)

    asyncio.run(main())


ALL = (route("t/#"),)
PULL, PUSH, BOTH = {"pull": ALL}, {"push": ALL}, {"pull": ALL, "push": ALL}


@pytest.mark.parametrize("ways", [(BOTH, None), (PULL, PULL), (PUSH, PUSH)], ids=["one", "pull", "push"])
def test_two_meshes_linked_to_each_other_say_each_message_once(ways):
    """By the one's link both ways, or by a link of each: what came from the other does not go back."""

    async def main() -> None:
        ports = free_port(), free_port()
        listen = [dataclasses.replace(Config.embedded().listen, mqtt=f"127.0.0.1:{port}") for port in ports]
        a_links = [link("mqtt", ports[1], **ways[0])]
        b_links = [link("mqtt", ports[0], **ways[1])] if ways[1] else []
        async with linked(*a_links, listen=listen[0]) as a, linked(*b_links, listen=listen[1]) as b:
            await up(a)
            await up(b)
            heard_a, heard_b = a.subscribe("t/#"), b.subscribe("t/#")
            await a.publish("t/x", b"from a")
            await b.publish("t/x", b"from b")
            said = {b"from a", b"from b"}
            for port in ports:
                async with client(port) as device:
                    await device.publish("t/x", b"from a device of %d" % port, qos=1)
                    said.add(b"from a device of %d" % port)
            for reading in (heard_a, heard_b):
                assert {(await asyncio.wait_for(anext(reading), WAIT_S)).payload for _ in range(4)} == said
            await _nothing_more(a, b, heard_a, heard_b)

    asyncio.run(main())


@pytest.mark.parametrize("qos", [0, 1])
def test_ways_beside_each_other_say_each_message_once(qos: int):
    """Both meshes pull and push the same: there are two ways each way. Each is gone, and one of them counts."""

    async def main() -> None:
        ports = free_port(), free_port()
        listen = [dataclasses.replace(Config.embedded().listen, mqtt=f"127.0.0.1:{port}") for port in ports]
        async with (
            linked(link("mqtt", ports[1], **BOTH), listen=listen[0]) as a,
            linked(link("mqtt", ports[0], **BOTH), listen=listen[1]) as b,
        ):
            await up(a)
            await up(b)
            heard_a, heard_b = a.subscribe("t/#"), b.subscribe("t/#")
            said: set[bytes] = set()
            for number, (mesh, port) in enumerate([(a, ports[0]), (b, ports[1])] * 3):
                await mesh.publish("t/x", b"program %d" % number, durable=qos > 0)
                async with client(port) as device:
                    await device.publish("t/x", b"device %d" % number, qos=qos)
                    told = Properties(PacketTypes.PUBLISH)
                    told.ContentType = "text/plain"
                    await device.publish("t/x", b"told %d" % number, qos=qos, properties=told)
                said |= {b"%s %d" % (who, number) for who in (b"program", b"device", b"told")}
            for reading in (heard_a, heard_b):
                got = [(await asyncio.wait_for(anext(reading), WAIT_S)).payload for _ in said]
                assert (set(got), len(got)) == (said, len(said))
            # Each of them went both ways, and the second was recognised.
            for mesh in (a, b):
                await until(lambda m=mesh: m.broker.metrics.duplicates == len(said) // 2, "the other way of each")
                await settled(mesh)
            for reading in (heard_a, heard_b):
                reading.end()
                assert [message.payload async for message in reading] == []

    asyncio.run(main())


def test_a_link_is_told_where_a_message_is_from_also_when_it_is_said_again():
    """The same origin both times, or its mesh would take the second for another; other clients are told nothing."""

    async def main() -> None:
        port = free_port()
        listen = dataclasses.replace(Config.embedded().listen, mqtt=f"127.0.0.1:{port}")
        async with linked(listen=listen) as mesh:
            seen: list[str | None] = []
            for told in (True, True, False):
                wanted = Properties(PacketTypes.CONNECT)
                wanted.SessionExpiryInterval = 600
                if told:
                    wanted.UserProperty = ("mesh-self", "another")
                async with aiomqtt.Client(
                    "127.0.0.1",
                    port,
                    identifier="far" if told else "plain",
                    protocol=V5,
                    clean_start=False,
                    properties=wanted,
                ) as there:
                    # It never acknowledges.
                    there._client.manual_ack_set(True)
                    if not seen or not told:
                        await there.subscribe("t/x", qos=1)
                        await mesh.publish("t/x", b"x")
                    got = await heard(there)
                    seen.append(user(got).get("mesh-origin"))
            first, again, plain = seen
            last = mesh.broker.last_of("t/x")
            assert last is not None
            assert first is not None
            assert first == again
            assert first.endswith(f"/{last.number:x}-0")
            assert plain is None

    asyncio.run(main())


def test_a_mesh_is_not_linked_to_itself():
    async def main() -> None:
        port = free_port()
        listen = dataclasses.replace(Config.embedded().listen, mqtt=f"127.0.0.1:{port}")
        async with linked(link("mqtt", port, **BOTH), listen=listen) as mesh:
            await until(lambda: "this very mesh" in reports(mesh)[0]["error"], "recognition")

    asyncio.run(main())


def test_a_circle_of_links_that_strips_what_we_say_ends_at_the_hops(mosquitto: Mosquitto):
    """A foreign bridge that keeps only the payload: nothing but the count of this mesh's own links could stop it."""

    async def main() -> None:
        mosquitto.start()
        out = link("mqtt", mosquitto.port, "there", client_id="there", push=(route("x"),), hops_max=3)
        back = link("mqtt", mosquitto.port, "back", client_id="back", pull=(route("x"),), hops_max=3)
        async with linked(out, back) as mesh, client(mosquitto.port) as outside:
            await up(mesh)
            async with mesh.subscribe("x") as reading:
                said = Properties(PacketTypes.PUBLISH)
                said.UserProperty = [("mesh-hops", "1")]
                await outside.publish("x", b"once", qos=1, properties=said)
                assert (await asyncio.wait_for(anext(reading), WAIT_S)).payload == b"once"
                # It goes out with 3 hops, comes back with its own mesh in it, and is not taken.
                await until(lambda: reports(mesh)[1]["dropped"].get("link-loop") == 1, "the loop")
                said.UserProperty = [("mesh-hops", "3")]
                await outside.publish("x", b"too far", qos=1, properties=said)
                await until(lambda: reports(mesh)[1]["dropped"].get("link-hops") == 1, "the hops")
            assert mesh.broker.metrics.dropped["link-loop"] == 1

    asyncio.run(main())


async def _nothing_more(a: Mesh, b: Mesh, heard_a, heard_b) -> None:
    """Both get nothing but the ends that both say."""
    for mesh in (a, b):
        await settled(mesh)
        await mesh.publish("t/end", b"end")
    for reading in (heard_a, heard_b):
        for _ in range(2):
            assert (await asyncio.wait_for(anext(reading), WAIT_S)).payload == b"end"
    for mesh, reading in ((a, heard_a), (b, heard_b)):
        await settled(mesh)
        reading.end()
        assert [message.payload async for message in reading] == []


# -- the gate ----------------------------------------------------------------------------------------


def test_rules_speak_of_links(mosquitto: Mosquitto):
    async def main() -> None:
        mosquitto.start()
        rules = (
            RuleSettings("deny", ("link:out",), ("read",), ("secret/#",)),
            RuleSettings("deny", ("@links",), ("publish",), ("locked/#",)),
        )
        settings = link("mqtt", mosquitto.port, pull=(route("in/#", "{1}"),), push=(route("#"),))
        async with linked(settings, gate=GateSettings(rules=rules)) as mesh, client(mosquitto.port) as outside:
            await up(mesh)
            await outside.subscribe([("secret/#", 1), ("open/#", 1)])
            await mesh.publish("secret/x", b"no")
            await mesh.publish("open/x", b"yes")
            assert (await heard(outside)).topic.value == "open/x"
            async with mesh.subscribe("#") as reading:
                await outside.publish("in/locked/x", b"no", qos=1)
                await outside.publish("in/open/y", b"yes", qos=1)
                assert (await asyncio.wait_for(anext(reading), WAIT_S)).name == "open/y"
            dropped = reports(mesh)[0]["dropped"]
            assert dropped == {"link-not-authorized": 2}

    asyncio.run(main())

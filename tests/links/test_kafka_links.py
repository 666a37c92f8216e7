"""Links to a Kafka cluster: the Kafka listener of a mesh in a process of its own, killed in the middle of things."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from dragoman.adapters.links.kafka import topics_of
from dragoman.adapters.links.naming import Naming
from dragoman.routing.message import Envelope
from tests.clients.mesh import MeshProcess
from tests.links.asking import channel, declare, pulled
from tests.links.outsides import WAIT_S, free_port, link, linked, reports, route, settled, until, up

pytestmark = pytest.mark.slow

KAFKA_ONLY = {"kafka": "127.0.0.1:0"}


@contextlib.asynccontextmanager
async def producing(port: int) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", acks="all")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@contextlib.asynccontextmanager
async def consuming(port: int, *topics: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=f"127.0.0.1:{port}", auto_offset_reset="earliest")
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def read(consumer: AIOKafkaConsumer, count: int) -> list:
    return [await asyncio.wait_for(consumer.getone(), WAIT_S) for _ in range(count)]


def test_one_expression_for_all_topics():
    routes = [Naming("kafka", text, "{name}", "mesh") for text in ("a.b", "^x(.*)$", "^f|g")]
    found = topics_of(routes)
    assert [t for t in ("a.b", "a-b", "a.bc", "xy", "f", "g", "gh") if found.match(t)] == ["a.b", "xy", "f", "g"]


def test_both_ways_with_the_whole_envelope(mesh_process):
    far: MeshProcess = mesh_process(listeners=KAFKA_ONLY)
    port = far.port("kafka")
    headers = (("a", b"1"), ("b", b"\xff"), ("a", b"2"), ("n", None), ("mesh-id", b"x"), ("specversion", b"1.0"))

    async def main() -> None:
        async with producing(port) as producer:
            said = [("a", b"1"), ("b", b"\xff"), ("a", b"2"), ("n", None), ("ce_specversion", b"1.0"), ("ce_id", b"7")]
            await producer.send_and_wait("plant.l1", b"\xff\x00", b"k\xff", headers=said, timestamp_ms=5)
            await producer.send_and_wait("plant.l1", None, b"k")
        settings = link("kafka", port, pull=(route(r"^plant\.(.*)$", "in/{1}"),), push=(route("cmd/#"),))
        async with linked(settings) as mesh:
            reading = mesh.subscribe("in/#")
            await up(mesh)
            message = await asyncio.wait_for(anext(reading), WAIT_S)
            envelope = message.envelope
            assert envelope is not None
            assert (message.name, message.payload, message.sender) == ("in/l1", b"\xff\x00", "link:out")
            assert (envelope.key, envelope.sent_ms, envelope.hops) == (b"k\xff", 5, 1)
            mine = tuple(header for header in envelope.headers if header[0] != "mesh-via")
            assert mine == (*headers[:4], ("specversion", b"1.0"), ("id", b"7"))
            assert (await asyncio.wait_for(anext(reading), WAIT_S)).payload is None
            reading.end()

            full = Envelope(
                content_type="x/y", reply_to="back/x", correlation=b"\0", headers=headers, key=b"k", sent_ms=5
            )
            await mesh.publish("cmd/x.y", b"\xff\x00", envelope=full)
            await mesh.publish("cmd/x.y", None)
            await settled(mesh)
            async with consuming(port, "cmd.x_x2ey") as consumer:
                record, gone = await read(consumer, 2)
            assert (record.key, record.value, record.timestamp) == (b"k", b"\xff\x00", 5)
            told = [pair for pair in record.headers if not pair[0].startswith(("mesh-via", "mesh-origin"))]
            assert told[:3] == [("content-type", b"x/y"), ("reply-to", b"back/x"), ("correlation-id", b"\0")]
            attributes = [("ce_a", b"1"), ("ce_b", b"\xff"), ("ce_a", b"2"), ("n", None)]
            assert told[3:9] == [*attributes, ("mesh-h-mesh-id", b"x"), ("ce_specversion", b"1.0")]
            assert (gone.key, gone.value) == (b"cmd/x.y", None)
            assert (reports(mesh)[0]["pulled"], reports(mesh)[0]["pushed"]) == (2, 2)
            assert reports(mesh)[0]["dropped"] == {}

    asyncio.run(main())


def test_records_are_pulled_once_each_over_kills_of_both(mesh_process):
    far: MeshProcess = mesh_process(listeners=KAFKA_ONLY)
    config = f"""
[[links]]
name = "out"
kind = "kafka"
address = "kafka://127.0.0.1:{far.port("kafka")}"
retry_s_max = 0.2
window = 64
pull = [{{filter = "t", to = "in/x"}}]
"""
    total = 900

    async def main(mesh: MeshProcess) -> None:
        for part in range(3):
            async with producing(far.port("kafka")) as producer:
                sent = [
                    await producer.send("t", str(number).encode())
                    for number in range(part * total // 3, (part + 1) * total // 3)
                ]
                await asyncio.gather(*sent)
            await asyncio.to_thread(pulled, mesh, 20)
            await asyncio.to_thread((mesh, far, mesh)[part].restart)
        got = await asyncio.to_thread(channel, mesh, "in/x", total)
        assert got == list(range(total)), "every one, once, in order"

    mesh = mesh_process(config)
    declare(mesh, "in/x")
    asyncio.run(main(mesh))


def test_every_message_reaches_a_cluster_that_is_killed(mesh_process, caplog: pytest.LogCaptureFixture):
    far: MeshProcess = mesh_process(listeners=KAFKA_ONLY)
    total = 400

    async def main() -> None:
        async with linked(link("kafka", far.port("kafka"), window=32, push=(route("out/#"),))) as mesh:
            await up(mesh)
            for number in range(total):
                await mesh.publish("out/x", str(number).encode())
                if number == 150:
                    await until(lambda: reports(mesh)[0]["pushed"] > 20, "pushes")
                    await asyncio.to_thread(far.kill)
            await until(lambda: reports(mesh)[0]["state"] != "up", "end of the connection")
            await asyncio.to_thread(far.restart)
            await up(mesh)
            await settled(mesh)
            async with consuming(far.port("kafka"), "out.x") as consumer:
                got: list[int] = []
                while total - 1 not in got:
                    got.append(int((await read(consumer, 1))[0].value))
            assert list(dict.fromkeys(got)) == list(range(total)), "all, in order"

    asyncio.run(main())


def test_a_cluster_that_is_not_there_is_a_state(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        async with linked(link("kafka", free_port(), push=(route("a"),))) as mesh:
            await until(lambda: reports(mesh)[0]["error"], "error")
            await mesh.publish("a", b"kept")
            assert "bootstrap" in reports(mesh)[0]["error"]
            assert reports(mesh)[0]["push_lag"] >= 1
            assert json.dumps(reports(mesh))

    asyncio.run(main())


def test_two_meshes_linked_to_each_other_say_each_message_once(mesh_process):
    """One link, both ways: what came from the other does not go back, since it is known to be a mesh."""
    far: MeshProcess = mesh_process(listeners=KAFKA_ONLY)
    port = far.port("kafka")

    async def main() -> None:
        async with producing(port) as producer:
            await producer.send_and_wait("t.x", b"from there")
        settings = link("kafka", port, pull=(route(r"^t\..*$"),), push=(route("t/#"),))
        async with linked(settings) as mesh:
            reading = mesh.subscribe("t/#")
            await up(mesh)
            assert (await asyncio.wait_for(anext(reading), WAIT_S)).payload == b"from there"
            await mesh.publish("t/x", b"from here")
            assert (await asyncio.wait_for(anext(reading), WAIT_S)).payload == b"from here"
            await until(lambda: reports(mesh)[0]["dropped"].get("link-loop") == 1, "its return")
            reading.end()
            assert [message.payload async for message in reading] == []
        async with consuming(port, "t.x") as consumer:
            assert [record.value for record in await read(consumer, 2)] == [b"from there", b"from here"]

    asyncio.run(main())

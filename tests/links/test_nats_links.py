"""Links to a real nats-server: live subjects and a stream, kept over kills of either side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from dragoman.adapters.links.nats import headers_of, message_of
from dragoman.routing.message import Envelope, Message
from tests.clients.mesh import MeshProcess
from tests.links.asking import channel, declare, pulled
from tests.links.outsides import WAIT_S, Nats, link, linked, reports, route, settled, until, up

pytestmark = pytest.mark.slow


@pytest.fixture
def server(require: Callable[[str], str], tmp_path: Path) -> Iterator[Nats]:
    with Nats(require("nats-server"), tmp_path / "nats") as running:
        yield running


@contextlib.asynccontextmanager
async def client(port: int, **options) -> AsyncIterator[Client]:
    connected = Client()
    await connected.connect(f"nats://127.0.0.1:{port}", **options)
    try:
        yield connected
    finally:
        await connected.close()


async def stream(connected: Client, *subjects: str) -> JetStreamContext:
    context = connected.jetstream()
    await context.add_stream(name="S", subjects=list(subjects))
    return context


class _Said:
    def __init__(self, data: bytes, headers: dict[str, str]) -> None:
        self.data = data
        self.headers = headers


def test_an_envelope_in_headers_reads_back():
    envelope = Envelope(
        content_type="image/x",
        reply_to="back/here",
        correlation=b"\x00\xff",
        headers=(
            *(("a", b"1"), ("b", b"\xff"), ("n", None), ("mesh-id", b"x"), ("sp", b" x "), ("nl", b"a\nb")),
            *(("x-mesh-b64", b"plain"), ("mesh-retain", b"true"), ("content-type", b"mine"), ("specversion", b"1.0")),
        ),
        key=b"k\xff",
        sent_ms=5,
        cause="1-2",
        expires_ms=1_900_000_000_000,
        hops=3,
    )
    message = Message("n", None, 1, "ann", True, envelope)
    said = headers_of(message, envelope)
    assert dict(said.items())["ce-specversion"] == "1.0"
    back = message_of(_Said(b"", dict(said.items())), "n", 1)  # type: ignore[arg-type]
    got = back.envelope
    assert got is not None
    assert (back.payload, back.retain) == (None, True)
    for field in (
        "content_type",
        "reply_to",
        "correlation",
        "headers",
        "key",
        "sent_ms",
        "cause",
        "expires_ms",
        "hops",
    ):
        assert getattr(got, field) == getattr(envelope, field), field


def test_what_no_header_can_be_is_named():
    envelope = Envelope(headers=(("a b", b"1"), ("Nats-Rollup", b"all"), ("ok", b"2"), ("ok", b"3")))
    said = headers_of(Message("n", b""), envelope)
    assert list(said.items()) == [("mesh-lost", "header"), ("mesh-lost", "Nats-Rollup"), ("ok", "2"), ("ok", "3")]


def test_live_subjects_both_ways(server: Nats):
    async def main() -> None:
        server.start()
        settings = link(
            "nats",
            server.port,
            pull=(route("plant.*.temp", "in/{1}"), route("plant.>", "rest/{1}")),
            push=(route("cmd/#"),),
        )
        async with linked(settings) as mesh, client(server.port) as outside:
            await up(mesh)
            said = await outside.subscribe("cmd.>")
            await outside.flush()
            async with mesh.subscribe("#") as reading:
                await outside.publish("plant.l//1.temp", b"\xff\x00", headers={"a": "1", "content-type": "x/y"})
                await outside.publish("plant.a.b.c", b"")
                got = {(message := await asyncio.wait_for(anext(reading), WAIT_S)).name: message for _ in range(2)}
                assert set(got) == {"in/l.1", "rest/a/b/c"}
                message = got["in/l.1"]
                assert (message.payload, message.sender) == (b"\xff\x00", "link:out")
                assert message.envelope is not None
                assert message.envelope.headers == (("a", b"1"),)
                assert message.envelope.content_type == "x/y"
            await mesh.publish("cmd/x.y", b"\xff\x00", envelope=Envelope(headers=(("a", b"1"),)))
            heard = await said.next_msg(WAIT_S)
            assert (heard.subject, heard.data) == ("cmd.x//y", b"\xff\x00")
            assert heard.headers is not None
            assert heard.headers["a"] == "1"
            await mesh.publish("cmd/no subject", b"")
            await mesh.publish("cmd/once", b"fast", durable=False)
            assert (await said.next_msg(WAIT_S)).data == b"fast"
            await mesh.publish("cmd/large", b"x" * (1 << 20))
            await settled(mesh)
            report = reports(mesh)[0]
            assert (report["pulled"], report["pushed"]) == (2, 2)
            assert report["dropped"] == {"link-name": 1, "link-too-large": 1}

    asyncio.run(main())


def test_a_server_that_comes_later_and_is_killed(server: Nats):
    async def main() -> None:
        settings = link("nats", server.port, pull=(route("in.>"),), push=(route("out/#"),), stream="S")
        async with linked(settings) as mesh:
            await until(lambda: reports(mesh)[0]["error"], "error")
            assert "refused" in reports(mesh)[0]["error"] or "onnect" in reports(mesh)[0]["error"]
            total = 300
            for number in range(100):
                await mesh.publish("out/x", str(number).encode())
            server.start()
            async with client(server.port) as outside:
                await stream(outside, "in.>", "out.>")
            await up(mesh)
            for number in range(100, total):
                await mesh.publish("out/x", str(number).encode())
                if number == 150:
                    await until(lambda: reports(mesh)[0]["pushed"] > 50, "pushes")
                    await asyncio.to_thread(server.kill)
                    await until(lambda: reports(mesh)[0]["state"] != "up", "end of the connection")
                    server.start()
            await up(mesh)
            await settled(mesh)
            async with client(server.port) as outside:
                context = outside.jetstream()
                reader = await context.pull_subscribe("out.>", durable="check", stream="S")
                got: list[int] = []
                while len(got) < total:
                    got += [int(message.data) for message in await reader.fetch(200, timeout=WAIT_S)]
                assert got == list(range(total)), "stored once each, in order"
                assert (await context.stream_info("S")).state.messages == total

    asyncio.run(main())


def test_a_stream_is_pulled_once_each_over_kills_of_both(server: Nats, mesh_process):
    config = f"""
[[links]]
name = "out"
kind = "nats"
address = "nats://127.0.0.1:{server.port}"
retry_s_max = 0.2
window = 64
stream = "S"
pull = [{{filter = "in.>"}}]
"""
    total = 900

    async def main(mesh: MeshProcess) -> None:
        async with client(server.port) as outside:
            context = await stream(outside, "in.>")
            for number in range(total // 3):
                await context.publish("in.x", str(number).encode())
            await asyncio.to_thread(pulled, mesh, 50)
            await asyncio.to_thread(mesh.restart)
            for number in range(total // 3, 2 * total // 3):
                await context.publish("in.x", str(number).encode())
            await asyncio.to_thread(pulled, mesh, 20)
        await asyncio.to_thread(server.kill)
        server.start()
        async with client(server.port) as outside:
            context = outside.jetstream()
            for number in range(2 * total // 3, total):
                await context.publish("in.x", str(number).encode())
            got = await asyncio.to_thread(channel, mesh, "in/x", total)
        assert got == list(range(total)), "every one, once, in order"

    server.start()
    mesh = mesh_process(config)
    declare(mesh, "in/x")
    asyncio.run(main(mesh))


def test_wrong_credentials_are_a_state(require: Callable[[str], str], tmp_path: Path):
    async def main(port: int) -> None:
        async with linked(
            link("nats", port, "wrong", username="ann", password="no", push=(route("a/#"),)),
            link("nats", port, "right", username="ann", password="yes", push=(route("a/#"),)),
        ) as mesh:
            await until(lambda: reports(mesh)[1]["state"] == "up", "the right one up")
            await until(lambda: reports(mesh)[0]["error"], "error")
            assert reports(mesh)[0]["error"].startswith("cannot connect: ")

    with Nats(require("nats-server"), tmp_path / "n", more='authorization { user: ann, password: "yes" }') as server:
        server.start()
        asyncio.run(main(server.port))


def test_two_meshes_that_share_a_server_say_each_message_once(server: Nats):
    async def main() -> None:
        server.start()
        everything = {"pull": (route("t.>"),), "push": (route("t/#"),)}
        async with (
            linked(link("nats", server.port, client_id="a", **everything)) as a,
            linked(link("nats", server.port, client_id="b", **everything)) as b,
        ):
            await up(a)
            await up(b)
            heard_a, heard_b = a.subscribe("t/#"), b.subscribe("t/#")
            await a.publish("t/x", b"from a")
            await b.publish("t/x", b"from b")
            for reading in (heard_a, heard_b):
                assert {(await asyncio.wait_for(anext(reading), WAIT_S)).payload for _ in range(2)} == {
                    b"from a",
                    b"from b",
                }
            for mesh in (a, b):
                await settled(mesh)
            for reading in (heard_a, heard_b):
                reading.end()
                assert [message.payload async for message in reading] == []

    asyncio.run(main())

"""Unmodified clients of the revisions with a session: the official Python SDK, and the TypeScript one of that time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import paho.mqtt.publish as mqtt_publish
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_mesh import McpMesh, eventually, run
from mcp_types import ProgressNotification

from dragoman.routing.cards import Skill
from tests.clients.mesh import MeshProcess

UPDATED = "notifications/resources/updated"
QUIET = {"tools_changed_debounce_s": 0.0, "notices_gap_s": 0.0, "channels_look_ms": 3_600_000}


class Wire:
    """A TCP proxy before a mesh whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def cut(self) -> None:
        """Every connection breaks."""
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, there}
        for task in (self._carry(reader, there), self._carry(back, writer)):
            started = asyncio.create_task(task)
            self._tasks.add(started)
            started.add_done_callback(self._tasks.discard)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Wire]:
        """Listens for as long as the block runs."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            if self._tasks:
                await asyncio.wait(self._tasks)


class Heard:
    """What a client was told on the stream of its session."""

    def __init__(self) -> None:
        self.notices: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def __call__(self, message: Any) -> None:
        if isinstance(message, ProgressNotification):
            return
        uri = getattr(getattr(message, "params", None), "uri", None)
        self.notices.put_nowait((getattr(message, "method", type(message).__name__), uri and str(uri)))

    async def next(self) -> tuple[str, Any]:
        return await asyncio.wait_for(self.notices.get(), 10)


@contextlib.asynccontextmanager
async def session(url: str, token: str | None = None) -> AsyncIterator[tuple[ClientSession, Heard]]:
    """The SDK as its older users write it: transport, session, initialize."""
    heard = Heard()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        streamable_http_client(url, http_client=http) as (read, write),
        ClientSession(read, write, message_handler=heard) as client,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the SDK calls these methods deprecated; that is why we test them
            initialized = await client.initialize()
            assert initialized.protocol_version == "2025-11-25"
            yield client, heard


def test_the_sdk_hears_what_it_follows() -> None:
    async def body(mesh: McpMesh) -> None:
        async with session(mesh.url) as (client, heard):
            await client.subscribe_resource("channel:///a")
            await mesh.call("mesh_publish", {"channel": "a", "text": "x"})
            assert await heard.next() == (UPDATED, "channel:///a")
            mesh.add("t1", Skill("new_tool"))
            assert await heard.next() == ("notifications/tools/list_changed", None)
            mesh.serve._channels._look()
            assert await heard.next() == ("notifications/resources/list_changed", None)
            await client.unsubscribe_resource("channel:///a")
            await mesh.call("mesh_publish", {"channel": "a", "text": "y"})
            mesh.add("t1", Skill("newer_tool"))
            assert await heard.next() == ("notifications/tools/list_changed", None)
            with pytest.raises(MCPError) as refused:
                await client.set_logging_level("info")
            assert refused.value.error.code == -32601
            with pytest.raises(MCPError) as refused:
                await client.read_resource("channel:///nothing")
            assert refused.value.error.code == -32002
            await client.send_ping()
            assert len(mesh.endpoint._handshakes.sessions) == 1
        await eventually(lambda: not len(mesh.endpoint._handshakes.sessions)), "the client ends its session"

    run(body, **QUIET)


def test_the_sdk_cancels_a_call() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        async with session(mesh.url) as (client, _):
            asking = asyncio.create_task(client.call_tool("slow", {}))
            await asyncio.wait_for(mesh.calls.asked.wait(), 5)
            asking.cancel()
            await asyncio.wait_for(mesh.calls.started[0].cancelled.wait(), 5)
            await asyncio.wait([asking])
            await client.send_ping()

    run(body, **QUIET)


@pytest.mark.slow
def test_the_sdk_goes_on_after_a_cut() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        progress: asyncio.Queue[str | None] = asyncio.Queue()

        async def told(at: float, total: float | None, message: str | None) -> None:
            progress.put_nowait(message)

        async with Wire(mesh.port).running() as wire, session(f"http://127.0.0.1:{wire.port}/mcp") as (client, heard):
            await client.subscribe_resource("channel:///a")
            await mesh.call("mesh_publish", {"channel": "a", "text": "x"})
            assert (await heard.next())[1] == "channel:///a"
            asking = asyncio.create_task(client.call_tool("slow", {}, progress_callback=told))
            await asyncio.wait_for(mesh.calls.asked.wait(), 5)
            mesh.calls.started[0].part(b"one")
            assert await progress.get() == "one"
            wire.cut()
            await mesh.call("mesh_publish", {"channel": "a", "text": "y"})
            mesh.calls.started[0].part(b"two")
            mesh.calls.started[0].answer(b"done")
            assert (await asyncio.wait_for(asking, 10)).content[0].text == "done"  # type: ignore[union-attr]
            assert await progress.get() == "two"
            assert await heard.next() == (UPDATED, "channel:///a"), "what changed while nobody listened"

    run(body, **QUIET)


def test_two_principals_cannot_use_each_others_session() -> None:
    async def body(mesh: McpMesh) -> None:
        async with session(mesh.url, "good") as (alice, heard), session(mesh.url, "other") as (bob, _):
            await alice.subscribe_resource("channel:///a")
            first, second = mesh.endpoint._handshakes.sessions
            assert (first.owner, second.owner) == ("alice", "bob")
            body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            for thief, stolen in (("other", first), ("good", second)):
                lines: dict[str, str | None] = {"Authorization": f"Bearer {thief}", "Mcp-Session-Id": stolen.id}
                assert (await mesh.post(body, lines))[0] == 404
                given = {name: str(value) for name, value in lines.items()}
                async with mesh.http.delete(mesh.url, headers=given) as answer:
                    assert answer.status == 404
            await bob.send_ping()
            await bob.call_tool("mesh_publish", {"channel": "a", "text": "x"})
            assert (await heard.next())[1] == "channel:///a"

    run(body, **QUIET)


@pytest.mark.slow
def test_what_is_said_over_mqtt_is_heard_over_mcp(mesh_process: Callable[..., MeshProcess]) -> None:
    mesh = mesh_process(memory=True)
    host, port = mesh.address("mqtt")

    def say(payload: str) -> None:
        mqtt_publish.single("plant/line1/temperature", payload, qos=1, hostname=host, port=port, client_id="sensor")

    async def body() -> None:
        async with session(f"{mesh.url}/mcp") as (client, heard), asyncio.timeout(20):
            await client.subscribe_resource("channel:///plant/line1/temperature")
            await asyncio.to_thread(say, "21.5")
            uri = "channel:///plant/line1/temperature"
            while await heard.next() != (UPDATED, uri):
                pass  # the channel is a new resource, which is told too
            assert (await client.read_resource(uri)).contents[0].text == "21.5"  # type: ignore[union-attr]
            mesh.terminate()

    asyncio.run(body())
    assert "Traceback" not in mesh.stderr


@pytest.mark.slow
def test_the_typescript_client(require: Callable[[str], str]) -> None:
    node = require("npm:@modelcontextprotocol/sdk")
    script = Path(__file__).with_name("mcp_session.mjs")

    async def body(mesh: McpMesh) -> None:
        def serve(call: Any) -> None:
            match call.skill:
                case "offer":
                    mesh.add("t1", Skill("offered"))
                    call.answer(b"")
                case "parts":
                    call.part(b"one")
                    call.part(b"two")
                    call.answer(b"done")
                case "cut":
                    call.part(b"one")
                case "slow":
                    call.part(b"one")

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            wire.cut()
            writer.close()
            (call,) = (asked for asked in mesh.calls.started if asked.skill == "cut")
            call.part(b"two")
            call.answer(b"done at last")

        mesh.add("t1", *(Skill(name) for name in ("offer", "parts", "slow", "cut")))
        mesh.calls.serve = serve
        async with Wire(mesh.port).running() as wire:
            cutter = await asyncio.start_server(cut, "127.0.0.1", 0)
            urls = [
                f"http://127.0.0.1:{wire.port}/mcp",
                f"http://127.0.0.1:{cutter.sockets[0].getsockname()[1]}/",
            ]
            child = await asyncio.create_subprocess_exec(
                node, str(script), *urls, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            out, err = await asyncio.wait_for(child.communicate(), 15)
            cutter.close()
        assert child.returncode == 0, err.decode()
        _compare(json.loads(out))
        (slow,) = (asked for asked in mesh.calls.started if asked.skill == "slow")
        await asyncio.wait_for(slow.cancelled.wait(), 5)
        assert not len(mesh.endpoint._handshakes.sessions)

    run(body, **QUIET)


def _compare(told: dict[str, Any]) -> None:
    assert told["capabilities"] == {
        "tools": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True},
    }
    assert "offered" in told.pop("tools")
    assert told | {"capabilities": None} == {
        "capabilities": None,
        "uri": "channel:///a",
        "progress": ["one", "two"],
        "called": "done",
        "cancelled": True,
        "again": "done at last",
        "noLogging": -32601,
        "missing": -32002,
        "session": "string",
    }

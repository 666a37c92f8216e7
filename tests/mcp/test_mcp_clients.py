"""Unmodified clients: the official Python SDK in every era, and the TypeScript one in a process of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp_mesh import McpMesh, run

from dragoman.routing.cards import Skill

SCHEMA = {"type": "object", "properties": {"celsius": {"type": "number"}}, "required": ["celsius"]}
ERAS = {"auto": "2026-07-28", "legacy": "2025-11-25", "2026-07-28": "2026-07-28"}


@pytest.mark.parametrize("mode", ERAS)
def test_the_sdk_lists_and_calls_tools(mode: str) -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("set_temperature", "Sets it.", SCHEMA, output_schema={"type": "object"}))
        heard: list[tuple[float, str | None]] = []

        async def progress(at: float, total: float | None, message: str | None) -> None:
            heard.append((at, message))

        def serve(call: Any) -> None:
            call.part(b"warming")
            asyncio.get_running_loop().call_soon(call.answer, json.dumps({"was": call.arguments}).encode())

        mesh.calls.serve = serve
        async with Client(mesh.url, mode=mode) as client:
            assert client.protocol_version == ERAS[mode]
            if mode != "2026-07-28":  # a client told its version asks nobody
                assert client.server_info is not None
                assert client.server_info.name == "dragoman"
            listed = [tool.name for tool in (await client.list_tools()).tools]
            assert listed == sorted(listed)
            result = await client.call_tool("set_temperature", {"celsius": 21}, progress_callback=progress)
            assert not result.is_error
            assert result.structured_content == {"was": {"celsius": 21}}
            assert heard == [(1, "warming")]
            refused = await client.call_tool("set_temperature", {"celsius": "warm"})
            assert refused.is_error

    run(body, tools_changed_debounce_s=0.01)


@pytest.mark.parametrize("mode", ERAS)
def test_the_sdk_uses_the_mesh(mode: str) -> None:
    async def body(mesh: McpMesh) -> None:
        async with Client(mesh.url, mode=mode) as client:
            await client.list_tools()

            async def use(name: str, **given: Any) -> dict[str, Any]:
                result = await client.call_tool(name, given)
                assert not result.is_error, result
                found = result.structured_content
                assert isinstance(found, dict)
                return found

            cursor = (await use("mesh_join", channel="a"))["cursor"]
            await use("mesh_publish", channel="a", text="hello", retain=True)
            assert (await use("mesh_wait", cursor=cursor))["messages"][0]["text"] == "hello"
            assert (await use("mesh_read", channel="a"))["retained"]["text"] == "hello"
            assert await use("mesh_find_agents", text="nobody") == {"agents": [], "more": False}
            assert await use("mesh_leave", cursor=cursor) == {"channel": "a", "unread": 0}
            (resource,) = (await client.list_resources()).resources
            assert resource.uri == "channel:///a"
            contents = (await client.read_resource(resource.uri)).contents
            assert [part.model_dump()["text"] for part in contents] == ["hello"]
            templates = (await client.list_resource_templates()).resource_templates
            assert templates[0].uri_template == "channel:///{+name}"

    run(body, tools_changed_debounce_s=0.01)


def test_the_sdk_listens() -> None:
    async def body(mesh: McpMesh) -> None:
        async with Client(mesh.url, mode="2026-07-28", cache=None) as client:
            async with client.listen(tools_list_changed=True, resource_subscriptions=["channel:///a"]) as events:
                await client.call_tool("mesh_publish", {"channel": "a", "text": "x"})
                first = await asyncio.wait_for(anext(events), 5)
                assert (type(first).__name__, first.uri) == ("ResourceUpdated", "channel:///a")  # type: ignore[union-attr]
                mesh.add("t1", Skill("new_tool"))
                assert type(await asyncio.wait_for(anext(events), 5)).__name__ == "ToolsListChanged"
            assert "new_tool" in [tool.name for tool in (await client.list_tools()).tools]

    run(body, tools_changed_debounce_s=0.01)


def test_the_older_sdk_client_hears_of_new_tools() -> None:
    async def body(mesh: McpMesh) -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()

        async def on_message(message: Any) -> None:
            heard.put_nowait(getattr(message, "method", type(message).__name__))

        async with Client(mesh.url, mode="legacy", message_handler=on_message) as client:
            await client.list_tools()
            async with asyncio.timeout(5):
                while heard.empty():
                    mesh.add("t1", Skill("new_tool"))
                    await asyncio.sleep(0.02)
            assert heard.get_nowait() == "notifications/tools/list_changed"

    run(body, tools_changed_debounce_s=0.01)


def test_the_sdk_takes_a_call_back() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        async with Client(mesh.url, mode="2026-07-28") as client:
            await client.list_tools()
            asking = asyncio.create_task(client.call_tool("slow", {}))
            await asyncio.wait_for(mesh.calls.asked.wait(), 5)
            asking.cancel()
            await asyncio.wait_for(mesh.calls.started[0].cancelled.wait(), 5)
            await asyncio.wait([asking])

    run(body, tools_changed_debounce_s=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_typescript_client(mode: str, require: Callable[[str], str]) -> None:
    node = require("npm:@modelcontextprotocol/client")
    script = Path(__file__).with_name("mcp_client.mjs")

    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("set_temperature", "Sets it.", SCHEMA))
        child = await asyncio.create_subprocess_exec(
            node, str(script), mesh.url, mode, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(child.communicate(), 30)
        assert child.returncode == 0, err.decode()
        told = json.loads(out)
        assert told["version"] == ERAS[mode]
        assert "set_temperature" in told["tools"]
        assert told["called"] == {"celsius": 21}
        assert told["read"] == "hello"
        assert told["refused"] is True
        assert told["heard"] == ("channel:///a" if mode == "auto" else None)

    run(body, tools_changed_debounce_s=0.01)

"""An MCP server of the official SDK, in a process of its own: python mcp_server.py PORT [legacy] [token].

``legacy``: it knows no revision without a handshake. ``token``: only who has it is let in. Prints what happens to it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged

BYTES = b"\x89PNG\x00\xff"
RESULT = {"done": True, "note": "grün"}
OBJECT: dict[str, Any] = {"type": "object"}

Context = ServerRequestContext[Any, Any]

tools = {
    name: types.Tool(name=name, description=f"The tool\u0007 {name}.", input_schema=OBJECT)
    for name in ("do", "text", "image", "file", "several", "nothing", "fail", "wait", "parts", "offer", "withdraw")
}
tools["do"] = types.Tool(
    name="do",
    title="Does it",
    input_schema={"type": "object", "properties": {"speed": {"type": "number"}}, "required": ["speed"]},
    output_schema={"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"]},
)
bus = InMemorySubscriptionBus()


def text(said: str) -> types.TextContent:
    return types.TextContent(type="text", text=said)


async def list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    """Two a page."""
    names = sorted(tools)
    start = int(params.cursor) if params is not None and params.cursor else 0
    more = start + 2 < len(names)
    page = [tools[name] for name in names[start : start + 2]]
    return types.ListToolsResult(tools=page, next_cursor=str(start + 2) if more else None)


async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    encoded = base64.b64encode(BYTES).decode()
    content: list[types.ContentBlock] = []
    match params.name:
        case "do":
            written = json.dumps(RESULT, ensure_ascii=False)
            print("asked", json.dumps(params.arguments), flush=True)
            return types.CallToolResult(content=[text(written)], structured_content=RESULT)
        case "text":
            content = [text("just so")]
        case "image":
            content = [types.ImageContent(type="image", data=encoded, mime_type="image/png")]
        case "file":
            held = types.BlobResourceContents(uri="file:///x", blob=encoded, mime_type="application/x-thing")
            content = [types.EmbeddedResource(type="resource", resource=held)]
        case "several":
            content = [text("one"), text("two")]
        case "fail":
            return types.CallToolResult(content=[text("the part is missing")], is_error=True)
        case "wait":
            print("asked", flush=True)
            try:
                await asyncio.sleep(60)
            except BaseException:
                print("cancelled", flush=True)
                raise
        case "parts":
            await context.session.report_progress(1, 3, "one")
            await context.session.report_progress(2, 3)
            content = [text("all")]
        case "offer":
            tools["offered"] = types.Tool(name="offered", input_schema=OBJECT)
            await changed(context)
        case "withdraw":
            tools.pop("offered", None)
            await changed(context)
        case name if name not in tools:
            raise ValueError(name)
    return types.CallToolResult(content=content)


async def changed(context: Context) -> None:
    await bus.publish(ToolsListChanged())
    await context.session.send_tool_list_changed()


class Door:
    """ASGI in front of the server."""

    def __init__(self, manager: StreamableHTTPSessionManager, legacy: bool, token: str) -> None:
        self._manager = manager
        self._legacy = legacy
        self._token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status = 0
        if self._token and headers.get("authorization") != f"Bearer {self._token}":
            status = 401
        elif self._legacy and headers.get("mcp-protocol-version", "") >= "2026":
            status = 400
        if status:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._manager.handle_request(scope, receive, send)


async def main() -> None:
    port, *more = sys.argv[1:]
    server: Server[Any] = Server(
        "toolbox",
        version="7",
        instructions="Tools of the shop floor.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_subscriptions_listen=ListenHandler(bus),
    )
    server.create_initialization_options = lambda *_, **__: Server.create_initialization_options(  # type: ignore[method-assign]
        server, NotificationOptions(tools_changed=True)
    )
    manager = StreamableHTTPSessionManager(server)
    token = next((word for word in more if word != "legacy"), "")
    listening = socket.create_server(("127.0.0.1", int(port)))
    config = uvicorn.Config(
        Door(manager, "legacy" in more, token), lifespan="off", log_level="warning", timeout_graceful_shutdown=1
    )
    print("port", listening.getsockname()[1], flush=True)
    async with manager.run():
        await uvicorn.Server(config).serve([listening])


asyncio.run(main())

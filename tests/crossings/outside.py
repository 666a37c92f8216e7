"""An MCP server of the official SDK, as crossings' server: the mesh reaches it by a link."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import threading
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server as SdkServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from tests.crossings.calling import PATIENCE_S, Asked, Server

Context = ServerRequestContext[Any, Any]


class McpServer(Server):
    """Serves with tools. MCP has no name for a call that a server would see, so it numbers them itself."""

    def __init__(self, skills: list[str]) -> None:
        super().__init__()
        self._skills = skills
        self._numbers = itertools.count(1)
        self._parts: dict[str, list[str]] = {}
        self._results: dict[str, types.CallToolResult] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/mcp"
        self._sdk: SdkServer[Any] = SdkServer("outside", on_list_tools=self._list, on_call_tool=self._call)
        self._manager = StreamableHTTPSessionManager(self._sdk)
        config = uvicorn.Config(self._manager.handle_request, interface="asgi3", lifespan="off", log_level="warning")
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)
        self._thread.start()

    async def _run(self) -> None:
        async with self._manager.run():
            await self._uvicorn.serve([self._socket])

    async def _list(self, context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name=skill, input_schema={"type": "object"}) for skill in self._skills]
        )

    async def _call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        call = str(next(self._numbers))
        self._parts[call] = []
        self.act(Asked(call, params.name, json.dumps(params.arguments, ensure_ascii=False).encode()))
        for number, part in enumerate(self._parts.pop(call), start=1):
            await context.session.report_progress(number, message=part)
        if call in self._results:
            return self._results.pop(call)
        try:
            await asyncio.sleep(PATIENCE_S * 2)
        except BaseException:
            self.cancelled.put(call)
            raise
        raise AssertionError("nobody cancelled the call")

    def answer(
        self, call: str, payload: bytes, *, part: int = 0, error: bool = False, content_type: str | None = None
    ) -> None:
        if part:
            self._parts[call].append(payload.decode())
        elif content_type is not None:
            image = types.ImageContent(type="image", data=base64.b64encode(payload).decode(), mime_type=content_type)
            self._results[call] = types.CallToolResult(content=[image])
        else:
            text = types.TextContent(type="text", text=payload.decode())
            structured = None if error else json.loads(payload)
            self._results[call] = types.CallToolResult(content=[text], structured_content=structured, is_error=error)

    def close(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(PATIENCE_S)

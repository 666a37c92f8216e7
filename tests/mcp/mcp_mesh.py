"""An MCP endpoint on a real socket over a real broker in memory; who serves is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web

from dragoman.adapters.mcp.desk import Desk
from dragoman.adapters.mcp.routes import McpEndpoint, add_routes
from dragoman.adapters.mcp.serve import MeshServe
from dragoman.adapters.mcp.settings import McpSettings
from dragoman.adapters.serving.credentials import Credentials
from dragoman.adapters.serving.web import RUNNER_OPTIONS, application
from dragoman.adapters.serving.web_settings import WebSettings
from dragoman.broker.broker import Broker
from dragoman.broker.call import Call
from dragoman.broker.clock import SystemClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.cards import Skill
from dragoman.routing.refusals import Reason, Refusal

MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Server:
    """An agent's own connection, over which it is asked and answers."""

    protocol = "test"

    def __init__(self, principal: Principal, agent: str) -> None:
        self.principal = principal
        self.agent = agent

    def deliver(self, feed: object, message: object) -> bool:
        return True

    def lost(self, feed: object, count: int) -> None:
        pass

    committed = refused = close = lost  # type: ignore[assignment]


class Asked:
    """A call as its server sees it."""

    def __init__(self, broker: Broker, server: Server, call: Call) -> None:
        self._broker = broker
        self._server = server
        self.id = call.id
        self.agent = server.agent
        self.wanted = call.wanted
        self.skill = call.skill
        self.arguments = json.loads(call.arguments)
        self.timeout_ms = call.deadline_ms - call.started_ms
        self.cancelled = asyncio.Event()

    def part(self, payload: bytes) -> None:
        assert self._broker.calls.answer(self._server, self.id, payload, partial=True) is None

    def answer(self, payload: bytes, content_type: str | None = None) -> None:
        assert self._broker.calls.answer(self._server, self.id, payload, content_type=content_type) is None

    def refuse(self, reason: Reason, detail: str) -> None:
        assert self._broker.calls.answer(self._server, self.id, b"", error=Refusal(reason, detail)) is None


class Servers:
    """``serve`` is given each call, whoever is asked, and answers it, now or later. By default: with its arguments."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._by_agent: dict[str, Server] = {}
        self.started: list[Asked] = []
        self.serve: Callable[[Asked], None] = lambda asked: asked.answer(json.dumps(asked.arguments).encode())
        self.asked = asyncio.Event()

    def add(self, agent: str, skills: tuple[Skill, ...], principal: Principal) -> None:
        server = self._by_agent.get(agent)
        if server is None:
            server = self._by_agent[agent] = Server(principal, agent)
            assert isinstance(self._broker.directory.arrive(server, agent, keeps=False), int)
        for skill in skills:
            offer = self._broker.directory.offer(
                server, agent, skill, lambda call, server=server: self._ask(server, call), self._cancelled
            )
            assert not isinstance(offer, Refusal), offer

    def leave(self, agent: str) -> None:
        self._broker.directory.depart(self._by_agent.pop(agent), clean=True, keeps=False)

    def _ask(self, server: Server, call: Any) -> bool:
        asked = Asked(self._broker, server, call)
        self.started.append(asked)
        self.asked.set()
        asyncio.get_running_loop().call_soon(self.serve, asked)
        return True

    def _cancelled(self, call: Any) -> None:
        next(asked for asked in self.started if asked.id == call.id).cancelled.set()


class FakeAuthenticator:
    """``good`` is the token of alice, who has the agent ``desk``; no credentials are anonymous if allowed."""

    def __init__(self) -> None:
        self.anonymous = True
        self.people = {
            "good": Principal("alice", agents=frozenset({"desk"})),
            "other": Principal("bob"),
        }

    def check(self, credentials: Credentials, then: Callable[[Principal | Refusal], None]) -> None:
        known = self.people.get(credentials.token or "")
        if known is not None:
            then(known)
        elif credentials.token is None and self.anonymous:
            then(ANONYMOUS)
        else:
            then(Refusal(Reason.NOT_AUTHENTICATED, "who are you?"))


class McpMesh:
    """What a test holds."""

    def __init__(self, broker: Broker, login: FakeAuthenticator, port: int, http: aiohttp.ClientSession) -> None:
        self.broker = broker
        self.login = login
        self.directory = broker.directory
        self.calls = Servers(broker)
        self.url = f"http://127.0.0.1:{port}/mcp"
        self.port = port
        self.http = http
        self.endpoint: McpEndpoint
        self.serve: MeshServe

    def add(self, agent: str, *skills: Skill, principal: str = "plant") -> None:
        """An agent that is connected and serves these skills."""
        self.calls.add(agent, skills, Principal(principal))

    async def post(self, body: Any, headers: dict[str, str | None] | None = None) -> tuple[int, dict[str, str], Any]:
        """Sends a body; (status, headers in lower case, decoded answer). A header given as None is left out."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", **(headers or {})}
        lines = {name: value for name, value in sent.items() if value is not None}
        async with self.http.post(self.url, data=raw, headers=lines, skip_auto_headers=["Accept"]) as answer:
            text = await answer.read()
            head = {name.lower(): value for name, value in answer.headers.items()}
            kind = head.get("content-type", "")
            if kind.startswith("text/event-stream"):
                return answer.status, head, events(text)
            return answer.status, head, json.loads(text) if "json" in kind else text

    async def ask(
        self, method: str, params: dict[str, Any] | None = None, headers: dict[str, str | None] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Sends a well-formed modern request."""
        body, lines = modern(method, params)
        return await self.post(body, {**lines, **(headers or {})})

    async def call(self, name: str, arguments: dict[str, Any], **headers: str) -> dict[str, Any]:
        """The result of a tool."""
        status, _, answer = await self.ask("tools/call", {"name": name, "arguments": arguments}, dict(headers))
        assert status == 200, answer
        result = answer["result"]
        assert isinstance(result, dict)
        return result


def modern(
    method: str, params: dict[str, Any] | None = None, request_id: Any = 1
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A modern request and its headers."""
    given = params or {}
    meta = {**META, **given.get("_meta", {})}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    name = given.get("uri") if method == "resources/read" else given.get("name")
    if name is not None:
        headers["Mcp-Name"] = name
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**given, "_meta": meta}}, headers


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns when it holds; fails when it never does."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def events(text: bytes) -> list[Any]:
    """The JSON of each event that has data."""
    return [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: {")]


async def next_event(content: aiohttp.StreamReader) -> Any:
    """The JSON of the next event of a stream."""
    while True:
        line = await asyncio.wait_for(content.readline(), 5)
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            return json.loads(line[6:])


@contextlib.asynccontextmanager
async def mcp_mesh(settings: McpSettings | None = None, gate: GateSettings | None = None) -> AsyncIterator[McpMesh]:
    """Starts one; everything is gone at the end."""
    loop, clock, log = asyncio.get_running_loop(), SystemClock(), MemoryLog()
    broker = Broker(
        BrokerSettings(),
        AgentSettings(flap_ms=0),
        clock=clock,
        log=log,
        gate=Gate(gate or GateSettings()),
        loop=loop,
        metrics=Metrics(),
    )
    await broker.start()
    login = FakeAuthenticator()
    app = application(login, WebSettings())  # type: ignore[arg-type]
    settings = settings or McpSettings()
    desk = Desk(broker, settings, version="9.9")
    endpoint = add_routes(app, broker, settings, desk)
    runner = web.AppRunner(app, shutdown_timeout=1, **RUNNER_OPTIONS)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        async with aiohttp.ClientSession() as http:
            mesh = McpMesh(broker, login, port, http)
            mesh.endpoint = endpoint
            mesh.serve = desk._open()[0]
            yield mesh
    finally:
        await desk.stop(0)
        await runner.cleanup()
        await broker.stop()


def run(body: Callable[[McpMesh], Awaitable[None]], gate: GateSettings | None = None, **settings: Any) -> None:
    """Runs a test against a mesh. A test that hangs fails."""

    async def main() -> None:
        async with mcp_mesh(McpSettings(**settings), gate) as mesh, asyncio.timeout(20):
            await body(mesh)

    asyncio.run(main())


# -- clients of the handshake revisions ------------------------------------------------------------------------------


def hello(version: str = "2025-11-25") -> dict[str, Any]:
    return request(
        "initialize",
        {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "admin", "version": "1"}},
        0,
    )


def request(method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}


async def opened(mesh: McpMesh, version: str = "2025-11-25", **more: str) -> dict[str, str | None]:
    """Opens a session; the headers its requests need."""
    status, headers, answer = await mesh.post(hello(version), dict(more))
    assert status == 200, answer
    lines: dict[str, str | None] = {
        "Mcp-Session-Id": headers["mcp-session-id"],
        "MCP-Protocol-Version": version,
        **more,
    }
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await mesh.post(note, lines))[0] == 202
    return lines


def note(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def listening(lines: dict[str, str | None], seen: str = "") -> dict[str, str]:
    """The headers that open a stream of a session, after the event ``seen``."""
    headers = {name: str(value) for name, value in lines.items()} | {"Accept": "text/event-stream"}
    return {**headers, "Last-Event-ID": seen} if seen else headers


async def next_frame(content: aiohttp.StreamReader) -> tuple[str, Any]:
    """Id and JSON of the next event of a stream; None for an event without data."""
    seen, told = "", None
    while (line := await asyncio.wait_for(content.readline(), 5)).strip() or not seen:
        assert line, "the stream ended"
        if line.startswith(b"id: "):
            seen = line[4:].strip().decode()
        elif line.startswith(b"data: {"):
            told = json.loads(line[6:])
    return seen, told

"""An A2A endpoint on a real socket over a real broker in memory; the agents that are asked are fakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web

from dragoman.adapters.a2a.desk import Desk
from dragoman.adapters.a2a.routes import add_routes
from dragoman.adapters.a2a.settings import A2aSettings
from dragoman.adapters.serving.credentials import Credentials
from dragoman.adapters.serving.web import RUNNER_OPTIONS, application
from dragoman.adapters.serving.web_settings import WebSettings
from dragoman.broker.broker import Broker
from dragoman.broker.call import Call
from dragoman.broker.clock import SystemClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.log.contract import Ticket
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.cards import Skill
from dragoman.routing.refusals import Reason, Refusal

ECHO = Skill("echo", "Says it again.")


class Server:
    """An agent's own connection, over which it is asked and answers. ``serve`` is given each call."""

    protocol = "test"

    def __init__(self, broker: Broker, agent: str, keeps: bool = False) -> None:
        self.principal = Principal("plant")
        self.agent = agent
        self._broker = broker
        self._keeps = keeps
        self.asked: asyncio.Queue[Call] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.serve: Callable[[Call], None] | None = None

    def arrive(self, *skills: Skill) -> None:
        assert isinstance(self._broker.directory.arrive(self, self.agent, keeps=self._keeps), int)
        for skill in skills:
            offer = self._broker.directory.offer(self, self.agent, skill, self._ask, self._cancel)
            assert not isinstance(offer, Refusal), offer

    def leave(self) -> None:
        self._broker.directory.depart(self, clean=True, keeps=self._keeps)

    def _ask(self, call: Any) -> bool:
        if self.serve is not None:
            asyncio.get_running_loop().call_soon(self.serve, call)
        self.asked.put_nowait(call)
        return True

    def _cancel(self, call: Any) -> None:
        self.cancelled.put_nowait(call.id)

    async def next(self) -> Call:
        return await asyncio.wait_for(self.asked.get(), 5)

    def part(self, call: Call, payload: bytes, content_type: str | None = None) -> None:
        said = self._broker.calls.answer(self, call.id, payload, content_type=content_type, partial=True)
        assert said is None, said

    def answer(self, call: Call, payload: bytes, content_type: str | None = None) -> None:
        said = self._broker.calls.answer(self, call.id, payload, content_type=content_type)
        assert said is None, said

    def refuse(self, call: Call, reason: Reason, detail: str) -> None:
        assert self._broker.calls.answer(self, call.id, b"", error=Refusal(reason, detail)) is None

    def echo(self, call: Call) -> None:
        self.answer(call, call.arguments, call.content_type)

    def deliver(self, feed: object, message: object) -> bool:
        return True

    def lost(self, feed: object, count: int) -> None:
        pass

    committed = refused = close = lost  # type: ignore[assignment]


class HeldLog(MemoryLog):
    """A log whose commits take until ``let_go`` once it is ``holding``."""

    def __init__(self) -> None:
        super().__init__()
        self.holding = False
        self._held: list[Ticket] = []
        self._report: Callable[[Ticket], None] = self._held.append

    def open(self, on_commit: Callable[[Ticket], None], on_refused: Callable[[Ticket, Refusal], None]) -> None:
        self._report = on_commit
        super().open(lambda ticket: (self._held.append if self.holding else on_commit)(ticket), on_refused)

    def let_go(self) -> None:
        self.holding = False
        for ticket in self._held:
            self._report(ticket)
        self._held.clear()


class FakeAuthenticator:
    """``good`` is alice's token, ``other`` bob's, ``plant`` that of the agents; none is anonymous if allowed."""

    def __init__(self) -> None:
        self.anonymous = True
        self.people = {
            "good": Principal("alice", agents=frozenset({"desk"})),
            "other": Principal("bob"),
            "plant": Principal("plant"),
            "admin": Principal("root", admin=True),
        }

    def check(self, credentials: Credentials, then: Callable[[Principal | Refusal], None]) -> None:
        known = self.people.get(credentials.token or "")
        if known is not None:
            then(known)
        elif credentials.token is None and self.anonymous:
            then(ANONYMOUS)
        else:
            then(Refusal(Reason.NOT_AUTHENTICATED, "who are you?"))


class A2aMesh:
    """What a test holds."""

    def __init__(self, broker: Broker, desk: Desk, port: int, http: aiohttp.ClientSession) -> None:
        self.broker = broker
        self.desk = desk
        self.login = FakeAuthenticator()
        self.base = f"http://127.0.0.1:{port}/a2a"
        self.http = http

    def add(self, agent: str, *skills: Skill, echo: bool = True, keeps: bool = False) -> Server:
        """An agent that is connected, serves these skills and says again what it is asked."""
        server = Server(self.broker, agent, keeps)
        if echo:
            server.serve = server.echo
        server.arrive(*(skills or (ECHO,)))
        return server

    async def post(
        self, path: str, body: Any, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[int, aiohttp.typedefs.LooseHeaders, Any]:
        """Sends a body or none; (status, headers, JSON or the items of a stream)."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"A2A-Version": "1.0", **({"Content-Type": "application/json"} if raw is not None else {})}
        lines = {name: value for name, value in {**sent, **(headers or {})}.items() if value}
        async with self.http.request(method, self.base + path, data=raw, headers=lines) as answer:
            text = await answer.read()
            if answer.content_type == "text/event-stream":
                return answer.status, answer.headers, events(text)
            return answer.status, answer.headers, json.loads(text) if text else None

    async def rpc(self, agent: str, method: str, params: Any = None, **headers: str) -> Any:
        """The result of a method, an error, or the items of a stream."""
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params or {}}
        status, _, answer = await self.post(f"/{agent}" if agent else "", body, headers=headers)
        assert status in (200, 403), answer
        if isinstance(answer, list):
            assert all(item["id"] == 7 for item in answer)
            return [item["result"] for item in answer]
        assert answer["id"] == 7
        return answer["result"] if "result" in answer else answer["error"]

    async def send(self, agent: str, *parts: Any, metadata: Any = None, wait: bool = True, **more: Any) -> Any:
        """The task of a message."""
        given = {"message": message(*parts, metadata=metadata, **more)}
        if not wait:
            given["configuration"] = {"returnImmediately": True}
        answer = await self.rpc(agent, "SendMessage", given)
        return answer.get("task", answer)

    async def until(self, agent: str, task_id: str, state: str, **headers: str) -> Any:
        """The task, once it is in a state."""
        async with asyncio.timeout(5):
            while True:
                task = await self.rpc(agent, "GetTask", {"id": task_id}, **headers)
                if task["status"]["state"] == f"TASK_STATE_{state}":
                    return task
                await asyncio.sleep(0.002)


_count = 0


def message(*parts: Any, metadata: Any = None, **more: Any) -> dict[str, Any]:
    """A user's message with an id of its own. Text and objects become parts."""
    global _count
    _count += 1
    made = [{"text": part} if isinstance(part, str) else part for part in parts]
    said: dict[str, Any] = {"messageId": f"m{_count}", "role": "ROLE_USER", "parts": made, **more}
    return {**said, "metadata": metadata} if metadata else said


def events(text: bytes) -> list[Any]:
    """The JSON of each event."""
    return [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: {")]


async def next_event(content: aiohttp.StreamReader) -> Any:
    """The JSON of the next event of a stream; None at its end."""
    while True:
        line = await asyncio.wait_for(content.readline(), 5)
        if not line:
            return None
        if line.startswith(b"data: "):
            return json.loads(line[6:])


@contextlib.asynccontextmanager
async def a2a_mesh(
    settings: A2aSettings | None = None,
    gate: GateSettings | None = None,
    agents: AgentSettings | None = None,
    log: MemoryLog | None = None,
) -> AsyncIterator[A2aMesh]:
    """Starts one; everything is gone at the end."""
    broker = Broker(
        BrokerSettings(),
        agents or AgentSettings(flap_ms=0),
        clock=SystemClock(),
        log=log or MemoryLog(),
        gate=Gate(gate or GateSettings()),
        loop=asyncio.get_running_loop(),
        metrics=Metrics(),
    )
    await broker.start()
    login = FakeAuthenticator()
    app = application(login, WebSettings())  # type: ignore[arg-type]
    desk = Desk(broker, settings or A2aSettings(), version="9.9")
    await desk.start()
    add_routes(app, broker, settings or A2aSettings(), desk)
    runner = web.AppRunner(app, shutdown_timeout=1, **RUNNER_OPTIONS)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        async with aiohttp.ClientSession() as http:
            mesh = A2aMesh(broker, desk, port, http)
            mesh.login = login
            yield mesh
            desk.notes.check()
            broker.calls.check()
    finally:
        await desk.stop(1)
        await runner.cleanup()
        await broker.stop()


def run(
    body: Callable[[A2aMesh], Awaitable[None]],
    gate: GateSettings | None = None,
    *,
    agents: AgentSettings | None = None,
    **settings: Any,
) -> None:
    """Runs a test against a mesh. A test that hangs fails."""

    async def main() -> None:
        async with a2a_mesh(A2aSettings(**settings), gate, agents) as mesh, asyncio.timeout(20):
            await body(mesh)

    asyncio.run(main())

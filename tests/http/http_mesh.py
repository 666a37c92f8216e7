"""The HTTP API on a real socket over a real broker, with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from dragoman.adapters.http.listener import Door, Listener
from dragoman.adapters.http.routes import add_routes
from dragoman.adapters.http.session import StreamSession
from dragoman.adapters.http.settings import HttpSettings
from dragoman.adapters.http.surface import Setting, Surface
from dragoman.adapters.serving.credentials import Credentials
from dragoman.adapters.serving.limits import ConnectionLimits
from dragoman.adapters.serving.settings import LimitSettings
from dragoman.adapters.serving.sockets import Address, bound_address, listen
from dragoman.adapters.serving.web import application
from dragoman.broker.broker import Broker
from dragoman.broker.clock import SystemClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.log.contract import Log
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.broker.redirects import Redirect
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.refusals import Reason, Refusal
from tests.http.contract import Contract

CURL = shutil.which("curl")
CONTRACT = Contract()
"""Every answer that any test sees must be one that /openapi.json documents."""


class People:
    """Tokens ``alice`` (who has the agent ``desk``), ``bob`` and ``root`` (an administrator); others are strangers."""

    def __init__(self) -> None:
        self.anonymous = True
        self.seen: list[Credentials] = []
        self.known = {
            "alice": Principal("alice", agents=frozenset({"desk"})),
            "bob": Principal("bob"),
            "root": Principal("root", admin=True),
        }

    def check(self, credentials: Credentials, then: Callable[[Principal | Refusal], None]) -> None:
        self.seen.append(credentials)
        known = self.known.get(credentials.token or credentials.username or "")
        if known is not None:
            then(known)
        elif credentials.token is None and credentials.username is None and self.anonymous:
            then(ANONYMOUS)
        else:
            then(Refusal(Reason.NOT_AUTHENTICATED, "who are you?"))


class Movable:
    """A session that has words for going elsewhere."""

    def __init__(self, broker: Broker) -> None:
        self._real = StreamSession(broker, Principal("dev"), "dev", HttpSettings())
        self.sent: list[Redirect] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def redirect(self, there: Redirect) -> None:
        self.sent.append(there)


@dataclass
class HttpMesh:
    """What a test holds."""

    broker: Broker
    people: People
    surface: Surface
    listener: Listener
    url: str
    http: aiohttp.ClientSession
    contract: Contract

    async def ask(
        self, method: str, path: str, *, token: str | None = None, **more: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, body, headers in lower case); the body decoded if it is JSON."""
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        url = path if path.startswith("http") else self.url + path
        async with self.http.request(method, url, headers=headers, **more) as answer:
            body = await answer.read()
            self.contract.check(method, answer.url.raw_path, answer.status, answer.headers.get("Content-Type"), body)
            head = {name.lower(): value for name, value in answer.headers.items()}
            if head.get("content-type", "").startswith(("application/json", "application/problem+json")) and body:
                return answer.status, json.loads(body), head
            return answer.status, body, head

    async def publish(self, name: str, payload: bytes | str = b"", **query: str) -> dict[str, Any]:
        """Says something; the answer."""
        status, answer, _ = await self.ask("POST", "/v1/channels", params={"name": name, **query}, data=payload)
        assert status == 201, answer
        assert isinstance(answer, dict)
        return answer

    @contextlib.asynccontextmanager
    async def events(self, path: str, **more: Any) -> AsyncIterator[Events]:
        """An open event stream."""
        headers = {"Accept": "text/event-stream", **more.pop("headers", {})}
        async with self.http.get(self.url + path, headers=headers, **more) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            self.contract.check("GET", answer.url.raw_path, 200, answer.headers["Content-Type"], None)
            yield Events(answer)


@dataclass
class Event:
    """One event as a reader sees it."""

    kind: str
    id: str | None
    data: Any


class Events:
    """Reads events off a stream."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self._buffer = bytearray()

    async def line(self) -> str:
        """The next line, "" at the end."""
        while b"\n" not in self._buffer:
            more = await asyncio.wait_for(self.answer.content.readany(), 5)
            if not more:
                break
            self._buffer += more
        line, newline, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return (line + newline).decode()

    async def next(self) -> Event:
        """The next event; comments and retry are passed over."""
        kind, id_, data = "message", None, []
        while True:
            line = await self.line()
            assert line, "the stream ended"
            line = line.rstrip("\n")
            if line == "" and data:
                return Event(kind, id_, json.loads("\n".join(data)))
            name, _, value = line.partition(": ")
            if name == "data":
                data.append(value)
            elif name == "event":
                kind = value
            elif name == "id":
                id_ = value


@contextlib.asynccontextmanager
async def http_mesh(
    settings: HttpSettings | None = None,
    *,
    gate: GateSettings | None = None,
    log: Log | None = None,
    limits: LimitSettings | None = None,
    broker_settings: BrokerSettings | None = None,
) -> AsyncIterator[HttpMesh]:
    """Starts one; everything is gone at the end."""
    loop = asyncio.get_running_loop()
    settings = settings or HttpSettings()
    broker = Broker(
        broker_settings or BrokerSettings(),
        AgentSettings(flap_ms=0),
        clock=SystemClock(),
        log=log if log is not None else MemoryLog(),
        gate=Gate(gate or GateSettings()),
        loop=loop,
        metrics=Metrics(),
    )
    await broker.start()
    people = People()
    app = application(people, settings.web)  # type: ignore[arg-type]
    config = [Setting("listen.http", "127.0.0.1:0", "default")]
    surface = Surface(broker, settings, config=lambda: config, version="9.9")
    add_routes(app, surface)
    sockets = listen(Address("127.0.0.1", 0))
    doors = [Door(sockets)]
    listener = Listener(app, surface, ConnectionLimits(limits or LimitSettings()), doors, grace_s=1)
    try:
        await listener.start()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            url = f"http://{bound_address(sockets[0])}"
            yield HttpMesh(broker, people, surface, listener, url, http, CONTRACT)
    finally:
        broker.say_goodbye()
        await listener.stop(1)
        await broker.stop()


async def curl(*arguments: str) -> tuple[int, bytes]:
    """(status, body) of a request made by curl, a client that folds paths as browsers do."""
    assert CURL is not None
    process = await asyncio.create_subprocess_exec(
        CURL, "-sS", "--max-time", "8", "-w", "\n%{http_code}", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    body, _, status = out.rpartition(b"\n")
    return int(status), body


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns when it holds; fails when it never does."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

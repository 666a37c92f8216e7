"""The MCP endpoint: Streamable HTTP of both eras on the one web application. Decides the HTTP side, nothing else.

The web application has checked Host, Origin, encoding and credentials before anything here runs. What is wrong
with a message is said as a JSON-RPC error with the status the specification gives its code; what is wrong with
the request around it as a problem document.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from aiohttp import web

from dragoman.adapters.mcp import wire
from dragoman.adapters.mcp.answer import Answer, EventStream
from dragoman.adapters.mcp.callers import Caller, Quota, caller_of
from dragoman.adapters.mcp.handshakes import HandshakeSession, HandshakeSessions
from dragoman.adapters.mcp.kernel import (
    HANDSHAKE_VERSIONS,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MODERN_VERSIONS,
    VERSION_HEADER,
    JsonObject,
    Kernel,
    Request,
    RpcError,
    http_status,
)
from dragoman.adapters.mcp.serve import MeshServe
from dragoman.adapters.serving.problems import respond
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.broker.broker import Broker

INSTRUCTIONS: Final = (
    "A mesh where agents, tools and devices meet. Every skill somebody offers is a tool; with the argument 'agent' "
    "you choose who does it. The tools named mesh_… publish, read, wait for and join channels, find agents and open "
    "rooms. Channels are also resources, channel:///name, which hold their retained or newest message."
)


def add_routes(app: web.Application, broker: Broker, settings: McpSettings, *, version: str) -> McpEndpoint:
    """Serves MCP on ``app`` at ``settings.path``. The endpoint starts and ends with the application."""
    endpoint = McpEndpoint(broker, settings, version)
    app.router.add_route("*", settings.path, endpoint.answer)
    app.on_startup.append(endpoint.started)
    app.on_shutdown.append(endpoint.stopped)
    return endpoint


@final
class McpEndpoint:
    """What ``/mcp`` is to HTTP."""

    __slots__ = ("_broker", "_kernel", "_listens", "_requests", "_serve", "_sessions", "_settings", "_unwatch")

    def __init__(self, broker: Broker, settings: McpSettings, version: str) -> None:
        self._broker = broker
        self._settings = settings
        self._requests = Quota(
            "requests", each_max=settings.requests_per_principal_max, total_max=settings.requests_max
        )
        self._listens = Quota("streams", each_max=settings.listens_per_principal_max, total_max=settings.listens_max)
        self._sessions = HandshakeSessions(sessions_max=settings.sessions_max, idle_s=settings.session_idle_s)
        self._serve = MeshServe(broker, settings)
        self._kernel = Kernel(self._serve, name="dragoman", version=version, instructions=INSTRUCTIONS)
        self._unwatch: Callable[[], None] | None = None

    async def started(self, app: web.Application) -> None:
        """Begins to watch the directory, so that clients learn of new tools."""
        self._unwatch = self._serve.changes.subscribe(self._tell_sessions)
        self._serve.start()

    async def stopped(self, app: web.Application) -> None:
        """Ends every stream, cursor and session."""
        if self._unwatch is not None:
            self._unwatch()
        self._serve.stop()
        self._sessions.close()

    async def answer(self, http: web.Request) -> web.StreamResponse:
        """Any request to the path."""
        caller = caller_of(http, self._broker)
        match http.method:
            case "POST":
                return await self._post(http, caller)
            case "GET":
                return await self._stream(http, caller)
            case "DELETE":
                return self._delete(http, caller)
            case _:
                return _method_not_allowed()

    # -- POST: one message -------------------------------------------------------------------------

    async def _post(self, http: web.Request, caller: Caller) -> web.StreamResponse:
        accept = ",".join(http.headers.getall("Accept", []))
        if not (wire.accepts(accept, wire.JSON_TYPE) and wire.accepts(accept, "text/event-stream")):
            refusal = Refusal(Reason.UNSUPPORTED, "Accept must list application/json and text/event-stream")
            return respond(refusal, 406)
        if http.content_type != wire.JSON_TYPE:
            return respond(Refusal(Reason.UNSUPPORTED, "Content-Type must be application/json"), 415)
        envelope = wire.parse(await self._body(http))
        if isinstance(envelope, RpcError):
            return _error(None, envelope)
        if wire.era_of(envelope, http.headers) is wire.Era.HANDSHAKE:
            return await self._post_handshake(http, caller, envelope)
        if envelope.id is None:
            # Nothing a modern client tells us by notification concerns us: it cancels by closing the request.
            fault = self._kernel.unsupported(http.headers.get(VERSION_HEADER, MODERN_VERSIONS[-1]))
            return web.Response(status=202) if fault is None else _error(None, fault)
        return await self._post_modern(http, caller, envelope)

    async def _post_modern(self, http: web.Request, caller: Caller, envelope: wire.Envelope) -> web.StreamResponse:
        assert envelope.id is not None, "notifications have been answered"
        lines = [(name, value) for name, value in http.headers.items()]
        stream = EventStream(http, self._settings.write_timeout_s, {})
        request = Request(envelope.id, envelope.method, envelope.params, caller, stream.notify)
        fault = self._kernel.objection(envelope.body, lines) or self._kernel.parameter_objection(request, lines)
        if fault is not None:
            return _error(envelope.id, fault)
        quota = self._listens if envelope.method == "subscriptions/listen" else self._requests
        with quota.held(caller.principal.name):
            answer = Answer(envelope.id, stream, silence_s=self._settings.silence_s)
            return await answer.run(self._kernel.ask(request), {})

    async def _body(self, http: web.Request) -> bytes:
        parts = bytearray()
        limit = self._settings.body_bytes_max
        async for chunk in http.content.iter_any():
            parts += chunk
            if len(parts) > limit:
                raise RefusedError(Refusal(Reason.TOO_LARGE, f"the body is larger than {limit} bytes"))
        return bytes(parts)

    # -- clients of the handshake revisions ----------------------------------------------------------

    async def _post_handshake(self, http: web.Request, caller: Caller, envelope: wire.Envelope) -> web.StreamResponse:
        if envelope.method == "initialize":
            if envelope.id is None:
                return _error(None, RpcError(INVALID_REQUEST, "initialize must be a request"))
            return await self._initialize(http, caller, envelope)
        session = self._session(http, caller)
        if isinstance(session, web.Response):
            return session
        if envelope.id is not None:
            return await self._ask(http, caller, envelope, session)
        if envelope.method == "notifications/cancelled":
            session.cancel((envelope.params or {}).get("requestId"))
        else:
            await session.place.tell(Request("", envelope.method, envelope.params, caller, session.tell))
        return web.Response(status=202)

    async def _initialize(self, http: web.Request, caller: Caller, envelope: wire.Envelope) -> web.StreamResponse:
        now_ms = self._broker.clock.monotonic_ms()
        session = HandshakeSession(self._kernel, caller.principal.name, now_ms)
        if not self._sessions.admit(session, now_ms):
            raise RefusedError(Refusal(Reason.BUSY, f"{len(self._sessions)} sessions are open, which is all", 1000))
        response = await self._ask(http, caller, envelope, session)
        if response.status != 200 or not session.place.agreed:
            self._sessions.end(session)
        return response

    async def _ask(
        self, http: web.Request, caller: Caller, envelope: wire.Envelope, session: HandshakeSession
    ) -> web.StreamResponse:
        assert envelope.id is not None, "notifications have been answered"
        if session.requests >= self._settings.session_requests_max:
            detail = f"{session.requests} requests of this session are under way, which is all it may have"
            raise RefusedError(Refusal(Reason.QUOTA_EXCEEDED, detail, 1000))
        headers = {wire.SESSION_HEADER: session.id} if envelope.method == "initialize" else {}
        stream = EventStream(http, self._settings.write_timeout_s, headers)
        request = Request(envelope.id, envelope.method, envelope.params, caller, stream.notify)

        async def work() -> JsonObject:
            task = asyncio.current_task()
            assert task is not None, "answers run in tasks"
            if not session.began(request.id, task):
                raise RpcError(INVALID_REQUEST, f"a request with the id {request.id!r} is under way")
            try:
                return await session.place.ask(request)
            finally:
                session.ended(request.id)

        with self._requests.held(caller.principal.name):
            answer = Answer(envelope.id, stream, silence_s=self._settings.silence_s, keep=session.keep)
            return await answer.run(work(), headers)

    def _session(self, http: web.Request, caller: Caller) -> HandshakeSession | web.Response:
        version = http.headers.get(VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_VERSIONS:
            return _error(None, RpcError(INVALID_REQUEST, f"this session speaks no version {version!r}"))
        session_id = http.headers.get(wire.SESSION_HEADER)
        if session_id is None:
            detail = f"send {wire.SESSION_HEADER}, or _meta with a protocol version in each request"
            return _error(None, RpcError(INVALID_REQUEST, f"the request belongs to no session: {detail}"))
        session = self._sessions.find(session_id, caller.principal.name, self._broker.clock.monotonic_ms())
        if session is None:
            return _error(None, RpcError(INVALID_REQUEST, "session not found"), 404)
        return session

    async def _stream(self, http: web.Request, caller: Caller) -> web.StreamResponse:
        if wire.SESSION_HEADER not in http.headers or http.headers.get(VERSION_HEADER) in MODERN_VERSIONS:
            return _method_not_allowed()
        if not wire.accepts(",".join(http.headers.getall("Accept", [])), "text/event-stream"):
            return respond(Refusal(Reason.UNSUPPORTED, "Accept must list text/event-stream"), 406)
        session = self._session(http, caller)
        if isinstance(session, web.Response):
            return session
        with self._listens.held(caller.principal.name):
            if not session.begin_stream():
                return respond(Refusal(Reason.CONFLICT, "this session has its one stream already"))
            try:
                return await self._pour(session, EventStream(http, self._settings.write_timeout_s, {}))
            finally:
                session.used_ms = self._broker.clock.monotonic_ms()
                session.end_stream()

    async def _pour(self, session: HandshakeSession, stream: EventStream) -> web.StreamResponse:
        await stream.keep_alive()
        while not session.closed:
            try:
                async with asyncio.timeout(self._settings.silence_s):
                    notices = await session.news()
            except TimeoutError:
                await stream.keep_alive()
                continue
            for method, params in notices:
                await stream.notify(method, params)
        return await stream.end()

    def _delete(self, http: web.Request, caller: Caller) -> web.Response:
        if wire.SESSION_HEADER not in http.headers or http.headers.get(VERSION_HEADER) in MODERN_VERSIONS:
            return _method_not_allowed()
        session = self._session(http, caller)
        if isinstance(session, web.Response):
            return session
        self._sessions.end(session)
        return web.Response(status=204)

    def _tell_sessions(self) -> None:
        self._sessions.put_out_idle(self._broker.clock.monotonic_ms())
        for session in self._sessions:
            session.post("notifications/tools/list_changed", None)


def _error(request_id: str | int | None, error: RpcError, status: int = 0) -> web.Response:
    body = wire.error_body(request_id, error)
    code = status or http_status(error.code)
    assert code != 200 or error.code == INTERNAL_ERROR, f"a refused message gets no 200: {error.code}"
    return web.Response(body=body, status=code, content_type=wire.JSON_TYPE)


def _method_not_allowed() -> web.Response:
    return web.Response(status=405, headers={"Allow": "POST"})

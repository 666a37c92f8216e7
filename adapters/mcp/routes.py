"""The MCP endpoint: Streamable HTTP of both eras on the one web application. Decides the HTTP side, nothing else.

The web application has checked Host, Origin, encoding and credentials before anything here runs. What is wrong
with a message is said as a JSON-RPC error with the status the specification gives its code; what is wrong with
the request around it as a problem document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aiohttp import web

from dragoman.adapters.mcp import wire
from dragoman.adapters.mcp.answer import Answer, EventStream
from dragoman.adapters.mcp.callers import Caller, caller_of
from dragoman.adapters.mcp.handshake_routes import HandshakeRoutes, method_not_allowed
from dragoman.adapters.mcp.kernel import (
    INTERNAL_ERROR,
    MODERN_VERSIONS,
    VERSION_HEADER,
    Request,
    RpcError,
    http_status,
)
from dragoman.adapters.serving.problems import respond
from dragoman.adapters.serving.quota import Quota
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.mcp.desk import Desk
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.broker.broker import Broker


def add_routes(app: web.Application, broker: Broker, settings: McpSettings, desk: Desk) -> McpEndpoint:
    """Serves MCP on ``app`` at ``settings.path``. The endpoint ends with the application."""
    endpoint = McpEndpoint(broker, settings, desk)
    app.router.add_route("*", settings.path, endpoint.answer)
    app.on_shutdown.append(endpoint.stopped)
    return endpoint


@final
class McpEndpoint:
    """What ``/mcp`` is to HTTP."""

    __slots__ = ("_broker", "_handshakes", "_kernel", "_listens", "_requests", "_settings")

    def __init__(self, broker: Broker, settings: McpSettings, desk: Desk) -> None:
        self._broker = broker
        self._settings = settings
        self._requests = desk.requests
        self._listens = Quota("streams", each_max=settings.listens_per_principal_max, total_max=settings.listens_max)
        self._kernel = desk.kernel
        self._handshakes = HandshakeRoutes(broker, settings, desk, self._listens)
        desk.watch(self._handshakes.tell)

    async def stopped(self, app: web.Application) -> None:
        """Ends every stream and session."""
        self._handshakes.close()

    async def answer(self, http: web.Request) -> web.StreamResponse:
        """Any request to the path."""
        caller = caller_of(http, self._broker)
        match http.method:
            case "POST":
                return await self._post(http, caller)
            case "GET":
                return await self._handshakes.stream(http, caller)
            case "DELETE":
                return self._handshakes.delete(http, caller)
            case _:
                return method_not_allowed()

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
            return await self._handshakes.post(http, caller, envelope)
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
            return await answer.run(self._kernel.ask(request))

    async def _body(self, http: web.Request) -> bytes:
        parts = bytearray()
        limit = self._settings.body_bytes_max
        async for chunk in http.content.iter_any():
            parts += chunk
            if len(parts) > limit:
                raise RefusedError(Refusal(Reason.TOO_LARGE, f"the body is larger than {limit} bytes"))
        return bytes(parts)


def _error(request_id: str | int | None, error: RpcError, status: int = 0) -> web.Response:
    body = wire.error_body(request_id, error)
    code = status or http_status(error.code)
    assert code != 200 or error.code == INTERNAL_ERROR, f"a refused message gets no 200: {error.code}"
    return web.Response(body=body, status=code, content_type=wire.JSON_TYPE)

"""The web application on its sockets: counted, limited, and stopped in the right order."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, cast, final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from dragoman.adapters.serving.problems import Problem, respond_with
from dragoman.adapters.serving.sockets import bound_address
from dragoman.adapters.serving.web import HANDLER_OPTIONS
from dragoman.broker.bans import Ban, covers

if TYPE_CHECKING:
    from dragoman.adapters.http.surface import Surface
    from dragoman.adapters.serving.limits import ConnectionLimits
    from dragoman.broker.metrics import Wire

logger = logging.getLogger(__name__)


class Door(NamedTuple):
    """Listening sockets of one address, and how they are encrypted, if they are."""

    sockets: Sequence[socket.socket]
    tls: ssl.SSLContext | None = None


@final
class Listener:
    """Serves one web application, whatever protocols have added routes to it, on any number of doors."""

    def __init__(
        self, app: web.Application, surface: Surface, limits: ConnectionLimits, doors: Sequence[Door], grace_s: float
    ) -> None:
        """``grace_s``: how long open requests may take to end when it stops. ``surface`` is told where it is."""
        assert doors, "a listener needs a socket"
        self._surface = surface
        self._limits = limits
        self._doors = doors
        self._grace_s = grace_s
        self._wire = surface.broker.metrics.wire("http")
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=grace_s)
        self._servers: list[asyncio.Server] = []
        surface.broker.bans.follow(self._turn_out)

    def _turn_out(self, ban: Ban) -> None:
        """Cuts the connections from an address that has just been banned."""
        server = self._runner.server
        for connection in list(server.connections) if server is not None else ():
            if isinstance(connection, _Connection) and covers(ban, connection.host):
                connection.cut()

    async def start(self) -> None:
        """Begins to accept."""
        loop = asyncio.get_running_loop()
        await self._runner.setup()
        server = self._runner.server
        assert server is not None, "a runner that is set up has a server"
        for door in self._doors:
            for sock in door.sockets:
                made = await loop.create_server(
                    lambda: _Connection(server, loop, self._limits, self._wire), sock=sock, ssl=door.tls
                )
                self._servers.append(made)
        first = self._doors[0]
        address = bound_address(first.sockets[0])
        # A socket bound to every address is reached by the local one of its family.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
        scheme = "https" if first.tls is not None else "http"
        self._surface.base_url = f"{scheme}://{address._replace(host=host)}"

    def stop_accepting(self) -> None:
        """Takes no new connections."""
        for server in self._servers:
            server.close()
        self._surface.end_streams()

    async def stop(self, deadline_s: float) -> None:
        """Lets what is under way finish, at most so long, then cuts it."""
        self.stop_accepting()
        server = self._runner.server
        if server is not None and deadline_s < self._grace_s:
            await server.shutdown(deadline_s)
        await self._runner.cleanup()
        for listening in self._servers:
            await listening.wait_closed()
        self._servers.clear()


@final
class _Connection(web.RequestHandler):
    """One connection, counted against the limits of the whole mesh."""

    __slots__ = ("_admitted", "_limits", "_wire", "host")

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, limits: ConnectionLimits, wire: Wire
    ) -> None:
        super().__init__(server, loop=loop, **HANDLER_OPTIONS)
        self._limits = limits
        self._wire = wire
        self.host = ""
        self._admitted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lets the connection in, or cuts it: there is no request yet that could be answered."""
        peer = transport.get_extra_info("peername")
        self.host = str(peer[0]) if isinstance(peer, tuple) else ""
        super().connection_made(transport)
        self._wire.connections += 1
        self._wire.open += 1
        if self._limits.admit(self.host) is None:
            self._admitted = True
            return
        self._wire.turned_away += 1
        # uvloop's transports are no instances of asyncio's classes.
        cast(asyncio.Transport, transport).abort()

    def cut(self) -> None:
        """Ends it, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what is not HTTP as any other no: counted, a line in the log. A fault of ours is another kind."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        self._wire.errors += 1
        logger.info("malformed request", extra={"peer": self.host, "kind": type(exc).__name__})
        long = isinstance(exc, LineTooLong)
        detail = "the address or a header is longer than 8,190 bytes" if long else "this is not HTTP as it is defined"
        response = respond_with(Problem("about:blank", HTTPStatus(status).phrase, status, detail))
        response.force_close()
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        """Counts it out."""
        self._wire.open -= 1
        if self._admitted:
            self._admitted = False
            self._limits.leave(self.host)
        super().connection_lost(exc)

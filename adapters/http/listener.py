"""The web application on its sockets: counted, limited, and stopped in the right order."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, final

from aiohttp import web

from dragoman.adapters.serving.complaints import Complaints
from dragoman.adapters.serving.entrance import Arrival, Entrance
from dragoman.adapters.serving.sockets import bound_address
from dragoman.adapters.serving.web_connection import WebConnection, turn_out

if TYPE_CHECKING:
    from dragoman.adapters.http.surface import Surface
    from dragoman.adapters.serving.limits import ConnectionLimits


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
        self._complaints = Complaints("http", logger, surface.broker.timers)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=grace_s)
        self._entrances = [
            Entrance(door.sockets, self._connection, limits, self._wire, self._complaints, tls=door.tls)
            for door in doors
        ]
        surface.broker.bans.follow(lambda ban: turn_out(self._runner.server, ban))

    async def start(self) -> None:
        """Begins to accept."""
        await self._runner.setup()
        for entrance in self._entrances:
            await entrance.start()
        first = self._doors[0]
        address = bound_address(first.sockets[0])
        # A socket bound to every address is reached by the local one of its family.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
        scheme = "https" if first.tls is not None else "http"
        self._surface.base_url = f"{scheme}://{address._replace(host=host)}"

    def _connection(self, arrival: Arrival | None) -> WebConnection:
        server = self._runner.server
        assert server is not None, "a runner that is set up has a server"
        return WebConnection(server, self._limits, self._wire, self._complaints, arrival)

    def encrypt(self, tls: ssl.SSLContext) -> None:
        """New handshakes at the doors that have TLS go by this."""
        for door, entrance in zip(self._doors, self._entrances, strict=True):
            if door.tls is not None:
                entrance.renew(tls)

    def stop_accepting(self) -> None:
        """Takes no new connections."""
        for entrance in self._entrances:
            entrance.stop_accepting()
        self._surface.end_streams()

    async def stop(self, deadline_s: float) -> None:
        """Lets what is under way finish, at most so long, then cuts it."""
        self.stop_accepting()
        for entrance in self._entrances:
            await entrance.stop()
        server = self._runner.server
        if server is not None and deadline_s < self._grace_s:
            await server.shutdown(deadline_s)
        await self._runner.cleanup()

"""MQTT in WebSocket frames on a port of its own: an HTTP server that can do nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, final

from aiohttp import hdrs, web

from dragoman.adapters.mqtt.no_room import AT_ONCE_MAX, FULL
from dragoman.adapters.mqtt.websocket import carry
from dragoman.adapters.serving import problems
from dragoman.adapters.serving.certificates import certificate_names
from dragoman.adapters.serving.entrance import Arrival, Entrance
from dragoman.adapters.serving.web import origin_known
from dragoman.adapters.serving.web_connection import WebConnection, turn_out
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Sequence

    from dragoman.adapters.mqtt.listener_settings import ListenerSettings
    from dragoman.adapters.mqtt.realm import Realm
    from dragoman.adapters.serving.limits import ConnectionLimits
    from dragoman.adapters.serving.web_settings import WebSettings


@final
class WebSocketListener:
    """Accepts WebSockets on one address. ``start`` once, ``stop`` once."""

    def __init__(
        self,
        realm: Realm,
        limits: ConnectionLimits,
        settings: ListenerSettings,
        web_settings: WebSettings,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``web_settings``: by what names pages may call us; whose pages, ``settings`` says."""
        self._realm = realm
        self._limits = limits
        self._settings = settings
        self._web = replace(web_settings, origins=settings.origins)
        self._server = web.Server(self._answer, handler_cancellation=True)
        self._entrance = Entrance(
            sockets, self._connection, limits, realm.counters, realm.complaints, tls=tls, relays=settings.relays
        )
        realm.broker.bans.follow(lambda ban: turn_out(self._server, ban))

    async def start(self) -> None:
        """Begins to accept."""
        await self._entrance.start()

    def renew(self, settings: ListenerSettings, tls: ssl.SSLContext | None) -> None:
        """Whoever comes from now on goes by these. Address, kind and whether there is TLS are as they were."""
        self._settings = settings
        self._web = replace(self._web, origins=settings.origins)
        self._entrance.renew(tls, settings.relays)

    def stop_accepting(self) -> None:
        """No new connections from now on."""
        self._entrance.stop_accepting()

    async def stop(self, deadline_s: float) -> None:
        """Lets the connections that the broker has ended say their goodbye, at most so long; then cuts them."""
        await self._entrance.stop()
        self._server.pre_shutdown()
        # aiohttp takes 0 for "no deadline".
        await self._server.shutdown(max(deadline_s, 0.001))

    def _connection(self, arrival: Arrival | None) -> WebConnection:
        connection = WebConnection(
            self._server, self._limits, self._realm.counters, self._realm.complaints, arrival, self._full
        )
        # Nobody has shown who it is before CONNECT: the time for that begins with the connection.
        connect_ms = int(self._limits.settings.connect_deadline_s * 1000)
        connection.deadline = self._realm.broker.timers.after(connect_ms, WebConnection.cut, connection)
        return connection

    def _full(self, connection: WebConnection) -> bool:
        """Whether not even a word can be had with it."""
        most, here = self._settings.connections_max, self._server.connections
        if not 0 < most <= len(here):
            return False
        told = sum(isinstance(other, WebConnection) and other.unwelcome for other in here)
        connection.unwelcome = len(here) - told >= most
        return connection.unwelcome and told >= AT_ONCE_MAX

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The only request of a connection."""
        connection = request.protocol
        assert isinstance(connection, WebConnection)
        deadline, arrival = connection.deadline, connection.arrival
        assert deadline is not None, "it had one from its beginning"
        assert arrival is not None, "it has arrived"
        deadline.cancel()
        if self._settings.tls and self._settings.client_certificates != "off":
            arrival.certificate = certificate_names(request.get_extra_info("peercert"))
        left_ms = max(0, deadline.due_ms - self._realm.broker.clock.monotonic_ms())
        answer: web.StreamResponse
        try:
            self._check(request, connection)
            answer = await carry(request, self._realm, left_ms, self._settings, arrival)
        except RefusedError as error:
            answer = problems.respond(error.refusal)
        except web.HTTPException as error:
            answer = problems.from_framework(error)
        answer.force_close()
        return answer

    def _check(self, request: web.BaseRequest, connection: WebConnection) -> None:
        """Whether a WebSocket may be opened here, and by this page if it is one. Only browsers name an origin."""
        if connection.unwelcome:
            self._realm.counters.turned_away += 1
            raise RefusedError(FULL)
        if self._settings.path not in ("", request.path):
            raise web.HTTPNotFound(text=f"MQTT is at {self._settings.path} here")
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and not origin_known(origin, request.headers.get(hdrs.HOST, ""), self._web):
            detail = f"pages of {origin!r} may not connect here; allow the origin if they should"
            raise RefusedError(Refusal(Reason.NOT_AUTHORIZED, detail))

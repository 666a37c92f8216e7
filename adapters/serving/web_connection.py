"""One connection that speaks HTTP, whatever is served on it: counted, limited, and answered when it speaks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, cast, final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from dragoman.adapters.serving.entrance import Arrival, arrival_on
from dragoman.adapters.serving.problems import Problem, respond_with
from dragoman.adapters.serving.web import HANDLER_OPTIONS
from dragoman.broker.bans import Ban, covers

if TYPE_CHECKING:
    from dragoman.adapters.serving.complaints import Complaints
    from dragoman.adapters.serving.limits import ConnectionLimits
    from dragoman.broker.metrics import Wire
    from dragoman.broker.timers import Timer


@final
class WebConnection(web.RequestHandler):
    """One connection, counted against the limits of the whole mesh. ``full`` is asked whether there is room for it.

    It may let one in that is ``unwelcome``: its request is to be answered that there is none.
    """

    __slots__ = ("_complaints", "_full", "_limits", "_wire", "arrival", "deadline", "unwelcome")

    def __init__(
        self,
        server: web.Server,
        limits: ConnectionLimits,
        wire: Wire,
        complaints: Complaints,
        arrival: Arrival | None = None,
        full: Callable[[WebConnection], bool] = lambda _: False,
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **HANDLER_OPTIONS)
        self._limits = limits
        self._wire = wire
        self._complaints = complaints
        self._full = full
        self.arrival = arrival
        self.unwelcome = False
        #: forgotten with the connection; whoever sets it cancels it once the request has come
        self.deadline: Timer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lets the connection in, or cuts it: there is no request yet that could be answered."""
        self.arrival = self.arrival or arrival_on(transport)
        full = self._full(self)
        super().connection_made(transport)
        self._wire.connections += 1
        self._wire.open += 1
        if full or self.arrival.admit(self._limits) is not None:
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
        long = isinstance(exc, LineTooLong)
        detail = "the address or a header is longer than 8,190 bytes" if long else "this is not HTTP as it is defined"
        self._complaints.say("connection closed", detail, peer=self.arrival.text if self.arrival is not None else "")
        response = respond_with(Problem("about:blank", HTTPStatus(status).phrase, status, detail))
        response.force_close()
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        """Counts it out."""
        self._wire.open -= 1
        if self.arrival is not None:
            self.arrival.leave(self._limits)
        if self.deadline is not None:
            self.deadline.cancel()
        super().connection_lost(exc)


def turn_out(server: web.Server | None, ban: Ban) -> None:
    """Cuts the connections from an address that has just been banned."""
    for connection in server.connections if server is not None else ():
        arrival = connection.arrival if isinstance(connection, WebConnection) else None
        if arrival is not None and covers(ban, arrival.host):
            cast(WebConnection, connection).cut()

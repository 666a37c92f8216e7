"""Who is asking: the principal of a request and the agent it speaks as.

What a client calls itself (clientInfo) is never looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aiohttp import web

from dragoman.adapters.serving.web import PRINCIPAL, agent_of

if TYPE_CHECKING:
    from dragoman.adapters.mcp.handshakes import HandshakeSession
    from dragoman.broker.broker import Broker
    from dragoman.broker.principal import Principal


@final
class Caller:
    """The party behind one request. ``session`` is the handshake session it came in; None for later revisions."""

    __slots__ = ("agent", "principal", "session")

    def __init__(self, principal: Principal, agent: str) -> None:
        self.principal = principal
        self.agent = agent
        self.session: HandshakeSession | None = None


def caller_of(http: web.Request, broker: Broker) -> Caller:
    """Who sends this request, which the web application has authenticated. Raises RefusedError."""
    return Caller(http[PRINCIPAL], agent_of(http, broker.directory))

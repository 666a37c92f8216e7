"""Who is asking: the principal of a request, the agent it speaks as, and how much it may have going.

What a client calls itself (clientInfo) is never looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from aiohttp import web

from dragoman.adapters.serving.web import PRINCIPAL, agent_of
from dragoman.routing.refusals import Reason, Refusal, RefusedError

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


@final
class Quota:
    """How many of something each principal may have, and all together."""

    __slots__ = ("_each_max", "_held", "_total", "_total_max", "_word")

    def __init__(self, word: str, *, each_max: int, total_max: int) -> None:
        self._word = word
        self._each_max = each_max
        self._total_max = total_max
        self._held: Counter[str] = Counter()
        self._total = 0

    def take(self, principal: str) -> Refusal | None:
        """Counts one more, or says no."""
        held, total = self._held[principal], self._total
        if held >= self._each_max:
            return Refusal(Reason.QUOTA_EXCEEDED, f"{held} {self._word} are open, {self._each_max} are allowed", 1000)
        if total >= self._total_max:
            return Refusal(Reason.BUSY, f"{total} {self._word} are open in the mesh, which is all it allows", 1000)
        self._held[principal] += 1
        self._total += 1
        return None

    def give_back(self, principal: str) -> None:
        """Counts one less."""
        assert self._held[principal] > 0, f"{principal} gives back one of {self._word} it does not hold"
        self._total -= 1
        self._held[principal] -= 1
        if not self._held[principal]:
            del self._held[principal]

    @contextmanager
    def held(self, principal: str) -> Iterator[None]:
        """Holds one for a ``with`` block. Raises RefusedError."""
        refusal = self.take(principal)
        if refusal is not None:
            raise RefusedError(refusal)
        try:
            yield
        finally:
            self.give_back(principal)


def caller_of(http: web.Request, broker: Broker) -> Caller:
    """Who sends this request, which the web application has authenticated. Raises RefusedError."""
    return Caller(http[PRINCIPAL], agent_of(http, broker.directory))

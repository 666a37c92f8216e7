"""An A2A caller as the broker sees it: it says something, or it watches. Speaks to no socket.

What a watch is given waits in a bounded inbox; when that is full the broker keeps the place instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.call import Call, Outcome
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message

MESSAGE_OVERHEAD: Final = 256
"""Bytes a waiting message counts for besides its payload."""


@final
class A2aSession:
    """The broker's Session of one request or one watch."""

    __slots__ = (
        "_agent",
        "_bytes",
        "_bytes_max",
        "_count_max",
        "_inbox",
        "_news",
        "_principal",
        "_starved",
        "_unsettled",
        "closed",
        "missed",
    )

    def __init__(self, principal: Principal, agent: str, *, count_max: int = 0, bytes_max: int = 0) -> None:
        """``count_max`` and ``bytes_max`` bound the inbox of a watch; who watches nothing needs none."""
        self._principal = principal
        self._agent = agent
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._inbox: deque[Message] = deque()
        self._bytes = 0
        self._starved = False
        self._news = asyncio.Event()
        self._unsettled: dict[Ticket, asyncio.Future[Refusal | None]] = {}
        self.closed: Refusal | None = None
        self.missed = 0

    @property
    def principal(self) -> Principal:
        """Whom the gate judges."""
        return self._principal

    @property
    def agent(self) -> str:
        """The agent it speaks as, or ""."""
        return self._agent

    @property
    def protocol(self) -> str:
        """The word people know it by."""
        return "a2a"

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Takes a message, or answers that there is no room. One always fits, however large."""
        if self._inbox and (len(self._inbox) >= self._count_max or self._bytes >= self._bytes_max):
            self._starved = True
            return False
        self._inbox.append(message)
        self._bytes += len(message.payload or b"") + MESSAGE_OVERHEAD
        self._news.set()
        return True

    def lost(self, feed: Feed, count: int) -> None:
        """A gap; 0 means that nobody knows how many, which counts as one."""
        self.missed += max(count, 1)

    def committed(self, ticket: Ticket) -> None:
        """Publishes up to this ticket are safe."""
        for waiting in [t for t in self._unsettled if t <= ticket]:
            _settle(self._unsettled.pop(waiting), None)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """The publish with this ticket failed."""
        future = self._unsettled.pop(ticket, None)
        if future is not None:
            _settle(future, refusal)

    def close(self, refusal: Refusal) -> None:
        """The mesh ends it: whoever waits is told."""
        self.closed = refusal
        for future in self._unsettled.values():
            _settle(future, refusal)
        self._unsettled.clear()
        self._news.set()

    async def arrival(self, timeout_s: float | None) -> None:
        """Returns when there is something to take, nothing more will come, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._inbox and self.closed is None:
                    self._news.clear()
                    await self._news.wait()

    def take(self, broker: Broker) -> list[Message]:
        """Empties the inbox, less what has expired in it; whoever was refused for want of room goes on where it was."""
        now_ms = broker.clock.now_ms()
        taken = [message for message in self._inbox if not message.expired(now_ms)]
        self._inbox.clear()
        self._bytes = 0
        if self._starved:
            self._starved = False
            broker.resume(self)
        return taken

    async def safe(self, ticket: Ticket, timeout_s: float) -> Refusal | None:
        """Waits until the publish with this ticket is safe, or says why it is not. To be called in the same turn."""
        if ticket == 0:
            return None
        if self.closed is not None:
            return self.closed
        future = self._unsettled.get(ticket)
        if future is None:
            future = self._unsettled[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except TimeoutError:
            return Refusal(Reason.DEADLINE_PASSED, f"not confirmed in {timeout_s:g} s; it may still be stored")


@final
class Asker:
    """Who started a task: the broker's Caller. Whoever follows a task reads it from the call itself."""

    __slots__ = ("session",)

    def __init__(self, session: A2aSession) -> None:
        self.session = session

    def part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        """Told to those who watch the call."""

    def final(self, call: Call, outcome: Outcome) -> None:
        """Likewise."""


def _settle(future: asyncio.Future[Refusal | None], outcome: Refusal | None) -> None:
    if not future.done():
        future.set_result(outcome)

"""One HTTP request or stream as the broker sees it.

A ``RequestSession`` publishes and waits for its commit. A ``StreamSession`` also receives: into a bounded
inbox that one task drains into the socket. When the inbox is full it says so, and the broker keeps the place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from dragoman.broker.log.contract import DONE, Ticket
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.http.settings import HttpSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message

GAPS_MAX: Final = 1_000
"""Gap notices waiting for one reader. Those of more channels at once are told as one, of unknown size."""


class Delivery(NamedTuple):
    """A message for the reader. ``replay``: a retained value, given because the subscription is new."""

    message: Message
    replay: bool


class Gap(NamedTuple):
    """``missing`` messages (0 = unknown) of ``channel`` ("" = several) are gone before the reader could have them."""

    channel: str
    missing: int


class RequestSession:
    """A party that says something and goes. Attach it before, detach it after."""

    def __init__(self, principal: Principal, agent: str) -> None:
        self._principal = principal
        self._agent = agent
        self._unsettled: dict[Ticket, asyncio.Future[Refusal | None]] = {}
        self.ended: Refusal | None = None

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
        """``http``."""
        return "http"

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Never asked for: it subscribes to nothing."""
        raise AssertionError(f"a request got {message.id} of {feed.name!r} without a subscription")

    def lost(self, feed: Feed, count: int) -> None:
        """Never asked for either."""
        raise AssertionError(f"a request lost {count} of {feed.name!r} without a subscription")

    def committed(self, ticket: Ticket) -> None:
        """Wakes whoever waits for this commit or an earlier one."""
        for waiting in [t for t in self._unsettled if t <= ticket]:
            self._settle(waiting, None)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Tells whoever waits for exactly this commit that it failed."""
        if ticket in self._unsettled:
            self._settle(ticket, refusal)

    def close(self, refusal: Refusal) -> None:
        """The mesh ends it: whoever waits is told why."""
        self.ended = refusal

    def _settle(self, ticket: Ticket, refusal: Refusal | None) -> None:
        outcome = self._unsettled.pop(ticket)
        if not outcome.done():
            outcome.set_result(refusal)

    async def settled(self, ticket: Ticket, within_ms: int) -> None:
        """Returns when the ticket's commit is safe. Raises RefusedError if it failed or took too long.

        To be called in the same turn as the publish that gave the ticket, or its answer is missed.
        """
        if ticket == DONE:
            return
        outcome = self._unsettled.get(ticket)
        if outcome is None:
            outcome = self._unsettled[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within_ms / 1000):
                refusal = await asyncio.shield(outcome)
        except TimeoutError:
            detail = f"not confirmed within {within_ms} ms; it may still be stored, so repeat it with the same key"
            refusal = Refusal(Reason.DEADLINE_PASSED, detail)
        if refusal is not None:
            raise RefusedError(refusal)


class StreamSession(RequestSession):
    """A party that listens. One task calls ``wait`` and ``take`` in turns."""

    def __init__(self, broker: Broker, principal: Principal, agent: str, settings: HttpSettings) -> None:
        super().__init__(principal, agent)
        self._broker = broker
        self._messages_max = settings.stream_max_messages
        self._bytes_max = settings.stream_max_bytes
        self._inbox: deque[Delivery | Gap] = deque()
        self._messages = 0
        self._bytes = 0
        self._gaps = 0
        self._starved = False
        self._news = asyncio.Event()

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Puts it in the inbox, or says there is no room."""
        size = len(message.payload or b"")
        if self._messages >= self._messages_max or (self._messages and self._bytes + size > self._bytes_max):
            self._starved = True
            return False
        self._inbox.append(Delivery(message, feed.replay))
        self._messages += 1
        self._bytes += size
        self._news.set()
        return True

    def lost(self, feed: Feed, count: int) -> None:
        """A gap takes its place in the order, so that what follows is read knowing of it."""
        last = self._inbox[-1] if self._inbox else None
        if isinstance(last, Gap) and last.channel == feed.name:
            self._inbox[-1] = Gap(feed.name, last.missing + count if last.missing and count else 0)
        elif self._gaps < GAPS_MAX:
            self._inbox.append(Gap(feed.name, count))
            self._gaps += 1
        elif self._gaps == GAPS_MAX:
            self._inbox.append(Gap("", 0))
            self._gaps += 1
        self._news.set()

    def close(self, refusal: Refusal) -> None:
        """The stream tells the reader why and ends."""
        super().close(refusal)
        self._news.set()

    def wake(self) -> None:
        """Makes ``wait`` return: there is something to say that is not in the inbox."""
        self._news.set()

    async def wait(self, within_ms: int) -> bool:
        """Waits for anything in the inbox or the end. False: nothing came in time."""
        try:
            async with asyncio.timeout(within_ms / 1000):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> list[Delivery | Gap]:
        """Empties the inbox. Call ``replenish`` when it has been sent."""
        taken = list(self._inbox)
        self._inbox.clear()
        self._messages = self._bytes = self._gaps = 0
        self._news.clear()
        return taken

    def replenish(self) -> None:
        """There is room again: whoever was refused goes on where it was."""
        if self._starved:
            self._starved = False
            self._broker.resume(self)

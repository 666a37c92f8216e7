"""An MCP caller as the broker sees it. Knows what was delivered and committed; speaks to no socket.

A request has a session for as long as it runs; a cursor and a listen stream have one of their own. What
arrives goes into an ``Inbox`` of bounded size: when it is full the mesh keeps the place instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message

MESSAGE_OVERHEAD: Final = 256
"""Bytes an entry of an inbox counts for besides its payload."""


@final
class Inbox:
    """Messages taken and not yet handed out, bounded in count and bytes, and the gaps told in between."""

    __slots__ = ("_bytes", "_bytes_max", "_closed", "_count_max", "_news", "entries", "lost")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        assert count_max > 0
        self.entries: deque[tuple[str, Message]] = deque()
        self.lost = 0
        self._bytes = 0
        self._closed = False
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._news = asyncio.Event()

    def offer(self, name: str, message: Message) -> bool:
        """Takes a message; False when it is full. One message always fits, however large."""
        if self.entries and (len(self.entries) >= self._count_max or self._bytes >= self._bytes_max):
            return False
        self.entries.append((name, message))
        self._bytes += _size(message)
        self._news.set()
        return True

    def missed(self, count: int) -> None:
        """Notes a gap. ``count`` 0 means that nobody knows how many, which counts as one."""
        self.lost += max(count, 1)
        self._news.set()

    def close(self) -> None:
        """Nothing more will come: whoever waits is let go."""
        self._closed = True
        self._news.set()

    async def arrival(self, timeout_s: float) -> None:
        """Returns when something is there to take, nothing more will come, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                # Several may wait: who comes too late waits on.
                while not (self.entries or self.lost or self._closed):
                    self._news.clear()
                    await self._news.wait()

    def drop_expired(self, now_ms: int) -> bool:
        """Lets go of what has expired since it was taken; whether there was any."""
        live = deque(entry for entry in self.entries if not entry[1].expired(now_ms))
        dropped = len(live) < len(self.entries)
        self.entries = live
        self._bytes = sum(_size(message) for _, message in live)
        return dropped

    def take(self, count: int, payload_bytes: int) -> list[tuple[str, Message]]:
        """Hands out up to ``count`` messages of together about ``payload_bytes``, at least one if there is any."""
        taken: list[tuple[str, Message]] = []
        budget = payload_bytes
        while self.entries and len(taken) < count:
            size = _size(self.entries[0][1])
            if taken and size > budget:
                break
            budget -= size
            self._bytes -= size
            taken.append(self.entries.popleft())
        return taken

    def take_lost(self) -> int:
        """How many messages were missed since this was last asked."""
        lost, self.lost = self.lost, 0
        return lost


@final
class McpSession:
    """The broker's Session of one MCP caller. ``take`` gets what is delivered; without one nothing is wanted."""

    __slots__ = ("_agent", "_on_close", "_on_lost", "_principal", "_take", "_waiting", "closed")

    def __init__(
        self,
        principal: Principal,
        agent: str,
        *,
        take: Callable[[Feed, Message], bool] | None = None,
        on_lost: Callable[[Feed, int], None] | None = None,
        on_close: Callable[[Refusal], None] | None = None,
    ) -> None:
        self._principal = principal
        self._agent = agent
        self._take = take
        self._on_lost = on_lost
        self._on_close = on_close
        self._waiting: dict[int, asyncio.Future[Refusal | None]] = {}
        self.closed: Refusal | None = None

    @property
    def principal(self) -> Principal:
        """Whom the gate judges."""
        return self._principal

    @property
    def agent(self) -> str:
        """The agent it speaks as; "" for a caller that is none."""
        return self._agent

    @property
    def protocol(self) -> str:
        """The word people know it by."""
        return "mcp"

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Takes a message, or answers that there is no room."""
        return self._take is None or self._take(feed, message)

    def lost(self, feed: Feed, count: int) -> None:
        """A gap in what this session reads."""
        if self._on_lost is not None:
            self._on_lost(feed, count)

    def committed(self, ticket: Ticket) -> None:
        """Publishes up to this ticket are safe."""
        for waiting in [t for t in self._waiting if t <= ticket]:
            _settle(self._waiting.pop(waiting), None)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """The publish with this ticket failed."""
        future = self._waiting.pop(ticket, None)
        if future is not None:
            _settle(future, refusal)

    def close(self, refusal: Refusal) -> None:
        """The mesh ends this session: whoever waits on it is told."""
        self.closed = refusal
        for future in self._waiting.values():
            _settle(future, refusal)
        self._waiting.clear()
        if self._on_close is not None:
            self._on_close(refusal)

    async def safe(self, ticket: Ticket, timeout_s: float) -> Refusal | None:
        """Waits until the publish with this ticket is safe, or says why it is not. To be called in the same turn."""
        if ticket == 0:
            return None
        if self.closed is not None:
            return self.closed
        future = self._waiting.get(ticket)
        if future is None:
            future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except TimeoutError:
            detail = f"not confirmed in {timeout_s:g} s; it may still be: publish again with the same idempotency_key"
            return Refusal(Reason.DEADLINE_PASSED, detail)


def _settle(future: asyncio.Future[Refusal | None], outcome: Refusal | None) -> None:
    if not future.done():
        future.set_result(outcome)


def _size(message: Message) -> int:
    return len(message.payload or b"") + MESSAGE_OVERHEAD

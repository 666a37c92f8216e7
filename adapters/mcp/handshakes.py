"""Clients of 2025-11-25 and older: a session opened by ``initialize``, its requests in flight, its GET stream.

A session belongs to the principal that opened it; for anybody else it does not exist. It ends by DELETE, or
after a while of not being used.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from secrets import token_urlsafe
from typing import Any, Final, final

from dragoman.adapters.mcp.kernel import Handshake, Kernel, RequestId

STREAM_BACKLOG: Final = 64
"""Notices a GET stream holds for a slow reader; the oldest goes first, since each says no more than "look again"."""


@final
class HandshakeSession:
    """One such client. ``place`` is its end of the kernel."""

    __slots__ = ("_backlog", "_in_flight", "_kept", "_news", "_streaming", "closed", "id", "owner", "place", "used_ms")

    def __init__(self, kernel: Kernel, owner: str, now_ms: int) -> None:
        self.id = token_urlsafe(24)
        self.owner = owner
        self.used_ms = now_ms
        self.closed = False
        self.place: Handshake = kernel.handshake(self.id, self.tell)
        self._in_flight: dict[RequestId, asyncio.Task[Any]] = {}
        self._kept: set[asyncio.Task[bytes]] = set()
        self._backlog: deque[tuple[str, Mapping[str, Any] | None]] = deque(maxlen=STREAM_BACKLOG)
        self._news = asyncio.Event()
        self._streaming = False

    @property
    def busy(self) -> bool:
        """Whether it has a stream open or a request under way, so that it is not idle."""
        return self._streaming or bool(self._in_flight)

    @property
    def requests(self) -> int:
        """How many requests are under way."""
        return len(self._in_flight)

    def began(self, request_id: RequestId, task: asyncio.Task[Any]) -> bool:
        """Notes a request under way; False if one with this id already is."""
        if request_id in self._in_flight:
            return False
        self._in_flight[request_id] = task
        return True

    def ended(self, request_id: RequestId) -> None:
        """Forgets a request."""
        self._in_flight.pop(request_id, None)

    def cancel(self, request_id: object) -> None:
        """Cancels a request; nothing if it is over, as the specification asks."""
        if isinstance(request_id, str | int):
            task = self._in_flight.get(request_id)
            if task is not None:
                task.cancel()

    def keep(self, task: asyncio.Task[bytes]) -> None:
        """Owns a task whose connection broke: it runs to its end, nobody hears it."""
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    async def tell(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Puts a notice on the GET stream."""
        self.post(method, params)

    def post(self, method: str, params: Mapping[str, Any] | None) -> None:
        """The same, without waiting. Dropped when nobody listens: there is nothing to catch up on."""
        if self._streaming:
            self._backlog.append((method, params))
            self._news.set()

    def begin_stream(self) -> bool:
        """Claims the one GET stream; False if it is taken."""
        if self._streaming:
            return False
        self._streaming = True
        self._news.clear()
        return True

    def end_stream(self) -> None:
        """Gives the GET stream back."""
        self._streaming = False
        self._backlog.clear()

    async def news(self) -> list[tuple[str, Mapping[str, Any] | None]]:
        """What the GET stream should say next; empty when the session is over."""
        await self._news.wait()
        self._news.clear()
        notices = list(self._backlog)
        self._backlog.clear()
        return [] if self.closed else notices

    def close(self) -> None:
        """Ends it: what is under way is cancelled, the stream ends."""
        self.closed = True
        for task in (*self._in_flight.values(), *self._kept):
            task.cancel()
        self._news.set()


@final
class HandshakeSessions:
    """All of them, bounded in number and idle time."""

    __slots__ = ("_by_id", "_idle_ms", "_max")

    def __init__(self, *, sessions_max: int, idle_s: float) -> None:
        self._by_id: dict[str, HandshakeSession] = {}
        self._max = sessions_max
        self._idle_ms = int(idle_s * 1000)

    def __iter__(self) -> Iterator[HandshakeSession]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def admit(self, session: HandshakeSession, now_ms: int) -> bool:
        """Takes a session in; False if there are too many. The idle are put out first."""
        self.put_out_idle(now_ms)
        if len(self._by_id) >= self._max:
            return False
        self._by_id[session.id] = session
        return True

    def find(self, session_id: str, owner: str, now_ms: int) -> HandshakeSession | None:
        """The session, if it is this principal's and still there. Finding it counts as use."""
        session = self._by_id.get(session_id)
        if session is None or session.owner != owner or self._idle(session, now_ms):
            return None
        session.used_ms = now_ms
        return session

    def end(self, session: HandshakeSession) -> None:
        """Ends a session."""
        self._by_id.pop(session.id, None)
        session.close()

    def put_out_idle(self, now_ms: int) -> None:
        """Ends those that were not used for long."""
        for session in [s for s in self._by_id.values() if self._idle(s, now_ms)]:
            self.end(session)

    def close(self) -> None:
        """Ends all."""
        for session in list(self._by_id.values()):
            self.end(session)

    def _idle(self, session: HandshakeSession, now_ms: int) -> bool:
        return not session.busy and now_ms - session.used_ms > self._idle_ms

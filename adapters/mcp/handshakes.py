"""Clients of 2025-11-25 and older: a session opened by ``initialize``, its requests in flight, what it follows.

A session belongs to the principal that opened it; for anybody else it does not exist. It ends by DELETE, or
after a while of not being used. A request belongs to its session, not to the connection it came over: that may
break without anybody meaning to cancel (2025-11-25, Streamable HTTP, Disconnection).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any, Final, final

from dragoman.adapters.mcp import wire
from dragoman.adapters.mcp.following import Following
from dragoman.adapters.mcp.kernel import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Handshake,
    JsonObject,
    Kernel,
    Request,
    RequestId,
    RpcError,
)
from dragoman.adapters.mcp.voices import Notices, Reply
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mcp.callers import Caller
    from dragoman.adapters.serving.quota import Quota
    from dragoman.broker.broker import Broker
    from dragoman.broker.timers import Timer

logger = logging.getLogger(__name__)

UPDATED: Final = "notifications/resources/updated"

REPLIES_KEPT: Final = 16
"""Finished streams of one session whose end may still be asked for."""

SWEEP_MS: Final = 10_000
"""How often idle sessions are looked for."""

PRIMED_SINCE: Final = "2025-11-25"
"""Older clients take an event without data for a broken one."""


@final
class HandshakeSession:
    """One such client. ``place`` is its end of the kernel; ``notices`` what its own stream says."""

    __slots__ = (
        "_following",
        "_in_flight",
        "_kept_bytes_max",
        "_replies",
        "closed",
        "id",
        "notices",
        "owner",
        "place",
        "replies_begun",
        "streams",
        "used_ms",
    )

    def __init__(self, kernel: Kernel, owner: str, now_ms: int, kept_bytes_max: int = 1 << 20) -> None:
        self.id = token_urlsafe(24)
        self.owner = owner
        self.used_ms = now_ms
        self.closed = False
        #: how many connections listen now
        self.streams = 0
        self.notices = Notices()
        self.place: Handshake = kernel.handshake(self.id, self.tell)
        self._in_flight: dict[RequestId, asyncio.Task[JsonObject]] = {}
        #: those that can be resumed, oldest first: under way, or finished not long ago
        self._replies: dict[int, Reply] = {}
        self.replies_begun = 0
        self._kept_bytes_max = kept_bytes_max
        self._following: Following | None = None

    @property
    def busy(self) -> bool:
        """Whether it has a stream open or a request under way, so that it is not idle."""
        return bool(self.streams or self._in_flight)

    @property
    def follows(self) -> bool:
        """Whether it is told of any resource."""
        return self._following is not None and bool(self._following.uris)

    @property
    def requests(self) -> int:
        """How many requests are under way."""
        return len(self._in_flight)

    def crowded(self, requests_max: int) -> Refusal | None:
        """The no to one more request, if there are too many under way."""
        if self.requests < requests_max:
            return None
        detail = f"{self.requests} requests of this session are under way, which is all it may have"
        return Refusal(Reason.QUOTA_EXCEEDED, detail, 1000)

    @property
    def primes(self) -> bool:
        """Whether its streams begin with an event that has an id and no data."""
        return self.place.version >= PRIMED_SINCE

    # -- requests ------------------------------------------------------------------------------------

    def reply(self) -> Reply:
        """The stream of a new request."""
        self.replies_begun += 1
        return Reply(self.replies_begun)

    def start(self, request: Request, reply: Reply) -> None:
        """Runs a request; its answer ends ``reply``. An id that is under way is refused there."""
        request_id = request.id
        if request_id in self._in_flight:
            error = RpcError(INVALID_REQUEST, f"a request with the id {request_id!r} is under way")
            reply.finish(wire.error_body(request_id, error))
            return
        task = asyncio.create_task(self.place.ask(request), name=f"mcp request {request_id!r}")
        self._in_flight[request_id] = task
        task.add_done_callback(partial(self._finished, request_id, reply))

    def cancel(self, request_id: object) -> None:
        """Cancels a request; nothing if it is over, as the specification asks."""
        if isinstance(request_id, str | int):
            task = self._in_flight.get(request_id)
            if task is not None:
                task.cancel()

    def find_reply(self, number: int) -> Reply | None:
        """The stream of that number, if it can still be resumed."""
        return self._replies.get(number)

    def hold(self, reply: Reply) -> None:
        """``reply`` is told as events, so that it may be asked for again."""
        self._replies[reply.number] = reply

    def _finished(self, request_id: RequestId, reply: Reply, task: asyncio.Task[JsonObject]) -> None:
        del self._in_flight[request_id]
        if task.cancelled():
            # The client wants no answer, and has nothing to come back for.
            self._replies.pop(reply.number, None)
            reply.finish(None)
            return
        failure = task.exception()
        if failure is None:
            reply.finish(wire.result_body(request_id, task.result()))
        elif isinstance(failure, RpcError):
            reply.finish(wire.error_body(request_id, failure))
        else:
            # Our bug costs this request, and says nothing of itself to whoever sent it.
            logger.error("mcp request failed", exc_info=failure)
            reply.finish(wire.error_body(request_id, RpcError(INTERNAL_ERROR, "Internal error")))
        self._forget_replies()

    def _forget_replies(self) -> None:
        finished = [reply for reply in self._replies.values() if reply.over]
        held = sum(reply.size for reply in finished)
        for reply in finished[:-1]:
            if len(finished) <= REPLIES_KEPT and held <= self._kept_bytes_max:
                return
            del self._replies[reply.number]
            finished.remove(reply)
            held -= reply.size

    # -- its own stream ------------------------------------------------------------------------------

    async def tell(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Puts a notice on its own stream."""
        self.notices.note(method)

    def follow(self, broker: Broker, caller: Caller, uri: str, uris_max: int) -> Refusal | None:
        """Notices of this resource from now on."""
        following = self._following
        if following is None:
            # Closed from within the broker's work, which must be over before anybody leaves.
            following = Following(broker, caller, self._updated, lambda: broker.later(self.close))
            refusal = following.begin()
            if refusal is not None:
                return refusal
            self._following = following
        if len(following.uris) >= uris_max and uri not in following.uris:
            detail = f"{len(following.uris)} resources, one session follows at most {uris_max}"
            return Refusal(Reason.QUOTA_EXCEEDED, detail)
        return following.follow(uri)

    def unfollow(self, uri: str) -> None:
        """No more of them; nothing if there were none."""
        if self._following is not None:
            self._following.unfollow(uri)
        self.notices.forget(UPDATED, uri)

    def _updated(self, uri: str) -> None:
        self.notices.note(UPDATED, uri)

    # -- the end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends it: what is under way is cancelled, the streams end. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for task in self._in_flight.values():
            task.cancel()
        self.notices.end()
        if self._following is not None:
            self._following.end()
            self._following = None


@final
class HandshakeSessions:
    """Those of one carrier, bounded in idle time, and in number by the quota that all share."""

    __slots__ = ("_broker", "_by_id", "_idle_ms", "_quota", "_timer")

    def __init__(self, broker: Broker, quota: Quota, idle_s: float) -> None:
        self._broker = broker
        self._quota = quota
        self._by_id: dict[str, HandshakeSession] = {}
        self._idle_ms = int(idle_s * 1000)
        self._timer: Timer | None = None

    def __iter__(self) -> Iterator[HandshakeSession]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def admit(self, session: HandshakeSession, now_ms: int) -> Refusal | None:
        """Takes a session in, unless there are too many. The idle are put out first."""
        self.put_out_idle(now_ms)
        refusal = self._quota.take(session.owner)
        if refusal is None:
            self._by_id[session.id] = session
            if self._timer is None:
                self._timer = self._broker.timers.after(SWEEP_MS, self._sweep)
        return refusal

    def find(self, session_id: str, owner: str, now_ms: int) -> HandshakeSession | None:
        """The session, if it is this principal's and still there. Finding it counts as use."""
        session = self._by_id.get(session_id)
        if session is None or session.owner != owner or session.closed or self._idle(session, now_ms):
            return None
        session.used_ms = now_ms
        return session

    def end(self, session: HandshakeSession) -> None:
        """Ends a session."""
        if self._by_id.pop(session.id, None) is not None:
            self._quota.give_back(session.owner)
        session.close()

    def put_out_idle(self, now_ms: int) -> None:
        """Ends those that were not used for long, and forgets those the mesh has ended."""
        for session in [s for s in self._by_id.values() if s.closed or self._idle(s, now_ms)]:
            self.end(session)

    def close(self) -> None:
        """Ends all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for session in list(self._by_id.values()):
            self.end(session)

    def _sweep(self) -> None:
        self.put_out_idle(self._broker.clock.monotonic_ms())
        self._timer = self._broker.timers.after(SWEEP_MS, self._sweep) if self._by_id else None

    def _idle(self, session: HandshakeSession, now_ms: int) -> bool:
        return not session.busy and now_ms - session.used_ms > self._idle_ms

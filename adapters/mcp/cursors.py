"""Named cursors: how a client without a connection takes part in a channel. Each is a session with a lease.

While the lease lasts its agent is a member (or, of a wildcard, an observer), and what is said waits for it: in
memory up to a bound, after that as a place in the channel. A cursor belongs to the principal that made it and
does not outlive the process.
"""

from __future__ import annotations

from secrets import token_urlsafe
from typing import TYPE_CHECKING, final

from dragoman.adapters.mcp.callers import Caller
from dragoman.adapters.mcp.session import Inbox, McpSession
from dragoman.adapters.serving.quota import Quota
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.subscription import Feed, Start
    from dragoman.broker.timers import Timer
    from dragoman.routing.message import Message


@final
class Cursor:
    """One of them. ``readers`` counts those who wait on it now."""

    __slots__ = ("due_ms", "filter", "inbox", "key", "lease_ms", "name", "readers", "session")

    def __init__(self, name: str, filter_: str, caller: Caller, settings: McpSettings) -> None:
        self.name = name
        self.filter = filter_
        self.key = (caller.principal.name, name)
        self.inbox = Inbox(settings.cursor_messages_max, settings.cursor_bytes_max)
        self.session = McpSession(
            caller.principal, caller.agent, take=self._take, on_lost=self._lost, on_close=self._closed
        )
        self.lease_ms = 0
        self.due_ms = 0
        self.readers = 0

    def _take(self, feed: Feed, message: Message) -> bool:
        return self.inbox.offer(feed.name, message)

    def _lost(self, feed: Feed, count: int) -> None:
        self.inbox.missed(count)

    def _closed(self, refusal: Refusal) -> None:
        self.inbox.close()


@final
class Cursors:
    """All of them."""

    __slots__ = ("_broker", "_by_key", "_quota", "_settings", "_timer")

    def __init__(self, broker: Broker, settings: McpSettings) -> None:
        self._broker = broker
        self._settings = settings
        self._by_key: dict[tuple[str, str], Cursor] = {}
        self._quota = Quota("cursors", each_max=settings.cursors_per_principal_max, total_max=settings.cursors_max)
        self._timer: Timer | None = None

    def join(
        self, caller: Caller, filter_: str, name: str | None, start: Start, lease_s: float | None
    ) -> Cursor | Refusal:
        """The caller's cursor of that name on ``filter_``: the one there is, with a new lease, or a new one."""
        known = self._by_key.get((caller.principal.name, name or ""))
        if known is not None and known.session.closed is not None:
            self._end(known, clean=True)
        elif known is not None:
            if known.filter != filter_ or known.session.agent != caller.agent:
                detail = f"your cursor {shown(known.name)} reads {shown(known.filter)} as {shown(known.session.agent)}"
                return Refusal(Reason.CONFLICT, detail)
            self._lease(known, lease_s)
            return known
        refusal = self._quota.take(caller.principal.name)
        if refusal is not None:
            return refusal
        cursor = Cursor(name or f"c_{token_urlsafe(12)}", filter_, caller, self._settings)
        refusal = self._broker.attach(cursor.session)
        if refusal is None:
            refusal = self._begin(cursor, start)
            if refusal is not None:
                self._broker.detach(cursor.session)
        if refusal is not None:
            self._quota.give_back(caller.principal.name)
            return refusal
        self._by_key[cursor.key] = cursor
        self._lease(cursor, lease_s)
        return cursor

    def find(self, caller: Caller, name: str) -> Cursor | Refusal:
        """The caller's cursor of that name; finding it renews its lease."""
        cursor = self._by_key.get((caller.principal.name, name))
        if cursor is not None and cursor.session.closed is not None:
            self._end(cursor, clean=True)
            return cursor.session.closed
        if cursor is None or cursor.session.agent != caller.agent:
            return Refusal(
                Reason.GONE, f"you have no cursor {shown(name)}: its lease ended, or it never was; join again"
            )
        if not cursor.inbox.entries and next(iter(self._broker.subscriptions(cursor.session)), None) is None:
            self._end(cursor, clean=True)
            return Refusal(Reason.GONE, f"{shown(cursor.filter)} has closed, and with it your cursor")
        self._lease(cursor, None)
        return cursor

    def renew(self, cursor: Cursor) -> None:
        """Starts the lease anew, after use."""
        if cursor.key in self._by_key:
            self._lease(cursor, None)

    def leave(self, cursor: Cursor) -> None:
        """Ends a cursor; whoever waits on it gets what is there."""
        self._end(cursor, clean=True)

    def close(self) -> None:
        """Ends all."""
        if self._timer is not None:
            self._timer.cancel()
        for cursor in list(self._by_key.values()):
            self._end(cursor, clean=True)

    def _begin(self, cursor: Cursor, start: Start) -> Refusal | None:
        session = cursor.session
        if session.agent:
            arrived = self._broker.directory.arrive(session, session.agent, keeps=False)
            if isinstance(arrived, Refusal):
                return arrived
        subscription = self._broker.subscribe(session, cursor.filter, wish=1, start=start, retained=False)
        if not isinstance(subscription, Refusal):
            return None
        if session.agent:
            self._broker.directory.depart(session, clean=True, keeps=False)
        return subscription

    def _lease(self, cursor: Cursor, lease_s: float | None) -> None:
        if lease_s is not None:
            cursor.lease_ms = int(min(lease_s, self._settings.cursor_lease_max_s) * 1000)
        elif not cursor.lease_ms:
            cursor.lease_ms = int(self._settings.cursor_lease_s * 1000)
        cursor.due_ms = self._broker.clock.monotonic_ms() + cursor.lease_ms
        if self._timer is None:
            self._timer = self._broker.timers.after(1000, self._sweep)

    def _sweep(self) -> None:
        """Ends those whose lease is over. One timer for all: a lease moves with every use, a timer each would not."""
        now_ms = self._broker.clock.monotonic_ms()
        for cursor in [c for c in self._by_key.values() if c.session.closed or (c.due_ms <= now_ms and not c.readers)]:
            self._end(cursor, clean=False)
        self._timer = self._broker.timers.after(1000, self._sweep) if self._by_key else None

    def _end(self, cursor: Cursor, *, clean: bool) -> None:
        del self._by_key[cursor.key]
        self._quota.give_back(cursor.session.principal.name)
        if cursor.session.agent:
            self._broker.directory.depart(cursor.session, clean=clean, keeps=False)
        self._broker.detach(cursor.session)
        if cursor.session.closed is None:
            cursor.session.close(Refusal(Reason.GONE, f"the cursor {shown(cursor.name)} has ended"))

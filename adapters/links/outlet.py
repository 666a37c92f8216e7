"""What a link pushes out: a durable reader of the mesh that offers each message until the outside has it.

What the log keeps comes from the reader's stored place, in commit order, and is finished when the outside has
acknowledged it; so a killed mesh goes on at the first that was not. What it does not keep (said at most once) goes out
as it comes while the outside takes it, and from memory, as far as that reaches, after a pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.links.loops import leaving, was_in
from dragoman.broker.log.contract import Table
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.links.naming import Naming
    from dragoman.adapters.links.state import Standing
    from dragoman.broker.broker import Broker
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed

CURSORS: Final = b"link:"
"""The links' places among all durable readers'."""


@final
class Leaving:
    """A message on its way out. ``name`` is the outside's, ``envelope`` what is said there; each one goes out once."""

    __slots__ = ("envelope", "message", "name")

    def __init__(self, message: Message, name: str, envelope: Envelope) -> None:
        self.message = message
        self.name = name
        self.envelope = envelope

    @property
    def durable(self) -> bool:
        """Whether the log keeps it until the outside has it."""
        return self.message.position > 0


@final
class Outlet:
    """One link's reading side. Implements ``broker.session.Session``.

    ``open`` once; then for each connection ``begin``, ``next`` in turn with ``settle``, and ``end``.
    """

    protocol: Final = "link"
    agent: Final = ""

    def __init__(
        self,
        broker: Broker,
        standing: Standing,
        routes: list[Naming],
        *,
        principal: Principal,
        sender: str,
        mesh: str,
        hops_max: int,
        window: int,
    ) -> None:
        self.principal = principal
        self._broker = broker
        self._standing = standing
        self._routes = routes
        self._sender = sender
        self._mesh = mesh
        self._hops_max = hops_max
        self._window = window
        self._open: dict[Leaving, None] = {}
        self._ready: deque[Leaving] = deque()
        self._news = asyncio.Event()
        self._flowing = False
        self._starved = False
        self._resuming = False
        self._far = ""
        self._backlog = broker.backlogs.open(CURSORS + standing.name.encode(), self._offer)

    def open(self) -> None:
        """Keeps from now on what is to go out."""
        wanted = [route.filter for route in self._routes]
        for filter_ in self._backlog.filters:
            if filter_ not in wanted:
                self._backlog.unwatch(filter_)
        for filter_ in wanted:
            self._backlog.watch(filter_)
        refusal = self._broker.attach(self)
        for filter_ in dict.fromkeys(wanted):
            if refusal is None:
                answer = self._broker.subscribe(self, filter_, wish=0, keep_retain=True, retained=False)
                refusal = answer if isinstance(answer, Refusal) else None
        if refusal is not None:
            self._standing.complain(refusal.detail)

    def close(self, refusal: Refusal) -> None:
        """The mesh ends: the link is stopped beside this."""

    def hush(self) -> None:
        """Takes no more from the mesh; what is on its way may still be settled."""
        self._flowing = False

    def shut(self) -> None:
        """Reads no more. The place stays."""
        self._flowing = False
        self._backlog.pause()
        self._broker.detach(self)

    # -- a connection --------------------------------------------------------------------------------

    @property
    def open_count(self) -> int:
        """Messages taken from the mesh that the outside has not acknowledged."""
        return len(self._open)

    @property
    def behind(self) -> bool:
        """Whether more waits in the log than is on its way."""
        return self._backlog.behind

    @property
    def lag(self) -> int:
        """Positions of the log from its place to the end: at most so many messages wait."""
        return self._broker.log.end() - self._backlog.low

    def begin(self, far: str) -> None:
        """The outside takes messages: what it has not acknowledged goes out again. ``far``: which mesh it is, or ""."""
        self._far = far
        self._flowing = True
        self._ready = deque(self._open)
        self._news.set()
        self._go_on()

    def end(self) -> None:
        """The outside takes nothing any more. What was said at most once and is on its way may be lost, and is."""
        self._flowing = False
        unsent = set(self._ready)
        for item in [item for item in self._open if not item.durable and item not in unsent]:
            del self._open[item]
            self._standing.drop("link-down")

    async def next(self) -> Leaving:
        """The next message to send."""
        while True:
            while not self._ready:
                self._news.clear()
                await self._news.wait()
            item = self._ready.popleft()
            if not item.message.expired(self._broker.clock.now_ms()):
                return item
            self.drop(item, "expired")

    async def batch(self, most: int) -> list[Leaving]:
        """The next messages to send, at least one, without waiting for more."""
        found = [await self.next()]
        while self._ready and len(found) < most:
            found.append(await self.next())
        return found

    def settle(self, item: Leaving) -> None:
        """The outside has it. Told twice, or of another connection's: nothing happens."""
        if item in self._open:
            self._standing.pushed += 1
            self._finish(item)

    def drop(self, item: Leaving, reason: str) -> None:
        """It cannot go out, ever."""
        if item in self._open:
            self._standing.drop(reason)
            self._finish(item)

    def _finish(self, item: Leaving) -> None:
        del self._open[item]
        if item.durable:
            self._backlog.finish(item.message.position)
        if self._starved and not self._resuming:
            self._resuming = True
            self._broker.later(self._go_on)

    def _go_on(self) -> None:
        self._resuming = False
        if not self._flowing:
            return
        self._starved = False
        self._backlog.resume()
        self._broker.resume(self)

    # -- the broker's side ---------------------------------------------------------------------------

    def _offer(self, message: Message) -> bool:
        """A message of the log: taken, or there is no credit."""
        if not self._flowing or len(self._open) >= self._window:
            self._starved = True
            return False
        if not self._take(message):
            # It is finished once the backlog has taken it.
            self._broker.later(self._backlog.finish, message.position)
        return True

    def deliver(self, feed: Feed, message: Message) -> bool:
        """A message as it comes. What the log keeps comes by ``_offer``."""
        if message.position or message.sender == self._sender:
            return True
        if not self._flowing or len(self._open) >= self._window:
            self._starved = True
            return False
        self._take(message)
        return True

    def lost(self, feed: Feed, count: int) -> None:
        """What nobody kept was said too fast, or while the outside was away. The broker has counted it for the mesh."""
        self._standing.dropped["link-gap"] += count

    def committed(self, ticket: Ticket) -> None:
        """It publishes nothing."""

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """It publishes nothing."""

    def _take(self, message: Message) -> bool:
        if message.sender == self._sender or self._was_there(message) or not self._readable(message):
            return False
        name = next((name for route in self._routes if (name := route.name_for(message.name)) is not None), None)
        if name is None:
            return False
        if isinstance(name, Refusal):
            self._standing.drop("link-name")
            return False
        envelope = leaving(message, self._mesh)
        if envelope.hops > self._hops_max:
            self._standing.drop("link-hops")
            return False
        item = Leaving(message, name, envelope)
        self._open[item] = None
        self._ready.append(item)
        self._news.set()
        return True

    def _was_there(self, message: Message) -> bool:
        """Whether it went out from here before, or the outside is a mesh that has had it."""
        envelope = message.envelope
        if envelope is None:
            return False
        return was_in(envelope, self._mesh) or (self._far != "" and was_in(envelope, self._far))

    def _readable(self, message: Message) -> bool:
        if self._broker.may_follow(self, message.name):
            return True
        self._standing.drop("link-not-authorized")
        return False


def forget_cursors(broker: Broker, names: set[str]) -> None:
    """Gives up the places of links that are configured no more, so that nothing is kept for them."""
    for key, _ in list(broker.log.rows(Table.CURSORS, CURSORS)):
        if key[len(CURSORS) :].decode() not in names:
            broker.log.put(Table.CURSORS, key, None)

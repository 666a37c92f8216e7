"""Where verbs come out: which sessions listen to which verb topics, and what waits while one has no credit."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

from dragoman.broker.subscription import Feed, Subscription
from dragoman.routing.names import matches

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.broker.session import Session
    from dragoman.broker.subscription import ShareMember
    from dragoman.routing.message import Message


@final
class Outlet:
    """What one session listens to, and the bounded queue of what it had no credit for."""

    __slots__ = ("bytes", "starved", "subscriptions", "waiting")

    def __init__(self) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self.waiting: deque[tuple[Feed, Message]] = deque()
        self.bytes = 0
        #: a call was offered in vain: somebody must be told when there is credit again
        self.starved = False


@final
class Outlets:
    """The sessions with verb subscriptions. Order is kept per session: behind what waits, everything waits."""

    def __init__(self, waiting_max: int, waiting_bytes_max: int) -> None:
        self._waiting_max = waiting_max
        self._waiting_bytes_max = waiting_bytes_max
        self._outlets: dict[Session, Outlet] = {}
        self.dropped_total = 0

    def open(self, subscription: Subscription) -> None:
        """The session listens to one more filter."""
        self._outlets.setdefault(subscription.session, Outlet()).subscriptions[subscription] = None

    def close(self, subscription: Subscription) -> bool:
        """It listens no more; False if it did not."""
        outlet = self._outlets.get(subscription.session)
        if outlet is None or subscription not in outlet.subscriptions:
            return False
        del outlet.subscriptions[subscription]
        if not outlet.subscriptions:
            self.dropped_total += len(outlet.waiting)
            del self._outlets[subscription.session]
        return True

    def count(self, session: Session) -> int:
        """How many filters it listens to."""
        outlet = self._outlets.get(session)
        return len(outlet.subscriptions) if outlet is not None else 0

    def waits(self, session: Session) -> bool:
        """Whether ``resume`` would have something to do."""
        outlet = self._outlets.get(session)
        return outlet is not None and (bool(outlet.waiting) or outlet.starved)

    def offer(self, session: Session, message: Message, subscription: Subscription) -> bool:
        """Gives a message to this very subscription now, or not at all: somebody else may take it better."""
        outlet = self._outlets.get(session)
        if outlet is None:
            return False
        if outlet.waiting or not session.deliver(_feed(session, message, [subscription]), message):
            outlet.starved = True
            return False
        return True

    def give(self, session: Session, message: Message) -> bool:
        """Delivers once, however many of its filters match, or lets it wait. False: it does not listen, or is full."""
        outlet = self._outlets.get(session)
        if outlet is None:
            return False
        mine = [subscription for subscription in outlet.subscriptions if matches(subscription.filter, message.name)]
        if not mine:
            return False
        feed = _feed(session, message, mine)
        if not outlet.waiting and session.deliver(feed, message):
            return True
        size = len(message.payload or b"") + len(message.name)
        if len(outlet.waiting) >= self._waiting_max or outlet.bytes + size > self._waiting_bytes_max:
            self.dropped_total += 1
            return False
        outlet.waiting.append((feed, message))
        outlet.bytes += size
        return True

    def push(self, session: Session, message: Message, group: ShareMember) -> bool:
        """Delivers now or not at all; ``group`` keeps what is not taken, and hears how the rest ended."""
        outlet = self._outlets.get(session)
        if outlet is None or outlet.waiting:
            return False
        mine = [subscription for subscription in outlet.subscriptions if matches(subscription.filter, message.name)]
        if not mine:
            return False
        feed = _feed(session, message, mine)
        feed.group = group
        return session.deliver(feed, message)

    def resume(self, session: Session) -> bool:
        """Delivers what waits as far as credit goes; whether the session had turned a call away and has room now."""
        outlet = self._outlets.get(session)
        if outlet is None:
            return False
        while outlet.waiting:
            feed, message = outlet.waiting[0]
            if not session.deliver(feed, message):
                return False
            outlet.waiting.popleft()
            outlet.bytes -= len(message.payload or b"") + len(message.name)
        starved, outlet.starved = outlet.starved, False
        return starved

    def detach(self, session: Session) -> list[Subscription]:
        """The session has ended; what it listened to."""
        outlet = self._outlets.pop(session, None)
        if outlet is None:
            return []
        self.dropped_total += len(outlet.waiting)
        return list(outlet.subscriptions)


def _feed(session: Session, message: Message, subscriptions: Iterable[Subscription]) -> Feed:
    feed = Feed(session, None, message.name)
    feed.merge(list(subscriptions))
    return feed

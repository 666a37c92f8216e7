"""A named place where messages flow. Decides order, visibility and who is pushed to; knows no protocol.

A message becomes visible when it is in the ring and every earlier offset of its channel is visible;
what is logged becomes visible after its commit, so that no one acts on what a crash un-says. Caught-up
feeds are pushed to directly; the others keep a place and are read for by ``pump``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.log.ring import Ring
from dragoman.broker.subscription import Feed, Subscription
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.routing.message import Message

FANOUT_MAX: Final = 1_000
"""Feeds pushed to in one go. The rest are read for in later turns, so that one message cannot hold the loop."""

STALE: Final = -1


class Keep(IntEnum):
    """What a channel logs: nothing, what wishes at least once, or everything. Numbers are on disk."""

    NONE = 0
    ACKED = 1
    ALL = 2


@final
class Channel:
    """One creation of a channel. Containers that few channels need are made on first use.

    ``creator``      the principal whose use created it; its quota counts it
    ``next_offset``  of the next message taken in; ``visible`` the next to be shown
    ``declared``     what its owner asked it to keep; ``keep`` what it keeps now (a durable reader raises it)
    ``reserved``     offsets below this are promised in the log, so a restart goes on from there
    ``pending``      the ticket of the newest message not yet visible; 0 = all are
    ``exact``        subscriptions to exactly this channel
    ``live``         the feeds pushed to; ``rest`` those beyond ``FANOUT_MAX``, read for in later turns
    ``generation``   of the broker's filters and rules that ``live`` and ``keep`` were computed at
    """

    __slots__ = (
        "core",
        "creator",
        "declared",
        "exact",
        "feeds",
        "generation",
        "idle_since_ms",
        "keep",
        "last",
        "last_ms",
        "live",
        "name",
        "next_offset",
        "number",
        "open",
        "pending",
        "reserved",
        "rest",
        "retained",
        "ring",
        "visible",
    )

    def __init__(self, core: Core, name: str, number: int, next_offset: int = 0) -> None:
        self.core = core
        self.name = name
        self.number = number
        self.creator = ""
        self.next_offset = next_offset
        self.visible = next_offset
        self.reserved = next_offset
        self.last_ms = 0
        self.declared = Keep.NONE
        self.keep = Keep.NONE
        self.pending = 0
        self.open = True
        self.ring = Ring()
        self.last: Message | None = None
        self.retained: Message | None = None
        self.exact: list[Subscription] | None = None
        self.feeds: dict[Session, Feed] | None = None
        self.live: tuple[Feed, ...] = ()
        self.rest: tuple[Feed, ...] = ()
        self.generation = STALE
        self.idle_since_ms = core.now_ms

    def append(self, message: Message) -> Ticket | Refusal:
        """Takes a message in: sets number, offset and time, and shows it now or after its commit.

        The gate has spoken, the name is this channel's. Answers ``DONE`` or the ticket to wait for;
        after a Refusal nothing has happened and no offset is used.
        """
        core = self.core
        if self.generation != core.generation:
            self.refresh()
        if core.now_ms > self.last_ms:
            self.last_ms = core.now_ms
        message.time_ms = self.last_ms
        message.number = self.number
        offset = self.next_offset
        message.offset = offset
        if self.keep or self.pending or message.retain:
            return core.commits.take(self, message)
        self.next_offset = offset + 1
        self.visible = offset + 1
        self.last = message
        core.rings.append(self.ring, message)
        for feed in self.live:
            if feed.lag is None and not feed.deliver(feed, message):
                feed.lag = offset
                core.pump.park(feed)
        if self.rest:
            core.pump.spread(self)
        return DONE

    def show(self, message: Message) -> None:
        """Makes a message visible that had to wait for its commit (or for one before it)."""
        if self.generation != self.core.generation:
            self.refresh()
        offset = message.offset
        assert offset >= self.visible, f"{self.name!r} shows {offset} after {self.visible}"
        self.visible = offset + 1
        self.last = message
        self.core.rings.append(self.ring, message)
        for feed in self.live:
            if feed.lag is None and not feed.deliver(feed, message):
                feed.lag = offset
                self.core.pump.park(feed)
        if self.rest:
            self.core.pump.spread(self)

    def subscribed(self, subscription: Subscription) -> bool:
        """Adds an exact subscription. True if it is its session's first here."""
        if self.exact is None:
            self.exact = []
        first = all(s.session is not subscription.session for s in self.exact)
        self.exact.append(subscription)
        self.generation = STALE
        return first

    def unsubscribed(self, subscription: Subscription) -> bool:
        """Takes an exact subscription away. True if it was its session's last here."""
        assert self.exact is not None, f"{self.name!r} has no subscription"
        self.exact.remove(subscription)
        self.generation = STALE
        self.idle_since_ms = self.core.now_ms
        return all(s.session is not subscription.session for s in self.exact)

    def refresh(self) -> None:
        """Computes who is fed and what is kept, from the filters and rules in force now.

        Feeds that go on keep their place. Read permission is applied here, once, so that a wildcard
        never shows what its reader may not read. More than ``FANOUT_MAX`` feeds: the rest are fed
        through the pump, which shares the loop.
        """
        core = self.core
        wanted: dict[Session, list[Subscription]] = {}
        for subscription in self.exact or ():
            wanted.setdefault(subscription.session, []).append(subscription)
        for subscription in core.filters.match(self.name):
            if core.may_read(subscription.session, self.name):
                wanted.setdefault(subscription.session, []).append(subscription)
        old = self.feeds or {}
        feeds: dict[Session, Feed] = {}
        for session, subscriptions in wanted.items():
            feed = old.get(session)
            if feed is None:
                feed = Feed(session, self, self.name)
            feed.merge(subscriptions)
            feeds[session] = feed
        self.feeds = feeds or None
        everyone = tuple(feeds.values())
        self.live, self.rest = everyone[:FANOUT_MAX], everyone[FANOUT_MAX:]
        for feed in self.rest:
            if feed.lag is None:
                feed.lag = self.visible
        self.keep = Keep(max(self.declared, Keep.ACKED if core.readers.match(self.name) else Keep.NONE))
        if not self.keep and self.logged:
            self.keep = Keep.ACKED
        self.generation = core.generation

    def feed_of(self, session: Session) -> Feed | None:
        """The session's feed here, if any of its subscriptions matches."""
        if self.generation != self.core.generation:
            self.refresh()
        return self.feeds.get(session) if self.feeds else None

    @property
    def wanted(self) -> bool:
        """Whether anything refers to it: if not, and idle for a while, it evaporates."""
        return bool(
            self.exact
            or self.declared
            or self.retained is not None
            or self.pending
            or self.logged
        )

    @property
    def logged(self) -> bool:
        """Whether any message of it is in the log."""
        first, after = self.core.log.bounds(self.number)
        return first < after

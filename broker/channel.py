"""A named place where messages flow. Decides order, visibility and who is pushed to; knows no protocol.

A message becomes visible when it is in the ring and every earlier offset of its channel is visible;
what is logged becomes visible after its commit, so that no one acts on what a crash un-says. Caught-up
feeds are pushed to directly; the others keep a place and are read for by ``pump``.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.log.ring import Ring
from dragoman.broker.subscription import Feed, Subscription
from dragoman.routing.message import end_of
from dragoman.routing.partition import partition_of
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.routing.message import Bundle, Message

FANOUT_MAX: Final = 1_000
"""Feeds pushed to in one go. The rest are read for in later turns, so that one message cannot hold the loop."""

STALE: Final = -1

UNPROMISED: Final = -1
"""``reserved`` of a channel the log does not know: after a crash its number is never used again."""

RESERVE: Final = 4_096
"""Offsets promised at a time. A crash skips at most this many; smaller means more state rows."""

NO_OFFSET: Final = 1 << 63
"""Above every offset."""


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
    ``unsure``       offsets right below this one, after a crash, may never have been used: gaps across it are uncounted
    ``slow_from``    from this offset on a message needs more than the ring: ``Commits.take`` looks at it
    ``pending``      the ticket of the newest message not yet visible; 0 = all are
    ``head``         the channel this is a partition of; ``partitions`` all of a head's, itself the first
    ``tail``         the newest thing said, if it is a bundle nobody here has opened
    ``watchers``     who reads by itself and wants to be told that there is something new
    ``exact``        subscriptions to exactly this channel, by session
    ``live``         the feeds pushed to; ``rest`` those beyond ``FANOUT_MAX``, read for in later turns
    ``heard``        somebody subscribes to it, durable readers too, or its owner has it kept for who comes later
    ``generation``   of the broker's filters and rules that ``live`` and ``keep`` were computed at
    """

    __slots__ = (
        "core",
        "creator",
        "declared",
        "exact",
        "feeds",
        "generation",
        "head",
        "heard",
        "idle_since_ms",
        "keep",
        "last",
        "last_ms",
        "live",
        "name",
        "next_offset",
        "number",
        "open",
        "partitions",
        "pending",
        "reserved",
        "rest",
        "retained",
        "retained_at",
        "ring",
        "slow_from",
        "tail",
        "unsure",
        "visible",
        "watchers",
    )

    def __init__(self, core: Core, name: str, number: int, next_offset: int = 0) -> None:
        self.core = core
        self.name = name
        self.number = number
        self.creator = ""
        self.next_offset = next_offset
        self.visible = next_offset
        self.reserved = UNPROMISED
        self.slow_from = NO_OFFSET
        self.unsure = 0
        self.last_ms = 0
        self.declared = Keep.NONE
        self.keep = Keep.NONE
        self.heard = False
        self.pending = 0
        self.open = True
        self.ring = Ring()
        self.last: Message | None = None
        self.tail: Bundle | None = None
        self.head: Channel | None = None
        self.partitions: tuple[Channel, ...] = ()
        self.watchers: dict[Callable[[Channel], object], None] | None = None
        self.retained: Message | None = None
        #: when that was said, in ``Commits.retained_turn``
        self.retained_at = 0
        self.exact: dict[Session, list[Subscription]] | None = None
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
        if offset >= self.slow_from or message.retain:
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
        self.tail = None
        self.core.rings.append(self.ring, message)
        for feed in self.live:
            if feed.lag is None and not feed.deliver(feed, message):
                feed.lag = offset
                self.core.pump.park(feed)
        if self.rest:
            self.core.pump.spread(self)

    def append_bundle(self, bundle: Bundle) -> Ticket | Refusal:
        """Takes several messages in at once, unread. Only a channel that keeps all may be asked; see ``append``."""
        core = self.core
        if self.generation != core.generation:
            self.refresh()
        assert self.keep is Keep.ALL, f"{self.name!r} would not log a bundle"
        if core.now_ms > self.last_ms:
            self.last_ms = core.now_ms
        bundle.time_ms = self.last_ms
        bundle.number = self.number
        bundle.offset = self.next_offset
        return core.commits.take_bundle(self, bundle)

    def passed(self, bundle: Bundle) -> None:
        """A bundle is visible. If it was not opened, memory ends before it and whoever reads it asks the log."""
        end = end_of(bundle)
        if self.visible < end:
            self.visible = end
            self.core.rings.clear(self.ring)
            self.last = None
            self.tail = bundle

    @property
    def fed(self) -> bool:
        """Whether anybody is fed single messages."""
        if self.generation != self.core.generation:
            self.refresh()
        return bool(self.live or self.rest)

    def partition_for(self, message: Message) -> Channel:
        """The partition a message belongs to: by its key, or by its sender, whose order is kept."""
        key = message.envelope.key if message.envelope is not None else None
        return self.partitions[partition_of(key, message.sender, len(self.partitions))]

    @property
    def partition(self) -> int:
        """Which partition it is; 0 for the channel itself."""
        return 0 if self.head is None else self.head.partitions.index(self)

    def watch(self, fn: Callable[[Channel], object]) -> None:
        """Calls ``fn`` whenever something has become visible here, and when the channel ends.

        From within the broker's work: ``fn`` must not call back into it, but have itself called later.
        """
        if self.watchers is None:
            self.watchers = {}
        self.watchers[fn] = None
        self.pace()

    def unwatch(self, fn: Callable[[Channel], object]) -> None:
        """The opposite; ``fn`` may have been told already."""
        if self.watchers is not None and self.watchers.pop(fn, self) is None and not self.watchers:
            self.watchers = None
            self.idle_since_ms = self.core.now_ms
            self.pace()

    def stale(self) -> None:
        """Who is fed has to be computed anew, in every partition."""
        self.generation = STALE
        for partition in self.partitions:
            partition.generation = STALE

    def subscribed(self, subscription: Subscription) -> bool:
        """Adds an exact subscription. True if it is its session's first here."""
        if self.exact is None:
            self.exact = {}
        session = subscription.session
        if session in self.exact:
            self.exact[session].append(subscription)
            self.stale()
            return False
        if self.feeds and session in self.feeds and self.generation != self.core.generation:
            # A feed that only an ended subscription left behind must not be continued by this one.
            self.refresh()
        self.exact[session] = [subscription]
        self.stale()
        return True

    def unsubscribed(self, subscription: Subscription) -> bool:
        """Takes an exact subscription away. True if it was its session's last here."""
        assert self.exact is not None, f"{self.name!r} has no subscription"
        mine = self.exact[subscription.session]
        mine.remove(subscription)
        if not mine:
            del self.exact[subscription.session]
        self.stale()
        self.idle_since_ms = self.core.now_ms
        return not mine

    def refresh(self) -> None:
        """Computes who is fed and what is kept, from the filters and rules in force now.

        Feeds that go on keep their place. Read permission is applied here, once, so that a wildcard
        never shows what its reader may not read, and rights that are lost end what was allowed before.
        More than ``FANOUT_MAX`` feeds: the rest are fed through the pump, which shares the loop.
        """
        core = self.core
        wanted: dict[Session, list[Subscription]] = {}
        exact = self.exact if self.head is None else self.head.exact
        if exact:
            for session, subscriptions in exact.items():
                if core.may_follow(session, self.name):
                    wanted[session] = subscriptions.copy()
        for subscription in core.filters.match(self.name):
            if core.may_follow(subscription.session, self.name):
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
        for session, feed in old.items():
            if session not in feeds:
                core.pump.end(feed)
        everyone = tuple(feeds.values())
        self.live, self.rest = everyone[:FANOUT_MAX], everyone[FANOUT_MAX:]
        for feed in self.live:
            if feed.paced:
                feed.paced = False
                core.pump.rejoin(feed)
        for feed in self.rest:
            feed.paced = True
            if feed.lag is None:
                feed.lag = self.visible
        durable = bool(core.readers.match(self.name))
        self.heard = bool(feeds) or durable or self.declared != Keep.NONE
        self.keep = self.declared
        if not self.keep and (durable or self.logged):
            self.keep = Keep.ACKED
        self.generation = core.generation
        self.pace()

    def pace(self) -> None:
        """Says anew from where on messages need more than the ring; after any change of what that depends on."""
        if self.keep or self.pending or self.watchers:
            self.slow_from = 0
        elif self.reserved != UNPROMISED:
            self.slow_from = self.reserved - RESERVE // 2
        else:
            self.slow_from = NO_OFFSET

    def feed_of(self, session: Session) -> Feed | None:
        """The session's feed here, if any of its subscriptions matches."""
        if self.generation != self.core.generation:
            self.refresh()
        return self.feeds.get(session) if self.feeds else None

    # -- what can be read ------------------------------------------------------------------------------

    @property
    def logged(self) -> bool:
        """Whether the log holds any message of it."""
        first, after = self.core.log.bounds(self.number)
        return first < after

    @property
    def start(self) -> int:
        """The first offset in memory; ``visible`` if nothing is. The newest message stays when the ring lets it go."""
        if len(self.ring):
            return self.ring.first_offset
        last = self.last
        return last.offset if last is not None and last.offset == self.visible - 1 else self.visible

    @property
    def oldest(self) -> int:
        """The first offset that can be read, from the log or memory."""
        first, after = self.core.log.bounds(self.number)
        return min(first, self.start) if first < after else self.start

    @property
    def newest(self) -> int:
        """The offset of the newest message that can be read; ``visible`` if there is none."""
        if self.start < self.visible:
            assert self.last is not None, "what is in memory ends with the last one"
            return self.last.offset
        first, after = self.core.log.bounds(self.number)
        return after - 1 if first < after else self.visible

    def count(self, offset: int, end: int) -> int:
        """How many messages were said from ``offset`` up to ``end``; 0 = unknown."""
        return 0 if offset < self.unsure <= end else end - offset

    def since(self, offset: int, limit: int) -> list[Message]:
        """At most ``limit`` messages in memory from ``offset`` on."""
        if len(self.ring):
            return self.ring.since(offset, limit)
        last = self.last
        return [last] if last is not None and last.offset == self.visible - 1 and last.offset >= offset else []

    def free(self, offset: int) -> None:
        """Nothing below ``offset`` can be read any more, in memory either."""
        self.core.rings.release(self.ring, offset)
        if self.last is not None and self.last.offset < offset:
            self.last = None
        if self.tail is not None and end_of(self.tail) <= offset:
            self.tail = None

    @property
    def wanted(self) -> bool:
        """Whether anything refers to it: if not, and idle for a while, it evaporates.

        Whoever reads by a wildcard does so only while something is left to read: it will match the next creation too.
        """
        if self.exact or self.declared or self.watchers or self.retained is not None or self.pending or self.logged:
            return True
        return any(f.lag is not None and f.lag < self.visible for f in (self.feeds or {}).values())

    def check(self) -> None:
        """Asserts what must always hold between two turns. For tests; walks everything."""
        assert self.visible <= self.next_offset, self
        assert self.pending or self.visible <= self.next_offset
        held = self.ring.since(0, 1 << 30)
        offsets = [message.offset for message in held]
        assert offsets == sorted(set(offsets)), f"{self.name!r}: the ring holds {offsets}"
        assert not held or (offsets[-1] < self.visible and held[-1] is self.last)
        times = [message.time_ms for message in held]
        assert times == sorted(times), f"{self.name!r}: time goes back"
        feeds = self.feeds or {}
        assert self.live + self.rest == tuple(feeds.values())
        assert all(session is feed.session for session, feed in feeds.items())
        for feed in feeds.values():
            assert feed.channel is self, "an ended feed is still fed"
            assert feed.lag is None or 0 <= feed.lag <= self.visible
            assert not feed.paced or feed.lag is not None, "one of very many is never pushed to"
        if self.generation != STALE:
            assert self.keep >= self.declared
            slow_from = self.slow_from
            self.pace()
            assert self.slow_from == slow_from, f"{self.name!r} goes the slow way from {slow_from}"

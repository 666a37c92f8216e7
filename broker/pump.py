"""Reads for those who are behind. Owns no messages: only who waits for credit, and what retained values are owed.

A feed that is out of credit keeps an offset; when credit returns it is read for from the ring, from
the log where the ring does not reach back, and where neither does it gets a counted gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.subscription import Feed, Start, replay_feed

if TYPE_CHECKING:
    from dragoman.broker.channel import Channel
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Place, Subscription
    from dragoman.routing.message import Entry, Message

RING_CHUNK: Final = 256
"""Messages taken from a ring at a time."""

LOG_CHUNK_BYTES: Final = 256 * 1024
"""Bytes asked of the log at a time: large enough to read well, small enough to keep many readers' memory low."""

NOWHERE: Final = 1 << 63
"""Above every offset."""

SPREAD_CHUNK: Final = 1_000
"""Feeds served per turn when a channel has very many."""


@final
class Page:
    """What one read found: messages in order, where to go on, and how many before them are gone."""

    __slots__ = ("first_offset", "lost", "messages", "next_offset", "number")

    def __init__(
        self, messages: Sequence[Message], *, number: int, next_offset: int, first_offset: int, lost: int
    ) -> None:
        self.messages = messages
        self.number = number
        self.next_offset = next_offset
        self.first_offset = first_offset
        self.lost = lost


@final
class Pump:
    """Parks feeds without credit and reads for them when ``resume`` is called."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._parked: dict[Session, dict[Feed, None]] = {}
        #: what each session's subscriptions are still owed; one replay a subscription, so asking again cannot pile up
        self._replays: dict[Session, dict[Subscription, Iterator[Message]]] = {}
        #: the value that was not taken
        self._held: dict[Session, Message] = {}
        self._spreading: dict[Channel, None] = {}

    # -- credit ----------------------------------------------------------------------------------

    def park(self, feed: Feed) -> None:
        """The feed's session took nothing: remember to go on when it says so."""
        parked = self._parked.get(feed.session)
        if parked is None:
            self._parked[feed.session] = {feed: None}
        else:
            parked[feed] = None

    def resume(self, session: Session) -> None:
        """The session has credit again: serves what it is owed until it takes no more."""
        if session in self._replays and not self._replay_on(session):
            return
        parked = self._parked.pop(session, None)
        while parked:
            # In turn, so that one busy channel does not take all of a slow reader's credit.
            feed = next(iter(parked))
            del parked[feed]
            feed.held = False
            if not self.follow(feed) and not feed.held:
                parked.update(self._parked.pop(session, {}))
                self._parked[session] = parked
                return

    def nudge(self, feed: Feed) -> None:
        """What a parked feed waited for beside credit is there: serves it before its session's turn comes."""
        parked = self._parked.get(feed.session)
        if parked is None or feed not in parked:
            return
        del parked[feed]
        if not parked:
            del self._parked[feed.session]
        feed.held = False
        self.follow(feed)

    def waits(self, session: Session) -> bool:
        """Whether the session is owed anything."""
        return session in self._parked or session in self._replays

    def parked(self) -> Mapping[Session, Mapping[Feed, None]]:
        """Who waits for credit, and for which of its feeds."""
        return self._parked

    def drop(self, session: Session) -> None:
        """The session is gone."""
        self._parked.pop(session, None)
        self._replays.pop(session, None)
        self._held.pop(session, None)

    def end(self, feed: Feed) -> None:
        """The session no longer reads this channel: whatever is under way for the feed gives nothing more."""
        feed.channel = None
        parked = self._parked.get(feed.session)
        if parked is not None:
            parked.pop(feed, None)
            if not parked:
                del self._parked[feed.session]

    def begin(self, feed: Feed, offset: int) -> None:
        """Puts a feed back to ``offset``, never forward, and reads from there as credit allows."""
        if feed.lag is None or offset < feed.lag:
            feed.lag = offset
        if not self._is_parked(feed):
            self.follow(feed)

    def start(self, channel: Channel, session: Session, start: Start | Place) -> None:
        """Puts an exact subscription's feeds behind, at the place it asks for, and reads from there."""
        for partition in channel.partitions or (channel,):
            feed = partition.feed_of(session)
            if feed is None:
                # It may subscribe here but not read.
                return
            if isinstance(start, tuple) and start[0] == partition.number:
                self.begin(feed, min(start[1], partition.visible))
                return
            if start is Start.LAST:
                self.begin(feed, partition.newest)
            elif start is Start.EARLIEST:
                self.begin(feed, partition.oldest)
        if isinstance(start, tuple):
            feed = channel.feed_of(session)
            assert feed is not None, "it was fed a moment ago"
            self._core.metrics.gaps += 1
            session.lost(feed, 0)
            self.begin(feed, channel.oldest)

    def rejoin(self, feed: Feed) -> None:
        """A feed that was one of very many is pushed to again, once it has caught up."""
        channel = feed.channel
        assert channel is not None, "only feeds of a channel rejoin"
        assert feed.lag is not None, "one of very many is never pushed to"
        if feed.lag >= channel.visible:
            feed.lag = None
        elif not self._is_parked(feed):
            self._core.loop.call_soon(self._go_on, feed)

    def _go_on(self, feed: Feed) -> None:
        if not self._is_parked(feed):
            self.follow(feed)

    # -- reading for feeds -------------------------------------------------------------------------

    def follow(self, feed: Feed) -> bool:
        """Reads on for a feed from its ``lag`` until caught up. False: no credit, it is parked again.

        True also while a read of the log is under way; the feed goes on by itself when it arrives.
        """
        channel = self._channel(feed)
        if channel is None:
            return True
        while feed.lag is not None and not feed.waiting:
            if feed.lag >= channel.visible:
                feed.lag = channel.visible if feed.paced else None
                return True
            start = channel.start
            if feed.lag >= start:
                # What the ring lacks between two of its messages was refused by the log: nobody has lost it.
                if not self._give(feed, channel.since(feed.lag, RING_CHUNK), holes_lost=False):
                    return False
            elif self._logged(channel, start, feed.lag):
                feed.waiting = True
                self._core.log.read(channel.number, feed.lag, LOG_CHUNK_BYTES, partial(self._arrived, feed, feed.lag))
                # What has arrived already has been followed up.
                return feed.waiting or not self._is_parked(feed)
            else:
                self._gap(feed, start)
        return True

    def _channel(self, feed: Feed) -> Channel | None:
        """The feed's channel, if filters and rules still feed it now."""
        channel = feed.channel
        if channel is not None and channel.generation != self._core.generation:
            channel.refresh()
        return feed.channel

    def _logged(self, channel: Channel, start: int, offset: int) -> bool:
        first, after = self._core.log.bounds(channel.number)
        return first < start and offset < after

    def _arrived(self, feed: Feed, asked: int, entries: Sequence[Entry], following: int) -> None:
        feed.waiting = False
        self._core.tick()
        channel = self._channel(feed)
        if channel is None or feed.lag is None:
            return
        if feed.lag == asked:
            start = channel.start
            before = [m for m in self._core.bundles.flat(entries, asked) if m.offset < start]
            # A channel that logs everything has holes only where the log refused.
            if before and not self._give(feed, before, holes_lost=channel.declared != 2):
                return
            if not before and asked < start:
                self._gap(feed, min(start, following) if entries else start)
        self.follow(feed)

    def _gap(self, feed: Feed, start: int) -> None:
        """Everything from the feed's place up to ``start`` is gone (or was never logged)."""
        assert feed.lag is not None
        assert feed.channel is not None, "an ended feed is told nothing"
        count = feed.channel.count(feed.lag, start)
        feed.lag = start
        self._core.metrics.gaps += 1
        self._core.metrics.lost += count
        self._core.lost(feed.session, count)
        feed.session.lost(feed, count)

    def _give(self, feed: Feed, messages: Sequence[Message], *, holes_lost: bool) -> bool:
        now_ms = self._core.now_ms
        for message in messages:
            assert feed.lag is not None
            if message.offset > feed.lag and (holes_lost or message is messages[0]):
                self._gap(feed, message.offset)
            if not message.expired(now_ms) and not feed.deliver(feed, message):
                self.park(feed)
                return False
            feed.lag = message.offset + 1
        return True

    # -- many feeds ----------------------------------------------------------------------------------

    def spread(self, channel: Channel) -> None:
        """Serves a channel's feeds beyond the first thousand, a chunk a turn."""
        if channel not in self._spreading:
            self._spreading[channel] = None
            self._core.loop.call_soon(self._spread, channel, 0)

    def _spread(self, channel: Channel, at: int) -> None:
        if channel.generation != self._core.generation:
            channel.refresh()
        chunk = channel.rest[at : at + SPREAD_CHUNK]
        for feed in chunk:
            if not self._is_parked(feed):
                self.follow(feed)
        if chunk:
            self._core.loop.call_soon(self._spread, channel, at + SPREAD_CHUNK)
            return
        del self._spreading[channel]
        if any(f.lag is not None and f.lag < channel.visible and not self._is_parked(f) for f in channel.rest):
            self.spread(channel)

    def _is_parked(self, feed: Feed) -> bool:
        return feed.waiting or feed in self._parked.get(feed.session, ())

    # -- retained values -----------------------------------------------------------------------------

    def replay(self, subscription: Subscription, values: Iterator[Message]) -> None:
        """Gives retained values to a new subscription, as fast as its session has credit for them."""
        session = subscription.session
        waiting = session in self._replays
        self.end_replay(subscription)
        self._replays.setdefault(session, {})[subscription] = values
        if not waiting:
            self._replay_on(session)

    def owed(self, session: Session) -> Iterator[tuple[Subscription, Message | None, Iterator[Message]]]:
        """What a session's subscriptions have not been given: the value that was not taken, and those after it."""
        held = self._held.get(session)
        for subscription, values in self._replays.get(session, {}).items():
            yield subscription, held, values
            held = None

    def end_replay(self, subscription: Subscription) -> None:
        """The subscription is no more, or asks anew: what it was owed is not given."""
        owed = self._replays.get(subscription.session)
        if owed is None or subscription not in owed:
            return
        if next(iter(owed)) is subscription:
            self._held.pop(subscription.session, None)
        del owed[subscription]
        if not owed:
            del self._replays[subscription.session]

    def _replay_on(self, session: Session) -> bool:
        owed = self._replays[session]
        while owed:
            subscription, values = next(iter(owed.items()))
            message = self._held.pop(session, None) or next(values, None)
            if message is None:
                del owed[subscription]
            elif not session.deliver(replay_feed(subscription, message.name), message):
                self._held[session] = message
                return False
        del self._replays[session]
        return True

    def check(self) -> None:
        """Asserts what must always hold between two turns. For tests; walks everything."""
        for session, parked in self._parked.items():
            assert parked, "a session that is owed nothing is not listed"
            for feed in parked:
                assert feed.session is session
                assert feed.lag is not None, "a parked feed has a place"
                assert not feed.waiting, "a feed waits for credit or for the log, not for both"
        for session in self._held:
            assert self._replays.get(session), "a value held back for a subscription that is no more"
        assert all(owed for owed in self._replays.values())

    # -- one read ------------------------------------------------------------------------------------

    def read(self, channel: Channel, offset: int | None, max_bytes: int, then: Callable[[Page], None]) -> None:
        """Reads one page from ``offset`` (None = the oldest there is); ``then`` is called once, perhaps later."""
        ring_first, oldest = channel.start, channel.oldest
        place = oldest if offset is None else offset
        lost = max(0, oldest - place)
        place = max(place, oldest)
        if place < ring_first and self._logged(channel, ring_first, place):

            def arrived(entries: Sequence[Entry], following: int) -> None:
                page = [m for m in self._core.bundles.flat(entries, place) if m.offset < ring_first]
                following = page[-1].offset + 1 if page else min(following, ring_first) if entries else ring_first
                then(Page(page, number=channel.number, next_offset=following, first_offset=oldest, lost=lost))

            self._core.log.read(channel.number, place, max_bytes, arrived)
            return
        if place < ring_first:
            lost += channel.count(place, ring_first)
            place = ring_first
        messages = _within(channel.since(place, RING_CHUNK), max_bytes)
        following = messages[-1].offset + 1 if messages else max(place, channel.visible)
        then(Page(messages, number=channel.number, next_offset=following, first_offset=oldest, lost=lost))

    def fetch(
        self, channel: Channel, offset: int, max_bytes: int, then: Callable[[Sequence[Entry], int], None]
    ) -> None:
        """Entries as they are kept, from ``offset`` on and at least one if there is any; ``then`` is called once.

        For who reads bundles whole. Nothing is refused and nothing waited for: an empty answer means that
        there is nothing at or after ``offset``.
        """
        ring_first = channel.start
        if self._logged(channel, NOWHERE if channel.declared == 2 else ring_first, offset):

            def arrived(entries: Sequence[Entry], following: int) -> None:
                if entries or offset >= channel.start:
                    then(entries, following)
                else:
                    self._recent(channel, offset, max_bytes, then)

            self._core.log.read(channel.number, offset, max_bytes, arrived)
        else:
            self._recent(channel, offset, max_bytes, then)

    def _recent(
        self, channel: Channel, offset: int, max_bytes: int, then: Callable[[Sequence[Entry], int], None]
    ) -> None:
        messages = _within(channel.since(offset, RING_CHUNK), max_bytes)
        then(messages, messages[-1].offset + 1 if messages else max(offset, channel.start))


def _within(messages: Sequence[Message], max_bytes: int) -> list[Message]:
    """The first of ``messages`` up to ``max_bytes`` of payload, but at least one."""
    taken: list[Message] = []
    for message in messages:
        max_bytes -= len(message.payload or b"")
        if taken and max_bytes < 0:
            break
        taken.append(message)
    return taken

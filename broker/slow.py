"""Readers that do not keep up: who, since when, by how much, and what becomes of them.

Being out of credit for a moment is how flow control works. Behind is who, at a look, has still not read what
was there at the look before; looks are ``broker.sweep_ms`` apart and cost nothing per message. What a reader
that is behind costs is its places alone: what it has not read stays in the ring and the log, within their own
bounds, and goes from there whether it was read or not; then it is told of a gap, and the gap is counted.

Only attached sessions are readers here: who can be told, and ended. What a share cannot give is nobody's fault in
particular. A stream's reader is the session that asked for it; having asked for the past it is behind by right, and
slow only if it does not move at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

from dragoman.broker.inner_session import InnerSession
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dragoman.broker.backlogs import Backlogs
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Feed

SAMPLE: Final = 1_000
"""Messages of a channel looked at to say about how many bytes a reader is behind."""

KEEP: Final = "keep"
DISCONNECT: Final = "disconnect"


class SlowReader(NamedTuple):
    """One reader. ``since_ms``: wall clock, as far as the looks can tell.

    ``messages`` are not read yet, of ``bytes`` or about that; ``lost`` were gone before it could read them, since
    it attached.
    """

    session: Session
    since_ms: int
    messages: int
    bytes: int
    lost: int


class _Mark:
    """What a look has found: the places that were there to be read. ``since_ms`` is monotonic."""

    __slots__ = ("feeds", "position", "since_ms", "streams")

    def __init__(self, since_ms: int) -> None:
        self.since_ms = since_ms
        self.feeds: dict[Feed, int] = {}
        self.position = 0
        #: where each stream was, all its feeds together
        self.streams: dict[Session, int] = {}


@final
class SlowReaders:
    """Looks at the readers now and then. ``lost`` is called whenever one is told of a gap, ``drop`` when it goes."""

    def __init__(self, core: Core, backlogs: Backlogs) -> None:
        self._core = core
        self._backlogs = backlogs
        self._marks: dict[Session, _Mark] = {}
        self._lost: dict[Session, int] = {}
        self.ended_total = 0

    def lost(self, session: Session, count: int) -> None:
        """So many messages were gone before the session could read them; 0 = nobody knows how many."""
        reader = _reader(session)
        if reader is not None:
            self._lost[reader] = self._lost.get(reader, 0) + count

    def drop(self, session: Session) -> None:
        """The session is gone."""
        self._marks.pop(session, None)
        self._lost.pop(session, None)

    @property
    def count(self) -> int:
        """How many have been behind for longer than ``broker.slow_after_s``."""
        return sum(1 for _ in self._overdue())

    def look(self) -> None:
        """Finds who has not read what was there at the last look, and ends who is so for too long, if configured."""
        marks: dict[Session, _Mark] = {}
        now_ms = self._core.monotonic_ms
        for parked, session, feeds in self._parked():
            old = self._marks.get(session)
            mark = marks.setdefault(session, _Mark(now_ms))
            if parked is not session:
                mark.streams[parked] = sum(feed.lag or 0 for feed in feeds)
                if old is not None and old.streams.get(parked) == mark.streams[parked]:
                    mark.since_ms = min(mark.since_ms, old.since_ms)
                continue
            for feed in feeds:
                assert feed.lag is not None, "a parked feed has a place"
                if feed.channel is not None:
                    mark.feeds[feed] = feed.channel.visible
                if old is not None and feed.lag < old.feeds.get(feed, 0):
                    mark.since_ms = old.since_ms
        for session, backlog in self._backlogs.behind():
            old = self._marks.get(session)
            mark = marks.setdefault(session, _Mark(now_ms))
            mark.position = int(self._core.log.end())
            if old is not None and backlog.next < old.position:
                mark.since_ms = old.since_ms
        self._marks = marks
        if self._core.settings.slow_policy == DISCONNECT:
            for session in list(self._overdue()):
                self._end(session)

    def _parked(self) -> Iterator[tuple[Session, Session, Iterable[Feed]]]:
        """Who has no credit, whose reading that is, and for which feeds."""
        for parked, feeds in self._core.pump.parked().items():
            session = _reader(parked)
            if session is not None:
                yield parked, session, feeds

    def _overdue(self) -> Iterator[Session]:
        latest_ms = self._core.clock.monotonic_ms() - int(self._core.settings.slow_after_s * 1000)
        return (session for session, mark in self._marks.items() if mark.since_ms <= latest_ms)

    def _end(self, session: Session) -> None:
        self.ended_total += 1
        del self._marks[session]
        after_s = self._core.settings.slow_after_s
        session.close(Refusal(Reason.QUOTA_EXCEEDED, f"behind for longer than broker.slow_after_s ({after_s:g} s)"))

    def listed(self) -> list[SlowReader]:
        """Everyone who is behind now, the longest first."""
        owed: dict[Session, tuple[int, int]] = {}
        for _, session, feeds in self._parked():
            messages, size = owed.get(session, (0, 0))
            more, weight = _owed(feeds)
            owed[session] = messages + more, size + weight
        for session, backlog in self._backlogs.behind():
            messages, size = owed.get(session, (0, 0))
            owed[session] = messages + backlog.waiting, size + backlog.waiting_bytes
        lost = {session: backlog.lost for session, backlog in self._backlogs.behind()}
        clock = self._core.clock
        now_ms, ahead_ms = clock.now_ms(), clock.now_ms() - clock.monotonic_ms()
        found = [
            SlowReader(
                session,
                self._marks[session].since_ms + ahead_ms if session in self._marks else now_ms,
                messages,
                size,
                self._lost.get(session, 0) + lost.get(session, 0),
            )
            for session, (messages, size) in owed.items()
        ]
        return sorted(found, key=lambda reader: (reader.since_ms, -reader.messages))

    def check(self) -> None:
        """Asserts what must always hold between two turns. For tests."""
        assert all(count >= 0 for count in self._lost.values())
        assert not [s for s in (*self._lost, *self._marks) if isinstance(s, InnerSession)], "they are never detached"


def _reader(session: Session) -> Session | None:
    """The attached session that reads; None: the mesh itself does."""
    return session.reader if isinstance(session, InnerSession) else session


def _owed(feeds: Iterable[Feed]) -> tuple[int, int]:
    """Messages and about how many bytes: those in memory are weighed, and stand for the others."""
    messages = size = 0
    for feed in feeds:
        channel = feed.channel
        if channel is None or feed.lag is None:
            continue
        count = channel.visible - feed.lag
        sample = channel.since(max(feed.lag, channel.start), SAMPLE)
        weighed = sum(len(message.payload or b"") for message in sample)
        messages += count
        size += weighed * count // len(sample) if sample else 0
    return messages, size

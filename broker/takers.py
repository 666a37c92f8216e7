"""Who of several connected sessions gets the next message of a group, and what becomes of what it holds.

Serves shared subscriptions (``shares``), whose messages are settled with the share itself, and work groups whose
messages are pushed (``queues``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, final

from dragoman.routing.groups import Strategy, choose, key_of

if TYPE_CHECKING:
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message


class Source(Protocol):
    """Whose messages they are: hears what became of each that a taker was given, once."""

    @property
    def place(self) -> bytes:
        """See ``subscription.ShareMember.place``."""

    def finish(self, message: Message) -> None:
        """The message is done with: acknowledged, or skipped for a counted reason."""

    def refuse(self, message: Message) -> None:
        """Its taker's client has said no to it."""

    def take_back(self, message: Message) -> None:
        """Its taker's connection ended before that: the message is for somebody else."""


class Taker:
    """One session in a group: what ``choose`` asks of it, and ``subscription.ShareMember`` for its session.

    ``session``  None while it is away
    ``kept``     its session outlives its connection
    ``full``     it took nothing when last offered something; until it says that it has credit again
    ``holds``    messages it has and has not settled, with the QoS they went out at
    ``unfit``    how often a message was larger than its client takes
    """

    __slots__ = ("_limit", "_source", "feed", "full", "holds", "id", "kept", "session", "turn", "unfits")

    def __init__(self, source: Source, taker_id: str, limit: int) -> None:
        self._source = source
        self._limit = limit
        self.id = taker_id
        self.session: Session | None = None
        self.feed: Feed | None = None
        self.kept = False
        self.full = False
        self.turn = 0
        self.unfits = 0
        self.holds: dict[Message, int] = {}

    @property
    def connected(self) -> bool:
        """Whether it would get a message now."""
        return self.session is not None

    @property
    def inflight(self) -> int:
        """Messages it holds."""
        return len(self.holds)

    @property
    def limit(self) -> int:
        """How many it may hold; 0 while it has no credit."""
        return 0 if self.full else self._limit

    @property
    def place(self) -> bytes:
        """Where the group's messages wait, if they do."""
        return self._source.place

    def settled(self, message: Message) -> None:
        """Its client has acknowledged the message, or its session has a counted reason to skip it."""
        if self.holds.pop(message, None) is not None:
            self._source.finish(message)

    def refused(self, message: Message) -> None:
        """Its client has said no to the message."""
        if self.holds.pop(message, None) is not None:
            self._source.refuse(message)

    def unfit(self, message: Message) -> bool:
        """Its client cannot take so large a message: another is asked, in the same breath."""
        self.holds.pop(message, None)
        self.unfits += 1
        return True

    def returned(self, message: Message) -> None:
        """Its connection ended before that."""
        if self.holds.pop(message, None) is not None:
            self._source.take_back(message)


@final
class Turns:
    """Gives the messages of one group, each to one taker, by the group's strategy."""

    __slots__ = ("_strategy", "_turn")

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._turn = 0

    def give(self, takers: Iterable[Taker], message: Message) -> bool | None:
        """To whoever is chosen; to the next if that one has no credit after all, or cannot take so large a message.

        False: nobody can have it now. None: it is larger than any of them takes.
        """
        able = list(takers)
        key = key_of(self._strategy, message)
        while able:
            taker = choose(self._strategy, able, key)
            if taker is None:
                return False
            unfits = taker.unfits
            if not self._offer(taker, message):
                taker.full = True
            elif taker.unfits == unfits:
                return True
            else:
                able.remove(taker)
        return None

    def _offer(self, taker: Taker, message: Message) -> bool:
        feed = taker.feed
        assert feed is not None, "only connected takers are asked"
        qos = min(feed.wish, message.wish)
        # Before the offer: a session that has to skip the message settles it at once.
        taker.holds[message] = qos
        if not feed.deliver(feed, message):
            taker.holds.pop(message, None)
            return False
        self._turn += 1
        taker.turn = self._turn
        if not qos:
            # Nobody will acknowledge it. If it was too large it is held no more.
            taker.settled(message)
        return True

"""An interest and its place. Decides nothing about delivery order or reading: that is channel and pump.

A ``Subscription`` is what a session asked for: one filter and its options. A ``Feed`` is what comes of
it in one channel: all of a session's subscriptions that match there, merged, and the session's place.
A session gets each message once, however many of its subscriptions match (MQTT 5.0 §3.3.4).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias, final

if TYPE_CHECKING:
    from dragoman.broker.channel import Channel
    from dragoman.broker.session import Session
    from dragoman.routing.message import Message


class Start(Enum):
    """Where a new subscription begins."""

    NEW = "new"
    LAST = "last"
    EARLIEST = "earliest"


class ShareMember(Protocol):
    """One member of a shared subscription, as the session that is the member sees it."""

    @property
    def place(self) -> bytes:
        """The key of the backlog that would give a QoS 2 message again; empty: none would."""

    def settled(self, message: Message) -> None:
        """The member's client has acknowledged the message."""

    def refused(self, message: Message) -> None:
        """The member's client has said no to the message."""

    def unfit(self, message: Message) -> bool:
        """The message is larger than the member's client takes. Whether it is seen to; if not, it is dropped here."""

    def returned(self, message: Message) -> None:
        """The member's connection ended before that: the message is somebody else's now."""


Place: TypeAlias = tuple[int, int]
"""(channel number, offset): a place in one creation of a channel."""


@final
class Subscription:
    """One filter of one session.

    ``wish``         the best delivery the reader asks for; a message goes out at the lower of both wishes
    ``no_local``     not what this very agent published
    ``keep_retain``  pass the publisher's retain flag on (MQTT 5 Retain As Published)
    ``identifier``   the subscriber's own number for it, given back with each message; 0 = none
    ``exact``        the filter is a channel's name: the subscription makes its agent a member
    ``changed``      it had other options once, and who lags has messages of that time before it
    """

    __slots__ = ("changed", "exact", "filter", "identifier", "keep_retain", "no_local", "session", "since", "wish")

    def __init__(
        self,
        session: Session,
        filter_: str,
        *,
        wish: int,
        no_local: bool = False,
        keep_retain: bool = False,
        identifier: int = 0,
        exact: bool = True,
    ) -> None:
        self.session = session
        self.filter = filter_
        self.wish = wish
        self.no_local = no_local
        self.keep_retain = keep_retain
        self.identifier = identifier
        self.exact = exact
        self.changed = False
        #: the last retained value there was when it was made, or made anew (``Commits.retained_turn``)
        self.since = 0


@final
class Feed:
    """A session's place in one channel.

    ``channel``  None once the session no longer reads it: nothing more is given
    ``lag``      None: caught up, messages are pushed as they come. Otherwise the next offset to read
    ``group``    the share that chose this session for the message; hears how it ended
    ``own``      what holds for what this very agent said, if No Local suppresses some subscriptions and not all
    ``plain``    no option of it changes what is sent, or ever did: the fast way is open
    ``paced``    one of very many in its channel: never pushed to, read for in later turns
    ``waiting``  a read of the log for it is under way
    ``held``     what it has next waits for its session's backlog: that it was not taken says nothing of credit
    ``replay``   it carries retained values: the retain flag goes out set
    ``deliver``  the session's own method, kept here because it is called once per delivery
    """

    __slots__ = (
        "channel",
        "deliver",
        "group",
        "held",
        "identifiers",
        "keep_retain",
        "lag",
        "name",
        "no_local",
        "own",
        "paced",
        "plain",
        "replay",
        "session",
        "waiting",
        "wish",
    )

    def __init__(self, session: Session, channel: Channel | None, name: str) -> None:
        self.session = session
        self.channel = channel
        self.name = name
        self.deliver: Callable[[Feed, Message], bool] = session.deliver
        self.group: ShareMember | None = None
        self.wish = 0
        self.identifiers: tuple[int, ...] = ()
        self.keep_retain = False
        self.no_local = False
        self.own: Feed | None = None
        self.plain = True
        self.lag: int | None = None
        self.paced = False
        self.waiting = False
        self.held = False
        self.replay = False

    def merge(self, subscriptions: list[Subscription]) -> None:
        """Takes over the options of all matching subscriptions of the session (at least one).

        No Local suppresses a subscription, not a session: if not all of them say so, ``own`` is the rest of them.
        """
        assert subscriptions, f"a feed of {self.name!r} without a subscription"
        self.wish = max(s.wish for s in subscriptions)
        self.identifiers = tuple(s.identifier for s in subscriptions if s.identifier)
        self.keep_retain = any(s.keep_retain for s in subscriptions)
        others = [s for s in subscriptions if not s.no_local]
        self.no_local = not others
        self.own = None
        if others and len(others) < len(subscriptions):
            self.own = Feed(self.session, self.channel, self.name)
            self.own.merge(others)
        bent = self.identifiers or self.keep_retain or self.no_local or self.own or self.replay
        self.plain = not (bent or any(s.changed for s in subscriptions))


def replay_feed(subscription: Subscription, name: str) -> Feed:
    """A feed for one retained value of ``name``, asked for by ``subscription``."""
    feed = Feed(subscription.session, None, name)
    feed.merge([subscription])
    feed.replay = True
    feed.no_local = False
    feed.own = None
    feed.plain = False
    return feed

"""Reading what channels keep, from the beginning or from a time on, and then what comes: MQTT's ``$stream``.

A stream is a reader of its own beside its session's other subscriptions, so that going back in one does not
bring the others' messages again. It lives as long as its connection: whoever comes back says from where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from dragoman.broker.inner_session import InnerSession
from dragoman.broker.subscription import Feed, Start, Subscription
from dragoman.routing.names import is_exact, matches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman.broker.channel import Channel
    from dragoman.broker.channels import Channels
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.routing.message import Message

CHANNELS_PER_TURN: Final = 256

LATEST: Final = -1
"""A stream's beginning: what comes from now on. Otherwise milliseconds since 1970; 0 = all there is."""


@final
class Stream:
    """One reader. ``begin`` at most once, ``close`` once; closed before it is begun it never reads."""

    __slots__ = ("_channels", "_closed", "_core", "_feed", "_from_ms", "_reader", "_subscription", "filter")

    def __init__(
        self,
        core: Core,
        channels: Channels,
        session: Session,
        filter_: str,
        from_ms: int,
        *,
        wish: int,
        identifier: int,
    ) -> None:
        self._core = core
        self._channels = channels
        self._from_ms = from_ms
        self._closed = False
        self.filter = filter_
        self._reader = InnerSession(session.principal, session.agent, self._heard, reader=session)
        self._subscription = Subscription(self._reader, filter_, wish=2, exact=False)
        self._feed = Feed(session, None, filter_)
        self._feed.merge([Subscription(session, filter_, wish=wish, identifier=identifier)])
        # Its deliveries are nobody's backlog: they are sent as those of a share are.
        self._feed.group = self

    def begin(self) -> None:
        """Reads what there is, and then what comes."""
        if self._closed:
            return
        self._core.tick()
        self._core.filters.add(self.filter, self._subscription)
        self._core.changed()
        if self._from_ms == LATEST:
            return
        if is_exact(self.filter):
            found = self._channels.find(self.filter)
            wanted = [] if found is None else [found]
        else:
            wanted = [channel for name, channel in self._channels.by_name.items() if matches(self.filter, name)]
        self._go_back(wanted)

    def _go_back(self, channels: Sequence[Channel]) -> None:
        """Some channels a turn, since a wildcard may mean very many."""
        if self._closed:
            return
        self._core.tick()
        for channel in channels[:CHANNELS_PER_TURN]:
            if channel.open:
                self._core.pump.start(channel, self._reader, Start.EARLIEST)
        if len(channels) > CHANNELS_PER_TURN:
            self._core.loop.call_soon(self._go_back, channels[CHANNELS_PER_TURN:])

    def close(self) -> None:
        """Reads no more."""
        self._closed = True
        self._core.filters.remove(self.filter, self._subscription)
        self._core.pump.drop(self._reader)
        self._core.changed()

    def resume(self) -> None:
        """Its session has credit again."""
        self._core.pump.resume(self._reader)

    def _heard(self, feed: Feed, message: Message) -> bool:
        if message.time_ms < self._from_ms:
            return True
        return self._feed.deliver(self._feed, message)

    # -- subscription.ShareMember: an acknowledgement moves nothing here ---------------------------

    @property
    def place(self) -> bytes:
        """None: a stream that is asked for anew begins anew."""
        return b""

    def settled(self, message: Message) -> None:
        """The client has it."""

    def refused(self, message: Message) -> None:
        """The client does not want it."""

    def unfit(self, message: Message) -> bool:
        """The client cannot take it."""
        return False

    def returned(self, message: Message) -> None:
        """The connection ended before that, and the stream with it."""

"""A part of the names that means something: publishing there acts, and what is read there is worked out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dragoman.broker.core import Core
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.news import News
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Subscription
    from dragoman.routing.message import Message
    from dragoman.routing.refusals import Refusal


class Scheme(Protocol):
    """A protocol's convention over the names below one first level, such as ``$a2a``. What it leaves are channels."""

    def takes(self, name: str) -> bool:
        """Whether a publish to this name is its business (``publish``), and so is its retained value (``retained``)."""

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """Does what publishing to a name it takes means. It asks the gate and counts refusals itself."""

    def retained(self, filter_: str) -> Iterator[Message]:
        """The values of names it takes that match, lazily; the broker asks the gate and ``permits`` for each."""

    def permits(self, principal: Principal, agent: str, name: str) -> bool:
        """Whether (principal, agent) may know of the name at all, beside what the gate says."""

    def subscribed(self, subscription: Subscription) -> None:
        """Somebody subscribes to a filter below its first level."""

    def unsubscribed(self, subscription: Subscription) -> None:
        """That has ended, or its session has."""


@final
class Schemes:
    """The schemes of a mesh by their first level, each entered before anybody is attached."""

    def __init__(self, core: Core, news: News, open_to: Callable[[Principal, str, str], bool]) -> None:
        """``open_to``: whether a room of that name, if it is one, is open to (principal, agent)."""
        self._core = core
        self._news = news
        self._open_to = open_to
        self._by_level: dict[str, Scheme] = {}
        core.permits = self.permits

    def enter(self, level: str, scheme: Scheme) -> None:
        """Names below ``level`` are the scheme's from now on."""
        assert level.startswith("$"), f"{level!r}: what does not begin with $ is everybody's"
        assert level not in self._by_level
        self._by_level[level] = scheme

    def of(self, name: str) -> Scheme | None:
        """Whose name or filter this is."""
        return self._by_level.get(name.partition("/")[0]) if name.startswith("$") else None

    def taking(self, name: str) -> Scheme | None:
        """The scheme that takes publishes to this name."""
        scheme = self.of(name)
        return scheme if scheme is not None and scheme.takes(name) else None

    def permits(self, principal: Principal, agent: str, name: str) -> bool:
        """Whether rooms and schemes let (principal, agent) into this name."""
        scheme = self.of(name)
        return self._open_to(principal, agent, name) and (scheme is None or scheme.permits(principal, agent, name))

    def subscribed(self, subscription: Subscription) -> None:
        """Tells the scheme it concerns."""
        scheme = self.of(subscription.filter)
        if scheme is not None:
            scheme.subscribed(subscription)

    def unsubscribed(self, subscription: Subscription) -> None:
        """Tells the scheme it concerned."""
        scheme = self.of(subscription.filter)
        if scheme is not None:
            scheme.unsubscribed(subscription)

    def retained(self, filter_: str, kept: Callable[[str], Message | None]) -> Iterator[Message]:
        """All retained values that match, worked out or ``kept``. Who may read each is the caller's business."""
        projection = self._news.projection(filter_)
        if projection is not None:
            yield from projection.find(filter_)
            return
        scheme = self.of(filter_)
        if scheme is not None:
            yield from scheme.retained(filter_)
        for name in self._core.commits.names.find(filter_):
            message = None if scheme is not None and scheme.takes(name) else kept(name)
            if message is not None:
                yield message

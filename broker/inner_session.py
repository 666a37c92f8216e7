"""The mesh as a party of its own: how groups and mailboxes subscribe and wait for commits like everybody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.log.contract import Ticket
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message


def _takes_nothing(feed: Feed, message: Message) -> bool:
    raise AssertionError(f"{message.id} of {feed.name!r} for a party that subscribes to nothing")


@final
class InnerSession:
    """Implements ``broker.session.Session`` with functions. It is never attached, so it counts nowhere."""

    __slots__ = ("_settled", "agent", "deliver", "principal", "reader")

    protocol: Final = "mesh"

    def __init__(
        self,
        principal: Principal,
        agent: str = "",
        deliver: Callable[[Feed, Message], bool] = _takes_nothing,
        settled: Callable[[Ticket, Refusal | None], object] | None = None,
        reader: Session | None = None,
    ) -> None:
        """``settled(ticket, None)``: all tickets up to it are safe; with a refusal: exactly that one failed.

        ``reader``: the attached session that it reads for, and that is slow when it is.
        """
        self.principal = principal
        self.agent = agent
        self.deliver = deliver
        self.reader = reader
        self._settled = settled

    def lost(self, feed: Feed, count: int) -> None:
        """A gap of a live feed, which the broker has counted. Durable readers have their place in the log."""

    def committed(self, ticket: Ticket) -> None:
        """Every publish up to this ticket is safe."""
        if self._settled is not None:
            self._settled(ticket, None)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """The publishes with this ticket failed."""
        if self._settled is not None:
            self._settled(ticket, refusal)

    def close(self, refusal: Refusal) -> None:
        """Never asked: nobody is told of it."""
        raise AssertionError(f"the mesh closes itself: {refusal}")

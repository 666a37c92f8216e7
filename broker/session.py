"""What the broker asks of whoever is connected. Adapters implement it; one contract for every protocol.

A session is one party's conversation with the mesh for as long as it lasts. Its methods are called on
the loop's thread, synchronously, from within the broker's own work: they must not call back into the
broker (except where said), must not block and must not raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message
    from dragoman.routing.refusals import Refusal


class Session(Protocol):
    """One connected party as the broker sees it."""

    @property
    def principal(self) -> Principal:
        """Whom the gate judges."""

    @property
    def agent(self) -> str:
        """The agent id it speaks as; "" if it is no agent (an anonymous HTTP caller, a watcher)."""

    @property
    def protocol(self) -> str:
        """The word people know it by: ``mqtt``, ``http``, ``mcp``, ``a2a``, ``kafka``, ``embedded``."""

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Takes a visible message, or answers False: "no credit, I did not take it".

        After False the broker keeps only the feed's place and offers nothing more on that feed until
        ``broker.resume(session)``; then it goes on exactly there. True means the session has taken
        responsibility (sent it, queued it within its own bound, or has a counted reason to skip it).
        """

    def lost(self, feed: Feed, count: int) -> None:
        """A gap: ``count`` messages (0 = unknown) of this feed's channel are gone before it could read them.

        Already counted by the broker. Told in the protocol's own terms where it has any.
        """

    def committed(self, ticket: Ticket) -> None:
        """Every publish of this session with a ticket up to this one is safe now. Called once a commit."""

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """The publishes of this session that got exactly this ticket failed, all of them."""

    def close(self, refusal: Refusal) -> None:
        """The mesh ends this session (takeover, kick, shutdown). Said in the protocol's own words, then closed.

        The session still calls ``broker.detach`` itself when it is really gone.
        """


@runtime_checkable
class Reached(Protocol):
    """A session that came through a listener's socket, for people."""

    @property
    def listener_name(self) -> str:
        """Which listener: ``mqtt``, or as it is called in the configuration."""

    @property
    def peer(self) -> str:
        """Where it comes from, with the port; by way of a relay, where that says it comes from."""


class KeptSession(NamedTuple):
    """A session that outlives its connections, for people.

    ``connection``   who is attached for it now, if anybody is
    ``expires_ms``   wall clock; None while it is connected, or if it stays for good
    ``unfinished``   deliveries under way; ``behind``: there is more for it in the log
    ``waiting``      of that, what has come since the mesh started or it fell behind; ``lost``: taken away by a limit
    """

    id: str
    protocol: str
    principal: str
    agent: str
    connection: Session | None
    filters: tuple[str, ...]
    expires_ms: int | None
    unfinished: int
    behind: bool
    waiting: int = 0
    lost: int = 0


class KeptSessions(Protocol):
    """The sessions that a protocol keeps for clients that are away."""

    def listed(self) -> Iterator[KeptSession]:
        """All of them, also those whose client is connected."""

    def forget(self, id_: str) -> bool:
        """Ends the kept session of this id, whose client is away; False: there is none."""

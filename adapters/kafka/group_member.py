"""A member of a consumer group, and what is asked of and answered to one. Knows no version of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, final

from dragoman.adapters.kafka.codes import ErrorCode

if TYPE_CHECKING:
    from dragoman.broker.timers import Timer

NO_GENERATION: Final = -1

Protocols: TypeAlias = tuple[tuple[str, bytes], ...]
"""Assignment protocols a member can work with, the one it likes best first, and what it says of itself in each."""


@final
class Joining:
    """A wish to be a member. ``member_id`` is "" for one that is new; ``instance_id`` is None for a dynamic one.

    ``known_only``: a new dynamic member is told its id first and comes again with it.
    ``can_skip``: a static leader that returns understands that it need not assign anything.
    """

    __slots__ = (
        "can_skip",
        "client_id",
        "host",
        "instance_id",
        "known_only",
        "member_id",
        "protocol_type",
        "protocols",
        "rebalance_ms",
        "session_ms",
    )

    def __init__(
        self,
        member_id: str,
        instance_id: str | None,
        protocol_type: str,
        protocols: Protocols,
        *,
        session_ms: int,
        rebalance_ms: int,
        client_id: str = "",
        host: str = "",
        known_only: bool = False,
        can_skip: bool = False,
    ) -> None:
        self.member_id = member_id
        self.instance_id = instance_id
        self.protocol_type = protocol_type
        self.protocols = protocols
        self.session_ms = session_ms
        self.rebalance_ms = rebalance_ms
        self.client_id = client_id
        self.host = host
        self.known_only = known_only
        self.can_skip = can_skip


@final
class Joined:
    """The answer to a join. ``members`` (id, instance id, metadata) is for the leader alone."""

    __slots__ = (
        "error",
        "generation",
        "leader",
        "member_id",
        "members",
        "protocol",
        "protocol_type",
        "skip_assignment",
    )

    def __init__(
        self,
        error: ErrorCode,
        member_id: str,
        *,
        generation: int = NO_GENERATION,
        protocol_type: str | None = None,
        protocol: str | None = None,
        leader: str = "",
        members: tuple[tuple[str, str | None, bytes], ...] = (),
        skip_assignment: bool = False,
    ) -> None:
        self.error = error
        self.member_id = member_id
        self.generation = generation
        self.protocol_type = protocol_type
        self.protocol = protocol
        self.leader = leader
        self.members = members
        self.skip_assignment = skip_assignment


@final
class Syncing:
    """A member asks for its assignment; the leader brings everybody's. None of type and protocol means unsaid."""

    __slots__ = ("assignments", "generation", "instance_id", "member_id", "protocol", "protocol_type")

    def __init__(
        self,
        member_id: str,
        instance_id: str | None,
        generation: int,
        assignments: Mapping[str, bytes],
        *,
        protocol_type: str | None = None,
        protocol: str | None = None,
    ) -> None:
        self.member_id = member_id
        self.instance_id = instance_id
        self.generation = generation
        self.assignments = assignments
        self.protocol_type = protocol_type
        self.protocol = protocol


@final
class Synced:
    """The answer to a sync."""

    __slots__ = ("assignment", "error", "protocol", "protocol_type")

    def __init__(
        self,
        error: ErrorCode,
        assignment: bytes = b"",
        protocol_type: str | None = None,
        protocol: str | None = None,
    ) -> None:
        self.error = error
        self.assignment = assignment
        self.protocol_type = protocol_type
        self.protocol = protocol


JoinThen = Callable[[Joined], None]
SyncThen = Callable[[Synced], None]
"""Called exactly once unless the connection ends first. Must not call back into the group."""


@final
class Member:
    """One member now.

    ``joined``     it has joined the rebalance under way, whether or not its connection still waits for the outcome
    ``join_then``  its join, while that is parked; ``sync_then`` the same of its sync
    ``is_new``     it has not been told its id, so nothing but an answer to its join can keep it alive
    """

    __slots__ = (
        "assignment",
        "client_id",
        "deadline_ms",
        "host",
        "id",
        "instance_id",
        "is_new",
        "join_then",
        "joined",
        "protocols",
        "rebalance_ms",
        "session_ms",
        "sync_then",
        "timer",
    )

    def __init__(self, member_id: str, ask: Joining) -> None:
        self.id = member_id
        self.instance_id = ask.instance_id
        self.assignment = b""
        self.joined = False
        self.is_new = False
        self.join_then: JoinThen | None = None
        self.sync_then: SyncThen | None = None
        self.timer: Timer | None = None
        self.deadline_ms = 0
        self.update(ask)

    def update(self, ask: Joining) -> None:
        """Takes over what it says of itself now."""
        self.client_id = ask.client_id
        self.host = ask.host
        self.session_ms = ask.session_ms
        self.rebalance_ms = ask.rebalance_ms
        self.protocols = ask.protocols

    @property
    def waits(self) -> bool:
        """A request of it is parked here, so it cannot show life otherwise."""
        return self.join_then is not None or self.sync_then is not None

    def supports(self, protocol: str) -> bool:
        """Whether it can work with this assignment protocol."""
        return any(name == protocol for name, _ in self.protocols)

    def metadata(self, protocol: str | None) -> bytes:
        """What it says of itself in this protocol."""
        return next((metadata for name, metadata in self.protocols if name == protocol), b"")

    def vote(self, candidates: list[str]) -> str:
        """The candidate it likes best."""
        return next(name for name, _ in self.protocols if name in candidates)

    def answer_join(self, answer: Joined) -> None:
        """Ends the wait for the rebalance."""
        then, self.join_then = self.join_then, None
        self.joined = False
        if then is not None:
            then(answer)

    def answer_sync(self, answer: Synced) -> None:
        """Ends the wait for the assignment."""
        then, self.sync_then = self.sync_then, None
        if then is not None:
            then(answer)

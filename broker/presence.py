"""In what state an agent is, decided only from what the broker verified; never from what anybody claims.

    connected                      online; busy while its work limit is reached (a declared "busy" is a limit of 0)
    said goodbye, something keeps  asleep       (its session or its mailbox goes on)
    said goodbye, nothing keeps    gone
    the connection broke           lost         (a session may return; without one it is gone after a while)
    a sign of life while away      asleep       (a lease was registered or renewed)

Several connections may speak as one agent: it is online if any of them lives, and the last to leave decides.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, final

import msgspec

from dragoman.routing.cards import Card, Skill
from dragoman.routing.names import to_level

if TYPE_CHECKING:
    from dragoman.broker.session import Session
    from dragoman.broker.timers import Timer


class State(StrEnum):
    """The five words, the same in every protocol."""

    ONLINE = "online"
    BUSY = "busy"
    ASLEEP = "asleep"
    LOST = "lost"
    GONE = "gone"


PRESENT = (State.ONLINE, State.BUSY)


@final
class Agent:
    """One entry of the directory. The directory alone writes it; ``load`` is written through ``Directory.loaded``.

    ``level``           its id as one level of a name
    ``since_ms``        when it came into its state, milliseconds since the epoch
    ``via``             the protocol of its newest connection, or of what registered it
    ``session_number``  of its newest connection; rises with each, through restarts
    ``kept``            what of it goes on without a connection: protocols of kept sessions, "mailbox"
    ``declared``        the card it gave; ``offered`` the skills its connections serve; ``card`` both together
    ``lease_due_ms``    when its card ends (wall clock); 0 = with its connection and session
    """

    __slots__ = (
        "card",
        "connections",
        "declared",
        "id",
        "kept",
        "keys",
        "lease",
        "lease_due_ms",
        "level",
        "limit",
        "load",
        "offered",
        "principal_name",
        "revision",
        "session_number",
        "since_ms",
        "state",
        "stored",
        "told",
        "via",
    )

    def __init__(self, agent: str, principal_name: str, limit: int | None) -> None:
        self.id = agent
        self.level = to_level(agent)
        self.principal_name = principal_name
        self.state = State.GONE
        self.since_ms = 0
        self.via = ""
        self.session_number = 0
        self.connections: tuple[tuple[Session, int], ...] = ()
        self.kept: tuple[str, ...] = ()
        self.load = 0
        self.limit = limit
        self.declared: Card | None = None
        self.offered: tuple[Skill, ...] = ()
        self.card: Card | None = None
        self.keys: tuple[str, ...] = ()
        self.lease_due_ms = 0
        self.lease: Timer | None = None
        self.revision = 0
        self.stored = False
        self.told = False

    @property
    def agent(self) -> str:
        """Its id, under the name that search knows."""
        return self.id

    @property
    def connected(self) -> bool:
        """Whether a live connection speaks as it."""
        return bool(self.connections)

    @property
    def has_room(self) -> bool:
        """Whether its work limit allows another call."""
        return self.limit is None or self.load < self.limit

    def connect(self, session: Session, number: int) -> None:
        """A connection speaks as it from now on."""
        assert number > self.session_number, f"session number {number} after {self.session_number}"
        assert all(known is not session for known, _ in self.connections), "a session arrives once"
        self.connections = (*self.connections, (session, number))
        self.session_number = number
        self.via = session.protocol

    def disconnect(self, session: Session) -> bool:
        """The connection is over; False if it did not speak as this agent (any more): late news."""
        remaining = tuple([pair for pair in self.connections if pair[0] is not session])
        if len(remaining) == len(self.connections):
            return False
        self.connections = remaining
        if remaining:
            self.via = remaining[-1][0].protocol
        return True

    def keep(self, source: str, keeps: bool) -> None:
        """``source`` goes on without a connection, or does not."""
        others = tuple([known for known in self.kept if known != source])
        self.kept = (*others, source) if keeps else others

    def verified(self, *, clean: bool) -> State:
        """Its state by the rules above; ``clean`` says how the last connection ended."""
        if self.connections:
            return State.ONLINE if self.has_room else State.BUSY
        if not clean:
            return State.LOST
        return State.ASLEEP if self.kept else State.GONE

    def merged_card(self) -> Card | None:
        """What it declared, with the skills it serves beyond that; served skills alone make a minimal card."""
        declared = self.declared
        if not self.offered:
            return declared
        if declared is None:
            return Card(agent=self.id, name=card_name(self.id), skills=self.offered)
        extra = tuple([skill for skill in self.offered if declared.skill(skill.name) is None])
        if not extra:
            return declared
        return Card(
            agent=self.id,
            name=declared.name,
            description=declared.description,
            version=declared.version,
            skills=(*declared.skills, *extra),
            tags=declared.tags,
            url=declared.url,
        )

    def presence_json(self) -> bytes:
        """What ``$mesh/v1/presence/{agent}`` says."""
        return msgspec.json.encode(
            {
                "state": self.state,
                "since": self.since_ms,
                "via": self.via,
                "session": self.session_number,
                "seq": self.revision,
            }
        )

    def check(self) -> None:
        """Asserts what must always hold."""
        if self.connections:
            assert self.state in PRESENT, f"{self.id!r} is connected and {self.state}"
            assert (self.state is State.BUSY) == (not self.has_room)
            assert self.session_number >= self.connections[-1][1]
        else:
            assert self.state not in PRESENT, f"{self.id!r} is not connected and {self.state}"
        assert self.load >= 0
        assert self.card == self.merged_card()


def card_name(agent: str) -> str:
    """A name a card may have, for an agent that gave none."""
    return agent.strip()[:128] or "agent"

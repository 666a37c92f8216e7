"""Who gets the next message of a work group. Pure choice: leases, clocks and the queue itself live in the broker.

Serves MQTT shared subscriptions, Kafka share groups, HTTP pull and pools of servers alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from dragoman.routing.message import Message

BACKOFF_DOUBLINGS_MAX: Final = 40
"""Beyond this 1 ms has become 35 years; the bound keeps a corrupt attempt count from making a huge integer."""


class Strategy(Enum):
    """How a group chooses. The value is the name in configuration."""

    LEAST_INFLIGHT = "least-inflight"
    ROUND_ROBIN = "round-robin"
    STICKY = "sticky"
    HASH = "hash"


class Member(Protocol):
    """What a choice needs to know of a member."""

    @property
    def id(self) -> str:
        """Stable over reconnects and unique in the group: sticky choice hashes it."""

    @property
    def connected(self) -> bool:
        """Whether it would get the message now, or only when it comes back."""

    @property
    def inflight(self) -> int:
        """Messages it holds and has not settled."""

    @property
    def limit(self) -> int:
        """How many it may hold; 0 = none at all."""

    @property
    def turn(self) -> int:
        """The group's rising count of deliveries when it last got one, 0 = never; the group sets it."""


M = TypeVar("M", bound=Member)


def key_of(strategy: Strategy, message: Message) -> bytes | None:
    """What stays with one member: messages of one channel (``HASH``), or of one key if their senders gave one."""
    if strategy is Strategy.HASH:
        return message.name.encode()
    return message.envelope.key if message.envelope is not None else None


def choose(strategy: Strategy, members: Iterable[M], key: bytes | None = None) -> M | None:
    """The member that gets the next message; None if it must wait.

    Those away are asked only if nobody is connected: a message parked with a sleeper is late, one that
    waits a moment for a busy member is not. Equals take turns: whoever was served longest ago is next,
    which stays even however the set of equals changes. ``STICKY`` and ``HASH`` keep a key (see ``key_of``) with
    one member while that one has room, and move only its keys when it has none; without a key, load decides.
    """
    present: list[M] = []
    away: list[M] = []
    someone_connected = False
    for member in members:
        has_room = member.inflight < member.limit
        if member.connected:
            someone_connected = True
            if has_room:
                present.append(member)
        elif has_room:
            away.append(member)
    able = present if someone_connected else away
    if not able:
        return None
    if strategy is Strategy.ROUND_ROBIN:
        return min(able, key=_turn)
    if key is not None and (strategy is Strategy.STICKY or strategy is Strategy.HASH):
        wanted = key
        return max(able, key=lambda member: _affinity(member.id, wanted))
    return min(able, key=_load)


def backoff_ms(attempt: int, base_ms: int, max_ms: int) -> int:
    """How long to wait before redelivery ``attempt`` (from 1): ``base_ms``, doubled each time, at most ``max_ms``."""
    assert attempt >= 1, f"attempts count from 1: {attempt}"
    assert 0 <= base_ms <= max_ms, f"base {base_ms} ms, maximum {max_ms} ms"
    return min(max_ms, base_ms << min(attempt - 1, BACKOFF_DOUBLINGS_MAX))


def _turn(member: Member) -> int:
    return member.turn


def _load(member: Member) -> tuple[int, int]:
    return member.inflight, member.turn


def _affinity(member: str, key: bytes) -> bytes:
    """The rendezvous weight. A member that comes or goes moves only the keys that are or were its own."""
    digest = blake2b(member.encode(), digest_size=16)
    return blake2b(key, digest_size=8, key=digest.digest()).digest()

"""What of consumer groups is in the log: the group with its members at each generation, and each committed offset."""

from __future__ import annotations

from typing import Final

import msgspec

from dragoman.broker.group_rows import digest
from dragoman.broker.rows import Row

CLASSIC: Final = b"c"
"""First byte of the key of a group whose members agree among themselves. Other kinds of groups take other letters."""


class MemberRow(msgspec.Struct, array_like=True):
    """One member of a group."""

    id: str
    instance_id: str | None
    client_id: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    assignment: bytes


class GroupRow(Row):
    """A group. ``stable``: the members have their assignments; ``since_ms`` is when it became empty, wall clock."""

    name: str = ""
    owner: str = ""
    generation: int = 0
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str | None = None
    stable: bool = False
    since_ms: int = 0
    members: tuple[MemberRow, ...] = ()


class PositionRow(Row):
    """A committed offset. ``expires_ms``: when the client wanted it forgotten, 0 if it did not say."""

    topic: str = ""
    partition: int = 0
    offset: int = 0
    leader_epoch: int = -1
    metadata: str = ""
    time_ms: int = 0
    expires_ms: int = 0


POSITIONS_KEY_BYTES: Final = 16


def group_key(name: str) -> bytes:
    """The key of a group's row."""
    return CLASSIC + digest(name)


def positions_key(group: str) -> bytes:
    """What the keys of all offsets of a group begin with; also what follows the letter in its own."""
    return digest(group)


def position_key(group: str, topic: str, partition: int) -> bytes:
    """The key of one committed offset."""
    return digest(group) + digest(topic) + partition.to_bytes(4, "big")

"""What can be configured about Kafka's consumer groups. Every collection has its bound here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dragoman.broker.settings_key import key

_DAY_MS: Final = 24 * 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Consumer groups and the offsets they commit."""

    initial_delay_ms: int = key(
        200,
        unit="ms",
        low=0,
        high=60_000,
        why="an empty group waits so long for further members after its first one, so that all share one rebalance",
        peers="Kafka 3000",
    )
    session_ms_min: int = key(6_000, unit="ms", low=1, why="shorter session timeouts are refused", peers="Kafka 6000")
    session_ms_max: int = key(
        1_800_000, unit="ms", low=1, why="longer session timeouts are refused", peers="Kafka 1800000"
    )
    groups_max: int = key(10_000, unit="groups", low=0, why="each is a row in the log and at least 1 KB of memory")
    members_max: int = key(
        1_000, unit="members", low=1, why="of one group; each rebalance costs all of them", peers="Kafka has no limit"
    )
    member_bytes_max: int = key(
        1 << 20, unit="bytes", low=1 << 10, why="what one member says of itself in all its assignment protocols"
    )
    assignments_bytes_max: int = key(
        8 << 20, unit="bytes", low=1 << 10, why="what the leader of a group hands out at once"
    )
    name_bytes_max: int = key(1_024, unit="bytes", low=16, why="group and instance ids; Kafka knows no limit")
    offsets_max: int = key(
        100_000, unit="partitions", low=1, why="with a committed offset, in one group; each about 300 bytes"
    )
    metadata_bytes_max: int = key(
        4_096, unit="bytes", low=0, why="the text a client commits beside an offset", peers="Kafka 4096"
    )
    offsets_retention_ms: int = key(
        7 * _DAY_MS,
        unit="ms",
        low=1,
        why="offsets are forgotten so long after their group became empty, or after the commit if it never had members",
        peers="Kafka 7 days",
    )
    sweep_ms: int = key(
        600_000, unit="ms", low=1, why="how often offsets and groups nobody needs are looked for", peers="Kafka 10 min"
    )

    def __post_init__(self) -> None:
        if self.session_ms_min > self.session_ms_max:
            raise ValueError(
                f"session_ms_min is {self.session_ms_min}, more than session_ms_max, {self.session_ms_max}"
            )

"""What can be configured about work groups, shared subscriptions and mailboxes. Every collection has its bound here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dragoman.broker.settings_key import key
from dragoman.routing.groups import Strategy

_MIB: Final = 1024 * 1024
_MINUTE_MS: Final = 60_000


def _level_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if not value or value.startswith("$") or any(sign in value for sign in "/+#\0"):
        return "one channel level: not empty, no /, + or #, not beginning with $"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Work groups, shared subscriptions and mailboxes."""

    groups_max: int = key(10_000, unit="groups", low=0, why="each holds a window of messages and a cursor")
    groups_per_principal_max: int = key(1_000, unit="groups", low=0, why="one runaway program is not everybody's")
    open_max: int = key(
        1_000, unit="messages", low=1, why="a group takes so many from the log at once: leased, waiting or put back"
    )
    open_bytes_max: int = key(16 * _MIB, unit="bytes", low=1, why="the same in bytes; one message always fits")
    exceptions_max: int = key(
        10_000, unit="messages", low=1, why="finished behind one that is not; each is a few bytes of the group's row"
    )
    lease_ms: int = key(
        30_000,
        unit="ms",
        low=1,
        why="how long a worker has unless the group says otherwise",
        peers="SQS 30 s, Kafka 30 s",
    )
    lease_max_ms: int = key(
        12 * 60 * _MINUTE_MS, unit="ms", low=1, why="longer leases are cut to this", peers="SQS 12 h"
    )
    deliveries_max: int = key(
        5, unit="deliveries", low=1, why="then a message is a dead letter", peers="Kafka share groups 5"
    )
    backoff_ms: int = key(1_000, unit="ms", low=0, why="before the first redelivery; doubled for each further one")
    backoff_max_ms: int = key(_MINUTE_MS, unit="ms", low=0, why="the longest wait before a redelivery")
    pulls_max: int = key(1_000, unit="pulls", low=1, why="waiting for messages of one group at once")
    pull_messages_max: int = key(1_000, unit="messages", low=1, why="given to one pull")
    pull_bytes_max: int = key(8 * _MIB, unit="bytes", low=1, why="payloads given to one pull; one message always fits")
    pull_wait_max_ms: int = key(_MINUTE_MS, unit="ms", low=0, why="proxies cut requests that are silent for longer")

    dead_root: str = key(
        "dead", check=_level_problem, why="dead letters of group g go to dead/g unless it says otherwise"
    )
    dead_letters_max: int = key(
        10_000, unit="messages", low=1, why="kept in a group's own dead-letter channel; the oldest leave first, counted"
    )
    dead_hops_max: int = key(
        16, unit="hops", low=1, why="a message that died this often in groups of dead letters is dropped, counted"
    )

    shares_max: int = key(100_000, unit="shares", low=0, why="shared subscriptions (group and filter), in all")
    share_members_max: int = key(10_000, unit="members", low=1, why="of one shared subscription")
    share_strategy: str = key(
        Strategy.LEAST_INFLIGHT.value,
        choices=tuple(strategy.value for strategy in Strategy),
        why="who gets the next message: the least busy, ties in turn; sticky = whoever has its key, hash = its channel",
        peers="EMQX round_robin; its hash_topic is our hash",
    )
    share_inflight_max: int = key(
        65_535, unit="messages", low=1, why="unacknowledged with one member; its own receive maximum is mostly lower"
    )
    share_returned_max: int = key(
        65_535,
        unit="messages",
        low=1,
        why="of a shared subscription without kept members: taken back from members that went, waiting for room",
    )

    mailboxes_max: int = key(100_000, unit="mailboxes", low=0, why="about 4 KB each, empty")
    mail_max: int = key(10_000, unit="messages", low=1, why="unread in one mailbox; then it refuses new mail")
    mail_bytes_max: int = key(64 * _MIB, unit="bytes", low=1, why="the same in bytes")

    def __post_init__(self) -> None:
        if self.backoff_ms > self.backoff_max_ms:
            raise ValueError(f"backoff_ms is {self.backoff_ms}, more than backoff_max_ms, {self.backoff_max_ms}")
        if self.lease_ms > self.lease_max_ms:
            raise ValueError(f"lease_ms is {self.lease_ms}, more than lease_max_ms, {self.lease_max_ms}")

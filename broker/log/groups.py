"""What waits to be committed: groups of messages, state rows and releases, each to become one frame."""

from __future__ import annotations

from collections import deque
from typing import final

from dragoman.broker.clock import Clock
from dragoman.broker.log.contract import Table, Ticket
from dragoman.routing.message import Entry


@final
class Group:
    """The content of one commit to be."""

    __slots__ = ("messages", "releases", "rows", "rows_bytes", "since_ms", "size_bytes", "ticket", "weight")

    def __init__(self, ticket: Ticket, since_ms: int) -> None:
        self.ticket = ticket
        self.since_ms = since_ms
        self.messages: list[Entry] = []
        self.rows: dict[tuple[Table, bytes], bytes | None] = {}
        self.releases: dict[int, int] = {}
        self.weight = 0
        """Weight of the messages alone: what the broker calls uncommitted."""
        self.size_bytes = 0
        self.rows_bytes = 0

    def put(self, table: Table, key: bytes, value: bytes | None) -> None:
        """Sets a row; the last put of a key wins."""
        self.rows[table, key] = value
        size = len(key) + 16 + (len(value) if value is not None else 0)
        self.size_bytes += size
        self.rows_bytes += size


@final
class Groups:
    """The groups in order; the last one takes what comes, until it is full."""

    __slots__ = ("_bytes_max", "_messages_max", "_waiting", "next_ticket", "weight")

    def __init__(self, bytes_max: int, messages_max: int, next_ticket: int) -> None:
        self._bytes_max = bytes_max
        self._messages_max = messages_max
        self._waiting: deque[Group] = deque()
        self.next_ticket = next_ticket
        self.weight = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, clock: Clock) -> Group:
        """The group that takes the next message."""
        if self._waiting:
            group = self._waiting[-1]
            if group.size_bytes < self._bytes_max and len(group.messages) < self._messages_max:
                return group
        return self._begin(clock)

    def open_for_rows(self, clock: Clock) -> Group:
        """The group that takes the next row: the newest, full or not, so that a row goes with the message before it."""
        if self._waiting and self._waiting[-1].rows_bytes < self._bytes_max:
            return self._waiting[-1]
        return self._begin(clock)

    def _begin(self, clock: Clock) -> Group:
        group = Group(Ticket(self.next_ticket), clock.monotonic_ms())
        self.next_ticket += 1
        self._waiting.append(group)
        return group

    def add(self, group: Group, message: Entry, weight: int) -> None:
        """Puts a message into the open group."""
        group.messages.append(message)
        group.weight += weight
        group.size_bytes += weight
        self.weight += weight

    def take(self) -> Group:
        """The next group to commit."""
        group = self._waiting.popleft()
        self.weight -= group.weight
        return group

    def take_all(self) -> list[Group]:
        """Every group that waits; nothing does afterwards."""
        groups = list(self._waiting)
        self._waiting.clear()
        self.weight = 0
        return groups

    def oldest_ms(self) -> int | None:
        """When the oldest group was begun."""
        return self._waiting[0].since_ms if self._waiting else None

"""The log without a disk: the same promises but one, that a commit survives the process.

For tests, for embedders that keep nothing, and as the model the disk engine is compared with.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, final

from dragoman.broker.clock import Clock, SystemClock
from dragoman.broker.log.contract import EVERYTHING, KEY_BYTES_MAX, Position, ReadDone, Table, Ticket
from dragoman.broker.log.weight import weight
from dragoman.routing.message import Entry, count_of, end_of, position_after
from dragoman.routing.refusals import Reason, Refusal

MEMORY_LOG_BYTES: Final = 256 * 1024 * 1024
"""Default budget: what a laptop spares without noticing."""

_EXAMINED_PER_SCAN: Final = 4096
_DEAD_SLACK: Final = 1024


def _offset_of(entry: Entry) -> int:
    return entry.offset


def _position_of(entry: Entry) -> int:
    return entry.position


@final
class _Lane:
    """One channel's committed messages. ``appended`` runs ahead of ``committed`` while a commit is open."""

    __slots__ = ("appended", "bytes", "committed", "first", "forgotten", "messages")

    def __init__(self) -> None:
        self.messages: deque[Entry] = deque()
        self.appended = 0
        self.committed = 0
        self.first = 0
        self.bytes = 0
        self.forgotten = False


@final
class MemoryLog:
    """A log in memory under a byte budget. See ``contract.Log``."""

    durable = False

    def __init__(self, budget_bytes: int = MEMORY_LOG_BYTES, clock: Clock | None = None) -> None:
        self._budget_bytes = budget_bytes
        self._clock = clock or SystemClock()
        self._lanes: dict[int, _Lane] = {}
        self._order: list[Entry] = []
        self._dead = 0
        self._open: list[Entry] = []
        self._ticket = 1
        self._next_position = 1
        self._committed_position = 0
        self._waiting = False
        self._waiting_since_ms = 0
        self._waiting_bytes = 0
        self._message_bytes = 0
        self._row_bytes = 0
        self._tables: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_commit: Callable[[Ticket], None] | None = None
        self._closed = False

    def open(self, on_commit: Callable[[Ticket], None], on_refused: Callable[[Ticket, Refusal], None]) -> None:
        """Binds to the running loop. Memory refuses at once or never, so ``on_refused`` is not kept."""
        assert self._loop is None, "opened twice"
        self._loop = asyncio.get_running_loop()
        self._on_commit = on_commit

    async def close(self) -> None:
        """Commits and reports what is open."""
        if not self._closed:
            self._closed = True
            self._commit()

    async def idle(self) -> None:
        """Waits until nothing waits for a commit."""
        assert self._loop is not None, "not opened"
        turn = self._loop.create_future()
        self._loop.call_soon(turn.set_result, None)
        await turn

    def append(self, message: Entry) -> Ticket | Refusal:
        """Adds an entry to the open commit."""
        size = weight(message)
        if self.bytes_used() + size > self._budget_bytes:
            return Refusal(
                Reason.STORAGE_FULL,
                f"the log holds {self.bytes_used()} of {self._budget_bytes} bytes; {size} more do not fit",
                retry_after_ms=1000,
            )
        lane = self._lanes.get(message.number)
        if lane is None:
            lane = self._lanes[message.number] = _Lane()
        assert message.offset >= lane.appended, f"offset {message.offset} after {lane.appended - 1}"
        assert not lane.forgotten, f"channel {message.number:x} was released for good"
        lane.appended = end_of(message)
        message.position = self._next_position
        self._next_position += count_of(message)
        self._message_bytes += size
        self._waiting_bytes += size
        self._open.append(message)
        return self._waits()

    def put(self, table: Table, key: bytes, value: bytes | None) -> Ticket:
        """Sets or deletes a state row."""
        assert 0 < len(key) <= KEY_BYTES_MAX, f"a key of {len(key)} bytes"
        rows = self._tables[table]
        before = rows.pop(key, None)
        if before is not None:
            self._row_bytes -= len(key) + len(before)
        if value is not None:
            rows[key] = value
            self._row_bytes += len(key) + len(value)
        return self._waits()

    def uncommitted_bytes(self) -> int:
        """Bytes appended since the loop's turn began."""
        return self._waiting_bytes

    def oldest_uncommitted_ms(self) -> int:
        """Age of the oldest thing waiting for the end of the turn."""
        return self._clock.monotonic_ms() - self._waiting_since_ms if self._waiting else 0

    def read(self, number: int, offset: int, max_bytes: int, then: ReadDone) -> None:
        """Reads one channel; always answers at once."""
        lane = self._lanes.get(number)
        if lane is None or not lane.messages:
            then((), max(offset, lane.committed) if lane is not None and offset < lane.committed else offset)
            return
        messages = lane.messages
        found: list[Entry] = []
        left = max_bytes
        start = bisect_right(messages, offset, key=_offset_of)
        if start and end_of(messages[start - 1]) > offset:
            start -= 1
        for index in range(start, len(messages)):
            found.append(messages[index])
            left -= weight(messages[index])
            if left <= 0:
                break
        then(found, end_of(found[-1]) if found else offset)

    def scan(
        self,
        position: Position,
        max_bytes: int,
        wanted: Callable[[int], bool],
        then: ReadDone,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Reads all channels in commit order; always answers at once."""
        chosen = None if numbers is None else set(numbers)
        found: list[Entry] = []
        left = max_bytes
        start = bisect_right(self._order, int(position), key=_position_of)
        if start and position_after(self._order[start - 1]) > position:
            start -= 1
        stop = min(len(self._order), start + _EXAMINED_PER_SCAN)
        following = self._order[stop].position if stop < len(self._order) else int(self.end())
        for index in range(start, stop):
            message = self._order[index]
            number = message.number
            if (chosen is not None and number not in chosen) or end_of(message) <= self._first(number):
                continue
            if wanted(number):
                found.append(message)
                left -= weight(message)
                if left <= 0:
                    following = position_after(message)
                    break
        then(found, max(following, int(position)) if position <= self.end() else int(self.end()))

    def end(self) -> Position:
        """The position after the last committed message."""
        return Position(self._committed_position + 1)

    def bounds(self, number: int) -> tuple[int, int]:
        """(first, after the last) of a channel."""
        lane = self._lanes.get(number)
        if lane is None or lane.forgotten:
            return 0, 0
        return self._first(number), lane.committed

    def channels(self) -> Iterator[int]:
        """The channels that have messages."""
        return iter([number for number, lane in self._lanes.items() if lane.messages])

    def bytes_of(self, number: int) -> int:
        """Bytes one channel keeps."""
        lane = self._lanes.get(number)
        return lane.bytes if lane is not None else 0

    def get(self, table: Table, key: bytes) -> bytes | None:
        """A state row."""
        return self._tables[table].get(key)

    def rows(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """State rows by key."""
        rows = self._tables[table]
        for key in sorted(key for key in rows if key.startswith(prefix)):
            yield key, rows[key]

    def release(self, number: int, offset: int, position: Position | None = None) -> None:
        """Drops a channel's messages below ``offset``; what is not committed yet is dropped by its commit."""
        lane = self._lanes.get(number)
        if lane is None:
            return
        messages = lane.messages
        if position is not None:
            offset = min(offset, self._offset_of(lane, position))
        while messages and end_of(messages[0]) <= offset:
            size = weight(messages.popleft())
            lane.bytes -= size
            self._message_bytes -= size
            self._dead += 1
        lane.first = max(lane.first, min(offset, lane.committed))
        if offset >= EVERYTHING and position is None:
            lane.forgotten = True
            if lane.appended == lane.committed:
                del self._lanes[number]
        if self._dead > _DEAD_SLACK + len(self._order) // 2:
            self._order = [message for message in self._order if end_of(message) > self._first(message.number)]
            self._dead = 0

    def bytes_used(self) -> int:
        """Bytes of messages and rows."""
        return self._message_bytes + self._row_bytes

    def statistics(self) -> dict[str, int]:
        """Counters for the admin endpoint."""
        return {
            "commits": self._ticket - 1,
            "messages": len(self._order) - self._dead,
            "channels": len(self._lanes),
            "rows": sum(len(rows) for rows in self._tables.values()),
            "used_bytes": self.bytes_used(),
            "budget_bytes": self._budget_bytes,
            "uncommitted_bytes": self._waiting_bytes,
        }

    def _first(self, number: int) -> int:
        """The lowest offset of a channel that may be read."""
        lane = self._lanes.get(number)
        if lane is None:
            return EVERYTHING
        return max(lane.first, lane.messages[0].offset) if lane.messages else lane.committed

    @staticmethod
    def _offset_of(lane: _Lane, position: int) -> int:
        """The first offset of a channel that is at or after a position."""
        for entry in lane.messages:
            if position_after(entry) > position:
                return entry.offset + max(0, position - entry.position)
        return lane.committed

    def _waits(self) -> Ticket:
        if not self._waiting:
            assert self._loop is not None, "not opened"
            assert not self._closed, "closed"
            self._waiting = True
            self._waiting_since_ms = self._clock.monotonic_ms()
            self._loop.call_soon(self._commit)
        return Ticket(self._ticket)

    def _commit(self) -> None:
        if not self._waiting:
            return
        ticket = Ticket(self._ticket)
        self._ticket += 1
        self._waiting = False
        self._waiting_bytes = 0
        messages, self._open = self._open, []
        for message in messages:
            self._keep(message)
        assert self._on_commit is not None
        self._on_commit(ticket)

    def _keep(self, message: Entry) -> None:
        lane = self._lanes[message.number]
        lane.committed = end_of(message)
        self._committed_position = position_after(message) - 1
        size = weight(message)
        if lane.forgotten:
            self._message_bytes -= size
            if lane.appended == lane.committed:
                del self._lanes[message.number]
            return
        lane.messages.append(message)
        lane.bytes += size
        self._order.append(message)

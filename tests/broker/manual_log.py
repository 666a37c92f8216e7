"""A loop and a log that do nothing on their own: the test turns, commits, fails and answers by hand."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from dragoman.broker.clock import ManualClock
from dragoman.broker.log.contract import EVERYTHING, Position, ReadDone, Table, Ticket
from dragoman.broker.log.weight import weight
from dragoman.routing.message import Bundle, Entry, end_of
from dragoman.routing.refusals import Reason, Refusal

FAILED = Refusal(Reason.STORAGE_FAILED, "the disk said no")


class _Alarm:
    def __init__(self, due_ms: float, call: Callable[[], object]) -> None:
        self.due_ms, self.call, self.cancelled = due_ms, call, False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """What the broker asks of a loop. ``turn`` runs what was ready when it began; ``run`` until nothing is."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._ready: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._alarms: list[tuple[float, int, _Alarm]] = []
        self._order = itertools.count()

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self._ready.append((callback, args))

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> _Alarm:
        alarm = _Alarm(self._clock.monotonic_ms() + delay * 1000, lambda: callback(*args))
        heappush(self._alarms, (alarm.due_ms, next(self._order), alarm))
        return alarm

    def turn(self) -> bool:
        for _ in range(len(self._ready)):
            callback, args = self._ready.popleft()
            callback(*args)
        while self._alarms and self._alarms[0][0] <= self._clock.monotonic_ms():
            alarm = heappop(self._alarms)[2]
            if not alarm.cancelled:
                alarm.call()
        return bool(self._ready)

    def run(self, turns_max: int = 10_000) -> int:
        turns = 1
        while self.turn():
            turns += 1
            assert turns < turns_max, "the loop never comes to rest"
        return turns

    def advance(self, by_ms: int, step_ms: int = 0) -> None:
        """Moves the clock and runs what falls due, in steps if they matter."""
        left = by_ms
        while left > 0:
            self._clock.advance(min(left, step_ms or left))
            left -= step_ms or left
            self.run()


def _count(entry: Entry) -> int:
    return entry.count if isinstance(entry, Bundle) else 1


def _first_left(entry: Entry, offset: int) -> int:
    """Where an entry that is kept begins, after everything below ``offset`` was released."""
    return max(entry.offset, offset) if end_of(entry) > offset else entry.offset


class Group:
    """One commit to be."""

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket
        self.messages: list[Entry] = []
        self.rows: dict[tuple[Table, bytes], bytes | None] = {}
        self.releases: list[tuple[int, int, int | None]] = []


class ManualLog:
    """A log that commits, fails and answers reads only when told. ``crash`` is the log a restart would find.

    Everything goes into one group until ``split``. A failed commit takes all that wait with it, as on disk;
    their rows ride with the next one.
    """

    durable = True

    def __init__(self) -> None:
        self.safe: list[Entry] = []
        self.safe_rows: dict[tuple[Table, bytes], bytes] = {}
        self.safe_bounds: dict[int, tuple[int, int]] = {}
        self.seen_rows: dict[tuple[Table, bytes], bytes] = {}
        self.seen_first: dict[int, int] = {}
        self.groups: deque[Group] = deque()
        self.full: Refusal | None = None
        self.held_reads: deque[Callable[[], None]] | None = None
        self.forgotten: set[int] = set()
        self.reads = 0
        self._appended: dict[int, int] = {}
        self._ticket = 1
        self._position = 1

    def crash(self) -> ManualLog:
        """What was committed, and nothing else."""
        after = ManualLog()
        after.safe = list(self.safe)
        after.safe_rows = dict(self.safe_rows)
        after.seen_rows = dict(self.safe_rows)
        after.safe_bounds = dict(self.safe_bounds)
        after.seen_first = {number: first for number, (first, _) in self.safe_bounds.items()}
        after._appended = {number: end for number, (_, end) in self.safe_bounds.items()}
        after._ticket = self._ticket
        after._last_position = self._last_position
        after._position = self.safe_end
        return after

    @property
    def safe_end(self) -> int:
        return self._last_position + 1

    _last_position = 0

    # -- by hand -------------------------------------------------------------------------------------

    def split(self) -> None:
        """What comes now is another commit's."""
        if self.groups and (self.groups[-1].messages or self.groups[-1].rows):
            self._begin()

    def commit(self) -> bool:
        """Commits the oldest group; False if none waits."""
        if not self.groups:
            return False
        group = self.groups.popleft()
        for message in group.messages:
            first, _ = self.safe_bounds.get(message.number, (message.offset, 0))
            self._last_position = message.position + _count(message) - 1
            if message.number in self.forgotten:
                continue
            self.safe_bounds[message.number] = (first, end_of(message))
            self.seen_first.setdefault(message.number, message.offset)
            self.safe.append(message)
        self._keep_rows(group)
        for number, offset, position in group.releases:
            self._free(number, offset, position)
        self.on_commit(Ticket(group.ticket))
        return True

    def refuse(self, why: Refusal = FAILED) -> None:
        """The oldest commit fails, and all behind it."""
        failed = list(self.groups)
        self.groups.clear()
        fresh = self._begin() if any(g.rows or g.releases for g in failed) else None
        for group in failed:
            if fresh is not None:
                fresh.rows.update(group.rows)
                fresh.releases += group.releases
        for group in failed:
            self.on_refused(Ticket(group.ticket), why)

    def answer(self) -> bool:
        """Gives the oldest answer that was held back; False if there is none."""
        assert self.held_reads is not None, "reads are not held back"
        if not self.held_reads:
            return False
        self.held_reads.popleft()()
        return True

    def _begin(self) -> Group:
        group = Group(self._ticket)
        self._ticket += 1
        self.groups.append(group)
        return group

    def _keep_rows(self, group: Group) -> None:
        for key, value in group.rows.items():
            if value is None:
                self.safe_rows.pop(key, None)
            else:
                self.safe_rows[key] = value

    def _free(self, number: int, offset: int, position: int | None) -> None:
        if number not in self.safe_bounds and offset < EVERYTHING:
            return
        kept = [
            m
            for m in self.safe
            if m.number != number or end_of(m) > offset or (position is not None and m.position + _count(m) > position)
        ]
        self.safe = kept
        if offset >= EVERYTHING and position is None:
            self.safe_bounds.pop(number, None)
            return
        first, after = self.safe_bounds[number]
        left = next((_first_left(m, offset) for m in kept if m.number == number), after)
        self.safe_bounds[number] = (max(first, left), after)

    # -- the contract --------------------------------------------------------------------------------

    def open(self, on_commit: Callable[[Ticket], None], on_refused: Callable[[Ticket, Refusal], None]) -> None:
        self.on_commit, self.on_refused = on_commit, on_refused

    async def close(self) -> None:
        while self.commit():
            pass

    def append(self, message: Entry) -> Ticket | Refusal:
        if self.full is not None:
            return self.full
        assert message.number not in self.forgotten, f"channel {message.number:x} was released for good"
        assert message.offset >= self._appended.get(message.number, 0), f"offset {message.offset} comes again"
        self._appended[message.number] = end_of(message)
        message.position = self._position
        self._position += _count(message)
        group = self.groups[-1] if self.groups else self._begin()
        group.messages.append(message)
        return Ticket(group.ticket)

    def put(self, table: Table, key: bytes, value: bytes | None) -> Ticket:
        assert 0 < len(key) <= 511
        group = self.groups[-1] if self.groups else self._begin()
        group.rows[table, key] = value
        if value is None:
            self.seen_rows.pop((table, key), None)
        else:
            self.seen_rows[table, key] = value
        return Ticket(group.ticket)

    def uncommitted_bytes(self) -> int:
        return sum(weight(m) for group in self.groups for m in group.messages)

    def oldest_uncommitted_ms(self) -> int:
        return 0

    def read(self, number: int, offset: int, max_bytes: int, then: ReadDone) -> None:
        self.reads += 1

        def give() -> None:
            found: list[Entry] = []
            left = max_bytes
            for message in self.safe:
                if message.number == number and end_of(message) > max(offset, self.seen_first.get(number, 0)):
                    found.append(message)
                    left -= weight(message)
                    if left <= 0:
                        break
            first, after = self.bounds(number)
            nothing = max(offset, after) if first == after and offset < after else offset
            then(found, end_of(found[-1]) if found else nothing)

        self._answer(give)

    def scan(
        self,
        position: Position,
        max_bytes: int,
        wanted: Callable[[int], bool],
        then: ReadDone,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.reads += 1

        def give() -> None:
            found: list[Entry] = []
            left = max_bytes
            start = bisect_left(self.safe, int(position), key=lambda m: m.position + _count(m) - 1)
            for message in self.safe[start:]:
                if numbers is not None and message.number not in numbers:
                    continue
                if end_of(message) > self.seen_first.get(message.number, 0) and wanted(message.number):
                    found.append(message)
                    left -= weight(message)
                    if left <= 0:
                        then(found, message.position + _count(message))
                        return
            then(found, int(self.end()))

        self._answer(give)

    def _answer(self, give: Callable[[], None]) -> None:
        if self.held_reads is None:
            give()
        else:
            self.held_reads.append(give)

    def end(self) -> Position:
        return Position(self.safe_end)

    def bounds(self, number: int) -> tuple[int, int]:
        if number in self.forgotten or number not in self.safe_bounds:
            return 0, 0
        first, after = self.safe_bounds[number]
        return min(after, max(first, self.seen_first.get(number, 0))), after

    def channels(self) -> Iterator[int]:
        return iter([number for number in self.safe_bounds if self.bounds(number)[0] < self.bounds(number)[1]])

    def bytes_of(self, number: int) -> int:
        return sum(weight(m) for m in self.safe if m.number == number and end_of(m) > self.seen_first.get(number, 0))

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self.seen_rows.get((table, key))

    def rows(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((k, v) for (t, k), v in self.seen_rows.items() if t is table and k.startswith(prefix)))

    def release(self, number: int, offset: int, position: Position | None = None) -> None:
        group = self.groups[-1] if self.groups else self._begin()
        group.releases.append((number, offset, position))
        if offset >= EVERYTHING and position is None:
            self.forgotten.add(number)
            return
        alive = [m for m in self.safe if m.number == number and end_of(m) > self.seen_first.get(number, 0)]
        kept = [
            _first_left(m, offset)
            for m in alive
            if end_of(m) > offset or (position is not None and m.position + _count(m) > position)
        ]
        if number in self.safe_bounds:
            self.seen_first[number] = max(
                self.seen_first.get(number, 0), kept[0] if kept else self.safe_bounds[number][1]
            )

    def bytes_used(self) -> int:
        return sum(self.bytes_of(number) for number in self.channels())

    def statistics(self) -> dict[str, int]:
        return {}

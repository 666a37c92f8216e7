"""Deadlines: when something is to happen. Decides nothing about what; one loop timer serves them all.

Two kinds. A ``Timer`` is forgotten with the process and follows the monotonic clock. A kept deadline
is a row in the log, follows the wall clock and outlives a restart: its row goes in the same commit as
whatever its function writes, so it happens once or is still due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, Protocol, final

from dragoman.broker.log.contract import Table
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.log.contract import Log, Ticket

FIRED_PER_TURN_MAX: Final = 512
"""Timers that run in one turn of the loop; the rest in the next, so that a burst cannot hold it."""

SLEEP_MAX_MS: Final = 3_600_000
"""The loop is asked for at most this; further deadlines are looked at again then."""

_COMPACT_MIN: Final = 1_024


class Handle(Protocol):
    """What ``call_later`` gives back."""

    def cancel(self) -> None:
        """Takes the call back."""


CallLater = Callable[..., Handle]
"""``call_later(seconds, fn, *args)``; asyncio's fits."""

DurableAction = Callable[[bytes, bytes], object]
"""Called with key and payload of a kept deadline whose time has come."""


@final
class Timer:
    """One deadline. ``due_ms`` is monotonic."""

    __slots__ = ("_order", "_owner", "args", "due_ms", "fn")

    def __init__(
        self, owner: Timers, due_ms: int, order: int, fn: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        self._owner: Timers | None = owner
        self.due_ms = due_ms
        self._order = order
        self.fn = fn
        self.args = args

    def __lt__(self, other: Timer) -> bool:
        return (self.due_ms, self._order) < (other.due_ms, other._order)

    @property
    def pending(self) -> bool:
        """Whether it has neither run nor been cancelled."""
        return self._owner is not None

    def cancel(self) -> None:
        """It will not run. Harmless if it has."""
        owner = self._owner
        if owner is not None:
            self._owner = None
            self.args = ()
            owner._cancelled()

    def _take(self) -> bool:
        """Marks it as run; False if it was cancelled."""
        owner, self._owner = self._owner, None
        return owner is not None


class TimerRow(Row):
    """A kept deadline. ``due_ms`` is the wall clock's."""

    due_ms: int = 0
    kind: int = 0
    payload: bytes = b""


class Timers:
    """A heap of deadlines behind one timer of the loop. Deadlines of one moment run in the order they were set."""

    def __init__(self, clock: Clock, call_later: CallLater, log: Log, durable_max: int = 1_000_000) -> None:
        self._clock = clock
        self._call_later = call_later
        self._log = log
        self._durable_max = durable_max
        self._heap: list[Timer] = []
        self._order = 0
        self._dead = 0
        self._handle: Handle | None = None
        self._armed_ms = 0
        self._actions: dict[int, DurableAction] = {}
        self._durable: dict[bytes, tuple[Timer, TimerRow]] = {}

    def __len__(self) -> int:
        """Deadlines ahead."""
        return len(self._heap) - self._dead

    def after(self, delay_ms: int, fn: Callable[..., object], *args: object) -> Timer:
        """Calls ``fn`` once in ``delay_ms``; a delay of 0 or less means in the next turn."""
        return self.at(self._clock.monotonic_ms() + max(0, delay_ms), fn, *args)

    def at(self, deadline_ms: int, fn: Callable[..., object], *args: object) -> Timer:
        """Calls ``fn`` once when the monotonic clock has reached ``deadline_ms``."""
        self._order += 1
        timer = Timer(self, deadline_ms, self._order, fn, args)
        heappush(self._heap, timer)
        if self._handle is None or deadline_ms < self._armed_ms:
            self._arm()
        return timer

    def run_due(self) -> int:
        """Runs what is due now, at most ``FIRED_PER_TURN_MAX``; how many ran. For the loop's timer and tests."""
        now = self._clock.monotonic_ms()
        ran = 0
        try:
            while self._heap and self._heap[0].due_ms <= now and ran < FIRED_PER_TURN_MAX:
                timer = heappop(self._heap)
                if not timer._take():
                    self._dead -= 1
                    continue
                ran += 1
                timer.fn(*timer.args)
        finally:
            self._arm()
        return ran

    def stop(self) -> None:
        """Nothing runs any more; kept deadlines stay in the log."""
        self._heap.clear()
        self._durable.clear()
        self._dead = 0
        self._arm()

    # -- kept deadlines --------------------------------------------------------------------------

    def on(self, kind: int, action: DurableAction) -> None:
        """Says what happens to kept deadlines of this kind. Before ``start``; kinds are on disk, never reuse one."""
        assert kind not in self._actions, f"timer kind {kind} has an action"
        self._actions[kind] = action

    def start(self) -> int:
        """Takes up the deadlines the log kept; how many were left alone because nobody knows their kind."""
        strangers = 0
        for key, value in list(self._log.rows(Table.TIMERS)):
            row = decode_row(value, TimerRow)
            if row.kind not in self._actions:
                strangers += 1
                continue
            self._set(key, row)
        return strangers

    def keep(self, key: bytes, due_ms: int, kind: int, payload: bytes = b"") -> Ticket | Refusal:
        """At ``due_ms`` (wall clock) the action of ``kind`` runs, also after a restart. Replaces what ``key`` had."""
        assert kind in self._actions, f"timer kind {kind} has no action"
        if key not in self._durable and len(self._durable) >= self._durable_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED, f"there are {self._durable_max} durable deadlines, which is the limit"
            )
        row = TimerRow(due_ms=due_ms, kind=kind, payload=payload)
        self._set(key, row)
        return self._log.put(Table.TIMERS, key, encode_row(row))

    def kept(self, kind: int) -> Iterator[tuple[bytes, int, bytes]]:
        """Key, ``due_ms`` and payload of the kept deadlines of this kind, in no order."""
        for key, (_, row) in self._durable.items():
            if row.kind == kind:
                yield key, row.due_ms, row.payload

    def forget(self, key: bytes) -> Ticket | None:
        """Drops a kept deadline; the ticket of that, None if it is not there."""
        found = self._durable.pop(key, None)
        if found is None:
            return None
        found[0].cancel()
        return self._log.put(Table.TIMERS, key, None)

    def _set(self, key: bytes, row: TimerRow) -> None:
        earlier = self._durable.pop(key, None)
        if earlier is not None:
            earlier[0].cancel()
        self._durable[key] = self.after(row.due_ms - self._clock.now_ms(), self._durable_due, key, row), row

    def _durable_due(self, key: bytes, row: TimerRow) -> None:
        if self._clock.now_ms() < row.due_ms:
            # The wall clock was set back since.
            self._set(key, row)
            return
        del self._durable[key]
        # The row goes first, so that the action may keep the same key again; both are one commit.
        self._log.put(Table.TIMERS, key, None)
        self._actions[row.kind](key, row.payload)

    # -- the loop's timer ------------------------------------------------------------------------

    def _arm(self) -> None:
        while self._heap and not self._heap[0].pending:
            heappop(self._heap)
            self._dead -= 1
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._heap:
            now = self._clock.monotonic_ms()
            # The loop's clock and ours round differently; a millisecond more saves waking up too early.
            delay_ms = min(max(0, self._heap[0].due_ms - now + 1), SLEEP_MAX_MS)
            self._armed_ms = min(self._heap[0].due_ms, now + SLEEP_MAX_MS)
            self._handle = self._call_later(delay_ms / 1_000, self._wake)

    def _wake(self) -> None:
        self._handle = None
        self.run_due()

    def _cancelled(self) -> None:
        self._dead += 1
        if self._dead > _COMPACT_MIN and self._dead * 2 > len(self._heap):
            self._heap = [timer for timer in self._heap if timer.pending]
            heapify(self._heap)
            self._dead = 0

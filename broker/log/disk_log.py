"""The log on disk: the loop's side. Ties journal, LMDB, memory and the three threads together.

A group of what came in goes to the writer thread, one at a time; its fdatasync is the acknowledgement.
Behind it the mover thread takes commits over into LMDB. What a reader asks for is answered from memory,
or by the reader thread. Everything here runs on the loop and waits for nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import final

from dragoman.broker.clock import Clock, SystemClock
from dragoman.broker.log.background import Background
from dragoman.broker.log.cold import ColdReader
from dragoman.broker.log.contract import EVERYTHING, KEY_BYTES_MAX, Position, ReadDone, Table, Ticket
from dragoman.broker.log.disk import Disk
from dragoman.broker.log.groups import Group, Groups
from dragoman.broker.log.hot import HotTail, Lane
from dragoman.broker.log.mover import Mover
from dragoman.broker.log.overlay import Overlay
from dragoman.broker.log.reads import Reads
from dragoman.broker.log.recovery import load_lanes, recover
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.log.store import Store, StoreError
from dragoman.broker.log.weight import weight
from dragoman.broker.log.worker import Outcome, Worker
from dragoman.broker.log.writer import Writer, Written
from dragoman.routing.message import Entry, count_of, end_of, position_after
from dragoman.routing.refusals import Reason, Refusal

logger = logging.getLogger(__name__)


@final
class DiskLog:
    """A log in a folder. See ``contract.Log``."""

    durable = True

    _loop: asyncio.AbstractEventLoop
    _on_commit: Callable[[Ticket], None]
    _on_refused: Callable[[Ticket, Refusal], None]
    _groups: Groups
    _hot: HotTail
    _background: Background
    _writer: Writer
    _reads: Reads
    _workers: tuple[Worker, Worker, Worker]

    def __init__(self, settings: LogSettings, clock: Clock | None = None, disk: Disk | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._disk = disk or Disk(settings.folder)
        self._overlay = Overlay()
        self._limit_bytes = settings.budget_bytes - settings.headroom_bytes
        self._writing: Group | None = None
        self._refusal: Refusal | None = None
        self._held = False
        self._scheduled = False
        self._state = "new"
        self._next_position = 1
        self._commits = 0
        self._refusals = 0
        self._replayed = 0
        self._waiters: list[asyncio.Future[None]] = []

    # -- life --------------------------------------------------------------------------------------

    def open(self, on_commit: Callable[[Ticket], None], on_refused: Callable[[Ticket, Refusal], None]) -> None:
        """Recovers the folder and starts the threads. Takes as long as there is journal to replay."""
        assert self._state == "new", "opened twice"
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        self._on_commit = on_commit
        self._on_refused = on_refused
        opened = recover(self._disk, settings)
        self._replayed = opened.replayed
        self._next_position = opened.position
        self._groups = Groups(settings.group_bytes_max, settings.group_messages_max, opened.commit + 1)
        self._hot = HotTail(settings.hot_bytes, opened.position)
        load_lanes(opened.store, self._hot)
        self._store = opened.store
        self._writer = Writer(opened.journal, opened.commit, opened.position, settings.reserve_free_bytes)
        names = ("log-writer", "log-mover", "log-reader")
        writer, mover, reader = (Worker(name, self._loop, settings.threads) for name in names)
        self._workers = (writer, mover, reader)
        self._reads = Reads(self._hot, ColdReader(opened.store, self._disk), reader, self._read_failed, self._wake)
        self._background = Background(
            Mover(opened.store, self._disk, settings),
            mover,
            self._loop,
            settings,
            self._hot,
            self._overlay,
            (opened.journal.segment, opened.journal.bytes, opened.commit, opened.position),
            opened.journal_bytes,
            self._background_progressed,
        )
        self._state = "open"
        self._background.hurry()

    async def close(self) -> None:
        """Commits what is open, lets LMDB catch up and gives the folder up. What is refused now stays refused."""
        if self._state == "new":
            self._state = "closed"
        if self._state == "open":
            self._state = "closing"
            self._held = False
            self._send()
            await self._until(lambda: self._writing is None and (not len(self._groups) or self._held))
            await self._until(lambda: not self._reads.under_way and (self._caught_up() or self._background.failing))
        self.halt()

    def halt(self) -> None:
        """Gives the folder up at once: what was not acknowledged may be lost, as in a crash. Idempotent."""
        if self._state in ("new", "closed"):
            return
        self._state = "closed"
        self._background.stop()
        for worker in self._workers:
            worker.stop()
        self._writer.journal.close()
        self._store.close()
        self._disk.close()

    async def idle(self) -> None:
        """Waits until everything is committed and in LMDB, and what can be freed is free."""
        await self._until(lambda: self._writing is None and not len(self._groups) and self._caught_up())

    def _caught_up(self) -> bool:
        """Whether LMDB has everything; if not, it is at it after this call."""
        self._background.hurry()
        return self._background.idle

    async def committed(self) -> None:
        """Waits until everything is committed."""
        await self._until(lambda: self._writing is None and not len(self._groups))

    # -- for upkeep --------------------------------------------------------------------------------

    @property
    def settings(self) -> LogSettings:
        """The settings it was opened with."""
        return self._settings

    @property
    def disk(self) -> Disk:
        """Its files. Only reading is anybody else's business."""
        return self._disk

    def safe_end(self) -> tuple[int, int]:
        """Where the journal ends as far as it was acknowledged: segment, offset."""
        return self._background.reached[:2]

    @asynccontextmanager
    async def files_kept(self) -> AsyncIterator[Store]:
        """While inside, no journal file is removed or settled. Gives the store, for copying."""
        mover = self._background.mover
        mover.keep_files = True
        try:
            # A step that began before this may still be removing.
            steps = self._background.steps
            await self._until(lambda: not self._background.busy or self._background.steps > steps)
            yield self._store
        finally:
            mover.keep_files = False
            self._background.more = True

    # -- writing -----------------------------------------------------------------------------------

    def append(self, message: Entry) -> Ticket | Refusal:
        """Adds an entry to the open commit."""
        if self._refusal is not None:
            return self._refusal
        size = weight(message)
        if self.bytes_used() + self._groups.weight + size > self._limit_bytes:
            return self._over_budget(size)
        assert self._state == "open", f"append to a log that is {self._state}"
        lane = self._hot.lanes.get(message.number)
        if lane is None:
            lane = self._hot.lanes[message.number] = Lane()
        assert message.offset >= lane.appended, f"offset {message.offset} after {lane.appended - 1}"
        assert not lane.forgotten, f"channel {message.number:x} was released for good"
        lane.appended = end_of(message)
        message.position = self._next_position
        self._next_position += count_of(message)
        group = self._open_group()
        self._groups.add(group, message, size)
        return group.ticket

    def put(self, table: Table, key: bytes, value: bytes | None) -> Ticket:
        """Sets or deletes a state row."""
        assert 0 < len(key) <= KEY_BYTES_MAX, f"a key of {len(key)} bytes"
        self._schedule()
        group = self._groups.open_for_rows(self._clock)
        group.put(table, key, value)
        self._overlay.put(table, key, value, group.ticket)
        return group.ticket

    def uncommitted_bytes(self) -> int:
        """Weight of messages waiting or being written."""
        return self._groups.weight + (self._writing.weight if self._writing is not None else 0)

    def oldest_uncommitted_ms(self) -> int:
        """Age of the oldest group."""
        since = self._writing.since_ms if self._writing is not None else self._groups.oldest_ms()
        return 0 if since is None else self._clock.monotonic_ms() - since

    def release(self, number: int, offset: int, position: Position | None = None) -> None:
        """Frees a channel's messages. By position and not in memory, up to one stored batch may be kept."""
        lane = self._hot.lanes.get(number)
        if lane is None or lane.forgotten:
            return
        if offset >= EVERYTHING and position is None:
            self._hot.forget(number, lane)
            self._open_group().releases[number] = EVERYTHING
            return
        if position is not None:
            offset = min(offset, self._offset_of(number, lane, position))
        if min(offset, lane.committed) > lane.first:
            self._hot.release(lane, offset)
            self._open_group().releases[number] = lane.first

    def _offset_of(self, number: int, lane: Lane, position: int) -> int:
        """The first offset of a channel that is at or after a position."""
        if lane.hot and lane.hot[0].position < position:
            for message in lane.hot:
                if position_after(message) > position:
                    return int(message.offset + max(0, position - message.position))
            return lane.committed
        place = self._store.place_of_position(number, position)
        if place is not None:
            return int(place.offset)
        return lane.hot[0].offset if lane.hot else lane.committed

    def _over_budget(self, size: int) -> Refusal:
        return Refusal(
            Reason.STORAGE_FULL,
            f"the log uses {self.bytes_used()} of the {self._limit_bytes} bytes it may use for messages; "
            f"{size} more do not fit",
            retry_after_ms=self._settings.retry_ms,
        )

    def _open_group(self) -> Group:
        self._schedule()
        return self._groups.open(self._clock)

    def _schedule(self) -> None:
        if not self._scheduled:
            assert self._state in ("open", "failed"), f"written to while {self._state}"
            self._scheduled = True
            self._loop.call_soon(self._turn_ended)

    def _turn_ended(self) -> None:
        self._scheduled = False
        if self._state == "failed":
            self._refuse_all([])
        self._send()

    def _send(self) -> None:
        """Starts the next commit, if there is one and nothing stands against it."""
        if self._writing is not None or self._held or not len(self._groups) or self._state not in ("open", "closing"):
            return
        if self._background.full:
            if self._background.failing:
                self._refuse([], Refusal(Reason.STORAGE_FAILED, "the state file cannot be written; look at the disk"))
            self._background.hurry()
            return
        group = self._groups.take()
        self._writing = group
        self._workers[0].submit(lambda: self._writer.commit(group), self._written)

    def _written(self, outcome: Outcome[Written | Refusal]) -> None:
        group = self._writing
        assert group is not None, "a commit nobody sent"
        self._writing = None
        if outcome.error is not None:
            self._fail(group, outcome.error)
        written = outcome.value()
        if isinstance(written, Refusal):
            self._refuse([group], written)
            self._wake()
            return
        self._commits += 1
        self._refusal = None
        self._hot.commit(written.frame, group.messages, written.by_channel)
        self._background.add(written.frame, written.bytes)
        self._send()
        self._on_commit(group.ticket)
        self._wake()

    def _refuse(self, groups: list[Group], why: Refusal) -> None:
        """Refuses commits and what waits behind them, so that order holds; keeps their rows for the next commit."""
        groups += self._groups.take_all()
        self._refusals += 1
        for group in groups:
            self._hot.refused(group.messages)
        if why.reason is not Reason.PAYLOAD_INVALID:
            self._refusal = why
            self._held = True
            self._loop.call_later(self._settings.retry_ms / 1000, self._retry)
        self._carry(groups)
        logger.warning("commits were refused", extra={"commits": len(groups), "why": why.detail})
        for group in groups:
            self._on_refused(group.ticket, why)

    def _carry(self, groups: list[Group]) -> None:
        if not any(group.rows or group.releases for group in groups):
            return
        fresh = self._groups.open(self._clock)
        for group in groups:
            for (table, key), value in group.rows.items():
                fresh.put(table, key, value)
                self._overlay.put(table, key, value, fresh.ticket)
            fresh.releases.update(group.releases)

    def _retry(self) -> None:
        """Tries again: state rows that wait are the trial, and messages are taken once that worked."""
        self._held = False
        if len(self._groups):
            self._send()
        elif self._writing is None:
            self._refusal = None

    def _background_progressed(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, (StoreError, OSError)):
            self._fail(self._writing, error)
        self._send()
        self._wake()

    def _fail(self, group: Group | None, error: BaseException) -> None:
        """An error nobody foresaw in a thread: nothing is acknowledged any more. Raises it."""
        self._state = "failed"
        self._background.stop()
        self._refusal = Refusal(Reason.STORAGE_FAILED, "the log has stopped after an internal error; restart")
        self._writing = None
        self._refuse_all([group] if group is not None else [])
        self._wake()
        raise error

    def _read_failed(self, error: BaseException) -> None:
        self._fail(self._writing, error)

    def _refuse_all(self, groups: list[Group]) -> None:
        """After a failure: the answer to everything that waits."""
        assert self._refusal is not None, "refused without a reason"
        for group in groups + self._groups.take_all():
            self._on_refused(group.ticket, self._refusal)

    async def _until(self, true: Callable[[], bool]) -> None:
        while self._state != "failed" and not true():
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- reading -----------------------------------------------------------------------------------

    def read(self, number: int, offset: int, max_bytes: int, then: ReadDone) -> None:
        """Reads one channel: from memory at once, else by the reader thread."""
        self._reads.read(number, offset, max_bytes, then)

    def scan(
        self,
        position: Position,
        max_bytes: int,
        wanted: Callable[[int], bool],
        then: ReadDone,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Reads all channels in commit order: from memory at once, else by the reader thread."""
        self._reads.scan(position, max_bytes, wanted, then, numbers)

    def end(self) -> Position:
        """The position after the last committed message."""
        return Position(self._hot.end_position)

    def bounds(self, number: int) -> tuple[int, int]:
        """(first, after the last) of a channel."""
        return self._hot.bounds(number)

    def channels(self) -> Iterator[int]:
        """The channels that have messages."""
        return self._hot.channels()

    def bytes_of(self, number: int) -> int:
        """Weight of what a channel keeps; after a release of what is not in memory an estimate."""
        lane = self._hot.lanes.get(number)
        return lane.weight if lane is not None else 0

    def get(self, table: Table, key: bytes) -> bytes | None:
        """A state row."""
        found = self._overlay.find(table, key)
        return found[1] if found is not None else self._store.get(table, key)

    def rows(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """State rows by key."""
        return self._overlay.over(table, prefix, self._store.rows(table, prefix))

    def bytes_used(self) -> int:
        """Journal files and LMDB's pages in use."""
        return self._background.journal_bytes + self._background.store_bytes

    def statistics(self) -> dict[str, int]:
        """Counters for the admin endpoint."""
        background = self._background
        return {
            "commits": self._commits,
            "refused_commits": self._refusals,
            "replayed_commits": self._replayed,
            "channels": len(self._hot.lanes),
            "used_bytes": self.bytes_used(),
            "budget_bytes": self._settings.budget_bytes,
            "journal_bytes": background.journal_bytes,
            "state_bytes": background.store_bytes,
            "memory_bytes": self._hot.weight,
            "uncommitted_bytes": self.uncommitted_bytes(),
            "oldest_uncommitted_ms": self.oldest_uncommitted_ms(),
            "unmoved_bytes": background.unmoved_bytes,
            "moves": background.moves,
            "move_failures": background.failures,
            "settled_bytes": background.settled_bytes,
            "unmoved_rows": len(self._overlay),
            "damaged_segments": len(background.mover.damaged),
            "damaged_batches": self._reads.damaged_batches,
            "stopped": int(self._state == "failed"),
        }

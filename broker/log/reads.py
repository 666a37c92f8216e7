"""The loop's side of reading: from memory at once, else through the reader thread. Each reader is answered once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar, final

from dragoman.broker.log.cold import ColdReader, Slice
from dragoman.broker.log.contract import Position, ReadDone
from dragoman.broker.log.hot import HotTail
from dragoman.broker.log.weight import weight
from dragoman.broker.log.worker import Outcome, Worker
from dragoman.routing.message import Entry, end_of, position_after

T = TypeVar("T")

_INDEXED_NUMBERS_MAX: Final = 64
"""Up to so many channels a scan goes by their own indexes (some 20 us each to find the place); beyond, it reads all."""


@final
class Reads:
    """Answers readers. Loop's thread only."""

    def __init__(
        self,
        hot: HotTail,
        cold: ColdReader,
        worker: Worker,
        failed: Callable[[BaseException], None],
        ended: Callable[[], None],
    ) -> None:
        self.under_way = 0
        self._hot = hot
        self._cold = cold
        self._worker = worker
        self._failed = failed
        self._wake = ended

    @property
    def damaged_batches(self) -> int:
        """Batches that were skipped because they are damaged."""
        return self._cold.damaged_batches

    def read(self, number: int, offset: int, max_bytes: int, then: ReadDone) -> None:
        """Reads one channel: from memory at once, else by the reader thread."""
        found = self._hot.read(number, offset, max_bytes)
        if found is None:
            self._read_cold(number, offset, max_bytes, then)
        elif found:
            then(found, end_of(found[-1]))
        else:
            then((), max(offset, self._hot.bounds(number)[1]))

    def _read_cold(self, number: int, offset: int, max_bytes: int, then: ReadDone) -> None:
        lane = self._hot.lanes[number]
        offset = max(offset, lane.first)
        cold_end = lane.cold_end

        def done(outcome: Outcome[list[Entry]]) -> None:
            self.under_way -= 1
            found = self._answer(outcome, then, offset)
            readable = _at_most([message for message in found if self._hot.readable(message)], max_bytes)
            if readable:
                then(readable, end_of(readable[-1]))
            else:
                # Nothing older is left: what there is, is in memory.
                self.read(number, max(offset, cold_end if not found else end_of(found[-1])), max_bytes, then)
            self._wake()

        self.under_way += 1
        self._worker.submit(lambda: self._cold.channel(number, offset, max_bytes), done)

    def scan(
        self,
        position: Position,
        max_bytes: int,
        wanted: Callable[[int], bool],
        then: ReadDone,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Reads all channels in commit order: from memory at once, else by the reader thread."""
        if numbers is not None:
            chosen = frozenset(numbers)
            asked = wanted

            def wanted(number: int) -> bool:
                return number in chosen and asked(number)

        if position >= self._hot.cold_position:
            then(*self._hot.scan(position, max_bytes, wanted))
        elif numbers is not None and len(numbers) <= _INDEXED_NUMBERS_MAX:
            some = [number for number in numbers if asked(number)]
            end = self._hot.cold_position
            self._scan_job(lambda: self._cold.channels(some, position, end, max_bytes), position, max_bytes, then)
        else:
            self._scan_slice(position, max_bytes, wanted, then)

    def _scan_slice(self, position: int, max_bytes: int, wanted: Callable[[int], bool], then: ReadDone) -> None:
        end = self._hot.cold_position

        def sliced(outcome: Outcome[Slice]) -> None:
            self.under_way -= 1
            found = self._answer(outcome, then, position)
            # Asked on the loop: what is wanted is the broker's state.
            chosen = {number for number in {number for number, _ in found.records} if wanted(number)}
            # The index may have grown past ``end`` while the job waited.
            following = found.following or max(end, found.after)
            if chosen:
                self._scan_job(
                    lambda: (self._cold.unpack(found, chosen, position), following), position, max_bytes, then
                )
            else:
                then((), following)
                self._wake()

        self.under_way += 1
        self._worker.submit(lambda: self._cold.slice(position), sliced)

    def _scan_job(
        self, job: Callable[[], tuple[list[Entry], int]], position: int, max_bytes: int, then: ReadDone
    ) -> None:
        def done(outcome: Outcome[tuple[list[Entry], int]]) -> None:
            self.under_way -= 1
            found, following = self._answer(outcome, then, position)
            readable = [message for message in found if self._hot.readable(message)]
            given = _at_most(readable, max_bytes)
            then(given, position_after(given[-1]) if len(given) < len(readable) else following)
            self._wake()

        self.under_way += 1
        self._worker.submit(job, done)

    def _answer(self, outcome: Outcome[T], then: ReadDone, asked: int) -> T:
        """The value of a read; if it failed, the reader is answered before the log stops."""
        if outcome.error is not None:
            then((), asked)
            self._failed(outcome.error)
        return outcome.value()


def _at_most(messages: list[Entry], max_bytes: int) -> list[Entry]:
    """The first messages of about so many bytes, but at least one."""
    for index, message in enumerate(messages):
        max_bytes -= weight(message)
        if max_bytes <= 0:
            return messages[: index + 1]
    return messages

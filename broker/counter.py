"""A count that never goes back, not even over a restart: numbers are promised in the log in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from dragoman.broker.log.contract import Table
from dragoman.broker.rows import Row, decode_row, encode_row

if TYPE_CHECKING:
    from dragoman.broker.log.contract import Log

BLOCK: Final = 100_000


class CounterRow(Row):
    """Numbers below ``next`` may have been handed out."""

    next: int = 1


@final
class Counter:
    """Rising integers from 1. A crash skips to the end of the block.

    A new block is promised when half of the last one is used, so that its row is committed long before it matters.
    """

    def __init__(self, log: Log, name: bytes) -> None:
        self._log = log
        self._name = name
        self.last = 0
        self._promise_at = 0

    def start(self) -> None:
        """Goes on after every number handed out before. Once, after the log is open."""
        row = self._log.get(Table.META, self._name)
        if row is not None:
            self.last = decode_row(row, CounterRow).next - 1
        self._promise()

    def next(self) -> int:
        """The next number."""
        self.last += 1
        if self.last >= self._promise_at:
            self._promise()
        return self.last

    def _promise(self) -> None:
        self._promise_at = self.last + BLOCK // 2
        self._log.put(Table.META, self._name, encode_row(CounterRow(next=self.last + BLOCK + 1)))

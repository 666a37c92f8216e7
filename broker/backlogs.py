"""All durable readers of a mesh: their rows, and the lowest place anybody still needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nlargest
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.backlog import Backlog
from dragoman.broker.log.contract import Table
from dragoman.broker.rows import CursorRow, decode_row, encode_row

if TYPE_CHECKING:
    from dragoman.broker.channels import Channels
    from dragoman.broker.core import Core, TimerHandle
    from dragoman.broker.session import Session
    from dragoman.routing.message import Message

NOTES_PER_SWEEP: Final = 1_000
"""Readers whose rows are written at a sweep for what waits now: those that are most wrong about it."""

TRIMS_PER_SWEEP: Final = 100
"""Readers whose too old messages are looked for at a sweep; the others' at the next ones."""


@final
class Backlogs:
    """All durable readers: keeps their rows and knows the lowest place anybody still needs."""

    def __init__(self, core: Core, channels: Channels) -> None:
        self.core = core
        self.channels = channels
        self._all: dict[bytes, Backlog] = {}
        self._dirty: dict[Backlog, None] = {}
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def behind(self) -> Iterator[tuple[Session, Backlog]]:
        """The attached sessions that have not taken all there is for them."""
        for backlog in self._all.values():
            if backlog.behind and backlog.reader is not None:
                yield backlog.reader, backlog

    def open(self, key: bytes, offer: Callable[[Message], bool]) -> Backlog:
        """The reader of this key, as the log remembers it or new. Its filters keep messages from now on."""
        assert key not in self._all, f"the reader {key!r} is open already"
        data = self.core.log.get(Table.CURSORS, key)
        row = decode_row(data, CursorRow) if data is not None else CursorRow(low=self.core.log.end())
        backlog = Backlog(self, key, offer, row)
        self._all[key] = backlog
        for filter_ in backlog.filters:
            self.core.readers.add(filter_, backlog)
        self.core.changed()
        self.dirty(backlog)
        return backlog

    def close(self, backlog: Backlog) -> None:
        """The reader is no more: nothing is kept for it."""
        backlog.pause()
        del self._all[backlog.key]
        self._dirty.pop(backlog, None)
        for filter_ in backlog.filters:
            self.core.readers.remove(filter_, backlog)
        self.core.log.put(Table.CURSORS, backlog.key, None)
        self.core.changed()

    def advance(self) -> None:
        """Moves the places of those who are caught up behind all they did not want. Between two turns only."""
        overdue: list[Backlog] = []
        unnoted: list[Backlog] = []
        for backlog in self._all.values():
            backlog.advance()
            if backlog.unnoted:
                unnoted.append(backlog)
            if backlog.overdue:
                overdue.append(backlog)
        # The oldest first, or a few of them would always be looked at and the others never.
        for backlog in sorted(overdue, key=lambda b: b.oldest_ms)[:TRIMS_PER_SWEEP]:
            backlog.trim()
        for backlog in nlargest(NOTES_PER_SWEEP, unnoted, key=lambda b: b.unnoted):
            self.dirty(backlog)

    def finish(self, key: bytes, position: int) -> None:
        """The message is done with for the reader of this key, if there is one. Not within its ``offer``."""
        backlog = self._all.get(key)
        if backlog is not None:
            backlog.finish(position)

    def done(self, key: bytes, position: int) -> None:
        """The same, and its row says so in the open commit."""
        backlog = self._all.get(key)
        if backlog is not None:
            backlog.finish(position)
            self.save(backlog)

    def check(self) -> None:
        """Asserts what must always hold between two turns. For tests; walks everything."""
        for key, backlog in self._all.items():
            assert backlog.key == key
            backlog.check()

    def dirty(self, backlog: Backlog) -> None:
        """The reader's row is out of date: it goes out with the next flush, if there still is such a reader."""
        if self._all.get(backlog.key) is not backlog:
            return
        self._dirty[backlog] = None
        if self._timer is None:
            self._timer = self.core.loop.call_later(self.core.settings.cursor_flush_ms / 1000, self.flush)

    def settle(self) -> None:
        """Writes all rows that say less than is known. Before the log closes."""
        for backlog in self._all.values():
            if backlog.unnoted:
                self._dirty[backlog] = None
        self.flush()

    def flush(self) -> None:
        """Writes the rows that are out of date. Called by its timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for backlog in list(self._dirty):
            self.save(backlog)

    def save(self, backlog: Backlog) -> None:
        """Puts the reader's row into the open commit."""
        self._dirty.pop(backlog, None)
        self.core.log.put(Table.CURSORS, backlog.key, encode_row(backlog.row()))
        if backlog.saved is not None:
            backlog.saved()

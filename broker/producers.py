"""Recognises what a numbered producer has said before: a window of five per producer and channel.

Beside ``dedupe``, which knows single messages by key: here the sender numbers its messages without a gap,
so that order can be kept as well. The window's row rides in the commit of what it remembers.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, final

from dragoman.broker.counter import Counter
from dragoman.broker.log.contract import DONE, Table, Ticket
from dragoman.broker.rows import Row, channel_key, decode_row, encode_row

if TYPE_CHECKING:
    from dragoman.broker.core import Core

WINDOW: Final = 5
"""Batches remembered: as many as a producer may have under way at once."""

SEQUENCES: Final = 1 << 31
"""Sequence numbers begin again at 0 after this many."""


class Said(NamedTuple):
    """Where something went that was said before."""

    first: int
    last: int
    offset: int
    ticket: Ticket


class Out(Enum):
    """Why a producer may not say this now."""

    OF_ORDER = "something before it is missing"
    OF_EPOCH = "a newer producer has taken over"


class ProducerRow(Row):
    """One producer's window in one channel."""

    epoch: int = 0
    time_ms: int = 0
    window: tuple[tuple[int, int, int], ...] = ()


class _Window:
    __slots__ = ("epoch", "said", "time_ms")

    def __init__(self, epoch: int, time_ms: int) -> None:
        self.epoch = epoch
        self.time_ms = time_ms
        self.said: list[Said] = []


@final
class Producers:
    """The producers of a mesh. ``load`` once, after the log is open."""

    def __init__(self, core: Core) -> None:
        self._core = core
        #: every commit up to this ticket is done
        self.safe: Ticket = DONE
        self._ids = Counter(core.log, b"producer-ids")
        self._windows: OrderedDict[tuple[int, int], _Window] = OrderedDict()
        self._under_way: dict[int, list[tuple[int, int]]] = {}

    def load(self) -> None:
        """Restores the windows, oldest first."""
        self._ids.start()
        rows = [(key, decode_row(value, ProducerRow)) for key, value in self._core.log.rows(Table.PRODUCERS)]
        for key, row in sorted(rows, key=lambda item: item[1].time_ms):
            window = _Window(row.epoch, row.time_ms)
            window.said = [Said(first, last, offset, DONE) for first, last, offset in row.window]
            self._windows[int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")] = window
        self.trim()

    def fresh_id(self) -> int:
        """A producer id nobody has had."""
        return self._ids.next()

    def judge(self, number: int, producer: int, epoch: int, first: int, last: int) -> Said | Out | None:
        """None: say it. ``Said``: it was said, and went there. Sequence numbers wrap at 2**31."""
        window = self._windows.get((number, producer))
        if window is None or epoch > window.epoch:
            # After what we have forgotten any number is right; a new epoch begins anew.
            return None
        if epoch < window.epoch:
            return Out.OF_EPOCH
        for said in window.said:
            if said.first == first and said.last == last:
                return said
        if window.said and first != (window.said[-1].last + 1) % SEQUENCES:
            return Out.OF_ORDER
        return None

    def remember(self, number: int, producer: int, epoch: int, said: Said) -> None:
        """It was taken in. Directly after the append, so that the row is in its commit."""
        place = (number, producer)
        window = self._windows.get(place)
        if window is None or window.epoch != epoch:
            window = self._windows[place] = _Window(epoch, self._core.now_ms)
        window.time_ms = self._core.now_ms
        window.said = [*window.said[-(WINDOW - 1) :], said]
        self._windows.move_to_end(place)
        if said.ticket:
            self._under_way.setdefault(said.ticket, []).append(place)
        self._write(place, window)

    def committed(self, ticket: Ticket) -> None:
        """Everything up to ``ticket`` is safe."""
        self.safe = ticket
        for t in [t for t in self._under_way if t <= ticket]:
            del self._under_way[t]

    def refused(self, ticket: Ticket) -> None:
        """Nothing of commit ``ticket`` was said: its producers may say it again."""
        for place in self._under_way.pop(ticket, ()):
            window = self._windows.get(place)
            if window is not None:
                window.said = [said for said in window.said if said.ticket != ticket]
                self._write(place, window)

    def trim(self) -> None:
        """Lets go of the oldest beyond the bounds."""
        settings = self._core.settings
        while self._windows:
            place, window = next(iter(self._windows.items()))
            if (
                len(self._windows) <= settings.producers_max
                and self._core.now_ms - window.time_ms <= settings.producers_ms
            ):
                return
            del self._windows[place]
            self._core.log.put(Table.PRODUCERS, _key(place), None)

    def _write(self, place: tuple[int, int], window: _Window) -> None:
        row = ProducerRow(
            epoch=window.epoch,
            time_ms=window.time_ms,
            window=tuple((said.first, said.last, said.offset) for said in window.said),
        )
        self._core.log.put(Table.PRODUCERS, _key(place), encode_row(row))


def _key(place: tuple[int, int]) -> bytes:
    number, producer = place
    return channel_key(number) + producer.to_bytes(8, "big")

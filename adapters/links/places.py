"""How far a link has pulled from sources that number what they say: kept here, in the very commit of each message.

So what an outside says again after a crash of either side is known to be here already, however long ago it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from dragoman.broker.log.contract import Table
from dragoman.broker.rows import Row, decode_row, encode_row

if TYPE_CHECKING:
    from dragoman.broker.log.contract import Log

T = TypeVar("T")

_PREFIX: Final = b"at:"


class PlaceRow(Row):
    """The number of the next thing to be taken."""

    next: int = 0


@final
class Places:
    """One link's places, by source. ``next`` is what the log will say; ``confirm`` what it surely does."""

    def __init__(self, log: Log, link: str) -> None:
        self._log = log
        self._prefix = _PREFIX + link.encode() + b":"
        self._sure: dict[str, int | None] = {}

    def get(self, source: str) -> int | None:
        """The number of the next thing to take; None if nothing ever was."""
        row = self._log.get(Table.LINKS, self._prefix + source.encode())
        return None if row is None else decode_row(row, PlaceRow).next

    def put(self, source: str, number: int) -> None:
        """Everything below ``number`` is taken, in the commit that is open now."""
        if source not in self._sure:
            self._sure[source] = self.get(source)
        self._write(source, number)

    def confirm(self, source: str, number: int) -> None:
        """Everything below ``number`` is safe."""
        self._sure[source] = number

    def roll_back(self) -> None:
        """A commit has failed, and the log keeps its rows for the next: they must not say what never came to be."""
        for source, number in self._sure.items():
            self._write(source, number)

    def _write(self, source: str, number: int | None) -> None:
        row = None if number is None else encode_row(PlaceRow(next=number))
        self._log.put(Table.LINKS, self._prefix + source.encode(), row)


class _Waiting(Generic[T]):
    __slots__ = ("done", "item")

    def __init__(self, item: T) -> None:
        self.item = item
        self.done = False


@final
class InOrder(Generic[T]):
    """Things that are done in any order, and told in the order in which they came."""

    def __init__(self, tell: Callable[[T], object]) -> None:
        self._tell = tell
        self._line: deque[_Waiting[T]] = deque()

    def enter(self, item: T) -> Callable[[], None]:
        """Takes its place in the line; calling the answer says that it is done."""
        entry = _Waiting(item)
        self._line.append(entry)
        return partial(self._done, entry)

    def _done(self, entry: _Waiting[T]) -> None:
        entry.done = True
        while self._line and self._line[0].done:
            self._tell(self._line.popleft().item)

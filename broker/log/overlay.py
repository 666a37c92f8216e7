"""State rows as last put, before LMDB has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from dragoman.broker.log.contract import Table
from dragoman.broker.log.frames import Frame


@final
class Overlay:
    """The rows that are newer here than in LMDB. Each knows the commit it is in, and goes when that is moved."""

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: dict[int, dict[bytes, tuple[int, bytes | None]]] = {int(table): {} for table in Table}

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def put(self, table: Table, key: bytes, value: bytes | None, ticket: int) -> None:
        """Sets a row (None = deleted) as of a commit."""
        self._tables[table][key] = (ticket, value)

    def find(self, table: Table, key: bytes) -> tuple[int, bytes | None] | None:
        """(ticket, value) of a row; None if LMDB knows best."""
        return self._tables[table].get(key)

    def moved(self, frames: Iterable[Frame]) -> None:
        """LMDB has these frames now."""
        for frame in frames:
            for table, key, _ in frame.rows:
                rows = self._tables[table]
                found = rows.get(key)
                if found is not None and found[0] <= frame.commit:
                    del rows[key]

    def over(self, table: Table, prefix: bytes, below: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """The rows of LMDB, ``below``, with ours laid over them, by key."""
        mine = self._tables[table]
        ours = sorted(key for key in mine if key.startswith(prefix))
        at = 0
        for key, value in below:
            while at < len(ours) and ours[at] < key:
                yield from self._row(mine, ours[at])
                at += 1
            if at < len(ours) and ours[at] == key:
                yield from self._row(mine, key)
                at += 1
            else:
                yield key, value
        for key in ours[at:]:
            yield from self._row(mine, key)

    @staticmethod
    def _row(mine: dict[bytes, tuple[int, bytes | None]], key: bytes) -> Iterator[tuple[bytes, bytes]]:
        value = mine[key][1]
        if value is not None:
            yield key, value

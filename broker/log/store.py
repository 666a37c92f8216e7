"""LMDB behind the journal: state rows, index, settled batches. Decides their format and which files may go.

All writing is on the mover thread, in transactions that also say how far the journal has been taken
over (``reached``); what they hold is in the journal too, so nothing here is the only copy of anything
unsynced. No read transaction outlives the call that made it: one left open makes the file grow for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, final

import lmdb

from dragoman.broker.log.contract import LogError, Table
from dragoman.broker.log.frames import Frame
from dragoman.broker.log.move import FREED_PER_MOVE, Move
from dragoman.broker.log.rows import (
    KEY,
    LANE,
    REACHED,
    SEGMENT,
    SETTLED_SPAN,
    SPAN,
    U64,
    Place,
    Reached,
    Span,
    item,
    place_row,
    seek,
)
from dragoman.broker.log.stored import Batch

STORE_NAME: Final = "state.lmdb"
STORE_VERSION: Final = 1

_ROWS_PER_READ: Final = 1_000
_RECORDS_PER_READ: Final = 64


@final
class Store:
    """One LMDB environment. ``move`` and what frees on the mover thread; reads from any thread."""

    def __init__(self, folder: Path, map_bytes: int) -> None:
        path = folder / STORE_NAME
        try:
            self.env = lmdb.Environment(
                str(path), map_size=map_bytes, subdir=False, max_dbs=len(Table) + 8, max_readers=32, writemap=False
            )
        except lmdb.Error as error:
            raise LogError(f"the state file {path} cannot be opened: {error}; restore a backup") from error
        self.meta_db = self.env.open_db(b"meta")
        self._check_version(path)
        self.lanes_db = self.env.open_db(b"lanes")
        self.batches_db = self.env.open_db(b"batches")
        self.settled_db = self.env.open_db(b"settled")
        self.spans_db = self.env.open_db(b"spans")
        self.segments_db = self.env.open_db(b"segments")
        self.tables_db = {table: self.env.open_db(b"table-%d" % table) for table in Table}
        self._freeing: set[int] = set()
        for number, (first, _, _, freed) in self.lanes():
            if freed < first:
                self._freeing.add(number)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def _check_version(self, path: Path) -> None:
        with self.env.begin(write=True, db=self.meta_db) as txn:
            row = txn.get(b"format")
            if row is None:
                txn.put(b"format", U64.pack(STORE_VERSION))
            elif U64.unpack(row)[0] > STORE_VERSION:
                version = U64.unpack(row)[0]
                self.env.close()
                raise LogError(
                    f"{path} has format {version}; this program knows up to {STORE_VERSION}: use a newer one"
                )

    # -- reading -----------------------------------------------------------------------------------

    def reached(self) -> Reached:
        """How far the journal has been taken over: segment (0 = not at all), offset, commit, next position."""
        with self.env.begin(db=self.meta_db) as txn:
            row = txn.get(b"reached")
        if row is None:
            return 0, 0, 0, 1
        segment, offset, commit, position = REACHED.unpack(row)
        return segment, offset, commit, position

    def get(self, table: Table, key: bytes) -> bytes | None:
        """A state row."""
        with self.env.begin(db=self.tables_db[table]) as txn:
            row: bytes | None = txn.get(key)
        return row

    def rows(self, table: Table, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """State rows by key, a bounded number a transaction, none of which is open while the caller has control."""
        start = prefix
        while True:
            found: list[tuple[bytes, bytes]] = []
            with self.env.begin(db=self.tables_db[table]) as txn, txn.cursor() as cursor:
                there = cursor.set_range(start) if start else cursor.first()
                while there and len(found) < _ROWS_PER_READ and cursor.key().startswith(prefix):
                    found.append(item(cursor))
                    there = cursor.next()
            yield from found
            if len(found) < _ROWS_PER_READ:
                return
            start = found[-1][0] + b"\x00"

    def lanes(self) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
        """Every channel: (first offset, after the last, weight, freed below). First ``EVERYTHING`` = forgotten."""
        start = b""
        while True:
            with self.env.begin(db=self.lanes_db) as txn, txn.cursor() as cursor:
                there = cursor.set_range(start) if start else cursor.first()
                found: list[tuple[bytes, bytes]] = []
                while there and len(found) < _ROWS_PER_READ:
                    found.append(item(cursor))
                    there = cursor.next()
            for key, row in found:
                yield U64.unpack(key)[0], LANE.unpack(row)
            if len(found) < _ROWS_PER_READ:
                return
            start = found[-1][0] + b"\x00"

    def places(self, number: int, offset: int, max_bytes: int) -> list[tuple[Place, bytes | None]]:
        """The batches of a channel from the one that covers ``offset`` on, settled ones with their record."""
        found: list[tuple[Place, bytes | None]] = []
        with self.env.begin() as txn, txn.cursor(db=self.batches_db) as cursor:
            there = seek(cursor, number, offset)
            while there and max_bytes > 0:
                key = cursor.key()
                place = Place(key, cursor.value())
                if place.number != number:
                    break
                record = txn.get(key, db=self.settled_db) if not place.segment else None
                found.append((place, record))
                max_bytes -= place.length
                there = cursor.next()
        return found

    def place_of_position(self, number: int, position: int) -> Place | None:
        """The first batch of a channel whose last position is not below ``position``: a binary search over offsets."""
        with self.env.begin() as txn, txn.cursor(db=self.batches_db) as cursor:
            lane = txn.get(U64.pack(number), db=self.lanes_db)
            if lane is None:
                return None
            low, high, _, _ = LANE.unpack(lane)
            best: Place | None = None
            while low < high:
                middle = (low + high) // 2
                if not seek(cursor, number, middle) or (place := Place(*item(cursor))).number != number:
                    high = middle
                elif place.last_position >= position:
                    best = place
                    high = min(middle, place.offset)
                else:
                    low = place.last_offset + 1
        return best

    def span(self, position: int) -> tuple[Span | None, int]:
        """The span that covers ``position`` or follows it, and the position after it (0 = it is the last one)."""
        with self.env.begin() as txn, txn.cursor(db=self.spans_db) as cursor:
            there = cursor.set_range(U64.pack(position + 1))
            there = cursor.prev() if there else cursor.last()
            if not there:
                there = cursor.first()
            if not there:
                return None, 0
            span = Span(U64.unpack_from(cursor.key())[0])
            there = cursor.set_range(U64.pack(span.first_position))
            while there and U64.unpack_from(cursor.key())[0] == span.first_position:
                key = cursor.key()
                if len(key) == U64.size:
                    span.segment, span.start, span.length = SPAN.unpack(cursor.value())
                else:
                    _, number, offset = SETTLED_SPAN.unpack(key)
                    row = txn.get(KEY.pack(number, offset), db=self.batches_db)
                    if row is not None:
                        span.places.append(Place(KEY.pack(number, offset), row))
                there = cursor.next()
            return span, U64.unpack_from(cursor.key())[0] if there else 0

    def wanted(self, frame: Frame) -> list[tuple[Place, Batch]]:
        """The batches of a journal frame that the index still names at their place there."""
        found: list[tuple[Place, Batch]] = []
        with self.env.begin(db=self.batches_db) as txn:
            for batch in frame.batches:
                key = KEY.pack(batch.number, batch.offset)
                row = txn.get(key)
                if row is not None:
                    place = Place(key, row)
                    if place.segment == frame.segment and place.start == batch.start:
                        found.append((place, batch))
        return found

    def settled(self, places: Iterable[Place]) -> list[tuple[Place, bytes]]:
        """The records of settled batches that are still there."""
        with self.env.begin(db=self.settled_db) as txn:
            found = [(place, txn.get(KEY.pack(place.number, place.offset))) for place in places]
        return [(place, record) for place, record in found if record is not None]

    def settled_records(self) -> Iterator[bytes]:
        """Every settled record, for checking. A bounded number a transaction."""
        start = b""
        while True:
            with self.env.begin(db=self.settled_db) as txn, txn.cursor() as cursor:
                there = cursor.set_range(start) if start else cursor.first()
                found: list[tuple[bytes, bytes]] = []
                while there and len(found) < _RECORDS_PER_READ:
                    found.append(item(cursor))
                    there = cursor.next()
            for _, record in found:
                yield record
            if len(found) < _RECORDS_PER_READ:
                return
            start = found[-1][0] + b"\x00"

    def used_bytes(self) -> int:
        """Bytes of pages in use; the file may be larger, its free pages are used again."""
        databases = [self.meta_db, self.lanes_db, self.batches_db, self.settled_db, self.spans_db, self.segments_db]
        pages = 0
        with self.env.begin() as txn:
            for database in (*databases, *self.tables_db.values()):
                found = txn.stat(database)
                pages += found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"]
        return int(pages) * int(self.env.stat()["psize"])

    def segments(self) -> dict[int, tuple[int, int, int]]:
        """The segments of which something was taken over: number to (bytes still wanted, first position, size)."""
        with self.env.begin(db=self.segments_db) as txn:
            return {U64.unpack(key)[0]: SEGMENT.unpack(row) for key, row in txn.cursor()}

    # -- writing, mover thread ---------------------------------------------------------------------

    def move(self, frames: Sequence[Frame], reached: Reached) -> bool:
        """Takes frames over in one transaction. Whether more is left to free: call again, with no frames if need be."""
        with self.env.begin(write=True) as txn:
            work = Move(self, txn)
            for frame in frames:
                work.take(frame)
            freeing = work.finish(self._freeing, reached)
        self._freeing = freeing
        return bool(freeing)

    def settle(self, spans: Sequence[int], gone: Sequence[Place], merged: Sequence[tuple[Batch, bytes]]) -> None:
        """Puts merged batches in the place of those in ``gone``, and one region in the place of the frames' spans."""
        with self.env.begin(write=True) as txn:
            for first_position in spans:
                txn.delete(U64.pack(first_position), db=self.spans_db)
            wanted: dict[int, int] = {}
            for place in gone:
                txn.delete(KEY.pack(place.number, place.offset), db=self.batches_db)
                wanted[place.segment] = wanted.get(place.segment, 0) - place.length
            for batch, record in merged:
                key = KEY.pack(batch.number, batch.offset)
                txn.put(key, place_row(batch, 0, spans[0], len(record)), db=self.batches_db)
                txn.put(key, record, db=self.settled_db)
                txn.put(SETTLED_SPAN.pack(spans[0], batch.number, batch.offset), b"", db=self.spans_db)
            for segment, change in wanted.items():
                self._want(txn, segment, change)

    def drop_segment(self, segment: int, first_position: int, end_position: int) -> None:
        """Forgets a segment of which nothing is wanted any more, and its frames' spans."""
        done = False
        while not done:
            with self.env.begin(write=True) as txn:
                done = self._drop_spans(txn, first_position, end_position)
                if done:
                    txn.delete(U64.pack(segment), db=self.segments_db)

    def _drop_spans(self, txn: lmdb.Transaction, first_position: int, end_position: int) -> bool:
        left = FREED_PER_MOVE
        with txn.cursor(db=self.spans_db) as cursor:
            there = cursor.set_range(U64.pack(first_position))
            while there and left and U64.unpack_from(cursor.key())[0] < end_position:
                left -= 1
                # A deleted entry leaves the cursor on the one after it.
                there = cursor.delete() and bool(cursor.key()) if len(cursor.key()) == U64.size else cursor.next()
        return left > 0

    def _want(self, txn: lmdb.Transaction, segment: int, change: int) -> None:
        key = U64.pack(segment)
        row = txn.get(key, db=self.segments_db)
        assert row is not None, f"segment {segment} is wanted but not known"
        wanted, first_position, size = SEGMENT.unpack(row)
        txn.put(key, SEGMENT.pack(wanted + change, first_position, size), db=self.segments_db)

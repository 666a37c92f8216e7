"""LMDB behind the journal: state rows, index, settled batches. Decides their format and which files may go.

All writing is on the mover thread, in transactions that also say how far the journal has been taken
over (``reached``); what they hold is in the journal too, so nothing here is the only copy of anything
unsynced. No read transaction outlives the call that made it: one left open makes the file grow for good.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, final

import lmdb

from dragoman.broker.log.contract import EVERYTHING, LogError, Table
from dragoman.broker.log.frames import Frame
from dragoman.broker.log.rows import (
    KEY,
    LANE,
    PLACE,
    REACHED,
    SEGMENT,
    SETTLED_SPAN,
    SPAN,
    U64,
    Place,
    Reached,
    Span,
    place_row,
)
from dragoman.broker.log.stored import Batch

STORE_NAME: Final = "state.lmdb"
STORE_VERSION: Final = 1

StoreError = lmdb.Error
"""What LMDB raises. A transaction that raised left nothing behind."""

FREED_PER_MOVE: Final = 20_000
"""Rows deleted in one transaction: some 30 ms of work, so that commits behind it do not wait for long."""
_ROWS_PER_READ: Final = 1_000
_RECORDS_PER_READ: Final = 64


@final
class Store:
    """One LMDB environment. ``move`` and what frees on the mover thread; reads from any thread.

    Opening raises ``LogError``, or ``StoreError`` for what the disk refused.
    """

    def __init__(self, folder: Path, map_bytes: int) -> None:
        path = folder / STORE_NAME
        try:
            self.env = lmdb.Environment(
                str(path), map_size=map_bytes, subdir=False, max_dbs=len(Table) + 8, max_readers=32, writemap=False
            )
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
            raise LogError(f"the state file {path} cannot be opened: {error}; restore a backup") from error
        except lmdb.Error as error:
            # Its address space is reserved as a whole, which a limit on virtual memory may forbid.
            if os.strerror(errno.ENOMEM) not in str(error):
                raise
            raise LogError(
                f"the state file {path} cannot be opened: {error}; lower log.map_bytes or raise `ulimit -v`"
            ) from error
        self._freeing: set[int] = set()
        whole = False
        try:
            self._open_tables(path)
            whole = True
        finally:
            if not whole:
                self.env.close()

    def _open_tables(self, path: Path) -> None:
        self.meta_db = self.env.open_db(b"meta")
        self._check_version(path)
        self.lanes_db = self.env.open_db(b"lanes")
        self.batches_db = self.env.open_db(b"batches")
        self.settled_db = self.env.open_db(b"settled")
        self.spans_db = self.env.open_db(b"spans")
        self.segments_db = self.env.open_db(b"segments")
        self.tables_db = {table: self.env.open_db(b"table-%d" % table) for table in Table}
        for number, (first, _, _, freed) in self.lanes():
            if freed < first:
                self._freeing.add(number)

    def copy_to(self, path: Path) -> None:
        """Writes a copy without free pages, as of now. Raises ``StoreError``."""
        self.env.copy(str(path), compact=True)

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
                    found.append(_item(cursor))
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
                    found.append(_item(cursor))
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
            there = _seek(cursor, number, offset)
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
                if not _seek(cursor, number, middle) or (place := Place(*_item(cursor))).number != number:
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
                    found.append(_item(cursor))
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
            work = _Move(self, txn)
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


@final
class _Move:
    """One background transaction being put together, so that each table is written once and in order."""

    def __init__(self, store: Store, txn: lmdb.Transaction) -> None:
        self._store = store
        self._txn = txn
        self._lanes: dict[int, list[int]] = {}
        self._segments: dict[int, list[int]] = {}
        self._batches: dict[bytes, bytes] = {}
        self._spans: list[tuple[bytes, bytes]] = []
        self._rows: dict[tuple[int, bytes], bytes | None] = {}
        self._released: set[int] = set()

    def take(self, frame: Frame) -> None:
        """Adds what a frame holds."""
        segment = self._segment(frame)
        segment[2] = max(segment[2], frame.start + frame.length)
        for batch in frame.batches:
            lane = self._lane(batch.number)
            if lane[0] == lane[1]:
                lane[3] = batch.offset if lane[3] == lane[0] else lane[3]
                lane[0] = batch.offset
            lane[1] = batch.last_offset + 1
            lane[2] += batch.weight
            segment[0] += batch.length
            key = KEY.pack(batch.number, batch.offset)
            self._batches[key] = place_row(batch, frame.segment, batch.start, batch.length)
        if frame.batches:
            span = SPAN.pack(frame.segment, frame.start, frame.length)
            self._spans.append((U64.pack(frame.first_position), span))
        for number, offset in frame.releases:
            lane = self._lane(number)
            lane[0] = max(lane[0], offset if offset >= EVERYTHING else min(offset, lane[1]))
            self._released.add(number)
        for table, key, value in frame.rows:
            self._rows[table, key] = value

    def finish(self, freeing: set[int], reached: Reached) -> set[int]:
        """Writes it all, frees a bounded piece of what is released, and says which channels have more to free."""
        store, txn = self._store, self._txn
        with txn.cursor(db=store.batches_db) as cursor:
            cursor.putmulti(sorted(self._batches.items()))
        with txn.cursor(db=store.spans_db) as cursor:
            cursor.putmulti(self._spans)
        self._put_rows()
        still = self._free(freeing | self._released)
        for number, lane in self._lanes.items():
            key = U64.pack(number)
            if lane[0] >= EVERYTHING and number not in still:
                txn.delete(key, db=store.lanes_db)
            else:
                txn.put(key, LANE.pack(*lane), db=store.lanes_db)
        for segment, row in self._segments.items():
            txn.put(U64.pack(segment), SEGMENT.pack(*row), db=store.segments_db)
        txn.put(b"reached", REACHED.pack(*reached), db=store.meta_db)
        return still

    def _put_rows(self) -> None:
        by_table: dict[int, list[tuple[bytes, bytes]]] = {}
        for (table, key), value in sorted(self._rows.items(), key=lambda item: item[0]):
            if value is None:
                self._txn.delete(key, db=self._store.tables_db[Table(table)])
            else:
                by_table.setdefault(table, []).append((key, value))
        for table, rows in by_table.items():
            with self._txn.cursor(db=self._store.tables_db[Table(table)]) as cursor:
                cursor.putmulti(rows)

    def _free(self, numbers: set[int]) -> set[int]:
        """Deletes index rows and settled batches below each channel's first offset, a bounded number in all."""
        left = FREED_PER_MOVE
        still: set[int] = set()
        with self._txn.cursor(db=self._store.batches_db) as cursor:
            for number in sorted(numbers):
                if left > 0:
                    left = self._free_lane(cursor, number, left)
                lane = self._lane(number)
                if lane[3] < lane[0]:
                    still.add(number)
        return still

    def _free_lane(self, cursor: lmdb.Cursor, number: int, left: int) -> int:
        lane = self._lane(number)
        first = lane[0]
        there = cursor.set_range(KEY.pack(number, 0))
        while there and left > 0:
            key, row = _item(cursor)
            place = Place(key, row)
            if place.number != number or place.offset >= first:
                break
            if place.last_offset >= first:
                self._free_part(cursor, lane, place, row)
                break
            lane[2] -= PLACE.unpack(row)[3]
            self._let_go(place, key)
            left -= 1
            there = cursor.delete() and bool(cursor.key())
        if left > 0:
            lane[3] = first
        return left

    def _free_part(self, cursor: lmdb.Cursor, lane: list[int], place: Place, row: bytes) -> None:
        """A batch of which only the end is wanted stays, but counts for what is left of it."""
        fields = list(PLACE.unpack(row))
        counted_from = max(place.offset, lane[3])
        kept = fields[3] * (place.last_offset + 1 - lane[0]) // (place.last_offset + 1 - counted_from)
        lane[2] -= fields[3] - kept
        fields[3] = kept
        cursor.put(cursor.key(), PLACE.pack(*fields))

    def _let_go(self, place: Place, key: bytes) -> None:
        if place.segment:
            self._segment_row(place.segment)[0] -= place.length
            return
        self._txn.delete(key, db=self._store.settled_db)
        self._txn.delete(SETTLED_SPAN.pack(place.start, place.number, place.offset), db=self._store.spans_db)

    def _lane(self, number: int) -> list[int]:
        lane = self._lanes.get(number)
        if lane is None:
            row = self._txn.get(U64.pack(number), db=self._store.lanes_db)
            lane = self._lanes[number] = [0, 0, 0, 0] if row is None else list(LANE.unpack(row))
        return lane

    def _segment(self, frame: Frame) -> list[int]:
        row = self._txn.get(U64.pack(frame.segment), db=self._store.segments_db)
        if row is None and frame.segment not in self._segments:
            self._segments[frame.segment] = [0, frame.first_position, 0]
        return self._segment_row(frame.segment)

    def _segment_row(self, segment: int) -> list[int]:
        found = self._segments.get(segment)
        if found is None:
            row = self._txn.get(U64.pack(segment), db=self._store.segments_db)
            assert row is not None, f"segment {segment} is wanted but not known"
            found = self._segments[segment] = list(SEGMENT.unpack(row))
        return found


def _seek(cursor: lmdb.Cursor, number: int, offset: int) -> bool:
    """Moves to the batch that covers ``offset``, or else to the first one after it."""
    key = KEY.pack(number, min(offset, EVERYTHING))
    there = bool(cursor.set_range(key))
    if there and cursor.key() == key:
        return True
    if cursor.prev() if there else cursor.last():
        place = Place(*_item(cursor))
        if place.number == number and place.last_offset >= offset:
            return True
        return bool(cursor.next())
    return bool(cursor.first())


def _item(cursor: lmdb.Cursor) -> tuple[bytes, bytes]:
    """Key and value; bytes, since no transaction here is opened with ``buffers``."""
    item: tuple[bytes, bytes] = cursor.item()  # type: ignore[assignment]  # the stubs allow for buffers
    return item

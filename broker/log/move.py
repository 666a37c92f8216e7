"""One background transaction: journal frames turned into rows of LMDB, and released rows freed."""

from __future__ import annotations

from typing import Final, Protocol, final

import lmdb

from dragoman.broker.log.contract import EVERYTHING, Table
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
    item,
    place_row,
)

FREED_PER_MOVE: Final = 20_000
"""Rows deleted in one transaction: some 30 ms of work, so that commits behind it do not wait for long."""


class _Databases(Protocol):
    """What of the store a move writes to."""

    batches_db: lmdb._Database
    spans_db: lmdb._Database
    lanes_db: lmdb._Database
    segments_db: lmdb._Database
    settled_db: lmdb._Database
    meta_db: lmdb._Database
    tables_db: dict[Table, lmdb._Database]


@final
class Move:
    """One background transaction being put together, so that each table is written once and in order."""

    def __init__(self, store: _Databases, txn: lmdb.Transaction) -> None:
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
            key, row = item(cursor)
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

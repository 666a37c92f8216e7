"""What the reader thread does: find older messages by the index, read and unpack them."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from typing import Final, final

from dragoman.broker.log.contract import LogError
from dragoman.broker.log.disk import Disk
from dragoman.broker.log.frames import FRAME_HEAD_BYTES, intact, unpack_frame
from dragoman.broker.log.journal import segment_name
from dragoman.broker.log.rows import Place, Span
from dragoman.broker.log.store import Store
from dragoman.broker.log.stored import FormatError, batch_at, unpack_batch
from dragoman.routing.message import Entry, end_of, position_after

logger = logging.getLogger(__name__)

_TRIES: Final = 5
_PLACE_MARGIN: Final = 64


@final
class Slice:
    """A stretch of the log as stored: records by channel, not yet unpacked."""

    __slots__ = ("after", "following", "records")

    def __init__(self, records: list[tuple[int, bytes]], following: int) -> None:
        self.records = records
        self.following = following
        """Where the next stretch begins; 0 = the index ends here, with the last message before ``after``."""
        self.after = 1 + max((batch_at(record, 0, len(record)).last_position for _, record in records), default=0)


@final
class ColdReader:
    """Reads what is no longer in memory. All calls on the reader thread.

    A segment may be settled and removed between looking a batch up and reading it; then the second look finds
    it in LMDB. What is damaged is skipped, logged and counted.
    """

    def __init__(self, store: Store, disk: Disk) -> None:
        self.damaged_batches = 0
        self._store = store
        self._disk = disk
        self._last: tuple[int, int, Slice] | None = None

    def channel(self, number: int, offset: int, max_bytes: int) -> list[Entry]:
        """A channel's messages from ``offset`` on, about ``max_bytes``; empty only if the index has none."""
        while True:
            last = offset - 1
            found: list[Entry] = []
            for place, record in self._records(number, offset, max_bytes):
                last = place.last_offset
                found += [message for message in self._unpack(record) if end_of(message) > offset]
            if found or last < offset:
                return found
            offset = last + 1

    def slice(self, position: int) -> Slice:
        """The stretch that covers ``position``, or the next one after it."""
        for _ in range(_TRIES):
            span, following = self._store.span(position)
            if span is None:
                return Slice([], 0)
            # The segment tells a frame from the settled region that may later begin at the same position.
            if self._last is not None and self._last[:2] == (span.first_position, span.segment):
                return self._last[2]
            try:
                found = Slice(self._load(span), following)
            except FileNotFoundError:
                continue
            if following:
                self._last = (span.first_position, span.segment, found)
            return found
        raise LogError("segments vanish faster than they can be read")

    def unpack(self, found: Slice, wanted: Container[int], position: int) -> list[Entry]:
        """The wanted messages of a slice from ``position`` on, in commit order."""
        messages = [
            message
            for number, record in found.records
            if number in wanted
            for message in self._unpack(record)
            if position_after(message) > position
        ]
        messages.sort(key=_position_of)
        return messages

    def channels(self, numbers: Sequence[int], position: int, end: int, max_bytes: int) -> tuple[list[Entry], int]:
        """Messages of a few channels below ``end`` in commit order, by each one's index, and up to where that is all.

        ``end`` is a position everything before which was in the index when the call was made: looking up one
        channel after another is not one snapshot.
        """
        messages: list[Entry] = []
        complete = end
        share = max(1, max_bytes // max(1, len(numbers)))
        for number in numbers:
            place = self._store.place_of_position(number, position)
            if place is None:
                continue
            lane: list[Entry] = []
            # If it was freed since, nothing of it is left below ``end``.
            last = end - 1
            for found, record in self._records(number, place.offset, share):
                last = found.last_position
                lane += [message for message in self._unpack(record) if position_after(message) > position]
            messages += lane
            complete = min(complete, last + 1)
        messages = [message for message in messages if message.position < complete]
        messages.sort(key=_position_of)
        return messages, complete

    def _records(self, number: int, offset: int, max_bytes: int) -> list[tuple[Place, bytes]]:
        for _ in range(_TRIES):
            try:
                return [
                    (place, record if record is not None else self._record(place))
                    for place, record in self._store.places(number, offset, max_bytes + _PLACE_MARGIN)
                ]
            except FileNotFoundError:
                continue
        raise LogError("segments vanish faster than they can be read")

    def _record(self, place: Place) -> bytes:
        return self._disk.read(segment_name(place.segment), place.start, place.length)

    def _load(self, span: Span) -> list[tuple[int, bytes]]:
        if not span.segment:
            return [(place.number, record) for place, record in self._store.settled(span.places)]
        content = self._disk.read(segment_name(span.segment), span.start, span.length)
        if len(content) < max(span.length, FRAME_HEAD_BYTES) or not intact(content):
            self._damaged(f"{segment_name(span.segment)} at byte {span.start}")
            return []
        frame = unpack_frame(content, span.segment, 0)
        return [(batch.number, content[batch.start : batch.start + batch.length]) for batch in frame.batches]

    def _unpack(self, record: bytes) -> Sequence[Entry]:
        try:
            batch_at(record, 0, len(record))
            return unpack_batch(record)
        except FormatError as error:
            self._damaged(str(error))
            return []

    def _damaged(self, what: str) -> None:
        self.damaged_batches += 1
        logger.error("stored messages are damaged and were skipped", extra={"what": what})


def _position_of(entry: Entry) -> int:
    return entry.position

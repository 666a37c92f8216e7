"""What the mover thread does: take the journal over into LMDB, settle old segments, remove spent ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final, final

from dragoman.broker.log.contract import LogError
from dragoman.broker.log.disk import Disk
from dragoman.broker.log.frames import SEGMENT_HEAD_BYTES, Frame
from dragoman.broker.log.journal import frames_of, head_of, segment_name, segments_in
from dragoman.broker.log.rows import Place, Reached
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.log.store import Store
from dragoman.broker.log.stored import KIND_NATIVE, Batch, merge

logger = logging.getLogger(__name__)

_VALUE_BYTES: Final = 48 * 1024
"""A settled value is closed once it holds this much. From 12 KB on LMDB wastes at most 3 % of it (measured); small
batches never make it grow beyond 64 KB, so reading one message never costs more than that."""
_SMALL_BYTES: Final = 16 * 1024
_FRAME_MARGIN: Final = 256


@final
class Moved:
    """What a step came to, for the loop's books."""

    __slots__ = ("more", "removed_bytes", "settled_bytes", "store_bytes")

    def __init__(self) -> None:
        self.more = False
        self.removed_bytes = 0
        self.settled_bytes = 0
        self.store_bytes = 0


@final
class Mover:
    """The store's only writer. All calls on the mover thread; each does a bounded piece of work."""

    def __init__(self, store: Store, disk: Disk, settings: LogSettings) -> None:
        self.keep_files = False
        """While a backup copies: nothing is removed or settled."""
        self.damaged: set[int] = set()
        self._store = store
        self._disk = disk
        self._settings = settings
        self._settling: _Settling | None = None

    def used_bytes(self) -> int:
        """Bytes LMDB uses."""
        return self._store.used_bytes()

    def step(self, frames: Sequence[Frame], reached: Reached, journal_bytes: int) -> Moved:
        """Takes ``frames`` over, then frees or settles one piece. ``more``: there is more to free or settle."""
        moved = Moved()
        moved.more = self._store.move(frames, reached)
        if not self.keep_files:
            spent = self._remove_spent(reached)
            moved.removed_bytes = spent
            moved.more = self._settle_some(reached, journal_bytes - spent, moved) or moved.more
        moved.store_bytes = self._store.used_bytes()
        return moved

    def _remove_spent(self, reached: Reached) -> int:
        """Removes segments before the one being moved of which nothing is wanted. First the index, then the file."""
        segments = self._store.segments()
        removed = 0
        for segment, size in segments_in(self._disk.names()).items():
            if segment >= reached[0]:
                break
            known = segments.get(segment)
            if known is not None:
                if known[0] > 0:
                    continue
                later = [row[1] for number, row in segments.items() if number > segment]
                self._store.drop_segment(segment, known[1], min(later, default=reached[3]))
                del segments[segment]
            if self._settling is not None and self._settling.segment == segment:
                self._settling = None
            self._disk.remove(segment_name(segment))
            removed += size
        return removed

    def _settle_some(self, reached: Reached, journal_bytes: int, moved: Moved) -> bool:
        if self._settling is None:
            segment = self._choose(reached, journal_bytes)
            if segment is None:
                return False
            self._settling = _Settling(self._store, self._disk, segment, self._settings.span_bytes)
        try:
            moved.settled_bytes = self._settling.step()
        except LogError as error:
            why = {"segment": self._settling.segment, "why": str(error)}
            logger.warning("a journal segment is damaged and was kept", extra=why)
            self.damaged.add(self._settling.segment)
            self._settling.done = True
        if self._settling.done:
            left = self._store.segments().get(self._settling.segment)
            if left is not None and left[0] > 0:
                self.damaged.add(self._settling.segment)
            self._settling = None
        return True

    def _choose(self, reached: Reached, journal_bytes: int) -> int | None:
        """The oldest full segment if the journal is too long, else one of which little is wanted."""
        full = {
            segment: row
            for segment, row in sorted(self._store.segments().items())
            if segment < reached[0] and segment not in self.damaged
        }
        if journal_bytes > self._settings.journal_bytes_max:
            return next(iter(full), None)
        for segment, (wanted, _, size) in full.items():
            if wanted * 100 < size * self._settings.settle_live_percent:
                return segment
        return None


@final
class _Settling:
    """One segment on its way into LMDB, a region a step. After a crash it begins anew; what is settled is skipped."""

    def __init__(self, store: Store, disk: Disk, segment: int, span_bytes: int) -> None:
        self.segment = segment
        self.done = False
        self._store = store
        self._span_bytes = span_bytes
        self._frames = self._read(disk)

    def step(self) -> int:
        """Settles one region; says how many bytes. Raises ``LogError`` if the segment is damaged."""
        spans: list[int] = []
        gone: list[Place] = []
        parts: dict[int, list[tuple[Batch, bytes]]] = {}
        size = 0
        while size < self._span_bytes:
            following = next(self._frames, None)
            if following is None:
                self.done = True
                break
            frame, content = following
            if frame.batches:
                spans.append(frame.first_position)
            size += _FRAME_MARGIN
            for place, batch in self._store.wanted(frame):
                at = batch.start - frame.start
                batch.weight = place.weight
                parts.setdefault(batch.number, []).append((batch, content[at : at + batch.length]))
                gone.append(place)
                size += batch.length
        if gone:
            self._store.settle(spans, gone, [merged for lane in parts.values() for merged in _merged(lane)])
        return size

    def _read(self, disk: Disk) -> Iterator[tuple[Frame, bytes]]:
        name = segment_name(self.segment)
        size = disk.names()[name]
        head = head_of(disk, self.segment, size)
        if head is None:
            raise LogError(f"{name} has lost its head")
        end = self._store.segments()[self.segment][2]
        yield from frames_of(disk, head, SEGMENT_HEAD_BYTES, end)


def _merged(parts: Sequence[tuple[Batch, bytes]]) -> Iterator[tuple[Batch, bytes]]:
    """A channel's batches, small native neighbours merged; what is large or not ours stays as it is."""
    run: list[tuple[Batch, bytes]] = []
    size = 0
    for batch, record in parts:
        if batch.kind != KIND_NATIVE or len(record) > _SMALL_BYTES:
            yield from _close(run)
            run, size = [], 0
            yield batch, record
            continue
        run.append((batch, record))
        size += len(record)
        if size >= _VALUE_BYTES:
            yield from _close(run)
            run, size = [], 0
    yield from _close(run)


def _close(run: Sequence[tuple[Batch, bytes]]) -> Iterator[tuple[Batch, bytes]]:
    if len(run) == 1:
        yield run[0]
    elif run:
        yield merge(run)

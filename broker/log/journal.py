"""The journal: append-only segment files of commit frames. Decides what is safe and what a failed write means.

The rules, each with the accident it is for:

- A commit is safe when its frame's fdatasync returned. Nothing is acknowledged before.
- A write that fails (no space) is cut back to the last good frame and the cut is flushed, so that what
  was refused cannot come back. The file goes on.
- A failed fdatasync is final: what the medium holds is unknown, and asking again may lie. That file is
  never written again; the next segment's head *seals* it at its last acknowledged frame.
- Once a next segment was attempted, the old one is not written again either: the attempt's head may
  already be on the medium and would cut off what came later.
- At start, a bad frame at the very end is torn: nobody was told about it. Intact frames after a bad one
  mean that acknowledged bytes have rotted: stop and say so.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Final, final

from dragoman.broker.log.contract import LogError
from dragoman.broker.log.disk import FULL, Disk
from dragoman.broker.log.frames import (
    FRAME_HEAD_BYTES,
    SALT_BYTES,
    SEGMENT_HEAD_BYTES,
    Frame,
    SegmentHead,
    frame_length,
    frame_marker,
    intact,
    pack_segment_head,
    unpack_frame,
    unpack_segment_head,
)
from dragoman.broker.log.stored import FormatError
from dragoman.routing.refusals import Reason, Refusal

_NAME: Final = re.compile(r"journal-(\d{10})")
_SEARCH_BYTES: Final = 4 * 1024 * 1024


def segment_name(segment: int) -> str:
    """The file name of a segment."""
    return f"journal-{segment:010d}"


def segments_in(names: dict[str, int]) -> dict[int, int]:
    """The segments among files and sizes: number to size, in order."""
    found = {int(match[1]): size for name, size in names.items() if (match := _NAME.fullmatch(name))}
    return dict(sorted(found.items()))


@final
class Journal:
    """The segment being written. All calls on the writer thread, after ``start``."""

    def __init__(self, disk: Disk, segment_bytes: int) -> None:
        self.disk = disk
        self.segment = 0
        self.salt = b""
        self.bytes = 0
        self.rolled = 0
        """Bytes of heads of segments made since the last look; for the budget."""
        self._segment_bytes = segment_bytes
        self._next = 1
        self._open = False

    def start(self, last: int, sealed_bytes: int, commit: int, position: int) -> None:
        """Begins a new segment behind ``last`` (0 = none). Raises ``OSError``."""
        self.segment, self.bytes = last, sealed_bytes
        self._next = max([last, *segments_in(self.disk.names())]) + 1
        self._roll(commit, position)

    def write(self, content: bytes, commit: int, position: int) -> tuple[int, int] | Refusal:
        """Makes one frame safe and says where it lies, (segment, offset); or why it is not in the journal.

        ``commit`` and ``position`` are those before this frame, for the head of a new segment. The
        frame must carry ``salt`` as it is after ``room_for``.
        """
        assert self._open, "room_for was not asked"
        name = segment_name(self.segment)
        try:
            _write_whole(self.disk, name, self.bytes, content)
        except OSError as error:
            self._cut_back(name, commit, position)
            return _refusal(error, "written")
        try:
            self.disk.flush(name)
        except OSError as error:
            self._give_up(commit, position)
            return _refusal(error, "flushed")
        at = self.bytes
        self.bytes += len(content)
        return self.segment, at

    def room_for(self, commit: int, position: int) -> Refusal | None:
        """Makes sure there is a segment to write to. Call before packing a frame."""
        if self._open and self.bytes < self._segment_bytes:
            return None
        try:
            self._roll(commit, position)
        except OSError as error:
            return _refusal(error, "opened")
        return None

    def close(self) -> None:
        """Closes the file."""
        self.disk.finish(segment_name(self.segment))

    def _cut_back(self, name: str, commit: int, position: int) -> None:
        try:
            self.disk.truncate(name, self.bytes)
            self.disk.flush(name)
        except OSError:
            self._give_up(commit, position)

    def _give_up(self, commit: int, position: int) -> None:
        """Leaves a file whose state on the medium is unknown. The refusal is firm once the seal is on the medium."""
        self._open = False
        try:
            self._roll(commit, position)
        except OSError:
            # The next commit tries again. Until then a crash could bring the refused frame back: a disk that
            # refuses both the flush and the seal leaves no way to take it out.
            return

    def _roll(self, commit: int, position: int) -> None:
        self._open = False
        before = self.segment
        segment = self._next
        self._next += 1
        name = segment_name(segment)
        head = SegmentHead(segment, os.urandom(SALT_BYTES), before, self.bytes if before else 0, commit, position)
        self.disk.create(name)
        try:
            _write_whole(self.disk, name, 0, pack_segment_head(head))
            self.disk.flush(name)
            self.disk.flush_folder()
        except OSError:
            self.disk.finish(name)
            raise
        if before:
            self.disk.finish(segment_name(before))
        self.segment, self.salt, self.bytes = segment, head.salt, SEGMENT_HEAD_BYTES
        self.rolled += SEGMENT_HEAD_BYTES
        self._open = True


def _write_whole(disk: Disk, name: str, offset: int, content: bytes) -> None:
    written = disk.write(name, offset, content)
    while written < len(content):
        more = disk.write(name, offset + written, content[written:])
        if not more:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += more


def _refusal(error: OSError, what: str) -> Refusal:
    text = f"the journal could not be {what}: {error.strerror or error}"
    if error.errno in FULL:
        return Refusal(Reason.STORAGE_FULL, f"{text}; free some space", retry_after_ms=1000)
    return Refusal(Reason.STORAGE_FAILED, f"{text}; look at the disk", retry_after_ms=1000)


@final
class Recovered:
    """The segments that belong to the journal, oldest first, and where each ends (the last one: once scanned)."""

    __slots__ = ("ends", "heads")

    def __init__(self) -> None:
        self.heads: list[SegmentHead] = []
        self.ends: dict[int, int] = {}


def find_segments(disk: Disk, reached: int) -> Recovered:
    """Follows the segments back from the newest to the one LMDB has ``reached``. Raises ``LogError``.

    Those not on the way are attempts that came to nothing, or older than what is looked for.
    """
    found = Recovered()
    sizes = {segment: size for segment, size in segments_in(disk.names()).items() if segment >= reached}
    heads = {segment: head_of(disk, segment, size) for segment, size in sizes.items()}
    whole = [segment for segment, head in heads.items() if head is not None]
    at = max(whole, default=0)
    while at in heads:
        head = heads[at]
        if head is None:
            raise LogError(f"{segment_name(at)} has lost its head; restore a backup of {disk.folder}")
        found.heads.append(head)
        found.ends.setdefault(at, sizes[at])
        found.ends[head.previous] = head.sealed_bytes
        at = head.previous
    found.heads.reverse()
    return found


def head_of(disk: Disk, segment: int, size: int) -> SegmentHead | None:
    """The head of a segment file of ``size`` bytes; None if it was never written whole. Raises ``LogError``."""
    try:
        head = unpack_segment_head(disk.read(segment_name(segment), 0, SEGMENT_HEAD_BYTES))
    except FormatError as error:
        raise LogError(f"{segment_name(segment)}: {error}") from error
    if head is None and size > SEGMENT_HEAD_BYTES:
        raise LogError(
            f"{segment_name(segment)} has a damaged head but {size} bytes behind it; restore a backup of {disk.folder}"
        )
    return head


def frames_of(disk: Disk, head: SegmentHead, start: int, end: int) -> Iterator[tuple[Frame, bytes]]:
    """The frames of a sealed stretch of a segment, with their bytes. Raises ``LogError`` unless all of it is intact."""
    at = start
    for frame, content in scan_frames(disk, head, start, end):
        yield frame, content
        at = frame.start + frame.length
    if at != end:
        raise LogError(
            f"{segment_name(head.segment)} is damaged at byte {at}, before acknowledged data that ends at {end}; "
            f"restore a backup of {disk.folder}"
        )


def scan_frames(disk: Disk, head: SegmentHead, start: int, end: int) -> Iterator[tuple[Frame, bytes]]:
    """The intact frames from ``start`` on, up to the first that is not."""
    name = segment_name(head.segment)
    at = start
    while at < end:
        length = frame_length(disk.read(name, at, FRAME_HEAD_BYTES), head.salt)
        if length is None or at + length > end:
            return
        content = disk.read(name, at, length)
        if len(content) < length or not intact(content):
            return
        try:
            yield unpack_frame(content, head.segment, at), content
        except FormatError as error:
            raise LogError(f"{name} at byte {at}: {error}") from error
        at += length


def refuse_rot(disk: Disk, head: SegmentHead, bad: int, size: int) -> None:
    """Raises ``LogError`` if an intact frame follows the bad one at ``bad``: then that one was acknowledged."""
    name = segment_name(head.segment)
    marker = frame_marker(head.salt)
    at = bad + 1
    while at < size:
        chunk = disk.read(name, at, _SEARCH_BYTES)
        hit = chunk.find(marker)
        if hit < 0:
            if len(chunk) < _SEARCH_BYTES:
                return
            at += len(chunk) - len(marker) + 1
            continue
        at += hit
        if next(scan_frames(disk, head, at, size), None) is not None:
            raise LogError(
                f"{name} is damaged at byte {bad}: intact commits follow at byte {at}, so acknowledged data was lost; "
                f"restore a backup of {disk.folder}"
            )
        at += 1

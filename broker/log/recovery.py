"""Opening a folder: whose it is, what is in it, and taking the journal's end over into LMDB."""

from __future__ import annotations

from typing import Final, final

from dragoman.broker.log.contract import EVERYTHING, LogError
from dragoman.broker.log.disk import LOCK_NAME, Disk, what_failed
from dragoman.broker.log.frames import SEGMENT_HEAD_BYTES, Frame, SegmentHead
from dragoman.broker.log.hot import HotTail, Lane
from dragoman.broker.log.journal import (
    Journal,
    Recovered,
    find_segments,
    frames_of,
    refuse_rot,
    scan_frames,
    segment_name,
    segments_in,
)
from dragoman.broker.log.rows import Reached
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.log.store import STORE_NAME, Store, StoreError

FORMAT_NAME: Final = "format"
FORMAT_VERSION: Final = 1
_FORMAT_PREFIX: Final = "dragoman log "


@final
class Opened:
    """A folder as recovered: everything it holds is in the store, and the journal is ready for what comes."""

    __slots__ = ("commit", "journal", "journal_bytes", "position", "replayed", "store")

    def __init__(self, store: Store, journal: Journal, reached: Reached, replayed: int) -> None:
        self.store = store
        self.journal = journal
        self.commit = reached[2]
        self.position = reached[3]
        self.replayed = replayed
        self.journal_bytes = sum(segments_in(journal.disk.names()).values())


def recover(disk: Disk, settings: LogSettings) -> Opened:
    """Claims the folder and recovers it.

    Raises ``LogError``; then the folder is given up again, and what was made in one that was empty is gone.
    """
    disk.lock()
    store: Store | None = None
    opened: Opened | None = None
    fresh = False
    try:
        fresh = not set(disk.names()) - {LOCK_NAME}
        claim(disk)
        store = Store(settings.folder, settings.map_bytes)
        opened = _recover(disk, settings, store)
    except (OSError, StoreError) as error:
        why = what_failed(error, disk.free_bytes())
        if fresh:
            raise LogError(f"the data folder {disk.folder} cannot be begun: {why}") from error
        raise LogError(f"the data folder {disk.folder} cannot be recovered now: {why}; nothing is lost") from error
    finally:
        if opened is None:
            if store is not None:
                store.close()
            if fresh:
                disk.unmake()
            disk.close()
    return opened


def claim(disk: Disk) -> None:
    """Makes sure the folder is ours and of a format we know; marks an empty one as ours."""
    names = disk.names()
    text = disk.read(FORMAT_NAME, 0, 64).decode("ascii", "replace") if names.get(FORMAT_NAME, 0) > 0 else ""
    whole = f"{_FORMAT_PREFIX}{FORMAT_VERSION}\n"
    strangers = sorted(set(names) - {LOCK_NAME, FORMAT_NAME})
    if text and (strangers or text == whole or not whole.startswith(text)):
        version = text.removeprefix(_FORMAT_PREFIX).strip()
        if version == text.strip() or not version.isdigit():
            raise LogError(f"{disk.folder} is not a data folder of ours: its file {FORMAT_NAME!r} says {text!r}")
        if int(version) > FORMAT_VERSION:
            raise LogError(
                f"the data folder {disk.folder} has format {version}; this program knows up to {FORMAT_VERSION}: "
                "use a newer one"
            )
        # It may have been written by a process that died before it could flush.
        disk.flush(FORMAT_NAME)
        disk.flush_folder()
        return
    if strangers:
        raise LogError(
            f"{disk.folder} is not empty and not a data folder of ours (it holds {strangers[0]!r}); "
            "choose an empty or new one"
        )
    if FORMAT_NAME in names:
        disk.remove(FORMAT_NAME)
    disk.create(FORMAT_NAME)
    disk.write(FORMAT_NAME, 0, whole.encode())
    disk.flush(FORMAT_NAME)
    disk.finish(FORMAT_NAME)
    disk.flush_folder()


def _recover(disk: Disk, settings: LogSettings, store: Store) -> Opened:
    reached = store.reached()
    found = find_segments(disk, reached[0])
    _check_chain(disk, found, reached)
    replay = _Replay(disk, settings, store, reached)
    for head in found.heads:
        if head.segment >= reached[0]:
            replay.segment(head, found.ends[head.segment], last=head is found.heads[-1])
    replay.move()
    _, end, commit, position = replay.reached
    last = found.heads[-1].segment if found.heads else 0
    journal = Journal(disk, settings.segment_bytes)
    journal.start(last, end, commit, position)
    here = (journal.segment, journal.bytes, commit, position)
    store.move((), here)
    return Opened(store, journal, here, replay.frames)


def _check_chain(disk: Disk, found: Recovered, reached: Reached) -> None:
    """The segments from the one LMDB has reached up to the newest must all be there."""
    if not found.heads:
        if reached[0]:
            raise LogError(f"{disk.folder} has lost its journal files; restore a backup")
        return
    oldest = found.heads[0]
    if reached[0] and all(head.segment != reached[0] for head in found.heads):
        raise LogError(f"{disk.folder} has lost {segment_name(reached[0])} or one after it; restore a backup")
    if not reached[0] and oldest.previous:
        raise LogError(
            f"{disk.folder} has a journal from {segment_name(oldest.segment)} on but no state that leads up to it "
            f"({STORE_NAME} is missing or new); restore a backup"
        )


@final
class _Replay:
    """Takes the journal from where LMDB is to its end, some frames a transaction."""

    def __init__(self, disk: Disk, settings: LogSettings, store: Store, reached: Reached) -> None:
        self.reached = reached
        self.frames = 0
        self._disk = disk
        self._store = store
        self._move_bytes = settings.move_bytes
        self._waiting: list[Frame] = []
        self._bytes = 0

    def segment(self, head: SegmentHead, end: int, *, last: bool) -> None:
        """Replays one segment up to ``end``; of the last one, up to its first frame that is not whole."""
        start = self.reached[1] if head.segment == self.reached[0] else SEGMENT_HEAD_BYTES
        if last:
            # What is read here may have been written but never flushed by a process that died; the next
            # segment's head is going to vouch for it.
            self._disk.flush(segment_name(head.segment))
        frames = scan_frames(self._disk, head, start, end) if last else frames_of(self._disk, head, start, end)
        if start > end:
            raise LogError(
                f"{segment_name(head.segment)} ends at byte {end}, but {start} were acknowledged; "
                f"restore a backup of {self._disk.folder}"
            )
        self.reached = (head.segment, start, self.reached[2], self.reached[3])
        for frame, _ in frames:
            self._take(frame)
        if last and self.reached[1] < end:
            refuse_rot(self._disk, head, self.reached[1], end)

    def move(self) -> None:
        """Writes what waits."""
        if self._waiting:
            self._store.move(self._waiting, self.reached)
            self._waiting = []
            self._bytes = 0

    def _take(self, frame: Frame) -> None:
        if frame.commit <= self.reached[2]:
            raise LogError(
                f"{segment_name(frame.segment)} at byte {frame.start} holds commit {frame.commit} after "
                f"{self.reached[2]}; restore a backup of {self._disk.folder}"
            )
        self.reached = (frame.segment, frame.start + frame.length, frame.commit, frame.end_position)
        self.frames += 1
        self._waiting.append(frame)
        self._bytes += frame.length
        if self._bytes >= self._move_bytes:
            self.move()


def load_lanes(store: Store, hot: HotTail) -> None:
    """Tells the loop about every channel the store knows."""
    for number, (first, after, weight, _) in store.lanes():
        if first < EVERYTHING:
            hot.lanes[number] = Lane(first, after, weight)

"""Backup, compacting and checking of a log's folder.

A backup is a folder like any other: open it, or put it in the place of the lost one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

from dragoman.broker.log.contract import LogError
from dragoman.broker.log.disk import LOCK_NAME, Disk, what_failed
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.frames import SEGMENT_HEAD_BYTES
from dragoman.broker.log.journal import head_of, scan_frames, segment_name, segments_in
from dragoman.broker.log.recovery import claim, recover
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.log.store import STORE_NAME, Store, StoreError
from dragoman.broker.log.stored import FormatError, unpack_batch
from dragoman.broker.log.worker import Outcome, Worker

_COPY_BYTES: Final = 4 * 1024 * 1024

_Job: TypeAlias = Callable[[], None]


async def backup(log: DiskLog, target: Path) -> None:
    """Copies a running log to an empty or new folder, as of some commit during the call. Commits go on meanwhile.

    LMDB is copied first and the journal after it, up to the last commit by then: so the copy's journal holds
    all that its LMDB knows. While it runs no segment is settled or removed. Raises ``LogError``.
    """
    loop = asyncio.get_running_loop()
    worker = Worker("log-backup", loop, threaded=log.settings.threads)
    try:
        async with log.files_kept() as store:
            with _copy_at(target) as copy:
                await _in(worker, lambda: _copy_store(store, copy))
                last, end = log.safe_end()
                await _in(worker, lambda: _copy_journal(log.disk, copy, last, end))
    finally:
        worker.stop()


def backup_folder(settings: LogSettings, target: Path) -> None:
    """Copies a log that is not running. Raises ``LogError``."""
    source = Disk(settings.folder)
    opened = recover(source, settings)
    try:
        with _copy_at(target) as copy:
            _copy_store(opened.store, copy)
            _copy_journal(source, copy, opened.journal.segment, opened.journal.bytes)
    finally:
        opened.journal.close()
        opened.store.close()
        source.close()


@contextmanager
def _copy_at(target: Path) -> Iterator[Disk]:
    """A new or empty folder for a copy, which is whole at the end or was never there. Raises ``LogError``."""
    copy = Disk(target)
    copy.lock()
    ours = whole = False
    try:
        strangers = sorted(set(copy.names()) - {LOCK_NAME})
        if strangers:
            raise LogError(f"{target} is not empty (it holds {strangers[0]!r}); choose a new folder for the backup")
        ours = True
        yield copy
        whole = True
    except (OSError, StoreError) as error:
        raise LogError(f"nothing was copied to {target}: {what_failed(error, copy.free_bytes())}") from error
    finally:
        if ours and not whole:
            copy.unmake()
        copy.close()


def compact(settings: LogSettings) -> tuple[int, int]:
    """Rewrites the LMDB file of a log that is not running without its free pages. Bytes before and after.

    Raises ``LogError``; then the file is as it was.
    """
    disk = Disk(settings.folder)
    opened = recover(disk, settings)
    new = STORE_NAME + ".new"
    try:
        if new in disk.names():
            disk.remove(new)
        before = disk.names()[STORE_NAME]
        try:
            opened.store.copy_to(settings.folder / new)
            disk.flush(new)
        except (OSError, StoreError) as error:
            why = what_failed(error, disk.free_bytes())
            with suppress(OSError):
                disk.remove(new)
            raise LogError(f"{disk.folder} was not compacted and is as it was: {why}") from error
        opened.store.close()
        disk.put_in_place(STORE_NAME, by=new)
        disk.flush_folder()
        return before, disk.names()[STORE_NAME]
    finally:
        opened.journal.close()
        opened.store.close()
        disk.close()


def verify(settings: LogSettings) -> list[str]:
    """Reads everything of a log that is not running; a sentence for each thing that is damaged."""
    disk = Disk(settings.folder)
    opened = recover(disk, settings)
    try:
        return [*_damaged_segments(disk, opened.store), *_damaged_settled(opened.store)]
    finally:
        opened.journal.close()
        opened.store.close()
        disk.close()


def _damaged_segments(disk: Disk, store: Store) -> list[str]:
    found: list[str] = []
    known = store.segments()
    for segment, size in segments_in(disk.names()).items():
        if segment not in known:
            continue
        try:
            head = head_of(disk, segment, size)
        except LogError as error:
            found.append(str(error))
            continue
        at = SEGMENT_HEAD_BYTES
        if head is not None:
            for frame, _ in scan_frames(disk, head, at, size):
                at = frame.start + frame.length
        if at < known[segment][2]:
            found.append(f"{segment_name(segment)} is damaged at byte {at}")
    return found


def _damaged_settled(store: Store) -> list[str]:
    found: list[str] = []
    for record in store.settled_records():
        try:
            unpack_batch(record)
        except FormatError as error:
            found.append(f"{STORE_NAME}: {error}")
    return found


def _copy_store(store: Store, copy: Disk) -> None:
    claim(copy)
    store.copy_to(copy.folder / STORE_NAME)
    copy.flush(STORE_NAME)


def _copy_journal(source: Disk, copy: Disk, last: int, end: int) -> None:
    for segment, size in segments_in(source.names()).items():
        if segment > last:
            break
        name = segment_name(segment)
        copy.create(name)
        stop = end if segment == last else size
        at = 0
        while at < stop:
            content = source.read(name, at, min(_COPY_BYTES, stop - at))
            if not content:
                raise LogError(f"{name} ends at byte {at}, but {stop} were expected")
            written = 0
            while written < len(content):
                written += copy.write(name, at + written, content[written:])
            at += len(content)
        copy.flush(name)
        copy.finish(name)
    copy.flush_folder()


async def _in(worker: Worker, job: _Job) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def report(outcome: Outcome[None]) -> None:
        if outcome.error is None:
            done.set_result(None)
        else:
            done.set_exception(outcome.error)

    worker.submit(job, report)
    await done

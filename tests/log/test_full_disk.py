"""A disk without room: what cannot begin, be recovered, copied or compacted says so, and leaves nothing half made."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import NoReturn

import lmdb
import pytest
from log_bench import Opened
from small_log import fill, play, settings_for

from dragoman.broker.log import upkeep
from dragoman.broker.log.contract import LogError
from dragoman.broker.log.disk import Disk
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.store import Store

CURE = "the disk is full: free some space there and do it again"


def no_room(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def short_write(*_: object, **__: object) -> NoReturn:
    """What LMDB makes of it."""
    raise lmdb.Error("mdb_txn_commit: Input/output error")


def refused(folder: Path) -> str:
    async def main() -> str:
        with pytest.raises(LogError) as caught:
            Opened(DiskLog(settings_for(folder)))
        return str(caught.value)

    return asyncio.run(main())


async def ten(opened: Opened, log: DiskLog) -> None:
    await fill(opened, range(1, 2), range(10))


async def ten_are_there(opened: Opened, log: DiskLog) -> None:
    assert [message.offset for message in await opened.all_of(1)] == list(range(10))


def test_a_lock_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        assert CURE in refused(folder)
        assert not folder.parent.exists()
        folder.mkdir(parents=True)
        assert CURE in refused(folder)
        assert os.listdir(folder) == []
    play(settings_for(folder), ten)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        assert CURE in refused(folder)
    # Had the descriptor leaked, its lock would say that somebody uses the folder.
    play(settings_for(folder), ten_are_there)


@pytest.mark.parametrize("what", ["write", "flush", "flush_folder"])
def test_a_folder_that_cannot_be_begun_is_not_there(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disk, what, no_room)
        sentence = refused(folder)
    assert "cannot be begun: No space left on device" in sentence
    assert CURE in sentence
    assert not folder.exists()
    play(settings_for(folder), ten)


@pytest.mark.parametrize("method", ["move", "_open_tables"])
def test_lmdb_without_room_at_the_start(tmp_path: Path, method: str) -> None:
    folder = tmp_path / "data"
    play(settings_for(folder), ten)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, method, short_write)
        assert "Input/output error; look at the disk" in refused(folder)
        patch.setattr(Disk, "free_bytes", lambda disk: 8192)
        sentence = refused(folder)
    assert "cannot be recovered now: mdb_txn_commit: Input/output error" in sentence
    assert CURE in sentence
    assert "nothing is lost" in sentence
    play(settings_for(folder), ten_are_there)


def test_an_existing_folder_without_room_says_what_to_do(tmp_path: Path) -> None:
    play(settings_for(tmp_path), ten)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disk, "write", no_room)
        assert CURE in refused(tmp_path)
        with pytest.raises(LogError, match=CURE):
            upkeep.compact(settings_for(tmp_path))
    play(settings_for(tmp_path), ten_are_there)


def test_compacting_without_room_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    play(settings_for(tmp_path), ten)

    def half(store: Store, path: Path) -> None:
        path.write_bytes(b"half")
        short_write()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "copy_to", half)
        patch.setattr(Disk, "free_bytes", lambda disk: 0)
        with pytest.raises(LogError, match=f"was not compacted and is as it was: .*{CURE}"):
            upkeep.compact(settings_for(tmp_path))
    assert not (tmp_path / "state.lmdb.new").exists()
    play(settings_for(tmp_path), ten_are_there)


@pytest.mark.parametrize("what", ["lock", "store", "journal"])
def test_a_backup_without_room_is_a_sentence_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    settings, copy = settings_for(tmp_path / "data"), tmp_path / "copies" / "one"

    def full(patch: pytest.MonkeyPatch) -> None:
        if what == "lock":
            patch.setattr(os, "pwrite", no_room)
        elif what == "store":
            patch.setattr(Store, "copy_to", lambda store, path: (path.write_bytes(b"half"), no_room()))
        else:
            write = Disk.write
            patch.setattr(
                Disk, "write", lambda disk, name, *rest: (no_room if "journal" in name else write)(disk, name, *rest)
            )

    async def scene(opened: Opened, log: DiskLog) -> None:
        await ten(opened, log)
        with pytest.MonkeyPatch.context() as patch:
            full(patch)
            with pytest.raises(LogError, match=CURE):
                await upkeep.backup(log, copy)
        assert not copy.parent.exists()
        await upkeep.backup(log, copy)

    play(settings, scene)
    play(settings_for(copy), ten_are_there)
    if what != "lock":  # the source needs its own
        again = tmp_path / "again"
        with pytest.MonkeyPatch.context() as patch:
            if what == "store":
                full(patch)
            else:
                patch.setattr(upkeep, "_copy_journal", no_room)
            with pytest.raises(LogError, match=CURE):
                upkeep.backup_folder(settings, again)
        assert not again.exists()


def test_a_backup_never_clears_a_folder_that_holds_something(tmp_path: Path) -> None:
    play(settings_for(tmp_path / "data"), ten)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "novel.txt").write_text("Call me Ishmael.")
    with pytest.raises(LogError, match=r"not empty \(it holds 'novel.txt'\)"):
        upkeep.backup_folder(settings_for(tmp_path / "data"), tmp_path / "mine")
    assert (tmp_path / "mine" / "novel.txt").read_text() == "Call me Ishmael."
    assert refused(tmp_path / "mine" / "novel.txt").endswith("novel.txt is a file, not a folder; name another")

"""The disk engine on a real folder: restart, settling, release, lock, formats, backup, compact."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from log_bench import FULL, Opened, bundled, facts, said
from small_log import fill, play, settings_for

from dragoman.broker.log import upkeep
from dragoman.broker.log.contract import EVERYTHING, LogError, Table
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.frames import pack_frame
from dragoman.broker.log.hot import HotTail, Lane
from dragoman.broker.log.store import Store
from dragoman.broker.log.stored import KIND_KAFKA, KIND_NATIVE, batch_at, unpack_batch
from dragoman.broker.log.weight import weight
from dragoman.routing.message import Entry, Message, end_of


def journal_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("journal"))


@pytest.mark.parametrize("kill", [False, True])
def test_everything_is_there_after_a_restart(tmp_path: Path, kill: bool) -> None:
    settings = settings_for(tmp_path)
    given: list[Message] = []

    async def write(opened: Opened, log: DiskLog) -> None:
        given.extend(await fill(opened, range(1, 4), range(30)))
        message = said(9, 17, None, envelope=FULL, sender="me")
        opened.append(message)
        given.append(message)
        opened.put(Table.CURSORS, b"c", b"17")
        opened.put(Table.CURSORS, b"gone", b"1")
        opened.put(Table.CURSORS, b"gone", None)
        log.release(1, 10)
        log.release(2, 30)
        log.release(3, EVERYTHING)
        await log.committed()

    async def look(opened: Opened, log: DiskLog) -> None:
        kept = [m for m in given if (m.number, m.offset) >= (1, 10) and m.number in (1, 9)]
        assert [facts(m) for m in await opened.all_in_order()] == [facts(m) for m in kept]
        assert (log.bounds(1), log.bounds(2), log.bounds(3), log.bounds(9)) == ((10, 30), (30, 30), (0, 0), (17, 18))
        assert sorted(log.channels()) == [1, 9]
        assert list(log.rows(Table.CURSORS)) == [(b"c", b"17")]
        assert log.end() == given[-1].position + 1

    play(settings, write, kill=kill)
    play(settings, look, kill=True)
    play(settings, look)


def test_a_killed_log_replays_only_what_lmdb_does_not_have(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)

    async def write(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 3), range(5))
        await log.idle()
        log._background.stop()
        await fill(opened, range(1, 3), range(5, 8))

    async def look(opened: Opened, log: DiskLog) -> None:
        assert log.statistics()["replayed_commits"] == 3
        assert len(await opened.all_of(2)) == 8

    play(settings, write, kill=True)
    play(settings, look)


def test_settling_merges_small_batches_and_removes_the_segments(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), journal_bytes_max=6000, hot_bytes=1, span_bytes=3000)
    given: list[Message] = []

    async def write(opened: Opened, log: DiskLog) -> None:
        given.extend(await fill(opened, range(1, 4), range(60)))
        await log.idle()
        assert len(journal_files(tmp_path)) <= 2
        assert log.statistics()["settled_bytes"] > 0
        settled = list(log._store.settled_records())
        assert 0 < len(settled) < 60, "one-record batches were merged"

    async def look(opened: Opened, log: DiskLog) -> None:
        assert [facts(m) for m in await opened.all_in_order()] == [facts(m) for m in given]
        assert [facts(m) for m in await opened.all_in_order(max_bytes=300)] == [facts(m) for m in given]
        some = await opened.all_in_order(50, 300, lambda number: number != 2, (1, 2, 3))
        assert [facts(m) for m in some] == [facts(m) for m in given if m.number != 2 and m.position >= 50]
        assert [facts(m) for m in await opened.all_of(2, 20)] == [
            facts(m) for m in given if m.number == 2 and m.offset >= 20
        ]

    play(settings, write)
    play(settings, look)


def test_released_messages_give_their_space_back(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), hot_bytes=1)

    async def scene(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 4), range(60))
        await log.idle()
        full = len(journal_files(tmp_path))
        used = log.bytes_used()
        for number in (1, 2, 3):
            log.release(number, 60)
        await log.idle()
        assert full > 5
        assert len(journal_files(tmp_path)) <= 2
        assert log.bytes_used() < used / 2
        span, _ = log._store.span(1)
        assert span is None or f"{span.segment:010d}" in journal_files(tmp_path)[0], "spans of removed segments stayed"
        assert sum(log.bytes_of(number) for number in (1, 2, 3)) == 0

    play(settings, scene)


def test_a_segment_of_which_little_is_wanted_is_settled_early(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), settle_live_percent=10, hot_bytes=1)

    async def scene(opened: Opened, log: DiskLog) -> None:
        mail = said(7, 0, b"unread for weeks")
        opened.append(mail)
        await fill(opened, range(1, 2), range(200))
        log.release(1, 200)
        await log.idle()
        assert len(journal_files(tmp_path)) <= 2
        assert [facts(m) for m in await opened.all_of(7)] == [facts(mail)]

    play(settings, scene)


def test_settled_messages_are_released_too(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), journal_bytes_max=0, hot_bytes=1)

    async def scene(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 3), range(40))
        await log.idle()
        log.release(1, 25)
        await log.idle()
        assert [m.offset for m in await opened.all_of(1)] == list(range(25, 40))
        weight_left = log.bytes_of(1)
        log.release(1, 40)
        log.release(2, EVERYTHING)
        await fill(opened, range(3, 4), range(40))
        log.release(3, 40)
        await log.idle()
        assert weight_left > 0
        assert list(log._store.settled_records()) == []
        assert await opened.all_in_order() == []

    play(settings, scene)


def test_the_weight_of_a_channel_survives_a_restart(tmp_path: Path) -> None:
    weights: list[int] = []

    async def write(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 2), range(10))
        await log.idle()
        log.release(1, 4)
        await log.idle()
        weights.append(log.bytes_of(1))

    async def look(opened: Opened, log: DiskLog) -> None:
        weights.append(log.bytes_of(1))

    play(settings_for(tmp_path), write)
    play(settings_for(tmp_path), look)
    assert weights[0] == weights[1] > 0


def told_to_another(folder: Path) -> str:
    """What another process hears when it wants the folder."""
    code = (
        "import sys; from pathlib import Path\n"
        "from dragoman.broker.log.disk import Disk\n"
        "from dragoman.broker.log.contract import LogError\n"
        "try: Disk(Path(sys.argv[1])).lock()\n"
        "except LogError as error: print(error)\n"
    )
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout


def test_a_second_process_is_told_who_uses_the_folder(tmp_path: Path) -> None:
    async def scene(opened: Opened, log: DiskLog) -> None:
        with pytest.raises(LogError, match=rf"is used by another process \(pid {os.getpid()}\)"):
            Opened(DiskLog(settings_for(tmp_path)))
        assert f"(pid {os.getpid()})" in told_to_another(tmp_path)

    play(settings_for(tmp_path), scene)
    play(settings_for(tmp_path), _nothing)


async def _nothing(opened: Opened, log: DiskLog) -> None:
    assert log.durable


def refused(folder: Path) -> str:
    """The sentence with which a folder is refused. It can be locked again afterwards."""

    async def main() -> str:
        with pytest.raises(LogError) as caught:
            Opened(DiskLog(settings_for(folder)))
        return str(caught.value)

    return asyncio.run(main())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "file is a file, not a folder" in refused(tmp_path / "file" / "log")


def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    assert "'holiday.jpg'" in refused(tmp_path)
    assert not (tmp_path / "state.lmdb").exists()
    (tmp_path / "format").write_bytes(b"something else\n")
    assert "not a data folder of ours" in refused(tmp_path)


def test_newer_formats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "format").write_bytes(b"dragoman log 2\n")
    assert "has format 2; this program knows up to 1: use a newer one" in refused(tmp_path)
    (tmp_path / "format").unlink()
    play(settings_for(tmp_path), _nothing)
    store = Store(tmp_path, 1 << 28)
    with store.env.begin(write=True, db=store.meta_db) as txn:
        txn.put(b"format", (7).to_bytes(8, "big"))
    store.close()
    assert "has format 7" in refused(tmp_path)


def test_a_hot_backup_is_a_log_as_of_some_commit(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path / "log"), hot_bytes=1, journal_bytes_max=6000)
    copied: list[int] = []

    async def scene(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 3), range(50))
        log.release(1, 20)
        saving = asyncio.ensure_future(upkeep.backup(log, tmp_path / "copy"))
        following = 50
        while not saving.done():
            await fill(opened, range(1, 3), range(following, following + 1))
            following += 1
        await saving
        copied.append(following)
        with pytest.raises(LogError, match="not empty"):
            await upkeep.backup(log, tmp_path / "copy")
        await fill(opened, range(1, 3), range(following, following + 3))

    async def look(opened: Opened, log: DiskLog) -> None:
        after = log.bounds(2)[1]
        assert 50 <= after <= copied[0]
        assert log.bounds(1) == (20, after)
        assert [m.offset for m in await opened.all_of(1)] == list(range(20, after))
        assert [m.offset for m in await opened.all_of(2)] == list(range(after))

    play(settings, scene)
    play(replace(settings, folder=tmp_path / "copy"), look)


def test_backup_and_compact_of_a_log_that_is_not_running(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path / "log"), journal_bytes_max=0, hot_bytes=1)

    async def write(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 3), range(100), 2000)
        await log.idle()
        log.release(1, 100)
        await log.idle()

    async def look(opened: Opened, log: DiskLog) -> None:
        assert log.bounds(1) == (100, 100)
        assert [m.offset for m in await opened.all_of(2)] == list(range(100))

    play(settings, write)
    before, after = upkeep.compact(settings)
    assert after < before
    play(settings, look)
    upkeep.backup_folder(settings, tmp_path / "copy")
    play(settings, look)
    play(replace(settings, folder=tmp_path / "copy"), look)
    assert upkeep.verify(settings) == []


def test_verify_names_what_is_damaged_and_reading_skips_it(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), hot_bytes=1)

    async def write(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 2), range(60))

    async def look(opened: Opened, log: DiskLog) -> None:
        assert [m.offset for m in await opened.all_of(1)] == [*range(3), *range(4, 60)]
        assert [m.offset for m in await opened.all_in_order()] == [*range(3), *range(4, 60)]
        assert log.statistics()["damaged_batches"] > 0

    play(settings, write)
    path = tmp_path / journal_files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[content.index(b"1/3 ")] ^= 1
    path.write_bytes(content)
    (problem,) = upkeep.verify(settings)
    assert path.name in problem
    play(settings, look)


def test_commits_wait_when_the_background_cannot_keep_up(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), hot_bytes=1000)

    async def scene(opened: Opened, log: DiskLog) -> None:
        await log.idle()
        log._background.busy = True
        for offset in range(20):
            opened.append(said(1, offset, b"x" * 500))
            for _ in range(5):
                await asyncio.sleep(0)
        assert log.statistics()["unmoved_bytes"] < 2000
        assert log.uncommitted_bytes() > 16 * 500
        assert len(await opened.all_of(1)) == log.bounds(1)[1] == 2
        log._background.busy = False
        log._background.hurry()
        await log.idle()
        assert len(await opened.all_of(1)) == 20

    play(settings, scene)


def test_a_row_put_again_while_the_first_is_moved_is_not_forgotten(tmp_path: Path) -> None:
    async def scene(opened: Opened, log: DiskLog) -> None:
        await log.idle()
        opened.put(Table.CURSORS, b"k", b"1")
        await log.committed()
        log._background.hurry()
        opened.put(Table.CURSORS, b"k", b"2")
        for _ in range(10):
            assert log.get(Table.CURSORS, b"k") == b"2"
            await asyncio.sleep(0)

    play(settings_for(tmp_path), scene)


def test_what_lmdb_does_not_have_stays_in_memory(tmp_path: Path) -> None:
    hot = HotTail(1, 1)
    for commit in (1, 2):
        message = said(1, commit)
        message.position = commit
        hot.lanes.setdefault(1, Lane()).appended = commit + 1
        frame, _ = pack_frame(b"12345678", commit, commit, {1: [message]}, [], [])
        hot.commit(frame, [message], {1: [message]})
    hot.moved(1)
    assert hot.read(1, 1, 100) is None
    assert [m.offset for m in hot.read(1, 2, 100) or ()] == [2]
    hot.moved(2)
    assert hot.read(1, 2, 100) is None


def test_a_batch_released_in_part_counts_for_the_rest_even_when_settled(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), hot_bytes=1, journal_bytes_max=0)
    each = weight(said(1, 0, b"x" * 100))

    async def scene(opened: Opened, log: DiskLog) -> None:
        for offset in range(10):
            opened.append(said(1, offset, b"x" * 100))
        await log.idle()
        log.release(1, 4)
        await fill(opened, range(2, 3), range(60))
        await log.idle()
        assert len(list(log._store.settled_records())) > 0
        log.release(1, 7)
        await log.idle()
        assert dict(log._store.lanes())[1][2] == 3 * each
        log.release(1, 10)
        await log.idle()
        assert dict(log._store.lanes())[1][2] == 0

    play(settings, scene)


def test_settling_merges_messages_around_bundles_and_leaves_those_as_they_are(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), segment_bytes=1 << 20, hot_bytes=1)
    given: list[Entry] = []

    async def write(opened: Opened, log: DiskLog) -> None:
        offset = 0
        for turn in range(40):
            entry: Entry = said(1, offset, b"m%d" % turn)
            if turn % 8 == 4:
                entry = bundled(1, offset, 3, b"\xdd%d" % turn * 200, sender="me")
            offset = end_of(entry)
            opened.append(entry)
            given.append(entry)
            await log.committed()

    async def settle(opened: Opened, log: DiskLog) -> None:
        log._background.mover._settings = replace(settings, journal_bytes_max=0)
        log._background.more = True
        await log.idle()
        heads = [batch_at(record, 0, len(record)) for record in log._store.settled_records()]
        kinds = [(head.kind, head.count) for head in heads]
        assert kinds == [(KIND_NATIVE, 4), *[(KIND_KAFKA, 3), (KIND_NATIVE, 7)] * 4, (KIND_KAFKA, 3), (KIND_NATIVE, 3)]
        assert [facts(entry) for entry in await opened.all_of(1, 0, 100)] == [facts(entry) for entry in given]
        assert [facts(entry) for entry in await opened.all_in_order(1, 100)] == [facts(entry) for entry in given]
        log.release(1, 5)

    async def look(opened: Opened, log: DiskLog) -> None:
        await log.idle()
        assert log.bounds(1)[0] == 5
        assert [facts(entry) for entry in await opened.all_of(1)] == [facts(entry) for entry in given[4:]]
        first = next(log._store.settled_records())
        assert [facts(entry) for entry in unpack_batch(first)] == [facts(given[4])]
        log.release(1, 7)
        await log.idle()
        assert unpack_batch(next(log._store.settled_records()))[0].offset == 7

    play(settings, write)
    play(settings, settle)
    play(settings, look)
    upkeep.compact(settings)
    upkeep.backup_folder(settings, tmp_path / "copy")
    assert upkeep.verify(replace(settings, folder=tmp_path / "copy")) == []


def test_a_frame_read_before_it_was_settled_is_not_taken_for_its_region(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), hot_bytes=1, journal_bytes_max=8000)

    async def scene(opened: Opened, log: DiskLog) -> None:
        given = await fill(opened, range(1, 3), range(10))
        await log.idle()
        first, following = await opened.scan(1)
        assert [m.position for m in first] == [1, 2]
        given += await fill(opened, range(1, 3), range(10, 60))
        await log.idle()
        assert log.statistics()["settled_bytes"] > 0
        assert [facts(m) for m in await opened.all_in_order(following)] == [facts(m) for m in given[2:]]

    play(settings, scene)


def test_nothing_is_removed_while_a_backup_runs(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path), hot_bytes=1)

    async def scene(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 3), range(60))
        await log.idle()
        files = journal_files(tmp_path)
        async with log.files_kept():
            for number in (1, 2):
                log.release(number, 60)
            await log.idle()
            assert set(files) <= set(journal_files(tmp_path))
        await fill(opened, range(1, 2), range(60, 61))
        await log.idle()
        assert len(journal_files(tmp_path)) <= 2 < len(files)

    play(settings, scene)


def test_large_releases_are_freed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.broker.log.store.FREED_PER_MOVE", 7)
    settings = replace(settings_for(tmp_path), hot_bytes=1)

    async def write(opened: Opened, log: DiskLog) -> None:
        await fill(opened, range(1, 4), range(30))
        await log.idle()
        log.release(1, 30)
        log.release(2, EVERYTHING)
        await log.committed()

    async def look(opened: Opened, log: DiskLog) -> None:
        await log.idle()
        assert [m.number for m in await opened.all_in_order()] == [3] * 30
        assert log._store.places(1, 0, 1 << 20) == []
        assert log._store.places(2, 0, 1 << 20) == []

    play(settings, write, kill=True)
    play(settings, look)


def test_rows_are_read_in_pieces_and_under_the_overlay(tmp_path: Path) -> None:
    async def scene(opened: Opened, log: DiskLog) -> None:
        for index in range(2500):
            opened.put(Table.CURSORS, b"k%05d" % index, b"%d" % index)
        await log.idle()
        log._background.stop()
        opened.put(Table.CURSORS, b"k01000", None)
        opened.put(Table.CURSORS, b"k01000a", b"new")
        opened.put(Table.CURSORS, b"k09999", b"last")
        keys = [key for key, _ in log.rows(Table.CURSORS, b"k")]
        assert keys == sorted([*(b"k%05d" % i for i in range(2500) if i != 1000), b"k01000a", b"k09999"])

    play(settings_for(tmp_path), scene, kill=True)

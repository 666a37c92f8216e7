"""Faults: the power goes at every call, every call fails once, the last frame is torn at every byte.

After each, the log is opened again and compared with what it had acknowledged.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_disk import FaultDisk, Medium, PowerCut
from log_bench import FULL, Opened, bundled, facts, said

from dragoman.broker.clock import ManualClock
from dragoman.broker.log.contract import LogError, Table
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from dragoman.routing.message import Bundle, Entry, end_of
from dragoman.routing.refusals import Reason, Refusal


def settings_for(folder: Path) -> LogSettings:
    """Tiny bounds, so that a few commits roll, settle and remove segments."""
    return LogSettings(
        folder=folder,
        budget_bytes=1 << 26,
        headroom_bytes=0,
        reserve_free_bytes=0,
        segment_bytes=700,
        journal_bytes_max=1500,
        span_bytes=500,
        hot_bytes=600,
        move_interval_ms=0,
        retry_ms=0,
        map_bytes=1 << 28,
        threads=False,
    )


class Played:
    """A run: what was said, and what the log answered."""

    def __init__(self) -> None:
        self.said: dict[int, list[Entry]] = {}
        self.put: list[tuple[int, bytes, bytes | None]] = []
        self.released: dict[int, int] = {}
        self.safe_released: dict[int, int] = {}
        self.committed = 0
        self.refused: set[int] = set()

    def on_commit(self, ticket: int) -> None:
        self.committed = ticket
        self.safe_released = dict(self.released)

    def on_refused(self, ticket: int, why: Refusal) -> None:
        assert why.detail
        assert ticket > self.committed
        self.refused.add(ticket)

    def acknowledged(self) -> list[Entry]:
        return [
            message
            for ticket, messages in self.said.items()
            if ticket <= self.committed and ticket not in self.refused
            for message in messages
        ]

    def unanswered(self) -> dict[int, list[Entry]]:
        return {t: messages for t, messages in self.said.items() if t > self.committed and t not in self.refused}


async def play(log: DiskLog, played: Played, disk: FaultDisk) -> None:
    """A dozen turns of everything the log does."""

    def on_commit(ticket: int) -> None:
        if not disk.dead:
            played.on_commit(ticket)

    def on_refused(ticket: int, why: Refusal) -> None:
        if not disk.dead:
            played.on_refused(ticket, why)

    log.open(on_commit, on_refused)
    for turn in range(12):
        following = {number: log.bounds(number)[1] for number in (1, 2, 3)}
        for number in (1, 2, 3)[: 1 + turn % 3]:
            for _ in range(1 + turn % 2):
                offset = following[number]
                message: Entry = said(number, offset, b"%d" % turn * 40, envelope=FULL if turn == 3 else None)
                if (turn + number) % 4 == 1:
                    message = bundled(number, offset, 2 + turn % 2, b"%d" % turn * 60)
                ticket = log.append(message)
                if not isinstance(ticket, Refusal):
                    following[number] = end_of(message)
                    played.said.setdefault(ticket, []).append(message)
        for key, value in ((b"a", b"%d" % turn), (b"b%d" % (turn % 4), None if turn % 5 == 4 else b"v%d" % turn)):
            played.put.append((log.put(Table.SESSIONS, key, value), key, value))
        if turn in (5, 8):
            offset = log.bounds(1)[1] - 2
            log.release(1, offset)
            played.released[1] = max(offset, played.released.get(1, 0))
        await log.committed()
        if turn % 4 == 3:
            await log.idle()
        if disk.dead:
            return


async def check(log: DiskLog, played: Played) -> None:
    """Everything acknowledged is there, nothing refused is, order is kept, rows are as last known."""
    opened = Opened(log)
    found = {number: await opened.all_of(number) for number in (1, 2, 3)}
    assert [m.position for m in await opened.all_in_order()] == sorted(m.position for ms in found.values() for m in ms)
    acknowledged = played.acknowledged()
    unanswered = played.unanswered()
    possible = {facts(m) for m in acknowledged} | {facts(m) for ms in unanswered.values() for m in ms}
    for number, messages in found.items():
        assert [m.offset for m in messages] == sorted({m.offset for m in messages})
        there = {facts(m) for m in messages}
        assert there <= possible, "something is there that was refused or never said"
        assert all(end_of(m) > played.safe_released.get(number, 0) for m in messages)
        for message in acknowledged:
            if message.number == number and end_of(message) > played.released.get(number, 0):
                assert facts(message) in there, f"acknowledged and lost: {message.number:x}-{message.offset}"
    everything = {facts(m) for messages in found.values() for m in messages}
    for messages in unanswered.values():
        kept = [m for m in messages if end_of(m) > played.released.get(m.number, 0)]
        assert len({facts(m) in everything for m in kept}) <= 1, "half a commit"
    _check_rows(log, played)


def _check_rows(log: DiskLog, played: Played) -> None:
    for key in {key for _, key, _ in played.put}:
        sure = [value for ticket, k, value in played.put if k == key and ticket <= played.committed]
        later = [value for ticket, k, value in played.put if k == key and ticket > played.committed]
        assert log.get(Table.SESSIONS, key) in {sure[-1] if sure else None, *later}


def run(folder: Path, medium: Medium, disk: FaultDisk, after: Callable[[Medium], None]) -> Played:
    """Plays, crashes, opens again, compares; then goes on, and opens once more."""
    settings = settings_for(folder)
    played = Played()

    async def first() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        log = DiskLog(settings, ManualClock(), disk)
        try:
            await play(log, played, disk)
        except (PowerCut, LogError):
            assert disk.dead or disk.log
        finally:
            log.halt()

    async def second() -> None:
        log = DiskLog(settings, ManualClock(), FaultDisk(folder, medium))
        await check(log, played)
        before = [facts(message) for message in await Opened.of(log).all_in_order()]
        opened = {number: log.bounds(number)[1] for number in (1, 2, 3)}
        for number, offset in opened.items():
            assert not isinstance(log.append(said(number, offset, b"after")), Refusal)
        await log.committed()
        log.halt()
        medium.lose()
        log = DiskLog(settings, ManualClock(), FaultDisk(folder, medium))
        again = Opened(log)
        assert [facts(message) for message in await again.all_in_order()][: len(before)] == before
        for number, offset in opened.items():
            assert (await again.all_of(number, offset))[0].payload == b"after"
        await log.close()

    asyncio.run(first())
    after(medium)
    asyncio.run(second())
    return played


def count_calls(folder: Path) -> FaultDisk:
    medium = Medium()
    disk = FaultDisk(folder, medium)
    played = run(folder, medium, disk, Medium.kill)
    assert len(played.acknowledged()) == sum(map(len, played.said.values()))
    assert not played.refused
    return disk


@pytest.mark.slow
@pytest.mark.parametrize("after", [Medium.lose, Medium.kill, lambda medium: medium.tear(77)])
def test_the_power_goes_at_every_call(tmp_path: Path, after: Callable[[Medium], None]) -> None:
    whole = count_calls(tmp_path / "whole")
    assert any(call.startswith("remove journal") for call in whole.log), "nothing was settled"
    for call in range(1, whole.calls + 1):
        medium = Medium()
        run(tmp_path / f"cut{call}", medium, FaultDisk(tmp_path / f"cut{call}", medium, cut_at=call), after)


@pytest.mark.slow
@pytest.mark.parametrize("after", [Medium.lose, Medium.kill])
@pytest.mark.parametrize(("code", "part"), [(errno.EIO, 0), (errno.EIO, 1), (errno.ENOSPC, 0.5)])
def test_every_call_fails_once(tmp_path: Path, code: int, part: float, after: Callable[[Medium], None]) -> None:
    whole = count_calls(tmp_path / "whole")
    for call in range(1, whole.calls + 1):
        medium = Medium()
        folder = tmp_path / f"fail{call}"
        run(folder, medium, FaultDisk(folder, medium, fail_at=call, code=code, part=part), after)


def commit_one(folder: Path, disk: FaultDisk, message: Entry) -> None:
    """Opens, commits one message so that only the journal has it, and stops."""

    async def main() -> None:
        log = Opened(log := DiskLog(settings_for(folder), ManualClock(), disk)).log
        assert isinstance(log, DiskLog)
        await log.idle()
        assert not isinstance(log.append(message), Refusal)
        await log.committed()
        log.halt()

    asyncio.run(main())


def read_all(folder: Path, medium: Medium) -> list[tuple[int, int, bytes | None]]:
    """Opens, reads everything in commit order, stops."""

    async def main() -> list[tuple[int, int, bytes | None]]:
        log = DiskLog(settings_for(folder), ManualClock(), FaultDisk(folder, medium))
        opened = Opened(log)
        found = [
            (m.number, m.offset, m.body if isinstance(m, Bundle) else m.payload) for m in await opened.all_in_order()
        ]
        await log.close()
        return found

    return asyncio.run(main())


def copy_of(medium: Medium) -> Medium:
    other = Medium()
    for name, file in medium.seen.items():
        kept = type(file)()
        kept.seen, kept.safe = bytearray(file.seen), bytearray(file.safe)
        other.seen[name] = other.safe[name] = kept
    return other


def last_segment(medium: Medium) -> str:
    return max(name for name in medium.seen if name.startswith("journal"))


def test_the_last_frame_torn_at_every_byte_is_cut_off(tmp_path: Path) -> None:
    medium = Medium()
    disk = FaultDisk(tmp_path, medium)
    commit_one(tmp_path, disk, said(1, 0, b"first"))
    at = len(medium.seen[last_segment(medium)].seen)

    async def second() -> None:
        opened = Opened(DiskLog(settings_for(tmp_path), ManualClock(), FaultDisk(tmp_path, medium)))
        opened.append(said(1, 1, b"second"))
        opened.append(bundled(1, 2, 3, b"bundle", sender="me"))
        opened.append(said(1, 5, b"last"))
        await opened.log.committed()  # type: ignore[attr-defined]
        opened.log.halt()  # type: ignore[attr-defined]

    # The state file of this moment: as after the first commit, which recovery has moved.
    asyncio.run(second())
    name = last_segment(medium)
    whole = bytes(medium.seen[name].seen)
    assert at > 64
    state = (tmp_path / "state.lmdb").read_bytes()
    for size in range(64, len(whole)):
        (tmp_path / "state.lmdb").write_bytes(state)
        torn = copy_of(medium)
        torn.seen[name].seen = bytearray(whole[:size])
        assert read_all(tmp_path, torn) == [(1, 0, b"first")], size
    (tmp_path / "state.lmdb").write_bytes(state)
    whole_commit = [(1, 1, b"second"), (1, 2, b"bundle"), (1, 5, b"last")]
    assert read_all(tmp_path, copy_of(medium)) == [(1, 0, b"first"), *whole_commit]


def rotten(tmp_path: Path, change: Callable[[bytearray], None]) -> None:
    """Three unmoved commits in one segment, then a change to the file; opens again."""
    medium = Medium()

    async def main() -> None:
        settings = settings_for(tmp_path)
        log = DiskLog(settings, ManualClock(), FaultDisk(tmp_path, medium))
        opened = Opened(log)
        log._background.stop()
        for offset in range(3):
            opened.append(said(1, offset, b"commit %d" % offset))
            await log.committed()
        log.halt()

    asyncio.run(main())
    change(medium.seen[last_segment(medium)].seen)
    read_all(tmp_path, medium)


def test_rot_before_intact_frames_is_reported_not_cut_off(tmp_path: Path) -> None:
    def flip(content: bytearray) -> None:
        at = content.index(b"commit 1")
        content[at] ^= 1

    with pytest.raises(LogError, match=r"intact commits follow.*restore a backup"):
        rotten(tmp_path, flip)


def test_a_rotten_length_is_found_out_too(tmp_path: Path) -> None:
    def flip(content: bytearray) -> None:
        content[64 + 13] ^= 0x40

    with pytest.raises(LogError, match="intact commits follow"):
        rotten(tmp_path, flip)


def test_a_payload_that_looks_like_a_frame_is_not_taken_for_one(tmp_path: Path) -> None:
    medium = Medium()
    commit_one(tmp_path, FaultDisk(tmp_path, medium), said(1, 0, b"whole"))
    frame = bytes(medium.seen[last_segment(medium)].seen[64:])
    other = tmp_path / "other"
    victim = Medium()
    commit_one(other, FaultDisk(other, victim), said(1, 0, frame + b"the end"))
    content = victim.seen[last_segment(victim)].seen
    content[-1] ^= 1
    assert read_all(other, victim) == []


def test_a_damaged_head_with_commits_behind_it_is_reported(tmp_path: Path) -> None:
    def flip(content: bytearray) -> None:
        content[20] ^= 1

    with pytest.raises(LogError, match="damaged head"):
        rotten(tmp_path, flip)


def test_a_newer_segment_format_is_refused(tmp_path: Path) -> None:
    from dragoman.broker.log import frames

    head = frames.SegmentHead(1, b"12345678", 0, 0, 0, 1)
    packed = bytearray(frames.pack_segment_head(head))
    packed[8] = 9
    packed[-4:] = frames._CRC.pack(frames.crc32c(bytes(packed[:-4])))
    medium = Medium()
    commit_one(tmp_path, FaultDisk(tmp_path, medium), said(1, 0))
    name = last_segment(medium)
    medium.seen[name].seen[:64] = packed
    with pytest.raises(LogError, match=r"journal format 9.*newer"):
        read_all(tmp_path, medium)


def test_without_state_file_the_journal_alone_is_enough_as_long_as_it_is_whole(tmp_path: Path) -> None:
    medium = Medium()
    commit_one(tmp_path, FaultDisk(tmp_path, medium), said(1, 0, b"first"))
    (tmp_path / "state.lmdb").unlink()
    assert read_all(tmp_path, medium) == [(1, 0, b"first")]


def test_without_state_file_a_journal_that_begins_later_is_refused(tmp_path: Path) -> None:
    medium = Medium()
    commit_one(tmp_path, FaultDisk(tmp_path, medium), said(1, 0, b"first"))
    read_all(tmp_path, medium)
    del medium.seen[min(name for name in medium.seen if name.startswith("journal"))]
    (tmp_path / "state.lmdb").unlink()
    with pytest.raises(LogError, match=r"state\.lmdb is missing"):
        read_all(tmp_path, medium)


def test_lost_journal_files_are_reported(tmp_path: Path) -> None:
    medium = Medium()
    commit_one(tmp_path, FaultDisk(tmp_path, medium), said(1, 0, b"first"))
    for name in [name for name in medium.seen if name.startswith("journal")]:
        del medium.seen[name]
    with pytest.raises(LogError, match="lost its journal"):
        read_all(tmp_path, medium)


def test_a_failed_flush_seals_the_file_and_the_log_goes_on_in_a_new_one(tmp_path: Path) -> None:
    medium = Medium()
    disk = FaultDisk(tmp_path, medium)

    async def main() -> None:
        log = DiskLog(settings_for(tmp_path), ManualClock(), disk)
        opened = Opened(log)
        opened.append(said(1, 0, b"first"))
        await log.idle()
        before = last_segment(medium)
        disk._fail_at = disk.calls + 2
        refused = opened.append(said(1, 1, b"refused"))
        opened.put(Table.SESSIONS, b"k", b"kept")
        await log.committed()
        assert opened.refused[refused].reason is Reason.STORAGE_FAILED
        assert last_segment(medium) > before
        assert log.bounds(1) == (0, 1)
        opened.append(said(1, 1, b"second"))
        await log.committed()
        log.halt()

    asyncio.run(main())
    medium.kill()
    assert read_all(tmp_path, medium) == [(1, 0, b"first"), (1, 1, b"second")]

    async def rows() -> None:
        log = DiskLog(settings_for(tmp_path), ManualClock(), FaultDisk(tmp_path, medium))
        Opened(log)
        assert log.get(Table.SESSIONS, b"k") == b"kept"
        await log.close()

    asyncio.run(rows())


def test_no_space_refuses_what_waits_as_well_and_later_works_again(tmp_path: Path) -> None:
    medium = Medium()
    disk = FaultDisk(tmp_path, medium)

    async def main() -> None:
        log = DiskLog(settings_for(tmp_path), ManualClock(), disk)
        opened = Opened(log)
        await log.idle()
        disk._fail_at, disk._code, disk._part = disk.calls + 1, errno.ENOSPC, 0.5
        big = 1100 * 1024
        first = opened.append(said(1, 0, b"x" * big))
        second = opened.append(said(1, 1, b"behind it"))
        assert second == first + 1
        await log.committed()
        assert {ticket: why.reason for ticket, why in opened.refused.items()} == {
            first: Reason.STORAGE_FULL,
            second: Reason.STORAGE_FULL,
        }
        assert isinstance(log.append(said(1, 0, b"too early")), Refusal)
        for _ in range(3):
            await asyncio.sleep(0)
        opened.append(said(1, 0, b"small"))
        await log.idle()
        assert [m.payload for m in await opened.all_of(1)] == [b"small"]
        await log.close()

    asyncio.run(main())


def test_the_offsets_of_a_refused_bundle_are_free_again(tmp_path: Path) -> None:
    medium = Medium()
    disk = FaultDisk(tmp_path, medium)

    async def main() -> None:
        log = DiskLog(settings_for(tmp_path), ManualClock(), disk)
        opened = Opened(log)
        opened.append(bundled(1, 0, 3))
        await log.idle()
        disk._fail_at, disk._code, disk._part = disk.calls + 1, errno.ENOSPC, 0.5
        ticket = opened.append(bundled(1, 3, 4))
        assert opened.append(said(1, 7)) == opened.append(bundled(2, 0, 5)) == ticket
        await log.committed()
        assert opened.refused[ticket].reason is Reason.STORAGE_FULL
        assert (log.bounds(1), log.bounds(2), log.end()) == ((0, 3), (0, 0), 4)
        assert await opened.all_in_order(4) == []
        for _ in range(3):
            await asyncio.sleep(0)
        again = [said(1, 3), bundled(1, 4, 2), bundled(2, 0, 5)]
        for entry in again:
            opened.append(entry)
        await log.idle()
        assert [facts(entry) for entry in await opened.all_in_order(4)] == [facts(entry) for entry in again]
        assert (log.bounds(1), log.bounds(2)) == ((0, 6), (0, 5))
        log.halt()
        log = DiskLog(settings_for(tmp_path), ManualClock(), FaultDisk(tmp_path, medium))
        assert [facts(entry) for entry in await Opened(log).all_in_order(4)] == [facts(entry) for entry in again]
        await log.close()

    asyncio.run(main())


def test_too_little_free_space_refuses_messages_but_not_rows(tmp_path: Path) -> None:
    from dataclasses import replace

    disk = FaultDisk(tmp_path, Medium())

    async def main() -> None:
        settings = replace(settings_for(tmp_path), reserve_free_bytes=1 << 20)
        log = DiskLog(settings, ManualClock(), disk)
        opened = Opened(log)
        disk.free = 1 << 20
        ticket = opened.append(said(1, 0))
        row = opened.put(Table.SESSIONS, b"k", b"v")
        assert row == ticket
        await log.idle()
        assert opened.refused[ticket].reason is Reason.STORAGE_FULL
        assert "reserve" in opened.refused[ticket].detail
        assert opened.committed > ticket, "the row rode with the next commit"
        await log.close()

    asyncio.run(main())


def test_a_write_that_failed_after_all_its_bytes_leaves_nothing_behind(tmp_path: Path) -> None:
    from dataclasses import replace

    medium = Medium()
    disk = FaultDisk(tmp_path, medium)

    async def main() -> None:
        log = DiskLog(replace(settings_for(tmp_path), retry_ms=60_000), ManualClock(), disk)
        opened = Opened(log)
        await log.idle()
        disk._fail_at, disk._part = disk.calls + 1, 1
        ticket = opened.append(said(1, 0, b"refused"))
        await log.committed()
        assert opened.refused[ticket].reason is Reason.STORAGE_FAILED
        log.halt()

    asyncio.run(main())
    assert read_all(tmp_path, medium) == []

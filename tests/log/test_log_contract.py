"""The contract, run on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from log_bench import FULL, Opened, WaitingLog, bundled, facts, said

from dragoman.broker.clock import ManualClock
from dragoman.broker.log.contract import EVERYTHING, Position, Table
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.log.weight import weight
from dragoman.routing.refusals import Reason, Refusal

Engine = Callable[[int], WaitingLog]
BUDGET = 1 << 20


@pytest.fixture(params=["memory", "disk", "disk with nothing in memory", "disk with threads", "disk that settles"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    which = request.param

    def make(budget_bytes: int) -> WaitingLog:
        if which == "memory":
            return MemoryLog(budget_bytes, ManualClock())
        settings = LogSettings(
            folder=tmp_path / "log",
            budget_bytes=budget_bytes,
            headroom_bytes=0,
            reserve_free_bytes=0,
            hot_bytes=1 << 20,
            map_bytes=1 << 30,
            threads=which == "disk with threads",
        )
        if which == "disk with nothing in memory":
            settings = replace(settings, hot_bytes=1)
        if which == "disk that settles":
            settings = replace(settings, hot_bytes=1, segment_bytes=100, journal_bytes_max=0)
        return DiskLog(settings, ManualClock())

    return make


def play(engine: Engine, scene: Callable[[Opened], Coroutine[Any, Any, None]], budget_bytes: int = BUDGET) -> None:
    async def main() -> None:
        opened = Opened(engine(budget_bytes))
        try:
            await scene(opened)
        finally:
            await opened.log.close()

    asyncio.run(main())


def test_a_message_comes_back_whole(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        given = [
            said(7, 0, b"", sender="them", retain=True, wish=2, envelope=FULL),
            said(7, 1, None),
            said(7, 2, b"\x00" * 300, wish=0),
        ]
        for message in given:
            log.append(message)
        await log.log.idle()
        found, following = await log.read(7)
        assert [facts(message) for message in found] == [facts(message) for message in given]
        assert following == 3

    play(engine, scene)


def test_answers_come_at_the_end_of_the_turn_and_one_commit_serves_a_turn(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        first = log.append(said(1, 0))
        assert log.append(said(2, 0)) == first
        assert log.put(Table.GROUPS, b"g", b"1") == first
        assert log.answers == []
        await log.log.idle()
        assert log.answers == [(first, None)]
        second = log.put(Table.GROUPS, b"g", b"2")
        assert second > first
        await log.log.idle()
        assert log.answers[-1] == (second, None)

    play(engine, scene)


def test_nothing_is_readable_before_its_commit(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        log.append(said(1, 0))
        assert log.log.bounds(1) == (0, 0)
        assert list(log.log.channels()) == []
        assert log.log.end() == 1
        await log.log.idle()
        assert log.log.bounds(1) == (0, 1)
        assert list(log.log.channels()) == [1]
        assert log.log.end() == 2
        log.append(said(1, 1))
        assert [message.offset for message in await log.all_of(1)] == [0] or log.committed == 2

    play(engine, scene)


def test_waiting_bytes_are_counted_until_safe(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        assert log.log.uncommitted_bytes() == 0
        assert log.log.oldest_uncommitted_ms() == 0
        message = said(1, 0, b"x" * 1000)
        log.append(message)
        assert log.log.uncommitted_bytes() == weight(message)
        await log.log.idle()
        assert log.log.uncommitted_bytes() == 0
        assert log.log.bytes_of(1) == weight(message)

    play(engine, scene)


def test_the_age_of_what_waits(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock()
        log = Opened(MemoryLog(BUDGET, clock))
        log.append(said(1, 0))
        clock.advance(40)
        log.append(said(1, 1))
        assert log.log.oldest_uncommitted_ms() == 40
        await log.log.close()
        assert log.committed == 1

    asyncio.run(main())


def test_positions_rise_across_channels(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        messages = [said(number, offset) for offset in range(3) for number in (5, 3, 9)]
        for message in messages:
            log.append(message)
        await log.log.idle()
        assert [message.position for message in messages] == list(range(1, 10))
        found = await log.all_in_order()
        assert [(m.number, m.offset) for m in found] == [(m.number, m.offset) for m in messages]
        found = await log.all_in_order(position=5)
        assert [message.position for message in found] == [5, 6, 7, 8, 9]

    play(engine, scene)


@pytest.mark.parametrize("numbers", [None, (3, 9), (3,)])
def test_a_scan_gives_only_what_is_wanted(engine: Engine, numbers: tuple[int, ...] | None) -> None:
    async def scene(log: Opened) -> None:
        for offset in range(20):
            for number in (5, 3, 9):
                log.append(said(number, offset))
            if offset % 7 == 0:
                await log.log.idle()
        await log.log.idle()
        found = await log.all_in_order(1, 200, lambda number: number == 3, numbers)
        assert [(m.number, m.offset) for m in found] == [(3, offset) for offset in range(20)]
        assert await log.all_in_order(1, 200, lambda number: False, numbers) == []

    play(engine, scene)


def test_reads_are_bounded_but_give_at_least_one(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        for offset in range(10):
            log.append(said(1, offset, b"x" * 1000))
        await log.log.idle()
        for take in (log.read(1, 3, 1), log.scan(4, 1)):
            messages, following = await take
            assert [message.offset for message in messages] == [3]
            assert following in (4, 5)
        messages, following = await log.read(1, 0, 2500)
        assert [message.offset for message in messages] == [0, 1, 2]
        assert following == 3

    play(engine, scene)


def test_reading_where_nothing_is(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        assert await log.read(404) == ([], 0)
        assert await log.read(404, 9) == ([], 9)
        assert await log.scan(1) == ([], 1)
        log.append(said(1, 5))
        log.append(said(1, 9))
        await log.log.idle()
        messages, following = await log.read(1, 6)
        assert [message.offset for message in messages] == [9]
        assert following == 10
        assert await log.read(1, 10) == ([], 10)
        assert await log.read(1, 99) == ([], 99)

    play(engine, scene)


def test_rows_are_seen_at_once_and_the_last_put_wins(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        log.put(Table.SESSIONS, b"b", b"1")
        log.put(Table.SESSIONS, b"b", b"2")
        log.put(Table.SESSIONS, b"a", b"")
        log.put(Table.SESSIONS, b"c", b"3")
        log.put(Table.GROUPS, b"b", b"other table")
        assert log.log.get(Table.SESSIONS, b"b") == b"2"
        assert list(log.log.rows(Table.SESSIONS)) == [(b"a", b""), (b"b", b"2"), (b"c", b"3")]
        await log.log.idle()
        log.put(Table.SESSIONS, b"b", None)
        log.put(Table.SESSIONS, b"ba", b"4")
        assert log.log.get(Table.SESSIONS, b"b") is None
        assert list(log.log.rows(Table.SESSIONS, b"b")) == [(b"ba", b"4")]
        await log.log.idle()
        assert list(log.log.rows(Table.SESSIONS)) == [(b"a", b""), (b"ba", b"4"), (b"c", b"3")]
        assert log.log.get(Table.SESSIONS, b"nobody") is None
        assert list(log.log.rows(Table.SESSIONS, b"\xff\xff")) == []

    play(engine, scene)


def test_released_messages_are_gone_at_once(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        for offset in range(10):
            log.append(said(1, offset))
            log.append(said(2, offset))
        await log.log.idle()
        log.log.release(1, 4)
        assert log.log.bounds(1) == (4, 10)
        assert [m.offset for m in (await log.read(1))[0]] == [4, 5, 6, 7, 8, 9]
        assert [m.offset for m in await log.all_in_order() if m.number == 1] == [4, 5, 6, 7, 8, 9]
        assert log.log.bytes_of(1) == 6 * weight(said(1, 0))
        assert log.log.bounds(2) == (0, 10)
        log.log.release(1, 2)
        assert log.log.bounds(1) == (4, 10)

    play(engine, scene)


def test_a_release_by_position_keeps_what_came_later(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        messages = [said(1, offset) for offset in range(6)]
        for message in messages:
            log.append(message)
            await log.log.idle()
        log.log.release(1, 5, Position(messages[3].position))
        assert log.log.bounds(1) == (3, 6)
        log.log.release(1, 2, Position(messages[5].position))
        assert log.log.bounds(1) == (3, 6)
        log.log.release(1, 4, Position(messages[5].position))
        assert log.log.bounds(1) == (4, 6)

    play(engine, scene)


def test_an_emptied_channel_keeps_its_place_and_a_forgotten_one_does_not(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        for number in (1, 2):
            for offset in range(3):
                log.append(said(number, offset))
        await log.log.idle()
        log.log.release(1, 3)
        log.log.release(2, EVERYTHING)
        assert log.log.bounds(1) == (3, 3)
        assert log.log.bounds(2) == (0, 0)
        assert list(log.log.channels()) == []
        assert log.log.bytes_of(1) == log.log.bytes_of(2) == 0
        assert await log.read(1, 1) == ([], 3)
        assert await log.all_in_order() == []
        log.append(said(1, 3))
        await log.log.idle()
        assert log.log.bounds(1) == (3, 4)

    play(engine, scene)


def test_forgetting_a_channel_takes_what_waits_with_it(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        log.append(said(1, 0))
        await log.log.idle()
        log.append(said(1, 1))
        log.append(said(2, 0))
        log.log.release(1, EVERYTHING)
        await log.log.idle()
        assert log.log.bounds(1) == (0, 0)
        assert [(m.number, m.offset) for m in await log.all_in_order()] == [(2, 0)]
        assert await log.all_of(1) == []

    play(engine, scene)


def test_a_spent_budget_refuses_messages_but_not_rows(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        refusal: object = None
        for offset in range(10_000):
            refusal = log.log.append(said(1, offset, b"x" * 1000))
            if isinstance(refusal, Refusal):
                break
            await log.log.idle()
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.STORAGE_FULL
        assert refusal.detail
        first, after = log.log.bounds(1)
        assert (first, after) == (0, offset)
        ticket = log.put(Table.SESSIONS, b"s", b"still taken")
        await log.log.idle()
        assert log.committed == ticket

    play(engine, scene, budget_bytes=256 * 1024)


def test_close_commits_what_is_open(engine: Engine) -> None:
    async def main() -> None:
        log = Opened(engine(BUDGET))
        ticket = log.append(said(1, 0))
        await log.log.close()
        await log.log.close()
        assert log.committed == ticket

    asyncio.run(main())


def test_statistics_are_plain_numbers(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        log.append(said(1, 0))
        await log.log.idle()
        statistics = log.log.statistics()
        assert statistics["commits"] == 1
        assert all(type(value) is int for value in statistics.values())
        assert log.log.bytes_used() > 0

    play(engine, scene)


# -- bundles ---------------------------------------------------------------------------------------


def test_a_bundle_comes_back_whole_among_messages_of_its_commit(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        given = [
            said(7, 0),
            said(7, 1, envelope=FULL),
            bundled(7, 2, 5, b"\x00\xff" * 3000, sender="somebody"),
            bundled(7, 7, 1, b"", kind=200),
            said(7, 8),
            bundled(8, 0, 2),
        ]
        for entry in given:
            log.append(entry)
        await log.log.idle()
        assert [facts(entry) for entry in await log.all_of(7)] == [facts(entry) for entry in given[:5]]
        assert log.log.bounds(7) == (0, 9)
        assert log.log.bounds(8) == (0, 2)
        assert [entry.position for entry in given] == [1, 2, 3, 8, 9, 10]
        assert log.log.end() == 12
        assert [facts(entry) for entry in await log.all_in_order()] == [facts(entry) for entry in given]
        assert log.log.bytes_of(7) == sum(map(weight, given[:5]))

    play(engine, scene)


def test_a_bundle_takes_its_offsets(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        log.append(bundled(7, 0, 3))
        with pytest.raises(AssertionError, match="offset 2 after"):
            log.log.append(said(7, 2))
        log.append(said(7, 3))

    play(engine, scene)


def test_reads_from_within_a_bundle_give_it_whole(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        for entry in (said(7, 0), bundled(7, 1, 4), said(7, 5)):
            log.append(entry)
            await log.log.idle()
        for offset in (1, 2, 4):
            found, following = await log.read(7, offset, 1)
            assert ([entry.offset for entry in found], following) == ([1], 5)
        assert [entry.offset for entry in await log.all_of(7, 4)] == [1, 5]
        assert [entry.offset for entry in await log.all_of(7, 5)] == [5]
        for position in (2, 3, 5):
            found, following = await log.scan(position, 1, numbers=(7,))
            assert ([entry.offset for entry in found], following) == ([1], 6)
            assert [entry.offset for entry in await log.all_in_order(position)] == [1, 5]
        assert [entry.offset for entry in await log.all_in_order(6)] == [5]

    play(engine, scene)


def test_a_bundle_is_freed_when_the_whole_of_it_is(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        for entry in (bundled(7, 0, 4), bundled(7, 4, 2), said(7, 6)):
            log.append(entry)
            await log.log.idle()
        log.log.release(7, 2)
        assert log.log.bounds(7) == (2, 7)
        await log.log.idle()
        assert [entry.offset for entry in await log.all_of(7, 2)] == [0, 4, 6]
        assert [entry.offset for entry in await log.all_in_order()] == [0, 4, 6]
        log.log.release(7, 4)
        await log.log.idle()
        assert log.log.bounds(7) == (4, 7)
        assert [entry.offset for entry in await log.all_of(7)] == [4, 6]
        assert [entry.offset for entry in await log.all_in_order()] == [4, 6]
        log.log.release(7, 6)
        log.log.release(7, 5)
        await log.log.idle()
        assert log.log.bounds(7) == (6, 7)

    play(engine, scene)


def test_a_release_by_position_keeps_the_bundle_it_falls_into(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        log.append(bundled(7, 0, 4))
        log.append(said(7, 4))
        await log.log.idle()
        log.log.release(7, 5, Position(3))
        await log.log.idle()
        assert log.log.bounds(7)[0] <= 2
        assert [entry.offset for entry in await log.all_of(7, 2)] == [0, 4]
        log.log.release(7, 5, Position(5))
        await log.log.idle()
        assert [entry.offset for entry in await log.all_of(7, 4)] == [4]

    play(engine, scene)


def test_only_the_wanted_channels_bundles_are_scanned(engine: Engine) -> None:
    async def scene(log: Opened) -> None:
        for n in range(3):
            log.append(bundled(7, n * 2, 2))
            log.append(bundled(8, n * 3, 3))
        await log.log.idle()
        found = await log.all_in_order(wanted=lambda number: number == 8)
        assert [(entry.number, entry.offset) for entry in found] == [(8, 0), (8, 3), (8, 6)]

    play(engine, scene)

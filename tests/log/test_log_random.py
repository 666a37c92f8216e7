"""Random operations on the disk engine, with restarts and kills, against a plain model."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from log_bench import Opened, bundled, facts, said

from dragoman.broker.clock import ManualClock
from dragoman.broker.log.contract import EVERYTHING, Table
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.log.weight import weight
from dragoman.routing.message import Entry, end_of

Step = tuple[str, int, int]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["append"] * 6
            + ["bundle"] * 3
            + ["put", "put", "delete", "release", "forget", "commit", "idle", "restart", "kill"]
        ),
        st.integers(1, 4),
        st.integers(0, 40),
    ),
    min_size=5,
    max_size=70,
)


def settings_for(folder: Path, hot_bytes: int) -> LogSettings:
    return LogSettings(
        folder=folder,
        budget_bytes=1 << 26,
        headroom_bytes=0,
        reserve_free_bytes=0,
        segment_bytes=900,
        journal_bytes_max=2000,
        span_bytes=700,
        hot_bytes=hot_bytes,
        move_interval_ms=0,
        map_bytes=1 << 28,
        threads=False,
    )


class Model:
    """What must be there once everything is committed."""

    def __init__(self) -> None:
        self.messages: list[Entry] = []
        self.following: dict[int, int] = {}
        self.rows: dict[bytes, bytes] = {}
        self.generation: dict[int, int] = {}

    def number(self, channel: int) -> int:
        """The channel's present number: a forgotten one never comes back."""
        return channel + 10 * self.generation.get(channel, 0)

    def apply(self, opened: Opened, step: Step) -> None:
        what, channel, amount = step
        number = self.number(channel)
        if what == "append":
            for _ in range(1 + amount % 3):
                message = said(number, self.following.get(number, 0) + (amount == 7), b"%d" % amount * amount)
                self.following[number] = message.offset + 1
                opened.append(message)
                self.messages.append(message)
        elif what == "bundle":
            body = bytes([amount]) * amount * 9
            bundle = bundled(number, self.following.get(number, 0), 1 + amount % 4, body, sender="x" * (amount % 3))
            self.following[number] = end_of(bundle)
            opened.append(bundle)
            self.messages.append(bundle)
        elif what == "put":
            opened.put(Table.GROUPS, b"g%d" % (amount % 5), b"%d" % amount)
            self.rows[b"g%d" % (amount % 5)] = b"%d" % amount
        elif what == "delete":
            opened.put(Table.GROUPS, b"g%d" % (amount % 5), None)
            self.rows.pop(b"g%d" % (amount % 5), None)
        elif what == "release":
            first, after = opened.log.bounds(number)
            offset = first + amount % (after - first + 1)
            opened.log.release(number, offset)
            self.messages = [m for m in self.messages if m.number != number or end_of(m) > offset]
        elif what == "forget":
            opened.log.release(number, EVERYTHING)
            self.messages = [m for m in self.messages if m.number != number]
            self.generation[channel] = self.generation.get(channel, 0) + 1


async def check(opened: Opened, model: Model, *, hot: bool) -> None:
    expected = [facts(message) for message in model.messages]
    assert [facts(m) for m in await opened.all_in_order()] == expected
    assert [facts(m) for m in await opened.all_in_order(max_bytes=200)] == expected
    assert dict(opened.log.rows(Table.GROUPS)) == model.rows
    numbers = sorted({message.number for message in model.messages})
    assert sorted(opened.log.channels()) == numbers
    for number in numbers:
        mine = [m for m in model.messages if m.number == number]
        assert [facts(m) for m in await opened.all_of(number, 0, 200)] == [facts(m) for m in mine]
        half = mine[len(mine) // 2]
        found = await opened.all_in_order(half.position, 150, lambda asked, number=number: asked == number, (number,))
        assert [facts(m) for m in found] == [facts(m) for m in mine[len(mine) // 2 :]]
        if hot:
            assert opened.log.bytes_of(number) == sum(map(weight, mine))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@example([("append", 1, 0)] * 3 + [("restart", 1, 0), ("append", 1, 0), ("release", 1, 3)], 1)
@given(STEPS, st.sampled_from([1, 2000, 1 << 20]))
def test_random_operations_agree_with_a_model(steps: list[Step], hot_bytes: int) -> None:
    async def main(folder: Path) -> None:
        def start() -> tuple[DiskLog, Opened]:
            log = DiskLog(settings_for(folder, hot_bytes), ManualClock())
            return log, Opened(log)

        model = Model()
        log, opened = start()
        for step in steps:
            model.apply(opened, step)
            if step[0] == "commit":
                await log.committed()
            elif step[0] == "idle":
                await log.idle()
                await check(opened, model, hot=False)
            elif step[0] in ("restart", "kill"):
                await log.committed()
                if step[0] == "restart":
                    await log.close()
                log.halt()
                log, opened = start()
        await log.committed()
        await check(
            opened, model, hot=not any(step[0] in ("restart", "kill") for step in steps) and hot_bytes > 1 << 19
        )
        log.halt()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))

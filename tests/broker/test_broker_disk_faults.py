"""The broker on the real log and a disk that fills, fails and loses power: what was acknowledged is there, in order."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from mesh_fakes import Party

from dragoman.broker.broker import Broker
from dragoman.broker.channel import Keep
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.log.contract import DONE, LogError, Ticket
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.metrics import Metrics
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.subscription import Feed, Start
from dragoman.routing.message import Message
from dragoman.routing.refusals import Reason, Refusal, RefusedError
from tests.log.fault_disk import FaultDisk, Medium, PowerCut


class DiskWorld:
    """A broker on asyncio's loop and the disk log, whose threads' work is done in turns of the loop."""

    def __init__(self, folder: Path, disk: FaultDisk) -> None:
        self.disk = disk
        self.metrics = Metrics()
        self.settings = LogSettings(
            folder=folder,
            budget_bytes=1 << 26,
            headroom_bytes=0,
            reserve_free_bytes=1 << 20,
            segment_bytes=2_000,
            journal_bytes_max=6_000,
            span_bytes=1_000,
            hot_bytes=4_000,
            group_messages_max=3,
            move_interval_ms=0,
            retry_ms=0,
            map_bytes=1 << 28,
            threads=False,
        )
        self.log = DiskLog(self.settings, ManualClock(), disk)
        self.broker = Broker(
            BrokerSettings(),
            AgentSettings(),
            clock=ManualClock(),
            log=self.log,
            gate=Gate(GateSettings()),
            loop=asyncio.get_running_loop(),
            metrics=self.metrics,
        )

    def party(self, agent: str = "") -> Party:
        return Witness(self, agent)  # type: ignore[arg-type]

    async def until(self, done: Callable[[], object]) -> None:
        """Turns of the loop until it holds."""
        for _ in range(2_000):
            if done():
                return
            await asyncio.sleep(0)
        raise AssertionError("that never came to be")


class Witness(Party):
    """Once the power is gone nobody hears anything any more."""

    @property
    def dark(self) -> bool:
        world = self.world
        assert isinstance(world, DiskWorld)
        return world.disk.dead

    def deliver(self, feed: Feed, message: Message) -> bool:
        return self.dark or super().deliver(feed, message)

    def committed(self, ticket: Ticket) -> None:
        if not self.dark:
            super().committed(ticket)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        if not self.dark:
            super().refused(ticket, refusal)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def quiet() -> None:
        # A power cut surfaces in callbacks of the loop; it is what the test wants.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await main()

    asyncio.run(quiet())


def test_a_full_disk_refuses_what_must_be_kept_lets_the_rest_go_on_and_recovers(tmp_path: Path):
    async def main() -> None:
        world = DiskWorld(tmp_path, FaultDisk(tmp_path, Medium()))
        await world.broker.start()
        alice, reader = world.party("alice"), world.party()
        world.broker.declare(alice, "kept", Keep.ACKED)
        reader.read("#")
        first = alice.say("kept", b"1", wish=1)
        await world.until(lambda: alice.safe_up_to == first)

        world.disk.free = 1 << 20
        lost = alice.say("kept", b"2", wish=1)
        assert alice.say("kept", b"rides") == DONE
        await world.until(lambda: alice.refusals)
        assert [(t, why.reason) for t, why in alice.refusals] == [(lost, Reason.STORAGE_FULL)]
        assert alice.say("memory", b"goes on", wish=1) == DONE
        assert alice.say("kept", b"goes on too") == DONE
        assert reader.payloads == [b"1", b"rides", b"goes on", b"goes on too"]

        world.disk.free = 1 << 40
        answers: list[object] = []

        def again() -> bool:
            answers.append(alice.say("kept", b"3", wish=1))
            return not isinstance(answers[-1], Refusal)

        await world.until(again)
        await world.until(lambda: alice.safe_up_to == answers[-1])
        assert reader.payloads[-1] == b"3"
        assert all(isinstance(a, Refusal) and a.reason is Reason.STORAGE_FULL for a in answers[:-1])
        alice.end()
        reader.end()
        await world.broker.stop()

        world = DiskWorld(tmp_path, FaultDisk(tmp_path, world.disk.medium))
        await world.broker.start()
        reader = world.party()
        reader.read("kept", start=Start.EARLIEST)
        await world.until(lambda: len(reader.got) == 2)
        assert reader.payloads == [b"1", b"3"]
        reader.end()
        await world.broker.stop()

    run(main)


class Played:
    """What was said before the crash and what came of it."""

    def __init__(self) -> None:
        self.said: list[tuple[int, Message]] = []
        self.publisher: Party | None = None
        self.seen: list[Message] = []
        self.keyed: list[tuple[str, Message]] = []
        self.finished: set[int] = set()
        self.started = False

    def acknowledged(self) -> list[Message]:
        assert self.publisher is not None
        refused = {ticket for ticket, _ in self.publisher.refusals}
        return [m for ticket, m in self.said if ticket <= self.publisher.safe_up_to and ticket not in refused]

    def refused(self) -> list[Message]:
        assert self.publisher is not None
        refused = {ticket for ticket, _ in self.publisher.refusals}
        return [m for ticket, m in self.said if ticket in refused]


async def play(world: DiskWorld, played: Played) -> None:
    """A dozen turns of durable, memory and retained messages, with a durable reader that finishes some."""
    await world.broker.start()
    played.started = True
    alice, reader = world.party("alice"), world.party()
    played.publisher = alice
    played.seen = reader.got
    world.broker.declare(alice, "all", Keep.ALL)
    taken: list[Message] = []
    backlog = world.broker.backlogs.open(b"d", lambda m: taken.append(m) is None)
    backlog.watch("read/+")
    backlog.resume()
    reader.read("#")
    plan = (("all", 1), ("read/a", 1), ("read/a", 0), ("all", 0))
    for turn in range(12):
        for name, wish in plan:
            retain = name == "read/a" and turn % 3 == 0
            payload = b"%s %d %d" % (name.encode(), turn, wish) + b"." * 40
            answer = alice.say(name, payload, wish=wish, retain=retain, dedupe=("play", f"{name}{turn}{wish}"))
            if not isinstance(answer, Refusal) and answer:
                played.said.append((answer, alice.said))
                played.keyed.append((f"{name}{turn}{wish}", alice.said))
        if turn % 4 == 1 and taken:
            backlog.finish(taken[0].position)
            world.broker.backlogs.flush()
        for _ in range(6):
            await asyncio.sleep(0)
        if world.disk.dead:
            return
    await world.until(lambda: world.disk.dead or not world.log.uncommitted_bytes())


async def after(world: DiskWorld, played: Played) -> None:
    """The restarted broker against what was acknowledged, seen and refused."""
    await world.broker.start()
    everything = world.party("reader")
    taken: list[Message] = []
    backlog = world.broker.backlogs.open(b"d", lambda m: taken.append(m) is None)
    backlog.resume()
    everything.read("all", start=Start.EARLIEST)
    await world.until(lambda: not backlog.behind)
    channel = world.broker.channels.find("all")
    assert channel is not None
    feed = channel.feed_of(everything)
    await world.until(lambda: feed is not None and feed.lag is None)
    if played.publisher is not None:
        refused = {(m.name, m.offset) for m in played.refused()}
        found = {(m.name, m.offset): m.payload for m in everything.got}
        for message in played.acknowledged():
            if message.name == "all":
                assert found[message.name, message.offset] == message.payload, "acknowledged, and gone"
        assert not refused & set(found), "refused, and there"
        for message in played.seen:
            if message.name == "all":
                assert (message.name, message.offset) in found, "seen by somebody, and un-said"
        unread = {m.payload for m in played.acknowledged() if m.name == "read/a"} - {m.payload for m in taken}
        assert len(unread) <= 3, "the durable reader had finished three"
        # A key is known exactly as long as its message: nothing is said twice, nothing swallowed.
        again = world.party("alice")
        for key, message in played.keyed:
            if message.name == "all":
                before = world.metrics.duplicates
                assert not isinstance(again.say("all", b"twice?", wish=1, dedupe=("play", key)), Refusal)
                known = world.metrics.duplicates > before
                assert known == (found.get(("all", message.offset)) == message.payload), key
                assert not known or again.said.offset == message.offset
        again.end()
    # Going on: nothing that was seen before comes again under the same place.
    seen = {(m.name, m.number, m.offset) for m in played.seen}
    alice, watcher = world.party("alice"), world.party()
    watcher.read("#")
    for name, wish in (("all", 1), ("read/a", 0), ("read/a", 1), ("memory", 0)):
        assert not isinstance(alice.say(name, b"after", wish=wish), Refusal)
    await world.until(lambda: sum(m.payload == b"after" for m in watcher.got) == 4)
    assert not seen & {(m.name, m.number, m.offset) for m in watcher.got}
    for name in ("all", "read/a"):
        offset = next(m.offset for m in watcher.got if m.name == name)
        assert all(
            m.offset < offset for m in everything.got if m.name == name and m.payload not in (b"after", b"twice?")
        )
    for party in (everything, alice, watcher):
        party.end()
    await world.broker.stop()


def crash_and_compare(folder: Path, medium: Medium, disk: FaultDisk, then: Callable[[Medium], None]) -> Played:
    played = Played()

    async def first() -> None:
        world = DiskWorld(folder, disk)
        try:
            await asyncio.wait_for(play(world, played), 5)
        except (PowerCut, LogError, RefusedError, TimeoutError):
            assert disk.dead or not played.started
        finally:
            world.log.halt()

    async def second() -> None:
        await after(DiskWorld(folder, FaultDisk(folder, medium)), played)

    run(first)
    then(medium)
    run(second)
    return played


def whole(folder: Path) -> FaultDisk:
    medium = Medium()
    disk = FaultDisk(folder, medium)
    played = crash_and_compare(folder, medium, disk, Medium.kill)
    assert len(played.said) == len(played.acknowledged()) == 36
    return disk


@pytest.mark.slow
@pytest.mark.parametrize("then", [Medium.lose, Medium.kill])
def test_the_power_goes_at_every_call_between_commit_and_tell_too(tmp_path: Path, then: Callable[[Medium], None]):
    calls = whole(tmp_path / "whole").calls
    for call in range(1, calls + 1):
        medium = Medium()
        folder = tmp_path / f"cut{call}"
        crash_and_compare(folder, medium, FaultDisk(folder, medium, cut_at=call), then)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "part"), [(errno.EIO, 0), (errno.ENOSPC, 0.5)])
def test_every_call_fails_once(tmp_path: Path, code: int, part: float):
    calls = whole(tmp_path / "whole").calls
    refusals = 0
    for call in range(1, calls + 1):
        medium = Medium()
        folder = tmp_path / f"fail{call}"
        played = crash_and_compare(
            folder, medium, FaultDisk(folder, medium, fail_at=call, code=code, part=part), Medium.lose
        )
        refusals += len(played.publisher.refusals) if played.publisher is not None else 0
    assert refusals, "no failure was ever told"

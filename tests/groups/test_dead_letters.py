"""Work groups: what becomes of messages nobody can work on, and of everything when the process dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from groups_world import World, payloads, play

from dragoman.broker.log.contract import Table
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.settings_groups import GroupSettings
from dragoman.routing.message import EMPTY, Envelope, Message
from dragoman.routing.refusals import Reason, Refusal


@pytest.fixture(params=["memory", "disk"])
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def make(**options: Any) -> World:
        if request.param == "memory":
            return World(**options)
        settings = LogSettings(
            folder=tmp_path / "log",
            budget_bytes=1 << 22,
            headroom_bytes=0,
            reserve_free_bytes=0,
            map_bytes=1 << 30,
            threads=False,
        )
        world = World(**options)
        world.log = DiskLog(settings, world.clock)
        return world

    return make


async def page_of(world: World, group: Any, party: Any) -> Any:
    pages: list[Any] = []
    group.dead_letters(party, None, 1 << 20, pages.append)
    await world.turn()
    (page,) = pages
    return page


# -- dead letters ----------------------------------------------------------------------------------


def test_after_the_last_delivery_a_message_is_a_dead_letter_that_says_why() -> None:
    async def scene(world: World) -> None:
        group = world.open(deliveries_max=2, backoff_ms=0)
        envelope = Envelope(headers=(("a", b"1"),), content_type="text/plain", key=b"k", expires_ms=1 << 50)
        (original,) = await world.say("jobs", b"poison", envelope=envelope)
        worker = world.party()
        for _ in range(2):
            (delivery,) = world.pull(group, worker)
            group.reject(worker, [delivery.id])
            await world.wait(1)
        assert world.pull(group, worker) == []
        (letter,) = (await page_of(world, group, worker)).messages
        assert (letter.name, letter.payload, letter.wish) == ("dead/crew", b"poison", 1)
        facts = letter.envelope or EMPTY
        assert facts.cause == original.id
        assert (facts.content_type, facts.key, facts.expires_ms) == ("text/plain", b"k", 0)
        assert facts.headers == (
            ("a", b"1"),
            ("mesh-dead-group", b"crew"),
            ("mesh-dead-reason", b"rejected"),
            ("mesh-dead-count", b"2"),
            ("mesh-dead-channel", b"jobs"),
        )
        assert sum(group.statistics()[stage] for stage in ("ready", "leased", "delayed", "dying")) == 0
        assert list(world.log.rows(Table.GROUPS, b"c")) == []

    play(scene)


def test_the_original_stays_until_its_letter_is_committed() -> None:
    async def scene(world: World) -> None:
        group = world.open(deliveries_max=1)
        await world.say("jobs", b"poison")
        worker = world.party()
        (delivery,) = world.pull(group, worker)
        group.reject(worker, [delivery.id])
        assert group.statistics()["dying"] == 1
        await world.turn()
        assert len((await page_of(world, group, worker)).messages) == 1
        assert group.statistics()["dying"] == 0

    play(scene)


class FailingLog:
    """A memory log whose appends to one channel are refused while ``full``."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.full = ""

    def append(self, message: Message) -> Any:
        if message.name == self.full:
            return Refusal(Reason.STORAGE_FULL, "no room")
        return self.log.append(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


def test_a_letter_that_cannot_be_written_is_tried_again_and_the_original_is_kept() -> None:
    async def scene(world: World) -> None:
        group = world.open(deliveries_max=1, backoff_max_ms=1_000)
        await world.say("jobs", b"poison")
        worker = world.party()
        (delivery,) = world.pull(group, worker)
        world.log.full = "dead/crew"
        group.reject(worker, [delivery.id])
        await world.wait(1_000)
        assert group.statistics()["dying"] == 1
        world.log.full = ""
        await world.wait(1_000)
        assert [letter.payload for letter in (await page_of(world, group, worker)).messages] == [b"poison"]
        assert group.statistics()["dying"] == 0

    def world() -> World:
        made = World()
        made.log = FailingLog(made.log)
        return made

    play(scene, world)


def test_a_group_that_reads_everything_does_not_eat_its_own_dead_letters() -> None:
    async def scene(world: World) -> None:
        group = world.open(filter_="#", deliveries_max=1)
        await world.say("jobs", b"poison")
        worker = world.party()
        (delivery,) = world.pull(group, worker)
        group.reject(worker, [delivery.id])
        await world.turn()
        assert world.pull(group, worker) == []
        assert group.statistics()["ready"] == 0

    play(scene)


def test_two_groups_do_not_pass_a_dead_letter_back_and_forth_for_ever() -> None:
    async def scene(world: World) -> None:
        one = world.open("one", "dead/two", deliveries_max=1)
        two = world.open("two", "dead/one", deliveries_max=1)
        await world.say("dead/two", b"poison")
        worker = world.party()
        for _ in range(10):
            for group in (one, two):
                for delivery in world.pull(group, worker):
                    group.reject(worker, [delivery.id])
                await world.turn()
        assert world.metrics.dropped == {"dead-letter-hops": 1}

    play(scene, lambda: World(settings=GroupSettings(dead_hops_max=4)))


def test_old_dead_letters_leave_a_group_s_own_channel() -> None:
    async def scene(world: World) -> None:
        group = world.open(deliveries_max=1)
        worker = world.party()
        for number in range(6):
            await world.say("jobs", b"%d" % number)
            (delivery,) = world.pull(group, worker)
            group.reject(worker, [delivery.id])
            await world.turn()
        kept: list[Message] = []
        number = world.broker.channels.by_name["dead/crew"].number
        world.log.read(number, 0, 1 << 20, lambda messages, _: kept.extend(messages))
        assert [letter.payload for letter in kept] == [b"3", b"4", b"5"]
        assert world.metrics.dropped == {"dead-letters-full": 3}

    play(scene, lambda: World(settings=GroupSettings(dead_letters_max=3)))


# -- across restarts -------------------------------------------------------------------------------


def test_a_group_goes_on_after_a_restart_where_it_was(worlds: Any) -> None:
    async def scene(world: World) -> None:
        group = world.open(lease_ms=7_000, dead_letter="graves")
        await world.say("jobs", b"1", b"2", b"3", b"4")
        worker = world.party()
        deliveries = world.pull(group, worker, 3)
        group.ack(worker, [deliveries[0].id, deliveries[2].id])
        world = await world.stopped()
        again = world.groups.get("crew")
        assert again is not None
        assert (again.filter, again.terms.lease_ms, again.terms.dead_letter) == ("jobs", 7_000, "graves")
        assert again.owner.name == "alice"
        worker = world.party()
        left = world.pull(again, worker)
        assert payloads(left) == [b"2", b"4"], "what was acknowledged is gone, what was leased is back"
        again.ack(worker, [d.id for d in left])
        world = await world.stopped()
        await world.say("jobs", b"5")
        last = world.groups.get("crew")
        assert last is not None
        assert payloads(world.pull(last, world.party())) == [b"5"]
        await world.broker.log.close()

    play(scene, worlds)


def test_a_poison_message_is_caught_though_every_failure_ends_in_a_crash(worlds: Any) -> None:
    async def scene(world: World) -> None:
        world.open(deliveries_max=3, backoff_ms=0)
        await world.say("jobs", b"poison")
        counts = []
        for _ in range(3):
            group = world.groups.get("crew")
            assert group is not None
            worker = world.party()
            (delivery,) = world.pull(group, worker)
            counts.append(delivery.count)
            group.reject(worker, [delivery.id], delay_ms=60_000)
            world = await world.crashed()
        assert counts == [1, 2, 3]
        group = world.groups.get("crew")
        assert group is not None
        await world.turn()
        assert world.pull(group, world.party()) == []
        assert len((await page_of(world, group, world.party())).messages) == 1
        world = await world.crashed()
        group = world.groups.get("crew")
        assert group is not None
        assert world.pull(group, world.party()) == [], "the letter's commit finished it"
        await world.broker.log.close()

    play(scene, worlds)


def test_a_lease_for_the_last_time_that_a_crash_ends_is_a_dead_letter(worlds: Any) -> None:
    async def scene(world: World) -> None:
        group = world.open(deliveries_max=2, backoff_ms=0)
        await world.say("jobs", b"poison")
        worker = world.party()
        (delivery,) = world.pull(group, worker)
        group.reject(worker, [delivery.id])
        await world.wait(1)
        assert [d.count for d in world.pull(group, worker)] == [2]
        world = await world.crashed()
        again = world.groups.get("crew")
        assert again is not None
        await world.turn()
        assert world.pull(again, world.party()) == []
        (letter,) = (await page_of(world, again, world.party())).messages
        assert dict((letter.envelope or EMPTY).headers)["mesh-dead-count"] == b"2"
        await world.broker.log.close()

    play(scene, worlds)

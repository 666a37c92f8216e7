"""Shared subscriptions: one of several, evenly; nothing lost when a member goes; messages wait for kept members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from groups_world import ALICE, BOB, Party, World, play

from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.log.contract import Table
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.settings_groups import GroupSettings
from dragoman.broker.shares import Share
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Reason, Refusal


@pytest.fixture(params=["memory", "disk"])
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def make(**options: Any) -> World:
        world = World(**options)
        if request.param == "disk":
            settings = LogSettings(
                folder=tmp_path / "log",
                budget_bytes=1 << 22,
                headroom_bytes=0,
                reserve_free_bytes=0,
                map_bytes=1 << 30,
                threads=False,
            )
            world.log = DiskLog(settings, world.clock)
        return world

    return make


def join(world: World, party: Party, *, filter_: str = "jobs", wish: int = 1, kept: bool = False, **more: Any) -> None:
    refusal = world.groups.share(party, "crew", filter_, wish=wish, kept=kept, **more)
    assert refusal is None, refusal


def only_share(world: World) -> Share:
    (share,) = world.groups.list_shares()
    return share


def numbers(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


def everything(parties: list[Party]) -> list[bytes | None]:
    return sorted((p for party in parties for p in party.payloads()), key=lambda p: int(p or b"0"))


# -- one of several --------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [0, 1])
def test_each_message_goes_to_one_member_and_evenly(wish: int) -> None:
    async def scene(world: World) -> None:
        members = [world.party(agent=f"m{n}") for n in range(3)]
        for member in members:
            join(world, member, wish=wish)
        await world.say("jobs", *numbers(30), wish=wish)
        assert everything(members) == numbers(30)
        assert [len(member.got) for member in members] == [10, 10, 10]

    play(scene)


def test_who_acknowledges_faster_gets_more() -> None:
    async def scene(world: World) -> None:
        fast, slow = world.party(agent="fast"), world.party(agent="slow")
        for member in (fast, slow):
            join(world, member)
        for n in range(20):
            await world.say("jobs", b"%d" % n)
            world.ack(fast)
        assert len(fast.got) > len(slow.got)
        assert len(slow.flights) == len(slow.got)
        assert everything([fast, slow]) == numbers(20)

    play(scene)


def test_two_groups_and_an_ordinary_subscriber_each_get_every_message() -> None:
    async def scene(world: World) -> None:
        one, two, plain = world.party(agent="1"), world.party(agent="2"), world.party(agent="3")
        join(world, one)
        assert world.groups.share(two, "other", "jobs", wish=1) is None
        world.broker.subscribe(plain, "jobs")
        await world.say("jobs", *numbers(4))
        assert one.payloads() == two.payloads() == plain.payloads() == numbers(4)

    play(scene)


def test_a_member_gets_its_own_wish_and_identifier() -> None:
    async def scene(world: World) -> None:
        low, high = world.party(agent="low"), world.party(agent="high")
        join(world, low, wish=0, identifier=7)
        join(world, high, wish=2, identifier=8)
        await world.say("jobs", *numbers(2), wish=2)
        assert low.flights == []
        ((feed, _, qos),) = high.flights
        assert (qos, feed.identifiers) == (2, (8,))

    play(scene)


def test_one_without_credit_is_passed_over_and_when_none_has_any_the_place_is_kept() -> None:
    async def scene(world: World) -> None:
        small, large = world.party(agent="small", window=2), world.party(agent="large", window=5)
        for member in (small, large):
            join(world, member, filter_="jobs/+")
        for n in range(20):
            await world.say(f"jobs/{n % 2}", b"%d" % n)
        assert (len(small.got), len(large.got)) == (2, 5)
        for _ in range(20):
            world.ack(small)
            world.ack(large)
            await world.turn()
        assert everything([small, large]) == numbers(20)
        assert world.metrics.gaps == 0

    play(scene)


def test_a_publisher_s_order_is_kept_for_each_member() -> None:
    async def scene(world: World) -> None:
        members = [world.party(agent=f"m{n}", window=3) for n in range(3)]
        for member in members:
            join(world, member)
        await world.say("jobs", *numbers(40))
        for _ in range(40):
            for member in members:
                world.ack(member, 2)
                await world.turn()
        assert everything(members) == numbers(40)
        for member in members:
            order = [int(p or b"0") for p in member.payloads()]
            assert order == sorted(order)

    play(scene)


def test_the_last_member_s_leave_ends_the_share() -> None:
    async def scene(world: World) -> None:
        one, two = world.party(agent="1"), world.party(agent="2")
        join(world, one)
        join(world, two)
        world.groups.unshare(one, "crew", "jobs")
        await world.say("jobs", b"1")
        assert (one.got, two.payloads()) == ([], [b"1"])
        world.groups.unshare(two, "crew", "jobs")
        await world.say("jobs", b"2")
        assert (one.got, two.payloads()) == ([], [b"1"])
        assert list(world.groups.list_shares()) == []
        assert world.broker.core.filters.match("jobs") == ()

    play(scene)


# -- members that go -------------------------------------------------------------------------------


@pytest.mark.parametrize("told_first", ["broker", "flight"])
def test_what_a_member_that_died_had_not_acknowledged_goes_to_another(told_first: str) -> None:
    async def scene(world: World) -> None:
        dies, lives = world.party(agent="dies"), world.party(agent="lives")
        join(world, dies)
        join(world, lives)
        await world.say("jobs", *numbers(10))
        world.ack(dies, 2)
        flights = list(dies.flights)
        assert len(flights) == 3
        # The session may hand back its flights before or after the broker hears that it is gone.
        if told_first == "broker":
            world.leave(dies)
        for feed, message, _ in flights:
            assert feed.group is not None
            feed.group.returned(message)
        if told_first == "flight":
            world.leave(dies)
        await world.turn()
        assert len(lives.got) == 5 + 3
        assert {m.payload for _, m, _ in flights} <= set(lives.payloads())
        assert world.metrics.redelivered == 3
        world.ack(lives)
        await world.turn()
        assert only_share(world).statistics()["inflight"] == 0

    play(scene)


def test_returned_messages_wait_for_room_and_go_before_newer_ones() -> None:
    async def scene(world: World) -> None:
        dies, lives = world.party(agent="dies", window=3), world.party(agent="lives", window=1)
        join(world, dies)
        join(world, lives)
        await world.say("jobs", *numbers(4))
        returned = [m.payload for _, m, _ in dies.flights]
        assert len(returned) == 3
        world.leave(dies)
        await world.say("jobs", b"4")
        assert only_share(world).statistics()["returned"] == 3
        for _ in range(5):
            world.ack(lives)
            await world.turn()
        assert lives.payloads()[1:] == [*returned, b"4"]

    play(scene)


def test_a_returned_message_goes_before_one_that_comes_in_the_same_turn() -> None:
    async def scene(world: World) -> None:
        dies, lives = world.party(agent="dies", window=1), world.party(agent="lives", window=0)
        join(world, dies)
        join(world, lives)
        await world.say("jobs", b"old")
        lives.window = 10
        world.resume(lives)
        world.leave(dies)
        world.broker.publish(world.writer, Message("jobs", b"new", 0))
        await world.turn()
        assert lives.payloads() == [b"old", b"new"]

    play(scene)


def test_returned_messages_of_a_live_share_are_bounded_and_counted() -> None:
    async def scene(world: World) -> None:
        dies, lives = world.party(agent="dies", window=5), world.party(agent="lives", window=1)
        join(world, dies)
        join(world, lives)
        await world.say("jobs", *numbers(6))
        world.leave(dies)
        assert world.metrics.dropped == {"share-returned-full": 3}
        assert only_share(world).statistics()["returned"] == 2

    play(scene, lambda: World(settings=GroupSettings(share_returned_max=2)))


def test_a_delivery_of_qos_2_stays_with_its_member() -> None:
    async def scene(world: World) -> None:
        away, lives = world.party(agent="away"), world.party(agent="lives")
        join(world, away, wish=2, kept=True)
        join(world, lives, wish=2)
        await world.say("jobs", *numbers(4), wish=2)
        flights = list(away.flights)
        assert [qos for _, _, qos in flights] == [2, 2]
        world.leave(away)
        await world.turn()
        assert len(lives.got) == 2, "nobody else gets what may have been received"
        back = world.party(agent="away")
        join(world, back, wish=2, kept=True)
        for feed, message, _ in flights:
            assert feed.group is not None
            feed.group.settled(message)
        world.ack(lives)
        await world.turn()
        share = only_share(world)
        assert share.statistics()["inflight"] == 0
        assert world.low() == world.log.end()

    play(scene)


@pytest.mark.parametrize("how", ["ended", "unshared"])
def test_a_delivery_of_qos_2_whose_session_ends_holds_up_nothing(how: str) -> None:
    async def scene(world: World) -> None:
        ends, lives = world.party(agent="ends"), world.party(agent="lives")
        join(world, ends, wish=2, kept=True)
        join(world, lives, wish=2, kept=True)
        await world.say("jobs", *numbers(4), wish=2)
        world.ack(lives)
        if how == "ended":
            world.leave(ends)
            world.groups.ended("ends")
        else:
            world.groups.unshare(ends, "crew", "jobs")
            world.leave(ends)
        await world.turn()
        assert len(lives.got) == 2
        assert world.low() == world.log.end()

    play(scene)


def test_a_session_that_skips_a_message_settles_it_within_the_delivery() -> None:
    async def scene(world: World) -> None:
        class Skips(Party):
            def deliver(self, feed: Any, message: Message) -> bool:
                feed.group.settled(message)
                return True

        skips = Skips(agent="skips")
        world.broker.attach(skips)
        join(world, skips, kept=True)
        await world.say("jobs", *numbers(3))
        assert only_share(world).statistics()["inflight"] == 0
        assert world.low() == world.log.end()

    play(scene)


# -- kept members ----------------------------------------------------------------------------------


def test_without_kept_members_there_is_nothing_to_wait_for() -> None:
    async def scene(world: World) -> None:
        member = world.party(agent="m")
        join(world, member)
        world.leave(member)
        await world.say("jobs", b"missed")
        back = world.party(agent="m")
        join(world, back)
        assert back.got == []
        assert list(world.log.rows(Table.CURSORS)) == []

    play(scene)


def test_messages_wait_for_a_kept_member_and_the_present_are_preferred() -> None:
    async def scene(world: World) -> None:
        sleeper, visitor = world.party(agent="sleeper"), world.party(agent="visitor")
        join(world, sleeper, kept=True)
        join(world, visitor)
        world.leave(sleeper)
        await world.say("jobs", b"0", b"1")
        assert visitor.payloads() == [b"0", b"1"]
        world.ack(visitor)
        world.leave(visitor)
        await world.say("jobs", b"2", b"3")
        await world.say("jobs", b"reading", wish=0)
        assert world.metrics.dropped == {"share-without-member": 1}
        back = world.party(agent="sleeper")
        join(world, back, kept=True)
        await world.turn()
        assert back.payloads() == [b"2", b"3"]

    play(scene)


def test_what_a_kept_member_held_waits_when_nobody_else_is_there() -> None:
    async def scene(world: World) -> None:
        sleeper = world.party(agent="sleeper")
        join(world, sleeper, kept=True)
        await world.say("jobs", *numbers(3))
        world.ack(sleeper, 1)
        world.leave(sleeper)
        await world.turn()
        back = world.party(agent="sleeper")
        join(world, back, kept=True)
        await world.turn()
        assert back.payloads() == [b"1", b"2"]
        assert world.metrics.redelivered == 2

    play(scene)


def test_a_second_connection_of_a_member_takes_its_place() -> None:
    async def scene(world: World) -> None:
        first = world.party(agent="m")
        join(world, first, kept=True)
        await world.say("jobs", b"0")
        second = world.party(agent="m")
        join(world, second, kept=True)
        world.leave(first)
        await world.say("jobs", b"1")
        assert second.payloads() == [b"0", b"1"]
        assert only_share(world).statistics()["members"] == 1

    play(scene)


def test_a_share_with_kept_members_outlives_the_process(worlds: Any) -> None:
    async def scene(world: World) -> None:
        sleeper, visitor = world.party(agent="sleeper"), world.party(agent="visitor")
        join(world, sleeper, filter_="jobs/+", kept=True)
        join(world, visitor, filter_="jobs/+")
        await world.say("jobs/a", *numbers(4))
        world.ack(visitor)
        world.ack(sleeper, 1)
        await world.turn()
        acknowledged = {m.payload for m in visitor.got} | {sleeper.got[0].payload}
        assert len(acknowledged) == 3
        world = await world.stopped()
        await world.say("jobs/b", b"4")
        share = only_share(world)
        assert share.statistics() == {"members": 1, "connected": 0, "inflight": 0, "returned": 0, "durable": 1}
        back = world.party(agent="sleeper")
        join(world, back, filter_="jobs/+", kept=True)
        await world.turn()
        assert back.payloads() == [p for p in numbers(5) if p not in acknowledged]
        world.ack(back)
        await world.turn()
        world.leave(back)
        world.groups.ended("sleeper")
        world = await world.stopped()
        assert list(world.groups.list_shares()) == []
        assert list(world.log.rows(Table.GROUPS)) == []
        assert list(world.log.rows(Table.CURSORS)) == []
        await world.broker.log.close()

    play(scene, worlds)


def test_a_member_whose_kept_session_expires_away_is_no_member() -> None:
    async def scene(world: World) -> None:
        one, two = world.party(agent="1"), world.party(agent="2")
        join(world, one, kept=True)
        join(world, two, kept=True)
        world.leave(one)
        world.leave(two)
        world.groups.ended("1")
        await world.say("jobs", b"0")
        assert only_share(world).statistics()["members"] == 1
        world.groups.ended("2")
        assert list(world.groups.list_shares()) == []
        assert list(world.log.rows(Table.GROUPS)) == []

    play(scene)


def test_a_share_that_becomes_durable_loses_and_doubles_nothing() -> None:
    async def scene(world: World) -> None:
        small = world.party(agent="small", window=2)
        join(world, small)
        world.broker.subscribe(world.party(), "jobs")
        world.open("other")
        await world.say("jobs", *numbers(5))
        join(world, small, kept=True)
        await world.say("jobs", b"5", b"6")
        for _ in range(10):
            world.ack(small)
            await world.turn()
        assert small.payloads() == numbers(7)
        assert world.metrics.gaps == 0

    play(scene)


def test_a_message_that_comes_expired_is_held_by_nobody() -> None:
    async def scene(world: World) -> None:
        member = world.party(agent="m")
        join(world, member)
        await world.say("jobs", b"0", envelope=Envelope(expires_ms=world.clock.now_ms() - 1))
        assert member.got == []
        assert only_share(world).statistics()["inflight"] == 0

    play(scene)


def test_what_lags_from_before_goes_first_when_somebody_with_room_comes() -> None:
    async def scene(world: World) -> None:
        small, large = world.party(agent="small", window=2), world.party(agent="large")
        join(world, small)
        await world.say("jobs", *numbers(5))
        join(world, small, kept=True)
        await world.turn()
        world.broker.publish(world.writer, Message("jobs", b"5", 1))
        join(world, large)
        await world.turn()
        assert large.payloads() == [b"2", b"3", b"4", b"5"]

    play(scene)


def test_a_share_that_was_durable_once_does_not_go_on_where_it_was() -> None:
    async def scene(world: World) -> None:
        world.open("other")
        member = world.party(agent="m")
        join(world, member, kept=True)
        await world.say("jobs", b"0")
        world.ack(member)
        # Its session is kept no longer, so no row says that there is a share; then the process dies.
        world.groups.ended("m")
        world = await world.stopped()
        assert list(world.groups.list_shares()) == []
        await world.say("jobs", b"for nobody")
        member = world.party(agent="m")
        join(world, member, kept=True)
        await world.say("jobs", b"1")
        assert member.payloads() == [b"1"]

    play(scene)


def test_expired_messages_are_not_redelivered() -> None:
    async def scene(world: World) -> None:
        dies, lives = world.party(agent="dies", window=1), world.party(agent="lives", window=0)
        join(world, dies, kept=True)
        join(world, lives)
        await world.say("jobs", b"0", envelope=Envelope(expires_ms=world.clock.now_ms() + 50))
        assert dies.payloads() == [b"0"]
        world.leave(dies)
        await world.wait(100)
        lives.window = 1
        world.resume(lives)
        await world.turn()
        assert lives.got == []
        assert world.metrics.dropped == {"expired": 1}
        assert world.low() == world.log.end()

    play(scene)


# -- who may ---------------------------------------------------------------------------------------

RULES = GateSettings(
    default="deny",
    rules=(
        RuleSettings(effect="allow", who=("alice",), actions=("*",), filters=("#",)),
        RuleSettings(effect="allow", who=("bob",), actions=("read",), filters=("jobs/open",)),
    ),
)


def test_a_member_never_gets_what_it_may_not_read() -> None:
    async def scene(world: World) -> None:
        bob, alice = world.party(BOB, "b"), world.party(ALICE, "a")
        refusal = world.groups.share(bob, "crew", "secret", wish=1)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.NOT_AUTHORIZED
        join(world, bob, filter_="jobs/+")
        join(world, alice, filter_="jobs/+")
        for n in range(6):
            await world.say("jobs/hidden", b"%d" % n)
            await world.say("jobs/open", b"%d" % n)
        assert {m.name for m in bob.got} == {"jobs/open"}
        assert len([m for m in alice.got if m.name == "jobs/hidden"]) == 6
        world.ack(alice)
        world.leave(alice)
        await world.say("jobs/hidden", b"6")
        await world.say("jobs/open", b"7")
        assert bob.payloads()[-1] == b"7", "what he may not read does not hold up the rest"
        assert world.metrics.dropped["share-not-readable"] == 1

    play(scene, lambda: World(gate=RULES))


def test_shares_and_members_are_bounded() -> None:
    async def scene(world: World) -> None:
        join(world, world.party(agent="1"))
        for group in ("crew", "other"):
            refusal = world.groups.share(world.party(agent="2"), group, "jobs", wish=1)
            assert isinstance(refusal, Refusal)
            assert refusal.reason is Reason.QUOTA_EXCEEDED

    play(scene, lambda: World(settings=GroupSettings(shares_max=1, share_members_max=1)))

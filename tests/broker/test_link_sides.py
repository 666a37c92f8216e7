"""The two sides of a link on a broker driven by hand: what is pulled and pushed over failed commits and crashes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from manual_log import FAILED
from mesh_fakes import World

from dragoman.adapters.links.intake import HeldError, Intake
from dragoman.adapters.links.naming import Naming
from dragoman.adapters.links.outlet import Leaving, Outlet, forget_cursors
from dragoman.adapters.links.places import InOrder, Places
from dragoman.adapters.links.state import Phase, Standing
from dragoman.broker.channel import Keep
from dragoman.broker.principal import EMBEDDED, Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Reason, Refusal

LINK = Principal("link:out", frozenset(("links",)))


def standing(world: World) -> Standing:
    return Standing("out", "mqtt://there", world.clock, world.metrics)


def intake(world: World, counts: Standing | None = None, hops_max: int = 4) -> Intake:
    return Intake(
        world.broker, counts or standing(world), sender="link:out", principal=LINK, mesh="me", hops_max=hops_max
    )


def outlet(world: World, *filters: str, window: int = 4, counts: Standing | None = None) -> Outlet:
    made = Outlet(
        world.broker,
        counts or standing(world),
        [Naming("mesh", filter_, "{name}", "mqtt") for filter_ in filters],
        principal=LINK,
        sender="link:out",
        mesh="me",
        hops_max=4,
        window=window,
    )
    made.open()
    world.loop.run()
    return made


def keep(world: World, name: str) -> None:
    answer = world.broker.declare(world.party("owner", EMBEDDED), name, Keep.ALL)
    assert not isinstance(answer, Refusal), answer
    world.commit()


def said(name: str, *headers: tuple[str, bytes], hops: int = 0) -> Message:
    return Message(name, b"x", 1, "", False, Envelope(headers=headers, hops=hops))


async def ready(out: Outlet, most: int = 100) -> list[Leaving]:
    return await out.batch(most)


def spoken(items: list[Leaving]) -> list[bytes | None]:
    return [item.message.payload for item in items]


# -- in ----------------------------------------------------------------------------------------------


def test_what_is_pulled_is_acknowledged_once_it_is_safe():
    world = World()

    async def main() -> None:
        keep(world, "t")
        counts = standing(world)
        inside = intake(world, counts)
        failed = inside.begin()
        done: list[int] = []
        await inside.take(said("t"), lambda: done.append(1))
        await inside.take(said("free"), lambda: done.append(2))
        assert done == [2], "what no log keeps is as safe as it will be"
        assert inside.waiting == 1
        world.commit()
        assert done == [2, 1]
        assert (inside.waiting, counts.pulled, failed.done()) == (0, 2, False)

    asyncio.run(main())


def test_a_failed_commit_is_not_acknowledged_and_its_places_are_taken_back():
    world = World()

    async def main() -> None:
        keep(world, "t")
        inside = intake(world)
        places = Places(world.log, "out")
        inside.undo = places.roll_back
        failed = inside.begin()
        line: InOrder[int] = InOrder(lambda after: places.confirm("s", after))
        done = line.enter(1)
        await inside.take(said("t"), done, beside=lambda: places.put("s", 1))
        world.commit()
        assert places.get("s") == 1
        await inside.take(said("t"), line.enter(2), beside=lambda: places.put("s", 2))
        world.refuse()
        assert failed.result() is FAILED
        assert inside.waiting == 0
        assert places.get("s") == 1
        world.commit()

    asyncio.run(main())
    assert Places(world.after_crash().log, "out").get("s") == 1, "the rows that rode on say so too"


def test_a_place_is_in_the_commit_of_its_message():
    world = World()

    async def main() -> None:
        keep(world, "t")
        inside = intake(world)
        inside.begin()
        places = Places(world.log, "out")
        await inside.take(said("t"), lambda: None, beside=lambda: places.put("s", 8))

    asyncio.run(main())
    crashed = world.after_crash()
    assert Places(crashed.log, "out").get("s") is None
    assert crashed.log.safe == []
    world.commit()
    crashed = world.after_crash()
    assert Places(crashed.log, "out").get("s") == 8
    assert len(crashed.log.safe) == 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (said("t", ("mesh-via", b"you,me")), "link-loop"),
        (said("t", hops=4), "link-hops"),
        (said("mesh/call/a/b"), "link-name"),
        (said("$mesh/v1/x"), "link-not-authorized"),
        (said("a/+/b"), "link-name-invalid"),
    ],
)
def test_what_is_not_taken_is_counted_and_acknowledged(message: Message, reason: str):
    world = World()

    async def main() -> None:
        counts = standing(world)
        inside = intake(world, counts)
        inside.begin()
        done: list[int] = []
        await inside.take(message, lambda: done.append(1), beside=lambda: done.append(2))
        assert done == [2, 1]
        assert counts.dropped == {reason: 1}
        assert world.metrics.dropped[reason] == 1

    asyncio.run(main())


def test_a_message_is_taken_once_whatever_links_it_comes_by():
    world = World()

    async def main() -> None:
        first, second = standing(world), standing(world)
        ways = intake(world, first), intake(world, second)
        for way in ways:
            way.begin()
            await way.take(said("t", ("mesh-origin", b"you/1-1")), lambda: None)
        assert (first.pulled, second.pulled, second.duplicates) == (1, 0, 1)
        await ways[1].take(said("other", ("mesh-origin", b"you/1-1")), lambda: None)
        assert second.pulled == 1, "in another channel it is another message"

    asyncio.run(main())


def test_a_log_that_takes_nothing_ends_the_connection_and_a_rate_waits():
    world = World()

    async def main() -> None:
        keep(world, "t")
        counts = standing(world)
        inside = intake(world, counts)
        inside.begin()
        world.log.full = Refusal(Reason.STORAGE_FULL, "full")
        with pytest.raises(HeldError, match="full"):
            await inside.take(said("t"), lambda: None)
        assert counts.dropped == {}
        inside.hush()
        world.log.full = None
        taking = asyncio.ensure_future(inside.take(said("t"), lambda: None))
        await asyncio.sleep(0.05)
        assert not taking.done(), "it takes no more"
        taking.cancel()

    asyncio.run(main())


def test_the_window_holds_back():
    world = World()

    async def main() -> None:
        keep(world, "t")
        inside = intake(world)
        inside.begin()
        for _ in range(2):
            await inside.take(said("t"), lambda: None, most=2)
        third = asyncio.ensure_future(inside.take(said("t"), lambda: None, most=2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not third.done()
        world.commit()
        await third
        assert inside.waiting == 1

    asyncio.run(main())


def test_things_done_in_any_order_are_told_in_theirs():
    told: list[str] = []
    line: InOrder[str] = InOrder(told.append)
    done: list[Callable[[], None]] = [line.enter(name) for name in "abc"]
    done[1]()
    assert told == []
    done[0]()
    assert told == ["a", "b"]
    done[2]()
    assert told == ["a", "b", "c"]


# -- out ---------------------------------------------------------------------------------------------


def test_what_is_pushed_goes_on_at_the_first_not_acknowledged_after_a_crash():
    world = World()

    async def main() -> None:
        out = outlet(world, "t/#")
        world.commit()
        teller = world.party()
        for number in range(6):
            teller.say("t/x", b"%d" % number, wish=1)
        world.commit()
        assert out.open_count == 0, "nothing before a connection"
        out.begin("")
        world.commit()
        assert out.open_count == 4, "no more than the window"
        first = await ready(out)
        assert spoken(first) == [b"0", b"1", b"2", b"3"]
        out.settle(first[1])
        out.settle(first[0])
        world.commit()
        assert spoken(await ready(out)) == [b"4", b"5"]
        world.broker.backlogs.flush()
        world.commit()

    async def go_on(after: World) -> None:
        out = outlet(after, "t/#")
        out.begin("")
        after.loop.run()
        assert spoken(await ready(out)) == [b"2", b"3", b"4", b"5"]

    asyncio.run(main())
    asyncio.run(go_on(world.after_crash()))


def test_a_new_connection_sends_again_what_is_not_acknowledged_in_order():
    world = World()

    async def main() -> None:
        counts = standing(world)
        out = outlet(world, "t/#", counts=counts)
        world.commit()
        out.begin("")
        world.commit()
        teller = world.party()
        for number in range(3):
            teller.say("t/x", b"%d" % number, wish=1)
            world.commit()
            teller.say("t/free", b"once", wish=0)
        sent = [await out.next() for _ in range(2)]
        assert spoken(sent) == [b"0", b"once"]
        out.end()
        assert counts.dropped == {"link-down": 1}, "what was said at most once was perhaps said"
        teller.say("t/x", b"3", wish=1)
        world.commit()
        out.begin("")
        world.commit()
        assert spoken(await ready(out)) == [b"0", b"1", b"once", b"2"]
        out.settle(sent[1])
        assert counts.pushed == 0, "an acknowledgement that comes too late finds nothing"

    asyncio.run(main())


def test_what_goes_out_says_where_it_was_and_what_must_not_does_not():
    world = World()

    async def main() -> None:
        counts = standing(world)
        out = outlet(world, "t/#", window=100, counts=counts)
        world.commit()
        out.begin("far")
        world.commit()
        teller, pulled = world.party("ann"), intake(world)
        pulled.begin()
        await pulled.take(said("t/x"), lambda: None)
        for headers in ((("mesh-via", b"me"),), (("mesh-via", b"far,you"),)):
            world.broker.publish(teller, said("t/x", *headers))
        world.broker.publish(teller, said("t/x", hops=4))
        world.broker.publish(
            teller, said("t/x", ("a", b"1"), ("mesh-via", b"you"), ("mesh-origin", b"you/1-1"), hops=1)
        )
        last = said("t/y")
        world.broker.publish(teller, last)
        world.commit()
        told, plain = await ready(out)
        assert told.envelope.headers == (("a", b"1"), ("mesh-origin", b"you/1-1"), ("mesh-via", b"you,me"))
        assert told.envelope.hops == 2
        assert plain.envelope.headers == (("mesh-via", b"me"), ("mesh-origin", f"me/{last.id}".encode()))
        assert plain.name == "t/y"
        assert counts.dropped == {"link-hops": 1}
        for item in (told, plain):
            out.settle(item)
        world.commit()
        assert out.lag == 0, "what did not go out is done with too"

    asyncio.run(main())


def test_expired_messages_do_not_go_out():
    world = World()

    async def main() -> None:
        counts = standing(world)
        out = outlet(world, "t", counts=counts)
        world.commit()
        out.begin("")
        world.commit()
        teller = world.party()
        teller.say("t", b"short", wish=1, expires_ms=world.clock.now_ms() + 1_000)
        teller.say("t", b"long", wish=1)
        world.commit()
        world.clock.advance(2_000)
        assert spoken(await ready(out)) == [b"long"]
        assert counts.dropped == {"expired": 1}

    asyncio.run(main())


def test_places_of_links_that_are_no_more_keep_nothing():
    world = World(BrokerSettings())
    out = outlet(world, "t/#")
    world.commit()
    world.party().say("t/x", b"0", wish=1)
    world.commit()
    out.shut()
    world.broker.backlogs.flush()
    world.commit()
    after = world.after_crash()
    forget_cursors(after.broker, {"another"})
    after.commit()
    assert outlet(after, "t/#").lag == 0


# -- how it stands -----------------------------------------------------------------------------------


def test_each_change_is_said_once(caplog: pytest.LogCaptureFixture):
    world = World()
    counts = standing(world)
    with caplog.at_level(logging.INFO, "dragoman.links"):
        for error in ("refused", "refused", "no such host"):
            counts.connecting()
            counts.down(error)
        counts.connecting()
        counts.up()
        counts.down("refused")
    assert [record.getMessage() for record in caplog.records] == [
        "link out is down: refused",
        "link out is down: no such host",
        "link out is up: mqtt://there",
        "link out is down: refused",
    ]
    counts.stopped()
    assert counts.phase is Phase.STOPPED
    with pytest.raises(AssertionError, match="stopped → connecting"):
        counts.connecting()

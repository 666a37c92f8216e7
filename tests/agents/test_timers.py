from __future__ import annotations

import random

from agents_world import World

from dragoman.broker.log.contract import Table
from dragoman.broker.timers import FIRED_PER_TURN_MAX
from dragoman.routing.refusals import Reason, Refusal


def test_deadlines_run_in_order_of_time_and_then_of_setting() -> None:
    world = World()
    ran: list[str] = []
    world.timers.after(20, ran.append, "late")
    world.timers.after(10, ran.append, "first")
    world.timers.after(10, ran.append, "second")
    world.wait(9)
    assert ran == []
    world.wait(100)
    assert ran == ["first", "second", "late"]
    assert len(world.timers) == 0


def test_a_cancelled_one_does_not_run_and_an_earlier_one_is_not_overslept() -> None:
    world = World()
    ran: list[int] = []
    far = world.timers.after(1_000_000, ran.append, 1)
    near = world.timers.after(5, ran.append, 2)
    far.cancel()
    far.cancel()
    world.wait(10)
    assert ran == [2]
    assert not near.pending
    near.cancel()
    assert len(world.timers) == 0


def test_one_loop_timer_serves_all() -> None:
    world = World()
    for delay in range(1, 200):
        world.timers.after(delay, lambda: None)
        assert len(world.alarms) == 1


def test_a_burst_does_not_hold_the_loop() -> None:
    world = World()
    ran: list[int] = []
    for i in range(FIRED_PER_TURN_MAX + 7):
        world.timers.after(1, ran.append, i)
    world.clock.advance(5)
    assert world.timers.run_due() == FIRED_PER_TURN_MAX
    assert len(ran) == FIRED_PER_TURN_MAX
    world.wait(10)
    assert ran == list(range(FIRED_PER_TURN_MAX + 7))


def test_cancelled_deadlines_do_not_pile_up() -> None:
    world = World()
    rng = random.Random(7)
    kept: list[int] = []
    for i in range(20_000):
        timer = world.timers.after(1_000 + rng.randrange(1_000), kept.append, i)
        if i % 100:
            timer.cancel()
    assert len(world.timers) == 200
    assert len(world.timers._heap) < 3_000
    world.wait(5_000)
    assert len(kept) == 200


def test_a_timer_set_within_a_timer_runs() -> None:
    world = World()
    ran: list[str] = []
    world.timers.after(1, lambda: world.timers.after(1, ran.append, "inner"))
    world.wait(10)
    assert ran == ["inner"]


def test_one_that_fails_does_not_stop_the_others() -> None:
    world = World()
    ran: list[str] = []
    world.timers.after(1, lambda: 1 // 0)
    world.timers.after(2, ran.append, "next")
    world.clock.advance(10)
    try:
        world.timers.run_due()
    except ZeroDivisionError:
        ran.append("failed")
    world.wait(10)
    assert ran == ["failed", "next"]


def test_a_kept_deadline_outlives_a_restart_and_happens_once() -> None:
    world = World()
    ran: list[tuple[bytes, bytes]] = []
    world.timers.on(1, lambda key, payload: ran.append((key, payload)))
    world.timers.keep(b"a", world.clock.now_ms() + 1_000, 1, b"payload")
    world.timers.keep(b"b", world.clock.now_ms() + 9_000, 1)
    world.clock.advance(5_000)
    world = world.after_crash()
    world.timers.on(1, lambda key, payload: ran.append((key, payload)))
    world.timers.start()
    assert ran == []
    world.wait(10)
    assert ran == [(b"a", b"payload")]
    world.wait(5_000)
    assert ran == [(b"a", b"payload"), (b"b", b"")]
    assert not list(world.log.rows(Table.TIMERS))


def test_keeping_again_replaces_and_forgetting_forgets() -> None:
    world = World()
    ran: list[bytes] = []
    world.timers.on(1, lambda key, payload: ran.append(payload))
    world.timers.keep(b"k", world.clock.now_ms() + 10, 1, b"old")
    world.timers.keep(b"k", world.clock.now_ms() + 50, 1, b"new")
    world.timers.keep(b"x", world.clock.now_ms() + 10, 1, b"forgotten")
    world.timers.forget(b"x")
    world.wait(20)
    assert ran == []
    world.wait(100)
    assert ran == [b"new"]


def test_a_deadline_may_be_kept_again_from_within() -> None:
    world = World()
    ran: list[int] = []

    def again(key: bytes, payload: bytes) -> None:
        ran.append(world.clock.now_ms())
        if len(ran) < 3:
            world.timers.keep(key, world.clock.now_ms() + 100, 1)

    world.timers.on(1, again)
    world.timers.keep(b"k", world.clock.now_ms() + 100, 1)
    world.wait(1_000)
    assert len(ran) == 3
    assert not list(world.log.rows(Table.TIMERS))


def test_a_kept_deadline_follows_the_wall_clock_when_that_is_set_back() -> None:
    world = World()
    ran: list[bytes] = []
    world.timers.on(1, lambda key, payload: ran.append(key))
    world.timers.keep(b"k", world.clock.now_ms() + 1_000, 1)
    world.clock._now_ms -= 5_000
    world.wait(2_000)
    assert ran == []
    world.wait(5_000)
    assert ran == [b"k"]


def test_rows_of_an_unknown_kind_are_left_alone() -> None:
    world = World()
    world.timers.on(77, lambda key, payload: None)
    world.timers.keep(b"k", world.clock.now_ms() - 5, 77)
    world = world.after_crash()
    assert world.timers.start() == 1
    world.wait(1_000)
    assert len(list(world.log.rows(Table.TIMERS))) == 1


def test_durable_deadlines_are_bounded() -> None:
    world = World()
    world.timers._durable_max = 2
    world.timers.on(1, lambda key, payload: None)
    assert not isinstance(world.timers.keep(b"1", 1, 1), Refusal)
    assert not isinstance(world.timers.keep(b"2", 1, 1), Refusal)
    assert not isinstance(world.timers.keep(b"2", 2, 1), Refusal)
    refusal = world.timers.keep(b"3", 1, 1)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.QUOTA_EXCEEDED

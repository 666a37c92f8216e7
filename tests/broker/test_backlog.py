"""Durable readers: a place in commit order, what is done above it, behind, caught up, and what is freed behind them."""

from __future__ import annotations

from collections import deque

import pytest
from mesh_fakes import World, words

from dragoman.broker.backlog import SCAN_BYTES
from dragoman.broker.channel import FANOUT_MAX, Keep
from dragoman.broker.log.contract import Table
from dragoman.broker.rows import CursorRow, decode_row
from dragoman.broker.settings import BrokerSettings

QUICK = BrokerSettings(sweep_ms=1_000, channel_idle_ms=600_000)


def say(world: World, name: str, *payloads: bytes) -> None:
    alice = world.party("alice")
    for payload in payloads:
        alice.say(name, payload, wish=1)
    world.commit()
    alice.end()


def kept(world: World) -> list[bytes | None]:
    return [message.payload for message in world.log.safe]


def again(world: World, key: bytes, credit: int = 1_000_000):
    """The same reader after a crash."""
    after = world.after_crash()
    return after, after.durable(key, credit=credit)


def test_a_reader_gets_what_matches_from_now_on_in_commit_order():
    world = World()
    world.broker.declare(world.party(), "c/1", Keep.ALL)
    say(world, "c/1", b"before")
    reader = world.durable(b"d", "c/+", "x")
    alice = world.party("alice")
    for name in ("c/1", "x", "c/2", "other", "c/1"):
        alice.say(name, name.encode(), wish=1)
    alice.say("c/1", b"not logged, or is it: c/1 keeps all")
    world.commit()
    assert reader.payloads == [b"c/1", b"x", b"c/2", b"c/1", b"not logged, or is it: c/1 keeps all"]


def test_a_filter_added_later_does_not_see_what_was_before():
    world = World()
    world.durable(b"other", "#")
    reader = world.durable(b"d", "a", credit=0)
    say(world, "a", b"a1")
    say(world, "b", b"b1")
    reader.backlog.watch("b")
    reader.backlog.watch("a")
    say(world, "b", b"b2")
    reader.give(100)
    assert reader.payloads == [b"a1", b"b2"]


def test_what_comes_while_it_is_behind_is_read_from_the_log_once():
    world = World()
    reader = world.durable(b"d", "#", credit=2)
    say(world, "a", *words(5))
    assert reader.backlog.behind
    say(world, "b", b"5")
    reader.give(1)
    say(world, "a", b"6")
    reader.give(100)
    assert not reader.backlog.behind
    say(world, "b", b"7")
    assert reader.payloads == words(8)


def test_a_long_way_is_read_in_pieces_over_turns():
    world = World()
    reader = world.durable(b"d", "#", credit=0)
    say(world, "a", *[b"." * (SCAN_BYTES // 4) for _ in range(20)])
    reader.credit = 1_000
    before = world.log.reads
    reader.backlog.resume()
    assert world.log.reads == before + 1
    world.loop.run()
    assert len(reader.got) == 20
    assert world.log.reads > before + 4


def test_a_feed_that_lags_in_one_channel_costs_nothing_in_another():
    """The trap: a reader told through its live feeds would pass the lagging channel's message for good."""
    world = World()
    reader = world.durable(b"d", "#")
    slow = [world.party(credit=0) for _ in range(2)]
    for party in slow:
        party.read("#")
    alice = world.party("alice")
    alice.say("a", b"unlogged, so the feeds lag")
    alice.say("a", b"1", wish=1)
    alice.say("b", b"2", wish=1)
    world.commit()
    assert reader.payloads == [b"1", b"2"]
    many = [world.party() for _ in range(FANOUT_MAX + 1)]
    for party in many:
        party.read("a")
    alice.say("a", b"3", wish=1)
    alice.say("b", b"4", wish=1)
    world.commit()
    assert reader.payloads == [b"1", b"2", b"3", b"4"]


# -- place and restart -------------------------------------------------------------------------------


def test_after_a_restart_what_was_not_finished_comes_again_and_what_was_does_not():
    world = World()
    reader = world.durable(b"d", "#")
    say(world, "a", *words(6))
    reader.finish(0, 1, 3, 5)
    world.advance(200)
    assert (reader.backlog.low, reader.backlog.done_count) == (reader.got[2].position, 2)
    after, reader = again(world, b"d")
    assert reader.payloads == [b"2", b"4"]
    say(after, "a", b"6")
    assert reader.payloads == [b"2", b"4", b"6"]
    after.check()


def test_what_is_finished_between_two_flushes_comes_again_only_after_a_crash():
    world = World()
    reader = world.durable(b"d", "#")
    say(world, "a", *words(3))
    world.advance(200)
    reader.finish(0)
    assert again(world, b"d")[1].payloads == words(3)
    world.broker.backlogs.flush()
    world.commit()
    assert again(world, b"d")[1].payloads == words(2, 1)


def test_the_low_mark_rises_when_the_oldest_is_finished_and_forgets_what_is_below():
    world = World()
    reader = world.durable(b"d", "#")
    say(world, "a", *words(4))
    reader.finish(1, 2)
    assert (reader.backlog.done_count, reader.backlog.open_count) == (2, 2)
    reader.finish(0)
    assert (reader.backlog.done_count, reader.backlog.open_count) == (0, 1)
    assert reader.backlog.low == reader.got[3].position
    reader.finish(3, 3)
    assert reader.backlog.low == world.log.end()
    world.check()


def test_what_is_open_and_done_together_is_bounded():
    world = World(BrokerSettings(cursor_done_max=5))
    reader = world.durable(b"d", "#")
    say(world, "a", *words(20))
    for index in range(1, 5):
        reader.finish(index)
    reader.give(0)
    assert len(reader.got) == 5, "the first was never finished: the set above it would grow for good"
    reader.finish(0)
    reader.give(0)
    assert len(reader.got) == 10
    world.check()


def test_a_reader_that_went_away_goes_on_and_gets_no_answer_meant_for_its_earlier_self():
    world = World()
    reader = world.durable(b"d", "#", credit=0)
    say(world, "a", *words(3))
    world.log.held_reads = deque()
    reader.give(2)
    reader.backlog.pause()
    reader.credit = 100
    reader.backlog.resume()
    while world.log.answer():
        world.loop.run()
    assert reader.payloads == words(3)
    world.check()


def test_a_reader_that_ended_while_the_log_was_read_is_offered_nothing():
    world = World()
    reader = world.durable(b"d", "#", credit=0)
    say(world, "a", *words(3))
    world.log.held_reads = deque()
    reader.give(10)
    world.broker.backlogs.close(reader.backlog)
    while world.log.answer():
        world.loop.run()
    assert reader.got == []


def test_two_readers_have_each_their_place():
    world = World()
    one, two = world.durable(b"1", "#"), world.durable(b"2", "a", credit=1)
    say(world, "a", *words(3))
    one.finish(0, 1, 2)
    two.finish(0)
    world.broker.backlogs.flush()
    world.commit()
    after = world.after_crash()
    assert after.durable(b"1").payloads == []
    assert after.durable(b"2").payloads == words(2, 1)


def test_messages_that_expired_while_it_was_away_are_passed_over_and_counted():
    world = World()
    reader = world.durable(b"d", "#", credit=0)
    alice = world.party("alice")
    alice.say("a", b"old", wish=1, expires_ms=world.clock.now_ms() + 100)
    alice.say("a", b"lasting", wish=1)
    world.commit()
    world.advance(100)
    reader.give(10)
    assert reader.payloads == [b"lasting"]
    assert world.metrics.dropped == {"expired": 1}
    reader.finish(0)
    assert reader.backlog.low == world.log.end()


def test_the_end_of_a_reader_takes_its_place_and_filters():
    world = World(QUICK)
    reader = world.durable(b"d", "#", credit=0)
    say(world, "a", b"1")
    world.broker.backlogs.close(reader.backlog)
    world.sweep(2)
    assert list(world.log.rows(Table.CURSORS)) == []
    assert kept(world) == []
    assert world.party("alice").say("a", b"2", wish=1) == 0


# -- what is freed -----------------------------------------------------------------------------------


def test_what_a_reader_finishes_after_its_end_leaves_nothing_behind():
    world = World()
    reader = world.durable(b"d", "a")
    say(world, "a", b"1")
    world.broker.backlogs.close(reader.backlog)
    world.commit()
    reader.finish(0)
    world.broker.backlogs.flush()
    world.commit()
    assert list(world.log.rows(Table.CURSORS)) == []
    world.check()


def test_what_all_have_passed_is_freed_and_what_one_still_needs_is_not():
    world = World(QUICK)
    quick, slow = world.durable(b"1", "#"), world.durable(b"2", "a", credit=1)
    say(world, "a", *words(10))
    quick.finish(*range(10))
    world.sweep(2)
    assert kept(world) == words(10), "the slow one has not finished the first"
    slow.finish(0)
    world.sweep(2)
    assert kept(world) == words(9, 1)
    slow.give(100)
    slow.finish(*range(1, 10))
    world.sweep(2)
    assert kept(world) == []
    assert world.log.bytes_used() == 0


def test_a_reader_away_holds_back_its_own_channels_only():
    world = World(QUICK)
    world.durable(b"away", "rare", credit=0)
    busy = world.durable(b"busy", "busy")
    say(world, "rare", b"waits for years")
    for n in range(50):
        say(world, "busy", b"." * 1_000)
        busy.finish(n)
        world.sweep()
    assert kept(world) == [b"waits for years"]


def test_an_idle_reader_holds_back_nothing_it_does_not_want():
    world = World(QUICK)
    reader = world.durable(b"d", "+/wanted")
    other = world.durable(b"o", "#")
    say(world, "a/wanted", b"1")
    reader.finish(0)
    say(world, "a/other", *words(5))
    # Its row says so: after a crash its scan does not begin at the last message it wanted.
    world.advance(200)
    data = world.log.safe_rows[Table.CURSORS, b"d"]
    assert decode_row(data, CursorRow).low == world.log.end()
    other.finish(*range(6))
    world.sweep(2)
    assert kept(world) == []


def test_declared_channels_keep_what_readers_have_passed():
    world = World(QUICK)
    reader = world.durable(b"d", "#")
    world.broker.declare(world.party(), "a", Keep.ALL)
    say(world, "a", *words(3))
    reader.finish(0, 1, 2)
    world.sweep(2)
    assert kept(world) == words(3)


def test_freeing_never_takes_what_a_failed_or_open_commit_may_still_bring():
    world = World(QUICK)
    reader = world.durable(b"d", "#", credit=0)
    alice = world.party("alice")
    alice.say("a", b"1", wish=1)
    world.commit()
    alice.say("a", b"2", wish=1)
    world.loop.advance(2_000)
    world.commit()
    reader.give(10)
    assert reader.payloads == [b"1", b"2"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_failed_commit_is_offered_to_nobody(crash: bool):
    world = World()
    reader = world.durable(b"d", "#")
    alice = world.party("alice")
    alice.say("a", b"1", wish=1)
    world.refuse()
    alice.say("a", b"2", wish=1)
    world.commit()
    if crash:
        world, reader = again(world, b"d")
    assert reader.payloads == [b"2"]

"""Order, time, visibility and what a failed commit leaves: one channel and its commits."""

from __future__ import annotations

from mesh_fakes import ALICE, BOB, FAILED, World

from dragoman.broker.channel import RESERVE, Keep
from dragoman.broker.log.contract import DONE, Table
from dragoman.broker.rows import channel_key
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.message import Message
from dragoman.routing.refusals import Reason, Refusal


def test_offsets_count_from_zero_and_time_never_goes_back():
    world = World()
    alice, reader = world.party("alice"), world.party()
    reader.read("a")
    for step_ms in (5, -3_000, 1):
        world.clock._now_ms += step_ms
        assert alice.say("a", b"x") == DONE
    assert reader.offsets == [0, 1, 2]
    times = [m.time_ms for m in reader.got]
    assert times[0] == times[1] == times[2], "the clock was set back: time stands still until it has caught up"
    assert {m.number for m in reader.got} == {world.channel("a").number}
    assert {m.sender for m in reader.got} == {"alice"}
    world.check()


def test_a_message_that_is_logged_is_seen_and_told_after_its_commit_only():
    world = World()
    alice, reader = world.party("alice"), world.party()
    world.broker.declare(alice, "a", Keep.ACKED)
    world.commit()
    reader.read("a")
    ticket = alice.say("a", b"1", wish=1)
    assert isinstance(ticket, int)
    assert ticket > 0
    world.loop.run()
    world.check()
    assert (reader.got, alice.safe_up_to, world.broker.last_of("a")) == ([], 0, None)
    world.commit()
    assert reader.payloads == [b"1"]
    assert alice.safe_up_to == ticket
    assert alice.told == 1


def test_nothing_is_seen_before_an_earlier_offset_that_waits():
    world = World()
    alice, reader = world.party("alice"), world.party()
    world.broker.declare(alice, "a", Keep.ACKED)
    reader.read("a")
    reader.read("b")
    world.commit()
    alice.say("a", b"logged", wish=1)
    world.log.split()
    assert alice.say("a", b"behind it") == DONE
    alice.say("a", b"logged later", wish=1)
    alice.say("a", b"last")
    alice.say("b", b"another channel")
    assert reader.payloads == [b"another channel"]
    assert world.log.commit()
    world.check()
    assert reader.payloads == [b"another channel", b"logged", b"behind it"]
    world.commit()
    assert reader.payloads[1:] == [b"logged", b"behind it", b"logged later", b"last"]
    assert reader.offsets[1:] == [0, 1, 2, 3]
    # Nothing waits any more, so what is not logged is seen at once again.
    alice.say("a", b"at once")
    assert reader.payloads[-1] == b"at once"
    world.check()


def test_a_failed_commit_fails_exactly_its_tickets_and_shows_what_merely_rode_behind():
    world = World()
    alice, bob, carol, reader = world.party("alice"), world.party("bob", BOB), world.party("carol"), world.party()
    world.broker.declare(alice, "a", Keep.ACKED)
    reader.read("a")
    world.commit()
    safe = alice.say("a", b"safe", wish=1)
    world.log.split()
    first = alice.say("a", b"lost", wish=1)
    bob.say("a", b"rides")
    world.log.split()
    second = carol.say("a", b"lost too", wish=1)
    carol.say("a", b"rides too")
    assert world.log.commit()
    world.refuse()
    assert (alice.safe_up_to, alice.refusals) == (safe, [(first, FAILED)])
    assert carol.refusals == [(second, FAILED)]
    assert (bob.refusals, bob.safe_up_to) == ([], 0)
    assert reader.payloads == [b"safe", b"rides", b"rides too"]
    assert reader.offsets == [0, 2, 4]
    assert reader.lost_counts == [], "what was never said is no gap"
    assert world.metrics.commits_failed == 2
    assert world.metrics.dropped == {"commit-failed": 2}
    # The next one works, at an offset nobody has seen.
    alice.say("a", b"again", wish=1)
    world.commit()
    assert (reader.payloads[-1], reader.offsets[-1]) == (b"again", 5)


def test_a_reader_that_lags_is_told_of_no_gap_where_a_commit_failed():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=0)
    world.broker.declare(alice, "a", Keep.ALL)
    reader.read("a")
    world.commit()
    alice.say("a", b"0", wish=1)
    world.commit()
    alice.say("a", b"never said", wish=1)
    world.refuse()
    alice.say("a", b"2", wish=1)
    world.commit()
    reader.give(10)
    assert reader.offsets == [0, 2]
    assert (reader.lost_counts, world.metrics.lost) == ([], 0)


def test_the_log_that_is_full_refuses_and_takes_no_offset():
    world = World()
    alice, reader = world.party("alice"), world.party()
    world.broker.declare(alice, "a", Keep.ACKED)
    reader.read("a")
    world.commit()
    world.log.full = Refusal(Reason.STORAGE_FULL, "no space")
    assert alice.say("a", b"no", wish=1) == world.log.full
    assert alice.say("a", b"yes") == DONE
    world.log.full = None
    alice.say("a", b"again", wish=1)
    world.commit()
    assert list(zip(reader.payloads, reader.offsets, strict=True)) == [(b"yes", 0), (b"again", 1)]
    assert world.metrics.refused == {"storage-full": 1}


def test_offsets_seen_by_anybody_are_never_used_again_after_a_crash():
    world = World()
    alice, reader = world.party("alice"), world.party()
    reader.read("a")
    world.durable(b"d", "a")
    for n in range(RESERVE * 2 + 10):
        # One in a thousand is logged; the rest live in memory, beyond every block promised at first.
        alice.say("a", b"%d" % n, wish=int(n % 1_000 == 0))
        if n % 500 == 0:
            world.commit()
    world.commit()
    seen = reader.offsets[-1]
    assert seen == RESERVE * 2 + 9
    number = world.channel("a").number
    after = world.after_crash()
    later = after.party("alice")
    watcher = after.party()
    watcher.read("a")
    assert later.say("a", b"first after it") == DONE
    after.commit()
    assert after.channel("a").number == number
    assert watcher.offsets[0] > seen
    assert watcher.offsets[0] <= seen + RESERVE + 1


def test_offsets_of_a_channel_with_a_retained_value_are_never_used_again_after_a_crash():
    world = World()
    alice, reader = world.party("alice"), world.party()
    reader.read("a")
    alice.say("a", b"retained", retain=True)
    for _ in range(RESERVE + RESERVE // 2):
        alice.say("a", b"x")
        world.log.commit()
    after = world.after_crash()
    watcher = after.party()
    watcher.read("a")
    after.party("alice").say("a", b"first after it")
    after.commit()
    assert watcher.got[0].number == reader.got[0].number
    assert watcher.offsets[0] > reader.offsets[-1]


def test_an_offset_is_not_shown_before_its_promise_is_safe():
    world = World()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ACKED)
    world.commit()
    after = world.after_crash()
    alice, reader = after.party("alice"), after.party()
    reader.read("a")
    alice.say("a", b"unlogged")
    assert reader.got == [], "a crash now would hand its offset out again"
    again = after.after_crash()
    watcher = again.party()
    watcher.read("a")
    again.party("alice").say("a", b"unlogged")
    again.commit()
    after.commit()
    assert reader.offsets == watcher.offsets == [RESERVE]


def test_a_channel_that_logs_all_stays_dense_across_crashes():
    world = World()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    world.commit()
    world = world.after_crash()
    for restart in range(3):
        alice, reader = world.party("alice"), world.party()
        reader.read("a")
        for _ in range(2):
            alice.say("a", b"x", wish=restart % 2)
        world.commit()
        assert reader.offsets == [restart * 2, restart * 2 + 1]
        alice.say("a", b"not committed")
        world = world.after_crash()
    assert [m.offset for m in world.log.safe] == list(range(6))


def test_a_channel_that_logged_nothing_is_forgotten_by_a_crash_and_gets_another_number():
    world = World()
    alice = world.party("alice")
    alice.say("a", b"x")
    number = world.channel("a").number
    world = world.after_crash()
    world.party("alice").say("a", b"y")
    assert world.channel("a").number > number


def test_numbers_are_promised_before_they_run_out():
    from dragoman.broker import channels

    world = World(BrokerSettings(channels_max=1 << 20))
    alice = world.party("alice")
    seen = 0
    for n in range(channels.NUMBERS_BLOCK // 2 + 10):
        # Not a publish: that would take this test a second.
        channel = world.broker.channels.open(f"c{n}", "")
        assert not isinstance(channel, Refusal)
        seen = channel.number
    world.loop.run()
    while world.log.commit():
        pass
    for n in range(channels.NUMBERS_BLOCK // 2 + 10):
        channel = world.broker.channels.open(f"d{n}", "")
        assert not isinstance(channel, Refusal)
        seen = channel.number
    # No commit since: all these were promised by the one before.
    after = world.after_crash()
    alice = after.party("alice")
    alice.say("new")
    assert after.channel("new").number > seen


def test_a_shut_down_mesh_takes_nothing_in():
    world = World()
    alice = world.party("alice")
    route = world.broker.route(alice, "a")
    assert not isinstance(route, Refusal)
    world.broker.say_goodbye()
    assert alice.closed is not None
    assert alice.closed.reason is Reason.SHUTTING_DOWN
    for answer in (
        alice.say("a", b"x"),
        world.broker.route(alice, "a"),
        world.broker.declare(alice, "a", Keep.ALL),
        world.broker.subscribe(alice, "a"),
    ):
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.SHUTTING_DOWN


def test_a_route_ends_with_the_rules_or_the_channel_it_was_judged_by():
    world = World(BrokerSettings(channel_idle_ms=1_000, sweep_ms=1_000))
    alice = world.party("alice", ALICE)
    route = world.broker.route(alice, "a")
    assert not isinstance(route, Refusal)
    assert route.valid
    world.gate.replace(world.gate_settings)
    assert not route.valid
    route = world.broker.route(alice, "a")
    assert not isinstance(route, Refusal)
    message = Message("a", b"x")
    assert route.publish(alice, message) == DONE
    world.advance(5_000, 1_000)
    assert world.broker.channels.find("a") is None
    assert not route.valid


def test_closing_a_channel_drops_what_waits_for_a_commit_and_keeps_nothing_of_it():
    world = World()
    alice, watcher = world.party("alice"), world.party()
    watcher.read("#")
    channel = world.broker.declare(alice, "a", Keep.ALL)
    assert not isinstance(channel, Refusal)
    ticket = alice.say("a", b"too late", wish=1, retain=True)
    world.broker.channels.close(channel)
    world.commit()
    assert alice.safe_up_to >= ticket
    assert watcher.got == []
    assert world.log.get(Table.CHANNELS, channel_key(channel.number)) is None
    assert world.broker.core.commits.retained_count == 0
    assert list(world.log.channels()) == []
    assert world.metrics.dropped == {"channel-closed": 1}
    alice.say("a", b"new", wish=1)
    assert watcher.payloads == [b"new"]
    assert watcher.got[0].number > channel.number

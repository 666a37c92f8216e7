"""Which channels there are, how long, what they keep, and whose quota they count against."""

from __future__ import annotations

from mesh_fakes import ALICE, BOB, World, words

from dragoman.broker import channels as channels_module
from dragoman.broker.channel import NO_OFFSET, Keep
from dragoman.broker.gate_settings import GateSettings, RateSettings
from dragoman.broker.log.contract import DONE, Table
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.refusals import Reason, Refusal

QUICK = BrokerSettings(channel_idle_ms=2_000, sweep_ms=1_000)


def names(world: World) -> list[str]:
    return sorted(world.broker.channels.by_name)


# -- life ------------------------------------------------------------------------------------------


def test_an_idle_channel_evaporates_and_comes_again_under_another_number():
    world = World(QUICK)
    alice = world.party("alice")
    alice.say("a", b"x")
    first = world.channel("a")
    world.advance(1_000)
    alice.say("a", b"y")
    world.advance(1_000)
    assert names(world) == ["a"], "it was used since"
    world.advance(3_000, 1_000)
    assert names(world) == []
    assert world.metrics.channels == 0
    reader = world.party()
    reader.read("a")
    alice.say("a", b"z")
    assert world.channel("a").number > first.number
    assert reader.offsets == [0]


def test_what_refers_to_a_channel_keeps_it():
    world = World(QUICK)
    alice, reader = world.party("alice"), world.party()
    subscription = reader.read("subscribed")
    world.broker.declare(alice, "declared", Keep.ACKED)
    alice.say("retained", b"x", retain=True)
    durable = world.durable(b"d", "logged", credit=0)
    alice.say("logged", b"x", wish=1)
    world.commit()
    everything = ["declared", "logged", "retained", "subscribed"]
    world.advance(10_000, 1_000)
    assert names(world) == everything
    world.broker.unsubscribe(subscription)
    alice.say("retained", b"", retain=True)
    durable.give(1)
    durable.finish(0)
    world.advance(10_000, 1_000)
    assert names(world) == ["declared"]


def test_a_wildcard_reader_keeps_no_idle_channel_but_one_it_has_not_read():
    world = World(QUICK)
    alice, quick, slow = world.party("alice"), world.party(), world.party(credit=0)
    quick.read("#")
    slow.read("unread/#")
    alice.say("a", b"x")
    alice.say("unread/a", b"x")
    world.advance(10_000, 1_000)
    assert names(world) == ["unread/a"]
    slow.give(1)
    world.advance(10_000, 1_000)
    assert names(world) == []
    alice.say("a", b"y")
    assert quick.payloads == [b"x", b"x", b"y"]


def test_very_many_idle_channels_go_in_time_and_not_in_one_turn():
    world = World(BrokerSettings(channel_idle_ms=4_000, sweep_ms=1_000))
    count = channels_module.SWEEP_CHUNK * 12
    for n in range(count):
        world.broker.channels.open(f"c{n}", "")
    world.log.commit()
    world.clock.advance(4_000)
    world.loop.turn()
    assert len(world.broker.channels.by_name) == count - channels_module.SWEEP_CHUNK
    world.loop.run()
    assert len(world.broker.channels.by_name) == count - count // 4
    for _ in range(11):
        world.loop.advance(1_001)
    assert len(world.broker.channels.by_name) == 0
    world.check()


def test_channels_are_counted_against_their_creator_and_in_all():
    world = World(BrokerSettings(channels_per_principal_max=2, channels_max=3, channel_idle_ms=1_000, sweep_ms=1_000))
    alice, bob = world.party("alice", ALICE), world.party("bob", BOB)
    assert alice.say("a1") == DONE
    assert not isinstance(world.broker.subscribe(alice, "a2"), Refusal)
    refusal = alice.say("a3")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.QUOTA_EXCEEDED
    assert "'alice' has created 2" in refusal.detail
    assert refusal.retry_after_ms == 1_000
    assert bob.say("a1") == DONE, "using what is there is no creation"
    assert bob.say("b1") == DONE
    refusal = bob.say("b2")
    assert isinstance(refusal, Refusal)
    assert "channels_max" in refusal.detail
    world.advance(4_000, 1_000)
    assert names(world) == ["a2"]
    assert alice.say("a3") == DONE
    world.check()


def test_restored_channels_count_against_their_creator():
    world = World(BrokerSettings(channels_per_principal_max=2))
    alice = world.party("alice", ALICE)
    for name in ("a1", "a2"):
        world.broker.declare(alice, name, Keep.ALL)
    world.commit()
    after = world.after_crash()
    assert isinstance(after.party("alice", ALICE).say("a3"), Refusal)
    assert after.party("bob", BOB).say("b1") == DONE
    after.check()


# -- what is logged ----------------------------------------------------------------------------------


def logged(world: World) -> list[bytes | None]:
    return [m.payload for m in world.log.safe]


def test_wish_and_keep_decide_what_is_logged():
    world = World()
    alice = world.party("alice")
    for keep in Keep:
        world.broker.declare(alice, keep.name, keep)
    world.commit()
    for keep in Keep:
        for wish in (0, 1, 2):
            answer = alice.say(keep.name, b"%s%d" % (keep.name.encode(), wish), wish=wish)
            waits = keep is Keep.ALL or (keep is Keep.ACKED and wish > 0)
            assert bool(answer) == waits, (keep, wish)
    world.commit()
    assert logged(world) == [b"ACKED1", b"ACKED2", b"ALL0", b"ALL1", b"ALL2"]


def test_a_durable_reader_raises_none_to_acked_and_the_last_one_to_leave_lets_it_fall_back():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice, reader = world.party("alice"), world.party()
    reader.read("c/x")
    world.broker.declare(alice, "c/all", Keep.ALL)
    alice.say("c/x", b"before", wish=1)
    one, two = world.durable(b"1", "c/+"), world.durable(b"2", "c/x", credit=0)
    assert alice.say("c/x", b"kept", wish=1)
    assert alice.say("c/x", b"qos 0") == DONE
    assert alice.say("other", b"not matched", wish=1) == DONE
    world.commit()
    assert logged(world) == [b"kept"]
    assert one.payloads == [b"kept"]
    one.finish(0)
    world.broker.backlogs.close(one.backlog)
    world.sweep(2)
    assert world.channel("c/x").keep is Keep.ACKED
    assert logged(world) == [b"kept"], "the other one still needs it"
    world.broker.backlogs.close(two.backlog)
    world.sweep(3)
    assert logged(world) == []
    assert alice.say("c/x", b"memory again", wish=1) == DONE
    assert world.channel("c/x").keep is Keep.NONE
    assert world.channel("c/all").keep is Keep.ALL


def test_until_its_log_is_empty_a_channel_goes_on_logging():
    world = World(QUICK)
    alice = world.party("alice")
    durable = world.durable(b"d", "a", credit=0)
    alice.say("a", b"1", wish=1)
    world.commit()
    world.broker.backlogs.close(durable.backlog)
    assert alice.say("a", b"2", wish=1), "order on disk and in memory would part otherwise"


def test_a_channel_that_waits_for_a_commit_does_not_evaporate():
    world = World(QUICK)
    alice = world.party("alice")
    durable = world.durable(b"d", "a")
    world.commit()
    ticket = alice.say("a", b"1", wish=1)
    world.broker.backlogs.close(durable.backlog)
    world.loop.advance(10_000, 1_001)
    assert names(world) == ["a"]
    world.commit()
    assert alice.safe_up_to == ticket
    assert world.metrics.dropped == {}


def test_one_durable_reader_of_all_does_not_put_telemetry_behind_the_disk():
    world = World()
    alice, reader = world.party("alice"), world.party()
    world.durable(b"d", "#")
    reader.read("a")
    for payload in words(3):
        assert alice.say("a", payload) == DONE
    assert reader.payloads == words(3)
    assert world.log.uncommitted_bytes() == 0


def test_a_channel_nobody_asked_anything_of_goes_the_fast_way():
    world = World()
    alice = world.party("alice")
    alice.say("a", b"x")
    assert world.channel("a").slow_from == NO_OFFSET
    assert not [key for key, _ in world.log.rows(Table.CHANNELS)]


# -- limits ------------------------------------------------------------------------------------------


def test_a_declared_channel_keeps_so_many_messages():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice, behind = world.party("alice"), world.party(credit=0)
    world.broker.declare(alice, "a", Keep.ALL, retention_messages=10)
    world.broker.declare(alice, "unlimited", Keep.ALL)
    behind.read("a")
    world.commit()
    for payload in words(25):
        alice.say("a", payload, wish=1)
        alice.say("unlimited", payload, wish=1)
    world.commit()
    world.sweep(2)
    assert [m.payload for m in world.log.safe if m.name == "a"] == words(10, 15)
    assert len([m for m in world.log.safe if m.name == "unlimited"]) == 25
    behind.give(100)
    assert behind.payloads == words(10, 15), "memory gives nothing that the limit took"
    assert behind.lost_counts == [15]
    assert world.metrics.lost == 15


def test_a_declared_channel_keeps_so_many_bytes_in_pieces():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL, retention_bytes=200_000)
    world.commit()
    for _ in range(100):
        alice.say("a", b"." * 10_000, wish=1)
    world.commit()
    number = world.channel("a").number
    assert world.log.bytes_of(number) > 1_000_000
    world.sweep()
    assert 180_000 < world.log.bytes_of(number) <= 200_000


def test_a_declared_channel_keeps_for_so_long_and_does_not_read_the_log_in_vain():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL, retention_ms=60_000)
    world.commit()
    for payload in words(4):
        alice.say("a", payload, wish=1)
        world.advance(10_000, 1_000)
    before = world.log.reads
    world.advance(19_000, 1_000)
    assert world.log.reads == before, "nothing was due"
    assert logged(world) == words(4)
    world.advance(12_000, 1_000)
    assert logged(world) == words(2, 2)
    world.advance(60_000, 1_000)
    assert logged(world) == []
    assert world.broker.last_of("a") is None
    alice.say("a", b"4", wish=1)
    world.commit()
    assert world.log.safe[0].offset == 4


def test_limits_survive_a_restart_and_change_with_the_next_declaration():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL, retention_messages=2, retention_ms=1_000_000, retention_bytes=1 << 20)
    for payload in words(4):
        alice.say("a", payload, wish=1)
    world.commit()
    world = world.after_crash()
    world.sweep(2)
    assert logged(world) == words(2, 2)
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    for payload in words(4, 4):
        alice.say("a", payload, wish=1)
    world.commit()
    world.sweep(2)
    assert len(logged(world)) == 6


def test_limits_win_over_a_durable_reader_and_what_it_lost_is_counted():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL, retention_messages=5)
    behind, done = world.durable(b"1", "a", credit=2), world.durable(b"2", "a")
    world.commit()
    for payload in words(20):
        alice.say("a", payload, wish=1)
    world.commit()
    done.finish(*range(20))
    world.sweep(2)
    assert (world.metrics.gaps, world.metrics.lost) == (1, 15 - 2)
    behind.give(100)
    assert behind.payloads == [b"0", b"1", *words(5, 15)]
    assert done.payloads == words(20)


# -- rates -------------------------------------------------------------------------------------------


def test_a_principals_rate_holds_for_all_its_sessions_together():
    world = World(gate=GateSettings(rates=(RateSettings(who=("alice",), messages_per_s=10, burst=3),)))
    one, two, bob = world.party("1", ALICE), world.party("2", ALICE), world.party("bob", BOB)
    assert [one.say("a"), two.say("a"), one.say("a")] == [DONE] * 3
    refusal = two.say("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.RATE_EXCEEDED
    assert refusal.retry_after_ms == 100
    assert bob.say("a") == DONE
    world.clock.advance(99)
    assert isinstance(one.say("a"), Refusal)
    world.clock.advance(1)
    assert one.say("a") == DONE
    assert isinstance(two.say("a"), Refusal)
    assert world.metrics.refused == {"rate-exceeded": 3}
    assert world.channel("a").next_offset == 5


def test_saturation_is_told_while_too_much_waits_for_the_disk():
    world = World(BrokerSettings(uncommitted_bytes_max=1 << 16))
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    world.commit()
    while not world.broker.saturated:
        assert not isinstance(alice.say("a", b"." * 10_000, wish=1), Refusal), "never dropped, never refused"
    assert world.log.uncommitted_bytes() > 1 << 16
    world.commit()
    assert not world.broker.saturated

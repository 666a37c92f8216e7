"""Retained values: set, cleared, persisted, expired, bounded, and replayed to who may read them, as credit allows."""

from __future__ import annotations

import pytest
from mesh_fakes import BOB, Party, World

from dragoman.broker.channel import Keep
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.log.contract import DONE, Table
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.refusals import Reason, Refusal


def held(world: World, name: str) -> bytes | None:
    message = world.broker.retained_of(name)
    return None if message is None else message.payload


def test_only_what_asks_for_it_is_retained_and_an_empty_payload_clears():
    world = World()
    alice, reader = world.party("alice"), world.party()
    reader.read("a")
    alice.say("a", b"1")
    assert held(world, "a") is None
    alice.say("a", b"2", retain=True)
    alice.say("a", b"3")
    assert held(world, "a") == b"2"
    alice.say("a", b"", retain=True)
    assert held(world, "a") is None
    assert reader.payloads == [b"1", b"2", b"3", b""]
    world.commit()
    assert list(world.log.rows(Table.RETAINED)) == []
    world.check()


def test_a_retained_value_outlives_a_crash_with_its_place_and_its_clearing_does_too():
    world = World()
    alice = world.party("alice")
    alice.say("a", b"kept", retain=True, wish=1)
    alice.say("b", b"cleared", retain=True)
    world.commit()
    alice.say("b", None, retain=True)
    alice.say("c", b"too late", retain=True)
    number = world.channel("a").number
    world.log.split()
    world.log.groups[0].rows = {k: v for k, v in world.log.groups[0].rows.items() if v is None}
    world.commit()
    after = world.after_crash()
    message = after.broker.retained_of("a")
    assert message is not None
    assert (message.payload, message.number, message.offset, message.sender) == (b"kept", number, 0, "alice")
    assert held(after, "b") is None
    assert held(after, "c") is None
    after.check()


def test_the_acknowledgement_waits_for_the_commit_of_the_value_if_the_sender_wants_one():
    world = World()
    alice, reader = world.party("alice"), world.party()
    reader.read("a")
    ticket = alice.say("a", b"1", retain=True, wish=1)
    assert isinstance(ticket, int)
    assert ticket > 0
    assert reader.payloads == [b"1"], "nothing of the channel is logged, so it is seen at once"
    assert alice.safe_up_to == 0
    world.commit()
    assert alice.safe_up_to == ticket
    assert alice.say("a", b"2", retain=True) == DONE


def test_a_value_whose_commit_failed_is_retained_nowhere():
    world = World()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    alice.say("a", b"safe", retain=True, wish=1)
    world.commit()
    alice.say("a", b"refused", retain=True, wish=1)
    world.refuse()
    assert held(world, "a") == b"safe"
    world.commit()
    assert held(world.after_crash(), "a") == b"safe"
    alice.say("a", b"", retain=True, wish=1)
    world.refuse()
    world.commit()
    assert held(world, "a") == held(world.after_crash(), "a") == b"safe"


def test_a_value_that_rode_behind_a_failed_commit_is_retained():
    world = World()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ACKED)
    world.commit()
    alice.say("a", b"refused", retain=True, wish=1)
    alice.say("a", b"rides", retain=True)
    world.refuse()
    world.commit()
    assert held(world, "a") == held(world.after_crash(), "a") == b"rides"


def test_a_value_that_expires_while_the_next_one_is_pending_does_not_take_it_along():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    alice.say("a", b"1", retain=True, wish=1, expires_ms=world.clock.now_ms() + 5_000)
    world.commit()
    alice.say("a", b"2", retain=True, wish=1)
    world.clock.advance(6_000)
    world.sweep()
    world.commit()
    assert held(world, "a") == held(world.after_crash(), "a") == b"2"


def test_a_value_expires_for_readers_at_once_and_is_freed_by_the_sweep():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice = world.party("alice")
    alice.say("a", b"1", retain=True, expires_ms=world.clock.now_ms() + 5_000)
    world.commit()
    world.clock.advance(4_999)
    assert held(world, "a") == b"1"
    world.clock.advance(1)
    assert held(world, "a") is None
    reader = world.party()
    reader.read("#")
    assert reader.replayed == []
    assert world.broker.core.commits.retained_count == 1
    world.sweep()
    assert world.broker.core.commits.retained_count == 0
    assert list(world.log.rows(Table.RETAINED)) == []


def test_values_are_bounded_in_number_and_bytes_also_when_replaced():
    world = World(BrokerSettings(retained_max=2, retained_bytes_max=100))
    alice = world.party("alice")
    alice.say("a", b"." * 60, retain=True)
    assert isinstance(alice.say("b", b"." * 41, retain=True), Refusal)
    assert alice.say("b", b"." * 40, retain=True) == DONE
    refusal = alice.say("b", b"." * 41, retain=True)
    assert isinstance(refusal, Refusal), "a larger value in the same place counts too"
    assert refusal.reason is Reason.QUOTA_EXCEEDED
    assert alice.say("a", b"." * 10, retain=True) == DONE
    assert alice.say("b", b"." * 41, retain=True) == DONE
    refusal = alice.say("c", b".", retain=True)
    assert isinstance(refusal, Refusal), "retained_max"
    alice.say("a", b"", retain=True)
    assert alice.say("c", b".", retain=True) == DONE
    assert alice.say("d", b"not retained") == DONE
    world.check()


def test_a_refused_value_uses_no_offset():
    world = World(BrokerSettings(retained_max=0))
    alice, reader = world.party("alice"), world.party()
    reader.read("a")
    assert isinstance(alice.say("a", b"1", retain=True), Refusal)
    alice.say("a", b"2")
    assert reader.offsets == [0]


def values(reader: Party) -> dict[str, bytes | None]:
    return {message.name: message.payload for message in reader.replayed}


def test_values_are_given_as_credit_allows_and_looked_up_then():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=2)
    for n in range(5):
        alice.say(f"c/{n}", b"old", retain=True)
    reader.read("c/+")
    assert len(reader.replayed) == 2
    alice.say("c/4", b"", retain=True)
    alice.say("c/3", b"new", retain=True)
    reader.give(1)
    assert len(reader.replayed) == 3
    reader.give(100)
    assert values(reader) == {"c/0": b"old", "c/1": b"old", "c/2": b"old"}
    # What was said since comes as what was said, and once.
    assert {m.payload for m in reader.got} == {b"", b"new"}
    world.check()


def test_an_ended_subscription_is_owed_no_values_and_another_goes_on():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=0)
    for n in range(3):
        alice.say(f"c/{n}", b"x", retain=True)
        alice.say(f"d/{n}", b"x", retain=True)
    ended = reader.read("c/+")
    reader.read("d/+")
    world.broker.unsubscribe(ended)
    reader.give(100)
    assert sorted(values(reader)) == ["d/0", "d/1", "d/2"]
    world.check()


def test_asking_again_and_again_without_reading_does_not_pile_up():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=0)
    for n in range(3):
        alice.say(f"c/{n}", b"x", retain=True)
    subscription = reader.read("c/+")
    for _ in range(100):
        world.broker.replay(subscription)
    reader.give(1_000)
    assert len(reader.replayed) == 3


def test_retained_values_of_names_with_a_dollar_need_a_filter_that_says_so():
    world = World()
    alice, reader = world.party("alice"), world.party()
    alice.say("$site/a", b"x", retain=True)
    alice.say("a", b"x", retain=True)
    reader.read("#")
    reader.read("+/a")
    assert sorted(values(reader)) == ["a"]
    reader.read("$site/#")
    assert sorted(values(reader)) == ["$site/a", "a"]


def test_values_and_messages_of_channels_one_may_not_read_are_not_given():
    deny = RuleSettings(effect="deny", who=("bob",), actions=("read",), filters=("secret/#",))
    world = World(gate=GateSettings(rules=(deny,)))
    alice, bob = world.party("alice"), world.party("bob", BOB)
    alice.say("secret/a", b"x", retain=True)
    alice.say("open", b"x", retain=True)
    bob.read("#")
    alice.say("secret/a", b"y")
    alice.say("open", b"y")
    assert sorted(values(bob)) == ["open"]
    assert [m.name for m in bob.got] == ["open"]
    # Changed rules hold for subscriptions that were there before.
    world.gate.replace(GateSettings())
    world.broker.core.changed()
    alice.say("secret/a", b"z")
    assert bob.payloads[-1] == b"z"
    carol = world.party("carol", BOB)
    carol.read("secret/a")
    world.gate.replace(GateSettings(rules=(deny,)))
    world.broker.core.changed()
    alice.say("secret/a", b"not for them")
    assert carol.got == []
    assert bob.payloads[-1] == b"z"


def test_who_may_receive_but_not_subscribe_asks_for_pages_and_follows_nothing():
    deny = RuleSettings(effect="deny", who=("bob",), actions=("subscribe",), filters=("slow/#",))
    world = World(gate=GateSettings(rules=(deny,)))
    alice, bob = world.party("alice"), world.party("bob", BOB)
    alice.say("slow/a", b"x", retain=True)
    bob.read("#")
    pages: list[object] = []
    world.broker.read(bob, "slow/a", 0, 1 << 20, pages.append)
    assert [m.payload for m in pages[0].messages] == [b"x"]  # type: ignore[attr-defined]
    assert world.broker.may_read(bob, "slow/a")
    assert not world.broker.may_follow(bob, "slow/a")
    alice.say("slow/a", b"y")
    assert values(bob) == {}
    assert bob.got == []


@pytest.mark.parametrize("retained", [True, False])
def test_a_subscription_may_do_without_the_values(retained: bool):
    world = World()
    alice, reader = world.party("alice"), world.party()
    alice.say("a", b"x", retain=True)
    reader.read("a", retained=retained)
    assert len(reader.replayed) == int(retained)


def test_a_retained_value_keeps_its_channel():
    world = World(BrokerSettings(channel_idle_ms=1_000, sweep_ms=1_000))
    alice = world.party("alice")
    alice.say("a", b"x", retain=True)
    alice.say("b", b"x")
    world.advance(10_000, 1_000)
    assert sorted(world.broker.channels.by_name) == ["a"]

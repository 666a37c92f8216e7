"""Publishing the same thing twice: recognised by (source, key), within bounds, as safe as the message itself."""

from __future__ import annotations

from mesh_fakes import FAILED, World

from dragoman.broker.channel import Keep
from dragoman.broker.log.contract import DONE, Table
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.refusals import Refusal


def test_a_duplicate_is_not_said_again_and_gets_the_originals_place():
    world = World()
    alice, bob, reader = world.party("alice"), world.party("bob"), world.party()
    reader.read("#")
    alice.say("a", b"other")
    assert alice.say("a", b"1", dedupe=("s", "k")) == DONE
    original = alice.said
    assert bob.say("a", b"again", dedupe=("s", "k")) == DONE
    assert (bob.said.number, bob.said.offset, bob.said.time_ms) == (original.number, 1, original.time_ms)
    assert alice.say("a", b"2", dedupe=("s", "other key")) == DONE
    assert alice.say("a", b"3", dedupe=("sk", "")) == DONE, "another pair, though the texts joined are the same"
    assert alice.say("a", b"4", dedupe=("", "sk")) == DONE
    assert reader.payloads == [b"other", b"1", b"2", b"3", b"4"]
    assert world.metrics.duplicates == 1
    world.check()


def test_a_duplicate_of_what_waits_for_its_commit_waits_with_it():
    world = World()
    alice, bob = world.party("alice"), world.party("bob")
    world.broker.declare(alice, "a", Keep.ALL)
    world.commit()
    ticket = alice.say("a", b"1", wish=1, dedupe=("s", "k"))
    assert bob.say("a", b"1", wish=1, dedupe=("s", "k")) == ticket
    assert bob.safe_up_to == 0
    world.commit()
    assert bob.safe_up_to == ticket
    assert bob.say("a", b"1", wish=1, dedupe=("s", "k")) == DONE


def test_a_failed_commit_frees_its_keys():
    world = World()
    alice, bob, reader = world.party("alice"), world.party("bob"), world.party()
    world.broker.declare(alice, "a", Keep.ALL)
    reader.read("a")
    world.commit()
    ticket = alice.say("a", b"1", wish=1, dedupe=("s", "k"))
    bob.say("a", b"1", wish=1, dedupe=("s", "k"))
    world.refuse()
    assert bob.refusals == [(ticket, FAILED)]
    assert alice.say("a", b"2", wish=1, dedupe=("s", "k")) != DONE
    world.commit()
    assert reader.payloads == [b"2"]
    after = world.after_crash()
    assert after.party("alice").say("a", b"3", wish=1, dedupe=("s", "k")) == DONE


def test_a_refused_publish_uses_no_key():
    world = World(BrokerSettings(message_bytes_max=10))
    alice = world.party("alice")
    assert isinstance(alice.say("a", b"." * 11, dedupe=("s", "k")), Refusal)
    alice.say("a", b"1", dedupe=("s", "k"))
    assert alice.said.number == world.channel("a").number
    assert world.metrics.duplicates == 0


def test_keys_outlive_a_crash_with_their_message_and_never_without_it():
    world = World()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    alice.say("a", b"safe", wish=1, dedupe=("s", "safe"))
    world.commit()
    alice.say("a", b"unsafe", wish=1, dedupe=("s", "unsafe"))
    after = world.after_crash()
    alice, reader = after.party("alice"), after.party()
    reader.read("a")
    assert alice.say("a", b"safe", wish=1, dedupe=("s", "safe")) == DONE
    assert alice.said.offset == 0
    assert alice.say("a", b"unsafe", wish=1, dedupe=("s", "unsafe")) != DONE
    after.commit()
    assert reader.payloads == [b"unsafe"]


def test_keys_are_forgotten_by_age_and_the_oldest_by_count():
    world = World(BrokerSettings(dedupe_max=3, dedupe_ms=10_000, sweep_ms=1_000))
    alice, reader = world.party("alice"), world.party()
    world.broker.declare(alice, "a", Keep.ALL)
    reader.read("a")
    for n in range(4):
        alice.say("a", b"%d" % n, wish=1, dedupe=("s", str(n)))
    world.commit()
    assert len(world.broker.dedupe) == 3
    alice.say("a", b"3 again", wish=1, dedupe=("s", "3"))
    alice.say("a", b"0 again", wish=1, dedupe=("s", "0"))
    world.commit()
    assert reader.payloads == [b"0", b"1", b"2", b"3", b"0 again"]
    world.clock.advance(10_001)
    assert alice.say("a", b"3 late", wish=1, dedupe=("s", "3")) != DONE, "too old, before any sweep came by"
    world.sweep()
    assert len(world.broker.dedupe) == 1
    world.advance(12_000, 1_001)
    assert len(world.broker.dedupe) == 0
    assert list(world.log.rows(Table.DEDUPE)) == []


def test_age_counts_on_after_a_restart():
    world = World(BrokerSettings(dedupe_ms=10_000))
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    alice.say("a", b"1", wish=1, dedupe=("s", "k"))
    world.commit()
    world.clock.advance(10_001)
    after = world.after_crash()
    assert len(after.broker.dedupe) == 0
    assert after.party("alice").say("a", b"2", wish=1, dedupe=("s", "k")) != DONE

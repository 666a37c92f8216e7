"""Readers behind: places instead of queues, ring, then log, then a counted gap. Very many readers."""

from __future__ import annotations

from collections import deque

import pytest
from mesh_fakes import FITS, RING_MIN, World, tight, words

from dragoman.broker.channel import FANOUT_MAX, Keep
from dragoman.broker.pump import RING_CHUNK
from dragoman.broker.subscription import Start


def test_a_reader_without_credit_goes_on_exactly_where_it_stopped():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=2)
    reader.read("a")
    for payload in words(RING_CHUNK + 10):
        alice.say("a", payload)
    assert reader.payloads == words(2)
    reader.give(3)
    assert reader.payloads == words(5)
    reader.give(1_000)
    assert reader.payloads == words(RING_CHUNK + 10)
    alice.say("a", b"pushed again")
    assert reader.payloads[-1] == b"pushed again"
    assert reader.lost_counts == []
    world.check()


def test_what_the_ring_let_go_is_an_exact_gap():
    world = tight()
    alice, reader = world.party("alice"), world.party(credit=1)
    reader.read("a")
    for n in range(100):
        alice.say("a", b"%04d" % n + b"." * 996)
    reader.give(1_000)
    assert len(reader.got) == 1 + FITS
    assert reader.lost_counts == [100 - 1 - FITS]
    assert reader.offsets == [0, *range(100 - FITS, 100)]
    assert (world.metrics.gaps, world.metrics.lost) == (1, 100 - 1 - FITS)
    world.check()


def test_memory_is_bounded_however_many_lag_and_however_long():
    """A queue for each reader would hold 20 x 400 messages of 1,000 bytes here."""
    world = tight()
    alice = world.party("alice")
    readers = [world.party(credit=0) for _ in range(20)]
    for reader in readers:
        reader.read("#")
    for n in range(400):
        alice.say(f"c/{n % 4}", b"." * 1_000)
        assert world.broker.core.rings.used_bytes <= RING_MIN
    world.check()
    held = sum(len(channel.ring) for channel in world.broker.channels.by_name.values())
    assert held == FITS
    for reader in readers:
        reader.give(1_000)
        assert len(reader.got) == FITS
        assert sum(reader.lost_counts) == 400 - FITS


def test_a_wildcard_reader_has_a_place_in_each_channel():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=3)
    reader.read("c/+")
    for n in range(4):
        for name in ("c/a", "c/b", "c/c"):
            alice.say(name, b"%d" % n)
    assert len(reader.got) == 3
    reader.give(100)
    for name in ("c/a", "c/b", "c/c"):
        assert [m.payload for m in reader.got if m.name == name] == words(4)
    assert reader.lost_counts == []


def test_a_busy_channel_does_not_take_all_of_a_slow_readers_credit():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=0)
    reader.read("#")
    alice.say("calm", b"!")
    for n in range(50):
        alice.say("busy", b"%d" % n)
    reader.give(1)
    reader.give(1)
    assert sorted(reader.payloads) == [b"!", b"0"]
    alice.say("calm", b"?")
    reader.give(1)
    reader.give(1)
    assert b"?" in reader.payloads


@pytest.mark.parametrize("slow", [False, True], ids=["from memory", "from disk"])
def test_a_reader_behind_the_ring_reads_the_log_and_loses_only_what_was_not_logged(slow: bool):
    world = tight()
    alice, reader = world.party("alice"), world.party(credit=0)
    world.broker.declare(alice, "a", Keep.ACKED)
    reader.read("a")
    world.commit()
    for n in range(100):
        alice.say("a", b"%04d" % n + b"." * 996, wish=int(n % 2 == 0))
        world.commit()
    if slow:
        world.log.held_reads = deque()
    reader.give(1_000)
    while slow and world.log.answer():
        world.check()
    in_ring = world.channel("a").ring.first_offset
    assert reader.offsets == [n for n in range(100) if n % 2 == 0 or n >= in_ring]
    assert sum(reader.lost_counts) == len([n for n in range(in_ring) if n % 2])
    alice.say("a", b"live")
    world.commit()
    assert reader.payloads[-1] == b"live"


def test_a_read_of_the_log_gives_nothing_to_who_has_left_meanwhile():

    world = tight()
    alice, leaver, stayer = world.party("alice"), world.party(credit=0), world.party(credit=0)
    world.broker.declare(alice, "a", Keep.ALL)
    subscription = leaver.read("a")
    stayer.read("+")
    world.commit()
    for _ in range(100):
        alice.say("a", b"." * 1_000, wish=1)
        world.commit()
    world.log.held_reads = deque()
    leaver.give(1_000)
    stayer.give(1_000)
    world.broker.unsubscribe(subscription)
    while world.log.answer():
        world.check()
    assert leaver.got == []
    assert len(stayer.got) == 100
    stayer.end()
    alice.say("a", b"x", wish=1)
    world.commit()


def test_an_ended_wildcard_gives_nothing_more_when_credit_returns():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=0)
    subscription = reader.read("+/x")
    alice.say("a/x", b"1")
    world.broker.unsubscribe(subscription)
    reader.give(10)
    assert reader.got == []
    world.check()


def test_who_comes_back_to_a_channel_starts_new():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=0)
    subscription = reader.read("a")
    alice.say("a", b"before")
    world.broker.unsubscribe(subscription)
    alice.say("a", b"between")
    reader.read("a")
    alice.say("a", b"after")
    reader.give(10)
    assert reader.payloads == [b"after"]
    world.check()


def test_who_comes_back_at_once_starts_new_too():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=0)
    subscription = reader.read("a")
    alice.say("a", b"before")
    world.broker.unsubscribe(subscription)
    reader.read("a")
    reader.give(10)
    alice.say("a", b"after")
    assert reader.payloads == [b"after"]


def test_a_place_put_back_while_the_log_is_read_is_read_from_there():
    world = tight()
    alice, reader = world.party("alice"), world.party()
    world.broker.declare(alice, "a", Keep.ALL)
    for _ in range(100):
        alice.say("a", b"." * 1_000)
        world.commit()
    world.log.held_reads = deque()
    reader.read("a", start=(world.channel("a").number, 20))
    reader.read("a", start=Start.EARLIEST)
    while world.log.answer():
        world.check()
    assert reader.offsets == list(range(100))
    assert reader.lost_counts == []


def test_what_a_failed_commit_left_empty_in_the_log_of_all_is_no_gap():
    world = tight()
    alice, reader = world.party("alice"), world.party(credit=0)
    world.broker.declare(alice, "a", Keep.ALL)
    reader.read("a")
    world.commit()
    for n in range(100):
        alice.say("a", b"." * 1_000)
        if n == 10:
            world.refuse()
        world.commit()
    reader.give(1_000)
    assert reader.offsets == [n for n in range(100) if n != 10]
    assert reader.lost_counts == []


# -- very many -------------------------------------------------------------------------------------


def test_very_many_readers_are_served_over_several_turns():
    world = World()
    alice = world.party("alice")
    readers = [world.party() for _ in range(FANOUT_MAX * 3 + 5)]
    for reader in readers:
        reader.read("a")
    alice.say("a", b"1")
    assert sum(len(reader.got) for reader in readers) == FANOUT_MAX
    assert world.loop.turn()
    assert sum(len(reader.got) for reader in readers) == FANOUT_MAX * 2
    alice.say("a", b"2")
    world.loop.run()
    assert all(reader.payloads == [b"1", b"2"] for reader in readers)
    world.check()


def test_very_many_readers_without_credit_are_not_asked_again_until_they_have_some():
    world = World()
    alice = world.party("alice")
    readers = [world.party(credit=1) for _ in range(FANOUT_MAX + 3)]
    for reader in readers:
        reader.read("a")
    for payload in words(3):
        alice.say("a", payload)
    world.loop.run()
    assert all(reader.payloads == [b"0"] for reader in readers)
    for reader in readers:
        reader.give(10)
    world.loop.run()
    assert all(reader.payloads == words(3) for reader in readers)


def test_one_of_very_many_is_pushed_to_when_others_leave():
    world = World()
    alice = world.party("alice")
    readers = [world.party() for _ in range(FANOUT_MAX + 3)]
    subscriptions = [reader.read("a") for reader in readers]
    alice.say("a", b"1")
    # Not run: the last three have still to read this when they move up.
    for subscription in subscriptions[:10]:
        world.broker.unsubscribe(subscription)
    alice.say("a", b"2")
    world.loop.run()
    assert all(reader.payloads == [b"1", b"2"] for reader in readers[10:])
    alice.say("a", b"3")
    assert all(reader.payloads[-1] == b"3" for reader in readers[10:]), "pushed, no turn was needed"
    assert all(reader.payloads == [b"1"] for reader in readers[:10])
    world.check()

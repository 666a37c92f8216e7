"""Readers behind: places instead of queues, ring, then log, then a counted gap. Many readers, and starting places."""

from __future__ import annotations

from collections import deque

import pytest
from mesh_fakes import World, words

from dragoman.broker.channel import FANOUT_MAX, Keep
from dragoman.broker.log.ring import RING_OVERHEAD
from dragoman.broker.pump import RING_CHUNK, Page
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.subscription import Start
from dragoman.routing.refusals import Refusal

RING_MIN = 1 << 16
FITS = RING_MIN // (RING_OVERHEAD + 2 * 1_000)
"""Messages of 1,000 bytes that the smallest ring budget holds."""


def tight() -> World:
    return World(BrokerSettings(ring_bytes_max=RING_MIN))


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


# -- starting places -------------------------------------------------------------------------------


def started(world: World, start: object, *, keep: Keep = Keep.NONE, count: int = 5) -> list[bytes | None]:
    alice, reader = world.party("alice"), world.party()
    if keep:
        world.broker.declare(alice, "a", keep)
        world.commit()
    for payload in words(count):
        alice.say("a", payload, wish=1)
    world.commit()
    reader.read("a", start=start)
    alice.say("a", b"new", wish=1)
    world.commit()
    assert reader.lost_counts == []
    return reader.payloads


def test_new_last_and_earliest():
    assert started(World(), Start.NEW) == [b"new"]
    assert started(World(), Start.LAST) == [b"4", b"new"]
    assert started(World(), Start.EARLIEST) == [*words(5), b"new"]
    assert started(World(), Start.LAST, count=0) == [b"new"]
    assert started(World(), Start.EARLIEST, count=0) == [b"new"]


def test_earliest_begins_in_the_log_where_the_ring_no_longer_reaches():
    world = tight()
    alice, reader = world.party("alice"), world.party()
    world.broker.declare(alice, "a", Keep.ALL)
    for _ in range(100):
        alice.say("a", b"." * 1_000)
        world.commit()
    reader.read("a", start=Start.EARLIEST)
    assert reader.offsets == list(range(100))


def test_earliest_is_no_gap_where_the_log_was_freed():
    world = World(BrokerSettings(sweep_ms=1_000))
    alice = world.party("alice")
    durable = world.durable(b"d", "a")
    for payload in words(3):
        alice.say("a", payload, wish=1)
    world.commit()
    durable.finish(0, 1, 2)
    world.sweep(2)
    assert not world.channel("a").logged
    world.broker.core.rings.clear(world.channel("a").ring)
    reader = world.party()
    reader.read("a", start=Start.EARLIEST)
    assert reader.payloads == [b"2"], "the newest stays when the ring lets it go"
    assert reader.lost_counts == []


def test_a_place_goes_on_there_and_a_place_ahead_waits_for_news():
    world = World()
    alice = world.party("alice")
    for payload in words(5):
        alice.say("a", payload)
    number = world.channel("a").number
    reader, ahead = world.party(), world.party()
    reader.read("a", start=(number, 3))
    ahead.read("a", start=(number, 99))
    alice.say("a", b"new")
    assert reader.payloads == [b"3", b"4", b"new"]
    assert ahead.payloads == [b"new"]
    assert reader.lost_counts == ahead.lost_counts == []


def test_a_place_in_an_older_creation_is_a_gap_and_then_everything():
    world = World()
    alice, reader = world.party("alice"), world.party()
    for payload in words(2):
        alice.say("a", payload)
    reader.read("a", start=(world.channel("a").number - 1, 1))
    assert reader.lost_counts == [0]
    assert reader.payloads == words(2)
    assert world.metrics.gaps == 1


def test_a_second_subscription_never_moves_a_lagging_reader_forward():
    world = World()
    alice, reader = world.party("alice"), world.party(credit=1)
    reader.read("a")
    for payload in words(5):
        alice.say("a", payload)
    reader.read("a", start=Start.LAST)
    reader.give(100)
    assert reader.payloads == words(5)


def test_last_after_a_restart_is_the_newest_the_log_has():
    world = World()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    for payload in words(3):
        alice.say("a", payload, wish=1)
    world.commit()
    world = world.after_crash()
    reader = world.party()
    reader.read("a", start=Start.LAST)
    assert reader.payloads == [b"2"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_place_from_before_a_restart_is_told_what_was_lost_and_no_more(crash: bool):
    world = World()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ACKED)
    for payload in words(3):
        alice.say("a", payload, wish=1)
    for payload in words(2):
        alice.say("a", payload)
    world.commit()
    place = (world.channel("a").number, 1)
    alice.end()
    world = world.after_crash() if crash else world.stopped()
    alice, reader = world.party("alice"), world.party()
    reader.read("a", start=place)
    alice.say("a", b"new", wish=1)
    world.commit()
    assert reader.payloads == [b"1", b"2", b"new"]
    # After a crash nobody knows how many there were in memory; the notice says so.
    assert reader.lost_counts == ([0] if crash else [2])
    assert (world.metrics.gaps, world.metrics.lost) == (1, 0 if crash else 2)


def test_a_stop_in_good_order_skips_no_offset_and_makes_no_gap():
    world = World()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ACKED)
    alice.say("a", b"0", wish=1)
    world.commit()
    place = (world.channel("a").number, 1)
    alice.end()
    world = world.stopped()
    alice, reader = world.party("alice"), world.party()
    reader.read("a", start=place)
    alice.say("a", b"1")
    world.commit()
    assert reader.offsets == [1]
    assert reader.lost_counts == []
    # And a crash after that is on its guard again.
    after = world.after_crash()
    watcher = after.party()
    watcher.read("a")
    after.party("alice").say("a", b"2", wish=1)
    after.commit()
    assert watcher.offsets[0] > 1


# -- several subscriptions of one session -----------------------------------------------------------


def test_one_copy_however_many_filters_match():
    world = World()
    alice, reader = world.party("alice"), world.party()
    for filter_, wish, identifier in (("a", 0, 7), ("+", 2, 8), ("#", 1, 0), ("b", 2, 9)):
        reader.read(filter_, wish=wish, identifier=identifier)
    alice.say("a", b"1")
    assert reader.payloads == [b"1"]
    feed = world.channel("a").feed_of(reader)
    assert feed is not None
    assert (feed.wish, feed.identifiers) == (2, (7, 8))


def test_the_last_subscription_that_matches_ends_the_feed():
    world = World()
    alice, reader = world.party("alice"), world.party()
    exact, wild = reader.read("a"), reader.read("+")
    world.broker.unsubscribe(exact)
    alice.say("a", b"1")
    world.broker.unsubscribe(wild)
    alice.say("a", b"2")
    assert reader.payloads == [b"1"]
    world.broker.unsubscribe(wild)
    assert world.metrics.subscriptions == 0
    assert world.channel("a").feeds is None


def test_no_local_holds_for_a_subscription_not_for_a_session():
    world = World()
    alice = world.party("alice")
    alice.read("a", no_local=True)
    alice.say("a", b"1")
    assert alice.got == []
    alice.read("+")
    alice.say("a", b"2")
    assert alice.payloads == [b"2"]


# -- one page ----------------------------------------------------------------------------------------


def page(world: World, offset: int | None, max_bytes: int = 1 << 20) -> Page:
    pages: list[Page | Refusal] = []
    world.broker.read(world.party(), "a", offset, max_bytes, pages.append)
    (only,) = pages
    assert isinstance(only, Page)
    return only


def test_pages_cover_log_and_ring_without_overlap_and_count_what_is_lost():
    world = tight()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ALL)
    for n in range(100):
        alice.say("a", b"%04d" % n + b"." * 996)
        world.commit()
    found, offset = [], 0
    while True:
        one = page(world, offset, 5_000)
        if not one.messages:
            break
        found += [m.offset for m in one.messages]
        offset = one.next_offset
        assert one.lost == 0
    assert found == list(range(100))
    assert page(world, 1_000).next_offset == 1_000
    world.log.release(world.channel("a").number, 50)
    one = page(world, 10)
    assert (one.lost, one.first_offset, one.messages[0].offset) == (40, 50, 50)


def test_a_page_before_the_ring_of_a_channel_without_log_counts_the_lost():
    world = tight()
    alice = world.party("alice")
    for _ in range(100):
        alice.say("a", b"." * 1_000)
    one = page(world, 10)
    assert one.lost == 100 - FITS - 10
    assert one.messages[0].offset == 100 - FITS
    assert page(world, None).lost == 0


def test_a_page_between_the_logs_end_and_the_ring_counts_the_lost():
    world = tight()
    alice = world.party("alice")
    world.broker.declare(alice, "a", Keep.ACKED)
    alice.say("a", b"logged", wish=1)
    world.commit()
    for _ in range(100):
        alice.say("a", b"." * 1_000)
    assert [m.offset for m in page(world, 0).messages] == [0]
    one = page(world, 1)
    assert one.messages[0].offset == 101 - FITS
    assert one.lost == 100 - FITS


def test_last_stays_when_the_ring_has_let_everything_go():
    world = tight()
    alice = world.party("alice")
    alice.say("a", b"the last word")
    for _ in range(100):
        alice.say("b", b"." * 1_000)
    assert len(world.channel("a").ring) == 0
    last = world.broker.last_of("a")
    assert last is not None
    assert last.payload == b"the last word"
    assert [m.payload for m in page(world, None).messages] == [b"the last word"]
    reader = world.party()
    reader.read("a", start=Start.LAST)
    assert reader.payloads == [b"the last word"]
    alice.say("a", b"expires", expires_ms=world.clock.now_ms() + 10)
    world.advance(20)
    assert world.broker.last_of("a") is None

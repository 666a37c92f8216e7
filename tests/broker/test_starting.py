"""Where readers start, what several subscriptions of one make, and single pages of a channel."""

from __future__ import annotations

import pytest
from mesh_fakes import FITS, World, tight, words

from dragoman.broker.channel import Keep
from dragoman.broker.pump import Page
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.subscription import Start
from dragoman.routing.refusals import Refusal

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

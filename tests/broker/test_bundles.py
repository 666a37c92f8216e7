"""Several messages said at once and kept unread: who reads them whole, who one by one, and what becomes of the ring."""

from __future__ import annotations

from mesh_fakes import World, bundle_of

from dragoman.broker.channel import Channel, Keep
from dragoman.broker.log.contract import Table
from dragoman.broker.subscription import Start
from dragoman.routing.message import Bundle, end_of


def kept(world: World, name: str = "t") -> Channel:
    channel = world.broker.declare(world.party("owner"), name, Keep.ALL)
    assert isinstance(channel, Channel)
    world.commit()
    return channel


def fetch(world: World, channel: Channel, offset: int = 0, max_bytes: int = 1 << 20) -> list[object]:
    found: list[object] = []
    world.broker.core.pump.fetch(
        channel, offset, max_bytes, lambda entries, following: found.extend([*entries, following])
    )
    return found


def opened(world: World) -> int:
    return len(world.broker.core.bundles._opened)


def test_a_bundle_takes_offsets_in_a_row_and_is_seen_after_its_commit():
    world = World()
    channel = kept(world)
    first, second = bundle_of(channel, b"a", b"b", b"c"), bundle_of(channel, b"d")
    assert channel.append_bundle(first)
    assert channel.append_bundle(second)
    assert (first.offset, second.offset, channel.next_offset, channel.visible) == (0, 3, 4, 0)
    world.commit()
    assert channel.visible == 4
    assert fetch(world, channel) == [first, second, 4]
    assert opened(world) == 0, "who reads bundles whole has none opened"


def test_a_fetch_from_within_a_bundle_gets_it_whole():
    world = World()
    channel = kept(world)
    bundle = bundle_of(channel, b"a", b"b", b"c")
    channel.append_bundle(bundle)
    world.commit()
    assert fetch(world, channel, 2) == [bundle, 3]
    assert fetch(world, channel, 3) == [3]


def test_who_is_fed_gets_messages_one_by_one():
    world = World()
    channel = kept(world)
    exact, wild = world.party("exact"), world.party("wild")
    exact.read("t")
    wild.read("#")
    channel.append_bundle(bundle_of(channel, b"a", b"b"))
    world.commit()
    assert exact.payloads == wild.payloads == [b"a", b"b"]
    assert exact.offsets == [0, 1]


def test_who_comes_later_reads_bundles_and_messages_in_order():
    world = World()
    channel = kept(world)
    alice = world.party("alice")
    channel.append_bundle(bundle_of(channel, b"0", b"1"))
    alice.say("t", b"2", wish=1)
    channel.append_bundle(bundle_of(channel, b"3", b"4"))
    world.commit()
    alice.say("t", b"5")
    world.commit()
    reader = world.party("late")
    reader.read("t", start=(channel.number, 1))
    world.loop.run()
    assert reader.payloads == [b"1", b"2", b"3", b"4", b"5"]
    assert reader.lost_counts == []
    everything = world.party("all")
    everything.read("t", start=Start.EARLIEST)
    world.loop.run()
    assert everything.offsets == [0, 1, 2, 3, 4, 5]


def test_a_reader_without_credit_goes_on_inside_a_bundle():
    world = World()
    channel = kept(world)
    slow = world.party("slow", credit=1)
    slow.read("t")
    channel.append_bundle(bundle_of(channel, b"0", b"1", b"2"))
    channel.append_bundle(bundle_of(channel, b"3"))
    world.commit()
    assert slow.payloads == [b"0"]
    slow.give(2)
    assert slow.payloads == [b"0", b"1", b"2"]
    slow.give(9)
    assert slow.payloads == [b"0", b"1", b"2", b"3"]
    assert slow.lost_counts == []


def test_a_durable_reader_gets_them_across_a_crash_and_finishes_them_one_by_one():
    world = World()
    channel = kept(world)
    durable = world.durable(b"d", "t", credit=2)
    channel.append_bundle(bundle_of(channel, b"0", b"1", b"2"))
    world.commit()
    assert durable.payloads == [b"0", b"1"]
    durable.finish(0)
    world.broker.backlogs.flush()
    world.commit()
    after = world.after_crash()
    again = after.durable(b"d", "t")
    assert again.payloads == [b"1", b"2"]


def test_offsets_go_on_after_a_crash():
    world = World()
    channel = kept(world)
    channel.append_bundle(bundle_of(channel, b"0", b"1", b"2"))
    world.commit()
    after = world.after_crash()
    channel = after.channel("t")
    assert channel.visible == channel.next_offset == 3
    assert [end_of(b) for b in fetch(after, channel)[:-1]] == [3]


def test_a_refused_commit_says_nothing_of_it():
    world = World()
    channel = kept(world)
    reader = world.party("reader")
    reader.read("t")
    channel.append_bundle(bundle_of(channel, b"0", b"1"))
    world.refuse()
    assert reader.got == []
    assert world.metrics.dropped == {"commit-failed": 2}
    channel.append_bundle(bundle_of(channel, b"2"))
    world.commit()
    assert reader.payloads == [b"2"]


def test_one_nobody_can_read_is_counted_and_harms_no_other():
    world = World()
    channel = kept(world)
    reader = world.party("reader")
    reader.read("t")
    bad = Bundle("t", b"?", 9, 3)
    channel.append_bundle(bundle_of(channel, b"0"))
    channel.append_bundle(bad)
    channel.append_bundle(bundle_of(channel, b"4"))
    world.commit()
    assert reader.payloads == [b"0", b"4"]
    assert world.metrics.dropped["bundle-unreadable"] == 3
    late = world.party("late")
    late.read("t", start=Start.EARLIEST)
    world.loop.run()
    assert late.payloads == [b"0", b"4"]
    assert late.lost_counts == [3]
    assert bad in fetch(world, channel), "its own protocol may know better"


def test_the_last_message_is_there_even_if_nobody_opened_its_bundle():
    world = World()
    channel = kept(world)
    channel.append_bundle(bundle_of(channel, b"0", b"1"))
    world.commit()
    last = world.broker.last_of("t")
    assert last is not None
    assert (last.payload, last.offset) == (b"1", 1)


def test_retention_frees_whole_bundles():
    world = World()
    owner = world.party("owner")
    world.broker.declare(owner, "t", Keep.ALL, retention_messages=3)
    world.commit()
    channel = world.channel("t")
    for n in range(4):
        channel.append_bundle(bundle_of(channel, b"%d" % n, b"x"))
    world.commit()
    world.sweep(3)
    assert channel.oldest == 4, "six of eight messages lie beyond, but a bundle that holds one within stays"
    assert [b.offset for b in fetch(world, channel, 4)[:-1]] == [4, 6]


def test_a_page_read_across_bundles_says_where_to_go_on():
    world = World()
    channel = kept(world)
    channel.append_bundle(bundle_of(channel, b"0", b"1"))
    world.commit()
    pages: list[object] = []
    world.broker.read(world.party("r"), "t", 1, 1 << 20, pages.append)
    (page,) = pages
    assert [m.payload for m in page.messages] == [b"1"]
    assert (page.next_offset, page.first_offset, page.lost) == (2, 0, 0)


def test_watchers_hear_of_everything_that_becomes_visible_and_of_the_end():
    world = World()
    alice = world.party("alice")
    alice.say("plain", b"x")
    channel = world.channel("plain")
    heard: list[int] = []

    def watch(seen: Channel) -> None:
        heard.append(seen.visible)

    channel.watch(watch)
    alice.say("plain", b"y")
    alice.say("plain", b"z")
    assert heard == [2, 3]
    assert [m.payload for m in fetch(world, channel, 1)[:-1]] == [b"y", b"z"]
    channel.unwatch(watch)
    alice.say("plain", b"!")
    assert heard == [2, 3]
    channel.watch(watch)
    world.broker.channels.close(channel)
    assert len(heard) == 3


def test_a_channel_somebody_watches_does_not_evaporate():
    world = World()
    world.party("alice").say("plain", b"x")
    channel = world.channel("plain")
    fn = [].append
    channel.watch(fn)
    world.advance(world.settings.channel_idle_ms * 3, world.settings.sweep_ms)
    assert channel.open
    channel.unwatch(fn)
    world.advance(world.settings.channel_idle_ms * 3, world.settings.sweep_ms)
    assert not channel.open


def test_tables_have_numbers_of_their_own():
    assert len({int(table) for table in Table}) == len(Table)

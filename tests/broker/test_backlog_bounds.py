"""What may wait for a durable reader where the log answers later, and readers that come back meanwhile."""

from __future__ import annotations

from collections import deque

from mesh_fakes import Durable, World, words

from dragoman.broker.backlog import SCAN_BYTES, Bounds
from dragoman.broker.channel import Keep
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.refusals import Refusal


def behind(world: World, bounds: Bounds | None = None) -> Durable:
    """A reader without credit."""
    reader = world.durable(b"r", "a", credit=0)
    reader.backlog.bounds = bounds
    return reader


def say(world: World, *payloads: bytes) -> None:
    alice = world.party("alice")
    for payload in payloads:
        alice.say("a", payload, wish=1)
    world.commit()
    alice.end()


def answer(world: World) -> None:
    """The log answers all it was asked, and what it is asked then."""
    while world.log.held_reads:
        world.log.held_reads.popleft()()
        world.loop.run()


def test_a_reader_with_new_credit_goes_on_when_the_oldest_are_gone():
    world = World()
    reader = behind(world)
    say(world, *words(40))
    reader.backlog.bounds = Bounds(16, 0, 0)
    world.log.held_reads = deque()
    reader.backlog.trim()
    reader.credit = 1_000
    reader.backlog.resume()
    answer(world)
    assert reader.payloads == words(14, 26)
    assert (reader.backlog.lost, reader.backlog.behind) == (26, False)
    world.check()


def test_a_reader_that_goes_away_meanwhile_is_trimmed_by_the_next_message():
    world = World()
    reader = behind(world)
    say(world, *words(40))
    reader.backlog.bounds = Bounds(16, 0, 0)
    world.log.held_reads = deque()
    reader.backlog.trim()
    reader.backlog.pause()
    answer(world)
    assert reader.backlog.lost == 0
    say(world, b"last")
    answer(world)
    assert reader.backlog.lost == 27
    assert reader.backlog.waiting == 14
    world.check()


def test_more_than_one_read_of_the_log_is_let_go_and_nothing_that_was_done():
    world = World()
    size = SCAN_BYTES // 4
    reader = behind(world)
    say(world, *(b"%03d" % n + b"x" * size for n in range(12)))
    reader.give(3)
    reader.finish(1)
    reader.backlog.bounds = Bounds(1, 0, 0)
    reader.backlog.trim()
    world.loop.run()
    assert (reader.backlog.waiting, reader.backlog.lost) == (1, 8)
    reader.give(10)
    assert [payload[:3] for payload in reader.payloads if payload] == [b"000", b"001", b"002", b"011"]
    world.check()


def test_without_bounds_nobody_is_trimmed():
    world = World()
    reader = behind(world)
    say(world, *words(10))
    reader.backlog.trim()
    assert not reader.backlog.overdue
    world.loop.run()
    assert (reader.backlog.waiting, reader.backlog.waiting_bytes) == (10, sum(map(len, words(10))))
    reader.give(4)
    assert (reader.backlog.waiting, len(reader.got)) == (6, 4)
    reader.give(6)
    assert (reader.backlog.waiting, reader.backlog.waiting_bytes) == (0, 0)


def test_what_was_finished_before_a_crash_is_not_lost_by_letting_go_of_it():
    world = World()
    reader = world.durable(b"r", "a", credit=3)
    say(world, *words(8))
    reader.finish(1, 2)
    world.broker.backlogs.flush()
    world.commit()
    world = world.after_crash()
    reader = world.durable(b"r", credit=0)
    say(world, *words(2, 8))
    reader.backlog.bounds = Bounds(1, 0, 0)
    reader.backlog.trim()
    world.loop.run()
    assert reader.backlog.lost == 7
    reader.give(10)
    assert reader.payloads == [b"9"]


def test_what_is_left_out_is_a_few_spans_however_often_the_queue_is_full():
    world = World()
    reader = behind(world, Bounds(8, 0, 0, new_goes=True))
    taken = 0
    for _ in range(60):
        say(world, *words(6))
        reader.give(2)
        taken += 2
        assert len(reader.backlog.row().left_out) <= 10
    assert reader.backlog.lost > 200
    reader.give(100)
    assert len(reader.got) + reader.backlog.lost == 360, "each was given or is lost, never both"
    assert reader.backlog.row().left_out == ()
    world.check()


def test_what_was_left_out_is_not_lost_again_when_its_channel_lets_go_of_it():
    world = World(BrokerSettings(sweep_ms=1_000))
    assert not isinstance(world.broker.declare(world.party(), "a", Keep.ALL, retention_messages=3), Refusal)
    reader = behind(world, Bounds(4, 0, 0, new_goes=True))
    say(world, *words(10))
    assert (reader.backlog.waiting, reader.backlog.lost) == (4, 6)
    world.sweep(2)
    number = world.broker.channels.by_name["a"].number
    assert world.log.bounds(number) == (7, 10), "those that waited, and three that were left out"
    assert (reader.backlog.lost, world.metrics.lost) == (10, 10)

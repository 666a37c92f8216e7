"""Numbered producers: what they said before is recognised, in order, across refusals and crashes."""

from __future__ import annotations

import pytest
from mesh_fakes import World

from dragoman.broker.log.contract import DONE, Table, Ticket
from dragoman.broker.producers import SEQUENCES, WINDOW, Out, Said
from dragoman.broker.settings import BrokerSettings

CHANNEL = 7


def say(world: World, producer: int, first: int, last: int, offset: int, *, epoch: int = 0, ticket: int = 0) -> None:
    assert world.broker.producers.judge(CHANNEL, producer, epoch, first, last) is None
    world.broker.producers.remember(CHANNEL, producer, epoch, Said(first, last, offset, Ticket(ticket)))


def judge(world: World, producer: int, first: int, last: int, epoch: int = 0) -> Said | Out | None:
    return world.broker.producers.judge(CHANNEL, producer, epoch, first, last)


def test_ids_are_never_given_twice_not_even_over_a_crash():
    world = World()
    before = [world.broker.producers.fresh_id() for _ in range(3)]
    world.commit()
    after = world.after_crash().broker.producers
    assert after.fresh_id() > max(before)


def test_the_same_again_is_told_where_it_went():
    world = World()
    say(world, 1, 0, 4, 100)
    say(world, 1, 5, 5, 105)
    assert judge(world, 1, 0, 4) == Said(0, 4, 100, DONE)
    assert judge(world, 1, 5, 5) == Said(5, 5, 105, DONE)
    assert judge(world, 1, 6, 9) is None


def test_a_hole_is_out_of_order():
    world = World()
    say(world, 1, 0, 4, 100)
    assert judge(world, 1, 6, 6) is Out.OF_ORDER
    assert judge(world, 1, 3, 4) is Out.OF_ORDER, "half of what was said is not what was said"


def test_only_a_window_of_the_past_is_remembered():
    world = World()
    for n in range(WINDOW + 1):
        say(world, 1, n, n, n)
    assert judge(world, 1, 0, 0) is Out.OF_ORDER
    assert isinstance(judge(world, 1, 1, 1), Said)


def test_what_nobody_remembers_may_begin_anywhere():
    assert judge(World(), 9, 1_000, 1_001) is None


def test_a_new_epoch_begins_anew_and_the_old_one_is_over():
    world = World()
    say(world, 1, 0, 0, 0)
    say(world, 1, 0, 0, 1, epoch=1)
    assert judge(world, 1, 1, 1, epoch=0) is Out.OF_EPOCH
    assert judge(world, 1, 1, 1, epoch=1) is None


def test_sequence_numbers_wrap():
    world = World()
    say(world, 1, SEQUENCES - 2, SEQUENCES - 1, 0)
    assert judge(world, 1, 0, 0) is None
    assert judge(world, 1, 1, 1) is Out.OF_ORDER


def test_a_refused_commit_may_be_said_again():
    world = World()
    producers = world.broker.producers
    world.log.split()
    ticket = world.log.put(Table.META, b"x", b"y")
    say(world, 1, 0, 0, 5, ticket=ticket)
    world.refuse()
    assert judge(world, 1, 0, 0) is None
    say(world, 1, 0, 0, 5)
    assert producers.judge(CHANNEL, 1, 0, 0, 0) == Said(0, 0, 5, DONE)


def test_windows_survive_a_crash():
    world = World()
    say(world, 1, 0, 4, 100)
    world.commit()
    after = world.after_crash()
    assert judge(after, 1, 0, 4) == Said(0, 4, 100, DONE)
    assert judge(after, 1, 6, 6) is Out.OF_ORDER


@pytest.mark.parametrize("by", ["count", "age"])
def test_the_oldest_are_forgotten(by):
    world = World(BrokerSettings(producers_max=2 if by == "count" else 100, producers_ms=60_000))
    for producer in (1, 2, 3):
        say(world, producer, 0, 0, 0)
        if by == "age":
            world.advance(40_000, 5_000)
    world.broker.producers.trim()
    assert judge(world, 1, 5, 5) is None
    assert judge(world, 3, 5, 5) is Out.OF_ORDER
    world.commit()
    assert len(list(world.log.rows(Table.PRODUCERS))) == (2 if by == "count" else 1)

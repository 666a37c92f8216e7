"""The choice of a work group, where always taking the first would fail."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.routing.groups import Strategy, backoff_ms, choose, key_of
from dragoman.routing.message import Envelope, Message

EVERY = list(Strategy)


@dataclass
class Worker:
    id: str
    inflight: int = 0
    limit: int = 10
    connected: bool = True
    turn: int = 0


class Group:
    """A group as the broker keeps one: it counts turns and writes down who was served."""

    def __init__(self, strategy: Strategy, *workers: Worker) -> None:
        self.strategy = strategy
        self.workers = list(workers)
        self.turn = 0

    def give(self, key: bytes | None = None, settled: bool = False) -> str | None:
        worker = choose(self.strategy, self.workers, key)
        if worker is None:
            return None
        self.turn += 1
        worker.turn = self.turn
        worker.inflight += not settled
        return worker.id


def keys(count: int) -> list[bytes]:
    return [b"key-%d" % i for i in range(count)]


@pytest.mark.parametrize("strategy", EVERY)
def test_nobody_there_or_nobody_with_room_is_none(strategy):
    assert choose(strategy, [], b"k") is None
    full = [Worker("a", inflight=1, limit=1), Worker("b", inflight=3, limit=2), Worker("c", limit=0)]
    assert choose(strategy, full, b"k") is None
    full[1].limit = 4
    assert choose(strategy, full, b"k") is full[1]
    assert choose(strategy, iter(full), b"k") is full[1]


@pytest.mark.parametrize("strategy", EVERY)
def test_sleepers_are_asked_only_when_nobody_is_connected(strategy):
    asleep = Worker("a", connected=False)
    awake = Worker("b", inflight=9)
    assert choose(strategy, [asleep, awake], b"k") is awake
    awake.inflight = 10
    assert choose(strategy, [asleep, awake], b"k") is None
    awake.connected = False
    assert choose(strategy, [asleep, awake], b"k") is asleep
    asleep.inflight = 10
    assert choose(strategy, [asleep, awake], b"k") is None


def test_least_inflight_is_the_least_busy_not_the_first():
    workers = [Worker("a", inflight=3), Worker("b", inflight=1), Worker("c", inflight=2)]
    assert choose(Strategy.LEAST_INFLIGHT, workers) is workers[1]
    workers[1].limit = 1
    assert choose(Strategy.LEAST_INFLIGHT, workers) is workers[2]


def test_least_inflight_gives_a_slow_worker_less():
    group = Group(Strategy.LEAST_INFLIGHT, Worker("slow", limit=100), Worker("fast", limit=100))
    given_to = Counter(group.give() for _ in range(5))
    for _ in range(100):
        group.workers[1].inflight = max(0, group.workers[1].inflight - 1)
        given_to[group.give()] += 1
    assert given_to["fast"] > 90


@pytest.mark.parametrize("strategy", [Strategy.LEAST_INFLIGHT, Strategy.ROUND_ROBIN])
@pytest.mark.parametrize("settled", [True, False])
def test_equal_members_share_evenly(strategy, settled):
    group = Group(strategy, *[Worker(name, limit=1_000) for name in "abcde"])
    given_to = [group.give(settled=settled) for _ in range(50)]
    assert set(Counter(given_to).values()) == {10}
    assert all(set(given_to[i : i + 5]) == set("abcde") for i in range(0, 50, 5))


def test_equals_share_evenly_though_a_third_comes_between():
    """A start that rotates behind the last one served would give every tie to the same member."""
    a, b, c = Worker("a"), Worker("b"), Worker("c")
    group = Group(Strategy.LEAST_INFLIGHT, a, b, c)
    ties: Counter[str | None] = Counter()
    for _ in range(20):
        a.inflight = b.inflight = 1
        c.inflight = 5
        ties[group.give(settled=True)] += 1
        c.inflight = 0
        assert group.give(settled=True) == "c"
    assert ties == {"a": 10, "b": 10}


def test_round_robin_goes_on_behind_one_that_is_full_and_does_not_flood_a_newcomer():
    a, b, c = Worker("a"), Worker("b", limit=0), Worker("c", inflight=5)
    group = Group(Strategy.ROUND_ROBIN, a, b, c)
    assert [group.give(settled=True) for _ in range(4)] == ["a", "c", "a", "c"]
    b.limit = 10
    group.workers.append(Worker("d"))
    assert [group.give(settled=True) for _ in range(8)] == ["b", "d", "a", "c", "b", "d", "a", "c"]


def test_sticky_keeps_a_key_whatever_the_order_and_load():
    workers = [Worker(name, limit=100) for name in "abcde"]
    home = {key: choose(Strategy.STICKY, workers, key) for key in keys(50)}
    random.Random(1).shuffle(workers)
    for i, worker in enumerate(workers):
        worker.inflight, worker.turn = i * 7, 50 - i
    assert {key: choose(Strategy.STICKY, workers, key) for key in keys(50)} == home


def test_sticky_spreads_keys():
    workers = [Worker(name) for name in "abcde"]
    share = Counter(worker.id for key in keys(1_000) if (worker := choose(Strategy.STICKY, workers, key)))
    assert set(share) == set("abcde")
    assert all(150 <= count <= 250 for count in share.values())


def test_sticky_moves_only_the_keys_of_one_that_leaves_and_only_while_it_is_away():
    workers = [Worker(name) for name in "abcde"]
    home = {key: choose(Strategy.STICKY, workers, key) for key in keys(300)}
    gone = workers[2]
    for change in ("limit", "connected"):
        setattr(gone, change, 0)
        moved = {key: choose(Strategy.STICKY, workers, key) for key in keys(300)}
        assert all((moved[key] is not home[key]) == (home[key] is gone) for key in home)
        assert len({worker.id for key, worker in moved.items() if home[key] is gone and worker}) == 4
        setattr(gone, change, 10)
    assert {key: choose(Strategy.STICKY, workers, key) for key in keys(300)} == home


def test_sticky_without_a_key_goes_by_load():
    busy, idle = Worker("a", inflight=3), Worker("b")
    assert choose(Strategy.STICKY, [busy, idle], None) is idle
    group = Group(Strategy.STICKY, Worker("a"), Worker("b"))
    assert [group.give(None, settled=True) for _ in range(4)] == ["a", "b", "a", "b"]
    assert len({group.give(b"", settled=True) for _ in range(4)}) == 1, "an empty key is a key"


def test_hash_goes_by_the_channel_and_everything_else_by_the_senders_key():
    bare, keyed = Message("a/b", b"", 0, ""), Message("a/b", b"", 0, "", False, Envelope(key=b"k"))
    assert key_of(Strategy.HASH, bare) == key_of(Strategy.HASH, keyed) == b"a/b"
    assert key_of(Strategy.STICKY, keyed) == b"k"
    assert key_of(Strategy.STICKY, bare) is None
    workers = [Worker(name, limit=100) for name in "abcde"]
    home = {key: choose(Strategy.HASH, workers, key) for key in keys(50)}
    assert len({worker.id for worker in home.values() if worker}) == 5
    for i, worker in enumerate(workers):
        worker.inflight, worker.turn = i * 7, 50 - i
    assert {key: choose(Strategy.HASH, workers, key) for key in keys(50)} == home


workers = st.builds(
    Worker,
    id=st.text(alphabet="abcdef", min_size=1, max_size=3),
    inflight=st.integers(0, 4),
    limit=st.integers(0, 4),
    connected=st.booleans(),
    turn=st.integers(0, 9),
)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(st.sampled_from(EVERY), st.lists(workers, max_size=8), st.one_of(st.none(), st.binary(max_size=4)))
def test_the_chosen_one_may_have_it_and_none_means_nobody(strategy, members, key):
    chosen = choose(strategy, members, key)
    reachable = [m for m in members if m.connected] or members
    if chosen is None:
        assert all(m.inflight >= m.limit for m in reachable)
    else:
        assert chosen in reachable
        assert chosen.inflight < chosen.limit


def test_backoff_doubles_up_to_its_maximum():
    assert [backoff_ms(n, 100, 1_000) for n in range(1, 7)] == [100, 200, 400, 800, 1_000, 1_000]
    assert backoff_ms(10**9, 1, 60_000) == 60_000
    assert backoff_ms(10**9, 0, 60_000) == 0
    assert backoff_ms(1, 50, 50) == 50


@pytest.mark.parametrize(("attempt", "base", "most"), [(0, 1, 2), (-1, 1, 2), (1, 3, 2), (1, -1, 2)])
def test_backoff_of_nonsense_is_our_own_mistake(attempt, base, most):
    with pytest.raises(AssertionError):
        backoff_ms(attempt, base, most)

"""The rings: order of eviction, the budget, reading from an offset."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.broker.log.ring import RING_OVERHEAD, Ring, RingBudget, ring_cost
from dragoman.routing.message import Envelope, Message


def said(offset: int, payload: bytes | None = b"x" * 14, envelope: Envelope | None = None) -> Message:
    message = Message("a/b", payload, envelope=envelope)
    message.offset = offset
    return message


COST = ring_cost(said(0))


def offsets(ring: Ring, since: int = 0, limit: int = 1000) -> list[int]:
    return [message.offset for message in ring.since(since, limit)]


def test_the_message_appended_longest_ago_goes_first_whichever_ring_it_is_in() -> None:
    budget = RingBudget(3 * COST)
    quiet, busy = Ring(), Ring()
    budget.append(quiet, said(0))
    budget.append(busy, said(0))
    budget.append(quiet, said(1))
    budget.append(busy, said(1))
    assert (offsets(quiet), offsets(busy)) == ([1], [0, 1])
    budget.append(busy, said(2))
    assert (offsets(quiet), offsets(busy)) == ([1], [1, 2])
    assert budget.evicted_messages == 2
    assert budget.used_bytes == 3 * COST


def test_the_newest_message_stays_even_if_it_alone_breaks_the_budget() -> None:
    budget = RingBudget(2 * COST)
    ring, other = Ring(), Ring()
    budget.append(other, said(0))
    budget.append(ring, said(0, b"y" * 10_000))
    assert offsets(other) == []
    assert offsets(ring) == [0]
    budget.append(other, said(1))
    assert offsets(ring) == []
    assert offsets(other) == [1]
    assert budget.used_bytes == COST


def test_since_finds_its_place_in_dense_and_holey_rings() -> None:
    budget = RingBudget(100 * COST)
    dense, holey = Ring(), Ring()
    for offset in range(5, 15):
        budget.append(dense, said(offset))
        budget.append(holey, said(offset * 3))
    assert offsets(dense, 0) == list(range(5, 15))
    assert offsets(dense, 8, 2) == [8, 9]
    assert offsets(dense, 15) == []
    assert offsets(holey, 16, 3) == [18, 21, 24]
    assert offsets(holey, 42) == [42]
    assert offsets(holey, 43) == []


def test_an_empty_ring_knows_where_it_ended() -> None:
    budget = RingBudget(10 * COST)
    ring = Ring()
    assert (ring.first_offset, ring.last, len(ring)) == (0, None, 0)
    budget.append(ring, said(7))
    assert (ring.first_offset, len(ring)) == (7, 1)
    assert ring.last is not None
    assert ring.last.offset == 7
    budget.clear(ring)
    assert (ring.first_offset, ring.last, len(ring)) == (8, None, 0)
    assert budget.used_bytes == 0


def test_cleared_messages_are_not_evicted_a_second_time() -> None:
    budget = RingBudget(3 * COST)
    first, second = Ring(), Ring()
    budget.append(first, said(0))
    budget.append(first, said(1))
    budget.clear(first)
    budget.append(second, said(0))
    budget.append(first, said(2))
    budget.append(second, said(1))
    budget.append(second, said(2))
    assert (offsets(first), offsets(second)) == ([2], [1, 2])
    assert budget.evicted_messages == 1


def test_appending_and_clearing_in_turn_does_not_grow_the_order() -> None:
    budget = RingBudget(1000 * COST)
    ring = Ring()
    for offset in range(10_000):
        budget.append(ring, said(offset))
        budget.clear(ring)
    assert len(budget._order) < 3000


def test_envelope_and_wire_form_count() -> None:
    assert ring_cost(said(0, None)) == RING_OVERHEAD
    assert ring_cost(said(0, b"12345")) == RING_OVERHEAD + 10
    with_header = said(0, None, Envelope(headers=(("name", b"v" * 100),)))
    assert ring_cost(with_header) > RING_OVERHEAD + 100


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 9)), max_size=80))
def test_random_appends_and_clears_agree_with_a_list(steps: list[tuple[int, int, int]]) -> None:
    budget = RingBudget(6 * COST)
    rings = [Ring() for _ in range(4)]
    model: list[tuple[int, Message]] = []
    following = [0] * 4
    for which, size, action in steps:
        if action == 0:
            budget.clear(rings[which])
            model = [(ring, message) for ring, message in model if ring != which]
            continue
        message = said(following[which], b"z" * size)
        following[which] += 1 + action % 3
        budget.append(rings[which], message)
        model.append((which, message))
        while len(model) > 1 and sum(ring_cost(m) for _, m in model) > budget.max_bytes:
            model.pop(0)
    assert budget.used_bytes == sum(ring_cost(m) for _, m in model)
    for which, ring in enumerate(rings):
        assert ring.since(0, 1000) == [m for w, m in model if w == which]

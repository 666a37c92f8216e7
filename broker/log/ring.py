"""The recent messages of a channel in memory, under one byte budget for all channels.

A ring decides nothing: the budget does. When it is spent, the message appended longest ago goes
first, whichever ring it is in, so a busy channel cannot pin memory that a new one needs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice
from typing import Final, final

from dragoman.broker.log.weight import envelope_weight
from dragoman.routing.message import Message

RING_OVERHEAD: Final = 272
"""Bytes of a message in a ring beside its payload. 472 were measured with a 100 B payload *and* its wire form, which
holds the payload a second time; so the payload counts twice, lest the budget be wrong by half for large ones."""

_STALE_SLACK: Final = 1024


def _offset_of(message: Message) -> int:
    return message.offset


@final
class Ring:
    """One channel's recent messages, oldest first. Only ``RingBudget`` adds and evicts."""

    __slots__ = ("_end", "_messages", "_stale")

    def __init__(self) -> None:
        self._messages: deque[Message] | None = None
        self._end = 0
        self._stale = 0

    def __len__(self) -> int:
        return 0 if self._messages is None else len(self._messages)

    @property
    def first_offset(self) -> int:
        """The oldest offset still here; if nothing is, the offset after the last one that was."""
        return self._messages[0].offset if self._messages else self._end

    @property
    def last(self) -> Message | None:
        """The newest message, if the budget has left it here."""
        return self._messages[-1] if self._messages else None

    def since(self, offset: int, limit: int) -> list[Message]:
        """At most ``limit`` messages from ``offset`` on, in order. Offsets may have holes."""
        messages = self._messages
        if not messages or offset >= self._end:
            return []
        start = offset - messages[0].offset
        if start <= 0:
            start = 0
        elif start >= len(messages) or messages[start].offset != offset:
            start = bisect_left(messages, offset, key=_offset_of)
        return list(islice(messages, start, start + limit))


@final
class RingBudget:
    """The bytes all rings together may hold. Appending is O(1); what no longer fits is evicted then and there."""

    __slots__ = ("_order", "_stale", "evicted_messages", "max_bytes", "used_bytes")

    def __init__(self, max_bytes: int) -> None:
        assert max_bytes > 0, f"a ring budget of {max_bytes} bytes holds nothing"
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.evicted_messages = 0
        self._order: deque[Ring] = deque()
        self._stale = 0

    def append(self, ring: Ring, message: Message) -> None:
        """Adds a message with an offset above all that were here. It stays even if it alone breaks the budget."""
        messages = ring._messages
        if messages is None:
            messages = ring._messages = deque()
        assert message.offset >= ring._end, f"offset {message.offset} after {ring._end - 1}"
        messages.append(message)
        ring._end = message.offset + 1
        self._order.append(ring)
        # ring_cost, written out: the call would be a third of this method's time.
        payload = message.payload
        cost = RING_OVERHEAD if payload is None else RING_OVERHEAD + 2 * len(payload)
        if message.envelope is not None:
            cost += envelope_weight(message)
        self.used_bytes += cost
        if self.used_bytes > self.max_bytes:
            self._evict(message)

    def clear(self, ring: Ring) -> None:
        """Forgets a ring's messages; its offsets go on."""
        messages = ring._messages
        if messages is None:
            return
        for message in messages:
            self.used_bytes -= ring_cost(message)
        ring._stale += len(messages)
        self._stale += len(messages)
        ring._messages = None
        if self._stale > _STALE_SLACK + len(self._order) // 2:
            self._forget_stale()

    def release(self, ring: Ring, offset: int) -> None:
        """Forgets a ring's messages below ``offset``."""
        messages = ring._messages
        if messages is None:
            return
        while messages and messages[0].offset < offset:
            self.used_bytes -= ring_cost(messages.popleft())
            ring._stale += 1
            self._stale += 1
        if not messages:
            ring._messages = None
        if self._stale > _STALE_SLACK + len(self._order) // 2:
            self._forget_stale()

    def _evict(self, newest: Message) -> None:
        order = self._order
        while self.used_bytes > self.max_bytes:
            ring = order.popleft()
            if ring._stale:
                ring._stale -= 1
                self._stale -= 1
                continue
            messages = ring._messages
            assert messages, "the order names a ring that has nothing"
            if messages[0] is newest:
                order.append(ring)
                return
            self.used_bytes -= ring_cost(messages.popleft())
            self.evicted_messages += 1
            if not messages:
                ring._messages = None

    def _forget_stale(self) -> None:
        """Drops what ``clear`` left in the order, so that append and clear in turn cannot grow it."""
        kept: deque[Ring] = deque()
        for ring in self._order:
            if ring._stale:
                ring._stale -= 1
            else:
                kept.append(ring)
        self._order = kept
        self._stale = 0


def ring_cost(message: Message) -> int:
    """Bytes one message counts for in the ring budget."""
    payload = message.payload
    cost = RING_OVERHEAD if payload is None else RING_OVERHEAD + 2 * len(payload)
    if message.envelope is not None:
        cost += envelope_weight(message)
    return cost

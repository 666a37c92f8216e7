"""What a durable reader is not given though it was said: new messages that found its queue full.

The queue is a place in the log and not a list, so what is left out is kept as spans of positions: from the first
message that found no room to the last before there was room again. The room that ends a span is an eighth of the
queue, so there are never more than some ten of them.
"""

from __future__ import annotations

from collections import deque
from typing import final


@final
class LeftOut:
    """Spans of positions, in order. ``growing``: the last of them grows with each message that is said."""

    __slots__ = ("_spans", "growing")

    def __init__(self, spans: tuple[tuple[int, int], ...] = ()) -> None:
        self._spans: deque[tuple[int, int]] = deque(spans)
        self.growing = False

    def add(self, position: int, place: int) -> None:
        """The message at this position, above all so far, is left out; what its place has passed is forgotten."""
        while self._spans and self._spans[0][1] <= place:
            self._spans.popleft()
        if self.growing and self._spans:
            first, _ = self._spans.pop()
            self._spans.append((first, position + 1))
        else:
            self._spans.append((position, position + 1))
        self.growing = True

    def has(self, position: int) -> bool:
        """Whether the message at this position is left out."""
        return bool(self._spans) and any(first <= position < end for first, end in self._spans)

    def clear(self) -> None:
        """The reader has passed everything."""
        self._spans.clear()
        self.growing = False

    def row(self) -> tuple[tuple[int, int], ...]:
        """What survives a restart."""
        return tuple(self._spans)

"""Batches made of messages that came by other protocols. Made once, remembered for the next consumer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final, final

from dragoman.adapters.kafka.batches import build, patched
from dragoman.routing.message import Bundle, Entry, Message

RUN_MAX: Final = 1_000
"""Messages in one batch made here."""


@final
class Synthesis:
    """Turns entries into record batches. What it remembers is bounded in bytes; the least recently used goes first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._made: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()

    def records(self, entries: Iterable[Entry]) -> Iterator[bytes | memoryview]:
        """The record batches of entries of one channel, in pieces to be written one after the other."""
        for bundled, run in groupby(entries, key=lambda entry: isinstance(entry, Bundle)):
            if bundled:
                for bundle in run:
                    assert isinstance(bundle, Bundle)
                    yield from patched(bundle)
                continue
            messages = [message for message in run if isinstance(message, Message)]
            for at in range(0, len(messages), RUN_MAX):
                yield self._batch(messages[at : at + RUN_MAX])

    def _batch(self, messages: list[Message]) -> bytes:
        place = (messages[0].number, messages[0].offset, messages[-1].offset)
        known = self._made.get(place)
        if known is not None:
            self._made.move_to_end(place)
            return known
        made = self._made[place] = build(messages)
        self._bytes += len(made)
        while self._bytes > self._bytes_max and len(self._made) > 1:
            self._bytes -= len(self._made.popitem(last=False)[1])
        return made

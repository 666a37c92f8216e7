"""Opens bundles: who reads single messages gets them here. Decides what is kept opened, not how to open.

A bundle lies in the log as its sender's protocol wrote it. As long as only that protocol reads it, nobody
opens it; the first other reader has it opened once, for all others as well.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, final

from dragoman.broker.log.weight import weight
from dragoman.routing.message import Bundle, Entry, Message

if TYPE_CHECKING:
    from dragoman.broker.metrics import Metrics

logger: Final = logging.getLogger("dragoman.broker")

OPENED_BYTES_MAX: Final = 16 << 20
"""Weight of the messages of opened bundles that are remembered for the next reader."""


Open: TypeAlias = Callable[[Bundle], Sequence[Message]]
"""Knows one kind of bundle: the messages of it, with number, offset, position, time and sender.

Raises ValueError with a sentence if it cannot be read.
"""


@final
class Bundles:
    """The codecs of a mesh, and what was opened lately. ``add`` before the first bundle is met."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._codecs: dict[int, Open] = {}
        self._opened: OrderedDict[tuple[int, int], tuple[Sequence[Message], int]] = OrderedDict()
        self._bytes = 0

    def add(self, kind: int, codec: Open) -> None:
        """From now on bundles of this kind, a number on disk, can be opened."""
        self._codecs[kind] = codec

    def messages(self, bundle: Bundle) -> Sequence[Message]:
        """What was said; nothing, counted and logged, if it cannot be read."""
        place = (bundle.number, bundle.offset)
        known = self._opened.get(place)
        if known is not None:
            self._opened.move_to_end(place)
            return known[0]
        messages = self._open(bundle)
        size = sum(map(weight, messages))
        self._opened[place] = (messages, size)
        self._bytes += size
        while self._bytes > OPENED_BYTES_MAX and len(self._opened) > 1:
            self._bytes -= self._opened.popitem(last=False)[1][1]
        return messages

    def flat(self, entries: Iterable[Entry], offset: int = 0) -> list[Message]:
        """Single messages of one channel, none below ``offset``."""
        return [message for message in self._each(entries) if message.offset >= offset]

    def after(self, entries: Iterable[Entry], position: int) -> list[Message]:
        """Single messages in commit order, none below ``position``."""
        return [message for message in self._each(entries) if message.position >= position]

    def _each(self, entries: Iterable[Entry]) -> Iterable[Message]:
        for entry in entries:
            if isinstance(entry, Bundle):
                yield from self.messages(entry)
            else:
                yield entry

    def _open(self, bundle: Bundle) -> Sequence[Message]:
        codec = self._codecs.get(bundle.kind, _unknown)
        try:
            return codec(bundle)
        except ValueError as error:
            self._metrics.drop("bundle-unreadable", bundle.count)
            logger.warning(
                "messages nobody can read but who speaks their protocol",
                extra={"channel": bundle.name, "offset": bundle.offset, "count": bundle.count, "why": str(error)},
            )
            return ()


def _unknown(bundle: Bundle) -> Sequence[Message]:
    raise ValueError(f"nobody here reads bundles of kind {bundle.kind}")

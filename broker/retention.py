"""How long declared channels keep what they log: frees what is beyond their limits, oldest first.

Limits always win: readers that had not come so far get a counted gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

from dragoman.broker.log.weight import weight
from dragoman.routing.message import Entry, end_of

if TYPE_CHECKING:
    from dragoman.broker.channel import Channel
    from dragoman.broker.core import Core

CHUNK_BYTES: Final = 256 * 1024
"""Read at a time to find where the limit falls."""


class Limits(NamedTuple):
    """What a channel keeps at most; None = as much as the log's budget lets it."""

    ms: int | None = None
    bytes: int | None = None
    messages: int | None = None


NO_LIMITS: Final = Limits()


@final
class Retention:
    """Enforces limits, a channel at a time, when the sweep comes by."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._limits: dict[Channel, Limits] = {}
        #: when the oldest message of a channel will be too old, as far as is known
        self._due_ms: dict[Channel, int] = {}
        self._reading: set[Channel] = set()

    def set(self, channel: Channel, limits: Limits) -> None:
        """From now on the channel has these limits."""
        self.forget(channel)
        if limits != NO_LIMITS:
            self._limits[channel] = limits

    def of(self, channel: Channel) -> Limits:
        """The channel's limits."""
        return self._limits.get(channel, NO_LIMITS)

    def forget(self, channel: Channel) -> None:
        """The channel has no limits any more, or is no more."""
        self._limits.pop(channel, None)
        self._due_ms.pop(channel, None)

    def enforce(self, channel: Channel) -> None:
        """Frees what is beyond the channel's limits; in pieces, in later turns if the log has to be read."""
        limits = self._limits.get(channel)
        if limits is None or channel in self._reading or not channel.open:
            return
        log = self._core.log
        first, after = log.bounds(channel.number)
        if first < after and (
            (limits.messages is not None and after - first > limits.messages)
            or (limits.bytes is not None and log.bytes_of(channel.number) > limits.bytes)
            or (limits.ms is not None and self._due_ms.get(channel, 0) <= self._core.now_ms)
        ):
            self._reading.add(channel)
            log.read(channel.number, first, CHUNK_BYTES, partial(self._arrived, channel))

    def _arrived(self, channel: Channel, entries: Sequence[Entry], following: int) -> None:
        self._reading.discard(channel)
        core = self._core
        limits = self._limits.get(channel)
        if limits is None or not channel.open or not entries or core.stopping:
            return
        gone = self._beyond(channel, limits, entries)
        if gone:
            end = end_of(gone[-1])
            core.log.release(channel.number, end)
            channel.free(end)
            readers = dict.fromkeys(core.readers.match(channel.name))
            missed = core.bundles.flat(gone) if readers else ()
            for reader in readers:
                reader.missed(missed)
        if len(gone) < len(entries):
            if limits.ms is not None:
                self._due_ms[channel] = entries[len(gone)].time_ms + limits.ms
        else:
            core.loop.call_soon(self.enforce, channel)

    def _beyond(self, channel: Channel, limits: Limits, entries: Sequence[Entry]) -> Sequence[Entry]:
        log = self._core.log
        oldest_ms = self._core.now_ms - limits.ms if limits.ms is not None else -1
        keep_from = log.bounds(channel.number)[1] - limits.messages if limits.messages is not None else 0
        excess = log.bytes_of(channel.number) - limits.bytes if limits.bytes is not None else 0
        for count, entry in enumerate(entries):
            if entry.time_ms > oldest_ms and end_of(entry) > keep_from and excess <= 0:
                return entries[:count]
            excess -= weight(entry)
        return entries

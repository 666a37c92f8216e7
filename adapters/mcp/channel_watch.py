"""When the list of resources may have changed: a channel holds something for the first time, or is no more.

Looked for from time to time and not told by the broker, whose publishing path this must not slow down. A channel
that goes on existing but holds nothing any more is not noticed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.channel import Channel
    from dragoman.broker.timers import Timer

LOOKED_AT_MAX: Final = 1_000
"""Empty channels looked at in one go; the others come next time."""

NO_RESOURCES: Final = ("$dragoman/", "$mcp-")
"""Channels that begin so are nobody's resources: the mesh's own, and MCP's own talk over MQTT, where each client that
comes would be news to all others."""


@final
class ChannelWatch:
    """Calls ``ring`` when there may be other channels to list."""

    __slots__ = ("_broker", "_empty", "_every_ms", "_gone", "_newest", "_ring", "_timer")

    def __init__(self, broker: Broker, every_ms: int, ring: Callable[[], None]) -> None:
        self._broker = broker
        self._every_ms = every_ms
        self._ring = ring
        #: channels that held nothing when last looked at
        self._empty: deque[Channel] = deque()
        self._newest = 0
        self._gone = 0
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begins to look; what is there now is no news."""
        self._fresh()
        self._gone = self._broker.channels.evaporated_total
        self._empty = deque(channel for channel in self._empty if not _holds(channel))
        self._timer = self._broker.timers.after(self._every_ms, self._look)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        gone = self._broker.channels.evaporated_total
        changed, self._gone = gone != self._gone, gone
        self._fresh()
        for _ in range(min(len(self._empty), LOOKED_AT_MAX)):
            channel = self._empty.popleft()
            if _holds(channel):
                changed = True
            elif channel.open:
                self._empty.append(channel)
        if changed:
            self._ring()
        self._timer = self._broker.timers.after(self._every_ms, self._look)

    def _fresh(self) -> None:
        """Takes in the channels that are new: numbers grow, so they are the last."""
        newest = self._newest
        for channel in reversed(self._broker.channels.by_number.values()):
            if channel.number <= newest:
                break
            self._newest = max(self._newest, channel.number)
            if channel.head is None and not channel.name.startswith(NO_RESOURCES):
                # At the front: they are looked at at once.
                self._empty.appendleft(channel)


def _holds(channel: Channel) -> bool:
    return channel.retained is not None or channel.last is not None or channel.tail is not None

"""Calls that wait: in lanes, each for the same servers, the longest waiting first."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from dragoman.broker.call import Call

Lane: TypeAlias = tuple[str, str]
"""(agent, skill); the agent is "" where nobody is named."""


@final
class Lanes:
    """The waiting calls by lane. Bounded by the calls there may be."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, OrderedDict[str, Call]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __contains__(self, lane: Lane) -> bool:
        return lane in self._lanes

    def length(self, lane: Lane) -> int:
        """How many wait there."""
        return len(self._lanes.get(lane, ()))

    def holds(self, call: Call) -> bool:
        """Whether the call waits."""
        return call.id in self._lanes.get(call.lane, ())

    def wait(self, call: Call) -> None:
        """The call waits behind the others of its lane."""
        self._lanes.setdefault(call.lane, OrderedDict())[call.id] = call

    def leave(self, call: Call) -> None:
        """It waits no more; nothing happens if it did not."""
        lane = self._lanes.get(call.lane)
        if lane is not None and lane.pop(call.id, None) is not None and not lane:
            del self._lanes[call.lane]

    def first(self, lane: Lane, count: int) -> list[Call]:
        """Those that have waited longest."""
        return list(islice(self._lanes.get(lane, OrderedDict[str, "Call"]()).values(), count))

"""The newest committed messages in memory, and what is known of every channel. Loop's thread only.

Everything not yet in LMDB is here, and as much more as fits; older messages are read by the reader
thread. A channel's messages are here from ``cold_end`` on, all messages from ``cold_position`` on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, final

from dragoman.broker.log.contract import EVERYTHING
from dragoman.broker.log.frames import Frame
from dragoman.broker.log.weight import weight
from dragoman.routing.message import Entry, end_of, position_after

_EXAMINED_PER_SCAN: Final = 4096


def _offset_of(entry: Entry) -> int:
    return entry.offset


def _position_of(entry: Entry) -> int:
    return entry.position


@final
class Lane:
    """One channel: how far it goes, and its messages in memory (made on first use)."""

    __slots__ = ("appended", "cold_end", "committed", "first", "forgotten", "hot", "weight")

    def __init__(self, first: int = 0, committed: int = 0, weight: int = 0) -> None:
        self.first = first
        self.committed = committed
        self.appended = committed
        self.cold_end = committed
        self.weight = weight
        self.forgotten = False
        self.hot: deque[Entry] | None = None


@final
class _HotFrame:
    __slots__ = ("by_channel", "commit", "end_position", "messages", "weight")

    def __init__(
        self, commit: int, end_position: int, messages: list[Entry], by_channel: Mapping[int, list[Entry]]
    ) -> None:
        self.commit = commit
        self.end_position = end_position
        self.messages = messages
        self.by_channel = by_channel
        self.weight = 0


def _end_of(frame: _HotFrame) -> int:
    return frame.end_position


@final
class HotTail:
    """The lanes of all channels and the newest frames, under a bound that only what LMDB has not may break."""

    def __init__(self, bytes_max: int, next_position: int) -> None:
        self.lanes: dict[int, Lane] = {}
        self.weight = 0
        self.moved_commit = 0
        self.end_position = next_position
        self.cold_position = next_position
        self._bytes_max = bytes_max
        self._frames: deque[_HotFrame] = deque()

    # -- taking in ---------------------------------------------------------------------------------

    def commit(self, frame: Frame, messages: list[Entry], by_channel: Mapping[int, list[Entry]]) -> None:
        """Makes a safe commit readable."""
        self.end_position = frame.end_position
        if not messages:
            return
        kept = _HotFrame(frame.commit, frame.end_position, messages, by_channel)
        taken: set[int] = set()
        for batch in frame.batches:
            lane = self.lanes[batch.number]
            if lane.first == lane.committed:
                lane.first = batch.offset
            lane.committed = batch.last_offset + 1
            kept.weight += batch.weight
            if lane.forgotten:
                if lane.appended == lane.committed:
                    del self.lanes[batch.number]
                continue
            lane.weight += batch.weight
            if batch.number in taken:
                # A channel's bundles and runs of messages are batches of their own; it was taken in with the first.
                continue
            taken.add(batch.number)
            if lane.hot is None:
                lane.hot = deque(by_channel[batch.number])
            else:
                lane.hot.extend(by_channel[batch.number])
        self.weight += kept.weight
        self._frames.append(kept)

    def refused(self, messages: Sequence[Entry]) -> None:
        """Messages that will never be committed, nor anything after them: their offsets are free again."""
        for message in messages:
            lane = self.lanes.get(message.number)
            if lane is not None:
                lane.appended = lane.committed
                if lane.forgotten or not lane.committed:
                    del self.lanes[message.number]

    def moved(self, commit: int) -> None:
        """LMDB has everything up to this commit: what is over the bound may leave memory."""
        self.moved_commit = commit
        self._evict()

    def _evict(self) -> None:
        frames = self._frames
        while frames and self.weight > self._bytes_max and frames[0].commit <= self.moved_commit:
            frame = frames.popleft()
            self.weight -= frame.weight
            self.cold_position = frame.end_position
            for number, messages in frame.by_channel.items():
                lane = self.lanes.get(number)
                if lane is None:
                    continue
                lane.cold_end = end_of(messages[-1])
                hot = lane.hot
                while hot and hot[0].offset < lane.cold_end:
                    hot.popleft()
                if not hot:
                    lane.hot = None
        if not frames:
            self.cold_position = self.end_position

    # -- reading -----------------------------------------------------------------------------------

    def read(self, number: int, offset: int, max_bytes: int) -> list[Entry] | None:
        """A channel's messages from ``offset`` on; None if the first of them is not in memory."""
        lane = self.lanes.get(number)
        if lane is None:
            return []
        offset = max(offset, lane.first)
        if offset < lane.cold_end:
            return None
        hot = lane.hot
        if not hot or offset >= lane.committed:
            return []
        start = offset - hot[0].offset
        if start < 0:
            start = 0
        elif start >= len(hot) or hot[start].offset != offset:
            start = bisect_right(hot, offset, key=_offset_of) - 1
            if end_of(hot[start]) <= offset:
                start += 1
        found: list[Entry] = []
        for index in range(start, len(hot)):
            message = hot[index]
            found.append(message)
            max_bytes -= weight(message)
            if max_bytes <= 0:
                break
        return found

    def scan(self, position: int, max_bytes: int, wanted: Callable[[int], bool]) -> tuple[list[Entry], int]:
        """Messages in commit order from ``position`` on, which is in memory, and where to go on."""
        found: list[Entry] = []
        examined = 0
        index = bisect_right(self._frames, position, key=_end_of)
        while index < len(self._frames):
            frame = self._frames[index]
            messages = frame.messages
            start = bisect_right(messages, position, key=_position_of)
            if start and position_after(messages[start - 1]) > position:
                start -= 1
            for at in range(start, len(messages)):
                message = messages[at]
                examined += 1
                if self.readable(message) and wanted(message.number):
                    found.append(message)
                    max_bytes -= weight(message)
                if max_bytes <= 0 or examined >= _EXAMINED_PER_SCAN:
                    return found, position_after(message)
            index += 1
        return found, self.end_position

    def readable(self, entry: Entry) -> bool:
        """Whether a committed entry has not been released as a whole."""
        lane = self.lanes.get(entry.number)
        return lane is not None and end_of(entry) > lane.first and not lane.forgotten

    def bounds(self, number: int) -> tuple[int, int]:
        """(first, after the last) of a channel."""
        lane = self.lanes.get(number)
        if lane is None or lane.forgotten:
            return 0, 0
        return lane.first, lane.committed

    def channels(self) -> Iterator[int]:
        """The channels that have messages."""
        return iter([number for number, lane in self.lanes.items() if lane.first < lane.committed])

    # -- freeing -----------------------------------------------------------------------------------

    def release(self, lane: Lane, offset: int) -> None:
        """Makes a channel's messages below ``offset`` unreadable. The weight of what is not in memory is estimated."""
        offset = min(offset, lane.committed)
        if offset <= lane.first:
            return
        if lane.first < lane.cold_end:
            lane.weight = lane.weight * (lane.committed - offset) // (lane.committed - lane.first)
        hot = lane.hot
        in_memory = lane.first >= lane.cold_end
        while hot and end_of(hot[0]) <= offset:
            gone = hot.popleft()
            if in_memory:
                lane.weight -= weight(gone)
        if not hot:
            lane.hot = None
        if offset == lane.committed:
            lane.weight = 0
        lane.first = offset

    def forget(self, number: int, lane: Lane) -> None:
        """Drops a channel; if some of it is still being committed, when that is done."""
        lane.forgotten = True
        lane.first = EVERYTHING
        lane.hot = None
        lane.weight = 0
        if lane.appended == lane.committed:
            del self.lanes[number]

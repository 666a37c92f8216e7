"""Fetch: what is kept, from an offset on, as record batches; waits for news if there is too little.

Sessionless: every fetch names what it wants (KIP-227 lets a broker answer session id 0 and stay so).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.shapes_data import (
    FetchableTopicResponse,
    FetchPartition,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
)
from dragoman.routing.message import Bundle

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask
    from dragoman.broker.channel import Channel
    from dragoman.broker.timers import Timer
    from dragoman.routing.message import Entry

UNWANTED_OFFSET: Final = -1

TOPIC_IDS_FROM: Final = 13
"""The version from which topics go by id."""


def fetch(ask: Ask) -> None:
    """Answers now, or when enough has come or the wait is over."""
    request = ask.request
    assert isinstance(request, FetchRequest)
    if request.session_id:
        ask.answer(FetchResponse(error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND))
        return
    ask.session.in_turn(_Fetch(ask, request).begin)


@final
class _Place:
    """One partition that is asked for: where to read, and what was found."""

    __slots__ = ("answer", "channel", "limit", "offset", "parts", "reading", "size", "stale")

    def __init__(self, answer: FetchPartitionData, channel: Channel, offset: int, limit: int) -> None:
        self.answer = answer
        self.channel = channel
        self.offset = offset
        self.limit = limit
        self.parts: list[bytes | memoryview] = []
        self.size = 0
        self.stale = True
        self.reading = False

    @property
    def unread(self) -> bool:
        """Whether something is there that has not been looked at."""
        return self.stale and not self.size and self.offset < self.channel.visible


@final
class _Fetch:
    """One fetch under way. Reads each partition, again if something comes, until it has enough."""

    def __init__(self, ask: Ask, request: FetchRequest) -> None:
        self._ask = ask
        self._request = request
        self._realm = ask.session.realm
        settings = self._realm.settings
        asked = request.max_bytes if request.max_bytes > 0 else settings.fetch_bytes_max
        self._bytes_max = min(asked, settings.fetch_bytes_max)
        self._wait_ms = max(0, min(request.max_wait_ms, settings.fetch_wait_ms_max))
        self._places: list[_Place] = []
        self._by_channel: dict[Channel, list[_Place]] = {}
        self._size = 0
        #: bytes that reads under way may bring
        self._awaited = 0
        self._reading = 0
        self._urgent = False
        self._done = False
        self._scheduled = False
        self._timer: Timer | None = None
        self._response = FetchResponse()

    def begin(self) -> None:
        names = self._realm.names
        for topic in self._request.topics:
            name: str | None = topic.topic
            if self._ask.version >= TOPIC_IDS_FROM:
                name = names.of_id(topic.topic_id)
            answers = [self._open(name, wanted) for wanted in topic.partitions]
            self._response.responses.append(FetchableTopicResponse(topic.topic, topic.topic_id, answers))
        self._ask.on_gone = self._end
        if not self._places:
            # Also how clients part: with a fetch of nothing, for whose answer they wait.
            self._urgent = True
        self._read()

    def _open(self, topic: str | None, wanted: FetchPartition) -> FetchPartitionData:
        answer = FetchPartitionData(partition_index=wanted.partition)
        channel = None if topic is None else self._realm.names.partition(topic, wanted.partition)
        if channel is None:
            answer.error_code = ErrorCode.UNKNOWN_TOPIC_ID if topic is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif not self._realm.broker.may_follow(self._ask.session, channel.name):
            answer.error_code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
        else:
            self._realm.agents.fetched(self._ask.session, channel.name)
            _mark(answer, channel)
            if not answer.log_start_offset <= wanted.fetch_offset <= channel.visible:
                answer.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
            else:
                limit = max(1, wanted.partition_max_bytes)
                place = _Place(answer, channel, wanted.fetch_offset, limit)
                self._places.append(place)
                self._by_channel.setdefault(channel, []).append(place)
        if answer.error_code:
            self._urgent = True
        return answer

    # -- reading -------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Reads what may have something new."""
        self._reading += 1
        for place in self._places:
            room = min(place.limit, self._bytes_max - self._size - self._awaited)
            if room <= 0:
                break
            if place.stale and not place.size and not place.reading:
                place.stale = False
                if place.offset < place.channel.visible:
                    place.reading = True
                    self._reading += 1
                    self._awaited += room
                    self._realm.core.pump.fetch(place.channel, place.offset, room, partial(self._found, place, room))
        self._reading -= 1
        self._consider()

    def _found(self, place: _Place, room: int, entries: Sequence[Entry], following: int) -> None:
        self._reading -= 1
        self._awaited -= room
        place.reading = False
        if self._done:
            return
        if entries and self._full:
            # What is larger than it may be is answered with alone: the next fetch gets this.
            place.stale = True
        elif entries:
            place.parts = list(self._realm.synthesis.records(_within(entries, room)))
            place.size = sum(map(len, place.parts))
            self._size += place.size
        elif following > place.offset:
            # Nothing is left up to there: a fetch from the end of what was there goes on behind the hole.
            place.offset = following
            place.stale = True
        self._consider()

    @property
    def _full(self) -> bool:
        return self._size >= self._bytes_max

    def _consider(self) -> None:
        """Answers, if there is enough or nothing to wait for; else waits."""
        if self._done or self._reading:
            return
        if not self._full and any(place.unread for place in self._places):
            self._again()
            return
        if self._urgent or self._full or self._size >= max(self._request.min_bytes, 0) or not self._wait_ms:
            self._answer()
        elif self._timer is None:
            for channel in self._by_channel:
                channel.watch(self._arrived)
            self._timer = self._realm.broker.timers.after(self._wait_ms, self._too_long)

    def _arrived(self, channel: Channel) -> None:
        for place in self._by_channel[channel]:
            place.stale = True
        self._again()

    def _again(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._realm.core.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        if self._done:
            return
        if any(not channel.open for channel in self._by_channel):
            self._urgent = True
        self._read()

    def _too_long(self) -> None:
        self._timer = None
        self._wait_ms = 0
        self._consider()

    def _answer(self) -> None:
        self._end()
        for place in self._places:
            if place.channel.open:
                _mark(place.answer, place.channel)
                place.answer.records = place.parts
            else:
                place.answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        self._ask.answer(self._response)
        self._ask.session.turn_over()

    def _end(self) -> None:
        self._done = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for channel in self._by_channel:
            channel.unwatch(self._arrived)


def _within(entries: Sequence[Entry], limit: int) -> Sequence[Entry]:
    """The first, and as many more as fit: what was read may be more than was asked for."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.body if isinstance(entry, Bundle) else entry.payload or b"")
        if count and size > limit:
            return entries[:count]
    return entries


def _mark(answer: FetchPartitionData, channel: Channel) -> None:
    """Where the partition begins and ends. Without transactions everything visible is stable."""
    answer.high_watermark = channel.visible
    answer.last_stable_offset = channel.visible
    answer.log_start_offset = channel.oldest

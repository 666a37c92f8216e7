"""QoS 0 beside a queue: it waits for no window and no disk, but passes nothing of its topic that does (§4.6).

While anything waits - frames for their commit, or messages of a kept session in its backlog - the session's
``out_form`` is one that no message keeps, so its QoS 0 deliveries leave the fast way and are asked about here.
While nothing does, that costs nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mqtt.encoders import FORM_OWN

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message

UNKNOWN: Final = 0
"""A position below every other: nothing is known to wait."""


@final
class Held:
    """Frames that must not leave before a commit, and those that must not leave before them."""

    __slots__ = ("bytes", "frames")

    def __init__(self) -> None:
        self.frames: deque[tuple[int, bytes]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.frames)

    def put(self, ticket: Ticket, frame: bytes) -> None:
        """The frame leaves when ``ticket`` is safe (``DONE``: at once) and all put before it have left."""
        self.frames.append((ticket, frame))
        self.bytes += len(frame)

    def due(self, ticket: Ticket) -> list[bytes]:
        """Takes out what may leave now that everything up to ``ticket`` is safe."""
        frames: list[bytes] = []
        while self.frames and self.frames[0][0] <= ticket:
            frames.append(self.frames.popleft()[1])
            self.bytes -= len(frames[-1])
        return frames

    def clear(self) -> None:
        """None of them leaves."""
        self.frames.clear()
        self.bytes = 0


@final
class Queued:
    """What is known of the topics of a session whose backlog is behind.

    ``_last``   of each channel the position of the last message that its feed left to the backlog
    ``_since``  below it any channel that is kept may have something waiting: the session was away
    """

    __slots__ = ("_last", "_since")

    def __init__(self, since: int) -> None:
        self._last: dict[int, int] = {}
        self._since = since

    def left(self, message: Message) -> None:
        """The message is for the backlog; what its channel says after it comes after it."""
        self._last[message.number] = message.position

    def refused(self, message: Message) -> None:
        """The session could not take this message of its backlog. What its channel is known to wait for stands."""
        self._last.setdefault(message.number, message.position)

    def last(self, session: MqttSession, number: int) -> int:
        """The position that the backlog must have passed before QoS 0 of this channel may go out."""
        last = self._last.get(number, UNKNOWN)
        if last == UNKNOWN and self._since:
            first, after = session.realm.core.log.bounds(number)
            return self._since - 1 if first < after else UNKNOWN
        return last


def attached(session: MqttSession) -> None:
    """The session's connection begins, and with it its reading; its backlog is behind."""
    backlog = session.standing.backlog
    if backlog is not None:
        backlog.turned = lambda message: _turned(session, message)
        session.queued = Queued(int(session.realm.core.log.end()))
        choose(session)


def _turned(session: MqttSession, message: Message | None) -> None:
    """The backlog fell behind with this message, or (None) has caught up."""
    if message is None:
        session.queued = None
        # Feeds may have waited for it.
        session.realm.core.loop.call_soon(session.go_on)
    else:
        session.queued = Queued(UNKNOWN)
        session.queued.refused(message)
    choose(session)


def choose(session: MqttSession) -> None:
    """Which way QoS 0 goes out from now on."""
    bent = session.own_frames is not None or session.queued is not None or session.holds
    session.out_form = FORM_OWN if bent else session.form


def waits(session: MqttSession, feed: Feed, message: Message) -> bool:
    """Whether a QoS 0 delivery has to wait, since earlier messages of its topic do."""
    if session.queued is None or feed.replay or feed.group is not None:
        return False
    backlog = session.standing.backlog
    assert backlog is not None, "a queue is the backlog's"
    if not feed.wish and not backlog.leaving:
        return False
    feed.held = session.queued.last(session, message.number) >= backlog.next
    return feed.held

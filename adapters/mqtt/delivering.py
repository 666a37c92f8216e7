"""Messages to a client, but for the plain QoS 0 ones, which never leave ``session``: options, windows, aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mqtt import mapping, order
from dragoman.adapters.mqtt.encoders import publish_parts
from dragoman.adapters.mqtt.exclusive import plain
from dragoman.adapters.mqtt.promises import PLACED, Flight
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.routing.names import matches
from dragoman.routing.origins import ORIGIN, origin_in

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message

IDS_MAX: Final = PLACED - 2
"""Deliveries under way at once: fewer than there are packet ids below ``PLACED``, so a free one is always found."""


@final
class OwnFrames:
    """What makes the frames of one connection its own: topic aliases given by us (§3.3.2.3.4), or a word to a link.

    A number is given to the topics that come first, then to a new one in the place of that which was not said for
    longest. All deliveries of a connection go out in the order in which they were numbered, so no frame can be
    read under a topic that its number stands for before or after it.
    """

    __slots__ = ("_most", "_numbers", "mesh")

    def __init__(self, most: int, mesh: str = "") -> None:
        self._most = most
        #: which mesh this is, if the client is a link of another and so is told where a message is from; else ""
        self.mesh = mesh
        #: by topic, the one said last at the end
        self._numbers: dict[bytes, int] = {}

    def origin(self, message: Message) -> bytes:
        """A property more for a link, by which its mesh recognises what it gets by another way as well."""
        first = origin_in(message, self.mesh) if self.mesh else None
        return b"" if first is None else mapping.user_property(ORIGIN, first)

    def number(self, topic: bytes) -> tuple[int, bool]:
        """The number for a topic, and whether the client knows it already; 0: it takes none. ``said`` must follow."""
        known = self._numbers.get(topic, 0)
        if known or not self._most:
            return known, known > 0
        count = len(self._numbers)
        return (count + 1 if count < self._most else next(iter(self._numbers.values()))), False

    def said(self, topic: bytes, number: int) -> None:
        """A frame with this topic and its number is on its way."""
        if self._numbers.pop(topic, 0) == 0 and len(self._numbers) >= self._most:
            del self._numbers[next(iter(self._numbers))]
        self._numbers[topic] = number


def deliver(session: MqttSession, feed: Feed, message: Message) -> bool:
    """Sends a message or answers False when the connection or its window is full."""
    if (feed.no_local or feed.own is not None) and message.sender == session.agent and message.sender:
        if feed.own is None:
            return True
        feed = feed.own
    if message.expired(session.realm.core.now_ms):
        session.realm.metrics.drop("expired")
        return True
    qos = min(feed.wish, message.wish)
    backlog = session.standing.backlog
    if backlog is not None and message.position and feed.group is None and not feed.replay:
        if message.position < session.standing.changed and message.wish:
            # This feed lags: whether it is the backlog's is a matter of the options of then.
            qos = _queued_at(session, message)
        if qos:
            # The backlog hears of it from the commits, in commit order, and offers it.
            if session.queued is not None:
                session.queued.left(message)
            return True
    if not qos and order.waits(session, feed, message):
        return False
    return _send(session, feed, message, qos)


def offer(session: MqttSession, message: Message) -> bool:
    """A message of the session's backlog: caught up, or read from the log."""
    known = session.standing.ids.get(message.position)
    if known is not None and session.standing.flights[known].released:
        # Sent before a restart, and the client has said since that it has it.
        return True
    channel = session.realm.broker.channels.by_number.get(message.number)
    feed = channel.feed_of(session) if channel is not None else None
    if feed is not None and feed.held:
        # What was said here at QoS 0 before this message goes before it.
        session.realm.core.pump.nudge(feed)
    if feed is not None and feed.own is not None and message.sender == session.agent:
        feed = feed.own
    if feed is None:
        qos = 0
    elif message.position < session.standing.changed:
        qos = _queued_at(session, message)
    else:
        qos = 0 if feed.no_local and message.sender == session.agent else min(feed.wish, message.wish)
    if feed is None and message.wish:
        silent = _silent(session, message)
        if silent and not session.subscriptions:
            # Nothing else of the session's is held up by it.
            return False
        # It was kept for a filter that could not be resumed, or for one whose channel a rule has closed since.
        session.realm.metrics.drop("subscription-no-longer-allowed" if silent else "no-longer-readable")
    if feed is None or not qos:
        _skip(session, message)
        return True
    return _send(session, feed, message, qos)


def _silent(session: MqttSession, message: Message) -> bool:
    """Whether it waits for a filter that the session has and that could not be subscribed to when it was resumed."""
    live = session.subscriptions
    return any(f not in live and matches(plain(f), message.name) for f in session.standing.filters)


def _queued_at(session: MqttSession, message: Message) -> int:
    """The QoS that a message waits at since before a subscription was changed: its options of then still hold."""
    own = message.sender == session.agent and message.sender != ""
    qos = 0
    for filter_, row in session.standing.filters.items():
        if matches(plain(filter_), message.name):
            then, no_local = row.then(message.position)
            qos = qos if own and no_local else max(qos, then)
    return min(qos, message.wish)


def pass_over(session: MqttSession, feed: Feed, message: Message) -> None:
    """The message is larger than the client takes: as good as delivered [3.1.2-25], unless another may have it."""
    if feed.group is None or not feed.group.unfit(message):
        session.realm.metrics.drop("larger-than-receiver-takes")


def _skip(session: MqttSession, message: Message) -> None:
    """Nothing to send for a backlog message: it is finished once the backlog has taken it."""
    backlog = session.standing.backlog
    assert backlog is not None
    session.realm.core.loop.call_soon(backlog.finish, message.position)


def _send(session: MqttSession, feed: Feed, message: Message, qos: int) -> bool:
    standing = session.standing
    logged = message.position if standing.backlog is not None and feed.group is None and not feed.replay else 0
    known = standing.ids.get(logged, 0) if qos and logged else 0
    busy = qos and (session.window >= session.inflight_max or session.again or len(standing.flights) >= IDS_MAX)
    if session.full or busy:
        session.starved = True
        return False
    retain = message.retain and (feed.replay or feed.keep_retain)
    placed = qos == 1 and logged != 0
    packet_id = known or (standing.placed_id(logged) if placed else standing.next_id()) if qos else 0
    beside = not logged and standing.backlog is not None and (qos == 2 or (qos == 1 and feed.replay))
    written = beside or (logged != 0 and not known and packet_id < PLACED)
    parts = _parts(session, feed, message, qos, retain)
    if parts is None:
        pass_over(session, feed, message)
        if feed.group is None and qos and logged:
            _skip(session, message)
        return True
    session.count_out(message.payload or b"")
    head, tail = parts
    if not qos:
        # Behind the frames that wait for their commit: some may be of its topic.
        session.send_after(DONE, head + tail)
        return True
    if known or (placed and logged < standing.sent):
        head = bytes((head[0] | 8,)) + head[1:]
    flight = Flight(message, qos, logged, retain, feed.identifiers)
    flight.group = feed.group
    flight.beside = beside
    flight.sent = True
    session.window += 1
    standing.flights[packet_id] = flight
    if flight.position:
        standing.ids[flight.position] = packet_id
    frame = head + packet_id.to_bytes(2, "big") + tail
    ticket = session.realm.promises.fly(standing, packet_id, flight) if written else Ticket(0)
    session.send_after(ticket, frame)
    return True


def _parts(session: MqttSession, feed: Feed, message: Message, qos: int, retain: bool) -> tuple[bytes, bytes] | None:
    """The PUBLISH but for its packet id; None: it is larger than the client takes."""
    topic = message.name.encode()
    payload = message.payload or b""
    properties = b""
    if session.version == 5 and (message.envelope is not None or feed.identifiers):
        properties = mapping.properties_of(message, feed.identifiers, session.realm.core.now_ms)
    most = session.packet_max - (2 if qos else 0)
    aliases = session.own_frames
    if aliases is not None:
        properties += aliases.origin(message)
        number, known = aliases.number(topic)
        if number:
            said = properties + b"\x23" + number.to_bytes(2, "big")
            head, tail = publish_parts(5, b"" if known else topic, payload, qos, retain, said)
            if len(head) + len(tail) <= most:
                aliases.said(topic, number)
                return head, tail
    head, tail = publish_parts(session.version, topic, payload, qos, retain, properties)
    return (head, tail) if len(head) + len(tail) <= most else None

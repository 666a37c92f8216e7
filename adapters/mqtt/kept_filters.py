"""``$queue/…`` and ``$stream/…``: subscriptions to what is kept, spelt as EMQX spells them.

``$queue/{name}``            work for a queue there is; ``$queue/{name}/{filter}`` makes it if there is none. A queue is
                             a work group: HTTP pulls from it and administers it under the same name
``$q/{filter}``              the same, named after its filter
``$stream/{channel}``        read one channel, its name spelt with dots as in Kafka; ``$stream/{name}/{filter}`` read
                             all that match, whatever the name. From where, the user property ``stream-offset`` of
                             the SUBSCRIBE says: ``earliest``, ``latest`` (if absent), or microseconds since 1970
``$s/{offset}/{filter}``     the same for who has no user properties
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dragoman.broker.streams import LATEST, Stream
from dragoman.routing.names import check_filter, from_kafka, shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.packets import Subscribe
    from dragoman.adapters.mqtt.session import MqttSession

OFFSET: Final = "stream-offset"
EARLIEST_MS: Final = 0


class Asked(NamedTuple):
    """What such a filter means: a queue by ``name``, or a stream of ``filter`` from ``from_ms``."""

    queue: str | None
    filter: str | None
    from_ms: int


def parse(text: str, packet: Subscribe | None) -> Asked | Refusal | None:
    """What is asked for; None: an ordinary filter. ``packet`` None: only which it is, as UNSUBSCRIBE needs it."""
    root, _, rest = text.partition("/")
    if root not in ("$queue", "$q", "$stream", "$s"):
        return None
    if root == "$queue":
        name, slash, filter_ = rest.partition("/")
        return _checked(Asked(name, filter_ if slash else None, 0), text)
    if root == "$q":
        return _checked(Asked(to_level(rest) if rest else "", rest, 0), text)
    if root == "$s":
        offset, _, filter_ = rest.partition("/")
        return _stream(filter_, offset, text)
    name, slash, filter_ = rest.partition("/")
    if not slash:
        channel = from_kafka(name)
        if isinstance(channel, Refusal):
            return Refusal(Reason.FILTER_INVALID, channel.detail)
        filter_ = channel
    offset = "latest"
    for key, value in packet.properties.user_properties if packet is not None else ():
        if key == OFFSET:
            offset = value
    return _stream(filter_, offset, text)


def _stream(filter_: str, offset: str, text: str) -> Asked | Refusal:
    if offset == "earliest":
        from_ms = EARLIEST_MS
    elif offset == "latest":
        from_ms = LATEST
    elif offset.isascii() and offset.isdigit() and len(offset) <= 18:
        from_ms = -(-int(offset) // 1000)
    else:
        detail = f"a stream begins at earliest, latest or microseconds since 1970, not at {shown(offset)}"
        return Refusal(Reason.FILTER_INVALID, detail)
    return _checked(Asked(None, filter_, from_ms), text)


def _checked(asked: Asked, text: str) -> Asked | Refusal:
    if asked.queue == "" or asked.filter == "":
        return Refusal(Reason.FILTER_INVALID, f"a name or a filter is missing in {shown(text)}")
    if asked.filter is None:
        return asked
    if asked.filter.startswith(("$share/", "$queue/", "$q/", "$stream/", "$s/", "$exclusive/")):
        return Refusal(Reason.FILTER_INVALID, f"{shown(text)} holds another such filter")
    return check_filter(asked.filter) or asked


def enter(
    session: MqttSession, text: str, asked: Asked, *, qos: int, identifier: int, keep_retain: bool
) -> Stream | Refusal | None:
    """Makes or changes the subscription. A stream is to be begun when the SUBACK is out; it is the session's."""
    broker = session.realm.broker
    if asked.queue is not None:
        return broker.groups.queues.join(
            session, asked.queue, asked.filter, wish=qos, identifier=identifier, keep_retain=keep_retain
        )
    assert asked.filter is not None, "a stream has a filter"
    stream = broker.stream(session, asked.filter, asked.from_ms, wish=qos, identifier=identifier)
    if isinstance(stream, Stream):
        leave_stream(session, text)
        session.streams[text] = stream
    return stream


def leave_queue(session: MqttSession, name: str) -> None:
    """One spelling of a queue is unsubscribed. In another the session works there still, as it was asked for there."""
    for text, row in session.standing.filters.items():
        asked = parse(text, None)
        if isinstance(asked, Asked) and asked.queue == name:
            enter(session, text, asked, qos=row.qos, identifier=row.identifier, keep_retain=row.keep_retain)
            return
    session.realm.broker.groups.queues.leave(session, name)


def leave_stream(session: MqttSession, text: str) -> bool:
    """Ends a stream of the session; whether there was one."""
    stream = session.streams.pop(text, None)
    if stream is not None:
        stream.close()
    return stream is not None

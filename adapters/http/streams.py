"""Streams of events: what a reader hears, where it goes on, and the one loop that feeds every SSE stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from aiohttp import web

from dragoman.adapters.http.definitions import AGENT, Definition, Exchange, Field, Parameter, Reply, granted, invalid
from dragoman.adapters.http.documents import GapDocument, message_document
from dragoman.adapters.http.session import Delivery, Gap, StreamSession
from dragoman.adapters.http.websocket import converse
from dragoman.adapters.serving import problems
from dragoman.adapters.serving.sse import (
    EVENT_STREAM,
    KEEP_ALIVE,
    EventWriter,
    PeerGoneError,
    frame,
    last_event_id,
    retry,
    wants_events,
)
from dragoman.broker.subscription import Place, Start
from dragoman.routing.message import parse_id
from dragoman.routing.names import is_exact
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker

RETRY_MS: Final = 2_000
"""How long a browser waits before it comes back; long enough that a restart does not bring all at once."""

CHUNK_BYTES: Final = 64 * 1024
"""Frames are joined up to this before the socket is waited for."""


class Interest(NamedTuple):
    """What a stream subscribes to, and where it begins."""

    filter: str
    start: Start | Place = Start.NEW
    retained: bool = True


@contextmanager
def present(broker: Broker, session: StreamSession) -> Iterator[None]:
    """While the stream is held, its agent is here. A stream ends without a goodbye, so it may come back."""
    if not session.agent:
        yield
        return
    granted(broker.directory.arrive(session, session.agent, keeps=False))
    try:
        yield
    finally:
        broker.directory.depart(session, clean=session.ended is not None, keeps=False)


def resumed(exchange: Exchange) -> Place | None:
    """The place after the last event the reader saw, None if it says none. Raises RefusedError."""
    said = last_event_id(exchange.request.headers)
    if not said:
        return None
    place = parse_id(said)
    if place is None:
        raise invalid(f"Last-Event-ID is the id of a message, such as 1a-42, not {said!r}")
    return place[0], place[1] + 1


async def stream(exchange: Exchange, interests: Sequence[Interest], opening: bytes = b"") -> web.StreamResponse:
    """Answers with the messages of ``interests`` as events, until either side has had enough."""
    surface = exchange.surface
    session = StreamSession(exchange.broker, exchange.principal, exchange.agent, surface.settings)
    writer = EventWriter(exchange.request, stall_s=surface.settings.stall_max_ms / 1000)
    with surface.streaming(session), present(exchange.broker, session):
        for interest in interests:
            subscription = exchange.broker.subscribe(
                session, interest.filter, wish=1, start=interest.start, retained=interest.retained
            )
            granted(subscription)
        try:
            response = await writer.open()
            await writer.send(retry(RETRY_MS) + opening)
            await feed(session, writer.send, surface.settings.keep_alive_ms)
            await writer.close()
        except PeerGoneError:
            return writer.response
    return response


async def feed(session: StreamSession, send: Callable[[bytes], Awaitable[None]], keep_alive_ms: int) -> None:
    """Sends what comes into the inbox as events, until the mesh ends the session."""
    while session.ended is None:
        if not await session.wait(keep_alive_ms):
            await send(KEEP_ALIVE)
            continue
        chunk: list[bytes] = []
        size = 0
        for item in session.take():
            event = _event(item)
            chunk.append(event)
            size += len(event)
            if size >= CHUNK_BYTES:
                await send(b"".join(chunk))
                chunk.clear()
                size = 0
        if chunk:
            await send(b"".join(chunk))
        session.replenish()
    await send(end(session.ended))


def end(refusal: Refusal) -> bytes:
    """The last event of a stream: why the mesh ends it."""
    return frame(msgspec.json.encode(problems.describe(refusal)), event="end")


def gap(document: GapDocument) -> bytes:
    """The event that says that messages are missing here."""
    return frame(msgspec.json.encode(document), event="gap")


def _event(item: Delivery | Gap) -> bytes:
    if isinstance(item, Gap):
        return gap(GapDocument(channel=item.channel, count=item.missing))
    message = item.message
    document = message_document(message, retained=item.replay)
    # A retained value is older than where the reader is: with its id the reader would come back to the wrong place.
    # What a verb delivers has no place at all.
    return frame(msgspec.json.encode(document), id="" if item.replay or not message.number else message.id)


async def _over_filters(exchange: Exchange) -> web.StreamResponse:
    filters = exchange.texts("filter")
    if len(filters) > exchange.surface.settings.stream_filters_max:
        most = exchange.surface.settings.stream_filters_max
        raise invalid(f"a stream has at most {most} filters, not {len(filters)}")
    retained = exchange.flag("retained") is not False
    if exchange.request.headers.get("Upgrade", "").lower() == "websocket":
        return await converse(exchange, [(filter_, retained) for filter_ in filters])
    if not filters:
        raise invalid("name at least one filter: ?filter=factory/%23")
    accept = exchange.header("Accept")
    if accept is not None and "*/*" not in accept and not wants_events(accept):
        raise invalid(f"a stream is {EVENT_STREAM}, which Accept does not take: {accept!r}")
    place = resumed(exchange)
    if place is None:
        return await stream(exchange, [Interest(filter_, Start.NEW, retained) for filter_ in filters])
    if len(filters) == 1 and is_exact(filters[0]):
        return await stream(exchange, [Interest(filters[0], place, retained=False)])
    detail = "a stream over several channels has no place to go on from; read the channels to catch up"
    opening = gap(GapDocument(detail=detail))
    return await stream(exchange, [Interest(filter_, Start.NEW, retained) for filter_ in filters], opening)


STREAM_REPLY: Final = Reply(200, "Events: messages, and `gap` and `end` where there is one", content=EVENT_STREAM)
SWITCHED: Final = Reply(101, "The connection is a WebSocket now")
LAST_EVENT_ID: Final = Field(
    "Last-Event-ID", "the id of the last event seen: goes on after it, or says what is missing"
)
RETAINED: Final = Parameter("retained", "false: do not begin with the retained values", "flag")

DEFINITIONS: Final = (
    Definition(
        "GET",
        "/v1/stream",
        "streamFilters",
        "channels",
        "Hear every channel that matches, as events or over a WebSocket",
        _over_filters,
        replies=(STREAM_REPLY, SWITCHED),
        query=(Parameter("filter", "a channel name, or a filter with + and #; may be repeated", "texts"), RETAINED),
        fields=(LAST_EVENT_ID, AGENT),
    ),
)

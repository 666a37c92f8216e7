"""``/v1/channels``: the channel itself. POST says something in it, GET reads it, once or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from aiohttp import hdrs, web

from dragoman.adapters.http.definitions import (
    ACCEPT,
    AGENT,
    PAYLOAD,
    Definition,
    Exchange,
    Field,
    Parameter,
    Reply,
    granted,
    invalid,
    respond,
)
from dragoman.adapters.http.documents import (
    ChannelDocument,
    ChannelsDocument,
    DeclareRequest,
    PageDocument,
    PublishedDocument,
)
from dragoman.adapters.http.mapping import envelope_of
from dragoman.adapters.http.publishing import kept, publish
from dragoman.adapters.http.reading import STARTS, one_message, page_of, place_of
from dragoman.adapters.http.session import RequestSession
from dragoman.adapters.http.streams import LAST_EVENT_ID, STREAM_REPLY, SWITCHED, Interest, resumed, stream
from dragoman.adapters.http.websocket import converse
from dragoman.adapters.serving.sse import wants_events
from dragoman.adapters.serving.web import body
from dragoman.broker.channel import Channel, Keep
from dragoman.broker.subscription import Start
from dragoman.routing.message import Message
from dragoman.routing.names import check_filter, is_exact, matches, to_path
from dragoman.routing.refusals import RefusedError

LIST_MAX: Final = 1_000
LOOKED_AT_PER_TURN: Final = 5_000
"""Channels looked at before the loop may do something else."""


# -- saying ------------------------------------------------------------------------------------------


async def _publish(exchange: Exchange, name: str) -> web.StreamResponse:
    broker, settings = exchange.broker, exchange.surface.settings
    payload = await body(exchange.request)
    envelope = envelope_of(exchange.request.headers.items(), payload, broker.clock.now_ms())
    tombstone = exchange.flag("tombstone") is True
    if tombstone and payload:
        raise invalid("a tombstone has no payload; leave the body empty")
    wish = exchange.integer("wish")
    message = Message(
        name,
        None if tombstone else payload,
        1 if wish is None else wish,
        "",
        exchange.flag("retain") is True,
        envelope,
    )
    session = RequestSession(exchange.principal, exchange.agent)
    with exchange.surface.attached(session):
        key = exchange.header("Idempotency-Key")
        await publish(broker, session, message, key, settings.confirm_max_ms)
    if not message.number:
        return web.Response(status=202)
    document = PublishedDocument(
        id=message.id,
        channel=name,
        number=f"{message.number:x}",
        offset=message.offset,
        kept=kept(broker, message),
    )
    path = to_path(name)
    place = f"offset={message.offset}&number={message.number:x}&limit=1"
    headers = {} if path is None else {"Location": f"/v1/channels/{path}?{place}"}
    return respond(document, 201, headers)


# -- reading -----------------------------------------------------------------------------------------


async def _get(exchange: Exchange, name: str) -> web.StreamResponse:
    if exchange.request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
        return await converse(exchange, [(name, exchange.flag("retained") is not False)])
    if wants_events(exchange.header(hdrs.ACCEPT) or ""):
        return await _events(exchange, name)
    if exchange.flag("last") or exchange.flag("retained"):
        return one_message(exchange, name)
    return respond(await page_of(exchange, name))


async def _events(exchange: Exchange, name: str) -> web.StreamResponse:
    place = resumed(exchange) or place_of(exchange)
    start = STARTS[exchange.text("start") or "new"]
    fresh = place is None and start is Start.NEW
    retained = exchange.flag("retained")
    return await stream(exchange, [Interest(name, place or start, fresh if retained is None else retained)])


# -- declaring ---------------------------------------------------------------------------------------


async def _declare(exchange: Exchange, name: str) -> web.StreamResponse:
    order = await exchange.document(DeclareRequest)
    keep = Keep[order.keeps.upper()]
    channel = granted(
        exchange.broker.declare(
            RequestSession(exchange.principal, exchange.agent),
            name,
            keep,
            retention_ms=order.retention_ms,
            retention_bytes=order.retention_bytes,
            retention_messages=order.retention_messages,
        )
    )
    return respond(channel_document(channel))


# -- listing -----------------------------------------------------------------------------------------


async def _list(exchange: Exchange) -> web.StreamResponse:
    filter_ = exchange.text("filter") or "#"
    refusal = check_filter(filter_)
    if refusal is not None:
        raise RefusedError(refusal)
    limit = exchange.integer("limit") or LIST_MAX
    after = exchange.text("after") or ""
    names = await _readable(exchange, filter_, after)
    shown_names = names[:limit]
    channels = [c for c in map(exchange.broker.channels.find, shown_names) if c is not None]
    more = shown_names[-1] if len(names) > limit else None
    return respond(ChannelsDocument(channels=[channel_document(c) for c in channels], next=more))


async def _readable(exchange: Exchange, filter_: str, after: str) -> list[str]:
    """The names that match and may be read, sorted. There may be a million: others get their turns."""
    session = RequestSession(exchange.principal, exchange.agent)
    broker = exchange.broker
    if is_exact(filter_):
        known = broker.channels.find(filter_) is not None and filter_ > after
        return [filter_] if known and broker.may_read(session, filter_) else []
    found: list[str] = []
    for chunk in _chunks(list(broker.channels.by_name)):
        found += [n for n in chunk if n > after and matches(filter_, n) and broker.may_read(session, n)]
        await asyncio.sleep(0)
    found.sort()
    return found


def _chunks(names: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(names), LOOKED_AT_PER_TURN):
        yield names[at : at + LOOKED_AT_PER_TURN]


def channel_document(channel: Channel) -> ChannelDocument:
    """A channel as JSON."""
    limits = channel.core.retention.of(channel)
    return ChannelDocument(
        name=channel.name,
        number=f"{channel.number:x}",
        next_offset=channel.visible,
        keeps=Keep(channel.keep).name.lower(),
        declared=Keep(channel.declared).name.lower(),
        time_ms=channel.last_ms,
        retained=channel.retained is not None,
        retention_ms=limits.ms,
        retention_bytes=limits.bytes,
        retention_messages=limits.messages,
    )


# -- the two spellings of a name -------------------------------------------------------------------


async def _publish_by_path(exchange: Exchange) -> web.StreamResponse:
    return await _publish(exchange, exchange.path("name"))


async def _publish_by_query(exchange: Exchange) -> web.StreamResponse:
    name = exchange.text("name")
    assert name is not None, "name is declared as required"
    return await _publish(exchange, name)


async def _declare_by_path(exchange: Exchange) -> web.StreamResponse:
    return await _declare(exchange, exchange.path("name"))


async def _declare_by_query(exchange: Exchange) -> web.StreamResponse:
    name = exchange.text("name")
    assert name is not None, "name is declared as required"
    return await _declare(exchange, name)


async def _get_by_path(exchange: Exchange) -> web.StreamResponse:
    return await _get(exchange, exchange.path("name"))


async def _get_by_query(exchange: Exchange) -> web.StreamResponse:
    name = exchange.text("name")
    return await _list(exchange) if name is None else await _get(exchange, name)


_NAME: Final = Parameter("name", "the channel's name, its levels percent-encoded", "channel")
_NAME_IN_QUERY: Final = "the channel's name, for names that a path cannot hold, such as a/./b"
_SAYING: Final = (
    Parameter("retain", "true: keep it as the channel's retained value; an empty payload clears that", "flag"),
    Parameter("wish", "0 at most once, 1 at least once (the default), 2 exactly once", "integer", high=2),
    Parameter("tombstone", "true: a message without a payload, which is not the same as an empty one", "flag"),
)
_SAYING_FIELDS: Final = (
    Field("Content-Type", "kept as it is; application/cloudevents+json is a CloudEvent, as are ce-… headers"),
    Field("Idempotency-Key", "the same key again gets the first answer and says nothing twice"),
    Field("Mesh-Reply-To", "the channel to answer in"),
    Field("Mesh-Correlation", "bytes that an answer should carry, percent-encoded"),
    Field("Mesh-Cause", "the id of the message this one answers or follows"),
    Field("Mesh-Expires-Ms", "milliseconds after which it need not be delivered any more"),
    Field("Mesh-Key", "the partition or compaction key, percent-encoded"),
    AGENT,
)
_READING: Final = (
    Parameter("offset", "begin here; without it at the oldest message, or as `start` says", "integer"),
    Parameter("number", "the channel's number the offset belongs to: a newer creation is then told as a gap"),
    Parameter("start", "where to begin without an offset", choices=tuple(STARTS)),
    Parameter("limit", "the most messages in one page", "integer", low=1, high=100_000),
    Parameter("wait_ms", "if there is nothing yet, wait so long for something", "integer", high=86_400_000),
    Parameter("last", "true: the newest message itself, not a page", "flag"),
    Parameter("retained", "true: the retained value itself; false, for a stream: not to begin with it", "flag"),
)
_PUBLISHED: Final = (
    Reply(201, "Said, and as safe as the channel makes it", PublishedDocument),
    Reply(202, "Obeyed: the name is a verb, under which nothing is kept, or it is below $delayed and waits"),
)
_READ: Final = (
    Reply(200, "A page of messages", PageDocument),
    Reply(200, "The message itself, if `last` or `retained` is true", content=PAYLOAD),
    Reply(204, "The message itself, if it is a tombstone"),
    STREAM_REPLY,
    SWITCHED,
)
_DECLARED: Final = (Reply(200, "The channel as it is now", ChannelDocument),)
_SAYING_PROBLEMS: Final = (404, 415, 504, 507)

DEFINITIONS: Final = (
    Definition(
        "GET",
        "/v1/channels",
        "listChannels",
        "channels",
        "List the channels you may read, or read the one called ?name=",
        _get_by_query,
        replies=(Reply(200, "Channels by name", ChannelsDocument), *_READ),
        query=(
            Parameter("name", _NAME_IN_QUERY, "channel"),
            Parameter("filter", "of the list: only those that match; # if not given"),
            Parameter("after", "of the list: only names after this one"),
            *_READING,
        ),
        fields=(ACCEPT, LAST_EVENT_ID, AGENT),
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/channels",
        "publishByQuery",
        "channels",
        "Say something in the channel called ?name=",
        _publish_by_query,
        replies=_PUBLISHED,
        query=(Parameter("name", _NAME_IN_QUERY, "channel", required=True), *_SAYING),
        fields=_SAYING_FIELDS,
        raw_body=True,
        problems=_SAYING_PROBLEMS,
    ),
    Definition(
        "PUT",
        "/v1/channels",
        "declareByQuery",
        "channels",
        "Say what the channel called ?name= is to keep, and how much of it",
        _declare_by_query,
        replies=_DECLARED,
        query=(Parameter("name", _NAME_IN_QUERY, "channel", required=True),),
        fields=(AGENT,),
        body=DeclareRequest,
    ),
    Definition(
        "PUT",
        "/v1/channels/{name}",
        "declareChannel",
        "channels",
        "Say what a channel is to keep on disk, and how much of it",
        _declare_by_path,
        replies=_DECLARED,
        parameters=(_NAME,),
        fields=(AGENT,),
        body=DeclareRequest,
    ),
    Definition(
        "GET",
        "/v1/channels/{name}",
        "readChannel",
        "channels",
        "Read a channel: a page, one message, a stream of events or a WebSocket",
        _get_by_path,
        replies=_READ,
        parameters=(_NAME,),
        query=_READING,
        fields=(ACCEPT, LAST_EVENT_ID, AGENT),
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/channels/{name}",
        "publish",
        "channels",
        "Say something in a channel, which comes into being if need be",
        _publish_by_path,
        replies=_PUBLISHED,
        parameters=(_NAME,),
        query=_SAYING,
        fields=_SAYING_FIELDS,
        raw_body=True,
        problems=_SAYING_PROBLEMS,
    ),
)

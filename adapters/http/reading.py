"""Reading a channel without a stream: one message itself, or a page of them, waited for if need be."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from dragoman.adapters.http.definitions import Exchange, granted, invalid
from dragoman.adapters.http.documents import PageDocument, message_document
from dragoman.adapters.http.mapping import content_type_of, fields_of
from dragoman.adapters.http.session import Gap, RequestSession, StreamSession
from dragoman.adapters.serving.reading import read_page
from dragoman.broker.channel import Channel
from dragoman.broker.pump import Page
from dragoman.broker.subscription import Place, Start
from dragoman.routing.message import Message
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

STARTS: Final = {start.value: start for start in Start}


def place_of(exchange: Exchange) -> Place | None:
    """Where the query says to begin, in which creation of the channel."""
    number, offset = _number(exchange), exchange.integer("offset")
    if number is None or offset is None:
        return None
    return number, offset


def _number(exchange: Exchange) -> int | None:
    text = exchange.text("number")
    if text is None:
        return None
    try:
        if len(text) <= 16 and f"{int(text, 16):x}" == text:
            return int(text, 16)
    except ValueError:
        pass
    raise invalid(f"number is a channel's number in hexadecimal, such as 1a, not {shown(text)}")


def one_message(exchange: Exchange, name: str) -> web.StreamResponse:
    """The newest or the retained message itself: its payload as it was sent, the rest as headers."""
    broker = exchange.broker
    session = RequestSession(exchange.principal, exchange.agent)
    if not broker.may_read(session, name):
        raise RefusedError(Refusal(Reason.NOT_AUTHORIZED, f"{exchange.principal.name!r} may not read {shown(name)}"))
    message = broker.retained_of(name) if exchange.flag("retained") else None
    if message is None and exchange.flag("last"):
        message = broker.last_of(name)
    if message is None:
        raise RefusedError(Refusal(Reason.UNKNOWN_CHANNEL, f"{shown(name)} holds no such message now"))
    headers = [*fields_of(message, broker.clock.now_ms()), ("X-Content-Type-Options", "nosniff")]
    # Anybody may have said anything here, and a browser must not run it as a page of ours.
    headers.append(("Content-Security-Policy", "sandbox; default-src 'none'"))
    response = web.Response(status=204 if message.payload is None else 200, body=message.payload)
    for field, value in headers:
        response.headers.add(field, value)
    if message.payload is not None:
        response.headers[hdrs.CONTENT_TYPE] = content_type_of(message)
    return response


async def page_of(exchange: Exchange, name: str) -> PageDocument:
    """What the query asks for, as much of it as fits a page."""
    number, offset = _number(exchange), exchange.integer("offset")
    wait_ms = exchange.integer("wait_ms") or 0
    start = STARTS[exchange.text("start") or "earliest"]
    channel = exchange.broker.channels.find(name)
    restarted = number is not None and channel is not None and channel.number != number
    if restarted:
        offset = None
    elif offset is None and channel is not None and start is not Start.EARLIEST:
        last = channel.last if start is Start.LAST else None
        offset = channel.visible if last is None else last.offset
    session = RequestSession(exchange.principal, exchange.agent)
    result = await _read_page(exchange, session, name, offset)
    missing = isinstance(result, Refusal) and result.reason is Reason.UNKNOWN_CHANNEL
    if wait_ms and (missing or (isinstance(result, Page) and not result.messages)):
        place = Start.EARLIEST if isinstance(result, Refusal) else (result.number, result.next_offset)
        lost = 0 if isinstance(result, Refusal) else result.lost
        return await _wait(
            exchange, name, place, wait_ms, restarted=restarted or (missing and number is not None), lost=lost
        )
    return _page_document(exchange, name, granted(result), restarted=restarted)


async def _read_page(exchange: Exchange, session: RequestSession, name: str, offset: int | None) -> Page | Refusal:
    settings = exchange.surface.settings
    return await read_page(
        exchange.broker,
        session,
        name,
        offset,
        limit=exchange.integer("limit") or settings.page_max_messages,
        bytes_max=settings.page_max_bytes,
        patience_s=settings.confirm_max_ms / 1000,
    )


def _page_document(exchange: Exchange, name: str, page: Page, *, restarted: bool) -> PageDocument:
    limit = exchange.integer("limit") or exchange.surface.settings.page_max_messages
    messages = page.messages[:limit]
    complete = len(messages) == len(page.messages)
    return PageDocument(
        channel=name,
        number=f"{page.number:x}",
        first_offset=page.first_offset,
        next_offset=page.next_offset if complete else messages[-1].offset + 1,
        messages=[message_document(m) for m in messages],
        lost=page.lost,
        restarted=restarted,
    )


async def _wait(
    exchange: Exchange, name: str, start: Start | Place, wait_ms: int, *, restarted: bool, lost: int
) -> PageDocument:
    """Holds the request until something is said. A reader that polls is no member: it speaks as no agent."""
    broker, surface = exchange.broker, exchange.surface
    session = StreamSession(broker, exchange.principal, "", surface.settings)
    with surface.streaming(session):
        granted(broker.subscribe(session, name, wish=1, start=start, retained=False))
        await session.wait(min(wait_ms, surface.settings.wait_max_ms))
        if session.ended is not None:
            raise RefusedError(session.ended)
        messages: list[Message] = []
        for item in session.take():
            if isinstance(item, Gap):
                lost += item.missing
            elif not item.message.expired(broker.clock.now_ms()):
                messages.append(item.message)
        channel = broker.channels.find(name)
        assert channel is not None, f"{name!r} is subscribed to and has gone"
        following = messages[-1].offset + 1 if messages else channel.visible
        page = Page(messages, number=channel.number, next_offset=following, first_offset=_first(channel), lost=lost)
        return _page_document(exchange, name, page, restarted=restarted)


def _first(channel: Channel) -> int:
    return channel.ring.first_offset if len(channel.ring) else channel.visible

"""``/v1/calls``: ask an agent and get its one answer; and serve a skill with nothing but a held stream and POST.

A call that is not answered while the request waits goes on: ``202`` and its URL, under which it can be read,
waited for, streamed and cancelled until some minutes after its end.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import msgspec
from aiohttp import web

from dragoman.adapters.http.agents import AGENT_IN_PATH, visible
from dragoman.adapters.http.call_documents import AskDocument, CallDocument, CallRequest, call_document, event_document
from dragoman.adapters.http.definitions import (
    ACCEPT,
    AGENT,
    Definition,
    Exchange,
    Field,
    Parameter,
    Reply,
    granted,
    invalid,
    nothing,
    respond,
)
from dragoman.adapters.http.session import RequestSession, StreamSession
from dragoman.adapters.http.streams import STREAM_REPLY, end, present
from dragoman.adapters.serving import problems
from dragoman.adapters.serving.sse import KEEP_ALIVE, EventWriter, PeerGoneError, frame, last_event_id, wants_events
from dragoman.adapters.serving.web import body
from dragoman.broker.call import Call, CallEvent, Kind, Outcome
from dragoman.routing.cards import Skill
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.broker.offers import Asked

_PREFER_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,7})\"?", re.IGNORECASE)
ASYNC: Final = re.compile(r"(?:^|[,;\s])respond-async(?:$|[,;\s])", re.IGNORECASE)


class Asker:
    """Who asked over HTTP. It reads what happened from the call itself; here it only learns that something has."""

    def __init__(self, session: RequestSession) -> None:
        self._session = session
        self.news = asyncio.Event()

    @property
    def session(self) -> RequestSession:
        """The request that asked."""
        return self._session

    def part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        """A partial answer is there."""
        self.news.set()

    def final(self, call: Call, outcome: Outcome) -> None:
        """The answer is there."""
        self.news.set()


# -- asking ------------------------------------------------------------------------------------------


async def _call(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(CallRequest)
    if order.deadline_ms is not None and order.deadline_ms < 1:
        raise invalid(f"deadline_ms is 1 or more, not {order.deadline_ms}")
    asker = Asker(RequestSession(exchange.principal, exchange.agent))
    # With a reference the call can still be read after its end; without one a quick one would be forgotten at once.
    reference = exchange.header("Idempotency-Key") or f"http-{uuid4()}"
    call = granted(
        exchange.broker.calls.start(
            asker,
            agent=order.agent,
            skill=order.skill,
            arguments=bytes(order.arguments) or b"{}",
            content_type="application/json",
            deadline_ms=order.deadline_ms,
            cause=order.cause,
            dedupe=reference,
            durable=order.durable,
        )
    )
    location = {"Location": f"/v1/calls/{call.id}"}
    if wants_events(exchange.header("Accept") or ""):
        return await _follow(exchange, call, asker.news, 0, location)
    wait_ms = _wait_ms(exchange)
    try:
        await _ended(call, asker.news, wait_ms)
    except asyncio.CancelledError:
        # The client has gone without having learnt the call's name; one that has a key can come back with it.
        if exchange.header("Idempotency-Key") is None and call.outcome is None:
            exchange.broker.calls.cancel(asker.session, call.id)
        raise
    return _view(call, location)


def _wait_ms(exchange: Exchange) -> int:
    prefer = exchange.header("Prefer") or ""
    if ASYNC.search(prefer) and not _PREFER_WAIT.search(prefer):
        return 0
    asked = _PREFER_WAIT.search(prefer)
    settings = exchange.surface.settings
    return min(int(asked[1]) * 1000 if asked is not None else settings.call_wait_ms, settings.wait_max_ms)


async def _ended(call: Call, news: asyncio.Event, wait_ms: int) -> None:
    """Waits for the call's end, at most so long."""
    try:
        async with asyncio.timeout(wait_ms / 1000):
            while call.outcome is None:
                news.clear()
                await news.wait()
    except TimeoutError:
        return


def _view(call: Call, location: dict[str, str]) -> web.StreamResponse:
    """The call as the answer to whoever waited for it: its result, its failure, or where to ask again."""
    if call.outcome is None:
        return respond(call_document(call), 202, location)
    if call.outcome.refusal is None:
        return respond(call_document(call), 200, location)
    response = problems.respond(call.outcome.refusal)
    response.headers.update(location)
    return response


async def _get(exchange: Exchange) -> web.StreamResponse:
    calls = exchange.broker.calls
    call = granted(calls.get(exchange.principal, exchange.path("call")))
    news = asyncio.Event()
    unwatch = granted(calls.watch(call.id, lambda event: news.set()))
    try:
        if wants_events(exchange.header("Accept") or ""):
            return await _follow(exchange, call, news, _after(exchange), {})
        await _ended(call, news, min(exchange.integer("wait_ms") or 0, exchange.surface.settings.wait_max_ms))
    finally:
        unwatch()
    return respond(call_document(call))


def _after(exchange: Exchange) -> int:
    said = last_event_id(exchange.request.headers)
    if said and not (said.isascii() and said.isdigit() and len(said) < 10):
        raise invalid(f"Last-Event-ID is the number of an event of the call, not {said!r}")
    return int(said or "0")


async def _follow(
    exchange: Exchange, call: Call, news: asyncio.Event, after: int, headers: dict[str, str]
) -> web.StreamResponse:
    """Streams what happens to the call. There is no queue: the stream keeps a number and reads the call from there."""
    surface = exchange.surface
    session = StreamSession(exchange.broker, exchange.principal, "", surface.settings)
    writer = EventWriter(exchange.request, stall_s=surface.settings.stall_max_ms / 1000)
    with surface.streaming(session):
        try:
            await writer.open(headers)
            while True:
                news.clear()
                events = [event for event in call.events if event.number > after]
                if events:
                    after = events[-1].number
                    await writer.send(b"".join(_event(call, event) for event in events))
                if call.outcome is not None or session.ended is not None:
                    break
                await _news_or_silence(news, session, writer, surface.settings.keep_alive_ms)
            if session.ended is not None and call.outcome is None:
                await writer.send(end(session.ended))
            await writer.close()
        except PeerGoneError:
            return writer.response
    return writer.response


async def _news_or_silence(
    news: asyncio.Event, session: StreamSession, writer: EventWriter, keep_alive_ms: int
) -> None:
    waits = [asyncio.ensure_future(news.wait()), asyncio.ensure_future(session.wait(keep_alive_ms))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not news.is_set() and session.ended is None:
            await writer.send(KEEP_ALIVE)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _event(call: Call, event: CallEvent) -> bytes:
    document = call_document(call) if event.kind is Kind.FINAL else event_document(event)
    return frame(msgspec.json.encode(document), event=event.kind.value, id=str(event.number))


async def _cancel(exchange: Exchange) -> web.StreamResponse:
    calls = exchange.broker.calls
    call_id = exchange.path("call")
    session = RequestSession(exchange.principal, exchange.agent)
    granted(calls.cancel(session, call_id))
    await _safe(exchange, call_id)
    return nothing()


async def _safe(exchange: Exchange, call_id: str) -> None:
    """Waits until the end that was just given to a call is safe; a call that is not kept is gone by then."""
    news = asyncio.Event()
    unwatch = exchange.broker.calls.watch(call_id, lambda event: news.set())
    if isinstance(unwatch, Refusal):
        return
    try:
        call = granted(exchange.broker.calls.get(exchange.principal, call_id))
        await _ended(call, news, exchange.surface.settings.wait_max_ms)
    finally:
        unwatch()


# -- serving -----------------------------------------------------------------------------------------


async def _answer(exchange: Exchange) -> web.StreamResponse:
    calls = exchange.broker.calls
    call_id = exchange.path("call")
    call = granted(calls.get(exchange.principal, call_id))
    server = exchange.broker.directory.get(call.agent)
    if server is None or server.principal_name != exchange.principal.name:
        raise RefusedError(Refusal(Reason.NOT_AUTHORIZED, f"call {shown(call_id)} was not asked of an agent of yours"))
    payload = await body(exchange.request)
    granted(
        calls.answer(
            RequestSession(exchange.principal, call.agent),
            call_id,
            payload,
            content_type=exchange.header("Content-Type"),
            partial=exchange.flag("partial") is True,
            error=exchange.text("error"),
        )
    )
    if not call.open:
        await _safe(exchange, call_id)
    return nothing()


class AskStream:
    """The asks that wait to be sent to one serving agent. Full means that somebody else is asked, or later."""

    def __init__(self, session: StreamSession, asks_max: int, bytes_max: int) -> None:
        self._session = session
        self._asks_max = asks_max
        self._bytes_max = bytes_max
        self._frames: deque[bytes] = deque()
        self._bytes = 0

    def ask(self, call: Asked) -> bool:
        """Hands over a call, or says that there is no room."""
        if len(self._frames) >= self._asks_max or (self._frames and self._bytes > self._bytes_max):
            return False
        document = AskDocument.of(call)
        self._put(frame(msgspec.json.encode(document), event="ask"))
        return True

    def cancelled(self, call: Asked) -> None:
        """The call has ended otherwise. At most one of these follows each ask, so the bound holds for both."""
        self._put(frame(msgspec.json.encode({"call": call.id}), event="cancel"))

    def _put(self, event: bytes) -> None:
        self._frames.append(event)
        self._bytes += len(event)
        self._session.wake()

    def take(self) -> bytes:
        """Everything that waits, joined."""
        frames = b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        return frames


async def _asks(exchange: Exchange) -> web.StreamResponse:
    surface, directory = exchange.surface, exchange.broker.directory
    agent, skills = exchange.path("agent"), exchange.texts("skill")
    if not skills:
        raise invalid("name at least one skill: ?skill=summarise")
    session = StreamSession(exchange.broker, exchange.principal, agent, surface.settings)
    stream = AskStream(session, surface.settings.stream_max_messages, surface.settings.stream_max_bytes)
    writer = EventWriter(exchange.request, stall_s=surface.settings.stall_max_ms / 1000)
    with surface.streaming(session), present(exchange.broker, session):
        card = visible(exchange, agent).card
        for name in dict.fromkeys(skills):
            skill = (card.skill(name) if card is not None else None) or Skill(name)
            granted(directory.offer(session, agent, skill, stream.ask, stream.cancelled))
        try:
            await writer.open()
            while session.ended is None:
                asks = stream.take()
                session.take()
                await writer.send(asks or KEEP_ALIVE)
                await session.wait(surface.settings.keep_alive_ms)
            await writer.send(end(session.ended))
            await writer.close()
        except PeerGoneError:
            return writer.response
    return writer.response


# -- definitions ---------------------------------------------------------------------------------------

_CALL: Final = Parameter("call", "the call's id", "level")
_VIEW: Final = Reply(200, "The call", CallDocument)
_FAILURES: Final = (404, 409, 410, 501, 502, 504, 507)

DEFINITIONS: Final = (
    Definition(
        "POST",
        "/v1/calls",
        "call",
        "calls",
        "Ask an agent, or whoever serves a skill best",
        _call,
        replies=(
            Reply(200, "It was answered in time", CallDocument),
            STREAM_REPLY,
            Reply(202, "It goes on; Location says where to ask again", CallDocument),
        ),
        body=CallRequest,
        fields=(
            ACCEPT,
            AGENT,
            Field("Prefer", "wait=SECONDS for how long to wait for the answer; respond-async for not at all"),
            Field("Idempotency-Key", "the same key again is the same call"),
        ),
        problems=_FAILURES,
    ),
    Definition(
        "GET",
        "/v1/calls/{call}",
        "getCall",
        "calls",
        "A call of yours, or asked of an agent of yours",
        _get,
        replies=(_VIEW, STREAM_REPLY),
        parameters=(_CALL,),
        query=(Parameter("wait_ms", "wait so long for its end", "integer", high=86_400_000),),
        fields=(ACCEPT, Field("Last-Event-ID", "the number of the last event seen")),
        problems=(404,),
    ),
    Definition(
        "DELETE",
        "/v1/calls/{call}",
        "cancelCall",
        "calls",
        "Cancel a call; whoever works on it is told",
        _cancel,
        replies=(Reply(204, "It was cancelled"),),
        parameters=(_CALL,),
        fields=(AGENT,),
        problems=(404, 409, 504),
    ),
    Definition(
        "POST",
        "/v1/calls/{call}/answer",
        "answerCall",
        "calls",
        "Answer a call asked of an agent of yours",
        _answer,
        replies=(Reply(204, "It was passed on"),),
        parameters=(_CALL,),
        query=(
            Parameter("partial", "true: a part; the final answer is still to come", "flag"),
            Parameter("error", "the call failed: why, in a sentence"),
        ),
        raw_body=True,
        problems=(404, 409, 504),
    ),
    Definition(
        "GET",
        "/v1/agents/{agent}/asks",
        "serve",
        "calls",
        "Serve skills as an agent of yours for as long as this stream is held",
        _asks,
        replies=(Reply(200, "Events: `ask`, `cancel` and `end`", content="text/event-stream"),),
        parameters=(AGENT_IN_PATH,),
        query=(Parameter("skill", "a skill to serve; may be repeated", "texts"),),
        problems=(404,),
    ),
)

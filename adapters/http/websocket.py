"""Publish and subscribe over a WebSocket, in JSON text frames. Binary ones are refused: they have no place for a name.

The client says                                                 and is answered
    {"type": "subscribe", "ref": 1, "filter": "a/#"}            {"type": "ack", "ref": 1}
    {"type": "unsubscribe", "ref": 2, "filter": "a/#"}          {"type": "ack", "ref": 2}
    {"type": "publish", "ref": 3, "channel": "a/b",             {"type": "ack", "ref": 3, "id": "1-7", "kept": "log"}
     "payload": "21"}
and hears
    {"type": "message", "message": {…}}     {"type": "gap", "channel": "a/b", "count": 3}
    {"type": "error", "ref": 3, "problem": {…}}
A ``ref`` is the client's own, text or number, and given back. What does not fit is an error and ends nothing.
``start`` of a subscribe: new, earliest, last, or the id of the last message seen, to go on after it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from dragoman.adapters.http.documents import MessageDocument, message_document
from dragoman.adapters.http.publishing import kept, publish
from dragoman.adapters.http.session import Delivery, Gap, StreamSession
from dragoman.adapters.serving import problems
from dragoman.adapters.serving.json_in import read_json
from dragoman.broker.subscription import Place, Start, Subscription
from dragoman.routing.message import NEVER, Envelope, Header, Message, parse_id
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman.adapters.http.definitions import Exchange

Ref = str | int | None
_STARTS: Final = {start.value: start for start in Start}


class Frame(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """What a client says."""

    ref: Ref = None


class Misfit(msgspec.Struct):
    """The one thing looked for in a frame that does not fit."""

    ref: Ref = None


class Subscribe(Frame, tag="subscribe"):
    """An interest from now on."""

    filter: str
    start: str = "new"
    retained: bool = True


class Unsubscribe(Frame, tag="unsubscribe"):
    """The end of one."""

    filter: str


class Publish(Frame, tag="publish"):
    """Something said. ``headers`` may hold null values; ``key`` and ``correlation`` are text here."""

    channel: str
    payload: str | None = None
    payload_base64: str | None = None
    content_type: str | None = None
    headers: list[tuple[str, str | None]] = []
    retain: bool = False
    wish: int = 1
    idempotency_key: str | None = None
    reply_to: str | None = None
    correlation: str | None = None
    cause: str | None = None
    key: str | None = None
    expires_ms: int | None = None


Order: TypeAlias = Subscribe | Unsubscribe | Publish
_ORDERS: Final[Any] = Order
"""Python has no name for the type of a union."""


class Said(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="type"):
    """What we say."""


class Ack(Said, tag="ack"):
    """It is done; of a publish, as safely as it asked for."""

    ref: Ref = None
    id: str | None = None
    kept: str | None = None


class News(Said, tag="message"):
    """A message."""

    message: MessageDocument


class Missing(Said, tag="gap"):
    """Messages that are gone before this reader could have them."""

    channel: str = ""
    count: int = 0


class Wrong(Said, tag="error"):
    """A no."""

    problem: problems.Problem
    ref: Ref = None


async def converse(exchange: Exchange, filters: Sequence[tuple[str, bool]]) -> web.StreamResponse:
    """Turns the request into a WebSocket that begins with subscriptions to ``filters``."""
    settings = exchange.surface.settings
    session = StreamSession(exchange.broker, exchange.principal, exchange.agent, settings)
    socket = web.WebSocketResponse(
        heartbeat=settings.keep_alive_ms / 1000, max_msg_size=settings.web.body_max_bytes * 2, compress=False
    )
    with exchange.surface.streaming(session):
        talk = Conversation(exchange, session, socket)
        if session.agent:
            arrived = exchange.broker.directory.arrive(session, session.agent, keeps=False)
            if isinstance(arrived, Refusal):
                raise RefusedError(arrived)
        try:
            for filter_, retained in filters:
                talk.subscribe(Subscribe(filter=filter_, retained=retained))
            await socket.prepare(exchange.request)
            await talk.run()
        finally:
            if session.agent:
                # The route may be cancelled the moment the peer's close has been answered; the code is known by then.
                clean = session.ended is not None or socket.close_code in (WSCloseCode.OK, WSCloseCode.GOING_AWAY)
                exchange.broker.directory.depart(session, clean=clean, keeps=False)
    return socket


class Conversation:
    """One WebSocket. Two tasks: this one reads and answers in order, a second sends what the inbox holds."""

    def __init__(self, exchange: Exchange, session: StreamSession, socket: web.WebSocketResponse) -> None:
        self._exchange = exchange
        self._broker = exchange.broker
        self._settings = exchange.surface.settings
        self._session = session
        self._socket = socket
        self._subscriptions: dict[str, Subscription] = {}

    async def run(self) -> None:
        """Reads and answers until the end."""
        sending = asyncio.create_task(self._send_news(), name="websocket news")
        try:
            with suppress(ConnectionError, TimeoutError):
                await self._read()
        finally:
            sending.cancel()
            # Waited for, so that nobody writes any more; whatever it ended with, the connection has ended too.
            await asyncio.gather(sending, return_exceptions=True)

    async def _read(self) -> None:
        async for said in self._socket:
            if said.type is not WSMsgType.TEXT:
                reason = b"text frames in JSON are understood here, binary ones are not"
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=reason)
                return
            await self._say(await self._obey(said.data))

    async def _obey(self, text: str) -> Said:
        try:
            order: Order = read_json(text, _ORDERS)
        except msgspec.MsgspecError as error:
            return _wrong(Refusal(Reason.ARGUMENTS_INVALID, f"this frame is not understood: {error}"), _ref_of(text))
        try:
            match order:
                case Subscribe():
                    self.subscribe(order)
                case Unsubscribe():
                    self._unsubscribe(order)
                case Publish():
                    return await self._publish(order)
        except RefusedError as error:
            return _wrong(error.refusal, order.ref)
        return Ack(ref=order.ref)

    def subscribe(self, order: Subscribe) -> None:
        """Adds a subscription; one to the same filter is replaced. Raises RefusedError."""
        most = self._settings.stream_filters_max
        if order.filter not in self._subscriptions and len(self._subscriptions) >= most:
            raise RefusedError(Refusal(Reason.QUOTA_EXCEEDED, f"one WebSocket has at most {most} subscriptions"))
        answer = self._broker.subscribe(
            self._session, order.filter, wish=1, start=_start(order.start), retained=order.retained
        )
        if isinstance(answer, Refusal):
            raise RefusedError(answer)
        former = self._subscriptions.pop(order.filter, None)
        if former is not None:
            self._broker.unsubscribe(former)
        self._subscriptions[order.filter] = answer

    def _unsubscribe(self, order: Unsubscribe) -> None:
        subscription = self._subscriptions.pop(order.filter, None)
        if subscription is None:
            detail = f"there is no subscription to {shown(order.filter)} here"
            raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, detail))
        self._broker.unsubscribe(subscription)

    async def _publish(self, order: Publish) -> Ack:
        message = _message(order, self._broker.clock.now_ms())
        await publish(self._broker, self._session, message, order.idempotency_key, self._settings.confirm_max_ms)
        if not message.number:
            return Ack(ref=order.ref)
        return Ack(ref=order.ref, id=message.id, kept=kept(self._broker, message))

    async def _send_news(self) -> None:
        """Sends what comes into the inbox. A peer that takes nothing for too long is cut off."""
        session = self._session
        try:
            while session.ended is None:
                if not await session.wait(self._settings.keep_alive_ms):
                    continue
                for item in session.take():
                    await self._say(_news(item))
                session.replenish()
            await self._say(_wrong(session.ended, None))
            await self._socket.close(code=WSCloseCode.GOING_AWAY, message=session.ended.reason.value.encode())
        except TimeoutError:
            self._abort()
        except ConnectionError:
            return

    async def _say(self, what: Said) -> None:
        async with asyncio.timeout(self._settings.stall_max_ms / 1000):
            await self._socket.send_str(msgspec.json.encode(what).decode())

    def _abort(self) -> None:
        transport = self._exchange.request.transport
        if transport is not None:
            transport.abort()


def _news(item: Delivery | Gap) -> Said:
    if isinstance(item, Gap):
        return Missing(channel=item.channel, count=item.missing)
    return News(message=message_document(item.message, retained=item.replay))


def _wrong(refusal: Refusal, ref: Ref) -> Wrong:
    return Wrong(problem=problems.describe(refusal), ref=ref)


def _ref_of(text: str) -> Ref:
    """The ref of a frame that does not fit, so that the client knows which; None if it is not even JSON."""
    try:
        return read_json(text, Misfit).ref
    except msgspec.MsgspecError:
        return None


def _start(text: str) -> Start | Place:
    known = _STARTS.get(text)
    if known is not None:
        return known
    place = parse_id(text)
    if place is None:
        detail = f"start is new, earliest, last or the id of a message, not {shown(text)}"
        raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, detail))
    return place[0], place[1] + 1


def _message(order: Publish, now_ms: int) -> Message:
    if order.payload is not None and order.payload_base64 is not None:
        raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, "give payload or payload_base64, not both"))
    if order.wish not in (0, 1, 2):
        raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, f"wish is 0, 1 or 2, not {order.wish}"))
    if order.cause is not None and parse_id(order.cause) is None:
        detail = f"cause is the id of a message, not {shown(order.cause)}"
        raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, detail))
    payload = None if order.payload is None else order.payload.encode()
    if order.payload_base64 is not None:
        try:
            payload = base64.b64decode(order.payload_base64, validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError(Refusal(Reason.PAYLOAD_INVALID, "payload_base64 is not base64")) from None
    headers: tuple[Header, ...] = tuple(
        (name, None if value is None else value.encode()) for name, value in order.headers
    )
    envelope = Envelope(
        key=None if order.key is None else order.key.encode(),
        headers=headers,
        content_type=order.content_type,
        reply_to=order.reply_to,
        correlation=None if order.correlation is None else order.correlation.encode(),
        expires_ms=NEVER if order.expires_ms is None else now_ms + max(0, order.expires_ms),
        cause=order.cause,
        text=order.payload is not None,
    )
    return Message(order.channel, payload, order.wish, "", order.retain, envelope)

"""Streamable HTTP of the handshake revisions: a session's requests, its own stream, what comes after a cut, its end.

A request is answered with plain JSON unless it says something before its end or stays silent for long. All errors
of a request in a session have status 200: to these clients any other status is a fault of the transport, and 404
means that the session is gone. Event ids are ``stream-number``; they mean something in their session only.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from aiohttp import web

from dragoman.adapters.mcp import wire
from dragoman.adapters.mcp.answer import EventStream
from dragoman.adapters.mcp.callers import Caller
from dragoman.adapters.mcp.handshakes import HandshakeSession, HandshakeSessions
from dragoman.adapters.mcp.kernel import (
    HANDSHAKE_VERSIONS,
    INVALID_REQUEST,
    MODERN_VERSIONS,
    VERSION_HEADER,
    Request,
    RpcError,
)
from dragoman.adapters.mcp.voices import Reply, Voice
from dragoman.adapters.serving.problems import respond
from dragoman.adapters.serving.sse import last_event_id
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.mcp.desk import Desk
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.adapters.serving.quota import Quota
    from dragoman.broker.broker import Broker

_EVENT_ID: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,18})")


@final
class HandshakeRoutes:
    """What ``/mcp`` is to clients of these revisions."""

    __slots__ = ("_broker", "_kernel", "_listens", "_requests", "_settings", "sessions")

    def __init__(self, broker: Broker, settings: McpSettings, desk: Desk, listens: Quota) -> None:
        self._broker = broker
        self._settings = settings
        self._kernel = desk.kernel
        self._requests = desk.requests
        self._listens = listens
        self.sessions = HandshakeSessions(broker, desk.sessions, settings.session_idle_s)

    def tell(self, method: str) -> None:
        """Puts a notice on the stream of every session."""
        for session in self.sessions:
            session.notices.note(method)

    def close(self) -> None:
        """Ends every session and its streams."""
        self.sessions.close()

    # -- POST ----------------------------------------------------------------------------------------

    async def post(self, http: web.Request, caller: Caller, envelope: wire.Envelope) -> web.StreamResponse:
        """One message of a client."""
        if envelope.method == "initialize":
            if envelope.id is None:
                return refused(RpcError(INVALID_REQUEST, "initialize must be a request"), 400)
            return await self._initialize(http, caller, envelope)
        session = self._session(http, caller)
        if isinstance(session, web.Response):
            return session
        caller.session = session
        if envelope.id is not None:
            return await self._ask(http, caller, envelope, session)
        if envelope.method == "notifications/cancelled":
            session.cancel((envelope.params or {}).get("requestId"))
        else:
            await session.place.tell(Request("", envelope.method, envelope.params, caller, session.tell))
        return web.Response(status=202)

    async def _initialize(self, http: web.Request, caller: Caller, envelope: wire.Envelope) -> web.StreamResponse:
        now_ms = self._now_ms()
        session = HandshakeSession(self._kernel, caller.principal.name, now_ms, self._settings.session_replay_bytes_max)
        refusal = self.sessions.admit(session, now_ms)
        if refusal is not None:
            raise RefusedError(refusal)
        caller.session = session
        response = await self._ask(http, caller, envelope, session)
        if not session.place.agreed:
            self.sessions.end(session)
        return response

    async def _ask(
        self, http: web.Request, caller: Caller, envelope: wire.Envelope, session: HandshakeSession
    ) -> web.StreamResponse:
        assert envelope.id is not None, "notifications have been answered"
        refusal = session.crowded(self._settings.session_requests_max)
        if refusal is not None:
            raise RefusedError(refusal)
        with self._requests.held(caller.principal.name):
            reply = session.reply()
            session.start(Request(envelope.id, envelope.method, envelope.params, caller, reply.notify), reply)
            return await self._answered(http, session, reply, begins=envelope.method == "initialize")

    async def _answered(
        self, http: web.Request, session: HandshakeSession, reply: Reply, *, begins: bool
    ) -> web.StreamResponse:
        """JSON if it ends in silence and soon, else events."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.silence_s):
                await reply.bell.heard()
        headers = {wire.SESSION_HEADER: session.id} if begins and session.place.agreed else {}
        if reply.over and not reply.spoke:
            if reply.answer is None:
                # notifications/cancelled: the client wants no answer, but HTTP must end somehow.
                return web.Response(status=202)
            return web.Response(body=reply.answer, content_type=wire.JSON_TYPE, headers=headers)
        session.hold(reply)
        return await self._pour(session, reply, 0, self._events(http, headers))

    # -- GET -----------------------------------------------------------------------------------------

    async def stream(self, http: web.Request, caller: Caller) -> web.StreamResponse:
        """The session's own stream, or what was missed of any of its streams and then what comes."""
        if wire.SESSION_HEADER not in http.headers or http.headers.get(VERSION_HEADER) in MODERN_VERSIONS:
            return method_not_allowed()
        if not wire.accepts(",".join(http.headers.getall("Accept", [])), "text/event-stream"):
            return respond(Refusal(Reason.UNSUPPORTED, "Accept must list text/event-stream"), 406)
        session = self._session(http, caller)
        if isinstance(session, web.Response):
            return session
        with self._listens.held(caller.principal.name):
            try:
                return await self._listen(http, session, last_event_id(http.headers))
            finally:
                session.used_ms = self._now_ms()

    async def _listen(self, http: web.Request, session: HandshakeSession, seen: str) -> web.StreamResponse:
        if not seen:
            if session.notices.bell.taken is not None:
                return respond(Refusal(Reason.CONFLICT, "this session has its one stream already"))
            return await self._pour(session, session.notices, session.notices.told, self._events(http))
        place = _EVENT_ID.fullmatch(seen)
        stream, number = (int(part) for part in place.groups()) if place is not None else (-1, 0)
        if stream == session.notices.number:
            return await self._pour(session, session.notices, min(number, session.notices.told), self._events(http))
        reply = session.find_reply(stream)
        if reply is not None:
            return await self._pour(session, reply, number, self._events(http))
        if 0 < stream <= session.replies_begun:
            # It is over, or too long ago. To readers of events this status says: do not come back.
            return web.Response(status=204)
        return refused(RpcError(INVALID_REQUEST, "no event of this session has that id"), 400)

    def _events(self, http: web.Request, headers: dict[str, str] | None = None) -> EventStream:
        return EventStream(http, self._settings.write_timeout_s, headers or {})

    async def _pour(
        self, session: HandshakeSession, voice: Voice, seen: int, stream: EventStream
    ) -> web.StreamResponse:
        """Writes what a voice says after ``seen`` until it is over, or another connection takes it."""
        voice.bell.take(stream)
        session.streams += 1
        try:
            if session.primes:
                await stream.say(b"", f"{voice.number}-{seen}")
            else:
                await stream.keep_alive()
            while voice.bell.taken is stream:
                for number, body in voice.since(seen):
                    await stream.say(body, f"{voice.number}-{number}")
                    seen = number
                if voice.over:
                    break
                await self._news(voice, stream)
            return await stream.end()
        finally:
            session.streams -= 1
            voice.bell.leave(stream)

    async def _news(self, voice: Voice, stream: EventStream) -> None:
        try:
            async with asyncio.timeout(self._settings.silence_s):
                await voice.bell.heard()
        except TimeoutError:
            await stream.keep_alive()
        else:
            if voice.number == 0:
                await asyncio.sleep(self._settings.notices_gap_s)

    # -- DELETE -------------------------------------------------------------

    def delete(self, http: web.Request, caller: Caller) -> web.Response:
        """A client ends its session."""
        if wire.SESSION_HEADER not in http.headers or http.headers.get(VERSION_HEADER) in MODERN_VERSIONS:
            return method_not_allowed()
        session = self._session(http, caller)
        if isinstance(session, web.Response):
            return session
        self.sessions.end(session)
        return web.Response(status=204)

    def _session(self, http: web.Request, caller: Caller) -> HandshakeSession | web.Response:
        version = http.headers.get(VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_VERSIONS:
            return refused(RpcError(INVALID_REQUEST, f"this session speaks no version {version!r}"), 400)
        session_id = http.headers.get(wire.SESSION_HEADER)
        if session_id is None:
            detail = f"send {wire.SESSION_HEADER}, or _meta with a protocol version in each request"
            return refused(RpcError(INVALID_REQUEST, f"the request belongs to no session: {detail}"), 400)
        session = self.sessions.find(session_id, caller.principal.name, self._now_ms())
        if session is None:
            return refused(RpcError(INVALID_REQUEST, "session not found"), 404)
        return session

    def _now_ms(self) -> int:
        return self._broker.clock.monotonic_ms()


def refused(error: RpcError, status: int) -> web.Response:
    """A message that is no message of a session."""
    return web.Response(body=wire.error_body(None, error), status=status, content_type=wire.JSON_TYPE)


def method_not_allowed() -> web.Response:
    """There is nothing here for that method."""
    return web.Response(status=405, headers={"Allow": "POST"})

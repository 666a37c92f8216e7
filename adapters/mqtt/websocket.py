"""MQTT in WebSocket frames (MQTT 5.0 §6). The same session as on TCP, another carrier.

Here is what carries it, and the route on the one web application; ports of its own are in ``websocket_listener``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Final, final

from aiohttp import WSCloseCode, WSMsgType, web

from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.session import MqttSession
from dragoman.adapters.mqtt.vigil import Vigil
from dragoman.adapters.serving.entrance import Arrival, arrival_on
from dragoman.adapters.serving.web import OPEN_PATHS, forwarded
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.realm import Realm
    from dragoman.adapters.serving.limits import ConnectionLimits

logger: Final = logging.getLogger("dragoman.mqtt")

PROTOCOLS: Final = ("mqtt", "mqttv3.1")
"""Subprotocols: [6.0.0-3], and what 3.1's clients say."""

FRAME_BYTES: Final = 64 * 1024
"""Handled of one frame in a turn, so that nobody starves."""

CLOSE_S: Final = 2.0
"""How long a peer gets to say its own goodbye."""


_ON_HTTP: Final = {
    secure: ListenerSettings("https" if secure else "http", "", "websocket", tls=secure) for secure in (False, True)
}
"""What holds for MQTT on the HTTP listeners."""


def add_route(app: web.Application, realm: Realm, limits: ConnectionLimits) -> None:
    """Serves MQTT at ``mqtt.websocket_path``. Its clients say who they are in CONNECT, not in the request."""
    path = realm.settings.websocket_path
    if not path:
        return

    async def route(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None, "a request that is answered has a connection"
        realm.counters.connections += 1
        realm.counters.open += 1
        connect_ms = int(limits.settings.connect_deadline_s * 1000)
        try:
            return await carry(request, realm, connect_ms, _ON_HTTP[request.secure], arrival_on(request.transport))
        finally:
            realm.counters.open -= 1

    app[OPEN_PATHS].add(path)
    app.router.add_get(path, route)


async def carry(
    request: web.BaseRequest, realm: Realm, connect_ms: int, listener: ListenerSettings, arrival: Arrival
) -> web.StreamResponse:
    """Makes the request a WebSocket and carries MQTT on it until it closes. Raises RefusedError, HTTPException.

    ``connect_ms``: the time its client has for a CONNECT.
    """
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    if not {name.strip() for name in offered.split(",")}.intersection(PROTOCOLS):
        detail = "MQTT is carried by a WebSocket with the subprotocol mqtt"
        raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, detail))
    # Frames need not be packets [6.0.0-2]; one larger than any packet is a mistake.
    largest = realm.settings.packet_bytes_max + 16
    socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=largest, timeout=CLOSE_S, compress=False)
    await socket.prepare(request)
    # What a proxy on this machine passes on is not local.
    arrival.local = arrival.local and not forwarded(request)
    carrier = _Carrier(realm, socket, request.transport, listener, arrival)
    carrier.begin(connect_ms)
    try:
        await carrier.run()
    finally:
        carrier.gone()
    return socket


@final
class _Carrier:
    """One WebSocket: frames to the session as they come, and what the session says in frames of its own."""

    def __init__(
        self,
        realm: Realm,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        listener: ListenerSettings,
        arrival: Arrival,
    ) -> None:
        self._realm = realm
        settings = realm.settings
        largest = max(settings.packet_bytes_max, realm.core.settings.message_bytes_max)
        #: said and unread: what is delivered in a turn, and as much again for answers
        self._backed_up_max = 2 * (settings.out_bytes_max + largest)
        self._socket = socket
        self._news = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._transport = transport
        self._cut = False
        self.session = MqttSession(realm, self, listener, arrival)

    def begin(self, connect_ms: int) -> None:
        """The peer is there."""
        self._vigil = Vigil(self.session, connect_ms, self._abort)

    def gone(self) -> None:
        """The WebSocket is closed."""
        self._vigil.end()
        self._realm.core.tick()
        self.session.gone()

    async def run(self) -> None:
        """Carries both ways until either side ends it."""
        loop = asyncio.get_running_loop()
        saying = loop.create_task(self._guarded(self._say()), name=f"mqtt websocket {self.session.peer}")
        try:
            await self._guarded(self._hear())
        finally:
            saying.cancel()
            await asyncio.wait((saying,))

    async def _guarded(self, way: Coroutine[None, None, None]) -> None:
        """One of both ways. If it fails the connection ends, for half of one would be mute or deaf."""
        try:
            await way
        except ConnectionError:
            self._abort()  # the peer went while it was written to
        except Exception:
            logger.exception("a fault of ours; the connection pays for it", extra={"peer": self.session.peer})
            self.session.end(Code.UNSPECIFIED_ERROR)
            self._abort()

    async def _hear(self) -> None:
        async for frame in self._socket:
            if frame.type is not WSMsgType.BINARY:
                # [6.0.0-1]
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"MQTT is binary")
                return
            data: bytes = frame.data
            for at in range(0, len(data), FRAME_BYTES):
                await self._free.wait()
                if self.session.closing or self._cut:
                    break
                self.session.received(data[at : at + FRAME_BYTES])
                if self.session.paused and self.session.out_bytes > self._backed_up_max:
                    why = "its peer does not read the answers it asks for"
                    self._realm.say("mqtt connection cut: %s", why, self.session)
                    self._abort()
                    return
                if len(data) > FRAME_BYTES:
                    await asyncio.sleep(0)

    async def _say(self) -> None:
        session = self.session
        while True:
            await self._news.wait()
            self._news.clear()
            if session.out:
                session.paused = True
                await self._socket.send_bytes(session.take_out())
                session.paused = False
            if session.closing and not session.out:
                await self._socket.close(code=WSCloseCode.OK)
                return
            if session.starved:
                session.go_on()

    # -- the session's side --------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to write, or the connection is to end."""
        self._news.set()

    def hold(self, held: bool) -> None:
        """Stops or goes on reading."""
        if held:
            self._free.clear()
        else:
            self._free.set()

    def accepted(self) -> None:
        """CONNACK is on its way: the keepalive holds from now on."""
        self._vigil.accepted()

    def _abort(self) -> None:
        self._cut = True
        self._free.set()
        if self._transport is not None:
            self._transport.abort()

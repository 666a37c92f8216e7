"""MQTT on TCP, TLS and Unix sockets: to sessions. Decides when to read and write; knows no packets."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast, final

from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.no_room import FULL, NoRoom
from dragoman.adapters.mqtt.session import MqttSession
from dragoman.adapters.mqtt.vigil import Vigil
from dragoman.adapters.serving.certificates import certificate_names
from dragoman.adapters.serving.entrance import Arrival, Entrance, arrival_on
from dragoman.broker.bans import Ban, covers

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Sequence

    from dragoman.adapters.mqtt.listener_settings import ListenerSettings
    from dragoman.adapters.mqtt.realm import Realm
    from dragoman.adapters.serving.limits import ConnectionLimits
    from dragoman.broker.timers import Timer

logger: Final = logging.getLogger("dragoman.mqtt")

READ_BYTES: Final = 64 * 1024
"""Most bytes taken from one connection in a turn, so that nobody starves (design §2)."""

LINGER_MS: Final = 2_000
"""How long a peer gets to read why its connection ends."""

WRITE_HIGH: Final = 256 * 1024
WRITE_LOW: Final = 64 * 1024


@final
class Connection(asyncio.BufferedProtocol):
    """One socket. Reads into a buffer that all connections of the listener share: it is emptied at once."""

    __slots__ = (
        "_arrival",
        "_closing",
        "_flushing",
        "_held",
        "_linger",
        "_listener",
        "_transport",
        "_vigil",
        "address",
        "session",
    )

    def __init__(self, listener: Listener, arrival: Arrival | None = None) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._arrival = arrival
        self._closing = False
        self._flushing = False
        self._held = False
        self._linger: Timer | None = None
        self._vigil: Vigil | None = None
        self.session: MqttSession | None = None

    # -- asyncio's side ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A peer has connected: taken in if there is room."""
        self._transport = cast("asyncio.Transport", transport)
        listener = self._listener
        self._arrival = arrival = self._arrival or arrival_on(transport)
        refusal = FULL if listener.full else arrival.admit(listener.limits)
        if refusal is not None:
            arrival.leave(listener.limits)
            listener.no_room.tell(self._transport, refusal)
            self._transport = None
            return
        if listener.settings.tls and listener.settings.client_certificates != "off":
            arrival.certificate = certificate_names(transport.get_extra_info("peercert"))
        self._transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_LOW)
        realm = listener.realm
        realm.counters.connections += 1
        realm.counters.open += 1
        self.session = MqttSession(realm, self, listener.settings, arrival)
        listener.connections[self] = None
        deadline_ms = int(listener.limits.settings.connect_deadline_s * 1000)
        self._vigil = Vigil(self.session, deadline_ms, self.abort)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        session = self.session
        assert session is not None
        if self._closing:
            return
        try:
            session.received(bytes(self._listener.buffer[:nbytes]))
        except Exception:
            logger.exception("a fault of ours; the connection pays for it", extra={"peer": session.peer})
            session.end(Code.UNSPECIFIED_ERROR)
            self.abort()

    def eof_received(self) -> bool:
        """The peer will send no more; MQTT has no use for half a connection."""
        return False

    def pause_writing(self) -> None:
        """The peer reads more slowly than we write."""
        if self.session is not None:
            self.session.paused = True

    def resume_writing(self) -> None:
        """It has caught up."""
        session = self.session
        if session is not None:
            session.paused = False
            if session.starved:
                self._listener.realm.core.loop.call_soon(session.go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        session = self.session
        if session is None:
            return
        listener = self._listener
        assert self._vigil is not None, "a session is watched from its beginning"
        self._vigil.end()
        if self._linger is not None:
            self._linger.cancel()
        del listener.connections[self]
        if not listener.connections:
            listener.emptied()
        session.arrival.leave(listener.limits)
        listener.realm.counters.open -= 1
        self._transport = None
        listener.realm.core.tick()
        session.gone()

    # -- the session's side --------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to write: once, at the end of this turn."""
        if not self._flushing:
            self._flushing = True
            self._listener.realm.core.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        session, transport = self.session, self._transport
        if session is None or transport is None or self._closing:
            return
        if session.out:
            transport.write(session.take_out())
        if session.paused and transport.get_write_buffer_size() > self._listener.backed_up_max:
            # Deliveries have stopped long before: these are answers to a peer that asks and never reads.
            session.realm.say("mqtt connection cut: %s", "its peer does not read the answers it asks for", session)
            self.abort()
        elif session.closing:
            self._close()
        elif session.starved and not session.paused:
            self._listener.realm.core.loop.call_soon(session.go_on)

    def hold(self, held: bool) -> None:
        """Stops or goes on reading."""
        transport = self._transport
        if held != self._held and transport is not None and not transport.is_closing():
            self._held = held
            if held:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def accepted(self) -> None:
        """CONNACK is on its way: the connect deadline becomes the keepalive."""
        assert self._vigil is not None, "a session is watched from its beginning"
        self._vigil.accepted()

    def _close(self) -> None:
        """Closes once what was written is out.

        The peer is read, unheard, until it closes too: a socket closed over unread bytes is reset, and
        the reset would overtake the DISCONNECT that says why. Two seconds, then it is cut.
        """
        transport = self._transport
        if transport is None or self._closing:
            return
        self._closing = True
        try:
            if transport.can_write_eof():
                self.hold(False)
                transport.write_eof()
            else:
                transport.close()
        except OSError:
            # The peer was quicker: there is nobody left to linger for.
            transport.abort()
        assert self._vigil is not None, "a session is watched from its beginning"
        self._vigil.end()
        self._linger = self._listener.realm.broker.timers.after(LINGER_MS, self.abort)

    def abort(self) -> None:
        """Cuts the connection, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """Accepts MQTT connections on one address. ``start`` once, ``stop`` once."""

    def __init__(
        self,
        realm: Realm,
        limits: ConnectionLimits,
        settings: ListenerSettings,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.realm = realm
        self.limits = limits
        self.settings = settings
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.no_room = NoRoom(realm, self.buffer)
        self.connections: dict[Connection, None] = {}
        #: written and unread: what one turn may add to a full buffer, and as much again for answers
        self.backed_up_max = _backed_up_max(realm)
        self._entrance = Entrance(
            sockets,
            lambda arrival: Connection(self, arrival),
            limits,
            realm.counters,
            realm.complaints,
            tls=tls,
            relays=settings.relays,
        )
        self._empty = asyncio.Event()
        realm.broker.bans.follow(self._turn_out)

    def _turn_out(self, ban: Ban) -> None:
        """Ends the connections from an address that has just been banned."""
        for connection in list(self.connections):
            if connection.session is not None and covers(ban, connection.session.arrival.host):
                connection.session.close(ban.refusal())

    async def start(self) -> None:
        """Begins to accept."""
        await self._entrance.start()

    def renew(self, settings: ListenerSettings, tls: ssl.SSLContext | None) -> None:
        """Whoever comes from now on goes by these. Address, kind and whether there is TLS are as they were."""
        self.settings = settings
        # Never less: connections that began with more go on with it.
        self.backed_up_max = max(self.backed_up_max, _backed_up_max(self.realm))
        self._entrance.renew(tls, settings.relays)

    @property
    def full(self) -> bool:
        """Whether it has as many connections as it may."""
        return 0 < self.settings.connections_max <= len(self.connections)

    def emptied(self) -> None:
        """The last connection is gone."""
        self._empty.set()

    def stop_accepting(self) -> None:
        """No new connections from now on."""
        self._entrance.stop_accepting()

    async def stop(self, deadline_s: float) -> None:
        """Waits until the connections the broker has ended are written out, at most ``deadline_s``; then cuts them."""
        await self._entrance.stop()
        self.no_room.stop()
        if self.connections:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), deadline_s)
            except TimeoutError:
                logger.info("connections cut that did not close in time", extra={"count": len(self.connections)})
        for connection in list(self.connections):
            connection.abort()


def _backed_up_max(realm: Realm) -> int:
    largest = max(realm.settings.packet_bytes_max, realm.core.settings.message_bytes_max)
    return WRITE_HIGH + 2 * (realm.settings.out_bytes_max + largest)

"""Kafka on TCP and TLS: sockets to sessions. Decides when to read and write; knows no request but its length."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast, final

from dragoman.adapters.kafka.session import KafkaSession
from dragoman.adapters.kafka.skim import Skim
from dragoman.adapters.kafka.wire import WireError
from dragoman.adapters.serving.entrance import Arrival, Entrance, arrival_on
from dragoman.broker.bans import Ban, covers

if TYPE_CHECKING:
    import socket
    import ssl

    from dragoman.adapters.kafka.realm import Realm
    from dragoman.adapters.serving.limits import ConnectionLimits
    from dragoman.broker.timers import Timer

logger: Final = logging.getLogger("dragoman.kafka")

READ_BYTES: Final = 64 * 1024
"""Most bytes of small requests taken from one connection in a turn, so that nobody starves (design §2)."""

ANNOUNCED_BYTES: Final = 1 << 20
"""Room made for a request of which only the length is here; more when so much has come."""

SKIMMED_BYTES_MAX: Final = 100 << 20
"""Of a produce request that is refused: what Kafka takes. Nothing of its records is kept."""

LENGTH: Final = 4
"""Bytes in front of each request that say how long it is."""

WRITE_HIGH: Final = 1 << 20
WRITE_LOW: Final = 256 * 1024


@final
class Connection(asyncio.BufferedProtocol):
    """One socket. Small requests are read into a buffer that all connections share, a large one into its own."""

    __slots__ = (
        "_arrival",
        "_closing",
        "_deadline",
        "_filled",
        "_flushing",
        "_held",
        "_listener",
        "_part",
        "_resuming",
        "_skim",
        "_transport",
        "_whole",
        "session",
    )

    def __init__(self, listener: Listener, arrival: Arrival | None) -> None:
        self._listener = listener
        self._arrival = arrival
        self._transport: asyncio.Transport | None = None
        self._part: bytearray | None = None
        self._whole = 0
        self._filled = 0
        #: a request under way that is too large to be kept
        self._skim: Skim | None = None
        self._closing = False
        self._flushing = False
        self._held = False
        self._resuming = False
        self._deadline: Timer | None = None
        self.session: KafkaSession | None = None

    # -- asyncio's side ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A peer has connected: taken in if the limits allow."""
        self._transport = cast("asyncio.Transport", transport)
        listener = self._listener
        realm = listener.realm
        self._arrival = arrival = self._arrival or arrival_on(transport)
        if arrival.admit(listener.limits) is not None:
            realm.counters.turned_away += 1
            self._transport.abort()
            self._transport = None
            return
        self._transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_LOW)
        realm.counters.connections += 1
        realm.counters.open += 1
        listener.connections[self] = None
        here = transport.get_extra_info("sockname")
        self.session = KafkaSession(
            realm,
            self,
            peer=arrival.text,
            host=arrival.host,
            reached=(str(here[0]), int(here[1])) if here else ("127.0.0.1", 0),
            loopback=arrival.local,
        )
        deadline_ms = int(listener.limits.settings.connect_deadline_s * 1000)
        self._deadline = realm.broker.timers.after(deadline_ms, self._too_late)
        self.session.begin()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        if self._part is None:
            return self._listener.buffer
        return memoryview(self._part)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        session = self.session
        if session is None or self._closing:
            return
        session.arrived(nbytes)
        if self._part is None:
            self._take(memoryview(self._listener.buffer)[:nbytes])
            return
        self._filled += nbytes
        if self._filled < len(self._part):
            return
        if self._filled < self._whole:
            # It does send what it has announced: now there is room for the rest of it.
            self._part = self._part + bytearray(self._whole - self._filled)
            return
        part, self._part = self._part, None
        if len(part) == LENGTH:
            self._begin(bytes(part))
        else:
            self._request(memoryview(part)[LENGTH:])

    def _take(self, data: memoryview) -> None:
        """Whole requests are handled at once; of the last one, what is missing is waited for."""
        at, end = self._skimmed(data), len(data)
        while end - at >= LENGTH and not self._closing:
            length = int.from_bytes(data[at : at + LENGTH], "big", signed=True)
            if self._refuses(length, bytes(data[at : at + 16])):
                return
            if self._skim is not None:
                at += LENGTH
                at += self._skimmed(data[at:])
                continue
            if end - at - LENGTH < length:
                break
            # The buffer is everybody's: what is kept of a request is its own copy.
            self._request(memoryview(bytes(data[at + LENGTH : at + LENGTH + length])))
            at += LENGTH + length
        if at < end and not self._closing:
            self._begin(bytes(data[at:]))

    def _begin(self, start: bytes) -> None:
        """The beginning of a request: makes room for it, at first no more than anybody may have for the asking."""
        whole = LENGTH
        if len(start) >= LENGTH:
            length = int.from_bytes(start[:LENGTH], "big", signed=True)
            if self._refuses(length, start) or self._skim is not None:
                return
            whole += length
        if len(start) == whole:
            self._request(memoryview(b""))
            return
        self._part = bytearray(min(whole, ANNOUNCED_BYTES))
        self._part[: len(start)] = start
        self._whole = whole
        self._filled = len(start)

    def _skimmed(self, data: memoryview) -> int:
        """How much of what came belongs to a request that is too large to be kept, if there is one."""
        session, skim = self.session, self._skim
        if skim is None or session is None:
            return 0
        try:
            taken = skim.feed(data)
        except WireError as error:
            self._cut(str(error), session)
            return len(data)
        if not skim.left:
            self._skim = None
            self._handle(session, memoryview(skim.kept), emptied=True)
        return taken

    def _refuses(self, length: int, start: bytes) -> bool:
        """Whether no request has this length: the peer speaks another protocol, or too much; nothing can answer it."""
        session = self.session
        assert session is not None
        if 0 < length <= session.request_bytes_max:
            return False
        if session.admitted and 0 < length <= SKIMMED_BYTES_MAX:
            self._skim = Skim(length)
            return False
        if start[:2] == b"\x16\x03":
            why = "the peer speaks TLS and this port does not"
        elif start[:4] in (b"GET ", b"POST", b"PUT ", b"HEAD"):
            why = "the peer speaks HTTP and this is Kafka's port"
        else:
            why = f"a request of {length} bytes; at most {session.request_bytes_max} are taken"
        self._cut(why, session)
        return True

    def _cut(self, why: str, session: KafkaSession) -> None:
        session.realm.complain("connection cut", why, session)
        self.abort()
        self._closing = True

    def _request(self, request: memoryview) -> None:
        session = self.session
        assert session is not None
        if not session.postpones(request):
            self._handle(session, request)

    def _handle(self, session: KafkaSession, request: memoryview, *, emptied: bool = False) -> None:
        try:
            session.received(request, emptied=emptied)
        except Exception:
            # A closed connection would have the client come back and ask the same again, without end.
            logger.exception("a fault of ours; the request pays for it", extra={"peer": session.peer})
            session.failed()

    def eof_received(self) -> bool:
        """The peer will send no more, and waits for nothing."""
        return False

    def pause_writing(self) -> None:
        """The peer reads more slowly than we write: it is not read either."""
        if self.session is not None:
            self.session.backed_up(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        if self.session is not None:
            self.session.backed_up(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        session = self.session
        if session is None:
            return
        listener = self._listener
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None
        self._part = None
        del listener.connections[self]
        if not listener.connections:
            listener.emptied()
        assert self._arrival is not None, "who has a session has arrived"
        self._arrival.leave(listener.limits)
        listener.realm.counters.open -= 1
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
        if session is None or transport is None:
            return
        out = session.take_out()
        if out:
            transport.writelines(out)
        if session.closing and not self._closing:
            self._closing = True
            transport.close()

    def hold(self, held: bool) -> None:
        """Stops or goes on reading."""
        transport = self._transport
        if held != self._held and transport is not None and not transport.is_closing():
            self._held = held
            if held:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def take_up(self) -> None:
        """Requests that had to wait can be handled, in a turn of their own."""
        if not self._resuming:
            self._resuming = True
            self._listener.realm.core.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        session = self.session
        while session is not None and (request := session.resumed()) is not None:
            self._handle(session, request)

    def accepted(self) -> None:
        """The peer has shown who it is, or need not: the deadline becomes that of idle connections."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._watch_idle(self._idle_ms)

    @property
    def _idle_ms(self) -> int:
        return int(self._listener.realm.settings.idle_s * 1000)

    def _watch_idle(self, in_ms: int) -> None:
        if self._idle_ms:
            self._deadline = self._listener.realm.broker.timers.after(max(1, in_ms), self._quiet)

    def _quiet(self) -> None:
        """Closes a connection on which nothing was asked for so long; also one whose peer is silently gone."""
        self._deadline = None
        session = self.session
        if session is None or self._closing:
            return
        left_ms = session.seen_ms + self._idle_ms - self._listener.realm.core.clock.monotonic_ms()
        if left_ms <= 0 and session.idle:
            session.realm.say("kafka connection closed: %s", "idle for too long", session)
            self._closing = True
            transport = self._transport
            if transport is not None and transport.get_write_buffer_size():
                # Closing would wait for a peer who does not read.
                transport.abort()
            elif transport is not None:
                transport.close()
        else:
            self._watch_idle(left_ms if left_ms > 0 else self._idle_ms)

    def _too_late(self) -> None:
        self._deadline = None
        self.abort()

    def abort(self) -> None:
        """Cuts the connection, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """Accepts Kafka connections on one address. ``start`` once, ``stop`` once."""

    def __init__(
        self, realm: Realm, limits: ConnectionLimits, sockets: list[socket.socket], tls: ssl.SSLContext | None = None
    ) -> None:
        self.realm = realm
        self.limits = limits
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.connections: dict[Connection, None] = {}
        self._entrance = Entrance(
            sockets, lambda arrival: Connection(self, arrival), limits, realm.counters, realm.complaints, tls=tls
        )
        self._empty = asyncio.Event()
        realm.broker.bans.follow(self._turn_out)

    def _turn_out(self, ban: Ban) -> None:
        """Ends the connections from an address that has just been banned."""
        for connection in list(self.connections):
            if connection.session is not None and covers(ban, connection.session.host):
                connection.session.close(ban.refusal())

    async def start(self) -> None:
        """Begins to accept."""
        await self._entrance.start()

    def encrypt(self, tls: ssl.SSLContext) -> None:
        """New handshakes go by this."""
        self._entrance.renew(tls)

    def emptied(self) -> None:
        """The last connection is gone."""
        self._empty.set()

    def stop_accepting(self) -> None:
        """No new connections from now on."""
        self._entrance.stop_accepting()
        self.realm.stop()

    async def stop(self, deadline_s: float) -> None:
        """Waits until what was answered is written out, at most ``deadline_s``; then cuts the connections."""
        self.stop_accepting()
        await self._entrance.stop()
        if self.connections:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), deadline_s)
            except TimeoutError:
                logger.info("connections cut that did not close in time", extra={"count": len(self.connections)})
        for connection in list(self.connections):
            connection.abort()

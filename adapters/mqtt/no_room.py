"""Clients there is no room for: a few at a time are heard so far that they can be told, the others are just closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mqtt.codec import Decoder
from dragoman.adapters.mqtt.codes import Code, return_code
from dragoman.adapters.mqtt.encoders import encode_connack
from dragoman.adapters.mqtt.packets import Connect
from dragoman.adapters.mqtt.properties import Properties
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.realm import Realm

AT_ONCE_MAX: Final = 64
"""Of one listener, beyond what it may have; each holds at most one CONNECT."""

FULL: Final = Refusal(Reason.BUSY, "this listener has as many connections as it may")

HEARD_MS: Final = 3_000
"""How long such a connection lasts, from its beginning to its end."""


@final
class NoRoom:
    """Says no, to ``AT_ONCE_MAX`` connections at a time. ``stop`` once."""

    def __init__(self, realm: Realm, buffer: memoryview) -> None:
        """``buffer``: where they read to; it is emptied at once."""
        self.realm = realm
        self.buffer = buffer
        self.connections: dict[_Heard, None] = {}

    def tell(self, transport: asyncio.Transport, refusal: Refusal) -> None:
        """Takes the connection and ends it. Nothing is read of who is banned, or of those that come in a flood."""
        self.realm.counters.turned_away += 1
        if refusal.reason in (Reason.BANNED, Reason.RATE_EXCEEDED) or len(self.connections) >= AT_ONCE_MAX:
            transport.abort()
            return
        heard = _Heard(self, transport, refusal)
        self.connections[heard] = None
        transport.set_protocol(heard)

    def stop(self) -> None:
        """Nobody is told any more."""
        for heard in list(self.connections):
            heard.abort()


@final
class _Heard(asyncio.BufferedProtocol):
    """One of them: read up to its CONNECT."""

    __slots__ = ("_decoder", "_no_room", "_refusal", "_timer", "_transport")

    def __init__(self, no_room: NoRoom, transport: asyncio.Transport, refusal: Refusal) -> None:
        self._no_room = no_room
        self._transport = transport
        self._refusal = refusal
        most = no_room.realm.settings.connect_bytes_max
        self._decoder = Decoder(max_packet_bytes=most, max_connect_bytes=most)
        self._timer = no_room.realm.broker.timers.after(HEARD_MS, self.abort)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._no_room.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        if self._transport.is_closing():
            return
        packets = self._decoder.feed(bytes(self._no_room.buffer[:nbytes]))
        if packets and isinstance(packets[0], Connect):
            self._answer(packets[0])
        elif packets or self._decoder.error is not None:
            self.abort()

    def eof_received(self) -> bool:
        """The peer will send no more; MQTT has no use for half a connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._timer.cancel()
        del self._no_room.connections[self]

    def abort(self) -> None:
        """Cuts it."""
        self._transport.abort()

    def _answer(self, connect: Connect) -> None:
        """Says no, and reads on unheard: a socket closed over unread bytes is reset, and that would overtake it."""
        if connect.version == 5:
            frame = encode_connack(5, False, Code.SERVER_BUSY, Properties(reason_string=self._refusal.detail))
            if len(frame) > (connect.properties.maximum_packet_size or len(frame)):
                frame = encode_connack(5, False, Code.SERVER_BUSY)
        else:
            frame = encode_connack(connect.version, False, return_code(Code.SERVER_BUSY))
        self._transport.write(frame)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

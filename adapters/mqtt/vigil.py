"""How long a connection may wait and last: until its CONNECT; then silent, within a packet, and altogether.

Whatever carries it. Nothing is done per message or per packet: each connection is looked at when something
could be over, by one timer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from dragoman.adapters.mqtt import handshake
from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.phase import Phase

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.broker.timers import Timer


@final
class Vigil:
    """Ends a connection whose time is over. Begins when it is made; ``end`` when it closes, idempotent."""

    __slots__ = ("_abort", "_begun", "_over_ms", "_session", "_since_ms", "_timer")

    def __init__(self, session: MqttSession, connect_ms: int, abort: Callable[[], object]) -> None:
        """``abort`` cuts a connection that has not sent its CONNECT within ``connect_ms``.

        One that has and yet is not in is told so: there was time for all of it.
        """
        self._session = session
        self._abort = abort
        self._timer: Timer | None = session.realm.broker.timers.after(connect_ms, self._too_late)
        #: when its longest time is over, by the monotonic clock; 0 = never
        self._over_ms = 0
        #: the packet that was not whole at the last look, by the decoder's number, and since when that is known
        self._begun = 0
        self._since_ms = 0

    def accepted(self) -> None:
        """CONNACK is on its way: the connect deadline becomes the keepalive, and what else there is."""
        self.end()
        longest_ms = self._session.terms.connect_time_max_ms
        if longest_ms:
            self._over_ms = self._session.realm.broker.clock.monotonic_ms() + longest_ms
        self._look()

    def end(self) -> None:
        """Nothing is watched any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Ends the connection if anything is over, else comes again when the next may be."""
        session = self._session
        self._timer = None
        if session.phase is not Phase.OPEN:
            return
        broker = session.realm.broker
        now_ms = broker.clock.monotonic_ms()
        waits: list[int] = []
        if self._over_ms:
            left_ms = self._over_ms - now_ms
            if left_ms <= 0:
                session.end(Code.MAXIMUM_CONNECT_TIME, "connections last no longer here")
                return
            waits.append(left_ms)
        if session.keepalive_ms:
            left_ms = session.last_seen_ms + session.keepalive_ms - now_ms
            if left_ms <= 0:
                session.end(Code.KEEP_ALIVE_TIMEOUT, "nothing came for one and a half keepalive intervals")
                return
            waits.append(left_ms)
        if session.settings.packet_time_max_s:
            left_ms = self._packet_ms(now_ms)
            if left_ms <= 0:
                session.realm.unfinished_total += 1
                session.realm.complain("a packet was begun and not finished in time", session)
                session.end(Code.KEEP_ALIVE_TIMEOUT, "a packet was begun and not finished in time")
                return
            waits.append(left_ms)
        if waits:
            self._timer = broker.timers.after(min(waits), self._look)

    def _packet_ms(self, now_ms: int) -> int:
        """When to look again whether the packet on its way is whole; 0 or less: it takes too long.

        What has come of it buys it time, so that a large one may come over a slow link. While the broker itself does
        not read, no time goes by.
        """
        session = self._session
        settings = session.settings
        decoder = session.decoder
        if not decoder.buffered:
            self._begun = 0
        elif decoder.begun != self._begun or session.resting or session.owed:
            self._begun = decoder.begun
            self._since_ms = now_ms
        else:
            bought_ms = decoder.buffered * 1000 // settings.packet_bytes_per_s_min
            return self._since_ms + settings.packet_time_max_s * 1000 + bought_ms - now_ms
        return settings.packet_time_max_s * 1000

    def _too_late(self) -> None:
        self._timer = None
        session = self._session
        if session.phase is Phase.NEW:
            self._abort()
        elif session.phase is Phase.CHECKING:
            if session.enhanced is not None and session.enhanced.login is not None:
                handshake.reject(session, Code.NOT_AUTHORIZED, "the client did not show in time who it is")
            else:
                handshake.reject(session, Code.SERVER_BUSY, "the broker could not take the client in in time")

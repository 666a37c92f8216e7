"""How long a connection may be silent: until its CONNECT, and then for its keepalive; whatever carries it."""

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
    """Ends a silent connection. Begins when it is made; ``end`` when the connection closes, idempotent."""

    __slots__ = ("_abort", "_session", "_timer")

    def __init__(self, session: MqttSession, connect_ms: int, abort: Callable[[], object]) -> None:
        """``abort`` cuts a connection that has not sent its CONNECT within ``connect_ms``.

        One that has and yet is not in is told so: there was time for all of it.
        """
        self._session = session
        self._abort = abort
        self._timer: Timer | None = session.realm.broker.timers.after(connect_ms, self._too_late)

    def accepted(self) -> None:
        """CONNACK is on its way: the connect deadline becomes the keepalive."""
        self.end()
        if self._session.keepalive_ms:
            self._timer = self._session.realm.broker.timers.after(self._session.keepalive_ms, self._quiet)

    def end(self) -> None:
        """Nothing is watched any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _quiet(self) -> None:
        """The keepalive has run out unless something came meanwhile [3.1.2-22]."""
        session = self._session
        self._timer = None
        if session.phase is not Phase.OPEN:
            return
        broker = session.realm.broker
        left_ms = session.last_seen_ms + session.keepalive_ms - broker.clock.monotonic_ms()
        if left_ms > 0:
            self._timer = broker.timers.after(left_ms, self._quiet)
        else:
            session.end(Code.KEEP_ALIVE_TIMEOUT, "nothing came for one and a half keepalive intervals")

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

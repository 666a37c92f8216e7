"""How fast one client may publish, and what happens to who is faster (``mqtt.rate_policy``).

With ``pause`` nobody is asked per message: what a turn's bytes brought is taken in on credit and paid off by
not reading the socket, so nothing is lost and the sender feels TCP's own back pressure. With ``refuse`` and
``disconnect`` the route asks per message. Where no rate is set, neither costs anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dragoman.broker.rates import Limiter, limiters_of, overdraw

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.adapters.mqtt.settings import MqttSettings

PAUSE: Final = "pause"
DISCONNECT: Final = "disconnect"


def rates(settings: MqttSettings) -> tuple[int, int, int, int]:
    """How fast one connection may publish."""
    return (
        settings.client_messages_per_s,
        settings.client_burst,
        settings.client_bytes_per_s,
        settings.client_bytes_burst,
    )


def own_limiters(settings: MqttSettings) -> tuple[Limiter, ...]:
    """The limiters of one connection; none where no rate is set."""
    return tuple(limiter for limiter in limiters_of(*rates(settings)) if limiter.on)


def begin(session: MqttSession) -> None:
    """The client is known: which limits there are for it. Also after the gate's have changed."""
    if session.own is None:
        session.own = own_limiters(session.realm.settings)
    limiters = (*session.own, *session.realm.gate.limiters(session.principal))
    if session.realm.settings.rate_policy == PAUSE:
        session.pace, session.asked = limiters, ()
    else:
        session.pace, session.asked = (), limiters


def spend(session: MqttSession, messages: int, size: int) -> None:
    """So much was taken in: stops reading until nothing is owed for it."""
    core = session.realm.core
    wait_ms = overdraw(session.pace, core.monotonic_ms, messages, size)
    if not wait_ms or session.closing:
        return
    session.realm.paused_total += 1
    session.resting = True
    session.wire.hold(True)
    # It cannot be heard meanwhile, so its keepalive begins when it can.
    session.last_seen_ms = core.monotonic_ms + wait_ms
    session.realm.broker.timers.after(wait_ms, _read_again, session)


def _read_again(session: MqttSession) -> None:
    session.resting = False
    if not session.owed and not session.closing:
        session.wire.hold(False)

"""What all MQTT connections of a mesh share: broker, settings, kept sessions, counters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mqtt.pacing import rates
from dragoman.adapters.mqtt.rewrite import Rewrites
from dragoman.adapters.mqtt.standing import Standings
from dragoman.adapters.mqtt.terms import Terms, terms_of
from dragoman.adapters.mqtt.traffic import Traffic
from dragoman.adapters.serving.complaints import Complaints
from dragoman.broker.bans import CLIENT, Ban
from dragoman.broker.rates import Limiter

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.listener_settings import ListenerSettings
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.adapters.mqtt.settings import MqttSettings
    from dragoman.adapters.serving.credentials import Authenticator
    from dragoman.broker.broker import Broker

logger: Final = logging.getLogger("dragoman.mqtt")


TERMS_MAX: Final = 256
"""Terms remembered; each reload of the configuration may bring others."""


@final
class Realm:
    """One per mesh, however many MQTT listeners it has: a client id is unique across all of them (§3.1.4)."""

    def __init__(self, broker: Broker, authenticator: Authenticator, settings: MqttSettings) -> None:
        self.broker = broker
        self.core = broker.core
        self.gate = broker.gate
        self.metrics = broker.metrics
        self.counters = broker.metrics.wire("mqtt")
        self.traffic = Traffic()
        self.complaints = Complaints("mqtt", logger, broker.timers)
        self.authenticator = authenticator
        self.settings = settings
        self.standings = Standings(broker, settings, authenticator.named)
        self.promises = self.standings.promises
        self.rewrites = Rewrites(settings.rewrite, settings.rewrite_bytes_max)
        broker.kept_sessions["mqtt"] = self.standings
        self.connects = _connects(settings)
        self.paused_total = 0
        self.overruns_total = 0
        self.unfinished_total = 0
        self.redirected_total = 0
        self._terms: dict[ListenerSettings, Terms] = {}
        told = "Publishes beyond Receive Maximum that the policy let through"
        self.metrics.probe("dragoman_mqtt_receive_max_exceeded", told, lambda: self.overruns_total, "counter")
        told = "Times a client was not read because it published faster than its rates"
        self.metrics.probe("dragoman_mqtt_paused", told, lambda: self.paused_total, "counter")
        told = "Clients cut off because a packet they had begun was not whole in time"
        self.metrics.probe("dragoman_mqtt_packets_unfinished", told, lambda: self.unfinished_total, "counter")
        told = "Clients told to go to another server"
        self.metrics.probe("dragoman_mqtt_redirected", told, lambda: self.redirected_total, "counter")
        broker.bans.follow(self._turn_out)

    def reload(self, settings: MqttSettings) -> None:
        """Takes over other settings. What a client was told at its beginning holds for it until its end.

        The gate's generation must grow with it: by that the connections that go on notice other rates.
        """
        running, self.settings = self.settings, settings
        self._terms.clear()
        self.standings.reload(settings)
        if (settings.rewrite, settings.rewrite_bytes_max) != (running.rewrite, running.rewrite_bytes_max):
            self.rewrites = Rewrites(settings.rewrite, settings.rewrite_bytes_max)
        if settings.connects_per_s != running.connects_per_s:
            self.connects = _connects(settings)
        if rates(settings) != rates(running):
            for standing in self.standings.by_client.values():
                if standing.connection is not None:
                    standing.connection.own = None

    def _turn_out(self, ban: Ban) -> None:
        """Ends the connection of a client id that has just been banned, also where its agent is its user's name."""
        standing = self.standings.by_client.get(ban.who) if ban.kind == CLIENT else None
        if standing is not None and standing.connection is not None:
            standing.connection.close(ban.refusal())

    def terms(self, listener: ListenerSettings) -> Terms:
        """What holds for its clients."""
        known = self._terms.get(listener)
        if known is None:
            if len(self._terms) >= TERMS_MAX:
                self._terms.clear()
            known = self._terms[listener] = terms_of(listener, self.settings)
        return known

    def complain(self, detail: str, session: MqttSession) -> None:
        """A peer has broken the protocol and is cut off: counted, and one line for the operator."""
        self.counters.errors += 1
        client = session.standing.client_id or (session.connect.client_id if session.connect is not None else "")
        self.complaints.say("connection closed", detail, peer=session.peer, client=client)

    def say(self, event: str, detail: str, session: MqttSession) -> None:
        """One line for the operator about a connection; text from peers only in the fields."""
        logger.info(event, detail, extra={"peer": session.peer, "client": session.standing.client_id})


def _connects(settings: MqttSettings) -> Limiter | None:
    rate = settings.connects_per_s
    return Limiter(rate, rate) if rate else None

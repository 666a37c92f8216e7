"""A2A over MQTT v0.1: what the names below ``$a2a/v1/`` mean. Nothing here speaks MQTT: they are names like others.

``discovery/…`` is the directory as retained cards. All else is a channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.adapters.a2a.mesh_skills import card_of
from dragoman.adapters.a2a.places import DISCOVERY, LEVEL, Places
from dragoman.adapters.a2a.registrations import Registrations
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Subscription
    from dragoman.routing.message import Message


@final
class OverMqtt:
    """The scheme of ``$a2a``. Implements ``broker.scheme.Scheme``; one a mesh, made after the broker has started."""

    def __init__(self, broker: Broker, settings: A2aSettings, *, version: str, url: str) -> None:
        """``url`` is where MQTT clients reach us, unless the configuration says otherwise."""
        self._broker = broker
        places = Places(settings.mqtt_org, settings.mqtt_unit)
        self._registrations = Registrations(broker, places, card_of(version), settings.mqtt_url or url)

    def start(self) -> None:
        """The names are ours from now on. Before anybody is attached."""
        self._registrations.start()
        self._broker.schemes.enter(LEVEL, self)

    def takes(self, name: str) -> bool:
        """Cards are registered, not kept."""
        return name.startswith(DISCOVERY)

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """Registers a card, or takes it back."""
        answer = self._registrations.publish(session, message)
        if isinstance(answer, Refusal):
            self._broker.metrics.refuse(answer.reason)
        return answer

    def retained(self, filter_: str) -> Iterator[Message]:
        """The cards."""
        return self._registrations.retained(filter_)

    def permits(self, principal: Principal, name: str) -> bool:
        """Who may not know of an agent does not see its card here either."""
        return not name.startswith(DISCOVERY) or self._registrations.permits(principal, name)

    def subscribed(self, subscription: Subscription) -> None:
        """No card changes by that."""

    def unsubscribed(self, subscription: Subscription) -> None:
        """No card changes by that."""

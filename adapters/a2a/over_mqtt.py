"""A2A over MQTT v0.1: what the names below ``$a2a/v1/`` mean. Nothing here speaks MQTT: they are names like others.

discovery/{org}/{unit}/{agent}    the directory as retained cards; a card published there registers its agent
request/{org}/{unit}/{agent}      asks the agent, whatever it speaks
reply/{our org}/{our unit}/mesh/  where agents answer what the mesh asked them
everything else                   channels like others: replies to requesters, events, pools
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.adapters.a2a.mqtt_requests import Requests
from dragoman.adapters.a2a.mqtt_servers import Servers
from dragoman.adapters.a2a.places import DISCOVERY, LEVEL, REQUEST, Places
from dragoman.adapters.a2a.registrations import Registrations
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.adapters.a2a.desk import Desk
    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Subscription
    from dragoman.routing.message import Message


@final
class OverMqtt:
    """The scheme of ``$a2a``. Implements ``broker.scheme.Scheme``; one a mesh, started before anybody is attached."""

    def __init__(self, broker: Broker, settings: A2aSettings, desk: Desk, *, url: str) -> None:
        """``url`` is where MQTT clients reach us, unless the configuration says otherwise."""
        self._broker = broker
        places = Places(settings.mqtt_org, settings.mqtt_unit)
        self._registrations = Registrations(broker, places, desk.own_card, settings.mqtt_url or url)
        self._servers = Servers(broker, places, self._registrations.native)
        self._registrations.when_registered = self._servers.serve
        self._requests = Requests(broker, places, settings, desk, self._servers.listens)

    async def start(self) -> None:
        """The names are ours from now on."""
        self._registrations.start()
        self._broker.schemes.enter(LEVEL, self)

    def stop_accepting(self) -> None:
        """Whoever publishes does."""

    async def stop(self, deadline_s: float) -> None:
        """Leaves off answering."""
        await self._requests.stop()

    def takes(self, name: str) -> bool:
        """Cards are registered, requests are asked, replies to us are ours."""
        return name.startswith((DISCOVERY, REQUEST)) or self._servers.takes(name)

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """Does what the topic says."""
        if message.name.startswith(DISCOVERY):
            answer = self._registrations.publish(session, message)
        elif message.name.startswith(REQUEST):
            answer = self._requests.publish(session, message)
        else:
            answer = self._servers.heard(session, message)
        if isinstance(answer, Refusal):
            self._broker.metrics.refuse(answer.reason)
        return answer

    def retained(self, filter_: str) -> Iterator[Message]:
        """The cards."""
        return self._registrations.retained(filter_)

    def permits(self, principal: Principal, agent: str, name: str) -> bool:
        """Who may not know of an agent does not see its card here either. Replies to the mesh are nobody else's."""
        if self._servers.takes(name):
            return False
        return not name.startswith(DISCOVERY) or self._registrations.permits(principal, name)

    def subscribed(self, subscription: Subscription) -> None:
        """An agent that listens to its request topic can be asked."""
        self._servers.subscribed(subscription)

    def unsubscribed(self, subscription: Subscription) -> None:
        """It cannot any more."""
        self._servers.unsubscribed(subscription)

"""What all Kafka connections of a mesh share: broker, settings, groups, names, counters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.kafka.agents import Agents
from dragoman.adapters.kafka.groups import Groups
from dragoman.adapters.kafka.names import Names, listed
from dragoman.adapters.kafka.synthesis import Synthesis
from dragoman.adapters.serving.complaints import Complaints
from dragoman.broker.identity import mesh_id

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import KafkaSession
    from dragoman.adapters.kafka.settings import KafkaSettings
    from dragoman.adapters.serving.credentials import Authenticator
    from dragoman.adapters.serving.sockets import Address
    from dragoman.broker.broker import Broker

logger: Final = logging.getLogger("dragoman.kafka")

NODE_ID: Final = 0
"""Ours, in a cluster of one. The same for every mesh: clients hold it, and the address with it, for a while."""

LEADER_EPOCH: Final = 0


@final
class Realm:
    """One per mesh, however many Kafka listeners it has. Made after the broker has started."""

    def __init__(
        self,
        broker: Broker,
        authenticator: Authenticator,
        settings: KafkaSettings,
        advertised: Address | None = None,
    ) -> None:
        self.broker = broker
        self.core = broker.core
        self.topics = broker.topics
        self.gate = broker.gate
        self.counters = broker.metrics.wire("kafka")
        self.complaints = Complaints("kafka", logger, broker.timers)
        self.authenticator = authenticator
        self.settings = settings
        self.advertised = advertised
        self.cluster_id = mesh_id(broker.log)
        self.names = Names(broker, self.cluster_id)
        self.synthesis = Synthesis(settings.synthesised_bytes_max)
        self.agents = Agents(self)
        self.groups = Groups(broker, settings.groups, self.names.partition_exists)

        broker.topics.on_deleted.append(self._topic_deleted)

    def stop(self) -> None:
        """Whoever waits in a group is told. Before the sessions end; idempotent."""
        self.groups.stop()

    def _topic_deleted(self, name: str) -> None:
        topic = listed(name)
        if topic is not None:
            self.groups.on_topic_deleted(topic)

    def complain(self, what: str, detail: str, session: KafkaSession) -> None:
        """A peer has broken the protocol: counted each time, and one line for the operator about its connection."""
        self.counters.errors += 1
        if not session.complained_of:
            session.complained_of = True
            self.complaints.say(what, detail, peer=session.peer, client=session.client)

    def say(self, event: str, detail: str, session: KafkaSession) -> None:
        """One line for the operator about a connection; text from peers only in the fields."""
        logger.info(event, detail, extra={"peer": session.peer, "client": session.client})

"""Which channel a Kafka client means: by topic name, id or partition. Remembers only what it can compute again."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final, final

from dragoman.routing.names import KAFKA_TOPIC_MAX, from_kafka, kafka_channel, to_kafka
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.channel import Channel

REMEMBERED_MAX: Final = 100_000
"""Names and ids remembered; then all are forgotten and computed again."""

VERB_NUMBER: Final = 0
"""Instead of a channel's number in the id of a verb."""

_SPACE: Final = uuid.UUID("6f0b9a52-6f3c-4a3b-9d56-1f1a8f0c5b11")


@final
class Names:
    """The names of one mesh's Kafka listeners.

    A topic id says which name was asked for and which creation of the channel answers, so an alias has an id of
    its own and a topic made anew has a new one.
    """

    def __init__(self, broker: Broker, cluster_id: str) -> None:
        self._broker = broker
        self._cluster_id = cluster_id
        self._channels: dict[str, str | Refusal] = {}
        self._asked: dict[uuid.UUID, str] = {}

    def channel(self, topic: str) -> str | Refusal:
        """The channel's name. The dotted spelling first, then the channel's own name as an alias."""
        known = self._channels.get(topic)
        if known is None:
            known = kafka_channel(topic)
            if len(topic) > KAFKA_TOPIC_MAX:
                return known
            if len(self._channels) >= REMEMBERED_MAX:
                self._channels.clear()
            self._channels[topic] = known
        return known

    def partition(self, topic: str, index: int) -> Channel | None:
        """One partition of what exists now; a channel that is no topic has one, 0."""
        name = self.channel(topic)
        channel = None if isinstance(name, Refusal) else self._broker.channels.find(name)
        if channel is None or index < 0:
            return None
        partitions = channel.partitions or (channel,)
        return partitions[index] if index < len(partitions) else None

    def partition_exists(self, topic: str, index: int) -> bool:
        """Whether there is such a partition now."""
        return self.partition(topic, index) is not None

    def id_of(self, topic: str, number: int) -> uuid.UUID:
        """The id of a topic under the name it was asked for by."""
        topic_id = uuid.uuid5(_SPACE, f"{self._cluster_id}/{number:x}/{topic}")
        if topic_id not in self._asked:
            if len(self._asked) >= REMEMBERED_MAX:
                self._asked.clear()
            self._asked[topic_id] = topic
        return topic_id

    def of_id(self, topic_id: uuid.UUID) -> str | None:
        """The name an id was given out for, if it still means the same creation of the channel."""
        topic = self._asked.get(topic_id)
        if topic is None:
            # Given out before a restart: the client goes on with the id it holds.
            self._learn()
            topic = self._asked.get(topic_id)
        if topic is None:
            return None
        number = self._number_of(topic)
        return topic if number is not None and self.id_of(topic, number) == topic_id else None

    def _number_of(self, topic: str) -> int | None:
        """Which creation of the channel there is now; a verb has no channel, and one id for ever."""
        name = self.channel(topic)
        if not isinstance(name, Refusal) and self._broker.verbs.owns(name):
            return VERB_NUMBER
        channel = self.partition(topic, 0)
        return None if channel is None else channel.number

    def _learn(self) -> None:
        for topic in self._broker.topics.all():
            spelt = to_kafka(topic.name)
            if isinstance(spelt, str):
                self.id_of(spelt, topic.number)


def listed(name: str) -> str | None:
    """The one spelling under which a channel is listed; None if Kafka has none for it."""
    spelt = to_kafka(name)
    return spelt if isinstance(spelt, str) and not isinstance(from_kafka(spelt), Refusal) else None

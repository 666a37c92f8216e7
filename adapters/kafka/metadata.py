"""What clients ask before anything else: versions, brokers, topics, offsets at a time, producer ids."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.kafka import codec
from dragoman.adapters.kafka.admin_access import cluster_operations, may_see, topic_operations
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.errors import code_of
from dragoman.adapters.kafka.names import VERB_NUMBER, listed
from dragoman.adapters.kafka.realm import LEADER_EPOCH, NODE_ID
from dragoman.adapters.kafka.shapes_data import (
    ApiVersionsResponse,
    InitProducerIdRequest,
    InitProducerIdResponse,
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from dragoman.adapters.kafka.times import first_since, newest
from dragoman.routing.message import Entry, end_of
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask, KafkaSession
    from dragoman.broker.channel import Channel

NOT_ASKED_FOR: Final = -2147483648
"""The set of authorized operations, where it was not asked for."""

NO_ID: Final = uuid.UUID(int=0)


def api_versions(ask: Ask) -> None:
    """Which requests we serve, in which versions."""
    ask.answer(ApiVersionsResponse(api_keys=codec.offered()))


def metadata(ask: Ask) -> None:
    """Who we are, and the topics asked for; all of them, if none is named (v0) or null is (later)."""
    request = ask.request
    assert isinstance(request, MetadataRequest)
    session = ask.session
    realm = session.realm
    response = MetadataResponse(cluster_id=realm.cluster_id, controller_id=NODE_ID)
    host, port = session.address
    response.brokers.append(MetadataResponseBroker(node_id=NODE_ID, host=host, port=port))
    wanted = request.topics
    if wanted is None or (ask.version == 0 and not wanted):
        for topic in list(realm.topics.all()):
            spelt = listed(topic.name)
            if spelt is not None and may_see(session, topic.name):
                response.topics.append(_described(session, spelt, topic.name))
    else:
        create = request.allow_auto_topic_creation or ask.version < 4
        for asked in wanted:
            name = asked.name
            if name is None or (ask.version >= 10 and asked.topic_id != NO_ID):
                name = realm.names.of_id(asked.topic_id)
            if name is None:
                unknown = MetadataResponseTopic(error_code=ErrorCode.UNKNOWN_TOPIC_ID, topic_id=asked.topic_id)
                response.topics.append(unknown)
            else:
                response.topics.append(_asked_for(session, name, create=create))
    if request.include_cluster_authorized_operations:
        response.cluster_authorized_operations = cluster_operations()
    if request.include_topic_authorized_operations:
        _add_operations(session, response.topics)
    ask.answer(response)


def _add_operations(session: KafkaSession, topics: list[MetadataResponseTopic]) -> None:
    names = session.realm.names
    for topic in topics:
        channel = names.partition(topic.name or "", 0)
        if channel is not None and not topic.error_code:
            topic.topic_authorized_operations = topic_operations(session, channel)


def _asked_for(session: KafkaSession, topic: str, *, create: bool) -> MetadataResponseTopic:
    """One topic under the name it was asked for. A name nobody knows becomes a topic, if that is allowed."""
    realm = session.realm
    name = realm.names.channel(topic)
    if isinstance(name, Refusal):
        return MetadataResponseTopic(name=topic, error_code=ErrorCode.INVALID_TOPIC_EXCEPTION)
    if not may_see(session, name):
        return MetadataResponseTopic(name=topic, error_code=ErrorCode.TOPIC_AUTHORIZATION_FAILED)
    if realm.broker.verbs.owns(name):
        return MetadataResponseTopic(
            name=topic, partitions=[_partition(0)], topic_id=realm.names.id_of(topic, VERB_NUMBER)
        )
    if realm.broker.channels.find(name) is None:
        if not create or not realm.settings.auto_create:
            return MetadataResponseTopic(name=topic, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        made = realm.topics.create(session, name, partitions=realm.settings.partitions)
        if isinstance(made, Refusal):
            return MetadataResponseTopic(name=topic, error_code=code_of(made))
    return _described(session, topic, name)


def _described(session: KafkaSession, topic: str, name: str) -> MetadataResponseTopic:
    realm = session.realm
    channel = realm.broker.channels.find(name)
    assert channel is not None, "described and not there"
    count = len(channel.partitions) or 1
    return MetadataResponseTopic(
        name=topic,
        topic_id=realm.names.id_of(topic, channel.number),
        partitions=[_partition(index) for index in range(count)],
    )


def _partition(index: int) -> MetadataResponsePartition:
    return MetadataResponsePartition(
        partition_index=index,
        leader_id=NODE_ID,
        leader_epoch=LEADER_EPOCH,
        replica_nodes=[NODE_ID],
        isr_nodes=[NODE_ID],
    )


# -- offsets ---------------------------------------------------------------------------------------

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
TIERED: Final = -5

UNKNOWN: Final = -1

SEARCH_BYTES: Final = 256 * 1024
"""Read at a time in search of a point in time."""


def list_offsets(ask: Ask) -> None:
    """Where partitions begin, end, or were at a time."""
    _Listing(ask).begin()


@final
class _Listing:
    """One request under way: some offsets have to be looked for in the log."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._waits = 1
        self._response = ListOffsetsResponse()

    def begin(self) -> None:
        request = self._ask.request
        assert isinstance(request, ListOffsetsRequest)
        for topic in request.topics:
            answers = [self._one(topic.name, wanted) for wanted in topic.partitions]
            self._response.topics.append(ListOffsetsTopicResponse(name=topic.name, partitions=answers))
        self._settled()

    def _settled(self) -> None:
        self._waits -= 1
        if not self._waits and not self._ask.session.closing:
            self._ask.answer(self._response)

    def _one(self, topic: str, wanted: ListOffsetsPartition) -> ListOffsetsPartitionResponse:
        session = self._ask.session
        answer = ListOffsetsPartitionResponse(
            partition_index=wanted.partition_index, timestamp=UNKNOWN, offset=UNKNOWN, leader_epoch=LEADER_EPOCH
        )
        channel = session.realm.names.partition(topic, wanted.partition_index)
        if channel is None:
            answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif not session.realm.broker.may_read(session, channel.name):
            answer.error_code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
        elif wanted.timestamp == LATEST:
            answer.offset = channel.visible
        elif wanted.timestamp in (EARLIEST, EARLIEST_LOCAL):
            answer.offset = channel.oldest
        elif wanted.timestamp == MAX_TIMESTAMP:
            # Looked for in the newest batch: to have it of all, all would have to be read.
            if channel.oldest < channel.visible:
                self._search(channel, channel.newest, None, answer)
        elif wanted.timestamp != TIERED:
            self._search(channel, channel.oldest, wanted.timestamp, answer)
        return answer

    def _search(self, channel: Channel, offset: int, time_ms: int | None, answer: ListOffsetsPartitionResponse) -> None:
        """Reads on until something is at least as young as asked for; None asks for the youngest of what is there."""
        self._waits += 1
        pump = self._ask.session.realm.core.pump
        pump.fetch(channel, offset, SEARCH_BYTES, partial(self._found, channel, time_ms, answer))

    def _found(
        self,
        channel: Channel,
        time_ms: int | None,
        answer: ListOffsetsPartitionResponse,
        entries: Sequence[Entry],
        following: int,
    ) -> None:
        for entry in entries:
            found = newest(entry) if time_ms is None else first_since(entry, time_ms)
            if found is not None:
                answer.offset, answer.timestamp = found
                break
        else:
            if entries and end_of(entries[-1]) < channel.visible and not self._ask.session.closing:
                self._search(channel, following, time_ms, answer)
        self._settled()


# -- producers -------------------------------------------------------------------------------------


def init_producer_id(ask: Ask) -> None:
    """A producer id nobody has had. Transactions are not built, and said so in a way no client waits on."""
    request = ask.request
    assert isinstance(request, InitProducerIdRequest)
    if request.transactional_id is not None:
        ask.answer(InitProducerIdResponse(error_code=ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED))
        return
    ask.answer(InitProducerIdResponse(producer_id=ask.session.realm.broker.producers.fresh_id(), producer_epoch=0))

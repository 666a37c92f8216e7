"""The requests about the cluster, which is one node, about its topics page by page, and about leaders of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dragoman.adapters.kafka.admin_access import cluster_operations, may_see, topic_operations
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.names import listed
from dragoman.adapters.kafka.realm import LEADER_EPOCH, NODE_ID
from dragoman.adapters.kafka.shapes_admin import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
    DescribeTopicPartitionsCursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)
from dragoman.adapters.kafka.shapes_data import (
    OffsetForLeaderEpochEpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask, KafkaSession

BROKERS: Final = 1
CONTROLLERS: Final = 2
"""What DescribeCluster can be asked for."""

PAGE_MAX: Final = 2_000
"""Partitions in one answer, as in Kafka."""

UNKNOWN_EPOCH: Final = -1
UNKNOWN_OFFSET: Final = -1


def describe_cluster(ask: Ask) -> None:
    """Who the cluster is: we are."""
    request = ask.request
    assert isinstance(request, DescribeClusterRequest)
    session = ask.session
    response = DescribeClusterResponse(
        endpoint_type=request.endpoint_type, cluster_id=session.realm.cluster_id, controller_id=NODE_ID
    )
    if request.endpoint_type == BROKERS:
        host, port = session.address
        response.brokers.append(DescribeClusterBroker(broker_id=NODE_ID, host=host, port=port))
        if request.include_cluster_authorized_operations:
            response.cluster_authorized_operations = cluster_operations()
    else:
        controllers = request.endpoint_type == CONTROLLERS
        response.error_code = ErrorCode.MISMATCHED_ENDPOINT_TYPE if controllers else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        response.error_message = "this is a broker; controllers have no address of their own here"
    ask.answer(response)


# -- topics, page by page --------------------------------------------------------------------------


def describe_topic_partitions(ask: Ask) -> None:
    """The partitions of topics, by name; of all topics, if none is named. A cursor says where the next page begins."""
    request = ask.request
    assert isinstance(request, DescribeTopicPartitionsRequest)
    session = ask.session
    cursor = request.cursor
    if cursor is not None and cursor.partition_index < 0:
        ask.error(ErrorCode.INVALID_REQUEST)
        return
    wanted = sorted({topic.name for topic in request.topics}) or _everything(session)
    first = "" if cursor is None else cursor.topic_name
    room = min(max(request.response_partition_limit, 1), PAGE_MAX)
    response = DescribeTopicPartitionsResponse()
    for name in wanted:
        if name < first:
            continue
        if not room:
            response.next_cursor = DescribeTopicPartitionsCursor(topic_name=name, partition_index=0)
            break
        begin = cursor.partition_index if cursor is not None and name == first else 0
        topic, end = _page(session, name, begin, room)
        response.topics.append(topic)
        room -= len(topic.partitions)
        if end:
            response.next_cursor = DescribeTopicPartitionsCursor(topic_name=name, partition_index=end)
            break
    ask.answer(response)


def _everything(session: KafkaSession) -> list[str]:
    topics = session.realm.topics.all()
    return sorted(spelt for topic in topics if (spelt := listed(topic.name)) and may_see(session, topic.name))


def _page(session: KafkaSession, asked: str, begin: int, room: int) -> tuple[DescribeTopicPartitionsResponseTopic, int]:
    """A topic with as many of its partitions as there is room for; and where to go on, 0 if that was all."""
    realm = session.realm
    answer = DescribeTopicPartitionsResponseTopic(name=asked)
    name = realm.names.channel(asked)
    if isinstance(name, Refusal):
        answer.error_code = ErrorCode.INVALID_TOPIC_EXCEPTION
        return answer, 0
    if not may_see(session, name):
        answer.error_code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
        return answer, 0
    channel = realm.broker.channels.find(name)
    if channel is None:
        answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return answer, 0
    answer.topic_id = realm.names.id_of(asked, channel.number)
    answer.topic_authorized_operations = topic_operations(session, channel)
    count = len(channel.partitions) or 1
    end = min(count, begin + room)
    answer.partitions = [
        DescribeTopicPartitionsResponsePartition(
            partition_index=index,
            leader_id=NODE_ID,
            leader_epoch=LEADER_EPOCH,
            replica_nodes=[NODE_ID],
            isr_nodes=[NODE_ID],
        )
        for index in range(begin, end)
    ]
    return answer, end if end < count else 0


# -- leaders ---------------------------------------------------------------------------------------


def offset_for_leader_epoch(ask: Ask) -> None:
    """Up to where a leader of the past has written. There has been but one, and nothing it wrote was taken back."""
    request = ask.request
    assert isinstance(request, OffsetForLeaderEpochRequest)
    response = OffsetForLeaderEpochResponse()
    for topic in request.topics:
        rows = [_epoch(ask.session, topic.topic, wanted) for wanted in topic.partitions]
        response.topics.append(OffsetForLeaderTopicResult(topic=topic.topic, partitions=rows))
    ask.answer(response)


def _epoch(session: KafkaSession, topic: str, wanted: OffsetForLeaderPartition) -> OffsetForLeaderEpochEpochEndOffset:
    row = OffsetForLeaderEpochEpochEndOffset(
        partition=wanted.partition, leader_epoch=UNKNOWN_EPOCH, end_offset=UNKNOWN_OFFSET
    )
    channel = session.realm.names.partition(topic, wanted.partition)
    if channel is None:
        row.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    elif not session.realm.broker.may_read(session, channel.name):
        row.error_code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
    elif wanted.current_leader_epoch > LEADER_EPOCH:
        row.error_code = ErrorCode.UNKNOWN_LEADER_EPOCH
    elif wanted.leader_epoch == LEADER_EPOCH:
        row.leader_epoch, row.end_offset = LEADER_EPOCH, channel.visible
    return row

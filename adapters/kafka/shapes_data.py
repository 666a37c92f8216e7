"""Requests and responses about records: produce, fetch, offsets, and what clients ask first.

A class is its own schema: each field says its type on the wire and the versions that have it. Names are Kafka's.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from dragoman.adapters.kafka.schema import (
    BOOL,
    BYTES,
    INT8,
    INT16,
    INT32,
    INT64,
    RECORDS,
    STRING,
    UUID,
    Records,
    f,
    many,
)


@dataclass(slots=True)
class ApiVersionsRequest:
    """API 18, the request."""

    client_software_name: str = f(STRING, since=3)
    client_software_version: str = f(STRING, since=3)


@dataclass(slots=True)
class ApiVersion:
    """Part of an ApiVersionsResponse."""

    api_key: int = f(INT16)
    min_version: int = f(INT16)
    max_version: int = f(INT16)


@dataclass(slots=True)
class SupportedFeatureKey:
    """Part of an ApiVersionsResponse."""

    name: str = f(STRING, since=3)
    min_version: int = f(INT16, since=3)
    max_version: int = f(INT16, since=3)


@dataclass(slots=True)
class FinalizedFeatureKey:
    """Part of an ApiVersionsResponse."""

    name: str = f(STRING, since=3)
    max_version_level: int = f(INT16, since=3)
    min_version_level: int = f(INT16, since=3)


@dataclass(slots=True)
class ApiVersionsResponse:
    """API 18, the response."""

    error_code: int = f(INT16)
    api_keys: list[ApiVersion] = many(ApiVersion)
    throttle_time_ms: int = f(INT32, since=1)
    supported_features: list[SupportedFeatureKey] = many(SupportedFeatureKey, since=3, tag=0)
    finalized_features_epoch: int = f(INT64, since=3, tag=1, default=-1)
    finalized_features: list[FinalizedFeatureKey] = many(FinalizedFeatureKey, since=3, tag=2)
    zk_migration_ready: bool = f(BOOL, since=3, tag=3)


@dataclass(slots=True)
class MetadataRequestTopic:
    """Part of a MetadataRequest."""

    topic_id: uuid.UUID = f(UUID, since=10)
    name: str | None = f(STRING, null=10)


@dataclass(slots=True)
class MetadataRequest:
    """API 3, the request."""

    topics: list[MetadataRequestTopic] | None = many(MetadataRequestTopic, null=1)
    allow_auto_topic_creation: bool = f(BOOL, since=4, default=True)
    include_cluster_authorized_operations: bool = f(BOOL, since=8, until=10)
    include_topic_authorized_operations: bool = f(BOOL, since=8)


@dataclass(slots=True)
class MetadataResponseBroker:
    """Part of a MetadataResponse."""

    node_id: int = f(INT32)
    host: str = f(STRING)
    port: int = f(INT32)
    rack: str | None = f(STRING, since=1, null=1, default=None)


@dataclass(slots=True)
class MetadataResponsePartition:
    """Part of a MetadataResponse."""

    error_code: int = f(INT16)
    partition_index: int = f(INT32)
    leader_id: int = f(INT32)
    leader_epoch: int = f(INT32, since=7, default=-1)
    replica_nodes: list[int] = many(INT32)
    isr_nodes: list[int] = many(INT32)
    offline_replicas: list[int] = many(INT32, since=5)


@dataclass(slots=True)
class MetadataResponseTopic:
    """Part of a MetadataResponse."""

    error_code: int = f(INT16)
    name: str | None = f(STRING, null=12)
    topic_id: uuid.UUID = f(UUID, since=10)
    is_internal: bool = f(BOOL, since=1)
    partitions: list[MetadataResponsePartition] = many(MetadataResponsePartition)
    topic_authorized_operations: int = f(INT32, since=8, default=-2147483648)


@dataclass(slots=True)
class MetadataResponse:
    """API 3, the response."""

    throttle_time_ms: int = f(INT32, since=3)
    brokers: list[MetadataResponseBroker] = many(MetadataResponseBroker)
    cluster_id: str | None = f(STRING, since=2, null=2, default=None)
    controller_id: int = f(INT32, since=1, default=-1)
    topics: list[MetadataResponseTopic] = many(MetadataResponseTopic)
    cluster_authorized_operations: int = f(INT32, since=8, until=10, default=-2147483648)
    error_code: int = f(INT16, since=13)


@dataclass(slots=True)
class PartitionProduceData:
    """Part of a ProduceRequest."""

    index: int = f(INT32)
    records: Records | None = f(RECORDS, null=0)


@dataclass(slots=True)
class TopicProduceData:
    """Part of a ProduceRequest."""

    name: str = f(STRING, until=12)
    topic_id: uuid.UUID = f(UUID, since=13)
    partition_data: list[PartitionProduceData] = many(PartitionProduceData)


@dataclass(slots=True)
class ProduceRequest:
    """API 0, the request."""

    transactional_id: str | None = f(STRING, since=3, null=3, default=None)
    acks: int = f(INT16)
    timeout_ms: int = f(INT32)
    topic_data: list[TopicProduceData] = many(TopicProduceData)


@dataclass(slots=True)
class BatchIndexAndErrorMessage:
    """Part of a ProduceResponse."""

    batch_index: int = f(INT32, since=8)
    batch_index_error_message: str | None = f(STRING, since=8, null=8, default=None)


@dataclass(slots=True)
class ProduceLeaderIdAndEpoch:
    """Part of a ProduceResponse."""

    leader_id: int = f(INT32, since=10, default=-1)
    leader_epoch: int = f(INT32, since=10, default=-1)


@dataclass(slots=True)
class PartitionProduceResponse:
    """Part of a ProduceResponse."""

    index: int = f(INT32)
    error_code: int = f(INT16)
    base_offset: int = f(INT64, default=-1)
    log_append_time_ms: int = f(INT64, since=2, default=-1)
    log_start_offset: int = f(INT64, since=5, default=-1)
    record_errors: list[BatchIndexAndErrorMessage] = many(BatchIndexAndErrorMessage, since=8)
    error_message: str | None = f(STRING, since=8, null=8, default=None)
    current_leader: ProduceLeaderIdAndEpoch | None = f(ProduceLeaderIdAndEpoch, since=10, tag=0, default=None)


@dataclass(slots=True)
class TopicProduceResponse:
    """Part of a ProduceResponse."""

    name: str = f(STRING, until=12)
    topic_id: uuid.UUID = f(UUID, since=13)
    partition_responses: list[PartitionProduceResponse] = many(PartitionProduceResponse)


@dataclass(slots=True)
class ProduceNodeEndpoint:
    """Part of a ProduceResponse."""

    node_id: int = f(INT32, since=10)
    host: str = f(STRING, since=10)
    port: int = f(INT32, since=10)
    rack: str | None = f(STRING, since=10, null=10, default=None)


@dataclass(slots=True)
class ProduceResponse:
    """API 0, the response."""

    responses: list[TopicProduceResponse] = many(TopicProduceResponse)
    throttle_time_ms: int = f(INT32, since=1)
    node_endpoints: list[ProduceNodeEndpoint] = many(ProduceNodeEndpoint, since=10, tag=0)


@dataclass(slots=True)
class ReplicaState:
    """Part of a FetchRequest."""

    replica_id: int = f(INT32, since=15, default=-1)
    replica_epoch: int = f(INT64, since=15, default=-1)


@dataclass(slots=True)
class FetchPartition:
    """Part of a FetchRequest."""

    partition: int = f(INT32)
    current_leader_epoch: int = f(INT32, since=9, default=-1)
    fetch_offset: int = f(INT64)
    last_fetched_epoch: int = f(INT32, since=12, default=-1)
    log_start_offset: int = f(INT64, since=5, default=-1)
    partition_max_bytes: int = f(INT32)
    replica_directory_id: uuid.UUID = f(UUID, since=17, tag=0)
    high_watermark: int = f(INT64, since=18, tag=1, default=9223372036854775807)


@dataclass(slots=True)
class FetchTopic:
    """Part of a FetchRequest."""

    topic: str = f(STRING, until=12)
    topic_id: uuid.UUID = f(UUID, since=13)
    partitions: list[FetchPartition] = many(FetchPartition)


@dataclass(slots=True)
class ForgottenTopic:
    """Part of a FetchRequest."""

    topic: str = f(STRING, since=7, until=12)
    topic_id: uuid.UUID = f(UUID, since=13)
    partitions: list[int] = many(INT32, since=7)


@dataclass(slots=True)
class FetchRequest:
    """API 1, the request."""

    cluster_id: str | None = f(STRING, since=12, null=12, tag=0, default=None)
    replica_id: int = f(INT32, until=14, default=-1)
    replica_state: ReplicaState = f(ReplicaState, since=15, tag=1)
    max_wait_ms: int = f(INT32)
    min_bytes: int = f(INT32)
    max_bytes: int = f(INT32, default=2147483647)
    isolation_level: int = f(INT8)
    session_id: int = f(INT32, since=7)
    session_epoch: int = f(INT32, since=7, default=-1)
    topics: list[FetchTopic] = many(FetchTopic)
    forgotten_topics_data: list[ForgottenTopic] = many(ForgottenTopic, since=7)
    rack_id: str = f(STRING, since=11)


@dataclass(slots=True)
class FetchEpochEndOffset:
    """Part of a FetchResponse."""

    epoch: int = f(INT32, since=12, default=-1)
    end_offset: int = f(INT64, since=12, default=-1)


@dataclass(slots=True)
class FetchLeaderIdAndEpoch:
    """Part of a FetchResponse."""

    leader_id: int = f(INT32, since=12, default=-1)
    leader_epoch: int = f(INT32, since=12, default=-1)


@dataclass(slots=True)
class FetchSnapshotId:
    """Part of a FetchResponse."""

    end_offset: int = f(INT64, default=-1)
    epoch: int = f(INT32, default=-1)


@dataclass(slots=True)
class AbortedTransaction:
    """Part of a FetchResponse."""

    producer_id: int = f(INT64)
    first_offset: int = f(INT64)


@dataclass(slots=True)
class FetchPartitionData:
    """Part of a FetchResponse."""

    partition_index: int = f(INT32)
    error_code: int = f(INT16)
    high_watermark: int = f(INT64, default=-1)
    last_stable_offset: int = f(INT64, default=-1)
    log_start_offset: int = f(INT64, since=5, default=-1)
    diverging_epoch: FetchEpochEndOffset | None = f(FetchEpochEndOffset, since=12, tag=0, default=None)
    current_leader: FetchLeaderIdAndEpoch | None = f(FetchLeaderIdAndEpoch, since=12, tag=1, default=None)
    snapshot_id: FetchSnapshotId | None = f(FetchSnapshotId, since=12, tag=2, default=None)
    aborted_transactions: list[AbortedTransaction] = many(AbortedTransaction, null=4)
    preferred_read_replica: int = f(INT32, since=11, default=-1)
    records: Records | None = f(RECORDS, null=0)


@dataclass(slots=True)
class FetchableTopicResponse:
    """Part of a FetchResponse."""

    topic: str = f(STRING, until=12)
    topic_id: uuid.UUID = f(UUID, since=13)
    partitions: list[FetchPartitionData] = many(FetchPartitionData)


@dataclass(slots=True)
class FetchNodeEndpoint:
    """Part of a FetchResponse."""

    node_id: int = f(INT32, since=16)
    host: str = f(STRING, since=16)
    port: int = f(INT32, since=16)
    rack: str | None = f(STRING, since=16, null=16, default=None)


@dataclass(slots=True)
class FetchResponse:
    """API 1, the response."""

    throttle_time_ms: int = f(INT32)
    error_code: int = f(INT16, since=7)
    session_id: int = f(INT32, since=7)
    responses: list[FetchableTopicResponse] = many(FetchableTopicResponse)
    node_endpoints: list[FetchNodeEndpoint] = many(FetchNodeEndpoint, since=16, tag=0)


@dataclass(slots=True)
class ListOffsetsPartition:
    """Part of a ListOffsetsRequest."""

    partition_index: int = f(INT32)
    current_leader_epoch: int = f(INT32, since=4, default=-1)
    timestamp: int = f(INT64)


@dataclass(slots=True)
class ListOffsetsTopic:
    """Part of a ListOffsetsRequest."""

    name: str = f(STRING)
    partitions: list[ListOffsetsPartition] = many(ListOffsetsPartition)


@dataclass(slots=True)
class ListOffsetsRequest:
    """API 2, the request."""

    replica_id: int = f(INT32)
    isolation_level: int = f(INT8, since=2)
    topics: list[ListOffsetsTopic] = many(ListOffsetsTopic)
    timeout_ms: int = f(INT32, since=10)


@dataclass(slots=True)
class ListOffsetsPartitionResponse:
    """Part of a ListOffsetsResponse."""

    partition_index: int = f(INT32)
    error_code: int = f(INT16)
    timestamp: int = f(INT64, default=-1)
    offset: int = f(INT64, default=-1)
    leader_epoch: int = f(INT32, since=4, default=-1)


@dataclass(slots=True)
class ListOffsetsTopicResponse:
    """Part of a ListOffsetsResponse."""

    name: str = f(STRING)
    partitions: list[ListOffsetsPartitionResponse] = many(ListOffsetsPartitionResponse)


@dataclass(slots=True)
class ListOffsetsResponse:
    """API 2, the response."""

    throttle_time_ms: int = f(INT32, since=2)
    topics: list[ListOffsetsTopicResponse] = many(ListOffsetsTopicResponse)


@dataclass(slots=True)
class InitProducerIdRequest:
    """API 22, the request."""

    transactional_id: str | None = f(STRING, null=0)
    transaction_timeout_ms: int = f(INT32)
    producer_id: int = f(INT64, since=3, default=-1)
    producer_epoch: int = f(INT16, since=3, default=-1)


@dataclass(slots=True)
class InitProducerIdResponse:
    """API 22, the response."""

    throttle_time_ms: int = f(INT32)
    error_code: int = f(INT16)
    producer_id: int = f(INT64, default=-1)
    producer_epoch: int = f(INT16)


@dataclass(slots=True)
class OffsetForLeaderPartition:
    """Part of an OffsetForLeaderEpochRequest."""

    partition: int = f(INT32)
    current_leader_epoch: int = f(INT32, default=-1)
    leader_epoch: int = f(INT32)


@dataclass(slots=True)
class OffsetForLeaderTopic:
    """Part of an OffsetForLeaderEpochRequest."""

    topic: str = f(STRING)
    partitions: list[OffsetForLeaderPartition] = many(OffsetForLeaderPartition)


@dataclass(slots=True)
class OffsetForLeaderEpochRequest:
    """API 23, the request."""

    replica_id: int = f(INT32, since=3, default=-2)
    topics: list[OffsetForLeaderTopic] = many(OffsetForLeaderTopic)


@dataclass(slots=True)
class OffsetForLeaderEpochEpochEndOffset:
    """Part of an OffsetForLeaderEpochResponse."""

    error_code: int = f(INT16)
    partition: int = f(INT32)
    leader_epoch: int = f(INT32, default=-1)
    end_offset: int = f(INT64, default=-1)


@dataclass(slots=True)
class OffsetForLeaderTopicResult:
    """Part of an OffsetForLeaderEpochResponse."""

    topic: str = f(STRING)
    partitions: list[OffsetForLeaderEpochEpochEndOffset] = many(OffsetForLeaderEpochEpochEndOffset)


@dataclass(slots=True)
class OffsetForLeaderEpochResponse:
    """API 23, the response."""

    throttle_time_ms: int = f(INT32)
    topics: list[OffsetForLeaderTopicResult] = many(OffsetForLeaderTopicResult)


@dataclass(slots=True)
class SaslHandshakeRequest:
    """API 17, the request."""

    mechanism: str = f(STRING)


@dataclass(slots=True)
class SaslHandshakeResponse:
    """API 17, the response."""

    error_code: int = f(INT16)
    mechanisms: list[str] = many(STRING)


@dataclass(slots=True)
class SaslAuthenticateRequest:
    """API 36, the request."""

    auth_bytes: bytes = f(BYTES)


@dataclass(slots=True)
class SaslAuthenticateResponse:
    """API 36, the response."""

    error_code: int = f(INT16)
    error_message: str | None = f(STRING, null=0, default=None)
    auth_bytes: bytes = f(BYTES)
    session_lifetime_ms: int = f(INT64, since=1)

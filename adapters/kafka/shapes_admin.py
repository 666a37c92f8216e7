"""Requests and responses of administration.

A class is its own schema: each field says its type on the wire and the versions that have it. Names are Kafka's.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from dragoman.adapters.kafka.schema import BOOL, INT8, INT16, INT32, INT64, STRING, UUID, f, many


@dataclass(slots=True)
class CreatableReplicaAssignment:
    """Part of a CreateTopicsRequest."""

    partition_index: int = f(INT32)
    broker_ids: list[int] = many(INT32)


@dataclass(slots=True)
class CreatableTopicConfig:
    """Part of a CreateTopicsRequest."""

    name: str = f(STRING)
    value: str | None = f(STRING, null=0)


@dataclass(slots=True)
class CreatableTopic:
    """Part of a CreateTopicsRequest."""

    name: str = f(STRING)
    num_partitions: int = f(INT32)
    replication_factor: int = f(INT16)
    assignments: list[CreatableReplicaAssignment] = many(CreatableReplicaAssignment)
    configs: list[CreatableTopicConfig] = many(CreatableTopicConfig)


@dataclass(slots=True)
class CreateTopicsRequest:
    """API 19, the request."""

    topics: list[CreatableTopic] = many(CreatableTopic)
    timeout_ms: int = f(INT32, default=60000)
    validate_only: bool = f(BOOL)


@dataclass(slots=True)
class CreatableTopicConfigs:
    """Part of a CreateTopicsResponse."""

    name: str = f(STRING, since=5)
    value: str | None = f(STRING, since=5, null=5, default=None)
    read_only: bool = f(BOOL, since=5)
    config_source: int = f(INT8, since=5, default=-1)
    is_sensitive: bool = f(BOOL, since=5)


@dataclass(slots=True)
class CreatableTopicResult:
    """Part of a CreateTopicsResponse."""

    name: str = f(STRING)
    topic_id: uuid.UUID = f(UUID, since=7)
    error_code: int = f(INT16)
    error_message: str | None = f(STRING, null=0, default=None)
    topic_config_error_code: int = f(INT16, since=5, tag=0)
    num_partitions: int = f(INT32, since=5, default=-1)
    replication_factor: int = f(INT16, since=5, default=-1)
    configs: list[CreatableTopicConfigs] = many(CreatableTopicConfigs, since=5, null=5)


@dataclass(slots=True)
class CreateTopicsResponse:
    """API 19, the response."""

    throttle_time_ms: int = f(INT32)
    topics: list[CreatableTopicResult] = many(CreatableTopicResult)


@dataclass(slots=True)
class DeleteTopicState:
    """Part of a DeleteTopicsRequest."""

    name: str | None = f(STRING, since=6, null=6, default=None)
    topic_id: uuid.UUID = f(UUID, since=6)


@dataclass(slots=True)
class DeleteTopicsRequest:
    """API 20, the request."""

    topics: list[DeleteTopicState] = many(DeleteTopicState, since=6)
    topic_names: list[str] = many(STRING, until=5)
    timeout_ms: int = f(INT32)


@dataclass(slots=True)
class DeletableTopicResult:
    """Part of a DeleteTopicsResponse."""

    name: str | None = f(STRING, null=6, default=None)
    topic_id: uuid.UUID = f(UUID, since=6)
    error_code: int = f(INT16)
    error_message: str | None = f(STRING, since=5, null=5, default=None)


@dataclass(slots=True)
class DeleteTopicsResponse:
    """API 20, the response."""

    throttle_time_ms: int = f(INT32)
    responses: list[DeletableTopicResult] = many(DeletableTopicResult)


@dataclass(slots=True)
class CreatePartitionsAssignment:
    """Part of a CreatePartitionsRequest."""

    broker_ids: list[int] = many(INT32)


@dataclass(slots=True)
class CreatePartitionsTopic:
    """Part of a CreatePartitionsRequest."""

    name: str = f(STRING)
    count: int = f(INT32)
    assignments: list[CreatePartitionsAssignment] | None = many(CreatePartitionsAssignment, null=0)


@dataclass(slots=True)
class CreatePartitionsRequest:
    """API 37, the request."""

    topics: list[CreatePartitionsTopic] = many(CreatePartitionsTopic)
    timeout_ms: int = f(INT32)
    validate_only: bool = f(BOOL)


@dataclass(slots=True)
class CreatePartitionsTopicResult:
    """Part of a CreatePartitionsResponse."""

    name: str = f(STRING)
    error_code: int = f(INT16)
    error_message: str | None = f(STRING, null=0, default=None)


@dataclass(slots=True)
class CreatePartitionsResponse:
    """API 37, the response."""

    throttle_time_ms: int = f(INT32)
    results: list[CreatePartitionsTopicResult] = many(CreatePartitionsTopicResult)


@dataclass(slots=True)
class DeleteRecordsPartition:
    """Part of a DeleteRecordsRequest."""

    partition_index: int = f(INT32)
    offset: int = f(INT64)


@dataclass(slots=True)
class DeleteRecordsTopic:
    """Part of a DeleteRecordsRequest."""

    name: str = f(STRING)
    partitions: list[DeleteRecordsPartition] = many(DeleteRecordsPartition)


@dataclass(slots=True)
class DeleteRecordsRequest:
    """API 21, the request."""

    topics: list[DeleteRecordsTopic] = many(DeleteRecordsTopic)
    timeout_ms: int = f(INT32)


@dataclass(slots=True)
class DeleteRecordsPartitionResult:
    """Part of a DeleteRecordsResponse."""

    partition_index: int = f(INT32)
    low_watermark: int = f(INT64)
    error_code: int = f(INT16)


@dataclass(slots=True)
class DeleteRecordsTopicResult:
    """Part of a DeleteRecordsResponse."""

    name: str = f(STRING)
    partitions: list[DeleteRecordsPartitionResult] = many(DeleteRecordsPartitionResult)


@dataclass(slots=True)
class DeleteRecordsResponse:
    """API 21, the response."""

    throttle_time_ms: int = f(INT32)
    topics: list[DeleteRecordsTopicResult] = many(DeleteRecordsTopicResult)


@dataclass(slots=True)
class DescribeConfigsResource:
    """Part of a DescribeConfigsRequest."""

    resource_type: int = f(INT8)
    resource_name: str = f(STRING)
    configuration_keys: list[str] | None = many(STRING, null=0)


@dataclass(slots=True)
class DescribeConfigsRequest:
    """API 32, the request."""

    resources: list[DescribeConfigsResource] = many(DescribeConfigsResource)
    include_synonyms: bool = f(BOOL)
    include_documentation: bool = f(BOOL, since=3)


@dataclass(slots=True)
class DescribeConfigsSynonym:
    """Part of a DescribeConfigsResponse."""

    name: str = f(STRING)
    value: str | None = f(STRING, null=0)
    source: int = f(INT8)


@dataclass(slots=True)
class DescribeConfigsResourceResult:
    """Part of a DescribeConfigsResponse."""

    name: str = f(STRING)
    value: str | None = f(STRING, null=0)
    read_only: bool = f(BOOL)
    config_source: int = f(INT8, default=-1)
    is_sensitive: bool = f(BOOL)
    synonyms: list[DescribeConfigsSynonym] = many(DescribeConfigsSynonym)
    config_type: int = f(INT8, since=3)
    documentation: str | None = f(STRING, since=3, null=0, default=None)


@dataclass(slots=True)
class DescribeConfigsResult:
    """Part of a DescribeConfigsResponse."""

    error_code: int = f(INT16)
    error_message: str | None = f(STRING, null=0, default=None)
    resource_type: int = f(INT8)
    resource_name: str = f(STRING)
    configs: list[DescribeConfigsResourceResult] = many(DescribeConfigsResourceResult)


@dataclass(slots=True)
class DescribeConfigsResponse:
    """API 32, the response."""

    throttle_time_ms: int = f(INT32)
    results: list[DescribeConfigsResult] = many(DescribeConfigsResult)


@dataclass(slots=True)
class AlterConfigsAlterableConfig:
    """Part of an AlterConfigsRequest."""

    name: str = f(STRING)
    value: str | None = f(STRING, null=0)


@dataclass(slots=True)
class AlterConfigsResource:
    """Part of an AlterConfigsRequest."""

    resource_type: int = f(INT8)
    resource_name: str = f(STRING)
    configs: list[AlterConfigsAlterableConfig] = many(AlterConfigsAlterableConfig)


@dataclass(slots=True)
class AlterConfigsRequest:
    """API 33, the request."""

    resources: list[AlterConfigsResource] = many(AlterConfigsResource)
    validate_only: bool = f(BOOL)


@dataclass(slots=True)
class AlterConfigsResourceResponse:
    """Part of an AlterConfigsResponse."""

    error_code: int = f(INT16)
    error_message: str | None = f(STRING, null=0, default=None)
    resource_type: int = f(INT8)
    resource_name: str = f(STRING)


@dataclass(slots=True)
class AlterConfigsResponse:
    """API 33, the response."""

    throttle_time_ms: int = f(INT32)
    responses: list[AlterConfigsResourceResponse] = many(AlterConfigsResourceResponse)


@dataclass(slots=True)
class IncrementalAlterConfigsAlterableConfig:
    """Part of an IncrementalAlterConfigsRequest."""

    name: str = f(STRING)
    config_operation: int = f(INT8)
    value: str | None = f(STRING, null=0)


@dataclass(slots=True)
class IncrementalAlterConfigsAlterConfigsResource:
    """Part of an IncrementalAlterConfigsRequest."""

    resource_type: int = f(INT8)
    resource_name: str = f(STRING)
    configs: list[IncrementalAlterConfigsAlterableConfig] = many(IncrementalAlterConfigsAlterableConfig)


@dataclass(slots=True)
class IncrementalAlterConfigsRequest:
    """API 44, the request."""

    resources: list[IncrementalAlterConfigsAlterConfigsResource] = many(IncrementalAlterConfigsAlterConfigsResource)
    validate_only: bool = f(BOOL)


@dataclass(slots=True)
class IncrementalAlterConfigsAlterConfigsResourceResponse:
    """Part of an IncrementalAlterConfigsResponse."""

    error_code: int = f(INT16)
    error_message: str | None = f(STRING, null=0, default=None)
    resource_type: int = f(INT8)
    resource_name: str = f(STRING)


@dataclass(slots=True)
class IncrementalAlterConfigsResponse:
    """API 44, the response."""

    throttle_time_ms: int = f(INT32)
    responses: list[IncrementalAlterConfigsAlterConfigsResourceResponse] = many(
        IncrementalAlterConfigsAlterConfigsResourceResponse
    )


@dataclass(slots=True)
class DescribeClusterRequest:
    """API 60, the request."""

    include_cluster_authorized_operations: bool = f(BOOL)
    endpoint_type: int = f(INT8, since=1, default=1)
    include_fenced_brokers: bool = f(BOOL, since=2)


@dataclass(slots=True)
class DescribeClusterBroker:
    """Part of a DescribeClusterResponse."""

    broker_id: int = f(INT32)
    host: str = f(STRING)
    port: int = f(INT32)
    rack: str | None = f(STRING, null=0, default=None)
    is_fenced: bool = f(BOOL, since=2)


@dataclass(slots=True)
class DescribeClusterResponse:
    """API 60, the response."""

    throttle_time_ms: int = f(INT32)
    error_code: int = f(INT16)
    error_message: str | None = f(STRING, null=0, default=None)
    endpoint_type: int = f(INT8, since=1, default=1)
    cluster_id: str = f(STRING)
    controller_id: int = f(INT32, default=-1)
    brokers: list[DescribeClusterBroker] = many(DescribeClusterBroker)
    cluster_authorized_operations: int = f(INT32, default=-2147483648)


@dataclass(slots=True)
class TopicRequest:
    """Part of a DescribeTopicPartitionsRequest."""

    name: str = f(STRING)


@dataclass(slots=True)
class DescribeTopicPartitionsCursor:
    """Part of a DescribeTopicPartitionsRequest."""

    topic_name: str = f(STRING)
    partition_index: int = f(INT32)


@dataclass(slots=True)
class DescribeTopicPartitionsRequest:
    """API 75, the request."""

    topics: list[TopicRequest] = many(TopicRequest)
    response_partition_limit: int = f(INT32, default=2000)
    cursor: DescribeTopicPartitionsCursor | None = f(DescribeTopicPartitionsCursor, null=0, default=None)


@dataclass(slots=True)
class DescribeTopicPartitionsResponsePartition:
    """Part of a DescribeTopicPartitionsResponse."""

    error_code: int = f(INT16)
    partition_index: int = f(INT32)
    leader_id: int = f(INT32)
    leader_epoch: int = f(INT32, default=-1)
    replica_nodes: list[int] = many(INT32)
    isr_nodes: list[int] = many(INT32)
    eligible_leader_replicas: list[int] = many(INT32, null=0)
    last_known_elr: list[int] = many(INT32, null=0)
    offline_replicas: list[int] = many(INT32)


@dataclass(slots=True)
class DescribeTopicPartitionsResponseTopic:
    """Part of a DescribeTopicPartitionsResponse."""

    error_code: int = f(INT16)
    name: str | None = f(STRING, null=0)
    topic_id: uuid.UUID = f(UUID)
    is_internal: bool = f(BOOL)
    partitions: list[DescribeTopicPartitionsResponsePartition] = many(DescribeTopicPartitionsResponsePartition)
    topic_authorized_operations: int = f(INT32, default=-2147483648)


@dataclass(slots=True)
class DescribeTopicPartitionsResponse:
    """API 75, the response."""

    throttle_time_ms: int = f(INT32)
    topics: list[DescribeTopicPartitionsResponseTopic] = many(DescribeTopicPartitionsResponseTopic)
    next_cursor: DescribeTopicPartitionsCursor | None = f(DescribeTopicPartitionsCursor, null=0, default=None)

"""Requests and responses about consumer groups.

A class is its own schema: each field says its type on the wire and the versions that have it. Names are Kafka's.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from dragoman.adapters.kafka.schema import BOOL, BYTES, INT8, INT16, INT32, INT64, STRING, UUID, f, many


@dataclass(slots=True)
class FindCoordinatorRequest:
    """API 10, the request."""

    key: str = f(STRING, until=3)
    key_type: int = f(INT8, since=1)
    coordinator_keys: list[str] = many(STRING, since=4)


@dataclass(slots=True)
class Coordinator:
    """Part of a FindCoordinatorResponse."""

    key: str = f(STRING, since=4)
    node_id: int = f(INT32, since=4)
    host: str = f(STRING, since=4)
    port: int = f(INT32, since=4)
    error_code: int = f(INT16, since=4)
    error_message: str | None = f(STRING, since=4, null=4, default=None)


@dataclass(slots=True)
class FindCoordinatorResponse:
    """API 10, the response."""

    throttle_time_ms: int = f(INT32, since=1)
    error_code: int = f(INT16, until=3)
    error_message: str | None = f(STRING, since=1, until=3, null=1)
    node_id: int = f(INT32, until=3)
    host: str = f(STRING, until=3)
    port: int = f(INT32, until=3)
    coordinators: list[Coordinator] = many(Coordinator, since=4)


@dataclass(slots=True)
class JoinGroupRequestProtocol:
    """Part of a JoinGroupRequest."""

    name: str = f(STRING)
    metadata: bytes = f(BYTES)


@dataclass(slots=True)
class JoinGroupRequest:
    """API 11, the request."""

    group_id: str = f(STRING)
    session_timeout_ms: int = f(INT32)
    rebalance_timeout_ms: int = f(INT32, since=1, default=-1)
    member_id: str = f(STRING)
    group_instance_id: str | None = f(STRING, since=5, null=5, default=None)
    protocol_type: str = f(STRING)
    protocols: list[JoinGroupRequestProtocol] = many(JoinGroupRequestProtocol)
    reason: str | None = f(STRING, since=8, null=8, default=None)


@dataclass(slots=True)
class JoinGroupResponseMember:
    """Part of a JoinGroupResponse."""

    member_id: str = f(STRING)
    group_instance_id: str | None = f(STRING, since=5, null=5, default=None)
    metadata: bytes = f(BYTES)


@dataclass(slots=True)
class JoinGroupResponse:
    """API 11, the response."""

    throttle_time_ms: int = f(INT32, since=2)
    error_code: int = f(INT16)
    generation_id: int = f(INT32, default=-1)
    protocol_type: str | None = f(STRING, since=7, null=7, default=None)
    protocol_name: str | None = f(STRING, null=7)
    leader: str = f(STRING)
    skip_assignment: bool = f(BOOL, since=9)
    member_id: str = f(STRING)
    members: list[JoinGroupResponseMember] = many(JoinGroupResponseMember)


@dataclass(slots=True)
class SyncGroupRequestAssignment:
    """Part of a SyncGroupRequest."""

    member_id: str = f(STRING)
    assignment: bytes = f(BYTES)


@dataclass(slots=True)
class SyncGroupRequest:
    """API 14, the request."""

    group_id: str = f(STRING)
    generation_id: int = f(INT32)
    member_id: str = f(STRING)
    group_instance_id: str | None = f(STRING, since=3, null=3, default=None)
    protocol_type: str | None = f(STRING, since=5, null=5, default=None)
    protocol_name: str | None = f(STRING, since=5, null=5, default=None)
    assignments: list[SyncGroupRequestAssignment] = many(SyncGroupRequestAssignment)


@dataclass(slots=True)
class SyncGroupResponse:
    """API 14, the response."""

    throttle_time_ms: int = f(INT32, since=1)
    error_code: int = f(INT16)
    protocol_type: str | None = f(STRING, since=5, null=5, default=None)
    protocol_name: str | None = f(STRING, since=5, null=5, default=None)
    assignment: bytes = f(BYTES)


@dataclass(slots=True)
class HeartbeatRequest:
    """API 12, the request."""

    group_id: str = f(STRING)
    generation_id: int = f(INT32)
    member_id: str = f(STRING)
    group_instance_id: str | None = f(STRING, since=3, null=3, default=None)


@dataclass(slots=True)
class HeartbeatResponse:
    """API 12, the response."""

    throttle_time_ms: int = f(INT32, since=1)
    error_code: int = f(INT16)


@dataclass(slots=True)
class MemberIdentity:
    """Part of a LeaveGroupRequest."""

    member_id: str = f(STRING, since=3)
    group_instance_id: str | None = f(STRING, since=3, null=3, default=None)
    reason: str | None = f(STRING, since=5, null=5, default=None)


@dataclass(slots=True)
class LeaveGroupRequest:
    """API 13, the request."""

    group_id: str = f(STRING)
    member_id: str = f(STRING, until=2)
    members: list[MemberIdentity] = many(MemberIdentity, since=3)


@dataclass(slots=True)
class MemberResponse:
    """Part of a LeaveGroupResponse."""

    member_id: str = f(STRING, since=3)
    group_instance_id: str | None = f(STRING, since=3, null=3, default=None)
    error_code: int = f(INT16, since=3)


@dataclass(slots=True)
class LeaveGroupResponse:
    """API 13, the response."""

    throttle_time_ms: int = f(INT32, since=1)
    error_code: int = f(INT16)
    members: list[MemberResponse] = many(MemberResponse, since=3)


@dataclass(slots=True)
class OffsetCommitRequestPartition:
    """Part of an OffsetCommitRequest."""

    partition_index: int = f(INT32)
    committed_offset: int = f(INT64)
    committed_leader_epoch: int = f(INT32, since=6, default=-1)
    committed_metadata: str | None = f(STRING, null=0)


@dataclass(slots=True)
class OffsetCommitRequestTopic:
    """Part of an OffsetCommitRequest."""

    name: str = f(STRING, until=9)
    topic_id: uuid.UUID = f(UUID, since=10)
    partitions: list[OffsetCommitRequestPartition] = many(OffsetCommitRequestPartition)


@dataclass(slots=True)
class OffsetCommitRequest:
    """API 8, the request."""

    group_id: str = f(STRING)
    generation_id_or_member_epoch: int = f(INT32, default=-1)
    member_id: str = f(STRING)
    group_instance_id: str | None = f(STRING, since=7, null=7, default=None)
    retention_time_ms: int = f(INT64, until=4, default=-1)
    topics: list[OffsetCommitRequestTopic] = many(OffsetCommitRequestTopic)


@dataclass(slots=True)
class OffsetCommitResponsePartition:
    """Part of an OffsetCommitResponse."""

    partition_index: int = f(INT32)
    error_code: int = f(INT16)


@dataclass(slots=True)
class OffsetCommitResponseTopic:
    """Part of an OffsetCommitResponse."""

    name: str = f(STRING, until=9)
    topic_id: uuid.UUID = f(UUID, since=10)
    partitions: list[OffsetCommitResponsePartition] = many(OffsetCommitResponsePartition)


@dataclass(slots=True)
class OffsetCommitResponse:
    """API 8, the response."""

    throttle_time_ms: int = f(INT32, since=3)
    topics: list[OffsetCommitResponseTopic] = many(OffsetCommitResponseTopic)


@dataclass(slots=True)
class OffsetFetchRequestTopic:
    """Part of an OffsetFetchRequest."""

    name: str = f(STRING, until=7)
    partition_indexes: list[int] = many(INT32, until=7)


@dataclass(slots=True)
class OffsetFetchRequestTopics:
    """Part of an OffsetFetchRequest."""

    name: str = f(STRING, since=8, until=9)
    topic_id: uuid.UUID = f(UUID, since=10)
    partition_indexes: list[int] = many(INT32, since=8)


@dataclass(slots=True)
class OffsetFetchRequestGroup:
    """Part of an OffsetFetchRequest."""

    group_id: str = f(STRING, since=8)
    member_id: str | None = f(STRING, since=9, null=9, default=None)
    member_epoch: int = f(INT32, since=9, default=-1)
    topics: list[OffsetFetchRequestTopics] | None = many(OffsetFetchRequestTopics, since=8, null=8)


@dataclass(slots=True)
class OffsetFetchRequest:
    """API 9, the request."""

    group_id: str = f(STRING, until=7)
    topics: list[OffsetFetchRequestTopic] | None = many(OffsetFetchRequestTopic, until=7, null=2)
    groups: list[OffsetFetchRequestGroup] = many(OffsetFetchRequestGroup, since=8)
    require_stable: bool = f(BOOL, since=7)


@dataclass(slots=True)
class OffsetFetchResponsePartition:
    """Part of an OffsetFetchResponse."""

    partition_index: int = f(INT32, until=7)
    committed_offset: int = f(INT64, until=7)
    committed_leader_epoch: int = f(INT32, since=5, until=7, default=-1)
    metadata: str | None = f(STRING, until=7, null=0)
    error_code: int = f(INT16, until=7)


@dataclass(slots=True)
class OffsetFetchResponseTopic:
    """Part of an OffsetFetchResponse."""

    name: str = f(STRING, until=7)
    partitions: list[OffsetFetchResponsePartition] = many(OffsetFetchResponsePartition, until=7)


@dataclass(slots=True)
class OffsetFetchResponsePartitions:
    """Part of an OffsetFetchResponse."""

    partition_index: int = f(INT32, since=8)
    committed_offset: int = f(INT64, since=8)
    committed_leader_epoch: int = f(INT32, since=8, default=-1)
    metadata: str | None = f(STRING, since=8, null=8)
    error_code: int = f(INT16, since=8)


@dataclass(slots=True)
class OffsetFetchResponseTopics:
    """Part of an OffsetFetchResponse."""

    name: str = f(STRING, since=8, until=9)
    topic_id: uuid.UUID = f(UUID, since=10)
    partitions: list[OffsetFetchResponsePartitions] = many(OffsetFetchResponsePartitions, since=8)


@dataclass(slots=True)
class OffsetFetchResponseGroup:
    """Part of an OffsetFetchResponse."""

    group_id: str = f(STRING, since=8)
    topics: list[OffsetFetchResponseTopics] = many(OffsetFetchResponseTopics, since=8)
    error_code: int = f(INT16, since=8)


@dataclass(slots=True)
class OffsetFetchResponse:
    """API 9, the response."""

    throttle_time_ms: int = f(INT32, since=3)
    topics: list[OffsetFetchResponseTopic] = many(OffsetFetchResponseTopic, until=7)
    error_code: int = f(INT16, since=2, until=7)
    groups: list[OffsetFetchResponseGroup] = many(OffsetFetchResponseGroup, since=8)


@dataclass(slots=True)
class OffsetDeleteRequestPartition:
    """Part of an OffsetDeleteRequest."""

    partition_index: int = f(INT32)


@dataclass(slots=True)
class OffsetDeleteRequestTopic:
    """Part of an OffsetDeleteRequest."""

    name: str = f(STRING)
    partitions: list[OffsetDeleteRequestPartition] = many(OffsetDeleteRequestPartition)


@dataclass(slots=True)
class OffsetDeleteRequest:
    """API 47, the request."""

    group_id: str = f(STRING)
    topics: list[OffsetDeleteRequestTopic] = many(OffsetDeleteRequestTopic)


@dataclass(slots=True)
class OffsetDeleteResponsePartition:
    """Part of an OffsetDeleteResponse."""

    partition_index: int = f(INT32)
    error_code: int = f(INT16)


@dataclass(slots=True)
class OffsetDeleteResponseTopic:
    """Part of an OffsetDeleteResponse."""

    name: str = f(STRING)
    partitions: list[OffsetDeleteResponsePartition] = many(OffsetDeleteResponsePartition)


@dataclass(slots=True)
class OffsetDeleteResponse:
    """API 47, the response."""

    error_code: int = f(INT16)
    throttle_time_ms: int = f(INT32)
    topics: list[OffsetDeleteResponseTopic] = many(OffsetDeleteResponseTopic)


@dataclass(slots=True)
class ListGroupsRequest:
    """API 16, the request."""

    states_filter: list[str] = many(STRING, since=4)
    types_filter: list[str] = many(STRING, since=5)


@dataclass(slots=True)
class ListedGroup:
    """Part of a ListGroupsResponse."""

    group_id: str = f(STRING)
    protocol_type: str = f(STRING)
    group_state: str = f(STRING, since=4)
    group_type: str = f(STRING, since=5)


@dataclass(slots=True)
class ListGroupsResponse:
    """API 16, the response."""

    throttle_time_ms: int = f(INT32, since=1)
    error_code: int = f(INT16)
    groups: list[ListedGroup] = many(ListedGroup)


@dataclass(slots=True)
class DescribeGroupsRequest:
    """API 15, the request."""

    groups: list[str] = many(STRING)
    include_authorized_operations: bool = f(BOOL, since=3)


@dataclass(slots=True)
class DescribedGroupMember:
    """Part of a DescribeGroupsResponse."""

    member_id: str = f(STRING)
    group_instance_id: str | None = f(STRING, since=4, null=4, default=None)
    client_id: str = f(STRING)
    client_host: str = f(STRING)
    member_metadata: bytes = f(BYTES)
    member_assignment: bytes = f(BYTES)


@dataclass(slots=True)
class DescribedGroup:
    """Part of a DescribeGroupsResponse."""

    error_code: int = f(INT16)
    error_message: str | None = f(STRING, since=6, null=6, default=None)
    group_id: str = f(STRING)
    group_state: str = f(STRING)
    protocol_type: str = f(STRING)
    protocol_data: str = f(STRING)
    members: list[DescribedGroupMember] = many(DescribedGroupMember)
    authorized_operations: int = f(INT32, since=3, default=-2147483648)


@dataclass(slots=True)
class DescribeGroupsResponse:
    """API 15, the response."""

    throttle_time_ms: int = f(INT32, since=1)
    groups: list[DescribedGroup] = many(DescribedGroup)


@dataclass(slots=True)
class DeleteGroupsRequest:
    """API 42, the request."""

    groups_names: list[str] = many(STRING)


@dataclass(slots=True)
class DeletableGroupResult:
    """Part of a DeleteGroupsResponse."""

    group_id: str = f(STRING)
    error_code: int = f(INT16)


@dataclass(slots=True)
class DeleteGroupsResponse:
    """API 42, the response."""

    throttle_time_ms: int = f(INT32)
    results: list[DeletableGroupResult] = many(DeletableGroupResult)

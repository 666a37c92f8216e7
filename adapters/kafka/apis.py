"""Which requests are served, in which versions: Apache Kafka 4.x's own ranges, and nothing that is not finished.

One lie: Produce is advertised from 0 and served from 3. Without it librdkafka before 2.11.1 takes us for a broker
that knows no compressed batches of the present format, and silently stops compressing.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from dragoman.adapters.kafka import shapes_admin as admin
from dragoman.adapters.kafka import shapes_data as data
from dragoman.adapters.kafka import shapes_groups as groups

NEVER: Final = 99


class ApiKey(IntEnum):
    """The number of a request, under Kafka's name."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    SASL_HANDSHAKE = 17
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    SASL_AUTHENTICATE = 36
    CREATE_PARTITIONS = 37
    DELETE_GROUPS = 42
    INCREMENTAL_ALTER_CONFIGS = 44
    OFFSET_DELETE = 47
    DESCRIBE_CLUSTER = 60
    DESCRIBE_TOPIC_PARTITIONS = 75


class Api(NamedTuple):
    """One request: advertised from ``low`` to ``high``, served from ``served``, flexible from ``flexible`` on."""

    key: ApiKey
    low: int
    high: int
    flexible: int
    request: type
    response: type
    served: int = 0


APIS: Final[tuple[Api, ...]] = (
    Api(ApiKey.PRODUCE, 0, 13, 9, data.ProduceRequest, data.ProduceResponse, served=3),
    Api(ApiKey.FETCH, 4, 18, 12, data.FetchRequest, data.FetchResponse),
    Api(ApiKey.LIST_OFFSETS, 1, 10, 6, data.ListOffsetsRequest, data.ListOffsetsResponse),
    Api(ApiKey.METADATA, 0, 13, 9, data.MetadataRequest, data.MetadataResponse),
    Api(ApiKey.OFFSET_COMMIT, 2, 10, 8, groups.OffsetCommitRequest, groups.OffsetCommitResponse),
    Api(ApiKey.OFFSET_FETCH, 1, 10, 6, groups.OffsetFetchRequest, groups.OffsetFetchResponse),
    Api(ApiKey.FIND_COORDINATOR, 0, 6, 3, groups.FindCoordinatorRequest, groups.FindCoordinatorResponse),
    Api(ApiKey.JOIN_GROUP, 0, 9, 6, groups.JoinGroupRequest, groups.JoinGroupResponse),
    Api(ApiKey.HEARTBEAT, 0, 4, 4, groups.HeartbeatRequest, groups.HeartbeatResponse),
    Api(ApiKey.LEAVE_GROUP, 0, 5, 4, groups.LeaveGroupRequest, groups.LeaveGroupResponse),
    Api(ApiKey.SYNC_GROUP, 0, 5, 4, groups.SyncGroupRequest, groups.SyncGroupResponse),
    Api(ApiKey.DESCRIBE_GROUPS, 0, 6, 5, groups.DescribeGroupsRequest, groups.DescribeGroupsResponse),
    Api(ApiKey.LIST_GROUPS, 0, 5, 3, groups.ListGroupsRequest, groups.ListGroupsResponse),
    Api(ApiKey.SASL_HANDSHAKE, 0, 1, NEVER, data.SaslHandshakeRequest, data.SaslHandshakeResponse),
    Api(ApiKey.API_VERSIONS, 0, 4, 3, data.ApiVersionsRequest, data.ApiVersionsResponse),
    Api(ApiKey.CREATE_TOPICS, 2, 7, 5, admin.CreateTopicsRequest, admin.CreateTopicsResponse),
    Api(ApiKey.DELETE_TOPICS, 1, 6, 4, admin.DeleteTopicsRequest, admin.DeleteTopicsResponse),
    Api(ApiKey.DELETE_RECORDS, 0, 2, 2, admin.DeleteRecordsRequest, admin.DeleteRecordsResponse),
    Api(ApiKey.INIT_PRODUCER_ID, 0, 5, 2, data.InitProducerIdRequest, data.InitProducerIdResponse),
    Api(ApiKey.OFFSET_FOR_LEADER_EPOCH, 2, 4, 4, data.OffsetForLeaderEpochRequest, data.OffsetForLeaderEpochResponse),
    Api(ApiKey.DESCRIBE_CONFIGS, 1, 4, 4, admin.DescribeConfigsRequest, admin.DescribeConfigsResponse),
    Api(ApiKey.ALTER_CONFIGS, 0, 2, 2, admin.AlterConfigsRequest, admin.AlterConfigsResponse),
    Api(ApiKey.SASL_AUTHENTICATE, 0, 2, 2, data.SaslAuthenticateRequest, data.SaslAuthenticateResponse),
    Api(ApiKey.CREATE_PARTITIONS, 0, 3, 2, admin.CreatePartitionsRequest, admin.CreatePartitionsResponse),
    Api(ApiKey.DELETE_GROUPS, 0, 2, 2, groups.DeleteGroupsRequest, groups.DeleteGroupsResponse),
    Api(
        ApiKey.INCREMENTAL_ALTER_CONFIGS,
        0,
        1,
        1,
        admin.IncrementalAlterConfigsRequest,
        admin.IncrementalAlterConfigsResponse,
    ),
    Api(ApiKey.OFFSET_DELETE, 0, 0, NEVER, groups.OffsetDeleteRequest, groups.OffsetDeleteResponse),
    Api(ApiKey.DESCRIBE_CLUSTER, 0, 2, 0, admin.DescribeClusterRequest, admin.DescribeClusterResponse),
    Api(
        ApiKey.DESCRIBE_TOPIC_PARTITIONS,
        0,
        0,
        0,
        admin.DescribeTopicPartitionsRequest,
        admin.DescribeTopicPartitionsResponse,
    ),
)

BY_KEY: Final[dict[int, Api]] = {api.key: api for api in APIS}

"""Which function answers which request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dragoman.adapters.kafka import (
    admin_cluster,
    admin_configs,
    admin_topics,
    fetch,
    group_apis,
    metadata,
    offset_apis,
    produce,
    sasl,
)
from dragoman.adapters.kafka.apis import BY_KEY, ApiKey

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask

Handler = Callable[["Ask"], None]

HANDLERS: Final[dict[int, Handler]] = {
    ApiKey.PRODUCE: produce.produce,
    ApiKey.FETCH: fetch.fetch,
    ApiKey.LIST_OFFSETS: metadata.list_offsets,
    ApiKey.METADATA: metadata.metadata,
    ApiKey.OFFSET_COMMIT: offset_apis.offset_commit,
    ApiKey.OFFSET_FETCH: offset_apis.offset_fetch,
    ApiKey.FIND_COORDINATOR: group_apis.find_coordinator,
    ApiKey.JOIN_GROUP: group_apis.join_group,
    ApiKey.HEARTBEAT: group_apis.heartbeat,
    ApiKey.LEAVE_GROUP: group_apis.leave_group,
    ApiKey.SYNC_GROUP: group_apis.sync_group,
    ApiKey.DESCRIBE_GROUPS: group_apis.describe_groups,
    ApiKey.LIST_GROUPS: group_apis.list_groups,
    ApiKey.DELETE_GROUPS: group_apis.delete_groups,
    ApiKey.OFFSET_DELETE: offset_apis.offset_delete,
    ApiKey.SASL_HANDSHAKE: sasl.handshake,
    ApiKey.API_VERSIONS: metadata.api_versions,
    ApiKey.CREATE_TOPICS: admin_topics.create_topics,
    ApiKey.DELETE_TOPICS: admin_topics.delete_topics,
    ApiKey.DELETE_RECORDS: admin_topics.delete_records,
    ApiKey.INIT_PRODUCER_ID: metadata.init_producer_id,
    ApiKey.OFFSET_FOR_LEADER_EPOCH: admin_cluster.offset_for_leader_epoch,
    ApiKey.DESCRIBE_CONFIGS: admin_configs.describe_configs,
    ApiKey.ALTER_CONFIGS: admin_configs.alter_configs,
    ApiKey.SASL_AUTHENTICATE: sasl.authenticate,
    ApiKey.CREATE_PARTITIONS: admin_topics.create_partitions,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: admin_configs.incremental_alter_configs,
    ApiKey.DESCRIBE_CLUSTER: admin_cluster.describe_cluster,
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: admin_cluster.describe_topic_partitions,
}

assert HANDLERS.keys() == BY_KEY.keys(), "what is advertised is answered"

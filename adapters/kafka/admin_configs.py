"""The requests that read and change how topics are configured. What the mesh itself is set to can be read.

A group has nothing to configure: it keeps the timeouts its members bring. So it is described as empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from dragoman.adapters.kafka.admin_access import (
    REPLICAS,
    No,
    answer_when_safe,
    changeable,
    no,
    topic_of,
    written,
)
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group_access import may_use
from dragoman.adapters.kafka.realm import NODE_ID
from dragoman.adapters.kafka.shapes_admin import (
    AlterConfigsRequest,
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
    IncrementalAlterConfigsAlterableConfig,
    IncrementalAlterConfigsAlterConfigsResource,
    IncrementalAlterConfigsAlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from dragoman.adapters.kafka.topic_options import OPTIONS, Option, Type, default_of, fault, limits_in, options_of
from dragoman.routing.names import shown

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask, KafkaSession
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.topics import Topic


class Resource(IntEnum):
    """What has a configuration, as requests say it."""

    TOPIC = 2
    BROKER = 4
    GROUP = 32


class Source(IntEnum):
    """Where a value comes from, as answers say it."""

    TOPIC = 1
    STATIC_BROKER = 4
    DEFAULT = 5


class Operation(IntEnum):
    """What IncrementalAlterConfigs does with one option."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


CLUSTER: Final = ""
"""As the name of a broker: what all brokers are set to together."""


# -- describing ------------------------------------------------------------------------------------


def describe_configs(ask: Ask) -> None:
    """What resources are configured to, with everything that was never said."""
    request = ask.request
    assert isinstance(request, DescribeConfigsRequest)
    results = []
    for asked in request.resources:
        result = DescribeConfigsResult(resource_type=asked.resource_type, resource_name=asked.resource_name)
        found = _configs(ask.session, asked)
        if isinstance(found, No):
            result.error_code, result.error_message = found
        else:
            wanted = set(asked.configuration_keys or ())
            result.configs = [row for row in found if not wanted or row.name in wanted]
        for row in result.configs:
            if not request.include_synonyms:
                row.synonyms = []
            if not request.include_documentation:
                row.documentation = None
        results.append(result)
    ask.answer(DescribeConfigsResponse(results=results))


def _configs(session: KafkaSession, asked: DescribeConfigsResource) -> list[DescribeConfigsResourceResult] | No:
    if asked.resource_type == Resource.TOPIC:
        topic = topic_of(session, asked.resource_name)
        return topic if isinstance(topic, No) else _topic_rows(session, topic)
    if asked.resource_type == Resource.BROKER:
        if asked.resource_name == CLUSTER:
            return []
        return _unknown_broker(asked.resource_name) or list(_broker_rows(session))
    if asked.resource_type == Resource.GROUP:
        refused = may_use(session, asked.resource_name)
        return No(refused, f"the group {shown(asked.resource_name)} is not yours to use") if refused else []
    return _unknown_type(asked.resource_type)


def _unknown_type(resource_type: int) -> No:
    return No(ErrorCode.INVALID_REQUEST, f"resources of type {resource_type} have no configuration here")


def _unknown_broker(name: str) -> No | None:
    if name == str(NODE_ID):
        return None
    return No(ErrorCode.INVALID_REQUEST, f"there is no broker {shown(name)}, only {NODE_ID}")


def _topic_rows(session: KafkaSession, topic: Topic) -> list[DescribeConfigsResourceResult]:
    realm = session.realm
    said = options_of(topic, realm.core)
    return [
        _topic_row(option, said.get(option.name), default_of(option, realm.settings)) for option in OPTIONS.values()
    ]


def _topic_row(option: Option, said: str | None, default: str) -> DescribeConfigsResourceResult:
    synonyms = [DescribeConfigsSynonym(name=option.broker, value=default, source=Source.DEFAULT)]
    if said is not None:
        synonyms.insert(0, DescribeConfigsSynonym(name=option.name, value=said, source=Source.TOPIC))
    return DescribeConfigsResourceResult(
        name=option.name,
        value=default if said is None else said,
        config_source=Source.DEFAULT if said is None else Source.TOPIC,
        synonyms=synonyms,
        config_type=option.type,
        documentation=option.why,
    )


class _Fact(NamedTuple):
    """Something the mesh is set to, as Kafka calls it."""

    name: str
    type: Type
    value: object
    source: Source = Source.STATIC_BROKER


def _broker_rows(session: KafkaSession) -> Iterable[DescribeConfigsResourceResult]:
    for fact in sorted(_facts(session)):
        value = str(fact.value).lower() if isinstance(fact.value, bool) else str(fact.value)
        yield DescribeConfigsResourceResult(
            name=fact.name,
            value=value,
            read_only=True,
            config_source=fact.source,
            synonyms=[DescribeConfigsSynonym(name=fact.name, value=value, source=fact.source)],
            config_type=fact.type,
            documentation="Said in the mesh's configuration file, or always so.",
        )


def _facts(session: KafkaSession) -> list[_Fact]:
    settings = session.realm.settings
    groups = settings.groups
    host, port = session.address
    fixed = [
        _Fact("broker.id", Type.INT, NODE_ID, Source.DEFAULT),
        _Fact("compression.type", Type.STRING, "producer", Source.DEFAULT),
        _Fact("default.replication.factor", Type.INT, REPLICAS, Source.DEFAULT),
        _Fact("delete.topic.enable", Type.BOOLEAN, True, Source.DEFAULT),
        _Fact("log.cleanup.policy", Type.LIST, "delete", Source.DEFAULT),
        _Fact("log.message.timestamp.type", Type.STRING, "CreateTime", Source.DEFAULT),
        _Fact("log.retention.bytes", Type.LONG, -1, Source.DEFAULT),
        _Fact("log.retention.ms", Type.LONG, -1, Source.DEFAULT),
        _Fact("min.insync.replicas", Type.INT, REPLICAS, Source.DEFAULT),
        _Fact("node.id", Type.INT, NODE_ID, Source.DEFAULT),
        _Fact("unclean.leader.election.enable", Type.BOOLEAN, False, Source.DEFAULT),
    ]
    return [
        *fixed,
        _Fact("advertised.listeners", Type.STRING, f"{host}:{port}"),
        _Fact("auto.create.topics.enable", Type.BOOLEAN, settings.auto_create),
        _Fact("fetch.max.bytes", Type.INT, settings.fetch_bytes_max),
        _Fact("group.initial.rebalance.delay.ms", Type.INT, groups.initial_delay_ms),
        _Fact("group.max.session.timeout.ms", Type.INT, groups.session_ms_max),
        _Fact("group.max.size", Type.INT, groups.members_max),
        _Fact("group.min.session.timeout.ms", Type.INT, groups.session_ms_min),
        _Fact("message.max.bytes", Type.INT, settings.batch_bytes_max),
        _Fact("num.partitions", Type.INT, settings.partitions),
        _Fact("offset.metadata.max.bytes", Type.INT, groups.metadata_bytes_max),
        _Fact("offsets.retention.minutes", Type.INT, groups.offsets_retention_ms // 60_000),
        _Fact("socket.request.max.bytes", Type.INT, settings.request_bytes_max),
    ]


# -- changing --------------------------------------------------------------------------------------

Change = Callable[[dict[str, str]], dict[str, str] | No]
"""From the options a topic has to those it shall have."""


def alter_configs(ask: Ask) -> None:
    """Says all options of topics anew: what is not said is as if it never had been."""
    request = ask.request
    assert isinstance(request, AlterConfigsRequest)
    rows = [
        AlterConfigsResourceResponse(resource_type=r.resource_type, resource_name=r.resource_name)
        for r in request.resources
    ]
    changes = [partial(_replaced, resource) for resource in request.resources]
    _alter(ask, rows, changes, AlterConfigsResponse(responses=rows), validate_only=request.validate_only)


def _replaced(resource: AlterConfigsResource, options: dict[str, str]) -> dict[str, str] | No:
    said: dict[str, str] = {}
    for config in resource.configs:
        wrong = fault(config.name, config.value)
        if wrong or config.value is None:
            return No(ErrorCode.INVALID_CONFIG, wrong)
        if config.name in said:
            return No(ErrorCode.INVALID_REQUEST, f"{config.name} is said twice")
        said[config.name] = config.value.strip()
    return said


def incremental_alter_configs(ask: Ask) -> None:
    """Says single options of topics, or takes them back."""
    request = ask.request
    assert isinstance(request, IncrementalAlterConfigsRequest)
    rows = [
        IncrementalAlterConfigsAlterConfigsResourceResponse(
            resource_type=r.resource_type, resource_name=r.resource_name
        )
        for r in request.resources
    ]
    changes = [partial(_amended, resource) for resource in request.resources]
    response = IncrementalAlterConfigsResponse(responses=rows)
    _alter(ask, rows, changes, response, validate_only=request.validate_only)


def _amended(resource: IncrementalAlterConfigsAlterConfigsResource, options: dict[str, str]) -> dict[str, str] | No:
    if len({config.name for config in resource.configs}) < len(resource.configs):
        return No(ErrorCode.INVALID_REQUEST, "an option is said twice")
    for config in resource.configs:
        refused = _amend(config, options)
        if refused is not None:
            return refused
    return options


def _amend(config: IncrementalAlterConfigsAlterableConfig, options: dict[str, str]) -> No | None:
    option = OPTIONS.get(config.name)
    if option is None:
        return No(ErrorCode.INVALID_CONFIG, fault(config.name, config.value))
    if config.config_operation == Operation.DELETE:
        options.pop(config.name, None)
        return None
    value, operation = config.value, config.config_operation
    if operation in (Operation.APPEND, Operation.SUBTRACT) and value is not None:
        if option.type is not Type.LIST:
            return No(ErrorCode.INVALID_CONFIG, f"{option.name} is no list: nothing is added to it or taken from it")
        value = _joined(options.get(option.name, option.default), value, add=operation == Operation.APPEND)
    elif operation != Operation.SET:
        return No(ErrorCode.INVALID_REQUEST, f"{operation} is nothing that is done with an option")
    wrong = fault(config.name, value)
    if wrong or value is None:
        return No(ErrorCode.INVALID_CONFIG, wrong)
    options[config.name] = value.strip()
    return None


def _joined(have: str, said: str, *, add: bool) -> str:
    before = [item for item in have.split(",") if item]
    items = [item.strip() for item in said.split(",")]
    after = [*before, *items] if add else [item for item in before if item not in items]
    return ",".join(dict.fromkeys(after))


def _alter(
    ask: Ask,
    rows: Sequence[AlterConfigsResourceResponse | IncrementalAlterConfigsAlterConfigsResourceResponse],
    changes: Iterable[Change],
    response: object,
    *,
    validate_only: bool,
) -> None:
    """Each resource is changed as a whole or not at all."""
    times = Counter((row.resource_type, row.resource_name) for row in rows)
    tickets: list[Ticket] = []
    for row, change in zip(rows, changes, strict=True):
        if times[row.resource_type, row.resource_name] > 1:
            refused: No | None = No(ErrorCode.INVALID_REQUEST, f"{shown(row.resource_name)} is to be changed twice")
        elif row.resource_type == Resource.TOPIC:
            refused = _alter_topic(ask.session, row.resource_name, change, tickets, validate_only=validate_only)
        else:
            refused = _unalterable(row.resource_type, row.resource_name)
        if refused is not None:
            row.error_code, row.error_message = refused
    answer_when_safe(ask, response, rows, tickets)


def _unalterable(resource_type: int, name: str) -> No:
    if resource_type == Resource.BROKER:
        refused = None if name == CLUSTER else _unknown_broker(name)
        return refused or No(ErrorCode.INVALID_CONFIG, "what the mesh is set to is said in its configuration file")
    if resource_type == Resource.GROUP:
        return No(ErrorCode.INVALID_CONFIG, "a group has nothing to configure: its members bring their timeouts")
    return _unknown_type(resource_type)


def _alter_topic(
    session: KafkaSession, name: str, change: Change, tickets: list[Ticket], *, validate_only: bool
) -> No | None:
    topic = changeable(session, name)
    if isinstance(topic, No):
        return topic
    core = session.realm.core
    options = change(options_of(topic, core))
    if isinstance(options, No):
        return options
    if validate_only:
        return None
    limits = limits_in(options, core.retention.of(topic.channel))
    refusal = session.realm.topics.change(session, topic, options, limits)
    if refusal is not None:
        return no(refusal)
    tickets.append(written(session, topic))
    return None

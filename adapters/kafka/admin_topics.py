"""The requests that make topics, end them, give them partitions, or shorten them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from dragoman.adapters.kafka.admin_access import (
    REPLICAS,
    No,
    answer_when_safe,
    changeable,
    may_make,
    no,
    topic_of,
    written,
)
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.realm import NODE_ID
from dragoman.adapters.kafka.shapes_admin import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
    DeletableTopicResult,
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)
from dragoman.adapters.kafka.topic_options import OPTIONS, default_of, fault, limits_in
from dragoman.broker.retention import NO_LIMITS
from dragoman.broker.topics import Topic
from dragoman.routing.names import shown
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    import uuid

    from dragoman.adapters.kafka.session import Ask, KafkaSession
    from dragoman.broker.log.contract import Ticket

UNSAID: Final = -1
"""Partitions or replicas that are left to the broker."""

TO_THE_END: Final = -1
"""Delete all records there are."""

TOPIC_DEFAULT: Final = 5
TOPIC_SAID: Final = 1
"""Where a value comes from, as answers say it."""


# -- creating --------------------------------------------------------------------------------------


def create_topics(ask: Ask) -> None:
    """Makes topics. Each is made or not by itself; answered when those that are made are safe."""
    request = ask.request
    assert isinstance(request, CreateTopicsRequest)
    times = Counter(topic.name for topic in request.topics)
    rows: list[CreatableTopicResult] = []
    tickets: list[Ticket] = []
    for topic in {topic.name: topic for topic in request.topics}.values():
        row = CreatableTopicResult(name=topic.name)
        rows.append(row)
        if times[topic.name] > 1:
            refused: No | None = No(ErrorCode.INVALID_REQUEST, f"{shown(topic.name)} is asked for more than once")
        else:
            refused = _create(ask.session, topic, row, tickets, validate_only=request.validate_only)
        if refused is not None:
            row.error_code, row.error_message = refused
    answer_when_safe(ask, CreateTopicsResponse(topics=rows), rows, tickets)


def _create(
    session: KafkaSession,
    asked: CreatableTopic,
    row: CreatableTopicResult,
    tickets: list[Ticket],
    *,
    validate_only: bool,
) -> No | None:
    realm = session.realm
    name = realm.names.channel(asked.name)
    if isinstance(name, Refusal):
        return no(name)
    if not may_make(session, name):
        return No(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"the topic {shown(asked.name)} is not yours to make")
    if realm.topics.find(name) is not None:
        return No(ErrorCode.TOPIC_ALREADY_EXISTS, f"the topic {shown(asked.name)} exists already")
    partitions = _partitions(session, asked)
    if isinstance(partitions, No):
        return partitions
    options = _options(asked)
    if isinstance(options, No):
        return options
    if not validate_only:
        limits = limits_in(options, NO_LIMITS)
        made = realm.topics.create(session, name, partitions=partitions, limits=limits, options=options)
        if isinstance(made, Refusal):
            return no(made)
        tickets.append(written(session, made))
        row.topic_id = realm.names.id_of(asked.name, made.number)
    row.num_partitions, row.replication_factor = partitions, REPLICAS
    row.configs = [
        CreatableTopicConfigs(
            name=option.name,
            value=options.get(option.name, default_of(option, realm.settings)),
            config_source=TOPIC_SAID if option.name in options else TOPIC_DEFAULT,
        )
        for option in OPTIONS.values()
    ]
    return None


def _partitions(session: KafkaSession, asked: CreatableTopic) -> int | No:
    """How many, from a number or from a list of who is to hold which."""
    if asked.assignments:
        if asked.num_partitions != UNSAID or asked.replication_factor != UNSAID:
            return No(ErrorCode.INVALID_REQUEST, "replicas are assigned, so their number and that of partitions is -1")
        if sorted(each.partition_index for each in asked.assignments) != list(range(len(asked.assignments))):
            return No(ErrorCode.INVALID_REPLICA_ASSIGNMENT, "assigned partitions are numbered from 0 without a gap")
        if any(each.broker_ids != [NODE_ID] for each in asked.assignments):
            return _not_ours()
        count = len(asked.assignments)
    else:
        count = session.realm.settings.partitions if asked.num_partitions == UNSAID else asked.num_partitions
        if asked.replication_factor != UNSAID and asked.replication_factor < 1:
            return No(ErrorCode.INVALID_REPLICATION_FACTOR, f"{asked.replication_factor} replicas; at least 1, or -1")
    return _too_many(session, count) or count


def _not_ours() -> No:
    return No(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"every partition is held by node {NODE_ID}, and by it alone")


def _too_many(session: KafkaSession, count: int) -> No | None:
    limit = session.realm.core.settings.partitions_max
    if 1 <= count <= limit:
        return None
    return No(ErrorCode.INVALID_PARTITIONS, f"a topic has 1 to {limit} partitions (broker.partitions_max), not {count}")


def _options(asked: CreatableTopic) -> dict[str, str] | No:
    options: dict[str, str] = {}
    for config in asked.configs:
        wrong = fault(config.name, config.value)
        if wrong or config.value is None:
            return No(ErrorCode.INVALID_CONFIG, wrong)
        options[config.name] = config.value.strip()
    return options


# -- deleting --------------------------------------------------------------------------------------


def delete_topics(ask: Ask) -> None:
    """Ends topics, by name or by id."""
    request = ask.request
    assert isinstance(request, DeleteTopicsRequest)
    wanted = request.topics if ask.version >= 6 else [DeleteTopicState(name=name) for name in request.topic_names]
    times = Counter((topic.name, topic.topic_id) for topic in wanted)
    rows: list[DeletableTopicResult] = []
    tickets: list[Ticket] = []
    for name, topic_id in times:
        row = DeletableTopicResult(name=name, topic_id=topic_id)
        rows.append(row)
        if times[name, topic_id] > 1 or (name is not None and topic_id.int):
            refused: No | None = No(ErrorCode.INVALID_REQUEST, "a topic is named once, by its name or by its id")
        else:
            refused = _delete(ask.session, name, topic_id, row, tickets)
        if refused is not None:
            row.error_code, row.error_message = refused
    answer_when_safe(ask, DeleteTopicsResponse(responses=rows), rows, tickets)


def _delete(
    session: KafkaSession, name: str | None, topic_id: uuid.UUID, row: DeletableTopicResult, tickets: list[Ticket]
) -> No | None:
    names = session.realm.names
    asked = name if name is not None else names.of_id(topic_id)
    if asked is None or (name is None and isinstance(topic_of(session, asked), No)):
        # Whoever may not know of a topic is not told its name for its id.
        return No(ErrorCode.UNKNOWN_TOPIC_ID, f"no topic has the id {topic_id}")
    topic = changeable(session, asked)
    if isinstance(topic, No):
        return topic
    row.name, row.topic_id = asked, names.id_of(asked, topic.number)
    done = session.realm.topics.delete(session, topic)
    if isinstance(done, Refusal):
        return no(done)
    tickets.append(done)
    return None


# -- partitions ------------------------------------------------------------------------------------


def create_partitions(ask: Ask) -> None:
    """Gives topics more partitions. What is kept stays where it is."""
    request = ask.request
    assert isinstance(request, CreatePartitionsRequest)
    times = Counter(topic.name for topic in request.topics)
    rows: list[CreatePartitionsTopicResult] = []
    tickets: list[Ticket] = []
    for asked in {topic.name: topic for topic in request.topics}.values():
        row = CreatePartitionsTopicResult(name=asked.name)
        rows.append(row)
        if times[asked.name] > 1:
            refused: No | None = No(ErrorCode.INVALID_REQUEST, f"{shown(asked.name)} is asked for more than once")
        else:
            refused = _grow(ask.session, asked, tickets, validate_only=request.validate_only)
        if refused is not None:
            row.error_code, row.error_message = refused
    answer_when_safe(ask, CreatePartitionsResponse(results=rows), rows, tickets)


def _grow(
    session: KafkaSession, asked: CreatePartitionsTopic, tickets: list[Ticket], *, validate_only: bool
) -> No | None:
    topic = changeable(session, asked.name)
    if isinstance(topic, No):
        return topic
    have = len(topic.partitions)
    if asked.count <= have:
        why = f"{shown(asked.name)} has {have} partitions and would have {asked.count}; they never get fewer"
        return No(ErrorCode.INVALID_PARTITIONS, why)
    refused = _too_many(session, asked.count)
    if refused is not None:
        return refused
    if asked.assignments is not None:
        if len(asked.assignments) != asked.count - have:
            why = f"{len(asked.assignments)} assignments for {asked.count - have} new partitions"
            return No(ErrorCode.INVALID_REPLICA_ASSIGNMENT, why)
        if any(each.broker_ids != [NODE_ID] for each in asked.assignments):
            return _not_ours()
    if validate_only:
        return None
    refusal = session.realm.topics.grow(session, topic, asked.count)
    if refusal is not None:
        return no(refusal)
    tickets.append(written(session, topic))
    return None


# -- records ---------------------------------------------------------------------------------------


def delete_records(ask: Ask) -> None:
    """Forgets what is kept below an offset."""
    request = ask.request
    assert isinstance(request, DeleteRecordsRequest)
    response = DeleteRecordsResponse()
    rows: list[DeleteRecordsPartitionResult] = []
    tickets: list[Ticket] = []
    for asked in request.topics:
        topic = changeable(ask.session, asked.name)
        answers = []
        for wanted in asked.partitions:
            row = DeleteRecordsPartitionResult(partition_index=wanted.partition_index, low_watermark=-1)
            row.error_code = topic.code if isinstance(topic, No) else _truncate(ask.session, topic, wanted, row)
            answers.append(row)
        if not isinstance(topic, No):
            tickets.append(written(ask.session, topic))
        rows += answers
        response.topics.append(DeleteRecordsTopicResult(name=asked.name, partitions=answers))
    answer_when_safe(ask, response, rows, tickets)


def _truncate(
    session: KafkaSession, topic: Topic, wanted: DeleteRecordsPartition, row: DeleteRecordsPartitionResult
) -> ErrorCode:
    if not 0 <= wanted.partition_index < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    partition = topic.partitions[wanted.partition_index]
    offset = partition.visible if wanted.offset == TO_THE_END else wanted.offset
    if not 0 <= offset <= partition.visible:
        return ErrorCode.OFFSET_OUT_OF_RANGE
    refusal = session.realm.topics.truncate(session, partition, offset)
    if refusal is not None:
        return no(refusal).code
    row.low_watermark = partition.oldest
    return ErrorCode.NONE

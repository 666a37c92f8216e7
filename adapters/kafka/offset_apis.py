"""The requests about how far consumer groups have come: commit, fetch, delete.

Topics are remembered by the one name clients are told of them, whatever alias or id they were asked for by.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.errors import code_of
from dragoman.adapters.kafka.group_access import may_delete, may_use
from dragoman.adapters.kafka.names import listed
from dragoman.adapters.kafka.offsets import Committed, Offsets, Place
from dragoman.adapters.kafka.shapes_groups import (
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.session import Ask, KafkaSession

IDS_SINCE: Final = 10
"""The version of OffsetCommit and OffsetFetch from which topics are named by id."""


class Asked(NamedTuple):
    """A topic as it is remembered, and why nothing may be done with it."""

    topic: str
    error: ErrorCode


def _asked(session: KafkaSession, name: str, topic_id: uuid.UUID | None) -> Asked:
    """The topic a request names, by id if it has one. A channel that is read by a group becomes a topic by it."""
    realm = session.realm
    if topic_id is not None:
        known = realm.names.of_id(topic_id)
        if known is None:
            return Asked("", ErrorCode.UNKNOWN_TOPIC_ID)
        name = known
    channel = realm.names.channel(name)
    if isinstance(channel, Refusal):
        return Asked(name, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    topic = listed(channel) or name
    if not realm.broker.may_read(session, channel):
        return Asked(topic, ErrorCode.TOPIC_AUTHORIZATION_FAILED)
    if realm.broker.channels.find(channel) is not None:
        made = realm.topics.ensure(session, channel)
        if isinstance(made, Refusal):
            return Asked(topic, code_of(made))
    return Asked(topic, ErrorCode.NONE)


# -- commit ----------------------------------------------------------------------------------------


def offset_commit(ask: Ask) -> None:
    """A group has come so far. Answered when that is in the log."""
    request = ask.request
    assert isinstance(request, OffsetCommitRequest)
    session = ask.session
    error = may_use(session, request.group_id)
    now_ms = session.realm.broker.clock.now_ms()
    # Only old versions can say it, and -1 says nothing.
    expires_ms = now_ms + request.retention_time_ms if request.retention_time_ms >= 0 else 0
    response = OffsetCommitResponse()
    taken: list[tuple[Place, Committed]] = []
    rows: list[OffsetCommitResponsePartition] = []
    for topic in request.topics:
        asked = _asked(session, topic.name, topic.topic_id if ask.version >= IDS_SINCE else None)
        answers = []
        for partition in topic.partitions:
            row = OffsetCommitResponsePartition(
                partition_index=partition.partition_index, error_code=error or asked.error
            )
            answers.append(row)
            if row.error_code == ErrorCode.NONE:
                rows.append(row)
                committed = Committed(
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.committed_metadata or "",
                    now_ms,
                    expires_ms,
                )
                taken.append((Place(asked.topic, partition.partition_index), committed))
        response.topics.append(OffsetCommitResponseTopic(name=topic.name, topic_id=topic.topic_id, partitions=answers))
    if error is not ErrorCode.NONE:
        ask.answer(response)
        return
    member = (request.member_id, request.group_instance_id, request.generation_id_or_member_epoch)
    then = partial(_committed, ask, response, rows)
    session.realm.groups.commit(request.group_id, member, taken, then, session.principal.name)


def _committed(
    ask: Ask, response: OffsetCommitResponse, rows: list[OffsetCommitResponsePartition], errors: list[ErrorCode]
) -> None:
    for row, error in zip(rows, errors, strict=True):
        row.error_code = error
    ask.answer(response)


# -- fetch -----------------------------------------------------------------------------------------


def offset_fetch(ask: Ask) -> None:
    """How far groups have come. A group nobody knows has come nowhere, which is no error."""
    request = ask.request
    assert isinstance(request, OffsetFetchRequest)
    if ask.version >= 8:
        ask.answer(OffsetFetchResponse(groups=[_fetched(ask, group) for group in request.groups]))
        return
    topics = (
        None
        if request.topics is None
        else [OffsetFetchRequestTopics(name=t.name, partition_indexes=t.partition_indexes) for t in request.topics]
    )
    fetched = _fetched(ask, OffsetFetchRequestGroup(group_id=request.group_id, topics=topics))
    ask.answer(
        OffsetFetchResponse(
            error_code=fetched.error_code,
            topics=[
                OffsetFetchResponseTopic(
                    name=topic.name,
                    partitions=[
                        OffsetFetchResponsePartition(
                            partition_index=row.partition_index,
                            committed_offset=row.committed_offset,
                            committed_leader_epoch=row.committed_leader_epoch,
                            metadata=row.metadata,
                            error_code=row.error_code,
                        )
                        for row in topic.partitions
                    ],
                )
                for topic in fetched.topics
            ],
        )
    )


def _fetched(ask: Ask, wanted: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup:
    error = may_use(ask.session, wanted.group_id)
    answer = OffsetFetchResponseGroup(group_id=wanted.group_id, error_code=error)
    if error is not ErrorCode.NONE:
        if ask.version < 2 and wanted.topics is not None:
            # Version 1 has no place for the group's own error.
            answer.topics = [
                OffsetFetchResponseTopics(name=t.name, partitions=[_row(i, None, error) for i in t.partition_indexes])
                for t in wanted.topics
            ]
        return answer
    offsets = ask.session.realm.groups.offsets(wanted.group_id)
    if wanted.topics is None:
        answer.topics = _all(ask, offsets) if offsets is not None else []
        return answer
    for topic in wanted.topics:
        asked = _asked(ask.session, topic.name, topic.topic_id if ask.version >= IDS_SINCE else None)
        error = ErrorCode.NONE if asked.error is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION else asked.error
        rows = []
        for index in topic.partition_indexes:
            committed = None
            if error is ErrorCode.NONE and offsets is not None:
                committed = offsets.get(Place(asked.topic, index))
            rows.append(_row(index, committed, error))
        answer.topics.append(OffsetFetchResponseTopics(name=topic.name, topic_id=topic.topic_id, partitions=rows))
    return answer


def _all(ask: Ask, offsets: Offsets) -> list[OffsetFetchResponseTopics]:
    """Everything a group has committed, in topics the client may read."""
    realm = ask.session.realm
    topics: dict[str, OffsetFetchResponseTopics] = {}
    hidden: set[str] = set()
    for place, committed in offsets.items():
        if place.topic in hidden:
            continue
        topic = topics.get(place.topic)
        if topic is None:
            channel = realm.names.channel(place.topic)
            first = realm.names.partition(place.topic, 0)
            if first is None or isinstance(channel, Refusal) or not realm.broker.may_read(ask.session, channel):
                hidden.add(place.topic)
                continue
            topic_id = realm.names.id_of(place.topic, first.number)
            topic = topics[place.topic] = OffsetFetchResponseTopics(name=place.topic, topic_id=topic_id)
        topic.partitions.append(_row(place.partition, committed, ErrorCode.NONE))
    return list(topics.values())


def _row(index: int, committed: Committed | None, error: ErrorCode) -> OffsetFetchResponsePartitions:
    if committed is None:
        return OffsetFetchResponsePartitions(
            partition_index=index, committed_offset=-1, committed_leader_epoch=-1, metadata="", error_code=error
        )
    return OffsetFetchResponsePartitions(
        partition_index=index,
        committed_offset=committed.offset,
        committed_leader_epoch=committed.leader_epoch,
        metadata=committed.metadata,
        error_code=error,
    )


# -- delete ----------------------------------------------------------------------------------------


def offset_delete(ask: Ask) -> None:
    """A group forgets how far it has come in some partitions. Answered when that is in the log."""
    request = ask.request
    assert isinstance(request, OffsetDeleteRequest)
    error = may_delete(ask.session, request.group_id)
    if error is not ErrorCode.NONE:
        ask.answer(OffsetDeleteResponse(error_code=error))
        return
    response = OffsetDeleteResponse()
    places: list[Place] = []
    rows: list[OffsetDeleteResponsePartition] = []
    for topic in request.topics:
        channel = ask.session.realm.names.channel(topic.name)
        spelt = topic.name if isinstance(channel, Refusal) else listed(channel) or topic.name
        answer = OffsetDeleteResponseTopic(name=topic.name)
        for partition in topic.partitions:
            row = OffsetDeleteResponsePartition(partition_index=partition.partition_index)
            answer.partitions.append(row)
            if isinstance(channel, Refusal) or not ask.session.realm.broker.may_read(ask.session, channel):
                row.error_code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
                continue
            places.append(Place(spelt, partition.partition_index))
            rows.append(row)
        response.topics.append(answer)

    def deleted(error: ErrorCode, errors: list[ErrorCode]) -> None:
        if error is not ErrorCode.NONE:
            ask.answer(OffsetDeleteResponse(error_code=error))
            return
        for row, each in zip(rows, errors, strict=True):
            row.error_code = each
        ask.answer(response)

    ask.session.realm.groups.delete_offsets(request.group_id, places, deleted)

"""Topics made, ended, given partitions and shortened by requests, on a real broker."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from admin_mesh import ALICE, BOB, ROOT, Mesh, run

from dragoman.adapters.kafka.batches import KIND, build
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.shapes_admin import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    DeleteTopicsRequest,
    DeleteTopicState,
)
from dragoman.broker.gate_settings import RuleSettings
from dragoman.broker.retention import Limits
from dragoman.routing.message import Bundle, Message
from dragoman.routing.refusals import Reason, Refusal

BOB_SEES_OPEN = RuleSettings(effect="deny", who=("bob",), filters=("closed/#",))
BOB_MAKES_NOTHING = RuleSettings(effect="deny", who=("bob",), actions=("create",))


def creating(*names: str, partitions: int = -1, replicas: int = -1, **how: Any) -> CreateTopicsRequest:
    configs = [CreatableTopicConfig(name=name, value=value) for name, value in how.get("configs", {}).items()]
    topics = [
        CreatableTopic(name=name, num_partitions=partitions, replication_factor=replicas, configs=configs)
        for name in names
    ]
    return CreateTopicsRequest(topics=topics, validate_only=how.get("validate_only", False))


def assigning(*brokers: tuple[int, list[int]], partitions: int = -1, replicas: int = -1) -> CreateTopicsRequest:
    request = creating("t", partitions=partitions, replicas=replicas)
    request.topics[0].assignments = [
        CreatableReplicaAssignment(partition_index=index, broker_ids=ids) for index, ids in brokers
    ]
    return request


def deleting(*names: str) -> DeleteTopicsRequest:
    return DeleteTopicsRequest(topics=[DeleteTopicState(name=name) for name in names], topic_names=list(names))


def deleting_ids(*ids: uuid.UUID) -> DeleteTopicsRequest:
    return DeleteTopicsRequest(topics=[DeleteTopicState(topic_id=each) for each in ids])


def growing(name: str, count: int, *assigned: list[int], validate_only: bool = False) -> CreatePartitionsRequest:
    assignments = [CreatePartitionsAssignment(broker_ids=ids) for ids in assigned] or None
    topic = CreatePartitionsTopic(name=name, count=count, assignments=assignments)
    return CreatePartitionsRequest(topics=[topic], validate_only=validate_only)


def shortening(name: str, *offsets: int) -> DeleteRecordsRequest:
    partitions = [DeleteRecordsPartition(partition_index=i, offset=offset) for i, offset in enumerate(offsets)]
    return DeleteRecordsRequest(topics=[DeleteRecordsTopic(name=name, partitions=partitions)])


async def created(mesh: Mesh, request: CreateTopicsRequest, version: int = 7, principal: Any = ALICE) -> Any:
    [row] = (await mesh.answer(request, version, principal)).topics
    return row


async def deleted(mesh: Mesh, request: DeleteTopicsRequest, version: int = 6, principal: Any = ALICE) -> Any:
    [row] = (await mesh.answer(request, version, principal)).responses
    return row


async def grown(mesh: Mesh, request: CreatePartitionsRequest, principal: Any = ALICE) -> Any:
    [row] = (await mesh.answer(request, 3, principal)).results
    return row


async def shortened(mesh: Mesh, request: DeleteRecordsRequest, principal: Any = ALICE) -> list[tuple[int, int]]:
    """(error, low watermark) of each partition."""
    [topic] = (await mesh.answer(request, 2, principal)).topics
    assert [row.partition_index for row in topic.partitions] == list(range(len(topic.partitions)))
    return [(row.error_code, row.low_watermark) for row in topic.partitions]


# -- creating --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(2, 8))
def test_a_topic_is_made_in_every_version(version: int) -> None:
    async def scene(mesh: Mesh) -> None:
        row = await created(mesh, creating("factory.line1", partitions=3, replicas=3), version)
        assert (row.name, row.error_code, row.error_message) == ("factory.line1", 0, None)
        topic = mesh.topic("factory/line1")
        assert len(topic.partitions) == 3
        if version >= 5:
            assert (row.num_partitions, row.replication_factor) == (3, 1)
            said = {config.name: config for config in row.configs}
            assert said["max.message.bytes"].value == "5000"
            assert {config.config_source for config in row.configs} == {5}
        if version >= 7:
            assert row.topic_id == mesh.realm.names.id_of("factory.line1", topic.number)
            assert row.topic_id.int

    run(scene)


def test_partitions_unsaid_are_as_many_as_configured() -> None:
    async def scene(mesh: Mesh) -> None:
        assert (await created(mesh, creating("t"))).num_partitions == 2
        assert len(mesh.topic("t").partitions) == 2

    run(scene)


def test_options_count_and_are_given_back() -> None:
    async def scene(mesh: Mesh) -> None:
        options = {"retention.ms": "60000", "retention.bytes": " 1000 ", "segment.ms": "7", "cleanup.policy": "delete"}
        row = await created(mesh, creating("t", configs=options))
        said = {config.name: (config.value, config.config_source) for config in row.configs}
        assert said["retention.bytes"] == ("1000", 1)
        assert said["segment.ms"] == ("7", 1)
        assert said["segment.bytes"] == ("1073741824", 5)
        topic = mesh.topic("t")
        assert dict(topic.options) == {name: value.strip() for name, value in options.items()}
        for partition in topic.partitions:
            assert mesh.broker.core.retention.of(partition) == Limits(60_000, 1_000)

    run(scene)


@pytest.mark.parametrize(
    ("name", "how", "code", "why"),
    [
        ("t", {"partitions": 0}, ErrorCode.INVALID_PARTITIONS, "1 to 8 partitions .*not 0"),
        ("t", {"partitions": -2}, ErrorCode.INVALID_PARTITIONS, "not -2"),
        ("t", {"partitions": 9}, ErrorCode.INVALID_PARTITIONS, "not 9"),
        ("t", {"replicas": 0}, ErrorCode.INVALID_REPLICATION_FACTOR, "0 replicas"),
        ("t", {"replicas": -2}, ErrorCode.INVALID_REPLICATION_FACTOR, "-2 replicas"),
        ("", {}, ErrorCode.INVALID_TOPIC_EXCEPTION, "."),
        ("a/#", {}, ErrorCode.INVALID_TOPIC_EXCEPTION, "."),
        ("a..b", {}, ErrorCode.INVALID_TOPIC_EXCEPTION, "."),
        ("x" * 250, {}, ErrorCode.INVALID_TOPIC_EXCEPTION, "."),
        ("mesh.answer.x", {}, ErrorCode.INVALID_TOPIC_EXCEPTION, "verb"),
    ],
)
def test_a_topic_that_cannot_be(name: str, how: dict[str, int], code: ErrorCode, why: str) -> None:
    async def scene(mesh: Mesh) -> None:
        row = await created(mesh, creating(name, **how))
        assert row.error_code == code
        assert re.search(why, row.error_message)
        assert not list(mesh.broker.topics.all())

    run(scene)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("cleanup.policy", "compact", "only be delete.*not built"),
        ("cleanup.policy", "compact,delete", "only be delete"),
        ("message.timestamp.type", "LogAppendTime", "only be CreateTime"),
        ("compression.type", "gzip", "only be producer"),
        ("remote.storage.enable", "true", "only be false"),
        ("colour", "red", "'colour' is no option"),
        ("retention.ms", None, "has no value"),
        ("retention.ms", "-2", "from -1 to"),
        ("retention.ms", "1_0", "a number from"),
        ("retention.ms", "٣", "a number from"),
        ("retention.bytes", str(1 << 63), "a number from"),
        ("max.message.bytes", str(1 << 31), "to 2147483647"),
        ("max.message.bytes", "", "from 0"),
        ("preallocate", "perhaps", "true or false"),
        ("min.cleanable.dirty.ratio", "nan", "from 0 to 1"),
        ("min.cleanable.dirty.ratio", "x", "from 0 to 1"),
        ("follower.replication.throttled.replicas", "x" * 5_000, "5000 characters"),
    ],
)
def test_an_option_that_cannot_be(name: str, value: str | None, why: str) -> None:
    async def scene(mesh: Mesh) -> None:
        row = await created(mesh, creating("t", configs={name: value}))
        assert row.error_code == ErrorCode.INVALID_CONFIG
        assert re.search(why, row.error_message)
        assert not list(mesh.broker.topics.all())

    run(scene)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (assigning((1, [0]), (0, [0]), (2, [0])), ErrorCode.NONE),
        (assigning((0, [0]), (2, [0])), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (assigning((0, [0]), (0, [0])), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (assigning((0, [0]), (1, [0, 1])), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (assigning((0, [7])), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (assigning((0, [0]), partitions=1), ErrorCode.INVALID_REQUEST),
        (assigning((0, [0]), replicas=1), ErrorCode.INVALID_REQUEST),
    ],
)
def test_assigned_replicas(request_: CreateTopicsRequest, code: ErrorCode) -> None:
    async def scene(mesh: Mesh) -> None:
        row = await created(mesh, request_)
        assert row.error_code == code
        if not code:
            assert len(mesh.topic("t").partitions) == 3

    run(scene)


def test_nothing_is_made_to_see_whether_it_could_be() -> None:
    async def scene(mesh: Mesh) -> None:
        row = await created(mesh, creating("t", partitions=3, validate_only=True))
        assert (row.error_code, row.num_partitions, row.topic_id.int) == (0, 3, 0)
        assert mesh.broker.topics.find("t") is None
        row = await created(mesh, creating("t", partitions=0, validate_only=True))
        assert row.error_code == ErrorCode.INVALID_PARTITIONS

    run(scene)


def test_each_topic_is_made_or_not_by_itself() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("old")
        answer = await mesh.answer(creating("old", "new", "twice", "twice", "a.b", "a/b"), 7)
        assert {row.name: row.error_code for row in answer.topics} == {
            "old": ErrorCode.TOPIC_ALREADY_EXISTS,
            "new": ErrorCode.NONE,
            "twice": ErrorCode.INVALID_REQUEST,
            "a.b": ErrorCode.NONE,
            "a/b": ErrorCode.TOPIC_ALREADY_EXISTS,
        }
        assert {topic.name for topic in mesh.broker.topics.all()} == {"old", "new", "a/b"}

    run(scene)


def test_who_may_not_make_it() -> None:
    async def scene(mesh: Mesh) -> None:
        for validate_only in (False, True):
            row = await created(mesh, creating("t", validate_only=validate_only), principal=BOB)
            assert row.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
        assert mesh.broker.topics.find("t") is None
        assert (await created(mesh, creating("t"), principal=ALICE)).error_code == 0

    run(scene, BOB_MAKES_NOTHING)


def test_an_answer_waits_for_the_log_and_outlives_the_process(tmp_path: Path) -> None:
    async def scene(mesh: Mesh) -> Mesh:
        ask = mesh.ask(creating("kept", partitions=3, configs={"retention.ms": "5000", "segment.ms": "9"}), 7)
        assert not ask.got
        await mesh.turn()
        assert ask.got[0].topics[0].error_code == 0
        again = await mesh.restarted()
        topic = again.topic("kept")
        assert len(topic.partitions) == 3
        assert dict(topic.options) == {"retention.ms": "5000", "segment.ms": "9"}
        assert again.broker.core.retention.of(topic.partitions[2]) == Limits(5_000)
        assert again.realm.names.of_id(ask.got[0].topics[0].topic_id) == "kept"
        return again

    run(scene, folder=tmp_path / "log")


def test_what_the_log_refuses_is_not_said_to_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(mesh: Mesh) -> None:
        waiting: list[Any] = []
        monkeypatch.setattr(mesh.broker, "when_safe", lambda ticket, then: waiting.append(then))
        ask = mesh.ask(creating("t", ""), 7)
        assert not ask.got
        waiting[0](Refusal(Reason.STORAGE_FULL, "full"))
        codes = [row.error_code for row in ask.got[0].topics]
        assert codes == [ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.INVALID_TOPIC_EXCEPTION]

    run(scene)


# -- deleting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, 7))
def test_a_topic_is_ended_in_every_version(version: int) -> None:
    async def scene(mesh: Mesh) -> None:
        topic = await mesh.filled("factory/line1", 3)
        row = await deleted(mesh, deleting("factory.line1"), version)
        assert (row.name, row.error_code, row.error_message) == ("factory.line1", 0, None)
        assert mesh.broker.topics.find("factory/line1") is None
        if version >= 6:
            assert row.topic_id == mesh.realm.names.id_of("factory.line1", topic.number)
        row = await deleted(mesh, deleting("factory.line1"), version)
        assert row.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    run(scene)


def test_a_topic_is_ended_by_its_id_and_not_by_that_of_another_before_it() -> None:
    async def scene(mesh: Mesh) -> None:
        topic = await mesh.made("t")
        topic_id = mesh.realm.names.id_of("t", topic.number)
        row = await deleted(mesh, deleting_ids(topic_id))
        assert (row.name, row.topic_id, row.error_code) == ("t", topic_id, 0)
        await mesh.made("t")
        row = await deleted(mesh, deleting_ids(topic_id))
        assert (row.name, row.error_code) == (None, ErrorCode.UNKNOWN_TOPIC_ID)
        assert (await deleted(mesh, deleting_ids(uuid.UUID(int=0)))).error_code == ErrorCode.UNKNOWN_TOPIC_ID
        mesh.topic("t")

    run(scene)


def test_a_topic_is_named_once() -> None:
    async def scene(mesh: Mesh) -> None:
        topic = await mesh.made("t")
        assert (await deleted(mesh, deleting("t", "t"))).error_code == ErrorCode.INVALID_REQUEST
        both = DeleteTopicsRequest(
            topics=[DeleteTopicState(name="t", topic_id=mesh.realm.names.id_of("t", topic.number))]
        )
        assert (await deleted(mesh, both)).error_code == ErrorCode.INVALID_REQUEST
        mesh.topic("t")

    run(scene)


def test_only_who_made_a_topic_or_an_administrator_ends_it() -> None:
    async def scene(mesh: Mesh) -> None:
        topic = await mesh.made("hers", principal=ALICE)
        for request in (deleting("hers"), deleting_ids(mesh.realm.names.id_of("hers", topic.number))):
            row = await deleted(mesh, request, principal=BOB)
            assert row.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
            assert "who made it" in row.error_message
        mesh.topic("hers")
        assert (await deleted(mesh, deleting("hers"), principal=ROOT)).error_code == 0

    run(scene)


def test_who_may_not_see_a_topic_does_not_learn_whether_there_is_one() -> None:
    async def scene(mesh: Mesh) -> None:
        topic = await mesh.made("closed/x")
        topic_id = mesh.realm.names.id_of("closed.x", topic.number)
        for name in ("closed.x", "closed.y"):
            row = await deleted(mesh, deleting(name), principal=BOB)
            assert row.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
        row = await deleted(mesh, deleting_ids(topic_id), principal=BOB)
        assert (row.name, row.error_code) == (None, ErrorCode.UNKNOWN_TOPIC_ID)
        assert "closed" not in row.error_message

    run(scene, BOB_SEES_OPEN)


# -- partitions ------------------------------------------------------------------------------------


def test_more_partitions(tmp_path: Path) -> None:
    async def scene(mesh: Mesh) -> Mesh:
        await mesh.made("t", partitions=2)
        row = await grown(mesh, growing("t", 5))
        assert (row.name, row.error_code, row.error_message) == ("t", 0, None)
        assert len(mesh.topic("t").partitions) == 5
        again = await mesh.restarted()
        assert len(again.topic("t").partitions) == 5
        return again

    run(scene, folder=tmp_path / "log")


@pytest.mark.parametrize(
    ("request_", "code", "why"),
    [
        (growing("t", 2), ErrorCode.INVALID_PARTITIONS, "has 2 partitions and would have 2"),
        (growing("t", 1), ErrorCode.INVALID_PARTITIONS, "never get fewer"),
        (growing("t", 9), ErrorCode.INVALID_PARTITIONS, "1 to 8"),
        (growing("t", 4, [0]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "1 assignments for 2"),
        (growing("t", 3, [1]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "node 0"),
        (growing("other", 3), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "no topic 'other'"),
        (growing("", 3), ErrorCode.INVALID_TOPIC_EXCEPTION, "."),
    ],
)
def test_partitions_that_cannot_be(request_: CreatePartitionsRequest, code: ErrorCode, why: str) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t", partitions=2)
        row = await grown(mesh, request_)
        assert row.error_code == code
        assert re.search(why, row.error_message)
        assert len(mesh.topic("t").partitions) == 2

    run(scene)


def test_assigned_partitions_and_those_only_tried() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("t", partitions=1)
        assert (await grown(mesh, growing("t", 3, validate_only=True))).error_code == 0
        assert len(mesh.topic("t").partitions) == 1
        assert (await grown(mesh, growing("t", 3, [0], [0]))).error_code == 0
        assert len(mesh.topic("t").partitions) == 3
        twice = growing("t", 4)
        twice.topics *= 2
        assert (await grown(mesh, twice)).error_code == ErrorCode.INVALID_REQUEST
        assert (await grown(mesh, growing("t", 4), BOB)).error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
        assert len(mesh.topic("t").partitions) == 3

    run(scene)


# -- records ---------------------------------------------------------------------------------------


def test_what_is_below_an_offset_is_forgotten() -> None:
    async def scene(mesh: Mesh) -> None:
        topic = await mesh.filled("t", 10)
        assert await shortened(mesh, shortening("t", 4)) == [(0, 4)]
        assert (topic.channel.oldest, topic.channel.visible) == (4, 10)
        assert await shortened(mesh, shortening("t", 2)) == [(0, 4)], "it does not come back"
        assert await shortened(mesh, shortening("t", -1)) == [(0, 10)]
        assert topic.channel.oldest == 10

    run(scene)


def test_a_batch_is_shortened_within(tmp_path: Path) -> None:
    async def scene(mesh: Mesh) -> Mesh:
        topic = await mesh.made("t")
        messages = [Message("t", b"%d" % index) for index in range(6)]
        for index, message in enumerate(messages):
            message.offset, message.time_ms = index, 1_000 + index
        topic.channel.append_bundle(Bundle("t", build(messages), KIND, 6))
        await mesh.turn()
        assert topic.channel.visible == 6
        assert await shortened(mesh, shortening("t", 3)) == [(0, 3)]
        again = await mesh.restarted()
        assert again.topic("t").channel.oldest == 3
        return again

    run(scene, folder=tmp_path / "log")


def test_records_that_are_not_there() -> None:
    async def scene(mesh: Mesh) -> None:
        topic = await mesh.filled("t", 3)
        assert await shortened(mesh, shortening("t", 4, 0)) == [
            (ErrorCode.OFFSET_OUT_OF_RANGE, -1),
            (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
        ]
        assert await shortened(mesh, shortening("t", -2)) == [(ErrorCode.OFFSET_OUT_OF_RANGE, -1)]
        assert await shortened(mesh, shortening("u", 0)) == [(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)]
        assert await shortened(mesh, shortening("t", 2), BOB) == [(ErrorCode.TOPIC_AUTHORIZATION_FAILED, -1)]
        assert topic.channel.oldest == 0
        assert await shortened(mesh, shortening("t", 2), ROOT) == [(0, 2)]

    run(scene)


@pytest.mark.parametrize(
    "request_",
    [creating("new"), deleting("t"), growing("t", 3), shortening("t", 2)],
    ids=["creating", "deleting", "growing", "shortening"],
)
def test_every_answer_waits_for_the_log(request_: Any) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.filled("t", 3)
        ask = mesh.ask(request_, 2)
        assert not ask.got
        await mesh.turn()
        assert ask.got

    run(scene)

"""The cluster described, its topics page by page, and leaders of the past."""

from __future__ import annotations

from typing import Any

import pytest
from admin_mesh import ALICE, BOB, Mesh, run

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.shapes_admin import (
    DescribeClusterRequest,
    DescribeTopicPartitionsCursor,
    DescribeTopicPartitionsRequest,
    TopicRequest,
)
from dragoman.adapters.kafka.shapes_data import (
    MetadataRequest,
    MetadataRequestTopic,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from dragoman.broker.gate_settings import RuleSettings

BOB_SEES_OPEN = RuleSettings(effect="deny", who=("bob",), filters=("closed/#",))
BOB_ONLY_READS = RuleSettings(effect="deny", who=("bob",), actions=("publish", "create"))
NOT_ASKED_FOR = -2147483648


def operations(bits: int) -> set[int]:
    return {bit for bit in range(32) if bits >> bit & 1}


# -- the cluster -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(3))
def test_the_cluster_is_one_node(version: int) -> None:
    async def scene(mesh: Mesh) -> None:
        answer = await mesh.answer(DescribeClusterRequest(), version)
        assert (answer.error_code, answer.cluster_id, answer.controller_id) == (0, mesh.realm.cluster_id, 0)
        [node] = answer.brokers
        assert (node.broker_id, node.host, node.port, node.rack, node.is_fenced) == (
            0,
            "mesh.example",
            9092,
            None,
            False,
        )
        assert answer.cluster_authorized_operations == NOT_ASKED_FOR
        asked = await mesh.answer(DescribeClusterRequest(include_cluster_authorized_operations=True), version)
        assert operations(asked.cluster_authorized_operations) == {5, 8, 10, 12}

    run(scene)


@pytest.mark.parametrize(
    ("kind", "code"), [(2, ErrorCode.MISMATCHED_ENDPOINT_TYPE), (0, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE)]
)
def test_controllers_have_no_address(kind: int, code: ErrorCode) -> None:
    async def scene(mesh: Mesh) -> None:
        answer = await mesh.answer(DescribeClusterRequest(endpoint_type=kind), 1)
        assert (answer.error_code, answer.brokers) == (code, [])
        assert answer.error_message

    run(scene)


# -- topics, page by page ----------------------------------------------------------------------------


async def pages(mesh: Mesh, *names: str, limit: int, principal: Any = ALICE) -> list[list[tuple[str, list[int]]]]:
    """All pages there are: of each, the topics with their partitions."""
    told: list[list[tuple[str, list[int]]]] = []
    cursor: DescribeTopicPartitionsCursor | None = None
    while True:
        request = DescribeTopicPartitionsRequest(
            topics=[TopicRequest(name=name) for name in names], response_partition_limit=limit, cursor=cursor
        )
        answer = await mesh.answer(request, 0, principal)
        told.append([(topic.name, [row.partition_index for row in topic.partitions]) for topic in answer.topics])
        cursor = answer.next_cursor
        if cursor is None:
            return told
        assert len(told) < 20, "it never ends"


async def one(mesh: Mesh, name: str, principal: Any = ALICE) -> Any:
    [topic] = (await mesh.answer(DescribeTopicPartitionsRequest(topics=[TopicRequest(name=name)]), 0, principal)).topics
    return topic


def test_a_topic_is_described() -> None:
    async def scene(mesh: Mesh) -> None:
        made = await mesh.made("factory/line1", partitions=2)
        topic = await one(mesh, "factory.line1")
        assert (topic.error_code, topic.name, topic.is_internal) == (0, "factory.line1", False)
        assert topic.topic_id == mesh.realm.names.id_of("factory.line1", made.number)
        for index, row in enumerate(topic.partitions):
            assert (row.partition_index, row.error_code, row.leader_id, row.leader_epoch) == (index, 0, 0, 0)
            assert (row.replica_nodes, row.isr_nodes, row.offline_replicas) == ([0], [0], [])
            assert (row.eligible_leader_replicas, row.last_known_elr) == ([], []), "null trips Java"

    run(scene)


def test_pages_end_at_partitions_and_at_topics() -> None:
    async def scene(mesh: Mesh) -> None:
        for name, count in (("c", 3), ("a", 2), ("b", 1)):
            await mesh.made(name, partitions=count)
        whole = [("a", [0, 1]), ("b", [0]), ("c", [0, 1, 2])]
        assert await pages(mesh, limit=6) == [whole]
        assert await pages(mesh, limit=2000) == [whole]
        assert await pages(mesh, limit=2) == [[("a", [0, 1])], [("b", [0]), ("c", [0])], [("c", [1, 2])]]
        assert await pages(mesh, limit=3) == [[("a", [0, 1]), ("b", [0])], [("c", [0, 1, 2])]]
        assert await pages(mesh, limit=0) == await pages(mesh, limit=1)
        assert len(await pages(mesh, limit=1)) == 6
        assert await pages(mesh, "c", "a", "c", limit=4) == [[("a", [0, 1]), ("c", [0, 1])], [("c", [2])]]

    run(scene)


def test_a_page_goes_on_though_its_topic_is_gone() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("c")
        cursor = DescribeTopicPartitionsCursor(topic_name="b", partition_index=7)
        answer = await mesh.answer(DescribeTopicPartitionsRequest(cursor=cursor), 0)
        assert [topic.name for topic in answer.topics] == ["c"]
        assert [row.partition_index for row in answer.topics[0].partitions] == [0]
        beyond = DescribeTopicPartitionsCursor(topic_name="c", partition_index=7)
        answer = await mesh.answer(DescribeTopicPartitionsRequest(cursor=beyond), 0)
        assert [topic.partitions for topic in answer.topics] == [[]]
        assert answer.next_cursor is None

    run(scene)


def test_a_page_before_the_first_partition() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("c")
        cursor = DescribeTopicPartitionsCursor(topic_name="c", partition_index=-1)
        request = DescribeTopicPartitionsRequest(topics=[TopicRequest(name="c")], cursor=cursor)
        answer = await mesh.answer(request, 0)
        assert [(topic.name, topic.error_code) for topic in answer.topics] == [("c", ErrorCode.INVALID_REQUEST)]

    run(scene)


def test_what_cannot_be_described() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("closed/x")
        await mesh.made("open")
        codes = [(await one(mesh, name, BOB)).error_code for name in ("nobody", "closed.x", "closed.y", "a..b", "open")]
        assert codes == [
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.TOPIC_AUTHORIZATION_FAILED,
            ErrorCode.TOPIC_AUTHORIZATION_FAILED,
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            ErrorCode.NONE,
        ]
        assert await pages(mesh, limit=9, principal=BOB) == [[("open", [0])]]
        assert (await one(mesh, "nobody")).topic_authorized_operations == NOT_ASKED_FOR

    run(scene, BOB_SEES_OPEN)


def test_what_may_be_done_with_a_topic() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("hers", principal=ALICE)
        hers = await one(mesh, "hers", ALICE)
        his = await one(mesh, "hers", BOB)
        assert operations(hers.topic_authorized_operations) == {3, 4, 6, 7, 8, 10, 11}
        assert operations(his.topic_authorized_operations) == {3, 8, 10}
        mesh.topic("hers").channel.creator = BOB.name
        his = await one(mesh, "hers", BOB)
        assert operations(his.topic_authorized_operations) == {3, 8, 10}, "he may make nothing any more"

    run(scene, BOB_ONLY_READS)


def test_a_room_that_is_not_open_is_not_seen() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("room")
        mesh.broker.core.permits = lambda principal, agent, name: principal is ALICE
        assert (await one(mesh, "room", ALICE)).error_code == 0
        assert (await one(mesh, "room", BOB)).error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED

    run(scene)


# -- leaders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize(
    ("current", "epoch", "expected"),
    [
        (-1, 0, (0, 0, 3)),
        (0, 0, (0, 0, 3)),
        (0, 1, (0, -1, -1)),
        (0, -1, (0, -1, -1)),
        (1, 0, (ErrorCode.UNKNOWN_LEADER_EPOCH, -1, -1)),
    ],
)
def test_up_to_where_a_leader_has_written(
    version: int, current: int, epoch: int, expected: tuple[int, int, int]
) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.filled("t", 3)
        assert await ends(mesh, version, "t", 0, current, epoch) == expected

    run(scene)


def test_leaders_of_what_is_not_there_or_not_to_be_read() -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.filled("closed/x", 3)
        assert (await ends(mesh, 4, "closed.x", 1, -1, 0))[0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (await ends(mesh, 4, "nobody", 0, -1, 0))[0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (await ends(mesh, 4, "closed.x", 0, -1, 0, BOB))[0] == ErrorCode.TOPIC_AUTHORIZATION_FAILED

    run(scene, BOB_SEES_OPEN)


async def ends(
    mesh: Mesh, version: int, name: str, index: int, current: int, epoch: int, principal: Any = ALICE
) -> tuple[int, int, int]:
    """Error, epoch, end offset."""
    partition = OffsetForLeaderPartition(partition=index, current_leader_epoch=current, leader_epoch=epoch)
    request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic=name, partitions=[partition])])
    [topic] = (await mesh.answer(request, version, principal)).topics
    [row] = topic.partitions
    assert (topic.topic, row.partition) == (name, index)
    return row.error_code, row.leader_epoch, row.end_offset


@pytest.mark.parametrize("version", [8, 10, 13])
def test_metadata_says_what_may_be_done_where_asked(version: int) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.made("hers", principal=ALICE)
        asked = [MetadataRequestTopic(name="hers"), MetadataRequestTopic(name="a..b")]
        plain = await mesh.answer(MetadataRequest(topics=asked), version)
        assert {topic.topic_authorized_operations for topic in plain.topics} == {NOT_ASKED_FOR}
        assert plain.cluster_authorized_operations == NOT_ASKED_FOR
        request = MetadataRequest(topics=asked, include_topic_authorized_operations=True)
        request.include_cluster_authorized_operations = True
        for principal, expected in ((ALICE, {3, 4, 6, 7, 8, 10, 11}), (BOB, {3, 8, 10})):
            hers, wrong = (answer := await mesh.answer(request, version, principal)).topics
            assert operations(hers.topic_authorized_operations) == expected
            assert wrong.topic_authorized_operations == NOT_ASKED_FOR
            if version <= 10:
                assert operations(answer.cluster_authorized_operations) == {5, 8, 10, 12}

    run(scene, BOB_ONLY_READS)

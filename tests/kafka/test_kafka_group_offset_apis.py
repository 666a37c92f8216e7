"""The requests about committed offsets, by version, under every name of a topic, across restarts."""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path

import pytest
from group_mesh import BOB, Mesh, Play, deleting, run

from dragoman.adapters.kafka import offset_apis
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.names import listed
from dragoman.adapters.kafka.shapes_groups import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)
from dragoman.broker.gate_settings import RuleSettings


@pytest.fixture(params=["memory", "disk"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return partial(run, request.param, tmp_path)


@pytest.mark.parametrize("version", range(2, 11))
def test_offsets_are_committed_in_every_version_and_kept(play: Play, version: int) -> None:
    async def scene(mesh: Mesh) -> Mesh:
        assert await mesh.commit("factory.line1", 5, 6, version=version, metadata="näh") == [0, 0]
        member_id = await mesh.stable(group="h")
        assert await mesh.commit("stock", 9, version=version, group="h", generation=1, member_id=member_id) == [0]
        mesh = await mesh.restarted()
        fetched = await mesh.fetch("g", ("factory.line1", [0, 1, 2]))
        assert fetched.error_code == 0
        [topic] = fetched.topics
        rows = [(row.partition_index, row.committed_offset, row.metadata, row.error_code) for row in topic.partitions]
        assert rows == [(0, 5, "näh", 0), (1, 6, "näh", 0), (2, -1, "", 0)]
        [topic] = (await mesh.fetch("h")).topics
        assert [(row.committed_offset, row.committed_leader_epoch) for row in topic.partitions] == [(9, 0)]
        return mesh

    play(scene)


@pytest.mark.parametrize("version", range(1, 8))
@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_offsets_are_fetched_in_the_old_versions(play: Play, version: int) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.commit("factory.line1", 5)
        topics = [OffsetFetchRequestTopic(name="factory.line1", partition_indexes=[0, 3])]
        request = OffsetFetchRequest(group_id="g", topics=topics)
        answer = await mesh.answer(offset_apis.offset_fetch, request, version)
        assert answer.error_code == 0
        [topic] = answer.topics
        assert [(row.partition_index, row.committed_offset) for row in topic.partitions] == [(0, 5), (3, -1)]
        if version >= 2:
            everything = OffsetFetchRequest(group_id="g", topics=None)
            [topic] = (await mesh.answer(offset_apis.offset_fetch, everything, version)).topics
            assert [(topic.name, row.committed_offset) for row in topic.partitions] == [("factory.line1", 5)]

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_offsets_are_fetched_by_topic_id_for_several_groups(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.commit("stock", 5)
        topic_id = mesh.id_of("stock")
        unknown = uuid.UUID(int=77)
        wanted = [
            OffsetFetchRequestTopics(topic_id=topic_id, partition_indexes=[0]),
            OffsetFetchRequestTopics(topic_id=unknown, partition_indexes=[0]),
        ]
        groups = [
            OffsetFetchRequestGroup(group_id="g", topics=wanted),
            OffsetFetchRequestGroup(group_id="g", topics=None),
            OffsetFetchRequestGroup(group_id="nobody", topics=wanted[:1]),
            OffsetFetchRequestGroup(group_id="nobody", topics=None),
        ]
        answer = await mesh.answer(offset_apis.offset_fetch, OffsetFetchRequest(groups=groups), 10)
        told = [
            [(t.topic_id, row.committed_offset, row.error_code) for t in g.topics for row in t.partitions]
            for g in answer.groups
        ]
        assert told == [
            [(topic_id, 5, 0), (unknown, -1, ErrorCode.UNKNOWN_TOPIC_ID)],
            [(topic_id, 5, 0)],
            [(topic_id, -1, 0)],
            [],
        ]
        assert [g.error_code for g in answer.groups] == [0, 0, 0, 0]

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_a_topic_is_one_topic_under_each_of_its_names(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        assert await mesh.commit("factory/line1", 5) == [0]
        [topic] = (await mesh.fetch("g", ("factory.line1", [0]))).topics
        assert topic.partitions[0].committed_offset == 5
        [topic] = (await mesh.fetch("g")).topics
        assert topic.name == "factory.line1"
        mesh.groups.on_topic_deleted(listed("factory/line1") or "")
        assert (await mesh.fetch("g")).topics == []

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_a_channel_a_group_reads_becomes_a_topic_and_no_name_becomes_a_channel(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        opened = mesh.broker.channels.open("news", "alice")
        assert mesh.broker.topics.find("news") is None, opened
        assert await mesh.commit("news", 1) == [0]
        assert mesh.broker.topics.find("news") is not None
        assert await mesh.commit("never", 1) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        [topic] = (await mesh.fetch("g", ("never", [0]))).topics
        assert [(row.committed_offset, row.error_code) for row in topic.partitions] == [(-1, 0)]
        assert mesh.broker.channels.find("never") is None

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_partitions_that_are_not_there_and_texts_too_long(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        assert await mesh.commit("stock", 1, 1) == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        assert await mesh.commit("stock", 1, metadata="m" * 4_096) == [0]
        assert await mesh.commit("stock", 1, metadata="m" * 4_097) == [ErrorCode.OFFSET_METADATA_TOO_LARGE]
        assert await mesh.commit("stock", 1, generation=3, member_id="m") == [ErrorCode.UNKNOWN_MEMBER_ID]
        assert await mesh.commit("stock", 1, group="") == [ErrorCode.INVALID_GROUP_ID]

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_old_clients_say_how_long_an_offset_holds(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.commit("stock", 1, version=4, retention_ms=1_000)
        offsets = mesh.groups.offsets("g")
        assert offsets is not None
        [(_, committed)] = offsets.items()
        assert committed.expires_ms == mesh.clock.now_ms() + 1_000

    play(scene)


def test_offsets_are_deleted(play: Play) -> None:
    async def scene(mesh: Mesh) -> Mesh:
        await mesh.commit("factory.line1", 5, 6)
        answer = await mesh.answer(offset_apis.offset_delete, deleting(("factory.line1", 0), ("stock", 0)), 0)
        assert answer.error_code == 0
        assert [(t.name, [row.error_code for row in t.partitions]) for t in answer.topics] == [
            ("factory.line1", [0]),
            ("stock", [0]),
        ]
        missing = await mesh.answer(offset_apis.offset_delete, deleting(group="h"), 0)
        assert missing.error_code == ErrorCode.GROUP_ID_NOT_FOUND
        mesh = await mesh.restarted()
        [topic] = (await mesh.fetch("g")).topics
        assert [row.partition_index for row in topic.partitions] == [1]
        return mesh

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_offsets_are_for_those_who_may_read_the_topic(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        no = ErrorCode.TOPIC_AUTHORIZATION_FAILED
        await mesh.commit("stock", 3)
        await mesh.commit("factory.line1", 4)
        assert await mesh.commit("stock", 5, principal=BOB) == [no]
        assert await mesh.commit("factory.line1", 5, principal=BOB) == [0]
        fetched = await mesh.fetch("g", ("stock", [0]), ("factory.line1", [0]), principal=BOB)
        rows = [(row.committed_offset, row.error_code) for t in fetched.topics for row in t.partitions]
        assert rows == [(-1, no), (5, 0)]
        assert [t.name for t in (await mesh.fetch("g", principal=BOB)).topics] == ["factory.line1"]

    play(scene, RuleSettings(effect="deny", who=("bob",), actions=("read",), filters=("stock",)))

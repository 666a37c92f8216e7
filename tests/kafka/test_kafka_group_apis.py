"""The requests about groups and offsets, by version, on a real broker: memory and disk, across restarts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dragoman.adapters.kafka import group_apis, offset_apis
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group_settings import GroupSettings
from dragoman.adapters.kafka.groups import Groups
from dragoman.adapters.kafka.names import Names, listed
from dragoman.adapters.kafka.shapes_groups import (
    DeleteGroupsRequest,
    DescribeGroupsRequest,
    FindCoordinatorRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    LeaveGroupRequest,
    ListGroupsRequest,
    MemberIdentity,
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
)
from dragoman.broker.broker import Broker
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.log.contract import Log
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.topics import Topic

ALICE = Principal("alice")
BOB = Principal("bob")
ROOT = Principal("root", admin=True)


class Ask:
    """One request, and its answer when it has come."""

    def __init__(self, mesh: Mesh, request: object, version: int, principal: Principal) -> None:
        self.request = request
        self.version = version
        self.client = "meter"
        self.session: Any = mesh.session(principal)
        self.on_gone: Callable[[], None] | None = None
        self.got: list[Any] = []

    def answer(self, response: object) -> None:
        assert not self.got, "answered twice"
        self.got.append(response)


class Mesh:
    """One process: a broker with its groups."""

    def __init__(self, log: Log, clock: ManualClock, gate: GateSettings | None = None) -> None:
        self.log: Any = log
        self.clock = clock
        self.gate_settings = gate or GateSettings()

    async def start(self) -> Mesh:
        gate = Gate(self.gate_settings)
        self.broker = Broker(
            BrokerSettings(),
            AgentSettings(),
            clock=self.clock,
            log=self.log,
            gate=gate,
            loop=asyncio.get_running_loop(),
            metrics=Metrics(),
        )
        await self.broker.start()
        names = Names(self.broker, "cluster")
        settings = GroupSettings(initial_delay_ms=0)
        groups = Groups(self.broker, settings, names.partition_exists)  # type: ignore[arg-type]
        self.names, self.groups = names, groups
        self.realm = SimpleNamespace(
            broker=self.broker, gate=gate, names=names, groups=groups, topics=self.broker.topics
        )
        self.topic("factory/line1", 4)
        self.topic("stock")
        await self.turn()
        return self

    def session(self, principal: Principal) -> Any:
        return SimpleNamespace(
            realm=self.realm, principal=principal, agent="", host="10.0.0.1", address=("mesh.example", 9092)
        )

    def topic(self, name: str, partitions: int = 1) -> None:
        if self.broker.topics.find(name) is None:
            made = self.broker.topics.create(self.session(ROOT), name, partitions=partitions)
            assert isinstance(made, Topic), made

    def id_of(self, topic: str) -> uuid.UUID:
        channel = self.names.partition(topic, 0)
        assert channel is not None
        return self.names.id_of(topic, channel.number)

    async def stop(self) -> None:
        self.groups.stop()
        await self.broker.stop()

    async def restarted(self) -> Mesh:
        await self.stop()
        if isinstance(self.log, MemoryLog):
            # The same rows, for a process that has not opened them yet.
            log: Any = self.log
            log._loop, log._closed = None, False
        else:
            log = DiskLog(self.log._settings, self.clock)
        return await Mesh(log, self.clock, self.gate_settings).start()

    async def turn(self) -> None:
        """Until nothing is left to do now."""
        for _ in range(3):
            while self.broker.timers.run_due():
                pass
            await self.log.idle()
            await asyncio.sleep(0)

    def ask(self, api: Callable[[Any], None], request: object, version: int, principal: Principal = ALICE) -> Ask:
        ask = Ask(self, request, version, principal)
        api(ask)
        return ask

    async def answer(
        self, api: Callable[[Any], None], request: object, version: int, principal: Principal = ALICE
    ) -> Any:
        ask = self.ask(api, request, version, principal)
        await self.turn()
        [answer] = ask.got
        return answer

    async def stable(self, version: int = 5, group: str = "g") -> str:
        """The id of the one member of a stable group, in generation 1."""
        joined = await self.answer(group_apis.join_group, join(group=group), version)
        if version >= 4:
            assert joined.error_code == ErrorCode.MEMBER_ID_REQUIRED
            joined = await self.answer(group_apis.join_group, join(joined.member_id, group=group), version)
        assert joined.error_code == ErrorCode.NONE
        member_id: str = joined.member_id
        assert (await self.answer(group_apis.sync_group, sync(member_id, group=group), 5)).assignment == b"share"
        return member_id

    async def commit(
        self, name: str, *offsets: int, version: int = 9, principal: Principal = ALICE, **how: Any
    ) -> list[int]:
        request = committing(name, *offsets, **how)
        if version >= 10:
            request.topics[0].topic_id = self.id_of(name)
            request.topics[0].name = ""
        answer = await self.answer(offset_apis.offset_commit, request, version, principal)
        [topic] = answer.topics
        assert (topic.name, topic.topic_id) == (request.topics[0].name, request.topics[0].topic_id)
        assert [row.partition_index for row in topic.partitions] == list(range(len(offsets)))
        return [row.error_code for row in topic.partitions]

    async def fetch(self, group: str = "g", *wanted: tuple[str, list[int]], principal: Principal = ALICE) -> Any:
        topics = [OffsetFetchRequestTopics(name=name, partition_indexes=indexes) for name, indexes in wanted]
        asked = OffsetFetchRequestGroup(group_id=group, topics=topics or None)
        answer = await self.answer(offset_apis.offset_fetch, OffsetFetchRequest(groups=[asked]), 9, principal)
        [fetched] = answer.groups
        assert fetched.group_id == group
        return fetched


def join(member_id: str = "", group: str = "g", instance: str | None = None, **how: Any) -> JoinGroupRequest:
    return JoinGroupRequest(
        group_id=group,
        session_timeout_ms=how.get("session_ms", 30_000),
        rebalance_timeout_ms=how.get("rebalance_ms", 60_000),
        member_id=member_id,
        group_instance_id=instance,
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol(name="range", metadata=how.get("metadata", b"meta"))],
    )


def sync(member_id: str, generation: int = 1, group: str = "g") -> SyncGroupRequest:
    shares = [SyncGroupRequestAssignment(member_id=member_id, assignment=b"share")]
    return SyncGroupRequest(group_id=group, generation_id=generation, member_id=member_id, assignments=shares)


def committing(
    name: str, *offsets: int, group: str = "g", metadata: str | None = None, retention_ms: int = -1, **member: Any
) -> OffsetCommitRequest:
    """The offsets of partitions 0, 1, …"""
    rows = [
        OffsetCommitRequestPartition(
            partition_index=index, committed_offset=offset, committed_leader_epoch=0, committed_metadata=metadata
        )
        for index, offset in enumerate(offsets)
    ]
    return OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=member.get("generation", -1),
        member_id=member.get("member_id", ""),
        retention_time_ms=retention_ms,
        topics=[OffsetCommitRequestTopic(name=name, topic_id=uuid.UUID(int=0), partitions=rows)],
    )


Scene = Callable[[Mesh], Coroutine[Any, Any, Mesh | None]]
Play = Callable[..., None]


@pytest.fixture(params=["memory", "disk"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    def run(scene: Scene, *rules: RuleSettings) -> None:
        async def main() -> None:
            clock = ManualClock()
            log: Log = MemoryLog(clock=clock)
            if request.param == "disk":
                folder = tmp_path / "log"
                log = DiskLog(LogSettings(folder=folder, reserve_free_bytes=0, map_bytes=1 << 28, threads=False), clock)
            mesh = await Mesh(log, clock, GateSettings(rules=rules)).start()
            await ((await scene(mesh)) or mesh).stop()

        asyncio.run(main())

    return run


# -- finding the coordinator -----------------------------------------------------------------------


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_we_coordinate_everything(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        old = await mesh.answer(group_apis.find_coordinator, FindCoordinatorRequest(key="g"), 0)
        assert (old.error_code, old.node_id, old.host, old.port) == (0, 0, "mesh.example", 9092)
        for key_type in (0, 1, 2):
            request = FindCoordinatorRequest(key_type=key_type, coordinator_keys=["g", "h"])
            new = await mesh.answer(group_apis.find_coordinator, request, 6)
            assert [(c.key, c.error_code, c.host) for c in new.coordinators] == [
                ("g", 0, "mesh.example"),
                ("h", 0, "mesh.example"),
            ]
        odd = await mesh.answer(group_apis.find_coordinator, FindCoordinatorRequest(key="g", key_type=9), 3)
        assert odd.error_code == ErrorCode.INVALID_REQUEST
        empty = await mesh.answer(group_apis.find_coordinator, FindCoordinatorRequest(key=""), 3)
        assert (empty.error_code, empty.node_id) == (ErrorCode.INVALID_GROUP_ID, -1)

    play(scene)


# -- a member's life -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(10))
def test_a_members_life_in_every_version_of_joining(play: Play, version: int) -> None:
    async def scene(mesh: Mesh) -> None:
        member_id = await mesh.stable(version)
        assert member_id.startswith("meter-")
        beat = HeartbeatRequest(group_id="g", generation_id=1, member_id=member_id)
        assert (await mesh.answer(group_apis.heartbeat, beat, 4)).error_code == 0
        leave = LeaveGroupRequest(group_id="g", member_id=member_id)
        assert (await mesh.answer(group_apis.leave_group, leave, 2)).error_code == 0
        assert (await mesh.answer(group_apis.heartbeat, beat, 4)).error_code == ErrorCode.UNKNOWN_MEMBER_ID

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_what_a_join_says(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        first = await mesh.answer(group_apis.join_group, join(), 3)
        assert (first.protocol_type, first.protocol_name, first.leader) == ("consumer", "range", first.member_id)
        assert [(m.member_id, m.metadata) for m in first.members] == [(first.member_id, b"meta")]
        for version, none in ((6, ""), (7, None)):
            refused = await mesh.answer(group_apis.join_group, join("nobody"), version)
            assert refused.error_code == ErrorCode.UNKNOWN_MEMBER_ID
            assert (refused.protocol_name, refused.generation_id, refused.member_id) == (none, -1, "nobody")
        assert (await mesh.answer(group_apis.join_group, join(group=""), 5)).error_code == ErrorCode.INVALID_GROUP_ID
        long = join(group="g" * 1_025)
        assert (await mesh.answer(group_apis.join_group, long, 5)).error_code == ErrorCode.INVALID_GROUP_ID

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_the_oldest_joins_rebalance_within_their_session(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        old = join(session_ms=7_000, rebalance_ms=-1)
        await mesh.answer(group_apis.join_group, old, 0)
        group = mesh.groups.find("g")
        assert group is not None
        assert group.roster.rebalance_ms() == 7_000

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_answers_that_wait_may_lose_their_connection(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        member_id = await mesh.stable()
        again = mesh.ask(group_apis.join_group, join(member_id), 5)
        waiting = mesh.ask(group_apis.join_group, join(), 3)
        for ask in (again, waiting):
            assert ask.on_gone is not None
            ask.on_gone()
        await mesh.turn()
        assert not again.got
        assert not waiting.got
        group = mesh.groups.find("g")
        assert group is not None
        assert len(group.roster.members) == 2

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_requests_about_groups_nobody_knows(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        beat = HeartbeatRequest(group_id="g", generation_id=1, member_id="m")
        assert (await mesh.answer(group_apis.heartbeat, beat, 4)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert (await mesh.answer(group_apis.sync_group, sync("m"), 5)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
        leave = LeaveGroupRequest(group_id="g", member_id="m")
        assert (await mesh.answer(group_apis.leave_group, leave, 1)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
        batch = LeaveGroupRequest(group_id="g", members=[MemberIdentity(member_id="m"), MemberIdentity(member_id="n")])
        left = await mesh.answer(group_apis.leave_group, batch, 5)
        assert left.error_code == 0
        assert [(m.member_id, m.error_code) for m in left.members] == [("m", 25), ("n", 25)]

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_several_leave_at_once_each_with_an_answer(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        member_id = await mesh.stable()
        mesh.ask(group_apis.join_group, join(instance="i"), 5)
        leavers = [
            MemberIdentity(member_id="", group_instance_id="i"),
            MemberIdentity(member_id=member_id),
            MemberIdentity(member_id=member_id),
        ]
        left = await mesh.answer(group_apis.leave_group, LeaveGroupRequest(group_id="g", members=leavers), 3)
        assert [(m.member_id, m.group_instance_id, m.error_code) for m in left.members] == [
            ("", "i", 0),
            (member_id, None, 0),
            (member_id, None, ErrorCode.UNKNOWN_MEMBER_ID),
        ]

    play(scene)


# -- offsets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(2, 11))
def test_offsets_are_committed_in_every_version_and_kept(play: Play, version: int) -> None:
    async def scene(mesh: Mesh) -> Mesh:
        assert await mesh.commit("factory.line1", 5, 6, version=version, metadata="näh") == [0, 0]
        for generation, member_id in ((1, await mesh.stable(group="h")),):
            how = {"group": "h", "generation": generation, "member_id": member_id}
            assert await mesh.commit("stock", 9, version=version, **how) == [0]
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


def deleting(*wanted: tuple[str, int], group: str = "g") -> OffsetDeleteRequest:
    topics = [
        OffsetDeleteRequestTopic(name=name, partitions=[OffsetDeleteRequestPartition(partition_index=index)])
        for name, index in wanted
    ]
    return OffsetDeleteRequest(group_id=group, topics=topics)


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


# -- looking after groups --------------------------------------------------------------------------


def test_groups_are_listed_described_and_deleted(play: Play) -> None:
    async def scene(mesh: Mesh) -> Mesh:
        member_id = await mesh.stable()
        await mesh.commit("stock", 1, group="plain")
        listing = ListGroupsRequest()
        told = (await mesh.answer(group_apis.list_groups, listing, 5)).groups
        rows = {(g.group_id, g.protocol_type, g.group_state, g.group_type) for g in told}
        assert rows == {("g", "consumer", "Stable", "classic"), ("plain", "", "Empty", "classic")}
        for states, types, expected in (
            (["stable"], [], {"g"}),
            (["Empty", "Dead"], [], {"plain"}),
            ([], ["Classic"], {"g", "plain"}),
            ([], ["consumer"], set()),
            (["PreparingRebalance"], [], set()),
        ):
            listing = ListGroupsRequest(states_filter=states, types_filter=types)
            assert {g.group_id for g in (await mesh.answer(group_apis.list_groups, listing, 5)).groups} == expected

        describing = DescribeGroupsRequest(groups=["g", "plain"], include_authorized_operations=True)
        g, plain = (await mesh.answer(group_apis.describe_groups, describing, 5)).groups
        assert (g.group_state, g.protocol_type, g.protocol_data) == ("Stable", "consumer", "range")
        [member] = g.members
        assert (member.member_id, member.client_id, member.client_host) == (member_id, "meter", "/10.0.0.1")
        assert (member.member_metadata, member.member_assignment) == (b"meta", b"share")
        assert (plain.group_state, plain.protocol_data, plain.members) == ("Empty", "", [])
        assert g.authorized_operations == 1 << 3 | 1 << 6 | 1 << 8

        deleting = DeleteGroupsRequest(groups_names=["g", "plain", "nobody"])
        deleted = await mesh.answer(group_apis.delete_groups, deleting, 2)
        assert {(r.group_id, r.error_code) for r in deleted.results} == {
            ("g", ErrorCode.NON_EMPTY_GROUP),
            ("plain", 0),
            ("nobody", ErrorCode.GROUP_ID_NOT_FOUND),
        }
        mesh = await mesh.restarted()
        assert [group.name for group in mesh.groups.all()] == ["g"]
        return mesh

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_groups_nobody_knows_are_dead_or_not_found_by_version(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        for version, error in ((5, 0), (6, ErrorCode.GROUP_ID_NOT_FOUND)):
            [told] = (
                await mesh.answer(group_apis.describe_groups, DescribeGroupsRequest(groups=["x"]), version)
            ).groups
            assert (told.error_code, told.group_state, told.group_id) == (error, "Dead", "x")
            assert told.authorized_operations == -2147483648
        assert (await mesh.answer(group_apis.delete_groups, DeleteGroupsRequest(), 2)).results == []

    play(scene)


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_between_generations_a_description_promises_nothing(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        member_id = await mesh.stable()
        mesh.ask(group_apis.join_group, join(instance="i"), 5)
        [told] = (await mesh.answer(group_apis.describe_groups, DescribeGroupsRequest(groups=["g"]), 5)).groups
        assert (told.group_state, told.protocol_data) == ("PreparingRebalance", "")
        assert [(m.member_metadata, m.member_assignment) for m in told.members] == [(b"", b"")] * 2
        assert member_id in {m.member_id for m in told.members}

    play(scene)


# -- who may ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_the_gate_decides_who_uses_a_group(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        no = ErrorCode.GROUP_AUTHORIZATION_FAILED
        await mesh.stable()
        asks: list[tuple[Callable[[Any], None], object]] = [
            (group_apis.join_group, join()),
            (group_apis.sync_group, sync("m")),
            (group_apis.heartbeat, HeartbeatRequest(group_id="g", generation_id=1, member_id="m")),
            (group_apis.leave_group, LeaveGroupRequest(group_id="g", member_id="m")),
            (group_apis.find_coordinator, FindCoordinatorRequest(key="g")),
            (offset_apis.offset_delete, OffsetDeleteRequest(group_id="g")),
        ]
        for api, request in asks:
            assert (await mesh.answer(api, request, 0, BOB)).error_code == no, api
        assert await mesh.commit("stock", 1, principal=BOB) == [no]
        assert (await mesh.fetch("g", ("stock", [0]), principal=BOB)).error_code == no
        old = OffsetFetchRequest(group_id="g", topics=[OffsetFetchRequestTopic(name="stock", partition_indexes=[0])])
        [topic] = (await mesh.answer(offset_apis.offset_fetch, old, 1, BOB)).topics
        assert [(row.committed_offset, row.error_code) for row in topic.partitions] == [(-1, no)]
        deleted = await mesh.answer(group_apis.delete_groups, DeleteGroupsRequest(groups_names=["g"]), 2, BOB)
        assert [r.error_code for r in deleted.results] == [no]
        [told] = (await mesh.answer(group_apis.describe_groups, DescribeGroupsRequest(groups=["g"]), 5, BOB)).groups
        assert (told.error_code, told.members) == (no, [])
        assert (await mesh.answer(group_apis.list_groups, ListGroupsRequest(), 5, BOB)).groups == []
        assert (await mesh.answer(group_apis.join_group, join(group="free"), 3, BOB)).error_code == 0

    play(scene, RuleSettings(effect="deny", who=("bob",), actions=("join",), filters=("group/g",)))


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


@pytest.mark.parametrize("play", ["memory"], indirect=True)
def test_only_who_made_a_group_or_an_administrator_deletes_it(play: Play) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.commit("stock", 3)
        request = DeleteGroupsRequest(groups_names=["g"])
        [result] = (await mesh.answer(group_apis.delete_groups, request, 2, BOB)).results
        assert result.error_code == ErrorCode.GROUP_AUTHORIZATION_FAILED
        refused = await mesh.answer(offset_apis.offset_delete, deleting(("stock", 0)), 0, BOB)
        assert refused.error_code == ErrorCode.GROUP_AUTHORIZATION_FAILED
        [result] = (await mesh.answer(group_apis.delete_groups, request, 2, ROOT)).results
        assert result.error_code == 0

    play(scene)

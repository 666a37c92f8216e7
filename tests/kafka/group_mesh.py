"""Groups on a real broker, memory and disk, asked by requests; ``restarted`` is the next process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dragoman.adapters.kafka import group_apis, offset_apis
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group_settings import GroupSettings
from dragoman.adapters.kafka.groups import Groups
from dragoman.adapters.kafka.names import Names
from dragoman.adapters.kafka.shapes_groups import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
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


def deleting(*wanted: tuple[str, int], group: str = "g") -> OffsetDeleteRequest:
    topics = [
        OffsetDeleteRequestTopic(name=name, partitions=[OffsetDeleteRequestPartition(partition_index=index)])
        for name, index in wanted
    ]
    return OffsetDeleteRequest(group_id=group, topics=topics)


def run(kind: str, tmp_path: Path, scene: Scene, *rules: RuleSettings) -> None:
    """Plays a scene on one engine; what it gives back is the process to stop."""

    async def main() -> None:
        clock = ManualClock()
        log: Log = MemoryLog(clock=clock)
        if kind == "disk":
            folder = tmp_path / "log"
            log = DiskLog(LogSettings(folder=folder, reserve_free_bytes=0, map_bytes=1 << 28, threads=False), clock)
        mesh = await Mesh(log, clock, GateSettings(rules=rules)).start()
        await ((await scene(mesh)) or mesh).stop()

    asyncio.run(main())

"""Any order of joins, syncs, heartbeats, leaves, commits, cut connections, failed writes, crashes and time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from coordinator_world import DISK, OK, Answer, World
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group_member import Joined
from dragoman.adapters.kafka.group_state import State

TOPICS = [("range", b"r"), ("sticky", b"s")]


class Client:
    """A consumer that does what consumers do with an answer, when the test lets it look."""

    def __init__(self, story: Story, instance: str | None) -> None:
        self.story = story
        self.instance = instance
        self.known_only = story.rng.random() < 0.7
        self.member_id = ""
        self.generation = -1
        self.members: tuple[str, ...] | None = None
        self.asked: Answer | None = None
        self.alive = True

    def join(self) -> None:
        world, rng = self.story.world, self.story.rng
        self.asked = world.join(
            self.member_id,
            self.instance,
            known_only=self.known_only,
            can_skip=rng.random() < 0.5,
            protocols=TOPICS if rng.random() < 0.8 else TOPICS[:1],
            session_ms=rng.choice((400, 1_000, 4_000)),
            rebalance_ms=rng.choice((300, 1_500)),
        )
        self.story.asked.append(self.asked)

    def sync(self) -> None:
        shares = {m: f"{m}@{self.generation}".encode() for m in self.members} if self.members is not None else None
        self.asked = self.story.world.sync(self.member_id, self.generation, shares, self.instance)
        self.story.asked.append(self.asked)

    def look(self) -> None:
        """Reads its answer and goes on from there."""
        answer = self.asked
        if answer is None or answer.waits:
            return
        self.asked = None
        value = answer.value
        if isinstance(value, Joined):
            self.story.heard(self, value)
            if value.error is ErrorCode.MEMBER_ID_REQUIRED:
                self.member_id = value.member_id
            elif value.error is OK:
                self.member_id, self.generation = value.member_id, value.generation
                leads = value.leader == value.member_id and not value.skip_assignment
                self.members = tuple(m[0] for m in value.members) if leads else None
                self.sync()
            else:
                self.failed(value.error)
        elif value.error is OK:
            expected = f"@{self.generation}".encode()
            assert not value.assignment or value.assignment.endswith(expected), (value.assignment, expected)
        else:
            self.failed(value.error)

    def failed(self, error: ErrorCode) -> None:
        if error in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
            self.member_id, self.generation = "", -1

    def cut(self) -> None:
        if self.asked is not None and self.asked.waits:
            self.asked.gone()
            self.story.cut.add(id(self.asked))
        self.asked = None


class Story:
    """A group, its clients and what was told to whom."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(slow=True, initial_delay_ms=50, members_max=5)
        self.clients = [Client(self, f"i{n}" if n < 2 else None) for n in range(6)]
        self.asked: list[Answer] = []
        self.cut: set[int] = set()
        self.generation = 0
        self.leaders: dict[int, str] = {}
        self.protocols: dict[int, str | None] = {}

    def heard(self, client: Client, joined: Joined) -> None:
        """What one member is told must fit what all others were told."""
        if joined.error is not OK:
            assert joined.generation == -1
            return
        assert joined.generation > 0
        self.generation = max(self.generation, joined.generation)
        assert self.protocols.setdefault(joined.generation, joined.protocol) == joined.protocol
        if joined.members:
            assert joined.leader == joined.member_id, "only the leader is told who is there"
            assert joined.member_id in {m[0] for m in joined.members}
        if joined.leader == joined.member_id and not joined.skip_assignment:
            assert self.leaders.setdefault(joined.generation, joined.member_id) == joined.member_id, "two leaders"

    def crash(self) -> None:
        for client in self.clients:
            client.cut()
        self.world.groups.stop()
        self.asked = []
        self.world = self.world.crashed()
        group = self.world.groups.find("g")
        if self.generation:
            assert group is not None, "a group that told a generation is remembered"
            assert group.generation >= self.generation

    def step(self) -> None:
        rng, world = self.rng, self.world
        client = rng.choice(self.clients)
        idle = client.asked is None
        acts: list[Callable[[], object]] = [
            client.look,
            client.look,
            client.look,
            lambda: world.mesh.end_commit(),
            lambda: world.mesh.end_commit(),
            lambda: world.mesh.end_commit(DISK if rng.random() < 0.1 else None),
            lambda: world.wait(rng.choice((1, 20, 100, 400))),
            client.cut if rng.random() < 0.2 else client.look,
            self.crash if rng.random() < 0.04 else client.look,
        ]
        if idle:
            acts += [client.join, client.join]
        if world.groups.find("g") is not None and client.member_id:
            acts.append(lambda: world.heartbeat(client.member_id, client.generation, client.instance))
            acts.append(
                lambda: world.commit_offset(
                    member_id=client.member_id, instance=client.instance, generation=client.generation
                )
            )
            if idle and rng.random() < 0.2:
                acts.append(lambda: world.leave(client.member_id, client.instance))
                acts.append(client.sync)
        before = self.told()
        rng.choice(acts)()
        self.world.groups.check()
        assert self.told() >= before or self.world is not world, "a generation never goes back"

    def told(self) -> int:
        group = self.world.groups.find("g")
        return group.generation if group is not None else 0

    def settle(self) -> None:
        """Left alone, with a disk that works, whoever wants to be in it gets its share and nobody waits for ever."""
        for _ in range(400):
            for client in self.clients[:4]:
                client.look()
                if client.asked is None:
                    group = self.world.groups.find("g")
                    beats = group is not None and client.member_id and client.generation >= 0
                    if not beats:
                        client.join()
                        continue
                    error = self.world.heartbeat(client.member_id, client.generation, client.instance)
                    if error is not OK:
                        client.failed(error)
                        client.join()
            self.world.wait(20)
            while self.world.mesh.end_commit():
                pass
        assert self.world.state is State.STABLE
        members = self.world.group.roster.members
        assert {c.member_id for c in self.clients[:4]} == set(members)
        assert {c.generation for c in self.clients[:4]} == {self.world.group.generation}
        waiting = [a for a in self.asked if a.waits and id(a) not in self.cut]
        assert not waiting, "somebody was never answered"


def tell(seed: int, steps: int) -> None:
    story = Story(seed)
    for _ in range(steps):
        story.step()
    for client in story.clients[4:]:
        client.cut()
    story.settle()


@settings(max_examples=30, derandomize=True, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 250))
def test_any_story_ends_well(seed: int, steps: int) -> None:
    tell(seed, steps)


@pytest.mark.parametrize("seed", range(5))
def test_long_stories_end_well(seed: int) -> None:
    tell(seed, 600)

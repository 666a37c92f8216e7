from __future__ import annotations

import json

import pytest
from agents_world import ALICE, BOB, FakeSession, Rows, World

from dragoman.broker.clock import ManualClock
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.ids import fresh_id, is_uuid7
from dragoman.broker.log.contract import Table
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.broker.rooms import Room, Rooms
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.names import to_level
from dragoman.routing.refusals import Reason, Refusal

EVE = Principal("eve")


class RoomWorld(World):
    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.closed: list[str] = []
        self.changes = 0
        self.rooms = Rooms(
            self.clock,
            self.timers,
            self.directory,
            self.gate,
            self.log,
            self.tell,
            self.later,
            self.closed.append,
            self._changed,
            self.settings,
        )
        self.rooms.start()

    def _changed(self) -> None:
        self.changes += 1

    def open(self, session: FakeSession, **options) -> Room:
        room = self.rooms.open(session, **options)
        assert not isinstance(room, Refusal), room
        return room

    def after_crash(self) -> RoomWorld:
        return RoomWorld(self.settings, log=Rows(self.log.kept), clock=ManualClock(self.clock.now_ms()))


def reason(answer: object) -> Reason | None:
    return answer.reason if isinstance(answer, Refusal) else None


def test_a_room_is_for_its_owner_and_the_invited() -> None:
    world = RoomWorld()
    owner = world.arrive("owner")
    world.arrive("guest", BOB)
    room = world.open(owner, invited=["guest", "later"])
    assert room.name.startswith("room/")
    assert is_uuid7(room.name.removeprefix("room/"))
    may = world.rooms.permits
    for name in (room.name, f"{room.name}/below", f"$mesh/v1/channels/{to_level(room.name)}/members/guest"):
        assert may(ALICE, "owner", name)
        assert may(BOB, "guest", name)
        assert may(EVE, "later", name), "nobody's when it was invited: whoever takes it"
        assert may(Principal("root", admin=True), "", name)
        assert not may(EVE, "guest", name), "the guest is Bob's"
        assert not may(ALICE, "another", name)
        assert not may(EVE, "", name)
        assert not may(EVE, "owner", name)


def test_what_is_no_room_is_none_of_its_business() -> None:
    world = RoomWorld()
    for name in (
        "plant/temp",
        "room/kitchen/temp",
        "room/",
        "room",
        "$mesh/v1/channels/room%2Fkitchen",
        "$mesh/v1/presence/a",
    ):
        assert world.rooms.permits(EVE, "", name)
    assert not world.rooms.permits(EVE, "", f"room/{fresh_id(0)}"), "nobody makes a room by using a name"


def test_inviting_opens_the_door_and_is_the_owners() -> None:
    world = RoomWorld(AgentSettings(room_invites_max=2))
    owner, guest = world.arrive("owner"), world.arrive("guest", BOB)
    room = world.open(owner)
    assert not world.rooms.permits(BOB, "guest", room.name)
    assert reason(world.rooms.invite(guest, room.name, ["guest"])) is Reason.NOT_AUTHORIZED
    changes = world.changes
    assert world.rooms.invite(owner, room.name, ["guest"]) is None
    assert world.changes > changes
    assert world.rooms.permits(BOB, "guest", room.name)
    assert reason(world.rooms.invite(owner, room.name, ["x", "y"])) is Reason.QUOTA_EXCEEDED
    assert not world.rooms.permits(EVE, "x", room.name), "all or none"
    assert reason(world.rooms.invite(owner, room.name, ["\n"])) is Reason.NAME_INVALID
    assert reason(world.rooms.invite(owner, "room/none", ["a"])) is Reason.UNKNOWN_CHANNEL


def test_the_room_closes_with_its_lease_and_its_members_are_told() -> None:
    world = RoomWorld()
    owner = world.arrive("owner")
    room = world.open(owner, title="plan", lease_ms=10_000)
    world.wait(9_000)
    assert world.rooms.renew(owner, room.name, 10_000) is None
    world.wait(9_000)
    assert world.closed == []
    world.take_news()
    world.clock.advance(2_000)
    world.timers.run_due()
    news = f"$mesh/v1/channels/{to_level(room.name)}"
    [(name, payload)] = world.news
    assert name == news
    assert json.loads(payload)["closed"] == "lease-ended"
    assert world.closed == [room.name]
    assert not world.rooms.permits(ALICE, "owner", room.name)
    assert world.rooms.permits(ALICE, "owner", news), "who was inside may hear of the end"
    world.turn()
    assert not world.rooms.permits(ALICE, "owner", news)
    assert not list(world.log.rows(Table.ROOMS))
    assert reason(world.rooms.renew(owner, room.name)) is Reason.UNKNOWN_CHANNEL


def test_only_the_owner_closes_it() -> None:
    world = RoomWorld()
    owner, guest = world.arrive("owner"), world.arrive("guest", BOB)
    room = world.open(owner, invited=["guest"])
    assert reason(world.rooms.close(guest, room.name)) is Reason.NOT_AUTHORIZED
    assert reason(world.rooms.renew(guest, room.name)) is Reason.NOT_AUTHORIZED
    assert isinstance(world.rooms.get(BOB, "guest", room.name), Room)
    assert reason(world.rooms.get(EVE, "eve", room.name)) is Reason.UNKNOWN_CHANNEL
    assert world.rooms.close(owner, room.name) is None
    assert world.closed == [room.name]
    world.wait(10**8)
    assert world.closed == [room.name], "it closes once"
    assert len(world.rooms) == 0


def test_rooms_are_bounded() -> None:
    world = RoomWorld(AgentSettings(rooms_per_principal_max=2, rooms_max=3))
    owner, other = world.arrive("owner"), world.arrive("other", BOB)
    rooms = [world.open(owner) for _ in range(2)]
    assert reason(world.rooms.open(owner)) is Reason.QUOTA_EXCEEDED
    world.open(other)
    assert reason(world.rooms.open(other)) is Reason.QUOTA_EXCEEDED
    world.rooms.close(owner, rooms[0].name)
    world.open(owner)
    assert reason(world.rooms.open(other, title="x" * 1_000)) is Reason.ARGUMENTS_INVALID
    assert len({room.name for room in rooms}) == 2


def test_the_gate_judges_opening() -> None:
    rule = RuleSettings(effect="deny", who=("bob",), actions=("create",), filters=("room/#",))
    world = RoomWorld(gate=GateSettings(rules=(rule,)))
    assert reason(world.rooms.open(world.arrive("b", BOB))) is Reason.NOT_AUTHORIZED
    world.open(world.arrive("a"))


def test_rooms_survive_a_crash_and_those_whose_lease_ended_close() -> None:
    world = RoomWorld()
    world.arrive("guest", BOB)
    owner = world.arrive("owner")
    short = world.open(owner, lease_ms=5_000)
    room = world.open(owner, title="plan", invited=["guest"], lease_ms=60_000)
    world.clock.advance(10_000)
    world = world.after_crash()
    world.wait(10)
    assert world.closed == [short.name]
    assert world.rooms.permits(BOB, "guest", room.name)
    assert not world.rooms.permits(EVE, "guest", room.name)
    assert world.rooms.about(room.name)["title"] == "plan"
    assert world.rooms.about(short.name) == {}
    world.wait(60_000)
    assert world.closed == [short.name, room.name]


def test_a_room_of_an_anonymous_caller_is_not_everybodys_agents() -> None:
    world = RoomWorld()
    room = world.open(world.arrive("device", ANONYMOUS))
    assert world.rooms.permits(ANONYMOUS, "device", room.name)
    assert not world.rooms.permits(ANONYMOUS, "", room.name)
    assert not world.rooms.permits(ANONYMOUS, "other", room.name)


@pytest.mark.parametrize("now_ms", [0, 1_700_000_000_000, (1 << 48) - 1])
def test_ids_are_uuids_of_version_7(now_ms: int) -> None:
    import uuid

    text = fresh_id(now_ms)
    parsed = uuid.UUID(text)
    assert is_uuid7(text)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert int(text.replace("-", "")[:12], 16) == now_ms
    assert len({fresh_id(now_ms) for _ in range(1_000)}) == 1_000
    assert not is_uuid7(str(uuid.UUID(int=0)))

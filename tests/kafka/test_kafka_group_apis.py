"""The requests of members and of those who look after groups, by version."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from group_mesh import BOB, ROOT, Mesh, Play, deleting, join, run, sync

from dragoman.adapters.kafka import group_apis, offset_apis
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.shapes_groups import (
    DeleteGroupsRequest,
    DescribeGroupsRequest,
    FindCoordinatorRequest,
    HeartbeatRequest,
    LeaveGroupRequest,
    ListGroupsRequest,
    MemberIdentity,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    OffsetFetchRequestTopic,
)
from dragoman.broker.gate_settings import RuleSettings


@pytest.fixture(params=["memory", "disk"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return partial(run, request.param, tmp_path)


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

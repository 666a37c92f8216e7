"""In a group: shares, heartbeats, sessions, leaving, static members."""

from __future__ import annotations

import pytest
from coordinator_world import OK, World

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.consumer_blobs import NOTHING_ASSIGNED, subscribed
from dragoman.adapters.kafka.group_member import Joined
from dragoman.adapters.kafka.group_state import State


def about(*topics: str, user_data: bytes = b"") -> bytes:
    """What a consumer says of itself."""
    names = b"".join(len(t.encode()).to_bytes(2, "big") + t.encode() for t in topics)
    return b"\0\1" + len(topics).to_bytes(4, "big") + names + len(user_data).to_bytes(4, "big") + user_data


def two_joined(world: World, **how: object) -> tuple[Joined, Joined]:
    """Leader and follower who have not asked for their shares."""
    joins = [world.join(**how), world.join(**how)]
    world.wait(200)
    leader, follower = sorted((j.value for j in joins), key=lambda j: j.member_id != j.leader)
    return leader, follower


# -- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("leader_first", [True, False])
def test_shares_are_given_when_the_leader_brings_them(leader_first: bool) -> None:
    world = World()
    leader, follower = two_joined(world)
    shares = {leader.member_id: b"L", follower.member_id: b"F", "nobody": b"N"}
    if leader_first:
        assert world.sync(leader.member_id, 1, shares).value.assignment == b"L"
        assert world.sync(follower.member_id, 1).value.assignment == b"F"
    else:
        waiting = world.sync(follower.member_id, 1)
        assert waiting.waits
        assert world.sync(leader.member_id, 1, shares).value.assignment == b"L"
        assert waiting.value.assignment == b"F"
        assert (waiting.value.protocol_type, waiting.value.protocol) == ("test", "range")
    assert world.state is State.STABLE


def test_what_a_follower_brings_is_not_handed_out() -> None:
    world = World()
    leader, follower = two_joined(world)
    waiting = world.sync(follower.member_id, 1, {leader.member_id: b"bad", follower.member_id: b"bad"})
    world.sync(leader.member_id, 1, {follower.member_id: b"F"})
    assert waiting.value.assignment == b"F"


def test_a_share_may_be_asked_for_again() -> None:
    world = World()
    _, follower = world.stable(2)
    assert world.sync(follower.member_id, 1).value.assignment == follower.member_id.encode()


def test_a_consumer_the_leader_forgot_gets_nothing_in_due_form() -> None:
    world = World()
    leader, follower = two_joined(world, type="consumer")
    world.sync(leader.member_id, 1, {leader.member_id: b"L"})
    assert world.sync(follower.member_id, 1).value.assignment == NOTHING_ASSIGNED
    other = World()
    leader, follower = two_joined(other, type="connect")
    other.sync(leader.member_id, 1, {leader.member_id: b"L"})
    assert other.sync(follower.member_id, 1).value.assignment == b""


def test_syncs_that_do_not_fit() -> None:
    world = World()
    assert world.sync("nobody", 1).error is ErrorCode.UNKNOWN_MEMBER_ID
    leader, follower = two_joined(world)
    assert world.sync("nobody", 1).error is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.sync(follower.member_id, 2).error is ErrorCode.ILLEGAL_GENERATION
    wrong_type = world.sync(follower.member_id, 1, protocol_type="connect")
    assert wrong_type.error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert world.sync(follower.member_id, 1, protocol="sticky").error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert world.sync(follower.member_id, 1, protocol="range", protocol_type="test").waits
    world.join(leader.member_id, protocols=[("range", b"other")])
    assert world.sync(follower.member_id, 1).error is ErrorCode.REBALANCE_IN_PROGRESS


def test_shares_are_bounded() -> None:
    world = World(assignments_bytes_max=1_024)
    leader, follower = two_joined(world)
    waiting = world.sync(follower.member_id, 1)
    assert world.sync(leader.member_id, 1, {follower.member_id: b"." * 1_025}).error is ErrorCode.POLICY_VIOLATION
    assert waiting.waits
    assert world.sync(leader.member_id, 1, {follower.member_id: b"." * 1_024}).error is OK
    assert len(waiting.value.assignment) == 1_024


def test_a_leader_that_brings_no_shares_is_dropped_and_the_others_sent_back() -> None:
    world = World()
    leader, follower = two_joined(world, session_ms=60_000, rebalance_ms=500)
    waiting = world.sync(follower.member_id, 1)
    world.wait(499)
    assert waiting.waits
    world.wait(1)
    assert waiting.error is ErrorCode.REBALANCE_IN_PROGRESS
    assert leader.member_id not in world.group.roster.members
    again = world.join(follower.member_id, session_ms=60_000, rebalance_ms=500)
    assert again.value.leader == follower.member_id


def test_a_follower_that_never_asks_for_its_share_is_dropped_though_it_shows_life() -> None:
    world = World()
    leader, follower = two_joined(world, session_ms=60_000, rebalance_ms=500)
    world.sync(leader.member_id, 1, {})
    assert world.state is State.STABLE
    world.wait(400)
    assert world.heartbeat(follower.member_id, 1) is OK
    world.wait(100)
    assert follower.member_id not in world.group.roster.members
    assert world.heartbeat(leader.member_id, 1) is ErrorCode.REBALANCE_IN_PROGRESS


def test_when_all_have_their_shares_nobody_is_dropped_for_it() -> None:
    world = World()
    world.stable(2, session_ms=60_000, rebalance_ms=500)
    world.wait(10_000)
    assert world.state is State.STABLE


def test_a_parked_sync_outlives_its_session_and_begins_a_new_one() -> None:
    world = World()
    joins = [world.join(session_ms=60_000), world.join(session_ms=100)]
    world.wait(200)
    leader, follower = joins[0].value, joins[1].value
    waiting = world.sync(follower.member_id, 1)
    world.wait(1_000)
    assert waiting.waits
    world.sync(leader.member_id, 1, {})
    assert waiting.error is OK
    world.wait(99)
    assert follower.member_id in world.group.roster.members
    world.wait(1)
    assert follower.member_id not in world.group.roster.members


def test_a_sync_whose_connection_ended_leaves_its_member_a_session() -> None:
    world = World()
    leader, follower = two_joined(world, session_ms=300)
    waiting = world.sync(follower.member_id, 1)
    waiting.gone()
    assert world.sync(leader.member_id, 1, {follower.member_id: b"F"}).error is OK
    assert world.sync(follower.member_id, 1).value.assignment == b"F"
    assert waiting.waits


def test_a_sync_repeated_on_another_connection_takes_the_place_of_the_first() -> None:
    world = World()
    leader, follower = two_joined(world)
    first = world.sync(follower.member_id, 1)
    second = world.sync(follower.member_id, 1)
    assert first.error is ErrorCode.REBALANCE_IN_PROGRESS
    world.sync(leader.member_id, 1, {})
    assert second.error is OK


def test_who_is_sent_back_from_its_wait_has_a_whole_session_to_come_again() -> None:
    world = World()
    leader, follower = two_joined(world, session_ms=1_000, rebalance_ms=60_000)
    waiting = world.sync(follower.member_id, 1)
    for _ in range(2):
        world.wait(995)
        world.heartbeat(leader.member_id, 1)
    world.join(leader.member_id, protocols=[("range", b"other")], rebalance_ms=60_000)
    assert waiting.error is ErrorCode.REBALANCE_IN_PROGRESS
    world.wait(999)
    assert follower.member_id in world.group.roster.members
    world.wait(1)
    assert follower.member_id not in world.group.roster.members


# -- showing life ----------------------------------------------------------------------------------


def test_heartbeats() -> None:
    world = World()
    leader, follower = two_joined(world)
    assert world.heartbeat("nobody", 1) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.heartbeat(follower.member_id, 2) is ErrorCode.ILLEGAL_GENERATION
    assert world.heartbeat(follower.member_id, 1) is OK, "it has joined; its share is on the way"
    world.sync(leader.member_id, 1, {})
    assert world.heartbeat(follower.member_id, 1) is OK
    world.join()
    assert world.heartbeat(follower.member_id, 1) is ErrorCode.REBALANCE_IN_PROGRESS
    world.leave(leader.member_id)
    world.leave(follower.member_id)


def test_in_an_empty_group_nobody_lives() -> None:
    world = World()
    [member] = world.stable()
    world.leave(member.member_id)
    assert world.state is State.EMPTY
    assert world.heartbeat(member.member_id, 2) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.sync(member.member_id, 2).error is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.join(member.member_id).error is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_session_ends_without_a_sign_of_life() -> None:
    world = World()
    leader, follower = world.stable(2, session_ms=1_000)
    world.wait(900)
    assert world.heartbeat(leader.member_id, 1) is OK
    world.wait(100)
    assert list(world.group.roster.members) == [leader.member_id]
    assert world.heartbeat(leader.member_id, 1) is ErrorCode.REBALANCE_IN_PROGRESS
    assert world.heartbeat(follower.member_id, 1) is ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize("sign", ["heartbeat", "commit", "join", "sync"])
def test_signs_of_life_keep_a_member(sign: str) -> None:
    world = World()
    leader, follower = world.stable(2, session_ms=1_000)
    for _ in range(5):
        world.wait(900)
        world.heartbeat(leader.member_id, 1)
        match sign:
            case "heartbeat":
                world.heartbeat(follower.member_id, 1)
            case "commit":
                assert world.commit_offset(member_id=follower.member_id, generation=1).value == [OK]
            case "join":
                world.join(follower.member_id)
            case "sync":
                world.sync(follower.member_id, 1)
    assert follower.member_id in world.group.roster.members
    assert world.state is State.STABLE


def test_a_shorter_session_counts_from_its_announcement() -> None:
    world = World()
    leader, follower = world.stable(2, session_ms=60_000)
    for member in (leader, follower):
        world.join(member.member_id, session_ms=100, protocols=[("range", b"new")])
    world.sync(leader.member_id, 2, {})
    world.sync(follower.member_id, 2)
    world.wait(100)
    assert world.state is State.EMPTY


def test_the_generation_goes_on_when_all_are_gone() -> None:
    world = World()
    world.stable(session_ms=500)
    world.wait(500)
    assert (world.state, world.group.generation) == (State.EMPTY, 2)
    [member] = world.stable()
    assert member.generation == 3


# -- leaving ---------------------------------------------------------------------------------------


def test_who_leaves_is_gone_and_the_others_share_anew() -> None:
    world = World()
    leader, follower = world.stable(2)
    assert world.leave(leader.member_id) is OK
    assert world.leave(leader.member_id) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.heartbeat(follower.member_id, 1) is ErrorCode.REBALANCE_IN_PROGRESS
    again = world.join(follower.member_id)
    assert again.value.leader == follower.member_id


def test_the_last_to_leave_empties_the_group_at_once() -> None:
    world = World()
    leader, follower = world.stable(2)
    world.leave(follower.member_id)
    world.leave(leader.member_id)
    assert world.state is State.EMPTY


def test_who_leaves_while_its_join_or_sync_waits_is_told() -> None:
    world = World()
    leader, follower = world.stable(2)
    parked = world.join(leader.member_id)
    world.leave(leader.member_id)
    assert parked.error is ErrorCode.UNKNOWN_MEMBER_ID
    new, again = world.join(), world.join(follower.member_id)
    follower = new.value
    assert follower.leader == again.value.member_id
    waiting = world.sync(follower.member_id, follower.generation)
    world.leave(follower.member_id)
    assert waiting.error is ErrorCode.UNKNOWN_MEMBER_ID


def test_leaving_ends_a_wait_for_who_left() -> None:
    world = World()
    leader, follower = world.stable(2, rebalance_ms=60_000, session_ms=60_000)
    again = world.join(leader.member_id)
    world.leave(follower.member_id)
    assert again.value.generation == 2


def test_while_all_leave_in_the_first_wait_the_group_becomes_empty() -> None:
    world = World(initial_delay_ms=100)
    world.join("", "i")
    assert world.leave("", "i") is OK
    world.wait(100)
    assert world.state is State.EMPTY


# -- static members --------------------------------------------------------------------------------


def static_pair(world: World, **how: object) -> tuple[Joined, Joined]:
    """Leader and follower with instance ids "a" and "b", stable."""
    joins = [world.join("", "a", **how), world.join("", "b", **how)]
    world.wait(200)
    leader, follower = world.shared(joins)
    return leader, follower


def test_a_static_follower_that_returns_goes_on_and_its_old_id_is_fenced() -> None:
    world = World()
    leader, follower = static_pair(world)
    assert world.group.roster.static["b"].id == follower.member_id
    back = world.join("", "b")
    assert back.value.generation == 1
    assert back.value.member_id != follower.member_id
    assert back.value.leader == leader.member_id
    assert world.state is State.STABLE
    assert world.sync(back.value.member_id, 1, instance="b").value.assignment == follower.member_id.encode()
    fenced = ErrorCode.FENCED_INSTANCE_ID
    assert world.heartbeat(follower.member_id, 1, "b") is fenced
    assert world.sync(follower.member_id, 1, instance="b").error is fenced
    assert world.join(follower.member_id, "b").error is fenced
    assert world.leave(follower.member_id, "b") is fenced
    commit = world.commit_offset(member_id=follower.member_id, instance="b", generation=1)
    assert commit.value == [fenced]
    assert world.heartbeat(back.value.member_id, 1, "b") is OK
    assert world.heartbeat(follower.member_id, 1) is ErrorCode.UNKNOWN_MEMBER_ID


def test_an_instance_nobody_knows_is_unknown() -> None:
    world = World()
    leader, _ = static_pair(world)
    assert world.heartbeat(leader.member_id, 1, "z") is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.join(leader.member_id, "z").error is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.leave("", "z") is ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize("can_skip", [False, True])
def test_a_static_leader_that_returns_does_not_assign(can_skip: bool) -> None:
    world = World()
    leader, follower = static_pair(world)
    back: Joined = world.join("", "a", can_skip=can_skip).value
    assert world.state is State.STABLE
    assert back.generation == 1
    if can_skip:
        assert back.leader == back.member_id
        assert back.skip_assignment
        assert {m[:2] for m in back.members} == {(back.member_id, "a"), (follower.member_id, "b")}
    else:
        assert back.leader == leader.member_id
        assert not back.skip_assignment
        assert back.members == ()
    assert world.group.roster.leader == back.member_id


def test_only_a_leader_skips_assigning() -> None:
    world = World()
    static_pair(world)
    assert not world.join("", "b", can_skip=True).value.skip_assignment


def test_a_static_member_that_changes_the_protocol_of_all_makes_them_share_anew() -> None:
    world = World()
    leader, _ = static_pair(world, protocols=["range", "sticky"])
    back = world.join("", "b", protocols=["sticky"])
    assert back.waits
    assert world.state is State.PREPARING
    again = world.join(leader.member_id, "a", protocols=["range", "sticky"])
    assert again.value.protocol == back.value.protocol == "sticky"


def test_a_static_consumer_that_reads_other_topics_makes_all_share_anew_but_its_notes_do_not() -> None:
    world = World()
    how = {"type": "consumer", "protocols": [("range", about("orders"))]}
    static_pair(world, **how)
    notes = world.join("", "b", type="consumer", protocols=[("range", about("orders", user_data=b"notes"))])
    assert notes.value.generation == 1
    other = world.join("", "b", type="consumer", protocols=[("range", about("orders", "stock"))])
    assert other.waits


def test_a_static_member_that_returns_while_shares_are_awaited_sends_all_back() -> None:
    world = World()
    joins = [world.join("", "a"), world.join("", "b")]
    world.wait(200)
    waiting = world.sync(joins[1].value.member_id, 1, instance="b")
    back = world.join("", "b")
    assert waiting.error is ErrorCode.FENCED_INSTANCE_ID
    assert back.waits
    world.join(joins[0].value.member_id, "a")
    assert back.value.generation == 2


def test_a_static_member_that_returns_and_does_not_ask_for_its_share_is_dropped() -> None:
    world = World()
    joins = [world.join("", "a", session_ms=60_000), world.join("", "b", session_ms=60_000)]
    world.wait(200)
    leader = joins[0].value
    world.sync(leader.member_id, 1, {}, "a")
    back = world.join("", "b", session_ms=60_000)
    assert back.value.generation == 1
    world.wait(3_000)
    assert list(world.group.roster.static) == ["a"]


def test_a_static_member_that_returns_while_its_join_waits_fences_that() -> None:
    world = World()
    first = world.join("", "a")
    second = world.join("", "a")
    assert first.error is ErrorCode.FENCED_INSTANCE_ID
    world.wait(100)
    assert second.error is OK
    assert len(world.group.roster.members) == 1


def test_a_static_member_that_is_away_stays_through_a_rebalance_until_its_session_ends() -> None:
    world = World()
    leader, follower = static_pair(world, session_ms=10_000, rebalance_ms=500)
    again = world.join(leader.member_id, "a", session_ms=10_000, rebalance_ms=500)
    world.wait(500)
    assert again.value.generation == 2
    assert follower.member_id in world.group.roster.members
    assert (follower.member_id, "b", b"m") in again.value.members


def test_when_only_absent_static_members_are_left_the_rebalance_waits_for_their_sessions() -> None:
    world = World()
    static_pair(world, session_ms=5_000, rebalance_ms=500)
    new = world.join(session_ms=5_000, rebalance_ms=500)
    world.leave(new.member.id)
    world.wait(4_000)
    assert (world.state, world.group.generation) == (State.PREPARING, 1)
    world.wait(1_000)
    assert (world.state, world.group.generation) == (State.EMPTY, 2)


def test_an_administrator_removes_static_members_by_instance() -> None:
    world = World()
    leader, _ = static_pair(world)
    assert world.leave("", "b") is OK
    assert world.heartbeat(leader.member_id, 1, "a") is ErrorCode.REBALANCE_IN_PROGRESS


def test_timeouts_of_a_returning_static_member_are_its_new_ones() -> None:
    world = World()
    static_pair(world, session_ms=1_000)
    world.join("", "b", session_ms=5_000)
    world.heartbeat(world.group.roster.static["a"].id, 1, "a")
    world.wait(4_999)
    assert list(world.group.roster.static) == ["b"]
    world.wait(1)
    assert not world.group.roster.members


# -- subscriptions ---------------------------------------------------------------------------------


def test_subscriptions_are_read_whole_or_not_at_all() -> None:
    whole = about("orders", "stück", user_data=b"x")
    assert subscribed(whole) == {"orders", "stück"}
    assert subscribed(about()) == frozenset()
    topics_end = len(whole) - 5
    for end in range(topics_end):
        assert subscribed(whole[:end]) is None, end
    for end in range(topics_end, len(whole)):
        assert subscribed(whole[:end]) == {"orders", "stück"}
    assert subscribed(b"\0\1\x7f\xff\xff\xff" + whole) is None
    assert subscribed(b"\0\1\xff\xff\xff\xff") is None
    assert subscribed(b"\0\1\0\0\0\1\0\1\xff") is None

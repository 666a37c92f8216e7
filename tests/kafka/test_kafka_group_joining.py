"""Coming into a group: new, known, pending and too many members, protocols, the first wait, and who leads."""

from __future__ import annotations

import pytest
from coordinator_world import OK, World

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group import NEW_MEMBER_MS
from dragoman.adapters.kafka.group_member import Joined
from dragoman.adapters.kafka.group_state import State

# -- one member ------------------------------------------------------------------------------------


def test_the_first_member_leads_the_first_generation() -> None:
    world = World()
    join = world.join(client_id="meter", protocols=[("range", b"r"), ("sticky", b"s")], type="consumer")
    assert join.waits
    assert world.state is State.PREPARING
    world.wait(100)
    joined: Joined = join.value
    assert joined.error is OK
    assert joined.generation == 1
    assert joined.leader == joined.member_id
    assert joined.member_id.startswith("meter-")
    assert joined.members == ((joined.member_id, None, b"r"),)
    assert (joined.protocol_type, joined.protocol) == ("consumer", "range")
    assert not joined.skip_assignment
    assert world.state is State.COMPLETING


@pytest.mark.parametrize("session_ms", [9, 1_800_001])
def test_session_timeouts_have_bounds(session_ms: int) -> None:
    world = World()
    assert world.join(session_ms=session_ms).error is ErrorCode.INVALID_SESSION_TIMEOUT
    assert world.groups.find("g") is None, "a refused join leaves no group"


@pytest.mark.parametrize("session_ms", [10, 1_800_000])
def test_the_bounds_of_session_timeouts_are_allowed(session_ms: int) -> None:
    assert World().join(session_ms=session_ms).waits


def test_an_unknown_member_of_a_new_or_a_known_group_is_told_so() -> None:
    world = World()
    assert world.join("nobody").error is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.groups.find("g") is None
    world.stable()
    assert world.join("nobody").error is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.state is State.STABLE


@pytest.mark.parametrize("how", [{"type": ""}, {"protocols": []}, {"protocols": [f"p{n}" for n in range(65)]}])
def test_a_member_needs_a_protocol_type_and_some_protocols(how: dict[str, object]) -> None:
    world = World()
    assert world.join(**how).error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert world.groups.find("g") is None


@pytest.mark.parametrize("how", [{"type": "connect"}, {"protocols": ["sticky"]}])
def test_protocols_have_to_fit_those_of_the_others(how: dict[str, object]) -> None:
    world = World()
    world.stable()
    assert world.join(**how).error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert world.state is State.STABLE


def test_an_empty_group_takes_any_type_of_protocol() -> None:
    world = World()
    [member] = world.stable()
    world.leave(member.member_id)
    world.stable(type="connect", protocols=["other"])
    assert world.group.protocol_type == "connect"


def test_what_a_member_says_of_itself_is_bounded() -> None:
    world = World(member_bytes_max=1_024)
    assert world.join(protocols=[("range", b"." * 1_100)]).error is ErrorCode.POLICY_VIOLATION
    assert world.join(instance="i" * 1_025).error is ErrorCode.POLICY_VIOLATION


def test_groups_are_bounded() -> None:
    world = World(groups_max=1)
    world.stable()
    assert world.join(name="other").error is ErrorCode.POLICY_VIOLATION
    assert world.commit_offset(name="other").value == [ErrorCode.POLICY_VIOLATION]


# -- a member that is told its id first ------------------------------------------------------------


def test_a_new_member_of_today_is_given_an_id_and_comes_again_with_it() -> None:
    world = World()
    told = world.join(known_only=True)
    assert told.error is ErrorCode.MEMBER_ID_REQUIRED
    assert told.value.member_id
    world.wait(500)
    assert world.state is State.EMPTY, "an id alone begins nothing"
    join = world.join(told.value.member_id, known_only=True)
    world.wait(100)
    assert join.value.member_id == told.value.member_id
    assert join.value.generation == 1


def test_an_id_nobody_comes_with_expires() -> None:
    world = World()
    told = world.join(known_only=True)
    world.wait(999)
    assert not world.group.unused
    world.wait(1)
    assert world.group.unused
    assert world.join(told.value.member_id, known_only=True).error is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_rebalance_waits_for_those_who_were_told_an_id_until_they_leave_or_expire() -> None:
    for way in ("come", "leave", "expire"):
        world = World()
        [first] = world.stable(rebalance_ms=60_000)
        told = world.join(known_only=True, session_ms=5_000).value.member_id
        later = world.join()
        again = world.join(first.member_id, rebalance_ms=60_000)
        assert later.waits, "the one with a fresh id is awaited"
        if way == "come":
            assert world.join(told, known_only=True).error is OK
        elif way == "leave":
            assert world.leave(told) is OK
        else:
            world.heartbeat(first.member_id, 1)
            world.wait(5_000)
        assert later.error is OK
        assert again.value.generation == 2


def test_a_pending_id_is_no_static_members() -> None:
    world = World()
    told = world.join(known_only=True)
    assert world.join(told.value.member_id, "i").error is ErrorCode.UNKNOWN_MEMBER_ID


def test_static_members_are_not_sent_back_for_an_id() -> None:
    world = World()
    join = world.join("", "i", known_only=True)
    world.wait(100)
    assert join.error is OK


# -- the first wait --------------------------------------------------------------------------------


def test_the_first_rebalance_waits_for_company() -> None:
    world = World(initial_delay_ms=100)
    joins = [world.join()]
    world.wait(99)
    assert joins[0].waits
    joins.append(world.join())
    world.wait(1)
    assert joins[0].waits, "somebody came, so others may"
    world.wait(99)
    assert joins[0].waits
    world.wait(1)
    assert [j.value.generation for j in joins] == [1, 1]
    assert len(world.group.roster.members) == 2


def test_the_first_rebalance_waits_no_longer_than_the_rebalance_timeout() -> None:
    world = World(initial_delay_ms=100)
    first = world.join(rebalance_ms=250)
    for _ in range(3):
        world.wait(80)
        world.join(rebalance_ms=250)
    world.wait(9)
    assert first.waits
    world.wait(1)
    assert first.error is OK
    assert len(world.group.roster.members) == 4


def test_later_rebalances_wait_for_nobody_in_particular() -> None:
    world = World(initial_delay_ms=5_000)
    [first] = world.stable(session_ms=60_000, rebalance_ms=60_000)
    second = world.join()
    again = world.join(first.member_id)
    assert not second.waits
    assert again.value.generation == 2


def test_without_a_delay_the_first_member_is_not_kept_waiting() -> None:
    world = World(initial_delay_ms=0)
    assert world.join().error is OK


# -- coming again ----------------------------------------------------------------------------------


def test_a_second_member_sends_all_back_to_join_and_nobody_is_forgotten() -> None:
    world = World()
    [first] = world.stable()
    second = world.join()
    assert second.waits
    assert world.heartbeat(first.member_id, 1) is ErrorCode.REBALANCE_IN_PROGRESS
    again = world.join(first.member_id)
    assert second.error is OK
    assert again.value.leader == first.member_id
    assert {m[0] for m in again.value.members} == {first.member_id, second.value.member_id}
    assert second.value.members == ()
    assert world.group.generation == 2
    world.shared([again, second])


def test_the_same_join_by_a_follower_changes_nothing() -> None:
    world = World()
    leader, follower = world.stable(2)
    again = world.join(follower.member_id)
    assert again.value.generation == 1
    assert again.value.leader == leader.member_id
    assert again.value.members == ()
    assert world.state is State.STABLE


def test_a_join_by_the_leader_of_a_stable_group_rebalances() -> None:
    world = World()
    leader, follower = world.stable(2)
    again = world.join(leader.member_id)
    assert again.waits
    assert world.state is State.PREPARING
    other = world.join(follower.member_id)
    assert again.value.generation == other.value.generation == 2


def test_a_join_with_other_metadata_rebalances() -> None:
    world = World()
    leader, follower = world.stable(2)
    again = world.join(follower.member_id, protocols=[("range", b"other")])
    assert again.waits
    led = world.join(leader.member_id)
    assert {m[0]: m[2] for m in led.value.members}[follower.member_id] == b"other"


def test_the_same_join_while_shares_are_awaited_is_answered_again() -> None:
    world = World()
    joins = [world.join(), world.join()]
    world.wait(200)
    for join in joins:
        again = world.join(join.value.member_id)
        assert again.value.generation == 1
        assert len(again.value.members) == (2 if join.value.member_id == join.value.leader else 0)
    assert world.state is State.COMPLETING


def test_other_metadata_while_shares_are_awaited_sends_those_who_wait_back() -> None:
    world = World()
    joins = [world.join(), world.join()]
    world.wait(200)
    leader, follower = sorted((j.value for j in joins), key=lambda j: j.member_id != j.leader)
    sync = world.sync(follower.member_id, 1)
    assert sync.waits
    changed = world.join(leader.member_id, protocols=[("range", b"other")])
    assert sync.error is ErrorCode.REBALANCE_IN_PROGRESS
    assert changed.waits
    world.join(follower.member_id)
    assert changed.value.generation == 2


def test_a_join_repeated_on_another_connection_takes_the_place_of_the_first() -> None:
    world = World()
    leader, follower = world.stable(2)
    first = world.join(leader.member_id)
    second = world.join(leader.member_id)
    assert first.error is ErrorCode.REBALANCE_IN_PROGRESS
    assert second.waits
    world.join(follower.member_id)
    assert second.value.generation == 2


# -- who does not come -----------------------------------------------------------------------------


def test_members_that_do_not_rejoin_in_time_are_dropped() -> None:
    world = World()
    leader, _ = world.stable(2, rebalance_ms=500, session_ms=60_000)
    again = world.join(leader.member_id, rebalance_ms=500, session_ms=60_000)
    world.wait(499)
    assert again.waits
    world.wait(1)
    assert again.value.generation == 2
    assert list(world.group.roster.members) == [leader.member_id]


def test_a_rebalance_takes_as_long_as_the_slowest_member_may() -> None:
    world = World()
    leader, _ = world.stable(2, rebalance_ms=500, session_ms=60_000)
    again = world.join(leader.member_id, rebalance_ms=2_000, session_ms=60_000)
    world.wait(1_999)
    assert again.waits
    world.wait(1)
    assert not again.waits


def test_a_leader_that_does_not_rejoin_is_followed_by_one_who_did() -> None:
    world = World()
    _, follower = world.stable(2, rebalance_ms=500, session_ms=60_000)
    again = world.join(follower.member_id, protocols=[("range", b"new")], rebalance_ms=500, session_ms=60_000)
    world.wait(500)
    assert again.value.leader == follower.member_id
    assert [m[0] for m in again.value.members] == [follower.member_id]


def test_a_session_that_ends_while_the_others_rejoin_ends_the_wait() -> None:
    world = World()
    leader, _ = world.stable(2, session_ms=200, rebalance_ms=60_000)
    again = world.join(leader.member_id, session_ms=200, rebalance_ms=60_000)
    world.wait(199)
    assert again.waits
    world.wait(1)
    assert again.value.generation == 2


def test_a_parked_join_outlives_its_session() -> None:
    world = World()
    leader, _ = world.stable(2, session_ms=5_000, rebalance_ms=60_000)
    again = world.join(leader.member_id, session_ms=100, rebalance_ms=60_000)
    world.wait(4_000)
    assert again.waits, "its session was over long ago, but it is here"
    assert leader.member_id in world.group.roster.members


def test_a_parked_join_whose_connection_ended_counts_until_its_session_is_over() -> None:
    world = World()
    leader, follower = world.stable(2, session_ms=5_000, rebalance_ms=60_000)
    again = world.join(leader.member_id, session_ms=300, rebalance_ms=60_000)
    again.gone()
    world.wait(299)
    assert leader.member_id in world.group.roster.members
    world.wait(1)
    assert leader.member_id not in world.group.roster.members
    other = world.join(follower.member_id)
    assert other.value.leader == follower.member_id
    assert again.waits, "nobody is there to be answered"


def test_a_new_member_that_lost_its_connection_and_comes_again_waits_like_any_other() -> None:
    world = World()
    world.stable(session_ms=60_000, rebalance_ms=60_000)
    told = world.join(known_only=True).value.member_id
    world.join(told, session_ms=200).gone()
    again = world.join(told, session_ms=200)
    world.wait(1_000)
    assert again.waits
    assert told in world.group.roster.members


def test_a_join_whose_connection_ended_still_takes_part() -> None:
    world = World()
    leader, follower = world.stable(2)
    world.join(leader.member_id).gone()
    other = world.join(follower.member_id)
    assert other.value.generation == 2
    assert leader.member_id in world.group.roster.members


def test_a_new_member_nobody_can_reach_is_not_waited_with_for_ever() -> None:
    world = World()
    [first] = world.stable(session_ms=1_800_000, rebalance_ms=1_800_000)
    lost = world.join(rebalance_ms=1_800_000)
    world.wait(NEW_MEMBER_MS - 1)
    assert lost.waits
    world.wait(1)
    assert lost.error is ErrorCode.UNKNOWN_MEMBER_ID
    assert list(world.group.roster.members) == [first.member_id]


def test_a_new_member_that_never_synchronises_is_dropped_by_its_session() -> None:
    world = World()
    join = world.join(session_ms=100, rebalance_ms=60_000)
    world.wait(100)
    assert join.error is OK
    world.wait(99)
    assert world.state is State.COMPLETING
    world.wait(1)
    assert world.state is State.EMPTY
    assert world.group.generation == 2


# -- too many --------------------------------------------------------------------------------------


@pytest.mark.parametrize("known_only", [False, True])
def test_a_group_has_a_greatest_size(known_only: bool) -> None:
    world = World(members_max=2)
    members = world.stable(2)
    refused = world.join(known_only=known_only)
    assert refused.error is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert refused.value.member_id == ""
    assert world.state is State.STABLE
    assert world.join(members[1].member_id).error is OK, "who is in it is not refused"
    world.leave(members[1].member_id)
    assert world.join().waits


def test_ids_handed_out_are_bounded_too() -> None:
    world = World(members_max=2)
    assert [world.join(known_only=True).error for _ in range(3)] == [
        ErrorCode.MEMBER_ID_REQUIRED,
        ErrorCode.MEMBER_ID_REQUIRED,
        ErrorCode.GROUP_MAX_SIZE_REACHED,
    ]


def test_in_a_rebalance_the_last_to_come_are_too_many() -> None:
    world = World(members_max=2)
    leader, follower = world.stable(2)
    world.join(leader.member_id)
    new = world.join()
    assert world.join(follower.member_id).error is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert new.error is OK
    assert follower.member_id not in world.group.roster.members


# -- which protocol --------------------------------------------------------------------------------


def test_the_protocol_most_members_like_best_of_those_all_know_is_chosen() -> None:
    world = World()
    joins = [
        world.join(protocols=["range", "sticky", "own"]),
        world.join(protocols=["sticky", "range"]),
        world.join(protocols=["sticky", "range"]),
    ]
    world.wait(400)
    assert {j.value.protocol for j in joins} == {"sticky"}


def test_what_only_some_know_is_not_chosen() -> None:
    world = World()
    joins = [world.join(protocols=["own", "range"]), world.join(protocols=["own", "range"]), world.join()]
    world.wait(400)
    assert {j.value.protocol for j in joins} == {"range"}


def test_a_generation_is_counted_at_each_rebalance() -> None:
    world = World()
    [member] = world.stable()
    for generation in range(2, 6):
        again = world.join(member.member_id)
        assert again.value.generation == generation
        world.shared([again])

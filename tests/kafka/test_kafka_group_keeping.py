"""What groups keep: offsets, generations, members across restarts and failed commits; and what they forget."""

from __future__ import annotations

import pytest
from coordinator_world import DISK, OK, ORDERS, STOCK, World

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group_state import State
from dragoman.adapters.kafka.offsets import Committed, Place
from dragoman.broker.log.contract import Table

DAY_MS = 24 * 3_600_000
WEEK_MS = 7 * DAY_MS


# -- committing ------------------------------------------------------------------------------------


def test_a_group_without_members_is_made_by_a_commit() -> None:
    world = World()
    assert world.commit_offset(5, metadata="note", leader_epoch=3).value == [OK]
    assert world.state is State.EMPTY
    committed = world.groups.offsets("g").get(ORDERS)
    assert (committed.offset, committed.metadata, committed.leader_epoch) == (5, "note", 3)
    assert world.commit_offset(9).value == [OK]
    assert world.offset() == 9


def test_a_commit_of_a_generation_nobody_knows_makes_no_group() -> None:
    world = World()
    assert world.commit_offset(generation=1, member_id="m").value == [ErrorCode.ILLEGAL_GENERATION]
    assert world.groups.find("g") is None


def test_who_may_commit_when() -> None:
    world = World()
    [member] = world.stable()
    mine = {"member_id": member.member_id}
    assert world.commit_offset(1, **mine, generation=1).value == [OK]
    assert world.commit_offset(2, **mine, generation=2).value == [ErrorCode.ILLEGAL_GENERATION]
    assert world.commit_offset(2, **mine).value == [ErrorCode.ILLEGAL_GENERATION]
    assert world.commit_offset(2, member_id="nobody", generation=1).value == [ErrorCode.UNKNOWN_MEMBER_ID]
    assert world.commit_offset(2).value == [ErrorCode.UNKNOWN_MEMBER_ID], "while there are members, only they commit"
    world.join()
    assert world.state is State.PREPARING
    assert world.commit_offset(3, **mine, generation=1).value == [OK], "what is done is said before sharing anew"
    again = world.join(member.member_id)
    assert world.state is State.COMPLETING
    assert world.commit_offset(4, **mine, generation=2).value == [ErrorCode.REBALANCE_IN_PROGRESS]
    assert world.offset() == 3
    assert again.value.generation == 2


def test_after_the_last_has_left_anybody_may_commit_again() -> None:
    world = World()
    [member] = world.stable()
    world.leave(member.member_id)
    late = world.commit_offset(1, member_id=member.member_id, generation=2)
    assert late.value == [ErrorCode.UNKNOWN_MEMBER_ID]
    assert world.commit_offset(2).value == [OK]


def test_each_partition_is_judged_alone() -> None:
    world = World(metadata_bytes_max=10, offsets_max=2)
    places = [
        (ORDERS, Committed(1)),
        (Place("orders", 4), Committed(1)),
        (Place("nothing", 0), Committed(1)),
        (Place("orders", 1), Committed(1, metadata="é" * 5)),
        (Place("orders", 2), Committed(1, metadata="é" * 5 + "x")),
        (Place("orders", 3), Committed(1)),
    ]
    answers: list[list[ErrorCode]] = []
    world.groups.commit("g", ("", None, -1), places, answers.append, "alice")
    world.turn()
    assert answers == [
        [
            OK,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            OK,
            ErrorCode.OFFSET_METADATA_TOO_LARGE,
            ErrorCode.POLICY_VIOLATION,
        ]
    ]
    assert world.commit_offset(2).value == [OK], "what is there may move"
    assert len(world.groups.offsets("g")) == 2


def test_a_group_is_not_made_by_commits_that_are_all_refused() -> None:
    world = World()
    assert world.commit_offset(place=Place("nothing", 0)).value == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert world.groups.find("g") is None
    assert not world.log.seen


# -- commits take time -----------------------------------------------------------------------------


def test_an_offset_is_answered_and_read_when_it_is_in_the_log() -> None:
    world = World(slow=True)
    first, second = world.commit_offset(1), world.commit_offset(2)
    assert first.waits
    assert world.offset() is None
    world.commit()
    assert first.value == second.value == [OK]
    assert world.offset() == 2


def test_an_offset_whose_commit_failed_was_never_committed() -> None:
    world = World(slow=True)
    world.commit_offset(1)
    world.commit()
    failed, again = world.commit_offset(2), world.commit_offset(3)
    world.commit(DISK)
    assert failed.value == again.value == [ErrorCode.COORDINATOR_NOT_AVAILABLE]
    assert world.offset() == 1
    world.commit_offset(7, place=STOCK)
    world.commit()
    after = world.crashed()
    assert (after.offset(), after.offset(STOCK)) == (1, 7)


def test_an_offset_deleted_while_it_is_on_its_way_stays_deleted() -> None:
    world = World(slow=True)
    on_its_way = world.commit_offset(1)
    world.groups.on_topic_deleted("orders")
    world.commit()
    assert on_its_way.value == [OK]
    assert world.offset() is None
    assert world.crashed().offset() is None


def test_an_offset_committed_after_its_topic_was_made_anew_is_the_new_one() -> None:
    world = World(slow=True)
    world.commit_offset(1)
    world.groups.on_topic_deleted("orders")
    world.commit_offset(2)
    world.commit()
    assert world.offset() == world.crashed().offset() == 2


def test_nobody_hears_of_a_generation_before_the_log_has_it() -> None:
    world = World(slow=True)
    join = world.join()
    world.wait(100)
    assert world.group.generation == 1
    assert join.waits
    guess = world.sync(join.member.id, 1, {})
    assert guess.error is ErrorCode.ILLEGAL_GENERATION
    world.commit()
    assert join.value.generation == 1
    sync = world.sync(join.value.member_id, 1, {join.value.member_id: b"S"})
    assert sync.waits, "nor of a share"
    world.commit()
    assert sync.value.assignment == b"S"


def test_who_comes_while_a_generation_is_written_makes_it_the_next() -> None:
    world = World(slow=True)
    first = world.join()
    world.wait(100)
    second = world.join()
    assert world.group.generation == 2
    assert first.waits
    world.commit()
    assert first.value.generation == second.value.generation == 2


def test_a_join_repeated_while_its_generation_is_written_is_answered_once() -> None:
    world = World(slow=True)
    first = world.join()
    world.wait(100)
    again = world.join(first.member.id)
    assert first.error is ErrorCode.REBALANCE_IN_PROGRESS
    world.commit()
    assert again.value.generation == 1


def test_a_generation_that_cannot_be_written_sends_all_back() -> None:
    world = World(slow=True)
    join = world.join(known_only=True)
    join = world.join(join.value.member_id, rebalance_ms=60_000)
    world.wait(100)
    world.commit(DISK)
    assert join.error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert world.state is State.PREPARING
    again = world.join(join.value.member_id)
    world.commit()
    assert again.value.generation == 2


def test_shares_that_cannot_be_written_are_not_given() -> None:
    world = World(slow=True)
    join = world.join()
    world.wait(100)
    world.commit()
    sync = world.sync(join.value.member_id, 1, {join.value.member_id: b"S"})
    world.commit(DISK)
    assert sync.error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    again = world.join(join.value.member_id)
    world.commit()
    assert again.value.generation == 2


def test_shares_brought_twice_are_those_that_are_being_written() -> None:
    world = World(slow=True)
    join = world.join()
    world.wait(100)
    world.commit()
    me = join.value.member_id
    first, second = world.sync(me, 1, {me: b"1"}), world.sync(me, 1, {me: b"2"})
    assert first.error is ErrorCode.REBALANCE_IN_PROGRESS
    world.commit()
    assert second.value.assignment == b"1"
    assert world.crashed().sync(me, 1).value.assignment == b"1"


def test_shares_overtaken_by_a_rebalance_are_not_given() -> None:
    world = World(slow=True)
    join = world.join()
    world.wait(100)
    world.commit()
    sync = world.sync(join.value.member_id, 1, {join.value.member_id: b"S"})
    world.join()
    assert sync.error is ErrorCode.REBALANCE_IN_PROGRESS
    world.commit()
    assert world.state is State.PREPARING


def slow_static(world: World) -> str:
    join = world.join("", "a")
    world.wait(100)
    world.commit()
    world.sync(join.value.member_id, 1, {join.value.member_id: b"S"}, "a")
    world.commit()
    return join.value.member_id


def test_a_static_member_is_back_when_the_log_knows_its_new_id() -> None:
    world = World(slow=True)
    slow_static(world)
    back = world.join("", "a")
    assert back.waits
    world.commit()
    after = world.crashed()
    assert after.heartbeat(back.value.member_id, 1, "a") is OK


def test_a_static_member_whose_new_id_cannot_be_written_tries_again() -> None:
    world = World(slow=True)
    slow_static(world)
    back = world.join("", "a")
    world.commit(DISK)
    assert back.error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    back = world.join("", "a")
    world.commit()
    assert world.sync(back.value.member_id, 1, instance="a").value.assignment == b"S"


def test_a_static_member_that_returns_twice_at_once_is_the_later_one() -> None:
    world = World(slow=True)
    slow_static(world)
    first, second = world.join("", "a"), world.join("", "a")
    assert first.error is ErrorCode.FENCED_INSTANCE_ID
    world.commit()
    assert second.error is OK
    gone = world.join("", "a")
    gone.gone()
    world.commit()
    assert gone.waits
    assert world.state is State.STABLE
    assert not world.group.roster.static["a"].joined


def test_a_static_leader_that_returns_twice_at_once_is_answered_as_it_asked_last() -> None:
    world = World(slow=True)
    slow_static(world)
    world.join("", "a", can_skip=False)
    second = world.join("", "a", can_skip=True)
    world.commit()
    assert second.value.skip_assignment


def test_a_static_member_on_its_way_back_takes_part_in_a_rebalance() -> None:
    world = World(slow=True)
    slow_static(world)
    back = world.join("", "a")
    new = world.join()
    world.commit()
    assert back.value.generation == new.value.generation == 2


# -- the next process ------------------------------------------------------------------------------


def test_a_stable_group_goes_on_after_a_restart() -> None:
    world = World()
    leader, follower = world.stable(2, protocols=["range", "sticky"])
    world.commit_offset(7, member_id=leader.member_id, generation=1)
    world = world.crashed()
    assert (world.state, world.group.generation, world.group.owner) == (State.STABLE, 1, "alice")
    assert world.offset() == 7
    assert world.heartbeat(leader.member_id, 1) is OK
    assert world.sync(follower.member_id, 1).value.assignment == follower.member_id.encode()
    same = world.join(follower.member_id, protocols=["range", "sticky"])
    assert same.value.generation == 1
    world.wait(999)
    assert len(world.group.roster.members) == 2
    world.wait(1)
    assert world.state is State.EMPTY


def test_a_group_that_awaits_shares_does_so_after_a_restart() -> None:
    world = World()
    joins = [world.join(rebalance_ms=500, session_ms=60_000), world.join(rebalance_ms=500, session_ms=60_000)]
    world.wait(200)
    leader, follower = (j.value for j in joins)
    world = world.crashed()
    assert world.state is State.COMPLETING
    world.sync(leader.member_id, 1, {leader.member_id: b"L", follower.member_id: b"F"})
    assert world.sync(follower.member_id, 1).value.assignment == b"F"
    world = world.crashed()
    assert world.state is State.STABLE
    world.wait(501)
    assert world.state is State.STABLE


def test_who_does_not_ask_for_its_share_after_a_restart_is_dropped() -> None:
    world = World()
    world.join(rebalance_ms=500, session_ms=60_000)
    world.wait(100)
    world = world.crashed()
    world.wait(500)
    assert world.state is State.EMPTY


def test_ids_and_joins_under_way_end_with_the_process() -> None:
    world = World()
    told = world.join(known_only=True)
    world = world.crashed()
    assert world.groups.find("g") is None
    assert world.join(told.value.member_id).error is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_generation_is_not_used_again_by_the_next_process() -> None:
    world = World()
    [member] = world.stable()
    for generation in range(2, 5):
        again = world.join(member.member_id)
        assert again.value.generation == generation
        world = world.crashed()
        world.sync(member.member_id, generation, {})
    world.leave(member.member_id)
    world = world.crashed()
    assert (world.state, world.group.generation) == (State.EMPTY, 5)


def test_what_was_not_committed_is_not_there() -> None:
    world = World(slow=True)
    world.join()
    world.wait(100)
    assert world.crashed().groups.find("g") is None


def test_stopping_tells_all_who_wait() -> None:
    world = World()
    leader, follower = world.stable(2)
    parked = world.join(leader.member_id)
    world.groups.stop()
    assert parked.error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    world = world.crashed()
    again, other = world.join(leader.member_id), world.join(follower.member_id)
    waiting = world.sync(other.value.member_id, other.value.generation)
    assert again.error is OK
    world.groups.stop()
    assert waiting.error is ErrorCode.COORDINATOR_NOT_AVAILABLE


def test_what_is_written_last_is_for_the_next_process_alone() -> None:
    world = World(slow=True)
    join = world.join()
    world.wait(100)
    world.groups.stop()
    assert join.error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    world.mesh.end_commit()
    assert len(world.mesh.timers) == 1, "the sweep's, which the broker stops"
    assert world.crashed().group.generation == 1


def test_positions_of_no_group_are_cleared_away_but_not_those_of_other_kinds() -> None:
    world = World()
    world.commit_offset(1)
    world.commit_offset(1, name="other")
    keys = [key for table, key in world.log.kept if table is Table.COORDINATED]
    other = next(key for key in keys if b"other" in world.log.kept[Table.COORDINATED, key])
    kept = world.log.kept.pop((Table.COORDINATED, other))
    without = world.crashed()
    assert len([1 for table, _ in without.log.kept if table is Table.POSITIONS]) == 1
    world.log.kept[Table.COORDINATED, b"z" + other[1:]] = kept
    beside = world.crashed()
    assert len([1 for table, _ in beside.log.kept if table is Table.POSITIONS]) == 2
    assert beside.groups.find("other") is None


# -- forgetting ------------------------------------------------------------------------------------


def test_offsets_are_kept_while_a_group_has_members_and_a_week_longer() -> None:
    world = World(session_ms_max=3 * WEEK_MS)
    [member] = world.stable(session_ms=3 * WEEK_MS)
    world.commit_offset(5, member_id=member.member_id, generation=1)
    world.wait(2 * WEEK_MS)
    assert world.offset() == 5
    world.leave(member.member_id)
    world.wait(WEEK_MS - DAY_MS)
    assert world.offset() == 5
    world.wait(DAY_MS + 600_000)
    assert world.groups.find("g") is None
    assert not world.log.kept, "nothing is left behind"


def test_the_week_goes_on_through_a_restart() -> None:
    world = World()
    [member] = world.stable()
    world.commit_offset(5, member_id=member.member_id, generation=1)
    world.leave(member.member_id)
    world.wait(WEEK_MS - DAY_MS)
    world = world.crashed()
    world.wait(DAY_MS + 600_000)
    assert world.groups.find("g") is None


def test_in_a_group_that_never_had_members_each_commit_has_its_own_age() -> None:
    world = World()
    world.commit_offset(1)
    world.wait(4 * DAY_MS)
    world.commit_offset(1, place=STOCK)
    world.wait(3 * DAY_MS + 600_000)
    assert (world.offset(), world.offset(STOCK)) == (None, 1)
    assert world.groups.find("g") is not None


def test_a_client_may_say_how_long_its_offset_holds() -> None:
    world = World()
    world.commit_offset(1, expires_ms=world.clock.now_ms() + DAY_MS)
    world.wait(DAY_MS + 600_000)
    assert world.groups.find("g") is None


def test_an_old_offset_that_is_being_renewed_is_kept() -> None:
    world = World(slow=True)
    world.commit_offset(1)
    world.commit()
    world.wait(WEEK_MS - 1_000)
    world.commit_offset(2)
    world.wait(700_000)
    world.commit()
    assert world.offset() == world.crashed().offset() == 2


def test_a_group_that_has_just_become_empty_stays_for_a_while() -> None:
    world = World()
    [member] = world.stable(session_ms=1_000_000)
    world.wait(590_000)
    world.leave(member.member_id)
    world.wait(20_000)
    assert world.group.generation == 2


def test_an_empty_group_without_offsets_goes_soon() -> None:
    world = World()
    [member] = world.stable()
    world.leave(member.member_id)
    world.wait(2 * 600_000)
    assert world.groups.find("g") is None
    assert not world.log.kept


def test_offsets_of_a_deleted_topic_go_with_it() -> None:
    world = World()
    world.commit_offset(1)
    world.commit_offset(2, place=STOCK)
    world.groups.on_topic_deleted("orders")
    world.turn()
    assert (world.offset(), world.offset(STOCK)) == (None, 2)
    assert world.crashed().offset() is None


def test_the_sweep_looks_at_everything_a_portion_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.adapters.kafka.groups.SWEPT_PER_TURN", 3)
    world = World()
    for n in range(10):
        world.commit_offset(1, name=f"g{n}")
    world.wait(WEEK_MS + 600_000)
    assert list(world.groups.all()) == []


# -- deleting --------------------------------------------------------------------------------------


def deleted(world: World, name: str = "g") -> ErrorCode | None:
    answers: list[ErrorCode] = []
    world.groups.delete(name, answers.append)
    world.turn()
    return answers[0] if answers else None


def test_only_empty_groups_are_deleted_with_all_they_committed() -> None:
    world = World()
    assert deleted(world) is ErrorCode.GROUP_ID_NOT_FOUND
    [member] = world.stable()
    world.commit_offset(1, member_id=member.member_id, generation=1)
    assert deleted(world) is ErrorCode.NON_EMPTY_GROUP
    world.leave(member.member_id)
    told = world.join(known_only=True)
    assert deleted(world) is OK
    assert world.groups.find("g") is None
    assert world.offset() is None
    assert not world.log.kept
    assert world.join(told.value.member_id).error is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_deletion_is_answered_when_it_is_in_the_log() -> None:
    world = World(slow=True)
    world.commit_offset(1)
    world.commit()
    assert deleted(world) is None
    world.commit()
    assert not world.log.kept


def offsets_deleted(world: World, *places: Place) -> tuple[ErrorCode, list[ErrorCode]]:
    answers: list[tuple[ErrorCode, list[ErrorCode]]] = []
    world.groups.delete_offsets("g", places, lambda error, errors: answers.append((error, errors)))
    world.turn()
    return answers[0]


def test_offsets_are_deleted_but_not_where_members_read() -> None:
    world = World()
    assert offsets_deleted(world, ORDERS) == (ErrorCode.GROUP_ID_NOT_FOUND, [])
    reads = b"\0\0\0\0\0\1\0\6orders\0\0\0\0"
    [member] = world.stable(type="consumer", protocols=[("range", reads)])
    for place in (ORDERS, STOCK):
        world.commit_offset(1, member_id=member.member_id, generation=1, place=place)
    assert offsets_deleted(world, ORDERS, STOCK) == (OK, [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, OK])
    assert (world.offset(), world.offset(STOCK)) == (1, None)
    world.leave(member.member_id)
    assert offsets_deleted(world, ORDERS, Place("stock", 0)) == (OK, [OK, OK])
    assert world.crashed().offset() is None


def test_offsets_of_members_whose_topics_nobody_can_read_are_not_deleted() -> None:
    world = World()
    [member] = world.stable(type="connect")
    world.commit_offset(1, member_id=member.member_id, generation=1)
    assert offsets_deleted(world, ORDERS) == (ErrorCode.NON_EMPTY_GROUP, [])


# -- for people ------------------------------------------------------------------------------------


def test_a_report_shows_who_is_there_and_how_far_they_are() -> None:
    world = World()
    leader, follower = world.stable(2, client_id="meter")
    world.commit_offset(9, member_id=leader.member_id, generation=1)
    [report] = world.groups.report()
    assert (report.name, report.owner, report.state, report.generation) == ("g", "alice", "Stable", 1)
    assert (report.protocol_type, report.protocol) == ("test", "range")
    assert report.offsets == (("orders", 0, 9),)
    told = {m.id: (m.client_id, m.host, m.leads, m.assignment_bytes) for m in report.members}
    assert told == {
        leader.member_id: ("meter", "10.0.0.1", True, len(leader.member_id)),
        follower.member_id: ("meter", "10.0.0.1", False, len(follower.member_id)),
    }
    world.join(follower.member_id)
    world.join(leader.member_id)
    world.join(follower.member_id)
    [report] = world.groups.report()
    assert report.state == "CompletingRebalance"
    assert {m.assignment_bytes for m in report.members} == {0}, "shares of an old generation are nobody's"

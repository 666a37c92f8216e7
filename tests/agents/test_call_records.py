from __future__ import annotations

import json
from typing import Any

from agents_world import ALICE, BOB, CallWorld, FakeCaller, Server

from dragoman.broker.call import CallState, Kind
from dragoman.broker.log.contract import Table
from dragoman.broker.principal import Principal
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.refusals import Reason, Refusal


def reason(answer: object) -> Reason | None:
    return answer.reason if isinstance(answer, Refusal) else None


def refused(world: CallWorld, skill: str, agent: str | None = None, **options: Any) -> Reason | None:
    caller = options.pop("caller", None) or world.caller()
    return reason(world.calls.start(caller, agent=agent, skill=skill, arguments=b"{}", **options))


# -- records -----------------------------------------------------------------------------------------


def test_it_becomes_a_record_after_a_while_and_not_before() -> None:
    world = CallWorld()
    server = Server(world, "s", "heat")
    quick, slow = world.call(world.caller(), "heat"), world.call(world.caller(), "heat")
    world.wait(4_900)
    server.answer(quick)
    assert not list(world.log.rows(Table.CALLS))
    world.wait(200)
    assert slow.recorded
    assert reason(world.calls.get(ALICE, quick.id)) is Reason.UNKNOWN_CALL
    server.answer(slow)
    assert world.calls.get(ALICE, slow.id) is slow
    world.wait(5 * 60_000 + 10)
    assert reason(world.calls.get(ALICE, slow.id)) is Reason.UNKNOWN_CALL
    assert not list(world.log.rows(Table.CALLS))
    world.calls.check()


def test_the_end_of_a_record_is_told_when_it_is_safe_and_not_before() -> None:
    world = CallWorld()
    server = Server(world, "s", "heat", keeps=True)
    caller = world.caller()
    call = world.call(caller, "heat", "s", durable=True)
    events: list[Any] = []
    world.calls.watch(call.id, events.append)
    world.unsafe = []
    server.answer(call, b"warm")
    world.turn()
    world.calls.check()
    assert (call.pending, call.open, caller.finals, events) == (True, False, [], [])
    assert reason(server.answer(call, b"warmer")) is Reason.CONFLICT
    assert reason(world.calls.cancel(caller.session, call.id)) is Reason.CONFLICT
    server.leave()
    world.wait(10 * 60_000)
    assert not caller.finals, "it is answered: no deadline and no lost server is told instead"
    world.unsafe.pop()(None)
    world.turn()
    assert (caller.answer, [event.payload for event in events], call.state) == (b"warm", [b"warm"], CallState.DONE)
    assert not world.unsafe
    world.calls.check()


def test_a_crash_after_the_end_was_safe_and_before_it_was_told_keeps_it() -> None:
    world = CallWorld()
    server = Server(world, "s", "heat", keeps=True)
    call = world.call(world.caller(), "heat", "s", durable=True)
    world.unsafe = []
    server.answer(call, b"warm")
    again = world.after_crash().calls.get(ALICE, call.id)
    assert not isinstance(again, Refusal)
    assert (again.state, again.open, again.outcome and again.outcome.payload) == (CallState.DONE, False, b"warm")


def test_where_its_commit_fails_the_end_is_told_all_the_same() -> None:
    world = CallWorld()
    server = Server(world, "s", "heat", keeps=True)
    caller = world.caller()
    call = world.call(caller, "heat", "s", durable=True)
    world.unsafe = []
    server.answer(call, b"warm")
    world.unsafe.pop()(Refusal(Reason.STORAGE_FULL, "no room"))
    world.turn()
    assert caller.answer == b"warm"


def test_a_pending_record_is_asked_again_after_a_crash_and_its_answer_finds_the_address() -> None:
    world = CallWorld()
    server = Server(world, "s", "heat", keeps=True)
    call = world.call(
        world.caller(), "heat", "s", durable=True, arguments=b"args", address=("mesh/me/reply/7", b"c"), dedupe="7"
    )
    server.answer(call, b"half", partial=True)
    world = world.after_crash()
    world.calls.check()
    orphans: list[Any] = []
    world.calls.orphan = lambda call, outcome: orphans.append((call.address, outcome.payload))
    server = Server(world, "s", "heat", keeps=True)
    world.turn()
    [again] = server.asked
    assert (again.id, again.arguments, again.caller_agent) == (call.id, b"args", "caller")
    assert [event.payload for event in again.events if event.kind is Kind.PART] == [b"half"]
    server.answer(again)
    world.turn()
    assert orphans == [(("mesh/me/reply/7", b"c"), b"done")]
    world = world.after_crash()
    finished = world.calls.get(ALICE, call.id)
    assert finished.outcome.payload == b"done"  # type: ignore[union-attr]
    assert [event.number for event in finished.events] == list(range(1, finished.last_event + 1))  # type: ignore[union-attr]
    world.wait(5 * 60_000 + 10)
    assert not list(world.log.rows(Table.CALLS))


def test_the_time_of_a_state_outlives_its_news_and_a_crash() -> None:
    world = CallWorld(AgentSettings(flap_ms=0, call_events_max=2))
    server = Server(world, "s", "heat", keeps=True)
    server.leave(keeps=True)
    call = world.call(world.caller(), "heat", "s", durable=True)
    assert call.moved_ms == call.started_ms
    world.clock.advance(7_000)
    server = Server(world, "s", "heat", keeps=True)
    world.turn()
    moved_ms = call.started_ms + 7_000
    world.clock.advance(1_000)
    for _ in range(3):
        server.answer(call, b"part", partial=True)
    assert all(event.kind is Kind.PART for event in call.events)
    assert call.moved_ms == moved_ms
    world = world.after_crash()
    assert world.calls.get(ALICE, call.id).moved_ms == moved_ms  # type: ignore[union-attr]


def test_a_pending_record_times_out_after_a_crash_too() -> None:
    world = CallWorld()
    Server(world, "s", "heat", keeps=True).leave(keeps=True)
    call = world.call(world.caller(), "heat", deadline_ms=20_000)
    world.clock.advance(15_000)
    world = world.after_crash()
    world.wait(4_000)
    assert world.calls.get(ALICE, call.id).state is CallState.WAITING  # type: ignore[union-attr]
    world.wait(2_000)
    assert world.calls.get(ALICE, call.id).state is CallState.EXPIRED  # type: ignore[union-attr]
    world.calls.check()


def test_a_call_is_shown_to_its_parties_and_administrators() -> None:
    world = CallWorld()
    Server(world, "s", "heat")
    call = world.call(world.caller(), "heat", durable=True)
    for principal in (ALICE, BOB, Principal("root", admin=True)):
        assert world.calls.get(principal, call.id) is call
    assert reason(world.calls.get(Principal("eve"), call.id)) is Reason.UNKNOWN_CALL


def test_events_are_numbered_and_bounded_in_count_and_bytes() -> None:
    world = CallWorld(AgentSettings(call_events_max=4, call_events_bytes_max=1_900))
    server, caller = Server(world, "s", "heat"), world.caller()
    call = world.call(caller, "heat", durable=True)
    for i in range(10):
        server.answer(call, b"%d" % i, partial=True)
    assert [event.payload for event in call.events] == [b"6", b"7", b"8", b"9"]
    server.answer(call, b"x" * 900, partial=True)
    server.answer(call, b"y" * 900, partial=True)
    assert [len(event.payload or b"") for event in call.events] == [900]
    server.answer(call, b"z" * 5_000)
    assert [event.kind for event in call.events] == [Kind.FINAL]
    assert call.last_event == 14
    world.turn()
    assert len(caller.parts) == 12, "who listens gets them all"
    assert len(list(world.log.rows(Table.CALLS))) == 2
    world.calls.check()


def test_a_watch_hears_each_event() -> None:
    world = CallWorld(AgentSettings(call_watchers_max=1))
    server = Server(world, "s", "heat")
    call = world.call(world.caller(), "heat")
    heard: list[tuple[Kind, int]] = []
    unwatch = world.calls.watch(call.id, lambda event: heard.append((event.kind, event.number)))
    assert reason(world.calls.watch(call.id, print)) is Reason.QUOTA_EXCEEDED
    server.answer(call, b"1", partial=True)
    server.answer(call)
    world.turn()
    assert heard == [(Kind.PART, 2), (Kind.FINAL, 3)]
    unwatch()  # type: ignore[operator]
    assert reason(world.calls.watch(call.id, print)) is Reason.UNKNOWN_CALL


def test_the_mesh_tells_of_calls_but_not_what_was_said() -> None:
    world = CallWorld()
    server = Server(world, "s", "heat")
    world.take_news()
    call = world.call(world.caller(), "heat", arguments=b"secret")
    [(name, payload)] = list(world.directory.projected("$mesh/v1/calls/+"))
    assert name == f"$mesh/v1/calls/{call.id}"
    assert json.loads(payload) == {
        "state": "working",
        "skill": "heat",
        "agent": "s",
        "caller": "caller",
        "started": world.clock.now_ms(),
        "deadline": world.clock.now_ms() + 60_000,
    }
    server.answer(call, b"secret too")
    told = [payload for named, payload in world.take_news() if named == name]
    assert [json.loads(payload)["state"] if payload else "" for payload in told] == ["working", "done", ""]
    assert b"secret" not in b"".join(told)
    assert list(world.directory.projected("$mesh/v1/calls/+")) == []


# -- bounds ------------------------------------------------------------------------------------------


def test_pending_calls_are_bounded_per_principal_in_all_and_in_bytes() -> None:
    world = CallWorld(AgentSettings(calls_per_principal_max=2, calls_max=3, call_arguments_max=10))
    server, caller = Server(world, "s", "heat"), world.caller()
    other = world.caller("other", BOB)
    calls = [world.call(caller, "heat") for _ in range(2)]
    assert refused(world, "heat", caller=caller) is Reason.QUOTA_EXCEEDED
    world.call(other, "heat")
    assert refused(world, "heat", caller=other) is Reason.QUOTA_EXCEEDED
    assert reason(world.calls.start(caller, agent=None, skill="heat", arguments=b"x" * 11)) is Reason.TOO_LARGE
    server.answer(calls[0])
    world.call(caller, "heat")
    assert world.calls.pending == 3


def test_memory_is_bounded_and_finished_records_leave_first() -> None:
    world = CallWorld(AgentSettings(calls_bytes_max=10_000))
    server, caller = Server(world, "s", "heat"), world.caller()
    old = world.call(caller, "heat", durable=True, arguments=b"x" * 4_000)
    server.answer(old)
    caller = world.caller()
    first = world.call(caller, "heat", arguments=b"x" * 4_000)
    second = world.call(world.caller(), "heat", arguments=b"x" * 4_000)
    assert reason(world.calls.get(ALICE, old.id)) is Reason.UNKNOWN_CALL
    assert reason(world.calls.start(caller, agent=None, skill="heat", arguments=b"x" * 4_000)) is Reason.BUSY
    for _ in range(5):
        server.answer(first, b"p" * 900, partial=True)
    assert len(first.events) == 1
    world.turn()
    assert len(caller.parts) == 5
    world.calls.check()
    assert second.pending


def test_a_lane_is_bounded() -> None:
    world = CallWorld(AgentSettings(calls_waiting_per_skill_max=2))
    Server(world, "s", "heat", keeps=True).leave(keeps=True)
    calls = [world.call(world.caller(), "heat") for _ in range(2)]
    assert refused(world, "heat") is Reason.BUSY
    assert world.calls.cancel(world.caller().session, calls[0].id) is None
    world.call(world.caller(), "heat")


def test_thousands_wait_for_one_server_and_all_are_answered() -> None:
    world = CallWorld(AgentSettings(call_deadline_ms=10**9))
    Server(world, "s", "heat", keeps=True).leave(keeps=True)
    caller = world.caller()
    for _ in range(1_000):
        world.calls.start(caller, agent=None, skill="heat", arguments=b"")
    server = Server(world, "s", "heat", keeps=True)
    world.directory.set_limit("s", 10)
    world.turn()
    done = 0
    while done < len(server.asked):
        assert len(server.asked) - done <= 10
        server.answer(server.asked[done])
        done += 1
        world.turn()
    assert done == 1_000
    assert len(caller.finals) == 1_000
    world.calls.check()


def test_the_state_of_calls_holds_whatever_happens_in_whatever_order() -> None:
    import random

    rng = random.Random(20261121)
    world = CallWorld(AgentSettings(flap_ms=0, call_kept_ms=3_000, calls_max=20))
    servers: dict[str, Server] = {}
    callers: list[FakeCaller] = []
    calls: list[Any] = []
    for _ in range(1_500):
        act = rng.randrange(8)
        agent = rng.choice("abc")
        if act == 0 and agent not in servers:
            servers[agent] = Server(world, agent, "heat", keeps=rng.random() < 0.5)
        elif act == 1 and agent in servers:
            servers.pop(agent).leave(clean=rng.random() < 0.5, keeps=rng.random() < 0.5)
        elif act in (2, 3):
            caller = world.caller()
            callers.append(caller)
            wanted = rng.choice([None, agent])
            call = world.calls.start(
                caller, agent=wanted, skill="heat", arguments=b"x", durable=rng.random() < 0.3, deadline_ms=5_000
            )
            if isinstance(call, Refusal):
                callers.pop()
            else:
                calls.append(call)
        elif act in (4, 5) and calls and agent in servers:
            call = rng.choice(calls[-20:])
            servers[agent].answer(call, partial=rng.random() < 0.3)
        elif act == 6 and calls:
            world.calls.cancel(world.caller().session, rng.choice(calls[-20:]).id)
        elif act == 7:
            world.wait(rng.randrange(2_000))
            if world.directory.get(agent) is not None:
                world.directory.set_limit(agent, rng.choice([None, 0, 1, 3]))
        world.turn()
        world.calls.check()
        world.directory.check()
    world.wait(20_000)
    assert world.calls.pending == 0
    assert len(callers) > 200
    assert all(len(caller.finals) == 1 for caller in callers), "exactly one final answer each"

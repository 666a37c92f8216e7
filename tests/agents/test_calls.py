from __future__ import annotations

from typing import Any

import pytest
from agents_world import ALICE, BOB, CallWorld, FakeSession, Server

from dragoman.broker.call import CallState, Kind
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.principal import Principal
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.cards import Skill, skill_key
from dragoman.routing.refusals import Reason, Refusal


def reason(answer: object) -> Reason | None:
    return answer.reason if isinstance(answer, Refusal) else None


def refused(world: CallWorld, skill: str, agent: str | None = None, **options: Any) -> Reason | None:
    caller = options.pop("caller", None) or world.caller()
    return reason(world.calls.start(caller, agent=agent, skill=skill, arguments=b"{}", **options))


# -- one answer ------------------------------------------------------------------------------------


def test_a_call_has_parts_and_exactly_one_final_answer() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    call = world.call(caller, "heat", "s", arguments=b'{"to": 21}')
    assert server.asked[0].arguments == b'{"to": 21}'
    assert server.answer(call, b"1", partial=True) is None
    assert server.answer(call, b"2", partial=True) is None
    assert server.answer(call, b"done") is None
    assert reason(server.answer(call, b"again")) is Reason.UNKNOWN_CALL
    assert reason(server.answer(call, b"3", partial=True)) is Reason.UNKNOWN_CALL
    world.turn()
    assert caller.parts == [b"1", b"2"]
    assert caller.answer == b"done"
    assert world.calls.late_total == 2
    world.calls.check()


def test_a_recorded_call_knows_late_from_duplicate() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    done = world.call(caller, "heat", durable=True)
    server.answer(done)
    assert reason(server.answer(done, b"other")) is Reason.CONFLICT
    assert world.calls.duplicate_total == 1
    expired = world.call(world.caller(), "heat", durable=True, deadline_ms=100)
    world.wait(200)
    assert reason(server.answer(expired)) is Reason.DEADLINE_PASSED
    assert world.calls.late_total == 1
    assert world.calls.get(ALICE, done.id).outcome.payload == b"done"  # type: ignore[union-attr]


def test_only_the_agent_that_was_asked_may_answer() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    other = Server(world, "other", "cool")
    call = world.call(caller, "heat")
    for session in (other.session, caller.session, FakeSession(BOB, "")):
        assert reason(world.calls.answer(session, call.id, b"forged")) is Reason.NOT_AUTHORIZED
    server.answer(call)
    world.turn()
    assert caller.answer == b"done"


def test_a_failed_call_says_why() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    server.answer(world.call(caller, "heat"), b"", error="the valve is stuck")
    world.turn()
    assert caller.reason is Reason.FAILED
    assert caller.finals[0].refusal.detail == "the valve is stuck"
    assert world.calls.failed_total == 1


def test_a_server_may_answer_from_within() -> None:
    world = CallWorld()
    session = world.arrive("s", BOB)
    world.directory.offer(
        session, "s", Skill(name="heat"), lambda call: world.calls.answer(session, call.id, b"at once") is None
    )
    caller = world.caller()
    call = world.calls.start(caller, agent=None, skill="heat", arguments=b"")
    assert not isinstance(call, Refusal)
    assert caller.finals == [], "the caller has its Call before it has the answer"
    world.turn()
    assert caller.answer == b"at once"
    world.calls.check()
    assert world.directory.get("s").load == 0  # type: ignore[union-attr]


# -- whom to ask -----------------------------------------------------------------------------------


def test_the_least_busy_is_asked_and_equals_take_turns() -> None:
    world = CallWorld()
    a, b, c = (Server(world, name, "heat") for name in "abc")
    asked = [world.call(world.caller(), "heat").agent for _ in range(6)]
    assert sorted(asked[:3]) == sorted(asked[3:]) == ["a", "b", "c"]
    for call in b.asked:
        b.answer(call)
    assert [world.call(world.caller(), "heat").agent for _ in range(2)] == ["b", "b"]
    assert len(a.asked) == len(c.asked) == 2


def test_quick_answers_go_round_too() -> None:
    world = CallWorld()
    servers = [Server(world, name, "heat") for name in "abc"]
    for _ in range(9):
        call = world.call(world.caller(), "heat")
        next(server for server in servers if call in server.asked).answer(call)
    assert [len(server.asked) for server in servers] == [3, 3, 3], "the first is not everybody's favourite"


def test_a_busy_server_is_spared_and_what_waits_is_asked_when_it_has_room() -> None:
    world = CallWorld()
    server = Server(world, "s", "heat")
    world.directory.set_limit("s", 1)
    first = world.call(world.caller(), "heat")
    assert world.directory.get("s").state == "busy"  # type: ignore[union-attr]
    second, third = world.call(world.caller(), "heat"), world.call(world.caller(), "heat", "s")
    assert second.state is third.state is CallState.WAITING
    server.answer(first)
    world.turn()
    assert [call.id for call in server.asked] == [first.id, third.id]
    server.answer(third)
    world.turn()
    assert [call.id for call in server.asked] == [first.id, third.id, second.id]
    world.calls.check()


def test_who_declared_itself_busy_is_not_waited_for() -> None:
    world = CallWorld()
    Server(world, "s", "heat")
    world.directory.set_limit("s", 0)
    assert refused(world, "heat") is Reason.BUSY
    other = Server(world, "other", "heat")
    world.call(world.caller(), "heat")
    assert len(other.asked) == 1


def test_a_server_without_credit_is_passed_over_and_asked_when_it_has_some() -> None:
    world = CallWorld()
    a, b = Server(world, "a", "heat"), Server(world, "b", "heat")
    a.full = True
    world.call(world.caller(), "heat")
    assert (len(a.asked), len(b.asked)) == (0, 1)
    b.full = True
    call = world.call(world.caller(), "heat")
    assert call.state is CallState.WAITING
    assert world.directory.get("a").load == 0  # type: ignore[union-attr]
    a.full = False
    world.calls.eased(world.directory.get("a"))  # type: ignore[arg-type]
    world.turn()
    assert a.asked == [call]
    world.calls.check()


def test_a_server_at_its_limit_that_turns_a_call_away_does_not_wake_its_own_queue_for_ever() -> None:
    world = CallWorld()
    Server(world, "s", "heat", keeps=True).leave(keeps=True)
    calls = [world.call(world.caller(), "heat") for _ in range(2)]
    server = Server(world, "s", "heat", keeps=True)
    server.full = True
    world.directory.set_limit("s", 1)
    world.turn()
    world.calls.check()
    assert [call.state for call in calls] == [CallState.WAITING] * 2
    assert [event.kind for event in calls[0].events] == [Kind.STATE], "asked in vain is not news"
    server.full = False
    world.calls.eased(world.directory.get("s"))  # type: ignore[arg-type]
    world.turn()
    assert server.asked == calls[:1]


@pytest.mark.parametrize(
    ("skill", "agent", "expected"),
    [
        ("heat", "nobody", Reason.UNKNOWN_AGENT),
        ("fly", "s", Reason.UNKNOWN_SKILL),
        ("fly", None, Reason.UNKNOWN_SKILL),
        ("heat", "lost", Reason.AGENT_UNREACHABLE),
        ("cool", None, Reason.AGENT_UNREACHABLE),
        ("heat", "hidden", Reason.UNKNOWN_AGENT),
        ("forbidden", "s", Reason.NOT_AUTHORIZED),
        ("forbidden", None, Reason.NOT_AUTHORIZED),
    ],
)
def test_what_cannot_be_is_refused_at_once(skill: str, agent: str | None, expected: Reason) -> None:
    rules = (
        RuleSettings(effect="deny", who=("alice",), actions=("read",), filters=("$mesh/v1/agents/hidden",)),
        RuleSettings(effect="deny", who=("alice",), actions=("call",), filters=("+/forbidden",)),
    )
    world = CallWorld(gate=GateSettings(rules=rules))
    Server(world, "s", "heat", "forbidden")
    Server(world, "hidden", "heat")
    Server(world, "lost", "heat", "cool", keeps=True).leave(clean=False, keeps=True)
    assert refused(world, skill, agent) is expected
    assert world.calls.pending == 0


def test_a_call_without_a_name_goes_only_where_its_caller_may() -> None:
    rule = RuleSettings(effect="deny", who=("alice",), actions=("call",), filters=("a/+",))
    world = CallWorld(gate=GateSettings(rules=(rule,)))
    a, b = Server(world, "a", "heat"), Server(world, "b", "heat")
    for _ in range(3):
        world.call(world.caller(), "heat")
    assert (len(a.asked), len(b.asked)) == (0, 3)
    b.leave()
    world.wait(61_000)
    assert refused(world, "heat") is Reason.NOT_AUTHORIZED, "a is here, but not for her"


def test_a_call_of_exact_schemas_goes_to_who_has_those() -> None:
    world = CallWorld()
    schemas: list[dict[str, object]] = [{"type": "object"}, {"type": "object", "required": ["to"]}]
    asked: list[str] = []
    for agent, schema in zip("ab", schemas, strict=True):
        skill = Skill(name="heat", input_schema=schema)
        world.directory.offer(
            world.arrive(agent, BOB),
            agent,
            skill,
            lambda call, agent=agent: not asked.append(agent),  # type: ignore[misc]
        )
    key = skill_key(Skill(name="heat", input_schema=schemas[1]))
    for _ in range(3):
        world.call(world.caller(), "heat", key=key)
    assert asked == ["b", "b", "b"]
    assert refused(world, "heat", "a", key=key) is Reason.UNKNOWN_SKILL


# -- sleepers and the disconnected -------------------------------------------------------------------


def test_a_sleeper_is_asked_when_it_returns() -> None:
    world = CallWorld()
    Server(world, "s", "heat", keeps=True).leave(keeps=True)
    caller = world.caller()
    call = world.call(caller, "heat", "s")
    assert call.state is CallState.WAITING
    assert call.recorded
    world.wait(30_000)
    server = Server(world, "s", "heat", keeps=True)
    world.turn()
    assert server.asked == [call]
    server.answer(call)
    world.turn()
    assert caller.answer == b"done"


def test_a_call_for_a_sleeper_ends_at_its_deadline() -> None:
    world = CallWorld()
    Server(world, "s", "heat", keeps=True).leave(keeps=True)
    caller = world.caller()
    world.call(caller, "heat", deadline_ms=10_000)
    world.wait(9_999)
    assert caller.finals == []
    world.wait(10)
    assert caller.reason is Reason.DEADLINE_PASSED
    server = Server(world, "s", "heat", keeps=True)
    world.turn()
    assert server.asked == []


def test_a_server_that_disconnects_fails_its_calls() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    world.call(caller, "heat")
    server.leave(clean=False)
    world.turn()
    assert caller.reason is Reason.AGENT_UNREACHABLE
    assert world.directory.get("s").load == 0  # type: ignore[union-attr]
    world.calls.check()


@pytest.mark.parametrize("durable", [True, False])
def test_unless_it_or_its_session_is_durable_then_it_is_asked_again(durable: bool) -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat", keeps=not durable), world.caller()
    call = world.call(caller, "heat", "s", durable=durable)
    server.leave(clean=False, keeps=not durable)
    world.turn()
    assert (caller.finals, call.state) == ([], CallState.WAITING)
    again = Server(world, "s", "heat", keeps=not durable)
    world.turn()
    assert again.asked == [call]
    again.answer(call)
    assert reason(again.answer(call)) is Reason.CONFLICT, "it did the work twice and says so twice"
    world.turn()
    assert caller.answer == b"done"


def test_a_durable_call_without_a_name_goes_to_somebody_else() -> None:
    world = CallWorld()
    a = Server(world, "a", "heat")
    caller = world.caller()
    call = world.call(caller, "heat", durable=True)
    b = Server(world, "b", "heat")
    a.leave(clean=False)
    assert b.asked == [call]
    assert reason(world.calls.answer(a.session, call.id, b"late")) is Reason.NOT_AUTHORIZED
    b.answer(call)
    world.turn()
    assert caller.answer == b"done"


def test_one_that_stops_serving_may_still_answer() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    call = world.call(caller, "heat")
    world.directory.withdraw(server.offers[0])  # type: ignore[arg-type]
    assert server.answer(call) is None
    world.turn()
    assert caller.answer == b"done"


def test_the_queue_of_a_skill_is_asked_in_order_and_nobody_blocks_it() -> None:
    rule = RuleSettings(effect="deny", who=("carol",), actions=("call",), filters=("b/heat",))
    world = CallWorld(gate=GateSettings(rules=(rule,)))
    for agent in "ab":
        Server(world, agent, "heat", keeps=True).leave(keeps=True)
    blocked = world.call(world.caller("carol", Principal("carol")), "heat")
    calls = [world.call(world.caller(), "heat") for _ in range(3)]
    server = Server(world, "b", "heat", keeps=True)
    world.turn()
    assert server.asked == calls
    assert blocked.state is CallState.WAITING
    assert Server(world, "a", "heat", keeps=True) is not None
    world.turn()
    assert blocked.agent == "a"


# -- deadline, cancel --------------------------------------------------------------------------------


def test_the_deadline_ends_it_and_the_server_hears() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    call = world.call(caller, "heat")
    world.wait(59_999)
    assert caller.finals == []
    world.wait(2)
    assert caller.reason is Reason.DEADLINE_PASSED
    assert server.cancelled == [call.id]
    assert reason(server.answer(call)) is Reason.DEADLINE_PASSED
    assert world.calls.late_total == 1


def test_a_deadline_is_cut_to_the_maximum() -> None:
    world = CallWorld(AgentSettings(flap_ms=0, call_deadline_max_ms=1_000))
    Server(world, "s", "heat")
    caller = world.caller()
    call = world.call(caller, "heat", deadline_ms=10**12)
    assert call.deadline_ms == world.clock.now_ms() + 1_000
    world.wait(1_001)
    assert caller.reason is Reason.DEADLINE_PASSED


def test_the_caller_may_cancel_and_nobody_else() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    call = world.call(caller, "heat")
    for session in (server.session, FakeSession(ALICE, "another"), FakeSession(BOB, "caller")):
        assert reason(world.calls.cancel(session, call.id)) is Reason.NOT_AUTHORIZED
    assert world.calls.cancel(caller.session, call.id) is None
    world.turn()
    assert caller.reason is Reason.CANCELLED
    assert server.cancelled == [call.id]
    assert world.directory.get("s").load == 0  # type: ignore[union-attr]
    assert reason(world.calls.cancel(caller.session, call.id)) is Reason.UNKNOWN_CALL
    world.calls.check()


# -- the same again ----------------------------------------------------------------------------------


def test_a_reference_is_one_call_however_often_it_is_sent() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    call = world.call(caller, "heat", "s", dedupe="42")
    assert world.call(caller, "heat", "s", dedupe="42") is call
    assert len(server.asked) == 1
    server.answer(call)
    world.turn()
    assert world.call(caller, "heat", "s", dedupe="42") is call
    assert caller.answer == b"done"
    assert len(server.asked) == 1
    assert refused(world, "cool", "s", caller=caller, dedupe="42") is Reason.CONFLICT
    assert world.call(world.caller("other"), "heat", "s", dedupe="42") is not call, "a reference is its caller's own"


def test_who_comes_back_and_asks_again_gets_the_answer() -> None:
    world = CallWorld()
    server, caller = Server(world, "s", "heat"), world.caller()
    call = world.call(caller, "heat", "s", dedupe="42")
    world.directory.depart(caller.session, clean=False, keeps=False)
    during = world.caller()
    assert world.call(during, "heat", "s", dedupe="42") is call
    server.answer(call)
    world.turn()
    assert during.answer == b"done"
    world.directory.depart(during.session, clean=False, keeps=False)
    after = world.caller()
    assert world.call(after, "heat", "s", dedupe="42") is call
    assert after.answer == b"done"
    assert len(server.asked) == 1
    world.wait(5 * 60_000 + 10)
    assert world.call(world.caller(), "heat", "s", dedupe="42") is not call, "references are forgotten in time"

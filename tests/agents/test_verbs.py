from __future__ import annotations

import json

import pytest
from agents_world import ALICE, BOB, FakeSession, VerbWorld

from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.log.contract import Ticket
from dragoman.broker.principal import Principal
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Reason, Refusal


def reason(answer: object) -> Reason | None:
    return answer.reason if isinstance(answer, Refusal) else None


def heard(session: FakeSession) -> list[tuple[str, bytes | None]]:
    got, session.got = session.got, []
    return [(message.name, message.payload) for message in got]


def device(world: VerbWorld, agent: str = "device", *, keeps: bool = False, skill: str = "heat") -> FakeSession:
    session = world.arrive(agent, BOB, keeps=keeps)
    world.listen(session, f"mesh/serve/{skill}/+", "mesh/me/#")
    return session


# -- calling by reference (MQTT 3.1.1) ---------------------------------------------------------------


def test_a_call_and_its_answer_with_nothing_but_publish_and_subscribe() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner")
    world.listen(caller, "mesh/me/#")
    assert world.say(caller, "mesh/call/device/heat/42", b'{"to": 21}') == 0
    [request] = server.got
    call_id = request.name.removeprefix("mesh/serve/heat/")
    assert request.payload == b'{"to": 21}'
    assert request.sender == "planner"
    assert request.envelope is not None
    assert request.envelope.reply_to == f"mesh/answer/{call_id}"
    assert request.envelope.correlation == call_id.encode()
    assert request.envelope.expires_ms == world.clock.now_ms() + 60_000
    world.say(server, f"mesh/answer/{call_id}/part/1", b"warming")
    world.say(server, f"mesh/answer/{call_id}/part/2", b"nearly")
    world.say(server, f"mesh/answer/{call_id}", b"warm")
    assert [message.sender for message in caller.got] == ["device"] * 3
    assert heard(caller) == [
        ("mesh/me/reply/42/1", b"warming"),
        ("mesh/me/reply/42/2", b"nearly"),
        ("mesh/me/reply/42", b"warm"),
    ]
    assert reason(world.say(server, f"mesh/answer/{call_id}", b"again")) is Reason.CONFLICT
    assert heard(caller) == []


def test_an_error_is_json_and_a_header() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner")
    world.listen(caller, "mesh/me/reply/+")
    world.say(caller, "mesh/call/device/heat/1")
    call_id = server.got[0].name.rpartition("/")[2]
    world.say(server, f"mesh/answer/{call_id}/error", b"the valve is stuck")
    [reply] = caller.got
    assert json.loads(reply.payload or b"") == {"error": {"code": "failed", "message": "the valve is stuck"}}
    assert reply.envelope is not None
    assert reply.envelope.headers == (("mesh-status", b"error"), ("mesh-error", b"failed"))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("mesh/call/nobody/heat/7", "unknown-agent"),
        ("mesh/call/device/fly/7", "unknown-skill"),
        ("mesh/call/-/fly/7", "unknown-skill"),
        ("mesh/call/%zz/heat/7", "name-invalid"),
        ("mesh/call/device/%ff/7", "name-invalid"),
    ],
)
def test_by_its_reference_a_caller_hears_why_not_and_is_not_punished(name: str, code: str) -> None:
    world = VerbWorld()
    device(world)
    caller = world.arrive("planner")
    world.listen(caller, "mesh/me/reply/+")
    assert world.say(caller, name) == 0
    [(topic, payload)] = heard(caller)
    assert topic == "mesh/me/reply/7"
    assert json.loads(payload or b"")["error"]["code"] == code


def test_the_same_reference_is_the_same_call() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner")
    world.listen(caller, "mesh/me/#")
    for _ in range(3):
        world.say(caller, "mesh/call/device/heat/42")
    [(name, _)] = heard(server)
    world.say(server, name.replace("serve/heat", "answer"), b"done")
    world.say(caller, "mesh/call/device/heat/42")
    assert heard(server) == []
    assert heard(caller) == [("mesh/me/reply/42", b"done")]


def test_whoever_serves_it_best_is_spelt_as_a_dash() -> None:
    world = VerbWorld()
    servers = [device(world, agent) for agent in ("a", "b", "-")]
    caller = world.arrive("planner")
    for ref in range(3):
        assert world.say(caller, f"mesh/call/-/heat/{ref}") == 0
    assert [len(server.got) for server in servers] == [1, 1, 1]
    world.say(caller, "mesh/call/%2D/heat/9")
    assert [len(server.got) for server in servers] == [1, 1, 2], "the agent called - is spelt %2D"


def test_the_caller_may_cancel_and_the_server_hears() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner")
    world.listen(caller, "mesh/me/#")
    world.say(caller, "mesh/call/device/heat/42")
    call_id = heard(server)[0][0].rpartition("/")[2]
    assert reason(world.say(server, "mesh/me/cancel/42")) is Reason.UNKNOWN_CALL
    assert world.say(caller, "mesh/me/cancel/42") == 0
    assert heard(server) == [(f"mesh/me/cancel/{call_id}", b"")]
    assert json.loads(heard(caller)[0][1] or b"")["error"]["code"] == "cancelled"


# -- calling with a response topic (MQTT 5) ------------------------------------------------------------


def test_a_response_topic_gets_the_answer_with_the_correlation() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner")
    world.listen(caller, "mesh/me/reply/+")
    envelope = Envelope(
        reply_to="mesh/me/reply/x", correlation=b"\x00\x01", expires_ms=world.clock.now_ms() + 5_000, cause="1-2"
    )
    assert world.say(caller, "mesh/call/device/heat", b"", envelope) == 0
    [request] = server.got
    assert request.envelope is not None
    assert request.envelope.expires_ms == world.clock.now_ms() + 5_000
    assert request.envelope.cause == "1-2"
    answer = request.envelope.reply_to or ""
    world.say(server, answer, b"half", Envelope(headers=(("mesh-status", b"part"),)))
    world.say(server, answer, b"done", Envelope(content_type="text/plain"))
    part, final = caller.got
    for message, status, payload in ((part, b"part", b"half"), (final, b"ok", b"done")):
        assert (message.name, message.payload) == ("mesh/me/reply/x", payload)
        assert message.envelope is not None
        assert message.envelope.correlation == b"\x00\x01"
        assert message.envelope.header("mesh-status") == status
    assert final.envelope is not None
    assert final.envelope.content_type == "text/plain"


def test_an_error_by_header_and_a_deadline() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner")
    world.listen(caller, "mesh/me/reply/+")
    envelope = Envelope(reply_to="mesh/me/reply/x", correlation=b"1", expires_ms=world.clock.now_ms() + 5_000)
    world.say(caller, "mesh/call/device/heat", b"", envelope)
    world.say(caller, "mesh/call/device/heat", b"", envelope)
    answer = server.got[0].envelope.reply_to  # type: ignore[union-attr]
    world.say(server, answer or "", b"stuck", Envelope(headers=(("mesh-status", b"error"),)))
    world.wait(6_000)
    assert [message.envelope.header("mesh-error") for message in caller.got] == [b"failed", b"deadline-passed"]  # type: ignore[union-attr]


def test_without_response_topic_or_reference_there_is_no_call() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner")
    for envelope in (None, Envelope(correlation=b"1")):
        assert reason(world.say(caller, "mesh/call/device/heat", b"", envelope)) is Reason.ARGUMENTS_INVALID
    assert server.got == []


def test_a_refused_call_with_a_response_topic_is_refused_and_replied() -> None:
    world = VerbWorld()
    caller = world.arrive("planner")
    world.listen(caller, "mesh/me/reply/+")
    envelope = Envelope(reply_to="mesh/me/reply/x", correlation=b"1")
    assert reason(world.say(caller, "mesh/call/nobody/heat", b"", envelope)) is Reason.UNKNOWN_AGENT
    [reply] = caller.got
    assert reply.envelope is not None
    assert reply.envelope.header("mesh-error") == b"unknown-agent"


def test_an_answer_may_go_to_a_channel_but_only_where_its_caller_may_speak() -> None:
    rule = RuleSettings(effect="deny", who=("alice",), actions=("publish",), filters=("secret/#",))
    world = VerbWorld(gate=GateSettings(rules=(rule,)))
    server, caller = device(world), world.arrive("planner")
    denied = Envelope(reply_to="secret/x", correlation=b"1")
    assert reason(world.say(caller, "mesh/call/device/heat", b"", denied)) is Reason.NOT_AUTHORIZED
    for reply in ("mesh/call/device/heat/1", "mesh/answer/x", "mesh/me"):
        wrong = Envelope(reply_to=reply, correlation=b"1")
        assert reason(world.say(caller, "mesh/call/device/heat", b"", wrong)) is Reason.ARGUMENTS_INVALID
    assert server.got == []
    world.say(caller, "mesh/call/device/heat", b"", Envelope(reply_to="replies/planner", correlation=b"1"))
    world.say(server, server.got[0].envelope.reply_to or "", b"done")  # type: ignore[union-attr]
    [(principal, message)] = world.channels
    assert (principal, message.sender, message.name, message.payload) == ("alice", "device", "replies/planner", b"done")


def test_me_in_a_response_topic_becomes_absolute_and_leads_back() -> None:
    world = VerbWorld()
    asker, other = world.arrive("a b"), world.arrive("other", BOB)
    world.listen(asker, "mesh/me/#")
    envelope = Envelope(
        reply_to="mesh/me/reply/7/x", correlation=b"1", headers=(("k", b"v"),), raw=b"mesh/me/reply/7/x", raw_form=5
    )
    absolute = world.verbs.absolute(asker, envelope)  # type: ignore[arg-type]
    assert absolute.reply_to == "mesh/to/a%20b/reply/7/x"
    assert (absolute.correlation, absolute.headers) == (b"1", (("k", b"v"),))
    assert (absolute.raw, absolute.raw_form) == (b"", 0), "its own bytes would say me again"
    assert world.say(other, absolute.reply_to or "", b"hello") == 0
    assert heard(asker) == [("mesh/me/reply/7/x", b"hello")]
    inbox = world.verbs.absolute(asker, Envelope(reply_to="mesh/me/in"))  # type: ignore[arg-type]
    assert inbox.reply_to == "mesh/to/a%20b"
    for untouched in (Envelope(), Envelope(reply_to="plant/x"), Envelope(reply_to="mesh/to/x/reply/1")):
        assert world.verbs.absolute(asker, untouched) is untouched  # type: ignore[arg-type]


def test_a_call_whose_response_topic_was_made_absolute_is_still_answered() -> None:
    rule = RuleSettings(effect="deny", who=("alice",), actions=("publish",))
    world = VerbWorld(gate=GateSettings(rules=(rule,)))
    server, caller = device(world), world.arrive("planner")
    world.listen(caller, "mesh/me/reply/+")
    envelope = world.verbs.absolute(caller, Envelope(reply_to="mesh/me/reply/x", correlation=b"1"))  # type: ignore[arg-type]
    assert world.say(caller, "mesh/call/device/heat", b"", envelope) == 0
    world.say(server, server.got[0].envelope.reply_to or "", b"done")  # type: ignore[union-attr]
    assert heard(caller) == [("mesh/me/reply/x", b"done")]


# -- serving -----------------------------------------------------------------------------------------


def test_requests_come_under_the_level_the_server_wrote() -> None:
    world = VerbWorld()
    server = device(world, skill="set temp")
    caller = world.arrive("planner")
    world.say(caller, "mesh/call/device/set%20temp/1")
    assert heard(server)[0][0].startswith("mesh/serve/set temp/")
    other = device(world, "other", skill="a%2Fb")
    world.say(caller, "mesh/call/other/a%2fb/2")
    assert heard(other)[0][0].startswith("mesh/serve/a%2Fb/")


def test_a_declared_skill_keeps_its_schema_when_served() -> None:
    world = VerbWorld()
    session = world.arrive("device", BOB)
    card = {"name": "Thermostat", "skills": [{"name": "heat", "inputSchema": {"type": "object"}}]}
    world.say(session, "mesh/me/card", json.dumps(card).encode())
    world.listen(session, "mesh/serve/heat/+")
    [(_, skill, agents)] = world.directory.skills(ALICE)
    assert (skill.input_schema, agents) == ({"type": "object"}, ["device"])


def test_unsubscribing_ends_the_offer_and_sleeping_does_not() -> None:
    world = VerbWorld()
    session = world.arrive("device", BOB, keeps=True)
    [subscription] = world.listen(session, "mesh/serve/heat/+")
    world.leave(session, keeps=True)
    assert [agent.id for agent in world.directory.holders("heat")] == ["device"]
    caller = world.arrive("planner")
    world.say(caller, "mesh/call/device/heat/1", b"while you slept")
    session = world.arrive("device", BOB, keeps=True)
    [subscription] = world.listen(session, "mesh/serve/heat/+")
    assert [payload for _, payload in heard(session)] == [b"while you slept"]
    assert world.verbs.unsubscribe(subscription)
    assert not world.verbs.unsubscribe(subscription)
    assert world.directory.holders("heat") == []


@pytest.mark.parametrize(
    "filter_",
    [
        "mesh",
        "mesh/#",
        "mesh/+/x/+",
        "mesh/serve/heat",
        "mesh/serve/+/+",
        "mesh/serve/heat/#",
        "mesh/call/#",
        "mesh/answer/+",
        "mesh/me",
        "mesh/me/card",
        "mesh/serve/%20/+",
        "mesh/serve/%ff/+",
        "mesh/me/#/x",
    ],
)
def test_other_verb_filters_are_refused(filter_: str) -> None:
    world = VerbWorld()
    session = world.arrive("device")
    answer = world.verbs.subscribe(session, filter_)  # type: ignore[arg-type]
    assert reason(answer) in (Reason.FILTER_INVALID, Reason.NAME_INVALID)
    assert world.directory.get("device").card is None  # type: ignore[union-attr]


def test_verb_subscriptions_are_bounded_and_judged() -> None:
    rule = RuleSettings(effect="deny", who=("bob",), actions=("serve",), filters=("heat",))
    world = VerbWorld(AgentSettings(verb_subscriptions_max=2), gate=GateSettings(rules=(rule,)))
    session = world.arrive("device", BOB)
    assert reason(world.verbs.subscribe(session, "mesh/serve/heat/+")) is Reason.NOT_AUTHORIZED  # type: ignore[arg-type]
    world.listen(session, "mesh/me/in", "mesh/serve/cool/+")
    assert reason(world.verbs.subscribe(session, "mesh/me/#")) is Reason.QUOTA_EXCEEDED  # type: ignore[arg-type]


def test_a_session_without_credit_is_not_asked_until_it_has_some() -> None:
    world = VerbWorld()
    a, b = device(world, "a"), device(world, "b")
    caller = world.arrive("planner")
    a.credit = 0
    for ref in range(2):
        world.say(caller, f"mesh/call/-/heat/{ref}")
    assert (len(a.got), len(b.got)) == (0, 2)
    world.say(caller, "mesh/call/a/heat/9")
    assert a.got == []
    assert world.verbs.waits(a)  # type: ignore[arg-type]
    a.credit = 10
    world.verbs.resume(a)  # type: ignore[arg-type]
    world.turn()
    assert len(a.got) == 1
    assert not world.verbs.waits(a)  # type: ignore[arg-type]


# -- saying something to an agent ----------------------------------------------------------------------


def test_what_is_said_to_an_agent_reaches_each_of_its_connections_once() -> None:
    world = VerbWorld()
    one, two, mute = world.arrive("b", BOB), world.arrive("b", BOB), world.arrive("b", BOB)
    world.listen(one, "mesh/me/in", "mesh/me/#")
    world.listen(two, "mesh/me/#")
    world.listen(mute, "mesh/me/reply/+")
    sender = world.arrive("a")
    assert world.say(sender, "mesh/to/b", b"hello", Envelope(reply_to="mesh/me/reply/1")) == 0
    [message] = one.got
    assert (message.name, message.payload, message.sender) == ("mesh/me/in", b"hello", "a")
    assert message.envelope is not None
    assert message.envelope.reply_to == "mesh/to/a/reply/1"
    assert heard(two) == [("mesh/me/in", b"hello")]
    assert heard(mute) == []


def test_who_does_not_listen_cannot_be_reached_without_a_mailbox() -> None:
    world = VerbWorld()
    world.arrive("b", BOB)
    sender = world.arrive("a")
    assert reason(world.say(sender, "mesh/to/b", b"x")) is Reason.AGENT_UNREACHABLE
    assert reason(world.say(sender, "mesh/to/nobody", b"x")) is Reason.UNKNOWN_AGENT
    mail: list[tuple[str, Message]] = []
    world.verbs.mail = lambda agent, message: (mail.append((agent, message)), Ticket(7))[1]  # type: ignore[func-returns-value]
    assert world.say(sender, "mesh/to/b", b"x") == 7
    assert [(agent, message.name, message.payload) for agent, message in mail] == [("b", "mesh/me/in", b"x")]


def test_the_gate_judges_what_is_said_to_an_agent() -> None:
    rule = RuleSettings(effect="deny", who=("alice",), actions=("publish",), filters=("mesh/to/b/#",))
    world = VerbWorld(gate=GateSettings(rules=(rule,)))
    receiver, sender = world.arrive("b", BOB), world.arrive("a")
    world.listen(receiver, "mesh/me/#")
    assert reason(world.say(sender, "mesh/to/b", b"x")) is Reason.NOT_AUTHORIZED
    assert reason(world.say(sender, "mesh/to/b/reply/1", b"x")) is Reason.NOT_AUTHORIZED
    assert receiver.got == []


def test_the_mailbox_is_told_who_listens_to_its_inbox() -> None:
    world = VerbWorld()
    told: list[str] = []
    world.verbs.when_listening(lambda session: told.append(session.agent))
    world.listen(world.arrive("a"), "mesh/me/reply/+", "mesh/me/in")
    world.listen(world.arrive("b"), "mesh/me/#")
    assert told == ["a", "b"]


def test_what_waits_for_credit_keeps_its_order_and_its_bounds() -> None:
    world = VerbWorld(AgentSettings(verb_waiting_max=3))
    receiver, sender = world.arrive("b", BOB), world.arrive("a")
    world.listen(receiver, "mesh/me/in")
    receiver.credit = 1
    for i in range(4):
        assert world.say(sender, "mesh/to/b", b"%d" % i) == 0
    assert reason(world.say(sender, "mesh/to/b", b"too much")) is Reason.AGENT_UNREACHABLE
    assert world.verbs.dropped_total == 1
    receiver.credit = 2
    world.verbs.resume(receiver)  # type: ignore[arg-type]
    assert [payload for _, payload in heard(receiver)] == [b"0", b"1", b"2"]
    receiver.credit = 100
    world.say(sender, "mesh/to/b", b"4")
    assert heard(receiver) == [], "nothing overtakes what waits"
    world.verbs.resume(receiver)  # type: ignore[arg-type]
    assert [payload for _, payload in heard(receiver)] == [b"3", b"4"]
    assert not world.verbs.waits(receiver)  # type: ignore[arg-type]


def test_a_call_does_not_overtake_what_waits() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("a")
    server.credit = 0
    world.say(caller, "mesh/to/device", b"first")
    server.credit = 10
    world.say(caller, "mesh/call/device/heat/1", b"second")
    assert server.got == []
    world.verbs.resume(server)  # type: ignore[arg-type]
    world.turn()
    assert [payload for _, payload in heard(server)] == [b"first", b"second"]


def test_what_waits_is_bounded_in_bytes() -> None:
    world = VerbWorld(AgentSettings(verb_waiting_bytes_max=1_000))
    receiver, sender = world.arrive("b", BOB), world.arrive("a")
    world.listen(receiver, "mesh/me/in")
    receiver.credit = 0
    assert world.say(sender, "mesh/to/b", b"x" * 900) == 0
    assert reason(world.say(sender, "mesh/to/b", b"x" * 900)) is Reason.AGENT_UNREACHABLE


# -- me ------------------------------------------------------------------------------------------------


def test_a_card_is_registered_and_taken_back() -> None:
    world = VerbWorld()
    session = world.arrive("device", BOB)
    card = json.dumps({"agent": "somebody-else", "name": "Thermostat", "skills": [{"name": "heat"}]}).encode()
    assert world.say(session, "mesh/me/card", card) == 0
    assert world.directory.get("device").card.name == "Thermostat"  # type: ignore[union-attr]
    assert world.directory.get("somebody-else") is None, "an id in a payload counts for nothing"
    assert world.say(session, "mesh/me/card", b"") == 0
    assert world.directory.get("device").card is None  # type: ignore[union-attr]


def test_a_cards_expiry_is_its_lease() -> None:
    world = VerbWorld()
    session = world.arrive("device", BOB)
    world.say(session, "mesh/me/card", b'{"name": "T"}', Envelope(expires_ms=world.clock.now_ms() + 5_000))
    world.wait(4_000)
    assert world.directory.get("device").card is not None  # type: ignore[union-attr]
    world.wait(2_000)
    assert world.directory.get("device").card is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "payload", "expected"),
    [
        ("mesh/me/card", b"{", Reason.CARD_INVALID),
        ("mesh/me/card", b'{"name": ""}', Reason.CARD_INVALID),
        ("mesh/me/card", b"[" * 60_000, Reason.CARD_INVALID),
        ("mesh/me/card", b" " * 70_000, Reason.TOO_LARGE),
        ("mesh/me/state", b"", Reason.PAYLOAD_INVALID),
        ("mesh/me/state", b"{}", Reason.PAYLOAD_INVALID),
        ("mesh/me/state", b'{"limit": true}', Reason.PAYLOAD_INVALID),
        ("mesh/me/state", b'{"limit": 1.5}', Reason.PAYLOAD_INVALID),
        ("mesh/me/state", b'{"limit": -1}', Reason.ARGUMENTS_INVALID),
        ("mesh/me/in", b"", Reason.NAME_INVALID),
        ("mesh/me/card/x", b"", Reason.NAME_INVALID),
        ("mesh", b"", Reason.NAME_INVALID),
        ("mesh/serve/heat/1", b"", Reason.NAME_INVALID),
        ("mesh/call/a", b"", Reason.NAME_INVALID),
        ("mesh/call/a/b/", b"", Reason.NAME_INVALID),
        ("mesh/to/b/in", b"", Reason.NAME_INVALID),
        ("mesh/to/b/reply", b"", Reason.NAME_INVALID),
        ("mesh/answer/none", b"", Reason.UNKNOWN_CALL),
        ("mesh/nonsense", b"", Reason.NAME_INVALID),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, payload: bytes, expected: Reason) -> None:
    world = VerbWorld()
    session = world.arrive("device", BOB)
    assert reason(world.say(session, name, payload)) is expected


def test_a_state_is_a_work_limit() -> None:
    world = VerbWorld()
    session = world.arrive("device", BOB)
    for payload, state in ((b'{"limit": 0}', "busy"), (b'{"limit": null}', "online"), (b'{"limit": 2}', "online")):
        assert world.say(session, "mesh/me/state", payload) == 0
        assert world.directory.get("device").state == state  # type: ignore[union-attr]


def test_who_is_no_agent_has_no_me_and_no_calls() -> None:
    world = VerbWorld()
    device(world)
    nobody = FakeSession(ALICE, "")
    for name in ("mesh/me/card", "mesh/me/state", "mesh/call/device/heat/1"):
        assert reason(world.say(nobody, name)) is Reason.NOT_AUTHORIZED
    assert reason(world.verbs.subscribe(nobody, "mesh/me/#")) is Reason.NOT_AUTHORIZED  # type: ignore[arg-type]


def test_who_is_no_agent_calls_with_a_response_topic_and_cancels_by_reference() -> None:
    world = VerbWorld()
    device(world)
    nobody = FakeSession(ALICE, "")
    envelope = Envelope(reply_to="answers/here", correlation=b"c")
    assert world.say(nobody, "mesh/call/device/heat", b"{}", envelope) == 0
    assert world.say(nobody, "mesh/call/device/heat/r1", b"{}", envelope) == 0
    to_me = Envelope(reply_to="mesh/me/reply/x")
    assert reason(world.say(nobody, "mesh/call/device/heat", b"{}", to_me)) is Reason.NOT_AUTHORIZED
    assert world.say(nobody, "mesh/me/cancel/r1") == 0
    assert reason(world.say(nobody, "mesh/me/cancel/r1")) is Reason.CANCELLED
    assert reason(world.say(nobody, "mesh/me/cancel/r2")) is Reason.UNKNOWN_CALL


# -- through a crash -------------------------------------------------------------------------------------


def test_the_answer_to_a_call_from_before_a_crash_reaches_its_caller() -> None:
    world = VerbWorld()
    server = device(world, keeps=True)
    world.leave(server, keeps=True)
    caller = world.arrive("planner", keeps=True)
    world.listen(caller, "mesh/me/#")
    world.say(caller, "mesh/call/device/heat/42", b"later")
    world = world.after_crash()
    caller = world.arrive("planner", keeps=True)
    world.listen(caller, "mesh/me/#")
    server = device(world, keeps=True)
    [(name, payload)] = heard(server)
    assert payload == b"later"
    world.say(server, name.replace("serve/heat", "answer"), b"done")
    assert heard(caller) == [("mesh/me/reply/42", b"done")]


def test_an_answer_nobody_hears_is_counted_or_mailed() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner", keeps=True)
    mail: list[tuple[str, str]] = []
    for mailed in (False, True):
        world.say(caller, f"mesh/call/device/heat/{mailed}")
        name = heard(server)[0][0]
        world.say(server, name.replace("serve/heat", "answer"), b"done")
        assert world.verbs.unheard_total == 1
        world.verbs.mail = lambda agent, message: (mail.append((agent, message.name)), Ticket(0))[1]  # type: ignore[func-returns-value]
    assert mail == [("planner", "mesh/me/reply/True")]


def test_the_root_is_a_setting() -> None:
    world = VerbWorld(AgentSettings(verb_root="_m"))
    session, caller = world.arrive("device", BOB), world.arrive("planner")
    world.listen(session, "_m/serve/heat/+")
    world.listen(caller, "_m/me/#")
    assert not world.verbs.owns("mesh/call/device/heat/1")
    assert not world.verbs.owns("_mx/y")
    assert world.verbs.response_information == "_m/me/reply/"
    world.say(caller, "_m/call/device/heat/1")
    [request] = session.got
    world.say(session, request.envelope.reply_to or "", b"done")  # type: ignore[union-attr]
    assert heard(caller) == [("_m/me/reply/1", b"done")]


def test_another_agent_cannot_answer_by_knowing_the_id() -> None:
    world = VerbWorld()
    server, caller = device(world), world.arrive("planner")
    thief = world.arrive("thief", Principal("eve"))
    world.listen(caller, "mesh/me/#")
    world.say(caller, "mesh/call/device/heat/1")
    name = heard(server)[0][0].replace("serve/heat", "answer")
    assert reason(world.say(thief, name, b"forged")) is Reason.NOT_AUTHORIZED
    assert heard(caller) == []

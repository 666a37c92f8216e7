"""Agents that publish a card and listen to their request topic, asked by the mesh: by the packets to and fro."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from dragoman.adapters.a2a.over_mqtt import OverMqtt
from dragoman.adapters.mqtt.packets import Puback, Publish, Suback, Unsubscribe
from dragoman.adapters.mqtt.properties import Properties, parse_properties
from dragoman.broker.call import Call, Outcome
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.principal import Principal
from dragoman.routing.cards import Card
from dragoman.routing.refusals import Reason, Refusal
from tests.a2a.test_a2a_mqtt_discovery import CARD, DISCOVERY, begun, tell, world
from tests.mqtt.wire import Client, World

PLACE = "acme/line1/echo"
REQUEST = "$a2a/v1/request/" + PLACE


class Caller:
    """Somebody of another protocol who asks."""

    def __init__(self) -> None:
        self.session = InnerSession(Principal("p"), "caller")
        self.parts: list[bytes] = []
        self.outcome: Outcome | None = None

    def part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        self.parts.append(payload)

    def final(self, call: Call, outcome: Outcome) -> None:
        self.outcome = outcome

    @property
    def failure(self) -> Reason | None:
        return self.outcome.refusal.reason if self.outcome is not None and self.outcome.refusal is not None else None


class Asked:
    """A request as the agent got it."""

    def __init__(self, packet: Publish) -> None:
        self.topic = packet.topic.decode()
        self.given = json.loads(packet.payload)
        found = parse_properties(packet.properties, 3)
        self.reply, self.correlation = found.response_topic or "", found.correlation_data
        self.expiry_s = found.message_expiry_interval
        self.method, self.params = self.given["method"], self.given["params"]
        self.task = self.params["message"]["taskId"] if "message" in self.params else self.params["id"]


def agent(w: World, *, listens: bool = True, kept: bool = False, card: dict[str, Any] = CARD) -> Client:
    options: dict[str, Any] = {"session_expiry_interval": 3600} if kept else {}
    client = w.connected(PLACE, clean=not kept, **options)
    if listens:
        client.subscribe(REQUEST, qos=1)
    tell(client, PLACE, json.dumps(card).encode())
    return client


def ask(w: World, arguments: bytes = b'{"text":"hi"}', **options: Any) -> tuple[Caller, Call]:
    caller = Caller()
    call = w.broker.calls.start(caller, agent=PLACE, skill="echo", arguments=arguments, **options)
    assert isinstance(call, Call), call
    w.turn()
    return caller, call


def asked(client: Client) -> list[Asked]:
    return [Asked(packet) for packet in client.packets() if isinstance(packet, Publish)]


def reply(client: Client, to: Asked, result: Any = None, packet_id: int = 9, **more: Any) -> int:
    said = {"jsonrpc": "2.0", "id": to.given["id"], **({"result": result} if result is not None else more)}
    client.publish(to.reply, json.dumps(said).encode(), 1, packet_id=packet_id, correlation_data=to.correlation)
    (ack,) = [packet for packet in client.packets(1) if isinstance(packet, Puback)]
    return ack.code


def status(to: Asked, state: str, text: str = "") -> dict[str, Any]:
    message = {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}]}} if text else {}
    return {"statusUpdate": {"taskId": to.task, "contextId": "c", "status": {"state": state, **message}}}


def artifact(to: Asked, text: str) -> dict[str, Any]:
    return {"artifactUpdate": {"taskId": to.task, "artifact": {"artifactId": "a", "parts": [{"text": text}]}}}


def test_a_call_is_a_request_and_its_replies_are_parts_and_the_answer():
    w = world()
    client = agent(w)
    caller, call = ask(w, deadline_ms=90_000)
    (got,) = asked(client)
    assert (got.topic, got.method) == (REQUEST, "SendStreamingMessage")
    message = got.params["message"]
    assert message["parts"] == [{"text": "hi", "mediaType": "text/plain"}], "it takes text only, by its card"
    assert message["metadata"]["skill"] == "echo"
    assert uuid.UUID(got.task).version == 4
    assert got.expiry_s == 90
    assert got.correlation
    assert reply(client, got, status(got, "TASK_STATE_SUBMITTED")) == 0
    reply(client, got, status(got, "TASK_STATE_WORKING", "thinking"))
    reply(client, got, artifact(got, "hi, he said"))
    assert caller.outcome is None
    reply(client, got, status(got, "TASK_STATE_COMPLETED"))
    assert caller.parts == [b"thinking"]
    assert caller.outcome is not None
    assert caller.outcome.payload == b"hi, he said"
    assert not call.pending
    assert reply(client, got, status(got, "TASK_STATE_COMPLETED")) == 0x83, "nobody waits for it any more"


def test_one_that_takes_json_gets_json_and_one_without_streams_is_asked_for_its_task():
    w = world()
    card = CARD | {"defaultInputModes": ["application/json"], "capabilities": {}}
    client = agent(w, card=card)
    caller, _ = ask(w, b'{"text":"hi","n":1}')
    (got,) = asked(client)
    assert got.method == "SendMessage"
    assert got.params["message"]["parts"][0]["data"] == {"text": "hi", "n": 1}
    working = {"id": got.task, "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}
    reply(client, got, {"task": working})
    assert asked(client) == []
    w.advance(2_500)
    (again,) = asked(client)
    assert (again.method, again.task) == ("GetTask", got.task)
    reply(client, again, working)
    w.advance(2_500)
    (again,) = asked(client)
    done = working | {"status": {"state": "TASK_STATE_COMPLETED"}, "artifacts": [{"parts": [{"text": "yes"}]}]}
    reply(client, again, done)
    assert caller.outcome is not None
    assert caller.outcome.payload == b"yes"
    w.advance(10_000)
    assert asked(client) == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [(-32004, Reason.AGENT_UNREACHABLE), (-32602, Reason.ARGUMENTS_INVALID), (-32001, Reason.FAILED)],
)
def test_an_error_is_a_failure_for_its_reason(code: int, reason: Reason):
    w = world()
    client = agent(w)
    caller, _ = ask(w)
    (got,) = asked(client)
    assert reply(client, got, error={"code": code, "message": "no"}) == 0
    assert caller.failure is reason


NO_REPLIES = (b"", b"{", b"[]", b"1", b'{"result":1}', b'{"result":{"task":{"status":7}}}', b"\xff")


@pytest.mark.parametrize("payload", NO_REPLIES)
def test_whatever_it_replies_nothing_breaks(payload: bytes):
    w = world()
    client = agent(w)
    caller, _ = ask(w)
    (got,) = asked(client)
    client.publish(got.reply, payload, 1)
    w.advance(120_000)
    assert caller.failure in (Reason.FAILED, Reason.DEADLINE_PASSED)
    assert not client.closed


def test_cancelled_and_expired_calls_are_cancelled_there():
    w = world()
    client = agent(w)
    caller, call = ask(w)
    (got,) = asked(client)
    assert w.broker.calls.cancel(caller.session, call.id) is None
    (end,) = asked(client)
    assert (end.method, end.task) == ("CancelTask", got.task)
    assert caller.failure is Reason.CANCELLED
    caller, _ = ask(w, deadline_ms=500)
    (got,) = asked(client)
    w.advance(600)
    (end,) = asked(client)
    assert (end.method, end.task) == ("CancelTask", got.task)
    assert caller.failure is Reason.DEADLINE_PASSED


def test_only_who_was_asked_answers_and_nobody_else_reads_it():
    w = world()
    client = agent(w)
    caller, _ = ask(w)
    (got,) = asked(client)
    other = w.connected("other")
    assert other.subscribe(got.reply) == [0x87]
    for kind in ("$share/g", "$queue/q", "$stream/s", "$exclusive"):
        assert other.subscribe(f"{kind}/{got.reply}", f"{kind}/{got.reply.rsplit('/', 1)[0]}/#") == [0x87] * 2
    assert other.subscribe("$a2a/v1/reply/#") == [0]
    assert reply(other, got, status(got, "TASK_STATE_COMPLETED")) == 0x87
    assert caller.outcome is None
    reply(client, got, artifact(got, "secret"))
    reply(client, got, status(got, "TASK_STATE_COMPLETED"))
    assert caller.outcome is not None
    assert [packet for packet in other.packets() if isinstance(packet, Publish)] == []


def test_one_that_goes_away_fails_its_calls_and_can_be_asked_again_when_it_is_back():
    w = world()
    client = agent(w)
    caller, _ = ask(w)
    client.vanish()
    assert caller.failure is Reason.AGENT_UNREACHABLE
    scheme = w.broker.schemes.of(REQUEST)
    assert isinstance(scheme, OverMqtt)
    assert not scheme._servers._pending, "nothing is expected of who has gone"
    refused = w.broker.calls.start(Caller(), agent=PLACE, skill="echo", arguments=b"{}")
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.AGENT_UNREACHABLE
    client = w.connected(PLACE)
    client.subscribe(REQUEST, qos=1)
    caller, _ = ask(w)
    (got,) = asked(client)
    reply(client, got, status(got, "TASK_STATE_COMPLETED", "done"))
    assert caller.outcome is not None
    assert caller.outcome.payload == b"done"


def test_a_durable_call_is_asked_again_as_the_same_task():
    w = world()
    client = agent(w, kept=True)
    caller, _ = ask(w, durable=True)
    (first,) = asked(client)
    client.vanish()
    assert caller.outcome is None
    client = w.connected(PLACE, clean=False, session_expiry_interval=3600)
    tasks = {got.task for got in asked(client)}
    assert tasks == {first.task}


def test_who_listens_without_a_card_or_has_a_card_without_listening_is_not_asked():
    w = world()
    client = agent(w, listens=False)
    refused = w.broker.calls.start(Caller(), agent=PLACE, skill="echo", arguments=b"{}")
    assert isinstance(refused, Refusal)
    client.subscribe(REQUEST, qos=1)
    ask(w)
    client.say(Unsubscribe(5, [REQUEST]))
    client.packets()
    refused = w.broker.calls.start(Caller(), agent=PLACE, skill="echo", arguments=b"{}")
    assert isinstance(refused, Refusal)
    client.subscribe(REQUEST, qos=1)
    ask(w)
    tell(client, PLACE, b"")
    refused = w.broker.calls.start(Caller(), agent=PLACE, skill="echo", arguments=b"{}")
    assert isinstance(refused, Refusal)


def test_a_new_card_changes_what_it_serves():
    w = world()
    client = agent(w)
    other = [{"id": "other", "name": "Other", "description": "d"}]
    tell(client, PLACE, json.dumps(CARD | {"skills": other}).encode())
    assert w.broker.directory.offers("echo") == []
    assert [offer.id for offer in w.broker.directory.offers("other")] == [PLACE]
    client.publish("mesh/me/card", json.dumps({"name": "New", "skills": []}).encode(), 1)
    w.turn()
    assert w.broker.directory.offers("other") == []


def test_after_a_crash_a_resumed_session_serves_at_once():
    w = world(durable=True)
    agent(w, kept=True)
    w = begun(w.crash())
    client = w.connected(PLACE, clean=False, session_expiry_interval=3600)
    _, _ = ask(w)
    (got,) = asked(client)
    assert got.method == "SendStreamingMessage"


def test_a_request_of_another_client_comes_as_it_was_said():
    w = world()
    client = agent(w)
    requester = w.connected("acme/line1/asker")
    raw = Properties(
        response_topic="$a2a/v1/reply/acme/line1/asker/1",
        correlation_data=b"c1",
        user_properties=[("a2a-authorization", "Bearer x")],
    )
    requester.say(Publish(REQUEST.encode(), b'{"any": "thing"}', 1, True, False, 1, raw.encode()))
    (ack,) = [packet for packet in requester.packets() if isinstance(packet, Puback)]
    assert ack.code == 0
    (packet,) = [packet for packet in client.packets() if isinstance(packet, Publish)]
    assert (packet.payload, packet.properties, packet.retain) == (b'{"any": "thing"}', raw.encode(), False)
    late = w.connected("late")
    late.subscribe("$a2a/v1/request/#")
    channel = w.broker.channels.find(REQUEST)
    assert channel is not None
    assert channel.retained is None, "requests are not retained"
    assert not any(isinstance(p, Publish) for p in late.packets())


def test_a_sleeping_agent_finds_its_request_when_it_wakes():
    w = world()
    agent(w, kept=True).disconnect()
    requester = w.connected("acme/line1/asker")
    requester.publish(REQUEST, b"{}", 1, response_topic="r", correlation_data=b"1")
    (ack,) = [packet for packet in requester.packets() if isinstance(packet, Puback)]
    assert ack.code == 0
    client = w.connected(PLACE, clean=False, session_expiry_interval=3600)
    assert [p.payload for p in client.packets() if isinstance(p, Publish)] == [b"{}"]


DENY = RuleSettings(effect="deny", who=("*",), actions=("publish",), filters=("secret/#", "$a2a/v1/request/x/#"))
GREETER = "$a2a/v1/request/mesh/mesh/greeter"


@pytest.mark.parametrize(
    ("topic", "reply", "code"),
    [
        (GREETER, "secret/x", 0x87),
        ("$a2a/v1/request/x/y/z", "r", 0x87),
        (GREETER, GREETER, 0x99),
        (GREETER, "$a2a/v1/discovery/acme/line1/asker", 0x99),
        (GREETER, "mesh/call/greeter/greet/1", 0x99),
        (GREETER, None, 0x99),
        ("$a2a/v1/request/mesh/mesh/nobody", "r", 0x10),
        ("$a2a/v1/request/a/b/pool/c", "r", 0x10),
        ("$a2a/v1/request/a", "r", 0x10),
    ],
)
def test_what_is_not_asked_is_said_at_once(topic: str, reply: str | None, code: int):
    w = world(gate=GateSettings(rules=(DENY,)))
    w.broker.directory.register(Principal("p"), "greeter", Card("greeter", "G"), lease_ms=60_000, via="http")
    asker = w.connected("acme/line1/asker")
    asker.subscribe("r")
    properties = {"response_topic": reply} if reply is not None else {}
    asker.publish(topic, b'{"jsonrpc":"2.0","id":7,"method":"GetTask"}', 1, correlation_data=b"c", **properties)
    packets = asker.packets()
    assert [packet.code for packet in packets if isinstance(packet, Puback)] == [code]
    replies = [packet for packet in packets if isinstance(packet, Publish)]
    assert len(replies) == (code == 0x10)
    for packet in replies:
        said = json.loads(packet.payload)
        assert (said["id"], said["error"]["code"]) == (7, -32004)
        assert parse_properties(packet.properties, 3).correlation_data == b"c"


def test_without_correlation_a_request_is_refused_and_told_so():
    w = world()
    asker = w.connected("acme/line1/asker")
    asker.subscribe("r")
    asker.publish(GREETER, b"{}", 1, response_topic="r")
    packets = asker.packets()
    assert [packet.code for packet in packets if isinstance(packet, Puback)] == [0x99]
    (packet,) = [packet for packet in packets if isinstance(packet, Publish)]
    assert json.loads(packet.payload)["error"]["data"] == {"a2a_error": "transport_protocol_error"}


def test_pools_are_shared_subscriptions_as_ever():
    w = world()
    pool = "$a2a/v1/request/acme/line1/pool/workers"
    members = [w.connected(f"acme/line1/w{number}") for number in range(2)]
    for member in members:
        assert member.subscribe(f"$share/a2a.acme.line1.workers/{pool}", qos=1) == [1]
    requester = w.connected("acme/line1/asker")
    for number in range(4):
        requester.publish(pool, b"%d" % number, 1, response_topic="r", correlation_data=b"1", packet_id=number + 1)
    got = [[p.payload for p in member.packets() if isinstance(p, Publish)] for member in members]
    assert sorted([*got[0], *got[1]]) == [b"0", b"1", b"2", b"3"]
    assert all(got)


def test_the_subscription_to_its_own_topic_is_ordinary():
    w = world()
    client = w.connected(PLACE)
    assert client.subscribe(REQUEST, DISCOVERY + "#", qos=1) == [1, 1]
    assert not any(isinstance(packet, Suback) for packet in client.packets())

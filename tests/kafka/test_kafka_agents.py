"""Agents that speak nothing but Kafka: how they come, are asked, answer, go away and come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dragoman.adapters.kafka.agents import PRESENT_MS
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.broker.call import Call
from dragoman.broker.gate_settings import RuleSettings
from dragoman.broker.presence import PRESENT
from dragoman.broker.principal import Principal
from dragoman.routing.message import Message
from tests.kafka.batch_forms import Record, by_aiokafka
from tests.kafka.data_mesh import ALICE, BOB, Client, DataMesh, fetching, producing, records_in

CAROL = Principal("carol")
CARD = {"name": "Meter", "description": "reads meters", "skills": [{"name": "read", "description": "reads"}]}

Headers = tuple[tuple[str, bytes | None], ...]


def registering(client: Client, agent: str = "meter", card: Any = CARD, *headers: tuple[str, bytes]) -> Any:
    value = card if card is None or isinstance(card, bytes) else json.dumps(card).encode()
    return client.produce("mesh.agents", by_aiokafka([Record(agent.encode(), value, headers)]))


def answering(client: Client, call: bytes, value: bytes | None, *headers: tuple[str, bytes]) -> Any:
    said = (("correlation-id", call), *headers)
    return client.produce("mesh.answer", by_aiokafka([Record(None, value, said)]))


def calling(client: Client, agent: str = "meter", skill: str = "read", *headers: tuple[str, bytes]) -> Any:
    said = (("reply-to", b"results"), ("correlation-id", b"c-1"), *headers)
    return client.produce(f"mesh.call.{agent}.{skill}", by_aiokafka([Record(None, b"args", said)]))


def asked(client: Client, topic: str = "meter.asks", offset: int = 0) -> list[Record]:
    return [record for at, record in records_in(client.fetch(topic, offset)) if at >= offset]


def results(client: Client) -> list[tuple[bytes | None, dict[str, bytes | None]]]:
    """(value, headers) of what callers were answered."""
    return [(record.value, dict(record.headers)) for _, record in records_in(client.fetch("results", 0))]


def call_of(record: Record) -> bytes:
    call = dict(record.headers)["mesh-call"]
    assert call is not None
    return call


# -- coming and going ------------------------------------------------------------------------------


def test_a_record_registers_an_agent() -> None:
    mesh = DataMesh()
    client = mesh.client()
    assert registering(client).error_code == 0
    entry = mesh.broker.directory.get("meter")
    assert entry is not None
    assert entry.card is not None
    assert [skill.name for skill in entry.card.skills] == ["read"]
    assert (entry.state in PRESENT, entry.principal_name) == (True, "alice")
    assert mesh.broker.topics.find("meter/asks") is not None


def test_it_is_answered_when_the_registration_is_safe() -> None:
    mesh = DataMesh()
    client = mesh.client()
    client.ask(producing("mesh.agents", by_aiokafka([Record(b"meter", json.dumps(CARD).encode())])), 9)
    mesh.turn()
    assert client.read() == []
    mesh.commit()
    assert client.got().responses[0].partition_responses[0].error_code == 0
    client.ask(producing("mesh.agents", by_aiokafka([Record(b"meter", None)])), 9)
    mesh.turn()
    assert client.read() == []
    mesh.refuse()
    assert client.got().responses[0].partition_responses[0].error_code == ErrorCode.KAFKA_STORAGE_ERROR


def test_several_agents_in_one_batch() -> None:
    mesh = DataMesh()
    client = mesh.client()
    records = [Record(name, json.dumps(CARD).encode()) for name in (b"one", b"two/three")]
    assert client.produce("mesh.agents", by_aiokafka(records)).error_code == 0
    assert [mesh.broker.directory.get(name) is not None for name in ("one", "two/three")] == [True, True]
    assert mesh.broker.topics.find("two%2Fthree/asks") is not None


def test_it_says_in_which_topic_it_wants_its_calls() -> None:
    mesh = DataMesh()
    client = mesh.client()
    assert registering(client, "meter", CARD, ("mesh-asks", b"my.own.calls")).error_code == 0
    assert mesh.broker.topics.find("meter/asks") is None
    calling(client)
    assert [record.value for record in asked(client, "my.own.calls")] == [b"args"]


@pytest.mark.parametrize("topic", [b"a b", b"mesh.agents", b"", b"\xff", b"$SYS.x"])
def test_but_not_in_what_is_no_topic(topic: bytes) -> None:
    mesh = DataMesh()
    answer = registering(mesh.client(), "meter", CARD, ("mesh-asks", topic))
    assert answer.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert mesh.broker.directory.get("meter") is None


@pytest.mark.parametrize("key", [None, b"", b"\xff"])
def test_without_an_id_nobody_is_registered(key: bytes | None) -> None:
    mesh = DataMesh()
    answer = mesh.client().produce("mesh.agents", by_aiokafka([Record(key, b"{}")]))
    assert answer.error_code == ErrorCode.INVALID_REQUEST
    assert "key" in answer.error_message


@pytest.mark.parametrize("card", [b"", b"{", b"\xff", b"[" * 2_000, b"[]", b'{"skills": 3}'])
def test_a_bad_card_is_refused_and_the_good_one_stays(card: bytes) -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    answer = registering(client, "meter", card)
    assert answer.error_code == ErrorCode.INVALID_RECORD
    assert answer.error_message
    calling(client)
    assert len(asked(client)) == 1


def test_a_new_card_replaces_the_old_one() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    other = {**CARD, "skills": [{"name": "write", "description": "writes"}]}
    assert registering(client, "meter", other, ("mesh-asks", b"elsewhere")).error_code == 0
    entry = mesh.broker.directory.get("meter")
    assert entry is not None
    assert entry.card is not None
    assert [skill.name for skill in entry.card.skills] == ["write"]
    assert calling(client).error_code != 0
    assert calling(client, "meter", "write").error_code == 0
    assert (asked(client), len(asked(client, "elsewhere"))) == ([], 1)
    mesh.advance(PRESENT_MS + 30_000, 5_000)
    client.fetch("meter.asks", 0)
    entry = mesh.broker.directory.get("meter")
    assert entry is None or not entry.connections, "who fetches where it is not asked any more is not here for that"
    after = mesh.crashed().client()
    assert registering(after, "meter", None).error_code == 0, "one row, and it is the new one"


def test_a_null_value_takes_leave() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    assert registering(client, "meter", None).error_code == 0
    assert mesh.broker.directory.get("meter") is None
    again = registering(client, "meter", None)
    assert again.error_code == ErrorCode.INVALID_RECORD
    assert "no agent" in again.error_message
    client.fetch("meter.asks", 0)
    assert mesh.broker.directory.get("meter") is None
    after = mesh.crashed()
    after.client().fetch("meter.asks", 0)
    assert after.broker.directory.get("meter") is None


def test_somebody_elses_agent_is_neither_replaced_nor_sent_away() -> None:
    mesh = DataMesh()
    alice, bob = mesh.client(), mesh.client(BOB)
    registering(alice)
    for card in (CARD, None):
        answer = registering(bob, "meter", card)
        assert answer.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    calling(alice)
    assert len(asked(alice)) == 1


def test_who_may_not_register_is_told_so() -> None:
    mesh = DataMesh(RuleSettings(effect="deny", who=("bob",), actions=("register",)))
    bob = mesh.client(BOB)
    assert registering(bob).error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    assert mesh.broker.directory.get("meter") is None
    bob.fetch("meter.asks", 0)
    assert mesh.broker.directory.get("meter") is None


def test_who_may_not_serve_is_not_left_half_registered() -> None:
    mesh = DataMesh(RuleSettings(effect="deny", who=("bob",), actions=("serve",)))
    bob = mesh.client(BOB)
    assert registering(bob).error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    assert mesh.broker.directory.get("meter") is None
    bob.fetch("meter.asks", 0)
    assert mesh.broker.directory.get("meter") is None
    after = mesh.crashed()
    after.client(BOB).fetch("meter.asks", 0)
    assert after.broker.directory.get("meter") is None


def test_a_card_that_cannot_be_served_ends_the_registration_for_good() -> None:
    mesh = DataMesh(RuleSettings(effect="deny", who=("bob",), actions=("serve",), filters=("write",)))
    bob = mesh.client(BOB)
    assert registering(bob).error_code == 0
    other = {**CARD, "skills": [{"name": "write", "description": "writes"}]}
    assert registering(bob, "meter", other).error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    for process in (mesh, mesh.crashed()):
        process.client(BOB).fetch("meter.asks", 0)
        assert not here(process)


# -- presence --------------------------------------------------------------------------------------


def here(mesh: DataMesh, agent: str = "meter") -> bool:
    entry = mesh.broker.directory.get(agent)
    return entry is not None and bool(entry.connections)


def test_who_does_not_fetch_is_away_and_back_with_the_next_fetch() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    mesh.advance(PRESENT_MS // 2, 5_000)
    assert here(mesh)
    mesh.advance(PRESENT_MS + 10_000, 5_000)
    assert not here(mesh)
    assert mesh.broker.directory.get("meter") is not None, "its card stays"
    refused = calling(client)
    assert refused.error_code == ErrorCode.INVALID_RECORD
    assert "reached" in refused.error_message
    client.fetch("meter.asks", 0)
    assert here(mesh)
    assert calling(client).error_code == 0
    assert len(asked(client)) == 1


def test_who_fetches_stays() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    for _ in range(10):
        client.ask(fetching(("meter.asks", 0, 0)), 12)
        mesh.advance(30_001, 10_000)
        client.read()
        assert here(mesh)


def test_the_fetch_of_somebody_else_is_no_sign_of_life() -> None:
    mesh = DataMesh()
    alice, bob = mesh.client(), mesh.client(BOB)
    registering(alice)
    for _ in range(8):
        mesh.advance(10_000)
        bob.fetch("meter.asks", 0)
    assert not here(mesh)
    bob.fetch("meter.asks", 0)
    assert not here(mesh)


def test_a_registration_survives_a_crash_and_is_back_with_the_next_fetch() -> None:
    mesh = DataMesh()
    registering(mesh.client(), "meter", CARD, ("mesh-asks", b"my.calls"))
    after = mesh.crashed()
    assert not here(after)
    caller = after.client(CAROL)
    stranger, client = after.client(BOB), after.client(ALICE)
    stranger.fetch("my.calls", 0)
    assert not here(after)
    client.fetch("my.calls", 0)
    assert here(after)
    calling(caller)
    (record,) = asked(client, "my.calls")
    assert answering(client, call_of(record), b"42").error_code == 0
    assert results(caller)[0][0] == b"42"


def test_what_it_was_asked_comes_again_when_it_is_back() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    expires = mesh.clock.now_ms() + 600_000
    calling(client, "meter", "read", ("expires-at", b"%d" % expires))
    mesh.advance(2 * PRESENT_MS, 5_000)
    assert not here(mesh)
    client.fetch("meter.asks", 0)
    first, second = asked(client)
    assert call_of(first) == call_of(second)
    assert answering(client, call_of(first), b"42").error_code == 0
    assert [value for value, _ in results(client)] == [b"42"]


class Patient:
    """Somebody whose call outlives connections."""

    def __init__(self, mesh: DataMesh) -> None:
        self.session = mesh.party(principal=CAROL)
        self.payload: bytes | None = None

    def part(self, call: object, payload: bytes, content_type: str | None) -> None:
        raise AssertionError("no parts were said")

    def final(self, call: object, outcome: Any) -> None:
        self.payload = outcome.payload


def test_a_call_that_outlives_connections_waits_for_it() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    mesh.advance(2 * PRESENT_MS, 5_000)
    caller = Patient(mesh)
    call = mesh.broker.calls.start(caller, agent="meter", skill="read", arguments=b"args", durable=True)  # type: ignore[arg-type]
    assert isinstance(call, Call)
    mesh.commit()
    assert mesh.topic_values("meter/asks") == []
    client.fetch("meter.asks", 0)
    (record,) = asked(client)
    assert (record.value, call_of(record)) == (b"args", call.id.encode())
    answering(client, call_of(record), b"42")
    assert caller.payload == b"42"


def test_its_card_stays_while_it_is_here_and_while_it_is_away() -> None:
    """No lease ends it: the registration is a record, and lasts until another one."""
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    for _ in range(130):
        mesh.advance(30_000)
        client.fetch("meter.asks", 0)
    for hours in (0, 2):
        if hours:
            mesh.advance(hours * 3_600_000, 600_000)
        entry = mesh.broker.directory.get("meter")
        assert entry is not None
        assert entry.card is not None
        assert (entry.card.name, entry.card.description) == ("Meter", "reads meters")
    mesh.broker.directory.check()


# -- asked and answering ---------------------------------------------------------------------------


def test_a_call_comes_as_a_record_and_its_answer_goes_to_the_caller() -> None:
    mesh = DataMesh()
    server, caller = mesh.client(), mesh.client(CAROL)
    registering(server)
    expires = mesh.clock.now_ms() + 5_000
    headers = (("content-type", b"text/plain"), ("expires-at", b"%d" % expires), ("mesh-cause", b"a7-9"))
    assert calling(caller, "meter", "read", *headers).error_code == 0
    (record,) = asked(server)
    said = dict(record.headers)
    assert record.value == b"args"
    assert said["mesh-skill"] == b"read"
    assert said["correlation-id"] == said["mesh-call"]
    assert said["reply-to"] == b"mesh.answer"
    assert said["content-type"] == b"text/plain"
    assert int(said["expires-at"] or b"") == expires
    assert said["mesh-cause"] == b"a7-9"
    assert "mesh-caller" not in said, "a Kafka client is no agent"
    answer = answering(server, call_of(record), b"42", ("content-type", b"text/number"))
    assert (answer.error_code, answer.base_offset) == (0, 0)
    ((value, told),) = results(caller)
    assert value == b"42"
    assert (told["mesh-status"], told["correlation-id"], told["content-type"]) == (b"ok", b"c-1", b"text/number")
    assert told["mesh-from"] == b"meter"


def test_an_agent_that_calls_is_named() -> None:
    mesh = DataMesh()
    server = mesh.client()
    registering(server)
    party = mesh.party(agent="asker")
    mesh.broker.directory.arrive(party, "asker", keeps=False)  # type: ignore[arg-type]
    mesh.broker.publish(party, Message("mesh/call/meter/read/r1", b"x", 1))  # type: ignore[arg-type]
    mesh.commit()
    (record,) = asked(server)
    assert dict(record.headers)["mesh-caller"] == b"asker"


def test_parts_come_before_the_answer() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    calling(client)
    (record,) = asked(client)
    call = call_of(record)
    for part in (b"1", b"2"):
        assert answering(client, call, part, ("mesh-status", b"part")).error_code == 0
    answering(client, call, b"3")
    assert [(value, told["mesh-status"]) for value, told in results(client)] == [
        (b"1", b"part"),
        (b"2", b"part"),
        (b"3", b"ok"),
    ]
    again = answering(client, call, b"4")
    assert again.error_code == ErrorCode.INVALID_RECORD
    assert len(results(client)) == 3


def test_an_error_is_an_answer() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    calling(client)
    (record,) = asked(client)
    answering(client, call_of(record), b"no such meter", ("mesh-status", b"error"))
    ((value, told),) = results(client)
    assert (told["mesh-status"], told["mesh-error"]) == (b"error", b"failed")
    assert b"no such meter" in (value or b"")


@pytest.mark.parametrize("topic", ["mesh.answer.{}", "mesh.answer.{}.part.1", "mesh.answer.{}.error"])
def test_an_answer_may_also_name_its_call_in_the_topic(topic: str) -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    calling(client)
    (record,) = asked(client)
    name = topic.format(call_of(record).decode())
    assert client.produce(name, by_aiokafka([Record(None, b"42")])).error_code == 0
    assert results(client)[0][1]["mesh-status"] == {"1": b"part", "r": b"error"}.get(name[-1], b"ok")


def test_nobody_but_the_agent_that_was_asked_answers() -> None:
    mesh = DataMesh()
    alice, bob, caller = mesh.client(), mesh.client(BOB), mesh.client(CAROL)
    registering(alice)
    registering(bob, "other")
    calling(caller)
    call = call_of(asked(alice)[0])
    for wrong in (bob, caller):
        assert answering(wrong, call, b"forged").error_code != 0
    assert answering(alice, b"no-such-call", b"x").error_code == ErrorCode.INVALID_RECORD
    assert caller.fetch("results", 0).error_code or not results(caller)
    assert answering(alice, call, b"true").error_code == 0
    assert [value for value, _ in results(caller)] == [b"true"]


@pytest.mark.parametrize("correlation", [None, b"", b"\xff\xfe", b"a/b", b"%"])
def test_an_answer_to_nothing_is_refused_and_costs_nothing(correlation: bytes | None) -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    headers: Headers = () if correlation is None else (("correlation-id", correlation),)
    answer = client.produce("mesh.answer", by_aiokafka([Record(None, b"42", headers)]))
    assert answer.error_code in (ErrorCode.INVALID_RECORD, ErrorCode.INVALID_TOPIC_EXCEPTION)
    assert answer.error_message


def test_who_is_away_does_not_answer() -> None:
    """Its call has been given back, to wait for it or for another."""
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    calling(client)
    call = call_of(asked(client)[0])
    mesh.advance(2 * PRESENT_MS, 5_000)
    assert answering(client, call, b"late").error_code != 0


def test_that_nobody_waits_any_more_is_told() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    expires = mesh.clock.now_ms() + 2_000
    calling(client, "meter", "read", ("expires-at", b"%d" % expires))
    call = call_of(asked(client)[0])
    mesh.advance(3_000, 500)
    (cancel,) = asked(client, offset=1)
    said = dict(cancel.headers)
    assert (cancel.value, said["mesh-cancel"], said["correlation-id"]) == (None, call, call)
    assert answering(client, call, b"late").error_code == ErrorCode.INVALID_RECORD
    assert results(client)[0][1]["mesh-status"] == b"error"


def test_whoever_serves_best_may_be_a_kafka_agent() -> None:
    mesh = DataMesh()
    client = mesh.client()
    registering(client)
    calling(client, "-")
    assert len(asked(client)) == 1


def test_calls_wait_where_the_agent_cannot_be_given_them() -> None:
    mesh = DataMesh(RuleSettings(effect="deny", who=("bob",), actions=("publish",), filters=("closed/#",)))
    bob = mesh.client(BOB)
    mesh.topic("closed/asks")
    registering(bob, "meter", CARD, ("mesh-asks", b"closed.asks"))
    expires = mesh.clock.now_ms() + 2_000
    calling(mesh.client(), "meter", "read", ("expires-at", b"%d" % expires))
    assert mesh.topic_values("closed/asks") == []
    mesh.advance(3_000, 500)
    assert results(mesh.client())[0][1]["mesh-status"] == b"error"

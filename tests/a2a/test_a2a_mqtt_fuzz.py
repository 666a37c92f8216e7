"""Whatever is published below ``$a2a/v1/``: an answer, no fault, and the directory stays whole."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragoman.adapters.mqtt.packets import Puback, Publish
from tests.a2a.test_a2a_mqtt_agents import PLACE, REQUEST, agent, ask, asked
from tests.a2a.test_a2a_mqtt_discovery import CARD, DISCOVERY, world

fuzz = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
words = st.sampled_from(["acme", "line1", "echo", "mesh", "pool", "", "_x2F", "_xFF", "é", "a b", "$", "%"])
CODES = (0, 0x10, 0x87, 0x99, 0x97, 0x83, 0x90)


@st.composite
def bent_cards(draw: st.DrawFn) -> bytes:
    """A card that is wrong in some places, or no card at all."""
    card: dict[str, Any] = json.loads(json.dumps(CARD))
    for place in draw(st.lists(st.sampled_from(sorted(CARD)), max_size=2)):
        card[place] = draw(junk)
    if draw(st.integers(0, 3)) == 0:
        skill = card["skills"][0] if isinstance(card["skills"], list) and card["skills"] else {}
        if isinstance(skill, dict):
            skill[draw(st.sampled_from(["id", "name", "inputSchema", "tags"]))] = draw(junk)
    return draw(st.just(json.dumps(card).encode()) | st.binary(max_size=30))


def test_any_card_is_taken_or_refused() -> None:
    taken: set[int] = set()

    @fuzz
    @given(payload=bent_cards(), retain=st.booleans())
    def publish(payload: bytes, retain: bool) -> None:
        w = world()
        client = w.connected(PLACE)
        client.publish(DISCOVERY + PLACE, payload, 1, retain=retain)
        (ack,) = [packet for packet in client.packets() if isinstance(packet, Puback)]
        taken.add(ack.code)
        assert ack.code in CODES
        late = w.connected("late")
        late.subscribe(DISCOVERY + "#")
        for packet in late.packets():
            if isinstance(packet, Publish):
                assert json.loads(packet.payload)["name"]

    publish()
    assert {0, 0x87, 0x99} <= taken


def test_any_place_is_answered() -> None:
    @fuzz
    @given(
        kind=st.sampled_from(["discovery", "request", "reply", "event", "other"]),
        levels=st.lists(words, max_size=5),
        reply=st.none() | st.sampled_from(["r", REQUEST, DISCOVERY + PLACE, "mesh/call/a/b/c", "$mesh/v1/x"]),
        payload=st.binary(max_size=20),
    )
    def publish(kind: str, levels: list[str], reply: str | None, payload: bytes) -> None:
        w = world()
        client = w.connected("acme/line1/asker")
        given_ = {"response_topic": reply, "correlation_data": b"c"} if reply is not None else {}
        name = "/".join(["$a2a", "v1", kind, *levels])
        if name == "$a2a/v1/request/mesh/mesh/mesh":
            return  # answered by a task of its own, and this loop has none
        client.publish(name, payload, 1, **given_)
        acks = [packet.code for packet in client.packets() if isinstance(packet, Puback)]
        assert acks or client.closed
        assert all(code in CODES for code in acks)

    publish()


def test_any_reply_is_an_end_or_nothing() -> None:
    @fuzz
    @given(results=st.lists(junk, max_size=4))
    def reply(results: list[Any]) -> None:
        w = world()
        client = agent(w)
        caller, _ = ask(w, deadline_ms=5_000)
        (got,) = asked(client)
        for number, result in enumerate(results, 1):
            wrapped = {"result": {"statusUpdate": {"status": result}, "artifactUpdate": result, "task": result}}
            client.publish(got.reply, json.dumps(wrapped).encode(), 1, packet_id=number)
        w.advance(6_000)
        assert caller.outcome is not None
        assert not client.closed

    reply()

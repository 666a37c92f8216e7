"""Headers as user properties and back, and an expiry in whole seconds: nothing is lost between the two."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.mqtt import codes, mapping
from dragoman.adapters.mqtt.packets import Publish
from dragoman.adapters.mqtt.properties import parse_properties
from dragoman.routing.message import Envelope, Header, Message

NOW_MS = 1_000_000

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
marked = st.sampled_from(["a", "mesh-key", "mesh-cause", "mesh-id", "mesh-h-a", "mesh-h-mesh-key", "mesh-status", ""])
suffixes = st.sampled_from(["", ";b64", ";null", ";b64;null"])
headers = st.tuples(st.builds(str.__add__, names | marked, suffixes), st.none() | st.binary(max_size=12))
keys = st.none() | st.binary(max_size=12)


@given(st.lists(headers, max_size=6), keys, st.none() | st.binary(max_size=4))
@settings(max_examples=300, derandomize=True)
def test_another_protocols_message_comes_back_from_mqtt(said: list[Header], key: bytes | None, payload: bytes | None):
    envelope = Envelope(headers=tuple(said), key=key, cause="2a-7", hops=3, sent_ms=9, correlation=b"\xff")
    raw = mapping.properties_of(Message("a", payload, envelope=envelope), (), NOW_MS)
    packet = Publish(b"a", payload or b"", 1, packet_id=1, properties=raw)
    found = mapping.to_message(packet, "a", "", NOW_MS)
    again = found.envelope
    assert again is not None
    assert found.payload == payload
    assert list(again.headers) == said
    assert (again.key, again.cause, again.hops, again.sent_ms, again.correlation) == (key, "2a-7", 3, 9, b"\xff")


@pytest.mark.parametrize(
    ("left_ms", "seconds"),
    [(-5, 0), (0, 0), (1, 1), (1_000, 1), (1_020, 1), (1_499, 1), (1_500, 2), (300_000, 300), (1 << 60, 0xFFFF_FFFF)],
)
def test_an_expiry_is_the_nearest_second(left_ms: int, seconds: int):
    message = Message("a", b"", envelope=Envelope(expires_ms=NOW_MS + left_ms))
    found = parse_properties(mapping.properties_of(message, (), NOW_MS), codes.PUBLISH)
    assert found.message_expiry_interval == seconds

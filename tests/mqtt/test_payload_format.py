"""Payload Format Indicator 1 over a payload that is no UTF-8 (§3.3.2.3.2), where ``payload_format_check`` is on."""

from __future__ import annotations

import logging

import pytest

from dragoman.adapters.mqtt.packets import Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Will
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from tests.mqtt.wire import Client, World, pub

ON = MqttSettings(payload_format_check=True)
TEXT = Properties(payload_format_indicator=1).encode()
BAD = [b"\xff", b"caf\xe9", b"\xc0\x80", b"\xed\xa0\x80", b"ab\xe2\x82", b"\xf5\x80\x80\x80"]
"""A stray byte, Latin-1, an overlong NUL, a surrogate, cut off, beyond U+10FFFF."""
GOOD = [b"", b"\0", "grün €🙂".encode(), b"\xef\xbb\xbf", b"\xef\xbf\xbf"]


def pair(settings: MqttSettings) -> tuple[World, Client, Client]:
    world = World(settings)
    watcher = world.connected("w")
    watcher.subscribe("#", qos=2)
    return world, world.connected("c"), watcher


def payloads(client: Client) -> list[bytes]:
    return [packet.payload for packet in client.packets() if isinstance(packet, Publish)]


def codes(client: Client) -> list[int]:
    return [packet.code for packet in client.packets() if isinstance(packet, Puback | Pubrec)]


@pytest.mark.parametrize("payload", BAD)
def test_what_is_no_utf8_is_refused_at_every_qos_and_the_connection_goes_on(payload: bytes):
    world, client, watcher = pair(ON)
    client.publish("a", payload, 0, payload_format_indicator=1)
    client.publish("a", payload, 1, packet_id=1, payload_format_indicator=1)
    client.publish("a", payload, 2, packet_id=2, payload_format_indicator=1)
    assert codes(client) == [0x99, 0x99]
    assert world.metrics.dropped["publish-payload-invalid"] == 1
    assert world.metrics.refused["payload-invalid"] == 3
    client.publish("a", b"after", 1, packet_id=1)
    client.publish("a", b"again", 2, packet_id=2)
    assert codes(client) == [0, 0], "a refused packet id is free"
    assert payloads(watcher) == [b"after", b"again"]


@pytest.mark.parametrize("payload", GOOD)
def test_what_is_utf8_is_passed_on(payload: bytes):
    _, client, watcher = pair(ON)
    for qos in (0, 1):
        client.publish("a", payload, qos, packet_id=qos, payload_format_indicator=1)
    assert codes(client) == [0]
    assert payloads(watcher) == [payload, payload]


def test_only_the_indicator_1_is_a_promise():
    _, client, watcher = pair(ON)
    client.publish("a", b"\xff", 1, packet_id=1)
    client.publish("a", b"\xff", 1, packet_id=2, payload_format_indicator=0)
    client.publish("a", b"\xff", 1, packet_id=3, content_type="text/plain")
    assert codes(client) == [0, 0, 0]
    assert payloads(watcher) == [b"\xff"] * 3


def test_nothing_is_looked_at_by_default():
    world, client, watcher = pair(MqttSettings())
    will = world.connected("will", will=Will(b"a", b"\xff", properties=TEXT))
    for qos in (0, 1):
        client.publish("a", b"\xff", qos, packet_id=qos, payload_format_indicator=1)
    will.vanish()
    assert payloads(watcher) == [b"\xff"] * 3


def test_qos_0_can_end_the_connection_by_setting():
    _, client, watcher = pair(MqttSettings(payload_format_check=True, denied_publish="disconnect"))
    client.publish("a", b"\xff", 0, payload_format_indicator=1)
    client.expect(Disconnect(0x99), closed=True)
    watcher.expect()


def test_a_qos_2_publish_sent_again_is_answered_as_before_it_is_judged():
    _, client, watcher = pair(ON)
    client.publish("a", b"once", 2, packet_id=7, payload_format_indicator=1)
    client.publish("a", b"\xff", 2, packet_id=7, payload_format_indicator=1, dup=True)
    client.say(Pubrel(7))
    client.expect(Pubrec(7), Pubrec(7), Pubcomp(7))
    assert payloads(watcher) == [b"once"]


def test_verbs_are_judged_too():
    world = World(ON)
    client = world.connected("c")
    client.publish("mesh/to/nobody", b"\xff", 1, packet_id=1, payload_format_indicator=1)
    client.publish("mesh/to/nobody", b"\xff", 0, payload_format_indicator=1)
    assert codes(client) == [0x99]
    assert world.metrics.dropped["publish-payload-invalid"] == 1


@pytest.mark.parametrize("delay", [0, 30])
def test_a_will_is_judged_when_it_is_said(caplog: pytest.LogCaptureFixture, delay: int):
    caplog.set_level(logging.WARNING, "dragoman.mqtt")
    world = World(ON)
    watcher = world.connected("w")
    watcher.subscribe("#", qos=2)
    for client_id, payload in (("bad", b"\xff"), ("good", b"gone")):
        client = world.connected(
            client_id, will=Will(b"will", payload, properties=TEXT, delay=delay), session_expiry_interval=60
        )
        client.vanish()
    world.advance(31_000)
    watcher.expect(pub("will", b"gone", payload_format_indicator=1))
    assert world.metrics.dropped["will-payload-invalid"] == 1
    (line,) = [record for record in caplog.records if "will not said" in record.getMessage()]
    assert (line.client, line.reason) == ("bad", "payload-invalid")  # type: ignore[attr-defined]

"""Limits of what one client may ask for, and bytes that come badly: each costs the sender's own bound."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.encoders import encode_connect
from dragoman.adapters.mqtt.packets import Connack, Connect, Disconnect, Puback, Will
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.settings import LimitSettings
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import World, pub


def test_shared_subscriptions_count_as_the_others_do():
    world = World(broker=BrokerSettings(subscriptions_per_session_max=2))
    client = world.connected("c")
    assert client.subscribe("$share/g/a", "b", "$share/g/c", "d", qos=1) == [1, 1, 0x97, 0x97]
    assert client.subscribe("$share/g/a", "b", qos=0) == [0, 0], "what it has may change"
    client.unsubscribe("b")
    client.packets()
    assert client.subscribe("$share/g/c", qos=1) == [1]
    assert world.connected("old", 4).subscribe("a", "b", "$share/g/c") == [0, 0, 0x80]


@pytest.mark.parametrize(("topic", "fits"), [("a/b/c", True), ("a/b/c/d", False), ("x" * 20, True), ("x" * 21, False)])
def test_topics_and_filters_have_a_configured_size(topic: str, fits: bool):
    world = World(MqttSettings(topic_levels_max=3, topic_bytes_max=20))
    subscriber, publisher = world.connected("s"), world.connected("p")
    assert subscriber.subscribe(topic) == [0 if fits else 0x8F]
    willing = world.client()
    willing.say(Connect(5, "w", True, 0, will=Will(topic.encode(), b"")))
    assert willing.closed is not fits
    (answer,) = willing.packets()
    assert isinstance(answer, Connack)
    assert answer.code == (0 if fits else 0x90)
    publisher.publish(topic, b"1", 1)
    publisher.expect(Puback(1) if fits else Puback(1, 0x90))
    subscriber.expect(*([pub(topic, b"1")] if fits else []))


def test_a_byte_a_second_before_connect_ends_at_the_deadline_however_busy_it_is():
    world = World(limits=LimitSettings(connect_deadline_s=10.0))
    dripping, innocent = world.client(), world.connected("i")
    innocent.subscribe("a")
    packet = encode_connect(Connect(5, "dripping", True, 0))
    seconds = 0
    for byte in packet:
        dripping.raw(bytes([byte]))
        innocent.publish("a", b"on")
        innocent.expect(pub("a", b"on"))
        world.advance(1_000)
        seconds += 1
        if dripping.closed:
            break
    assert dripping.transport.aborted
    assert 10 <= seconds <= 11 < len(packet)


@pytest.mark.parametrize(
    "first", [b"\x10\xff\xff\x7f", b"\x30\xff\xff\xff\x7f", b"\x10\x80\x80\x04" + b"\x00" * 70_000]
)
def test_too_much_before_connect_is_refused_by_its_announcement(first: bytes):
    world = World(MqttSettings(connect_bytes_max=1 << 16))
    innocent = world.connected("i")
    innocent.subscribe("a")
    client = world.client()
    client.raw(first)
    assert client.closed
    session = client.connection.session
    assert session is not None
    assert len(session.decoder._held) <= 1 << 16
    innocent.publish("a", b"on")
    innocent.expect(pub("a", b"on"))


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("so_far", [2, 3, 9, 10, 500, 1_001])
def test_a_connect_too_large_is_told_so_if_it_can_be_seen_to_be_of_5(version: int, so_far: int):
    world = World(MqttSettings(connect_bytes_max=1_000))
    packet = encode_connect(Connect(version, "x" * 2_000, True, 0))
    client = world.client(version)
    client.raw(packet[:so_far])
    if so_far < 3:
        assert not client.closed, "its length is not known yet"
        client.raw(packet[so_far:])
        so_far = len(packet)
    client.expect(*([Connack(False, 0x95)] if version == 5 and so_far >= 10 else []), closed=True)
    client.raw(packet)
    client.expect(closed=True)
    assert not world.realm.standings.by_client


def test_a_packet_too_large_that_only_looks_like_a_connect_of_5_is_told_nothing():
    for first in (b"\xc0\xe9\x07\x00\x04MQTT\x05", b"\x10\xe9\x07\x00\x04MQTT\x06", b"\x10\xe9\x07\x00\x06MQIsdp\x05"):
        client = World(MqttSettings(connect_bytes_max=1_000)).client()
        client.raw(first)
        client.expect(closed=True)


def test_a_client_in_the_middle_of_a_packet_holds_its_own_bytes_alone_and_ends_by_its_keepalive():
    world = World()
    stalling, innocent = world.connected("s", keepalive=10), world.connected("i")
    innocent.subscribe("a")
    stalling.raw(b"\x30\x80\x80\x40" + b"\x00\x01a" + b"x" * 100_000)
    innocent.publish("a", b"on")
    innocent.expect(pub("a", b"on"))
    world.advance(14_999)
    assert not stalling.closed
    world.advance(2)
    stalling.expect(Disconnect(0x8D), closed=True)

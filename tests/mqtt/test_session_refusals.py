"""Saying no in MQTT: what may not be done, what cannot be, and that nobody else is affected."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import (
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
)
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RateSettings, RuleSettings
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import Client, World, pub


def pair(version: int = 5, **options: object) -> tuple[World, Client, Client]:
    """A world, a publisher, and a subscriber of everything at QoS 2."""
    world = World(**options)  # type: ignore[arg-type]
    publisher = world.connected("p", version)
    subscriber = world.connected("s")
    subscriber.subscribe("#", qos=2)
    return world, publisher, subscriber


def deny(*actions: str, filters: tuple[str, ...] = ("secret/#",)) -> GateSettings:
    return GateSettings(rules=(RuleSettings(effect="deny", actions=actions, filters=filters),))


def payloads(client: Client) -> list[bytes]:
    return [packet.payload for packet in client.packets() if isinstance(packet, Publish)]


# -- refusals ----------------------------------------------------------------------------------------


def test_a_publish_that_may_not_be_made():
    world = World(gate=deny("publish"))
    watcher = world.connected("w")
    watcher.subscribe("#", qos=2)
    client = world.connected("c")
    client.publish("secret/x", b"0", 0)
    client.publish("secret/x", b"1", 1, packet_id=1)
    client.publish("secret/x", b"2", 2, packet_id=2)
    client.expect(Puback(1, 0x87), Pubrec(2, 0x87))
    old = world.connected("o", 4)
    old.publish("secret/x", b"0", 0)
    old.publish("secret/x", b"1", 1, packet_id=1)
    old.publish("secret/x", b"2", 2, packet_id=2)
    old.say(Pubrel(2))
    old.expect(Puback(1), Pubrec(2), Pubcomp(2))
    watcher.expect()
    assert world.metrics.dropped["publish-not-authorized"] == 4


@pytest.mark.parametrize("version", [4, 5])
def test_a_payload_over_the_broker_s_bound_is_refused_though_its_packet_fits(version: int):
    world, publisher, subscriber = pair(version, broker=BrokerSettings(message_bytes_max=8))
    publisher.publish("a", b"x" * 8, 1, packet_id=1)
    publisher.publish("a", b"x" * 9, 0)
    publisher.publish("a", b"x" * 9, 1, packet_id=2)
    assert payloads(subscriber) == [b"x" * 8]
    assert world.metrics.dropped["publish-too-large"] == (1 if version == 5 else 2)


def test_a_publish_that_may_not_be_made_can_end_the_connection_by_setting():
    world = World(MqttSettings(denied_publish="disconnect"), gate=deny("publish"))
    client = world.connected("c")
    client.publish("secret/x", b"0", 0)
    client.expect(Disconnect(0x87), closed=True)
    old = world.connected("o", 4)
    old.publish("secret/x", b"0", 1)
    old.expect(closed=True)
    new = world.connected("n")
    new.publish("secret/x", b"0", 1)
    new.expect(Puback(1, 0x87))


@pytest.mark.parametrize("topic", ["$mesh/v1/presence/x", "$SYS/broker/uptime"])
def test_nobody_writes_what_is_ours(topic: str):
    client = World().connected("c")
    client.publish(topic, b"", 1)
    client.expect(Puback(1, 0x87))


def test_a_name_that_cannot_be_is_told():
    world = World()
    client = world.connected("c")
    deep = "/".join("x" * 200)
    client.publish(deep, b"", 1)
    client.publish(deep, b"", 2, packet_id=2)
    client.expect(Puback(1, 0x90), Pubrec(2, 0x90))
    client.publish(deep, b"")
    client.expect(Disconnect(0x90), closed=True)
    client = world.connected("c")
    client.raw(b"\x30\x06\x00\x03a/+\x00")
    client.expect(Disconnect(0x90), closed=True)


def test_a_subscription_that_may_not_be_made():
    world = World(gate=deny("read"))
    client = world.connected("c")
    assert client.subscribe("secret/x", "open", "a/#/b", qos=1) == [0x87, 1, 0x8F]
    old = world.connected("o", 4)
    assert old.subscribe("secret/x", "open", "a/#/b", qos=1) == [0x80, 1, 0x80]
    publisher = world.connected("p")
    publisher.publish("secret/x", b"1")
    publisher.publish("open", b"2")
    client.expect(pub("open", b"2"))
    old.expect(pub("open", b"2"))


def test_a_denied_filter_may_be_answered_without_telling_why():
    client = World(MqttSettings(denied_subscribe="conceal"), gate=deny("read")).connected("c")
    assert client.subscribe("secret/x", "open", "a/#/b", qos=1) == [0x80, 1, 0x8F]


def test_a_wildcard_does_not_show_what_its_reader_may_not_read():
    world = World(gate=deny("read"))
    client = world.connected("c")
    client.subscribe("#")
    publisher = world.connected("p")
    publisher.publish("secret/x", b"1", retain=True)
    publisher.publish("open", b"2")
    client.expect(pub("open", b"2"))
    late = world.connected("l")
    late.subscribe("#")
    late.expect()


def test_too_many_subscriptions_are_told_by_filter():
    world = World(broker=BrokerSettings(subscriptions_per_session_max=2))
    client = world.connected("c")
    assert client.subscribe("a", "b", "c", qos=1) == [1, 1, 0x97]


def test_more_messages_than_the_rate_allows():
    gate = GateSettings(rates=(RateSettings(who=("anonymous",), messages_per_s=1, burst=2),))
    world = World(MqttSettings(rate_policy="refuse"), gate=gate)
    client = world.connected("c")
    for packet_id in range(1, 5):
        client.publish("a", b"", 1, packet_id=packet_id)
    client.expect(Puback(1, 0x10), Puback(2, 0x10), Puback(3, 0x97), Puback(4, 0x97))
    world.advance(1_000)
    client.publish("a", b"", 1, packet_id=5)
    client.expect(Puback(5, 0x10))


def test_no_more_retained_values_than_allowed():
    world = World(broker=BrokerSettings(retained_max=1))
    client = world.connected("c")
    client.publish("a", b"1", 1, retain=True, packet_id=1)
    client.publish("b", b"1", 1, retain=True, packet_id=2)
    client.publish("a", b"2", 1, retain=True, packet_id=3)
    client.publish("b", b"", 1, retain=True, packet_id=4)
    client.expect(Puback(1, 0x10), Puback(2, 0x97), Puback(3, 0x10), Puback(4, 0x10))


MALFORMED = [
    (b"\x00\x00", 0x81),
    (b"\x36\x07\x00\x01a\x00\x01\x00x", 0x81),
    (b"\x38\x04\x00\x01a\x00", 0x82),
    (b"\x32\x06\x00\x01a\x00\x00\x00", 0x82),
    (b"\x30\xff\xff\xff\xff\x01", 0x81),
    (b"\x82\x02\x00\x01", 0x81),
    (b"\x82\x07\x00\x01\x00\x00\x01a\x03", 0x82),
    (b"\x80\x07\x00\x01\x00\x00\x01a\x00", 0x81),
    (b"\x82\x03\x00\x01\x00", 0x82),
    (b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00", 0x82),
    (b"\x30\x03\x00\x00\x00", 0x82),
    (b"\x30\x04\x00\x01\xff\x00", 0x81),
    (b"\x20\x03\x00\x00\x00", 0x82),
    (b"\xc1\x00", 0x81),
]


@pytest.mark.parametrize(("data", "code"), MALFORMED)
def test_what_cannot_be_ends_that_connection_with_its_code_and_no_other(data: bytes, code: int):
    world, publisher, subscriber = pair()
    client = world.connected("c", 5)
    old = world.connected("o", 4)
    client.raw(data)
    client.expect(Disconnect(code), closed=True)
    errors = world.metrics.wire("mqtt").errors
    assert errors == 1
    old.raw(b"\x00\x00")
    old.expect(closed=True)
    publisher.publish("a", b"x", 1)
    publisher.expect(Puback(1))
    subscriber.expect(pub("a", b"x", 1, 1))


def test_nothing_after_an_error_is_done():
    _, publisher, subscriber = pair()
    publisher.raw(b"\x30\x05\x00\x01a\x00x" + b"\x00\x00" + b"\x30\x05\x00\x01a\x00y")
    publisher.expect(Disconnect(0x81), closed=True)
    assert payloads(subscriber) == [b"x"]


def test_no_answer_follows_a_disconnect_even_if_its_commit_comes_later():
    from dragoman.adapters.mqtt.packets import Will

    world = World()
    world.connected("k", session_expiry_interval=60).subscribe("#", qos=2)
    client = world.connected("c", will=Will(b"will", b"gone", 1))
    world.door.shut = True
    client.publish("a", b"1", 1)
    client.transport.stuck = True
    client.raw(b"\x00\x00")
    world.commit()
    world.commit()
    client.transport.unstick()
    client.expect(Disconnect(0x81), closed=True)

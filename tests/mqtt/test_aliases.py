"""Topic aliases (§3.3.2.3.4): theirs are resolved before anything else, ours are given to who takes them."""

from __future__ import annotations

from typing import Any

import pytest

from dragoman.adapters.mqtt.encoders import encode_publish
from dragoman.adapters.mqtt.packets import Disconnect, Puback, Publish, Pubrec, Pubrel
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from tests.mqtt.wire import Client, World, at, pub


def alias(number: int, **more: Any) -> bytes:
    return Properties(topic_alias=number, **more).encode()


# -- theirs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_an_alias_stands_for_its_topic_and_is_not_passed_on(qos: int):
    world = World()
    publisher, subscriber = world.connected("p"), world.connected("s")
    subscriber.subscribe("#", qos=2)
    publisher.say(Publish(b"a/b", b"1", qos, packet_id=qos and 1, properties=alias(3)))
    publisher.say(Publish(b"", b"2", qos, packet_id=qos and 2, properties=alias(3, content_type="t")))
    subscriber.expect(pub("a/b", b"1", qos, qos and 1), pub("a/b", b"2", qos, qos and 2, content_type="t"))


def test_a_topic_that_comes_with_a_known_alias_takes_its_place():
    world = World()
    publisher, subscriber = world.connected("p"), world.connected("s")
    subscriber.subscribe("#")
    for topic in (b"a", b"", b"b", b""):
        publisher.say(Publish(topic, b"", properties=alias(1)))
    subscriber.expect(pub("a"), pub("a"), pub("b"), pub("b"))


def test_what_it_stands_for_is_what_the_gate_judges():
    rules = (RuleSettings(effect="deny", actions=("publish",), filters=("secret/#",)),)
    world = World(gate=GateSettings(rules=rules), mqtt=MqttSettings(denied_publish="disconnect"))
    publisher = world.connected("p")
    publisher.say(Publish(b"secret/x", b"", 1, packet_id=1, properties=alias(1)))
    publisher.expect(Puback(1, 0x87))
    publisher.say(Publish(b"", b"", 0, properties=alias(1)))
    publisher.expect(Disconnect(0x87), closed=True)


def test_an_alias_ends_with_its_connection_though_the_session_goes_on():
    world = World()
    first = world.connected("p", session_expiry_interval=60)
    first.say(Publish(b"a", b"", properties=alias(1)))
    first.vanish()
    again = world.client()
    assert again.connect("p", clean=False, session_expiry_interval=60).session_present
    again.say(Publish(b"", b"", properties=alias(1)))
    again.expect(Disconnect(0x82), closed=True)


@pytest.mark.parametrize(("number", "most"), [(17, 16), (1, 0), (65_535, 65_534)])
def test_an_alias_above_the_maximum_is_refused(number: int, most: int):
    for topic in (b"a", b""):
        client = World(mqtt=MqttSettings(topic_alias_max=most)).connected("c")
        client.say(Publish(topic, b"", properties=alias(number)))
        client.expect(Disconnect(0x94), closed=True)


def test_the_highest_alias_is_taken():
    for most in (1, 16, 65_535):
        world = World(mqtt=MqttSettings(topic_alias_max=most))
        watcher, client = world.connected("w"), world.client()
        watcher.subscribe("#")
        assert client.connect("c").properties.topic_alias_maximum == most
        client.say(Publish(b"a", b"1", properties=alias(most)), Publish(b"", b"2", properties=alias(most)))
        client.expect()
        watcher.expect(pub("a", b"1"), pub("a", b"2"))


def test_cut_anywhere_it_stands_for_the_same():
    frames = b"".join(encode_publish(5, topic, b"x", properties=alias(2)) for topic in (b"a/b", b""))
    for cut in range(1, len(frames)):
        world = World()
        publisher, subscriber = world.connected("p"), world.connected("s")
        subscriber.subscribe("#")
        publisher.raw(frames[:cut])
        publisher.raw(frames[cut:])
        subscriber.expect(pub("a/b", b"x"), pub("a/b", b"x"))


# -- ours ------------------------------------------------------------------------------------------


def reader(world: World, most: int = 2, **more: Any) -> Client:
    client = world.connected("s", topic_alias_maximum=most, **more)
    client.subscribe("#", qos=2)
    return client


def sent(client: Client) -> list[tuple[bytes, int]]:
    """The QoS 0 messages that went over the wire since the last look: their topics as sent, and their aliases."""
    unread = bytes(client.transport.got[client._read :])
    client.packets()
    found = []
    while unread:
        assert unread[0] & 0xFE == 0x30, unread
        body, unread = unread[2 : 2 + unread[1]], unread[2 + unread[1] :]
        at = 2 + int.from_bytes(body[:2], "big")
        raw = body[at + 1 : at + 1 + body[at]]
        found.append((body[2:at], int.from_bytes(raw[-2:], "big") if raw[-3:-2] == b"\x23" else 0))
    return found


def test_first_topics_get_one_then_a_new_one_in_the_place_of_the_longest_unsaid():
    world = World()
    client = reader(world)
    publisher = world.connected("p")
    for topic in ("a", "b", "a", "c", "a", "c", "b", "b"):
        publisher.publish(topic, b"x")
    assert sent(client) == [
        (b"a", 1), (b"b", 2), (b"", 1), (b"c", 2), (b"", 1), (b"", 2), (b"b", 1), (b"", 1),
    ]  # fmt: skip


def test_a_reader_that_takes_none_gets_none_and_the_setting_bounds_what_is_given():
    for settings, most in ((MqttSettings(), 0), (MqttSettings(topic_alias_broker_max=0), 9)):
        world = World(mqtt=settings)
        client = reader(world, most)
        publisher = world.connected("p")
        publisher.publish("a", b"x")
        publisher.publish("a", b"x")
        assert sent(client) == [(b"a", 0), (b"a", 0)]
    world = World(mqtt=MqttSettings(topic_alias_broker_max=1))
    client = reader(world, 9)
    publisher = world.connected("p")
    for topic in "abab":
        publisher.publish(topic, b"x")
    assert sent(client) == [(b"a", 1), (b"b", 1), (b"a", 1), (b"b", 1)]


def test_every_quality_and_the_properties_that_were_there():
    world = World()
    client = reader(world)
    publisher = world.connected("p")
    publisher.publish("a/b", b"0", content_type="t")
    publisher.publish("a/b", b"1", 1)
    publisher.publish("a/b", b"2", 2)
    first, second, third = (packet for packet in client.packets() if isinstance(packet, Publish))
    assert first.properties == Properties(content_type="t").encode() + alias(1)
    assert second.properties == third.properties == alias(1)
    assert [each.topic for each in (first, second, third)] == [b"a/b"] * 3
    assert bytes(client.transport.got).count(b"a/b") == 1
    client.say(Puback(second.packet_id), Pubrec(third.packet_id))
    client.expect(Pubrel(third.packet_id))


def test_neighbours_of_one_with_aliases_get_their_shared_frame():
    world = World()
    client = reader(world)
    plain, old = world.connected("t"), world.connected("o", 4)
    plain.subscribe("#")
    old.subscribe("#")
    for name, version in (("p", 5), ("q", 4)):
        world.connected(name, version).publish("a", b"x")
    for neighbour in (plain, old):
        neighbour.expect(pub("a", b"x"), pub("a", b"x"))
    assert sent(client) == [(b"a", 1), (b"", 1)]


def test_what_waits_for_its_commit_is_not_overtaken_by_those_that_use_its_alias():
    world = World()
    client = reader(world, session_expiry_interval=60)
    publisher = world.connected("p")
    world.door.shut = True
    publisher.publish("a", b"kept", 2)
    world.commit()  # the message itself; the packet id of its delivery waits for the next
    publisher.publish("a", b"0")
    publisher.publish("a", b"0")
    client.expect()
    world.door.shut = False
    world.commit()
    client.expect(pub("a", b"kept", 2, 1, topic_alias=1), pub("a", b"0", topic_alias=1), pub("a", b"0", topic_alias=1))


def test_one_that_only_fits_without_an_alias_goes_without():
    world = World()
    plain = len(encode_publish(5, b"a", b"x" * 50))
    client = reader(world, maximum_packet_size=plain)
    publisher = world.connected("p")
    publisher.publish("a", b"x" * 50)
    client.expect(pub("a", b"x" * 50))
    publisher.publish("a", b"x" * 40)
    client.expect(pub("a", b"x" * 40, topic_alias=1))
    publisher.publish("a", b"x" * 51)
    client.expect()
    assert world.metrics.dropped["larger-than-receiver-takes"] == 1


def test_a_resent_delivery_says_its_topic_again():
    world = World()
    client = reader(world, session_expiry_interval=60)
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1)
    publisher.publish("a", b"2", 1)
    assert len(client.packets()) == 2
    client.vanish()
    again = world.client()
    again.connect("s", clean=False, session_expiry_interval=60, topic_alias_maximum=2)
    again.expect(pub("a", b"1", 1, at(1), dup=True), pub("a", b"2", 1, at(2), dup=True))
    publisher.publish("a", b"3")
    again.expect(pub("a", b"3", topic_alias=1))

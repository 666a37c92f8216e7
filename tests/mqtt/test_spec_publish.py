"""What no other test shows of MQTT 5.0 on PUBLISH and its acknowledgements; docs/mqtt-conformance.md has all."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from tests.mqtt.wire import Client, World, at, pub

DENIED = GateSettings(rules=(RuleSettings(effect="deny", actions=("publish",), filters=("secret",)),))


def pair() -> tuple[World, Client, Client]:
    """A world, a publisher, and a subscriber of everything at QoS 2."""
    world = World()
    publisher, subscriber = world.connected("p"), world.connected("s")
    subscriber.subscribe("#", qos=2)
    return world, publisher, subscriber


def retained(world: World, topic: str) -> list[bytes]:
    """What somebody who subscribes now is given."""
    client = world.connected("late")
    client.subscribe(topic)
    packets = client.packets()
    assert all(isinstance(packet, Publish) and packet.retain for packet in packets)
    return [packet.payload for packet in packets if isinstance(packet, Publish)]


def test_a_retained_message_replaces_the_one_before() -> None:
    """[3.3.1-5]"""
    world, publisher, _ = pair()
    for n, qos in enumerate((0, 1, 2, 0)):
        publisher.publish("a", b"%d" % n, qos, retain=True, packet_id=n if qos else 0)
        assert retained(world, "a") == [b"%d" % n]
    assert retained(world, "#") == [b"3"]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_an_empty_retained_message_is_said_and_leaves_nothing(qos: int) -> None:
    """[3.3.1-6] [3.3.1-7]"""
    world, publisher, subscriber = pair()
    publisher.publish("a", b"1", retain=True)
    subscriber.expect(pub("a", b"1"))
    publisher.publish("a", b"", qos, retain=True)
    subscriber.expect(pub("a", b"", qos, qos and 1))
    assert retained(world, "#") == []
    publisher.publish("b", b"", 0, retain=True)
    assert retained(world, "#") == []
    assert world.broker.retained_of("a") is None


def test_whoever_publishes_next_with_an_acknowledged_id_says_something_new() -> None:
    """[4.3.2-5]: with DUP too."""
    _, publisher, subscriber = pair()
    publisher.publish("a", b"1", 1, packet_id=9)
    publisher.publish("a", b"2", 1, packet_id=9, dup=True)
    publisher.expect(Puback(9), Puback(9))
    subscriber.expect(pub("a", b"1", 1, 1), pub("a", b"2", 1, 2))


def test_an_id_refused_at_qos_2_is_free() -> None:
    """[4.3.3-9]: the next PUBLISH with it is new, and nothing waits for a PUBREL."""
    world = World(gate=DENIED)
    subscriber, publisher = world.connected("s"), world.connected("p")
    subscriber.subscribe("#", qos=2)
    publisher.publish("secret", b"1", 2, packet_id=9)
    publisher.publish("open", b"2", 2, packet_id=9, dup=True)
    publisher.expect(Pubrec(9, 0x87), Pubrec(9))
    subscriber.expect(pub("open", b"2", 2, 1))


def test_a_qos_2_exchange_is_ended_though_its_message_has_expired() -> None:
    """[4.3.3-7] [4.3.3-13], in both directions."""
    world, publisher, subscriber = pair()
    publisher.publish("a", b"x", 2, message_expiry_interval=1)
    publisher.expect(Pubrec(1))
    subscriber.expect(pub("a", b"x", 2, 1, message_expiry_interval=1))
    world.advance(5_000)
    publisher.publish("a", b"x", 2, dup=True, message_expiry_interval=1)
    publisher.expect(Pubrec(1))
    publisher.say(Pubrel(1))
    publisher.expect(Pubcomp(1))
    subscriber.say(Pubrec(1))
    subscriber.expect(Pubrel(1))
    subscriber.say(Pubcomp(1))
    subscriber.expect()
    assert not world.realm.standings.by_client["s"].flights


def test_a_qos_2_delivery_begun_before_its_expiry_is_made_again_after_it() -> None:
    """[4.3.3-7]: it may have been received."""
    world = World()
    kept = {"clean": False, "session_expiry_interval": 600}
    client = world.connected("s", **kept)
    client.subscribe("a", qos=2)
    world.connected("p").publish("a", b"x", 2, message_expiry_interval=1)
    client.expect(pub("a", b"x", 2, 1, message_expiry_interval=1))
    client.vanish()
    world.advance(5_000)
    again = world.connected("s", **kept)
    again.expect(pub("a", b"x", 2, 1, dup=True, message_expiry_interval=0))
    again.say(Pubrec(1))
    again.expect(Pubrel(1))


def test_what_was_refused_or_released_is_not_sent_again() -> None:
    """[4.4.0-2] [4.3.3-6]"""
    world = World()
    kept = {"clean": False, "session_expiry_interval": 600}
    client = world.connected("s", **kept)
    client.subscribe("a", qos=2)
    publisher = world.connected("p")
    for packet_id, qos in enumerate((1, 2, 2), 1):
        publisher.publish("a", b"%d" % packet_id, qos, packet_id=packet_id)
    client.expect(pub("a", b"1", 1, at(1)), pub("a", b"2", 2, 1), pub("a", b"3", 2, 2))
    client.say(Puback(at(1), 0x83), Pubrec(1, 0x97), Pubrec(2))
    client.expect(Pubrel(2))
    client.vanish()
    again = world.connected("s", **kept)
    again.expect(Pubrel(2))
    again.vanish()
    world.connected("s", **kept).expect(Pubrel(2))


def test_a_pubrel_is_open_until_its_pubcomp() -> None:
    """[4.3.3-5]"""
    world = World()
    kept = {"clean": False, "session_expiry_interval": 600}
    client = world.connected("s", **kept)
    client.subscribe("a", qos=2)
    world.connected("p").publish("a", b"x", 2)
    client.packets()
    client.say(Pubrec(1))
    client.expect(Pubrel(1))
    for _ in range(3):
        client.vanish()
        client = world.connected("s", **kept)
        client.expect(Pubrel(1))
    client.say(Pubcomp(1))
    client.vanish()
    world.connected("s", **kept).expect()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_sender_is_heard_in_its_order(qos: int) -> None:
    """[4.6.0-5] [4.6.0-6]"""
    world, _, subscriber = pair()
    senders = [world.connected(f"p{n}") for n in range(3)]
    for n in range(1, 21):
        for sender in senders:
            sender.publish("a", b"%d" % n, qos, packet_id=n if qos else 0, content_type=f"{senders.index(sender)}")
    heard: dict[bytes, list[int]] = {}
    for packet in subscriber.packets():
        assert isinstance(packet, Publish)
        heard.setdefault(packet.properties, []).append(int(packet.payload))
    assert list(heard.values()) == [list(range(1, 21))] * 3


def test_names_are_compared_byte_by_byte() -> None:
    """[4.7.3-4]: what looks alike, or is the same under some normal form, is not the same."""
    world = World()
    spelt = ("\u00e9", "e\u0301", "E\u0301", "\ufb01", "fi", "a/", "a", "/a", "a//", "\u212b", "\u00c5", " a", "a ")
    client, publisher = world.connected("s"), world.connected("p")
    client.subscribe(*spelt)
    for topic in spelt:
        publisher.publish(topic)
        client.expect(pub(topic))


def test_a_topic_as_long_as_there_can_be_goes_through() -> None:
    """[4.7.3-3]"""
    world, publisher, subscriber = pair()
    topic = "\u00e4" * 32_767 + "x"
    assert len(topic.encode()) == 65_535
    publisher.publish(topic, b"x", 1)
    publisher.expect(Puback(1))
    subscriber.expect(pub(topic, b"x", 1, 1))
    assert not world.metrics.dropped

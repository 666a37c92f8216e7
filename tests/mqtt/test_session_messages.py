"""What happens to a message between two MQTT clients that are both there: QoS, retained, options, properties."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.codes import PUBLISH
from dragoman.adapters.mqtt.encoders import encode_publish
from dragoman.adapters.mqtt.packets import (
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from dragoman.adapters.mqtt.properties import Properties, parse_properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from tests.mqtt.wire import Client, World, facts, pub


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


# -- QoS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("version", [4, 5])
def test_delivered_at_the_lower_of_both_wishes(wish: int, granted: int, version: int):
    world = World()
    subscriber = world.connected("s", version)
    assert subscriber.subscribe("a", qos=granted) == [granted]
    publisher = world.connected("p", version)
    publisher.publish("a", b"x", wish)
    publisher.expect(*([], [Puback(1)], [Pubrec(1)])[wish])
    qos = min(wish, granted)
    subscriber.expect(pub("a", b"x", qos, 1 if qos else 0))


def test_qos_2_flow_outwards_and_the_id_is_free_at_its_end_only():
    world, publisher, subscriber = pair()
    publisher.publish("a", b"x", 2)
    subscriber.expect(pub("a", b"x", 2, 1))
    flights = world.realm.standings.by_client["s"].flights
    subscriber.say(Pubrec(1))
    subscriber.expect(Pubrel(1))
    subscriber.say(Pubrec(1))
    subscriber.expect(Pubrel(1))
    assert list(flights) == [1]
    subscriber.say(Pubcomp(1))
    subscriber.expect()
    assert not flights


@pytest.mark.parametrize("dup", [True, False])
def test_qos_2_inwards_is_said_once_however_often_it_comes(dup: bool):
    _, publisher, subscriber = pair()
    publisher.publish("a", b"x", 2, packet_id=7)
    publisher.publish("a", b"x", 2, packet_id=7, dup=dup)
    publisher.expect(Pubrec(7), Pubrec(7))
    assert payloads(subscriber) == [b"x"]
    publisher.say(Pubrel(7))
    publisher.say(Pubrel(7))
    publisher.expect(Pubcomp(7), Pubcomp(7))
    publisher.publish("a", b"y", 2, packet_id=7)
    publisher.expect(Pubrec(7))
    assert payloads(subscriber) == [b"y"]


def test_pubrel_and_pubrec_of_ids_nobody_knows():
    world = World()
    client = world.connected("c")
    client.say(Pubrel(5), Pubrec(6), Puback(7), Pubcomp(8))
    client.expect(Pubcomp(5), Pubrel(6, 0x92))
    old = world.connected("o", 4)
    old.say(Pubrel(5), Pubrec(6), Puback(7), Pubcomp(8))
    old.expect(Pubcomp(5), Pubrel(6))


def test_a_receiver_that_refuses_is_done_with_the_message():
    world, publisher, subscriber = pair(mqtt=MqttSettings(inflight_max=1))
    publisher.publish("a", b"1", 2, packet_id=1)
    publisher.publish("a", b"2", 1, packet_id=2)
    publisher.publish("a", b"3", 1, packet_id=3)
    subscriber.expect(pub("a", b"1", 2, 1))
    subscriber.say(Pubrec(1, 0x83))
    subscriber.expect(pub("a", b"2", 1, 2))
    subscriber.say(Puback(2, 0x97))
    subscriber.expect(pub("a", b"3", 1, 3))
    assert world.metrics.dropped["refused-by-receiver"] == 2


def test_acknowledgements_of_the_wrong_kind_change_nothing():
    _, publisher, subscriber = pair()
    publisher.publish("a", b"1", 1)
    publisher.publish("a", b"2", 2)
    assert payloads(subscriber) == [b"1", b"2"]
    subscriber.say(Pubcomp(1), Puback(2))
    subscriber.expect()
    subscriber.say(Puback(1), Pubrec(2))
    subscriber.expect(Pubrel(2))


def test_dup_of_the_publisher_is_not_passed_on():
    _, publisher, subscriber = pair()
    publisher.publish("a", b"x", 1, dup=True)
    subscriber.expect(pub("a", b"x", 1, 1))


# -- retained ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_retained_is_given_to_who_comes_later_and_as_news_to_who_is_there(qos: int):
    world, publisher, subscriber = pair()
    publisher.publish("a", b"1", qos, retain=True)
    subscriber.expect(pub("a", b"1", qos, 1 if qos else 0))
    late = world.connected("l")
    late.subscribe("a", qos=1)
    late.expect(pub("a", b"1", min(qos, 1), 1 if qos else 0, retain=True))
    publisher.packets()
    publisher.publish("a", b"", 0, retain=True)
    assert payloads(subscriber) == [b""]
    last = world.connected("e")
    last.subscribe("a")
    last.expect()


def test_retain_handling():
    world = World()
    world.connected("p").publish("a", b"1", retain=True)
    client = world.connected("c")
    value = pub("a", b"1", retain=True)
    for handling, expected in ((2, []), (1, []), (0, [value]), (0, [value])):
        client.subscribe(Subscription("a", retain_handling=handling))
        client.expect(*expected)
    client.unsubscribe("a")
    client.packets()
    for expected in ([value], []):
        client.subscribe(Subscription("a", retain_handling=1))
        client.expect(*expected)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("properties", [{}, {"content_type": "t"}])
def test_retain_as_published_keeps_the_flag_of_live_messages(qos: int, properties: dict[str, str]):
    world = World()
    keeping, plain = world.connected("k"), world.connected("n")
    keeping.subscribe(Subscription("a", qos, retain_as_published=True))
    plain.subscribe("a", qos=qos)
    publisher = world.connected("p")
    ids = (1, 2) if qos else (0, 0)
    publisher.publish("a", b"1", qos, retain=True, packet_id=ids[0], **properties)
    publisher.publish("a", b"2", qos, packet_id=ids[1], **properties)
    keeping.expect(pub("a", b"1", qos, ids[0], retain=True, **properties), pub("a", b"2", qos, ids[1], **properties))
    plain.expect(pub("a", b"1", qos, ids[0], **properties), pub("a", b"2", qos, ids[1], **properties))


def test_retained_replay_carries_identifier_and_respects_the_window():
    world = World()
    publisher = world.connected("p")
    for n in range(50):
        publisher.publish(f"a/{n:02}", b"%02d" % n, 1, retain=True)
    client = world.connected("c", receive_maximum=7)
    client.subscribe("a/#", qos=1, identifier=9)
    seen: list[str] = []
    rounds = 0
    while True:
        packets = [p for p in client.packets() if isinstance(p, Publish)]
        if not packets:
            break
        rounds += 1
        assert len(packets) <= 7
        for packet in packets:
            assert packet.retain
            assert packet.properties == b"\x0b\x09"
            seen.append(packet.topic.decode())
        client.say(*[Puback(p.packet_id) for p in packets])
    assert sorted(seen) == [f"a/{n:02}" for n in range(50)]
    assert rounds >= 8


def test_retained_values_larger_in_sum_than_the_out_buffer_all_come():
    world = World(MqttSettings(out_bytes_max=4096))
    publisher = world.connected("p")
    for n in range(100):
        publisher.publish(f"a/{n:02}", b"x" * 1_000, retain=True)
    client = world.connected("c", 4)
    client.subscribe("a/+")
    assert len(payloads(client)) == 100


def test_retained_expires():
    world = World()
    world.connected("p").publish("a", b"1", retain=True, message_expiry_interval=10)
    world.advance(4_000)
    client = world.connected("c")
    client.subscribe("a")
    client.expect(pub("a", b"1", retain=True, message_expiry_interval=6))
    world.advance(7_000)
    client.subscribe("a")
    client.expect()


def test_a_will_and_a_message_without_retain_leave_the_value_alone():
    world = World()
    publisher = world.connected("p")
    publisher.publish("a", b"1", retain=True)
    publisher.publish("a", b"2")
    publisher.publish("a", b"")
    for will in (Will(b"a", b"gone"), Will(b"a", b"", 1)):
        world.connected("w", will=will).vanish()
    client = world.connected("c")
    client.subscribe("a")
    client.expect(pub("a", b"1", retain=True))


# -- subscriptions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"content_type": "t"}])
def test_overlapping_subscriptions_give_one_copy_at_the_best_qos_with_all_identifiers(more: dict[str, str]):
    world = World()
    client = world.connected("c")
    client.subscribe("a/b", qos=0, identifier=3)
    client.subscribe("a/+", qos=2, identifier=1)
    client.subscribe("a/#", qos=1)
    client.subscribe("#", qos=1, identifier=200)
    world.connected("p").publish("a/b", b"x", 2, **more)
    (packet,) = client.packets()
    assert isinstance(packet, Publish)
    assert (packet.qos, packet.payload) == (2, b"x")
    told = parse_properties(packet.properties, PUBLISH)
    assert sorted(told.subscription_identifiers) == [1, 3, 200]
    assert told.content_type == more.get("content_type")


def test_an_identifier_goes_with_its_subscription_and_changes_with_it():
    world = World()
    client = world.connected("c")
    publisher = world.connected("p")
    for identifier in (5, 6, 0):
        client.subscribe("a", identifier=identifier)
        publisher.publish("a", b"x")
        client.expect(pub("a", b"x", subscription_identifiers=[identifier] if identifier else None))


def test_no_local():
    world = World()
    client = world.connected("c")
    client.subscribe(Subscription("a", 1, no_local=True))
    client.publish("a", b"mine", 1)
    world.connected("p").publish("a", b"theirs", 1)
    client.expect(Puback(1), pub("a", b"theirs", 1, 1))
    client.subscribe(Subscription("#", 0))
    client.publish("a", b"mine", 1)
    got = {facts(p)[0] for p in client.packets()}
    assert got == {"Publish", "Puback"}, "no local suppresses its own subscription only"


@pytest.mark.parametrize("expiry", [0, 60])
def test_what_no_local_suppresses_lends_nothing_to_what_it_does_not(expiry: int):
    world = World()
    client = world.connected("c", session_expiry_interval=expiry)
    client.subscribe(Subscription("n/+", 0), identifier=1)
    client.subscribe(Subscription("n/1", 2, no_local=True, retain_as_published=True), identifier=2)
    client.publish("n/1", b"mine", 1, retain=True)
    own = [packet for packet in client.packets() if not isinstance(packet, Puback)]
    assert [facts(packet) for packet in own] == [facts(pub("n/1", b"mine", subscription_identifiers=[1]))]
    world.connected("p").publish("n/1", b"theirs", 1)
    (other,) = client.packets()
    assert (
        (other.qos, sorted(Properties(subscription_identifiers=[n]).encode() for n in (1, 2)))
        == (  # type: ignore[union-attr]
            1,
            sorted([other.properties[:2], other.properties[2:]]),  # type: ignore[union-attr]
        )
    )


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("expiry", [0, 60])
def test_a_shared_message_too_large_for_one_member_goes_to_another(qos: int, expiry: int):
    world = World()
    small = world.connected("m1", maximum_packet_size=64, session_expiry_interval=expiry)
    large = world.connected("m2", session_expiry_interval=expiry)
    publisher = world.connected("p")
    for member in (small, large):
        member.subscribe("$share/g/a", qos=qos)
    for n in range(4):
        publisher.publish("a", bytes(200), qos, packet_id=qos and n + 1)
    got = [packet for packet in large.packets() if isinstance(packet, Publish)]
    assert [packet.payload for packet in got] == [bytes(200)] * 4
    small.expect()
    if qos == 1:
        large.say(*(Puback(packet.packet_id) for packet in got))
    large.disconnect()
    assert not world.metrics.dropped.get("larger-than-receiver-takes")
    publisher.publish("a", bytes(200), 0)
    publisher.publish("a", b"fits", 0)
    small.expect(pub("a", b"fits"))
    assert world.metrics.dropped["larger-than-receiver-takes"] == 1, "there is nobody it would fit"


def test_no_local_on_a_shared_subscription_is_a_protocol_error():
    client = World().connected("c")
    client.say(Subscribe(1, [Subscription("$share/g/a", no_local=True)]))
    client.expect(Disconnect(0x82), closed=True)


def test_subscribing_again_replaces_the_options_and_loses_nothing():
    world = World()
    client = world.connected("c")
    client.subscribe("a", qos=0)
    publisher = world.connected("p")
    publisher.publish("a", b"1", 2, packet_id=1)
    client.expect(pub("a", b"1"))
    assert client.subscribe("a", qos=2) == [2]
    publisher.publish("a", b"2", 2, packet_id=2)
    client.expect(pub("a", b"2", 2, 1))
    assert client.connection.session is not None
    assert len(list(world.broker.subscriptions(client.connection.session))) == 1


@pytest.mark.parametrize("kept", [False, True])
def test_unsubscribe_says_which_there_were_and_lets_what_is_under_way_finish(kept: bool):
    world, publisher, _ = pair()
    options = {"clean": False, "session_expiry_interval": 600} if kept else {}
    client = world.connected("c", **options)
    client.subscribe("a", "b", qos=2)
    publisher.publish("a", b"x", 2)
    client.expect(pub("a", b"x", 2, 1))
    client.say(Unsubscribe(7, ["a", "nothing", "b", "a"]))
    client.expect(Unsuback(7, [0, 0x11, 0, 0x11]))
    publisher.publish("a", b"y", 2, packet_id=2)
    client.expect()
    client.say(Pubrec(1))
    client.expect(Pubrel(1))
    client.say(Pubcomp(1))
    if kept:
        client.vanish()
        publisher.publish("a", b"z", 2, packet_id=3)
        client = world.client()
        assert client.connect("c", **options).session_present
        publisher.publish("b", b"z", 1, packet_id=4)
        client.expect()
    old = world.connected("o", 4)
    old.say(Unsubscribe(7, ["a"]))
    old.expect(Unsuback(7, []))


@pytest.mark.parametrize(
    ("filter_", "topic", "matches"),
    [
        ("#", "$x/y", False),
        ("+/y", "$x/y", False),
        ("$x/#", "$x/y", True),
        ("$x/+", "$x/y", True),
        ("a/#", "a", True),
        ("a/+", "a", False),
        ("+", "/a", False),
        ("/+", "/a", True),
        ("+/+", "/a", True),
        ("a//b", "a/b", False),
        ("A", "a", False),
    ],
)
def test_what_a_filter_matches_live_and_retained(filter_: str, topic: str, matches: bool):
    world = World()
    client = world.connected("c")
    client.subscribe(filter_)
    world.connected("p").publish(topic, b"x", retain=True)
    client.expect(*[pub(topic, b"x")] * matches)
    late = world.connected("l")
    late.subscribe(filter_)
    late.expect(*[pub(topic, b"x", retain=True)] * matches)


def test_an_empty_filter_is_refused():
    assert World().connected("c").subscribe("", "a") == [0x8F, 0]


# -- properties ----------------------------------------------------------------------------------------


def test_properties_of_the_sender_go_on_unaltered_and_in_order():
    _, publisher, subscriber = pair()
    given = {
        "payload_format_indicator": 1,
        "content_type": "text/plain",
        "response_topic": "reply/here",
        "correlation_data": b"\x00\xff c",
        "user_properties": [("b", "1"), ("a", "2"), ("b", "1"), ("", "")],
    }
    publisher.publish("a", "ä".encode(), **given)
    subscriber.expect(pub("a", "ä".encode(), **given))


def test_properties_and_qos_across_versions():
    world = World()
    old, new = world.connected("o", 4), world.connected("n")
    old.subscribe("a", qos=1)
    new.subscribe("a", qos=1)
    new.publish("a", b"1", 1, content_type="t", user_properties=[("k", "v")])
    old.expect(pub("a", b"1", 1, 1))
    new.expect(pub("a", b"1", 1, 1, content_type="t", user_properties=[("k", "v")]), Puback(1))
    new.say(Puback(1))
    old.publish("a", b"2", 1)
    new.expect(pub("a", b"2", 1, 2))


def test_expiry_counts_down_and_nothing_is_begun_after_it():
    world = World()
    client = world.connected("c", receive_maximum=1)
    client.subscribe("a", qos=1)
    publisher = world.connected("p")
    for packet_id, payload in enumerate((b"0", b"1", b"2", b"3"), 1):
        publisher.publish("a", payload, 1, packet_id=packet_id, message_expiry_interval=10 * packet_id)
    client.expect(pub("a", b"0", 1, 1, message_expiry_interval=10))
    world.advance(25_000)
    client.say(Puback(1))
    client.expect(pub("a", b"2", 1, 2, message_expiry_interval=5))
    client.say(Puback(2))
    client.expect(pub("a", b"3", 1, 3, message_expiry_interval=15))


def test_one_encoding_serves_each_version_its_own():
    world = World()
    clients = [world.connected(f"{v}-{n}", v) for v in (3, 4, 5) for n in (0, 1)]
    for client in clients:
        client.subscribe("a")
    for version in (3, 4, 5):
        publisher = world.connected("p", version)
        publisher.publish("a", b"from %d" % version)
        for client in clients:
            client.expect(pub("a", b"from %d" % version))


def test_a_byte_at_a_time_and_all_at_once_are_the_same():
    world, publisher, subscriber = pair()
    data = b"".join(encode_publish(5, b"a", b"%d" % n, 1, packet_id=n) for n in range(1, 5))
    for at in range(len(data)):
        publisher.raw(data[at : at + 1])
    publisher.raw(data)
    publisher.expect(*[Puback(n) for n in (1, 2, 3, 4)] * 2)
    assert payloads(subscriber) == [b"1", b"2", b"3", b"4"] * 2
    assert world.metrics.messages_in == 8


def test_what_expires_before_its_commit_is_delivered_to_nobody():
    """[3.3.2-5]"""
    world, publisher, subscriber = pair()
    world.connected("k", session_expiry_interval=60).subscribe("a", qos=1)
    world.door.shut = True
    publisher.publish("a", b"late", 1, message_expiry_interval=1)
    publisher.publish("a", b"in time", 1, packet_id=2, message_expiry_interval=9)
    world.advance(5_000)
    world.commit()
    subscriber.expect(pub("a", b"in time", 1, 1, message_expiry_interval=4))

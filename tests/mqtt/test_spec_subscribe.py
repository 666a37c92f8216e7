"""What no other test shows of MQTT 5.0 on subscriptions, ordinary and shared; docs/mqtt-conformance.md has all."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import (
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from dragoman.adapters.mqtt.properties import Properties
from tests.mqtt.wire import Client, World, at, pub

KEPT = {"clean": False, "session_expiry_interval": 600}


def payloads(client: Client) -> list[bytes]:
    return [packet.payload for packet in client.packets() if isinstance(packet, Publish)]


# -- SUBSCRIBE and UNSUBSCRIBE -----------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_each_answer_bears_the_id_of_its_question(kept: bool) -> None:
    """[2.2.1-6] [3.8.4-1] [3.8.4-2] [3.10.4-4] [3.10.4-5]"""
    client = World().connected("c", **(KEPT if kept else {}))
    client.say(Subscribe(0xFFFF, [Subscription("a", 1)]), Unsubscribe(7, ["a"]), Unsubscribe(8, ["a", "b"]))
    client.say(Subscribe(1, [Subscription("a/#/b")]))
    client.expect(Suback(0xFFFF, [1]), Unsuback(7, [0]), Unsuback(8, [0x11, 0x11]), Suback(1, [0x8F]))


def test_several_filters_are_several_subscriptions_one_after_the_other() -> None:
    """[3.8.4-5]: so the same filter twice is a replacement, and its retained value comes twice."""
    one, each = World(), World()
    filters = [Subscription("a", 2), Subscription("b/#", 1), Subscription("a", 0), Subscription("+/c", 2)]
    told = []
    for world in (one, each):
        world.connected("p").publish("a", b"kept", retain=True)
        client = world.connected("c")
        if world is one:
            client.say(Subscribe(1, filters))
        else:
            for wanted in filters:
                client.say(Subscribe(1, [wanted]))
        packets = client.packets()
        codes = [code for packet in packets if isinstance(packet, Suback) for code in packet.codes]
        assert codes == [2, 1, 0, 2]
        values = [packet.payload for packet in packets if isinstance(packet, Publish)]
        publisher = world.connected("q")
        for packet_id, topic in enumerate(("a", "b", "b/c", "c/c"), 1):
            publisher.publish(topic, topic.encode(), 2, packet_id=packet_id)
        live = [(p.topic, p.qos) for p in client.packets() if isinstance(p, Publish)]
        told.append((values, live))
    assert told[0] == told[1]
    assert told[0] == ([b"kept"] * 2, [(b"a", 0), (b"b", 1), (b"b/c", 2), (b"c/c", 2)])


def test_unsubscribing_takes_out_the_very_filter_and_no_other() -> None:
    """[3.10.4-1]"""
    world = World()
    client = world.connected("c")
    client.subscribe("a/+", "a/#", "A/b", "a/b", "/a/b")
    client.say(Unsubscribe(1, ["a/B", "A/B", "a/b/", "a/b", "#", "a/+/", "+/b"]))
    client.expect(Unsuback(1, [0x11, 0x11, 0x11, 0, 0x11, 0x11, 0x11]))
    session = client.connection.session
    assert session is not None
    assert sorted(session.subscriptions) == ["/a/b", "A/b", "a/#", "a/+"]
    client.say(Unsubscribe(2, ["a/+", "a/#"]))
    client.expect(Unsuback(2, [0, 0]))
    publisher = world.connected("p")
    for topic in ("a/b", "A/b", "/a/b"):
        publisher.publish(topic)
    client.expect(pub("A/b"), pub("/a/b"))


def test_several_filters_are_several_unsubscriptions_with_one_answer() -> None:
    """[3.10.4-6] [3.11.3-1]"""
    client = World().connected("c")
    client.subscribe("a", "b")
    client.say(Unsubscribe(3, ["b", "x", "a", "b"]))
    client.expect(Unsuback(3, [0, 0x11, 0, 0x11]))


@pytest.mark.parametrize("kept", [False, True])
def test_a_subscription_replaced_at_retain_handling_0_gets_what_is_retained_again_and_misses_nothing(
    kept: bool,
) -> None:
    """[3.8.4-3] [3.8.4-4]"""
    world = World()
    client, publisher = world.connected("c", **(KEPT if kept else {})), world.connected("p")
    publisher.publish("a", b"kept", 1, retain=True)
    client.subscribe("a", qos=1, identifier=1)
    client.expect(pub("a", b"kept", 1, 1, retain=True, subscription_identifiers=[1]))
    publisher.publish("a", b"before", 1)
    client.say(Subscribe(2, [Subscription("a", 0)], Properties(subscription_identifiers=[2])))
    publisher.publish("a", b"after", 1)
    client.expect(
        pub("a", b"before", 1, at(1) if kept else 2, subscription_identifiers=[1]),
        Suback(2, [0]),
        pub("a", b"kept", retain=True, subscription_identifiers=[2]),
        pub("a", b"after", subscription_identifiers=[2]),
    )


@pytest.mark.parametrize("filter_", ["a#", "#/a", "a/#/b", "##", "a+", "+a", "a/+b", "a/b+/c", "++", "", "a/#a"])
def test_where_no_wildcard_may_be(filter_: str) -> None:
    """[4.7.1-1] [4.7.1-2] [4.7.3-1]"""
    world = World()
    client = world.connected("c")
    assert client.subscribe(filter_, f"$share/g/{filter_}", "b", qos=2) == [0x8F, 0x8F, 2]
    world.connected("p").publish("a/b")
    client.expect()


@pytest.mark.parametrize("filter_", ["#", "+", "a/#", "+/a", "a/+", "a/+/b", "+/+/#", "/+", "+/"])
def test_where_a_wildcard_may_be(filter_: str) -> None:
    """[4.7.1-1] [4.7.1-2]"""
    assert World().connected("c").subscribe(filter_, qos=1) == [1]


# -- shared ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filter_",
    ["$share/", "$share//a", "$share/g", "$share/g/", "$share/+/a", "$share/#/a", "$share/g+/a", "$share/g#/a"],
)
def test_what_no_shared_filter_looks_like(filter_: str) -> None:
    """[4.8.2-1] [4.8.2-2]"""
    assert World().connected("c").subscribe(filter_, "$share/g/a", qos=1) == [0x8F, 1]


def crew(world: World, *names: str, kept: bool = False) -> list[Client]:
    """Members of one share at QoS 2, each of whom takes one message at a time."""
    members = []
    for name in names:
        member = world.connected(name, receive_maximum=1, **(KEPT if kept else {}))
        assert member.subscribe("$share/crew/jobs", qos=2) == [2]
        members.append(member)
    return members


def test_each_member_is_served_at_the_qos_it_was_granted() -> None:
    """[4.8.2-3]"""
    world = World()
    members = {}
    for granted in (0, 1, 2):
        members[granted] = world.connected(f"m{granted}")
        assert members[granted].subscribe("$share/crew/jobs", qos=granted) == [granted]
    publisher = world.connected("p")
    for packet_id in range(1, 31):
        publisher.publish("jobs", b"%d" % packet_id, 2, packet_id=packet_id)
    got = {granted: [p for p in member.packets() if isinstance(p, Publish)] for granted, member in members.items()}
    assert {granted: {p.qos for p in packets} for granted, packets in got.items()} == {0: {0}, 1: {1}, 2: {2}}
    assert sorted(int(p.payload) for packets in got.values() for p in packets) == list(range(1, 31))


def test_a_member_that_went_in_the_middle_of_qos_2_is_waited_for() -> None:
    """[4.8.2-4]"""
    world = World()
    away, there = crew(world, "away", "there", kept=True)
    publisher = world.connected("p")
    publisher.publish("jobs", b"1", 2, packet_id=1)
    publisher.publish("jobs", b"2", 2, packet_id=2)
    (held,) = [p for p in away.packets() if isinstance(p, Publish)]
    (own,) = payloads(there)
    away.vanish()
    there.say(Pubrec(1))
    there.expect(Pubrel(1))
    there.say(Pubcomp(1))
    there.expect()
    (back,) = crew_back(world, "away")
    back.expect(pub("jobs", held.payload, 2, held.packet_id, dup=True))
    assert {held.payload, own} == {b"1", b"2"}


def crew_back(world: World, *names: str) -> list[Client]:
    """Members that come back to what was kept for them."""
    members = []
    for name in names:
        member = world.client()
        assert member.connect(name, receive_maximum=1, **KEPT).session_present
        members.append(member)
    return members


@pytest.mark.parametrize("how", ["expires", "begins anew"])
def test_what_a_member_took_to_its_grave_at_qos_2_nobody_else_gets(how: str) -> None:
    """[4.8.2-5]"""
    world = World()
    away, there = crew(world, "away", "there", kept=True)
    publisher = world.connected("p")
    publisher.publish("jobs", b"1", 2, packet_id=1)
    publisher.publish("jobs", b"2", 2, packet_id=2)
    assert len(payloads(away)) == 1
    away.vanish()
    if how == "expires":
        world.advance(601_000)
    else:
        world.connected("away").expect()
    assert len(payloads(there)) == 1
    there.say(Pubrec(1, 0x80))
    there.expect()
    publisher.publish("jobs", b"3", 2, packet_id=3)
    assert payloads(there) == [b"3"]


@pytest.mark.parametrize("qos", [1, 2])
def test_what_one_member_refuses_is_given_to_no_other(qos: int) -> None:
    """[4.8.2-6]"""
    world = World()
    members = crew(world, "one", "two", kept=True)
    publisher = world.connected("p")
    for packet_id in (1, 2, 3, 4):
        publisher.publish("jobs", b"%d" % packet_id, qos, packet_id=packet_id)
    seen: list[bytes] = []
    for _ in range(4):
        for member in members:
            for packet in member.packets():
                assert isinstance(packet, Publish)
                seen.append(packet.payload)
                refusal = Puback if qos == 1 else Pubrec
                member.say(refusal(packet.packet_id, 0x83))
    assert sorted(seen) == [b"1", b"2", b"3", b"4"]
    for member in members:
        member.vanish()
    for member in crew_back(world, "one", "two"):
        member.expect()


def test_a_shared_subscription_ends_with_unsubscribe() -> None:
    """[3.10.4-1] [3.10.4-2]"""
    world = World()
    (member,) = crew(world, "m")
    member.say(Unsubscribe(5, ["$share/crew/jobs", "jobs", "$share/other/jobs"]))
    member.expect(Unsuback(5, [0, 0x11, 0x11]))
    world.connected("p").publish("jobs", b"x")
    member.expect()


# -- how large an answer may be ------------------------------------------------------------------------


@pytest.mark.parametrize("fits", [True, False])
def test_an_answer_is_never_larger_than_the_client_takes(fits: bool) -> None:
    """[3.1.2-24] [3.9.2-1] [3.9.2-2] [3.11.2-1] [3.11.2-2]"""
    most, count = 60, 55 if fits else 56
    filters = [f"f{n}" for n in range(count)]
    questions = (Subscribe(1, [Subscription(each) for each in filters]), Unsubscribe(1, filters))
    for question in questions:
        world = World()
        client = world.connected("c", maximum_packet_size=most)
        before = len(client.transport.got)
        client.say(question)
        assert len(client.transport.got) - before <= most
        if fits:
            (packet,) = client.packets()
            assert isinstance(packet, Suback | Unsuback)
            assert len(packet.codes) == count
            assert not packet.properties.encode()
        else:
            client.expect(Disconnect(0x95), closed=True)
            assert not world.broker.channels.find("f1")

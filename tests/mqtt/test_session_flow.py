"""How much at once, both ways: Receive Maximum, packet sizes, commits that come late, peers that do not read."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.encoders import encode_publish
from dragoman.adapters.mqtt.packets import (
    Disconnect,
    Pingreq,
    Pingresp,
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
from dragoman.adapters.mqtt.promises import PLACED
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import Client, World, at, pub


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


# -- order of acknowledgements -----------------------------------------------------------------------


def test_acks_wait_for_the_commit_and_leave_in_the_order_of_arrival():
    world, publisher, _ = pair()
    kept = world.connected("k", session_expiry_interval=60)
    kept.subscribe("kept", qos=2)
    world.door.shut = True
    publisher.publish("kept", b"1", 1, packet_id=1)
    publisher.publish("free", b"2", 1, packet_id=2)
    publisher.publish("kept", b"3", 2, packet_id=3)
    publisher.say(Pingreq())
    publisher.expect(Pingresp())
    kept.expect()
    world.commit()
    publisher.expect(Puback(1), Puback(2), Pubrec(3))
    world.commit()
    assert payloads(kept) == [b"1", b"3"]


def test_a_repeat_before_the_commit_is_answered_after_it_too():
    world, publisher, _ = pair()
    world.connected("k", session_expiry_interval=60).subscribe("kept", qos=2)
    world.door.shut = True
    publisher.publish("kept", b"1", 2, packet_id=3)
    publisher.publish("kept", b"1", 2, packet_id=3, dup=True)
    publisher.expect()
    world.commit()
    publisher.expect(Pubrec(3), Pubrec(3))


def test_a_failed_commit_is_told_in_5_and_cuts_311_off():
    for version in (5, 4):
        world, publisher, subscriber = pair(version)
        world.connected("k", session_expiry_interval=60).subscribe("kept", qos=2)
        world.door.shut = True
        publisher.publish("kept", b"1", 1, packet_id=1)
        publisher.publish("kept", b"2", 2, packet_id=2)
        world.refuse()
        if version == 5:
            publisher.expect(Puback(1, 0x97), Pubrec(2, 0x97))
        else:
            publisher.expect(closed=True)
        assert payloads(subscriber) == []
        assert not world.realm.standings.by_client["p"].received if version == 5 else True


def test_a_qos_2_id_whose_commit_failed_can_be_used_again():
    world, publisher, subscriber = pair()
    world.connected("k", session_expiry_interval=60).subscribe("kept", qos=2)
    world.door.shut = True
    publisher.publish("kept", b"1", 2, packet_id=2)
    world.refuse()
    publisher.publish("kept", b"1", 2, packet_id=2)
    world.commit()
    publisher.expect(Pubrec(2, 0x97), Pubrec(2))
    assert payloads(subscriber) == [b"1"]


def test_retained_values_come_although_the_commit_of_the_subscription_failed():
    world = World()
    world.connected("p").publish("a", b"x", retain=True)
    kept = world.connected("k", session_expiry_interval=60)
    world.turn()
    world.door.shut = True
    kept.say(Subscribe(1, [Subscription("a")]))
    kept.expect()
    world.refuse()
    kept.expect(Suback(1, [0]), pub("a", b"x", retain=True))


def test_more_than_allowed_uncommitted_stops_the_reading_until_it_is_safe():
    world, publisher, _ = pair(broker=BrokerSettings(uncommitted_session_bytes_max=1024))
    world.connected("k", session_expiry_interval=60).subscribe("kept", qos=1)
    world.door.shut = True
    for packet_id in range(1, 11):
        publisher.publish("kept", b"x" * 400, 1, packet_id=packet_id)
    assert not publisher.transport.reading
    assert len(publisher.transport.held) > 5
    for _ in range(10):
        world.commit()
    publisher.expect(*[Puback(n) for n in range(1, 11)])
    assert publisher.transport.reading


# -- how much at once: inwards -------------------------------------------------------------------------


def test_receive_maximum_is_enforced_inwards():
    for qos in (1, 2):
        world, publisher, subscriber = pair(mqtt=MqttSettings(receive_max=3))
        world.connected("k", session_expiry_interval=60).subscribe("kept", qos=2)
        world.door.shut = True
        for packet_id in range(1, 4):
            publisher.publish("kept", b"x", qos, packet_id=packet_id)
        publisher.expect()
        publisher.publish("kept", b"x", qos, packet_id=4)
        publisher.expect(Disconnect(0x93), closed=True)
        world.commit()
        assert len(payloads(subscriber)) == 3


def test_receive_maximum_counts_qos_2_until_pubrel_and_repeats_not_at_all():
    _, publisher, _ = pair(mqtt=MqttSettings(receive_max=2))
    publisher.publish("a", b"1", 2, packet_id=1)
    publisher.publish("a", b"2", 2, packet_id=2)
    publisher.publish("a", b"2", 2, packet_id=2, dup=True)
    publisher.expect(Pubrec(1), Pubrec(2), Pubrec(2))
    publisher.say(Pubrel(1))
    publisher.publish("a", b"3", 1, packet_id=3)
    publisher.expect(Pubcomp(1), Puback(3))
    publisher.publish("a", b"4", 2, packet_id=4)
    publisher.publish("a", b"5", 2, packet_id=5)
    publisher.expect(Pubrec(4), Disconnect(0x93), closed=True)


def test_a_full_receive_maximum_of_qos_2_in_one_commit_is_fine():
    world, publisher, subscriber = pair(mqtt=MqttSettings(receive_max=10))
    world.connected("k", session_expiry_interval=60).subscribe("kept", qos=2)
    world.door.shut = True
    publisher.say(*[Publish(b"kept", b"x", 2, packet_id=n) for n in range(1, 11)])
    world.commit()
    publisher.expect(*[Pubrec(n) for n in range(1, 11)])
    assert len(payloads(subscriber)) == 10


def test_before_5_more_is_not_an_error_and_nothing_stands_still():
    world, publisher, subscriber = pair(4, mqtt=MqttSettings(receive_max=3))
    publisher.say(*[Publish(b"a", b"x", 2, packet_id=n) for n in range(1, 21)])
    publisher.expect(*[Pubrec(n) for n in range(1, 21)])
    publisher.say(*[Pubrel(n) for n in range(1, 21)])
    publisher.expect(*[Pubcomp(n) for n in range(1, 21)])
    assert len(payloads(subscriber)) == 20
    world.connected("k", session_expiry_interval=60).subscribe("kept", qos=2)
    world.door.shut = True
    for packet_id in range(1, 6):
        publisher.publish("kept", b"x", 1, packet_id=packet_id)
    assert not publisher.transport.reading, "it is not read while it waits for a commit"
    world.commit()
    world.commit()
    publisher.expect(*[Puback(n) for n in range(1, 6)])


def test_a_packet_larger_than_we_take_ends_the_connection():
    world = World(MqttSettings(packet_bytes_max=1_000))
    client = world.connected("c")
    client.raw(encode_publish(5, b"a", b"x" * 993))
    client.expect()
    client.raw(encode_publish(5, b"a", b"x" * 994)[:5])
    client.expect(Disconnect(0x95), closed=True)


# -- how much at once: outwards ------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_receive_maximum_of_the_client_is_never_exceeded_and_all_arrives_in_order(qos: int):
    world = World()
    subscriber = world.connected("s", receive_maximum=3)
    subscriber.subscribe("a", qos=2)
    publisher = world.connected("p")
    publisher.say(*[Publish(b"a", b"%d" % n, qos, packet_id=n) for n in range(1, 21)])
    seen: list[bytes] = []
    window: list[int] = []
    while len(seen) < 20:
        packets = [p for p in subscriber.packets() if isinstance(p, Publish)]
        seen += [p.payload for p in packets]
        window += [p.packet_id for p in packets]
        assert 0 < len(window) <= 3
        first = window.pop(0)
        subscriber.say(*([Puback(first)] if qos == 1 else [Pubrec(first), Pubcomp(first)]))
    assert seen == [b"%d" % n for n in range(1, 21)]


def test_a_full_window_holds_back_neither_qos_0_nor_answers():
    world = World()
    subscriber = world.connected("s", receive_maximum=1)
    subscriber.subscribe("a", "b", qos=2)
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1)
    publisher.publish("a", b"2", 1)
    publisher.publish("b", b"3", 0)
    publisher.publish("b", b"4", 0, content_type="t")
    subscriber.say(Pingreq())
    subscriber.expect(pub("a", b"1", 1, 1), pub("b", b"3"), pub("b", b"4", content_type="t"), Pingresp())
    subscriber.say(Subscribe(7, [Subscription("c")]), Unsubscribe(8, ["c"]), pub("d", b"", 1, 9), pub("d", b"", 2, 10))
    subscriber.say(Pubrel(10))
    subscriber.expect(Suback(7, [0]), Unsuback(8, [0]), Puback(9, 0x10), Pubrec(10, 0x10), Pubcomp(10))


def test_maximum_packet_size_of_the_client_counts_the_whole_packet_and_drops_are_counted():
    for qos, overhead in ((0, 6), (1, 8)):
        world = World()
        subscriber = world.connected("s", maximum_packet_size=100)
        subscriber.subscribe("a", qos=1)
        publisher = world.connected("p")
        publisher.publish("a", b"x" * (100 - overhead), qos, packet_id=1 if qos else 0)
        publisher.publish("a", b"y" * (101 - overhead), qos, packet_id=2 if qos else 0)
        publisher.publish("a", b"z", qos, packet_id=3 if qos else 0)
        assert payloads(subscriber) == [b"x" * (100 - overhead), b"z"]
        assert world.metrics.dropped["larger-than-receiver-takes"] == 1
        assert not subscriber.closed


def test_a_dropped_message_does_not_block_a_kept_session():
    world = World()
    subscriber = world.connected("s", maximum_packet_size=100, session_expiry_interval=60)
    subscriber.subscribe("a", qos=1)
    publisher = world.connected("p")
    publisher.publish("a", b"y" * 200, 1)
    publisher.publish("a", b"z", 1)
    subscriber.expect(pub("a", b"z", 1, at(2)))
    subscriber.say(Puback(at(2)))
    world.turn()
    backlog = world.realm.standings.by_client["s"].backlog
    assert backlog is not None
    assert backlog.low == world.log.end()


def test_reason_strings_are_left_out_where_they_are_not_wanted_or_do_not_fit():
    for wanted, size, told in ((1, None, True), (None, None, True), (0, None, False), (1, 30, False)):
        world = World(gate=deny("publish"))
        client = world.connected("c", request_problem_information=wanted, maximum_packet_size=size)
        client.publish("secret/x", b"", 1)
        (packet,) = client.packets()
        assert isinstance(packet, Puback)
        assert packet.code == 0x87
        assert (packet.properties.reason_string is not None) is told


# -- a peer that does not read -------------------------------------------------------------------------


def test_a_slow_reader_falls_behind_and_catches_up_without_loss_while_others_go_on():
    world, publisher, quick = pair(mqtt=MqttSettings(out_bytes_max=1 << 14))
    slow = world.connected("slow", 4)
    slow.subscribe("#")
    slow.packets()
    slow.transport.stuck = True
    block = b"x" * 10_000
    for n in range(100):
        publisher.publish("a", b"%03d" % n + block)
    assert len(payloads(quick)) == 100
    assert len(slow.transport.unread) < 400_000
    slow.transport.unstick()
    assert [p[:3] for p in payloads(slow)] == [b"%03d" % n for n in range(100)]
    assert world.metrics.lost == 0


def test_a_fault_while_going_on_does_not_make_a_connection_mute():
    _, publisher, quick = pair()
    session = quick.connection.session
    assert session is not None
    session.streams["broken"] = None  # type: ignore[assignment]
    with pytest.raises((AttributeError, TypeError)):
        session.go_on()
    del session.streams["broken"]
    publisher.publish("a", b"x")
    assert payloads(quick) == [b"x"]


def test_beyond_the_ring_a_slow_reader_has_a_counted_gap_and_the_newest():
    world, publisher, _ = pair(mqtt=MqttSettings(out_bytes_max=1 << 14), broker=BrokerSettings(ring_bytes_max=1 << 17))
    slow = world.connected("slow", 4)
    slow.subscribe("a")
    slow.packets()
    slow.transport.stuck = True
    for n in range(200):
        publisher.publish("a", b"%03d" % n + b"x" * 5_000)
    slow.transport.unstick()
    got = [int(p[:3]) for p in payloads(slow)]
    assert got == sorted(set(got))
    assert got[-1] == 199
    assert len(got) < 200
    assert world.metrics.lost == 200 - len(got)
    assert world.broker.slow._lost == {slow.connection.session: 200 - len(got)}


def test_answers_to_a_peer_that_never_reads_are_bounded():
    world = World(
        MqttSettings(packet_bytes_max=1 << 10, out_bytes_max=1 << 12), BrokerSettings(message_bytes_max=1 << 10)
    )
    client = world.connected("c", 4)
    client.transport.stuck = True
    for _ in range(100):
        if client.closed:
            break
        client.transport.receive(b"\xc0\x00" * 32_768)
        world.loop.turns()
    assert client.closed
    assert client.transport.aborted


def test_there_are_never_more_deliveries_than_packet_ids_for_them():
    world = World(MqttSettings(inflight_max=65_535))
    client, publisher = world.connected("s", session_expiry_interval=600), world.connected("p")
    client.subscribe("a", qos=2)
    most = PLACED - 2
    for first in range(0, most + 1, 500):
        frames = [pub("a", b"", 2, n + 1) for n in range(first, min(first + 500, most + 1))]
        publisher.say(*frames, *(Pubrel(frame.packet_id) for frame in frames))
        publisher.packets()
    sent = [packet.packet_id for packet in client.packets() if isinstance(packet, Publish)]
    assert len(sent) == len(set(sent)) == most
    client.say(Pubrec(sent[0]), Pubcomp(sent[0]))
    again = [packet.packet_id for packet in client.packets() if isinstance(packet, Publish)]
    assert len(again) == 1

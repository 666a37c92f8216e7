"""What happens to a message between two MQTT clients that are both there: QoS, order, flow, options, properties."""

from __future__ import annotations

import itertools

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
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RateSettings, RuleSettings
from dragoman.broker.settings import BrokerSettings
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
    subscriber.say(Pingreq())
    subscriber.expect(pub("a", b"1", 1, 1), pub("b", b"3"), Pingresp())


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
    subscriber.expect(pub("a", b"z", 1, 1))
    subscriber.say(Puback(1))
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
    assert world.realm.gaps["slow"] == 200 - len(got)


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
    client.publish("/".join("x" * 200), b"", 1)
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
    world = World(gate=gate)
    client = world.connected("c")
    for packet_id in range(1, 5):
        client.publish("a", b"", 1, packet_id=packet_id)
    client.expect(Puback(1), Puback(2), Puback(3, 0x97), Puback(4, 0x97))
    world.advance(1_000)
    client.publish("a", b"", 1, packet_id=5)
    client.expect(Puback(5))


def test_no_more_retained_values_than_allowed():
    world = World(broker=BrokerSettings(retained_max=1))
    client = world.connected("c")
    client.publish("a", b"1", 1, retain=True, packet_id=1)
    client.publish("b", b"1", 1, retain=True, packet_id=2)
    client.publish("a", b"2", 1, retain=True, packet_id=3)
    client.publish("b", b"", 1, retain=True, packet_id=4)
    client.expect(Puback(1), Puback(2, 0x97), Puback(3), Puback(4))


def test_topic_aliases_are_not_taken():
    for raw in (Publish(b"a", b"", 0, properties=b"\x23\x00\x01"), Publish(b"", b"", 0, properties=b"\x23\x00\x01")):
        client = World().connected("c")
        client.say(raw)
        client.expect(Disconnect(0x94), closed=True)
    client = World().connected("c")
    client.publish("a", b"")
    client.say(Publish(b"a", b"", 1, packet_id=1, properties=b"\x23\x00\x01"))
    client.expect(Disconnect(0x94), closed=True)


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


def test_retain_as_published_keeps_the_flag_of_live_messages():
    world = World()
    keeping, plain = world.connected("k"), world.connected("n")
    keeping.subscribe(Subscription("a", retain_as_published=True))
    plain.subscribe("a")
    publisher = world.connected("p")
    publisher.publish("a", b"1", retain=True)
    publisher.publish("a", b"2")
    keeping.expect(pub("a", b"1", retain=True), pub("a", b"2"))
    plain.expect(pub("a", b"1"), pub("a", b"2"))


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
    client = world.connected("c")
    client.subscribe("a")
    client.expect(pub("a", b"1", retain=True))


# -- subscriptions -------------------------------------------------------------------------------------


def test_overlapping_subscriptions_give_one_copy_at_the_best_qos_with_all_identifiers():
    world = World()
    client = world.connected("c")
    client.subscribe("a/b", qos=0, identifier=3)
    client.subscribe("a/+", qos=2, identifier=1)
    client.subscribe("a/#", qos=1)
    client.subscribe("#", qos=1, identifier=200)
    world.connected("p").publish("a/b", b"x", 2)
    (packet,) = client.packets()
    assert isinstance(packet, Publish)
    assert (packet.qos, packet.payload) == (2, b"x")
    told = [Properties(subscription_identifiers=list(ids)).encode() for ids in itertools.permutations((1, 3, 200))]
    assert packet.properties in told


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


def test_unsubscribe_says_which_there_were_and_lets_what_is_under_way_finish():
    world, publisher, _ = pair()
    client = world.connected("c")
    client.subscribe("a", "b", qos=2)
    publisher.publish("a", b"x", 2)
    client.expect(pub("a", b"x", 2, 1))
    client.say(Unsubscribe(7, ["a", "nothing", "b", "a"]))
    client.expect(Unsuback(7, [0, 0x11, 0, 0x11]))
    publisher.publish("a", b"y", 2, packet_id=2)
    client.expect()
    client.say(Pubrec(1))
    client.expect(Pubrel(1))
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

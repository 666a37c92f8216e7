"""Sessions that outlive their connection: the offline queue, and what is resent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dragoman.adapters.mqtt.packets import (
    Connect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
)
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import Client, World, at, pub

KEPT = {"clean": False, "session_expiry_interval": 3_600}


def payloads(client: Client) -> list[bytes]:
    return [packet.payload for packet in client.packets() if isinstance(packet, Publish)]


def sleeper(
    world: World, *filters: Subscription | str, qos: int = 2, client_id: str = "s", **options: object
) -> Client:
    """A client with a kept session, connected."""
    client = world.connected(client_id, **{**KEPT, **options})  # type: ignore[arg-type]
    if filters:
        client.subscribe(*filters, qos=qos)
    return client


def settled(world: World, client_id: str = "s") -> bool:
    """Whether the session's place has passed everything there is."""
    backlog = world.realm.standings.by_client[client_id].backlog
    assert backlog is not None
    return backlog.low == world.log.end() and not world.realm.standings.by_client[client_id].flights


# -- the offline queue -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_what_was_said_meanwhile_comes_in_order_and_qos_0_does_not(version: int):
    world = World()
    options = {"clean": False} if version == 4 else KEPT
    client = world.connected("s", version, **options)
    client.subscribe("a/#", qos=2)
    client.disconnect()
    publisher = world.connected("p")
    for n in range(9):
        publisher.publish(f"a/{n % 2}", b"%d" % n, n % 3, packet_id=n if n % 3 else 0)
    again = world.client(version)
    assert again.connect("s", **options).session_present
    ids = {1: at(1), 2: 1, 4: at(3), 5: 2, 7: at(5), 8: 3}
    again.expect(*[pub(f"a/{n % 2}", b"%d" % n, n % 3, packet_id) for n, packet_id in ids.items()])
    again.say(Puback(at(1)), Pubrec(1), Puback(at(3)), Pubrec(2), Puback(at(5)), Pubrec(3))
    again.expect(Pubrel(1), Pubrel(2), Pubrel(3))
    again.say(Pubcomp(1), Pubcomp(2), Pubcomp(3))
    assert settled(world)


def test_a_subscription_at_qos_0_keeps_nothing():
    world = World()
    sleeper(world, "a", qos=0).disconnect()
    world.connected("p").publish("a", b"x", 2)
    again = sleeper(world)
    again.expect()
    world.connected("p").publish("a", b"y", 2)
    again.expect(pub("a", b"y"))


def test_more_than_the_window_waits_in_the_log_and_comes_as_it_is_acknowledged():
    world = World(MqttSettings(inflight_max=10))
    sleeper(world, "a", qos=1).disconnect()
    publisher = world.connected("p")
    for n in range(200):
        publisher.publish("a", b"%d" % n, 1)
    again = sleeper(world)
    seen: list[bytes] = []
    while packets := [p for p in again.packets() if isinstance(p, Publish)]:
        assert len(packets) <= 10
        seen += [p.payload for p in packets]
        again.say(*[Puback(p.packet_id) for p in packets])
        if len(seen) == 100:
            publisher.publish("a", b"200", 1)
    assert seen == [b"%d" % n for n in range(201)]
    assert settled(world)


def test_more_open_than_a_place_may_list_goes_on_too():
    world = World(broker=BrokerSettings(cursor_done_max=3))
    sleeper(world, "a", qos=1).disconnect()
    publisher = world.connected("p")
    for n in range(10):
        publisher.publish("a", b"%d" % n, 1)
    again = sleeper(world)
    seen: list[bytes] = []
    while packets := [p for p in again.packets() if isinstance(p, Publish)]:
        seen += [p.payload for p in packets]
        again.say(*[Puback(p.packet_id) for p in packets])
    assert seen == [b"%d" % n for n in range(10)]


def test_a_channel_that_evaporated_and_came_again_is_still_subscribed():
    world = World()
    client = sleeper(world, "a", "b", qos=1)
    world.connected("p").publish("a", b"1", 1)
    assert payloads(client) == [b"1"]
    client.say(Puback(at(1)))
    client.disconnect()
    number = world.broker.channels.by_name["a"].number
    world.advance(200_000)
    assert world.broker.channels.find("a") is None, "nothing refers to it"
    world.connected("p").publish("a", b"2", 1)
    assert world.broker.channels.by_name["a"].number != number
    again = sleeper(world)
    assert payloads(again) == [b"2"]


def test_messages_expire_while_they_wait():
    world = World()
    sleeper(world, "a").disconnect()
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1, message_expiry_interval=10)
    publisher.publish("a", b"2", 1, message_expiry_interval=100)
    publisher.publish("a", b"3", 1)
    world.advance(40_000)
    again = sleeper(world)
    again.expect(pub("a", b"2", 1, at(2), message_expiry_interval=60), pub("a", b"3", 1, at(3)))


def test_own_messages_are_not_queued_with_no_local():
    world = World()
    client = sleeper(world)
    client.subscribe(Subscription("a", 1, no_local=True))
    client.publish("a", b"mine", 1)
    client.expect(Puback(1))
    client.disconnect()
    world.connected("p").publish("a", b"theirs", 1)
    again = sleeper(world)
    again.expect(pub("a", b"theirs", 1, at(2)))


def test_clean_start_forgets_what_waited():
    world = World()
    sleeper(world, "a").disconnect()
    world.connected("p").publish("a", b"x", 1)
    fresh = world.client()
    assert not fresh.connect("s", clean=True, session_expiry_interval=60).session_present
    fresh.expect()
    world.connected("p").publish("a", b"y", 1)
    fresh.expect()


def test_a_session_resumed_for_the_last_time_still_gets_what_waited():
    world = World()
    sleeper(world, "a").disconnect()
    world.connected("p").publish("a", b"x", 1)
    last = world.client()
    assert last.connect("s", clean=False).session_present
    last.expect(pub("a", b"x", 1, at(1)))
    last.disconnect()
    assert list(world.realm.standings.by_client) == ["p"]
    assert not world.client().connect("s", clean=False).session_present


def test_nothing_is_kept_for_a_session_that_has_expired():
    world = World()
    sleeper(world, "a", session_expiry_interval=10).disconnect()
    world.connected("p").publish("a", b"x" * 1_000, 1)
    world.advance(11_000)
    world.advance(120_000)
    assert not list(world.log.channels())
    assert len(world.broker.backlogs) == 0
    assert world.broker.channels.find("a") is None


def test_what_everybody_has_read_is_freed_and_the_channel_falls_back():
    world = World()
    client = sleeper(world, "a", qos=1)
    publisher = world.connected("p")
    publisher.publish("a", b"x" * 1_000, 1)
    client.expect(pub("a", b"x" * 1_000, 1, at(1)))
    world.advance(20_000)
    assert list(world.log.channels()), "not acknowledged yet"
    client.say(Puback(at(1)))
    world.advance(20_000)
    assert not list(world.log.channels())


def test_a_sleeper_holds_what_it_reads_and_not_what_others_read():
    world = World()
    sleeper(world, "mine", client_id="asleep").disconnect()
    sleeper(world, client_id="reads nothing")
    client = sleeper(world, "theirs", qos=1)
    publisher = world.connected("p", **KEPT)
    publisher.publish("mine", b"1", 1)
    for n in range(1, 4):
        publisher.publish("theirs", b"2", 1)
        client.expect(pub("theirs", b"2", 1, at(n + 1)))
        client.say(Puback(at(n + 1)))
    world.advance(20_000)
    assert list(world.log.channels()) == [world.broker.channels.by_name["mine"].number]


def test_a_message_that_waits_behind_a_full_connection_is_not_passed_over():
    """A feed that lags for a QoS 0 message may see a logged one later than another feed sees the next."""
    world = World(MqttSettings(out_bytes_max=4_096))
    client = sleeper(world, "a", "b", qos=1)
    client.transport.stuck = True
    publisher = world.connected("p")
    for _ in range(40):
        publisher.publish("a", b"x" * 9_000)
    publisher.publish("a", b"first", 1)
    client.transport.unstick()
    publisher.publish("b", b"second", 1)
    assert [p for p in payloads(client) if len(p) < 9_000] == [b"first", b"second"]


def test_a_read_of_the_log_that_comes_back_after_its_connection_is_nobodys():
    world = World()
    sleeper(world, "a", qos=1).disconnect()
    publisher = world.connected("p")
    for n in range(4):
        publisher.publish("a", b"%d" % n, 1)
    waiting: list[Callable[[], None]] = []
    scan = world.log.scan

    def slow(*asked: Any) -> None:
        *what, then, numbers = asked
        scan(*what, lambda found, following: waiting.append(lambda: then(found, following)), numbers)  # type: ignore[call-arg]

    world.log.scan = slow  # type: ignore[method-assign]
    first = sleeper(world, receive_maximum=2)
    waiting.pop()()
    assert payloads(first) == [b"0", b"1"]
    first.say(Puback(at(1)))
    (late,) = waiting
    waiting.clear()
    first.vanish()
    again = sleeper(world)
    assert payloads(again) == [b"1"]
    (now,) = waiting
    late()
    assert payloads(again) == []
    now()
    assert payloads(again) == [b"2", b"3"]


def test_rights_lost_meanwhile_hold_for_a_resumed_session():
    world = World()
    sleeper(world, "a", "b", qos=1).disconnect()
    world.connected("p").publish("b", b"before", 1)
    world.broker.gate.replace(GateSettings(rules=(RuleSettings(effect="deny", actions=("read",), filters=("b",)),)))
    again = sleeper(world)
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1)
    publisher.publish("b", b"2", 1)
    assert payloads(again) == [b"1"]
    # What waits for the filter that is silent is passed over and counted: the other one is not held up.
    assert world.metrics.dropped["subscription-no-longer-allowed"] == 2


def test_identifiers_and_options_come_back_with_the_session():
    world = World()
    client = sleeper(world)
    client.subscribe(Subscription("a", 1, retain_as_published=True), identifier=7)
    client.disconnect()
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1, retain=True)
    again = sleeper(world)
    again.expect(pub("a", b"1", 1, at(1), retain=True, subscription_identifiers=[7]))


# -- resending -------------------------------------------------------------------------------------


def test_what_is_under_way_is_resent_on_reconnect_only_with_dup_in_order_with_its_ids():
    world = World()
    client = sleeper(world, "a")
    publisher = world.connected("p")
    for n, qos in enumerate((1, 2, 2, 1, 2), 1):
        publisher.publish("a", b"%d" % n, qos, packet_id=n)
    assert payloads(client) == [b"1", b"2", b"3", b"4", b"5"]
    client.say(Pubrec(1), Puback(at(4)))
    client.expect(Pubrel(1))
    world.advance(600_000)
    client.expect()
    client.vanish()
    publisher.publish("a", b"6", 1)
    again = sleeper(world)
    again.expect(
        pub("a", b"1", 1, at(1), dup=True),
        Pubrel(1),
        pub("a", b"3", 2, 2, dup=True),
        pub("a", b"5", 2, 3, dup=True),
        pub("a", b"6", 1, at(6)),
    )
    again.say(Puback(at(1)), Pubcomp(1), Pubrec(2), Pubrec(3), Puback(at(6)))
    again.expect(Pubrel(2), Pubrel(3))
    again.say(Pubcomp(2), Pubcomp(3))
    assert settled(world)


def test_resending_keeps_to_a_window_that_has_become_smaller():
    world = World()
    client = sleeper(world, "a", qos=1)
    publisher = world.connected("p")
    for n in range(6):
        publisher.publish("a", b"%d" % n, 1)
    client.vanish()
    publisher.publish("a", b"6", 1)
    again = sleeper(world, receive_maximum=2)
    seen: list[tuple[bytes, bool]] = []
    while packets := [p for p in again.packets() if isinstance(p, Publish)]:
        assert len(packets) <= 2
        seen += [(p.payload, p.dup) for p in packets]
        again.say(Puback(packets[0].packet_id))
        if len(packets) == 2:
            extra = [p for p in again.packets() if isinstance(p, Publish)]
            assert len(extra) <= 1
            seen += [(p.payload, p.dup) for p in extra]
            again.say(*[Puback(p.packet_id) for p in [packets[1], *extra]])
    assert seen == [(b"%d" % n, n < 6) for n in range(7)]
    assert settled(world)


def test_resending_drops_what_the_client_no_longer_takes():
    world = World()
    client = sleeper(world, "a", qos=1)
    publisher = world.connected("p")
    publisher.publish("a", b"x" * 500, 1)
    publisher.publish("a", b"y", 1)
    client.vanish()
    again = sleeper(world, maximum_packet_size=100)
    again.expect(pub("a", b"y", 1, at(2), dup=True))
    again.say(Puback(at(2)))
    assert settled(world)
    assert world.metrics.dropped["larger-than-receiver-takes"] == 1


def test_a_delivery_begun_before_its_expiry_or_unsubscription_is_completed_after_a_reconnect():
    world = World()
    client = sleeper(world, "a", "b")
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1, message_expiry_interval=5)
    publisher.publish("b", b"2", 2)
    assert payloads(client) == [b"1", b"2"]
    client.unsubscribe("b")
    client.vanish()
    world.advance(60_000)
    again = sleeper(world)
    again.expect(pub("a", b"1", 1, at(1), dup=True, message_expiry_interval=0), pub("b", b"2", 2, 1, dup=True))
    again.say(Puback(at(1)), Pubrec(1), Pubcomp(1))
    assert settled(world)


def test_a_retained_value_under_way_is_resent_as_it_was():
    world = World()
    world.connected("p").publish("a", b"x", 1, retain=True)
    client = sleeper(world)
    client.subscribe("a", qos=1, identifier=4)
    value = {"retain": True, "subscription_identifiers": [4]}
    client.expect(pub("a", b"x", 1, 1, **value))  # type: ignore[arg-type]
    client.vanish()
    again = sleeper(world)
    again.expect(pub("a", b"x", 1, 1, dup=True, **value))  # type: ignore[arg-type]
    again.say(Puback(1))
    assert settled(world)


def test_a_replay_and_a_live_delivery_of_one_message_are_two():
    world = World()
    client = sleeper(world, "a", qos=1)
    world.connected("p").publish("a", b"x", 1, retain=True)
    client.expect(pub("a", b"x", 1, at(1)))
    client.subscribe("a", qos=1)
    client.expect(pub("a", b"x", 1, 1, retain=True))
    client.say(Puback(1), Puback(at(1)))
    assert settled(world)


def test_without_a_kept_session_nothing_is_resent():
    world = World()
    client = world.connected("s")
    client.subscribe("a", qos=1)
    world.connected("p").publish("a", b"x", 1)
    client.vanish()
    again = world.connected("s", clean=False)
    again.expect()


def test_ids_taken_in_are_remembered_across_connections():
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("a", qos=2)
    client = sleeper(world)
    client.publish("a", b"x", 2, packet_id=5)
    client.vanish()
    again = sleeper(world)
    again.publish("a", b"x", 2, packet_id=5, dup=True)
    again.expect(Pubrec(5))
    assert payloads(watcher) == [b"x"]
    again.say(Pubrel(5))
    again.expect(Pubcomp(5))
    again.publish("a", b"y", 2, packet_id=5)
    assert payloads(watcher) == [b"y"]


def test_a_takeover_goes_on_with_what_was_under_way():
    world = World()
    old = sleeper(world, "a")
    world.connected("p").publish("a", b"x", 2)
    old.expect(pub("a", b"x", 2, 1))
    new = sleeper(world)
    new.expect(pub("a", b"x", 2, 1, dup=True))


# -- subscribed again with other options -------------------------------------------------------------


def taken(client: Client) -> list[tuple[bytes, int]]:
    """What the client is sent while it acknowledges all of it: payload and QoS."""
    got: list[tuple[bytes, int]] = []
    while packets := client.packets():
        for packet in packets:
            if isinstance(packet, Publish):
                got.append((packet.payload, packet.qos))
                if packet.qos:
                    client.say(Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))
            elif isinstance(packet, Pubrel):
                client.say(Pubcomp(packet.packet_id))
    return got


def said(world: World, *payloads: bytes, topic: str = "a", qos: int = 2) -> None:
    publisher = world.connected("p")
    for n, payload in enumerate(payloads, 1):
        publisher.publish(topic, payload, qos, packet_id=n if qos else 0)
    publisher.vanish()


@pytest.mark.parametrize("filter_", ["a", "a/#"])
def test_what_waits_keeps_the_qos_it_was_queued_at(filter_: str):
    """[MQTT-3.8.4-3], [MQTT-3.8.4-4]: subscribed again at QoS 0 by a client that comes back."""
    world = World()
    sleeper(world, filter_, qos=1).vanish()
    said(world, b"0", b"1", b"2")
    client = world.client()
    client.say(
        Connect(5, "s", False, properties=Properties(session_expiry_interval=3_600)),
        Subscribe(1, [Subscription(filter_, 0)]),
    )
    said(world, b"new")
    assert taken(client) == [(b"0", 1), (b"1", 1), (b"2", 1), (b"new", 0)]
    said(world, b"newer")
    assert taken(client) == [(b"newer", 0)]
    world.advance(60_000)
    backlog = world.realm.standings.by_client["s"].backlog
    assert backlog is not None
    assert (list(backlog.filters), backlog.leaving) == ([], False)
    assert not world.broker.core.readers.match("a")
    assert world.metrics.dropped == {}


def test_what_waits_on_a_connection_survives_a_change_to_qos_0_and_a_crash():
    world = World(durable=True)
    client = sleeper(world, "a", qos=2, receive_maximum=1)
    said(world, b"0", b"1", b"2")
    client.say(Subscribe(1, [Subscription("a", 0)]))
    said(world, b"new")
    client.vanish()
    said(world, b"while away")
    (listed,) = world.realm.standings.listed()
    assert listed.waiting == 2
    world = world.crash()
    client = world.connected("s", **KEPT)
    said(world, b"newest")
    assert taken(client) == [(b"0", 2), (b"1", 2), (b"2", 2), (b"newest", 0)]
    said(world, b"after")
    assert taken(client) == [(b"after", 0)]
    assert settled(world)


def test_qos_0_passes_nothing_that_waits_from_before_the_change():
    world = World()
    client = sleeper(world, "a", qos=1, receive_maximum=1)
    said(world, b"0", b"1")
    client.say(Subscribe(1, [Subscription("a", 0)]))
    assert world.connected("o").subscribe("a", qos=0) == [0]
    said(world, b"new", qos=0)
    assert taken(client) == [(b"0", 1), (b"1", 1), (b"new", 0)]


def test_changed_there_and_back_all_that_was_queued_comes():
    world = World()
    client = sleeper(world, "a", qos=2, receive_maximum=1)
    said(world, b"0", b"1")
    client.say(Subscribe(1, [Subscription("a", 0)]))
    client.say(Subscribe(1, [Subscription("a", 1)]))
    said(world, b"2")
    assert taken(client) == [(b"0", 2), (b"1", 2), (b"2", 1)]
    client.disconnect()
    said(world, b"3")
    client = world.connected("s", **KEPT)
    assert taken(client) == [(b"3", 1)]


def test_unsubscribed_what_waits_is_let_go():
    world = World()
    client = sleeper(world, "a", qos=1, receive_maximum=1)
    said(world, b"0", b"1")
    client.say(Subscribe(1, [Subscription("a", 0)]))
    client.unsubscribe("a")
    assert taken(client) == [(b"0", 1)]
    said(world, b"2")
    assert taken(client) == []
    assert not world.broker.core.readers.match("a")


def test_no_local_holds_for_what_is_said_from_then_on():
    world = World()
    client = sleeper(world, "a", qos=1, receive_maximum=1)
    for n in range(3):
        client.publish("a", b"%d" % n, 1, packet_id=n + 1)
    client.say(Subscribe(1, [Subscription("a", 1, no_local=True)]))
    client.publish("a", b"mute", 1, packet_id=9)
    said(world, b"other")
    assert taken(client) == [(b"0", 1), (b"1", 1), (b"2", 1), (b"other", 1)]
    client.say(Subscribe(1, [Subscription("a", 1)]))
    client.publish("a", b"heard", 1, packet_id=9)
    assert taken(client) == [(b"heard", 1)]


def test_a_feed_that_lags_leaves_to_the_queue_what_was_queued():
    """The channel's own reader is behind too, and comes to the messages when they are no longer wished for."""
    world = World(MqttSettings(out_bytes_max=1_000))
    client = sleeper(world, "a", qos=1)
    client.transport.stuck = True
    said(world, b"x" * 300_000, b"y", qos=0)
    said(world, b"0", b"1", qos=1)
    client.say(Subscribe(1, [Subscription("a", 0)]))
    client.transport.unstick()
    world.turn()
    assert sorted((p[:1], qos) for p, qos in taken(client)) == [(b"0", 1), (b"1", 1), (b"x", 0), (b"y", 0)]


def test_no_local_no_more_brings_nothing_that_it_kept_away():
    world = World()
    client = sleeper(world, Subscription("a", 1, no_local=True), receive_maximum=1)
    said(world, b"0", b"1")
    client.publish("a", b"mute", 1, packet_id=9)
    client.say(Subscribe(1, [Subscription("a", 1)]))
    client.publish("a", b"heard", 1, packet_id=9)
    assert taken(client) == [(b"0", 1), (b"1", 1), (b"heard", 1)]


def test_what_goes_out_again_to_a_link_says_where_it_is_from_as_it_did_before():
    world = World()
    link = {"clean": False, "session_expiry_interval": 600, "user_properties": [("mesh-self", "another")]}
    client = world.connected("s", **link)
    client.subscribe("a", qos=1)
    world.connected("p").publish("a", b"x", 1)
    (first,) = client.packets()
    client.vanish()
    client = world.client()
    assert client.connect("s", **link).session_present  # type: ignore[arg-type]
    (again,) = client.packets()
    assert isinstance(first, Publish)
    assert isinstance(again, Publish)
    assert b"mesh-origin" in first.properties
    assert (again.properties, again.dup) == (first.properties, True)

"""The mesh is killed at every step of a conversation: what survives, and exactly once on both sides."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
)
from dragoman.adapters.mqtt.promises import PLACED
from dragoman.adapters.mqtt.properties import Properties
from dragoman.broker.log.contract import Table
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import Client, World, at, pub

KEPT = {"clean": False, "session_expiry_interval": 3_600}


def payloads(client: Client) -> list[bytes]:
    return [packet.payload for packet in client.packets() if isinstance(packet, Publish)]


def sleeper(world: World, *filters: str, qos: int = 2, client_id: str = "s", **options: object) -> Client:
    """A client with a kept session, connected."""
    client = world.connected(client_id, **{**KEPT, **options})  # type: ignore[arg-type]
    if filters:
        client.subscribe(*filters, qos=qos)
    return client


# -- crashes ---------------------------------------------------------------------------------------


def crashed(world: World) -> tuple[World, Client]:
    """After a crash: the new world, and the sleeper reconnected to its session."""
    after = world.crash()
    client = after.client()
    client.say(Connect(5, "s", False, properties=Properties(session_expiry_interval=3_600)))
    (connack,) = client.packets(1)
    assert isinstance(connack, Connack)
    assert connack.session_present
    return after, client


def test_a_session_its_filters_and_what_waited_survive():
    world = World(durable=True)
    sleeper(world, "a", "b/#").disconnect()
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1)
    publisher.publish("b/c", b"2", 2)
    publisher.publish("d", b"3", 2)
    after, client = crashed(world)
    client.expect(pub("a", b"1", 1, at(1)), pub("b/c", b"2", 2, 1))
    after.connected("p").publish("a", b"4", 1)
    client.expect(pub("a", b"4", 1, at(3)))


def test_who_was_told_that_it_subscribes_misses_nothing_after_a_crash_right_then():
    world = World(durable=True)
    sleeper(world, "a")
    world.connected("p").publish("a", b"1", 1)
    _, client = crashed(world)
    assert payloads(client) == [b"1"]


def test_who_was_told_that_it_no_longer_subscribes_gets_nothing_after_a_crash():
    world = World(durable=True)
    client = sleeper(world, "a", "b", qos=1)
    client.unsubscribe("a")
    world.connected("p").publish("a", b"1", 1)
    world.connected("p").publish("b", b"2", 1)
    _, client = crashed(world)
    assert payloads(client) == [b"2"]


def test_the_suback_waits_for_its_commit():
    world = World(durable=True)
    client = sleeper(world)
    world.door.shut = True
    client.say(Subscribe(3, [Subscription("a", 1)]))
    client.expect()
    world.commit()
    client.expect(Suback(3, [1]))


def test_expiry_goes_on_while_the_mesh_is_down():
    for away_ms, present in ((3_000_000, True), (3_700_000, False)):
        world = World(durable=True)
        sleeper(world, "a").disconnect()
        world.clock.advance(away_ms)
        after = world.crash()
        after.turn()
        after.advance(1)
        assert after.client().connect("s", **KEPT).session_present is present


def test_a_session_that_was_to_end_with_its_connection_does_not_survive_it():
    world = World(durable=True)
    sleeper(world, "a").disconnect()
    world.client().connect("s", clean=False)
    after = world.crash()
    assert not after.client().connect("s", clean=False).session_present


STEPS = ("published", "received", "released", "completed")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("flushed", [False, True])
def test_qos_2_outwards_is_exactly_once_wherever_the_mesh_is_killed(step: str, flushed: bool):
    """The receiver keeps its own half: an id it has received and not released is the same message."""
    world = World(durable=True)
    client = sleeper(world, "a")
    world.connected("p").publish("a", b"x", 2)
    client.expect(pub("a", b"x", 2, 1))
    if step != "published":
        client.say(Pubrec(1))
        client.expect(Pubrel(1))
    if step == "completed":
        client.say(Pubcomp(1))
        client.expect()
    if flushed:
        world.advance(1_000)
    _, client = crashed(world)
    if step == "published":
        client.expect(pub("a", b"x", 2, 1, dup=True))
        client.say(Pubrec(1))
    if step != "completed":
        client.expect(Pubrel(1))
        client.say(Pubcomp(1))
    client.expect()
    third, client = crashed(client.world)
    client.expect()
    third.connected("p").publish("a", b"y", 2)
    client.expect(pub("a", b"y", 2, 1))


def test_an_id_used_again_before_the_place_is_written_does_not_bring_the_first_message_back():
    world = World(durable=True)
    client = sleeper(world, "a")
    publisher = world.connected("p")
    flights = world.realm.standings.by_client["s"]
    for n in range(3):
        flights.last_id = 0
        publisher.publish("a", b"%d" % n, 2, packet_id=n + 1)
        client.expect(pub("a", b"%d" % n, 2, 1))
        client.say(Pubrec(1))
        client.expect(Pubrel(1))
        client.say(Pubcomp(1))
    _, client = crashed(world)
    client.expect()


def test_neither_publish_nor_pubrel_nor_pubcomp_leaves_before_it_is_safe():
    world = World(durable=True)
    client = sleeper(world, "a")
    publisher = sleeper(world, client_id="p")
    world.door.shut = True
    publisher.publish("a", b"x", 2)
    client.expect()
    world.commit()
    publisher.expect(Pubrec(1))
    client.expect()
    world.commit()
    client.expect(pub("a", b"x", 2, 1))
    client.say(Pubrec(1))
    client.expect()
    world.commit()
    client.expect(Pubrel(1))
    publisher.say(Pubrel(1))
    publisher.expect()
    world.commit()
    publisher.expect(Pubcomp(1))


@pytest.mark.parametrize("step", ["published", "released"])
def test_qos_2_inwards_is_exactly_once_wherever_the_mesh_is_killed(step: str):
    world = World(durable=True)
    sleeper(world, "a").disconnect()
    publisher = sleeper(world, client_id="p")
    publisher.publish("a", b"x", 2, packet_id=9)
    publisher.expect(Pubrec(9))
    if step == "released":
        publisher.say(Pubrel(9))
        publisher.expect(Pubcomp(9))
    after = world.crash()
    again = after.client()
    assert again.connect("p", **KEPT).session_present
    if step == "published":
        again.publish("a", b"x", 2, packet_id=9, dup=True)
        again.say(Pubrel(9))
        again.expect(Pubrec(9), Pubcomp(9))
    again.publish("a", b"y", 2, packet_id=9)
    again.expect(Pubrec(9))
    client = sleeper(after)
    assert payloads(client) == [b"x", b"y"]


def publishing(world: World) -> Client:
    """A publish of QoS 2 whose connection ended before its commit, sent again on a new one."""
    publisher = sleeper(world, client_id="p")
    world.door.shut = True
    publisher.publish("a", b"x", 2, packet_id=9)
    publisher.vanish()
    again = sleeper(world, client_id="p")
    again.publish("a", b"x", 2, packet_id=9, dup=True)
    again.expect()
    return again


def test_a_new_connection_is_told_nothing_of_qos_2_that_a_crash_could_take_back():
    world = World(durable=True)
    client = sleeper(world, "a")
    publisher = sleeper(world, client_id="p")
    for n in (1, 2):
        publisher.publish("a", b"%d" % n, 2, packet_id=n)
    assert payloads(client) == [b"1", b"2"]
    publisher.expect(Pubrec(1), Pubrec(2))
    world.door.shut = True
    client.say(Pubrec(1))
    client.vanish()
    client = sleeper(world)
    publisher.say(Pubrel(1))
    publisher.vanish()
    publisher = sleeper(world, client_id="p")
    publisher.say(Pubrel(1))
    client.expect()
    publisher.expect()
    world.commit()
    client.expect(Pubrel(1), pub("a", b"2", 2, 2, dup=True))
    publisher.expect(Pubcomp(1))


def test_a_qos_2_publish_sent_again_before_its_commit_is_acknowledged_after_it():
    world = World(durable=True)
    sleeper(world, "a").disconnect()
    again = publishing(world)
    world.commit()
    again.expect(Pubrec(9))
    world.commit()
    _, client = crashed(world)
    assert payloads(client) == [b"x"]


def test_a_qos_2_publish_sent_again_before_its_commit_fails_with_it_and_may_be_said_anew():
    for early in (True, False):
        world = World(durable=True)
        sleeper(world, "a").disconnect()
        if early:
            again = publishing(world)
            world.refuse()
            (pubrec,) = again.packets()
            assert isinstance(pubrec, Pubrec)
            assert pubrec.code == 0x97
        else:
            again = sleeper(world, client_id="p")
            world.door.shut = True
            again.publish("a", b"x", 2, packet_id=9)
            again.vanish()
            world.refuse()
            again = sleeper(world, client_id="p")
        again.publish("a", b"x", 2, packet_id=9, dup=True)
        world.door.shut = False
        world.commit()
        again.expect(Pubrec(9))
        assert payloads(sleeper(world)) == [b"x"]


def test_what_is_done_right_at_the_mark_stays_done_when_only_the_place_is_left():
    world = World(durable=True)
    client = sleeper(world, "a")
    world.connected("p").publish("a", b"x", 2)
    client.say(Pubrec(1), Pubcomp(1))
    after = world.crash().restart()
    assert not list(after.log.rows(Table.INFLIGHT))
    assert payloads(sleeper(after)) == []


def test_a_client_that_begins_anew_is_told_so_when_no_crash_can_bring_its_session_back():
    world = World(durable=True)
    old = sleeper(world, "a")
    world.connected("p").publish("a", b"x", 2)
    assert payloads(old) == [b"x"]
    world.door.shut = True
    fresh = world.client()
    fresh.say(Connect(5, "s", True), Publish(b"b", b"sent ahead", 1, packet_id=1))
    old.expect(Disconnect(0x8E), closed=True)
    fresh.expect()
    _, revived = crashed(world)
    revived.expect(pub("a", b"x", 2, 1, dup=True))
    world.commit()
    world.commit()
    connack, puback = fresh.packets()
    assert isinstance(connack, Connack)
    assert not connack.session_present
    assert isinstance(puback, Puback)
    assert not world.crash().client().connect("s", clean=False).session_present


def test_qos_1_is_at_least_once_across_a_crash_and_what_was_acknowledged_and_written_stays_so():
    world = World(durable=True)
    client = sleeper(world, "a", qos=1)
    publisher = world.connected("p")
    for n in range(5):
        publisher.publish("a", b"%d" % n, 1)
    assert len(payloads(client)) == 5
    client.say(Puback(at(1)), Puback(at(3)))
    world.advance(1_000)
    _, client = crashed(world)
    assert payloads(client) == [b"1", b"3", b"4"]


def test_qos_1_goes_out_again_with_its_ids_and_in_order_after_a_crash():
    """[4.4.0-1]. DUP says that it may have been sent before; what was said while the client was away was not."""
    world = World(durable=True)
    client = sleeper(world, "a", qos=2)
    publisher = world.connected("p")
    for n, qos in enumerate((1, 2, 1, 1), 1):
        publisher.publish("a", b"%d" % n, qos)
    client.expect(pub("a", b"1", 1, at(1)), pub("a", b"2", 2, 1), pub("a", b"3", 1, at(3)), pub("a", b"4", 1, at(4)))
    client.say(Puback(at(3)))
    world.advance(1_000)
    world, client = crashed(world)
    world.connected("p").publish("a", b"5", 1)
    again = [pub("a", b"1", 1, at(1), dup=True), pub("a", b"2", 2, 1, dup=True), pub("a", b"4", 1, at(4), dup=True)]
    client.expect(*again, pub("a", b"5", 1, at(5)))
    client.vanish()
    world.connected("p").publish("a", b"6", 1)
    world, client = crashed(world)
    client.expect(*again, pub("a", b"5", 1, at(5), dup=True), pub("a", b"6", 1, at(6)))
    # Late, and for the message it was meant for.
    client.say(Puback(at(4)))
    world.advance(1_000)
    _, client = crashed(world)
    assert payloads(client) == [b"1", b"2", b"5", b"6"]


def test_what_a_small_window_has_not_let_out_before_a_crash_may_have_been_sent_for_all_we_know():
    world = World(durable=True)
    client = sleeper(world, "a", qos=1, receive_maximum=1)
    for n in range(3):
        world.connected("p").publish("a", b"%d" % n, 1)
    client.expect(pub("a", b"0", 1, at(1)))
    after = world.crash()
    client = sleeper(after, receive_maximum=1)
    client.expect(pub("a", b"0", 1, at(1), dup=True))
    client.vanish()
    third = after.crash()
    client = sleeper(third, receive_maximum=1)
    for n in range(3):
        client.expect(pub("a", b"%d" % n, 1, at(n + 1), dup=True))
        client.say(Puback(at(n + 1)))


def test_two_places_of_one_packet_id_are_told_apart_across_crashes():
    world = World(durable=True)
    client = sleeper(world, "a", qos=1)
    publisher = world.connected("p")
    publisher.publish("a", b"first", 1)
    client.expect(pub("a", b"first", 1, at(1)))
    world.log._next_position += PLACED - 1
    publisher.publish("a", b"second", 1)
    client.expect(pub("a", b"second", 1, 1))
    world, client = crashed(world)
    client.expect(pub("a", b"first", 1, at(1), dup=True), pub("a", b"second", 1, 1, dup=True))
    client.say(Puback(1))
    world.advance(1_000)
    world, client = crashed(world)
    client.expect(pub("a", b"first", 1, at(1), dup=True))
    world.connected("p").publish("a", b"x", 2)
    assert payloads(client) == [b"x"]
    client.say(Puback(at(1)), Pubrec(1), Pubcomp(1))
    world.advance(1_000)
    assert not list(world.log.rows(Table.INFLIGHT))


@pytest.mark.parametrize("why", ["expired", "unsubscribed", "too large"])
def test_a_qos_2_delivery_whose_message_a_crash_has_left_without_is_ended_in_good_order(why: str):
    """Whoever has it waits for PUBREL, and whoever has not answers one as well."""
    world = World(durable=True)
    client = sleeper(world, "a", "b")
    world.connected("p").publish("a", b"x" * 50, 2, message_expiry_interval=10)
    assert payloads(client) == [b"x" * 50]
    if why == "unsubscribed":
        client.unsubscribe("a")
    world.advance(5_000)
    after = world.crash()
    if why == "expired":
        after.advance(10_000)
    client = sleeper(after, maximum_packet_size=60 if why == "too large" else 1_000)
    client.expect()
    after.advance(1_000)
    client.expect(Pubrel(1))
    client.vanish()
    again = sleeper(after)
    again.expect(Pubrel(1))
    again.say(Pubcomp(1, 0x92))
    after.advance(1_000)
    assert not list(after.log.rows(Table.INFLIGHT))
    assert not after.realm.standings.by_client["s"].flights


def test_a_pubrec_that_comes_late_after_a_crash_is_for_what_was_sent_before_it():
    world = World(durable=True)
    client = sleeper(world, "a")
    for n in (1, 2, 3):
        world.connected("p").publish("a", b"%d" % n, 2)
    assert payloads(client) == [b"1", b"2", b"3"]
    after = world.crash()
    client = sleeper(after, receive_maximum=1)
    client.expect(pub("a", b"1", 2, 1, dup=True))
    client.say(Pubrec(2), Pubrec(3))
    client.expect(Pubrel(2), Pubrel(3))
    client.say(Pubcomp(3), Pubrec(1))
    client.expect(Pubrel(1))
    client.say(Pubcomp(1))
    client.say(Pubcomp(2))
    client.expect()
    after.advance(1_000)
    third, client = crashed(after)
    client.expect()
    assert not list(third.log.rows(Table.INFLIGHT))


def test_what_was_completed_before_it_came_up_again_after_a_crash_does_not_come_again():
    world = World(durable=True)
    client = sleeper(world, "a")
    for n in (1, 2):
        world.connected("p").publish("a", b"%d" % n, 2)
    assert payloads(client) == [b"1", b"2"]
    after = world.crash()
    client = sleeper(after, receive_maximum=1)
    client.say(Pubrec(2), Pubcomp(2), Pubrec(1), Pubcomp(1))
    assert payloads(client) == [b"1"]
    after.advance(1_000)
    third, client = crashed(after)
    assert payloads(client) == []
    assert not list(third.log.rows(Table.INFLIGHT))


def test_a_written_qos_1_delivery_without_its_message_is_over_after_a_crash():
    world = World(durable=True)
    client = sleeper(world, "a", qos=1)
    world.connected("p").publish("a", b"first", 1)
    world.log._next_position += PLACED - 1
    world.connected("p").publish("a", b"second", 1)
    client.expect(pub("a", b"first", 1, at(1)), pub("a", b"second", 1, 1))
    client.unsubscribe("a")
    world, client = crashed(world)
    world.advance(1_000)
    client.expect()
    assert not list(world.log.rows(Table.INFLIGHT))
    assert not world.realm.standings.by_client["s"].flights


def test_a_message_whose_commit_was_lost_was_never_acknowledged_and_is_not_there():
    world = World(durable=True)
    sleeper(world, "a").disconnect()
    publisher = world.connected("p")
    world.door.shut = True
    publisher.publish("a", b"x", 1)
    publisher.expect()
    _, client = crashed(world)
    client.expect()


def test_retained_values_survive():
    world = World(durable=True)
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1, retain=True, content_type="t")
    publisher.publish("b", b"1", 1, retain=True)
    publisher.publish("b", b"", 1, retain=True)
    after = world.crash()
    client = after.connected("c")
    client.subscribe("#")
    client.expect(pub("a", b"1", retain=True, content_type="t"))


@pytest.mark.parametrize("how", ["crash", "restart"])
def test_messages_and_retained_values_go_on_expiring_while_the_mesh_is_down(how: str):
    world = World(durable=True)
    sleeper(world, "a").disconnect()
    publisher = world.connected("p")
    for n, expiry_s in enumerate((10, 100)):
        publisher.publish("a", b"%d" % n, 1 + n, message_expiry_interval=expiry_s)
        publisher.publish(f"kept/{n}", b"%d" % n, retain=True, message_expiry_interval=expiry_s)
    world.advance(4_000)
    world.clock.advance(7_000)
    after = world.crash() if how == "crash" else world.restart()
    sleeper(after).expect(pub("a", b"1", 2, 1, message_expiry_interval=89))
    late = after.connected("c")
    late.subscribe("kept/#")
    late.expect(pub("kept/1", b"1", retain=True, message_expiry_interval=89))


def test_a_session_expiry_set_at_disconnect_holds_after_a_crash():
    world = World(durable=True)
    sleeper(world, "a").disconnect(session_expiry_interval=10)
    world.advance(4_000)
    after = world.crash()
    after.advance(5_900)
    third = after.crash()
    assert "s" in third.realm.standings.by_client
    third.advance(200)
    assert not third.client().connect("s", **KEPT).session_present


def test_a_long_client_id_is_kept_like_any_other():
    world = World(durable=True)
    for tail in ("a", "b"):
        name = "x" * 900 + tail
        client = sleeper(world, f"to/{tail}", client_id=name)
        client.publish(f"to/{tail}", tail.encode(), 2)
        client.vanish()
    after = world.crash()
    for tail in ("a", "b"):
        client = after.client()
        assert client.connect("x" * 900 + tail, **KEPT).session_present
        assert payloads(client) == [tail.encode()]


def test_a_session_of_one_id_is_not_touched_by_an_id_that_begins_like_it():
    world = World(durable=True)
    for name in ("s", "ss", "sso"):
        sleeper(world, "a", client_id=name)
    publisher = world.connected("p")
    publisher.publish("a", b"x", 2)
    world.connected("ss", clean=True).disconnect()
    after = world.crash()
    for name, expected in (("s", [b"x"]), ("sso", [b"x"]), ("ss", [])):
        client = after.client()
        assert client.connect(name, **KEPT).session_present is bool(expected)
        assert payloads(client) == expected


@pytest.mark.parametrize("done", [1, 2, 5])
def test_more_done_since_its_place_was_written_than_a_place_may_list_holds_up_nothing(done: int):
    world = World(broker=BrokerSettings(cursor_done_max=2), durable=True)
    client = sleeper(world, "a")
    publisher = world.connected("p")
    publisher.publish("a", b"first", 1)
    for n in range(done):
        publisher.publish("a", b"%d" % n, 2, packet_id=n + 1)
    for packet in client.packets():
        if isinstance(packet, Publish):
            client.say(Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))
    while packets := client.packets():
        for packet in packets:
            if isinstance(packet, Pubrel):
                client.say(Pubcomp(packet.packet_id))
            elif isinstance(packet, Publish):
                client.say(Pubrec(packet.packet_id))
    after, client = crashed(world)
    after.broker.backlogs.check()
    (again,) = (packet for packet in client.packets() if isinstance(packet, Publish))
    assert (again.payload, again.dup) == (b"first", True), "that it was acknowledged had not been written yet"
    after.connected("p").publish("a", b"new", 2)
    client.say(Puback(again.packet_id))
    assert payloads(client) == [b"new"]
    after.broker.backlogs.check()

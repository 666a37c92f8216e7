"""The mesh is killed at every step of a conversation: what survives, and exactly once on both sides."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import (
    Connack,
    Connect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
)
from dragoman.adapters.mqtt.properties import Properties
from tests.mqtt.wire import Client, World, pub

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
    client.expect(pub("a", b"1", 1, 1), pub("b/c", b"2", 2, 2))
    after.connected("p").publish("a", b"4", 1)
    client.expect(pub("a", b"4", 1, 3))


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


def test_qos_1_is_at_least_once_across_a_crash_and_what_was_acknowledged_and_written_stays_so():
    world = World(durable=True)
    client = sleeper(world, "a", qos=1)
    publisher = world.connected("p")
    for n in range(5):
        publisher.publish("a", b"%d" % n, 1)
    assert len(payloads(client)) == 5
    client.say(Puback(1), Puback(3))
    world.advance(1_000)
    _, client = crashed(world)
    assert payloads(client) == [b"1", b"3", b"4"]


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

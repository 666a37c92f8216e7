"""Killed in the middle of a QoS 2 delivery that is not of the session's backlog: of a share, a retained value."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import Connack, Connect, Pubcomp, Publish, Pubrec, Pubrel, Subscribe, Subscription
from dragoman.adapters.mqtt.properties import Properties
from dragoman.broker.log.contract import Table
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import Client, World, pub

KEPT = {"clean": False, "session_expiry_interval": 3_600}
KINDS = ("retained", "shared")
FILTERS = {"retained": "a", "shared": "$share/g/a"}


def sleeper(world: World, *filters: str, client_id: str = "s", **options: object) -> Client:
    """A client with a kept session, connected."""
    client = world.connected(client_id, **{**KEPT, **options})  # type: ignore[arg-type]
    for filter_ in filters:
        client.subscribe(filter_, qos=2, identifier=7)
    return client


def resumed(world: World, client_id: str = "s") -> Client:
    client = world.client()
    client.say(Connect(5, client_id, False, properties=Properties(session_expiry_interval=3_600)))
    (connack,) = client.packets(1)
    assert isinstance(connack, Connack)
    assert connack.session_present
    return client


def sent(kind: str, packet_id: int = 1, payload: bytes = b"x", *, dup: bool = False, again: bool = True) -> Publish:
    retain = kind == "retained" and again
    return pub("a", payload, 2, packet_id, retain=retain, dup=dup, content_type="t", subscription_identifiers=[7])


def flying(kind: str, world: World, payload: bytes = b"x") -> Client:
    """The sleeper has been sent a message as packet 1 and has said nothing yet."""
    publisher = world.connected("p")
    if kind == "retained":
        publisher.publish("a", payload, 2, retain=True, content_type="t")
    client = sleeper(world, FILTERS[kind])
    if kind == "shared":
        publisher.publish("a", payload, 2, content_type="t")
    client.expect(sent(kind, 1, payload))
    return client


def rest(world: World) -> None:
    """Nothing is left of any delivery."""
    assert not list(world.log.rows(Table.INFLIGHT))
    assert not world.realm.standings.by_client["s"].flights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["published", "received", "released", "completed"])
@pytest.mark.parametrize("flushed", [False, True])
def test_it_goes_on_where_it_was_with_its_id_and_exactly_once(kind: str, step: str, flushed: bool):
    """[4.4.0-1]. ``received``: the PUBREC is here, but its commit is not, so no PUBREL has left."""
    world = World(durable=True)
    client = flying(kind, world)
    if step == "received":
        world.door.shut = True
    if step != "published":
        client.say(Pubrec(1))
        client.expect(*[Pubrel(1)] * (step != "received"))
    if step == "completed":
        client.say(Pubcomp(1))
    if flushed:
        world.advance(1_000)
    after = world.crash()
    client = resumed(after)
    if step in ("published", "received"):
        client.expect(sent(kind, dup=True))
    if step == "released":
        client.expect(Pubrel(1))
    client.expect()
    after.connected("p").publish("a", b"y", 2, content_type="t")
    other = 1 if step == "completed" else 2
    client.expect(sent(kind, other, b"y", again=False))
    client.say(Pubrec(other))
    client.expect(Pubrel(other))
    client.say(Pubcomp(other))
    if step in ("published", "received"):
        client.say(Pubrec(1))
        client.expect(Pubrel(1))
    if step != "completed":
        client.say(Pubcomp(1))
    third = after.crash()
    resumed(third).expect()
    third.advance(1_000)
    rest(third)


@pytest.mark.parametrize("step", ["published", "received", "released", "completed", "refused"])
def test_what_one_member_of_a_share_has_goes_to_no_other_after_a_crash(step: str):
    world = World(durable=True)
    client = flying("shared", world)
    other = sleeper(world, "$share/g/a", client_id="t")
    if step == "received":
        world.door.shut = True
    if step == "refused":
        client.say(Pubrec(1, 0x97))
    elif step != "published":
        client.say(Pubrec(1))
    if step == "completed":
        client.say(Pubcomp(1))
    after = world.crash()
    other = resumed(after, "t")
    other.expect()
    after.connected("p").publish("a", b"y", 2)
    (packet,) = other.packets()
    assert isinstance(packet, Publish)
    assert packet.payload == b"y"
    third = after.crash()
    other = resumed(third, "t")
    (packet,) = other.packets()
    assert isinstance(packet, Publish)
    assert (packet.payload, packet.dup) == (b"y", True)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_publish_nor_pubrel_leaves_before_it_is_safe(kind: str):
    world = World(durable=True)
    publisher = world.connected("p")
    if kind == "retained":
        publisher.publish("a", b"x", 2, retain=True)
        client = sleeper(world)
        world.door.shut = True
        client.say(Subscribe(9, [Subscription("a", 2)]))
        world.commit()
        client.packets(1)
    else:
        sleeper(world, "$share/g/a").vanish()
        publisher.publish("a", b"x", 2)
        world.door.shut = True
        client = resumed(world)
    client.expect()
    world.commit()
    (packet,) = client.packets()
    assert isinstance(packet, Publish)
    client.say(Pubrec(packet.packet_id))
    client.expect()
    world.commit()
    client.expect(Pubrel(packet.packet_id))


@pytest.mark.parametrize("kind", KINDS)
def test_several_go_out_again_in_their_order_as_far_as_the_window_goes(kind: str):
    world = World(durable=True)
    publisher = world.connected("p")
    if kind == "retained":
        for n in range(3):
            publisher.publish(f"a/{n}", b"%d" % n, 2, retain=True, packet_id=n + 1)
    client = sleeper(world)
    world.realm.standings.by_client["s"].last_id = 0x7FFD
    client.subscribe("a/#" if kind == "retained" else "$share/g/a/#", qos=2)
    if kind == "shared":
        for n in range(3):
            publisher.publish(f"a/{n}", b"%d" % n, 2, packet_id=n + 1)
    before = [(p.payload, p.packet_id) for p in client.packets() if isinstance(p, Publish)]
    assert [packet_id for _, packet_id in before] == [0x7FFE, 0x7FFF, 1]
    after = world.crash()
    client = sleeper(after, receive_maximum=2)
    again = [(p.payload, p.packet_id) for p in client.packets() if isinstance(p, Publish)]
    for _, packet_id in before:
        client.say(Pubrec(packet_id), Pubcomp(packet_id))
        again += [(p.payload, p.packet_id) for p in client.packets() if isinstance(p, Publish)]
    assert again == before
    after.advance(1_000)
    rest(after)


def test_the_order_holds_over_two_crashes():
    world = World(durable=True)
    sleeper(world, "$share/g/a")
    for n, last_id in enumerate((0x7FFE, 0)):
        world.realm.standings.by_client["s"].last_id = last_id
        world.connected("p").publish("a", b"%d" % n, 2)
        world = world.crash()
        client = resumed(world)
    client.expect(
        pub("a", b"0", 2, 0x7FFF, dup=True, subscription_identifiers=[7]),
        pub("a", b"1", 2, 1, dup=True, subscription_identifiers=[7]),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_that_ends_leaves_nothing_behind(kind: str):
    world = World(durable=True)
    flying(kind, world)
    after = world.crash()
    assert list(after.log.rows(Table.INFLIGHT))
    assert not after.client().connect("s", clean=True).session_present
    after.turn()
    assert not list(after.log.rows(Table.INFLIGHT))


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_become_too_large_to_be_sent_again_is_over(kind: str):
    world = World(durable=True)
    flying(kind, world, b"x" * 50).vanish()
    sleeper(world, maximum_packet_size=60).expect()
    world.advance(1_000)
    rest(world)
    assert not [share for share in world.broker.groups.list_shares() if share.statistics()["inflight"]]
    third = world.crash()
    resumed(third).expect()


def test_a_share_whose_reader_may_remember_no_more_goes_on_after_a_crash():
    world = World(broker=BrokerSettings(cursor_done_max=2), durable=True)
    client = sleeper(world, "$share/g/a")
    publisher = world.connected("p")
    for n in range(4):
        publisher.publish("a", b"%d" % n, 2, packet_id=n + 1)
    assert [p.payload for p in client.packets() if isinstance(p, Publish)] == [b"0", b"1", b"2", b"3"]
    after = world.crash()
    client = resumed(after)
    assert [p.payload for p in client.packets() if isinstance(p, Publish)] == [b"0", b"1", b"2", b"3"]
    after.connected("p").publish("a", b"4", 2)
    assert [p.payload for p in client.packets() if isinstance(p, Publish)] == [b"4"]


def test_a_member_that_stays_away_in_the_middle_does_not_hold_up_the_shares_place():
    world = World(broker=BrokerSettings(cursor_done_max=2), durable=True)
    flying("shared", world).vanish()
    other = sleeper(world, "$share/g/a", client_id="t")
    for n in range(1, 6):
        world.connected("p").publish("a", b"y", 2)
        other.expect(pub("a", b"y", 2, n, subscription_identifiers=[7]))
        other.say(Pubrec(n))
        other.expect(Pubrel(n))
        other.say(Pubcomp(n))


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_share_at_qos_1_and_for_a_session_that_is_not_kept_nothing_is_written(kind: str):
    world = World(durable=True)
    world.connected("p").publish("a", b"x", 2, retain=True)
    for qos, options in ((1, KEPT), (2, {})):
        client = world.connected("s", **options)
        client.subscribe(FILTERS[kind], qos=qos)
        world.connected("p").publish("a", b"x", 2, retain=True)
        assert any(isinstance(packet, Publish) for packet in client.packets())
        if kind == "shared" or qos == 2:
            assert not list(world.log.rows(Table.INFLIGHT))

"""Retained values at QoS 1 and 2 to a kept session: none is lost by a reconnect or a crash on its way."""

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
    Unsubscribe,
)
from dragoman.adapters.mqtt.properties import Properties
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.log.contract import Table, Ticket
from tests.mqtt.wire import Client, World, pub

KEPT = {"clean": False, "session_expiry_interval": 3_600}


def holding(names: str = "abcd", **options: object) -> World:
    """A mesh with a retained value below ``r`` for each letter, which is its letter."""
    world = World(durable=True, **options)  # type: ignore[arg-type]
    for name in names:
        retain(world, name, name.encode())
    return world


def retain(world: World, name: str, payload: bytes) -> None:
    publisher = world.connected("p")
    publisher.publish(f"r/{name}", payload, 2, retain=True)
    publisher.disconnect()


def reader(world: World, qos: int, window: int = 2, filter_: str = "r/+") -> Client:
    client = world.connected("s", receive_maximum=window, **KEPT)
    assert client.subscribe(filter_, qos=qos, identifier=7) == [qos]
    return client


def resumed(world: World, window: int = 2) -> Client:
    client = world.client()
    properties = Properties(session_expiry_interval=3_600, receive_maximum=window)
    client.say(Connect(5, "s", False, properties=properties))
    (connack,) = client.packets(1)
    assert isinstance(connack, Connack)
    assert connack.session_present
    return client


def taken(client: Client) -> list[Publish]:
    """What is waiting to be acknowledged now."""
    return [packet for packet in client.packets() if isinstance(packet, Publish)]


def finish(client: Client, packet: Publish) -> None:
    if packet.qos == 1:
        client.say(Puback(packet.packet_id))
    else:
        client.say(Pubrec(packet.packet_id), Pubcomp(packet.packet_id))


def all_of(client: Client) -> list[str]:
    """Takes and acknowledges until nothing comes."""
    found: list[str] = []
    while packets := taken(client):
        for packet in packets:
            found.append((packet.payload or b"").decode())
            finish(client, packet)
    return found


def rest(world: World) -> None:
    """Nothing is left of any delivery, and nothing is owed."""
    assert not list(world.log.rows(Table.INFLIGHT))
    standing = world.realm.standings.by_client["s"]
    assert not standing.flights
    assert not standing.owed
    assert not any(row.owed for row in standing.filters.values())


def sent(packet_id: int, name: str, *, dup: bool = False) -> Publish:
    return pub(f"r/{name}", name.encode(), 1, packet_id, retain=True, dup=dup, subscription_identifiers=[7])


def test_at_qos_1_it_is_sent_again_after_a_crash_under_its_id_until_it_is_acknowledged():
    """[4.4.0-1]."""
    world = holding("ab")
    reader(world, 1).expect(sent(1, "a"), sent(2, "b"))
    second = world.crash()
    client = resumed(second)
    client.expect(sent(1, "a", dup=True), sent(2, "b", dup=True))
    client.say(Puback(2))
    third = second.crash()
    client = resumed(third)
    client.expect(sent(1, "a", dup=True))
    client.say(Puback(1))
    third.advance(1_000)
    rest(third)
    fourth = third.crash()
    resumed(fourth).expect()
    rest(fourth)


def test_its_publish_does_not_leave_before_its_row_is_safe():
    world = holding("a")
    client = world.connected("s", **KEPT)
    world.door.shut = True
    client.say(Subscribe(1, [Subscription("r/+", 1)]))
    client.expect()
    world.commit()
    assert [type(packet) for packet in client.packets()] == [Suback]
    world.commit()
    assert [packet.packet_id for packet in taken(client)] == [1]


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("how", ["broken", "taken over", "goodbye"])
def test_after_a_reconnect_the_rest_comes_and_nothing_twice(qos: int, how: str):
    world = holding("abcdefg")
    client = reader(world, qos)
    first = taken(client)
    finish(client, first[0])
    got = [packet.payload for packet in [*first, *taken(client)]]
    assert got == [b"a", b"b", b"c"]
    if how == "broken":
        client.vanish()
    elif how == "goodbye":
        client.disconnect()
    client = resumed(world)
    assert all_of(client) == ["b", "c", "d", "e", "f", "g"]
    world.advance(1_000)
    rest(world)


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("gracefully", [False, True])
def test_after_a_restart_what_was_not_sent_comes_and_what_was_in_flight_only_once(qos: int, gracefully: bool):
    world = holding("abcdefg")
    client = reader(world, qos, 3)
    assert [packet.payload for packet in taken(client)] == [b"a", b"b", b"c"]
    world = world.restart() if gracefully else world.crash()
    client = resumed(world, 3)
    assert all_of(client) == ["a", "b", "c", "d", "e", "f", "g"]
    world.advance(1_000)
    rest(world)
    world = world.crash()
    assert all_of(resumed(world)) == []


def test_through_a_reconnect_and_a_crash_before_anything_is_acknowledged():
    world = holding("abcd")
    reader(world, 1, 1).vanish()
    resumed(world, 1).vanish()
    world = world.crash()
    assert all_of(resumed(world, 1)) == ["a", "b", "c", "d"]
    rest(world)


def test_what_has_changed_meanwhile_is_given_as_it_is_now():
    world = holding("abcd")
    client = reader(world, 1, 1)
    assert [packet.payload for packet in taken(client)] == [b"a"]
    client.vanish()
    for name, payload in (("b", b""), ("c", b"new"), ("d", b"")):
        publisher = world.connected("p")
        publisher.publish(f"r/{name}", payload, 0, retain=True)
        publisher.disconnect()
    assert all_of(resumed(world, 1)) == ["a", "new"]


def test_what_may_be_read_no_more_or_is_unsubscribed_is_not_given():
    world = holding("abcd")
    reader(world, 1, 1).vanish()
    deny = RuleSettings(effect="deny", actions=("receive",), filters=("r/c",))
    world.broker.gate.replace(GateSettings(rules=(deny,)))
    client = resumed(world, 1)
    assert all_of(client) == ["a", "b", "d"]
    client.vanish()
    world = holding("abcd")
    reader(world, 1, 1).vanish()
    deny = RuleSettings(effect="deny", actions=("subscribe",), filters=("r/#",))
    world.broker.gate.replace(GateSettings(rules=(deny,)))
    silent = resumed(world, 1)
    assert all_of(silent) == ["a"]
    # Not taken from the client for good: the filter is silent, and what it is owed comes when it no longer is.
    silent.vanish()
    world.broker.gate.replace(GateSettings())
    assert all_of(resumed(world, 1)) == ["b", "c", "d"]
    rest(world)
    world = holding("abcd")
    reader(world, 1, 1).vanish()
    client = resumed(world, 1)
    client.unsubscribe("r/+")
    assert all_of(client) == ["a"]
    assert all_of(resumed(world)) == []


def test_asked_for_anew_it_begins_anew():
    world = holding("abc")
    reader(world, 1, 1).vanish()
    client = resumed(world, 1)
    (packet,) = taken(client)
    assert client.subscribe("r/+", qos=1) == [1]
    finish(client, packet)
    assert all_of(client) == ["a", "b", "c"]
    rest(world)


def test_at_qos_0_and_for_a_session_that_is_not_kept_nothing_is_owed(monkeypatch: pytest.MonkeyPatch):
    world = holding("ab")
    client = world.connected("s", **KEPT)
    tables = counted(world, monkeypatch)
    client.subscribe("r/+", qos=0)
    assert tables.count(Table.SESSIONS) == 1
    assert len(taken(client)) == 2
    rest(world)
    client.disconnect(session_expiry_interval=0)
    tables.clear()
    other = world.connected("o", receive_maximum=1)
    other.subscribe("r/+", qos=1)
    other.vanish()
    assert tables == []


def test_where_nothing_is_retained_nothing_is_written(monkeypatch: pytest.MonkeyPatch):
    world = holding("")
    client = world.connected("s", **KEPT)
    tables = counted(world, monkeypatch)
    client.subscribe("r/+", qos=1)
    assert tables.count(Table.SESSIONS) == 1
    assert Table.INFLIGHT not in tables


def counted(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Table]:
    """The tables of the rows that are put from now on."""
    put = world.log.put
    tables: list[Table] = []

    def counting(table: Table, key: bytes, value: bytes | None) -> Ticket:
        tables.append(table)
        return put(table, key, value)

    monkeypatch.setattr(world.log, "put", counting)
    return tables


def test_a_session_that_ends_leaves_nothing_behind():
    world = holding("abcd")
    client = reader(world, 1)
    assert len(list(world.log.rows(Table.INFLIGHT))) == 2
    client.disconnect(session_expiry_interval=0)
    assert not list(world.log.rows(Table.INFLIGHT))
    assert "s" not in world.realm.standings.by_client


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_unsubscribed_before_its_suback_is_out_is_given_nothing(qos: int):
    world = holding()
    client = world.connected("s", receive_maximum=1, **KEPT)
    client.say(Subscribe(1, [Subscription("r/+", qos)]), Unsubscribe(2, ["r/+"]))
    assert [type(packet).__name__ for packet in client.packets()] == ["Suback", "Unsuback"]
    assert not world.broker.core.pump.waits(client.connection.session)  # type: ignore[arg-type]
    client.say(
        Subscribe(3, [Subscription("r/+", qos)]), Unsubscribe(4, ["r/+"]), Subscribe(5, [Subscription("r/a", 1)])
    )
    assert all_of(client) == ["a"]


def test_whose_connection_ends_before_the_suback_is_owed_it_all_when_it_is_back():
    world = holding()
    client = world.connected("s", **KEPT)
    world.door.shut = True
    client.say(Subscribe(1, [Subscription("r/a", 1), Subscription("r/b", 1)]))
    client.vanish()
    world.door.shut = False
    world.commit()
    assert all_of(resumed(world, 9)) == ["a", "b"]
    rest(world)


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_value_said_during_the_replay_is_heard_once(qos: int, away: bool):
    world = World(durable=True)
    publisher = world.connected("p")
    for n in range(6):
        publisher.publish(f"r/{n}", b"old", 1, packet_id=1, retain=True)
        publisher.expect(Puback(1, 0x10))
    client = world.connected("s", session_expiry_interval=100, receive_maximum=2)
    client.subscribe("r/#", qos=2)
    if away:
        client.vanish()
    publisher.publish("r/4", b"new", qos, packet_id=2 * (qos > 0), retain=True)
    if qos == 2:
        publisher.say(Pubrel(2))
    publisher.packets()
    if away:
        client = world.client()
        client.connect("s", clean=False, session_expiry_interval=100, receive_maximum=2)
    got = []
    while packets := client.packets():
        for packet in packets:
            if isinstance(packet, Publish):
                got.append((packet.topic[-1:], packet.payload))
            if isinstance(packet, Publish) and packet.qos:
                client.say(Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))
            elif isinstance(packet, Pubrel):
                client.say(Pubcomp(packet.packet_id))
    news = [text for name, text in got if name == b"4"]
    assert news == [b"new"]
    assert {name for name, _ in got} == {b"%d" % n for n in range(6)}
    world.check()

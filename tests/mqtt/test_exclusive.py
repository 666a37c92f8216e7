"""``$exclusive/{filter}``: one client at a time, for as long as its session has it."""

from __future__ import annotations

import time
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from dragoman.adapters.mqtt.packets import Subscription, Unsuback
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.mqtt.wire import Client, World, at, pub

X = "$exclusive/t/1"
KEPT = {"clean": False, "session_expiry_interval": 3_600}


def holder(world: World, **options: object) -> Client:
    client = world.connected("a", **options)  # type: ignore[arg-type]
    assert client.subscribe(X, qos=1) == [1]
    return client


@pytest.mark.parametrize(("version", "code"), [(3, 0x80), (4, 0x80), (5, 0x97)])
def test_a_second_client_is_told_that_it_is_taken_and_plain_ones_are_not(version: int, code: int):
    world = World()
    first = holder(world)
    second = world.connected("b", version)
    assert second.subscribe(X, "t/1", "$exclusive/t/2", "$exclusive/t/+") == [code, 0, 0, 0]
    second.publish("t/1", b"x")
    first.expect(pub("t/1", b"x"))
    second.expect(pub("t/1", b"x"))
    assert world.metrics.refused == {"quota-exceeded": 1}


def test_who_has_it_may_change_it():
    world = World()
    client = holder(world)
    assert client.subscribe(Subscription(X, 2, no_local=True), identifier=7) == [2]
    client.publish("t/1", b"own")
    client.expect()
    world.connected("p").publish("t/1", b"x", 2)
    client.expect(pub("t/1", b"x", 2, 1, subscription_identifiers=[7]))


def test_it_is_free_when_it_is_unsubscribed():
    world = World()
    first, second = holder(world), world.connected("b")
    first.unsubscribe(X, X)
    first.expect(Unsuback(1, codes=[0, 0x11]))
    assert second.subscribe(X) == [0]
    second.publish("t/1", b"x")
    first.expect()
    assert first.subscribe(X) == [0x97]


@pytest.mark.parametrize("goes", ["disconnect", "vanish"])
def test_it_is_free_when_the_session_ends_with_its_connection(goes: str):
    world = World()
    first, second = holder(world), world.connected("b")
    getattr(first, goes)()
    assert second.subscribe(X) == [0]


def test_a_kept_session_keeps_it_until_it_ends():
    world = World()
    first, second = holder(world, **KEPT), world.connected("b")
    first.vanish()
    assert second.subscribe(X) == [0x97]
    second.publish("t/1", b"x", 1)
    back = world.connected("a", **KEPT)
    back.expect(pub("t/1", b"x", 1, at(1)))
    second.packets()
    assert second.subscribe(X) == [0x97]
    back.disconnect()
    world.advance(3_600_001)
    assert second.subscribe(X) == [0]
    assert world.connected("a", **KEPT).subscribe(X) == [0x97]


def test_a_takeover_keeps_it_with_the_client_unless_it_begins_anew():
    world = World()
    holder(world, **KEPT)
    again, second = world.connected("a", **KEPT), world.connected("b")
    assert second.subscribe(X) == [0x97]
    world.connected("p").publish("t/1", b"x")
    again.expect(pub("t/1", b"x"))
    world.connected("a", clean=True)
    assert second.subscribe(X) == [0]


def test_it_is_kept_over_a_crash_with_the_session():
    world = World(durable=True)
    holder(world, **KEPT)
    after = world.crash()
    second = after.connected("b")
    assert second.subscribe(X) == [0x97]
    second.publish("t/1", b"x", 1)
    after.connected("a", **KEPT).expect(pub("t/1", b"x", 1, at(1)))
    again = after.restart()
    assert again.connected("b").subscribe(X) == [0x97]


def test_what_a_crash_took_back_is_free():
    world = World(durable=True)
    client = holder(world, **KEPT)
    client.unsubscribe(X)
    world.connected("c").subscribe(X)
    assert world.crash().connected("b").subscribe(X) == [0]


def test_with_the_plain_filter_beside_it_each_message_comes_once_also_when_one_goes():
    for first, second in ((X, "t/1"), ("t/1", X)):
        world = World()
        client = world.connected("a", **KEPT)
        assert client.subscribe(first, second, qos=1) == [1, 1]
        client.unsubscribe(first)
        client.packets()
        client.vanish()
        world.connected("p").publish("t/1", b"x", 1)
        back = world.connected("a", **KEPT)
        back.expect(pub("t/1", b"x", 1, at(1)))
        assert back.subscribe(second, qos=0) == [0]
        back.vanish()
        world.connected("p").publish("t/1", b"y", 1)
        assert b"y" not in [p.payload for p in world.connected("a", **KEPT).packets() if hasattr(p, "payload")]


@pytest.mark.parametrize("filters", [(X, "t/1"), ("t/1", X)])
def test_the_higher_qos_of_the_two_holds_while_the_client_is_away(filters: tuple[str, str]):
    world = World()
    client = world.connected("a", **KEPT)
    assert client.subscribe(Subscription(filters[0], 1), Subscription(filters[1], 0)) == [1, 0]
    client.vanish()
    world.connected("p").publish("t/1", b"x", 1)
    world.connected("a", **KEPT).expect(pub("t/1", b"x", 1, at(1)))


def test_retained_values_come_as_for_any_filter():
    world = World()
    world.connected("p").publish("t/1", b"x", retain=True)
    client = world.connected("a")
    for handling, got in ((0, 1), (0, 1), (1, 0), (2, 0)):
        client.subscribe(Subscription(X, 0, retain_handling=handling))
        client.expect(*[pub("t/1", b"x", retain=True)] * got)


def test_who_may_not_read_it_does_not_learn_that_it_is_held():
    rules = (RuleSettings(effect="deny", who=("*",), actions=("read",), filters=("t/%c",)),)
    world = World(gate=GateSettings(rules=rules))
    holder(world)
    assert world.connected("1").subscribe(X) == [0x87]
    assert world.connected("2").subscribe(X, "$exclusive/t/2") == [0x97, 0x87]


def test_a_filter_that_is_none_and_a_feature_that_is_off_are_told_0x8f():
    world = World()
    client = world.connected("a")
    wrong = (
        "$exclusive/",
        "$exclusive/a#",
        "$exclusive/$share/g/a",
        "$exclusive/$exclusive/a",
        "$share/g/$exclusive/a",
    )
    assert client.subscribe(*wrong) == [0x8F] * len(wrong)
    assert client.subscribe("$queue/q/$exclusive/a", "$stream/s/$exclusive/a") == [0x8F, 0x8F]
    off = World(MqttSettings(exclusive_subscriptions=False))
    assert off.connected("a").subscribe(X) == [0x8F]
    assert off.connected("b", 4).subscribe(X) == [0x80]


def test_switched_off_it_is_silent_in_the_sessions_that_had_it():
    """It was gone from them, so a switch that was off for a minute gave it to whoever asked first afterwards."""
    world = World(durable=True)
    holder(world, **KEPT)
    on = world._made_with
    world._made_with = (MqttSettings(exclusive_subscriptions=False), *on[1:])
    off = world.crash()
    back = off.connected("a", **KEPT)
    off.connected("p").publish("t/1", b"x", 1)
    back.expect()
    off._made_with = on
    after = off.crash()
    assert after.connected("b").subscribe(X, qos=1) == [0x97]
    after.connected("a", **KEPT).expect(pub("t/1", b"x", 1, at(1), dup=True))


def turns(client: paho.Client, done: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        client.loop(0.1)


@pytest.mark.slow
def test_with_paho_the_second_waits_until_the_first_goes(mesh_process: Callable[..., MeshProcess]):
    mesh = mesh_process(listeners=MQTT_ONLY)
    codes: list[str] = []
    clients = []
    for name in ("one", "two"):
        client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        client.on_connect = lambda c, *_: c.subscribe(X)
        client.on_subscribe = lambda c, u, mid, got, props: codes.append(str(got[0]))
        client.connect(*mesh.address("mqtt"))
        clients.append(client)
        turns(client, lambda: len(codes) == len(clients))
    assert codes == ["Granted QoS 0", "Quota exceeded"]
    left: list[object] = []
    clients[0].on_unsubscribe = lambda c, *_: left.append(c)
    clients[0].unsubscribe(X)
    turns(clients[0], lambda: bool(left))
    clients[1].subscribe(X)
    turns(clients[1], lambda: len(codes) == 3)
    assert codes[2] == "Granted QoS 0"
    for client in clients:
        client.disconnect()

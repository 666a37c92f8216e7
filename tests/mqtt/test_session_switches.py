"""What an operator has switched off: told in CONNACK, and refused by the code that is meant for it."""

from __future__ import annotations

from typing import Any

import pytest

from dragoman.adapters.mqtt.encoders import encode_publish
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.packets import Connack, Disconnect, Publish, Subscribe, Subscription, Will
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from tests.mqtt.encode_any import encode_any
from tests.mqtt.wire import Client, World, pub

SWITCHES = {
    "maximum_qos": ({"qos_max": 1}, 1),
    "retain_available": ({"retain_available": False}, 0),
    "wildcard_subscription_available": ({"wildcard_subscriptions": False}, 0),
    "subscription_identifier_available": ({"subscription_identifiers": False}, 0),
    "shared_subscription_available": ({"shared_subscriptions": False}, 0),
}


def here(**settings: Any) -> ListenerSettings:
    return ListenerSettings("here", "127.0.0.1:0", **settings)


def ended_with(client: Client, code: int | None) -> None:
    """None: without a word, as 3.1.1 has it."""
    client.expect(*([] if code is None else [Disconnect(code)]), closed=True)


# -- told --------------------------------------------------------------------------------------------


def told(connack: Connack) -> dict[str, int]:
    found = {name: getattr(connack.properties, name) for name in SWITCHES}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("name", SWITCHES)
def test_connack_tells_what_is_off_and_nothing_of_what_is_on(name: str) -> None:
    settings, value = SWITCHES[name]
    client = World(MqttSettings(**settings)).client()
    assert told(client.connect()) == {name: value}
    assert told(World().client().connect()) == {}
    assert told(World(MqttSettings(**settings)).client(4).connect()) == {}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_listener_has_its_own_word(name: str) -> None:
    settings, value = SWITCHES[name]
    on: dict[str, Any] = {key: 2 if key == "qos_max" else True for key in settings}
    assert told(World(listener=here(**settings)).client().connect()) == {name: value}
    assert told(World(MqttSettings(**settings), listener=here(**on)).client().connect()) == {}
    assert told(World(MqttSettings(**settings), listener=here()).client().connect()) == {name: value}


# -- subscribing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "code"), [(4, 0x80), (5, 0x9E)])
def test_shared_subscriptions_that_are_off_are_refused_filter_by_filter(version: int, code: int) -> None:
    world = World(MqttSettings(shared_subscriptions=False))
    client = world.connected("c", version)
    assert client.subscribe("a", "$share/g/a", "b/#", qos=1) == [1, code, 1]
    world.connected("p").publish("a", b"x")
    client.expect(pub("a", b"x"))


@pytest.mark.parametrize(("version", "code"), [(4, 0x80), (5, 0xA2)])
def test_wildcards_that_are_off_are_refused_filter_by_filter(version: int, code: int) -> None:
    world = World(MqttSettings(wildcard_subscriptions=False))
    client = world.connected("c", version)
    filters = ("a", "#", "+/a", "a/+", "$share/g/a/#", "$share/g/a", "$queue/q/a/#")
    assert client.subscribe(*filters, qos=1) == [1, code, code, code, code, 1, code]
    client.packets()
    world.connected("p").publish("b", b"x")
    client.expect()


def test_an_identifier_that_is_not_to_be_had_ends_the_connection() -> None:
    world = World(MqttSettings(subscription_identifiers=False))
    client = world.connected("c")
    assert client.subscribe("a") == [0]
    client.say(Subscribe(2, [Subscription("b", 0)], Properties(subscription_identifiers=[7])))
    ended_with(client, 0xA1)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos_max", [0, 1])
def test_a_subscription_of_any_qos_is_taken_and_granted_what_there_is(version: int, qos_max: int) -> None:
    world = World(MqttSettings(), listener=here(qos_max=qos_max))
    client = world.connected("c", version)
    wanted = [Subscription(name, qos) for qos, name in enumerate("abc")]
    assert client.subscribe(*wanted) == [0, min(1, qos_max), qos_max]
    assert client.subscribe("$share/g/d", "$queue/q/e", qos=2) == [qos_max, qos_max]


def test_what_was_subscribed_to_before_stays() -> None:
    """A switch is for what is asked from now on; kept sessions are not torn."""
    world = World(durable=True)
    client = world.connected("c", session_expiry_interval=1000)
    client.subscribe("$share/g/a", "b/#", qos=1)
    world.restart()
    world._made_with = (MqttSettings(shared_subscriptions=False, wildcard_subscriptions=False), *world._made_with[1:])
    world = world.crash()
    client = world.client()
    assert client.connect("c", clean=False, session_expiry_interval=1000).session_present
    assert set(world.realm.standings.by_client["c"].filters) == {"$share/g/a", "b/#"}
    assert client.subscribe("$share/g/a", "b/#", qos=1) == [0x9E, 0xA2]


# -- publishing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "code"), [(3, None), (4, None), (5, 0x9B)])
@pytest.mark.parametrize(("qos_max", "qos"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("retain", [False, True])
def test_a_publish_above_the_maximum_qos_ends_the_connection(
    qos_max: int, qos: int, retain: bool, version: int, code: int | None
) -> None:
    world = World(MqttSettings(qos_max=qos_max))
    watcher = world.connected("w")
    watcher.subscribe("a")
    client = world.connected("c", version)
    client.publish("a", b"fine", qos_max, retain=retain, packet_id=9 if qos_max else 0)
    watcher.expect(pub("a", b"fine"))
    client.packets()
    client.publish("a", b"x", qos, retain=retain)
    ended_with(client, code)
    watcher.expect()


@pytest.mark.parametrize(("version", "code"), [(3, None), (4, None), (5, 0x9A)])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_retained_publish_ends_the_connection_where_none_is_taken(qos: int, version: int, code: int | None) -> None:
    world = World(MqttSettings(retain_available=False))
    watcher = world.connected("w")
    watcher.subscribe("a")
    client = world.connected("c", version)
    client.publish("a", b"fine", qos)
    watcher.expect(pub("a", b"fine"))
    client.packets()
    client.publish("a", b"x", qos, retain=True, packet_id=5 if qos else 0)
    ended_with(client, code)
    watcher.expect()


@pytest.mark.parametrize(("settings", "code"), [({"qos_max": 0}, 0x9B), ({"retain_available": False}, 0x9A)])
def test_what_is_not_taken_is_refused_by_its_first_byte_before_its_body_comes(
    settings: dict[str, Any], code: int
) -> None:
    client = World(MqttSettings(**settings)).connected("c")
    client.raw(encode_publish(5, b"a", b"x" * 1000, qos=1, retain=True, packet_id=1)[:5])
    ended_with(client, code)


def test_properties_and_aliases_do_not_get_a_publish_past_the_switches() -> None:
    for settings, qos, retain, code in (({"qos_max": 0}, 1, False, 0x9B), ({"retain_available": False}, 0, True, 0x9A)):
        client = World(MqttSettings(**settings)).connected("c")
        client.publish("a", b"x", qos, retain=retain, topic_alias=1, content_type="t")
        ended_with(client, code)


def test_what_ends_a_connection_comes_after_what_came_before_it() -> None:
    world = World(MqttSettings(qos_max=1))
    client = world.connected("c")
    packets = [Publish(b"a", b"1", 1, False, False, 1, b""), Publish(b"a", b"2", 2, False, False, 2, b"")]
    client.raw(b"".join(encode_any(5, packet) for packet in packets))
    kinds = [type(packet).__name__ for packet in client.packets()]
    assert kinds == ["Puback", "Disconnect"]


# -- wills -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "code"), [(4, 5), (5, 0x9B)])
def test_a_will_above_the_maximum_qos_is_not_taken_in(version: int, code: int) -> None:
    world = World(MqttSettings(qos_max=1))
    assert world.client(version).connect("a", will=Will(b"will", b"", qos=1)).code == 0
    client = world.client(version)
    assert client.connect("b", will=Will(b"will", b"", qos=2)).code == code
    assert client.closed


@pytest.mark.parametrize(("version", "code"), [(4, 5), (5, 0x9A)])
def test_a_retained_will_is_not_taken_in_where_none_is(version: int, code: int) -> None:
    world = World(MqttSettings(retain_available=False))
    assert world.client(version).connect("a", will=Will(b"will", b"")).code == 0
    client = world.client(version)
    assert client.connect("b", will=Will(b"will", b"", retain=True)).code == code
    assert client.closed

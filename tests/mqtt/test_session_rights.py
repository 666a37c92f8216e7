"""Rules that tell subscribing from receiving: what clients are answered and what they are given."""

from __future__ import annotations

from dragoman.adapters.mqtt.packets import Publish
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from tests.mqtt.wire import Client, World


def rules(*given: tuple[str, str, tuple[str, ...]]) -> GateSettings:
    """Everybody may publish; beyond that what is given: effect, action, filters."""
    some = [RuleSettings(effect=effect, actions=(action,), filters=filters) for effect, action, filters in given]
    return GateSettings(default="deny", rules=(RuleSettings(effect="allow", actions=("publish",)), *some))


def topics(client: Client) -> list[str]:
    return [packet.topic.decode() for packet in client.packets() if isinstance(packet, Publish)]


def speak(world: World, *names: str, retain: bool = False) -> None:
    publisher = world.connected("p")
    for name in names:
        publisher.publish(name, b"x", 1, retain=retain)
    publisher.disconnect()


def test_subscribed_to_everything_and_given_what_matches():
    world = World(gate=rules(("allow", "subscribe", ("#",)), ("allow", "receive", ("plant/%c/#",))))
    speak(world, "plant/s/kept", "plant/t/kept", retain=True)
    client = world.connected("s", session_expiry_interval=100)
    assert client.subscribe("#", qos=1) == [1]
    assert topics(client) == ["plant/s/kept"]
    assert client.subscribe("$share/g/#", qos=1) == [1]
    speak(world, "plant/s/up", "plant/t/up")
    assert topics(client) == ["plant/s/up", "plant/s/up"]


def test_what_may_be_received_but_not_subscribed_to_is_refused_in_the_suback():
    world = World(gate=rules(("allow", "receive", ("#",)), ("allow", "subscribe", ("a/open",))))
    client = world.connected("s")
    assert client.subscribe("a/other", qos=1) == [0x87]
    assert client.subscribe("b/#", qos=1) == [0x87]
    assert client.subscribe("$share/g/a/other", qos=1) == [0x87]
    assert client.subscribe("a/+", qos=1) == [1]
    assert client.subscribe("$share/g/a/+", qos=1) == [1]
    assert client.subscribe("$queue/jobs/a/+", qos=1) == [1]
    speak(world, "a/open", "a/other")
    assert topics(client) == ["a/open", "a/open", "a/open"]


def test_wildcards_denied():
    world = World(gate=rules(("deny", "wildcard", ("#",)), ("allow", "read", ("a/#",))))
    client = world.connected("s")
    assert client.subscribe("a/+", qos=1) == [0x87]
    assert client.subscribe("$share/g/a/#", qos=1) == [0x87]
    assert client.subscribe("a/b", qos=1) == [1]
    speak(world, "a/b", "a/c")
    assert topics(client) == ["a/b"]


def test_a_kept_session_loses_what_it_may_no_longer_receive():
    allowed = rules(("allow", "read", ("#",)))
    world = World(gate=allowed)
    client = world.connected("s", session_expiry_interval=100)
    assert client.subscribe("a/+", qos=1) == [1]
    client.vanish()
    world.broker.gate.replace(rules(("allow", "subscribe", ("#",)), ("allow", "receive", ("a/open",))))
    world.broker.core.changed()
    speak(world, "a/open", "a/other")
    client = world.client()
    client.connect("s", clean=False, session_expiry_interval=100)
    assert topics(client) == ["a/open"]

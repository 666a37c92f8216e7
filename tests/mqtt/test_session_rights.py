"""Rules that tell subscribing from receiving: what clients are answered and what they are given."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import Puback, Publish, Subscribe, Subscription, Unsuback
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.settings import BrokerSettings
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
    assert world.metrics.dropped == {"no-longer-readable": 1}


KEPT = {"clean": False, "session_expiry_interval": 1_000}


def denied(*filters: str, action: str = "subscribe") -> GateSettings:
    return GateSettings(rules=(RuleSettings("deny", actions=(action,), filters=filters),))


def resumed(world: World, id_: str = "s") -> Client:
    return world.connected(id_, **KEPT)  # type: ignore[arg-type]


def test_what_a_resumed_session_may_subscribe_to_no_more_stays_and_is_silent(caplog: pytest.LogCaptureFixture):
    """It ended as if unsubscribed once: a rule that was wrong for a minute cost clients their filters for good."""
    caplog.set_level("INFO", "dragoman.mqtt")
    world = World(durable=True)
    filters = ["$share/g/x/1", "$queue/q/x/1", "$exclusive/x/2", "x/2", "ok"]
    client = resumed(world)
    assert client.subscribe(*filters, qos=1) == [1] * 5
    client.disconnect()
    speak(world, "x/1", "x/2", "ok")
    world = world.crash(gate=denied("x/#"))
    client = resumed(world)
    speak(world, "x/1", "x/2", "ok")
    assert topics(client) == ["ok", "ok"]
    # Beside one that is live, what waits for a plain one is passed over; a share holds what is its own.
    assert world.metrics.dropped == {"subscription-no-longer-allowed": 2}, "each once, under one reason"
    assert "'s' resumes, and 4 of its subscriptions are silent; the first is '$share/g/x/1'" in caplog.text
    client.disconnect()
    world.broker.gate.replace(GateSettings())
    client = resumed(world)
    # Those that were not acknowledged come again, and what the share and the queue held.
    assert sorted(topics(client)) == ["ok"] * 2 + ["x/1"] * 4
    speak(world, "x/1", "x/2", "ok")
    assert sorted(topics(client)) == ["ok", "x/1", "x/1", "x/2"]


def test_unsubscribed_while_it_is_silent_it_is_gone():
    world = World(durable=True)
    filters = ["$share/g/x/1", "$queue/q/x/1", "$exclusive/x/2", "x/2", "ok"]
    client = resumed(world)
    client.subscribe(*filters, qos=1)
    client.disconnect()
    world = world.crash(gate=denied("x/#"))
    client = resumed(world)
    client.unsubscribe(*filters, "x/2")
    (unsuback,) = client.packets()
    assert isinstance(unsuback, Unsuback)
    assert unsuback.codes == [0, 0, 0, 0, 0, 0x11]
    standing = world.realm.standings.by_client["s"]
    assert standing.backlog is not None
    assert (list(standing.filters), list(standing.backlog.filters)) == ([], [])
    assert list(world.broker.groups.list_shares()) == []


@pytest.mark.parametrize("action", ["subscribe", "wildcard"])
def test_what_waits_for_a_session_that_is_silent_altogether_waits_until_the_rule_is_lifted(action: str):
    world = World()
    client = resumed(world)
    client.subscribe("x/+", qos=1)
    client.disconnect()
    speak(world, "x/1", "x/2")
    world.broker.gate.replace(denied("x/#", action=action))
    client = resumed(world)
    speak(world, "x/3")
    assert topics(client) == []
    client.disconnect()
    speak(world, "x/4")
    world.broker.gate.replace(GateSettings())
    client = resumed(world)
    assert topics(client) == ["x/1", "x/2", "x/3", "x/4"]
    assert world.metrics.dropped == {}


def test_a_silent_session_that_subscribes_again_after_the_mend_has_what_waited():
    world = World()
    client = resumed(world)
    client.subscribe("x/+", qos=1)
    client.disconnect()
    speak(world, "x/1")
    world.broker.gate.replace(denied("x/#"))
    client = resumed(world)
    assert client.subscribe("x/+", qos=1) == [0x87]
    world.broker.gate.replace(GateSettings())
    client.say(Subscribe(1, [Subscription("x/+", 1)]))
    assert topics(client) == ["x/1"]


def test_retained_values_that_a_silent_filter_is_owed_are_owed_still():
    world = World()
    speak(world, "x/1", "x/2", retain=True)
    client = world.connected("s", receive_maximum=1, **KEPT)  # type: ignore[arg-type]
    client.subscribe("x/+", qos=1)
    (first,) = [packet for packet in client.packets() if isinstance(packet, Publish)]
    client.say(Puback(first.packet_id))
    assert topics(client) == ["x/2"]
    client.vanish()
    world.broker.gate.replace(denied("x/#"))
    client = resumed(world)
    assert topics(client) == ["x/2"]
    client.disconnect()
    world.broker.gate.replace(GateSettings())
    assert topics(resumed(world)) == ["x/2"]


def test_a_filter_for_which_there_is_no_channel_now_stays():
    """Nothing is thrown away where a number is now above its limit."""
    world = World(broker=BrokerSettings(channels_max=2), durable=True)
    client = resumed(world)
    assert client.subscribe("a", "b", qos=1) == [1, 1]
    client.disconnect()
    world._made_with = (world._made_with[0], BrokerSettings(channels_max=1), *world._made_with[2:])
    world = world.crash()
    client = resumed(world)
    client.disconnect()
    assert list(world.realm.standings.by_client["s"].filters) == ["a", "b"]
    world._made_with = (world._made_with[0], BrokerSettings(), *world._made_with[2:])
    world = world.crash()
    client = resumed(world)
    speak(world, "a", "b")
    assert topics(client) == ["a", "b"]


def test_an_exclusive_filter_that_is_silent_is_its_holders_still():
    world = World(durable=True)
    client = resumed(world)
    client.subscribe("$exclusive/x", qos=1)
    client.disconnect()
    world = world.crash(gate=denied("x"))
    resumed(world)
    world.broker.gate.replace(GateSettings())
    assert resumed(world, "t").subscribe("$exclusive/x", qos=1) == [0x97]
    world = world.crash(gate=GateSettings())
    of = {name: list(standing.filters) for name, standing in world.realm.standings.by_client.items()}
    assert of == {"s": ["$exclusive/x"], "t": []}

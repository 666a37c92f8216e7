"""Rules that tell subscribing from receiving: what clients are answered and what they are given."""

from __future__ import annotations

from dragoman.adapters.mqtt.packets import Publish, Unsuback
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


def test_what_a_resumed_session_may_subscribe_to_no_more_ends_as_if_unsubscribed():
    """Its queue, its place in a share and its row: nothing is kept for it, nor comes back after a crash."""
    kept = {"clean": False, "session_expiry_interval": 1_000}
    world = World(durable=True)
    filters = ["$share/g/x/1", "$queue/q/x/1", "$exclusive/x/2", "x/2", "ok"]
    client = world.connected("s", **kept)
    assert client.subscribe(*filters, qos=1) == [1] * 5
    client.disconnect()
    speak(world, "x/1", "x/2", "ok")
    world = world.crash(gate=GateSettings(rules=(RuleSettings("deny", actions=("subscribe",), filters=("x/#",)),)))
    client = world.connected("s", **kept)
    speak(world, "x/1", "x/2", "ok")
    assert topics(client) == ["ok", "ok"]
    assert world.metrics.dropped["subscription-no-longer-allowed"] == 4
    standing = world.realm.standings.by_client["s"]
    assert standing.backlog is not None
    assert (list(standing.filters), list(standing.backlog.filters)) == (["ok"], ["ok"])
    assert list(world.broker.groups.list_shares()) == []
    client.unsubscribe(*filters)
    (unsuback,) = client.packets()
    assert isinstance(unsuback, Unsuback)
    assert unsuback.codes == [0x11, 0x11, 0x11, 0x11, 0]


def test_an_exclusive_filter_that_was_denied_is_free_for_good():
    """Killed while the client is there that may have it no more, the mesh does not give it back to that client."""
    kept = {"clean": False, "session_expiry_interval": 1_000}
    world = World(durable=True)
    client = world.connected("s", **kept)
    client.subscribe("$exclusive/x", qos=1)
    client.disconnect()
    world = world.crash(gate=GateSettings(rules=(RuleSettings("deny", actions=("subscribe",), filters=("x",)),)))
    world.connected("s", **kept)
    world.broker.gate.replace(GateSettings())
    assert world.connected("t", **kept).subscribe("$exclusive/x", qos=1) == [1]
    world = world.crash(gate=GateSettings())
    of = {name: list(standing.filters) for name, standing in world.realm.standings.by_client.items()}
    assert of == {"s": [], "t": ["$exclusive/x"]}

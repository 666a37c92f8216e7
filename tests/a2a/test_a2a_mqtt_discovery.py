"""The directory as retained cards below ``$a2a/v1/discovery/``, by the packets that go to and fro."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dragoman.adapters.a2a.desk import Desk
from dragoman.adapters.a2a.over_mqtt import OverMqtt
from dragoman.adapters.a2a.places import Places
from dragoman.adapters.a2a.settings import A2aSettings
from dragoman.adapters.mqtt.packets import Puback, Publish, Subscription, Will
from dragoman.adapters.mqtt.properties import Properties, parse_properties
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.principal import Principal
from dragoman.routing.cards import Card, Skill
from tests.mqtt.wire import Client, World

DISCOVERY = "$a2a/v1/discovery/"
CARD: dict[str, Any] = {
    "name": "Echo",
    "description": "Says it again.",
    "version": "1",
    "supportedInterfaces": [{"url": "mqtt://x", "protocolBinding": "MQTTv5+JSONRPCv2", "protocolVersion": "1.0.0"}],
    "capabilities": {"streaming": True, "extensions": [{"uri": "urn:x:jwks", "params": {"jwksUri": "https://x/j"}}]},
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
    "skills": [{"id": "echo", "name": "Echo", "description": "Says it again."}],
}
CARD_BYTES = json.dumps(CARD).encode()
ONLINE = [("a2a-status", "online"), ("a2a-status-source", "agent")]


def world(**options: Any) -> World:
    return begun(World(**options))


def begun(made: World) -> World:
    desk = Desk(made.broker, A2aSettings(), version="9")
    made.finish(OverMqtt(made.broker, A2aSettings(), desk, url="mqtt://here:1883").start())
    return made


def crashed(old: World) -> World:
    return begun(old.crash())


def tell(client: Client, place: str, payload: bytes = CARD_BYTES, **options: Any) -> tuple[int, str]:
    """Publishes a card; the code and the reason of its PUBACK."""
    given = {"retain": True, "user_properties": ONLINE} | options
    client.publish(DISCOVERY + place, payload, 1, **given)
    (ack,) = [packet for packet in client.packets() if isinstance(packet, Puback)]
    return ack.code, ack.properties.reason_string or ""


def seen(watcher: Client) -> dict[str, tuple[str, str]]:
    """What a watcher got since: place → (status and its source, name on the card; "" = it has gone)."""
    found: dict[str, tuple[str, str]] = {}
    for packet in watcher.packets():
        if not isinstance(packet, Publish):
            continue
        user = parse_properties(packet.properties, 3).user_properties
        status = ",".join([value for name, value in user if name.startswith("a2a-status")])
        name = json.loads(packet.payload)["name"] if packet.payload else ""
        found[packet.topic.decode().removeprefix(DISCOVERY)] = (status, name)
    return found


HERE = ("online,broker", "Echo")
AWAY = ("offline,broker", "Echo")
MESH = {"mesh/mesh/mesh": ("online,broker", "mesh")}


def test_a_card_published_is_seen_in_the_directory_and_by_watchers_with_our_word_on_its_agent():
    w = world()
    watcher = w.connected("watcher")
    watcher.subscribe(DISCOVERY + "+/+/+")
    assert seen(watcher) == MESH
    agent = w.connected("acme/line1/echo")
    assert tell(agent, "acme/line1/echo", user_properties=[("a2a-status", "offline"), ("x", "y")]) == (0, "")
    assert seen(watcher) == {"acme/line1/echo": HERE}, "who is connected is online, whatever it says"
    entry = w.broker.directory.get("acme/line1/echo")
    assert entry is not None
    assert entry.card is not None
    assert [skill.name for skill in entry.card.skills] == ["echo"]
    late = w.connected("late")
    late.subscribe(DISCOVERY + "acme/line1/+", qos=1)
    (packet,) = [p for p in late.packets() if isinstance(p, Publish)]
    assert packet.payload == CARD_BYTES, "the card is as its agent wrote it"
    assert packet.retain
    assert ("x", "y") in parse_properties(packet.properties, 3).user_properties


def test_presence_is_told_live_and_an_empty_payload_unregisters():
    w = world()
    watcher = w.connected("watcher")
    agent = w.connected("acme/line1/echo")
    tell(agent, "acme/line1/echo")
    watcher.subscribe(DISCOVERY + "acme/#")
    assert seen(watcher) == {"acme/line1/echo": HERE}
    agent.vanish()
    w.advance(3_000)
    assert seen(watcher) == {"acme/line1/echo": AWAY}
    w.advance(7 * 86_400_000)
    late = w.connected("late")
    late.subscribe(DISCOVERY + "acme/#")
    assert seen(late) == {"acme/line1/echo": AWAY}, "a card stays until it is taken back"
    again = w.connected("acme/line1/echo")
    w.turn()
    assert seen(watcher) == {"acme/line1/echo": HERE}
    assert tell(again, "acme/line1/echo", b"") == (0, "")
    assert seen(watcher) == {"acme/line1/echo": ("", "")}
    entry = w.broker.directory.get("acme/line1/echo")
    assert entry is not None
    assert entry.card is None
    after = w.connected("after")
    after.subscribe(DISCOVERY + "#")
    assert seen(after) == MESH


def test_a_will_or_a_goodbye_says_nothing_we_do_not_know_better():
    w = world()
    watcher = w.connected("watcher")
    raw = Properties(user_properties=[("a2a-status", "offline"), ("a2a-status-source", "lwt")]).encode()
    old = json.dumps(CARD | {"name": "Old"}).encode()
    will = Will((DISCOVERY + "acme/line1/echo").encode(), old, 1, True, properties=raw)
    agent = w.connected("acme/line1/echo", will=will)
    tell(agent, "acme/line1/echo")
    watcher.subscribe(DISCOVERY + "acme/#")
    assert seen(watcher) == {"acme/line1/echo": HERE}
    tell(agent, "acme/line1/echo", old, user_properties=[("a2a-status", "offline")])
    assert seen(watcher) == {}
    agent.vanish()
    w.advance(3_000)
    assert seen(watcher) == {"acme/line1/echo": AWAY}


@pytest.mark.parametrize(
    ("place", "payload", "options", "code"),
    [
        ("acme/line1/other", CARD_BYTES, {}, 0x87),
        ("acme/line1/echo", CARD_BYTES, {"retain": False}, 0x87),
        ("acme/line1/echo", b"{", {}, 0x99),
        ("acme/line1/echo", b"[]", {}, 0x99),
        ("acme/line1/echo", json.dumps(CARD | {"skills": [{"name": 1}]}).encode(), {}, 0x99),
        ("acme/echo", CARD_BYTES, {}, 0x99),
        ("acme/line1/echo/more", CARD_BYTES, {}, 0x99),
        *[
            ("acme/line1/echo", json.dumps({k: v for k, v in CARD.items() if k != missing}).encode(), {}, 0x99)
            for missing in CARD
        ],
    ],
)
def test_bad_cards_are_refused_and_told_why(place: str, payload: bytes, options: dict[str, Any], code: int):
    w = world()
    watcher = w.connected("watcher")
    watcher.subscribe(DISCOVERY + "acme/#")
    watcher.packets()
    agent = w.connected("acme/line1/echo")
    said, why = tell(agent, place, payload, **options)
    assert said == code
    assert why
    assert seen(watcher) == {}
    assert not agent.closed


def test_what_311_says_wrong_is_dropped_and_what_it_says_right_is_taken():
    w = world()
    agent = w.connected("acme/line1/echo", version=4)
    agent.publish(DISCOVERY + "acme/line1/other", CARD_BYTES, 1, retain=True)
    assert w.broker.directory.get("acme/line1/other") is None
    agent.publish(DISCOVERY + "acme/line1/echo", CARD_BYTES, 1, retain=True)
    entry = w.broker.directory.get("acme/line1/echo")
    assert entry is not None
    assert entry.card is not None


def test_agents_of_every_other_protocol_are_there_too():
    w = world()
    watcher = w.connected("watcher")
    watcher.subscribe(DISCOVERY + "mesh/mesh/+")
    assert seen(watcher) == MESH
    skills = (Skill("say", "Says it."),)
    for agent in ("web", "plant é/7", "mesh/mesh/web"):
        card = Card(agent=agent, name=agent, skills=skills)
        w.broker.directory.register(Principal("p"), agent, card, lease_ms=60_000, via="http")
    w.turn()
    got = seen(watcher)
    assert got == {
        "mesh/mesh/web": ("offline,broker", "web"),
        "mesh/mesh/plant_x20_xC3_xA9_x2F7": ("offline,broker", "plant é/7"),
        "mesh/mesh/mesh_x2Fmesh_x2Fweb": ("offline,broker", "mesh/mesh/web"),
    }
    late = w.connected("late")
    late.subscribe(DISCOVERY + "mesh/mesh/web")
    (packet,) = [p for p in late.packets() if isinstance(p, Publish)]
    shown = json.loads(packet.payload)
    assert shown["supportedInterfaces"][0]["url"] == "mqtt://here:1883"
    assert set(CARD) <= set(shown), "it has all that we want of others"
    device = w.connected("device")
    device.publish("mesh/me/card", json.dumps({"name": "Device", "skills": []}).encode(), 1)
    assert seen(watcher) == {"mesh/mesh/device": ("online,broker", "Device")}
    device.disconnect()
    w.advance(120_000)
    assert seen(watcher)["mesh/mesh/device"] == ("", "")
    assert "mesh/mesh/web" not in seen(watcher)


def test_the_gate_keeps_agents_from_those_who_may_not_know_of_them():
    hidden = RuleSettings(
        effect="deny", who=("*",), actions=("read",), filters=("$mesh/v1/agents/acme%%2Fline1%%2Fecho",)
    )
    w = world(gate=GateSettings(rules=(hidden,)))
    watcher = w.connected("watcher")
    watcher.subscribe(DISCOVERY + "acme/#")
    agent = w.connected("acme/line1/echo")
    assert tell(agent, "acme/line1/echo") == (0, "")
    other = w.connected("acme/line1/seen")
    assert tell(other, "acme/line1/seen") == (0, "")
    assert seen(watcher) == {"acme/line1/seen": HERE}
    agent.vanish()
    w.advance(3_000)
    late = w.connected("late")
    late.subscribe(DISCOVERY + "acme/#")
    assert seen(late) == {"acme/line1/seen": HERE}
    assert seen(watcher) == {}


def test_who_may_not_publish_there_may_not_register_there():
    rule = RuleSettings(effect="deny", who=("*",), actions=("publish",), filters=(DISCOVERY + "#",))
    w = world(gate=GateSettings(rules=(rule,)))
    assert tell(w.connected("acme/line1/echo"), "acme/line1/echo")[0] == 0x87


def test_cards_outlive_a_crash_and_are_offline_then():
    w = world(durable=True)
    agent = w.connected("acme/line1/echo")
    assert tell(agent, "acme/line1/echo") == (0, "")
    w = crashed(w)
    watcher = w.connected("watcher")
    watcher.subscribe(DISCOVERY + "acme/#")
    assert seen(watcher) == {"acme/line1/echo": AWAY}
    w.connected("acme/line1/echo")
    assert seen(watcher) == {"acme/line1/echo": HERE}
    (packet,) = [p for p in _resubscribed(w) if isinstance(p, Publish)]
    assert packet.payload == CARD_BYTES


def _resubscribed(w: World) -> list[Any]:
    late = w.connected("late")
    late.subscribe(Subscription(DISCOVERY + "acme/line1/echo", 1))
    return late.packets()


def test_a_card_registered_by_other_means_takes_the_place_of_the_one_published():
    w = world()
    agent = w.connected("acme/line1/echo")
    tell(agent, "acme/line1/echo")
    watcher = w.connected("watcher")
    watcher.subscribe(DISCOVERY + "acme/#")
    watcher.packets()
    agent.publish("mesh/me/card", json.dumps({"name": "New", "skills": []}).encode(), 1)
    assert seen(watcher) == {"acme/line1/echo": ("online,broker", "New")}
    channel = w.broker.channels.find(DISCOVERY + "acme/line1/echo")
    assert channel is None or channel.retained is None


def test_each_change_is_told_once_and_work_is_no_change():
    w = world()
    watcher = w.connected("watcher")
    watcher.subscribe(DISCOVERY + "acme/#")
    agent = w.connected("acme/line1/echo")
    tell(agent, "acme/line1/echo")
    assert [packet.topic for packet in watcher.packets()] == [(DISCOVERY + "acme/line1/echo").encode()]
    agent.publish("mesh/me/state", b'{"limit": 0}', 1)
    agent.publish("mesh/me/state", b'{"limit": null}', 1)
    assert watcher.packets() == []
    agent.disconnect()
    w.turn()
    assert [packet.topic for packet in watcher.packets()] == [(DISCOVERY + "acme/line1/echo").encode()]


def test_every_reader_of_a_retained_value_gets_it():
    w = world()
    agent = w.connected("acme/line1/echo")
    tell(agent, "acme/line1/echo")
    agent.vanish()
    held = w.broker.retained_of(DISCOVERY + "acme/line1/echo")
    assert held is not None
    assert held.payload == CARD_BYTES
    assert held.envelope is not None
    assert held.envelope.header("a2a-status") == b"offline"
    own = w.broker.retained_of(DISCOVERY + "mesh/mesh/mesh")
    assert own is not None
    assert w.broker.retained_of(DISCOVERY + "a/b/c") is None
    assert w.broker.retained_of(DISCOVERY + "nonsense") is None


@pytest.mark.parametrize(
    "agent", ["x", "a/b/c", "a/b", "mesh/mesh/x", "mesh/mesh", "_x41", "_x4", "__x41_", "é_x/", "..", "a b", "x" * 300]
)
def test_places_are_read_back(agent: str):
    places = Places("mesh", "mesh")
    place = places.of(agent)
    assert places.agent_at(place) == agent
    assert len(place.split("/")) == 3


@pytest.mark.parametrize(
    "place", ["a/b", "a/b/c/d", "a/b/c d", "mesh/mesh/_xFF", "mesh/mesh/_x41", "mesh/mesh/_x01", "//"]
)
def test_places_that_are_nobodys(place: str):
    assert Places("mesh", "mesh").agent_at(place) is None

"""``[[mqtt.auto_subscribe]]``: what each client hears without having asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from dragoman.adapters.mqtt.auto_subscribe import AutoSubscribeSettings as Auto
from dragoman.adapters.mqtt.packets import Connack, Connect, Puback, Subscribe, Subscription, Unsuback
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.complaints import LINES_MAX
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.identity import MESH_SELF
from dragoman.config import ConfigError, load
from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import run_client
from tests.mqtt.test_live_wills import Watcher
from tests.mqtt.wire import World, at, pub

KEPT = {"clean": False, "session_expiry_interval": 3_600}


def mesh(*rows: Auto, **options: object) -> World:
    return World(MqttSettings(auto_subscribe=rows), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [3, 4, 5])
def test_each_client_has_them_from_its_connack_on(version: int):
    world = mesh(Auto("inbox/%c", 1), Auto("from/%h/%u/100%%c/a%ca"))
    first, second = world.connected("1", version), world.connected("2", version)
    world.connected("p").publish("inbox/1", b"x", 1)
    first.expect(pub("inbox/1", b"x", 1, 1))
    world.connected("p").publish("from/127.0.0.1/anonymous/100%c/a2a", b"y", 1)
    second.expect(pub("from/127.0.0.1/anonymous/100%c/a2a", b"y"))
    first.expect()


def test_their_options_hold_in_5_and_before_it_the_qos_alone():
    row = Auto("a", 1, no_local=True, retain_as_published=True, retain_handling=2)
    world = mesh(row)
    world.connected("p").publish("a", b"kept", retain=True)
    new, old = world.connected("new"), world.connected("old", 4)
    new.expect()
    old.expect(pub("a", b"kept", retain=True))
    new.publish("a", b"own", 1, retain=True)
    new.expect(Puback(1))
    old.expect(pub("a", b"own", 1, 1))
    world.connected("p").publish("a", b"x", retain=True)
    new.expect(pub("a", b"x", retain=True))
    old.expect(pub("a", b"x"))


@pytest.mark.parametrize(("handling", "sent"), [(0, 1), (1, 1), (2, 0)])
def test_retained_values_follow_the_connack(handling: int, sent: int):
    world = mesh(Auto("a/#", retain_handling=handling))
    world.connected("p", 4).publish("a/b", b"kept", retain=True)
    world.connected("c").expect(*[pub("a/b", b"kept", retain=True)] * sent)


def test_what_the_client_asks_in_its_first_breath_comes_after_them():
    world = mesh(Auto("a", 0))
    client = world.client()
    client.say(Connect(5, "c", True), Subscribe(1, [Subscription("a", 1, retain_handling=1)]))
    world.connected("p").publish("a", b"x", 1)
    assert client.packets()[-1].qos == 1  # type: ignore[union-attr]


def test_a_resumed_session_has_its_own_and_what_it_ended_stays_ended():
    world = mesh(Auto("a", 1), Auto("b", 1), durable=True)
    world.connected("p").publish("b", b"kept", 1, retain=True)
    client = world.connected("c", **KEPT)
    assert len(client.packets()) == 1
    client.say(Puback(1))
    client.unsubscribe("a")
    client.expect(Unsuback(1, codes=[0]))
    client.vanish()
    publisher = world.connected("p")
    publisher.publish("a", b"x", 1)
    publisher.publish("b", b"y", 1)
    for now in (world, world.crash()):
        client = now.connected("c", **KEPT)
        packets = client.packets()
        assert [p.payload for p in packets] == [b"y"]  # type: ignore[union-attr]
        client.vanish()
    anew = now.connected("c")
    assert [p.payload for p in anew.packets()] == [b"kept"]  # type: ignore[union-attr]
    now.connected("p").publish("a", b"z")
    anew.expect(pub("a", b"z"))


def test_a_kept_session_keeps_what_comes_while_it_is_away():
    world = mesh(Auto("inbox/%c", 1), durable=True)
    world.connected("c", **KEPT).vanish()
    world.connected("p").publish("inbox/c", b"x", 1)
    world.crash().connected("c", **KEPT).expect(pub("inbox/c", b"x", 1, at(1)))


def test_it_is_written_before_the_connection_ends():
    world = mesh(Auto("inbox/%c", 1), durable=True)
    world.connected("c", **KEPT)
    after = world.crash()
    after.connected("p").publish("inbox/c", b"x", 1)
    after.connected("c", **KEPT).expect(pub("inbox/c", b"x", 1, at(1)))


def test_they_are_judged_as_the_clients_own():
    deny = RuleSettings(effect="deny", who=("*",), actions=("read",), filters=("secret/#",))
    world = mesh(Auto("secret/a"), Auto("open"), gate=GateSettings(rules=(deny,)))
    client = world.connected("c")
    assert world.metrics.dropped == {"auto-subscription-refused": 1}
    world.connected("p").publish("open", b"x")
    client.expect(pub("open", b"x"))


def test_one_that_a_clients_id_does_not_fit_is_left_out(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "dragoman.mqtt")
    world = mesh(Auto("inbox/%c"), Auto("open"))
    for client_id in ("a/b", "+", "#"):
        client = world.connected(client_id)
        assert [s.filter for s in client.connection.session.subscriptions.values()] == ["open"]  # type: ignore[union-attr]
    assert world.metrics.dropped == {"auto-subscription-refused": 3}
    lines = [line for line in caplog.messages if "not subscribed to what it should be: 'inbox/%c': " in line]
    assert len(lines) == 3
    assert "cannot be a level" in lines[0]
    assert lines[0].endswith(", client 'a/b')")
    for number in range(2 * LINES_MAX):
        world.connected(f"a/{number}")
    assert len(caplog.messages) == LINES_MAX, "a fleet does not fill the log"


def test_shared_exclusive_and_queues_may_be_subscribed_to():
    world = mesh(Auto("$share/g/work", 1), Auto("$exclusive/lead"), Auto("$queue/jobs/todo", 1))
    first, second = world.connected("1"), world.connected("2")
    assert world.metrics.dropped == {"auto-subscription-refused": 1}, "the second is not the leader"
    publisher = world.connected("p", 4)
    for topic in ("work", "lead", "todo"):
        publisher.publish(topic, b"x", 1)
    got = [
        packet.topic for client in (first, second, publisher) for packet in client.packets() if hasattr(packet, "topic")
    ]
    assert sorted(got) == [b"lead", b"todo", b"work"]


def test_a_link_of_another_mesh_asks_for_what_it_wants():
    world = mesh(Auto("a"))
    client = world.client()
    client.say(Connect(5, "link", True, properties=Properties(user_properties=[(MESH_SELF, "other")])))
    (packet,) = client.packets()
    assert isinstance(packet, Connack)
    world.connected("p").publish("a", b"x")
    client.expect()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ('topic = "a/#/b"', "# must be the last level"),
        ('topic = "inbox/%x"', "after % comes"),
        ('topic = "inbox/%"', "after % comes"),
        ('topic = "$share/g"', "shared filter"),
        ('topic = "$exclusive/"', "is empty"),
        ('topic = "$stream/a/b"', "cannot be subscribed to"),
        ('topic = "$share/g/a"\nno_local = true', "no_local is not for shared"),
        ('topic = "a"\nqos = 3', "from 0 to 2"),
        ("qos = 1", "'topic' is missing"),
    ],
)
def test_a_bad_one_is_a_sentence_before_anything_starts(keys: str, sentence: str, tmp_path: Path):
    file = tmp_path / "d.toml"
    file.write_text(f"[[mqtt.auto_subscribe]]\n{keys}\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    shown = "\n".join(map(str, caught.value.faults))
    assert sentence in shown
    assert "mqtt.auto_subscribe[1]" in shown


@pytest.mark.slow
def test_paho_hears_what_mosquitto_says_without_a_subscribe(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
):
    mesh = mesh_process('[[mqtt.auto_subscribe]]\ntopic = "inbox/%c"\nqos = 1\n', listeners=MQTT_ONLY)
    watcher = Watcher(mesh, "ann")
    host, port = mesh.address("mqtt")
    run_client([require("mosquitto_pub"), "-h", host, "-p", str(port), "-q", "1", "-t", "inbox/ann", "-m", "hello"])
    assert watcher.take()[1] == b"hello"
    watcher.end()

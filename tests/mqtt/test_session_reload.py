"""Limits that change while clients are connected: what they were told holds for them, all else at once."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.auto_subscribe import AutoSubscribeSettings
from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.packets import Connack, Connect, Disconnect, Puback, Publish, Pubrec
from dragoman.adapters.mqtt.rewrite import RewriteSettings
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.credentials import token_digest
from dragoman.adapters.serving.limits import ConnectionLimits
from dragoman.adapters.serving.settings import LimitSettings, LoginSettings, UserSettings
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from tests.mqtt.wire import Client, World


def reload(world: World, **settings: object) -> None:
    """What a mesh does."""
    world.realm.reload(MqttSettings(**settings))  # type: ignore[arg-type]
    world.listener.renew(ListenerSettings("mqtt", "127.0.0.1:0"), None)
    world.broker.gate.replace(GateSettings())
    world.broker.core.changed()


def acknowledged(client: Client) -> None:
    (packet,) = client.packets()
    assert isinstance(packet, Puback)
    assert packet.code < 0x80


def fill(client: Client, count: int) -> list[object]:
    """QoS 2 publishes that the client does not go on with; what it is answered, by kind."""
    for n in range(1, count + 1):
        client.publish("a", b"", 2, packet_id=n)
    return [packet.code if isinstance(packet, Disconnect) else type(packet) for packet in client.packets()]


def test_receive_maximum_holds_as_it_was_told():
    world = World(MqttSettings(receive_max=4))
    old = world.connected("old")
    reload(world, receive_max=2)
    new = world.client()
    assert new.connect("new").properties.receive_maximum == 2
    assert fill(old, 4) == [Pubrec] * 4
    assert fill(new, 3) == [Pubrec, Pubrec, Code.RECEIVE_MAXIMUM_EXCEEDED]
    assert new.closed
    reload(world, receive_max=9)
    assert fill(old, 5)[-1] == Code.RECEIVE_MAXIMUM_EXCEEDED


def test_packets_aliases_and_terms_hold_as_they_were_told():
    world = World()
    old = world.connected("old")
    reload(world, packet_bytes_max=300, topic_alias_max=0, keepalive_s_max=7, retain_available=False)
    new = world.client()
    said = new.connect("new", keepalive=60).properties
    assert (said.maximum_packet_size, said.topic_alias_maximum, said.server_keep_alive) == (300, None, 7)
    assert said.retain_available == 0
    old.publish("a", b"x" * 1_000, 1, packet_id=1, retain=True)
    acknowledged(old)
    new.publish("a", b"x" * 1_000, 1, packet_id=1)
    assert [packet.code for packet in new.packets() if isinstance(packet, Disconnect)] == [Code.PACKET_TOO_LARGE]


def test_rates_and_their_policy_hold_for_who_is_connected():
    world = World()
    client = world.connected("c")
    for _ in range(2):
        client.publish("a", b"", 1, packet_id=1)
        acknowledged(client)
    reload(world, client_messages_per_s=1, client_burst=1, rate_policy="disconnect")
    client.publish("a", b"", 1, packet_id=1)
    acknowledged(client)
    client.publish("a", b"", 1, packet_id=1)
    assert [packet.code for packet in client.packets() if isinstance(packet, Disconnect)] == [
        Code.MESSAGE_RATE_TOO_HIGH
    ]
    other = world.connected("o")
    reload(world)
    for _ in range(50):
        other.publish("a", b"", 1, packet_id=1)
        acknowledged(other)


def test_topics_too_deep_are_refused_at_once_also_where_a_way_was_open():
    world = World()
    client = world.connected("c")
    client.publish("a/b/c", b"", 1, packet_id=1)
    acknowledged(client)
    reload(world, topic_levels_max=2)
    client.publish("a/b/c", b"", 1, packet_id=1)
    assert [packet.code for packet in client.packets() if isinstance(packet, Puback)] == [Code.TOPIC_NAME_INVALID]


def test_logins_a_second():
    world = World()
    reload(world, connects_per_s=1)
    world.connected("one")
    assert world.client().connect("two").code == Code.CONNECTION_RATE_EXCEEDED
    reload(world)
    world.connected("two")
    world.connected("three")


@pytest.mark.parametrize("policy", ["drop_old", "drop_new"])
def test_what_may_wait_for_a_session_that_is_away(policy: str):
    world = World(durable=True)
    reader = world.connected("s", session_expiry_interval=1_000)
    reader.subscribe("a", qos=1)
    reader.disconnect()
    publisher = world.connected("p")

    def say(count: int) -> None:
        for n in range(count):
            publisher.publish("a", b"%d" % n, 1, packet_id=1)
            acknowledged(publisher)

    say(20)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (20, 0)
    reload(world, session_queue_messages_max=8, session_queue_policy=policy)
    say(2)
    (kept,) = world.realm.standings.listed()
    assert kept.lost == (22 - kept.waiting if policy == "drop_old" else 2)
    assert kept.waiting == (8 if policy == "drop_old" else 20)
    lost = kept.lost
    reload(world)
    say(20)
    (kept,) = world.realm.standings.listed()
    assert kept.lost == lost, "nothing limits it any more"
    again = world.client()
    assert again.connect("s", clean=False, session_expiry_interval=1_000).session_present
    assert len([packet for packet in again.packets() if isinstance(packet, Publish)]) == 42 - lost


def test_a_queue_that_is_too_full_ends_the_session_from_now_on():
    world = World(durable=True)
    reader = world.connected("s", session_expiry_interval=1_000)
    reader.subscribe("a", qos=1)
    reader.disconnect()
    reload(world, session_queue_messages_max=2, session_queue_policy="end")
    publisher = world.connected("p")
    for _ in range(4):
        publisher.publish("a", b"", 1, packet_id=1)
        acknowledged(publisher)
    assert list(world.realm.standings.listed()) == []


def test_connections_a_second_and_together():
    limits = ConnectionLimits(LimitSettings(), None, ManualClock())
    assert [limits.admit("192.0.2.1") for _ in range(3)] == [None] * 3
    limits.reload(LimitSettings(connections_max=4))
    assert limits.admit("192.0.2.1") is None
    assert limits.admit("192.0.2.1") is not None
    limits.reload(LimitSettings(connections_per_s=1))
    assert limits.admit("192.0.2.1") is None
    assert limits.admit("192.0.2.1") is not None
    limits.reload(LimitSettings(connections_per_address_per_s=1))
    assert limits.admit("192.0.2.1") is None
    assert limits.admit("192.0.2.1") is not None
    limits.reload(LimitSettings())
    assert limits.admit("192.0.2.1") is None


def test_whom_a_reload_finds_on_the_way_in_does_not_get_in():
    """What was kept for the client has to go first, and that takes a commit."""
    ann = UserSettings("ann", tokens=(token_digest("t"),))
    world = World(login=LoginSettings(users=(ann,)))
    first = world.connected("c", username="ann", password=b"t", session_expiry_interval=100)
    first.disconnect()
    world.door.shut = True
    again = world.client()
    again.say(Connect(5, "c", True, 0, "ann", b"t"))
    assert again.packets() == []
    world.authenticator.replace(LoginSettings(users=(UserSettings("bob", tokens=(token_digest("b"),)),)))
    world.commit()
    assert [packet.code for packet in again.packets() if isinstance(packet, Connack)] == [
        Code.BAD_USER_NAME_OR_PASSWORD
    ]


@pytest.mark.parametrize("filter_", ["a", "#", "$share/g/a", "$queue/g/a"])
def test_what_may_be_read_no_more_is_not_given_out_whoever_waited_for_it(filter_: str):
    """Whether the reader is there, or away and its session kept; what is on its way already goes on."""
    denied = GateSettings(rules=(RuleSettings("deny", ("*",), ("read",), ("a",)),))
    world = World(durable=True)

    def rules(settings: GateSettings) -> None:
        world.broker.gate.replace(settings)
        world.broker.core.changed()

    def given(client: Client) -> list[bytes]:
        found = [packet for packet in client.packets() if isinstance(packet, Publish)]
        client.say(*(Puback(packet.packet_id) for packet in found))
        return [packet.payload for packet in found]

    reader, publisher = world.connected("s", session_expiry_interval=1_000), world.connected("p")
    assert reader.subscribe(filter_, qos=1) == [1]
    publisher.publish("a", b"1", 1, packet_id=1)
    assert given(reader) == [b"1"]
    rules(denied)
    publisher.publish("a", b"2", 1, packet_id=1)
    assert given(reader) == []
    reader.disconnect()
    rules(GateSettings())
    publisher.publish("a", b"3", 1, packet_id=1)
    rules(denied)
    again = world.client()
    again.connect("s", clean=False, session_expiry_interval=1_000)
    assert given(again) == []


def test_rewritten_names_and_subscriptions_unasked_are_those_of_its_beginning():
    """Or a client could not take back what it has subscribed to, and its frames would go on under their old names."""
    world = World()
    old, watcher = world.connected("old"), world.connected("w")
    watcher.subscribe("#")
    reload(
        world,
        rewrite=(RewriteSettings("a", "^a$", "b"),),
        auto_subscribe=(AutoSubscribeSettings("unasked"),),
    )
    new = world.connected("new")
    for client in (old, new):
        client.publish("a")
        client.publish("unasked")
    assert [packet.topic for packet in watcher.packets() if isinstance(packet, Publish)] == [
        b"a",
        b"unasked",
        b"b",
        b"unasked",
    ]
    assert [packet.topic for packet in new.packets() if isinstance(packet, Publish)] == [b"unasked"] * 2
    assert old.packets() == []

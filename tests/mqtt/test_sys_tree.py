"""``$SYS``: mosquitto's names say what is true, when they should and to whom they should."""

from __future__ import annotations

from math import exp

import pytest

from dragoman.adapters.mqtt.packets import Connect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Subscription
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.mqtt.sys_tree import Load, SysTree
from dragoman.adapters.serving.credentials import hash_password
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import Client, World, at, pub

TICK_MS = 10_000
LOAD_NAMES = ["messages/received", "messages/sent", "publish/dropped", "publish/received", "publish/sent"]
LOAD_NAMES += ["bytes/received", "bytes/sent", "sockets", "connections"]


def mesh(sys_interval_s: int = 10, **options: object) -> World:
    world = World(MqttSettings(sys_interval_s=sys_interval_s), **options)  # type: ignore[arg-type]
    SysTree(world.realm, "1.2.3").start()
    # The loop's timers run a millisecond late, so that they are never early.
    world.advance(1)
    return world


def told(client: Client) -> dict[str, str]:
    """What has come since the last look, by name below ``$SYS/broker/``."""
    found: dict[str, str] = {}
    for packet in client.packets():
        assert isinstance(packet, Publish), packet
        name = packet.topic.decode().removeprefix("$SYS/broker/")
        assert name not in found, f"{name} twice"
        found[name] = packet.payload.decode()
    return found


def reader(world: World, filter_: str = "$SYS/#", version: int = 5) -> Client:
    client = world.connected("reader", version)
    client.subscribe(filter_)
    return client


# -- what is said when -------------------------------------------------------------------------------


def test_everything_is_there_from_the_start_and_retained():
    world = mesh()
    client = world.connected("c", 4)
    client.subscribe("$SYS/#")
    packets = [packet for packet in client.packets() if isinstance(packet, Publish)]
    assert {packet.retain for packet in packets} == {True}
    said = {packet.topic.decode().removeprefix("$SYS/broker/"): packet.payload.decode() for packet in packets}
    assert said.pop("version") == "dragoman version 1.2.3"
    assert said.pop("uptime") == "0 seconds"
    for name in LOAD_NAMES:
        for span in ("1min", "5min", "15min"):
            assert said.pop(f"load/{name}/{span}") == "0.00"
    assert set(said.values()) == {"0"}
    assert sorted(said) == sorted(
        [
            *(f"clients/{kind}" for kind in ("connected", "total", "maximum", "disconnected", "expired")),
            *(f"clients/{kind}" for kind in ("active", "inactive")),
            *(f"{kind}/{way}" for kind in ("messages", "bytes", "publish/bytes") for way in ("received", "sent")),
            *(f"publish/messages/{what}" for what in ("received", "sent", "dropped")),
            *("retained messages/count", "subscriptions/count", "shared_subscriptions/count"),
            "connections/socket/count",
        ]
    )


def test_said_every_interval_and_only_what_has_changed():
    world = mesh()
    client = reader(world, "$SYS/broker/clients/+")
    told(client)
    world.advance(TICK_MS - 1)
    client.expect()
    world.advance(1)
    assert told(client) == {f"clients/{kind}": "1" for kind in ("connected", "active", "total", "maximum")}
    world.advance(5 * TICK_MS)
    client.expect()
    late = world.connected("late")
    late.subscribe("$SYS/broker/uptime")
    late.expect(pub("$SYS/broker/uptime", b"60 seconds", retain=True))
    world.advance(TICK_MS)
    late.expect(pub("$SYS/broker/uptime", b"70 seconds"))


def test_the_interval_is_the_operator_s():
    world = mesh(sys_interval_s=3)
    client = reader(world, "$SYS/broker/uptime")
    client.packets()
    world.advance(9_000)
    client.expect(*(pub("$SYS/broker/uptime", b"%d seconds" % s) for s in (3, 6, 9)))


def test_an_interval_of_0_is_no_sys_at_all():
    world = mesh(sys_interval_s=0)
    client = world.connected("c")
    assert client.subscribe("$SYS/#", "$SYS/broker/uptime") == [0, 0]
    world.advance(100_000)
    client.expect()


def test_nothing_is_written_and_no_channel_stays_for_it():
    world = mesh(broker=BrokerSettings(channel_idle_ms=60_000, sweep_ms=1_000))
    world.advance(10 * TICK_MS)
    assert not world.broker.channels.by_name
    client = reader(world)
    world.advance(2 * TICK_MS)
    assert "$SYS/broker/uptime" in world.broker.channels.by_name
    written = world.log.statistics()
    world.advance(10 * TICK_MS)
    assert world.log.statistics() == written
    client.disconnect()
    world.advance(200_000)
    assert not world.broker.channels.by_name
    assert world.broker.core.commits.retained_count == 0


# -- to whom -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize(
    "filter_", ["$SYS/#", "$SYS/broker/+", "$SYS/+/uptime", "$SYS/broker/uptime", "$SYS/broker/uptime/#"]
)
def test_every_filter_that_names_it_gets_it_retained_and_live(filter_: str, version: int):
    world = mesh()
    client = reader(world, filter_, version)
    first = [p for p in client.packets() if isinstance(p, Publish) and p.topic.endswith(b"/uptime")]
    assert [(p.payload, p.retain, p.qos, p.properties) for p in first] == [(b"0 seconds", True, 0, b"")]
    world.advance(TICK_MS)
    live = [p for p in client.packets() if isinstance(p, Publish) and p.topic.endswith(b"/uptime")]
    assert [(p.payload, p.retain, p.qos, p.properties) for p in live] == [(b"10 seconds", False, 0, b"")]


@pytest.mark.parametrize("filter_", ["#", "+/#", "+/broker/uptime", "$sys/#", "$SYS", "$SYS/broker", "$SYS/+"])
def test_no_other_filter_does(filter_: str):
    world = mesh()
    client = reader(world, filter_)
    world.advance(TICK_MS)
    client.expect()


def test_retain_as_published_and_retain_handling():
    world = mesh()
    client = world.connected("c")
    name = "$SYS/broker/uptime"
    client.subscribe(Subscription(name, 0, retain_as_published=True, retain_handling=2))
    client.expect()
    world.advance(TICK_MS)
    client.expect(pub(name, b"10 seconds", retain=True))
    client.subscribe(Subscription(name, 0, retain_handling=1))
    client.expect()
    client.subscribe(Subscription(name, 0, retain_handling=0))
    client.expect(pub(name, b"10 seconds", retain=True))


def test_delivered_at_the_reader_s_qos_and_not_kept_for_it():
    world = mesh()
    client = world.connected("c", session_expiry_interval=3_600)
    name = "$SYS/broker/uptime"
    client.subscribe(name, qos=2)
    client.expect(pub(name, b"0 seconds", 2, 1, retain=True))
    client.say(Pubrec(1), Pubcomp(1))
    client.expect(Pubrel(1))
    world.advance(TICK_MS)
    client.expect(pub(name, b"10 seconds", 2, 2))
    client.say(Pubrec(2), Pubcomp(2))
    client.expect(Pubrel(2))
    client.vanish()
    messages = world.log.statistics()["messages"]
    world.advance(5 * TICK_MS)
    assert world.log.statistics()["messages"] == messages == 0
    client = world.connected("c", clean=False, session_expiry_interval=3_600)
    client.expect()
    world.advance(TICK_MS)
    client.expect(pub(name, b"70 seconds", 2, 3))


def test_a_shared_subscription_gets_each_value_once_and_none_retained():
    world = mesh()
    members = [world.connected(f"m{n}") for n in range(2)]
    for member in members:
        assert member.subscribe("$share/g/$SYS/broker/uptime") == [0]
        member.expect()
    world.advance(4 * TICK_MS)
    said = [packet for member in members for packet in member.packets()]
    assert sorted(p.payload for p in said if isinstance(p, Publish)) == [b"%d seconds" % s for s in (10, 20, 30, 40)]
    assert {p.retain for p in said if isinstance(p, Publish)} == {False}


def test_the_gate_decides_who_reads():
    deny = RuleSettings(effect="deny", actions=("read",), filters=("$SYS/broker/load/#", "$SYS/broker/uptime"))
    world = mesh(gate=GateSettings(rules=(deny,)))
    client = world.connected("c")
    assert client.subscribe("$SYS/broker/uptime", "$SYS/broker/load/#", "$SYS/#") == [0x87, 0x87, 0]
    first = told(client)
    world.advance(TICK_MS)
    later = told(client)
    for said in (first, later):
        assert "bytes/received" in said
        assert not [name for name in said if name == "uptime" or name.startswith("load/")]


@pytest.mark.parametrize("topic", ["$SYS/broker/uptime", "$SYS/broker/mine", "$SYS"])
def test_no_client_writes_there(topic: str):
    world = mesh()
    client = reader(world)
    told(client)
    writer, old = world.connected("w"), world.connected("o", 4)
    writer.publish(topic, b"x", 1, retain=True)
    writer.expect(Puback(1, 0x87))
    old.publish(topic, b"x", 1, retain=True)
    old.expect(Puback(1))
    writer.publish(topic, b"x")
    writer.expect()
    client.expect()
    assert world.metrics.dropped["publish-not-authorized"] == 2


# -- whether it is true ------------------------------------------------------------------------------


def test_packets_bytes_and_publishes_are_counted_exactly():
    world = mesh()
    said = 0
    packets = 0

    def peer(client_id: str, version: int) -> Client:
        client = world.client(version)
        receive = client.transport.receive

        def counted(data: bytes) -> None:
            nonlocal said
            said += len(data)
            receive(data)

        client.transport.receive = counted  # type: ignore[method-assign]
        client.connect(client_id)
        return client

    a, b = peer("a", 5), peer("b", 4)
    packets += 2
    a.subscribe("x/#", qos=2)
    b.subscribe("x/#", qos=0)
    packets += 2
    for n in range(7):
        b.publish(f"x/{n}", b"12345", 0)
    b.publish("x/q1", b"123", 1, packet_id=9)
    a.publish("x/kept", b"1234", 0, retain=True)
    a.publish("$SYS/x", b"no", 0)
    packets += 10
    for packet in a.packets():
        if isinstance(packet, Publish) and packet.qos:
            a.say(Puback(packet.packet_id))
            packets += 1
    b.packets()
    assert packets == 15
    sent = sum(len(client.transport.got) for client in world.clients)
    world.advance(TICK_MS)
    client = reader(world, "$SYS/broker/#")
    now = told(client)
    assert now["messages/received"] == str(packets)
    assert now["bytes/received"] == str(said)
    assert now["bytes/sent"] == str(sent)
    # 2 CONNACK, 2 SUBACK, 1 PUBACK, and nine messages for two.
    assert now["messages/sent"] == str(2 + 2 + 1 + 18)
    assert now["publish/messages/received"] == "10"
    assert now["publish/bytes/received"] == str(7 * 5 + 3 + 4 + 2)
    assert now["publish/messages/sent"] == "18"
    assert now["publish/bytes/sent"] == str(2 * (7 * 5 + 3 + 4))
    assert now["publish/messages/dropped"] == "0"
    assert now["retained messages/count"] == "1"
    assert now["subscriptions/count"] == "2"
    assert now["connections/socket/count"] == "2"
    assert world.metrics.messages_out == 18 + len(now)
    assert world.metrics.bytes_out == 2 * (7 * 5 + 3 + 4) + sum(map(len, now.values()))


def test_a_resent_delivery_is_a_publish_sent():
    world = mesh()
    client = world.connected("c", session_expiry_interval=60)
    client.subscribe("a", qos=1)
    world.connected("p").publish("a", b"123", 1)
    client.expect(pub("a", b"123", 1, at(1)))
    client.vanish()
    again = world.connected("c", clean=False, session_expiry_interval=60)
    again.expect(pub("a", b"123", 1, at(1), dup=True))
    assert (world.realm.traffic.publishes_out, world.realm.traffic.publish_bytes_out) == (2, 6)


def test_a_publish_to_a_verb_is_a_publish_received():
    world = mesh()
    world.connected("c").publish("mesh/nothing/of/the/kind", b"1234", 1)
    assert (world.realm.traffic.publishes_in, world.realm.traffic.publish_bytes_in) == (1, 4)


def test_clients_come_stay_and_expire():
    world = mesh()
    client = reader(world, "$SYS/broker/clients/+")
    told(client)
    others = [world.connected(f"o{n}", session_expiry_interval=15) for n in range(3)]
    others[0].vanish()
    others[1].disconnect()
    world.connected("o2")  # takes over, and is not kept
    world.advance(TICK_MS)
    assert told(client) == {
        **dict.fromkeys(("clients/connected", "clients/active"), "2"),
        **dict.fromkeys(("clients/disconnected", "clients/inactive"), "2"),
        **dict.fromkeys(("clients/total", "clients/maximum"), "4"),
    }
    world.advance(TICK_MS)
    assert told(client) == {
        **dict.fromkeys(("clients/disconnected", "clients/inactive"), "0"),
        "clients/total": "2",
        "clients/expired": "2",
    }


def test_subscriptions_of_connected_and_kept_sessions_across_a_crash():
    world = World(durable=True)
    kept = world.connected("kept", session_expiry_interval=3_600)
    kept.subscribe("a", "b/#", "$share/g/c")
    kept.subscribe("a", qos=1)
    other = world.connected("other")
    other.subscribe("a", "b", "c", "$share/g/c", "$share/h/c", "#/refused")
    other.unsubscribe("b", "$share/h/c", "never")
    standings = world.realm.standings
    assert (standings.filters, standings.shared_filters) == (4, 2)
    world.turn()
    world = world.crash()
    standings = world.realm.standings
    assert (standings.filters, standings.shared_filters) == (2, 1)
    world.connected("kept", clean=False).disconnect()
    assert (standings.filters, standings.shared_filters) == (0, 0)


def test_what_a_reader_could_not_be_given_is_dropped():
    world = mesh()
    small = world.connected("small", maximum_packet_size=64)
    small.subscribe("a")
    sender = world.connected("p")
    sender.publish("a", b"x" * 100)
    sender.publish("a", b"x" * 10)
    sender.publish("$SYS/denied", b"x")
    world.advance(TICK_MS)
    assert told(reader(world, "$SYS/broker/publish/messages/dropped")) == {"publish/messages/dropped": "1"}


def test_every_loss_is_in_one_number_and_a_socket_turned_away_is_one_that_came():
    world = mesh()
    world.metrics.lost += 5
    for reason in ("larger-than-receiver-takes", "share-without-member", "share-returned-full", "commit-failed"):
        world.metrics.drop(reason)
    for reason in ("publish-not-authorized", "expired", "subscription-no-longer-allowed"):  # the last is of messages
        world.metrics.drop(reason)
    world.realm.counters.turned_away += 2
    world.advance(TICK_MS)
    said = told(reader(world))
    assert said["publish/messages/dropped"] == "10"
    assert said["connections/socket/count"] == "2"


def test_who_reads_a_channel_by_itself_hears_that_there_is_something():
    world = mesh()
    client = reader(world, "$SYS/broker/uptime")
    client.unsubscribe("$SYS/broker/uptime")
    channel = world.broker.channels.by_name["$SYS/broker/uptime"]
    heard: list[int] = []
    channel.watch(lambda channel: heard.append(channel.visible))
    world.advance(2 * TICK_MS)
    assert heard == [1, 2]
    assert channel.last is not None
    assert channel.last.payload == b"20 seconds"


def test_what_was_sent_ahead_of_the_password_s_check_is_counted_when_it_counts():
    user = UserSettings("ann", password=hash_password(b"secret"))
    world = mesh(login=LoginSettings(users=(user,)))
    client = world.client(4)
    client.say(Connect(4, "c", True, 0, "ann", b"secret"), Publish(b"a", b"123"), Publish(b"a", b"4"))
    world.login()
    client.packets()
    assert (world.realm.traffic.publishes_in, world.realm.traffic.publish_bytes_in) == (2, 4)
    assert (world.realm.traffic.packets_in, world.metrics.messages_in) == (3, 2)


# -- loads -------------------------------------------------------------------------------------------


def test_a_load_moves_as_mosquitto_s():
    load = Load(100)
    load.move(106, 10.0)
    assert load.averages == pytest.approx([36 - 36 * exp(-1 / 6), 36 - 36 * exp(-1 / 30), 36 - 36 * exp(-1 / 90)])
    first, second, third = load.averages
    load.move(106, 30.0)
    assert load.averages == pytest.approx([first * exp(-1 / 2), second * exp(-1 / 10), third * exp(-1 / 30)])
    for _ in range(1_000):
        load.move(load._count + 7, 10.0)
    assert load.averages == pytest.approx([42.0] * 3, rel=0.01)


def test_loads_are_said_while_they_change_and_end_at_zero():
    world = mesh()
    for n in range(6):
        world.connected(f"c{n}")
    client = reader(world, "$SYS/broker/load/connections/+")
    told(client)
    world.advance(TICK_MS)
    assert told(client) == {
        f"load/connections/{s}": v for s, v in (("1min", "6.45"), ("5min", "1.38"), ("15min", "0.46"))
    }
    values: list[float] = []
    for _ in range(60):
        world.advance(TICK_MS)
        values += [float(v) for name, v in told(client).items() if name.endswith("/1min")]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0.0
    assert len(values) == len(set(values)) < 60

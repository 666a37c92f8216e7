"""Rates: of one client, one user, the whole mesh, of connections and logins; and what each policy does about them."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import Connack, Connect, Disconnect, Pingreq, Pingresp, Puback, Publish, Pubrec
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.limits import BLOCKS_MAX, ConnectionLimits
from dragoman.adapters.serving.settings import LimitSettings, LoginSettings
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate_settings import GateSettings
from dragoman.routing.refusals import Reason
from tests.mqtt.encode_any import encode_any
from tests.mqtt.wire import Client, World, pub

MESSAGES = MqttSettings(client_messages_per_s=10, client_burst=5)


def at_once(client: Client, count: int, qos: int = 0, size: int = 0) -> None:
    """So many publishes in one piece, as a flood comes."""
    packets = [Publish(b"a", b"x" * size, qos, False, False, n + 1 if qos else 0, b"") for n in range(count)]
    client.raw(b"".join(encode_any(client.version, packet) for packet in packets))


def arrived(client: Client) -> int:
    return len([packet for packet in client.packets() if isinstance(packet, Publish)])


def flooded(settings: MqttSettings, version: int = 5, **options: object) -> tuple[World, Client, Client]:
    world = World(settings, **options)  # type: ignore[arg-type]
    watcher = world.connected("w")
    watcher.subscribe("a", qos=1)
    return world, world.connected("p", version, keepalive=1), watcher


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1])
def test_pause_loses_nothing_and_reads_on_when_the_rate_allows(version: int, qos: int):
    world, publisher, watcher = flooded(MESSAGES, version)
    at_once(publisher, 25, qos)
    assert arrived(watcher) == 25
    assert not publisher.transport.reading
    publisher.transport.receive(encode_any(version, Publish(b"a", b"late", qos, False, False, 99 if qos else 0, b"")))
    world.advance(1_999)
    assert arrived(watcher) == 0
    assert not publisher.closed, "a client that is not read is not silent"
    world.advance(2)
    assert arrived(watcher) == 1
    acked = [packet for packet in publisher.packets() if isinstance(packet, Puback)]
    assert [packet.code for packet in acked] == [0] * (26 if qos else 0)
    assert world.metrics.dropped == {}
    assert world.realm.paused_total == 2


def test_a_paused_flood_stops_nobody_else():
    world, publisher, watcher = flooded(MESSAGES)
    other = world.connected("o")
    at_once(publisher, 1_000)
    assert arrived(watcher) == 1_000
    other.publish("a", b"innocent", 1)
    other.expect(Puback(1))
    assert arrived(watcher) == 1


def test_bytes_are_limited_as_messages_are():
    world, publisher, watcher = flooded(MqttSettings(client_bytes_per_s=1_000, client_bytes_burst=100))
    at_once(publisher, 1, size=100)
    assert publisher.transport.reading
    at_once(publisher, 1, size=500)
    assert not publisher.transport.reading
    assert arrived(watcher) == 2
    world.advance(501)
    assert publisher.transport.reading


def test_a_commit_does_not_end_a_pause():
    world = World(MESSAGES)
    keeper = world.connected("k", session_expiry_interval=100)
    keeper.subscribe("a", qos=1)
    publisher = world.connected("p")
    world.door.shut = True
    at_once(publisher, 25, 1)
    world.commit()
    assert len(publisher.packets()) == 25
    assert not publisher.transport.reading
    world.advance(2_001)
    assert publisher.transport.reading


def test_the_limits_of_the_gate_pause_too_and_are_shared():
    gate = GateSettings(total_messages_per_s=10, total_burst=10)
    world, publisher, watcher = flooded(MqttSettings(), gate=gate)
    second = world.connected("p2")
    at_once(publisher, 10)
    assert publisher.transport.reading
    at_once(second, 10)
    assert not second.transport.reading
    assert arrived(watcher) == 20
    world.advance(1_001)
    assert second.transport.reading


def test_refuse_says_so_where_the_protocol_can():
    world, publisher, watcher = flooded(MqttSettings(rate_policy="refuse", client_messages_per_s=10, client_burst=2))
    at_once(publisher, 3, 1)
    publisher.expect(Puback(1), Puback(2), Puback(3, 0x97))
    publisher.publish("a", b"", 2, packet_id=9)
    publisher.expect(Pubrec(9, 0x97))
    at_once(publisher, 1)
    assert arrived(watcher) == 2
    assert world.metrics.dropped == {"publish-rate-exceeded": 1}
    world.advance(100)
    at_once(publisher, 1, 1)
    publisher.expect(Puback(1))


def test_refuse_never_acknowledges_what_a_3_1_1_client_has_not_got_through():
    _, publisher, watcher = flooded(
        MqttSettings(rate_policy="refuse", client_messages_per_s=10, client_burst=2), version=4
    )
    at_once(publisher, 3, 1)
    publisher.expect(Puback(1), Puback(2), closed=True)
    assert arrived(watcher) == 2


@pytest.mark.parametrize("version", [4, 5])
def test_disconnect_says_0x96(version: int):
    _, publisher, watcher = flooded(
        MqttSettings(rate_policy="disconnect", client_messages_per_s=10, client_burst=2), version
    )
    at_once(publisher, 3)
    publisher.expect(*([Disconnect(0x96)] if version == 5 else []), closed=True)
    assert arrived(watcher) == 2


def test_without_rates_nothing_is_asked_per_message():
    world = World()
    publisher = world.connected("p")
    at_once(publisher, 1)
    session = publisher.connection.session
    assert session is not None
    assert (session.pace, session.asked) == ((), ())
    assert all(route.direct for route in session._routes.values())


def test_rates_set_while_clients_are_connected_hold_for_them():
    world, publisher, watcher = flooded(MqttSettings())
    at_once(publisher, 50)
    assert publisher.transport.reading
    world.broker.gate.replace(GateSettings(messages_per_s=10, burst=1))
    at_once(publisher, 11)
    assert not publisher.transport.reading
    assert arrived(watcher) == 61


# -- Receive Maximum ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["disconnect", "warn"])
def test_receive_maximum_exceeded(policy: str):
    world = World(MqttSettings(receive_max=2, receive_max_policy=policy))
    keeper = world.connected("k", session_expiry_interval=100)
    keeper.subscribe("a", qos=1)
    publisher = world.connected("p")
    world.door.shut = True
    at_once(publisher, 4, 1)
    if policy == "disconnect":
        publisher.expect(Disconnect(0x93), closed=True)
        assert world.realm.overruns_total == 0
        return
    assert not publisher.transport.reading
    assert world.realm.overruns_total == 2
    world.commit()
    publisher.expect(Puback(1), Puback(2), Puback(3), Puback(4))
    assert publisher.transport.reading


# -- connections -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "said"), [(4, 3), (5, 0x9F)])
def test_more_clients_than_may_connect_in_a_second_are_told_so(version: int, said: int):
    world = World(MqttSettings(connects_per_s=2))
    codes = []
    for n in range(3):
        client = world.client(version)
        client.say(Connect(version, f"c{n}", True, 0))
        (packet,) = client.packets()
        assert isinstance(packet, Connack)
        codes.append(packet.code)
    assert codes == [0, 0, said]
    world.advance(500)
    world.connected("c2", version)
    world.clients[0].say(Pingreq())
    world.clients[0].expect(Pingresp())


def test_connections_are_counted_by_address_and_together():
    limits = LimitSettings(connections_per_s=10, connections_per_address_per_s=2)
    world = World(login=LoginSettings(anonymous="always"), limits=limits)
    greedy = [world.client(host="192.0.2.1").transport.aborted for _ in range(5)]
    assert greedy == [False, False, True, True, True]
    others = [world.client(host=f"198.51.100.{n}").transport.aborted for n in range(9)]
    assert others == [False] * 8 + [True], "who is turned away takes nothing of the others"
    assert world.realm.counters.turned_away == 4
    world.advance(500)
    assert not world.client(host="192.0.2.1").transport.aborted
    assert world.client(host="192.0.2.1").transport.aborted
    assert not world.client(host="127.0.0.1").transport.aborted


def test_the_rates_of_addresses_take_bounded_memory():
    limits = ConnectionLimits(LimitSettings(connections_per_address_per_s=1), None, ManualClock())
    for n in range(BLOCKS_MAX + 10):
        host = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
        assert limits.admit(host) is None
        limits.leave(host)
        assert len(limits._rates) <= BLOCKS_MAX
    refusal = limits.admit(host)
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_ms) == (Reason.RATE_EXCEEDED, 1_000)
    assert limits.open == 0


def test_a_watcher_of_a_flood_sees_each_message_once():
    world, publisher, watcher = flooded(MESSAGES)
    for n in range(3):
        publisher.publish("a", b"%d" % n, 1, packet_id=n + 1)
    watcher.expect(*(pub("a", b"%d" % n, 1, n + 1) for n in range(3)))
    assert world.realm.paused_total == 0

"""How long a connection lasts at most, and how long a packet may take: by the clock, whatever the client drips."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.encoders import encode_publish
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.packets import Disconnect, Pingreq, Will
from dragoman.adapters.mqtt.settings import MqttSettings
from tests.mqtt.wire import Client, World, pub

S = 1000
LATE = 2
"""The timers wake a moment later than asked."""


def watched(world: World, version: int = 5, **options: int) -> tuple[Client, Client]:
    """Who sees the will, and who has one."""
    watcher = world.connected("w")
    watcher.subscribe("will", "said", qos=0)
    return watcher, world.connected("c", version, will=Will(b"will", b"gone"), **options)


def ended_with(client: Client, code: int | None) -> None:
    """None: without a word, as 3.1.1 has it."""
    packets = client.packets()
    assert [packet.code for packet in packets if isinstance(packet, Disconnect)] == ([] if code is None else [code])
    assert client.transport.closed


# -- connections -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "code"), [(3, None), (4, None), (5, 0xA0)])
def test_a_connection_lasts_no_longer_than_its_time_however_busy_it_is(version: int, code: int | None) -> None:
    world = World(MqttSettings(connect_time_max_s=100))
    client = world.connected("c", version, keepalive=10, will=Will(b"will", b"gone"))
    for _ in range(11):
        world.advance(9 * S)
        client.say(Pingreq())
    assert not client.transport.closed
    client.packets()
    watcher = world.connected("w")
    watcher.subscribe("will")
    world.advance(1 * S + LATE)
    ended_with(client, code)
    watcher.expect(pub("will", b"gone"))


def test_a_kept_session_comes_back_after_its_connections_time() -> None:
    world = World(MqttSettings(connect_time_max_s=100))
    client = world.connected("c", clean=True, session_expiry_interval=1000)
    client.subscribe("a", qos=1)
    world.advance(100 * S + LATE)
    ended_with(client, 0xA0)
    again = world.client()
    assert again.connect("c", clean=False, session_expiry_interval=1000).session_present
    world.advance(99 * S)
    assert not again.transport.closed
    world.advance(1 * S + LATE)
    ended_with(again, 0xA0)


@pytest.mark.parametrize(("own", "lasts"), [(None, 100), (20, 20), (0, None)])
def test_a_listener_has_its_own_word_on_how_long(own: int | None, lasts: int | None) -> None:
    listener = ListenerSettings("here", "127.0.0.1:0", connect_time_max_s=own)
    world = World(MqttSettings(connect_time_max_s=100), listener=listener)
    client = world.connected("c")
    world.advance((lasts or 1000) * S - 1)
    assert not client.transport.closed
    world.advance(1 + LATE)
    assert client.transport.closed is (lasts is not None)


# -- packets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "code"), [(3, None), (4, None), (5, 0x8D)])
@pytest.mark.parametrize("keepalive", [0, 30])
def test_a_packet_that_comes_byte_by_byte_ends_its_connection(version: int, code: int | None, keepalive: int) -> None:
    world = World(MqttSettings(packet_time_max_s=60))
    watcher, client = watched(world, version, keepalive=keepalive)
    errors = world.metrics.wire("mqtt").errors
    whole = encode_publish(version, b"said", b"x" * 1000)
    for at in range(64):
        world.advance(2 * S)
        if client.transport.closed:
            break
        client.raw(whole[at : at + 1])
    else:
        raise AssertionError("it drips on")
    ended_with(client, code)
    watcher.expect(pub("will", b"gone"))
    assert world.realm.unfinished_total == 1
    assert world.metrics.wire("mqtt").errors == errors + 1


@pytest.mark.parametrize("part", [b"\x30", b"\x30\xff", b"\x32\xff\xff\x7f\x00"])
def test_a_packet_that_stops_within_its_head_ends_its_connection(part: bytes) -> None:
    world = World()
    client = world.connected("c")
    client.raw(part)
    world.advance(59 * S)
    assert not client.transport.closed
    world.advance(62 * S)
    ended_with(client, 0x8D)


def test_a_head_that_comes_byte_by_byte_is_one_packet() -> None:
    world = World()
    client = world.connected("c")
    client.raw(b"\x32")
    world.advance(70 * S)
    client.raw(b"\xff")
    world.advance(52 * S)
    ended_with(client, 0x8D)


def test_a_large_packet_may_come_over_a_slow_link() -> None:
    world = World(MqttSettings(packet_time_max_s=20, packet_bytes_per_s_min=100))
    watcher, client = watched(world)
    whole = encode_publish(5, b"said", b"x" * 30_000)
    for at in range(0, len(whole), 110):
        world.advance(1 * S)
        client.raw(whole[at : at + 110])
    watcher.expect(pub("said", b"x" * 30_000))
    slower = whole[:10_000]
    for at in range(0, len(slower), 40):
        world.advance(1 * S)
        if client.transport.closed:
            break
        client.raw(slower[at : at + 40])
    ended_with(client, 0x8D)


def test_packets_that_are_whole_in_time_may_begin_one_in_the_other() -> None:
    world = World(MqttSettings(packet_time_max_s=20))
    watcher, client = watched(world)
    whole = encode_publish(5, b"said", b"x" * 100)
    client.raw(whole[:50])
    for _ in range(20):
        world.advance(10 * S)
        client.raw(whole[50:] + whole[:50])
        watcher.expect(pub("said", b"x" * 100))
    assert not client.transport.closed


def test_time_in_which_the_broker_does_not_read_is_not_the_clients() -> None:
    world = World(MqttSettings(packet_time_max_s=1, client_messages_per_s=1, client_burst=1))
    client = world.connected("c")
    whole = encode_publish(5, b"said", b"x")
    client.raw(whole * 30 + whole[:5])
    assert not client.transport.reading
    world.advance(20 * S)
    assert not client.transport.closed
    assert world.realm.unfinished_total == 0
    world.advance(12 * S)
    ended_with(client, 0x8D)


def test_who_begins_nothing_may_be_silent_and_where_nothing_ends_nobody_looks() -> None:
    world = World()
    client = world.connected("c")
    world.advance(3600 * S)
    assert not client.transport.closed
    world = World(MqttSettings(packet_time_max_s=0))
    before = len(world.broker.timers)
    client = world.connected("c")
    client.raw(b"\x30\x05\x00")
    world.advance(3600 * S)
    assert not client.transport.closed
    assert len(world.broker.timers) == before

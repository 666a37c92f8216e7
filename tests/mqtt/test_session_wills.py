"""What a connection leaves behind and how silence ends it: will and keepalive."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import (
    Disconnect,
    Pingreq,
    Puback,
    Pubrel,
    Subscribe,
    Subscription,
    Will,
)
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import Client, World, facts, pub

# -- will ------------------------------------------------------------------------------------------


def willing(
    world: World, version: int = 5, delay: int = 0, expiry: int = 0, **options: object
) -> tuple[Client, Client]:
    watcher = world.connected("w")
    watcher.subscribe("will", qos=2)
    raw = Properties(will_delay_interval=delay).encode() if delay else b""
    properties = {"session_expiry_interval": expiry} if expiry else {}
    client = world.connected(
        "c",
        version,
        will=Will(b"will", b"gone", properties=raw, **options),
        **properties,  # type: ignore[arg-type]
    )
    return watcher, client


@pytest.mark.parametrize("version", [4, 5])
def test_will_when_the_network_goes_and_not_after_disconnect(version: int):
    world = World()
    watcher, client = willing(world, version)
    client.disconnect()
    watcher.expect()
    world = World()
    watcher, client = willing(world, version)
    client.vanish()
    watcher.expect(pub("will", b"gone"))


def test_will_goes_with_disconnect_4_and_with_our_own_disconnect():
    world = World()
    watcher, client = willing(world)
    client.disconnect(4)
    watcher.expect(pub("will", b"gone"))
    world = World()
    watcher, client = willing(world)
    client.raw(b"\x00\x00")
    watcher.expect(pub("will", b"gone"))


def test_will_waits_for_its_delay_and_is_not_forwarded_with_it():
    world = World()
    watcher, client = willing(world, delay=10, expiry=60)
    client.vanish()
    world.advance(9_999)
    watcher.expect()
    world.advance(2)
    watcher.expect(pub("will", b"gone"))


def test_will_delay_ends_with_the_session():
    world = World()
    watcher, client = willing(world, delay=60, expiry=10)
    client.vanish()
    world.advance(9_999)
    watcher.expect()
    world.advance(2)
    watcher.expect(pub("will", b"gone"))
    world = World()
    watcher, client = willing(world, delay=60)
    client.vanish()
    watcher.expect(pub("will", b"gone"))


def test_will_delay_is_called_off_by_a_return_and_not_by_a_clean_one():
    for clean, expected in ((False, 0), (True, 1)):
        world = World()
        watcher, client = willing(world, delay=30, expiry=60)
        client.vanish()
        world.advance(5_000)
        world.connected("c", clean=clean, session_expiry_interval=60)
        watcher.expect(*[pub("will", b"gone")] * expected)
        world.advance(100_000)
        watcher.expect()


def test_will_keeps_its_options_and_properties_and_its_expiry_begins_when_it_is_said():
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("will", qos=2)
    raw = Properties(
        will_delay_interval=10,
        payload_format_indicator=1,
        message_expiry_interval=100,
        content_type="t",
        response_topic="r",
        correlation_data=b"\0c",
        user_properties=[("b", "1"), ("a", "2"), ("b", "3")],
    ).encode()
    client = world.connected(
        "c", will=Will(b"will", b"gone", 2, True, raw, delay=10, expiry=100), session_expiry_interval=60
    )
    client.vanish()
    world.advance(10_001)
    (packet,) = watcher.packets()
    told = facts(packet)
    assert told[1:4] == (b"will", b"gone", "qos2 id1")
    assert packet.expiry == 100  # type: ignore[union-attr]
    from dragoman.adapters.mqtt import codes
    from dragoman.adapters.mqtt.properties import parse_properties

    found = parse_properties(packet.properties, codes.PUBLISH)  # type: ignore[union-attr]
    assert (found.content_type, found.response_topic, found.correlation_data) == ("t", "r", b"\0c")
    assert found.user_properties == [("b", "1"), ("a", "2"), ("b", "3")]
    assert found.will_delay_interval is None
    late = world.connected("late")
    late.subscribe("will")
    assert [p.retain for p in late.packets()] == [True]  # type: ignore[union-attr]


def test_an_empty_retained_will_clears():
    world = World()
    client = world.connected("c", will=Will(b"will", b"", 0, True))
    client.publish("will", b"here", retain=True)
    client.vanish()
    late = world.connected("late")
    late.subscribe("will")
    late.expect()


def test_will_at_shutdown_is_said_while_there_is_somebody_to_keep_it():
    world = World()
    client = world.connected("c", will=Will(b"will", b"gone", 1, True))
    world.broker.say_goodbye()
    world.turn()
    client.expect(Disconnect(0x8B), closed=True)
    retained = world.broker.retained_of("will")
    assert retained is not None
    assert retained.payload == b"gone"


# -- keepalive -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_keepalive_ends_after_one_and_a_half_intervals_with_the_will(version: int):
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("will")
    client = world.connected("c", version, keepalive=10, will=Will(b"will", b"gone"))
    world.advance(14_900)
    assert not client.closed
    world.advance(200)
    client.expect(*([Disconnect(0x8D)] if version == 5 else []), closed=True)
    watcher.expect(pub("will", b"gone"))


def test_any_packet_keeps_alive():
    world = World()
    client = world.connected("c", keepalive=10)
    for packet in (Pingreq(), pub("a"), Subscribe(1, [Subscription("b")]), Pubrel(9), Puback(9)):
        world.advance(14_000)
        client.say(packet)
        assert not client.closed
    world.advance(15_100)
    assert client.closed


def test_keepalive_0_is_none_at_all():
    world = World(broker=BrokerSettings(sweep_ms=1 << 40))
    client = world.connected("c", keepalive=0)
    world.advance(10 * 24 * 3_600_000)
    client.expect()


def test_server_keep_alive_is_told_and_holds():
    world = World(MqttSettings(keepalive_s_max=60))
    for asked, told in ((120, 60), (0, 60), (60, None), (30, None)):
        client = world.client()
        assert client.connect("c", keepalive=asked).properties.server_keep_alive == told
    client = world.client()
    client.connect("k", keepalive=120)
    world.advance(89_900)
    assert not client.closed
    world.advance(200)
    client.expect(Disconnect(0x8D), closed=True)


def test_before_5_keepalive_cannot_be_overruled_and_is_not_refused():
    world = World(MqttSettings(keepalive_s_max=60))
    for asked in (0, 120):
        client = world.connected(f"c{asked}", 4, keepalive=asked)
        world.advance(100_000)
        assert not client.closed

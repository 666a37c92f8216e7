"""The list of slow readers: who is behind, since when, by how much; and what the policy does to them."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import Disconnect, Puback, Publish
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.producers import Producers
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.slow import SlowReaders
from tests.mqtt.wire import Client, World, at, pub

LOOK_MS = 5_000
SMALL = MqttSettings(out_bytes_max=1 << 14)


def behind(world: World) -> list[tuple[str, int, int, int]]:
    """(agent, seconds behind, messages, lost) of each slow reader."""
    now_ms = world.clock.now_ms()
    return [
        (reader.session.agent, round((now_ms - reader.since_ms) / 1000), reader.messages, reader.lost)
        for reader in world.broker.slow.listed()
    ]


def flood(publisher: Client, count: int, size: int = 20_000, qos: int = 0) -> None:
    for n in range(count):
        publisher.publish("a", b"%03d" % n + b"x" * size, qos, packet_id=n + 1 if qos else 0)
    publisher.packets()


def test_a_reader_that_stalls_is_listed_with_what_it_has_not_read_and_leaves_the_list_when_it_has():
    world = World(SMALL)
    publisher, slow, quick = world.connected("p"), world.connected("slow"), world.connected("quick")
    slow.subscribe("a")
    quick.subscribe("a")
    slow.transport.stuck = True
    flood(publisher, 40)
    ((agent, seconds, messages, lost),) = behind(world)
    assert (agent, seconds, lost) == ("slow", 0, 0)
    assert 20 < messages < 40
    (reader,) = world.broker.slow.listed()
    assert reader.bytes == messages * 20_003
    world.advance(60_000 + 2 * LOOK_MS)
    ((agent, seconds, messages, _),) = behind(world)
    assert seconds >= 60
    assert world.broker.slow.count == 1
    assert len([p for p in quick.packets() if isinstance(p, Publish)]) == 40
    slow.transport.unstick()
    world.turn()
    assert behind(world) == []
    assert len([p for p in slow.packets() if isinstance(p, Publish)]) == 40
    world.advance(LOOK_MS)
    assert world.broker.slow.count == 0


def test_who_never_acknowledges_is_slow_too_with_and_without_a_session():
    world = World(MqttSettings(inflight_max=2))
    publisher = world.connected("p")
    kept = world.connected("kept", session_expiry_interval=1_000)
    fleeting = world.connected("fleeting")
    for client in (kept, fleeting):
        client.subscribe("a", qos=1)
    flood(publisher, 5, 10, qos=1)
    world.advance(3 * LOOK_MS)
    assert sorted(behind(world)) == [("fleeting", 10, 3, 0), ("kept", 10, 3, 0)]
    kept.packets()
    kept.say(Puback(at(1), 0), Puback(at(2), 0))
    kept.say(Puback(at(3), 0), Puback(at(4), 0))
    assert [row[0] for row in behind(world)] == ["fleeting"]
    fleeting.vanish()
    assert behind(world) == []


def test_a_reader_that_is_always_a_little_behind_but_reads_on_is_not_slow():
    world = World(SMALL, BrokerSettings(slow_policy="disconnect", slow_after_s=10.0))
    publisher, busy = world.connected("p"), world.connected("busy")
    busy.subscribe("a")
    for _ in range(10):
        busy.transport.stuck = True
        flood(publisher, 40)
        assert [row[0] for row in behind(world)] == ["busy"]
        world.advance(LOOK_MS)
        busy.transport.unstick()
        world.turn()
    assert not busy.closed


@pytest.mark.parametrize("policy", ["keep", "disconnect"])
def test_what_becomes_of_it_is_the_policy_s(policy: str):
    world = World(SMALL, BrokerSettings(slow_policy=policy, slow_after_s=30.0))
    publisher, slow, quick = world.connected("p"), world.connected("slow"), world.connected("quick")
    slow.subscribe("a")
    quick.subscribe("a")
    quick.packets()
    slow.transport.stuck = True
    flood(publisher, 40)
    quick.packets()
    world.advance(25_000)
    assert not slow.transport.closing
    world.advance(15_000)
    assert slow.closed is (policy == "disconnect")
    assert world.broker.slow.ended_total == (policy == "disconnect")
    publisher.publish("a", b"on", 0)
    quick.expect(pub("a", b"on"))


def test_a_slow_reader_without_a_full_socket_is_told_0x97():
    world = World(MqttSettings(inflight_max=1), BrokerSettings(slow_policy="disconnect", slow_after_s=10.0))
    publisher, slow = world.connected("p"), world.connected("slow")
    slow.subscribe("a", qos=1)
    flood(publisher, 2, 0, qos=1)
    world.advance(30_000)
    slow.expect(pub("a", b"000", 1, 1), Disconnect(0x97), closed=True)


def test_what_was_lost_to_it_is_counted_by_reader():
    world = World(SMALL, BrokerSettings(ring_bytes_max=1 << 17))
    publisher, slow = world.connected("p"), world.connected("slow")
    slow.subscribe("a")
    slow.packets()
    slow.transport.stuck = True
    flood(publisher, 60)
    slow.transport.unstick()
    world.turn()
    got = len([p for p in slow.packets() if isinstance(p, Publish)])
    assert got < 60
    slow.transport.stuck = True
    flood(publisher, 40)
    ((_, _, _, lost),) = behind(world)
    assert lost == 60 - got == world.metrics.lost


def test_what_a_share_cannot_give_is_nobody_s_slowness():
    world = World(MqttSettings(inflight_max=1), BrokerSettings(slow_policy="disconnect", slow_after_s=10.0))
    publisher, member = world.connected("p"), world.connected("member")
    member.subscribe("$share/g/a", qos=1)
    flood(publisher, 5, 0, qos=1)
    assert world.broker.core.pump.parked(), "there is something to be slow about"
    world.advance(60_000)
    assert behind(world) == []
    assert not member.closed


def test_a_stream_that_stands_still_is_its_session_s_slowness():
    world = World(MqttSettings(inflight_max=1), BrokerSettings(slow_policy="disconnect", slow_after_s=10.0))
    publisher, slow = world.connected("p"), world.connected("slow")
    slow.subscribe("a", qos=1)
    slow.subscribe("$stream/a", qos=1)
    flood(publisher, 3, 0, qos=1)
    world.advance(LOOK_MS)
    ((agent, _, messages, _),) = behind(world)
    assert (agent, messages) == ("slow", 5), "of both its readings; one message is with it"
    assert [reader.session for reader in world.broker.slow.listed()] == [
        session for session in world.broker.sessions() if session.agent == "slow"
    ]
    slow.unsubscribe("a")
    world.advance(30_000)
    assert slow.closed
    assert behind(world) == []


def test_a_stream_that_reads_a_long_past_in_small_steps_is_not_slow():
    world = World(MqttSettings(inflight_max=1), BrokerSettings(slow_policy="disconnect", slow_after_s=10.0))
    publisher, reader = world.connected("p"), world.connected("reader")
    flood(publisher, 12, 0, qos=1)
    reader.subscribe("$s/earliest/a", qos=1)
    for n in range(12):
        (packet,) = (packet for packet in reader.packets() if isinstance(packet, Publish))
        assert packet.payload == b"%03d" % n
        world.advance(LOOK_MS)
        assert [row[0] for row in behind(world)] == ["reader"] * (n < 11)
        reader.say(Puback(packet.packet_id, 0))
    assert not reader.closed


def test_what_was_lost_to_a_stream_is_counted_with_its_session():
    world = World(SMALL, BrokerSettings(ring_bytes_max=1 << 17))
    publisher, slow = world.connected("p"), world.connected("slow")
    slow.subscribe("$stream/a")
    slow.transport.stuck = True
    flood(publisher, 60)
    slow.transport.unstick()
    world.turn()
    got = len([p for p in slow.packets() if isinstance(p, Publish)])
    assert got < 60
    slow.transport.stuck = True
    flood(publisher, 40)
    ((agent, _, _, lost),) = behind(world)
    assert (agent, lost) == ("slow", 60 - got)
    slow.vanish()
    world.broker.slow.check()


def test_a_sweep_that_fails_in_one_part_does_the_others_and_comes_again(monkeypatch: pytest.MonkeyPatch):
    swept: list[str] = []

    def fail(self: SlowReaders) -> None:
        swept.append("slow")
        raise ZeroDivisionError

    monkeypatch.setattr(SlowReaders, "look", fail)
    monkeypatch.setattr(Producers, "trim", lambda self: swept.append("producers"))
    world = World()
    swept.clear()
    for _ in range(3):
        # The loop of a mesh logs what these turns raise, and goes on.
        with pytest.raises(ZeroDivisionError):
            world.advance(LOOK_MS + 100)
        world.advance(100)
    assert swept == ["slow", "producers"] * 3

"""Wills that the disk or a rate refuses: tried again while they mean something, and said once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from dragoman.adapters.mqtt.packets import Publish, Will
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.mqtt.wills import Wills
from dragoman.broker.broker import Broker
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings, RateSettings, RuleSettings
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.log.contract import Table
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import EMBEDDED
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.refusals import Reason
from tests.log.fault_disk import FaultDisk, Medium
from tests.mqtt.wire import Client, World

KEPT = {"clean": False, "session_expiry_interval": 100_000}


def mesh(**options: object) -> World:
    """Somebody who is away reads what wills say, so that they are logged."""
    world = World(durable=True, **options)  # type: ignore[arg-type]
    watcher = world.connected("w", **KEPT)
    watcher.subscribe("will/#", qos=1)
    watcher.disconnect()
    return world


def said(world: World) -> list[bytes]:
    """What wills have said until now."""
    watcher = world.connected("w", **KEPT)
    found = [packet.payload for packet in watcher.packets() if isinstance(packet, Publish)]
    watcher.disconnect()
    return found


def willing(world: World, expiry_s: int = -1, text: bytes = b"gone", **options: object) -> Client:
    raw = Properties(message_expiry_interval=expiry_s).encode() if expiry_s >= 0 else b""
    will = Will(b"will/x", text, 2, properties=raw, expiry=expiry_s)
    return world.connected("c", will=will, **options)  # type: ignore[arg-type]


def refusing(world: World, client: Client) -> None:
    """The client's connection breaks, and the commit with its will fails."""
    world.door.shut = True
    client.vanish()
    world.refuse()


def rows(world: World) -> int:
    return len(list(world.log.rows(Table.WILLS)))


def test_a_commit_that_fails_is_tried_again_twice_as_late_each_time(caplog: pytest.LogCaptureFixture):
    world = mesh()
    refusing(world, willing(world))
    assert "mqtt will not said yet: the disk says no" in caplog.text
    (held,) = world.realm.standings.wills.held.values()
    for tried, wait_ms in enumerate((1_000, 2_000, 4_000), start=1):
        world.advance(wait_ms)
        assert (held.tried, rows(world)) == (tried, 1)
        world.advance(1)
        assert rows(world) == 0
        if wait_ms < 4_000:
            world.refuse()
    world.door.shut = False
    world.commit()
    assert rows(world) == 0
    world.advance(100_000)
    assert said(world) == [b"gone"]
    assert "mqtt will not said:" not in caplog.text
    assert not any(reason.startswith("will-") for reason in world.metrics.dropped)


def test_a_log_without_room_is_tried_again_and_the_will_is_kept_meanwhile():
    world = mesh()
    client = willing(world)
    room, world.log._budget_bytes = world.log._budget_bytes, 0
    client.vanish()
    assert rows(world) == 1
    world.advance(10_000)
    assert said(world) == []
    world.log._budget_bytes = room
    world.advance(10_000)
    assert said(world) == [b"gone"]
    assert rows(world) == 0


def test_a_mesh_that_dies_while_it_tries_says_it_when_it_is_there_again():
    world = mesh()
    client = willing(world)
    world.log._budget_bytes = 0
    client.vanish()
    world.advance(5_000)
    after = world.crash()
    after.log._budget_bytes = 1 << 30
    after.advance(1)
    assert said(after) == [b"gone"]
    assert rows(after) == 0


def test_a_rate_is_waited_for():
    rates = (RateSettings(who=("anonymous",), messages_per_s=1, burst=1),)
    world = mesh(gate=GateSettings(rates=rates))
    client = willing(world)
    client.publish("a", b"x", 0)
    client.vanish()
    world.advance(1_000)
    assert said(world) == []
    world.advance(1)
    assert said(world) == [b"gone"]


def crowd(world: World, count: int) -> None:
    """So many clients break off at one moment; the will of the last of them, c0, is good for 20 seconds."""
    raw = Properties(message_expiry_interval=20).encode()
    good = {n: Will(b"will/x", b"%d" % n, 1) for n in range(1, count)}
    good[0] = Will(b"will/x", b"0", 1, properties=raw, expiry=20)
    clients = [world.connected(f"c{n}", will=good[n]) for n in range(count)]
    for client in reversed(clients):
        client.transport.abort()
    world.turn()


def test_those_a_rate_refuses_at_once_are_said_as_fast_as_it_lets_them():
    world = mesh(gate=GateSettings(rates=(RateSettings(who=("*",), messages_per_s=5, burst=5),)))
    crowd(world, 65)
    assert len(said(world)) == 5
    world.advance(1_001)
    assert len(said(world)) <= 6, "not a burst of them at each moment they are tried"
    world.advance(12_500)
    assert not rows(world)
    assert not any(reason.startswith("will-") for reason in world.metrics.dropped)


def test_the_line_of_wills_ends_and_what_expires_is_tried_before():
    world = mesh(gate=GateSettings(rates=(RateSettings(who=("*",), messages_per_s=1, burst=1),)))
    crowd(world, 100)
    now_ms = world.clock.monotonic_ms()
    held = world.realm.standings.wills.held.values()
    waits = {will.client_id: will.timer.due_ms - now_ms for will in held if will.timer is not None}
    assert waits["c0"] == 20_000, "the last in line, but then it has expired"
    assert len(waits) == 99
    assert 60_000 <= max(waits.values()) <= 61_000
    assert len(set(waits.values())) >= 60


@pytest.mark.parametrize(("retry_s", "expiry_s", "tries_s"), [(10, -1, 10), (3_600, 10, 10), (0, -1, 0)])
def test_it_is_given_up_in_the_end(retry_s: int, expiry_s: int, tries_s: int, caplog: pytest.LogCaptureFixture):
    world = mesh(mqtt=MqttSettings(will_retry_s=retry_s))
    client = willing(world, expiry_s)
    room, world.log._budget_bytes = world.log._budget_bytes, 0
    client.vanish()
    world.advance(tries_s * 1_000)
    assert rows(world) == 0
    assert "mqtt will not said: " in caplog.text
    assert world.metrics.dropped[f"will-{Reason.STORAGE_FULL.value}"] == 1
    world.log._budget_bytes = room
    world.advance(100_000)
    assert said(world) == []


def test_its_expiry_goes_on_while_it_is_tried():
    world = mesh()
    client = willing(world, 10)
    room, world.log._budget_bytes = world.log._budget_bytes, 0
    client.vanish()
    world.advance(2_000)
    world.log._budget_bytes = room
    world.advance(1_002)
    assert rows(world) == 0
    world.advance(6_999)
    assert said(world) == []


def test_what_may_not_be_said_is_not_tried_again():
    deny = RuleSettings(effect="deny", who=("anonymous",), actions=("publish",), filters=("will/#",))
    world = mesh(gate=GateSettings(rules=(deny,)))
    willing(world).vanish()
    assert rows(world) == 0
    assert world.metrics.dropped[f"will-{Reason.NOT_AUTHORIZED.value}"] == 1


def test_nothing_is_said_of_a_client_that_is_here_again():
    world = mesh()
    client = willing(world)
    room, world.log._budget_bytes = world.log._budget_bytes, 0
    client.vanish()
    back = willing(world, text=b"second")
    world.log._budget_bytes = room
    world.advance(100_000)
    assert said(world) == []
    back.vanish()
    assert said(world) == [b"second"]
    assert rows(world) == 0


def test_what_waits_is_said_before_its_client_is_here_again_if_it_can_be():
    world = mesh()
    client = willing(world)
    room, world.log._budget_bytes = world.log._budget_bytes, 0
    client.vanish()
    world.log._budget_bytes = room
    willing(world, text=b"second")
    assert said(world) == [b"gone"]


def test_nor_when_the_commit_was_under_way_as_it_came():
    world = mesh()
    client = willing(world)
    world.door.shut = True
    client.vanish()
    back = world.client()
    back.connect("c", will=Will(b"will/x", b"second", 2))
    world.refuse()
    assert {held.will.payload for held in world.realm.standings.wills.held.values()} == {b"second"}
    world.door.shut = False
    world.commit()
    world.advance(100_000)
    assert said(world) == []
    back.vanish()
    assert said(world) == [b"second"]


def test_what_was_heard_without_its_commit_is_not_said_twice():
    world = World(durable=True)
    watcher = world.connected("w")
    watcher.subscribe("will/#", qos=2)
    client = world.connected("c", will=Will(b"will/x", b"gone", 1, True))
    world.door.shut = True
    client.vanish()
    world.refuse()
    world.door.shut = False
    world.commit()
    world.advance(100_000)
    assert [p.payload for p in watcher.packets() if isinstance(p, Publish)] == [b"gone"]


def test_on_a_disk_that_is_full_for_a_while(tmp_path: Path):
    async def until(done: Callable[[], object]) -> None:
        for _ in range(2_000):
            if done():
                return
            await asyncio.sleep(0)
        raise AssertionError("that never came to be")

    async def main() -> None:
        disk, clock = FaultDisk(tmp_path, Medium()), ManualClock()
        settings = LogSettings(
            folder=tmp_path, headroom_bytes=0, reserve_free_bytes=1 << 20, retry_ms=0, map_bytes=1 << 28, threads=False
        )
        broker = Broker(
            BrokerSettings(),
            AgentSettings(),
            clock=clock,
            log=DiskLog(settings, clock, disk),
            gate=Gate(GateSettings()),
            loop=asyncio.get_running_loop(),
            metrics=Metrics(),
        )
        await broker.start()
        heard: list[bytes | None] = []
        reader = InnerSession(EMBEDDED, "r", lambda feed, message: heard.append(message.payload) or True)
        broker.attach(reader)
        broker.backlogs.open(b"test", lambda message: True).watch("will/#")
        broker.subscribe(reader, "will/#")
        wills = Wills(broker, lambda name: EMBEDDED, format_check=False, retry_s=1_000)
        wills.begin(b"c", "c", Will(b"will/x", b"gone", 1), EMBEDDED, "c")
        await broker.log.idle()
        disk.free = 1 << 20
        wills.parted(b"c", 0, clean=False, resumed=False)
        await until(lambda: wills.held)
        for _ in range(3):
            clock.advance(10_000)
            broker.timers.run_due()
            await until(lambda: wills.held)
        assert heard == []
        disk.free = 1 << 40
        for _ in range(10):
            clock.advance(10_000)
            broker.timers.run_due()
            await broker.log.idle()
        assert heard == [b"gone"]
        assert not wills.held
        assert not list(broker.log.rows(Table.WILLS))
        broker.detach(reader)
        await broker.stop()

    asyncio.run(main())

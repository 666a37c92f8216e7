"""What may wait for a session that is away or slow: by count, bytes and age, and what becomes of the rest."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import Disconnect, Puback, Publish, Pubrec, Pubrel, Will
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.log.contract import Table, Ticket
from tests.mqtt.wire import Client, World, at, pub


def world_with(**settings: object) -> World:
    return World(MqttSettings(**settings), durable=True)  # type: ignore[arg-type]


def away(world: World, client_id: str = "s", filter_: str = "a", **options: object) -> None:
    """A session that is kept and whose client is gone."""
    client = world.connected(client_id, session_expiry_interval=100_000, **options)
    client.subscribe(filter_, qos=2)
    client.disconnect()


def say(world: World, first: int, last: int, size: int = 0, topic: str = "a") -> None:
    publisher = world.connected("p")
    for n in range(first, last):
        publisher.publish(topic, b"%d " % n + b"x" * size, 1, packet_id=1)
        publisher.expect(Puback(1))
    publisher.disconnect()


def back(world: World, client_id: str = "s", present: bool = True) -> list[int]:
    """The numbers that a returning client gets."""
    client = world.client()
    assert client.connect(client_id, clean=False, session_expiry_interval=100_000).session_present is present
    return numbers(client)


def numbers(client: Client) -> list[int]:
    return [int(packet.payload.split()[0]) for packet in client.packets() if isinstance(packet, Publish)]


def test_without_a_limit_everything_waits():
    world = world_with()
    away(world)
    say(world, 0, 500)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (500, 0)
    assert back(world) == list(range(500))
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.behind) == (0, False)


def test_the_oldest_go_and_are_counted():
    world = world_with(session_queue_messages_max=100)
    away(world)
    say(world, 0, 250)
    (kept,) = world.realm.standings.listed()
    assert 88 <= kept.waiting <= 100
    assert kept.lost == world.metrics.lost == 250 - kept.waiting
    assert back(world) == list(range(250 - kept.waiting, 250))


def test_bytes_are_bounded_as_well_and_one_session_s_limit_is_not_another_s():
    world = world_with(session_queue_bytes_max=10_000)
    away(world)
    away(world, "t", "b")
    say(world, 0, 5, 100, "b")
    say(world, 0, 50, 1_000)
    (s, t) = world.realm.standings.listed()
    assert s.waiting <= 9
    assert (t.waiting, t.lost) == (5, 0)
    assert back(world) == list(range(50 - s.waiting, 50))
    assert back(world, "t") == list(range(5))


def test_what_waits_too_long_goes_though_nothing_new_comes():
    world = world_with(session_queue_s_max=60)
    away(world)
    say(world, 0, 10)
    world.advance(30_000)
    say(world, 10, 20)
    world.advance(36_000)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (10, 10)
    backlog = world.realm.standings.by_client["s"].backlog
    assert backlog is not None
    assert not backlog.overdue, "it would be looked at in every sweep"
    world.advance(30_000)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (0, 20)
    say(world, 20, 23)
    assert back(world) == [20, 21, 22]


def test_after_a_restart_the_age_still_counts_and_the_oldest_go_first():
    world = world_with(session_queue_s_max=60, session_queue_messages_max=20)
    away(world)
    say(world, 0, 15)
    world.advance(30_000)
    world = world.crash()
    say(world, 100, 121)
    (kept,) = world.realm.standings.listed()
    assert kept.lost == 15 + 21 - kept.waiting
    world = world.crash()
    world.advance(40_000)
    found = back(world)
    assert found == list(range(121 - len(found), 121))
    assert len(found) == kept.waiting


def test_the_log_lets_go_of_what_was_dropped():
    world = world_with(session_queue_messages_max=10)
    away(world)
    say(world, 0, 200, 1_000)
    world.advance(10_000)
    channel = world.broker.channels.by_name["a"]
    first, after = world.log.bounds(channel.number)
    assert after - first <= 10


def test_a_connected_reader_that_never_acknowledges_is_bounded_too():
    world = world_with(session_queue_messages_max=10, inflight_max=2)
    slow = world.connected("s", session_expiry_interval=100)
    slow.subscribe("a", qos=1)
    say(world, 0, 50)
    assert numbers(slow) == [0, 1]
    (kept,) = world.realm.standings.listed()
    assert kept.waiting <= 10
    assert kept.lost == 48 - kept.waiting
    for packet_id in range(at(1), at(60)):
        slow.say(Puback(packet_id, 0))
    assert numbers(slow) == list(range(50 - kept.waiting, 50))
    say(world, 50, 51)
    assert numbers(slow) == [50]


def test_a_qos_2_delivery_a_restart_left_without_its_message_goes_with_it():
    world = world_with(session_queue_messages_max=5)
    client = world.connected("s", session_expiry_interval=100_000)
    client.subscribe("a", qos=2)
    publisher = world.connected("p")
    publisher.publish("a", b"0 ", 2, packet_id=1)
    publisher.expect(Pubrec(1))
    publisher.say(Pubrel(1))
    assert numbers(client) == [0]
    world = world.crash()
    say(world, 1, 10)
    # All that is left of it is a PUBREL.
    assert [flight.released for flight in world.realm.standings.by_client["s"].flights.values()] == [True]
    found = back(world)
    assert found == list(range(10 - len(found), 10))
    world = world.crash()
    assert 0 not in back(world)


@pytest.mark.parametrize("version", [4, 5])
def test_end_ends_the_session_and_says_so_to_who_is_there(version: int):
    world = world_with(session_queue_messages_max=10, session_queue_policy="end", inflight_max=2)
    watcher = world.connected("w")
    watcher.subscribe("wills")
    away(world)
    options = {"session_expiry_interval": 100} if version == 5 else {}
    slow = world.connected("slow", version, clean=version == 5, will=Will(b"wills", b"slow"), **options)
    slow.subscribe("a", qos=1)
    say(world, 0, 13)
    told = [packet for packet in slow.packets() if isinstance(packet, Disconnect)]
    assert [packet.code for packet in told] == ([0x97] if version == 5 else [])
    assert slow.closed
    watcher.expect(pub("wills", b"slow"))
    assert list(world.realm.standings.listed()) == []
    assert world.metrics.dropped["session-queue-full"] >= 20
    assert back(world, present=False) == []
    world.crash()


def test_with_drop_new_what_waits_stays_and_new_ones_go_until_an_eighth_is_free():
    world = world_with(session_queue_messages_max=16, session_queue_policy="drop_new", inflight_max=2)
    slow = world.connected("s", session_expiry_interval=100_000)
    slow.subscribe("a", qos=1)
    say(world, 0, 30)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost, world.metrics.lost) == (16, 12, 12)
    taken = numbers(slow)
    slow.say(Puback(at(1)))
    taken += numbers(slow)
    say(world, 30, 31)  # 15 wait, and one more would not leave an eighth free
    slow.say(Puback(at(2)), Puback(at(3)))
    taken += numbers(slow)
    say(world, 31, 34)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (16, 13)
    for position in range(1, 40):
        slow.say(Puback(at(position)))
        taken += numbers(slow)
    assert taken == [*range(18), 31, 32, 33]
    say(world, 34, 35)
    assert numbers(slow) == [34]
    world.check()


def test_with_drop_new_what_was_left_out_stays_so_over_a_restart():
    world = world_with(session_queue_messages_max=8, session_queue_policy="drop_new")
    away(world)
    say(world, 0, 20)
    world.advance(10_000)
    assert back(world.crash()) == list(range(8))
    assert back(world) == list(range(8))


def test_with_drop_new_bytes_are_bounded_and_age_still_takes_the_old():
    world = world_with(session_queue_bytes_max=5_000, session_queue_policy="drop_new", session_queue_s_max=60)
    away(world)
    say(world, 0, 20, 1_000)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (4, 16)
    world.advance(30_000)
    world.advance(40_000)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (0, 20)
    say(world, 20, 23, 1_000)
    assert back(world) == [20, 21, 22]


@pytest.mark.parametrize("how", ["crash", "restart"])
def test_what_waited_before_a_restart_counts(how: str):
    world = world_with(session_queue_messages_max=20)
    away(world)
    say(world, 0, 15, 100)
    if how == "crash":
        # It is written from time to time.
        world.advance(6_000)
    world = getattr(world, how)()
    (kept,) = world.realm.standings.listed()
    assert kept.waiting == 15
    say(world, 15, 20)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (20, 0)
    say(world, 20, 21)
    (kept,) = world.realm.standings.listed()
    assert (kept.waiting, kept.lost) == (18, 3)
    assert back(world) == list(range(3, 21))
    backlog = world.realm.standings.by_client["s"].backlog
    assert backlog is not None
    assert (backlog.waiting, backlog.waiting_bytes) == (0, 0)


def test_after_a_crash_nothing_is_uncounted_that_never_counted():
    world = world_with(session_queue_messages_max=20, inflight_max=2)
    slow = world.connected("s", session_expiry_interval=100_000)
    slow.subscribe("a", qos=1)
    say(world, 0, 10)
    slow.say(Puback(at(1)))
    world.advance(6_000)
    say(world, 10, 14)  # of which no row says anything
    world = world.crash()
    say(world, 14, 16)
    (kept,) = world.realm.standings.listed()
    assert kept.waiting == 9  # 3 to 9, 14 and 15; in flight 1 and 2
    client = world.client()
    client.connect("s", clean=False, session_expiry_interval=100_000)
    got = numbers(client)
    for n in range(1, 16):
        waits = [m for m in range(16) if m > got[-1] and (3 <= m <= 9 or m >= 14)]
        (kept,) = world.realm.standings.listed()
        assert kept.waiting == len(waits), got
        client.say(Puback(at(n + 1)))
        got += numbers(client)
    assert got == list(range(1, 16))


def test_without_limits_no_row_is_written_for_what_waits(monkeypatch: pytest.MonkeyPatch):
    world = world_with()
    away(world)
    world.advance(6_000)
    put, tables = world.log.put, []

    def counting(table: Table, key: bytes, value: bytes | None) -> Ticket:
        tables.append(table)
        return put(table, key, value)

    monkeypatch.setattr(world.log, "put", counting)
    say(world, 0, 15)
    world.advance(6_000)
    assert Table.CURSORS not in tables

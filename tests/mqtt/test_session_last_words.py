"""Wills and the mesh's own death: said once, when they are due, by whichever mesh runs then."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.packets import Pubcomp, Publish, Pubrec, Pubrel, Will
from dragoman.adapters.mqtt.properties import Properties, parse_properties
from dragoman.adapters.serving.credentials import new_token
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.log.contract import Table
from tests.mqtt.wire import Client, World

KEPT = {"clean": False, "session_expiry_interval": 3_600}


def watched(**options: object) -> World:
    """A mesh in which somebody who is away reads what wills say."""
    world = World(durable=True, **options)  # type: ignore[arg-type]
    watcher = world.connected("w", **KEPT)
    watcher.subscribe("will/#", qos=2)
    watcher.disconnect()
    return world


def said(world: World) -> list[bytes]:
    """What wills have said since the last look, and nothing else."""
    watcher = world.connected("w", **KEPT)
    found = [packet for packet in watcher.packets() if isinstance(packet, Publish)]
    watcher.say(*[Pubrec(packet.packet_id) for packet in found])
    watcher.say(*[Pubcomp(packet.packet_id) for packet in watcher.packets() if isinstance(packet, Pubrel)])
    watcher.disconnect()
    return [packet.payload for packet in found]


def willing(
    world: World, client_id: str = "c", delay: int = 0, expiry: int = 0, text: bytes = b"gone", **more: object
) -> Client:
    raw = Properties(will_delay_interval=delay).encode() if delay else b""
    will = Will(b"will/x", text, 2, properties=raw, delay=delay)
    options = {"clean": False, "session_expiry_interval": expiry} if expiry else {}
    return world.connected(client_id, will=will, **{**options, **more})  # type: ignore[arg-type]


def kept_rows(world: World) -> int:
    return len(list(world.log.rows(Table.WILLS)))


@pytest.mark.parametrize("expiry", [0, 60])
def test_a_will_without_delay_is_said_once_when_the_mesh_is_there_again(expiry: int):
    world = watched()
    willing(world, expiry=expiry)
    assert said(world) == []
    after = world.crash()
    after.advance(1)
    assert said(after) == [b"gone"]
    third = after.crash()
    third.advance(1)
    assert said(third) == []
    assert kept_rows(third) == 0


@pytest.mark.parametrize(("delay", "expiry", "due_ms"), [(10, 60, 10_000), (60, 10, 10_000), (60, 0, 0)])
def test_a_crash_ends_the_connection_so_the_delay_begins_with_the_restart(delay: int, expiry: int, due_ms: int):
    world = watched()
    willing(world, delay=delay, expiry=expiry)
    world.advance(100_000)
    after = world.crash()
    if due_ms:
        after.advance(due_ms - 1)
        assert said(after) == []
    after.advance(2)
    assert said(after) == [b"gone"]


def test_a_delay_that_runs_goes_on_over_crashes_and_while_the_mesh_is_down():
    world = watched()
    willing(world, delay=10, expiry=60).vanish()
    world.advance(4_000)
    after = world.crash()
    after.advance(2_000)
    third = after.crash()
    third.clock.advance(2_000)
    third.advance(1_998)
    assert said(third) == []
    third.advance(3)
    assert said(third) == [b"gone"]
    world = watched()
    willing(world, delay=10, expiry=60).vanish()
    world.clock.advance(30_000)
    after = world.crash()
    after.advance(1)
    assert said(after) == [b"gone"]


def test_the_deadlines_a_crash_begins_do_not_begin_again_with_the_next_one():
    world = watched()
    willing(world, delay=10, expiry=60)
    after = world.crash()
    after.advance(9_000)
    third = after.crash()
    third.advance(1_001)
    assert said(third) == [b"gone"]
    third.advance(40_000)
    fourth = third.crash()
    fourth.advance(8_000)
    assert "c" in fourth.realm.standings.by_client
    fourth.advance(2_100)
    assert "c" not in fourth.realm.standings.by_client, "60 s after the first crash"


def test_who_resumes_in_time_takes_its_will_back_and_who_begins_anew_does_not():
    for clean, expected in ((False, []), (True, [b"gone"])):
        world = watched()
        willing(world, delay=10, expiry=60)
        after = world.crash()
        after.advance(5_000)
        after.connected("c", clean=clean, session_expiry_interval=60)
        after.advance(1)
        assert said(after) == expected
        after.advance(100_000)
        third = after.crash()
        third.advance(100_000)
        assert said(third) == []


def test_who_comes_back_before_its_will_was_said_does_not_take_back_one_that_is_due():
    world = watched()
    willing(world)
    after = world.crash()
    client = after.client()
    client.connect("c", will=Will(b"will/x", b"again", 2))
    assert said(after) == [b"gone"]
    client.vanish()
    assert said(after) == [b"again"]
    world = watched()
    willing(world, delay=10, expiry=60).vanish()
    world.clock.advance(30_000)
    after = world.crash()
    assert after.client().connect("c", **KEPT).session_present
    assert said(after) == [b"gone"]


def test_a_goodbye_takes_the_will_out_of_the_log_and_disconnect_4_says_it_once():
    for code, expected in ((0, []), (4, [b"gone"])):
        world = watched()
        willing(world, expiry=60).disconnect(code)
        assert kept_rows(world) == 0
        after = world.crash()
        after.advance(100_000)
        assert said(after) == expected


def test_the_will_of_the_newest_connection_counts():
    world = watched()
    willing(world, expiry=60, delay=5, text=b"first")
    willing(world, expiry=60, delay=5, text=b"second")
    after = world.crash()
    after.advance(5_001)
    assert said(after) == [b"second"]
    world = watched()
    willing(world, expiry=60, delay=5, text=b"first")
    world.connected("c", **KEPT)
    after = world.crash()
    after.advance(100_000)
    assert said(after) == []


def test_killed_between_saying_and_commit_it_is_said_by_the_next_and_only_then():
    world = watched()
    client = willing(world)
    world.door.shut = True
    client.vanish()
    after = world.crash()
    after.advance(1)
    assert said(after) == [b"gone"]
    third = after.crash()
    third.advance(1)
    assert said(third) == []


def test_a_will_whose_session_ran_out_while_the_mesh_was_down_is_said():
    world = watched()
    willing(world, delay=3_000, expiry=10).vanish()
    world.clock.advance(60_000)
    after = world.crash()
    after.advance(1)
    assert said(after) == [b"gone"]
    assert "c" not in after.realm.standings.by_client


def test_it_keeps_options_and_properties_and_its_expiry_begins_when_it_is_said():
    world = watched()
    raw = Properties(
        will_delay_interval=10, message_expiry_interval=100, content_type="t", user_properties=[("b", "1"), ("a", "2")]
    ).encode()
    will = Will(b"will/x", b"gone", 2, True, raw, delay=10, expiry=100)
    world.connected("c", will=will, **KEPT)
    after = world.crash()
    after.advance(10_001)
    after.advance(40_000)
    watcher = after.connected("late")
    watcher.subscribe("will/x")
    (packet,) = watcher.packets()
    assert isinstance(packet, Publish)
    assert (packet.payload, packet.retain, packet.expiry) == (b"gone", True, 60)
    found = parse_properties(packet.properties, codes.PUBLISH)
    assert (found.content_type, found.user_properties) == ("t", [("b", "1"), ("a", "2")])
    assert found.will_delay_interval is None


def test_a_graceful_stop_says_wills_without_delay_and_leaves_the_others_their_time():
    world = watched()
    willing(world, "now", text=b"now")
    willing(world, "ended", delay=10, text=b"ended")
    willing(world, "later", delay=10, expiry=60, text=b"later")
    willing(world, "waits", delay=10, expiry=60, text=b"waits").vanish()
    world.advance(4_000)
    world.broker.say_goodbye()
    world.advance(20_000)
    after = world.restart()
    after.advance(1)
    assert said(after) == [b"now", b"ended", b"waits", b"later"]
    world = watched()
    willing(world, "later", delay=10, expiry=60, text=b"later")
    after = world.restart()
    after.advance(5_000)
    assert said(after) == []
    after.connected("later", clean=False, session_expiry_interval=60)
    after.advance(100_000)
    assert said(after) == []


def test_nothing_is_written_for_who_has_no_will():
    world = World()
    before = world.metrics.commits
    client = world.connected("c")
    client.vanish()
    world.connected("c").disconnect()
    assert world.metrics.commits == before
    assert kept_rows(world) == 0


TOKEN, DIGEST = new_token()
DENY = RuleSettings(effect="deny", who=("@bad",), actions=("publish",), filters=("will/#",))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((), [], [b"gone"]),
        (("bad",), [()], [b"gone"]),
        ((), [("bad",)], []),
        # A user who is configured no more is judged without the groups it had.
        (("bad",), [], [b"gone"]),
    ],
)
def test_the_gate_judges_by_the_rules_and_groups_of_the_mesh_that_says_it(
    before: tuple[str, ...], now: list[tuple[str, ...]], expected: list[bytes]
):
    def users(groups: list[tuple[str, ...]]) -> LoginSettings:
        return LoginSettings(users=tuple(UserSettings(name="u", tokens=(DIGEST,), groups=some) for some in groups))

    world = watched(login=users([before]))
    willing(world, username="u", password=TOKEN.encode())
    after = world.crash(gate=GateSettings(rules=(DENY,)), login=users(now))
    after.advance(1)
    assert said(after) == expected
    assert kept_rows(after) == 0

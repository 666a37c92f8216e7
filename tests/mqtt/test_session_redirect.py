"""Clients sent to another server: by the configuration, and by the administration while the mesh runs."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.packets import Connack, Connect, Disconnect, Will
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.credentials import hash_password
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.redirects import Redirect, reference_problem
from dragoman.routing.refusals import Refusal
from tests.mqtt.wire import Client, World, pub

THERE = "b.example:1883 [2001:db8::7]:8883"


def begin(world: World, to: str = THERE, *, permanent: bool = False, per_s: int = 1_000_000) -> None:
    assert isinstance(world.broker.redirects.begin(to, permanent=permanent, by="root", per_s=per_s), Redirect)
    world.turn()


def sent(client: Client, code: int, to: str | None = THERE) -> None:
    (packet,) = client.packets()
    assert isinstance(packet, Disconnect)
    assert (packet.code, packet.properties.server_reference) == (code, to)
    assert client.closed


# -- who comes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("permanent", "code"), [(False, 0x9C), (True, 0x9D)])
def test_who_comes_is_told_where_to_go(permanent: bool, code: int) -> None:
    world = World(MqttSettings(redirect_to=THERE, redirect_permanent=permanent))
    client = world.client()
    answer = client.connect("c", will=Will(b"will", b"gone"))
    assert (answer.code, answer.properties.server_reference) == (code, THERE)
    assert client.closed
    assert world.realm.redirected_total == 1
    assert not world.realm.standings.by_client
    for version in (3, 4):
        client = world.client(version)
        assert client.connect("c").code == 3
        assert client.closed


def test_nobody_is_asked_who_it_is_before() -> None:
    users = (UserSettings(name="ann", password=hash_password(b"right")),)
    world = World(MqttSettings(redirect_to=THERE), login=LoginSettings(users=users, anonymous="never"))
    assert world.client().connect("c").code == 0x9C


@pytest.mark.parametrize(
    ("own", "permanent", "expected"),
    [
        (None, False, (0x9C, THERE)),
        ("", False, (0, None)),
        ("c.example", False, (0x9C, "c.example")),
        ("c.example", True, (0x9D, "c.example")),
    ],
)
def test_a_listener_has_its_own_word(own: str | None, permanent: bool, expected: tuple[int, str | None]) -> None:
    listener = ListenerSettings("here", "127.0.0.1:0", redirect_to=own, redirect_permanent=permanent)
    answer = World(MqttSettings(redirect_to=THERE), listener=listener).client().connect()
    assert (answer.code, answer.properties.server_reference) == expected


def test_the_reference_gives_way_to_the_clients_maximum_packet_size() -> None:
    world = World(MqttSettings(redirect_to="x" * 100))
    for most, told in ((100, None), (200, "x" * 100)):
        answer = world.client().connect(maximum_packet_size=most)
        assert (answer.code, answer.properties.server_reference) == (0x9C, told)


# -- who is here -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("permanent", "code"), [(False, 0x9C), (True, 0x9D)])
def test_who_is_here_is_told_too_and_its_will_is_said(permanent: bool, code: int) -> None:
    world = World()
    client = world.connected("c", will=Will(b"will", b"gone"))
    old = world.connected("old", 4)
    delayed = Properties(will_delay_interval=5).encode()
    kept = world.connected("k", session_expiry_interval=100, will=Will(b"will", b"late", properties=delayed))
    kept.subscribe("a", qos=1)
    begin(world, permanent=permanent)
    sent(client, code)
    sent(kept, code)
    old.expect(closed=True)
    assert world.realm.redirected_total == 3
    assert world.client().connect("new").code == code
    world.broker.redirects.end()
    watcher = world.connected("w")
    watcher.subscribe("will")
    world.advance(5_100)
    watcher.expect(pub("will", b"late"))
    assert world.client().connect("k", clean=False, session_expiry_interval=100).session_present


def test_a_will_goes_to_who_is_not_sent_away_yet() -> None:
    world = World()
    world.connected("c", will=Will(b"will", b"gone"))
    watcher = world.connected("w")
    watcher.subscribe("will")
    begin(world, per_s=10)
    watcher.expect(pub("will", b"gone"))


def test_so_many_a_second_the_longest_here_first() -> None:
    world = World()
    clients = [world.connected(f"c{number}") for number in range(50)]
    begin(world, per_s=100)
    assert sum(client.closed for client in clients) == 10
    assert [client.closed for client in clients[:11]] == [True] * 10 + [False]
    assert world.broker.redirects.waiting == 40
    world.advance(202)
    assert sum(client.closed for client in clients) == 30
    clients[40].disconnect()
    world.advance(400)
    assert all(client.closed for client in clients)
    assert world.broker.redirects.waiting == 0
    assert world.realm.redirected_total == 49


def test_a_slow_pace_is_kept_over_seconds() -> None:
    world = World()
    clients = [world.connected(f"c{number}") for number in range(3)]
    begin(world, per_s=1)
    gone = []
    for _ in range(4):
        gone.append(sum(client.closed for client in clients))
        world.advance(1_010)
    assert gone == [0, 1, 2, 3]


def test_lifted_in_the_middle_the_others_stay_and_begun_anew_they_go_elsewhere() -> None:
    world = World()
    clients = [world.connected(f"c{number}") for number in range(4)]
    begin(world, per_s=10)
    world.broker.redirects.end()
    world.advance(5_000)
    assert [client.closed for client in clients] == [True, False, False, False]
    assert world.client().connect("d").code == 0
    begin(world, per_s=10)
    begin(world, "c.example", per_s=10_000)
    sent(clients[1], 0x9C)
    sent(clients[3], 0x9C, "c.example")


def test_one_client_alone() -> None:
    world = World()
    one, other = world.connected("one"), world.connected("other")
    session = one.connection.session
    assert session is not None
    session.redirect(Redirect(THERE, permanent=True))
    sent(one, 0x9D)
    session.redirect(Redirect(THERE))
    assert not other.closed
    assert world.realm.redirected_total == 1
    assert world.client().connect("one").code == 0


def test_who_is_being_checked_when_it_begins_is_told_after_that() -> None:
    users = (UserSettings(name="ann", password=hash_password(b"right")),)
    world = World(login=LoginSettings(users=users))
    client = world.client()
    client.say(Connect(5, "c", True, 0, "ann", b"right"))
    begin(world)
    world.login()
    (answer,) = client.packets()
    assert isinstance(answer, Connack)
    assert (answer.code, answer.properties.server_reference) == (0x9C, THERE)


# -- what a reference is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("b.example", True),
        (THERE, True),
        ("x" * 1_024, True),
        ("", False),
        (" b.example", False),
        ("b.example  c.example", False),
        ("b.example\n", False),
        ("x" * 1_025, False),
    ],
)
def test_what_names_servers(text: str, fine: bool) -> None:
    assert (reference_problem(text) is None) is fine
    world = World()
    begun = world.broker.redirects.begin(text, permanent=False, by="root", per_s=1)
    assert isinstance(begun, Refusal) is not fine
    assert (world.broker.redirects.current is not None) is fine

"""Bans and kicks as MQTT clients meet them: at the socket, at CONNECT, and while they are connected."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import Connack, Connect, Disconnect, Puback, Will
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.credentials import hash_password
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.refusals import Reason, Refusal
from tests.mqtt.wire import World, pub

BANNED, NOT_AUTHORIZED, ADMINISTRATIVE_ACTION = 0x8A, 5, 0x98


def ban(world: World, kind: str, who: str, duration_ms: int = 0, reason: str = "") -> None:
    answer = world.broker.bans.add(kind, who, reason=reason, by="root", duration_ms=duration_ms)
    assert not isinstance(answer, Refusal), answer
    world.turn()


def code(world: World, client_id: str, version: int = 5, host: str = "127.0.0.1", **options: object) -> int:
    client = world.client(version, host)
    client.say(Connect(version, client_id, True, 0, **options))  # type: ignore[arg-type]
    (packet,) = client.packets()
    assert isinstance(packet, Connack)
    assert client.closed == (packet.code != 0)
    return packet.code


@pytest.mark.parametrize(("version", "said"), [(3, NOT_AUTHORIZED), (4, NOT_AUTHORIZED), (5, BANNED)])
def test_a_banned_client_is_told_so_and_the_others_are_not(version: int, said: int):
    world = World()
    ban(world, "client", "noisy")
    assert code(world, "noisy", version) == said
    assert code(world, "quiet", version) == 0
    assert world.broker.bans.refused_total == 1


def test_a_ban_turns_out_who_is_connected_with_its_will_and_keeps_its_session():
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("wills")
    noisy = world.connected("noisy", will=Will(b"wills", b"gone"), session_expiry_interval=100)
    other = world.connected("other")
    ban(world, "client", "noisy")
    noisy.expect(Disconnect(ADMINISTRATIVE_ACTION), closed=True)
    watcher.expect(pub("wills", b"gone"))
    other.expect()
    assert [kept.id for kept in world.realm.standings.listed()] == ["noisy"]


def test_a_banned_client_takes_nobody_over():
    world = World()
    first = world.connected("noisy")
    world.broker.bans._followers.clear()
    ban(world, "client", "noisy")
    assert code(world, "noisy") == BANNED
    first.expect()


def test_where_agents_are_user_names_the_client_id_is_banned_all_the_same():
    users = (UserSettings("ann", hash_password(b"secret")),)
    world = World(MqttSettings(agents_from_username=True), login=LoginSettings(users=users))
    one = world.client()
    one.say(Connect(5, "noisy", True, 0, "ann", b"secret"))
    world.login()
    assert one.packets(1)
    ban(world, "client", "noisy")
    one.expect(Disconnect(ADMINISTRATIVE_ACTION), closed=True)
    assert code(world, "noisy", username="ann", password=b"secret") == BANNED
    assert code(world, "other", username="ann", password=b"secret") == 0
    ban(world, "client", "ann")
    assert code(world, "third", username="ann", password=b"secret") == BANNED


def test_a_banned_user_is_refused_at_login_under_any_client_id():
    users = (UserSettings("ann", hash_password(b"a")), UserSettings("bob", hash_password(b"b")))
    world = World(login=LoginSettings(users=users))
    ann = world.client()
    ann.say(Connect(5, "x", True, 0, "ann", b"a"))
    world.login()
    assert ann.packets(1)
    ban(world, "principal", "ann")
    ann.expect(Disconnect(ADMINISTRATIVE_ACTION), closed=True)
    assert code(world, "y", username="ann", password=b"a") == BANNED
    bob = world.client()
    bob.say(Connect(5, "z", True, 0, "bob", b"b"))
    world.login()
    (packet,) = bob.packets()
    assert isinstance(packet, Connack)
    assert packet.code == 0


def test_a_banned_address_is_turned_away_before_a_byte_is_read_and_counted():
    world = World(login=LoginSettings(anonymous="always"))
    inside = world.client(5, "192.0.2.77")
    inside.connect("inside")
    unsaid = world.client(5, "192.0.2.78")
    beside = world.client(5, "192.0.3.1")
    beside.connect("beside")
    ban(world, "address", "192.0.2.0/24")
    inside.expect(Disconnect(ADMINISTRATIVE_ACTION), closed=True)
    assert unsaid.closed
    beside.expect()
    before = world.realm.counters.turned_away
    assert world.client(5, "192.0.2.1").transport.aborted
    assert world.client(5, "::ffff:192.0.2.1").transport.aborted
    assert world.realm.counters.turned_away == before + 2
    assert code(world, "elsewhere", host="198.51.100.1") == 0


@pytest.mark.parametrize(
    ("block", "host", "inside"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7/24", "192.0.2.8", True),
        ("2001:db8::/32", "2001:db8:1::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("::ffff:192.0.2.0/120", "192.0.2.9", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("0.0.0.0/0", "", False),
        ("0.0.0.0/0", "a unix socket", False),
    ],
)
def test_blocks_of_addresses(block: str, host: str, inside: bool):
    world = World()
    ban(world, "address", block)
    assert (world.broker.bans.address(host) is not None) is inside


def test_a_ban_ends_with_its_time_and_is_forgotten_by_the_log():
    world = World(durable=True)
    ban(world, "client", "noisy", duration_ms=10_000)
    ban(world, "address", "192.0.2.0/24", duration_ms=5_000)
    world.advance(4_000)
    assert code(world, "noisy") == BANNED
    world = world.crash()
    assert code(world, "noisy") == BANNED
    assert world.client(5, "192.0.2.1").transport.aborted
    world.advance(1_000)
    assert not world.client(5, "192.0.2.1").closed
    assert [b.who for b in world.broker.bans.listed()] == ["noisy"]
    world.advance(5_000)
    assert code(world, "noisy") == 0
    world = world.crash()
    assert len(world.broker.bans) == 0


def test_a_lifted_ban_stays_lifted():
    world = World(durable=True)
    for kind, who in (("client", "noisy"), ("client", "x" * 1_000), ("address", "10.0.0.0/8")):
        ban(world, kind, who)
    assert not isinstance(world.broker.bans.remove("address", "10.9.9.9/8"), Refusal)
    assert not isinstance(world.broker.bans.remove("client", "x" * 1_000), Refusal)
    world.turn()
    world = world.crash()
    assert [b.who for b in world.broker.bans.listed()] == ["noisy"]
    gone = world.broker.bans.remove("client", "x" * 1_000)
    assert isinstance(gone, Refusal)
    assert gone.reason is Reason.GONE
    assert world.broker.bans.address("10.1.2.3") is None


def test_there_is_an_end_to_bans_and_the_old_ones_make_room():
    world = World(broker=BrokerSettings(bans_max=2))
    ban(world, "client", "a", duration_ms=1_000)
    ban(world, "client", "b")
    ban(world, "client", "b", reason="again")
    full = world.broker.bans.add("client", "c", reason="", by="root", duration_ms=0)
    assert isinstance(full, Refusal)
    assert full.reason is Reason.QUOTA_EXCEEDED
    world.advance(1_000)
    ban(world, "client", "c")
    assert [(b.who, b.reason) for b in world.broker.bans.listed()] == [("b", "again"), ("c", "")]


@pytest.mark.parametrize(
    ("kind", "who"),
    [("client", ""), ("client", "a\0b"), ("client", "x" * 1_025), ("principal", "embedded"), ("principal", "$mesh")]
    + [("address", who) for who in ("", "nowhere", "192.0.2.0/33", "300.1.1.1")],
)
def test_what_cannot_be_banned(kind: str, who: str):
    refusal = World().broker.bans.add(kind, who, reason="", by="root", duration_ms=0)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.ARGUMENTS_INVALID


def test_a_kick_says_why_and_only_forgetting_ends_the_session():
    world = World()
    client = world.connected("c", session_expiry_interval=1_000)
    client.subscribe("a", qos=1)
    session = client.connection.session
    assert session is not None
    session.close(Refusal(Reason.DISCONNECTED, "out"))
    client.expect(Disconnect(ADMINISTRATIVE_ACTION), closed=True)
    back = world.client()
    assert back.connect("c", clean=False, session_expiry_interval=1_000).session_present
    back.vanish()
    assert world.realm.standings.forget("c")
    assert not world.realm.standings.forget("c")
    again = world.client()
    assert not again.connect("c", clean=False, session_expiry_interval=1_000).session_present
    again.publish("a", b"", 1)
    again.expect(Puback(1, 0x10))


@pytest.mark.parametrize(("kind", "who"), [("client", "noisy"), ("principal", "ann"), ("address", "192.0.2.0/24")])
def test_a_ban_that_is_over_is_none_that_could_be_lifted(kind: str, who: str):
    world = World()
    bans = world.broker.bans
    ban(world, kind, who, duration_ms=1_000)
    world.advance(1_000)
    gone = bans.remove(kind, who)
    assert isinstance(gone, Refusal)
    assert gone.reason is Reason.GONE
    ban(world, kind, who, duration_ms=1_001)
    world.advance(1_000)
    assert not isinstance(bans.remove(kind, who), Refusal)
    assert bans.listed() == []

"""How an MQTT connection begins: CONNECT, login, session expiry, takeover, and what is left of it."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.encoders import PINGREQ, encode_connect
from dragoman.adapters.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Subscribe,
    Subscription,
    Will,
)
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.credentials import hash_password
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import World, at, facts, pub

NEVER = 0xFFFF_FFFF
LIMITS = {"receive_maximum": 1_024, "maximum_packet_size": 16 << 20, "topic_alias_maximum": 16}


def connack(present: bool = False, **properties: object) -> Connack:
    """A CONNACK of success in 5.0: what is always said and what this one adds."""
    return Connack(present, 0, Properties(**LIMITS, **properties))  # type: ignore[arg-type]


# -- CONNECT ---------------------------------------------------------------------------------------


def test_connack_of_5_tells_our_limits_and_nothing_that_is_default():
    client = World().client()
    client.say(Connect(5, "c", True))
    client.expect(connack())


def test_who_speaks_mcp_is_told_what_others_take_for_granted():
    client = World().client()
    said = [("MCP-COMPONENT-TYPE", "mcp-client")]
    client.say(Connect(5, "c", True, properties=Properties(user_properties=said)))
    client.expect(connack(retain_available=1, wildcard_subscription_available=1))


@pytest.mark.parametrize("version", [3, 4])
def test_connack_before_5_is_two_bytes(version: int):
    client = World().client(version)
    client.say(Connect(version, "c", True))
    client.expect(Connack())
    assert client.transport.got == b"\x20\x02\x00\x00"


def test_topic_alias_maximum_is_absent_where_none_are_taken():
    answer = World(mqtt=MqttSettings(topic_alias_max=0)).client().connect("c", topic_alias_maximum=10)
    assert answer.properties.topic_alias_maximum is None


def test_empty_client_id_in_5_is_given_one_that_is_told_and_unique():
    world = World()
    ids = [world.client().connect("", clean=clean).properties.assigned_client_identifier for clean in (True, False)]
    assert all(ids)
    assert len(set(ids)) == 2
    assert set(world.realm.standings.by_client) == set(ids)


def test_empty_client_id_in_311_is_taken_with_clean_session_only():
    world = World()
    assert world.client(4).connect("", clean=True).code == 0
    client = world.client(4)
    client.say(Connect(4, "", False))
    client.expect(Connack(False, 2), closed=True)


def test_31_needs_a_client_id():
    client = World().client(3)
    client.say(Connect(3, "", True))
    client.expect(Connack(False, 2), closed=True)


def test_first_packet_that_is_no_connect_closes_without_a_word():
    for data in (PINGREQ, b"\x30\x03\x00\x01a", b"\xe0\x00", b"\x82\x06\x00\x01\x00\x01a\x00"):
        client = World().client()
        client.raw(data)
        client.expect(closed=True)


def test_second_connect_is_a_protocol_error_and_the_will_goes_out():
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("will")
    client = world.connected("c", will=Will(b"will", b"gone"))
    client.say(Connect(5, "c", True))
    client.expect(Disconnect(0x82), closed=True)
    watcher.expect(pub("will", b"gone"))


@pytest.mark.parametrize(
    ("name", "level", "answer"),
    [(b"MQTT", 6, b"\x20\x03\x00\x84"), (b"MQTT", 99, b"\x20"), (b"MQTT", 2, b"\x20\x02\x00\x01")],
)
def test_unknown_protocol_level_is_told_in_the_nearest_version(name: bytes, level: int, answer: bytes):
    client = World().client()
    body = len(name).to_bytes(2, "big") + name + bytes((level, 2, 0, 0)) + b"\x00\x01c"
    client.raw(bytes((0x10, len(body))) + body)
    assert client.transport.got[0] == answer[0]
    if level >= 5:
        assert client.transport.got[3] == 0x84
    else:
        assert client.transport.got == answer
    assert client.closed


def test_a_foreign_protocol_name_gets_no_answer():
    client = World().client()
    client.raw(b"\x10\x0b\x00\x02hj\x05\x02\x00\x00\x00\x00\x01c")
    assert not client.transport.got
    assert client.closed


def test_a_client_id_that_no_agent_can_have_is_refused():
    client = World().client()
    client.say(Connect(5, "x" * 2_000, True))
    client.expect(Connack(False, 0x85), closed=True)
    client = World().client(4)
    client.say(Connect(4, "x" * 2_000, True))
    client.expect(Connack(False, 2), closed=True)


def test_zero_limits_of_the_client_are_a_protocol_error():
    for properties in (b"\x21\x00\x00", b"\x27\x00\x00\x00\x00"):
        body = b"\x00\x04MQTT\x05\x02\x00\x00" + bytes((len(properties),)) + properties + b"\x00\x01c"
        client = World().client()
        client.raw(bytes((0x10, len(body))) + body)
        client.expect(Connack(False, 0x82), closed=True)


def test_what_follows_connect_in_the_same_bytes_is_done_after_it():
    client = World().client()
    client.say(Connect(5, "c", True), Subscribe(9, [Subscription("a")]), pub("a", b"x"), Pingreq())
    got = [facts(packet)[0] for packet in client.packets()]
    assert got == ["Connack", "Suback", "Publish", "Pingresp"]


def test_what_is_good_before_a_fault_in_the_same_bytes_is_done():
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("a")
    client = world.client()
    client.raw(encode_connect(Connect(5, "c", True)) + b"\x30\x05\x00\x01a\x00x" + b"\x36\x00")
    watcher.expect(pub("a", b"x"))
    client.expect(connack(), Disconnect(0x81), closed=True)


# -- who it is -------------------------------------------------------------------------------------

PASSWORD = hash_password(b"right")
USERS = LoginSettings(users=(UserSettings(name="ann", password=PASSWORD),), anonymous="never")


class SlowLogin:
    """An authenticator whose answer comes when the test says so."""

    def __init__(self, world: World) -> None:
        self.waiting: list[object] = []
        world.realm.authenticator = self  # type: ignore[assignment]

    def check(self, credentials: object, then: object) -> None:
        self.waiting.append(then)

    def close(self) -> None: ...


def login(version: int, username: str | None, password: bytes | None) -> tuple[int, bool]:
    world = World(login=USERS)
    client = world.client(version)
    client.say(Connect(version, "c", True, 0, username, password))
    if username is not None:
        world.login()
    packets = client.packets()
    assert len(packets) == 1
    assert isinstance(packets[0], Connack)
    return packets[0].code, client.closed


@pytest.mark.parametrize(
    ("username", "password", "in_5", "in_4"),
    [("ann", b"right", 0, 0), ("ann", b"wrong", 0x86, 4), ("bob", b"right", 0x86, 4), (None, None, 0x86, 4)],
)
def test_user_name_and_password(username: str | None, password: bytes | None, in_5: int, in_4: int):
    assert login(5, username, password) == (in_5, in_5 != 0)
    assert login(4, username, password) == (in_4, in_4 != 0)


def test_packets_sent_ahead_of_a_slow_login_wait_for_it_and_a_refusal_drops_them():
    from dragoman.broker.principal import Principal
    from dragoman.routing.refusals import Reason, Refusal

    for outcome, expected in (
        (Principal("ann"), ["Connack", "Suback", "Publish"]),
        (Refusal(Reason.NOT_AUTHENTICATED, "no"), ["Connack"]),
    ):
        world = World()
        watcher = world.connected("w")
        watcher.subscribe("a")
        slow = SlowLogin(world)
        client = world.client()
        client.say(Connect(5, "c", True), Subscribe(1, [Subscription("a")]), pub("a", b"x"))
        assert client.packets() == []
        assert not client.transport.reading, "it is not read while its password is checked"
        slow.waiting[0](outcome)  # type: ignore[operator]
        assert [type(packet).__name__ for packet in client.packets()] == expected
        assert client.closed is (len(expected) == 1)
        watcher.expect(*[pub("a", b"x")] * (len(expected) > 1))
    world = World()
    watcher, client = world.connected("w"), world.client()
    watcher.subscribe("a")
    client.say(Connect(5, "x" * 2_000, True), Subscribe(1, [Subscription("a")]), pub("a", b"x"), Pingreq())
    client.expect(Connack(False, 0x85), closed=True)
    watcher.expect()


def test_more_packets_ahead_of_a_slow_login_than_we_hold_are_refused():
    from dragoman.broker.principal import Principal

    for ahead, codes in ((64, [0]), (65, [0x97])):
        world = World()
        slow = SlowLogin(world)
        client = world.client()
        client.say(Connect(5, "c", True), *[Pingreq()] * ahead)
        slow.waiting[0](Principal("ann"))  # type: ignore[operator]
        packets = client.packets()
        assert [packet.code for packet in packets if isinstance(packet, Connack)] == codes
        assert len(packets) == (1 + ahead if codes == [0] else 1)
        assert client.closed is (codes != [0])


def test_a_client_that_leaves_while_its_password_is_checked_leaves_nothing():
    from dragoman.broker.principal import Principal

    world = World()
    slow = SlowLogin(world)
    client = world.client()
    client.say(Connect(5, "c", True))
    client.vanish()
    slow.waiting[0](Principal("ann"))  # type: ignore[operator]
    world.turn()
    assert not world.realm.standings.by_client
    assert not list(world.broker.sessions())


def test_a_client_id_in_use_by_another_user_is_refused_not_taken_over():
    users = LoginSettings(
        users=(
            UserSettings(name="ann", password=PASSWORD),
            UserSettings(name="bob", password=PASSWORD),
        ),
        anonymous="never",
    )
    world = World(login=users)
    first = world.client()
    first.say(Connect(5, "c", True, 0, "ann", b"right"))
    world.login()
    second = world.client()
    second.say(Connect(5, "c", True, 0, "bob", b"right"))
    world.login()
    first.expect(connack())
    second.expect(Connack(False, 0x85), closed=True)


def test_connect_deadline_cuts_who_says_nothing():
    world = World()
    client = world.client()
    world.advance(9_999)
    assert not client.closed
    world.advance(2)
    client.expect(closed=True)


@pytest.mark.parametrize(("version", "code"), [(5, 0x89), (4, 3), (3, 3)])
def test_connect_deadline_tells_who_has_said_connect_that_we_are_too_slow(version: int, code: int):
    world = World()
    world.connected("c", session_expiry_interval=60).disconnect()
    world.door.shut = True
    client = world.client(version)
    client.say(Connect(version, "c", True))
    world.advance(9_999)
    client.expect()
    world.advance(2)
    client.expect(Connack(False, code), closed=True)
    world.commit()
    client.expect(closed=True)
    world.door.shut = False
    assert world.client(version).connect("c").code == 0


# -- sessions --------------------------------------------------------------------------------------


def test_session_present_only_when_resumed_and_clean_start_wipes():
    world = World()
    first = world.connected("c", session_expiry_interval=60)
    first.subscribe("a", qos=1)
    first.disconnect()
    again = world.client()
    again.say(Connect(5, "c", False, properties=Properties(session_expiry_interval=60)))
    again.expect(connack(present=True))
    again.disconnect()
    fresh = world.client()
    fresh.say(Connect(5, "c", True, properties=Properties(session_expiry_interval=60)))
    fresh.expect(connack())
    fresh.say(pub("a", b"x", 1, 1))
    fresh.expect(Puback(1, 0x10))


def test_without_expiry_a_session_ends_with_its_connection():
    world = World()
    client = world.connected("c", clean=False)
    client.subscribe("a", qos=1)
    client.disconnect()
    assert not world.realm.standings.by_client
    again = world.client()
    again.say(Connect(5, "c", False))
    again.expect(connack())


def test_expiry_is_cut_to_our_limit_and_told():
    world = World(MqttSettings(session_expiry_s_max=100))
    for asked, told in ((50, None), (100, None), (101, 100), (NEVER, 100), (0, None)):
        answer = world.client().connect("c", session_expiry_interval=asked)
        assert answer.properties.session_expiry_interval == told, asked


def test_expiry_never_where_it_is_allowed():
    world = World(MqttSettings(session_expiry_s_max=NEVER), BrokerSettings(sweep_ms=1 << 40))
    answer = world.client().connect("c", session_expiry_interval=NEVER)
    assert answer.properties.session_expiry_interval is None
    world.clients[0].disconnect()
    world.advance(400 * 24 * 3_600_000)
    assert world.client().connect("c", clean=False, session_expiry_interval=NEVER).session_present


def test_session_expires_by_the_clock_and_not_before():
    for wait_ms, present in ((59_999, True), (60_001, False)):
        world = World()
        world.connected("c", session_expiry_interval=60).disconnect()
        world.advance(wait_ms)
        assert world.client().connect("c", clean=False).session_present is present


def test_time_connected_does_not_count_towards_expiry():
    world = World()
    client = world.connected("c", session_expiry_interval=60)
    world.advance(50_000)
    client.disconnect()
    world.advance(50_000)
    client = world.client()
    assert client.connect("c", clean=False, session_expiry_interval=60).session_present
    world.advance(200_000)
    client.vanish()
    world.advance(59_000)
    assert world.client().connect("c", clean=False).session_present


def test_311_clean_session_0_keeps_as_long_as_we_allow():
    world = World(MqttSettings(session_expiry_s_max=100))
    client = world.connected("c", 4, clean=False)
    client.disconnect()
    world.advance(99_000)
    again = world.client(4)
    assert again.connect("c", clean=False).session_present
    again.disconnect()
    world.advance(101_000)
    assert not world.client(4).connect("c", clean=False).session_present


def test_expiry_may_change_at_disconnect_but_not_rise_from_zero():
    world = World()
    client = world.connected("c", session_expiry_interval=10)
    client.disconnect(session_expiry_interval=1_000)
    world.advance(500_000)
    again = world.client()
    assert again.connect("c", clean=False, session_expiry_interval=1_000).session_present
    again.disconnect(session_expiry_interval=0)
    assert not world.realm.standings.by_client
    assert not world.client().connect("c", clean=False).session_present
    last = world.connected("d")
    last.disconnect(session_expiry_interval=5)
    last.expect(Disconnect(0x82), closed=True)


def test_a_session_of_one_user_is_not_resumed_by_another():
    world = World()
    world.connected("c", session_expiry_interval=60).disconnect()
    world.realm.standings.by_client["c"].principal = "somebody else"
    client = world.client()
    client.say(Connect(5, "c", False))
    client.expect(Connack(False, 0x85), closed=True)


def test_sessions_max_refuses_new_clients_and_lets_known_ones_back():
    world = World(MqttSettings(sessions_max=1))
    client = world.connected("c", session_expiry_interval=60)
    other = world.client()
    other.say(Connect(5, "d", True))
    other.expect(Connack(False, 0x97), closed=True)
    client.disconnect()
    assert world.client().connect("c", clean=False).session_present


# -- takeover --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_takeover_ends_the_old_connection_before_the_new_one_is_told(version: int):
    world = World()
    old = world.connected("c", version)
    old.subscribe("a")
    new = world.connected("c", version)
    old.expect(*([Disconnect(0x8E)] if version == 5 else []), closed=True)
    new.say(pub("a", b"x"))
    new.expect()


def test_takeover_across_versions():
    world = World()
    old = world.connected("c", 4, clean=False)
    old.subscribe("a", qos=1)
    new = world.client(5)
    assert new.connect("c", clean=False, session_expiry_interval=60).session_present
    old.expect(closed=True)
    new.publish("a", b"x", 1)
    new.expect(pub("a", b"x", 1, at(1)), Puback(1))


@pytest.mark.parametrize(
    ("delay", "expiry", "clean", "expected"),
    [
        (0, 60, False, "at once"),
        (0, 60, True, "at once"),
        (10, 60, False, "never"),
        (10, 60, True, "at once"),
        (10, 0, False, "at once"),
        (10, 0, True, "at once"),
    ],
)
def test_will_at_takeover(delay: int, expiry: int, clean: bool, expected: str):
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("will")
    raw = Properties(will_delay_interval=delay).encode() if delay else b""
    world.connected("c", will=Will(b"will", b"gone", properties=raw), session_expiry_interval=expiry)
    world.connected("c", clean=clean, session_expiry_interval=expiry)
    watcher.expect(*([pub("will", b"gone")] if expected == "at once" else []))
    world.advance(100_000)
    watcher.expect()


# -- odds and ends ---------------------------------------------------------------------------------


def test_ping():
    client = World().connected("c")
    client.say(Pingreq())
    client.expect(Pingresp())


def test_shutdown_is_told_in_5():
    world = World()
    new, old = world.connected("n"), world.connected("o", 4)
    world.broker.say_goodbye()
    world.turn()
    new.expect(Disconnect(0x8B), closed=True)
    old.expect(closed=True)
    late = world.client()
    late.say(Connect(5, "l", True))
    late.expect(Connack(False, 0x88), closed=True)


def test_nothing_is_left_of_a_connection():
    world = World()
    client = world.connected("c", keepalive=10, will=Will(b"w", b""))
    client.subscribe("a", "b/#", qos=2)
    client.vanish()
    assert not list(world.broker.sessions())
    assert not world.realm.standings.by_client
    assert world.metrics.wire("mqtt").open == 0
    assert not world.listener.connections

"""What no other test shows of MQTT 5.0 on acknowledgements, DISCONNECT and AUTH; docs/mqtt-conformance.md has all."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.codes import FROM_SERVER
from dragoman.adapters.mqtt.packets import (
    Disconnect,
    Pingreq,
    Puback,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Will,
)
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from tests.mqtt.wire import Client, World, pub

DENIED = GateSettings(rules=(RuleSettings(effect="deny", actions=("publish", "read"), filters=("secret/#",)),))


# -- fixed headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "right", "rest"),
    [
        (0x40, 0, "02 0001"),
        (0x50, 0, "02 0001"),
        (0x60, 2, "02 0001"),
        (0x70, 0, "02 0001"),
        (0x80, 2, "07 0001 00 0001 61 00"),
        (0xA0, 2, "06 0001 00 0001 61"),
        (0xC0, 0, "00"),
        (0xE0, 0, "00"),
        (0xF0, 0, "00"),
    ],
)
def test_reserved_bits_end_the_connection(kind: int, right: int, rest: str) -> None:
    """[2.1.3-1] [3.6.1-1] [3.8.1-1] [3.10.1-1] [3.14.1-1] [3.15.1-1]: every value but the right one, with the will."""
    for bits in set(range(16)) - {right}:
        world = World()
        watcher = world.connected("w")
        watcher.subscribe("will")
        client = world.connected("c", will=Will(b"will", b"gone"))
        client.raw(bytes((kind | bits,)) + bytes.fromhex(rest))
        client.expect(Disconnect(0x81), closed=True)
        watcher.expect(pub("will", b"gone"))


# -- what an acknowledgement says --------------------------------------------------------------------


def answers(most: int | None, **options: int) -> list[tuple[bytes, object]]:
    """Each kind of acknowledgement there is, from a mesh that has something to say, and its bytes."""
    found = []
    for say in (
        lambda client: client.publish("secret/x", b"", 1),
        lambda client: client.publish("secret/x", b"", 2),
        lambda client: client.say(Pubrel(5)),
        lambda client: client.say(Pubrec(6)),
        lambda client: client.say(Subscribe(1, [Subscription("secret/x")])),
        lambda client: client.unsubscribe("nothing"),
        lambda client: client.raw(b"\x00\x00"),
        lambda client: client.publish("/".join("x" * 200)),
    ):
        client = World(gate=DENIED).connected("c", maximum_packet_size=most, **options)
        before = len(client.transport.got)
        say(client)  # type: ignore[no-untyped-call]
        raw = bytes(client.transport.got[before:])
        (packet,) = client.packets()
        found.append((raw, packet))
    return found


def test_no_acknowledgement_is_made_larger_than_the_client_takes() -> None:
    """[3.4.2-2] to [3.15.2-3]: a reason string gives way, and user properties are never added."""
    free = answers(None)
    edges = {len(raw) + by for raw, _ in free for by in (-1, 0, 1)}
    for most in (18, *(edge for edge in sorted(edges) if edge > 18), None):
        told = answers(most)
        assert [(type(packet), code_of(packet)) for _, packet in told] == [(type(p), code_of(p)) for _, p in free]
        for raw, packet in told:
            assert most is None or len(raw) <= most
            assert packet.properties.user_properties == []  # type: ignore[attr-defined]
    reasons = [bool(packet.properties.reason_string) for _, packet in free]  # type: ignore[attr-defined]
    assert reasons == [True, True, False, False, False, False, True, True]


@pytest.mark.parametrize("wanted", [None, 0, 1])
def test_who_wants_no_problem_information_gets_reasons_in_disconnect_alone(wanted: int | None) -> None:
    """[3.1.2-29]: and user properties nowhere."""
    options = {} if wanted is None else {"request_problem_information": wanted}
    found = [packet for _, packet in answers(None, **options)]
    kinds = ["Puback", "Pubrec", "Pubcomp", "Pubrel", "Suback", "Unsuback", "Disconnect", "Disconnect"]
    assert sorted(type(packet).__name__ for packet in found) == sorted(kinds)
    told = {type(packet).__name__ for packet in found if packet.properties.reason_string}  # type: ignore[attr-defined]
    assert told == ({"Disconnect"} if wanted == 0 else {"Puback", "Pubrec", "Disconnect"})
    for packet in found:
        said = packet.properties  # type: ignore[attr-defined]
        said.reason_string = None
        assert not said.encode()


def test_a_refused_commit_gives_no_reason_to_who_wants_none() -> None:
    """[3.1.2-29]"""
    for wanted in (0, 1):
        world = World()
        world.connected("k", session_expiry_interval=60).subscribe("kept", qos=2)
        client = world.connected("c", request_problem_information=wanted)
        world.door.shut = True
        client.publish("kept", b"1", 1, packet_id=1)
        client.publish("kept", b"2", 2, packet_id=2)
        world.refuse()
        puback, pubrec = client.packets()
        assert isinstance(puback, Puback)
        assert isinstance(pubrec, Pubrec)
        assert (puback.code, pubrec.code) == (0x97, 0x97)
        assert bool(puback.properties.reason_string) is bool(pubrec.properties.reason_string) is bool(wanted)


def code_of(packet: object) -> list[int]:
    return packet.codes if isinstance(packet, Suback | Unsuback) else [packet.code]  # type: ignore[attr-defined]


def test_each_acknowledgement_says_a_code_of_its_own() -> None:
    """[3.4.2-1] [3.5.2-1] [3.6.2-1] [3.7.2-1] [3.9.3-2] [3.11.3-2] [3.14.2-1]"""
    said = []
    for raw, packet in answers(None):
        assert set(code_of(packet)) <= FROM_SERVER[raw[0] >> 4]
        said += code_of(packet)
    assert said == [0x87, 0x87, 0, 0x92, 0x87, 0x11, 0x81, 0x90]


# -- DISCONNECT --------------------------------------------------------------------------------------


def ended(world: World, client: Client, how: str) -> None:
    match how:
        case "taken over":
            world.connected("c", clean=False, session_expiry_interval=60)
        case "kicked":
            session = client.connection.session
            assert session is not None
            session.end(0x98, "by the operator")
            world.turn()
        case "stopped":
            world.broker.say_goodbye()
            world.turn()
        case "silent":
            world.advance(20_000)
        case "malformed":
            client.raw(b"\x00\x00")


@pytest.mark.parametrize(
    ("how", "code"), [("taken over", 0x8E), ("kicked", 0x98), ("stopped", 0x8B), ("silent", 0x8D), ("malformed", 0x81)]
)
def test_a_disconnect_of_ours_is_the_last_word_and_says_no_expiry(how: str, code: int) -> None:
    """[3.14.2-2] [3.14.4-1] [3.14.4-2] [4.13.2-1]"""
    world = World(MqttSettings(session_expiry_s_max=100))
    client = world.connected("c", session_expiry_interval=1_000, keepalive=10)
    client.subscribe("a", qos=1)
    ended(world, client, how)
    client.expect(Disconnect(code), closed=True)
    if how != "stopped":
        world.connected("p").publish("a", b"x", 1)
        client.expect(closed=True)


@pytest.mark.parametrize("code", [0, 4, 0x80, 0x81, 0x93, 0x99])
def test_nothing_is_done_after_a_disconnect_of_theirs(code: int) -> None:
    """[3.14.4-1] [3.14.4-2] [4.13.2-1]: whatever its code, and without an answer."""
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("a")
    client = world.connected("c")
    client.say(pub("a", b"1"), Disconnect(code), pub("a", b"2"), Pingreq())
    client.expect(closed=True)
    watcher.expect(pub("a", b"1"))


@pytest.mark.parametrize("code", [0, 4, 0x80, 0x93])
def test_only_a_normal_disconnect_takes_the_will_back(code: int) -> None:
    """[3.14.4-3] [3.1.2-10]"""
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("will")
    world.connected("c", will=Will(b"will", b"gone"), session_expiry_interval=60).disconnect(code)
    watcher.expect(*[pub("will", b"gone")] * (code != 0))
    world.advance(100_000)
    watcher.expect()

"""What no other test shows of MQTT 5.0 on its data, CONNECT and CONNACK; docs/mqtt-conformance.md has all."""

from __future__ import annotations

import string

import pytest

from dragoman.adapters.mqtt.encoders import encode_connack
from dragoman.adapters.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Will,
)
from dragoman.adapters.mqtt.packets import Subscription as Wanted
from dragoman.adapters.mqtt.properties import Properties
from dragoman.broker.identity import MESH_SELF
from tests.mqtt.corpus import decoder
from tests.mqtt.corpus_refused import REFUSED, Refused
from tests.mqtt.wire import World, pub

MALFORMED_CONNECTS = [case for case in REFUSED if case.version == 0 and case.raw[0] == 0x10]
LIMITS = {"receive_maximum": 1_024, "maximum_packet_size": 16 << 20, "topic_alias_maximum": 16}


def test_a_byte_order_mark_is_a_character_like_others():
    """[1.5.4-3]"""
    world = World()
    marked, plain = world.connected("\ufeffc"), world.connected("c")
    assert set(world.realm.standings.by_client) == {"\ufeffc", "c"}
    marked.subscribe("\ufeffa")
    plain.subscribe("a")
    plain.publish("\ufeffa", b"\xef\xbb\xbf", content_type="\ufeff", user_properties=[("\ufeffk", "v\ufeff")])
    marked.expect(pub("\ufeffa", b"\xef\xbb\xbf", content_type="\ufeff", user_properties=[("\ufeffk", "v\ufeff")]))
    plain.expect()


def test_a_packet_id_in_use_is_given_to_no_other_delivery():
    """[2.2.1-4] [4.3.2-1] [4.3.3-1], past the highest there is."""
    world = World()
    subscriber, publisher = world.connected("s", receive_maximum=10), world.connected("p")
    subscriber.subscribe("a", qos=2)
    publisher.publish("a", b"unacknowledged", 1, packet_id=1)
    publisher.publish("a", b"half done", 2, packet_id=2)
    subscriber.expect(pub("a", b"unacknowledged", 1, 1), pub("a", b"half done", 2, 2))
    subscriber.say(Pubrec(2))
    subscriber.expect(Pubrel(2))
    standing = world.realm.standings.by_client["s"]
    for n, given_last in enumerate((2, 0x7FFC)):
        standing.last_id = given_last
        publisher.say(*[Publish(b"a", b"", 1 + at % 2, packet_id=10 + 6 * n + at) for at in range(6)])
        packets = [packet for packet in subscriber.packets() if isinstance(packet, Publish)]
        ids = [packet.packet_id for packet in packets]
        assert len(set(ids)) == 6
        assert not {0, 1, 2} & set(ids)
        for packet in packets:
            done = Puback if packet.qos == 1 else Pubrec
            subscriber.say(done(packet.packet_id, 0x80))
    assert set(ids) == {0x7FFD, 0x7FFE, 0x7FFF, 3, 4, 5}


# -- CONNECT ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MALFORMED_CONNECTS, ids=lambda case: case.id)
def test_a_connect_of_the_wrong_form_closes(case: Refused):
    """[3.1.4-1] and all that is said of the fields of CONNECT: no session; 5.0 is told why, 3.1.1 and 3.1 nothing."""
    world = World()
    reader = decoder(0)
    reader.feed(case.raw)
    client = world.client(reader.version or 5)
    client.raw(case.raw)
    if reader.version == 5:
        client.expect(Connack(False, case.code), closed=True)
    elif reader.version and case.code == 0x84:
        client.expect(Connack(False, 1), closed=True)
    else:
        assert not client.transport.got
        assert client.closed
    assert not world.realm.standings.by_client


def test_every_client_id_of_letters_and_digits_is_taken():
    """[3.1.3-5]"""
    letters = string.digits + string.ascii_lowercase + string.ascii_uppercase
    world = World()
    for client_id in (*letters, *(letters[at : at + 23] for at in range(len(letters) - 22)), "0" * 23):
        assert world.client().connect(client_id).code == 0


@pytest.mark.parametrize("version", [3, 4, 5])
def test_longer_client_ids_are_taken_in_every_version(version: int):
    """3.1 ended at 23 characters; see docs/decisions.md."""
    assert World().client(version).connect("0" * 24).code == 0


def test_what_is_kept_is_kept_under_the_client_id():
    """[3.1.3-2] [3.1.2-6]: of two clients each finds its own."""
    world = World()
    for client_id in ("one", "two"):
        client = world.client()
        assert not client.connect(client_id, clean=False, session_expiry_interval=60).session_present
        assert set(world.realm.standings.by_client) >= {client_id}
        client.subscribe(client_id, qos=1)
        client.vanish()
    for client_id in ("one", "two"):
        client = world.client()
        assert client.connect(client_id, clean=False).session_present
        world.connected("p").publish(client_id, client_id.encode(), 1)
        (packet,) = client.packets()
        assert isinstance(packet, Publish)
        assert packet.payload == client_id.encode()


@pytest.mark.parametrize("retain", [False, True])
def test_a_will_is_retained_if_it_says_so(retain: bool):
    """[3.1.2-14] [3.1.2-15]"""
    world = World()
    watcher = world.connected("w")
    watcher.subscribe(Wanted("will", retain_as_published=True))
    world.connected("c", will=Will(b"will", b"gone", 0, retain)).vanish()
    watcher.expect(pub("will", b"gone", retain=retain))
    late = world.connected("l")
    late.subscribe("will")
    late.expect(*[pub("will", b"gone", retain=True)] * retain)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_is_said_at_its_qos(qos: int):
    """[3.1.2-12] [3.2.2-12]"""
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("will", qos=2)
    world.connected("c", will=Will(b"will", b"gone", qos)).vanish()
    watcher.expect(pub("will", b"gone", qos, qos and 1))


def test_a_will_that_was_said_is_not_said_again():
    """[3.1.2-10]"""
    world = World()
    watcher = world.connected("w")
    watcher.subscribe("will")
    world.connected("c", will=Will(b"will", b"gone"), session_expiry_interval=60).vanish()
    watcher.expect(pub("will", b"gone"))
    world.connected("c", clean=False, session_expiry_interval=60).vanish()
    world.advance(100_000)
    watcher.expect()


# -- CONNACK ---------------------------------------------------------------------------------------


def test_response_information_is_told_to_who_asks():
    """[3.1.2-28]"""
    world = World()
    for asked in (None, 0, 1):
        told = world.client().connect("c", request_response_information=asked).properties
        assert (told.response_information is not None) is (asked == 1)
        assert [name for name, _ in told.user_properties] == [MESH_SELF] * (asked == 1)


def test_a_connack_is_never_larger_than_the_client_takes():
    """[3.1.2-24] [3.2.2-19] [3.2.2-20]: first goes what was merely asked for, then the client."""
    least = len(encode_connack(5, False, 0, Properties(**LIMITS)))  # type: ignore[arg-type]
    for most, code, fuller in ((1_000, 0, True), (least + 10, 0, False), (least, 0, False), (least - 1, 0x95, False)):
        client = World().client()
        answer = client.connect("c", maximum_packet_size=most, request_response_information=1)
        assert (answer.code, client.closed) == (code, code != 0)
        assert bool(answer.properties.user_properties) is fuller
        assert len(client.transport.got) <= most
    client = World().client()
    client.say(Connect(5, "c", True, properties=Properties(maximum_packet_size=4)))
    client.expect(closed=True)


def test_who_takes_no_connack_takes_nobody_over():
    world = World()
    first = world.connected("c", session_expiry_interval=60)
    assert world.client().connect("c", maximum_packet_size=5).code == 0x95
    first.expect()


@pytest.mark.parametrize("most", [5, 30, 100, 1_000])
def test_the_reason_of_a_refusal_is_left_out_where_it_does_not_fit(most: int):
    """[3.2.2-19]"""
    client = World().client()
    client.say(Connect(5, "x" * 2_000, True, properties=Properties(maximum_packet_size=most)))
    size = len(client.transport.got)
    (packet,) = client.packets()
    assert isinstance(packet, Connack)
    assert packet.code == 0x85
    assert size <= most
    assert (packet.properties.reason_string is not None) is (most > 30)


def test_one_connack_and_before_everything_else():
    """[3.2.0-1] [3.2.0-2] [3.14.0-1]"""
    world = World()
    kept = world.connected("c", session_expiry_interval=60)
    kept.subscribe("a", qos=2)
    publisher = world.connected("p")
    publisher.publish("a", b"under way", 1)
    publisher.publish("a", b"half done", 2, packet_id=2)
    kept.say(Pubrec(1))
    assert [type(packet).__name__ for packet in kept.packets()] == ["Publish", "Publish", "Pubrel"]
    kept.disconnect()
    publisher.publish("a", b"x", 1, packet_id=3)
    client = world.client()
    connect = Connect(5, "c", False)
    client.say(connect, Subscribe(1, [Wanted("b")]))
    kinds = [type(packet) for packet in client.packets()]
    assert kinds[0] is Connack
    assert sorted(kind.__name__ for kind in kinds) == ["Connack", "Publish", "Publish", "Pubrel", "Suback"]
    client.say(connect)
    client.expect(Disconnect(0x82), closed=True)

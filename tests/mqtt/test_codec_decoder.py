"""The decoder as a whole: versions, sizes, what is held back, and the end after an error."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt import primitives
from dragoman.adapters.mqtt.codec import CLIENT, Decoder
from dragoman.adapters.mqtt.encoders import (
    PINGREQ,
    encode_auth,
    encode_connack,
    encode_connect,
    encode_disconnect,
    encode_publish,
    encode_suback,
    encode_unsuback,
    publish_parts,
)
from dragoman.adapters.mqtt.packets import Connect, Pingreq, Publish
from dragoman.adapters.mqtt.properties import Properties
from tests.mqtt.corpus import fields, wire


def fresh(**limits: int) -> Decoder:
    return Decoder(max_packet_bytes=limits.get("packet", 1000), max_connect_bytes=limits.get("connect", 100))


@pytest.mark.parametrize("version", [3, 4, 5])
def test_connect_names_the_version_for_what_follows_in_the_same_feed(version: int):
    publish = encode_publish(version, b"a", b"\x00x")
    reader = fresh()
    packets = reader.feed(encode_connect(Connect(version, "id")) + publish + PINGREQ)
    assert fields(packets) == fields([Connect(version, "id"), Publish(b"a", b"\x00x"), Pingreq()])
    assert reader.version == version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('10 0D 0004 "MQTT" 06 02 003C 00 0000', 5),
        ('10 0D 0004 "MQTT" FF 02 003C 00 0000', 5),
        ('10 0C 0004 "MQTT" 03 02 003C 0000', 4),
        ('10 0E 0006 "MQIsdp" 04 02 003C 0000', 4),
        ('10 0E 0006 "MQIsdp" 83 02 003C 0000', 4),  # mosquitto's bridges, which go on if they are told so in 3.1.1
        ('10 0C 0004 "MQTT" 84 02 003C 0000', 4),
        ('10 0C 0004 "HTTP" 05 02 003C 0000', 0),
        ('10 0D 0004 "MQTT" 05 03 003C 00 0000', 5),  # a reserved flag: the version stands
        ('10 0C 0004 "MQTT" 04 03 003C 0000', 4),
    ],
)
def test_version_to_answer_a_bad_connect_in(text: str, version: int):
    reader = fresh()
    assert reader.feed(wire(text)) == []
    assert reader.error is not None
    assert reader.version == version


def test_connect_has_a_smaller_limit_and_the_whole_packet_counts():
    at_limit = encode_connect(Connect(4, "x" * 86))
    assert len(at_limit) == 100
    assert len(fresh().feed(at_limit)) == 1
    reader = fresh()
    assert reader.feed(encode_connect(Connect(4, "x" * 87))) == []
    assert reader.error is not None
    assert reader.error.code == 0x95


def test_the_larger_limit_holds_from_connect_on():
    reader = fresh()
    at_limit = encode_publish(4, b"t", b"x" * (1000 - 6))
    assert len(at_limit) == 1000
    assert len(reader.feed(encode_connect(Connect(4, "")) + at_limit)) == 2
    assert reader.feed(encode_publish(4, b"t", b"x" * (1000 - 5))) == []
    assert reader.error is not None
    assert reader.error.code == 0x95


def test_too_large_is_told_by_the_header_alone():
    reader = fresh()
    reader.feed(encode_connect(Connect(5, "")))
    assert reader.feed(wire("30 FF FF FF 7F")) == []
    assert reader.error is not None
    assert reader.error.code == 0x95
    assert reader.buffered == 0


def test_the_connect_limit_never_exceeds_the_packet_limit():
    reader = Decoder(max_packet_bytes=20, max_connect_bytes=100)
    reader.feed(encode_connect(Connect(4, "x" * 10)))
    assert reader.error is not None
    assert reader.error.code == 0x95


def test_a_header_that_cannot_be_right_is_not_waited_on():
    """ "GET / HTTP/1.1" is a PUBACK with bad flags, and 0x20 bytes of body need not come to say so."""
    reader = fresh()
    reader.feed(b"GE")
    assert reader.error is not None
    assert reader.error.code == 0x81


def test_nothing_is_parsed_or_held_after_an_error():
    reader = fresh()
    reader.feed(encode_connect(Connect(4, "")))
    assert len(reader.feed(PINGREQ + b"\x00\x00" + PINGREQ)) == 1
    error = reader.error
    assert error is not None
    assert reader.feed(PINGREQ) == []
    assert reader.feed(b"\x30") == []
    assert reader.error is error
    assert reader.buffered == 0


def test_a_large_packet_in_many_pieces():
    payload = bytes(range(256)) * 100
    raw = encode_publish(5, b"t", payload, 1, False, False, 9) + PINGREQ
    reader = Decoder(max_packet_bytes=1 << 20, version=5)
    packets = []
    for at in range(0, len(raw), 1000):
        packets += reader.feed(raw[at : at + 1000])
        assert packets or reader.buffered == min(at + 1000, len(raw))
    assert fields(packets) == fields([Publish(b"t", payload, 1, packet_id=9), Pingreq()])
    assert reader.buffered == 0


def test_an_incomplete_packet_after_complete_ones_is_held_alone():
    reader = Decoder(max_packet_bytes=1000, version=4)
    one = encode_publish(4, b"t", b"x")
    assert len(reader.feed(one * 3 + one[:3])) == 3
    assert reader.buffered == 3
    assert len(reader.feed(one[3:] + one)) == 2
    assert reader.buffered == 0
    assert reader.feed(b"") == []


def test_topics_are_interned_and_the_cache_is_bounded():
    primitives.VALID_TOPICS.clear()
    reader = Decoder(max_packet_bytes=1000, version=4)
    first, second = reader.feed(encode_publish(4, b"same", b"1") + encode_publish(4, b"same", b"2"))
    assert first.topic is second.topic
    for number in range(primitives.TOPIC_CACHE_MAX + 10):
        reader.feed(encode_publish(4, b"t%d" % number, b""))
        assert len(primitives.VALID_TOPICS) <= primitives.TOPIC_CACHE_MAX
    assert reader.error is None
    longest = b"l" * primitives.TOPIC_CACHE_BYTES_MAX
    assert len(reader.feed(encode_publish(4, longest, b"") + encode_publish(4, longest + b"l", b""))) == 2
    assert longest in primitives.VALID_TOPICS
    assert longest + b"l" not in primitives.VALID_TOPICS


def test_a_bad_topic_is_bad_the_second_time_too():
    for _ in range(2):
        reader = Decoder(max_packet_bytes=1000, version=5)
        reader.feed(encode_publish(5, b"a/#", b""))
        assert reader.error is not None
        assert reader.error.code == 0x90


@pytest.mark.parametrize("size", [0, 121, 122, 123, 124, 125, 126, 16376, 16377, 16378, 16379, 16380, 16381, 2097160])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1])
def test_remaining_length_at_its_edges(size: int, version: int, qos: int):
    payload = b"x" * size
    raw = encode_publish(version, b"a", payload, qos, True, False, qos * 77)
    reader = Decoder(max_packet_bytes=1 << 22, version=version)
    assert fields(reader.feed(raw)) == fields([Publish(b"a", payload, qos, True, packet_id=qos * 77)])


@pytest.mark.parametrize("value", [0, 127, 128, 16383, 16384, 2097151, 2097152, 268435455])
def test_varint_at_its_edges(value: int):
    raw = primitives.encode_varint(value)
    assert primitives.read_varint(raw, 0, len(raw)) == (value, len(raw))
    assert primitives.read_varint(raw, 0, len(raw) - 1) == (-1, 0)
    assert len(raw) == 1 + (value > 127) + (value > 16383) + (value > 2097151)


def test_parts_are_shared_between_receivers():
    head, tail = publish_parts(5, b"t", b"payload", 1, True, b"\x01\x01")
    for packet_id in (1, 0xFFFF):
        frame = head + packet_id.to_bytes(2, "big") + tail
        assert frame == encode_publish(5, b"t", b"payload", 1, True, False, packet_id, b"\x01\x01")
        assert frame[0] == 0x33
    assert b"".join(publish_parts(4, b"t", b"payload")) == encode_publish(4, b"t", b"payload")


def test_dup_is_set_on_resending():
    assert encode_publish(4, b"t", b"", 1, False, True, 1)[0] == 0x3A


def test_what_a_version_lacks_is_left_out():
    why = Properties(reason_string="why")
    assert encode_connack(4, False, 5, why) == wire("20 02 00 05")
    assert encode_connack(3, True, 0) == wire("20 02 00 00")
    assert encode_suback(4, 1, [0, 1, 2, 0x87, 0x8F], why) == wire("90 07 0001 00 01 02 80 80")
    assert encode_unsuback(4, 1, [0x11], why) == wire("B0 02 0001")
    assert encode_disconnect(4, 0x8E, why) == wire("E0 00")
    assert encode_publish(4, b"t", b"x", 0, False, False, 0, b"\x01\x01") == wire('30 04 0001 "t" "x"')
    assert encode_auth() == wire("F0 00")


def test_a_client_reads_what_a_server_says_before_it_knows_more():
    reader = Decoder(max_packet_bytes=1000, role=CLIENT, version=5)
    packets = reader.feed(encode_connack(5, False, 0, Properties(server_keep_alive=60)))
    assert packets[0].properties.server_keep_alive == 60

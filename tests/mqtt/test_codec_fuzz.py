"""Any bytes give packets, a wait for more, or an error with a known code; valid packets go round."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codec import CLIENT, SERVER, Decoder
from dragoman.adapters.mqtt.codes import Code, ProtocolError
from dragoman.adapters.mqtt.packets import (
    Connect,
    Puback,
    Publish,
    Pubrec,
    Suback,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
)
from dragoman.adapters.mqtt.properties import Properties, forward_properties, parse_properties, scan_publish
from tests.mqtt.corpus import CASES, decoder, fields
from tests.mqtt.corpus_refused import REFUSED
from tests.mqtt.encode_any import encode_any

SEEDS = [(case.version, case.role, case.raw) for case in (*CASES, *REFUSED)]
KNOWN = {int(code) for code in Code if code >= 0x80}

quick = settings(max_examples=300, derandomize=True, deadline=None)
slower = settings(quick, max_examples=60)

text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
topic = text.map(lambda name: name.replace("+", "-").replace("#", "-")).filter(bool)
u16 = st.integers(1, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)
users = st.lists(st.tuples(text, text), max_size=3)


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


message_properties = st.builds(
    Properties,
    payload_format_indicator=maybe(st.integers(0, 1)),
    message_expiry_interval=maybe(u32),
    content_type=maybe(text),
    response_topic=maybe(topic),
    correlation_data=maybe(st.binary(max_size=20)),
    topic_alias=maybe(u16),
    user_properties=users,
)
answers = st.builds(Properties, reason_string=maybe(text), user_properties=users)


@st.composite
def publishes(draw: st.DrawFn) -> Publish:
    qos = draw(st.integers(0, 2))
    view = draw(message_properties)
    if len(view.encode()) == 3:
        # An alias alone is not handed on at all: tests/mqtt/test_aliases.py.
        view.topic_alias = None
    return Publish(
        draw(topic).encode(),
        draw(st.binary(max_size=300)),
        qos,
        draw(st.booleans()),
        qos > 0 and draw(st.booleans()),
        draw(u16) if qos else 0,
        view.encode(),
        -1 if view.message_expiry_interval is None else view.message_expiry_interval,
    )


@st.composite
def connects(draw: st.DrawFn) -> Connect:
    will = None
    if draw(st.booleans()):
        delay, expiry = draw(st.tuples(maybe(u32), maybe(u32)))
        view = Properties(will_delay_interval=delay, message_expiry_interval=expiry, user_properties=draw(users))
        qos, retain = draw(st.tuples(st.integers(0, 2), st.booleans()))
        will = Will(
            draw(topic).encode(),
            draw(st.binary(max_size=20)),
            qos,
            retain,
            view.encode(),
            delay or 0,
            -1 if expiry is None else expiry,
        )
    properties = Properties(receive_maximum=draw(maybe(u16)), user_properties=draw(users))
    return Connect(
        5,
        draw(text),
        draw(st.booleans()),
        draw(st.integers(0, 0xFFFF)),
        draw(maybe(text)),
        draw(maybe(st.binary(max_size=9))),
        will,
        properties,
    )


subscriptions = st.builds(Subscription, text, st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 2))
from_clients = st.one_of(
    publishes(),
    st.builds(Puback, u16, st.sampled_from(sorted(codes.FROM_CLIENT[codes.PUBACK])), answers),
    st.builds(Pubrec, u16, st.sampled_from(sorted(codes.FROM_CLIENT[codes.PUBREC])), answers),
    st.builds(
        Subscribe, u16, st.lists(subscriptions, min_size=1, max_size=4), st.builds(Properties, user_properties=users)
    ),
    st.builds(Unsubscribe, u16, st.lists(text, min_size=1, max_size=4)),
)


def outcome(reader: Decoder, pieces: list[bytes]) -> tuple[object, int | None, int]:
    packets = [packet for piece in pieces for packet in reader.feed(piece)]
    assert reader.error is None or reader.error.code in KNOWN
    return fields(packets), reader.error and reader.error.code, reader.buffered


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[start:end] for start, end in pairwise(edges)]


places = st.lists(st.integers(0, 10_000), max_size=6)


@quick
@given(st.binary(max_size=80), st.sampled_from((0, 3, 4, 5)), st.sampled_from((SERVER, CLIENT)), places)
def test_any_bytes(raw: bytes, version: int, role: str, cuts: list[int]):
    whole = outcome(decoder(version, role, max_packet_bytes=4096), [raw])
    assert outcome(decoder(version, role, max_packet_bytes=4096), cut(raw, cuts)) == whole


@quick
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3), places)
def test_damaged_packets(seed: tuple[int, str, bytes], damage: list[tuple[int, int]], cuts: list[int]):
    """A byte or two changed in packets that were nearly right gets further than noise does."""
    version, role, raw = seed
    spoiled = bytearray(raw)
    for place, byte in damage:
        spoiled[place % len(spoiled)] = byte
    whole = outcome(decoder(version, role), [bytes(spoiled)])
    assert outcome(decoder(version, role), cut(bytes(spoiled), cuts)) == whole


def test_every_byte_of_every_packet_changed():
    """The same without chance: each byte of each packet, set to the values that mean something somewhere."""
    for version, role, raw in SEEDS:
        for at in range(len(raw)):
            for byte in (0x00, 0x01, 0x7F, 0x80, 0xC3, 0xFF, raw[at] ^ 0x08, raw[at] + 1 & 0xFF):
                reader = decoder(version, role)
                reader.feed(raw[:at] + bytes((byte,)) + raw[at + 1 :])
                assert reader.error is None or reader.error.code in KNOWN


@slower
@given(st.lists(from_clients, min_size=1, max_size=6), places)
def test_valid_packets_go_round_however_cut(packets: list[object], cuts: list[int]):
    raw = b"".join(encode_any(5, packet) for packet in packets)
    reader = decoder(5)
    read = [packet for piece in cut(raw, cuts) for packet in reader.feed(piece)]
    assert reader.error is None
    assert reader.buffered == 0
    assert fields(read) == fields(packets)
    assert b"".join(encode_any(5, packet) for packet in read) == raw


@slower
@given(connects(), from_clients)
def test_connect_goes_round_and_is_followed(connect: Connect, then: object):
    reader = decoder(0)
    assert fields(reader.feed(encode_any(5, connect) + encode_any(5, then))) == fields([connect, then])
    assert reader.error is None


@slower
@given(u16, st.lists(st.sampled_from(sorted(codes.FROM_SERVER[codes.SUBACK])), min_size=1, max_size=5), answers)
def test_suback_goes_round(packet_id: int, granted: list[int], properties: Properties):
    packet = Suback(packet_id, granted, properties)
    assert fields(decoder(5, CLIENT).feed(encode_any(5, packet))) == fields([packet])


def verdict(check: object) -> tuple[int, object]:
    try:
        return 0, check()
    except ProtocolError as error:
        return error.code, None


PIECES = st.one_of(
    st.sampled_from(
        [b"\x01\x01", b"\x01\x02", b"\x23\x00\x01", b"\x23\x00\x00", b"\x0b\x05", b"\x0b\x00", b"\x0b\x80"]
    ),
    st.sampled_from([b"\x08\x00\x01#", b"\x08\x00\x00", b"\x03\x00\x01\x00", b"\x26\x00\x00\x00\x01\xff", b"\x80"]),
    message_properties.map(Properties.encode),
    st.binary(max_size=5),
)


@quick
@given(st.lists(PIECES, max_size=4).map(b"".join))
def test_the_scan_and_the_view_agree(raw: bytes):
    code, view = verdict(lambda: parse_properties(raw, codes.PUBLISH))
    scanned, numbers = verdict(lambda: scan_publish(raw, from_client=False))
    assert scanned == code
    if view is not None:
        assert numbers == (
            view.topic_alias or 0,
            -1 if view.message_expiry_interval is None else view.message_expiry_interval,
        )
        assert scan_publish(forward_properties(raw, expiry=None), from_client=True) == (0, -1)
        kept = parse_properties(forward_properties(raw, expiry=7, subscription_ids=[9]), codes.PUBLISH)
        view.message_expiry_interval, view.topic_alias, view.subscription_identifiers = 7, None, [9]
        assert fields(kept) == fields(view)

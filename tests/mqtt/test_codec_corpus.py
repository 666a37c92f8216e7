"""Every packet of the corpus, whole, cut at every byte, in company, and back to the same bytes."""

from __future__ import annotations

import pytest

from dragoman.adapters.mqtt.packets import Publish
from tests.mqtt.corpus import CASES, Case, decoder, fields
from tests.mqtt.corpus_refused import REFUSED, Refused
from tests.mqtt.encode_any import encode_any

accepted = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
refused = pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)


def test_ids_are_unique():
    ids = [case.id for case in (*CASES, *REFUSED)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("case", [*CASES, *(case for case in REFUSED if case.framed)], ids=lambda case: case.id)
def test_the_length_written_is_the_length(case: Case | Refused):
    """So that no case is refused only because its author miscounted."""
    raw = case.raw
    assert raw[1] == len(raw) - 2, f"{len(raw) - 2:02X}"


@accepted
def test_whole(case: Case):
    reader = decoder(case.version, case.role)
    packets = reader.feed(case.raw)
    assert reader.error is None
    assert fields(packets) == [fields(case.packet)]
    assert reader.buffered == 0


@accepted
def test_the_frame_is_what_came(case: Case):
    """What may go out again unchanged is the whole packet, and only a plain QoS 0 PUBLISH may."""
    (packet,) = decoder(case.version, case.role).feed(case.raw)
    if isinstance(packet, Publish):
        plain = case.raw[0] == 0x30 and not packet.properties and b"\x23" not in case.raw
        assert packet.frame == (case.raw if plain else b"")


@accepted
def test_cut_at_every_byte(case: Case):
    raw = case.raw
    for cut in range(1, len(raw)):
        reader = decoder(case.version, case.role)
        assert reader.feed(raw[:cut]) == []
        assert reader.buffered == cut
        assert fields(reader.feed(raw[cut:])) == [fields(case.packet)], cut
        assert reader.buffered == 0
        assert reader.error is None


@accepted
def test_byte_by_byte(case: Case):
    reader = decoder(case.version, case.role)
    packets = [packet for byte in case.raw for packet in reader.feed(bytes((byte,)))]
    assert fields(packets) == [fields(case.packet)]
    assert reader.error is None


@accepted
def test_a_following_packet_is_its_own(case: Case):
    """Three in one feed, the last one incomplete: nothing is read past its end or consumed twice."""
    if case.version == 0 and case.raw[0] == 0x10:
        return  # only one CONNECT may come; test_codec_decoder has what follows it
    reader = decoder(case.version, case.role)
    raw = case.raw
    assert fields(reader.feed(raw + raw + raw[:-1])) == [fields(case.packet)] * 2
    assert reader.buffered == len(raw) - 1
    assert fields(reader.feed(raw[-1:])) == [fields(case.packet)]


@pytest.mark.parametrize("case", [case for case in CASES if case.canonical], ids=lambda case: case.id)
def test_encodes_to_the_same_bytes(case: Case):
    assert encode_any(case.version, case.packet) == case.raw
    [packet] = decoder(case.version, case.role).feed(case.raw)
    assert encode_any(case.version, packet) == case.raw


@refused
def test_refused(case: Refused):
    reader = decoder(case.version, case.role)
    assert reader.feed(case.raw) == []
    assert reader.error is not None
    assert reader.error.code == case.code, reader.error
    assert case.because in reader.error.detail, reader.error
    assert reader.buffered == 0


@refused
def test_refused_the_same_however_cut(case: Refused):
    raw = case.raw
    ways = [[raw[:cut], raw[cut:]] for cut in range(1, len(raw))]
    ways.append([bytes((byte,)) for byte in raw])
    for way in ways:
        reader = decoder(case.version, case.role)
        assert [packet for part in way for packet in reader.feed(part)] == []
        assert reader.error is not None
        assert (reader.error.code, case.because in reader.error.detail) == (case.code, True), reader.error
        assert reader.buffered == 0


@refused
def test_what_came_before_a_bad_packet_is_not_lost(case: Refused):
    if case.version == 0:
        return
    ping = b"\xc0\x00" if case.role == "server" else b"\xd0\x00"
    reader = decoder(case.version, case.role)
    assert len(reader.feed(ping * 2 + case.raw + ping)) == 2
    assert reader.error is not None
    assert reader.error.code == case.code
    assert reader.feed(ping) == []

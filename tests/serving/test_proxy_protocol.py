"""PROXY headers: what each says, cut at every byte, never one byte too many; and everything that is none."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.serving.proxy_protocol import (
    HEADER_BYTES_MAX,
    LINE_BYTES_MAX,
    SIGNATURE,
    ProxyError,
    ProxyHeader,
    ProxyReader,
)

REST = b"\x16\x03\x01 what follows is not the relay's"


def block(kind: int = 0x21, family: int = 0x11, body: bytes = b"", length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", kind, family, len(body) if length is None else length) + body


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def ssl(client: int, verify: int, *inner: bytes) -> bytes:
    return extension(0x20, struct.pack("!BI", client, verify) + b"".join(inner))


def summed(body: bytes, more: bytes = b"", wrong: int = 0) -> bytes:
    """A header with its checksum before ``more``, as HAProxy's send-proxy-v2 with crc32c makes it."""
    zeros = block(body=body + extension(0x03, bytes(4)) + more)
    check = crc32c(zeros) ^ wrong
    return block(body=body + extension(0x03, struct.pack("!I", check)) + more)


IPV4 = bytes([10, 0, 0, 7, 10, 0, 0, 1]) + struct.pack("!HH", 50_000, 1883)
IPV6 = ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("::1").packed + struct.pack("!HH", 5, 6)
UNIX = b"/run/client.sock".ljust(108, b"\0") + b"/run/ours.sock".ljust(108, b"\0")
CN = extension(0x22, b"dev1")
ANN = ProxyHeader(host="10.0.0.7", port=50_000)

GOOD = {
    "1 over IPv4": (b"PROXY TCP4 10.0.0.7 10.0.0.1 50000 1883\r\n", ANN),
    "1 over IPv6": (b"PROXY TCP6 2001:db8::7 ::1 5 6\r\n", ProxyHeader(host="2001:db8::7", port=5)),
    "1, port 0": (b"PROXY TCP4 1.2.3.4 1.2.3.5 0 65535\r\n", ProxyHeader(host="1.2.3.4")),
    "1, not known, alone": (b"PROXY UNKNOWN\r\n", ProxyHeader()),
    "1, not known, with the longest rest": (b"PROXY UNKNOWN " + b"f" * (LINE_BYTES_MAX - 16) + b"\r\n", ProxyHeader()),
    "2 over IPv4": (block(body=IPV4), ANN),
    "2 over IPv6": (block(family=0x21, body=IPV6), ProxyHeader(host="2001:db8::7", port=5)),
    "2 over a Unix socket": (block(family=0x31, body=UNIX), ProxyHeader(unix=True)),
    "2, the relay itself": (block(kind=0x20, family=0x00), ProxyHeader(own=True)),
    "2, the relay itself, whatever else it says": (
        block(kind=0x20, family=0xEE, body=b"\xff" * 9),
        ProxyHeader(own=True),
    ),
    "2, family not told": (block(family=0x00, body=b"anything"), ProxyHeader()),
    "2 with extensions": (block(body=IPV4 + extension(4, b"pad") + extension(2, b"a.example")), ANN),
    "2 with a certificate": (
        block(body=IPV4 + ssl(7, 0, extension(0x21, b"TLSv1.3"), CN)),
        ANN._replace(common_name="dev1"),
    ),
    "2 with a certificate of before": (block(body=IPV4 + ssl(5, 0, CN)), ANN._replace(common_name="dev1")),
    "2 with a certificate nobody verified": (block(body=IPV4 + ssl(7, 1, CN)), ANN),
    "2 with TLS and a name but no certificate": (block(body=IPV4 + ssl(1, 0, CN)), ANN),
    "2 with TLS alone": (block(body=IPV4 + ssl(1, 0)), ANN),
    "2 with its checksum": (summed(IPV4), ANN),
    "2 with its checksum in the middle": (
        summed(IPV4 + extension(4, b"pad"), ssl(7, 0, CN)),
        ANN._replace(common_name="dev1"),
    ),
    "2 with a checksum known by heart": (
        bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 0013 0a000007 0a000001 c350 075b 03 0004 4d22347a"),
        ANN,
    ),
    "2, as long as may be": (
        block(body=IPV4 + extension(4, bytes(HEADER_BYTES_MAX - 16 - len(IPV4) - 3))),
        ANN,
    ),
}

BAD = {
    "an MQTT CONNECT": b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",
    "HTTP": b"GET /mqtt HTTP/1.1\r\n",
    "1 in small letters": b"proxy TCP4 1.2.3.4 1.2.3.5 1 2\r\n",
    "1 with too long a line": b"PROXY UNKNOWN " + b"f" * LINE_BYTES_MAX,
    "1 with a bare line feed": b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2\n",
    "1 with a bare carriage return": b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2\rx\n",
    "1 with two spaces": b"PROXY TCP4  1.2.3.4 1.2.3.5 1 2\r\n",
    "1 with a port too many": b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2 3\r\n",
    "1 without ports": b"PROXY TCP4 1.2.3.4 1.2.3.5\r\n",
    "1 with a large port": b"PROXY TCP4 1.2.3.4 1.2.3.5 65536 2\r\n",
    "1 with a port that begins with 0": b"PROXY TCP4 1.2.3.4 1.2.3.5 01 2\r\n",
    "1 with a negative port": b"PROXY TCP4 1.2.3.4 1.2.3.5 -1 2\r\n",
    "1 with a name for an address": b"PROXY TCP4 localhost 1.2.3.5 1 2\r\n",
    "1 with the other family's address": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "1 with a bad address of ours": b"PROXY TCP4 1.2.3.4 nonsense 1 2\r\n",
    "1 with a zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "1 with a family that is none": b"PROXY UDP4 1.2.3.4 1.2.3.5 1 2\r\n",
    "1 with bytes that are no text": b"PROXY TCP4 \xff\xff\xff\xff 1.2.3.5 1 2\r\n",
    "2 of version 3": block(kind=0x31, body=IPV4),
    "2 with an unknown command": block(kind=0x22, body=IPV4),
    "2 with an unknown family": block(family=0x41, body=IPV4),
    "2 with datagrams": block(family=0x12, body=IPV4),
    "2 with a short address": block(body=IPV4[:-1]),
    "2 with an IPv4 address for IPv6": block(family=0x21, body=IPV4),
    "2 with a Unix path too short": block(family=0x31, body=UNIX[:-1]),
    "2 too long": block(length=HEADER_BYTES_MAX - 15),
    "2 with half an extension": block(body=IPV4 + b"\x04\x00"),
    "2 with an extension past its end": block(body=IPV4 + b"\x04\x00\x02x"),
    "2 with a short SSL extension": block(body=IPV4 + extension(0x20, b"\x01\x00")),
    "2 with an extension past the SSL one's end": block(body=IPV4 + ssl(7, 0, b"\x22\x00\x05dev1")),
    "2 with a checksum of other bytes": summed(IPV4, wrong=1),
    "2 with a checksum of other bytes, in the middle": summed(IPV4, ssl(7, 0, CN), wrong=0x80000000),
    "2 with a short checksum": block(body=IPV4 + extension(0x03, b"\0\0\0")),
    "2 with a name that is no text": block(body=IPV4 + ssl(7, 0, extension(0x22, b"\xff"))),
    "2 with a broken signature": SIGNATURE[:-1] + b"!" + block(body=IPV4)[12:],
}


def read(data: bytes, at_most: int = 1 << 20) -> tuple[ProxyHeader, bytes]:
    """Reads a header as a socket would give it, ``at_most`` bytes at a time; with what is left."""
    reader = ProxyReader()
    at = 0
    while reader.header is None:
        piece = data[at : at + min(reader.wanted, at_most)]
        assert piece, "a header that is whole is known to be whole"
        reader.feed(piece)
        at += len(piece)
    return reader.header, data[at:]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("at_most", [1, 2, 3, 7, 1 << 20])
def test_a_header_says_who_it_is_and_not_one_byte_more_is_taken(name: str, at_most: int) -> None:
    data, expected = GOOD[name]
    assert read(data + REST, at_most) == (expected, REST)


@pytest.mark.parametrize("name", GOOD)
def test_a_header_cut_anywhere_is_waited_for(name: str) -> None:
    data, expected = GOOD[name]
    for cut in range(1, len(data)):
        reader = ProxyReader()
        at = 0
        while at < cut:
            piece = data[at : min(cut, at + reader.wanted)]
            reader.feed(piece)
            at += len(piece)
            assert reader.header is None
            assert 0 < reader.wanted <= len(data) - at
    assert read(data) == (expected, b"")


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("at_most", [1, 5, 1 << 20])
def test_what_is_no_header_is_said_to_be_none(name: str, at_most: int) -> None:
    with pytest.raises(ProxyError):
        read(BAD[name], at_most)


def test_what_cannot_begin_a_header_is_refused_at_its_first_wrong_byte() -> None:
    for good in (b"PROXY ", SIGNATURE):
        for at in range(len(good)):
            reader = ProxyReader()
            if at:
                reader.feed(good[:at])
            with pytest.raises(ProxyError):
                reader.feed(b"\xfe")


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11", SIGNATURE + b"\x21\x21\x00"]),
    st.binary(min_size=1, max_size=300),
)
def test_anything_at_all_ends_within_the_bounds(begin: bytes, data: bytes) -> None:
    reader = ProxyReader()
    taken = 0
    data = begin + data * 20
    try:
        while reader.header is None:
            piece = data[taken : taken + reader.wanted]
            if not piece:
                break
            reader.feed(piece)
            taken += len(piece)
    except ProxyError:
        pass
    assert taken <= HEADER_BYTES_MAX


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_one_wrong_byte_gives_a_header_or_an_error_and_nothing_else(name: str, data: st.DataObject) -> None:
    changed = bytearray(GOOD[name][0])
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    reader = ProxyReader()
    at = 0
    try:
        while reader.header is None and at < len(changed):
            piece = bytes(changed[at : at + reader.wanted])
            reader.feed(piece)
            at += len(piece)
    except ProxyError:
        return
    if reader.header is not None and reader.header.host:
        ipaddress.ip_address(reader.header.host)

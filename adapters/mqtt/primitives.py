"""MQTT's data types: integers, variable byte integers, strict UTF-8, binary data, topic names.

``Cursor`` reads them out of one complete packet; it knows no packet and no version.
"""

from __future__ import annotations

from typing import Final, final

from dragoman.adapters.mqtt.codes import Code, ProtocolError, malformed

VARINT_MAX: Final = 268_435_455
TOPIC_CACHE_MAX: Final = 8192
TOPIC_CACHE_BYTES_MAX: Final = 256
"""Longer topics are checked each time, so that the cache is bounded in bytes too (about 2.5 MB)."""

# A memo of a pure function, hence one for the process: the same topics come over many connections.
# The value is the key, so that a hit also yields an object whose hash is already computed.
VALID_TOPICS: Final[dict[bytes, bytes]] = {}


def check_topic(topic: bytes) -> bytes:
    """The topic name, interned, if it is one; an empty name is the caller's to judge (an alias may stand for it)."""
    known = VALID_TOPICS.get(topic)
    if known is not None:
        return known
    decode_text(topic)
    if b"+" in topic or b"#" in topic:
        raise ProtocolError(Code.TOPIC_NAME_INVALID, f"topic name {topic[:80]!r} has a wildcard")
    if 0 < len(topic) <= TOPIC_CACHE_BYTES_MAX:
        if len(VALID_TOPICS) >= TOPIC_CACHE_MAX:
            VALID_TOPICS.clear()
        VALID_TOPICS[topic] = topic
    return topic


def decode_text(raw: bytes) -> str:
    """The text of a UTF-8 string: no surrogates [1.5.4-1], no NUL [1.5.4-2]; a BOM stays what it is [1.5.4-3]."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(f"string {raw[:80]!r} is not UTF-8: {error.reason}") from None
    if "\0" in text:
        raise malformed(f"string {raw[:80]!r} has a NUL")
    return text


def encode_varint(value: int) -> bytes:
    """A variable byte integer in its fewest bytes [1.5.5-1]."""
    assert 0 <= value <= VARINT_MAX, value
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x20_0000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21))


def encode_text(text: str) -> bytes:
    """A UTF-8 string with its length."""
    return encode_binary(text.encode("utf-8"))


def encode_binary(raw: bytes) -> bytes:
    """Binary data with its length."""
    assert len(raw) <= 0xFFFF, len(raw)
    return len(raw).to_bytes(2, "big") + raw


def read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """(value, position after it); (-1, pos) if it is not complete before ``end``."""
    value = 0
    shift = 0
    at = pos
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise malformed("variable byte integer is not in its fewest bytes")
            return value, at
        shift += 7
        if shift == 28:
            raise malformed("variable byte integer is longer than 4 bytes")
    return -1, pos


@final
class Cursor:
    """Reads fields from ``data[pos:end]`` and raises a malformed-packet error where one does not fit."""

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes, pos: int, end: int) -> None:
        self.data = data
        self.pos = pos
        self.end = end

    def _advance(self, count: int) -> int:
        pos = self.pos
        if pos + count > self.end:
            raise malformed(f"a field of {count} bytes does not fit into the {self.end - pos} that are left")
        self.pos = pos + count
        return pos

    def byte(self) -> int:
        """The next byte."""
        return self.data[self._advance(1)]

    def two(self) -> int:
        """A two byte integer."""
        pos = self._advance(2)
        return self.data[pos] << 8 | self.data[pos + 1]

    def four(self) -> int:
        """A four byte integer."""
        pos = self._advance(4)
        return int.from_bytes(self.data[pos : pos + 4], "big")

    def varint(self) -> int:
        """A variable byte integer."""
        value, self.pos = read_varint(self.data, self.pos, self.end)
        if value < 0:
            raise malformed("the packet ends within a variable byte integer")
        return value

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes, copied out."""
        pos = self._advance(count)
        return self.data[pos : pos + count]

    def binary(self) -> bytes:
        """Binary data with its two byte length."""
        return self.take(self.two())

    def text(self) -> str:
        """A UTF-8 string with its two byte length."""
        return decode_text(self.binary())

    def packet_id(self) -> int:
        """A packet identifier, which is never 0 [2.2.1-2]."""
        value = self.two()
        if value == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "packet identifier 0")
        return value

    def finish(self) -> None:
        """Assert to the peer that the packet ends here."""
        if self.pos != self.end:
            raise malformed(f"{self.end - self.pos} bytes too many at the end of the packet")

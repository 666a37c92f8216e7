"""Bytes to Kafka's primitive values and back. Knows no request (https://kafka.apache.org/protocol#protocol_types)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, final

Records: TypeAlias = memoryview | Sequence[bytes | memoryview]
"""Record batches: as they came, or in pieces to be written one after the other."""

ITEMS_MAX: Final = 1_000_000
"""In one array, as in Kafka 4.4."""

TAGS_MAX: Final = 10_000

_INT8: Final = struct.Struct(">b")
_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")


class WireError(ValueError):
    """Bytes that are no Kafka. The text is a sentence for the log."""


@final
class Cursor:
    """Reads from bytes, never beyond their end. Every method raises ``WireError`` rather than anything else."""

    __slots__ = ("_data", "_end", "at")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._end = len(data)
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self._end - self.at

    def take(self, count: int) -> memoryview:
        """The next bytes, not copied."""
        start = self.at
        if count < 0 or count > self._end - start:
            raise WireError(f"{count} bytes are announced where {self._end - start} are left")
        self.at = start + count
        return self._data[start : self.at]

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """Values of fixed width, one after the other."""
        start = self.at
        if form.size > self._end - start:
            raise WireError(f"{form.size} bytes are needed where {self._end - start} are left")
        self.at = start + form.size
        return form.unpack_from(self._data, start)

    def int8(self) -> int:
        """A signed byte."""
        value: int = self.unpack(_INT8)[0]
        return value

    def int16(self) -> int:
        """Two bytes, signed."""
        value: int = self.unpack(_INT16)[0]
        return value

    def int32(self) -> int:
        """Four bytes, signed."""
        value: int = self.unpack(_INT32)[0]
        return value

    def uuid(self) -> uuid.UUID:
        """Sixteen bytes."""
        return uuid.UUID(bytes=bytes(self.take(16)))

    def uvarint(self) -> int:
        """At most five bytes, seven bits each, the lowest first."""
        at = self.at
        if at < self._end:
            first = self._data[at]
            if first < 0x80:
                self.at = at + 1
                return first
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > 0xFFFF_FFFF:
                    raise WireError("a number of more than 32 bits")
                return value
            shift += 7
            if shift > 28:
                raise WireError("a number of more than five bytes")

    def length(self, compact: bool, short: bool) -> int:
        """A length in front of something; -1 is null."""
        if compact:
            return self.uvarint() - 1
        value = self.int16() if short else self.int32()
        if value < -1:
            raise WireError(f"a length of {value}")
        return value

    def text(self, count: int) -> str:
        """So many bytes of UTF-8."""
        try:
            return str(self.take(count), "utf-8")
        except UnicodeDecodeError:
            raise WireError("text that is not UTF-8") from None

    def items(self, compact: bool) -> int:
        """The length of an array; -1 is null. No more than could be there: each item has a byte at least."""
        count = self.length(compact, short=False)
        if count > self.left or count > ITEMS_MAX:
            raise WireError(f"an array of {count} items in {self.left} bytes")
        return count

    def skip_tags(self) -> None:
        """Passes over the tagged fields of something whose tags we do not know."""
        for _ in range(self.tags()):
            self.uvarint()
            self.take(self.uvarint())

    def tags(self) -> int:
        """How many tagged fields follow."""
        count = self.uvarint()
        if count > TAGS_MAX or count > self.left:
            raise WireError(f"{count} tagged fields in {self.left} bytes")
        return count


@final
class Output:
    """Collects bytes to be written; record batches go in as they are, without a copy."""

    __slots__ = ("_done", "tail")

    def __init__(self) -> None:
        self._done: list[bytes | memoryview] = []
        self.tail = bytearray()

    def parts(self) -> list[bytes | memoryview]:
        """All of it, to be written one after the other."""
        if self.tail:
            self._done.append(bytes(self.tail))
            self.tail = bytearray()
        return self._done

    def pass_through(self, parts: Sequence[bytes | memoryview]) -> None:
        """Adds bytes as they are."""
        if self.tail:
            self._done.append(bytes(self.tail))
            self.tail = bytearray()
        self._done.extend(parts)

    def add(self, content: bytes) -> None:
        """Adds bytes that are written already."""
        self.tail += content

    def int8(self, value: int) -> None:
        """A signed byte."""
        self.tail.append(value & 0xFF)

    def int16(self, value: int) -> None:
        """Two bytes, signed."""
        self.tail += _INT16.pack(value)

    def int32(self, value: int) -> None:
        """Four bytes, signed."""
        self.tail += _INT32.pack(value)

    def uuid(self, value: uuid.UUID) -> None:
        """Sixteen bytes."""
        self.tail += value.bytes

    def uvarint(self, value: int) -> None:
        """Seven bits a byte, the lowest first."""
        tail = self.tail
        while value > 0x7F:
            tail.append(value & 0x7F | 0x80)
            value >>= 7
        tail.append(value)

    def length(self, count: int, compact: bool, short: bool) -> None:
        """A length in front of something; -1 is null."""
        if compact:
            self.uvarint(count + 1)
        elif short:
            self.int16(count)
        else:
            self.int32(count)

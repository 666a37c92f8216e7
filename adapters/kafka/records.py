"""How much the records of a batch unfold into, found out before anything is made of them. Sees lengths, not contents.

A header can be two bytes long and becomes objects of a hundred, and zeroes compress a thousandfold: a bound on bytes
alone would let eight kilobytes from outside fill a gigabyte here.
"""

from __future__ import annotations

from typing import Final

PARTS_MAX: Final = 1 << 17
"""Records and headers of one batch together. librdkafka sends at most 10,000 records in one, Java 16 KiB by default."""

RECORD_BYTES_MIN: Final = 7
"""Its length, its attributes, two deltas, no key, no value, no header."""

_PART_BYTES_MIN: Final = 2
_VARINT_SHIFT_MAX: Final = 63


def check_parts(plain: bytes, count: int) -> None:
    """Raises ValueError if ``count`` records with their headers are too many, or end too early.

    Few bytes are not looked at, since they cannot hold too many; neither is whether lengths agree: who reads sees that.
    """
    if len(plain) <= PARTS_MAX * _PART_BYTES_MIN:
        return
    parts = count
    at = 0
    try:
        for _ in range(count):
            length, start = _varint(plain, at)
            parts += _header_count(plain, start)
            if parts > PARTS_MAX:
                raise ValueError(f"more than {PARTS_MAX} records and headers in one batch")
            at = start + length
    except IndexError:
        raise ValueError("records that end too early") from None


def _header_count(plain: bytes, at: int) -> int:
    """What a record that begins here, after its length, says of its headers."""
    if plain[at] >= 0x80:
        # A byte to Kafka and a number of any length to the reader: past it they would see different headers.
        raise ValueError("a record with attributes nobody knows")
    at += 1
    for _ in ("timestamp", "offset"):
        _, at = _varint(plain, at)
    for _ in ("key", "value"):
        length, at = _varint(plain, at)
        at += max(length, 0)
    return max(_varint(plain, at)[0], 0)


def _varint(plain: bytes, at: int) -> tuple[int, int]:
    """A zigzag number and where it ends. Raises IndexError at the end of the bytes."""
    found = shift = 0
    while True:
        byte = plain[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (found >> 1) ^ -(found & 1), at
        shift += 7
        if shift > _VARINT_SHIFT_MAX:
            raise ValueError("a number of more than 64 bits")

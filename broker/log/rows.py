"""The rows of LMDB: how places, spans, lanes and segments are written there. Decides the format; does no work."""

from __future__ import annotations

import struct
from typing import Final, final

from dragoman.broker.log.stored import Batch

U64: Final = struct.Struct(">Q")
KEY: Final = struct.Struct(">QQ")
"""channel number, first offset of a batch: big-endian, so that LMDB's order is ours."""
SETTLED_SPAN: Final = struct.Struct(">QQQ")
"""first position of a region, channel number, first offset."""
PLACE: Final = struct.Struct("<QQQQIIQI")
"""last offset, first position, last position, weight, messages, segment (0 = settled), start, length.
Of a settled batch ``start`` is the first position of its region, which names its span."""
SPAN: Final = struct.Struct("<IQI")
"""segment, start, length of a frame."""
LANE: Final = struct.Struct("<QQQQ")
"""first offset, offset after the last, weight, offset below which the index is freed."""
SEGMENT: Final = struct.Struct("<qQQ")
"""bytes still wanted, first position, size."""
REACHED: Final = struct.Struct("<IQQQ")
"""segment, offset, commit, next position."""

Reached = tuple[int, int, int, int]


@final
class Place:
    """A row of the index: what a stored batch covers and where it lies."""

    __slots__ = (
        "first_position",
        "last_offset",
        "last_position",
        "length",
        "number",
        "offset",
        "segment",
        "start",
        "weight",
    )

    def __init__(self, key: bytes, row: bytes) -> None:
        self.number, self.offset = KEY.unpack(key)
        (
            self.last_offset,
            self.first_position,
            self.last_position,
            self.weight,
            _,
            self.segment,
            self.start,
            self.length,
        ) = PLACE.unpack(row)


@final
class Span:
    """A stretch of positions read at once: one frame of the journal, or one settled region."""

    __slots__ = ("first_position", "length", "places", "segment", "start")

    def __init__(self, first_position: int) -> None:
        self.first_position = first_position
        self.segment = 0
        self.start = 0
        self.length = 0
        self.places: list[Place] = []


def place_row(batch: Batch, segment: int, start: int, length: int) -> bytes:
    """The index row of a batch."""
    return PLACE.pack(
        batch.last_offset,
        batch.first_position,
        batch.last_position,
        batch.weight,
        batch.count,
        segment,
        start,
        length,
    )

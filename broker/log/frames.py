"""How a commit lies in the journal: one frame. Decides the journal's format; knows no file.

A frame is a header, then entries: batches, state rows, releases. The checksum covers all of it. The
header repeats the salt of its segment, so that neither a payload that looks like a frame nor an
older file's blocks can pass for one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final, final

import msgspec
from crc32c import crc32c

from dragoman.broker.log.stored import Batch, FormatError, batch_at, pack_entries
from dragoman.routing.message import Entry

JOURNAL_VERSION: Final = 1
SALT_BYTES: Final = 8

_FRAME_MAGIC: Final = b"DgF\x01"
_FRAME: Final = struct.Struct("<4s8sIQQQ")
"""magic, salt, bytes of entries, commit number, first position, position after the last."""
_CRC: Final = struct.Struct("<I")
FRAME_HEAD_BYTES: Final = _FRAME.size + _CRC.size

_ENTRY: Final = struct.Struct("<BBHI")
"""what it is, version, reserved, bytes that follow."""
_BATCH: Final = 1
_ROWS: Final = 2
_RELEASES: Final = 3
_ENTRY_VERSION: Final = 1

_SEGMENT_MAGIC: Final = b"DgJourn\n"
_SEGMENT: Final = struct.Struct("<8sHHI8sIQQQ")
"""magic, version, reserved, segment, salt, segment before (0 = none), its length, commits and positions so far."""
SEGMENT_HEAD_BYTES: Final = _SEGMENT.size + _CRC.size

StateRow = tuple[int, bytes, bytes | None]
"""table, key, value (None = deleted)"""

_encoder: Final = msgspec.msgpack.Encoder()
_rows_decoder: Final = msgspec.msgpack.Decoder(list[StateRow])
_releases_decoder: Final = msgspec.msgpack.Decoder(list[tuple[int, int]])


@final
class Frame:
    """What one frame holds, and where it lies. ``start`` and ``length`` of a batch are within its segment file."""

    __slots__ = (
        "batches",
        "commit",
        "end_position",
        "first_position",
        "length",
        "releases",
        "rows",
        "segment",
        "start",
    )

    def __init__(self, commit: int, first_position: int, end_position: int) -> None:
        self.commit = commit
        self.first_position = first_position
        self.end_position = end_position
        self.batches: list[Batch] = []
        self.rows: Sequence[StateRow] = ()
        self.releases: Sequence[tuple[int, int]] = ()
        self.segment = 0
        self.start = 0
        self.length = 0

    def lies_at(self, segment: int, start: int) -> None:
        """Says where the frame was written; the batches' places move with it."""
        self.segment = segment
        self.start = start
        for batch in self.batches:
            batch.start += start


@final
class SegmentHead:
    """What a segment file says about itself and about the one before, which it seals at ``sealed_bytes``."""

    __slots__ = ("commit", "position", "previous", "salt", "sealed_bytes", "segment")

    def __init__(self, segment: int, salt: bytes, previous: int, sealed_bytes: int, commit: int, position: int) -> None:
        self.segment = segment
        self.salt = salt
        self.previous = previous
        self.sealed_bytes = sealed_bytes
        self.commit = commit
        self.position = position


def pack_frame(
    salt: bytes,
    commit: int,
    first_position: int,
    by_channel: Mapping[int, Sequence[Entry]],
    rows: Sequence[StateRow],
    releases: Sequence[tuple[int, int]],
) -> tuple[Frame, bytes]:
    """The frame of one commit. Raises ``TypeError`` or ``ValueError`` if a message holds what cannot be stored."""
    frame = Frame(commit, first_position, first_position)
    frame.rows = rows
    frame.releases = releases
    parts: list[bytes] = []
    at = FRAME_HEAD_BYTES
    for batch, pieces in chain.from_iterable(map(pack_entries, by_channel.values())):
        frame.end_position = max(frame.end_position, batch.last_position + 1)
        batch.start = at + _ENTRY.size
        parts.append(_ENTRY.pack(_BATCH, _ENTRY_VERSION, 0, batch.length))
        parts += pieces
        at += _ENTRY.size + batch.length
        frame.batches.append(batch)
    for what, content in ((_ROWS, rows), (_RELEASES, releases)):
        if content:
            packed = _encoder.encode(content)
            parts.append(_ENTRY.pack(what, _ENTRY_VERSION, 0, len(packed)))
            parts.append(packed)
            at += _ENTRY.size + len(packed)
    frame.length = at
    head = _FRAME.pack(_FRAME_MAGIC, salt, at - FRAME_HEAD_BYTES, commit, first_position, frame.end_position)
    check = crc32c(head)
    for part in parts:
        check = crc32c(part, check)
    return frame, b"".join((head, _CRC.pack(check), *parts))


def frame_length(head: bytes, salt: bytes) -> int | None:
    """Bytes of the whole frame that begins with ``head``; None if no frame of this segment begins so."""
    if len(head) < FRAME_HEAD_BYTES:
        return None
    magic, found_salt, body_bytes, _, _, _ = _FRAME.unpack_from(head)
    if magic != _FRAME_MAGIC or found_salt != salt:
        return None
    return FRAME_HEAD_BYTES + int(body_bytes)


def frame_marker(salt: bytes) -> bytes:
    """The bytes every frame of a segment begins with."""
    return _FRAME_MAGIC + salt


def intact(content: bytes) -> bool:
    """Whether the checksum of a whole frame is right."""
    head = content[: _FRAME.size]
    return bool(
        _CRC.unpack_from(content, _FRAME.size)[0] == crc32c(memoryview(content)[FRAME_HEAD_BYTES:], crc32c(head))
    )


def unpack_frame(content: bytes, segment: int, start: int) -> Frame:
    """The content of an intact frame that lies at ``start``. Raises ``FormatError`` for a newer version."""
    _, _, _, commit, first_position, end_position = _FRAME.unpack_from(content)
    frame = Frame(commit, first_position, end_position)
    frame.length = len(content)
    at = FRAME_HEAD_BYTES
    while at < len(content):
        what, version, _, length = _ENTRY.unpack_from(content, at)
        at += _ENTRY.size
        if version > _ENTRY_VERSION or what > _RELEASES:
            raise FormatError(f"journal entry {what} of format {version} is newer than this program: use a newer one")
        if what == _BATCH:
            frame.batches.append(batch_at(content, at, length))
        elif what == _ROWS:
            frame.rows = _rows_decoder.decode(content[at : at + length])
        else:
            frame.releases = _releases_decoder.decode(content[at : at + length])
        at += length
    frame.lies_at(segment, start)
    return frame


def pack_segment_head(head: SegmentHead) -> bytes:
    """The first bytes of a segment file."""
    packed = _SEGMENT.pack(
        _SEGMENT_MAGIC,
        JOURNAL_VERSION,
        0,
        head.segment,
        head.salt,
        head.previous,
        head.sealed_bytes,
        head.commit,
        head.position,
    )
    return packed + _CRC.pack(crc32c(packed))


def unpack_segment_head(content: bytes) -> SegmentHead | None:
    """What a segment says about itself; None if it was never written whole. Raises ``FormatError`` if it is newer."""
    if len(content) < SEGMENT_HEAD_BYTES:
        return None
    if _CRC.unpack_from(content, _SEGMENT.size)[0] != crc32c(content[: _SEGMENT.size]):
        return None
    magic, version, _, segment, salt, previous, sealed_bytes, commit, position = _SEGMENT.unpack_from(content)
    if magic != _SEGMENT_MAGIC:
        return None
    if version > JOURNAL_VERSION:
        raise FormatError(f"journal format {version}; this program knows up to {JOURNAL_VERSION}: use a newer one")
    return SegmentHead(segment, salt, previous, sealed_bytes, commit, position)

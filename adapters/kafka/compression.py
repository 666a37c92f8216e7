"""The codecs of record batches. What is decompressed has a bound, whatever the bytes announce."""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Final

GZIP_WINDOW: Final = 31
"""zlib's word for a gzip header and the largest window."""

XERIAL: Final = b"\x82SNAPPY\x00"
"""Java's snappy framing begins so; then two versions, then blocks with their length in front. Others send it raw."""
_XERIAL_HEAD: Final = 16


class Codec(IntEnum):
    """The low three bits of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


def decompressed(codec: int, data: memoryview, bytes_max: int) -> bytes:
    """The records of a batch. Raises ValueError if they cannot be had, or are more than ``bytes_max``."""
    if codec == Codec.NONE:
        found = bytes(data)
    elif codec == Codec.GZIP:
        found = _gzip(data, bytes_max)
    elif codec == Codec.SNAPPY:
        found = _snappy(data, bytes_max)
    elif codec == Codec.LZ4:
        found = _lz4(data, bytes_max)
    elif codec == Codec.ZSTD:
        found = _zstd(data, bytes_max)
    else:
        raise ValueError(f"codec {codec} is none of Kafka's")
    if len(found) > bytes_max:
        raise ValueError(f"the records of one batch are more than {bytes_max} bytes when decompressed")
    return found


def _gzip(data: memoryview, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj(GZIP_WINDOW)
    try:
        found = inflater.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise ValueError(f"not gzip: {error}") from None
    if not inflater.eof and len(found) <= bytes_max:
        raise ValueError("gzip data that ends too early")
    return found


def _snappy(data: memoryview, bytes_max: int) -> bytes:
    if bytes(data[: len(XERIAL)]) != XERIAL:
        return _snappy_block(data, bytes_max)
    blocks: list[bytes] = []
    size = 0
    at = _XERIAL_HEAD
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if length > len(data) - at:
            raise ValueError("snappy data that ends too early")
        blocks.append(_snappy_block(data[at : at + length], bytes_max - size))
        size += len(blocks[-1])
        at += length
    return b"".join(blocks)


def _snappy_block(data: memoryview, bytes_max: int) -> bytes:
    import cramjam

    try:
        announced = cramjam.snappy.decompress_raw_len(data)
        if announced > max(bytes_max, 0):
            raise ValueError(f"snappy announces {announced} bytes, more than the {bytes_max} that are taken")
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise ValueError(f"not snappy: {error}") from None


def _lz4(data: memoryview, bytes_max: int) -> bytes:
    import lz4.frame

    inflater = lz4.frame.LZ4FrameDecompressor()
    try:
        found: bytes = inflater.decompress(data, max_length=bytes_max + 1)
    except RuntimeError as error:
        raise ValueError(f"not lz4: {error}") from None
    if not inflater.eof and len(found) <= bytes_max:
        raise ValueError("lz4 data that ends too early")
    return found


def _zstd(data: memoryview, bytes_max: int) -> bytes:
    import zstandard

    inflater = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    try:
        with inflater.stream_reader(data) as reader:
            found: bytes = reader.read(bytes_max + 1)
    except zstandard.ZstdError as error:
        raise ValueError(f"not zstd: {error}") from None
    return found

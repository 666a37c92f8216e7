"""What a batch may come to when it is decompressed: bombs, cut data and noise, in every codec."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import cramjam
import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.kafka.compression import XERIAL, Codec, decompressed

LIMIT = 1 << 20
TEXT = b"the quick brown fox " * 200


def xerial(data: bytes) -> bytes:
    """Java's framing, in blocks of 1,000 bytes."""
    blocks = [bytes(cramjam.snappy.compress_raw(data[at : at + 1_000])) for at in range(0, len(data), 1_000)]
    return XERIAL + bytes(8) + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)


WRITERS: dict[str, tuple[Codec, Callable[[bytes], bytes]]] = {
    "gzip": (Codec.GZIP, gzip.compress),
    "snappy": (Codec.SNAPPY, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "snappy of Java": (Codec.SNAPPY, xerial),
    "lz4": (Codec.LZ4, lz4.frame.compress),
    "zstd": (Codec.ZSTD, zstandard.ZstdCompressor().compress),
    "zstd of a stream": (Codec.ZSTD, lambda data: zstandard.ZstdCompressor().compressobj().compress(data)),
}
WHOLE = [name for name in WRITERS if name != "zstd of a stream"]


@pytest.mark.parametrize("name", WHOLE)
def test_what_was_compressed_comes_back(name: str) -> None:
    codec, write = WRITERS[name]
    for data in (b"", b"x", TEXT, bytes(range(256)) * 400):
        assert decompressed(codec, memoryview(write(data)), LIMIT) == data


def test_what_was_not_compressed_is_itself() -> None:
    assert decompressed(Codec.NONE, memoryview(TEXT), LIMIT) == TEXT


@pytest.mark.parametrize("name", WHOLE)
def test_the_bound_holds_to_the_byte(name: str) -> None:
    codec, write = WRITERS[name]
    data = memoryview(write(bytes(5_000)))
    assert len(decompressed(codec, data, 5_000)) == 5_000
    with pytest.raises(ValueError, match="more than"):
        decompressed(codec, data, 4_999)


@pytest.mark.parametrize("name", WHOLE)
def test_a_bomb_costs_no_more_than_the_bound(name: str) -> None:
    codec, write = WRITERS[name]
    bomb = memoryview(write(bytes(200 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than"):
            decompressed(codec, bomb, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", WHOLE)
def test_cut_anywhere_it_is_refused_or_shorter(name: str) -> None:
    codec, write = WRITERS[name]
    data = write(TEXT)
    for cut in range(len(data)):
        try:
            found = decompressed(codec, memoryview(data)[:cut], LIMIT)
        except ValueError:
            continue
        assert len(found) < len(TEXT)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 5, 7]), st.binary(max_size=400), st.sampled_from(sorted(WRITERS)))
def test_noise_raises_nothing_else(codec: int, noise: bytes, name: str) -> None:
    kind, write = WRITERS[name]
    for data in (noise, XERIAL + noise, write(TEXT)[:20] + noise, write(noise) + noise):
        for which in (codec, int(kind)):
            with suppress(ValueError):
                decompressed(which, memoryview(data), LIMIT)

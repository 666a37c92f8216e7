"""A produce request that is too large to be kept: what it is about is kept as it comes by, its records not. Sans-io.

So its producer hears that they were too large, and goes on; closing the connection would have it send them again.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeAlias, final

from dragoman.adapters.kafka.apis import BY_KEY, ApiKey
from dragoman.adapters.kafka.codec import serves
from dragoman.adapters.kafka.wire import WireError

KEPT_BYTES_MAX: Final = 64 << 10
"""Of one request without its records: some thousands of partitions."""

COUNT_BYTES_MAX: Final = 5

Walk: TypeAlias = Generator[int, bytes, None]
"""Yields how many bytes it has to see next, and is sent them; or, below 0, how many it does not."""

Count: TypeAlias = Generator[int, bytes, int]


@final
class Skim:
    """One request of ``length`` bytes. When ``left`` is 0, ``kept`` is the request with null for each batch."""

    __slots__ = ("_done", "_part", "_skip", "_walk", "_want", "kept", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.kept = bytearray()
        self._part = 0
        self._want = 0
        self._skip = 0
        self._done = False
        self._walk = self._request()
        self._go_on(None)

    def feed(self, data: memoryview) -> int:
        """Takes of ``data`` what belongs to the request, and says how much. Raises WireError: it is no such request."""
        taken, at = min(len(data), self.left), 0
        while at < taken and not self._done:
            step = min(self._skip or self._want, taken - at)
            if self._skip:
                self._skip -= step
            else:
                self.kept += data[at : at + step]
                self._want -= step
            at += step
            if not self._skip and not self._want:
                self._go_on(bytes(self.kept[self._part :]))
        self.left -= taken
        if not self.left and not self._done:
            raise WireError("a produce request whose records end beyond it")
        return taken

    def _go_on(self, part: bytes | None) -> None:
        try:
            wish = next(self._walk) if part is None else self._walk.send(part)
            while not wish:
                wish = self._walk.send(b"")
        except StopIteration:
            self._done = True
            return
        self._part = len(self.kept)
        self._want, self._skip = max(wish, 0), max(-wish, 0)
        if self._part + self._want > KEPT_BYTES_MAX:
            raise WireError(f"a produce request that has more than {KEPT_BYTES_MAX} bytes beside its records")

    def _request(self) -> Walk:
        head = yield 8
        key, version = (int.from_bytes(head[at : at + 2], "big", signed=True) for at in (0, 2))
        if key != ApiKey.PRODUCE or not serves(key, version):
            raise WireError(f"a request of API {key} version {version} that is too large")
        compact = version >= BY_KEY[key].flexible
        # The client's name is written in the old way in all versions.
        yield (yield from _count(2, compact=False))
        if compact:
            yield from _tags()
        yield (yield from _count(2, compact=compact))
        yield 6
        for _ in range((yield from _count(4, compact=compact))):
            yield 16 if version >= 13 else (yield from _count(2, compact=compact))
            for _ in range((yield from _count(4, compact=compact))):
                yield 4
                yield from self._records(compact=compact)
            if compact:
                yield from _tags()
        if compact:
            yield from _tags()

    def _records(self, *, compact: bool) -> Walk:
        place = len(self.kept)
        count = yield from _count(4, compact=compact)
        self.kept[place:] = b"\0" if compact else b"\xff\xff\xff\xff"
        yield -count
        if compact:
            yield from _tags()


def _count(size: int, *, compact: bool) -> Count:
    """A length of so many bytes, or a compact one; that of nothing, which is -1, is 0."""
    if not compact:
        return max(0, int.from_bytes((yield size), "big", signed=True))
    return max(0, (yield from _varint()) - 1)


def _varint() -> Count:
    value = 0
    for at in range(COUNT_BYTES_MAX):
        byte = (yield 1)[0]
        value |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            return value
    raise WireError("a number of more than five bytes")


def _tags() -> Walk:
    for _ in range((yield from _varint())):
        yield from _varint()
        yield (yield from _varint())

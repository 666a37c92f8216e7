"""How fast somebody may publish: token buckets of plain integers, asked together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final


@final
class Limiter:
    """One token bucket, of messages or (``weighs``) of payload bytes. Whoever shares a limit shares the object."""

    __slots__ = ("_burst", "_last_ms", "_rate", "_tokens", "weighs")

    def __init__(self, per_s: int, burst: int, *, weighs: bool = False) -> None:
        self.weighs = weighs
        self._rate = per_s
        self._burst = burst * 1000
        self._tokens = self._burst
        self._last_ms = -1

    @property
    def on(self) -> bool:
        """Whether it limits anything; a rate of 0 does not."""
        return self._rate > 0

    def wait(self, now_ms: int, n: int) -> int:
        """Milliseconds until ``n`` may be spent; 0 = now. ``now_ms`` is the monotonic clock's.

        More than the burst at once passes when the bucket is full, on credit; otherwise it never would.
        """
        rate = self._rate
        if rate == 0:
            return 0
        if now_ms > self._last_ms:
            if self._last_ms >= 0:
                self._tokens = min(self._burst, self._tokens + (now_ms - self._last_ms) * rate)
            self._last_ms = now_ms
        needed = min(n * 1000, self._burst)
        return 0 if self._tokens >= needed else -((self._tokens - needed) // rate)

    def spend(self, n: int) -> None:
        """Takes ``n``, on credit if it has to."""
        if self._rate:
            self._tokens -= n * 1000

    def take(self, now_ms: int, n: int = 1) -> int:
        """Takes ``n`` and answers 0, or takes nothing and answers the milliseconds to wait."""
        wait_ms = self.wait(now_ms, n)
        if not wait_ms:
            self.spend(n)
        return wait_ms

    def change(self, per_s: int, burst: int) -> None:
        """New limits after a reload, for connections that already hold this limiter."""
        self._rate = per_s
        self._burst = burst * 1000
        self._tokens = min(self._tokens, self._burst)


def take(limiters: Sequence[Limiter], now_ms: int, messages: int, size: int) -> int:
    """Takes from all and answers 0, or from none and answers the longest wait in milliseconds."""
    longest_ms = 0
    for limiter in limiters:
        longest_ms = max(longest_ms, limiter.wait(now_ms, size if limiter.weighs else messages))
    if not longest_ms:
        for limiter in limiters:
            limiter.spend(size if limiter.weighs else messages)
    return longest_ms


def overdraw(limiters: Sequence[Limiter], now_ms: int, messages: int, size: int) -> int:
    """Takes from all, on credit if it has to, and answers the milliseconds after which nobody owes anything."""
    longest_ms = 0
    for limiter in limiters:
        limiter.wait(now_ms, 0)
        limiter.spend(size if limiter.weighs else messages)
        longest_ms = max(longest_ms, limiter.wait(now_ms, 0))
    return longest_ms


def limiters_of(messages_per_s: int, burst: int, bytes_per_s: int, bytes_burst: int) -> tuple[Limiter, ...]:
    """A limiter for each of the two rates; those of 0 limit nothing."""
    return Limiter(messages_per_s, burst), Limiter(bytes_per_s, bytes_burst, weighs=True)

"""The only file of routing and broker that reads a clock. Everything else is handed one."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two times: one for people and expiries, one for intervals."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch. May step; never use it to measure."""

    def monotonic_ms(self) -> int:
        """Milliseconds of a clock that never goes back."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds of a clock that never goes back."""
        return time.monotonic_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told: for tests and simulation."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since the epoch, as set."""
        return self._now_ms

    def monotonic_ms(self) -> int:
        """Milliseconds moved since the start."""
        return self._monotonic_ms

    def advance(self, by_ms: int) -> None:
        """Moves both clocks forward."""
        assert by_ms >= 0, f"a clock does not go back: {by_ms}"
        self._now_ms += by_ms
        self._monotonic_ms += by_ms

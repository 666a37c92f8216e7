"""How a link stands, and what it has counted. One setter; who looks at it looks here."""

from __future__ import annotations

import logging
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.metrics import Metrics

logger: Final = logging.getLogger("dragoman.links")

ERROR_CHARS_MAX: Final = 300


class Phase(Enum):
    """``DOWN``: waiting for the next attempt. ``STOPPED`` is for good."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"
    STOPPED = "stopped"


_FOLLOWS: Final = {
    Phase.DOWN: {Phase.CONNECTING, Phase.STOPPED},
    Phase.CONNECTING: {Phase.UP, Phase.DOWN, Phase.STOPPED},
    Phase.UP: {Phase.DOWN, Phase.STOPPED},
    Phase.STOPPED: set(),
}


@final
class Standing:
    """One link's state and counters. ``error`` is the last one, also once the link is up again."""

    def __init__(self, name: str, address: str, clock: Clock, metrics: Metrics) -> None:
        self.name = name
        self.address = address
        self.phase = Phase.DOWN
        self.error = ""
        self.error_ms = 0
        self.connects = 0
        self.pulled = 0
        self.pushed = 0
        self.duplicates = 0
        self.dropped: Counter[str] = Counter()
        self._clock = clock
        self._metrics = metrics
        self.since_ms = clock.now_ms()
        self._told = ""

    def drop(self, reason: str, n: int = 1) -> None:
        """Counts messages that do not go over, with a reason from the code."""
        self.dropped[reason] += n
        self._metrics.drop(reason, n)

    def connecting(self) -> None:
        """An attempt begins."""
        self._set(Phase.CONNECTING)

    def up(self) -> None:
        """Messages can go over."""
        self._set(Phase.UP)
        self.connects += 1
        self._told = ""
        logger.info("link %s is up: %s", self.name, self.address)

    def down(self, error: str) -> None:
        """The attempt failed or the connection ended. Said once, however many attempts fail the same way."""
        self._set(Phase.DOWN)
        self.error, self.error_ms = error[:ERROR_CHARS_MAX], self._clock.now_ms()
        if self.error != self._told:
            self._told = self.error
            logger.warning("link %s is down: %s", self.name, self.error)

    def complain(self, error: str) -> None:
        """Something does not work though the connection may."""
        self.error, self.error_ms = error[:ERROR_CHARS_MAX], self._clock.now_ms()
        logger.warning("link %s: %s", self.name, self.error)

    def stopped(self) -> None:
        """No more attempts."""
        self._set(Phase.STOPPED)

    def _set(self, phase: Phase) -> None:
        assert phase in _FOLLOWS[self.phase], f"link {self.name}: {self.phase.value} → {phase.value}"
        self.phase = phase
        self.since_ms = self._clock.now_ms()

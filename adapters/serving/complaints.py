"""What an operator reads of peers that break a protocol's rules: a line for each, of a flood how many there were."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from dragoman.broker.timers import Timers

LINES_MAX: Final = 100
"""Lines of one protocol in a window."""
WINDOW_MS: Final = 60_000
CLIENT_CHARS_MAX: Final = 64
"""What is shown of a client's name: it is the peer's word, and may be as long as 64 KB."""


@final
class Complaints:
    """One protocol's. A warning for each bad connection, and at the end of a minute how many were left out."""

    __slots__ = ("_left_out", "_lines", "_logger", "_timers", "_word")

    def __init__(self, word: str, logger: logging.Logger, timers: Timers) -> None:
        self._word = word
        self._logger = logger
        self._timers = timers
        self._lines = 0
        self._left_out = 0

    def say(self, what: str, detail: str, *, peer: str, client: str = "") -> None:
        """``what`` and ``detail`` are ours; the client's name is shown so that it cannot pose as another line."""
        if not self._lines:
            self._timers.after(WINDOW_MS, self._window_over)
        if self._lines >= LINES_MAX:
            self._left_out += 1
            return
        self._lines += 1
        shown = f", client {client[:CLIENT_CHARS_MAX]!r}" if client else ""
        self._logger.warning(
            "%s %s: %s (peer %s%s)",
            self._word,
            what,
            detail,
            peer or "without an address",
            shown,
        )

    def _window_over(self) -> None:
        left_out, self._left_out, self._lines = self._left_out, 0, 0
        if left_out:
            self._logger.warning(
                "%s: %d more bad connections were left out of this log in the last minute",
                self._word,
                left_out,
            )

"""Something changed: told to whoever asked, gathered for a moment first. Says only that, not what."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from dragoman.broker.core import Loop, TimerHandle


@final
class Changes:
    """A bell with a delay: rung often, heard once."""

    __slots__ = ("_delay_s", "_hearers", "_loop", "_timer")

    def __init__(self, loop: Loop, delay_s: float) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._hearers: dict[object, Callable[[], None]] = {}
        self._timer: TimerHandle | None = None

    def subscribe(self, hearer: Callable[[], None]) -> Callable[[], None]:
        """Calls ``hearer`` after changes until what is returned is called."""
        token = object()
        self._hearers[token] = hearer
        return lambda: (self._hearers.pop(token, None), None)[1]

    def ring(self) -> None:
        """Notes a change."""
        if self._timer is None and self._hearers:
            self._timer = self._loop.call_later(self._delay_s, self._sound)

    def stop(self) -> None:
        """Says nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sound(self) -> None:
        self._timer = None
        for hearer in list(self._hearers.values()):
            hearer()

"""Clients sent to another broker: those that come, at once; those that are here, so many a second.

For emptying a node before it is taken away, by the administration's word; it ends with the process. Where a
listener sends everybody elsewhere for good, its configuration says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, final, runtime_checkable

from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.session import Session
    from dragoman.broker.timers import Timer, Timers

REFERENCE_CHARS_MAX: Final = 1_024
STEP_MS: Final = 100


class Redirect(NamedTuple):
    """Where to, and whether for good. ``by``: the administrator whose word it is; "" = the configuration's.

    ``to``: servers, best first, with a space between them: names or addresses, perhaps with ports, an IPv6 address
    with a port in brackets (MQTT 5.0 §4.11). Clients that cannot be told where are closed all the same.
    """

    to: str
    permanent: bool = False
    by: str = ""
    since_ms: int = 0


@runtime_checkable
class Redirectable(Protocol):
    """A session that has words for being sent elsewhere."""

    def redirect(self, there: Redirect) -> None:
        """Tells it, and ends the connection; nothing where it has ended."""


def reference_problem(text: str) -> str | None:
    """Why it names no servers, in a sentence; None if it does."""
    if not text or len(text) > REFERENCE_CHARS_MAX or not text.isprintable() or "" in text.split(" "):
        return "it names servers, such as 'b.example:1883', with one space between them, in up to 1,024 characters"
    return None


@final
class Redirects:
    """Who is sent elsewhere by the administration. ``current`` is what who comes is told; None: come in."""

    def __init__(self, timers: Timers, clock: Clock, sessions: Callable[[], Iterable[Session]]) -> None:
        self._timers = timers
        self._clock = clock
        self._sessions = sessions
        self._timer: Timer | None = None
        self._left: list[Redirectable] = []
        self._per_s = 0
        #: thousandths of a client that may be told now
        self._due = 0
        self.current: Redirect | None = None

    @property
    def waiting(self) -> int:
        """How many are here that have not been told yet, with those that left by themselves meanwhile."""
        return len(self._left)

    def begin(self, to: str, *, permanent: bool, by: str, per_s: int) -> Redirect | Refusal:
        """Sends everybody there from now on, and who is here too, ``per_s`` a second. Replaces what was so before."""
        assert per_s > 0, per_s
        problem = reference_problem(to)
        if problem is not None:
            return Refusal(Reason.ARGUMENTS_INVALID, problem)
        self.end()
        self.current = Redirect(to, permanent, by, self._clock.now_ms())
        # The longest here are told first.
        here: list[Redirectable] = [session for session in self._sessions() if isinstance(session, Redirectable)]
        self._left = here[::-1]
        self._per_s = per_s
        self._due = 0
        self._step()
        return self.current

    def end(self) -> None:
        """Clients may come in again. Idempotent."""
        self.current = None
        self._left = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _step(self) -> None:
        self._timer = None
        there = self.current
        assert there is not None, "it would have been cancelled"
        self._due += self._per_s * STEP_MS
        while self._due >= 1_000 and self._left:
            self._due -= 1_000
            self._left.pop().redirect(there)
        if self._left:
            self._timer = self._timers.after(STEP_MS, self._step)

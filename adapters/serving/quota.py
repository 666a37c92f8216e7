"""How much each principal may have going on the web application at once, and all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from dragoman.routing.refusals import Reason, Refusal, RefusedError


@final
class Quota:
    """How many of something each principal may have, and all together."""

    __slots__ = ("_each_max", "_held", "_total", "_total_max", "_word")

    def __init__(self, word: str, *, each_max: int, total_max: int) -> None:
        self._word = word
        self._each_max = each_max
        self._total_max = total_max
        self._held: Counter[str] = Counter()
        self._total = 0

    def take(self, principal: str) -> Refusal | None:
        """Counts one more, or says no."""
        held, total = self._held[principal], self._total
        if held >= self._each_max:
            return Refusal(Reason.QUOTA_EXCEEDED, f"{held} {self._word} are open, {self._each_max} are allowed", 1000)
        if total >= self._total_max:
            return Refusal(Reason.BUSY, f"{total} {self._word} are open in the mesh, which is all it allows", 1000)
        self._held[principal] += 1
        self._total += 1
        return None

    def give_back(self, principal: str) -> None:
        """Counts one less."""
        assert self._held[principal] > 0, f"{principal} gives back one of {self._word} it does not hold"
        self._total -= 1
        self._held[principal] -= 1
        if not self._held[principal]:
            del self._held[principal]

    @contextmanager
    def held(self, principal: str) -> Iterator[None]:
        """Holds one for a ``with`` block. Raises RefusedError."""
        refusal = self.take(principal)
        if refusal is not None:
            raise RefusedError(refusal)
        try:
            yield
        finally:
            self.give_back(principal)

"""What ``$mesh/v1/…`` says now. Computed when somebody subscribes, kept nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

from dragoman.routing.names import from_level, matches
from dragoman.routing.refusals import Refusal

ROOT = "$mesh/v1/"

Source = Callable[[str | None, Callable[[str], bool]], Iterator[tuple[str, bytes]]]
"""Given the one thing asked for (None = any) and which names are wanted: names and payloads."""


@final
class Projection:
    """The kinds below ``$mesh/v1/`` and who knows of each."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    def add(self, kind: str, source: Source) -> None:
        """``source`` answers for ``$mesh/v1/{kind}/…``. At most once a kind."""
        assert kind not in self._sources, f"{kind} is answered for already"
        self._sources[kind] = source

    def find(self, filter_: str) -> Iterator[tuple[str, bytes]]:
        """Names and payloads that a checked filter matches, lazily; the mesh may change meanwhile."""
        levels = filter_.split("/")
        if levels[0] != "$mesh" or (len(levels) > 1 and levels[1] not in ("v1", "+", "#")):
            return
        rest = levels[1:].index("#") + 1 if levels[-1] == "#" and len(levels) > 1 else len(levels)
        kind = levels[2] if rest > 2 else "#"
        only: str | None = None
        if rest > 3 and levels[3] != "+":
            thing = from_level(levels[3])
            if isinstance(thing, Refusal):
                return
            only = thing
        for known, source in self._sources.items():
            if kind in (known, "+", "#"):
                yield from source(only, lambda name: matches(filter_, name))

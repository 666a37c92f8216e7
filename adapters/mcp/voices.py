"""What the server says on the streams of a handshake session, numbered, so that after a cut the rest can be heard.

A ``Reply`` is the stream of one request: its progress and its answer. ``Notices`` is the session's own stream,
which a client opens with GET: a notice says no more than "look again", so the newest of each kind is all there is
to repeat, however long the client was away. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeAlias, final

from dragoman.adapters.mcp import wire

Said: TypeAlias = tuple[int, bytes]
"""A number, which grows along the stream, and the JSON-RPC message."""

REPLY_EVENTS_MAX: Final = 128
"""Messages held of one reply; the oldest progress goes first, the answer is the last."""


@final
class Bell:
    """Rings when there is news. Wakes the one connection that pours a voice.

    The latest to take it has it: a client that connects again is the same client, whose older connection is dead
    even where nobody has noticed yet.
    """

    __slots__ = ("_news", "taken")

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self.taken: object = None

    def take(self, by: object) -> None:
        """Gives the voice to a connection."""
        self.taken = by
        self._news.set()

    def leave(self, by: object) -> None:
        """A connection has no more use for it."""
        if self.taken is by:
            self.taken = None

    def ring(self) -> None:
        """Something is new."""
        self._news.set()

    async def heard(self) -> None:
        """Returns when it rang since this last returned."""
        await self._news.wait()
        self._news.clear()


class Voice(Protocol):
    """One of the two, as whoever pours it into a connection sees it."""

    bell: Bell

    @property
    def number(self) -> int:
        """Which stream of the session it is."""

    @property
    def over(self) -> bool:
        """Whether nothing more will be said."""

    def since(self, number: int) -> list[Said]:
        """What was said after ``number`` and is still worth hearing."""


@final
class Reply:
    """The stream of one request. ``answer`` is None where it was cancelled, which wants no answer."""

    __slots__ = ("_last", "_number", "_said", "answer", "bell", "over")

    def __init__(self, number: int) -> None:
        assert number > 0, "0 is the session's own stream"
        self._number = number
        self._said: deque[Said] = deque(maxlen=REPLY_EVENTS_MAX)
        self._last = 0
        self.answer: bytes | None = None
        self.over = False
        self.bell = Bell()

    @property
    def number(self) -> int:
        """Which stream of the session it is."""
        return self._number

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(len(body) for _, body in self._said)

    @property
    def spoke(self) -> bool:
        """Whether anything was said before the answer."""
        return self._last > (1 if self.answer is not None else 0)

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Says a notification."""
        self._say(wire.notification_body(method, params))

    def finish(self, answer: bytes | None) -> None:
        """Says the answer. Once."""
        assert not self.over, "a request has one answer"
        self.answer = answer
        self.over = True
        if answer is not None:
            self._say(answer)
        self.bell.ring()

    def since(self, number: int) -> list[Said]:
        """What was said after ``number``."""
        return [said for said in self._said if said[0] > number]

    def _say(self, body: bytes) -> None:
        self._last += 1
        self._said.append((self._last, body))
        self.bell.ring()


@final
class Notices:
    """A session's own stream. Bounded by its kinds: a few, and one for each resource that is followed."""

    __slots__ = ("_at", "_last", "_told", "bell", "over")

    number: Final = 0

    def __init__(self) -> None:
        #: what was noted last, in the order of the numbers
        self._at: dict[tuple[str, str], int] = {}
        self._last = 0
        self._told = 0
        self.over = False
        self.bell = Bell()

    @property
    def told(self) -> int:
        """The number of the newest that was given to a connection."""
        return self._told

    def note(self, method: str, uri: str = "") -> None:
        """Notes that something changed."""
        self._last += 1
        self._at.pop((method, uri), None)
        self._at[method, uri] = self._last
        self.bell.ring()

    def forget(self, method: str, uri: str) -> None:
        """What is not followed any more is not told."""
        self._at.pop((method, uri), None)

    def end(self) -> None:
        """Nothing more will be said."""
        self.over = True
        self.bell.ring()

    def since(self, number: int) -> list[Said]:
        """The newest of each kind noted after ``number``. Given once, it counts as told to the connection."""
        fresh: list[Said] = []
        for (method, uri), at in reversed(self._at.items()):
            if at <= number:
                break
            fresh.append((at, wire.notification_body(method, {"uri": uri} if uri else None)))
        fresh.reverse()
        self._told = max(self._told, *(at for at, _ in fresh), 0)
        return fresh

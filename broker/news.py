"""What the mesh says itself, below ``$mesh/`` and ``$SYS/``: told when it changes, computed for who comes later.

Nobody else writes there. It is kept nowhere but where a kept session waits for news of ``$mesh/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias, final

from dragoman.routing.message import Envelope, Header, Message, Wish
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.channel import Channel
    from dragoman.broker.channels import Channels
    from dragoman.broker.core import Core

OURS: Final = ("$mesh/", "$SYS/")
"""Where channels come into being for their readers: whoever may read needs no permission to create them."""

JSON: Final = Envelope(content_type="application/json", text=True)

Source: TypeAlias = Callable[[str], Iterator[tuple[str, bytes]]]
"""For a checked filter: names that match and what each says now, lazily."""


@final
class Projection:
    """What is so now below one first level, as the retained messages it would be if it were kept."""

    __slots__ = ("_core", "_envelope", "_source", "_wish")

    def __init__(self, core: Core, source: Source, wish: Wish, envelope: Envelope | None) -> None:
        self._core = core
        self._source = source
        self._wish = wish
        self._envelope = envelope

    def find(self, filter_: str) -> Iterator[Message]:
        """What a checked filter matches. Who may read each is the caller's business."""
        for name, payload in self._source(filter_):
            message = Message(name, payload, self._wish, "", True, self._envelope)
            message.time_ms = self._core.now_ms
            yield message


@final
class News:
    """The mesh's own voice."""

    def __init__(self, core: Core, channels: Channels) -> None:
        self._core = core
        self._channels = channels
        self._by_level: dict[str, Projection] = {}

    def enter(self, level: str, source: Source, wish: Wish, envelope: Envelope | None) -> None:
        """``source`` answers below ``level`` from now on, in messages of this wish and envelope."""
        assert level not in self._by_level, f"{level} is answered for already"
        self._by_level[level] = Projection(self._core, source, wish, envelope)

    def tell(self, name: str, payload: bytes, headers: tuple[Header, ...] = (), cause: str | None = None) -> None:
        """Says JSON at the end of this turn to whoever listens; costs nothing if nobody does."""
        self._core.loop.call_soon(self._tell, name, payload, headers, cause)

    def mention(self, name: str, payload: bytes, wish: Wish) -> None:
        """Says at once, to who is there, what can be said again at any time: nothing keeps it."""
        channel = self._heard(name)
        if channel is not None and (channel.fed or channel.watchers):
            self._core.commits.mention(channel, Message(name, payload, wish, "", True))

    def projection(self, filter_: str) -> Projection | None:
        """What answers for a name or filter; None where nothing is ours."""
        return self._by_level.get(filter_.partition("/")[0])

    def _tell(self, name: str, payload: bytes, headers: tuple[Header, ...], cause: str | None) -> None:
        channel = self._heard(name)
        if channel is not None:
            envelope = Envelope(headers=headers, cause=cause, content_type="application/json", text=True)
            channel.append(Message(name, payload, 1, "", False, envelope))

    def _heard(self, name: str) -> Channel | None:
        """The channel of that name; None if nobody listens there."""
        core = self._core
        if core.stopping:
            return None
        core.tick()
        channel = self._channels.find(name)
        if channel is not None or not core.filters.match(name):
            return channel
        opened = self._channels.open(name, "")
        if isinstance(opened, Refusal):
            core.metrics.drop("news-without-channel")
            return None
        return opened

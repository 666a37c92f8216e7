"""Server-sent events: framing, keep-alive, where a reader left off, and what happens to one that does not read.

Framing follows the WHATWG HTML standard, section 9.2. The writer has no queue of its own: it waits for the
socket, and whoever feeds it keeps a bounded one. A peer that takes nothing for ``stall_s`` is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import web

EVENT_STREAM: Final = "text/event-stream"

KEEP_ALIVE: Final = b":\n\n"
"""A comment: ignored by every reader, enough for proxies and for us to learn that the peer has gone."""

_BREAKS: Final = frozenset("\r\n\0")

HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": EVENT_STREAM,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class PeerGoneError(Exception):
    """The reader has gone or takes nothing; the stream is over."""


def frame(data: bytes, *, event: str = "", id: str = "") -> bytes:
    """One event. Each line of ``data`` becomes a data line, as the standard demands; ``event`` and ``id`` are one."""
    assert not _BREAKS.intersection(event), f"an event name is one line: {event!r}"
    assert not _BREAKS.intersection(id), f"an event id is one line without NUL: {id!r}"
    parts: list[bytes] = []
    if id:
        parts.append(f"id: {id}\n".encode())
    if event:
        parts.append(f"event: {event}\n".encode())
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    parts.extend(b"data: " + line + b"\n" for line in data.split(b"\n"))
    parts.append(b"\n")
    return b"".join(parts)


def retry(milliseconds: int) -> bytes:
    """How long a reader should wait before it connects again."""
    return f"retry: {milliseconds}\n\n".encode()


def last_event_id(headers: Mapping[str, str]) -> str:
    """The id of the last event the reader saw, "" if it says none. Readers send it as UTF-8 or not at all."""
    return headers.get("Last-Event-ID", "").strip()


def wants_events(accept: str) -> bool:
    """Whether an Accept header asks for events by name. ``*/*`` does not: a plain GET must end."""
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind == EVENT_STREAM and "q=0" not in parameters:
            return True
    return False


class EventWriter:
    """The sending half of one event stream.

    ``open`` once, then ``send`` from one task. ``PeerGoneError`` ends it: nothing more can be sent.
    """

    def __init__(self, request: web.Request, *, stall_s: float) -> None:
        self._request = request
        self._stall_s = stall_s
        self._response = web.StreamResponse(headers=HEADERS)

    @property
    def response(self) -> web.StreamResponse:
        """What the route must return in the end."""
        return self._response

    async def open(self, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """Sends the response head. The response is what the route must return."""
        self._response.headers.update(headers or {})
        try:
            await self._response.prepare(self._request)
        except ConnectionError as error:
            raise PeerGoneError from error
        return self._response

    async def send(self, frames: bytes) -> None:
        """Sends whole frames and waits until the socket has taken most of them."""
        try:
            async with asyncio.timeout(self._stall_s):
                await self._response.write(frames)
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise PeerGoneError from error
        except ConnectionError as error:
            raise PeerGoneError from error

    async def close(self) -> None:
        """Ends the stream properly, so that the reader sees an end and not a break."""
        try:
            async with asyncio.timeout(self._stall_s):
                await self._response.write_eof()
        except (TimeoutError, ConnectionError) as error:
            raise PeerGoneError from error

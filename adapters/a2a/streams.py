"""Streams of what happens to a task, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, final

import msgspec
from aiohttp import web

from dragoman.adapters.a2a.reading import Item, Reading, from_birth, from_now
from dragoman.adapters.serving.quota import Quota
from dragoman.adapters.serving.sse import KEEP_ALIVE, EventWriter, PeerGoneError, frame

if TYPE_CHECKING:
    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.adapters.a2a.tasks import Tasks
    from dragoman.adapters.a2a.views import Found
    from dragoman.adapters.a2a.wire import JsonObject

Wrap = Callable[["JsonObject"], "JsonObject"]
"""What a binding puts around an item."""


@final
class Streams:
    """All open streams of the endpoint."""

    def __init__(self, tasks: Tasks, settings: A2aSettings) -> None:
        self._tasks = tasks
        self._settings = settings
        self._quota = Quota("streams", each_max=settings.streams_per_principal_max, total_max=settings.streams_max)
        self._open: set[asyncio.Event] = set()
        self._stopped = False

    def stop(self) -> None:
        """Ends every stream; a client comes back for the rest."""
        self._stopped = True
        for news in self._open:
            news.set()

    def held(self, principal: str) -> AbstractContextManager[None]:
        """Room for one stream of this principal, taken before a task is begun for it. Raises RefusedError."""
        return self._quota.held(principal)

    async def begin(self, http: web.Request, task: Found, wrap: Wrap, history_length: int | None) -> web.StreamResponse:
        """First the task as it began, then all that has happened and happens, until its end."""
        return await self._run(http, task, from_birth(self._tasks, task, history_length), wrap)

    async def follow(self, http: web.Request, task: Found, wrap: Wrap) -> web.StreamResponse:
        """First the task as it is, then what happens, until its end."""
        return await self._run(http, task, from_now(self._tasks, task), wrap)

    async def _run(self, http: web.Request, task: Found, reading: Reading, wrap: Wrap) -> web.StreamResponse:
        """Raises A2aError and RefusedError before the first item."""
        writer = EventWriter(http, stall_s=self._settings.stall_max_s)
        with self._tasks.watched(task.call) as news:
            self._open.add(news)
            try:
                await writer.open()
                await writer.send(_framed(reading.first, wrap))
                while not reading.over and not self._stopped:
                    await self._next(writer, reading, wrap, news)
                await writer.close()
            except PeerGoneError:
                return writer.response
            finally:
                self._open.discard(news)
        return writer.response

    async def _next(self, writer: EventWriter, reading: Reading, wrap: Wrap, news: asyncio.Event) -> None:
        news.clear()
        frames = b"".join([_framed(item, wrap) for item in reading.take()])
        if frames:
            await writer.send(frames)
            return
        try:
            async with asyncio.timeout(self._settings.keep_alive_s):
                await news.wait()
        except TimeoutError:
            await writer.send(KEEP_ALIVE)


def _framed(item: Item, wrap: Wrap) -> bytes:
    return frame(msgspec.json.encode(wrap(item.told)), id=str(item.number))

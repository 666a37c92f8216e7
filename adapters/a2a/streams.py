"""Streams of what happens to a task. No queue: a stream keeps a number and reads the call's events from there.

The snapshot and the number are taken in one turn, so that nothing is told twice and nothing in between is missed.
A reader that was slower than the call's bound of events is told how many it missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, final

import msgspec
from aiohttp import web

from dragoman.adapters.a2a import views
from dragoman.adapters.serving.quota import Quota
from dragoman.adapters.serving.sse import KEEP_ALIVE, EventWriter, PeerGoneError, frame

if TYPE_CHECKING:
    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.adapters.a2a.tasks import Found, Tasks
    from dragoman.adapters.a2a.wire import JsonObject
    from dragoman.broker.call import CallEvent

Wrap = Callable[["JsonObject"], "JsonObject"]
"""What a binding puts around an item."""

BEGUN: Final = "artifactUpdate"


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
        born = self._tasks.born(task, history_length)
        if born is None:
            return await self.follow(http, task, wrap)
        return await self._run(http, task, _Reading(task, born, wrap, after=0))

    async def follow(self, http: web.Request, task: Found, wrap: Wrap) -> web.StreamResponse:
        """First the task as it is, then what happens, until its end."""
        reading = _Reading(task, self._tasks.shown(task), wrap, after=task.call.last_event)
        return await self._run(http, task, reading)

    async def _run(self, http: web.Request, task: Found, reading: _Reading) -> web.StreamResponse:
        """Raises A2aError and RefusedError before the first item."""
        writer = EventWriter(http, stall_s=self._settings.stall_max_s)
        with self._tasks.watched(task.call) as news:
            self._open.add(news)
            try:
                await writer.open()
                await writer.send(reading.first)
                while not reading.over and not self._stopped:
                    await self._next(writer, reading, news)
                await writer.close()
            except PeerGoneError:
                return writer.response
            finally:
                self._open.discard(news)
        return writer.response

    async def _next(self, writer: EventWriter, reading: _Reading, news: asyncio.Event) -> None:
        news.clear()
        frames = reading.take()
        if frames:
            await writer.send(frames)
            return
        try:
            async with asyncio.timeout(self._settings.keep_alive_s):
                await news.wait()
        except TimeoutError:
            await writer.send(KEEP_ALIVE)


@final
class _Reading:
    """How far one stream has read its call."""

    def __init__(self, task: Found, snapshot: JsonObject, wrap: Wrap, *, after: int) -> None:
        self._task = task
        self._wrap = wrap
        self._after = after
        self._begun = any(artifact["artifactId"] == views.ANSWER for artifact in snapshot["artifacts"])
        self._ended = task.call.outcome is not None and after == task.call.last_event
        self.first = self._framed({"task": snapshot}, self._after)

    @property
    def over(self) -> bool:
        """Whether the end has been told."""
        return self._ended

    def take(self) -> bytes:
        """All that has happened since."""
        call = self._task.call
        frames = b"".join([self._frames(event) for event in call.events if event.number > self._after])
        if call.outcome is not None and self._after == call.last_event:
            self._ended = True
        return frames

    def _frames(self, event: CallEvent) -> bytes:
        missed = event.number - self._after - 1
        self._after = event.number
        items = list(views.items(self._task.call, self._task.context, event, begun=self._begun, missed=missed))
        self._begun = self._begun or any(BEGUN in item for item in items)
        return b"".join([self._framed(item, event.number) for item in items])

    def _framed(self, item: JsonObject, number: int) -> bytes:
        return frame(msgspec.json.encode(self._wrap(item)), id=str(number))

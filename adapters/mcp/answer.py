"""How one answer goes back over HTTP: as a JSON object, or as an event stream once it speaks or takes long.

The work runs in a task of its own. Silent work that ends soon is answered with plain JSON and the
status of its error; the first notification, or a quarter of a minute of silence, commits to a stream
with keep-alives, whose last event is the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any, final

from aiohttp import web

from dragoman.adapters.mcp import wire
from dragoman.adapters.mcp.kernel import INTERNAL_ERROR, JsonObject, RequestId, RpcError, http_status
from dragoman.adapters.serving.sse import KEEP_ALIVE, EventWriter, PeerGoneError, frame

logger = logging.getLogger(__name__)


@final
class EventStream:
    """An event stream that begins with its first event, so that until then the answer may still be plain JSON."""

    __slots__ = ("_headers", "_response", "_writer", "_writing")

    def __init__(self, http: web.Request, stall_s: float, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._writer = EventWriter(http, stall_s=stall_s)
        self._response: web.StreamResponse | None = None
        self._writing = asyncio.Lock()

    @property
    def begun(self) -> bool:
        """Whether the status line is out, so that nothing but events may follow."""
        return self._response is not None

    async def say(self, body: bytes, id: str = "") -> None:
        """Sends a JSON-RPC message as an event; an empty one tells nothing but its id."""
        await self._send(frame(body, event="message", id=id))

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Sends a notification."""
        await self.say(wire.notification_body(method, params))

    async def keep_alive(self) -> None:
        """Sends something nobody reads."""
        await self._send(KEEP_ALIVE)

    async def end(self) -> web.StreamResponse:
        """Ends the stream; what the route must return."""
        assert self._response is not None, "a stream that never began has no response"
        with suppress(PeerGoneError):
            await self._writer.close()
        return self._response

    async def _send(self, frames: bytes) -> None:
        # A peer that is gone is no error here: the web server cancels its request for that. The lock is for
        # keep-alives, which come from another task than events do.
        async with self._writing:
            with suppress(PeerGoneError):
                if self._response is None:
                    self._response = await self._writer.open(self._headers)
                await self._writer.send(frames)


@final
class Answer:
    """The answer to one request, which ends with its connection."""

    __slots__ = ("_id", "_silence_s", "stream")

    def __init__(self, request_id: RequestId, stream: EventStream, *, silence_s: float) -> None:
        self._id = request_id
        self._silence_s = silence_s
        self.stream = stream

    async def run(self, work: Awaitable[JsonObject]) -> web.StreamResponse:
        """Runs the work and answers. Cancelled when the client goes away."""
        status = 200

        async def settle() -> bytes:
            nonlocal status
            try:
                return wire.result_body(self._id, await work)
            except RpcError as error:
                status = http_status(error.code)
                return wire.error_body(self._id, error)

        task = asyncio.create_task(settle(), name=f"mcp request {self._id!r}")
        try:
            while not (await asyncio.wait({task}, timeout=self._silence_s))[0]:
                await self.stream.keep_alive()
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        body = self._said(task)
        if not self.stream.begun:
            return web.Response(body=body, status=status, content_type=wire.JSON_TYPE)
        await self.stream.say(body)
        return await self.stream.end()

    def _said(self, task: asyncio.Task[bytes]) -> bytes:
        failure = task.exception()
        if failure is None:
            return task.result()
        # Our bug costs this request, and says nothing of itself to whoever sent it.
        logger.error("mcp request failed", exc_info=failure)
        return wire.error_body(self._id, RpcError(INTERNAL_ERROR, "Internal error"))

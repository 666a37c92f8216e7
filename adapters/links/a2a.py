"""An outside A2A agent as an agent of the mesh: its card is ours, and a call is a message that begins a task.

The pieces of its artifacts are parts of an answer, the last one is the answer; failed and rejected tasks are
failures; a call given up here is cancelled there. A message is sent once; what a broken stream did not tell is
asked for.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, Final, final

import aiohttp

from dragoman.adapters.links.a2a_forms import (
    HTTP_JSON,
    VERSION,
    Following,
    FormError,
    Interface,
    JsonObject,
    card_of,
    message_of,
)
from dragoman.adapters.links.link import LinkError
from dragoman.adapters.links.party import Answer, Party, Told
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.links.link import Link
    from dragoman.broker.offers import Asked

CONNECT_S: Final = 10.0
"""For a TCP connection, and for each answer but that of a message."""

REFRESH_S: Final = 15.0
"""The card is read again so often: how an agent that went silently is noticed."""

CARD_BYTES_MAX: Final = 256 * 1024
ANSWER_BYTES_MAX: Final = 32 << 20
"""One answer, or one event of a stream; beyond it the call fails."""

CARD_PATH: Final = "/.well-known/agent-card.json"
JSON_TYPE: Final = "application/json"
EVENTS_TYPE: Final = "text/event-stream"

POLL_FIRST_S: Final = 0.1
POLL_MAX_S: Final = 2.0


class _FarError(Exception):
    """The agent says no, in A2A's words."""


_FAULTS: Final = (aiohttp.ClientError, FormError, _FarError, TimeoutError, OSError, ValueError)


@final
class A2aOutside:
    """One A2A agent. ``converse`` lasts as long as its card can be read."""

    lag: Final = None

    def __init__(self, link: Link) -> None:
        self._link = link
        self._party = Party(link, "a2a", self._answer)
        self._web: aiohttp.ClientSession | None = None
        self._interface: Interface | None = None
        self._look = asyncio.Event()
        self._goodbyes: set[asyncio.Task[None]] = set()

    async def converse(self) -> None:
        """Reads the card, offers its skills, and keeps them as the agent has them until it is gone."""
        settings = self._link.settings
        headers = {"A2A-Version": VERSION}
        if settings.password:
            headers["Authorization"] = f"Bearer {settings.password}"
        verify = ssl.create_default_context(cafile=settings.ca or None) if settings.tls else True
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S)
        connector = aiohttp.TCPConnector(ssl=verify)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as web:
            try:
                etag, given = await self._card(web, "")
                card, self._interface = card_of(given, self._party.agent)
                self._web = web
                self._party.arrive(card)
                try:
                    self._party.serve(list(card.skills))
                    self._link.up()
                    await self._follow(web, etag)
                finally:
                    self._web = None
                    self._party.leave()
                    for goodbye in list(self._goodbyes):
                        goodbye.cancel()
            except _FAULTS as error:
                raise LinkError(_sentence(error)) from error

    async def _follow(self, web: aiohttp.ClientSession, etag: str) -> None:
        while True:
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            etag, given = await self._card(web, etag)
            if given is not None:
                card, self._interface = card_of(given, self._party.agent)
                self._party.tell(card)
                self._party.serve(list(card.skills))

    async def _card(self, web: aiohttp.ClientSession, etag: str) -> tuple[str, object]:
        """The card and its ETag; None if it is the one we have."""
        address = self._link.settings.address
        url = address if address.endswith(".json") else address.rstrip("/") + CARD_PATH
        headers = {"If-None-Match": etag} if etag else {}
        async with asyncio.timeout(CONNECT_S), web.get(url, headers=headers, allow_redirects=False) as answer:
            if answer.status == 304:
                return etag, None
            if answer.status != 200:
                raise FormError(f"its card is not at {url}: {answer.status} {answer.reason}")
            body = await answer.content.read(CARD_BYTES_MAX + 1)
            while len(body) <= CARD_BYTES_MAX and (more := await answer.content.read(CARD_BYTES_MAX)):
                body += more
            if len(body) > CARD_BYTES_MAX:
                raise FormError(f"its card has more than {CARD_BYTES_MAX} bytes")
            return answer.headers.get("ETag", ""), _parsed(body)

    # -- calls ---------------------------------------------------------------------------------------

    async def _answer(self, asked: Asked, told: Told) -> Answer:
        web, interface = self._web, self._interface
        assert web is not None and interface is not None, "who is not there is not asked"  # noqa: PT018
        following = Following()
        begun = asyncio.Event()
        asking = asyncio.get_running_loop().create_task(
            self._ask(web, interface, asked, told, following, begun), name=f"a2a ask {asked.id}"
        )
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The task may not have its name yet: it is heard out so far, or it could not be cancelled.
            self._say_goodbye(self._give_up(web, interface, following, begun, asking))
            raise
        except _FAULTS as error:
            # Is the agent still there? Its card will show.
            self._look.set()
            return Answer(b"", failure=Refusal(Reason.FAILED, f"the A2A agent: {_sentence(error)}"))
        if following.task and answer.failure is not None and answer.failure.reason is Reason.UNSUPPORTED:
            self._say_goodbye(self._cancel(web, interface, following.task))
        self._link.standing.pulled += 1
        limit = self._link.broker.settings.message_bytes_max
        if len(answer.payload) > limit:
            detail = f"the answer has {len(answer.payload)} bytes, at most {limit} are carried"
            return Answer(b"", failure=Refusal(Reason.TOO_LARGE, detail))
        return answer

    async def _ask(
        self,
        web: aiohttp.ClientSession,
        interface: Interface,
        asked: Asked,
        told: Told,
        following: Following,
        begun: asyncio.Event,
    ) -> Answer:
        left_ms = asked.deadline_ms - self._link.broker.clock.now_ms()
        params: JsonObject = {"message": message_of(asked, left_ms)}
        if interface.streams:
            async for item in self._stream(web, interface, params):
                for piece in following.take(item):
                    told(piece.payload, piece.content_type)
                begun.set()
                if following.ended is not None:
                    return following.ended
        else:
            params["configuration"] = {"returnImmediately": True}
            for piece in following.take(await self._request(web, interface, "SendMessage", "/message:send", params)):
                told(piece.payload, piece.content_type)
            begun.set()
        pause_s = POLL_FIRST_S
        while following.ended is None:
            if not following.task:
                raise FormError("it answered with neither a message nor a task")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, POLL_MAX_S)
            path = f"/tasks/{following.task}"
            following.snapshot(await self._request(web, interface, "GetTask", path, {"id": following.task}, verb="GET"))
        return following.ended

    def _say_goodbye(self, saying: Coroutine[None, None, None]) -> None:
        """Tells the agent that nobody waits; beside whatever was given up."""
        goodbye = asyncio.get_running_loop().create_task(saying, name=f"link {self._link.settings.name} goodbye")
        self._goodbyes.add(goodbye)
        goodbye.add_done_callback(self._goodbyes.discard)

    async def _give_up(
        self,
        web: aiohttp.ClientSession,
        interface: Interface,
        following: Following,
        begun: asyncio.Event,
        asking: asyncio.Task[Answer],
    ) -> None:
        knowing = asyncio.get_running_loop().create_task(begun.wait(), name="a2a task begun")
        await asyncio.wait((knowing, asking), timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
        knowing.cancel()
        if following.task and following.ended is None:
            await self._cancel(web, interface, following.task)
        asking.cancel()
        await asyncio.wait((asking,))
        if not asking.cancelled():
            asking.exception()  # nobody asks any more

    async def _cancel(self, web: aiohttp.ClientSession, interface: Interface, task: str) -> None:
        try:
            await self._request(web, interface, "CancelTask", f"/tasks/{task}:cancel", {"id": task})
        except (*_FAULTS, RuntimeError):  # aiohttp's word for a session that is closed
            self._look.set()

    # -- the two bindings ----------------------------------------------------------------------------

    async def _request(
        self,
        web: aiohttp.ClientSession,
        interface: Interface,
        method: str,
        path: str,
        params: JsonObject,
        *,
        verb: str = "POST",
    ) -> Any:
        async with (
            asyncio.timeout(CONNECT_S),
            self._opened(web, interface, method, path, params, verb, JSON_TYPE) as got,
        ):
            body = await _body(got)
            return _result(interface, _parsed(body), got.status)

    async def _stream(
        self, web: aiohttp.ClientSession, interface: Interface, params: JsonObject
    ) -> AsyncIterator[object]:
        """The items of a stream; ends when the stream does, however it does once it has begun."""
        opened = self._opened(web, interface, "SendStreamingMessage", "/message:stream", params, "POST", EVENTS_TYPE)
        async with opened as got:
            if EVENTS_TYPE not in got.headers.get("Content-Type", ""):
                yield _result(interface, _parsed(await _body(got)), got.status)
                return
            data: list[bytes] = []
            size = 0
            try:
                async for line in got.content:
                    size += len(line)
                    if size > ANSWER_BYTES_MAX:
                        raise FormError(f"an event of its stream has more than {ANSWER_BYTES_MAX} bytes")
                    if line.startswith(b"data:"):
                        data.append(line[5:].strip())
                    elif not line.strip() and data:
                        yield _result(interface, _parsed(b"\n".join(data)), got.status)
                        data, size = [], 0
            except aiohttp.ClientError:
                # What it did not tell any more is asked for.
                return

    def _opened(
        self,
        web: aiohttp.ClientSession,
        interface: Interface,
        method: str,
        path: str,
        params: JsonObject,
        verb: str,
        accept: str,
    ) -> Any:
        headers = {"Accept": accept, "Content-Type": JSON_TYPE}
        if interface.binding != HTTP_JSON:
            given = params if interface.tenant is None else {**params, "tenant": interface.tenant}
            call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": given}
            return web.post(interface.url, json=call, headers=headers, allow_redirects=False)
        tenant = "" if interface.tenant is None else f"/{interface.tenant}"
        url = f"{interface.url}{tenant}{path}"
        if verb == "GET":
            return web.get(url, headers={"Accept": accept}, allow_redirects=False)
        body = {name: value for name, value in params.items() if name != "id"}
        return web.post(url, json=body, headers=headers, allow_redirects=False)


async def _body(got: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in got.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise FormError(f"an answer of it has more than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise FormError(f"what it says is no JSON: {body[:200].decode(errors='replace')!r}") from None


def _result(interface: Interface, said: Any, status: int) -> Any:
    """What a response holds, in either binding. Raises ``_FarError`` if it is a no."""
    fault = said.get("error") if isinstance(said, dict) else None
    if isinstance(fault, dict):
        raise _FarError(f"{fault.get('code')} {fault.get('message')}"[:1000])
    if status >= 400:
        raise _FarError(f"HTTP {status}")
    if interface.binding == HTTP_JSON:
        return said
    if not isinstance(said, dict) or "result" not in said:
        raise FormError("a response without a result")
    return said["result"]


def _sentence(error: BaseException) -> str:
    return str(error)[:1000] or type(error).__name__

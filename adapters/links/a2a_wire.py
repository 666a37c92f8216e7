"""HTTP to an A2A agent: its card, requests by JSON-RPC or HTTP+JSON, and streams of events. Every size has a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final, final
from urllib.parse import quote

import aiohttp
from yarl import URL

from dragoman.adapters.links.a2a_cards import HTTP_JSON, Interface
from dragoman.adapters.serving.a2a_forms import JSON_TYPE, FormError, JsonObject, member, objects
from dragoman.adapters.serving.json_in import strict_json
from dragoman.routing.refusals import Reason

CONNECT_S: Final = 10.0
"""For a TCP connection, and for each answer but that of a message."""

CARD_BYTES_MAX: Final = 256 * 1024
ANSWER_BYTES_MAX: Final = 32 << 20
"""One answer, or one event of a stream; beyond it the call fails."""

CARD_PATH: Final = "/.well-known/agent-card.json"
EVENTS_TYPE: Final = "text/event-stream"

_INVALID_PARAMS: Final = -32602
_MESH: Final = "dragoman"
"""Whose reasons are ours, among the details of an error."""
_REASONS: Final = {reason.name: reason for reason in Reason}


class FarError(Exception):
    """The agent says no, in A2A's words."""

    def __init__(self, detail: str, reason: Reason = Reason.FAILED) -> None:
        super().__init__(detail)
        self.reason = reason


FAULTS: Final = (aiohttp.ClientError, FormError, FarError, TimeoutError, OSError, ValueError, RecursionError)
"""How talking to an agent can fail."""


async def read_card(web: aiohttp.ClientSession, address: str, etag: str) -> tuple[object, str]:
    """The card and its ETag; None if it is still the one with ``etag``."""
    url = address if address.endswith(".json") else address.rstrip("/") + CARD_PATH
    headers = {"If-None-Match": etag} if etag else {}
    async with asyncio.timeout(CONNECT_S), web.get(url, headers=headers, allow_redirects=False) as got:
        if got.status == 304 and etag:
            return None, etag
        if got.status != 200:
            raise FormError(f"its card is not at {url}: {got.status} {got.reason}")
        return _parsed(await _body(got, CARD_BYTES_MAX, "its card")), got.headers.get("ETag", "")


@final
class Wire:
    """One agent's interface, in either binding. Everything raises one of ``FAULTS``."""

    def __init__(self, web: aiohttp.ClientSession, interface: Interface) -> None:
        self._web = web
        self.interface = interface

    async def send(self, message: JsonObject, wait_s: float) -> object:
        """Sends a message: the task it began, or the answer. Whoever answers with a message takes until it has one."""
        params = {"message": message, "configuration": {"returnImmediately": True}}
        return await self._request("SendMessage", "/message:send", params, wait_s)

    async def task(self, task: str) -> object:
        """The task as it is now."""
        return await self._request("GetTask", f"/tasks/{quote(task, safe='')}", {"id": task}, CONNECT_S, verb="GET")

    async def cancel(self, task: str) -> None:
        """Nobody waits for this task any more."""
        await self._request("CancelTask", f"/tasks/{quote(task, safe='')}:cancel", {"id": task}, CONNECT_S)

    async def stream(self, message: JsonObject) -> AsyncGenerator[object, None]:
        """Sends a message: the items of its stream. Ends when the stream does, however it does once it has begun."""
        body = {"message": message}
        async with self._opened("SendStreamingMessage", "/message:stream", body, accept=EVENTS_TYPE) as got:
            if got.status != 200 or EVENTS_TYPE not in got.headers.get("Content-Type", ""):
                yield self._result(await _body(got, ANSWER_BYTES_MAX, "its answer"), got.status)
                return
            events = Events()
            try:
                async for chunk in got.content.iter_any():
                    for event in events.feed(chunk):
                        yield self._result(event, got.status)
            except aiohttp.ClientError:
                # What it did not tell any more is asked for.
                return

    async def _request(
        self, method: str, path: str, params: JsonObject, wait_s: float, *, verb: str = "POST"
    ) -> object:
        async with asyncio.timeout(wait_s), self._opened(method, path, params, verb=verb) as got:
            return self._result(await _body(got, ANSWER_BYTES_MAX, "its answer"), got.status)

    def _opened(
        self, method: str, path: str, params: JsonObject, *, verb: str = "POST", accept: str = JSON_TYPE
    ) -> Any:  # aiohttp keeps the type of what its requests return to itself
        url, tenant = self.interface.url, self.interface.tenant
        headers = {"Accept": accept}
        if self.interface.binding != HTTP_JSON:
            given = params if tenant is None else {**params, "tenant": tenant}
            call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": given}
            return self._web.post(URL(url), json=call, headers=headers, allow_redirects=False)
        place = URL(f"{url}/{quote(tenant, safe='')}{path}" if tenant else f"{url}{path}", encoded=True)
        if verb == "GET":
            return self._web.get(place, headers=headers, allow_redirects=False)
        # The path has the id.
        body = {name: value for name, value in params.items() if name != "id"}
        return self._web.post(place, json=body, headers=headers, allow_redirects=False)

    def _result(self, body: bytes, status: int) -> object:
        """What a response holds. Raises ``FarError`` if it is a no."""
        good = 200 <= status < 300
        try:
            said = _parsed(body)
        except FormError:
            if good:
                raise
            said = None
        if fault := member(said, "error"):
            raise _no(fault)
        if not good:
            raise FarError(f"HTTP {status}")
        if self.interface.binding == HTTP_JSON:
            return said
        if not isinstance(said, dict) or "result" not in said:
            raise FormError("a response without a result")
        result: object = said["result"]
        return result


@final
class Events:
    """Server-sent events: bytes as they come in, the data of whole events out."""

    def __init__(self) -> None:
        self._open: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0
        self._returned = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Takes the next bytes. Raises ``FormError`` if an event is too large."""
        self._size += len(chunk)
        if self._size > ANSWER_BYTES_MAX:
            raise FormError(f"an event of its stream has more than {ANSWER_BYTES_MAX} bytes")
        for line in self._lines(chunk):
            if line:
                if line.startswith(b"data:"):
                    self._data.append(line[5:].removeprefix(b" "))
                continue
            self._size = 0
            if self._data:
                data, self._data = self._data, []
                yield b"\n".join(data)

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in this chunk: with CR, LF or both, which may come in two chunks."""
        if self._returned:
            chunk = chunk.removeprefix(b"\n")
        self._returned = chunk.endswith(b"\r")
        for line in chunk.splitlines(keepends=True):
            text = line.rstrip(b"\r\n")
            self._open.append(text)
            if len(text) < len(line):
                yield b"".join(self._open)
                self._open.clear()


async def _body(got: aiohttp.ClientResponse, bytes_max: int, what: str) -> bytes:
    body = bytearray()
    async for chunk in got.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise FormError(f"{what} has more than {bytes_max} bytes")
    return bytes(body)


def _parsed(body: bytes) -> object:
    try:
        parsed: object = strict_json(body)
    except ValueError:
        raise FormError(f"what it says is no JSON: {body[:200].decode(errors='replace')!r}") from None
    return parsed


def _no(fault: JsonObject) -> FarError:
    reason = Reason.ARGUMENTS_INVALID if fault.get("code") == _INVALID_PARAMS else Reason.FAILED
    for detail in objects(fault.get("data")) + objects(fault.get("details")):
        if detail.get("domain") == _MESH:
            reason = _REASONS.get(str(detail.get("reason")), reason)
    return FarError(f"{fault.get('code')} {fault.get('message')}"[:1000], reason)

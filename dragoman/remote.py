"""A running mesh as the terminal sees it: over its HTTP API, with plain requests anyone could make."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote, urlsplit

import aiohttp

CONNECT_S: Final = 10.0
ANSWER_S: Final = 60.0
"""How long an ordinary request may take. Calls wait for their own deadline, streams for ever."""

LINE_BYTES_MAX: Final = 64 << 20
"""One line of a stream. A message of 16 MiB as base64 in JSON has 22; longer is not our mesh."""

POLL_S: Final = 30
"""How long one request waits for a call's answer; below what proxies cut."""


class RemoteError(Exception):
    """What was asked did not happen. The text says why, for the person at the terminal."""


class Event(NamedTuple):
    """One server-sent event."""

    kind: str
    data: str


class EventLines:
    """Lines of a server-sent event stream in, events out (WHATWG HTML, section 9.2)."""

    def __init__(self) -> None:
        self._kind = ""
        self._data: list[str] = []

    def feed(self, line: str) -> Event | None:
        """Takes a line without its end; the event that an empty line completes."""
        if not line:
            event = Event(self._kind or "message", "\n".join(self._data)) if self._data else None
            self._kind = ""
            self._data = []
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._kind = value
        elif field == "data":
            self._data.append(value)
        return None


class Remote:
    """A mesh at an address. ``async with Remote(url, token) as mesh``. Everything raises RemoteError."""

    def __init__(self, url: str, token: str | None) -> None:
        try:
            parts = urlsplit(url)
            fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            fine = False
        if not fine:
            raise RemoteError(f"{url!r} is no address of a mesh; it looks like http://127.0.0.1:8080")
        if token is not None and not _is_field(token):
            raise RemoteError(
                "the token has characters that cannot be sent; it is one line, as `dragoman token` prints it"
            )
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S)
        self._http = aiohttp.ClientSession(timeout=timeout, headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def publish(
        self, name: str, payload: bytes, *, retain: bool = False, content_type: str | None = None
    ) -> dict[str, Any]:
        """Says something in a channel; what the mesh answers: id, channel, offset, and where it is kept."""
        if content_type is not None and not _is_field(content_type):
            raise RemoteError(f"{content_type!r} is no content type; one looks like application/json")
        query = {"name": name} | ({"retain": "true"} if retain else {})
        headers = {} if content_type is None else {"Content-Type": content_type}
        return await self._json("POST", "/v1/channels", params=query, data=payload, headers=headers)

    async def stream(self, filters: list[str], *, retained: bool) -> AsyncIterator[Event]:
        """What is said in every channel that matches, until the mesh ends it."""
        query = [("filter", text) for text in filters] + ([] if retained else [("retained", "false")])
        lines = EventLines()
        accept = {"Accept": "text/event-stream"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=None)
        try:
            async with self._http.get(
                f"{self._url}/v1/stream", params=query, headers=accept, timeout=timeout
            ) as answer:
                await self._checked(answer, "/v1/stream")
                async for line in _lines(answer.content):
                    event = lines.feed(line)
                    if event is not None:
                        yield event
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from None

    async def call(self, agent: str | None, skill: str, arguments: object, deadline_ms: int) -> dict[str, Any]:
        """Asks for a skill and waits for its one answer: the call's document, whatever its outcome."""
        order = {"skill": skill, "arguments": arguments, "deadline_ms": deadline_ms}
        if agent is not None:
            order["agent"] = agent
        prefer = {"Prefer": f"wait={POLL_S}"}
        call = await self._json("POST", "/v1/calls", json=order, headers=prefer)
        while call["state"] in ("waiting", "working"):
            call = await self._json("GET", f"/v1/calls/{quote(call['id'], safe='')}", headers=prefer)
        return call

    async def agents(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Who is here and what they can do."""
        found = await self._json("GET", "/v1/agents", params=dict(query))
        agents: list[dict[str, Any]] = found["agents"]
        return agents

    async def backup(self, target: str) -> None:
        """Has the mesh copy its log to a folder on its own machine."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=None)
        await self._json("POST", "/v1/admin/backup", json={"target": target}, timeout=timeout)

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            async with self._http.request(
                method, self._url + path, skip_auto_headers=("Content-Type",) if "data" in options else (), **options
            ) as answer:
                await self._checked(answer, path)
                content = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from None
        document = _parsed(content) if content else {}
        if document is None:
            raise RemoteError(f"what answers at {self._url} is not a mesh: its answer is no JSON object")
        return document

    async def _checked(self, answer: aiohttp.ClientResponse, path: str) -> None:
        if answer.status < 400:
            return
        problem = _parsed(await answer.content.read(1 << 16)) or {}
        if answer.status == 404 and problem.get("type") == "about:blank":
            raise RemoteError(
                f"what answers at {self._url} is not a mesh, or not the whole address of one: it has no {path}"
            )
        if "title" not in problem:
            raise RemoteError(f"what answers at {self._url} is not a mesh: it says {answer.status} {answer.reason}")
        raise RemoteError(problem_text(problem))

    def _unreachable(self, error: Exception) -> RemoteError:
        if isinstance(error, aiohttp.ClientSSLError):
            return RemoteError(f"no TLS, or none that is trusted here, at {self._url} ({error.strerror or error})")
        if isinstance(error, aiohttp.ClientConnectorError):
            why = os.strerror(error.errno) if error.errno else "no connection"
            return RemoteError(
                f"no mesh answers at {self._url} ({why}); start one with `dragoman serve`, or say where with --url"
            )
        if isinstance(error, TimeoutError):
            return RemoteError(f"the mesh at {self._url} did not answer in time")
        hint = ""
        if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | aiohttp.ClientResponseError):
            hint = "; is this the port of HTTP? `dragoman serve` says which is whose"
        return RemoteError(f"the connection to {self._url} broke: {str(error) or type(error).__name__}{hint}")


def problem_text(problem: Mapping[str, Any]) -> str:
    """A problem document as a sentence."""
    detail = problem.get("detail") or problem.get("title")
    reason = problem.get("type", "")
    hint = ""
    if reason == "not-authenticated":
        hint = "; give --token, or set DRAGOMAN_TOKEN"
    return f"{detail}{hint}" + (f" ({reason})" if reason and reason != "about:blank" else "")


def payload_of(document: Mapping[str, Any]) -> bytes | None:
    """A message's or answer's bytes; None for a tombstone."""
    if document.get("payload") is not None:
        return str(document["payload"]).encode()
    if document.get("payload_base64") is not None:
        try:
            return base64.b64decode(document["payload_base64"])
        except (binascii.Error, ValueError):
            raise RemoteError("the mesh sent a payload that is not base64") from None
    return None


def _is_field(text: str) -> bool:
    """Whether a header may carry it."""
    return text.isprintable() and text == text.strip()


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    """The lines of a stream, whatever their length up to a bound: the reader's own ends at 128 KiB."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in content.iter_any():
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            pieces.append(line)
            yield b"".join(pieces).removesuffix(b"\r").decode("utf-8", "replace")
            pieces.clear()
            size = 0
        pieces.append(rest)
        size += len(rest)
        if size > LINE_BYTES_MAX:
            raise RemoteError(f"a line of the stream is longer than {LINE_BYTES_MAX >> 20} MiB")


def skills_of(agent: Mapping[str, Any]) -> Iterator[str]:
    """The skills on an agent's card."""
    card = agent.get("card") or {}
    for skill in card.get("skills", []):
        yield str(skill.get("id") or skill.get("name") or "?")

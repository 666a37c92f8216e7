"""What the terminal asks of a running mesh, over its HTTP API, like any other client."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp

from dragoman.routing.names import to_path
from dragoman.running import UserError

PATIENCE_S = 30.0
LINE_BYTES_MAX = 64 << 20


class Mesh(NamedTuple):
    """Where it is, and what we show it."""

    url: str
    token: str


def publish(mesh: Mesh, name: str, payload: bytes, *, retain: bool) -> None:
    """Says something; prints where it went. Raises UserError."""

    async def work() -> None:
        query = {"retain": "true"} if retain else {}
        async with _asked(mesh, "POST", _channel(name, query), data=payload) as answer:
            said = await answer.json()
        print(f"{said.get('id', '')} kept={said.get('kept', '')}".strip())

    _run(mesh, work)


def subscribe(mesh: Mesh, filters: list[str], count: int, *, json_lines: bool) -> None:
    """Prints messages as they come. Raises UserError."""

    async def work() -> None:
        query = urlencode([("filter", text) for text in filters])
        headers = {"Accept": "text/event-stream"}
        seen = 0
        async with _asked(mesh, "GET", f"/v1/stream?{query}", headers=headers, stream=True) as answer:
            async for kind, data in _events(answer):
                if kind == "gap":
                    print(f"-- a gap: {data}", file=sys.stderr)
                    continue
                if kind not in ("", "message"):
                    continue
                print(data if json_lines else _line(json.loads(data)), flush=True)
                seen += 1
                if seen == count:
                    return
        raise UserError(f"{mesh.url} ended the stream")

    _run(mesh, work)


def call(mesh: Mesh, agent: str, skill: str, arguments: str, deadline_s: float) -> None:
    """Asks and prints the answer. Raises UserError."""
    try:
        parsed = json.loads(arguments)
    except ValueError as error:
        raise UserError(f"the arguments are not JSON: {error}") from None

    async def work() -> None:
        body = {
            "agent": None if agent == "-" else agent,
            "skill": skill,
            "arguments": parsed,
            "deadline_ms": int(deadline_s * 1000),
        }
        headers = {"Prefer": f"wait={int(deadline_s) + 1}"}
        async with _asked(mesh, "POST", "/v1/calls", json=body, headers=headers, patience_s=deadline_s + 10) as answer:
            said = await answer.json()
        if said.get("state") != "done":
            error = said.get("error") or {}
            raise UserError(f"no answer: {error.get('detail') or error.get('reason') or said.get('state')}")
        result = said.get("result")
        print(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))

    _run(mesh, work)


def agents(mesh: Mesh, query: Mapping[str, str]) -> None:
    """Prints who is there, as a table. Raises UserError."""

    async def work() -> None:
        asked = urlencode({key: value for key, value in query.items() if value})
        async with _asked(mesh, "GET", f"/v1/agents?{asked}") as answer:
            found = (await answer.json())["agents"]
        from rich.console import Console
        from rich.table import Table

        table = Table("agent", "state", "via", "skills", box=None, pad_edge=False)
        for entry in found:
            skills = ", ".join(skill["name"] for skill in (entry.get("card") or {}).get("skills", []))
            table.add_row(entry["agent"], entry["state"], entry.get("via", ""), skills)
        Console(highlight=False).print(table if found else "nobody is here")

    _run(mesh, work)


def backup(mesh: Mesh, target: Path) -> None:
    """Has the mesh copy what it keeps. Raises UserError."""

    async def work() -> None:
        body = {"target": str(target)}
        async with _asked(mesh, "POST", "/v1/admin/backup", json=body, patience_s=3600):
            print(f"copied to {target}")

    _run(mesh, work)


# -- within ------------------------------------------------------------------------------------------


def _channel(name: str, query: dict[str, str]) -> str:
    path = to_path(name)
    if path is None:
        return "/v1/channels?" + urlencode({"name": name, **query}, quote_via=quote)
    return f"/v1/channels/{path}" + (f"?{urlencode(query)}" if query else "")


def _run(mesh: Mesh, work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    try:
        asyncio.run(main())
    except (aiohttp.ClientConnectorError, ConnectionRefusedError) as error:
        raise UserError(
            f"nothing answers at {mesh.url} ({error.strerror or error}): "
            "start it with `dragoman serve`, or say where it is with --url"
        ) from None
    except aiohttp.InvalidURL:
        raise UserError(f"{mesh.url!r} is no URL; write it like http://127.0.0.1:8080") from None
    except TimeoutError:
        raise UserError(f"{mesh.url} did not answer in time") from None
    except aiohttp.ClientError as error:
        raise UserError(f"{mesh.url}: the connection broke ({error or type(error).__name__})") from None


@asynccontextmanager
async def _asked(
    mesh: Mesh, method: str, path: str, *, stream: bool = False, patience_s: float = PATIENCE_S, **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = dict(options.pop("headers", {}))
    if mesh.token:
        headers["Authorization"] = f"Bearer {mesh.token}"
    timeout = aiohttp.ClientTimeout(total=None if stream else patience_s, sock_connect=10)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_BYTES_MAX) as client,
        client.request(method, mesh.url.rstrip("/") + path, headers=headers, **options) as answer,
    ):
        if answer.status >= 400:
            raise UserError(await _why(answer))
        yield answer


async def _why(answer: aiohttp.ClientResponse) -> str:
    """The problem document's sentence, or what there is."""
    text = await answer.text()
    try:
        problem = json.loads(text)
        return str(problem.get("detail") or problem.get("title") or text)
    except (ValueError, AttributeError):
        return f"HTTP {answer.status} {answer.reason}"


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str]]:
    """(event, data) of a server-sent event stream."""
    kind, data = "", ""
    async for raw in answer.content:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if data:
                yield kind, data
            kind, data = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            data = value if not data else f"{data}\n{value}"


def _line(message: dict[str, Any]) -> str:
    payload = message.get("payload")
    if payload is None and "payload_base64" in message:
        payload = f"(base64) {message['payload_base64']}"
    return f"{message['channel']} {'(null)' if payload is None else payload}"

"""The terminal's side of the HTTP API, against small servers that answer what meshes and others answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from dragoman.adapters.serving.settings import ListenSettings
from dragoman.config import MEMORY, Config
from dragoman.mesh import Mesh
from dragoman.remote import Event, EventLines, Remote, RemoteError, payload_of, problem_text, skills_of

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


def with_server(route: Route, work: Callable[[Remote], Awaitable[object]], token: str | None = None) -> object:
    async def main() -> object:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", route)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with Remote(f"http://127.0.0.1:{port}/", token) as mesh:
                return await work(mesh)
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def events(text: str) -> list[Event]:
    lines = EventLines()
    return [event for line in text.split("\n") if (event := lines.feed(line)) is not None]


def test_events_are_read_as_the_standard_says() -> None:
    text = "retry: 5\n\n:\n\nid: 1\ndata: a\ndata:b\n\nevent: gap\ndata: {}\n\nevent: lonely\n\ndata:  c\n\n"
    text += "data\n\ndata: cut"
    assert events(text) == [Event("message", "a\nb"), Event("gap", "{}"), Event("message", " c"), Event("message", "")]


def test_a_publish_is_the_bytes_and_only_what_was_asked() -> None:
    seen: list[object] = []

    async def route(request: web.Request) -> web.Response:
        seen.append((request.method, request.path_qs, await request.read(), request.headers.get("Content-Type")))
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"channel": "a", "offset": 3, "kept": "log"}, status=201)

    async def work(mesh: Remote) -> object:
        await mesh.publish("a/../b c", b"\x00\xff")
        return await mesh.publish("a", b"x", retain=True, content_type="text/plain")

    assert with_server(route, work, "secret") == {"channel": "a", "offset": 3, "kept": "log"}
    assert seen == [
        ("POST", "/v1/channels?name=a/../b+c", b"\x00\xff", None),
        "Bearer secret",
        ("POST", "/v1/channels?name=a&retain=true", b"x", "text/plain"),
        "Bearer secret",
    ]


def test_an_answer_without_a_body_is_fine() -> None:
    async def route(request: web.Request) -> web.Response:
        return web.Response(status=202)

    assert with_server(route, lambda mesh: mesh.publish("mesh/to/pump", b"")) == {}


def test_a_call_is_waited_for_until_it_ends() -> None:
    asked: list[object] = []
    states = iter(["waiting", "working", "done"])

    async def route(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, request.headers["Prefer"]))
        if request.method == "POST":
            asked.append(await request.json())
        return web.json_response({"id": "a b", "state": next(states), "result": 5}, status=202)

    done = with_server(route, lambda mesh: mesh.call("pump", "start", {"rpm": 1}, 1500))
    assert done == {"id": "a b", "state": "done", "result": 5}
    assert asked == [
        ("POST", "/v1/calls", "wait=30"),
        {"skill": "start", "arguments": {"rpm": 1}, "deadline_ms": 1500, "agent": "pump"},
        ("GET", "/v1/calls/a b", "wait=30"),
        ("GET", "/v1/calls/a b", "wait=30"),
    ]


def test_whoever_is_best_is_asked_without_a_name() -> None:
    async def route(request: web.Request) -> web.Response:
        assert "agent" not in await request.json()
        return web.json_response({"id": "1", "state": "failed"})

    assert with_server(route, lambda mesh: mesh.call(None, "start", {}, 1)) == {"id": "1", "state": "failed"}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"body": b"<html>", "status": 200}, "is not a mesh: its answer is no JSON object"),
        ({"body": b"[1]", "status": 200}, "is not a mesh: its answer is no JSON object"),
        ({"body": b"<html>", "status": 404}, "is not a mesh: it says 404 Not Found"),
        ({"body": b'{"title": "busy", "detail": "too many", "type": "busy"}', "status": 503}, "^too many \\(busy\\)$"),
        (
            {"body": b'{"title": "x", "detail": "who?", "type": "not-authenticated"}', "status": 401},
            "who\\?; give --token, or set DRAGOMAN_TOKEN",
        ),
        ({"body": b'{"title": "Not Found", "type": "about:blank"}', "status": 404}, "not the whole address of one"),
        ({"body": b'{"title": "Teapot", "type": "about:blank"}', "status": 418}, "^Teapot$"),
        ({"body": b"[" * 50_000, "status": 500}, "is not a mesh: it says 500"),
    ],
)
def test_a_no_is_its_sentence(answer: dict[str, object], text: str) -> None:
    async def route(request: web.Request) -> web.Response:
        return web.Response(**answer)

    async def stream(mesh: Remote) -> None:
        async for _ in mesh.stream(["a"], retained=True):
            pass

    with pytest.raises(RemoteError, match=text):
        with_server(route, lambda mesh: mesh.agents({}))
    if answer["status"] != 200:
        with pytest.raises(RemoteError, match=text):
            with_server(route, stream)


def test_a_stream_is_every_filter_and_lines_of_any_length() -> None:
    queries: list[str] = []
    long = "x" * 300_000

    async def route(request: web.Request) -> web.StreamResponse:
        queries.append(request.rel_url.raw_query_string)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        frame = f"data: {long}é\r\n\r\nevent: end\ndata: {{}}\n\n".encode()
        for start in range(0, len(frame), 70_001):
            await response.write(frame[start : start + 70_001])
        return response

    async def work(mesh: Remote) -> list[Event]:
        return [event async for event in mesh.stream(["a/#", "+/b"], retained=False)]

    assert with_server(route, work) == [Event("message", long + "é"), Event("end", "{}")]
    assert queries == ["filter=a/%23&filter=%2B/b&retained=false"]


def test_a_broken_connection_is_a_sentence() -> None:
    async def route(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def work(mesh: Remote) -> None:
        async for _ in mesh.stream(["a"], retained=True):
            pass

    with pytest.raises(RemoteError, match=r"the connection to http://127\.0\.0\.1:[0-9]+ broke"):
        with_server(route, work)


def test_the_port_of_another_protocol_is_guessed_at() -> None:
    async def main() -> None:
        listen = ListenSettings(mqtt="127.0.0.1:0", kafka="127.0.0.1:0", http="off")
        async with Mesh(Config(data=MEMORY, listen=listen)) as mesh:
            for name in ("mqtt", "kafka"):
                async with Remote(f"http://{mesh.addresses[name]}", None) as remote:
                    with pytest.raises(RemoteError, match="is this the port of HTTP"):
                        await remote.agents({})

    asyncio.run(main())


def test_payloads_are_bytes_again() -> None:
    assert payload_of({"payload": "é"}) == "é".encode()
    assert payload_of({"payload": ""}) == b""
    assert payload_of({"payload_base64": "AP8="}) == b"\x00\xff"
    assert payload_of({}) is None
    with pytest.raises(RemoteError):
        payload_of({"payload_base64": "A"})


def test_problems_and_cards_are_read_kindly() -> None:
    assert problem_text({"title": "gone", "type": "gone"}) == "gone (gone)"
    assert list(skills_of({"card": {"skills": [{"id": "a"}, {"name": "b"}, {}]}})) == ["a", "b", "?"]
    assert list(skills_of({"card": None})) == []

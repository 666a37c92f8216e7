"""The HTTP rules of both eras, one by one, in raw requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mcp_mesh import META, MODERN, McpMesh, events, eventually, modern, next_event, run

from dragoman.routing.cards import Skill


def code(answer: Any) -> int:
    found = answer["error"]["code"]
    assert isinstance(found, int)
    return found


def test_discover_promises_only_what_is_built() -> None:
    async def body(mesh: McpMesh) -> None:
        status, headers, answer = await mesh.ask("server/discover")
        result = answer["result"]
        assert (status, headers["content-type"]) == (200, "application/json")
        assert result["supportedVersions"] == [MODERN]
        assert result["capabilities"] == {
            "tools": {"listChanged": True},
            "resources": {"subscribe": True, "listChanged": True},
        }
        assert result["resultType"] == "complete"
        assert result["cacheScope"] == "private"
        assert result["_meta"]["io.modelcontextprotocol/serverInfo"] == {"name": "dragoman", "version": "9.9"}
        assert "mcp-session-id" not in headers

    run(body)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"Mcp-Method": None}, (400, -32020)),
        ({"Mcp-Method": "tools/list"}, (400, -32020)),
        ({"Mcp-Name": None}, (400, -32020)),
        ({"Mcp-Name": "mesh_wait"}, (400, -32020)),
        ({"Mcp-Name": "=?base64?bWVzaF9tZW1iZXJz?="}, (200, 0)),
        ({"Mcp-Name": "=?base64?!?="}, (400, -32020)),
        ({"MCP-Protocol-Version": None}, (400, -32020)),
        ({"MCP-Protocol-Version": "2025-11-25"}, (400, -32020)),
        ({"Mcp-Session-Id": "whatever", "Last-Event-ID": "7"}, (200, 0)),
    ],
)
def test_headers_are_checked_against_the_body(change: dict[str, str | None], expected: tuple[int, int]) -> None:
    async def body(mesh: McpMesh) -> None:
        params = {"name": "mesh_members", "arguments": {"channel": "a"}}
        status, _, answer = await mesh.ask("tools/call", params, change)
        assert (status, code(answer) if "error" in answer else 0) == expected

    run(body)


def test_a_routing_header_sent_twice_is_refused() -> None:
    async def body(mesh: McpMesh) -> None:
        message, headers = modern("tools/list")
        raw = json.dumps(message).encode()
        lines = [f"{name}: {value}" for name, value in headers.items()] + ["mcp-method: tools/list"]
        head = "\r\n".join(
            [
                "POST /mcp HTTP/1.1",
                f"Host: 127.0.0.1:{mesh.port}",
                "Accept: application/json, text/event-stream",
                "Content-Type: application/json",
                "Connection: close",
                f"Content-Length: {len(raw)}",
                *lines,
            ]
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.port)
        writer.write(head.encode() + b"\r\n\r\n" + raw)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"-32020" in answer

    run(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, -32700)),
        (b"\xff", (400, -32700)),
        (b'{"a":NaN}', (400, -32700)),
        (b"[" * 100_000, (400, -32700)),
        (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b"}", (400, -32700)),
        (b"[]", (400, -32600)),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', (400, -32600)),
        (b"3", (400, -32600)),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', (400, -32600)),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', (400, -32600)),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', (400, -32600)),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', (400, -32600)),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', (400, -32600)),
    ],
)
def test_bodies_that_are_no_message(body: bytes, expected: tuple[int, int]) -> None:
    async def ask(mesh: McpMesh) -> None:
        status, _, answer = await mesh.post(body, {"MCP-Protocol-Version": MODERN, "Mcp-Method": "ping"})
        assert (status, code(answer)) == expected
        assert answer["id"] is None

    run(ask)


def test_what_the_envelope_lacks_is_named() -> None:
    async def body(mesh: McpMesh) -> None:
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        status, _, answer = await mesh.post(request, headers)
        assert (status, code(answer)) == (400, -32602)
        meta = {"io.modelcontextprotocol/protocolVersion": MODERN}
        status, _, answer = await mesh.post({**request, "params": {"_meta": meta}}, headers)
        assert (status, code(answer)) == (400, -32602)
        assert "clientCapabilities" in answer["error"]["message"]

    run(body)


def test_versions_we_do_not_speak_are_answered_with_those_we_do() -> None:
    async def body(mesh: McpMesh) -> None:
        meta = {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}
        headers = {"MCP-Protocol-Version": "2099-01-01", "Mcp-Method": "tools/list"}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
        status, _, answer = await mesh.post(request, headers)
        assert (status, code(answer)) == (400, -32022)
        assert answer["error"]["data"] == {"supported": [MODERN], "requested": "2099-01-01"}

    run(body)


@pytest.mark.parametrize(
    "method",
    ["ping", "logging/setLevel", "resources/subscribe", "prompts/list", "completion/complete", "initialize", "no/such"],
)
def test_methods_the_newest_revision_has_not_or_we_have_not(method: str) -> None:
    async def body(mesh: McpMesh) -> None:
        params: dict[str, Any] = {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": "b"}}
        status, _, answer = await mesh.ask(method, params if method == "completion/complete" else None)
        assert (status, code(answer)) == (404, -32601)

    run(body)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 406),
        ("text/event-stream", 406),
        ("text/html", 406),
        ("application/json, text/event-stream;q=0", 406),
        (None, 406),
        ("*/*", 200),
        ("text/*, application/*;q=0.5", 200),
    ],
)
def test_accept_must_take_both_forms(accept: str | None, status: int) -> None:
    async def body(mesh: McpMesh) -> None:
        assert (await mesh.ask("tools/list", None, {"Accept": accept}))[0] == status

    run(body)


def test_other_content_types_and_methods() -> None:
    async def body(mesh: McpMesh) -> None:
        assert (await mesh.ask("tools/list", None, {"Content-Type": "text/plain"}))[0] == 415
        for method in ("GET", "DELETE", "PUT", "PATCH"):
            async with mesh.http.request(method, mesh.url, headers={"MCP-Protocol-Version": MODERN}) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "POST")

    run(body)


def test_notifications_are_taken_and_forgotten() -> None:
    async def body(mesh: McpMesh) -> None:
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "_meta": META}}
        status, _, answer = await mesh.post(note, {"MCP-Protocol-Version": MODERN})
        assert (status, answer) == (202, b"")
        note["params"] = {"_meta": {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}}
        assert (await mesh.post(note, {"MCP-Protocol-Version": "2099-01-01"}))[0] == 400

    run(body)


def test_web_pages_of_others_get_nothing() -> None:
    async def body(mesh: McpMesh) -> None:
        assert (await mesh.ask("tools/list", None, {"Origin": "https://evil.example"}))[0] == 403
        assert (await mesh.ask("tools/list", None, {"Host": "evil.example"}))[0] == 403
        assert (await mesh.ask("tools/list", None, {"Origin": f"http://127.0.0.1:{mesh.port}"}))[0] == 200

    run(body)


def test_wrong_or_missing_credentials_are_challenged() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.login.anonymous = False
        for headers in ({}, {"Authorization": "Bearer bad"}):
            status, lines, _ = await mesh.ask("tools/list", None, dict(headers))
            assert status == 401
            assert lines["www-authenticate"].startswith("Bearer ")
        assert (await mesh.ask("tools/list", None, {"Authorization": "Bearer good"}))[0] == 200

    run(body)


def test_a_body_beyond_the_limit_is_refused() -> None:
    async def body(mesh: McpMesh) -> None:
        assert (await mesh.ask("tools/list", {"x": "a" * 1000}))[0] == 413
        assert (await mesh.ask("tools/list", {"x": "a" * 100}))[0] == 200

    run(body, body_bytes_max=1024)


def test_requests_in_flight_are_bounded_per_principal() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        first = asyncio.create_task(mesh.call("slow", {}))
        await asyncio.wait_for(mesh.calls.asked.wait(), 5)
        status, headers, _ = await mesh.ask("tools/list")
        assert status == 429
        assert headers["retry-after"] == "1"
        assert (await mesh.ask("tools/list", None, {"Authorization": "Bearer good"}))[0] == 200
        mesh.calls.started[0].answer(b"done")
        assert (await first)["content"] == [{"type": "text", "text": "done"}]
        assert (await mesh.ask("tools/list"))[0] == 200

    run(body, requests_per_principal_max=1)


def test_silence_turns_the_answer_into_a_stream_with_keep_alives() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        message, headers = modern("tools/call", {"name": "slow", "arguments": {}})
        headers |= {"Accept": "application/json, text/event-stream"}
        async with mesh.http.post(mesh.url, json=message, headers=headers) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            assert answer.headers["X-Accel-Buffering"] == "no"
            assert (await answer.content.readline()).startswith(b":")
            mesh.calls.started[0].answer(b"done")
            assert events(await answer.read())[-1]["result"]["content"] == [{"type": "text", "text": "done"}]

    run(body, silence_s=0.02)


def test_a_client_that_goes_away_cancels_its_call() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        asking = asyncio.create_task(mesh.call("slow", {}))
        await asyncio.wait_for(mesh.calls.asked.wait(), 5)
        assert not mesh.calls.started[0].cancelled.is_set()
        asking.cancel()
        await asyncio.wait_for(mesh.calls.started[0].cancelled.wait(), 5)
        await eventually(lambda: not list(mesh.broker.sessions()))

    run(body)


def test_listen_streams_are_bounded_and_counted_apart() -> None:
    async def body(mesh: McpMesh) -> None:
        message, headers = modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        headers |= {"Accept": "application/json, text/event-stream"}
        async with mesh.http.post(mesh.url, json=message, headers=headers) as answer:
            await next_event(answer.content)
            assert (await mesh.ask("subscriptions/listen", {"notifications": {}}))[0] == 429
            assert (await mesh.ask("tools/list"))[0] == 200

    run(body, listens_per_principal_max=1, requests_per_principal_max=1)

"""Clients of 2025-11-25 and older: sessions opened by a handshake, in raw requests."""

from __future__ import annotations

import asyncio

import pytest
from mcp_mesh import McpMesh, hello, note, opened, request, run

from dragoman.adapters.mcp.handshakes import HandshakeSession, HandshakeSessions
from dragoman.adapters.mcp.kernel import Kernel
from dragoman.adapters.serving.quota import Quota
from dragoman.routing.cards import Skill


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_older_clients_are_met_at_their_version_and_promised_only_what_is_built(version: str) -> None:
    async def body(mesh: McpMesh) -> None:
        _, _, answer = await mesh.post(hello(version))
        result = answer["result"]
        assert result["protocolVersion"] == version
        assert result["serverInfo"] == {"name": "dragoman", "version": "9.9"}
        assert result["capabilities"]["tools"] == {"listChanged": True}
        assert result["capabilities"]["resources"] == {"subscribe": True, "listChanged": True}
        assert set(result["capabilities"]) - {"experimental"} == {"tools", "resources"}

    run(body)


def test_an_unknown_version_is_answered_with_the_newest_that_has_a_handshake() -> None:
    async def body(mesh: McpMesh) -> None:
        _, _, answer = await mesh.post(hello("1999-01-01"))
        assert answer["result"]["protocolVersion"] == "2025-11-25"

    run(body)


def test_tools_are_listed_and_called_in_a_session() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("say", output_schema={"type": "object"}))
        lines = await opened(mesh)
        status, headers, answer = await mesh.post(request("tools/list"), lines)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert "say" in [tool["name"] for tool in answer["result"]["tools"]]
        assert "ttlMs" not in answer["result"]
        _, _, answer = await mesh.post(request("tools/call", {"name": "say", "arguments": {"a": 1}}), lines)
        assert answer["result"]["structuredContent"] == {"a": 1}
        assert (await mesh.post(request("ping"), lines))[2]["result"] == {}
        for method in ("logging/setLevel", "prompts/list", "tasks/list", "sampling/createMessage"):
            status, _, answer = await mesh.post(request(method, {"level": "info"}), lines)
            # Any other status would be a fault of the transport, and 404 the end of the session.
            assert (status, answer["error"]["code"]) == (200, -32601), method
        status, _, answer = await mesh.post(request("resources/read", {"uri": "channel:///none"}), lines)
        assert (status, answer["error"]["code"]) == (200, -32002)

    run(body)


def test_requests_outside_a_session_are_refused() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        assert (await mesh.post(request("tools/list")))[0] == 400
        assert (await mesh.post(request("tools/list"), {"Mcp-Session-Id": "other"}))[0] == 404
        assert (await mesh.post(request("tools/list"), {**lines, "MCP-Protocol-Version": "2024-01-01"}))[0] == 400
        stranger = {**lines, "Authorization": "Bearer good"}
        assert (await mesh.post(request("tools/list"), stranger))[0] == 404, "a session is its principal's"
        headers = {"Mcp-Session-Id": str(lines["Mcp-Session-Id"])}
        async with mesh.http.delete(mesh.url, headers={**headers, "MCP-Protocol-Version": "2024-01-01"}) as answer:
            assert answer.status == 400
        async with mesh.http.delete(mesh.url, headers=headers) as answer:
            assert answer.status == 204
        assert (await mesh.post(request("tools/list"), lines))[0] == 404

    run(body)


def test_a_refused_handshake_leaves_no_session() -> None:
    async def body(mesh: McpMesh) -> None:
        bad = request("initialize", {"capabilities": {}})
        for _ in range(3):
            status, headers, answer = await mesh.post(bad)
            assert (status, answer["error"]["code"]) == (200, -32602)
            assert "mcp-session-id" not in headers
        await opened(mesh)
        status, headers, _ = await mesh.post(hello())
        assert (status, headers["retry-after"]) == (429, "1")

    run(body, sessions_per_principal_max=1, sessions_max=1)


def test_nobody_takes_all_sessions() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        status, headers, _ = await mesh.post(hello())
        assert (status, headers["retry-after"]) == (429, "1")
        other = await opened(mesh, Authorization="Bearer good")
        assert (await mesh.post(hello(), {"Authorization": "Bearer other"}))[0] == 503
        async with mesh.http.delete(mesh.url, headers={"Mcp-Session-Id": str(lines["Mcp-Session-Id"])}) as answer:
            assert answer.status == 204
        await opened(mesh)
        assert (await mesh.post(request("ping"), other))[0] == 200

    run(body, sessions_per_principal_max=1, sessions_max=2)


def test_a_call_is_cancelled_by_its_notification_only() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        lines = await opened(mesh)
        asking = asyncio.create_task(mesh.post(request("tools/call", {"name": "slow"}, 7), lines))
        await asyncio.wait_for(mesh.calls.asked.wait(), 5)
        again = await mesh.post(request("tools/call", {"name": "slow"}, 7), lines)
        assert again[2]["error"]["code"] == -32600
        for wrong in (8, "7", None, [7]):
            assert (await mesh.post(note("notifications/cancelled", {"requestId": wrong}), lines))[0] == 202
        assert not mesh.calls.started[0].cancelled.is_set()
        await mesh.post(note("notifications/cancelled", {"requestId": 7}), lines)
        await asyncio.wait_for(mesh.calls.started[0].cancelled.wait(), 5)
        assert (await asking)[0] == 202

    run(body)


def test_a_lost_connection_cancels_nothing_but_the_end_of_the_session_does() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        lines = await opened(mesh)
        asking = asyncio.create_task(mesh.post(request("tools/call", {"name": "slow"}, 7), lines))
        await asyncio.wait_for(mesh.calls.asked.wait(), 5)
        asking.cancel()
        await asyncio.wait([asking])
        assert (await mesh.post(request("ping"), lines))[0] == 200
        status, _, answer = await mesh.post(request("tools/call", {"name": "slow"}, 7), lines)
        assert (status, answer["error"]["code"]) == (200, -32600), "it is still under way"
        headers = {"Mcp-Session-Id": str(lines["Mcp-Session-Id"])}
        async with mesh.http.delete(mesh.url, headers=headers):
            await asyncio.wait_for(mesh.calls.started[0].cancelled.wait(), 5)

    run(body)


def test_requests_of_one_session_are_bounded() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        lines = await opened(mesh)
        asking = asyncio.create_task(mesh.post(request("tools/call", {"name": "slow"}, 7), lines))
        await asyncio.wait_for(mesh.calls.asked.wait(), 5)
        assert (await mesh.post(request("ping", None, 8), lines))[0] == 429
        mesh.calls.started[0].answer(b"x")
        assert (await asking)[0] == 200
        assert (await mesh.post(request("ping", None, 8), lines))[0] == 200

    run(body, session_requests_max=1)


def test_idle_sessions_end_and_used_ones_do_not() -> None:
    async def body(mesh: McpMesh) -> None:
        kernel: Kernel = mesh.endpoint._kernel
        sessions = HandshakeSessions(mesh.broker, Quota("sessions", each_max=2, total_max=2), 10)
        first, second, third = (HandshakeSession(kernel, "p", 0) for _ in range(3))
        assert sessions.admit(first, 0) is None
        assert sessions.admit(second, 0) is None
        assert sessions.admit(third, 10_000) is not None
        assert sessions.find(first.id, "p", 9_000) is first
        assert sessions.find(first.id, "q", 9_000) is None
        assert sessions.admit(third, 10_001) is None
        assert second.closed
        assert sessions.find(second.id, "p", 10_001) is None
        first.streams = 1
        third.used_ms = 1_000_000
        sessions.put_out_idle(1_000_000)
        assert not first.closed, "its stream is open"
        first.close()
        assert sessions.find(first.id, "p", 1_000_000) is None, "the mesh has ended it"
        sessions.put_out_idle(1_000_000)
        assert list(sessions) == [third]
        sessions.close()

    run(body)

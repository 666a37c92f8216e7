"""Bans, kicks and slow readers where people see them, and that a ban holds for every protocol."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from dragoman.adapters.http.session import StreamSession
from dragoman.adapters.http.settings import HttpSettings
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.errors import code_of
from dragoman.broker.subscription import Subscription
from dragoman.routing.refusals import Reason, Refusal
from tests.clients.mesh import MeshProcess
from tests.clients.processes import run_client
from tests.http.http_mesh import HttpMesh, eventually, http_mesh


async def bans(mesh: HttpMesh) -> list[tuple[str, str]]:
    _, answer, _ = await mesh.ask("GET", "/v1/admin/bans", token="root")
    return [(ban["kind"], ban["who"]) for ban in answer["bans"]]


async def ban(mesh: HttpMesh, **order: Any) -> int:
    status, _, _ = await mesh.ask("POST", "/v1/admin/bans", token="root", json=order)
    return status


def test_a_ban_is_made_listed_and_lifted():
    async def main():
        async with http_mesh() as mesh:
            order = {"kind": "address", "who": "192.0.2.9/24", "reason": "floods", "duration_ms": 60_000}
            status, made, _ = await mesh.ask("POST", "/v1/admin/bans", token="root", json=order)
            assert status == 201
            assert (made["who"], made["reason"], made["by"]) == ("192.0.2.0/24", "floods", "root")
            assert made["until_ms"] - made["since_ms"] == 60_000
            assert await ban(mesh, kind="client", who="noisy/1") == 201
            assert await bans(mesh) == [("address", "192.0.2.0/24"), ("client", "noisy/1")]
            for who, expected in (("noisy/1", 204), ("noisy/1", 410)):
                path = f"/v1/admin/bans/client/{quote(who, safe='')}"
                assert (await mesh.ask("DELETE", path, token="root"))[0] == expected
            path = "/v1/admin/bans/address/192.0.2.0%2F24"
            assert (await mesh.ask("DELETE", path, token="root"))[0] == 204
            assert await bans(mesh) == []
            for kind, who, path in (
                ("address", "192.0.2.0/24", "address/192.0.2.0/24"),
                ("address", "2001:db8::/64", "address/2001:db8::/64"),
                ("client", "a/b c%2F/d", "client/a/b%20c%252F/d"),
            ):
                assert await ban(mesh, kind=kind, who=who) == 201
                assert (await mesh.ask("DELETE", f"/v1/admin/bans/{path}", token="root"))[0] == 204
                assert await bans(mesh) == []
            assert (await mesh.ask("DELETE", "/v1/admin/bans/client/a//b", token="root"))[0] == 400

    asyncio.run(main())


def test_only_administrators_ban_and_none_locks_himself_out():
    async def main():
        async with http_mesh() as mesh:
            order = {"kind": "client", "who": "x"}
            assert (await mesh.ask("POST", "/v1/admin/bans", token="bob", json=order))[0] == 403
            assert (await mesh.ask("DELETE", "/v1/admin/bans/client/x", token="bob"))[0] == 403
            assert (await mesh.ask("DELETE", "/v1/admin/bans/planet/x", token="root"))[0] == 400
            assert await ban(mesh, kind="principal", who="root") == 409
            assert await ban(mesh, kind="address", who="127.0.0.0/8") == 409
            assert await ban(mesh, kind="address", who="0.0.0.0/0") == 409
            assert await ban(mesh, kind="address", who="nonsense") == 400
            assert await ban(mesh, kind="planet", who="x") == 400
            assert await ban(mesh, kind="client", who="x", duration_ms=0) == 400
            assert await bans(mesh) == []

    asyncio.run(main())


def test_a_banned_agent_s_stream_ends_and_it_publishes_no_more():
    async def main():
        async with http_mesh() as mesh:
            headers = {"Authorization": "Bearer alice", "Mesh-Agent": "desk"}
            async with mesh.events("/v1/channels/c", headers=headers) as events:
                assert await ban(mesh, kind="client", who="desk") == 201
                end = await events.next()
                assert (end.kind, end.data["type"]) == ("end", "banned")
            status, problem, _ = await mesh.ask("POST", "/v1/channels/c", headers=headers, data="x")
            assert (status, problem["type"]) == (403, "banned")
            assert (await mesh.ask("POST", "/v1/channels/c", token="alice", data="x"))[0] == 201

    asyncio.run(main())


def test_a_ban_leaves_a_line_with_who_did_what(caplog):
    async def main():
        async with http_mesh() as mesh:
            await ban(mesh, kind="client", who="noisy", reason="why")

    asyncio.run(main())
    (line,) = [record for record in caplog.records if record.name == "dragoman.admin"]
    assert line.getMessage() == "administration: banned"
    assert (line.by, line.kind, line.who, line.reason) == ("root", "client", "noisy", "why")


def test_slow_readers_are_listed_with_what_they_owe():
    async def main():
        async with http_mesh() as mesh:
            slow = StreamSession(mesh.broker, mesh.people.known["bob"], "", HttpSettings(stream_max_messages=1))
            with mesh.surface.attached(slow):
                assert isinstance(mesh.broker.subscribe(slow, "c"), Subscription)
                for payload in ("1", "22", "333"):
                    await mesh.publish("c", payload)
                _, answer, _ = await mesh.ask("GET", "/v1/admin/slow", token="root")
                (reader,) = answer["readers"]
                assert (reader["principal"], reader["messages"], reader["bytes"], reader["lost"]) == ("bob", 2, 5, 0)
                assert (answer["total"], answer["slow"]) == (1, 0)
                _, listed, _ = await mesh.ask("GET", "/v1/admin/connections?behind=true", token="root")
                assert [one["id"] for one in listed["connections"]] == [reader["id"]]
                _, text, _ = await mesh.ask("GET", "/metrics")
                assert b"dragoman_slow_readers " in text

    asyncio.run(main())


def test_a_connection_that_is_open_is_cut_when_its_address_is_banned():
    async def main():
        async with http_mesh() as mesh, mesh.events("/v1/channels/c") as events:
            mesh.broker.bans.add("address", "127.0.0.1", reason="", by="test", duration_ms=0)
            await eventually(lambda: mesh.broker.metrics.wire("http").open == 0)
            with pytest.raises((aiohttp.ClientError, AssertionError)):
                await events.next()

    asyncio.run(main())


def test_every_protocol_has_a_word_for_it():
    assert code_of(Refusal(Reason.BANNED, "")) is ErrorCode.SASL_AUTHENTICATION_FAILED


def ask(mesh: MeshProcess, method: str, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(mesh.url + path, data, {"Content-Type": "application/json"}, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def test_a_ban_outlives_the_mesh_and_a_kick_can_forget(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], object]
) -> None:
    pub, sub = str(require("mosquitto_pub")), str(require("mosquitto_sub"))
    mesh = mesh_process()
    port = str(mesh.port("mqtt"))
    run_client([sub, "-p", port, "-i", "lamp", "-c", "-q", "1", "-t", "a", "-E"])
    assert ask(mesh, "POST", "/v1/admin/bans", {"kind": "client", "who": "noisy"})[0] == 201
    mesh.kill()
    mesh.restart()
    assert ask(mesh, "GET", "/v1/admin/bans")[1]["bans"][0]["who"] == "noisy"
    refused = run_client([pub, "-V", "5", "-p", port, "-i", "noisy", "-t", "a", "-m", "x"], code=None)
    assert refused.code != 0
    assert "Banned" in refused.stderr or "banned" in refused.stderr
    run_client([pub, "-V", "5", "-p", port, "-i", "quiet", "-t", "a", "-m", "x"])
    assert [kept["id"] for kept in ask(mesh, "GET", "/v1/admin/sessions")[1]["sessions"]] == ["lamp"]
    assert ask(mesh, "DELETE", "/v1/admin/sessions/lamp")[0] == 204
    assert ask(mesh, "GET", "/v1/admin/sessions")[1]["sessions"] == []
    assert ask(mesh, "DELETE", "/v1/admin/sessions/lamp")[0] == 410


def test_what_serve_logs_says_who_did_what_and_nobodys_words_pass_for_a_line(
    mesh_process: Callable[..., MeshProcess],
) -> None:
    mesh = mesh_process(memory=True)
    noisy = 'x by=root\n2026-01-01 WARNING dragoman.admin: \x1b[2J\u202e"'
    order = {"kind": "client", "who": noisy, "reason": "loops", "duration_ms": 60_000}
    assert ask(mesh, "POST", "/v1/admin/bans", order)[0] == 201
    assert ask(mesh, "DELETE", f"/v1/admin/bans/client/{quote(noisy, safe='')}")[0] == 204
    banned, lifted = (line.partition(" WARNING dragoman.admin: ")[2] for line in mesh.terminate().stderr.splitlines())
    shown = r'"x by=root\n2026-01-01 WARNING dragoman.admin: \x1b[2J\u202e\""'
    assert banned == f"administration: banned by=anonymous kind=client who={shown} reason=loops duration_ms=60000"
    assert lifted == f"administration: ban lifted by=anonymous kind=client who={shown}"

"""Who is let into the web application: hosts, origins, credentials, agents, connections."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket

import aiohttp
import pytest
from aiohttp import web

from dragoman.adapters.http.settings import HttpSettings
from dragoman.adapters.serving.settings import LimitSettings
from dragoman.adapters.serving.statuses import STATUS
from dragoman.adapters.serving.web import OWN_TOKEN
from dragoman.adapters.serving.web_settings import WebSettings
from dragoman.routing.refusals import Reason
from tests.http.http_mesh import eventually, http_mesh

KNOWN = WebSettings(hosts=("mesh.example",), origins=("https://app.example",))


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Host": "localhost:8080"}, True),
        ({"Host": "[::1]:8080"}, True),
        ({"Host": "mesh.example"}, True),
        ({"Host": "attacker.example"}, False),
        ({"Host": "localhost.attacker.example"}, False),
        ({"Host": "127.0.0.1.attacker.example"}, False),
        ({"Host": ""}, False),
        ({"Host": "localhost:80", "Origin": "http://localhost:80"}, True),
        ({"Host": "localhost:80", "Origin": "http://localhost:81"}, False),
        ({"Host": "localhost:80", "Origin": "null"}, False),
        ({"Host": "attacker.example", "Origin": "http://attacker.example"}, False),
        ({"Origin": "https://app.example"}, True),
        ({"Origin": "https://app.example.attacker.example"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
    ],
)
def test_pages_of_strangers_are_kept_out(headers, allowed):
    async def main():
        async with http_mesh(HttpSettings(web=KNOWN)) as mesh:
            status, answer, head = await mesh.ask("GET", "/v1/channels", headers=headers)
            assert status == (200 if allowed else 403), answer
            cors = head.get("access-control-allow-origin")
            assert cors == (headers["Origin"] if headers.get("Origin") == "https://app.example" else None)
            if not allowed:
                assert answer["type"] == "not-authorized"
                assert mesh.people.seen == []

    asyncio.run(main())


def test_a_browser_may_ask_first():
    async def main():
        async with http_mesh(HttpSettings(web=KNOWN)) as mesh:
            asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "mesh-agent"}
            status, _, head = await mesh.ask(
                "OPTIONS", "/v1/channels/c", headers={**asking, "Origin": "https://app.example"}
            )
            assert (status, head["access-control-allow-headers"]) == (204, "mesh-agent")
            assert head["access-control-allow-origin"] == "https://app.example"
            status, _, _ = await mesh.ask(
                "OPTIONS", "/v1/channels/c", headers={**asking, "Origin": "https://no.example"}
            )
            assert status == 403

    asyncio.run(main())


def test_credentials_are_read_from_authorization():
    async def main():
        async with http_mesh() as mesh:
            basic = base64.b64encode("bob:pä:ss".encode()).decode()
            for header in ("Bearer alice", "bearer  alice", f"Basic {basic}"):
                status, _, _ = await mesh.ask("GET", "/v1/channels", headers={"Authorization": header})
                assert status == 200, header
            shown = [(c.username, c.password, c.token, c.loopback) for c in mesh.people.seen]
            assert shown == [
                (None, None, "alice", True),
                (None, None, "alice", True),
                ("bob", "pä:ss".encode(), None, True),
            ]
            for header in (
                "Bearer",
                "Basic !",
                "Basic " + base64.b64encode(b"nocolon").decode(),
                "Digest x",
                "Bearer x",
            ):
                status, problem, head = await mesh.ask("GET", "/v1/channels", headers={"Authorization": header})
                assert (status, problem["type"]) == (401, "not-authenticated"), header
                assert head["www-authenticate"].startswith("Bearer")

    asyncio.run(main())


def test_what_a_proxy_forwards_is_not_local():
    async def main():
        async with http_mesh() as mesh:
            for name in ("X-Forwarded-For", "Forwarded"):
                await mesh.ask("GET", "/v1/channels", headers={name: "for=203.0.113.9"})
            assert [c.loopback for c in mesh.people.seen] == [False, False]

    asyncio.run(main())


def test_credentials_that_take_too_long_are_told_to_come_back():
    async def main():
        async with http_mesh(HttpSettings(web=WebSettings(login_max_ms=100))) as mesh:
            mesh.people.check = lambda credentials, then: None  # type: ignore[method-assign]
            status, problem, _ = await mesh.ask("GET", "/v1/channels")
            assert (status, problem["type"]) == (503, "busy")
            assert (await mesh.ask("GET", "/healthz"))[0] == 200

    asyncio.run(main())


def test_an_agent_is_named_only_by_its_own_principal():
    async def main():
        async with http_mesh() as mesh:
            await mesh.ask("PUT", "/v1/agents/other", token="bob", json={"card": {"name": "o", "skills": []}})
            for token, agent, status in (
                ("alice", "desk", 201),
                ("bob", "other", 201),
                ("alice", "other", 403),
                ("bob", "desk", 403),
                ("bob", "nobody", 403),
                (None, "desk", 403),
                ("bob", "%zz", 400),
            ):
                got, _, _ = await mesh.ask("POST", "/v1/channels/c", token=token, headers={"Mesh-Agent": agent})
                assert got == status, (token, agent)
            _, page, _ = await mesh.ask("GET", "/v1/channels/c")
            assert [m["from"] for m in page["messages"]] == ["desk", "other"]

    asyncio.run(main())


def test_our_own_token_is_trusted_and_never_shown():
    async def main():
        async with http_mesh() as mesh:
            own = mesh.listener._runner.app[OWN_TOKEN]
            assert len(own) >= 32
            assert (await mesh.ask("GET", "/v1/admin/status", token=own))[0] == 200
            assert (await mesh.ask("GET", "/v1/admin/status", token=own[:-1]))[0] == 401
            assert (await mesh.ask("GET", "/v1/admin/status"))[0] == 403

    asyncio.run(main())


def test_a_fault_of_ours_is_logged_and_not_shown(caplog):
    async def main():
        async with http_mesh() as mesh:

            def broken(*arguments: object) -> None:
                raise ZeroDivisionError("secret detail")

            mesh.broker.channels.find = broken  # type: ignore[method-assign, assignment]
            with caplog.at_level(logging.ERROR, "dragoman.adapters.serving.web"):
                status, problem, _ = await mesh.ask("GET", "/v1/channels/c")
            assert (status, problem["type"]) == (500, "failed")
            assert "secret" not in str(problem)
            assert "ZeroDivisionError" in caplog.text

    asyncio.run(main())


def test_connections_are_counted_and_limited():
    async def main():
        async with http_mesh(limits=LimitSettings(connections_max=1)) as mesh:
            wire = mesh.broker.metrics.wire("http")
            assert (await mesh.ask("GET", "/healthz"))[0] == 200
            assert (wire.open, wire.connections) == (1, 1)
            host, port = mesh.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await asyncio.gather(reader.read(1), return_exceptions=True)
            assert answer == [b""] or isinstance(answer[0], ConnectionError)
            writer.close()
            assert wire.turned_away == 1
            await eventually(lambda: wire.open == 1)
            await mesh.http.connector.close()
            await eventually(lambda: wire.open == 0)
            async with aiohttp.ClientSession() as another, another.get(mesh.url + "/healthz") as answer:
                assert answer.status == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    "rubbish", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000]
)
def test_what_is_no_http_gets_400_and_a_closed_connection(rubbish):
    async def main():
        async with http_mesh() as mesh:
            host, port = mesh.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
            writer.write(rubbish + b"\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
            assert b"Traceback" not in answer
            writer.close()
            assert (await mesh.ask("GET", "/healthz"))[0] == 200

    asyncio.run(main())


def test_every_reason_has_a_status_that_says_no():
    assert set(STATUS) == set(Reason)
    assert all(400 <= status < 600 and status != 500 for status in STATUS.values())
    assert issubclass(web.HTTPException, Exception)

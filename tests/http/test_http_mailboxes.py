"""Mailboxes over HTTP: what is said to an agent is kept, pulled by it alone, and gone when acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from dragoman.adapters.http.session import RequestSession
from dragoman.adapters.http.settings import HttpSettings
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from tests.http.http_mesh import HttpMesh, eventually, http_mesh
from tests.http.test_http_health import StoppedLog

BOX = "/v1/agents/w/mailbox"
CARD = {"card": {"name": "w", "skills": [{"name": "write"}]}, "lease_ms": 60_000}


@contextlib.asynccontextmanager
async def mesh_with_agent(**more: Any) -> AsyncIterator[HttpMesh]:
    """A mesh in which alice has the agent ``w``."""
    async with http_mesh(**more) as mesh:
        status, answer, _ = await mesh.ask("PUT", "/v1/agents/w", token="alice", json=CARD)
        assert status == 200, answer
        yield mesh


async def send(mesh: HttpMesh, *texts: str) -> None:
    for text in texts:
        status, answer, _ = await mesh.ask("POST", "/v1/channels/mesh/to/w", data=text, token="bob")
        assert status == 202, answer


async def pull(mesh: HttpMesh, query: str = "max=10") -> list[dict[str, Any]]:
    status, answer, _ = await mesh.ask("POST", f"{BOX}/pull?{query}", token="alice")
    assert status == 200, answer
    return answer["deliveries"]


async def settle(mesh: HttpMesh, verb: str, ids: list[str], **more: object) -> dict[str, Any]:
    status, answer, _ = await mesh.ask("POST", f"{BOX}/{verb}", token="alice", json={"ids": ids, **more})
    assert status == 200, answer
    return answer["refused"]


def test_mail_is_kept_pulled_and_gone_when_acknowledged():
    async def main():
        async with mesh_with_agent() as mesh:
            status, box, _ = await mesh.ask("PUT", BOX, token="alice")
            assert (status, box["agent"], box["messages"], box["pushed"]) == (200, "w", 0, False)
            await send(mesh, "one", "two")
            _, box, _ = await mesh.ask("GET", BOX, token="alice")
            assert (box["messages"], box["ready"]) == (2, 2)
            first, second = await pull(mesh)
            assert [d["message"]["payload"] for d in (first, second)] == ["one", "two"]
            assert first["message"]["channel"] == "mesh/me/in", "as the agent hears it, not where it is kept"
            assert await pull(mesh) == [], "both are leased"
            assert await settle(mesh, "ack", [first["delivery"]]) == {}
            assert list(await settle(mesh, "ack", [first["delivery"]])) == [first["delivery"]]
            assert await settle(mesh, "extend", [second["delivery"]], lease_ms=60_000) == {}
            assert await settle(mesh, "reject", [second["delivery"]], delay_ms=0) == {}
            (again,) = await pull(mesh, "wait_ms=5000")
            assert (again["message"]["payload"], again["count"]) == ("two", 2)
            assert await settle(mesh, "ack", [again["delivery"]]) == {}
            _, box, _ = await mesh.ask("GET", BOX, token="alice")
            assert (box["messages"], box["bytes"]) == (0, 0)

    asyncio.run(main())


def test_what_waits_is_there_after_a_restart(tmp_path):
    async def main():
        async with mesh_with_agent(log=DiskLog(LogSettings(tmp_path))) as mesh:
            await mesh.ask("PUT", BOX, token="alice")
            await send(mesh, "kept")
        async with http_mesh(log=DiskLog(LogSettings(tmp_path))) as mesh:
            assert [d["message"]["payload"] for d in await pull(mesh)] == ["kept"]

    asyncio.run(main())


def test_a_pull_waits_for_mail():
    async def main():
        async with mesh_with_agent() as mesh:
            await mesh.ask("PUT", BOX, token="alice")
            waiting = asyncio.ensure_future(pull(mesh, "wait_ms=5000"))
            group = mesh.broker.mailboxes.get("w").group
            await eventually(lambda: group.statistics()["waiting_pulls"] == 1)
            await send(mesh, "news")
            assert [d["message"]["payload"] for d in await waiting] == ["news"]

    asyncio.run(main())


EVERYTHING = (
    ("PUT", "", None),
    ("GET", "", None),
    ("DELETE", "", None),
    ("POST", "/pull", None),
    ("POST", "/ack", {"ids": ["x"]}),
    ("POST", "/extend", {"ids": ["x"], "lease_ms": 1}),
    ("POST", "/reject", {"ids": ["x"]}),
    ("GET", "/dead-letters", None),
)


def test_a_mailbox_is_its_agent_s_alone():
    async def main():
        async with mesh_with_agent() as mesh:
            await mesh.ask("PUT", BOX, token="alice")
            await send(mesh, "secret")
            for method, path, order in EVERYTHING:
                for token in ("bob", None):
                    status, problem, _ = await mesh.ask(method, BOX + path, token=token, json=order)
                    assert (status, problem["type"]) == (403, "agent-taken"), (method, path)
                nobody = f"/v1/agents/nobody/mailbox{path}"
                for token in ("alice", "root"):
                    status, problem, _ = await mesh.ask(method, nobody, token=token, json=order)
                    assert (status, problem["type"]) == (404, "unknown-agent"), (method, path)
            assert mesh.broker.mailboxes.get("w").count == 1
            assert mesh.broker.mailboxes.get("nobody") is None
            status, box, _ = await mesh.ask("GET", BOX, token="root")
            assert (status, box["messages"]) == (200, 1)

    asyncio.run(main())


def test_what_was_never_opened_or_is_closed_is_not_there():
    async def main():
        async with mesh_with_agent() as mesh:
            for opened in (False, True):
                if opened:
                    await mesh.ask("PUT", BOX, token="alice")
                    assert (await mesh.ask("DELETE", BOX, token="alice"))[0] == 204
                for method, path, order in EVERYTHING[1:]:
                    status, problem, _ = await mesh.ask(method, BOX + path, token="alice", json=order)
                    assert (status, problem["type"]) == (404, "unknown-group"), (method, path)
                assert mesh.broker.mailboxes.get("w") is None, "asking for a mailbox opens none"

    asyncio.run(main())


def test_closing_tells_who_waits():
    async def main():
        async with mesh_with_agent() as mesh:
            await mesh.ask("PUT", BOX, token="alice")
            waiting = asyncio.ensure_future(mesh.ask("POST", f"{BOX}/pull?wait_ms=5000", token="alice"))
            group = mesh.broker.mailboxes.get("w").group
            await eventually(lambda: group.statistics()["waiting_pulls"] == 1)
            assert (await mesh.ask("DELETE", BOX, token="alice"))[0] == 204
            status, problem, _ = await waiting
            assert (status, problem["type"]) == (410, "gone")

    asyncio.run(main())


def test_a_mailbox_that_is_pushed_from_is_not_closed():
    async def main():
        async with mesh_with_agent() as mesh:
            await mesh.ask("PUT", BOX, token="alice")
            attachment = mesh.broker.mailboxes.attach("w", lambda message: True)
            assert (await mesh.ask("GET", BOX, token="alice"))[1]["pushed"] is True
            status, problem, _ = await mesh.ask("DELETE", BOX, token="alice")
            assert (status, problem["type"]) == (409, "conflict")
            attachment.detach()
            assert (await mesh.ask("DELETE", BOX, token="alice"))[0] == 204

    asyncio.run(main())


def test_opening_is_confirmed_by_a_commit():
    async def main():
        log = StoppedLog()
        async with mesh_with_agent(settings=HttpSettings(confirm_max_ms=100), log=log) as mesh:
            log.stopped = True
            status, problem, _ = await mesh.ask("PUT", BOX, token="alice")
            assert (status, problem["type"]) == (504, "deadline-passed")
            log.stopped = False

    asyncio.run(main())


def test_mail_nobody_can_deal_with_dies():
    async def main():
        async with mesh_with_agent() as mesh:
            _, box, _ = await mesh.ask("PUT", BOX, token="alice")
            await send(mesh, "poison")
            for _ in range(box["deliveries_max"]):
                (delivery,) = await pull(mesh, "wait_ms=5000")
                await settle(mesh, "reject", [delivery["delivery"]], delay_ms=0)
            _, page, _ = await mesh.ask("GET", f"{BOX}/dead-letters", token="alice")
            assert [letter["payload"] for letter in page["messages"]] == ["poison"]
            session = RequestSession(mesh.people.known["alice"], "w")
            assert not mesh.broker.may_read(session, box["dead_letter"]), "only as this page"

    asyncio.run(main())

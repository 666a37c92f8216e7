"""Clients sent elsewhere by the administration: who may say so, what is listed, and one client by its connection."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.http.http_mesh import HttpMesh, Movable, http_mesh

NOBODY = {"to": "", "permanent": False, "by": "", "since_ms": 0, "waiting": 0}


async def begin(mesh: HttpMesh, **order: Any) -> tuple[int, Any]:
    status, answer, _ = await mesh.ask("POST", "/v1/admin/redirect", token="root", json=order)
    return status, answer


def test_it_is_begun_listed_replaced_and_lifted(caplog):
    async def main():
        async with http_mesh() as mesh:
            assert (await mesh.ask("GET", "/v1/admin/redirect", token="root"))[1] == NOBODY
            session = Movable(mesh.broker)
            assert mesh.broker.attach(session) is None
            status, answer = await begin(mesh, to="b.example:1883", per_s=1)
            assert status == 201
            assert {**answer, "since_ms": 0} == {**NOBODY, "to": "b.example:1883", "by": "root", "waiting": 1}
            assert answer["since_ms"] > 0
            status, answer = await begin(mesh, to="c.example", permanent=True)
            assert (status, answer["waiting"]) == (201, 0)
            assert [(there.to, there.permanent) for there in session.sent] == [("c.example", True)]
            _, answer, _ = await mesh.ask("GET", "/v1/admin/redirect", token="root")
            assert (answer["to"], answer["permanent"]) == ("c.example", True)
            assert (await mesh.ask("DELETE", "/v1/admin/redirect", token="root"))[0] == 204
            assert (await mesh.ask("DELETE", "/v1/admin/redirect", token="root"))[0] == 410
            assert (await mesh.ask("GET", "/v1/admin/redirect", token="root"))[1] == NOBODY
            mesh.broker.detach(session)

    asyncio.run(main())
    lines = [record for record in caplog.records if record.name == "dragoman.admin"]
    assert [(line.by, line.getMessage()) for line in lines] == [
        ("root", "administration: clients are sent elsewhere"),
        ("root", "administration: clients are sent elsewhere"),
        ("root", "administration: clients may come in again"),
    ]


def test_one_client_by_its_connection():
    async def main():
        async with http_mesh() as mesh:
            session = Movable(mesh.broker)
            assert mesh.broker.attach(session) is None
            _, listed, _ = await mesh.ask("GET", "/v1/admin/connections?agent=dev", token="root")
            path = f"/v1/admin/connections/{listed['connections'][0]['id']}/redirect"
            assert (await mesh.ask("POST", path, token="bob", json={"to": "b.example"}))[0] == 403
            assert (await mesh.ask("POST", path, token="root", json={"to": "b  c"}))[0] == 400
            assert session.sent == []
            assert (await mesh.ask("POST", path, token="root", json={"to": "b.example"}))[0] == 204
            assert [(there.to, there.permanent) for there in session.sent] == [("b.example", False)]
            mesh.broker.detach(session)
            assert (await mesh.ask("POST", path, token="root", json={"to": "b.example"}))[0] == 410
            # Who reads over HTTP cannot be told.
            async with mesh.events("/v1/channels/c"):
                _, listed, _ = await mesh.ask("GET", "/v1/admin/connections", token="root")
                path = f"/v1/admin/connections/{listed['connections'][0]['id']}/redirect"
                assert (await mesh.ask("POST", path, token="root", json={"to": "b.example"}))[0] == 501

    asyncio.run(main())


def test_only_administrators_do_and_only_what_can_be_meant():
    async def main():
        async with http_mesh() as mesh:
            for method in ("GET", "POST", "DELETE"):
                order = {"json": {"to": "b.example"}} if method == "POST" else {}
                assert (await mesh.ask(method, "/v1/admin/redirect", token="bob", **order))[0] == 403
            for order in ({"to": ""}, {"to": "b\n"}, {"to": "b", "per_s": 0}, {"to": "b", "per_s": 100_001}, {}):
                assert (await begin(mesh, **order))[0] == 400
            assert mesh.broker.redirects.current is None

    asyncio.run(main())

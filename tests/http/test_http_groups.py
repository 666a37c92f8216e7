"""Work groups over HTTP: lease, acknowledge, extend, reject, dead letters."""

from __future__ import annotations

import asyncio

from tests.http.http_mesh import HttpMesh, eventually, http_mesh

TERMS = {"filter": "jobs/#", "deliveries_max": 2, "backoff_ms": 0}


async def pull(mesh: HttpMesh, query: str = "max=10", token: str = "alice") -> list[dict]:
    status, answer, _ = await mesh.ask("POST", f"/v1/groups/g/pull?{query}", token=token)
    assert status == 200, answer
    return answer["deliveries"]


async def settle(mesh: HttpMesh, verb: str, ids: list[str], token: str = "alice", **more: object) -> dict:
    status, answer, _ = await mesh.ask("POST", f"/v1/groups/g/{verb}", token=token, json={"ids": ids, **more})
    assert status == 200, answer
    return answer["refused"]


def test_each_message_goes_to_one_worker_until_it_is_acknowledged():
    async def main():
        async with http_mesh() as mesh:
            status, group, _ = await mesh.ask("PUT", "/v1/groups/g", token="alice", json=TERMS)
            assert (status, group["deliveries_max"]) == (200, 2)
            for i in range(3):
                await mesh.publish(f"jobs/{i}", str(i))
            first = await pull(mesh, "max=2")
            second = await pull(mesh, "max=2")
            assert [d["message"]["payload"] for d in first] == ["0", "1"]
            assert [d["message"]["payload"] for d in second] == ["2"]
            assert await pull(mesh, "max=2&wait_ms=10") == []
            refused = await settle(mesh, "ack", [first[0]["delivery"], "nonsense"])
            assert {id_: problem["type"] for id_, problem in refused.items()} == {"nonsense": "unknown-delivery"}
            refused = await settle(mesh, "ack", [first[1]["delivery"]], token="bob")
            assert list(refused) == [first[1]["delivery"]]
            assert await settle(mesh, "extend", [first[1]["delivery"]], lease_ms=60_000) == {}
            _, group, _ = await mesh.ask("GET", "/v1/groups/g", token="alice")
            assert (group["leased"], group["ready"]) == (2, 0)

    asyncio.run(main())


def test_rejected_work_comes_again_and_dies():
    async def main():
        async with http_mesh() as mesh:
            await mesh.ask("PUT", "/v1/groups/g", token="alice", json=TERMS)
            await mesh.publish("jobs/x", "poison")
            for count in (1, 2):
                (delivery,) = await pull(mesh, "wait_ms=5000")
                assert delivery["count"] == count
                assert await settle(mesh, "reject", [delivery["delivery"]], delay_ms=0) == {}
            assert await pull(mesh, "wait_ms=50") == []
            status, page, _ = await mesh.ask("GET", "/v1/groups/g/dead-letters", token="alice")
            assert status == 200
            assert [m["payload"] for m in page["messages"]] == ["poison"]

    asyncio.run(main())


def test_a_pull_waits_and_one_that_leaves_takes_nothing_with_it():
    async def main():
        async with http_mesh() as mesh:
            await mesh.ask("PUT", "/v1/groups/g", token="alice", json=TERMS)
            group = mesh.broker.groups.get("g")
            leaving = asyncio.ensure_future(pull(mesh, "wait_ms=5000"))
            await eventually(lambda: group.statistics()["waiting_pulls"] == 1)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await eventually(lambda: group.statistics()["waiting_pulls"] == 0)
            waiting = asyncio.ensure_future(pull(mesh, "wait_ms=5000"))
            await eventually(lambda: group.statistics()["waiting_pulls"] == 1)
            await mesh.publish("jobs/x", "news")
            assert [d["message"]["payload"] for d in await waiting] == ["news"]

    asyncio.run(main())


def test_groups_belong_to_somebody():
    async def main():
        async with http_mesh() as mesh:
            await mesh.ask("PUT", "/v1/groups/g", token="alice", json=TERMS)
            status, problem, _ = await mesh.ask("PUT", "/v1/groups/g", token="bob", json={"filter": "other"})
            assert (status, problem["type"]) == (409, "conflict")
            status, problem, _ = await mesh.ask("DELETE", "/v1/groups/g", token="bob")
            assert (status, problem["type"]) == (403, "not-authorized")
            _, listed, _ = await mesh.ask("GET", "/v1/groups", token="alice")
            assert [g["name"] for g in listed["groups"]] == ["g"]
            assert (await mesh.ask("DELETE", "/v1/groups/g", token="alice"))[0] == 204
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pull"), ("GET", "/dead-letters")):
                status, problem, _ = await mesh.ask(method, f"/v1/groups/g{path}", token="alice")
                assert (status, problem["type"]) == (404, "unknown-group"), path

    asyncio.run(main())

"""Work groups over HTTP: lease, acknowledge, extend, reject, dead letters."""

from __future__ import annotations

import asyncio

from dragoman.adapters.http import admin_kept
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


async def _graveyard(mesh: HttpMesh, after: str | None = None, **query: int) -> dict:
    params = {name: str(value) for name, value in query.items()} | ({} if after is None else {"after": after})
    status, answer, _ = await mesh.ask("GET", "/v1/admin/dead-letters", token="root", params=params)
    assert status == 200, answer
    return answer


async def _bury(mesh: HttpMesh, group: str, *texts: str, **terms: object) -> None:
    order = {"filter": f"{group}/#", "deliveries_max": 1, **terms}
    status, answer, _ = await mesh.ask("PUT", f"/v1/groups/{group}", token="alice", json=order)
    assert status == 200, answer
    for text in texts:
        await mesh.publish(f"{group}/x", text)
    path = f"/v1/groups/{group}"
    _, answer, _ = await mesh.ask("POST", f"{path}/pull?max=100", token="alice")
    ids = [delivery["delivery"] for delivery in answer["deliveries"]]
    assert len(ids) == len(texts)
    await mesh.ask("POST", f"{path}/reject", token="alice", json={"ids": ids})
    channel = mesh.broker.channels.find(mesh.broker.groups.get(group).terms.dead_letter)
    await eventually(lambda: not any(mesh.broker.groups.get(group).statistics().values()) and channel.visible > 0)


def test_dead_letters_of_all_groups_come_in_pages():
    async def main():
        async with http_mesh() as mesh:
            await _bury(mesh, "a", "a0", "a1", "a2")
            await _bury(mesh, "b", "b0")
            await mesh.publish("graves", "no letter", wish="1")
            await _bury(mesh, "c", "c0", dead_letter="graves")
            await _bury(mesh, "d", "d0", dead_letter="graves")
            whole = await _graveyard(mesh)
            expected = [("a", "a0"), ("a", "a1"), ("a", "a2"), ("b", "b0"), ("c", "c0"), ("d", "d0")]
            assert [(letter["group"], letter["message"]["payload"]) for letter in whole["letters"]] == expected
            assert {(letter["reason"], letter["deliveries"]) for letter in whole["letters"]} == {("rejected", 1)}
            assert "next" not in whole
            for limit in (1, 2, 4, 5):
                found, after = [], None
                while True:
                    page = await _graveyard(mesh, after, limit=limit)
                    assert len(page["letters"]) <= limit
                    found += page["letters"]
                    after = page.get("next")
                    if after is None:
                        break
                assert found == whole["letters"]
            for bad in ("graves", "graves@", "graves@x", "graves@-1"):
                status, problem, _ = await mesh.ask(
                    "GET", "/v1/admin/dead-letters", token="root", params={"after": bad}
                )
                assert (status, problem["type"]) == (400, "arguments-invalid")

    asyncio.run(main())


def test_a_page_of_dead_letters_is_bounded_in_bytes_and_in_what_is_looked_at(monkeypatch):
    async def main():
        async with http_mesh() as mesh:
            await _bury(mesh, "a", "x" * 600, "y" * 600, "z" * 600)
            monkeypatch.setattr(admin_kept, "PAGE_BYTES", 1_000)
            page = await _graveyard(mesh)
            assert [letter["message"]["payload"][0] for letter in page["letters"]] == ["x", "y"]
            page = await _graveyard(mesh, page["next"])
            assert [letter["message"]["payload"][0] for letter in page["letters"]] == ["z"]
            monkeypatch.setattr(admin_kept, "LOOKED_AT_MAX", 1)
            page = await _graveyard(mesh)
            assert [letter["message"]["payload"][0] for letter in page["letters"]] == ["x"]
            assert page["next"]

    asyncio.run(main())

"""The API's description and what serves are one: every documented answer is got, and no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dragoman.adapters.http.definitions import Definition, Exchange, Parameter, Reply, nothing
from dragoman.adapters.http.routes import DEFINITIONS
from dragoman.adapters.links.links import Links
from dragoman.adapters.links.settings import LinkSettings, RouteSettings
from dragoman.broker.session import KeptSession
from tests.http.contract import Contract
from tests.http.http_mesh import HttpMesh, Movable, eventually, http_mesh

CARD = {"card": {"name": "w", "skills": [{"name": "write"}]}, "lease_ms": 60_000}
EVENTS = {"Accept": "text/event-stream"}


class OneKept:
    """A keeper of one session, for somebody who is away."""

    def listed(self) -> Iterator[KeptSession]:
        yield KeptSession("one", "toy", "ann", "one", None, (), None, 0, False)

    def forget(self, id_: str) -> bool:
        return id_ == "one"


async def _channels(mesh: HttpMesh) -> None:
    await mesh.publish("c", "x")
    for path in ("/v1/channels/c", "/v1/channels?name=c"):
        await mesh.ask("PUT", path, json={"keeps": "all"})
        await mesh.ask("POST", path, data="x")
        await mesh.ask("GET", path)
        await mesh.ask("GET", path + ("&" if "?" in path else "?") + "last=true")
        async with mesh.events(path):
            pass
        async with mesh.http.ws_connect(mesh.url + path) as socket:
            mesh.contract.check("GET", path.partition("?")[0], 101, None, b"")
            await socket.close()
    agent = {"Mesh-Agent": "desk"}
    for path in ("/v1/channels/mesh/me/card", "/v1/channels?name=mesh/me/card"):
        await mesh.ask("POST", path, data=b'{"name": "Desk"}', token="alice", headers=agent)
    await mesh.publish("t", tombstone="true")
    await mesh.ask("GET", "/v1/channels/t?last=true")
    await mesh.ask("GET", "/v1/channels?name=t&last=true")
    await mesh.ask("GET", "/v1/channels")
    async with mesh.events("/v1/stream?filter=c"):
        pass
    async with mesh.http.ws_connect(mesh.url + "/v1/stream") as socket:
        mesh.contract.check("GET", "/v1/stream", 101, None, b"")


async def _agents(mesh: HttpMesh) -> None:
    await mesh.ask("PUT", "/v1/agents/w", token="alice", json=CARD)
    await mesh.ask("GET", "/v1/agents/w")
    await mesh.ask("GET", "/v1/agents?skill=write")
    await mesh.ask("POST", "/v1/agents/w/renew", token="alice", json={})
    await mesh.ask("PUT", "/v1/agents/w/limit", token="alice", json={"work_limit": None})
    await _mailbox(mesh, "/v1/agents/w/mailbox")
    async with mesh.events("/v1/agents?watch=true"):
        pass


async def _mailbox(mesh: HttpMesh, path: str) -> None:
    await mesh.ask("PUT", path, token="alice")
    await mesh.ask("GET", path, token="alice")
    await mesh.ask("POST", f"{path}/pull", token="alice")
    for verb, more in (("ack", {}), ("extend", {"lease_ms": 1_000}), ("reject", {})):
        await mesh.ask("POST", f"{path}/{verb}", token="alice", json={"ids": ["x"], **more})
    await mesh.ask("GET", f"{path}/dead-letters", token="alice")
    await mesh.ask("DELETE", path, token="alice")


async def _calls(mesh: HttpMesh) -> None:
    token = {"Authorization": "Bearer alice"}
    async with mesh.events("/v1/agents/w/asks?skill=write", headers=token) as asks:
        await eventually(lambda: mesh.broker.directory.offers("write") != [])
        _, call, _ = await mesh.ask("POST", "/v1/calls", json={"skill": "write"}, headers={"Prefer": "wait=0"})
        await asks.next()
        await mesh.ask("GET", f"/v1/calls/{call['id']}")
        await mesh.ask("DELETE", f"/v1/calls/{call['id']}")
        await asks.next()
        async with mesh.events(f"/v1/calls/{call['id']}"):
            pass
        waiting = asyncio.ensure_future(mesh.ask("POST", "/v1/calls", json={"skill": "write"}))
        ask = await asks.next()
        await mesh.ask("POST", f"/v1/calls/{ask.data['call']}/answer", token="alice", json={"done": True})
        await waiting
        async with mesh.http.post(mesh.url + "/v1/calls", json={"skill": "write"}, headers=EVENTS) as answer:
            mesh.contract.check("POST", "/v1/calls", answer.status, answer.headers["Content-Type"], None)
    await mesh.ask("DELETE", "/v1/agents/w", token="alice")


async def _rooms(mesh: HttpMesh) -> None:
    _, _, head = await mesh.ask("POST", "/v1/rooms", json={})
    where = head["location"]
    await mesh.ask("GET", where)
    await mesh.ask("POST", where + "/renew", json={})
    await mesh.ask("POST", where + "/invite", json={"agents": ["x"]})
    await mesh.ask("DELETE", where)
    await mesh.ask("GET", "/v1/members?channel=c")


async def _groups(mesh: HttpMesh) -> None:
    await mesh.ask("PUT", "/v1/groups/g", json={"filter": "jobs/#"})
    await mesh.ask("GET", "/v1/groups")
    await mesh.ask("GET", "/v1/groups/g")
    await mesh.ask("POST", "/v1/groups/g/pull")
    for verb, more in (("ack", {}), ("extend", {"lease_ms": 1_000}), ("reject", {})):
        await mesh.ask("POST", f"/v1/groups/g/{verb}", json={"ids": ["x"], **more})
    await mesh.ask("GET", "/v1/groups/g/dead-letters")
    await mesh.ask("DELETE", "/v1/groups/g")


async def _rest(mesh: HttpMesh) -> None:
    async def backup(target: str) -> None:
        assert target

    async def reload() -> dict[str, object]:
        return {"changed": ["login.users"], "restart": [], "tls": [], "ended": 0}

    mesh.surface.backup = backup
    mesh.surface.reload = reload
    idle = LinkSettings("l", "mqtt", "mqtt://there", push=(RouteSettings("a/#"),))
    mesh.surface.links = Links(mesh.broker, (idle,)).report
    for path in (
        *(
            "status",
            "channels",
            "agents",
            "connections",
            "sessions",
            "groups",
            "dead-letters",
            "links",
            "log",
            "config",
            "slow",
            "bans",
            "delayed",
            "redirect",
        ),
    ):
        status, answer, _ = await mesh.ask("GET", f"/v1/admin/{path}", token="root")
        assert status == 200, (path, answer)
    await mesh.ask("POST", "/v1/admin/backup", token="root", json={"target": "x"})
    await mesh.ask("POST", "/v1/admin/reload", token="root")
    async with mesh.events("/v1/channels/c"):
        _, answer, _ = await mesh.ask("GET", "/v1/admin/connections", token="root")
        one = answer["connections"][0]["id"]
        await mesh.ask("POST", f"/v1/admin/connections/{one}/disconnect", token="root")
    ban = {"kind": "client", "who": "noisy"}
    await mesh.ask("POST", "/v1/admin/bans", token="root", json=ban)
    await mesh.ask("DELETE", "/v1/admin/bans/client/noisy", token="root")
    movable = Movable(mesh.broker)
    assert mesh.broker.attach(movable) is None
    _, answer, _ = await mesh.ask("GET", "/v1/admin/connections?agent=dev", token="root")
    one = answer["connections"][0]["id"]
    await mesh.ask("POST", f"/v1/admin/connections/{one}/redirect", token="root", json={"to": "b.example"})
    mesh.broker.detach(movable)
    await mesh.ask("POST", "/v1/admin/redirect", token="root", json={"to": "b.example"})
    await mesh.ask("DELETE", "/v1/admin/redirect", token="root")
    await mesh.ask("POST", "/v1/channels/%24delayed/60/a")
    await mesh.ask("DELETE", "/v1/admin/delayed/0", token="root")
    mesh.broker.kept_sessions["toy"] = OneKept()
    await mesh.ask("DELETE", "/v1/admin/sessions/one", token="root")
    for path in ("/healthz", "/readyz", "/metrics"):
        await mesh.ask("GET", path)


def _promised(contract: Contract) -> set[tuple[str, str, int, str]]:
    """Every documented answer that is no refusal."""
    promised: set[tuple[str, str, int, str]] = set()
    for path, methods in contract.document["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                kinds = list(response.get("content", {})) or [""]
                promised |= {(method.upper(), path, int(status), kind) for kind in kinds if int(status) < 400}
    return promised


def test_every_documented_answer_is_given_and_no_other():
    async def main():
        contract = Contract()
        async with http_mesh() as mesh:
            mesh.contract = contract
            status, document, _ = await mesh.ask("GET", "/openapi.json")
            assert (status, document) == (200, contract.document)
            for walk in (_channels, _agents, _calls, _rooms, _groups, _rest):
                await walk(mesh)
        assert _promised(contract) <= contract.seen

    asyncio.run(main())


def test_every_route_that_serves_is_documented():
    async def main():
        async with http_mesh() as mesh:
            app = mesh.listener._runner.app
            served = {
                (route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None
            }
            documented = {
                (method.upper(), path)
                for path, methods in mesh.contract.document["paths"].items()
                for method in methods
            }
            assert served == documented

    asyncio.run(main())


def _sample(definition: Definition) -> str:
    path = definition.path
    for parameter in definition.parameters:
        path = path.replace(f"{{{parameter.name}}}", "nobody")
    required = "&".join(f"{p.name}=c" for p in definition.query if p.required)
    return f"{path}?{required}" if required else path


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_every_route_refuses_what_it_does_not_document(definition):
    async def main():
        async with http_mesh() as mesh:
            path = _sample(definition)
            joined = path + ("&" if "?" in path else "?")
            status, problem, _ = await mesh.ask(definition.method, joined + "nonsense=1", token="root")
            assert (status, problem["type"]) == (400, "arguments-invalid")
            assert "nonsense" in problem["detail"]
            for parameter in definition.query:
                bad = {"integer": "1e3", "flag": "maybe"}.get(parameter.kind, "" if parameter.choices else None)
                if bad is not None:
                    status, problem, _ = await mesh.ask(
                        definition.method, f"{joined}{parameter.name}={bad}", token="root"
                    )
                    assert (status, problem["type"]) == (400, "arguments-invalid"), parameter
            if definition.body is not None:
                for body in (b"", b"{", b"[]", b'{"nonsense": 1}', b"\xff"):
                    status, problem, _ = await mesh.ask(definition.method, path, token="root", data=body)
                    assert (status, problem["type"]) == (400, "arguments-invalid"), body
            status, _, _ = await mesh.ask(definition.method, path, token="stranger")
            assert (status == 401) == (not definition.open)
            mesh.broker.say_goodbye()
            await mesh.ask(definition.method, path, token="root")

    asyncio.run(main())


def test_a_definition_and_its_path_agree():
    async def route(exchange: Exchange) -> Any:
        return nothing()

    def define(path: str, *parameters: Parameter) -> Definition:
        return Definition("GET", path, "x", "x", "x", route, replies=(Reply(204, "x"),), parameters=parameters)

    assert define("/a/{b}", Parameter("b", "")).wire_path == "/a/{b:[^/]+}"
    with pytest.raises(AssertionError):
        define("/a/{b}")
    with pytest.raises(AssertionError):
        define("/a", Parameter("b", ""))


def test_the_description_is_plain_json_and_names_are_unique():
    contract = Contract()
    names = [
        operation["operationId"] for methods in contract.document["paths"].values() for operation in methods.values()
    ]
    assert len(names) == len(set(names)) == len(DEFINITIONS)
    assert json.loads(json.dumps(contract.document)) == contract.document


def test_an_undocumented_answer_is_found():
    contract = Contract()
    contract.check("GET", "/healthz", 200, "application/json", b'{"status": "up"}')
    for status, kind, body in (
        (418, "application/json", b"{}"),
        (200, "text/html", b""),
        (200, "application/json", b"{}"),
    ):
        with pytest.raises(AssertionError):
            contract.check("GET", "/healthz", status, kind, body)
    with pytest.raises(AssertionError):
        contract.check("GET", "/v1/undocumented", 200, "application/json", b"{}")

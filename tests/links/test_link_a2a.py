"""Links to A2A agents: another mesh, and agents that behave in every odd way the protocol allows or forbids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from dragoman import Mesh
from dragoman.adapters.links import a2a
from dragoman.adapters.links.settings import LinkSettings, RouteSettings
from dragoman.adapters.serving.settings import ListenSettings
from dragoman.broker.offers import Asked
from dragoman.broker.presence import State
from dragoman.config import Config
from dragoman.routing.cards import LINKED, Skill
from dragoman.routing.refusals import Reason, Refusal, RefusedError

NOWHERE = Config.embedded().listen
HTTP = ListenSettings(mqtt="off", kafka="off", http="127.0.0.1:0")


class Agent:
    """An A2A agent by hand: what it answers is a test's to say."""

    def __init__(self) -> None:
        self.card: dict[str, Any] = {
            "name": "by hand",
            "description": "x",
            "version": "1",
            "capabilities": {"streaming": False},
            "supportedInterfaces": [],
            "skills": [{"id": "do", "name": "do", "description": "x", "tags": ["t"]}],
        }
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.unchanged = 0
        self.results: dict[str, Any] = {}
        self.events: list[Any] | None = None
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/.well-known/agent-card.json", self._card)
        app.router.add_post("/rpc", self._rpc)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.card["supportedInterfaces"] = [
            {"url": f"{self.url}/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0", "tenant": "t-1"}
        ]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _card(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers.get("Authorization"))
        etag = f'"{hash(json.dumps(self.card))}"'
        if request.headers.get("If-None-Match") == etag:
            self.unchanged += 1
            return web.Response(status=304)
        return web.json_response(self.card, headers={"ETag": etag})

    async def _rpc(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["A2A-Version"] == "1.0"
        said = await request.json()
        self.asked.append(said)
        method = said["method"]
        if method == "SendStreamingMessage" and self.events is not None:
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            for event in self.events:
                item = json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": event})
                await stream.write(f"data: {item}\n\n".encode())
            return stream
        result = self.results[method]
        answer = result.pop(0) if isinstance(result, list) else result
        return web.json_response({"jsonrpc": "2.0", "id": said["id"], **answer})

    def methods(self) -> list[str]:
        return [said["method"] for said in self.asked]


Body = Callable[[Mesh, Agent], Awaitable[None]]


def run(body: Body, change: Callable[[Agent], object] = lambda agent: None, **more: object) -> None:
    """A mesh with one link, called far, to an agent by hand."""

    async def main() -> None:
        agent = Agent()
        await agent.start()
        change(agent)
        link = LinkSettings(name="far", kind="a2a", address=agent.url, retry_s_max=0.1, **more)  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(20), Mesh(Config(data=":memory:", listen=NOWHERE, links=(link,))) as mesh:
                await body(mesh, agent)
        finally:
            await agent.stop()

    asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - the far side does it in its own time
        await asyncio.sleep(0.01)


async def here(mesh: Mesh, skill: str = "do") -> None:
    await until(lambda: bool(mesh.broker.directory.offers(skill)))


def task(state: str, *parts: Any, said: dict[str, Any] | None = None) -> dict[str, Any]:
    status: dict[str, Any] = {"state": f"TASK_STATE_{state}"}
    if said is not None:
        status["message"] = said
    return {"id": "t-7", "status": status, "artifacts": [{"artifactId": "a", "parts": list(parts)}] if parts else []}


def test_a_task_that_is_done_at_once() -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        agent.results["SendMessage"] = {"result": {"task": task("COMPLETED", {"data": {"n": 1.0}})}}
        await here(mesh)
        assert await mesh.call("do", b'{"a": 1}', agent="far") == b'{"n":1}'
        (said,) = agent.asked
        message = said["params"]["message"]
        assert said["params"]["tenant"] == "t-1"
        assert (message["role"], message["parts"][0]["data"], message["metadata"]["skill"]) == (
            "ROLE_USER",
            {"a": 1},
            "do",
        )
        assert 0 < message["metadata"]["deadline_ms"] <= 60_000
        assert agent.tokens[0] == "Bearer secret"
        entry = mesh.broker.directory.get("far")
        assert entry is not None
        assert (entry.state, entry.via) == (State.ONLINE, "a2a")

    run(body, password="secret")


def test_a_task_without_a_stream_is_asked_for_until_it_ends() -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        agent.results["SendMessage"] = {"result": {"task": task("WORKING")}}
        agent.results["GetTask"] = [
            {"result": task("WORKING")},
            {"result": task("COMPLETED", {"text": "one"}, {"text": "two"})},
        ]
        await here(mesh)
        answer = json.loads(await mesh.call("do", b"{}", agent="far"))
        assert answer == {"parts": [{"text": "one"}, {"text": "two"}]}
        assert agent.methods() == ["SendMessage", "GetTask", "GetTask"]

    run(body)


def test_a_stream_that_breaks_is_asked_for_and_the_message_is_not_sent_again() -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        agent.events = [{"task": task("WORKING")}]
        agent.results["GetTask"] = {"result": task("COMPLETED", {"text": "late"})}
        await here(mesh)
        assert await mesh.call("do", b"{}", agent="far") == b"late"
        assert agent.methods() == ["SendStreamingMessage", "GetTask"]

    run(body, lambda agent: agent.card["capabilities"].update(streaming=True))


def test_pieces_are_parts_and_the_last_is_the_answer() -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        pieces = [{"artifactUpdate": {"artifact": {"artifactId": "a", "parts": [{"text": text}]}}} for text in "xyz"]
        done = {"statusUpdate": {"taskId": "t-7", "status": {"state": "TASK_STATE_COMPLETED"}}}
        agent.events = [{"task": task("SUBMITTED")}, *pieces, done]
        await here(mesh)
        told: list[bytes] = []
        assert await mesh.call("do", b"{}", agent="far", on_part=told.append) == b"z"
        assert told == [b"x", b"y"]

    run(body, lambda agent: agent.card["capabilities"].update(streaming=True))


@pytest.mark.parametrize(
    ("result", "reason", "text"),
    [
        ({"result": {"task": task("FAILED", said={"parts": [{"text": "no steam"}]})}}, Reason.FAILED, "no steam"),
        (
            {
                "result": {
                    "task": task("REJECTED", said={"parts": [{"text": "q"}], "metadata": {"reason": "quota-exceeded"}})
                }
            },
            Reason.QUOTA_EXCEEDED,
            "q",
        ),
        ({"result": {"task": task("CANCELED")}}, Reason.CANCELLED, "TASK_STATE_CANCELED"),
        (
            {"result": {"task": task("INPUT_REQUIRED", said={"parts": [{"text": "which?"}]})}},
            Reason.FAILED,
            "cannot answer: which",
        ),
        ({"error": {"code": -32602, "message": "bad skill"}}, Reason.ARGUMENTS_INVALID, "-32602 bad skill"),
        ({"result": {}}, Reason.FAILED, "neither a message nor a task"),
        ({"nothing": 1}, Reason.FAILED, "without a result"),
        ({"result": {"task": task("COMPLETED", {"raw": "?"})}}, Reason.FAILED, "base64"),
    ],
)
def test_every_no_is_told(result: dict[str, Any], reason: Reason, text: str) -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        agent.results["SendMessage"] = result
        agent.results["CancelTask"] = {"result": {}}
        await here(mesh)
        with pytest.raises(RefusedError, match=text) as refused:
            await mesh.call("do", b"{}", agent="far")
        assert refused.value.refusal.reason is reason

    run(body)


def test_a_bare_message_is_an_answer() -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        agent.results["SendMessage"] = {"result": {"message": {"role": "ROLE_AGENT", "parts": [{"text": "hi"}]}}}
        await here(mesh)
        assert await mesh.call("do", b"{}", agent="far") == b"hi"

    run(body)


def test_an_agent_that_goes_and_comes_back() -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        agent.results["SendMessage"] = {"result": {"task": task("COMPLETED", {"text": "back"})}}
        await here(mesh)
        await agent.stop()
        with pytest.raises(RefusedError):
            await mesh.call("do", b"{}", agent="far", deadline_ms=300)
        await until(lambda: not mesh.broker.directory.offers("do"))
        agent.card["skills"].append({"id": "more", "name": "more", "description": "x", "tags": ["t"]})
        await agent.start()
        await here(mesh, "more")
        assert await mesh.call("do", b"{}", agent="far") == b"back"

    run(body)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda agent: agent.card.update(supportedInterfaces=[]), "no interface"),
        (lambda agent: agent.card.update(name=""), "of no use"),
        (lambda agent: agent.card.update(description="x" * 300_000), "bytes"),
        (lambda agent: agent.card["supportedInterfaces"][0].update(url="http://elsewhere.example/rpc"), "nowhere else"),
    ],
)
def test_a_card_that_is_of_no_use_is_said_to_be(spoil: Callable[[Agent], object], why: str) -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        assert mesh._links_report is not None
        await until(lambda: why in str(mesh._links_report()[0]["error"]))  # type: ignore[misc]
        assert not mesh.broker.directory.offers("do")

    run(body, spoil, password="secret")


def test_a_skill_of_no_use_costs_no_other() -> None:
    async def body(mesh: Mesh, agent: Agent) -> None:
        await here(mesh)
        assert len(mesh.broker.directory.offers("do")) == 1

    run(body, lambda agent: agent.card["skills"].insert(0, {"id": "", "name": "nameless"}))


def test_a_card_that_changes_is_seen_and_one_that_does_not_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a2a, "REFRESH_S", 0.01)

    async def body(mesh: Mesh, agent: Agent) -> None:
        await here(mesh)
        await until(lambda: agent.unchanged > 2)
        agent.card["skills"] = [{"id": "other", "name": "other", "description": "x", "tags": ["t"]}]
        await here(mesh, "other")
        assert not mesh.broker.directory.offers("do")
        agent.card["supportedInterfaces"] = []
        await until(lambda: not mesh.broker.directory.offers("other"))

    run(body)


def test_a_link_to_an_agent_carries_no_messages() -> None:
    with pytest.raises(ValueError, match="no pull or push"):
        LinkSettings(name="x", kind="a2a", address="http://h/", pull=(RouteSettings("a"),))
    with pytest.raises(ValueError, match="begins with"):
        LinkSettings(name="x", kind="a2a", address="mqtt://h/")


def test_mesh_to_mesh_and_no_further() -> None:
    """A skill goes over one link, with its schema; what came over a link is not offered over the next."""

    async def main() -> None:
        async with asyncio.timeout(20), Mesh(Config(data=":memory:", listen=HTTP)) as far:
            schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

            async def twice(arguments: bytes) -> bytes:
                return json.dumps({"n": json.loads(arguments)["n"] * 2}).encode()

            serving = far.serve(Skill("double", "doubles", schema), twice, agent="calculator")

            async def badly(arguments: bytes) -> bytes:
                raise RefusedError(Refusal(Reason.QUOTA_EXCEEDED, "no more today"))

            def count(call: Asked) -> bool:
                for part in (b'{"done": 1}', b"two"):
                    far.broker.calls.answer(serving, call.id, part, partial=True)
                far.broker.calls.answer(serving, call.id, b"three")
                return True

            far.broker.directory.offer(serving, "calculator", Skill("count"), count, None)
            far.serve("spend", badly, agent="calculator")
            far.broker.directory.register(
                serving.principal, "calculator", _card_with("double", schema), lease_ms=None, via="embedded"
            )
            near_link = LinkSettings(
                name="near", kind="a2a", address=f"http://{far.addresses['http']}/a2a/calculator", retry_s_max=0.1
            )
            async with Mesh(Config(data=":memory:", listen=HTTP, links=(near_link,))) as near:
                await here(near, "double")
                assert json.loads(await near.call("double", b'{"n": 21}')) == {"n": 42}
                (offer,) = near.broker.directory.offers("double")
                assert offer.skill.input_schema == schema
                assert LINKED in offer.skill.tags
                told: list[bytes] = []
                assert await near.call("count", b"{}", agent="near", on_part=told.append) == b"three"
                assert told == [b'{"done":1}', b"two"]
                with pytest.raises(RefusedError, match="no more today") as refused:
                    await near.call("spend", b"{}", agent="near")
                assert refused.value.refusal.reason is Reason.QUOTA_EXCEEDED
                last = LinkSettings(
                    name="last", kind="a2a", address=f"http://{near.addresses['http']}/a2a/near", retry_s_max=0.1
                )
                async with Mesh(Config(data=":memory:", listen=NOWHERE, links=(last,))) as third:
                    await until(lambda: third.broker.directory.get("last") is not None)
                    assert not third.broker.directory.offers("double")

    asyncio.run(main())


def _card_with(skill: str, schema: dict[str, Any]) -> Any:
    from dragoman.routing.cards import Card

    return Card("calculator", "Calculator", skills=(Skill(skill, "doubles", schema),))

"""Agents, rooms and calls over HTTP, with HTTP on both sides."""

from __future__ import annotations

import asyncio

import pytest

from dragoman.adapters.http.calls import AskStream
from dragoman.adapters.http.session import StreamSession
from dragoman.adapters.http.settings import HttpSettings
from dragoman.adapters.http.streams import present
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.principal import Principal
from dragoman.routing.cards import Skill
from dragoman.routing.refusals import Refusal
from tests.http.http_mesh import Events, HttpMesh, eventually, http_mesh

CARD = {"name": "Summariser", "skills": [{"name": "summarise", "tags": ["text"]}]}


async def register(mesh: HttpMesh, agent: str = "writer", token: str = "alice", **more: object) -> int:
    status, answer, _ = await mesh.ask("PUT", f"/v1/agents/{agent}", token=token, json={"card": CARD, **more})
    assert status == 200, answer
    return answer["revision"]


def test_a_card_is_registered_found_renewed_limited_and_taken_away():
    async def main():
        async with http_mesh() as mesh:
            await register(mesh, "a%2Fb%20%C3%BC", lease_ms=60_000)
            status, agent, _ = await mesh.ask("GET", "/v1/agents/a%2Fb%20%C3%BC")
            assert (status, agent["agent"], agent["state"]) == (200, "a/b ü", "asleep")
            assert agent["card"]["skills"][0]["name"] == "summarise"
            for query, found in ((("skill", "summarise"), 1), (("tag", "TEXT"), 1), (("text", "nothing"), 0)):
                _, answer, _ = await mesh.ask("GET", "/v1/agents", params=dict([query]))
                assert len(answer["agents"]) == found, query
            for path, order in (("renew", {"lease_ms": 5_000}), ("limit", {"work_limit": 0})):
                method = "POST" if path == "renew" else "PUT"
                status, _, _ = await mesh.ask(method, f"/v1/agents/a%2Fb%20%C3%BC/{path}", token="alice", json=order)
                assert status == 200
                status, problem, _ = await mesh.ask(
                    method, f"/v1/agents/a%2Fb%20%C3%BC/{path}", token="bob", json=order
                )
                assert (status, problem["type"]) == (403, "agent-taken")
            status, problem, _ = await mesh.ask("PUT", "/v1/agents/a%2Fb%20%C3%BC", token="bob", json={"card": CARD})
            assert (status, problem["type"]) == (403, "agent-taken")
            assert (await mesh.ask("DELETE", "/v1/agents/a%2Fb%20%C3%BC", token="alice"))[0] == 204
            status, problem, _ = await mesh.ask("GET", "/v1/agents/nobody")
            assert (status, problem["type"]) == (404, "unknown-agent")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "arguments-invalid"),
        (b"[]", "arguments-invalid"),
        (b'{"card": {}, "leese_ms": 1}', "arguments-invalid"),
        (b'{"card": {"name": "x"}, "lease_ms": 0}', "arguments-invalid"),
        (b'{"card": {"name": 7}}', "card-invalid"),
        (b'{"card": "\xff"}', "arguments-invalid"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(body, kind):
    async def main():
        async with http_mesh() as mesh:
            status, problem, _ = await mesh.ask("PUT", "/v1/agents/x", data=body)
            assert (status, problem["type"]) == (400, kind), problem
            assert mesh.broker.directory.get("x") is None

    asyncio.run(main())


def test_a_watch_tells_every_change_after_a_revision():
    async def main():
        async with http_mesh() as mesh:
            first = await register(mesh, "one")
            await register(mesh, "two")
            async with mesh.events(f"/v1/agents?watch=true&revision={first}") as events:
                event = await events.next()
                assert event.kind == "change"
                assert event.data["agent"] == "two"
                assert int(event.id) == event.data["revision"] > first
                while event.data["revision"] < mesh.broker.directory.revision:
                    event = await events.next()
                await mesh.ask("DELETE", "/v1/agents/two", token="alice")
                event = await events.next()
                assert event.data["agent"] == "two"
                last = event.id
            async with mesh.events("/v1/agents?watch=true", headers={"Last-Event-ID": last}) as events:
                await register(mesh, "three")
                seen = (await events.next()).data
                while seen["agent"] == "two":
                    seen = (await events.next()).data
                assert seen["agent"] == "three"
            async with mesh.events("/v1/agents?watch=true&revision=999999") as events:
                assert (await events.next()).kind == "gap"

    asyncio.run(main())


def test_a_watch_does_not_show_whom_one_may_not_see():
    async def main():
        hidden = RuleSettings(effect="deny", who=("bob",), actions=("read",), filters=("$mesh/v1/agents/secret",))
        async with http_mesh(gate=GateSettings(rules=(hidden,))) as mesh:
            headers = {"Authorization": "Bearer bob"}
            async with mesh.events("/v1/agents?watch=true", headers=headers) as events:
                await register(mesh, "secret")
                await register(mesh, "open")
                assert (await events.next()).data["agent"] == "open"
            status, problem, _ = await mesh.ask("GET", "/v1/agents/secret", token="bob")
            assert (status, problem["type"]) == (404, "unknown-agent")

    asyncio.run(main())


def test_rooms_open_renew_invite_and_close():
    async def main():
        async with http_mesh() as mesh:
            order = {"title": "Plan", "invited": ["bobby"], "lease_ms": 60_000}
            status, room, head = await mesh.ask("POST", "/v1/rooms", token="alice", json=order)
            assert status == 201, room
            assert room["name"].startswith("room/")
            where = head["location"]
            for path, order in (("/renew", {"lease_ms": 90_000}), ("/invite", {"agents": ["carol"]})):
                status, room, _ = await mesh.ask("POST", where + path, token="alice", json=order)
                assert status == 200, room
            assert room["invited"] == ["bobby", "carol"]
            assert (await mesh.ask("POST", f"/v1/channels/{room['name']}", token="alice", data="hi"))[0] == 201
            assert (await mesh.ask("POST", f"/v1/channels/{room['name']}", token="bob", data="hi"))[0] == 403
            assert (await mesh.ask("GET", where, token="bob"))[0] == 404
            assert (await mesh.ask("DELETE", where, token="bob"))[0] == 403
            assert (await mesh.ask("DELETE", where, token="alice"))[0] == 204
            assert (await mesh.ask("GET", where, token="alice"))[0] == 404

    asyncio.run(main())


def test_the_members_of_a_channel():
    async def main():
        async with http_mesh() as mesh:
            headers = {"Authorization": "Bearer alice", "Mesh-Agent": "desk"}
            async with mesh.events("/v1/channels/c", headers=headers):
                _, answer, _ = await mesh.ask("GET", "/v1/members?channel=c")
                assert [m["agent"] for m in answer["members"]] == ["desk"]

    asyncio.run(main())


# -- calls -------------------------------------------------------------------------------------------


def test_a_call_is_asked_on_a_held_stream_and_answered_with_a_post():
    async def main():
        async with http_mesh() as mesh:
            await register(mesh)
            headers = {"Authorization": "Bearer alice"}
            async with mesh.events("/v1/agents/writer/asks?skill=summarise", headers=headers) as asks:
                await eventually(lambda: mesh.broker.directory.offers("summarise") != [])
                assert mesh.broker.directory.get("writer").state == "online"
                order = {"skill": "summarise", "arguments": {"text": "long"}}
                calling = asyncio.ensure_future(mesh.ask("POST", "/v1/calls", json=order, token="bob"))
                ask = await asks.next()
                assert (ask.kind, ask.data["skill"], ask.data["arguments"]) == ("ask", "summarise", {"text": "long"})
                answer = f"/v1/calls/{ask.data['call']}/answer"
                status, problem, _ = await mesh.ask("POST", answer, token="bob", json={"x": 1})
                assert (status, problem["type"]) == (403, "not-authorized")
                assert (await mesh.ask("POST", answer + "?partial=true", token="alice", json={"so": "far"}))[0] == 204
                assert (await mesh.ask("POST", answer, token="alice", json={"short": True}))[0] == 204
                status, call, head = await calling
                assert (status, call["state"], call["result"]) == (200, "done", {"short": True})
                assert [e["part"] for e in call["events"] if e["kind"] == "part"] == [{"so": "far"}]
                assert head["location"] == f"/v1/calls/{call['id']}"
                status, problem, _ = await mesh.ask("POST", answer, token="alice", json={"short": True})
                assert (status, problem["type"]) == (409, "conflict")
                _, again, _ = await mesh.ask("GET", head["location"], token="bob")
                assert again["result"] == {"short": True}
                stranger = await mesh.ask("GET", head["location"], token=None)
                assert stranger[0] == 404

    asyncio.run(main())


def test_a_call_that_takes_longer_goes_on_under_its_url():
    async def main():
        async with http_mesh() as mesh:
            await register(mesh)
            headers = {"Authorization": "Bearer alice"}
            async with mesh.events("/v1/agents/writer/asks?skill=summarise", headers=headers) as asks:
                await eventually(lambda: mesh.broker.directory.offers("summarise") != [])
                order = {"agent": "writer", "skill": "summarise"}
                for prefer in ("respond-async", "wait=0"):
                    status, call, head = await mesh.ask("POST", "/v1/calls", json=order, headers={"Prefer": prefer})
                    assert (status, call["state"]) == (202, "working")
                    ask = await asks.next()
                    waiting = asyncio.ensure_future(mesh.ask("GET", head["location"] + "?wait_ms=5000"))
                    answer = f"/v1/calls/{ask.data['call']}/answer"
                    sent = await mesh.ask(
                        "POST", answer, token="alice", data=b"\xff\x00", headers={"Content-Type": "x/y"}
                    )
                    assert sent[0] == 204
                    status, call, _ = await waiting
                    assert (call["state"], call["payload_base64"], call["content_type"]) == ("done", "/wA=", "x/y")
                status, call, head = await mesh.ask("POST", "/v1/calls", json=order, headers={"Prefer": "wait=0"})
                ask = await asks.next()
                assert (await mesh.ask("DELETE", head["location"]))[0] == 204
                cancel = await asks.next()
                assert (cancel.kind, cancel.data) == ("cancel", {"call": call["id"]})
                status, problem, _ = await mesh.ask("POST", f"/v1/calls/{call['id']}/answer", token="alice", json=1)
                assert (status, problem["type"]) == (409, "cancelled")

    asyncio.run(main())


def test_a_call_is_streamed_to_its_end():
    async def main():
        async with http_mesh() as mesh:
            await register(mesh)
            headers = {"Authorization": "Bearer alice"}
            async with mesh.events("/v1/agents/writer/asks?skill=summarise", headers=headers) as asks:
                await eventually(lambda: mesh.broker.directory.offers("summarise") != [])
                accept = {"Accept": "text/event-stream"}
                async with mesh.http.post(
                    mesh.url + "/v1/calls", json={"skill": "summarise"}, headers=accept
                ) as answer:
                    events = Events(answer)
                    assert answer.headers["Location"].startswith("/v1/calls/")
                    ask = await asks.next()
                    where = f"/v1/calls/{ask.data['call']}"
                    await mesh.ask("POST", f"{where}/answer?partial=true", token="alice", json=1)
                    while (event := await events.next()).kind == "state":
                        pass
                    assert (event.kind, event.data["part"]) == ("part", 1)
                    part = event.id
                    await mesh.ask("POST", f"{where}/answer?error=broke", token="alice")
                    final = await events.next()
                    assert (final.kind, final.data["state"], final.data["problem"]["detail"]) == (
                        "final",
                        "failed",
                        "broke",
                    )
                async with mesh.events(where, headers={"Last-Event-ID": part}) as events:
                    assert (await events.next()).kind == "final"

    asyncio.run(main())


def test_calls_that_nobody_can_answer_and_deadlines():
    async def main():
        async with http_mesh() as mesh:
            status, problem, _ = await mesh.ask("POST", "/v1/calls", json={"skill": "dance"})
            assert (status, problem["type"]) == (404, "unknown-skill")
            status, problem, _ = await mesh.ask("POST", "/v1/calls", json={"skill": "dance", "agent": "nobody"})
            assert (status, problem["type"]) == (404, "unknown-agent")
            status, problem, _ = await mesh.ask("POST", "/v1/calls", json={"skill": "x", "deadline_ms": 0})
            assert (status, problem["type"]) == (400, "arguments-invalid")
            status, problem, _ = await mesh.ask("GET", "/v1/calls/none")
            assert (status, problem["type"]) == (404, "unknown-call")
            await register(mesh)
            order = {"skill": "summarise", "deadline_ms": 30}
            status, problem, head = await mesh.ask("POST", "/v1/calls", json=order)
            assert (status, problem["type"]) == (504, "deadline-passed")
            _, call, _ = await mesh.ask("GET", head["location"])
            assert call["state"] == "expired"

    asyncio.run(main())


def test_a_caller_that_leaves_without_a_key_cancels_and_the_server_is_told():
    async def main():
        async with http_mesh() as mesh:
            await register(mesh)
            headers = {"Authorization": "Bearer alice"}
            async with mesh.events("/v1/agents/writer/asks?skill=summarise", headers=headers) as asks:
                await eventually(lambda: mesh.broker.directory.offers("summarise") != [])
                for key, told in ((None, True), ("k", False)):
                    sent = {} if key is None else {"Idempotency-Key": key}
                    calling = asyncio.ensure_future(
                        mesh.ask("POST", "/v1/calls", json={"skill": "summarise"}, headers=sent)
                    )
                    ask = await asks.next()
                    calling.cancel()
                    await asyncio.gather(calling, return_exceptions=True)
                    if told:
                        cancel = await asks.next()
                        assert cancel.data == {"call": ask.data["call"]}
                    else:
                        await eventually(lambda: mesh.surface.broker.metrics.sessions == 1)
                        status, call, _ = await mesh.ask(
                            "POST", "/v1/calls", json={"skill": "summarise"}, headers={**sent, "Prefer": "wait=0"}
                        )
                        assert (status, call["id"]) == (202, ask.data["call"])

    asyncio.run(main())


def test_only_so_many_asks_wait_for_a_server_that_does_not_read():
    async def main():
        settings = HttpSettings(stream_max_messages=2, stall_max_ms=5_000)
        async with http_mesh(settings) as mesh:
            await register(mesh)
            session = StreamSession(mesh.broker, Principal("alice"), "writer", settings)
            stream = AskStream(session, 2, 1 << 20)
            with mesh.surface.streaming(session), present(mesh.broker, session):
                offered = mesh.broker.directory.offer(session, "writer", Skill("summarise"), stream.ask)
                assert not isinstance(offered, Refusal)
                headers = {"Prefer": "wait=0"}
                calls = [
                    await mesh.ask("POST", "/v1/calls", json={"skill": "summarise"}, headers=headers) for _ in "123"
                ]
                assert [call["state"] for _, call, _ in calls] == ["working", "working", "waiting"]
                assert stream.take().count(b"event: ask") == 2

    asyncio.run(main())


def test_a_stream_that_breaks_fails_what_it_was_asked():
    async def main():
        async with http_mesh() as mesh:
            await register(mesh)
            headers = {"Authorization": "Bearer alice"}
            async with mesh.events("/v1/agents/writer/asks?skill=summarise", headers=headers) as asks:
                await eventually(lambda: mesh.broker.directory.offers("summarise") != [])
                calling = asyncio.ensure_future(mesh.ask("POST", "/v1/calls", json={"skill": "summarise"}))
                await asks.next()
            status, problem, _ = await calling
            assert (status, problem["type"]) == (503, "agent-unreachable")
            status, problem, _ = await mesh.ask("GET", "/v1/agents/writer/asks?skill=x", token="bob")
            assert (status, problem["type"]) == (403, "agent-taken")
            status, problem, _ = await mesh.ask("GET", "/v1/agents/writer/asks", token="alice")
            assert (status, problem["type"]) == (400, "arguments-invalid")

    asyncio.run(main())

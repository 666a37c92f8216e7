"""The mesh's own agent: publish, read, watch and find, as whoever asks."""

from __future__ import annotations

from typing import Any

import pytest
from a2a_mesh import A2aMesh, Server, message, next_event, run

from dragoman.adapters.a2a.session import A2aSession
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.principal import ANONYMOUS
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.message import Message

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FACTS: dict[str, Any] = {
    "content_type": "application/x-thing",
    "reply_to": "answers",
    "cause": "1-0",
    "key": "k",
    "correlation_base64": "AP8=",
    "headers": [{"name": "a", "value": "1"}, {"name": "a", "value_base64": "AP8="}, {"name": "b"}],
}


async def use(mesh: A2aMesh, skill: str, metadata: Any = None, /, **arguments: Any) -> dict[str, Any]:
    task = await mesh.send("mesh", {"data": {"skill": skill, "arguments": arguments}}, metadata=metadata)
    assert task["status"]["state"] == "TASK_STATE_COMPLETED", task
    data = task["artifacts"][-1]["parts"][0]["data"]
    assert isinstance(data, dict)
    return data


def test_every_fact_of_a_message_crosses() -> None:
    async def body(mesh: A2aMesh) -> None:
        said = await use(mesh, "publish", channel="a", text="hi", retain=True, expires_s=600, **FACTS)
        read = await use(mesh, "read", channel="a")
        (found,) = read["messages"]
        assert said["id"] == found["id"] == read["retained"]["id"]
        assert {word: found[word] for word in FACTS} == FACTS
        assert (found["text"], found["retained"]) == ("hi", True)
        assert found["expires_ms"] > found["time_ms"] + 500_000
        await use(mesh, "publish", channel="a", base64="AP8=", durable=False)
        await use(mesh, "publish", channel="a", tombstone=True)
        newest = (await use(mesh, "read", channel="a", limit=2))["messages"]
        assert [m.get("base64") for m in newest] == ["AP8=", None]
        assert newest[1]["tombstone"] is True
        assert (await use(mesh, "read", channel="a", offset=0, limit=1))["next_offset"] == 1

    run(body)


def test_what_has_expired_is_not_read() -> None:
    async def body(mesh: A2aMesh) -> None:
        for said, expires_s in (("gone", 1e-9), ("here", 600)):
            await use(mesh, "publish", channel="a", text=said, expires_s=expires_s)
        for given in ({}, {"offset": 0}):
            read = await use(mesh, "read", channel="a", **given)
            assert ([m["text"] for m in read["messages"]], read["next_offset"]) == (["here"], 2)

    run(body)


def test_trace_context_passes_through() -> None:
    async def body(mesh: A2aMesh) -> None:
        await use(mesh, "publish", {"traceparent": TRACE}, channel="a", text="x")
        given = {"message": message({"data": {"skill": "publish", "arguments": {"channel": "a", "text": "y"}}})}
        await mesh.rpc("mesh", "SendMessage", given, traceparent=TRACE, tracestate="v=1")
        first, second = (await use(mesh, "read", channel="a"))["messages"]
        assert first["headers"] == [{"name": "traceparent", "value": TRACE}]
        assert second["headers"] == [*first["headers"], {"name": "tracestate", "value": "v=1"}]

    run(body)


@pytest.mark.parametrize(
    ("skill", "arguments", "reason"),
    [
        ("publish", {}, "arguments-invalid"),
        ("publish", {"channel": "a"}, "arguments-invalid"),
        ("publish", {"channel": "a", "text": "x", "base64": "eA=="}, "arguments-invalid"),
        ("publish", {"channel": "a", "base64": "?"}, "payload-invalid"),
        ("publish", {"channel": "a/+", "text": "x"}, "name-invalid"),
        ("publish", {"channel": "a", "text": "x", "shout": True}, "arguments-invalid"),
        ("publish", {"channel": "a", "text": "x", "headers": [{"value": "1"}]}, "arguments-invalid"),
        ("publish", {"channel": "a", "text": "x", "cause": "because"}, "arguments-invalid"),
        ("publish", {"channel": "secret/a", "text": "x"}, "not-authorized"),
        ("read", {"channel": "nowhere"}, "unknown-channel"),
        ("read", {"channel": "a", "limit": 0}, "arguments-invalid"),
        ("watch", {"channel": "a/#/b"}, "filter-invalid"),
        ("watch", {"channel": "secret/a"}, "not-authorized"),
        ("find", {"limit": "all"}, "arguments-invalid"),
    ],
)
def test_what_it_refuses(skill: str, arguments: dict[str, Any], reason: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        task = await mesh.send("mesh", {"data": {"skill": skill, "arguments": arguments}})
        assert task["status"]["state"] == "TASK_STATE_REJECTED", task
        assert task["status"]["message"]["metadata"] == {"reason": reason}

    run(body, GateSettings(rules=(RuleSettings(effect="deny", filters=("secret/#",)),)))


def test_find() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        mesh.add("t2")
        found = await use(mesh, "find", skill="echo", limit=1)
        assert (found["agents"][0]["agent"], found["more"]) == ("t1", True)
        assert (await use(mesh, "find", text="nobody")) == {"agents": [], "more": False}

    run(body)


def test_a_watch_tells_messages_until_it_is_cancelled() -> None:
    async def body(mesh: A2aMesh) -> None:
        said = {"message": message({"data": {"skill": "watch", "arguments": {"channel": "a/+"}}})}
        version = {"A2A-Version": "1.0"}
        async with mesh.http.post(f"{mesh.base}/mesh/message:stream", json=said, headers=version) as stream:
            task_id = (await next_event(stream.content))["task"]["id"]
            assert (await next_event(stream.content))["statusUpdate"]["status"]["state"] == "TASK_STATE_WORKING"
            for n in range(2):
                await use(mesh, "publish", channel=f"a/{n}", text=str(n))
                update = (await next_event(stream.content))["artifactUpdate"]
                assert (update["append"], update["lastChunk"]) == (False, True)
                told = update["artifact"]["parts"][0]["data"]
                assert (told["channel"], told["text"]) == (f"a/{n}", str(n))
            await mesh.rpc("mesh", "CancelTask", {"id": task_id})
            ended = (await next_event(stream.content))["statusUpdate"]["status"]["state"]
            assert (ended, await next_event(stream.content)) == ("TASK_STATE_CANCELED", None)
        shown = await mesh.rpc("mesh", "GetTask", {"id": task_id})
        assert len({artifact["artifactId"] for artifact in shown["artifacts"]}) == 2
        assert not mesh.desk.agent._running

    run(body)


def test_a_watch_ends_by_its_limit_and_its_time() -> None:
    async def body(mesh: A2aMesh) -> None:
        assert await use(mesh, "watch", channel="a", timeout_s=0.02) == {"received": 0}
        task = await mesh.send(
            "mesh", {"data": {"skill": "watch", "arguments": {"channel": "a", "limit": 1}}}, wait=False
        )
        await use(mesh, "publish", channel="a", text="x")
        done = await mesh.until("mesh", task["id"], "COMPLETED")
        assert [artifact["parts"][0]["data"].get("text") for artifact in done["artifacts"]] == ["x", None]
        assert done["artifacts"][-1]["parts"][0]["data"] == {"received": 1}
        late = {"data": {"skill": "watch", "arguments": {"channel": "a"}}}
        task = await mesh.send("mesh", late, metadata={"deadline_ms": 20})
        assert task["status"]["message"]["metadata"] == {"reason": "deadline-passed"}

    run(body)


def test_a_watch_that_is_slow_keeps_its_place() -> None:
    async def body(mesh: A2aMesh) -> None:
        watch = {"data": {"skill": "watch", "arguments": {"channel": "a", "limit": 20}}}
        task = await mesh.send("mesh", watch, wait=False)
        session = Server(mesh.broker, "")
        assert mesh.broker.attach(session) is None
        # All in one turn, many times what may wait for it.
        for n in range(20):
            assert isinstance(mesh.broker.publish(session, Message("a", str(n).encode(), wish=0)), int)
        done = await mesh.until("mesh", task["id"], "COMPLETED")
        told = [artifact["parts"][0]["data"] for artifact in done["artifacts"]]
        assert [message["text"] for message in told[:-1]] == [str(n) for n in range(20)]
        assert told[-1] == {"received": 20}
        mesh.broker.detach(session)

    run(body, watch_messages_max=2)


def test_what_waits_for_a_watch_is_bounded() -> None:
    feed: Any = None
    message_ = Message("a", b"x" * 100)
    by_count = A2aSession(ANONYMOUS, "", count_max=2, bytes_max=10_000)
    assert [by_count.deliver(feed, message_) for _ in range(3)] == [True, True, False]
    by_bytes = A2aSession(ANONYMOUS, "", count_max=10, bytes_max=200)
    # One always fits, or it could never go on.
    assert [by_bytes.deliver(feed, message_) for _ in range(2)] == [True, False]


def test_a_watch_that_is_resumed_counts_what_it_told_before() -> None:
    async def body(mesh: A2aMesh) -> None:
        watch = {"data": {"skill": "watch", "arguments": {"channel": "a", "limit": 10}}}
        task = await mesh.send("mesh", watch, wait=False)
        for n in range(8):
            await use(mesh, "publish", channel="a", text=str(n))
        # As after a restart: its own work has stopped, and is asked for again.
        agent, call = mesh.desk.agent, mesh.broker.calls._ledger.calls[task["id"]]
        await agent.stop()
        assert call.events[0].number > 2, "some were dropped"
        assert agent._ask(call)
        for n in range(8, 12):
            await use(mesh, "publish", channel="a", text=str(n))
        done = await mesh.until("mesh", task["id"], "COMPLETED")
        assert done["artifacts"][-1]["parts"][0]["data"] == {"received": 10}
        assert done["artifacts"][-2]["parts"][0]["data"]["text"] == "9"

    run(body, agents=AgentSettings(flap_ms=0, call_events_max=5))


def test_a_fault_of_ours_ends_the_task(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def body(mesh: A2aMesh) -> None:
        monkeypatch.setattr(mesh.broker, "last_of", None)
        task = await mesh.send("mesh", {"data": {"skill": "read", "arguments": {"channel": "a"}}})
        assert task["status"]["state"] == "TASK_STATE_FAILED"
        assert "NoneType" not in str(task), "what failed is for the log alone"

    run(body)
    assert [(record.message, record.exc_info is not None) for record in caplog.records] == [
        ("a skill of the mesh's own agent failed", True)
    ]


def test_watches_are_bounded() -> None:
    async def body(mesh: A2aMesh) -> None:
        watch = {"data": {"skill": "watch", "arguments": {"channel": "a"}}}
        await mesh.send("mesh", watch, wait=False)
        task = await mesh.send("mesh", watch)
        assert task["status"]["message"]["metadata"] == {"reason": "quota-exceeded"}

    run(body, watches_per_principal_max=1)

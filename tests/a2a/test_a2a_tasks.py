"""Tasks by JSON-RPC and HTTP+JSON: which skill, with what, what comes back, and whose they are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from a2a_mesh import ECHO, A2aMesh, HeldLog, a2a_mesh, message, next_event, run

from dragoman.adapters.a2a import tasks as a2a_tasks
from dragoman.adapters.a2a.settings import A2aSettings
from dragoman.adapters.a2a.tasks import Party
from dragoman.adapters.a2a.views import Found
from dragoman.adapters.a2a.wire import ListRequest, Message, Part, SendRequest
from dragoman.broker.call import Kind
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.cards import Skill
from dragoman.routing.refusals import Reason

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}


def answer_of(task: dict[str, Any]) -> dict[str, Any]:
    assert task["status"]["state"] == "TASK_STATE_COMPLETED", task
    ((part,),) = [artifact["parts"] for artifact in task["artifacts"]]
    assert isinstance(part, dict)
    return part


@pytest.mark.parametrize(
    ("part", "arguments", "content_type"),
    [
        ({"data": {"a": 1.0}}, b'{"a":1}', "application/json"),
        ({"text": '{"a": 1.50}'}, b'{"a": 1.50}', "application/json"),
        ({"text": "hello"}, b"hello", "text/plain"),
        ({"text": "# hi", "mediaType": "text/markdown"}, b"# hi", "text/markdown"),
        ({"text": "{no json"}, b"{no json", "text/plain"),
        ({"raw": "AP8=", "mediaType": "image/png"}, b"\x00\xff", "image/png"),
        ({"raw": "AP8"}, b"\x00\xff", "application/octet-stream"),
        ({"raw": "_-8="}, b"\xff\xef", "application/octet-stream"),
    ],
)
def test_a_part_becomes_arguments(part: dict[str, Any], arguments: bytes, content_type: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1")
        await mesh.send("t1", part)
        call = await server.next()
        assert (call.skill, call.arguments, call.content_type) == ("echo", arguments, content_type)

    run(body)


def test_text_for_a_skill_with_a_schema_is_its_argument_text() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", Skill("echo", input_schema=SCHEMA))
        await mesh.send("t1", "hello", "world")
        assert json.loads((await server.next()).arguments) == {"text": "hello\nworld"}

    run(body)


def test_which_skill() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", Skill("a"), Skill("b"))
        await mesh.send("t1", {"data": {"x": 1}}, metadata={"skill": "b"})
        assert (await server.next()).skill == "b"
        given = {"message": message("x"), "metadata": {"skill": "a"}}
        await mesh.rpc("t1", "SendMessage", given)
        assert (await server.next()).skill == "a"
        await mesh.send("t1", {"data": {"skill": "b", "arguments": {"y": 2}}})
        call = await server.next()
        assert (call.skill, call.arguments) == ("b", b'{"y":2}')
        # Named in the metadata, the data are the arguments, whatever they look like.
        await mesh.send("t1", {"data": {"skill": "x", "arguments": {}}}, metadata={"skill": "a"})
        assert json.loads((await server.next()).arguments) == {"skill": "x", "arguments": {}}
        for given in ("x", {"data": {"skill": "c"}}):
            error = await mesh.send("t1", given)
            assert error["code"] == -32602
            assert "a, b" in error["message"]
            assert error["data"][0]["fieldViolations"][0]["field"] == "message.metadata.skill"

    run(body)


@pytest.mark.parametrize(
    ("payload", "content_type", "part"),
    [
        (b'{"a":1}', None, {"data": {"a": 1}, "mediaType": "application/json"}),
        (b"[1]", "application/json", {"data": [1], "mediaType": "application/json"}),
        (b"null", "application/json", {"data": None, "mediaType": "application/json"}),
        (b"{x", "application/json", {"text": "{x", "mediaType": "application/json"}),
        (b"hi", None, {"text": "hi", "mediaType": "text/plain"}),
        (b"a;b", "text/csv", {"text": "a;b", "mediaType": "text/csv"}),
        (b"hi", "image/svg", {"raw": "aGk=", "mediaType": "image/svg"}),
        (b"\xff", None, {"raw": "/w==", "mediaType": "application/octet-stream"}),
        (b"", None, {"text": "", "mediaType": "text/plain"}),
        (b"[" * 200 + b"]" * 200, "application/json", {"text": "[" * 200 + "]" * 200, "mediaType": "application/json"}),
    ],
)
def test_an_answer_becomes_a_part(payload: bytes, content_type: str | None, part: dict[str, Any]) -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", echo=False)
        server.serve = lambda call: server.answer(call, payload, content_type)
        assert answer_of(await mesh.send("t1", "x")) == part

    run(body)


@pytest.mark.parametrize(
    ("reason", "state"),
    [(Reason.FAILED, "FAILED"), (Reason.ARGUMENTS_INVALID, "REJECTED"), (Reason.CANCELLED, "CANCELED")],
)
def test_a_refusal_ends_the_task(reason: Reason, state: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", echo=False)
        server.serve = lambda call: server.refuse(call, reason, "because")
        task = await mesh.send("t1", "x")
        assert task["status"]["state"] == f"TASK_STATE_{state}"
        said = task["status"]["message"]
        assert (said["role"], said["parts"], said["metadata"]) == (
            "ROLE_AGENT",
            [{"text": "because"}],
            {"reason": reason.value},
        )

    run(body)


def test_the_deadline_fails_the_task() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1", echo=False)
        task = await mesh.send("t1", "x", metadata={"deadline_ms": 20})
        assert task["status"]["state"] == "TASK_STATE_FAILED"
        assert task["status"]["message"]["metadata"] == {"reason": "deadline-passed"}

    run(body)


def test_a_sleeping_agents_task_waits_for_it() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", keeps=True)
        server.leave()
        task = await mesh.send("t1", "x", wait=False)
        assert task["status"]["state"] == "TASK_STATE_SUBMITTED"
        server.arrive(ECHO)
        done = await mesh.until("t1", task["id"], "COMPLETED")
        assert answer_of(done)["text"] == "x"

    run(body)


def test_a_task_outlives_the_connection_of_who_works_on_it() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", echo=False)
        task = await mesh.send("t1", "x", wait=False)
        assert (await server.next()).id == task["id"]
        server.leave()
        assert (await mesh.rpc("t1", "GetTask", {"id": task["id"]}))["status"]["state"] == "TASK_STATE_SUBMITTED"
        server.serve = server.echo
        server.arrive(ECHO)
        await mesh.until("t1", task["id"], "COMPLETED")

    run(body)


def test_an_end_is_told_when_it_is_safe() -> None:
    async def main() -> None:
        log = HeldLog()
        async with a2a_mesh(A2aSettings(), log=log) as mesh, asyncio.timeout(20):
            server = mesh.add("t1", echo=False)
            task = await mesh.send("t1", "x", wait=False)
            call = await server.next()
            log.holding = True
            server.answer(call, b"done")
            cancel = asyncio.create_task(mesh.rpc("t1", "CancelTask", {"id": task["id"]}))
            shown = await mesh.rpc("t1", "GetTask", {"id": task["id"]})
            assert shown["status"]["state"] == "TASK_STATE_WORKING"
            assert not cancel.done()
            log.let_go()
            await mesh.until("t1", task["id"], "COMPLETED")
            assert (await cancel)["data"][0]["reason"] == "TASK_NOT_CANCELABLE"

    asyncio.run(main())


def test_a_send_waits_no_longer_than_its_cap() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1", echo=False)
        task = await mesh.send("t1", "x")
        assert task["status"]["state"] == "TASK_STATE_WORKING"

    run(body, send_wait_max_s=0.02)


def test_the_same_message_id_is_the_same_task() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1")
        mesh.add("t2")
        given = {"message": message("x", contextId="c1")}
        first = (await mesh.rpc("t1", "SendMessage", given))["task"]
        again = (await mesh.rpc("t1", "SendMessage", given))["task"]
        assert (first["id"], first["contextId"]) == (again["id"], "c1")
        assert server.asked.qsize() == 1
        # The same id for another agent or from another principal is another task.
        assert (await mesh.rpc("t2", "SendMessage", given))["task"]["id"] != first["id"]
        other = await mesh.rpc("t1", "SendMessage", given, Authorization="Bearer good")
        assert other["task"]["id"] != first["id"]
        streamed = await mesh.rpc("t1", "SendStreamingMessage", given)
        assert [next(iter(item)) for item in streamed] == ["task", "statusUpdate", "artifactUpdate", "statusUpdate"]
        assert streamed[0]["task"]["id"] == first["id"]

    run(body)


def test_one_message_id_is_one_message() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("a", ECHO, Skill("other"))
        mesh.add("a:b")
        first = await mesh.send("a", "x", messageId="b:c", metadata={"skill": "echo"})
        # Agents and ids of clients hold any sign: no two pairs are taken for one.
        assert (await mesh.send("a:b", "x", messageId="c"))["id"] != first["id"]
        error = await mesh.send("a", "x", messageId="b:c", metadata={"skill": "other"})
        assert (error["code"], error["data"][0]["reason"]) == (-32602, "CONFLICT")

    run(body)


def test_no_send_is_answered_before_its_task_is_safe() -> None:
    async def main() -> None:
        log = HeldLog()
        async with a2a_mesh(A2aSettings(), log=log) as mesh, asyncio.timeout(20):
            server = mesh.add("t1")
            given = {"message": message("x"), "configuration": {"returnImmediately": True}}
            log.holding = True
            sends = [asyncio.create_task(mesh.rpc("t1", "SendMessage", given))]
            await server.next()
            sends.append(asyncio.create_task(mesh.rpc("t1", "SendMessage", given)))
            # One who clears up and two requests wait for the commit, unless one of those was answered already.
            while sum(len(waiting) for waiting in mesh.broker._waiters.values()) < 3:
                assert not any(send.done() for send in sends), "answered before the commit"
                await asyncio.sleep(0.001)
            log.let_go()
            first, again = [(await send)["task"]["id"] for send in sends]
            assert first == again
            assert not mesh.desk.tasks._unsafe

    asyncio.run(main())


def test_a_long_list_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a2a_tasks, "LOOKED_AT_PER_TURN_MAX", 2)

    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        ids = [(await mesh.send("t1", str(n)))["id"] for n in range(5)]
        tasks = mesh.desk.tasks
        party = Party(ANONYMOUS, "", "t1", "t1", (ECHO,), {})
        page = asyncio.create_task(tasks.page(party, ListRequest()))
        await asyncio.sleep(0)
        assert not page.done(), "it looked at more than its share in one turn"
        # What is forgotten between two turns is not shown.
        for gone in (ids[0], ids[4]):
            mesh.broker.calls._ledger.drop(mesh.broker.calls._ledger.calls[gone])
        shown = await page
        assert {task["id"] for task in shown["tasks"]} == set(ids[1:4])

    run(body)


def test_a_state_keeps_its_time() -> None:
    async def main() -> None:
        async with a2a_mesh(A2aSettings(), None, AgentSettings(flap_ms=0, call_events_max=2)) as mesh:
            server = mesh.add("t1", echo=False)
            task = await mesh.send("t1", "x", wait=False)
            call = await server.next()
            # As if it had been waited for: the time of the beginning is not that of the state.
            call.started_ms -= 60_000
            for _ in range(5):
                server.part(call, b"p")
            assert all(event.kind is Kind.PART for event in call.events), "the news of the state is dropped by now"
            shown = await mesh.rpc("t1", "GetTask", {"id": task["id"]})
            assert shown["status"] == task["status"]

    asyncio.run(main())


def test_history() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        task = await mesh.send("t1", "x")
        assert task["history"][0]["parts"] == [{"text": "x"}]
        assert (task["history"][0]["taskId"], task["history"][0]["contextId"]) == (task["id"], task["contextId"])
        assert "history" not in await mesh.rpc("t1", "GetTask", {"id": task["id"], "historyLength": 0})
        assert len((await mesh.rpc("t1", "GetTask", {"id": task["id"], "historyLength": 3}))["history"]) == 1
        none = {"message": message("x"), "configuration": {"historyLength": 0}}
        assert "history" not in (await mesh.rpc("t1", "SendMessage", none))["task"]
        large = await mesh.send("t1", "x" * 2000)
        assert "history" not in large

    run(body, message_kept_bytes_max=1000)


def test_cancel() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", echo=False)
        task = await mesh.send("t1", "x", wait=False)
        done = await mesh.rpc("t1", "CancelTask", {"id": task["id"]})
        assert done["status"]["state"] == "TASK_STATE_CANCELED"
        assert server.cancelled.get_nowait() == task["id"]
        error = await mesh.rpc("t1", "CancelTask", {"id": task["id"]})
        assert (error["code"], error["data"][0]["reason"]) == (-32002, "TASK_NOT_CANCELABLE")

    run(body)


def test_a_task_takes_no_further_message() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1", echo=False)
        task = await mesh.send("t1", "x", wait=False)
        assert (await mesh.send("t1", "y", taskId=task["id"]))["code"] == -32004
        assert (await mesh.send("t1", "y", taskId=task["id"], contextId="other"))["code"] == -32602
        assert (await mesh.send("t1", "y", taskId="none"))["code"] == -32001
        await mesh.rpc("t1", "CancelTask", {"id": task["id"]})
        assert (await mesh.send("t1", "y", taskId=task["id"], contextId=task["contextId"]))["code"] == -32004

    run(body)


def test_a_task_is_its_principals_alone() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1", echo=False)
        mesh.add("t2")
        given = {"message": message("x"), "configuration": {"returnImmediately": True}}
        task = (await mesh.rpc("t1", "SendMessage", given, Authorization="Bearer good"))["task"]
        params = {"id": task["id"]}
        absent = await mesh.rpc("t1", "GetTask", {"id": "x" * len(task["id"])}, Authorization="Bearer other")
        for method in ("GetTask", "CancelTask", "SubscribeToTask"):
            theirs = await mesh.rpc("t1", method, params, Authorization="Bearer other")
            assert theirs["code"] == -32001
            assert theirs["data"] == absent["data"]
            assert theirs["message"].replace(task["id"], "x" * len(task["id"])) == absent["message"]
            assert (await mesh.rpc("t2", method, params, Authorization="Bearer good"))["code"] == -32001
        # Who serves the call or runs the mesh may read it elsewhere; a task of A2A is its owner's alone.
        for token in ("plant", "admin"):
            assert (await mesh.rpc("t1", "GetTask", params, Authorization=f"Bearer {token}"))["code"] == -32001
        said = {"message": message("y", taskId=task["id"])}
        assert (await mesh.rpc("t1", "SendMessage", said, Authorization="Bearer other"))["code"] == -32001
        assert (await mesh.rpc("t1", "ListTasks", {}, Authorization="Bearer other"))["totalSize"] == 0
        assert (await mesh.rpc("t1", "ListTasks", {}, Authorization="Bearer good"))["totalSize"] == 1
        assert (await mesh.rpc("t2", "ListTasks", {}, Authorization="Bearer good"))["totalSize"] == 0

    run(body)


def test_list_pages_and_filters() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1")
        ids = [(await mesh.send("t1", str(n), contextId=f"c{n % 2}"))["id"] for n in range(5)]
        server.serve = None
        pending = await mesh.send("t1", "p", wait=False)
        seen: list[tuple[str, str]] = []
        token = ""
        while True:
            page = await mesh.rpc("t1", "ListTasks", {"pageSize": 2, "pageToken": token, "historyLength": 0})
            assert (page["totalSize"], page["pageSize"]) == (6, 2)
            assert all("artifacts" not in task and "history" not in task for task in page["tasks"])
            seen += [(task["status"]["timestamp"], task["id"]) for task in page["tasks"]]
            token = page["nextPageToken"]
            if not token:
                break
        # Several may be of one millisecond.
        assert seen == sorted(seen, reverse=True)
        assert sorted(task_id for _, task_id in seen) == sorted([pending["id"], *ids])
        found = await mesh.rpc("t1", "ListTasks", {"contextId": "c1", "includeArtifacts": True})
        texts = {task["id"]: task["artifacts"][0]["parts"][0]["text"] for task in found["tasks"]}
        assert texts == {ids[1]: "1", ids[3]: "3"}
        found = await mesh.rpc("t1", "ListTasks", {"status": "TASK_STATE_WORKING"})
        assert [task["id"] for task in found["tasks"]] == [pending["id"]]
        times = {task["id"]: task["status"]["timestamp"] for task in (await mesh.rpc("t1", "ListTasks"))["tasks"]}
        found = await mesh.rpc("t1", "ListTasks", {"statusTimestampAfter": times[ids[4]]})
        assert {pending["id"], ids[4]} <= {task["id"] for task in found["tasks"]}
        found = await mesh.rpc("t1", "ListTasks", {"statusTimestampAfter": "2999-01-01T00:00:00Z"})
        assert (found["tasks"], found["nextPageToken"]) == ([], "")

    run(body)


def test_rest_does_the_same() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1")
        status, headers, answer = await mesh.post("/t1/message:send", {"message": message("x")})
        assert (status, headers["Content-Type"]) == (200, "application/a2a+json")
        task_id = answer["task"]["id"]
        status, _, task = await mesh.post(f"/t1/tasks/{task_id}?historyLength=0", None, method="GET")
        assert (status, task["id"], "history" in task) == (200, task_id, False)
        status, _, page = await mesh.post("/t1/tasks?pageSize=1&includeArtifacts=true", None, method="GET")
        assert (status, page["tasks"][0]["artifacts"][0]["parts"][0]["text"]) == (200, "x")
        status, _, items = await mesh.post("/t1/message:stream", {"message": message("y")})
        assert [next(iter(item)) for item in items] == ["task", "statusUpdate", "artifactUpdate", "statusUpdate"]
        server.serve = None
        now = {"message": message("z"), "configuration": {"returnImmediately": True}}
        _, _, answer = await mesh.post("/t1/message:send", now, headers={"Accept": "application/json"})
        task_id = answer["task"]["id"]
        for method in ("GET", "POST"):
            async with mesh.http.request(
                method, f"{mesh.base}/t1/tasks/{task_id}:subscribe", headers={"A2A-Version": "1.0"}
            ) as stream:
                assert stream.headers["Cache-Control"] == "no-store"
                assert (await next_event(stream.content))["task"]["id"] == task_id
        status, _, task = await mesh.post(f"/t1/tasks/{task_id}:cancel", {"metadata": {"why": "x"}})
        assert (status, task["status"]["state"]) == (200, "TASK_STATE_CANCELED")
        status, _, error = await mesh.post(f"/t1/tasks/{task_id}:subscribe", None)
        assert (status, error["error"]["details"][0]["reason"]) == (400, "UNSUPPORTED_OPERATION")

    run(body)


def test_streams_are_many_and_one_leaves_without_the_others() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", echo=False)
        task = await mesh.send("t1", "x", wait=False)
        call = await server.next()
        server.part(call, b"one")
        url, version = f"{mesh.base}/t1/tasks/{task['id']}:subscribe", {"A2A-Version": "1.0"}
        async with mesh.http.post(url, headers=version) as stays:
            snapshot = (await next_event(stays.content))["task"]
            assert snapshot["artifacts"][0]["parts"][0]["text"] == "one"
            async with mesh.http.post(url, headers=version) as leaves:
                await next_event(leaves.content)
                leaves.close()
            server.part(call, b"two")
            update = (await next_event(stays.content))["artifactUpdate"]
            assert update["artifact"]["parts"][0]["text"] == "two"
            assert (update["append"], update["lastChunk"]) == (True, False)
            server.answer(call, b"three")
            assert (await next_event(stays.content))["artifactUpdate"]["lastChunk"] is True
            last = (await next_event(stays.content))["statusUpdate"]
            assert (last["taskId"], last["status"]["state"]) == (task["id"], "TASK_STATE_COMPLETED")
            assert await next_event(stays.content) is None
        done = await mesh.rpc("t1", "GetTask", {"id": task["id"]})
        assert [part["text"] for part in done["artifacts"][0]["parts"]] == ["one", "two", "three"]

    run(body)


def test_a_stream_has_ids_and_pings() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1", echo=False)
        body_ = {"message": message("x")}
        headers = {"A2A-Version": "1.0"}
        async with mesh.http.post(f"{mesh.base}/t1/message:stream", json=body_, headers=headers) as stream:
            assert await stream.content.readline() == b"id: 0\n"
            assert "task" in await next_event(stream.content)
            await stream.content.readline()
            assert await stream.content.readline() == b"id: 1\n"
            assert "statusUpdate" in await next_event(stream.content)
            await stream.content.readline()
            assert await asyncio.wait_for(stream.content.readline(), 5) == b":\n"

    run(body, keep_alive_s=0.02)


def test_a_slow_reader_is_told_what_it_missed() -> None:
    async def main() -> None:
        async with a2a_mesh(A2aSettings(), None, AgentSettings(flap_ms=0, call_events_max=3)) as mesh:
            server = mesh.add("t1", echo=False)
            task = await mesh.send("t1", "x", wait=False)
            call = await server.next()
            url = f"{mesh.base}/t1/tasks/{task['id']}:subscribe"
            async with mesh.http.post(url, headers={"A2A-Version": "1.0"}) as stream:
                await next_event(stream.content)
                for n in range(10):
                    server.part(call, str(n).encode())
                update = (await next_event(stream.content))["artifactUpdate"]
                assert update["metadata"] == {"missed": 7}
                assert update["artifact"]["parts"][0]["text"] == "7"

    asyncio.run(main())


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with a2a_mesh(A2aSettings(), None, AgentSettings(flap_ms=0, calls_kept_max=2)) as mesh:
            mesh.add("t1")
            ids = [(await mesh.send("t1", str(n)))["id"] for n in range(4)]
            assert (await mesh.rpc("t1", "ListTasks"))["totalSize"] == 2
            assert (await mesh.rpc("t1", "GetTask", {"id": ids[0]}))["code"] == -32001
            mesh.desk.notes.check()

    asyncio.run(main())


def test_a_task_keeps_the_name_its_requester_gave_it_over_a_restart_and_until_it_is_forgotten() -> None:
    async def start(mesh: A2aMesh, name: str) -> Found:
        party = mesh.desk.party(Principal("ann"), "", "t1", {})
        message = Message(message_id="m", role="ROLE_USER", parts=[Part(text="hi")], task_id=name)
        return await mesh.desk.tasks.start(party, SendRequest(message=message), named=True)

    async def main() -> None:
        log = MemoryLog()
        async with a2a_mesh(A2aSettings(), None, AgentSettings(flap_ms=0, calls_kept_max=2), log) as mesh:
            mesh.add("t1")
            first, second = await start(mesh, "first"), await start(mesh, "second")
            assert first.id == "first"
            assert first.call is not second.call
            assert (await start(mesh, "first")).call is first.call
        again = MemoryLog()
        again.__dict__.update({k: v for k, v in log.__dict__.items() if k not in ("_loop", "_on_commit", "_closed")})
        async with a2a_mesh(A2aSettings(), None, AgentSettings(flap_ms=0, calls_kept_max=2), again) as mesh:
            mesh.add("t1")
            assert (await start(mesh, "first")).call.id == first.call.id
            for name in ("third", "fourth", "fifth"):
                await start(mesh, name)
            mesh.desk.notes.check()

    asyncio.run(main())

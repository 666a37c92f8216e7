"""What is wrong, by each method and both bindings: the error says what, with its code, status and details."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from a2a_mesh import A2aMesh, message, run

from dragoman.broker.gate_settings import GateSettings, RuleSettings


def said(**more: Any) -> dict[str, Any]:
    return {"message": {**message("x"), **more}}


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("SendMessage", {}, "params"),
        ("SendMessage", {"message": 5}, "message"),
        ("SendMessage", {"message": {"role": "ROLE_USER", "parts": [{"text": "x"}]}}, "message"),
        ("SendMessage", said(messageId=""), "message.messageId"),
        ("SendMessage", said(messageId="x" * 300), "message.messageId"),
        ("SendMessage", said(contextId="a\x00b"), "message.contextId"),
        ("SendMessage", said(role="user"), "message.role"),
        ("SendMessage", said(role="ROLE_AGENT"), "message.role"),
        ("SendMessage", said(parts=[]), "message.parts"),
        ("SendMessage", said(parts=[{"text": "x"}] * 65), "message.parts"),
        ("SendMessage", said(parts=[{}]), "message.parts[0]"),
        ("SendMessage", said(parts=[{"text": "x", "raw": ""}]), "message.parts[0]"),
        ("SendMessage", said(parts=[{"text": 5}]), "message.parts[0].text"),
        ("SendMessage", said(parts=[{"raw": "?"}]), "message.parts[0].raw"),
        ("SendMessage", said(parts=[{"data": [1]}]), "message.parts[0]"),
        ("SendMessage", said(parts=[{"data": None}]), "message.parts[0]"),
        ("SendMessage", said(metadata={"skill": 5}), "message.metadata.skill"),
        ("SendMessage", said(metadata={"deadline_ms": 0}), "message.metadata.deadline_ms"),
        ("SendMessage", said(metadata={"deadline_ms": True}), "message.metadata.deadline_ms"),
        ("SendMessage", said(metadata={"x": "y" * 20_000}), "message.metadata"),
        ("SendMessage", {**said(), "configuration": {"historyLength": -1}}, "historyLength"),
        ("SendMessage", {**said(), "configuration": {"historyLength": "many"}}, "configuration.historyLength"),
        ("SendStreamingMessage", said(role="user"), "message.role"),
        ("GetTask", {}, "params"),
        ("GetTask", {"id": 5}, "id"),
        ("GetTask", {"id": "x", "historyLength": -1}, "historyLength"),
        ("ListTasks", {"pageSize": 0}, "pageSize"),
        ("ListTasks", {"pageSize": 101}, "pageSize"),
        ("ListTasks", {"pageToken": "?"}, "pageToken"),
        ("ListTasks", {"pageToken": "eA"}, "pageToken"),
        ("ListTasks", {"status": "done"}, "status"),
        ("ListTasks", {"statusTimestampAfter": "yesterday"}, "statusTimestampAfter"),
        ("ListTasks", {"historyLength": -1}, "historyLength"),
        ("CancelTask", {}, "params"),
        ("SubscribeToTask", {"id": []}, "id"),
        ("GetTask", {"id": "x", "tenant": "t2"}, "tenant"),
        ("GetTask", {"id": "x", "tenant": 5}, "tenant"),
    ],
)
def test_parameters_that_do_not_fit(method: str, params: dict[str, Any], field: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        error = await mesh.rpc("t1", method, params)
        assert error["code"] == -32602, error
        assert error["data"][0]["@type"] == "type.googleapis.com/google.rpc.BadRequest"
        assert error["data"][0]["fieldViolations"][0]["field"] == field

    run(body)


@pytest.mark.parametrize(
    ("method", "params", "code", "reason"),
    [
        ("GetTask", {"id": "none"}, -32001, "TASK_NOT_FOUND"),
        ("CancelTask", {"id": "none"}, -32001, "TASK_NOT_FOUND"),
        ("SubscribeToTask", {"id": "none"}, -32001, "TASK_NOT_FOUND"),
        ("CreateTaskPushNotificationConfig", {}, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("GetTaskPushNotificationConfig", {}, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("ListTaskPushNotificationConfigs", {}, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("DeleteTaskPushNotificationConfig", {}, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        (
            "SendMessage",
            {**said(), "configuration": {"taskPushNotificationConfig": {"url": "http://x"}}},
            -32003,
            "PUSH_NOTIFICATION_NOT_SUPPORTED",
        ),
        ("GetExtendedAgentCard", {}, -32004, "UNSUPPORTED_OPERATION"),
        ("SendMessage", said(parts=[{"url": "http://x"}]), -32005, "CONTENT_TYPE_NOT_SUPPORTED"),
        ("SendMessage", said(parts=[{"text": "x"}, {"raw": ""}]), -32005, "CONTENT_TYPE_NOT_SUPPORTED"),
    ],
)
def test_a2a_errors(method: str, params: dict[str, Any], code: int, reason: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        error = await mesh.rpc("t1", method, params)
        assert error["code"] == code, error
        about = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "a2a-protocol.org", "metadata": {}}
        assert error["data"] == [{**about, "reason": reason}]

    run(body)


@pytest.mark.parametrize(
    ("body", "code", "request_id"),
    [
        (b"{", -32700, None),
        (b"\xff", -32700, None),
        (b"[" * 100_000, -32700, None),
        (b"[]", -32600, None),
        (b"5", -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"GetTask"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":{},"method":"GetTask"}', -32600, None),
        (b'{"jsonrpc":"2.0","method":"GetTask"}', -32600, None),
        (b'{"jsonrpc":"1.0","id":1,"method":"GetTask"}', -32600, 1),
        (b'{"jsonrpc":"2.0","id":"a","method":5}', -32600, "a"),
        (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":[]}', -32602, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"Fly"}', -32601, 1),
    ],
)
def test_what_is_no_request(body: bytes, code: int, request_id: object) -> None:
    async def ask(mesh: A2aMesh) -> None:
        mesh.add("t1")
        status, _, answer = await mesh.post("/t1", body)
        assert (status, answer["error"]["code"], answer["id"]) == (200, code, request_id)

    run(ask)


@pytest.mark.parametrize("depth", [90, 300, 480, 900, 5000])
def test_what_is_nested_deeply_does_no_harm(depth: int) -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        for place in ("parts", "metadata", "extra"):
            deep = b"[" * depth + b"]" * depth
            part = b'{"data":{"a":' + (deep if place == "parts" else b"1") + b"}}"
            more = b"" if place == "parts" else b',"' + place.encode() + b'":{"a":' + deep + b"}"
            said = b'{"messageId":"' + place.encode() + b'","role":"ROLE_USER","parts":[' + part + b"]" + more + b"}"
            ask = b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":' + said + b"}}"
            status, _, answer = await mesh.post("/t1", ask)
            assert status == 200
            assert "result" in answer or answer["error"]["code"] in (-32700, -32602)
        status, _, answer = await mesh.post("/t1", b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}')
        assert (status, answer["error"]["code"]) == (200, -32700)

    run(body)


@pytest.mark.parametrize("version", ["", "0.3", "1", "1.1", "1.0.x", "1.01", "2.0", "one"])
def test_only_one_version_is_spoken(version: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        ask = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}
        _, _, answer = await mesh.post("/t1/", ask, headers={"A2A-Version": version})
        assert (answer["error"]["code"], answer["error"]["data"][0]["reason"]) == (-32009, "VERSION_NOT_SUPPORTED")
        status, _, answer = await mesh.post("/t1/tasks", None, method="GET", headers={"A2A-Version": version})
        assert (status, answer["error"]["code"], answer["error"]["status"]) == (400, 400, "FAILED_PRECONDITION")
        assert answer["error"]["details"][0]["reason"] == "VERSION_NOT_SUPPORTED"

    run(body)


def test_who_has_the_wrong_address_is_not_told_to_mend_a_header() -> None:
    async def body(mesh: A2aMesh) -> None:
        ask = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}
        _, _, answer = await mesh.post("/nobody", ask, headers={"A2A-Version": ""})
        assert "nobody" in answer["error"]["message"]
        _, _, answer = await mesh.post("/nobody/tasks", None, method="GET", headers={"A2A-Version": ""})
        assert "nobody" in answer["error"]["message"]

    run(body)


def test_patch_numbers_are_not_negotiated() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        status, _, _ = await mesh.post("/t1/tasks", None, method="GET", headers={"A2A-Version": "1.0.1"})
        assert status == 200

    run(body)


def test_an_address_that_is_no_name_is_told_in_the_words_of_its_binding() -> None:
    async def body(mesh: A2aMesh) -> None:
        ask = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks"}
        status, _, answer = await mesh.post("/%FF", ask)
        assert (status, answer["id"], answer["error"]["data"][0]["reason"]) == (200, 1, "NAME_INVALID")
        status, _, answer = await mesh.post("/%FF/tasks", None, method="GET")
        assert (status, answer["error"]["details"][0]["reason"]) == (400, "NAME_INVALID")

    run(body)


def test_an_id_may_be_null_but_not_absent() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        _, _, answer = await mesh.post("/t1", {"jsonrpc": "2.0", "id": None, "method": "ListTasks"})
        assert (answer["id"], answer["result"]["totalSize"]) == (None, 0)

    run(body)


def test_the_version_may_be_in_the_query() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        none = {"A2A-Version": ""}
        status, _, answer = await mesh.post("/t1/tasks?A2A-Version=1.0", None, method="GET", headers=none)
        assert (status, answer["totalSize"]) == (200, 0)

    run(body)


def test_media_types() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        ask = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}
        plain = {"Content-Type": "text/plain"}
        status, _, answer = await mesh.post("/t1", ask, headers=plain)
        assert (status, answer["error"]["code"]) == (415, -32005)
        status, _, answer = await mesh.post("/t1/message:send", {"message": message("x")}, headers=plain)
        assert (status, answer["error"]["details"][0]["reason"]) == (415, "CONTENT_TYPE_NOT_SUPPORTED")
        a2a = {"Content-Type": "application/a2a+json", "Accept": "application/json"}
        status, headers, _ = await mesh.post("/t1/message:send", {"message": message("x")}, headers=a2a)
        assert (status, headers["Content-Type"]) == (200, "application/json")

    run(body)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("POST", "/t1/message:send", {}, 400),
        ("POST", "/t1/message:send", [], 400),
        ("POST", "/t1/message:stream", {"message": {}}, 400),
        ("POST", "/t1/message:send", b"{", 400),
        ("GET", "/t1/tasks/none", None, 404),
        ("POST", "/t1/tasks/none:cancel", None, 404),
        ("GET", "/t1/tasks/none:subscribe", None, 404),
        ("GET", "/t1/tasks?pageSize=many", None, 400),
        ("GET", "/t1/tasks?includeArtifacts=perhaps", None, 400),
        ("GET", "/t1/tasks/none/pushNotificationConfigs", None, 400),
        ("POST", "/t1/tasks/none/pushNotificationConfigs", {}, 400),
        ("DELETE", "/t1/tasks/none/pushNotificationConfigs/c", None, 400),
        ("GET", "/t1/extendedAgentCard", None, 400),
        ("GET", "/nobody/tasks", None, 404),
        ("GET", "/nobody/.well-known/agent-card.json", None, 404),
        ("GET", "/%ff/.well-known/agent-card.json", None, 400),
        ("POST", "/mesh/nosuch", {}, 404),
        ("GET", "/mesh/no/such", None, 404),
        ("GET", "/mesh", None, 405),
        ("GET", "", None, 405),
        ("DELETE", "/mesh/message:send", None, 405),
    ],
)
def test_rest_errors(method: str, path: str, sent: Any, status: int) -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        got, headers, answer = await mesh.post(path, sent, method=method)
        assert (got, headers["Content-Type"]) == (status, "application/a2a+json"), answer
        error = answer["error"]
        assert (error["code"], sorted(error)) == (status, ["code", "details", "message", "status"])
        assert ("Allow" in headers) == (status == 405)

    run(body)


def test_who_is_not_known_is_told_so() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        mesh.login.anonymous = False
        for method, path in (
            ("POST", "/t1"),
            ("POST", "/t1/message:send"),
            ("GET", "/t1/.well-known/agent-card.json"),
            ("GET", "/mesh/tasks"),
        ):
            status, headers, _ = await mesh.post(path, None, method=method)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="mesh"')

    run(body)


def test_an_agent_that_is_not_there_or_not_for_these_eyes() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        for agent in ("t1", "nobody"):
            error = await mesh.rpc(agent, "SendMessage", said())
            assert (error["code"], error["data"][0]["reason"]) == (-32602, "UNKNOWN_AGENT")
            assert (await mesh.post(f"/{agent}/.well-known/agent-card.json", None, method="GET"))[0] == 404

    run(body, GateSettings(rules=(RuleSettings(effect="deny", actions=("read",), filters=("$mesh/#",)),)))


def test_a_call_that_is_not_allowed() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        ask = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": said()}
        status, _, answer = await mesh.post("/t1", ask)
        assert (status, answer["error"]["data"][0]["reason"]) == (403, "NOT_AUTHORIZED")
        assert (await mesh.post("/t1/message:send", said()))[0] == 403

    run(body, GateSettings(rules=(RuleSettings(effect="deny", actions=("call",), filters=("#",)),)))


def test_the_shared_address_wants_a_tenant() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        assert (await mesh.rpc("", "ListTasks", {}))["data"][0]["fieldViolations"][0]["field"] == "tenant"
        assert (await mesh.rpc("", "ListTasks", {"tenant": "t1"}))["totalSize"] == 0

    run(body)


def test_too_many_that_wait() -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", echo=False)
        waits = asyncio.create_task(mesh.rpc("t1", "SendMessage", said()))
        call = await server.next()
        error = await mesh.rpc("t1", "SendMessage", said())
        assert error["data"][0]["reason"] == "QUOTA_EXCEEDED"
        assert error["data"][0]["metadata"] == {"retryAfterMs": "1000"}
        server.answer(call, b"done")
        assert (await waits)["task"]["id"] == call.id
        assert server.asked.empty(), "nobody was asked for the one that was refused"

    run(body, requests_per_principal_max=1)


def test_too_many_at_once() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1", echo=False)
        task = await mesh.send("t1", "x", wait=False)
        url, version = f"{mesh.base}/t1/tasks/{task['id']}:subscribe", {"A2A-Version": "1.0"}
        async with mesh.http.post(url, headers=version) as first:
            assert first.status == 200
            status, _, error = await mesh.post(f"/t1/tasks/{task['id']}:subscribe", None)
            assert (status, error["error"]["details"][0]["reason"]) == (429, "QUOTA_EXCEEDED")
            # What is refused for want of a stream was not asked of anybody.
            status, _, _ = await mesh.post("/t1/message:stream", {"message": message("y")})
            assert (status, (await mesh.rpc("t1", "ListTasks"))["totalSize"]) == (429, 1)

    run(body, streams_per_principal_max=1)

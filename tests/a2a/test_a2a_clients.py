"""Unmodified clients: the official Python SDK by both bindings, and the JavaScript one in a process of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client import Client, ClientCallContext, ClientConfig, create_client
from a2a.client.auth import AuthInterceptor, InMemoryContextCredentialStore
from a2a.client.errors import A2AClientError
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskState,
)
from a2a.utils.errors import TaskNotFoundError
from a2a_mesh import A2aMesh, Server, run
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value

from dragoman.broker.call import Call
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.routing.cards import Skill

BINDINGS = ["JSONRPC", "HTTP+JSON"]
_count = 0


def request(value: Any, skill: str | None = None, **more: Any) -> SendMessageRequest:
    """A message with one part: text, or data."""
    global _count
    _count += 1
    part = Part(text=value) if isinstance(value, str) else Part(data=ParseDict(value, Value()))
    said = Message(message_id=f"py-{_count}", role=Role.ROLE_USER, parts=[part], **more)
    if skill is not None:
        said.metadata["skill"] = skill
    return SendMessageRequest(message=said)


async def connect(mesh: A2aMesh, agent: str, binding: str, *, streaming: bool, http: httpx.AsyncClient) -> Client:
    config = ClientConfig(streaming=streaming, httpx_client=http, supported_protocol_bindings=[binding])
    return await create_client(f"{mesh.base}/{agent}", config)


def chunks(server: Server) -> Callable[[Call], None]:
    def serve(call: Call) -> None:
        server.part(call, b"one ")
        server.part(call, b"two ")
        asyncio.get_running_loop().call_soon(server.answer, call, b"three", "text/plain")

    return serve


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_python_sdk_sends_looks_and_lists(binding: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        async with httpx.AsyncClient(timeout=10) as http:
            client = await connect(mesh, "t1", binding, streaming=False, http=http)
            (item,) = [item async for item in client.send_message(request({"celsius": 21}))]
            assert item.task.status.state == TaskState.TASK_STATE_COMPLETED
            assert MessageToDict(item.task.artifacts[0].parts[0].data) == {"celsius": 21}
            got = await client.get_task(GetTaskRequest(id=item.task.id))
            assert (got.id, got.history[0].message_id) == (item.task.id, f"py-{_count}")
            again = [item async for item in client.send_message(request("hello"))]
            assert again[0].task.artifacts[0].parts[0].text == "hello"
            first = await client.list_tasks(ListTasksRequest(page_size=1))
            assert (first.total_size, [task.id for task in first.tasks]) == (2, [again[0].task.id])
            rest = await client.list_tasks(ListTasksRequest(page_size=1, page_token=first.next_page_token))
            assert ([task.id for task in rest.tasks], rest.next_page_token) == ([item.task.id], "")
            with pytest.raises(TaskNotFoundError):
                await client.get_task(GetTaskRequest(id="none"))
            with pytest.raises(TaskNotFoundError):
                await client.cancel_task(CancelTaskRequest(id="none"))

    run(body)


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_python_sdk_streams(binding: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", echo=False)
        server.serve = chunks(server)
        async with httpx.AsyncClient(timeout=10) as http:
            client = await connect(mesh, "t1", binding, streaming=True, http=http)
            items = [item async for item in client.send_message(request("go"))]
            kinds = [item.WhichOneof("payload") for item in items]
            assert kinds[0] == "task"
            updates = [item.artifact_update for item in items if item.HasField("artifact_update")]
            assert [update.artifact.parts[0].text for update in updates] == ["one ", "two ", "three"]
            assert [(update.append, update.last_chunk) for update in updates] == [
                (False, False),
                (True, False),
                (True, True),
            ]
            assert kinds[-1] == "status_update"
            assert items[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED

    run(body)


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_python_sdk_subscribes_and_cancels(binding: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", echo=False)
        async with httpx.AsyncClient(timeout=10) as http:
            client = await connect(mesh, "t1", binding, streaming=True, http=http)
            now = SendMessageConfiguration(return_immediately=True)
            unary = await connect(mesh, "t1", binding, streaming=False, http=http)
            asked = request("wait")
            asked.configuration.CopyFrom(now)
            (item,) = [item async for item in unary.send_message(asked)]
            task_id = item.task.id
            call = await server.next()
            seen: list[Any] = []
            async for event in client.subscribe(SubscribeToTaskRequest(id=task_id)):
                seen.append(event)
                if event.HasField("task"):
                    server.part(call, b"half")
                elif event.HasField("artifact_update"):
                    done = await client.cancel_task(CancelTaskRequest(id=task_id))
                    assert done.status.state == TaskState.TASK_STATE_CANCELED
            assert [event.WhichOneof("payload") for event in seen] == ["task", "artifact_update", "status_update"]
            assert seen[-1].status_update.status.state == TaskState.TASK_STATE_CANCELED
            assert server.cancelled.get_nowait() == task_id

    run(body)


def test_the_python_sdk_reaches_an_agent_as_a_tenant() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        for binding in BINDINGS:
            async with httpx.AsyncClient(timeout=10) as http:
                client = await connect(mesh, "t1", binding, streaming=False, http=http)
                card = client._card  # type: ignore[attr-defined]
                for interface in card.supported_interfaces:
                    interface.url, interface.tenant = mesh.base, "t1"
                config = ClientConfig(streaming=False, httpx_client=http, supported_protocol_bindings=[binding])
                shared = await create_client(card, config)
                (item,) = [item async for item in shared.send_message(request("hi"))]
                assert item.task.artifacts[0].parts[0].text == "hi"
                assert (await shared.get_task(GetTaskRequest(id=item.task.id, tenant="t1"))).id == item.task.id

    run(body)


def test_the_python_sdk_is_told_who_may() -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        async with httpx.AsyncClient(timeout=10) as http:
            client = await connect(mesh, "t1", "JSONRPC", streaming=False, http=http)
            good = ClientCallContext(service_parameters={"Authorization": "Bearer good"})
            other = ClientCallContext(service_parameters={"Authorization": "Bearer other"})
            (item,) = [item async for item in client.send_message(request("mine"), context=good)]
            assert (await client.get_task(GetTaskRequest(id=item.task.id), context=good)).id == item.task.id
            with pytest.raises(TaskNotFoundError):
                await client.get_task(GetTaskRequest(id=item.task.id), context=other)
            bad = ClientCallContext(service_parameters={"Authorization": "Bearer bad"})
            with pytest.raises(A2AClientError, match="401"):
                await client.get_task(GetTaskRequest(id=item.task.id), context=bad)

    run(body)


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_python_sdk_is_told_why_not(binding: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        async with httpx.AsyncClient(timeout=10) as http:
            client = await connect(mesh, "t1", binding, streaming=False, http=http)
            with pytest.raises(A2AClientError, match="403"):
                _ = [item async for item in client.send_message(request("x"))]
            with pytest.raises(TaskNotFoundError, match="no task 'none'"):
                await client.get_task(GetTaskRequest(id="none"))

    run(body, GateSettings(rules=(RuleSettings(effect="deny", actions=("call",), filters=("#",)),)))


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_python_sdk_logs_in_by_what_the_card_says(binding: str) -> None:
    async def body(mesh: A2aMesh) -> None:
        mesh.add("t1")
        tokens = InMemoryContextCredentialStore()
        await tokens.set_credentials("mine", "bearer", "good")
        async with httpx.AsyncClient() as http:
            config = ClientConfig(streaming=False, httpx_client=http, supported_protocol_bindings=[binding])
            client = await create_client(f"{mesh.base}/t1", config, interceptors=[AuthInterceptor(tokens)])
            mesh.login.anonymous = False
            mine = ClientCallContext(state={"sessionId": "mine"})
            (item,) = [item async for item in client.send_message(request("x"), context=mine)]
            call = mesh.broker.calls._ledger.calls[item.task.id]
            assert call.principal.name == "alice"

    run(body)


@pytest.mark.slow
@pytest.mark.parametrize("binding", BINDINGS)
def test_the_javascript_client(binding: str, require: Callable[[str], str]) -> None:
    node = require("npm:@a2a-js/sdk")
    script = Path(__file__).with_name("a2a_client.mjs")

    async def body(mesh: A2aMesh) -> None:
        server = mesh.add("t1", Skill("echo"), Skill("parts"), echo=False)
        cut = chunks(server)
        server.serve = lambda call: cut(call) if call.skill == "parts" else server.echo(call)
        process = await asyncio.create_subprocess_exec(
            node,
            str(script),
            f"{mesh.base}/t1/",
            binding,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        seen = json.loads(out)
        assert seen["answer"] == {"celsius": 21}
        assert seen["state"] == 3
        assert seen["streamed"][0] == "task"
        assert seen["streamed"][-4:] == ["artifactUpdate", "artifactUpdate", "artifactUpdate", "statusUpdate"]
        assert seen["refused"].endswith("TaskNotFoundError")

    run(body)

"""An A2A agent of the official SDK, in a process of its own: python a2a_server.py PORT [rest] [whole] [token].

``rest``: by HTTP+JSON only. ``whole``: it cannot stream. ``token``: only who has it is let in. Prints what happens.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events.event_queue import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Message,
    Part,
    Role,
    Task,
    TaskState,
    TaskStatus,
)
from google.protobuf.json_format import MessageToDict, ParseDict
from starlette.applications import Starlette

BYTES = b"\x89PNG\x00\xff"
LARGE = "grün " * 200_000
NAMES = (
    "do",
    "text",
    "image",
    "several",
    "nothing",
    "bare",
    "large",
    "fail",
    "reject",
    "ask",
    "wait",
    "parts",
    "words",
)


class Agent(AgentExecutor):
    """Does what the skill's name says."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        assert context.task_id is not None
        assert context.context_id is not None
        said = MessageToDict(context.message)
        print("asked", json.dumps(said), flush=True)
        skill = said["metadata"]["skill"]
        if skill == "bare":
            reply = Message(message_id="m-1", role=Role.ROLE_AGENT, parts=[Part(text="just so")])
            await event_queue.enqueue_event(reply)
            return
        status = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
        await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=status))
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        await self._work(skill, said["parts"], updater)

    async def _work(self, skill: str, parts: list[dict[str, Any]], updater: TaskUpdater) -> None:
        sorry = updater.new_agent_message([Part(text="no steam")])
        match skill:
            case "do":
                await updater.add_artifact([ParseDict(parts[0], Part())])
            case "text":
                await updater.add_artifact([Part(text="grün")])
            case "image":
                await updater.add_artifact([Part(raw=BYTES, media_type="image/png")])
            case "several":
                await updater.add_artifact([Part(text="one"), Part(text="two")])
            case "large":
                await updater.add_artifact([Part(text=LARGE)])
            case "fail":
                return await updater.failed(sorry)
            case "reject":
                return await updater.reject(sorry)
            case "ask":
                return await updater.requires_input(sorry)
            case "wait":
                await asyncio.sleep(60)
            case "parts":
                for text in ("one", "two", "all"):
                    await updater.add_artifact([Part(text=text)], artifact_id="a")
            case "words":
                for number, text in enumerate(("Once ", "upon ", "a time")):
                    await updater.add_artifact([Part(text=text)], artifact_id="a", append=number > 0)
        await updater.complete()
        return None

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id is not None
        assert context.context_id is not None
        print("cancelled", flush=True)
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


class Door:
    """ASGI in front of the agent."""

    def __init__(self, app: Starlette, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope.get("headers", ())}
        if self._token and headers.get("authorization") != f"Bearer {self._token}":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


async def main() -> None:
    port, *words = sys.argv[1:]
    listening = socket.create_server(("127.0.0.1", int(port)))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    rest = "rest" in words
    interface = AgentInterface(
        url=f"{url}/far" if rest else f"{url}/rpc",
        protocol_binding="HTTP+JSON" if rest else "JSONRPC",
        protocol_version="1.0",
    )
    card = AgentCard(
        name="workshop",
        description="Does\u0007 things.",
        version="7",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming="whole" not in words),
        default_input_modes=["application/json"],
        default_output_modes=["application/json"],
        skills=[AgentSkill(id=name, name=f"To {name}", description=f"It {name}s.", tags=["work"]) for name in NAMES],
    )
    handler = DefaultRequestHandler(Agent(), InMemoryTaskStore(), card)
    calls = create_rest_routes(handler, path_prefix="/far") if rest else create_jsonrpc_routes(handler, "/rpc")
    app = Starlette(routes=[*create_agent_card_routes(card), *calls])
    token = next((word for word in words if word not in ("rest", "whole")), "")
    config = uvicorn.Config(Door(app, token), lifespan="off", log_level="warning", timeout_graceful_shutdown=1)
    print("port", listening.getsockname()[1], flush=True)
    await uvicorn.Server(config).serve([listening])


asyncio.run(main())

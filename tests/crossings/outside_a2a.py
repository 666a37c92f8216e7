"""An A2A agent of the official SDK, as crossings' server: the mesh reaches it by a link."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from typing import Any

import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events.event_queue import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Part, Task, TaskState, TaskStatus
from google.protobuf.json_format import MessageToDict, ParseDict
from starlette.applications import Starlette

from tests.crossings.calling import PATIENCE_S, Asked, Server


class A2aServer(Server, AgentExecutor):
    """Serves with tasks. The call it is asked is named by the message that began the task."""

    def __init__(self, skills: list[str]) -> None:
        super().__init__()
        self._answers: dict[str, asyncio.Queue[tuple[bytes, int, bool, str | None]]] = {}
        self._calls: dict[str, str] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        card = AgentCard(
            name="outside",
            description="An agent of the official SDK",
            version="1",
            supported_interfaces=[
                AgentInterface(url=f"{self.url}/rpc", protocol_binding="JSONRPC", protocol_version="1.0")
            ],
            capabilities=AgentCapabilities(streaming=True),
            default_input_modes=["application/json"],
            default_output_modes=["application/json"],
            skills=[AgentSkill(id=skill, name=skill, description=skill, tags=["x"]) for skill in skills],
        )
        handler = DefaultRequestHandler(self, InMemoryTaskStore(), card)
        app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/rpc")])
        self._uvicorn = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        serving = self._uvicorn.serve([self._socket])
        self._thread = threading.Thread(target=asyncio.run, args=(serving,), daemon=True)
        self._thread.start()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None and context.task_id is not None and context.context_id is not None  # noqa: PT018
        said = MessageToDict(context.message)
        call = said["messageId"]
        self._calls[context.task_id] = call
        self._answers[call] = asyncio.Queue()
        status = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
        await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=status))
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        part, metadata = said["parts"][0], said["metadata"]
        payload = (
            json.dumps(_whole(part["data"]), ensure_ascii=False).encode()
            if "data" in part
            else base64.b64decode(part["raw"])
        )
        left_s = metadata["deadline_ms"] / 1000
        self.act(Asked(call, metadata["skill"], payload, left_s, None, metadata.get("cause")))
        while True:
            payload, number, error, content_type = await self._answers[call].get()
            if error:
                await updater.failed(updater.new_agent_message([Part(text=payload.decode())]))
                return
            artifact = [_part(payload, content_type)]
            await updater.add_artifact(artifact, artifact_id="answer", append=number > 1, last_chunk=not number)
            if not number:
                await updater.complete()
                return

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id is not None and context.context_id is not None  # noqa: PT018
        self.cancelled.put(self._calls[context.task_id])
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()

    def answer(
        self, call: str, payload: bytes, *, part: int = 0, error: bool = False, content_type: str | None = None
    ) -> None:
        self._answers[call].put_nowait((payload, part, error, content_type))

    def close(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(PATIENCE_S)


def _part(payload: bytes, content_type: str | None) -> Part:
    if content_type is not None:
        return Part(raw=payload, media_type=content_type)
    return ParseDict({"data": json.loads(payload)}, Part())


def _whole(value: Any) -> Any:
    """What went through protocol buffers, where all numbers are floats."""
    return {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in value.items()}

"""A2A's side of the crossings, with the official SDK: to say and to see through the mesh's own agent, and to ask."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
import uuid
from collections.abc import Coroutine
from typing import Any

import httpx
from a2a.client import A2ACardResolver, Client, ClientConfig, create_client
from a2a.types import CancelTaskRequest, Message, Part, Role, SendMessageRequest
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.clients.mesh import MeshProcess
from tests.crossings.calling import PATIENCE_S, Ask, Got
from tests.crossings.peers import credentials, spelt
from tests.crossings.said import TRACE, Said, from_json

WORDS = ("text", "base64", "sender", "retained")
DONE = "TASK_STATE_COMPLETED"


class Sdk:
    """The SDK's client in a loop of its own thread, and a card for each agent that was talked to."""

    def __init__(self, mesh: MeshProcess, name: str) -> None:
        self.name = name
        self._base = f"{mesh.url}/a2a"
        self._clients: dict[str, Client] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._web = self.run(self._opened())

    async def _opened(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(headers=credentials(self.name), timeout=PATIENCE_S * 2)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Does something in the client's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S * 2)

    async def client(self, agent: str) -> Client:
        """For one agent, by its card."""
        if agent not in self._clients:
            card = await A2ACardResolver(self._web, f"{self._base}/{agent}").get_agent_card()
            self._clients[agent] = await create_client(card, ClientConfig(httpx_client=self._web))
        return self._clients[agent]

    async def task(
        self, agent: str, part: dict[str, Any], metadata: dict[str, Any], cancel: threading.Event | None = None
    ) -> dict[str, Any]:
        """Sends one message and follows its task to the end: state, status message, pieces of the answer."""
        client = await self.client(agent)
        message = Message(message_id=str(uuid.uuid4()), role=Role.ROLE_USER, parts=[ParseDict(part, Part())])
        message.metadata.update(metadata)
        seen: dict[str, Any] = {"pieces": [], "state": "", "status": {}}
        cancelling: asyncio.Task[None] | None = None
        async for item in client.send_message(SendMessageRequest(message=message)):
            said = MessageToDict(item)
            task = said.get("task")
            if task is not None and cancel is not None and cancelling is None:
                cancelling = asyncio.create_task(self._cancel(client, task["id"], cancel))
            for artifact in [*(task or {}).get("artifacts", ()), said.get("artifactUpdate", {}).get("artifact")]:
                if artifact is not None:
                    seen["pieces"] += artifact["parts"]
            for about in (task, said.get("statusUpdate")):
                if about is not None:
                    seen["state"], seen["status"] = about["status"]["state"], about["status"]
        if cancelling is not None:
            await cancelling
        return seen

    async def _cancel(self, client: Client, task_id: str, cancel: threading.Event) -> None:
        await asyncio.to_thread(cancel.wait, PATIENCE_S)
        await client.cancel_task(CancelTaskRequest(id=task_id))

    def close(self) -> None:
        self.run(self._web.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


class A2a(Sdk):
    """Says and sees through ``/a2a/mesh``."""

    def act(self, skill: str, arguments: dict[str, Any], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the mesh's agent answers."""
        seen = self.run(self.task("mesh", {"data": arguments}, {**(metadata or {}), "skill": skill}))
        assert seen["state"] == DONE, seen
        answer = seen["pieces"][-1]["data"]
        assert isinstance(answer, dict)
        return answer

    def publish(self, channel: str, said: Said) -> None:
        given: dict[str, Any] = {
            "content_type": said.content_type,
            "reply_to": said.reply_to,
            "cause": said.cause,
            "expires_s": said.expires_s,
            "retain": said.retain,
            "durable": None if said.wish is None else said.wish > 0,
            "tombstone": said.payload is None or None,
        }
        arguments = {"channel": channel, **{name: value for name, value in given.items() if value is not None}}
        if said.payload is not None:
            arguments |= spelt("text", "base64", said.payload)
        for word, value in (("key", said.key), ("correlation", said.correlation)):
            arguments |= spelt(word, f"{word}_base64", value)
        trace = {name: value.decode() for name, value in said.headers if name in TRACE and value is not None}
        headers = [{"name": n, **spelt("value", "value_base64", v)} for n, v in said.headers if n not in TRACE]
        if headers:
            arguments["headers"] = headers
        self.act("publish", arguments, trace)

    def listen(self, channel: str) -> None:
        """A reader has no need to be there."""

    def see(self, channel: str) -> dict[str, Said]:
        until = time.monotonic() + PATIENCE_S
        while True:
            messages = self.act("read", {"channel": channel, "offset": 0})["messages"]
            if messages or time.monotonic() > until:
                break
        (read,) = messages
        watched = self.act("read", {"channel": channel, "limit": 1})["messages"][0]
        return {
            "read": from_json(whole(read), WORDS, time.time()),
            "newest": from_json(whole(watched), WORDS, time.time()),
        }

    def retained(self, channel: str) -> Said:
        held = self.act("read", {"channel": channel})["retained"]
        return from_json(whole(held), WORDS, time.time())


def whole(seen: dict[str, Any]) -> dict[str, Any]:
    """JSON that went through protocol buffers: its numbers are all floats."""
    return {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in seen.items()}


class A2aCaller:
    """Asks with a message, and follows the task."""

    def __init__(self, mesh: MeshProcess, name: str) -> None:
        self.name = name
        self._sdk = Sdk(mesh, name)

    def call(self, agent: str, skill: str, ask: Ask) -> Got:
        metadata: dict[str, Any] = {"skill": skill}
        if ask.deadline_s is not None:
            metadata["deadline_ms"] = int(ask.deadline_s * 1000)
        try:
            part: dict[str, Any] = {"data": json.loads(ask.payload)}
        except ValueError:
            part = {"raw": base64.b64encode(ask.payload).decode(), "mediaType": "application/octet-stream"}
        seen = self._sdk.run(self._sdk.task(agent, part, metadata, ask.cancel))
        got = Got()
        if seen["state"] != DONE:
            message = seen["status"]["message"]
            got.error, got.reason = message["parts"][0]["text"], message["metadata"]["reason"]
            return got
        *parts, last = seen["pieces"]
        got.parts = [
            json.dumps(whole({"part": part["data"]})["part"]) if "data" in part else part["text"] for part in parts
        ]
        if "raw" in last:
            kind = last["mediaType"]
            got.payload = base64.b64decode(last["raw"])
            # So a part says that nobody has said what it is.
            got.content_type = None if kind == "application/octet-stream" else kind
        else:
            got.payload = (
                json.dumps(last["data"], ensure_ascii=False).encode() if "data" in last else last["text"].encode()
            )
        return got

    def close(self) -> None:
        self._sdk.close()

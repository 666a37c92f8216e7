"""Real clients that ask and real clients that serve, per protocol. What a server does follows from its skill's name."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import http.client
import json
import queue
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.mesh import MeshProcess
from tests.crossings.peers import PATIENCE_S, TOKEN, USER, Http, Mcp, credentials

BYTES = b"\x89PNG\x00\xff"
ERROR = "the part is missing"
PARTS = ["1", "2"]
RESULT = {"done": True, "note": "grün"}
ARGUMENTS = {"speed": 3, "colour": "grün"}


@dataclass
class Ask:
    """What a caller asks for. None: it does not say."""

    payload: bytes = json.dumps(ARGUMENTS, ensure_ascii=False).encode()
    deadline_s: float | None = None
    cause: str | None = None
    cancel: threading.Event | None = None
    """Set once the server has been asked: the caller cancels then."""


@dataclass
class Asked:
    """What a server sees of a call. None: its protocol does not show it."""

    call: str
    skill: str
    payload: bytes
    deadline_s: float | None = None
    caller: str | None = None
    cause: str | None = None


@dataclass
class Got:
    """What a caller has in the end. ``reason``: the mesh's name for why it failed."""

    payload: bytes | None = None
    content_type: str | None = None
    error: str | None = None
    reason: str | None = None
    parts: list[str] = field(default_factory=list)


class Caller(Protocol):
    """A client that asks."""

    name: str

    def call(self, agent: str, skill: str, ask: Ask) -> Got:
        """Asks and waits for the end."""

    def close(self) -> None:
        """Leaves."""


class Server(ABC):
    """Does what the skill's name says; ``asked`` and ``cancelled`` tell what it was told."""

    def __init__(self) -> None:
        self.asked: queue.Queue[Asked] = queue.Queue()
        self.cancelled: queue.Queue[str] = queue.Queue()

    def act(self, asked: Asked) -> None:
        """Serves one call."""
        self.asked.put(asked)
        match asked.skill.split("_")[0]:
            case "fail":
                self.answer(asked.call, ERROR.encode(), error=True)
            case "wait":
                return
            case "image":
                self.answer(asked.call, BYTES, content_type="image/png")
            case "parts":
                for number, part in enumerate(PARTS, start=1):
                    self.answer(asked.call, part.encode(), part=number)
                self.answer(asked.call, json.dumps(RESULT, ensure_ascii=False).encode())
            case _:
                self.answer(asked.call, json.dumps(RESULT, ensure_ascii=False).encode())

    @abstractmethod
    def answer(
        self, call: str, payload: bytes, *, part: int = 0, error: bool = False, content_type: str | None = None
    ) -> None:
        """Says it in its protocol."""

    @abstractmethod
    def close(self) -> None:
        """Leaves."""


def _mqtt_client(name: str, version: int) -> mqtt.Client:
    protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
    client.username_pw_set(USER, TOKEN)
    return client


def _started(client: mqtt.Client, mesh: MeshProcess, filters: list[tuple[str, int]]) -> None:
    ready: queue.Queue[int] = queue.Queue()
    client.on_subscribe = lambda *_: ready.put(1)
    client.on_connect = lambda *_: client.subscribe(filters)
    client.connect(*mesh.address("mqtt"))
    client.loop_start()
    ready.get(timeout=PATIENCE_S)


class MqttServer(Server):
    """Serves with publish and subscribe."""

    def __init__(self, mesh: MeshProcess, name: str, version: int, skills: list[str]) -> None:
        super().__init__()
        self._version = version
        self._client = _mqtt_client(name, version)
        self._client.on_message = self._heard
        _started(self._client, mesh, [("mesh/me/cancel/+", 1), *((f"mesh/serve/{skill}/+", 1) for skill in skills)])

    def _heard(self, _: object, __: object, message: mqtt.MQTTMessage) -> None:
        _, verb, skill, call = message.topic.split("/")
        if verb == "me":
            self.cancelled.put(call)
            return
        asked = Asked(call, skill, bytes(message.payload))
        if self._version == 5:
            properties = message.properties
            assert properties is not None
            assert properties.ResponseTopic == f"mesh/answer/{call}"
            asked.deadline_s = float(properties.MessageExpiryInterval)
            said = dict(getattr(properties, "UserProperty", []))
            asked.caller, asked.cause = said.get("mesh-from"), said.get("mesh-cause")
        self.act(asked)

    def answer(
        self, call: str, payload: bytes, *, part: int = 0, error: bool = False, content_type: str | None = None
    ) -> None:
        properties = None
        if self._version == 5 and content_type is not None:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ContentType = content_type
        tail = "/error" if error else f"/part/{part}" if part else ""
        self._client.publish(f"mesh/answer/{call}{tail}", payload, qos=1, properties=properties)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class HttpServer(Server):
    """Serves with a held stream of asks and POST."""

    def __init__(self, mesh: MeshProcess, name: str, skills: list[str]) -> None:
        super().__init__()
        self._http = Http(mesh, name)
        card = {"card": {"name": name, "skills": [{"name": skill} for skill in skills]}}
        json_type = [("Content-Type", "application/json")]
        status, body, _ = self._http.ask("PUT", f"/v1/agents/{name}", json.dumps(card).encode(), json_type)
        assert status in (200, 201), body
        self._connection = http.client.HTTPConnection(*self._http.address, timeout=60)
        query = "&".join(f"skill={quote(skill)}" for skill in skills)
        lines = {**credentials(name), "Accept": "text/event-stream"}
        self._connection.request("GET", f"/v1/agents/{name}/asks?{query}", headers=lines)
        self._stream = self._connection.getresponse()
        assert self._stream.status == 200, self._stream.read()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        kind = ""
        try:
            for raw in self._stream:
                word, _, rest = raw.decode().rstrip("\n").partition(":")
                if word == "event":
                    kind = rest.strip()
                elif word == "data":
                    self._told(kind, json.loads(rest))
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            return  # the stream was closed under it

    def _told(self, kind: str, told: dict[str, Any]) -> None:
        if kind == "cancel":
            self.cancelled.put(told["call"])
        elif kind == "ask":
            payload = (
                json.dumps(told["arguments"], ensure_ascii=False).encode()
                if "arguments" in told
                else base64.b64decode(told["payload_base64"])
            )
            left_s = told["deadline_ms"] / 1000 - time.time()
            self.act(Asked(told["call"], told["skill"], payload, left_s, told.get("caller"), told.get("cause")))

    def answer(
        self, call: str, payload: bytes, *, part: int = 0, error: bool = False, content_type: str | None = None
    ) -> None:
        query = f"?error={quote(payload)}" if error else "?partial=true" if part else ""
        lines = [("Content-Type", content_type or "application/json")]
        status, said, _ = self._http.ask("POST", f"/v1/calls/{call}/answer{query}", b"" if error else payload, lines)
        assert status == 204, said

    def close(self) -> None:
        if self._connection.sock is not None:
            self._connection.sock.close()


class MqttCaller:
    """Asks with the verbs: by reference in 3.1.1; in 5 by response topic, or by reference to be able to cancel."""

    def __init__(self, mesh: MeshProcess, name: str, version: int) -> None:
        self.name = name
        self._version = version
        self._heard: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self._count = 0
        self._client = _mqtt_client(name, version)
        self._client.on_message = lambda _, __, message: self._heard.put(message)
        _started(self._client, mesh, [("mesh/me/reply/#", 1)])

    def call(self, agent: str, skill: str, ask: Ask) -> Got:
        self._count += 1
        reference = f"r{self._count}"
        topic, properties = f"mesh/call/{agent}/{skill}", None
        if self._version == 5:
            properties = Properties(PacketTypes.PUBLISH)
            if ask.deadline_s is not None:
                properties.MessageExpiryInterval = int(ask.deadline_s)
            if ask.cause is not None:
                properties.UserProperty = [("mesh-cause", ask.cause)]
        by_reference = self._version != 5 or ask.cancel is not None
        if by_reference:
            topic += f"/{reference}"
        else:
            assert properties is not None
            properties.ResponseTopic = f"mesh/me/reply/{reference}"
            properties.CorrelationData = reference.encode()
        self._client.publish(topic, ask.payload, qos=1, properties=properties)
        if ask.cancel is not None:
            assert ask.cancel.wait(PATIENCE_S)
            self._client.publish(f"mesh/me/cancel/{reference}", b"", qos=1)
        got = Got()
        while not self._taken(got, f"mesh/me/reply/{reference}", None if by_reference else reference.encode()):
            pass
        return got

    def _taken(self, got: Got, reply: str, correlation: bytes | None) -> bool:
        """Takes one message in; whether it was the final one."""
        message = self._heard.get(timeout=PATIENCE_S)
        assert message.topic.startswith(reply)
        payload = bytes(message.payload)
        status = "part" if message.topic != reply else "error" if payload.startswith(b'{"error"') else "ok"
        if self._version == 5:
            assert message.properties is not None
            assert getattr(message.properties, "CorrelationData", None) == correlation
            said = dict(message.properties.UserProperty)
            status, got.reason = said["mesh-status"], said.get("mesh-error")
            got.content_type = getattr(message.properties, "ContentType", None)
        if status == "part":
            got.parts.append(payload.decode())
            return False
        if status == "ok":
            got.payload = payload
        else:
            error = json.loads(payload)["error"]
            got.error, got.reason = error["message"], error["code"]
        return True

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class HttpCaller:
    """Asks with POST, and follows the call by its URL."""

    def __init__(self, mesh: MeshProcess, name: str) -> None:
        self.name = name
        self._http = Http(mesh, name)

    def call(self, agent: str, skill: str, ask: Ask) -> Got:
        order: dict[str, Any] = {"agent": agent, "skill": skill, "arguments": json.loads(ask.payload)}
        if ask.deadline_s is not None:
            order["deadline_ms"] = int(ask.deadline_s * 1000)
        if ask.cause is not None:
            order["cause"] = ask.cause
        lines = [("Content-Type", "application/json"), ("Prefer", "respond-async")]
        # 202, or how it ended if that was very soon; in any case where to ask again.
        _, _, answer = self._http.ask("POST", "/v1/calls", json.dumps(order).encode(), lines)
        place = dict(answer)["Location"]
        if ask.cancel is not None:
            assert ask.cancel.wait(PATIENCE_S)
            assert self._http.ask("DELETE", place)[0] == 204
        status, said, _ = self._http.ask("GET", f"{place}?wait_ms={PATIENCE_S * 1000}")
        assert status == 200, said
        seen = json.loads(said)
        got = Got(content_type=seen.get("content_type"))
        if "problem" in seen:
            got.error, got.reason = seen["problem"]["detail"], seen["problem"]["type"]
        elif "payload_base64" in seen:
            got.payload = base64.b64decode(seen["payload_base64"])
        else:
            got.payload = json.dumps(seen["result"], ensure_ascii=False).encode()
        got.parts = [json.dumps(event["part"]) for event in seen.get("events", []) if event["kind"] == "part"]
        return got

    def close(self) -> None:
        """Nothing is held."""


class McpCaller:
    """Asks with tools/call."""

    def __init__(self, mesh: MeshProcess, name: str) -> None:
        self.name = name
        self._mcp = Mcp(mesh, name)

    def call(self, agent: str, skill: str, ask: Ask) -> Got:
        parts: list[str] = []

        async def progress(_: float, __: float | None, message: str | None) -> None:
            parts.append(message or "")

        async def work() -> Any:
            given = {**json.loads(ask.payload), "agent": agent}
            asking = asyncio.create_task(self._mcp.client.call_tool(skill, given, progress_callback=progress))
            if ask.cancel is not None:
                await asyncio.to_thread(ask.cancel.wait, PATIENCE_S)
                asking.cancel()
            return await asking

        try:
            result = self._mcp.run(work())
        except concurrent.futures.CancelledError:
            return Got(reason="cancelled")
        got = Got(parts=parts)
        text = "".join(block.text for block in result.content if block.type == "text")
        if result.is_error:
            got.reason, _, got.error = text.partition(": ")
            return got
        for block in result.content:
            if block.type == "image":
                got.payload, got.content_type = base64.b64decode(block.data), block.mime_type
            elif block.type == "resource":
                got.payload = base64.b64decode(block.resource.blob)
        if text:
            assert result.structured_content == json.loads(text)
            got.payload = text.encode()
        return got

    def close(self) -> None:
        self._mcp.close()


SKILLS: dict[str, str] = {"error": "fail", "deadline": "wait", "cancel": "wait", "partial answers": "parts"}
SKILLS |= dict.fromkeys(("binary result", "its content type"), "image")
"""What a cell's server does, where it is not ``do``."""

Callers = dict[str, Caller]
Servers = dict[str, Server]


def skills(server: str) -> list[str]:
    """What a server serves."""
    return [f"{skill}_{server}" for skill in ("do", *dict.fromkeys(SKILLS.values()))]


def start(mesh: MeshProcess, outside: Servers) -> tuple[Callers, Servers]:
    """Everybody. ``outside`` are those whom the mesh has links to."""
    from tests.crossings.a2a_peer import A2aCaller
    from tests.crossings.kafka_peer import KafkaCaller, KafkaServer

    callers: Callers = {
        "mqtt3": MqttCaller(mesh, "ask-mqtt3", 4),
        "mqtt5": MqttCaller(mesh, "ask-mqtt5", 5),
        "kafka": KafkaCaller(mesh, "ask-kafka"),
        "http": HttpCaller(mesh, "ask-http"),
        "mcp": McpCaller(mesh, "ask-mcp"),
        "a2a": A2aCaller(mesh, "ask-a2a"),
    }
    servers: Servers = {
        "mqtt3": MqttServer(mesh, "serve-mqtt3", 4, skills("mqtt3")),
        "mqtt5": MqttServer(mesh, "serve-mqtt5", 5, skills("mqtt5")),
        "kafka": KafkaServer(mesh, "serve-kafka", skills("kafka")),
        "http": HttpServer(mesh, "serve-http", skills("http")),
        **outside,
    }
    return callers, servers

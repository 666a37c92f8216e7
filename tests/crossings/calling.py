"""Real clients that ask and real clients that serve, per protocol. What a server does follows from its skill's name."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import paho.mqtt.client as mqtt
from mcp import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.mesh import MeshProcess
from tests.crossings.peers import PATIENCE_S, Http, Mcp

ERROR = "the part is missing"
PARTS = ["1", "2"]
RESULT = {"done": True, "note": "grün"}
ASKED = {"speed": 3, "colour": "grün"}

Answer = Callable[[str, str, dict[str, str]], None]
"""``answer(call, payload, how)``; how: {} final, {"part": n}, {"error": ""}."""


@dataclass
class Got:
    """What a caller has in the end."""

    result: object = None
    error: str | None = None
    parts: list[str] = field(default_factory=list)


def act(skill: str, call: str, answer: Answer) -> None:
    """Does what the skill's name says."""
    if skill.startswith("fail"):
        answer(call, ERROR, {"error": ""})
        return
    if skill.startswith("parts"):
        for number, part in enumerate(PARTS, start=1):
            answer(call, part, {"part": str(number)})
    answer(call, json.dumps(RESULT, ensure_ascii=False), {})


class MqttServer:
    """Serves with publish and subscribe."""

    def __init__(self, mesh: MeshProcess, name: str, version: int, skills: list[str]) -> None:
        self.asked: queue.Queue[bytes] = queue.Queue()
        ready: queue.Queue[int] = queue.Queue()
        protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
        self.client.on_subscribe = lambda *_: ready.put(1)
        self.client.on_connect = lambda *_: self.client.subscribe([(f"mesh/serve/{s}/+", 1) for s in skills])
        self.client.on_message = self._asked
        self.client.connect(*mesh.address("mqtt"))
        self.client.loop_start()
        ready.get(timeout=PATIENCE_S)

    def _asked(self, _: object, __: object, message: mqtt.MQTTMessage) -> None:
        self.asked.put(bytes(message.payload))
        _, _, skill, call = message.topic.split("/")
        act(skill, call, self._answer)

    def _answer(self, call: str, payload: str, how: dict[str, str]) -> None:
        tail = "".join(f"/{word}/{value}" if value else f"/{word}" for word, value in how.items())
        self.client.publish(f"mesh/answer/{call}{tail}", payload.encode(), qos=1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class HttpServer:
    """Serves with a held stream of asks and POST."""

    def __init__(self, mesh: MeshProcess, name: str, skills: list[str]) -> None:
        self.asked: queue.Queue[bytes] = queue.Queue()
        self._http = Http(mesh)
        status, body, _ = self._http.ask(
            "PUT",
            f"/v1/agents/{name}",
            json.dumps({"card": {"name": name, "skills": [{"name": s} for s in skills]}}).encode(),
            [("Content-Type", "application/json")],
        )
        assert status in (200, 201), body
        self._connection = http.client.HTTPConnection(*mesh.address("http"), timeout=60)
        query = "&".join(f"skill={quote(s)}" for s in skills)
        self._connection.request("GET", f"/v1/agents/{name}/asks?{query}", headers={"Accept": "text/event-stream"})
        self._stream = self._connection.getresponse()
        assert self._stream.status == 200, self._stream.read()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        kind = ""
        try:
            for raw in self._stream:
                line = raw.decode().rstrip("\n")
                if line.startswith("event:"):
                    kind = line.removeprefix("event:").strip()
                elif line.startswith("data:") and kind == "ask":
                    ask = json.loads(line.removeprefix("data:"))
                    self.asked.put(json.dumps(ask["arguments"], ensure_ascii=False).encode())
                    act(ask["skill"], ask["call"], self._answer)
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            return  # the stream was closed under it

    def _answer(self, call: str, payload: str, how: dict[str, str]) -> None:
        query = {"part": "?partial=true", "error": f"?error={quote(payload)}"}.get(next(iter(how), ""), "")
        body = b"" if "error" in how else payload.encode()
        status, said, _ = self._http.ask(
            "POST", f"/v1/calls/{call}/answer{query}", body, [("Content-Type", "application/json")]
        )
        assert status == 204, said

    def close(self) -> None:
        if self._connection.sock is not None:
            self._connection.sock.close()


class MqttCaller:
    """Asks with the verbs: by reference in 3.1.1, by response topic in 5."""

    def __init__(self, mesh: MeshProcess, name: str, version: int) -> None:
        self.version = version
        self._heard: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self._count = 0
        ready: queue.Queue[int] = queue.Queue()
        protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
        self.client.on_subscribe = lambda *_: ready.put(1)
        self.client.on_connect = lambda *_: self.client.subscribe("mesh/me/#", qos=1)
        self.client.on_message = lambda _, __, message: self._heard.put(message)
        self.client.connect(*mesh.address("mqtt"))
        self.client.loop_start()
        ready.get(timeout=PATIENCE_S)

    def call(self, agent: str, skill: str) -> Got:
        self._count += 1
        reference = f"r{self._count}"
        topic, properties = f"mesh/call/{agent}/{skill}", None
        if self.version == 5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = f"mesh/me/reply/{reference}"
            properties.CorrelationData = b"c" + reference.encode()
        else:
            topic += f"/{reference}"
        payload = json.dumps(ASKED, ensure_ascii=False).encode()
        self.client.publish(topic, payload, qos=1, properties=properties)
        got = Got()
        while not self._taken(got, reference):
            pass
        return got

    def _taken(self, got: Got, reference: str) -> bool:
        """Takes one message in; whether it was the final one."""
        message = self._heard.get(timeout=PATIENCE_S)
        text = message.payload.decode()
        reply = f"mesh/me/reply/{reference}"
        if self.version == 5:
            assert message.properties is not None
            assert message.properties.CorrelationData == b"c" + reference.encode()
            status = dict(message.properties.UserProperty)["mesh-status"]
            assert message.topic.startswith(reply)
        else:
            status = "part" if message.topic != reply else "error" if text.startswith('{"error"') else "ok"
        if status == "part":
            got.parts.append(text)
            return False
        if status == "ok":
            got.result = json.loads(text)
        else:
            got.error = text
        return True

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class HttpCaller:
    """Asks with POST."""

    def __init__(self, mesh: MeshProcess) -> None:
        self._http = Http(mesh)

    def call(self, agent: str, skill: str) -> Got:
        body = json.dumps({"agent": agent, "skill": skill, "arguments": ASKED}).encode()
        status, said, _ = self._http.ask(
            "POST", "/v1/calls", body, [("Content-Type", "application/json"), ("Prefer", f"wait={PATIENCE_S}")]
        )
        seen = json.loads(said)
        if status != 200:
            return Got(error=f"{seen['type']}: {seen['detail']}")
        got = Got(result=seen["result"])
        for event in seen.get("events", []):
            if event["kind"] == "part":
                got.parts.append(_text(event))
        return got

    def close(self) -> None:
        """Nothing is held."""


def _text(event: dict[str, Any]) -> str:
    for word in ("payload", "part"):
        if word in event:
            value = event[word]
            return value if isinstance(value, str) else json.dumps(value)
    raise AssertionError(f"a part shows nothing: {event}")


class McpCaller:
    """Asks with tools/call."""

    def __init__(self, mesh: MeshProcess) -> None:
        self._mcp = Mcp(mesh)

    def call(self, agent: str, skill: str) -> Got:
        parts: list[str] = []

        async def progress(_: float, __: float | None, message: str | None) -> None:
            parts.append(message or "")

        async def work(client: Client) -> Any:
            return await client.call_tool(skill, {**ASKED, "agent": agent}, progress_callback=progress)

        result = self._mcp.run(work)
        text = "".join(block.text for block in result.content if block.type == "text")
        if result.is_error:
            return Got(error=text, parts=parts)
        assert result.structured_content == json.loads(text)
        return Got(result=json.loads(text), parts=parts)

    def close(self) -> None:
        self._mcp.close()

"""One real client per protocol, with the same few verbs: publish a message, listen to a channel, read what was said.

paho-mqtt for both versions of MQTT, the standard library for HTTP, the official SDK for MCP.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self
from urllib.parse import quote

import paho.mqtt.client as mqtt
from mcp import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.mesh import MeshProcess

PATIENCE_S = 10


@dataclass
class Said:
    """A message as a client says or sees it. None: not said, or not shown."""

    payload: bytes = b""
    retained: bool | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str | None = None
    reply_to: str | None = None
    correlation: str | None = None
    expires_s: float | None = None
    key: str | None = None
    cause: str | None = None
    id: str | None = None
    sender: str | None = None


class Peer(Protocol):
    """A client of one protocol."""

    name: str

    def publish(self, channel: str, said: Said) -> None:
        """Returns when it is acknowledged."""

    def listen(self, channel: str) -> None:
        """From now on what is said there can be taken."""

    def take(self, channel: str) -> Said:
        """The next message of a channel that was listened to."""

    def retained(self, channel: str) -> Said:
        """The channel's retained value, as a newcomer sees it."""

    def close(self) -> None:
        """Leaves."""


class Mqtt:
    """paho-mqtt."""

    def __init__(self, mesh: MeshProcess, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self._address = mesh.address("mqtt")
        self._seen: dict[str, queue.Queue[Said]] = {}
        self._ready: queue.Queue[int] = queue.Queue()
        self.client = self._connected(name, self._message)

    def _connected(self, name: str, on_message: Callable[..., None]) -> mqtt.Client:
        protocol = mqtt.MQTTv5 if self.version == 5 else mqtt.MQTTv311
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
        client.on_subscribe = lambda *_: self._ready.put(1)
        client.on_connect = lambda *_: self._ready.put(1)
        client.on_message = on_message
        client.connect(*self._address)
        client.loop_start()
        self._ready.get(timeout=PATIENCE_S)
        return client

    def publish(self, channel: str, said: Said) -> None:
        sent = self.client.publish(
            channel, said.payload, qos=1, retain=bool(said.retained), properties=self._properties(said)
        )
        sent.wait_for_publish(PATIENCE_S)
        assert sent.is_published()

    def _properties(self, said: Said) -> Properties | None:
        if self.version != 5:
            return None
        made = Properties(PacketTypes.PUBLISH)
        user = list(said.headers)
        user += [(name, value) for name, value in (("mesh-key", said.key), ("mesh-cause", said.cause)) if value]
        if user:
            made.UserProperty = user
        if said.content_type is not None:
            made.ContentType = said.content_type
        if said.reply_to is not None:
            made.ResponseTopic = said.reply_to
        if said.correlation is not None:
            made.CorrelationData = said.correlation.encode()
        if said.expires_s is not None:
            made.MessageExpiryInterval = int(said.expires_s)
        return made

    def listen(self, channel: str) -> None:
        self._seen.setdefault(channel, queue.Queue())
        self.client.subscribe(channel, qos=1)
        self._ready.get(timeout=PATIENCE_S)

    def _message(self, _: object, __: object, message: mqtt.MQTTMessage) -> None:
        self._seen[message.topic].put(self._said(message))

    def _said(self, message: mqtt.MQTTMessage) -> Said:
        said = Said(bytes(message.payload), retained=bool(message.retain))
        properties = message.properties
        if self.version != 5 or properties is None:
            return said
        user = [(str(name), str(value)) for name, value in getattr(properties, "UserProperty", [])]
        named = dict(user)
        said.headers = [pair for pair in user if not pair[0].startswith("mesh-")]
        said.key, said.cause = named.get("mesh-key"), named.get("mesh-cause")
        said.content_type = getattr(properties, "ContentType", None)
        said.reply_to = getattr(properties, "ResponseTopic", None)
        correlation = getattr(properties, "CorrelationData", None)
        said.correlation = None if correlation is None else correlation.decode()
        said.expires_s = getattr(properties, "MessageExpiryInterval", None)
        return said

    def take(self, channel: str) -> Said:
        return self._seen[channel].get(timeout=PATIENCE_S)

    def retained(self, channel: str) -> Said:
        seen: queue.Queue[Said] = queue.Queue()
        client = self._connected(f"{self.name}-late", lambda _, __, message: seen.put(self._said(message)))
        try:
            client.subscribe(channel, qos=1)
            self._ready.get(timeout=PATIENCE_S)
            return seen.get(timeout=PATIENCE_S)
        finally:
            client.disconnect()
            client.loop_stop()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Http:
    """The standard library's HTTP client."""

    name = "http"

    def __init__(self, mesh: MeshProcess) -> None:
        self._address = mesh.address("http")
        self._next: dict[str, int] = {}

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: list[tuple[str, str]] | None = None
    ) -> tuple[int, bytes, list[tuple[str, str]]]:
        """Status, body and header fields."""
        connection = http.client.HTTPConnection(*self._address, timeout=PATIENCE_S)
        try:
            connection.putrequest(method, path)
            for name, value in headers or ():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheaders()
        finally:
            connection.close()

    def publish(self, channel: str, said: Said) -> None:
        fields = [
            ("Content-Type", said.content_type),
            ("Mesh-Reply-To", said.reply_to),
            ("Mesh-Correlation", said.correlation),
            ("Mesh-Key", said.key),
            ("Mesh-Cause", said.cause),
            ("Mesh-Expires-Ms", None if said.expires_s is None else str(int(said.expires_s * 1000))),
            *((f"Mesh-H-{name}", value) for name, value in said.headers),
        ]
        query = "?retain=true" if said.retained else ""
        given = [(name, value) for name, value in fields if value is not None]
        status, body, _ = self.ask("POST", f"/v1/channels/{quote(channel)}{query}", said.payload, given)
        assert status == 201, body

    def listen(self, channel: str) -> None:
        self._next[channel] = 0

    def take(self, channel: str) -> Said:
        path = f"/v1/channels/{quote(channel)}?offset={self._next[channel]}&wait_ms={PATIENCE_S * 1000}&limit=1"
        status, body, _ = self.ask("GET", path)
        assert status == 200, body
        page = json.loads(body)
        self._next[channel] = page["next_offset"]
        return _from_json(page["messages"][0], "payload", "payload_base64", "from")

    def retained(self, channel: str) -> Said:
        status, body, headers = self.ask("GET", f"/v1/channels/{quote(channel)}?retained=true")
        assert status == 200, body
        return Said(body, retained=True, content_type=dict(headers).get("Content-Type"))

    def raw(self, channel: str) -> list[tuple[str, str]]:
        """The header fields of the newest message, raw."""
        status, body, headers = self.ask("GET", f"/v1/channels/{quote(channel)}?last=true")
        assert status == 200, body
        return headers

    def close(self) -> None:
        """Nothing is held."""


class Mcp:
    """The official SDK, in a loop of its own thread."""

    name = "mcp"

    def __init__(self, mesh: MeshProcess) -> None:
        self._url = f"{mesh.url}/mcp"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._next: dict[str, int] = {}

    def run(self, work: Callable[[Client], Any]) -> Any:
        """Does something with a connected client."""

        async def with_client() -> Any:
            async with Client(self._url, mode="2026-07-28") as client:
                return await work(client)

        return asyncio.run_coroutine_threadsafe(with_client(), self._loop).result(PATIENCE_S * 2)

    def tool(self, name: str, **arguments: object) -> dict[str, Any]:
        """What a tool answers, as structured content."""
        result = self.run(lambda client: client.call_tool(name, arguments))
        assert not result.is_error, result.content
        answer = result.structured_content
        assert isinstance(answer, dict)
        return answer

    def publish(self, channel: str, said: Said) -> None:
        arguments: dict[str, object] = {"channel": channel}
        try:
            arguments["text"] = said.payload.decode()
        except UnicodeDecodeError:
            arguments["base64"] = base64.b64encode(said.payload).decode()
        given = {
            "content_type": said.content_type,
            "reply_to": said.reply_to,
            "correlation": said.correlation,
            "key": said.key,
            "cause": said.cause,
            "expires_s": said.expires_s,
            "headers": dict(said.headers) or None,
            "retain": said.retained,
        }
        arguments |= {name: value for name, value in given.items() if value is not None}
        self.tool("mesh_publish", **arguments)

    def listen(self, channel: str) -> None:
        self._next[channel] = 0

    def take(self, channel: str) -> Said:
        answer = self.tool("mesh_read", channel=channel, offset=self._next[channel], limit=1)
        self._next[channel] += 1
        return _from_json(answer["messages"][0], "text", "base64", "sender")

    def retained(self, channel: str) -> Said:
        result = self.run(lambda client: client.read_resource(f"channel:///{quote(channel)}"))
        (content,) = result.contents
        text = getattr(content, "text", None)
        return Said(text.encode() if text is not None else base64.b64decode(content.blob), retained=True)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


def _from_json(seen: dict[str, Any], text: str, binary: str, sender: str) -> Said:
    expires_ms = seen.get("expires_ms")
    return Said(
        payload=seen[text].encode() if text in seen else base64.b64decode(seen[binary]),
        headers=[(header["name"], header["value"]) for header in seen.get("headers", [])],
        content_type=seen.get("content_type"),
        reply_to=seen.get("reply_to"),
        correlation=seen.get("correlation"),
        expires_s=None if expires_ms is None else expires_ms / 1000 - time.time(),
        key=seen.get("key"),
        cause=seen.get("cause"),
        id=seen.get("id"),
        sender=seen.get(sender),
    )


class Peers:
    """Two clients of each protocol: one to say and one to see, so that nobody hears itself."""

    def __init__(self, mesh: MeshProcess) -> None:
        self.mesh = mesh
        self.sayers: dict[str, Peer] = {}
        self.seers: dict[str, Peer] = {}
        for role, peers in (("say", self.sayers), ("see", self.seers)):
            peers["mqtt3"] = Mqtt(mesh, f"{role}-mqtt3", 4)
            peers["mqtt5"] = Mqtt(mesh, f"{role}-mqtt5", 5)
            peers["http"] = Http(mesh)
            peers["mcp"] = Mcp(mesh)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in (*self.sayers.values(), *self.seers.values()):
            peer.close()

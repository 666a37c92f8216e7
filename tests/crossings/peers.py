"""One real client per protocol, with the same few verbs: publish a message, listen to a channel, see what was said.

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
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, Self
from urllib.parse import quote

import paho.mqtt.client as mqtt
from mcp import Client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.clients.mesh import MeshProcess
from tests.crossings.said import TRACE, Said, fields, from_fields, from_json, from_user_properties, user_properties

PATIENCE_S = 10
TOKEN = "crossings-and-nothing-else"
USER = "walker"

HTTP_WORDS = ("payload", "payload_base64", "from", "retain")
MCP_WORDS = ("text", "base64", "sender", "retained")


def credentials(agent: str) -> dict[str, str]:
    """Header fields with which HTTP and MCP speak as an agent."""
    return {"Authorization": f"Bearer {TOKEN}", "Mesh-Agent": agent}


class Peer(Protocol):
    """A client of one protocol. ``name`` is its agent."""

    name: str

    def publish(self, channel: str, said: Said) -> None:
        """Returns when it is acknowledged."""

    def listen(self, channel: str) -> None:
        """From now on what is said there can be seen."""

    def see(self, channel: str) -> dict[str, Said]:
        """The next message of a channel that was listened to, in each way the protocol shows it."""

    def retained(self, channel: str) -> Said:
        """The channel's retained value, as a newcomer sees it. Only its payload and what is asked of it."""

    def close(self) -> None:
        """Leaves."""


class Mqtt:
    """paho-mqtt."""

    def __init__(self, mesh: MeshProcess, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self._address = mesh.address("mqtt")
        self._seen: dict[str, queue.Queue[mqtt.MQTTMessage]] = {}
        self._ready: queue.Queue[int] = queue.Queue()
        self.client = self._connected(name, lambda _, __, message: self._seen[message.topic].put(message))

    def _connected(self, name: str, on_message: Callable[..., None], *, kept: bool = False) -> mqtt.Client:
        protocol = mqtt.MQTTv5 if self.version == 5 else mqtt.MQTTv311
        clean = None if self.version == 5 else not kept
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, clean, protocol=protocol)
        client.on_subscribe = lambda *_: self._ready.put(1)
        client.on_connect = lambda *_: self._ready.put(1)
        client.on_message = on_message
        client.username_pw_set(USER, TOKEN)
        lasting = None
        if kept and self.version == 5:
            lasting = Properties(PacketTypes.CONNECT)
            lasting.SessionExpiryInterval = 600
        client.connect(*self._address, clean_start=not kept if self.version == 5 else 3, properties=lasting)
        client.loop_start()
        self._ready.get(timeout=PATIENCE_S)
        return client

    def publish(self, channel: str, said: Said) -> None:
        wish = 1 if said.wish is None else said.wish
        payload = said.payload or b""
        sent = self.client.publish(channel, payload, wish, bool(said.retain), properties=self._properties(said))
        sent.wait_for_publish(PATIENCE_S)
        assert sent.is_published()

    def _properties(self, said: Said) -> Properties | None:
        if self.version != 5:
            return None
        made = Properties(PacketTypes.PUBLISH)
        pairs = user_properties(said)
        if pairs:
            made.UserProperty = pairs
        for name, value in (
            ("PayloadFormatIndicator", said.text and 1),
            ("ContentType", said.content_type),
            ("ResponseTopic", said.reply_to),
            ("CorrelationData", said.correlation),
            ("MessageExpiryInterval", None if said.expires_s is None else int(said.expires_s)),
        ):
            if value is not None:
                setattr(made, name, value)
        return made

    def listen(self, channel: str) -> None:
        self._seen.setdefault(channel, queue.Queue())
        if self.version == 5:
            self.client.subscribe(channel, options=SubscribeOptions(qos=2, retainAsPublished=True))
        else:
            self.client.subscribe(channel, qos=2)
        self._ready.get(timeout=PATIENCE_S)

    def properties(self, channel: str) -> Properties:
        """The next message's properties as paho has them."""
        found = self._seen[channel].get(timeout=PATIENCE_S).properties
        assert found is not None
        return found

    def see(self, channel: str) -> dict[str, Said]:
        return {"message": self._said(self._seen[channel].get(timeout=PATIENCE_S))}

    def _said(self, message: mqtt.MQTTMessage) -> Said:
        said = Said(bytes(message.payload), retain=bool(message.retain), wish=message.qos)
        properties = message.properties
        if self.version != 5 or properties is None:
            return said
        from_user_properties(said, getattr(properties, "UserProperty", []))
        said.text = bool(getattr(properties, "PayloadFormatIndicator", 0))
        said.content_type = getattr(properties, "ContentType", None)
        said.reply_to = getattr(properties, "ResponseTopic", None)
        said.correlation = getattr(properties, "CorrelationData", None)
        said.expires_s = getattr(properties, "MessageExpiryInterval", None)
        return said

    def leave_standing(self, channel: str) -> None:
        """Subscribes in a session that is kept, and goes away."""
        client, _ = self._standing(channel)
        client.subscribe(channel, qos=1)
        self._ready.get(timeout=PATIENCE_S)
        self._gone(client)

    def come_back(self, channel: str) -> list[bytes]:
        """What the kept session is given when it is taken up: all up to "here"."""
        client, seen = self._standing(channel)
        try:
            return _until_here(seen)
        finally:
            self._gone(client)

    def newcomer(self, channel: str) -> list[bytes]:
        """What somebody is given who subscribes only now, before what is said then."""
        seen: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        client = self._connected(f"{self.name}-new", lambda _, __, message: seen.put(message))
        try:
            client.subscribe(channel, qos=1)
            self._ready.get(timeout=PATIENCE_S)
            client.publish(channel, b"here", 1)
            return _until_here(seen)
        finally:
            self._gone(client)

    def _standing(self, channel: str) -> tuple[mqtt.Client, queue.Queue[mqtt.MQTTMessage]]:
        seen: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        name = f"{self.name}-{channel.replace('/', '-')}"
        return self._connected(name, lambda _, __, message: seen.put(message), kept=True), seen

    def _gone(self, client: mqtt.Client) -> None:
        client.disconnect()
        client.loop_stop()

    def retained(self, channel: str) -> Said:
        seen: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        client = self._connected(f"{self.name}-late", lambda _, __, message: seen.put(message))
        try:
            client.subscribe(channel, qos=1)
            self._ready.get(timeout=PATIENCE_S)
            return self._said(seen.get(timeout=PATIENCE_S))
        finally:
            client.disconnect()
            client.loop_stop()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def _until_here(seen: queue.Queue[mqtt.MQTTMessage]) -> list[bytes]:
    payloads: list[bytes] = []
    while payloads[-1:] != [b"here"]:
        payloads.append(bytes(seen.get(timeout=PATIENCE_S).payload))
    return payloads


class Http:
    """The standard library's HTTP client."""

    def __init__(self, mesh: MeshProcess, name: str) -> None:
        self.name = name
        self.address = mesh.address("http")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: list[tuple[str, str]] | None = None
    ) -> tuple[int, bytes, list[tuple[str, str]]]:
        """Status, body and header fields."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        try:
            connection.putrequest(method, path)
            for name, value in (*credentials(self.name).items(), *(headers or ())):
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheaders()
        finally:
            connection.close()

    def publish(self, channel: str, said: Said) -> None:
        query = [("retain", said.retain and "true"), ("wish", said.wish)]
        query.append(("tombstone", "true" if said.payload is None else None))
        text = "&".join(f"{name}={value}" for name, value in query if value is not None)
        status, body, _ = self.ask("POST", f"/v1/channels/{quote(channel)}?{text}", said.payload or b"", fields(said))
        assert status == 201, body

    def listen(self, channel: str) -> None:
        """A reader has no need to be there."""

    def see(self, channel: str) -> dict[str, Said]:
        path = f"/v1/channels/{quote(channel)}"
        status, body, _ = self.ask("GET", f"{path}?offset=0&wait_ms={PATIENCE_S * 1000}")
        assert status == 200, body
        (message,) = json.loads(body)["messages"]
        raw = self.ask("GET", f"{path}?last=true")
        return {
            "page": from_json(message, HTTP_WORDS, time.time()),
            "raw": from_fields(*raw),
            "event": from_json(self.event(channel), HTTP_WORDS, time.time()),
        }

    def event(self, channel: str) -> dict[str, Any]:
        """The first event of a stream from the beginning."""
        path = f"/v1/channels/{quote(channel)}?start=earliest"
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        try:
            connection.request("GET", path, headers={"Accept": "text/event-stream"})
            for line in connection.getresponse():
                if line.startswith(b"data:"):
                    found = json.loads(line.removeprefix(b"data:"))
                    assert isinstance(found, dict)
                    return found
        finally:
            connection.close()
        raise AssertionError("the stream ended without an event")

    def retained(self, channel: str) -> Said:
        return from_fields(*self.ask("GET", f"/v1/channels/{quote(channel)}?retained=true"))

    def close(self) -> None:
        """Nothing is held."""


class Mcp:
    """The official SDK, in a loop of its own thread."""

    def __init__(self, mesh: MeshProcess, name: str) -> None:
        self.name = name
        self._url = f"{mesh.url}/mcp"
        self._client: Client | None = None
        self._left = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._hold()), daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    async def _hold(self) -> None:
        async with create_mcp_http_client(headers=credentials(self.name)) as web:
            transport = streamable_http_client(self._url, http_client=web)
            async with Client(transport, mode="2026-07-28", cache=None) as client:
                self._client = client
                self._ready.set()
                await self._left.wait()

    @property
    def client(self) -> Client:
        """The connected client; use it in ``run``."""
        assert self._client is not None
        return self._client

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Does something in the client's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S * 2)

    def tool(self, name: str, arguments: dict[str, Any], meta: Any = None) -> dict[str, Any]:
        """What a tool answers, as structured content."""
        result = self.run(self.client.call_tool(name, arguments, meta=meta))
        assert not result.is_error, result.content
        answer = result.structured_content
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
        meta = {name: value.decode() for name, value in said.headers if name in TRACE and value is not None}
        headers = [{"name": n, **spelt("value", "value_base64", v)} for n, v in said.headers if n not in TRACE]
        if headers:
            arguments["headers"] = headers
        self.tool("mesh_publish", arguments, meta or None)

    def listen(self, channel: str) -> None:
        self.tool("mesh_join", {"channel": channel, "cursor": channel})

    def leave_standing(self, channel: str) -> None:
        """A cursor that is read later."""
        self.listen(channel)

    def see(self, channel: str) -> dict[str, Said]:
        (waited,) = self.tool("mesh_wait", {"cursor": channel, "timeout_s": PATIENCE_S})["messages"]
        (read,) = self.tool("mesh_read", {"channel": channel, "offset": 0})["messages"]
        return {"wait": from_json(waited, MCP_WORDS, time.time()), "read": from_json(read, MCP_WORDS, time.time())}

    def retained(self, channel: str) -> Said:
        (content,) = self.run(self.client.read_resource(f"channel:///{quote(channel)}")).contents
        text = getattr(content, "text", None)
        return Said(text.encode() if text is not None else base64.b64decode(content.blob))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._left.set)
        self._thread.join(PATIENCE_S)
        self._loop.close()


def spelt(text: str, binary: str, value: bytes | None) -> dict[str, str]:
    """Bytes under the one word or the other; nothing for None."""
    if value is None:
        return {}
    try:
        return {text: value.decode()}
    except UnicodeDecodeError:
        return {binary: base64.b64encode(value).decode()}


class Peers:
    """Two clients of each protocol: one to say and one to see, so that nobody hears itself."""

    def __init__(self, mesh: MeshProcess) -> None:
        self.mesh = mesh
        from tests.crossings.a2a_peer import A2a
        from tests.crossings.kafka_peer import Kafka

        self.sayers: dict[str, Peer] = {}
        self.seers: dict[str, Peer] = {}
        for role, peers in (("say", self.sayers), ("see", self.seers)):
            peers["mqtt3"] = Mqtt(mesh, f"{role}-mqtt3", 4)
            peers["mqtt5"] = Mqtt(mesh, f"{role}-mqtt5", 5)
            peers["kafka"] = Kafka(mesh, f"{role}-kafka")
            peers["http"] = Http(mesh, f"{role}-http")
            peers["mcp"] = Mcp(mesh, f"{role}-mcp")
            peers["a2a"] = A2a(mesh, f"{role}-a2a")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in (*self.sayers.values(), *self.seers.values()):
            peer.close()

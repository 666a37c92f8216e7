"""An MCP client over MQTT, word for word as EMQ's profile has it, on paho; and a mesh for it to meet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

import aiomqtt
from aiomqtt import ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from dragoman.adapters.mcp.mqtt_gateway import MqttGateway
from dragoman.adapters.mcp.mqtt_talks import Talks
from dragoman.adapters.serving.settings import ListenSettings
from dragoman.broker.identity import mesh_id
from dragoman.config import Config
from dragoman.mesh import Mesh

WAIT_S = 30.0
NAME = "dragoman/mesh"
INITIALIZE = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "d", "version": "1"}}
CALL = "tools/call"


class Device:
    """One connection. What it hears is taken in order; its ``will`` is the profile's if it has one."""

    def __init__(
        self, mesh: Mesh, client_id: str, version: ProtocolVersion = ProtocolVersion.V5, **options: Any
    ) -> None:
        self.id = client_id
        self.mesh_id = mesh_id(mesh.broker.log)
        self.control = f"$mcp-server/{self.mesh_id}/{NAME}"
        self.presence = f"$mcp-server/presence/{self.mesh_id}/{NAME}"
        self.capability = f"$mcp-server/capability/{self.mesh_id}/{NAME}"
        self.rpc = f"$mcp-rpc/{client_id}/{self.mesh_id}/{NAME}"
        self.version = version
        host, _, port = mesh.addresses["mqtt"].rpartition(":")
        self.mqtt = aiomqtt.Client(host, int(port), identifier=client_id, protocol=version, **options)

    async def __aenter__(self) -> Self:
        await self.mqtt.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.mqtt.__aexit__(*error)

    async def say(self, topic: str, said: dict[str, Any] | str) -> None:
        properties = None
        if self.version is ProtocolVersion.V5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = [("MCP-COMPONENT-TYPE", "mcp-client"), ("MCP-MQTT-CLIENT-ID", self.id)]
        text = said if isinstance(said, str) else json.dumps({"jsonrpc": "2.0", **said})
        await self.mqtt.publish(topic, text, 1, properties=properties)

    async def heard(self) -> tuple[str, Any]:
        """The next message."""
        async with asyncio.timeout(WAIT_S):
            message = await anext(self.mqtt.messages)
        assert isinstance(message.payload, bytes)
        if self.version is ProtocolVersion.V5:
            assert dict(getattr(message.properties, "UserProperty", []))["MCP-COMPONENT-TYPE"] == "mcp-server"
        return str(message.topic), json.loads(message.payload)

    async def answer(self) -> Any:
        """The next thing said at its own topic, and nothing else before."""
        topic, said = await self.heard()
        assert topic == self.rpc
        return said

    async def send(self, number: int, method: str, params: Any = None) -> None:
        await self.say(self.rpc, {"id": number, "method": method, "params": params or {}})

    async def ask(self, number: int, method: str, params: Any = None) -> Any:
        await self.send(number, method, params)
        said = await self.answer()
        assert said["id"] == number
        return said

    async def call(self, number: int, name: str, **arguments: Any) -> Any:
        """The result of a tool."""
        return (await self.ask(number, CALL, {"name": name, "arguments": arguments}))["result"]

    async def listen(self, filter_: str = "") -> None:
        v5 = self.version is ProtocolVersion.V5
        options = {"options": SubscribeOptions(qos=1, noLocal=True)} if v5 else {"qos": 1}
        await self.mqtt.subscribe(filter_ or self.rpc, **options)  # type: ignore[arg-type]

    async def begin(self, filter_: str = "") -> Any:
        await self.listen(filter_)
        await self.say(self.control, {"id": 0, "method": "initialize", "params": INITIALIZE})
        said = await self.answer()
        if "result" in said:
            await self.say(self.rpc, {"method": "notifications/initialized"})
        return said


def run(body: Callable[[Mesh], Awaitable[None]], **parts: Any) -> None:
    """Runs a test against a mesh. A test that hangs fails."""

    async def main() -> None:
        async with Mesh(config(**parts)) as mesh, asyncio.timeout(2 * WAIT_S):
            await body(mesh)

    asyncio.run(main())


def config(**parts: Any) -> Config:
    listen = ListenSettings(mqtt="127.0.0.1:0", kafka="off", http="off")
    return Config(**{"data": ":memory:", "listen": listen, **parts})


def talks_of(mesh: Mesh) -> Talks:
    (gateway,) = (listener for listener in mesh._listeners if isinstance(listener, MqttGateway))
    assert gateway._talks is not None, "nobody has said anything"
    return gateway._talks


def nothing_left(mesh: Mesh) -> bool:
    """Whether the mesh has forgotten every client: sessions, requests, what they follow."""
    talks = talks_of(mesh)
    left = talks._by_client or len(talks._sessions) or talks._desk.sessions._total or talks._desk.requests._total
    return not left and not talks._running


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns when it holds; fails when it never does."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

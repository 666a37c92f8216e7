"""MCP over MQTT passes through unharmed: a server in a program of its own, a client here, EMQ's profile between."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Self

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from dragoman.adapters.serving.settings import ListenSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.config import Config
from dragoman.mesh import Mesh
from tests.mqtt import mcp_server
from tests.mqtt.mcp_server import NAME

WAIT_S = 30.0


class Client:
    """An MCP client over MQTT. What it hears is taken topic by topic, in order."""

    def __init__(self, mesh: Mesh, client_id: str) -> None:
        self.id = client_id
        host, _, port = mesh.addresses["mqtt"].rpartition(":")
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0
        properties.UserProperty = [("MCP-COMPONENT-TYPE", "mcp-client"), ("MCP-META", json.dumps({"version": "1"}))]
        gone = json.dumps({"jsonrpc": "2.0", "method": "notifications/disconnected"})
        self.mqtt = aiomqtt.Client(
            host,
            int(port),
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            properties=properties,
            will=aiomqtt.Will(f"$mcp-client/presence/{client_id}", gone, 1),
        )
        self._rpc = ""
        self._number = 0

    async def __aenter__(self) -> Self:
        await self.mqtt.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.mqtt.__aexit__(*error)

    async def heard(self) -> tuple[str, dict[str, Any] | None, dict[str, str]]:
        """The next message: topic, what it says (None: nothing), its user properties."""
        async with asyncio.timeout(WAIT_S):
            message = await anext(self.mqtt.messages)
        assert isinstance(message.payload, bytes)
        said = json.loads(message.payload) if message.payload else None
        return str(message.topic), said, dict(getattr(message.properties, "UserProperty", []))

    async def say(self, topic: str, said: dict[str, Any]) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("MCP-COMPONENT-TYPE", "mcp-client"), ("MCP-MQTT-CLIENT-ID", self.id)]
        await self.mqtt.publish(topic, json.dumps({"jsonrpc": "2.0", **said}), 1, properties=properties)

    async def initialize(self, server_id: str) -> Any:
        self._rpc = f"$mcp-rpc/{self.id}/{server_id}/{NAME}"
        await self.mqtt.subscribe(f"$mcp-server/capability/{server_id}/{NAME}", 1)
        await self.mqtt.subscribe(self._rpc, options=SubscribeOptions(qos=1, noLocal=True))
        params = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        result = await self.ask("initialize", params, topic=f"$mcp-server/{server_id}/{NAME}")
        await self.say(self._rpc, {"method": "notifications/initialized"})
        return result

    async def ask(self, method: str, params: Any = None, *, topic: str = "") -> Any:
        """One request; its answer is the next thing that is heard, so nothing of our own comes back to us."""
        self._number += 1
        await self.say(topic or self._rpc, {"id": self._number, "method": method, "params": params or {}})
        topic, said, user = await self.heard()
        assert said is not None
        assert (topic, said["id"]) == (self._rpc, self._number)
        assert user["MCP-COMPONENT-TYPE"] == "mcp-server"
        return said["result"]

    async def notify(self, method: str) -> None:
        await self.say(f"$mcp-client/capability/{self.id}", {"method": method})

    async def leave(self) -> None:
        await self.say(f"$mcp-client/presence/{self.id}", {"method": "notifications/disconnected"})


async def started(mesh: Mesh, server_id: str) -> asyncio.subprocess.Process:
    host, _, port = mesh.addresses["mqtt"].rpartition(":")
    return await asyncio.create_subprocess_exec(sys.executable, mcp_server.__file__, host, port, server_id)


def run(body: Callable[[Mesh], Awaitable[None]], **parts: Any) -> None:
    listen = ListenSettings(mqtt="127.0.0.1:0", kafka="off", http="off")

    async def main() -> None:
        async with Mesh(Config(data=":memory:", listen=listen, **parts)) as mesh:
            await body(mesh)

    asyncio.run(main())


async def online(client: Client, server_id: str) -> None:
    topic, said, _ = await client.heard()
    assert topic == f"$mcp-server/presence/{server_id}/{NAME}"
    assert said is not None
    assert said["method"] == "notifications/server/online"
    assert said["params"]["server_name"] == NAME


async def offline(client: Client, server_id: str) -> None:
    assert (await client.heard())[:2] == (f"$mcp-server/presence/{server_id}/{NAME}", None)


async def converse(mesh: Mesh) -> None:
    async with Client(mesh, "mcp-client-1") as client:
        await client.mqtt.subscribe("$mcp-server/presence/+/plant/calculators/#", 1)
        server = await started(mesh, "adder-1")
        await online(client, "adder-1")
        result = await client.initialize("adder-1")
        assert result["serverInfo"]["name"] == NAME
        assert [tool["name"] for tool in (await client.ask("tools/list"))["tools"]] == ["add"]
        called = await client.ask("tools/call", {"name": "add", "arguments": {"numbers": [1, 2, 39]}})
        assert called["content"] == [{"type": "text", "text": "42"}]
        await client.notify("notifications/roots/list_changed")
        topic, said, _ = await client.heard()
        assert (topic, said) == (
            f"$mcp-server/capability/adder-1/{NAME}",
            {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
        )
        # A program that is killed says nothing; its will clears what it had registered.
        server.kill()
        await server.wait()
        await offline(client, "adder-1")
        second = await started(mesh, "adder-2")
        await online(client, "adder-2")
        async with Client(mesh, "mcp-client-2") as late:
            await late.mqtt.subscribe("$mcp-server/presence/+/plant/#", 1)
            await online(late, "adder-2")
            await late.initialize("adder-2")
            await late.leave()
            await offline(late, "adder-2")
        await offline(client, "adder-2")
        assert await second.wait() == 0
        assert not list(mesh.broker.core.commits.names.find("$mcp-server/#")), "nothing is left behind"


def test_a_server_and_a_client_of_the_profile_find_each_other_and_converse() -> None:
    run(converse)


def test_rules_over_channels_do_not_shut_the_topics_of_mcp() -> None:
    # As plants write them: `#` says nothing about names that begin with $.
    deny = RuleSettings(effect="deny", who=("*",), actions=("publish", "read"), filters=("#",))
    run(converse, gate=GateSettings(rules=(deny,)))


def test_a_default_of_deny_needs_one_rule_for_mcp() -> None:
    allow = RuleSettings(
        effect="allow",
        who=("*",),
        actions=("publish", "read"),
        filters=("$mcp-server/#", "$mcp-client/#", "$mcp-rpc/#"),
    )
    run(converse, gate=GateSettings(default="deny", rules=(allow,)))

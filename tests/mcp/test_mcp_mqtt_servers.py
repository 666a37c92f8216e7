"""MCP servers over MQTT as agents of the mesh, by the packets to and fro; and one that is a program of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from dragoman.adapters.mcp.mqtt_servers import MqttServers
from dragoman.adapters.mqtt.packets import Publish, Subscription, Will
from dragoman.adapters.mqtt.properties import parse_properties
from dragoman.adapters.serving.settings import ListenSettings
from dragoman.broker.call import Call, Outcome
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.principal import Principal
from dragoman.config import Config
from dragoman.mesh import Mesh
from dragoman.routing.refusals import Reason, Refusal
from tests.mqtt import mcp_server
from tests.mqtt.wire import Client, World

NAME = "plant/adder"
PRESENCE = f"$mcp-server/presence/s1/{NAME}"
CONTROL = f"$mcp-server/s1/{NAME}"
ONLINE = json.dumps({"jsonrpc": "2.0", "method": "notifications/server/online", "params": {"server_name": NAME}})
ADD = {"name": "add", "description": "Adds.", "inputSchema": {"type": "object"}}


class Server:
    """An MCP server, said packet by packet."""

    def __init__(self, w: World, *, tools: list[Any] | None = None) -> None:
        self.client: Client = w.connected("s1", will=Will(PRESENCE.encode(), b"", 1, True))
        self.client.subscribe(CONTROL, qos=1)
        self.number = 0
        self.rpc = ""
        if tools is not None:
            self.online()
            (asked,) = self.asked()
            assert asked["method"] == "initialize"
            self.answer(
                asked,
                {"protocolVersion": "2025-03-26", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}},
            )
            initialized, listing = self.asked()
            assert initialized["method"] == "notifications/initialized"
            self.answer(listing, {"tools": tools})

    def online(self) -> None:
        self.say(PRESENCE, json.loads(ONLINE), retain=True)

    def say(self, topic: str, said: dict[str, Any] | None, *, retain: bool = False) -> None:
        self.number += 1
        payload = json.dumps({"jsonrpc": "2.0", **said}).encode() if said is not None else b""
        self.client.publish(topic, payload, 1, retain=retain, packet_id=self.number)

    def asked(self) -> list[dict[str, Any]]:
        """What it was told since; it listens where its client is, as soon as it knows that."""
        found = []
        for packet in self.client.packets():
            if not isinstance(packet, Publish):
                continue
            user = dict(parse_properties(packet.properties, 3).user_properties)
            assert user["MCP-COMPONENT-TYPE"] == "mcp-client"
            self.rpc = f"$mcp-rpc/{user['MCP-MQTT-CLIENT-ID']}/s1/{NAME}"
            if packet.topic.decode() == CONTROL:
                self.client.subscribe(Subscription(self.rpc, 1, no_local=True))
            found.append(json.loads(packet.payload))
        return found

    def answer(self, asked: dict[str, Any], result: Any = None, **more: Any) -> None:
        self.say(self.rpc, {"id": asked["id"], **({"result": result} if result is not None else more)})


class Caller:
    def __init__(self) -> None:
        self.session = InnerSession(Principal("p"), "caller")
        self.parts: list[bytes] = []
        self.outcome: Outcome | None = None

    def part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        self.parts.append(payload)

    def final(self, call: Call, outcome: Outcome) -> None:
        self.outcome = outcome

    @property
    def failure(self) -> Reason | None:
        return self.outcome.refusal.reason if self.outcome is not None and self.outcome.refusal is not None else None


def world(servers_max: int = 10) -> tuple[World, MqttServers]:
    w = World()
    servers = MqttServers(w.broker, servers_max)
    w.finish(servers.start())
    return w, servers


def call(w: World, arguments: bytes = b'{"a":1}', **options: Any) -> tuple[Caller, Call]:
    caller = Caller()
    asked = w.broker.calls.start(caller, agent="s1", skill="add", arguments=arguments, **options)
    assert isinstance(asked, Call), asked
    w.turn()
    return caller, asked


def test_a_servers_tools_are_skills_and_a_call_is_a_tools_call():
    w, _ = world()
    server = Server(w, tools=[ADD])
    ((_, skill, agents),) = w.broker.directory.skills(Principal("p"))
    assert (skill.name, skill.tags, agents) == ("add", ("mcp",), ["s1"])
    caller, _ = call(w)
    (asked,) = server.asked()
    assert (asked["method"], asked["params"]["name"], asked["params"]["arguments"]) == ("tools/call", "add", {"a": 1})
    progress = {"progressToken": asked["params"]["_meta"]["progressToken"], "progress": 1, "message": "half"}
    server.say(server.rpc, {"method": "notifications/progress", "params": progress})
    server.answer(asked, {"content": [{"type": "text", "text": "42"}]})
    assert caller.parts == [b"half"]
    assert caller.outcome is not None
    assert caller.outcome.payload == b"42"


def test_what_it_has_is_read_page_by_page_and_again_when_it_says_so():
    w, _ = world()
    server = Server(w, tools=[ADD])
    capability = f"$mcp-server/capability/s1/{NAME}"
    server.say(capability, {"method": "notifications/tools/list_changed"})
    server.say(capability, {"method": "notifications/tools/list_changed"})
    (listing,) = server.asked()
    server.answer(listing, {"tools": [ADD | {"name": "sub"}], "nextCursor": "2"})
    (listing,) = server.asked()
    assert listing["params"] == {"cursor": "2"}
    server.answer(listing, {"tools": [ADD | {"name": "mul"}]})
    assert sorted(skill.name for _, skill, _ in w.broker.directory.skills(Principal("p"))) == ["mul", "sub"]
    (again,) = server.asked()
    server.answer(again, {"tools": []})
    assert w.broker.directory.skills(Principal("p")) == []


def test_errors_and_nonsense_fail_the_call_and_nothing_else():
    w, _ = world()
    server = Server(w, tools=[ADD])
    for more, reason in (
        ({"error": {"code": -32602, "message": "no"}}, Reason.ARGUMENTS_INVALID),
        ({"error": {"code": -32603, "message": "no"}}, Reason.FAILED),
        ({"error": "no"}, Reason.FAILED),
        ({"result": {"content": 7}}, Reason.FAILED),
        ({"result": {"content": [{"type": "text", "text": "no"}], "isError": True}}, Reason.FAILED),
    ):
        caller, _ = call(w)
        (asked,) = server.asked()
        server.answer(asked, **more)
        assert caller.failure is reason
    caller, _ = call(w, b"[]")
    assert caller.failure is Reason.ARGUMENTS_INVALID
    for payload in (b"", b"{", b"[]", b'{"id":[]}', b'{"method":7,"params":8}'):
        server.client.publish(server.rpc, payload, 1, packet_id=99)
    server.client.publish(server.rpc, b'{"id":"p","method":"ping"}', 1, packet_id=99)
    said = server.asked()
    assert {"jsonrpc": "2.0", "id": "p", "result": {}} in said


def test_a_cancelled_call_is_cancelled_there():
    w, _ = world()
    server = Server(w, tools=[ADD])
    caller, asked = call(w)
    (request,) = server.asked()
    assert w.broker.calls.cancel(caller.session, asked.id) is None
    (cancelled,) = server.asked()
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"]["requestId"] == request["id"]
    server.answer(request, {"content": []})
    assert caller.failure is Reason.CANCELLED


def test_a_call_may_take_as_long_as_its_deadline():
    w, _ = world()
    server = Server(w, tools=[ADD])
    caller, _ = call(w, deadline_ms=300_000)
    (asked,) = server.asked()
    w.advance(200_000)
    server.answer(asked, {"content": [{"type": "text", "text": "late"}]})
    assert caller.outcome is not None
    assert caller.outcome.payload == b"late"


def test_one_that_goes_takes_its_tools_with_it_and_comes_back():
    w, servers = world()
    server = Server(w, tools=[ADD])
    caller, _ = call(w)
    server.client.vanish()
    assert caller.failure is Reason.AGENT_UNREACHABLE
    assert not servers._by_server
    assert isinstance(w.broker.calls.start(Caller(), agent="s1", skill="add", arguments=b"{}"), Refusal)
    server = Server(w, tools=[ADD])
    call(w)
    assert len(server.asked()) == 1
    server.say(server.rpc, {"method": "notifications/disconnected"})
    assert not servers._by_server
    assert isinstance(w.broker.calls.start(Caller(), agent="s1", skill="add", arguments=b"{}"), Refusal)


def test_only_a_servers_own_presence_counts_and_only_so_many():
    w, servers = world(servers_max=1)
    forger = w.connected("forger")
    w.connected("s2")
    forger.publish(f"$mcp-server/presence/s2/{NAME}", ONLINE.encode(), 1, retain=True)
    assert not servers._by_server
    server = Server(w, tools=[ADD])
    forger.publish(server.rpc, b'{"method":"notifications/disconnected"}', 1)
    forger.publish(PRESENCE, b"", 1, retain=True)
    assert len(servers._by_server) == 1
    other = w.connected("s3")
    other.publish(f"$mcp-server/presence/s3/{NAME}", ONLINE.encode(), 1, retain=True)
    assert list(servers._by_server) == [("s1", NAME)]
    server.client.packets()
    server.online()
    assert server.asked() == [], "it is known already"


def test_one_that_never_answers_is_not_waited_for():
    w, _ = world()
    server = Server(w)
    server.online()
    (asked,) = server.asked()
    w.advance(31_000)
    server.answer(asked, {"protocolVersion": "2025-03-26"})
    assert server.asked() == []


def test_a_program_of_its_own_is_a_tool_for_everybody() -> None:
    async def main() -> None:
        listen = ListenSettings(mqtt="127.0.0.1:0", kafka="off", http="off")
        async with Mesh(Config(data=":memory:", listen=listen)) as mesh, asyncio.timeout(60):
            host, _, port = mesh.addresses["mqtt"].rpartition(":")
            met = asyncio.Event()
            mesh.broker.directory.watch(lambda change: met.set() if mesh.broker.directory.offers("add") else None)
            arguments = (sys.executable, mcp_server.__file__, host, port, "adder")
            server = await asyncio.create_subprocess_exec(*arguments)
            await met.wait()
            assert await mesh.call("add", b'{"numbers": [40, 2]}') == b"42"
            server.kill()
            await server.wait()

    asyncio.run(main())


@pytest.mark.parametrize("topic", ["$mcp-server/presence/s1", "$mcp-server/presence"])
def test_presence_without_a_name_is_nobodys(topic: str):
    w, servers = world()
    w.connected("s1").publish(topic, ONLINE.encode(), 1, retain=True)
    assert not servers._by_server

"""The mesh as an MCP server over MQTT: a client of EMQ's profile calls what anybody serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
from aiomqtt import MqttError, ProtocolVersion, Will
from mcp_device import NAME, Device, eventually, nothing_left, run, talks_of

from dragoman.adapters.mcp.mqtt_talks import Talks
from dragoman.adapters.mcp.settings import McpSettings
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.settings import BrokerSettings
from dragoman.mesh import Mesh

CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
GONE = "notifications/disconnected"


async def double(arguments: bytes) -> bytes:
    return json.dumps({"doubled": 2 * json.loads(arguments)["n"]}).encode()


class Waiting:
    """A skill that never ends by itself."""

    def __init__(self, mesh: Mesh) -> None:
        self.began = asyncio.Queue[int]()
        self.ended = asyncio.Queue[int]()
        mesh.serve("slow", self._serve, agent="sloth")

    async def _serve(self, arguments: bytes) -> bytes:
        self.began.put_nowait(1)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.put_nowait(1)
        raise AssertionError("it waits for ever")

    async def asked(self, device: Device, number: int) -> None:
        await device.send(number, "tools/call", {"name": "slow", "arguments": {}})
        await self.began.get()


def test_a_device_finds_the_mesh_and_calls_what_it_has() -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1") as device:
            await device.mqtt.subscribe("$mcp-server/presence/+/dragoman/#", 1)
            topic, online = await device.heard()
            assert topic == f"$mcp-server/presence/{device.mesh_id}/{NAME}"
            assert (online["method"], online["params"]["server_name"]) == ("notifications/server/online", NAME)
            result = (await device.begin())["result"]
            assert (result["protocolVersion"], result["serverInfo"]["name"]) == ("2025-03-26", "dragoman")
            assert (await device.ask(1, "ping"))["result"] == {}
            await device.mqtt.subscribe(device.capability, 1)
            serving = mesh.serve("double", double, agent="calculator")
            assert await device.heard() == (device.capability, {"jsonrpc": "2.0", "method": CHANGED})
            names = {tool["name"] for tool in (await device.ask(2, "tools/list"))["result"]["tools"]}
            assert {"double", "mesh_publish"} <= names
            assert "42" in (await device.call(3, "double", n=21))["content"][0]["text"]
            assert (await device.ask(5, "tools/nonsense"))["error"]["code"] == -32601
            serving.end()

    run(body)


@pytest.mark.parametrize(
    ("filter_", "found"),
    [
        ("$mcp-server/presence/#", True),
        ("$mcp-server/presence/+/#", True),
        ("$mcp-server/#", True),
        ("$mcp-server/presence/+/+/mesh", True),
        ("$mcp-server/presence/+/plant/#", False),
        ("$mcp-server/presence/+/+", False),
        ("+/presence/#", False),
        ("#", False),
    ],
)
def test_the_presence_of_the_mesh_is_found_by_the_filters_that_match_it(filter_: str, found: bool) -> None:
    async def body(mesh: Mesh) -> None:
        kept = [message.name for message in mesh.broker.schemes.retained(filter_, mesh.broker.retained_of)]
        assert kept == ([f"$mcp-server/presence/{Device(mesh, 'd1').mesh_id}/{NAME}"] if found else [])

    run(body)


def test_a_device_asks_another_which_answers_in_parts_and_may_fail() -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1") as device, Device(mesh, "oven") as oven:
            await oven.mqtt.subscribe("mesh/serve/bake/+", 1)
            await device.begin()
            params = {"name": "bake", "arguments": {"what": "bread"}, "_meta": {"progressToken": "p"}}
            await device.send(1, "tools/call", params)
            asked = await anext(oven.mqtt.messages)
            call = str(asked.topic).rpartition("/")[2]
            assert asked.payload == b'{"what":"bread"}'
            await oven.mqtt.publish(f"mesh/answer/{call}/part/1", "it rises", 1)
            progress = await device.answer()
            assert progress["method"] == "notifications/progress"
            assert progress["params"] == {"progressToken": "p", "progress": 1, "message": "it rises"}
            await oven.mqtt.publish(f"mesh/answer/{call}", '{"done":true}', 1)
            assert (await device.answer())["result"]["content"][0]["text"] == '{"done":true}'
            await device.send(2, "tools/call", params)
            call = str((await anext(oven.mqtt.messages)).topic).rpartition("/")[2]
            await oven.mqtt.publish(f"mesh/answer/{call}/error", "it is burnt", 1)
            failed = (await device.answer())["result"]
            assert failed["isError"]
            assert "it is burnt" in failed["content"][0]["text"]

    run(body)


def test_a_device_reads_channels_and_hears_of_their_changes_alone() -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1") as device, Device(mesh, "d2") as other:
            await device.begin()
            await other.begin()
            await mesh.publish("oven/heat", b"180")
            resource = {"uri": "channel:///oven/heat"}
            assert (await device.ask(1, "resources/read", resource))["result"]["contents"][0]["text"] == "180"
            assert (await device.ask(2, "resources/subscribe", resource))["result"] == {}
            await mesh.publish("oven/heat", b"190")
            assert await device.answer() == {"jsonrpc": "2.0", "method": UPDATED, "params": resource}
            assert (await device.ask(3, "resources/unsubscribe", resource))["result"] == {}
            await mesh.publish("oven/heat", b"200")
            assert (await device.ask(4, "ping"))["result"] == {}
            assert (await other.ask(5, "ping"))["result"] == {}, "and nothing of the oven before"
            # Their own talk is nobody's resource: each client that comes would be news to all others.
            listed = (await device.ask(6, "resources/list"))["result"]["resources"]
            assert [each["uri"] for each in listed] == ["channel:///oven/heat"]

    run(body, mcp=McpSettings(notices_gap_s=0.0, channels_look_ms=3_600_000))


def test_a_cancelled_call_is_cancelled_and_so_is_that_of_one_who_goes() -> None:
    async def body(mesh: Mesh) -> None:
        slow = Waiting(mesh)
        async with Device(mesh, "d1") as device:
            await device.begin()
            await slow.asked(device, 7)
            await device.say(device.rpc, {"method": "notifications/cancelled", "params": {"requestId": 7}})
            await slow.ended.get()
            await slow.asked(device, 7)
        await slow.ended.get()
        await eventually(lambda: nothing_left(mesh))
        channel = mesh.broker.channels.find(device.rpc)
        assert channel is None or (channel.last is None and not len(channel.ring))

    run(body)


@pytest.mark.parametrize("way", ["rpc", "presence", "unsubscribe", "wildcard"])
def test_a_client_that_says_goodbye_or_stops_listening_is_forgotten(way: str) -> None:
    async def body(mesh: Mesh) -> None:
        slow = Waiting(mesh)
        async with Device(mesh, "d1") as device:
            wide = f"$mcp-rpc/d1/{device.mesh_id}/dragoman/#"
            await device.begin(wide if way == "wildcard" else "")
            await device.ask(1, "resources/subscribe", {"uri": "channel:///oven/heat"})
            await slow.asked(device, 2)
            if way == "rpc":
                await device.say(device.rpc, {"method": GONE})
            elif way == "presence":
                await device.say("$mcp-client/presence/d1", {"method": GONE})
            else:
                await device.mqtt.unsubscribe(wide if way == "wildcard" else device.rpc)
            await slow.ended.get()
            await eventually(lambda: nothing_left(mesh))
            assert [
                session for session in mesh.broker.sessions() if session.agent == "d1" and session.protocol == "mcp"
            ] == []
            await device.listen()
            assert (await device.ask(3, "ping"))["error"]["code"] == -32600
            assert (await device.begin())["result"]

    run(body)


def test_a_goodbye_in_the_name_of_another_is_none() -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1") as device, Device(mesh, "d2") as other:
            await device.begin()
            await other.say("$mcp-client/presence/d1", {"method": GONE})
            await other.begin()
            assert (await device.ask(1, "ping"))["result"] == {}

    run(body)


@pytest.mark.parametrize("will", [True, False])
def test_a_connection_that_breaks_is_noticed_even_if_its_subscription_did_not_tell(
    will: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(mesh: Mesh) -> None:
        gone = Will("$mcp-client/presence/d1", json.dumps({"jsonrpc": "2.0", "method": GONE}), 1)
        device = Device(mesh, "d1", will=gone if will else None)
        with contextlib.suppress(MqttError):
            async with device:
                await device.begin()
                talks = talks_of(mesh)
                (talk,) = talks._by_client.values()
                monkeypatch.setattr(Talks, "deaf", lambda self, session: None)
                talks._look()
                assert talks._by_client, "it is there"
                device.mqtt._client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
                await eventually(lambda: talk.session not in mesh.broker.sessions())
                if not will:
                    talks._look()
                await eventually(lambda: nothing_left(mesh))

    run(body)


def test_the_idle_are_told_that_it_is_over_and_who_follows_or_waits_is_not_idle() -> None:
    async def body(mesh: Mesh) -> None:
        slow = Waiting(mesh)
        async with Device(mesh, "d1") as idle, Device(mesh, "d2") as follower, Device(mesh, "d3") as waiter:
            for device in (idle, follower, waiter):
                await device.begin()
            await follower.ask(1, "resources/subscribe", {"uri": "channel:///oven/heat"})
            await slow.asked(waiter, 1)
            talks = talks_of(mesh)
            await eventually(lambda: talks._by_client["d2"].handshake.streams == 1)
            for talk in talks._by_client.values():
                talk.handshake.used_ms -= 10_000
            talks._sessions._sweep()
            assert await idle.answer() == {"jsonrpc": "2.0", "method": GONE}
            assert (await idle.ask(2, "ping"))["error"]["code"] == -32600
            assert (await follower.ask(2, "ping"))["result"] == {}
            assert (await waiter.ask(2, "ping"))["result"] == {}
            assert (await idle.begin())["result"], "and may begin again"

    run(body, mcp=McpSettings(session_idle_s=5))


def test_a_second_initialize_begins_anew() -> None:
    async def body(mesh: Mesh) -> None:
        slow = Waiting(mesh)
        async with Device(mesh, "d1") as device:
            await device.begin()
            await slow.asked(device, 1)
            assert (await device.begin())["result"]
            await slow.ended.get()
            assert (await device.ask(1, "ping"))["result"] == {}
            assert len(talks_of(mesh)._sessions) == 1
            bad = {"id": 9, "method": "initialize", "params": {"protocolVersion": 7}}
            await device.say(device.control, bad)
            assert (await device.answer())["error"]["code"] == -32602
            await eventually(lambda: nothing_left(mesh))

    run(body)


def test_another_connection_of_the_same_client_id_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the first's subscription had not told of its end.
    monkeypatch.setattr(Talks, "deaf", lambda self, session: None)

    async def body(mesh: Mesh) -> None:
        slow = Waiting(mesh)
        with contextlib.suppress(MqttError):
            async with Device(mesh, "d1") as first:
                await first.begin()
                await slow.asked(first, 1)
                async with Device(mesh, "d1") as second:
                    await second.listen()
                    assert (await second.ask(2, "ping"))["error"]["code"] == -32600
                    assert (await second.begin())["result"]
                    await slow.ended.get()
                    assert (await second.ask(2, "ping"))["result"] == {}

    run(body)


def test_each_login_has_so_many_talks_and_each_talk_so_many_requests() -> None:
    async def body(mesh: Mesh) -> None:
        slow = Waiting(mesh)
        async with Device(mesh, "d1") as device, Device(mesh, "d2") as other, Device(mesh, "d3") as third:
            await device.begin()
            await other.begin()
            refused = (await third.begin())["error"]
            assert (refused["code"], refused["message"].partition(":")[0]) == (-32603, "quota-exceeded")
            await slow.asked(device, 1)
            assert (await device.ask(2, "ping"))["error"]["message"].startswith("quota-exceeded: 1 requests of this")
            await slow.asked(other, 1)
            await other.say(other.rpc, {"method": "notifications/cancelled", "params": {"requestId": 1}})
            await slow.ended.get()
            assert (await other.ask(2, "ping"))["result"] == {}
            await device.say(device.rpc, {"method": GONE})
            await slow.ended.get()
            assert (await third.begin())["result"]

    run(body, mcp=McpSettings(sessions_per_principal_max=2, sessions_max=2, session_requests_max=1))


@pytest.mark.parametrize(
    ("said", "number", "code"),
    [
        ("{", None, -32700),
        ("[]", None, -32600),
        ('{"id": 4, "method": "ping"}', 4, -32600),
        ('{"jsonrpc": "2.0", "id": "x", "method": "ping", "params": []}', "x", -32600),
        ('{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', None, -32600),
        ('{"jsonrpc": "2.0", "id": 4, "result": {}}', None, -32600),
        ('{"jsonrpc": "2.0", "id": 4, "method": "initialize", "params": {}}', 4, -32600),
        ('{"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": 5}}', 4, -32602),
        ('{"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": "no-such-tool"}}', 4, -32602),
        (json.dumps({"jsonrpc": "2.0", "id": 4, "method": "ping", "params": {"x": "y" * 2000}}), None, -32600),
    ],
)
@pytest.mark.parametrize("version", [ProtocolVersion.V311, ProtocolVersion.V5])
def test_what_is_no_proper_request_is_told_so_in_json_rpc(
    version: ProtocolVersion, said: str, number: Any, code: int
) -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1", version) as device:
            await device.begin()
            await device.say(device.rpc, said)
            answer = await device.answer()
            assert (answer["id"], answer["error"]["code"]) == (number, code)
            assert (await device.ask(5, "ping"))["result"] == {}, "it is still there"

    # Where a refusal would cut a client of 3.1.1, as some have it.
    run(body, mcp=McpSettings(body_bytes_max=1024), mqtt=MqttSettings(denied_publish="disconnect"))


def test_notifications_have_no_answer_even_where_they_are_wrong() -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1") as device:
            await device.listen()
            await device.say(device.rpc, {"method": "notifications/initialized"})
            await device.say(device.control, {"method": "initialize"})
            await device.say(device.rpc, {"method": GONE})
            assert (await device.ask(1, "tools/list"))["error"]["code"] == -32600
            assert mesh.broker.metrics.dropped["mcp-over-mqtt-notifications"] == 3

    run(body)


def test_an_answer_that_is_too_large_is_an_error() -> None:
    async def large(arguments: bytes) -> bytes:
        return b"x" * 9_000

    async def body(mesh: Mesh) -> None:
        mesh.serve("large", large, agent="whale")
        async with Device(mesh, "d1") as device:
            await device.begin()
            said = await device.ask(1, "tools/call", {"name": "large", "arguments": {}})
            assert said["error"]["code"] == -32603
            assert said["error"]["message"].startswith("too-large: ")

    run(body, broker=BrokerSettings(message_bytes_max=8_192))


def test_a_client_of_mqtt_3_1_1_has_all_of_it() -> None:
    async def body(mesh: Mesh) -> None:
        mesh.serve("double", double, agent="calculator")
        async with Device(mesh, "d1", ProtocolVersion.V311) as device:
            assert (await device.begin())["result"]["protocolVersion"] == "2025-03-26"
            # Without No Local: what it asks does not come back to it either.
            assert "42" in (await device.call(1, "double", n=21))["content"][0]["text"]

    run(body)

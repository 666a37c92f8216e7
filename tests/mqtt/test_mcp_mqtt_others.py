"""The mesh as an MCP server over MQTT beside others: who may read what, and what it has in common with HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
from mcp_device import INITIALIZE, NAME, WAIT_S, Device, config, eventually, nothing_left, run
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dragoman.adapters.mcp.settings import McpSettings
from dragoman.adapters.serving.credentials import hash_password
from dragoman.adapters.serving.settings import ListenSettings, LoginSettings, UserSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.mesh import Mesh
from dragoman.routing.refusals import Reason

HASH = hash_password(b"secret")
USERS = LoginSettings(users=(UserSettings("ann", HASH, admin=True), UserSettings("bob", HASH)))
HTTP = ListenSettings(mqtt="127.0.0.1:0", kafka="off", http="127.0.0.1:0")


def of(mesh: Mesh, user: str, client_id: str, **options: Any) -> Device:
    return Device(mesh, client_id, username=user, password="secret", **options)


async def marked(device: Device) -> list[str]:
    """The topics of what it has heard up to now."""
    await device.mqtt.subscribe(f"mark/{device.id}", 1)
    await device.mqtt.publish(f"mark/{device.id}", b"", 1)
    topics: list[str] = []
    while not topics or topics[-1] != f"mark/{device.id}":
        topics.append(str((await anext(device.mqtt.messages)).topic))
    return topics[:-1]


async def resource(device: Device, number: int, name: str) -> Any:
    return await device.ask(number, "resources/read", {"uri": f"channel:///{name}"})


def test_nobody_else_reads_what_a_client_asks_or_is_answered() -> None:
    async def body(mesh: Mesh) -> None:
        async with of(mesh, "ann", "d1") as device, of(mesh, "bob", "d2") as bob, of(mesh, "ann", "d3") as own:
            for spy in (bob, own):
                (code,) = await spy.mqtt.subscribe(device.rpc, 1)
                assert getattr(code, "value", code) == 0x87
                for wide in ("$mcp-rpc/#", "$mcp-rpc/+/#", f"$mcp-rpc/d1/{device.mesh_id}/dragoman/+"):
                    await spy.mqtt.subscribe(wide, 1)
                await spy.mqtt.subscribe(f"$mcp-server/{device.mesh_id}/#", 1)
            await device.begin()
            await device.call(1, "mesh_publish", channel="a", text="secret")
            for spy in (bob, own):
                assert await marked(spy) == []
                await spy.mqtt.unsubscribe("$mcp-rpc/#")
            await bob.begin()
            assert (await resource(device, 2, device.rpc))["result"], "it is its own"
            assert (await resource(bob, 3, device.rpc))["error"]["code"] == -32002
        # And whoever has the id of a client that is gone finds nothing of it.
        await eventually(lambda: mesh.broker.directory.get("d1") is None)
        async with of(mesh, "bob", "d1") as heir:
            await heir.listen()
            assert await marked(heir) == []
            assert (await heir.ask(1, "ping"))["error"]["code"] == -32600

    run(body, login=USERS, agents=AgentSettings(linger_ms=1, flap_ms=0))


def test_answers_that_a_kept_session_of_another_brings_to_disk_are_its_client_s_all_the_same() -> None:
    async def body(mesh: Mesh) -> None:
        def spying() -> Device:
            kept = Properties(PacketTypes.CONNECT)
            kept.SessionExpiryInterval = 1_000
            return of(mesh, "bob", "d2", properties=kept, clean_start=False)

        async with spying() as spy:
            await spy.mqtt.subscribe("$mcp-rpc/#", 1)
        async with of(mesh, "ann", "d1") as device:
            await device.begin()
            await device.call(1, "mesh_publish", channel="a", text="secret")
            channel = mesh.broker.channels.find(device.rpc)
            assert channel is not None
            assert channel.logged
        await eventually(lambda: nothing_left(mesh))
        assert mesh.broker.channels.find(device.rpc) is None
        async with spying() as spy:
            assert await marked(spy) == []

    run(body, login=USERS)


def test_only_the_client_itself_speaks_for_itself_and_only_after_initialize() -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1") as device, Device(mesh, "d2") as other:
            await device.mqtt.subscribe(device.rpc, 1)
            assert (await device.ask(1, "tools/list"))["error"]["code"] == -32600
            await device.begin()
            for topic in (device.rpc, device.capability, device.presence):
                await other.say(topic, {"id": 8, "method": "ping"})
            assert (await device.ask(9, "ping"))["result"] == {}
            assert mesh.broker.metrics.refused[Reason.NOT_AUTHORIZED.value] == 3

    run(body)


def test_calls_are_judged_as_all_else_their_client_does() -> None:
    async def body(mesh: Mesh) -> None:
        async with of(mesh, "bob", "d1") as device:
            await device.begin()
            refused = await device.call(1, "mesh_publish", channel="oven/heat", text="300")
            assert refused["isError"]
            assert refused["content"][0]["text"].startswith("not-authorized")
            assert not (await device.call(2, "mesh_publish", channel="other", text="1")).get("isError")
        async with of(mesh, "ann", "d2") as shut:
            await shut.say(shut.control, {"id": 0, "method": "initialize", "params": INITIALIZE})
            assert mesh.broker.metrics.refused[Reason.NOT_AUTHORIZED.value] >= 2

    heat = RuleSettings(effect="deny", who=("bob",), actions=("publish",), filters=("oven/#",))
    mcp = RuleSettings(effect="deny", who=("ann",), actions=("publish",), filters=("$mcp-server/#",))
    run(body, login=USERS, gate=GateSettings(rules=(heat, mcp)))


def test_names_of_other_servers_are_channels_as_ever() -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1") as device, Device(mesh, "d2") as other:
            await device.begin()
            names = [
                f"$mcp-rpc/d1/s1/{NAME}",
                f"$mcp-rpc/d1/s1/x/{device.mesh_id}/{NAME}",
                f"$mcp-rpc/d1/{device.mesh_id}/other",
                f"$mcp-server/s1/{NAME}",
                f"$mcp-server/presence/s1/{NAME}",
                f"$mcp-server/capability/s1/{NAME}",
                "$mcp-client/presence/d2",
                "$mcp-client/capability/d1",
            ]
            for name in names:
                await device.mqtt.publish(name, b"{}", 1, retain=True)
            for name in names:
                await other.mqtt.subscribe(name, 1)
            assert await marked(other) == names
            assert (await device.ask(1, "ping"))["result"] == {}

    run(body)


def test_limits_count_over_http_and_mqtt_together() -> None:
    async def body(mesh: Mesh) -> None:
        url = f"http://{mesh.addresses['http']}/mcp"
        lines = {"Accept": "application/json, text/event-stream"}
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
        async with aiohttp.ClientSession() as http, Device(mesh, "d1") as device:
            async with http.post(url, json=hello, headers=lines) as answer:
                assert answer.status == 200
                lines["Mcp-Session-Id"] = answer.headers["Mcp-Session-Id"]
            error = (await device.begin())["error"]
            assert error["message"].startswith("quota-exceeded: 1 sessions are open")
            async with http.delete(url, headers=lines) as answer:
                assert answer.status == 204
            assert (await device.begin())["result"]
            del lines["Mcp-Session-Id"]
            async with http.post(url, json=hello, headers=lines) as answer:
                assert answer.status == 429
            await device.say("$mcp-client/presence/d1", {"method": "notifications/disconnected"})
            await eventually(lambda: nothing_left(mesh))
            async with http.post(url, json=hello, headers=lines) as answer:
                assert answer.status == 200

    run(body, listen=HTTP, mcp=McpSettings(sessions_per_principal_max=1))


def test_a_mesh_that_ends_waits_for_nobody() -> None:
    async def body(mesh: Mesh) -> None:
        async with Device(mesh, "d1") as device:
            await device.begin()
            joined = await device.call(1, "mesh_join", channel="a")
            await device.ask(2, "resources/subscribe", {"uri": "channel:///a"})
            waiting = {"cursor": joined["structuredContent"]["cursor"], "timeout_s": 60}
            await device.send(3, "tools/call", {"name": "mesh_wait", "arguments": waiting})
            assert (await device.ask(4, "ping"))["result"] == {}
            async with asyncio.timeout(5):
                await mesh.stop()

    run(body)


def test_without_a_name_the_mesh_is_no_server() -> None:
    async def body(mesh: Mesh) -> None:
        assert not list(mesh.broker.schemes.retained("$mcp-server/#", mesh.broker.retained_of))

    run(body, mcp=McpSettings(mqtt_name=""))


def test_nothing_of_its_presence_is_left_when_the_mesh_is_not_there(tmp_path: Path) -> None:
    data = str(tmp_path / "data")

    async def found(name: str) -> list[str]:
        parts = {"data": data, "mcp": McpSettings(mqtt_name=name)}
        async with asyncio.timeout(WAIT_S), Mesh(config(**parts)) as mesh, Device(mesh, "d1") as device:
            await device.mqtt.subscribe("$mcp-server/presence/#", 1)
            # What is said next comes after all that is retained.
            await device.mqtt.subscribe("mark", 1)
            await device.mqtt.publish("mark", b"", 1)
            topics: list[str] = []
            while "mark" not in topics:
                topics.append(str((await anext(device.mqtt.messages)).topic))
            return topics[:-1]

    async def main() -> None:
        first = await found(NAME)
        assert len(first) == 1
        assert await found(NAME) == first, "it is the same mesh"
        assert await found("") == [], "nobody clears what is not kept"
        assert await found("other") == [first[0].replace(NAME, "other")]

    asyncio.run(main())

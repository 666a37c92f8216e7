"""A2A over MQTT with real clients: EMQ's own SDK on both sides, and requests made by hand where it says too little."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import aiomqtt
import pytest
from a2a_over_mqtt import A2ARequest, MqttConfig, Requester, Responder, TopicSpace, build_card
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dragoman.adapters.a2a.settings import A2aSettings
from dragoman.adapters.serving.settings import ListenSettings
from dragoman.config import Config
from dragoman.mesh import Mesh
from dragoman.routing.refusals import Reason, RefusedError

WAIT_S = 20.0
REQUEST = "$a2a/v1/request/"
REPLY = "$a2a/v1/reply/acme/line1/asker/1"
ACME = TopicSpace(org="acme", unit="line1")
OURS = TopicSpace(org="mesh", unit="mesh")


class Echo(Responder):
    """An agent as the SDK has them."""

    def __init__(self, mqtt: MqttConfig) -> None:
        card = build_card(name="Echo", description="Says it again.", url="mqtt://here")
        super().__init__(agent_id="echo", mqtt=mqtt, topics=ACME, card=card)
        self.cancelled = asyncio.Event()

    async def on_request(self, request: A2ARequest, stream: Any) -> str:
        if request.text == "wait":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        await stream("thinking")
        return f"You said: {request.text}"


class Asker:
    """A requester that says exactly what it is told to."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self._replies = client.messages

    async def ask(
        self,
        agent: str,
        method: str,
        params: Any = None,
        *,
        payload: bytes | None = None,
        reply: str | None = REPLY,
        correlation: bytes | None = b"c",
        user: list[tuple[str, str]] | None = None,
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if reply is not None:
            properties.ResponseTopic = reply
        if correlation is not None:
            properties.CorrelationData = correlation
        if user:
            properties.UserProperty = user
        said = {"jsonrpc": "2.0", "id": f"id-{method}", "method": method, "params": params}
        await self.client.publish(
            REQUEST + agent, payload if payload is not None else json.dumps(said), 1, properties=properties
        )

    async def reply(self) -> tuple[bytes | None, dict[str, Any]]:
        """The next reply: its correlation, and what it says."""
        async with asyncio.timeout(WAIT_S):
            message = await anext(self._replies)
        assert message.qos == 1
        assert isinstance(message.payload, bytes)
        return getattr(message.properties, "CorrelationData", None), json.loads(message.payload)

    async def result(self) -> Any:
        _, said = await self.reply()
        assert "result" in said, said
        return said["result"]

    async def error(self) -> tuple[int, str]:
        _, said = await self.reply()
        data = said["error"].get("data")
        return said["error"]["code"], data.get("a2a_error", "") if isinstance(data, dict) else ""


def message(task: str, text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": text}], "taskId": task, **more}}


def new_task() -> str:
    return str(uuid.uuid4())


def client_of(mesh: Mesh, client_id: str) -> aiomqtt.Client:
    host, _, port = mesh.addresses["mqtt"].rpartition(":")
    return aiomqtt.Client(host, int(port), identifier=client_id, protocol=aiomqtt.ProtocolVersion.V5)


@contextlib.asynccontextmanager
async def asker_of(mesh: Mesh) -> AsyncIterator[Asker]:
    async with client_of(mesh, "acme/line1/asker") as client:
        await client.subscribe(REPLY, 1)
        yield Asker(client)


@contextlib.asynccontextmanager
async def echo_of(mesh: Mesh) -> AsyncIterator[Echo]:
    """The SDK's agent, connected and served."""
    echo = Echo(mqtt_of(mesh))
    running = asyncio.create_task(echo.run())
    try:
        async with asyncio.timeout(WAIT_S):
            async with client_of(mesh, "onlooker") as client:
                await client.subscribe("$a2a/v1/discovery/acme/#", 1)
                await anext(client.messages)
        yield echo
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def mqtt_of(mesh: Mesh) -> MqttConfig:
    host, _, port = mesh.addresses["mqtt"].rpartition(":")
    return MqttConfig(host=host, port=int(port))


def run(body: Callable[[Mesh], Awaitable[None]], *, http: bool = False, **parts: Any) -> None:
    listen = ListenSettings(mqtt="127.0.0.1:0", kafka="off", http="127.0.0.1:0" if http else "off")

    async def main() -> None:
        async with Mesh(Config(data=":memory:", listen=listen, **parts)) as mesh, asyncio.timeout(60):
            await body(mesh)

    asyncio.run(main())


async def sdk(mesh: Mesh, topics: TopicSpace, agent: str, text: str) -> list[tuple[str, str]]:
    """What the SDK's requester hears. One attempt: a repetition would hide that the first was not heard."""
    requester = Requester(mqtt_of(mesh), topics, max_attempts=1)
    request = A2ARequest(text=text, request_id="r")
    return [pair async for pair in requester.stream(agent, request.to_json(), "c1")]


# -- the SDK -------------------------------------------------------------------------------------


def test_the_sdk_asks_its_own_agents_through_us() -> None:
    async def body(mesh: Mesh) -> None:
        async with echo_of(mesh):
            heard = await sdk(mesh, ACME, "echo", "hi")
            assert [kind for kind, _ in heard] == ["submitted", "text", "artifact", "terminal"]
            assert heard[2] == ("artifact", "You said: hi")

    run(body)


def test_the_sdk_asks_agents_of_other_protocols() -> None:
    async def body(mesh: Mesh) -> None:
        async def greet(arguments: bytes) -> bytes:
            return b"Hello, " + arguments

        mesh.serve("greet", greet, agent="greeter")
        assert await sdk(mesh, OURS, "greeter", "Ann") == [("terminal", "Hello, Ann")]
        ((kind, why),) = await sdk(mesh, OURS, "nobody", "Ann")
        assert kind == "error"
        assert "nobody" in why

    run(body)


def test_anybody_asks_an_agent_of_the_sdk() -> None:
    async def body(mesh: Mesh) -> None:
        async with echo_of(mesh) as echo:
            parts: list[bytes] = []
            assert await mesh.call("echo", b"hi", on_part=parts.append) == b"You said: hi"
            assert parts == [b"thinking"]
            with pytest.raises(RefusedError) as refused:
                await mesh.call("echo", b"wait", deadline_ms=200)
            assert refused.value.refusal.reason is Reason.DEADLINE_PASSED
            await asyncio.wait_for(echo.cancelled.wait(), WAIT_S)
            address = f"http://{mesh.addresses['http']}/a2a/acme%2Fline1%2Fecho"
            async with aiohttp.ClientSession(headers={"A2A-Version": "1.0"}) as web:
                async with web.get(address + "/.well-known/agent-card.json") as answer:
                    assert (await answer.json())["name"] == "Echo"
                said = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "from the web"}]}}
                async with web.post(address + "/message:send", json=said) as answer:
                    task = json.loads(await answer.read())["task"]
            assert task["status"]["state"] == "TASK_STATE_COMPLETED"
            texts = [part["text"] for artifact in task["artifacts"] for part in artifact["parts"]]
            assert texts == ["thinking", "You said: from the web"]

    run(body, http=True)


# -- requests by hand ----------------------------------------------------------------------------


def test_a_stream_is_several_replies_with_one_correlation_and_the_requesters_task() -> None:
    async def body(mesh: Mesh) -> None:
        async def count(arguments: bytes) -> bytes:
            return b"three"

        mesh.serve("count", count, agent="counter")
        async with asker_of(mesh) as asker:
            task = new_task()
            await asker.ask("mesh/mesh/counter", "SendStreamingMessage", message(task, contextId="ctx"))
            replies = [await asker.reply() for _ in range(4)]
            assert {correlation for correlation, _ in replies} == {b"c"}
            assert {said["id"] for _, said in replies} == {"id-SendStreamingMessage"}
            kinds = [next(iter(said["result"])) for _, said in replies]
            assert kinds == ["task", "statusUpdate", "artifactUpdate", "statusUpdate"]
            assert replies[0][1]["result"]["task"]["id"] == task
            for _, said in replies[1:]:
                (update,) = said["result"].values()
                assert (update["taskId"], update["contextId"]) == (task, "ctx")
            assert replies[3][1]["result"]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
            await asker.ask("mesh/mesh/counter", "GetTask", {"id": task})
            shown = await asker.result()
            assert (shown["id"], shown["status"]["state"]) == (task, "TASK_STATE_COMPLETED")
            assert shown["history"][0]["taskId"] == task
            await asker.ask("mesh/mesh/counter", "ListTasks", {})
            assert [listed["id"] for listed in (await asker.result())["tasks"]] == [task]

    run(body)


def test_a_repeated_request_is_the_same_task() -> None:
    async def body(mesh: Mesh) -> None:
        served: list[bytes] = []

        async def once(arguments: bytes) -> bytes:
            served.append(arguments)
            return b"done"

        mesh.serve("once", once, agent="worker")
        async with asker_of(mesh) as asker:
            task = new_task()
            for correlation in (b"1", b"2"):
                await asker.ask("mesh/mesh/worker", "SendMessage", message(task), correlation=correlation)
                got, said = await asker.reply()
                assert got == correlation
                assert said["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
            assert served == [b"hi"]
            await asker.ask("mesh/mesh/worker", "SendMessage", message(new_task()))
            assert (await asker.result())["task"]["id"] != task
            assert served == [b"hi", b"hi"], "it is the task's id that tells tasks apart, not the message's"
            await asker.ask("mesh/mesh/worker", "SendMessage", message(task, contextId="another"))
            assert await asker.error() == (-32602, "")
            await asker.ask(
                "mesh/mesh/worker", "SendMessage", message(task, contextId="a"), user=[("a2a-context-id", "b")]
            )
            assert await asker.error() == (-32602, "")

    run(body)


def test_a_slow_task_is_shown_before_its_requester_despairs_and_at_its_end() -> None:
    async def body(mesh: Mesh) -> None:
        go = asyncio.Event()

        async def slow(arguments: bytes) -> bytes:
            await go.wait()
            return b"at last"

        mesh.serve("slow", slow, agent="worker")
        async with asker_of(mesh) as asker:
            await asker.ask("mesh/mesh/worker", "SendMessage", message(new_task()))
            assert (await asker.result())["task"]["status"]["state"] == "TASK_STATE_WORKING"
            go.set()
            assert (await asker.result())["task"]["status"]["state"] == "TASK_STATE_COMPLETED"

    run(body, a2a=A2aSettings(mqtt_first_reply_s=0.05))


def test_a_task_is_cancelled_and_followed_by_the_requesters_own_id() -> None:
    async def body(mesh: Mesh) -> None:
        async def never(arguments: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        mesh.serve("never", never, agent="worker")
        async with asker_of(mesh) as asker:
            task = new_task()
            request = message(task) | {"configuration": {"returnImmediately": True}}
            await asker.ask("mesh/mesh/worker", "SendMessage", request)
            assert (await asker.result())["task"]["id"] == task
            await asker.ask("mesh/mesh/worker", "SubscribeToTask", {"id": task}, correlation=b"s")
            assert (await asker.result())["task"]["id"] == task
            await asker.ask("mesh/mesh/worker", "CancelTask", {"id": task}, correlation=b"x")
            replies = dict([await asker.reply() for _ in range(2)])
            assert replies[b"x"]["result"]["status"]["state"] == "TASK_STATE_CANCELED"
            assert replies[b"s"]["result"]["statusUpdate"]["status"]["state"] == "TASK_STATE_CANCELED"
            await asker.ask("mesh/mesh/worker", "CancelTask", {"id": task})
            assert (await asker.error())[0] == -32002
            await asker.ask("mesh/mesh/worker", "GetTask", {"id": new_task()})
            assert (await asker.error())[0] == -32001

    run(body)


def test_the_mesh_itself_is_an_agent_there() -> None:
    async def body(mesh: Mesh) -> None:
        async with asker_of(mesh) as asker, mesh.subscribe("a/b") as reading:
            part = {"data": {"skill": "publish", "arguments": {"channel": "a/b", "text": "hello"}}}
            request = message(new_task())
            request["message"]["parts"] = [part]
            await asker.ask("mesh/mesh/mesh", "SendMessage", request)
            assert (await asker.result())["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
            assert (await anext(reading)).payload == b"hello"

    run(body)


# -- what is wrong -------------------------------------------------------------------------------


def test_what_is_wrong_is_said_in_the_bindings_words() -> None:
    async def body(mesh: Mesh) -> None:
        async def greet(arguments: bytes) -> bytes:
            return b"hi"

        mesh.serve("greet", greet, agent="greeter")
        agent, send = "mesh/mesh/greeter", "SendMessage"
        no_task = message("x")
        del no_task["message"]["taskId"]
        async with asker_of(mesh) as asker:
            for expected, ask in (
                ((-32700, ""), asker.ask(agent, send, payload=b"{")),
                ((-32600, ""), asker.ask(agent, send, payload=b"[]")),
                ((-32601, ""), asker.ask(agent, "Sing")),
                ((-32602, ""), asker.ask(agent, send, {})),
                ((-32005, "transport_protocol_error"), asker.ask(agent, send, no_task)),
                ((-32005, "transport_protocol_error"), asker.ask(agent, send, message("7"))),
                (
                    (-32005, "transport_protocol_error"),
                    asker.ask(agent, send, message(new_task()), user=[("a2a-security-profile", "ubsp-v1")]),
                ),
                ((-32004, "responder_unavailable"), asker.ask("acme/line1/nobody", send, message(new_task()))),
                ((-32004, "responder_unavailable"), asker.ask("a/b/pool/c", send, message(new_task()))),
            ):
                await ask
                assert await asker.error() == expected

    run(body)


def test_replies_may_come_to_the_requester_itself() -> None:
    async def body(mesh: Mesh) -> None:
        async def greet(arguments: bytes) -> bytes:
            return b"hi"

        mesh.serve("greet", greet, agent="greeter")
        async with asker_of(mesh) as asker:
            await asker.client.subscribe("mesh/me/reply/+", 1)
            await asker.ask("mesh/mesh/greeter", "SendMessage", message(new_task()), reply="mesh/me/reply/7")
            assert (await asker.result())["task"]["status"]["state"] == "TASK_STATE_COMPLETED"

    run(body)


def test_agents_that_have_gone_are_unavailable() -> None:
    async def body(mesh: Mesh) -> None:
        async with asker_of(mesh) as asker:
            async with client_of(mesh, "acme/line1/gone") as client:
                card = json.dumps(build_card(name="Gone", description="d", url="mqtt://x"))
                await client.publish("$a2a/v1/discovery/acme/line1/gone", card, 1, retain=True)
            await asker.ask("acme/line1/gone", "SendMessage", message(new_task()))
            assert await asker.error() == (-32004, "responder_unavailable")

    run(body)

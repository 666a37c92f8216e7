"""Channels as resources, and the streams that tell of changes, through the real transport and a real broker."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_mesh import McpMesh, events, eventually, modern, next_event, run

from dragoman.adapters.mcp.session import McpSession
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.principal import ANONYMOUS
from dragoman.routing.cards import Skill
from dragoman.routing.message import Message
from dragoman.routing.refusals import Refusal

# -- resources ---------------------------------------------------------------------------------------


def publish(mesh: McpMesh, name: str, payload: bytes | None, *, retain: bool = False) -> None:
    """Says something as somebody else would."""
    session = McpSession(ANONYMOUS, "")
    mesh.broker.attach(session)
    assert isinstance(mesh.broker.publish(session, Message(name, payload, retain=retain)), int)
    mesh.broker.detach(session)


def test_resources_are_the_channels_that_hold_something() -> None:
    async def body(mesh: McpMesh) -> None:
        for n in range(5):
            publish(mesh, f"a/{n}", b"x")
        publish(mesh, "a//b", b"xyz")
        await mesh.call("mesh_join", {"channel": "empty"})
        uris: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            result = (await mesh.ask("resources/list", cursor))[2]["result"]
            assert len(result["resources"]) <= 2
            uris += [resource["uri"] for resource in result["resources"]]
            if "nextCursor" not in result:
                break
            cursor = {"cursor": result["nextCursor"]}
        assert uris == ["channel:///?name=a%2F%2Fb", *[f"channel:///a/{n}" for n in range(5)]]
        templates = (await mesh.ask("resources/templates/list"))[2]["result"]["resourceTemplates"]
        assert [template["uriTemplate"] for template in templates] == ["channel:///{+name}", "channel:///{?name}"]

    run(body, page_size=2)


def test_a_resource_is_the_retained_value_or_else_the_newest() -> None:
    async def body(mesh: McpMesh) -> None:
        async def read(uri: str) -> dict[str, Any]:
            status, _, answer = await mesh.ask("resources/read", {"uri": uri})
            assert status == 200, answer
            (contents,) = answer["result"]["contents"]
            assert isinstance(contents, dict)
            return contents

        publish(mesh, "a", b"old")
        publish(mesh, "a", b"new")
        assert await read("channel:///a") == {"uri": "channel:///a", "mimeType": "text/plain", "text": "new"}
        publish(mesh, "a", b"kept", retain=True)
        publish(mesh, "a", b"passing")
        assert (await read("channel:///a"))["text"] == "kept"
        publish(mesh, "b", b"\xff")
        assert await read("channel:///b") == {
            "uri": "channel:///b",
            "mimeType": "application/octet-stream",
            "blob": "/w==",
        }
        await mesh.call("mesh_publish", {"channel": "c", "text": "{}", "content_type": "application/json"})
        assert (await read("channel:///?name=c"))["mimeType"] == "application/json"
        mesh.add("t1", Skill("x"))
        assert '"agent":"t1"' in (await read("channel:///$mesh/v1/agents/t1"))["text"]

    run(body)


@pytest.mark.parametrize(
    "uri", ["channel:///nothing", "channel:///a/../b", "channel:///", "file:///etc/passwd", "channel:///%zz", "x", ""]
)
def test_unknown_resources_are_invalid_params(uri: str) -> None:
    async def body(mesh: McpMesh) -> None:
        status, _, answer = await mesh.ask("resources/read", {"uri": uri})
        assert (status, answer["error"]["code"]) == (400, -32602)

    run(body)


# -- streams -----------------------------------------------------------------------------------------


def test_a_stream_acknowledges_first_and_tells_only_what_was_asked() -> None:
    async def body(mesh: McpMesh) -> None:
        wanted = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": True,
            "resourceSubscriptions": ["channel:///a", "channel:///?name=a", "file:///x", "channel:///secret/1"],
        }
        message, headers = modern("subscriptions/listen", {"notifications": wanted}, request_id="L")
        headers |= {"Accept": "application/json, text/event-stream"}
        meta = {"io.modelcontextprotocol/subscriptionId": "L"}
        async with mesh.http.post(mesh.url, json=message, headers=headers) as stream:
            first = await next_event(stream.content)
            assert first["method"] == "notifications/subscriptions/acknowledged"
            assert first["params"] == {
                "notifications": {
                    "toolsListChanged": True,
                    "resourcesListChanged": True,
                    "resourceSubscriptions": ["channel:///a", "channel:///?name=a"],
                },
                "_meta": meta,
            }
            publish(mesh, "b", b"not asked for")
            publish(mesh, "a", b"1")
            publish(mesh, "a", b"2")
            for uri in ("channel:///a", "channel:///?name=a"):
                told = await next_event(stream.content)
                assert told["method"] == "notifications/resources/updated"
                assert told["params"] == {"uri": uri, "_meta": meta}
            mesh.add("t1", Skill("x"))
            mesh.add("t2", Skill("y"))
            told = await next_event(stream.content)
            assert (told["method"], told["params"]) == ("notifications/tools/list_changed", {"_meta": meta})
            publish(mesh, "a", b"3")
            assert (await next_event(stream.content))["params"]["uri"] == "channel:///a", "one notice for two changes"
        await eventually(lambda: not list(mesh.broker.sessions()))

    run(
        body,
        GateSettings(rules=(RuleSettings(effect="deny", actions=("read",), filters=("secret/#",)),)),
        tools_changed_debounce_s=0.01,
        channels_look_ms=3_600_000,
    )


def test_a_stream_tells_of_channels_that_hold_something_for_the_first_time() -> None:
    async def body(mesh: McpMesh) -> None:
        publish(mesh, "old", b"0")
        message, headers = modern("subscriptions/listen", {"notifications": {"resourcesListChanged": True}})
        headers |= {"Accept": "application/json, text/event-stream"}
        watch = mesh.serve._channels
        async with mesh.http.post(mesh.url, json=message, headers=headers) as stream:
            assert (await next_event(stream.content))["params"]["notifications"] == {"resourcesListChanged": True}
            watch._look()
            assert (await next_event(stream.content))["method"] == "notifications/resources/list_changed"
            rung: list[int] = []
            unsubscribe = mesh.serve.resources_changed.subscribe(lambda: rung.append(1))
            publish(mesh, "old", b"1")
            session = McpSession(ANONYMOUS, "")
            assert mesh.broker.attach(session) is None
            assert not isinstance(mesh.broker.subscribe(session, "empty"), Refusal)
            watch._look()
            await mesh.ask("server/discover")
            assert rung == [], "neither another message nor an empty channel makes another list"
            publish(mesh, "empty", b"2")
            watch._look()
            await eventually(lambda: rung == [1])
            mesh.broker.channels.close(mesh.broker.channels.by_name["old"])
            watch._look()
            await eventually(lambda: rung == [1, 1])
            mesh.broker.detach(session)
            unsubscribe()

    run(body, channels_look_ms=3_600_000, notices_gap_s=0.0)


def test_comings_and_goings_change_no_list_until_an_agent_is_gone() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("x"))
        await mesh.ask("server/discover")
        rung: list[int] = []
        changes = mesh.serve.tools_changed
        unsubscribe = changes.subscribe(lambda: rung.append(1))
        for limit in (0, None, 0, None):
            assert mesh.directory.set_limit("t1", limit) is None
        await mesh.ask("server/discover")
        await mesh.ask("server/discover")
        assert rung == []
        mesh.calls.leave("t1")
        await eventually(lambda: rung == [1])
        assert "x" not in [tool["name"] for tool in (await mesh.ask("tools/list"))[2]["result"]["tools"]]
        status, _, answer = await mesh.ask("tools/call", {"name": "x", "arguments": {}})
        assert (status, answer["error"]["code"]) == (400, -32602)
        unsubscribe()

    run(body, tools_changed_debounce_s=0.0)


def test_a_stream_ends_properly_when_the_mesh_does() -> None:
    async def body(mesh: McpMesh) -> None:
        message, headers = modern("subscriptions/listen", {"notifications": {}}, request_id=3)
        headers |= {"Accept": "application/json, text/event-stream"}
        async with mesh.http.post(mesh.url, json=message, headers=headers) as stream:
            await next_event(stream.content)
            await mesh.broker.stop()
            (last,) = events(await stream.read())
            assert last["id"] == 3
            assert last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == 3

    run(body)


def test_one_stream_follows_only_so_many_resources() -> None:
    async def body(mesh: McpMesh) -> None:
        wanted = {"resourceSubscriptions": [f"channel:///{n}" for n in range(3)]}
        status, _, answer = await mesh.ask("subscriptions/listen", {"notifications": wanted})
        assert (status, answer["error"]["code"]) == (400, -32602)

    run(body, listen_uris_max=2)


def test_a_fault_of_ours_costs_one_request_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("say"))

        def broken(*_: Any, **__: Any) -> None:
            raise KeyError("a secret of ours")

        mesh.broker.calls.start = broken  # type: ignore[method-assign, assignment]
        status, _, answer = await mesh.ask("tools/call", {"name": "say", "arguments": {}})
        assert (status, answer["error"]) == (200, {"code": -32603, "message": "Internal error"})
        assert (await mesh.ask("tools/list"))[0] == 200
        assert not list(mesh.broker.sessions())

    run(body)
    assert [record.message for record in caplog.records if record.name.startswith("dragoman")] == ["mcp request failed"]

"""Skills as tools, through the real transport and a real broker."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from mcp_mesh import McpMesh, modern, run

from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.routing.cards import Skill
from dragoman.routing.refusals import Reason

TEMPERATURE = {
    "type": "object",
    "properties": {"celsius": {"type": "number", "minimum": 5, "maximum": 30}},
    "required": ["celsius"],
    "additionalProperties": False,
}
MESH_TOOLS = [
    "mesh_find_agents",
    "mesh_join",
    "mesh_leave",
    "mesh_members",
    "mesh_open_room",
    "mesh_publish",
    "mesh_read",
    "mesh_wait",
]


async def tools(mesh: McpMesh, **headers: str) -> dict[str, dict[str, Any]]:
    """All tools by name, over all pages, in the order given."""
    found: dict[str, dict[str, Any]] = {}
    cursor: str | None = None
    while True:
        _, _, answer = await mesh.ask("tools/list", {"cursor": cursor} if cursor else {}, dict(headers))
        found |= {tool["name"]: tool for tool in answer["result"]["tools"]}
        cursor = answer["result"].get("nextCursor")
        if cursor is None:
            return found


def text(result: dict[str, Any]) -> str:
    assert len(result["content"]) == 1
    told = result["content"][0]["text"]
    assert isinstance(told, str)
    return told


# -- skills ------------------------------------------------------------------------------------------


def test_many_servers_of_a_skill_are_one_tool() -> None:
    async def body(mesh: McpMesh) -> None:
        skill = Skill("set_temperature", "Sets it.", TEMPERATURE, tags=("heating",), title="Set the temperature")
        for n in range(3):
            mesh.add(f"thermostat{n}", skill)
        found = await tools(mesh)
        assert list(found) == sorted([*MESH_TOOLS, "set_temperature"])
        tool = found["set_temperature"]
        assert tool["inputSchema"]["properties"]["agent"]["enum"] == ["thermostat0", "thermostat1", "thermostat2"]
        assert tool["inputSchema"]["required"] == ["celsius"]
        assert tool["title"] == "Set the temperature"
        assert tool["description"] == "Sets it. Served by several agents. Tags: heating."
        for n in range(20):
            mesh.add(f"thermostat{n}", skill)
        assert len((await tools(mesh))["set_temperature"]["inputSchema"]["properties"]["agent"]["enum"]) == 20
        mesh.add("thermostat20", skill)
        assert "enum" not in (await tools(mesh))["set_temperature"]["inputSchema"]["properties"]["agent"]
        assert skill.input_schema == TEMPERATURE, "the skill's own schema stays as it was given"

    run(body)


def test_skills_of_one_name_and_another_schema_are_other_tools_and_keep_their_names() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("a", Skill("move", input_schema={"type": "object"}))
        first = (await tools(mesh))["move"]
        mesh.add("0", Skill("move", input_schema={"type": "object", "required": ["x"]}))
        mesh.add("b", Skill("öffne tür"), Skill("mesh_publish"))
        found = await tools(mesh)
        assert found["move"] == first
        names = set(found) - set(MESH_TOOLS) - {"move"}
        assert len(names) == 3
        assert {name.rsplit("_", 1)[0] for name in names} == {"move", "ffne_t_r", "mesh_publish"}
        assert found["mesh_publish"]["title"] == "Publish a message"
        other = next(name for name in names if name.startswith("move_"))
        assert (await mesh.call(other, {"x": 1}))["structuredContent"] == {"x": 1}
        assert [(call.wanted, call.skill) for call in mesh.calls.started] == [(None, "move")]

    run(body)


def test_lists_come_in_pages_that_stay_true_while_tools_come_and_go() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("a", *[Skill(f"skill{n:02}") for n in range(7)])
        _, _, answer = await mesh.ask("tools/list")
        page = answer["result"]
        assert [tool["name"] for tool in page["tools"]] == MESH_TOOLS[:3]
        mesh.add("b", Skill("aaa"))
        _, _, answer = await mesh.ask("tools/list", {"cursor": page["nextCursor"]})
        assert [tool["name"] for tool in answer["result"]["tools"]] == MESH_TOOLS[3:6]
        assert len(await tools(mesh)) == 16
        for cursor in ("!", "bm9z==dWNo", "/w=="):
            status, _, answer = await mesh.ask("tools/list", {"cursor": cursor})
            assert (status, answer["error"]["code"]) == (400, -32602)

    run(body, page_size=3)


def test_tools_are_those_the_caller_may_see() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("a", Skill("secret"))
        assert "secret" not in await tools(mesh)
        assert "secret" in await tools(mesh, Authorization="Bearer good")
        status, _, answer = await mesh.ask("tools/call", {"name": "secret", "arguments": {}})
        assert (status, answer["error"]["code"]) == (400, -32602)

    run(body, GateSettings(rules=(RuleSettings(effect="deny", who=("anonymous",), filters=("$mesh/v1/agents/+",)),)))


def test_an_unknown_tool_is_an_error_of_the_protocol() -> None:
    async def body(mesh: McpMesh) -> None:
        status, _, answer = await mesh.ask("tools/call", {"name": "no_such", "arguments": {}})
        assert (status, answer["error"]["code"]) == (400, -32602)
        assert "no_such" in answer["error"]["message"]

    run(body)


def test_arguments_are_checked_before_anybody_is_asked() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("set_temperature", input_schema=TEMPERATURE))
        for bad in ({}, {"celsius": "warm"}, {"celsius": 99}, {"celsius": 20, "extra": 1}, {"celsius": 20, "agent": 3}):
            result = await mesh.call("set_temperature", bad)
            assert result["isError"]
            assert text(result).startswith("arguments-invalid: ")
        assert mesh.calls.started == []
        assert (await mesh.call("set_temperature", {"celsius": 20, "agent": "t1"}))["structuredContent"] == {
            "celsius": 20
        }
        assert [(call.wanted, call.arguments) for call in mesh.calls.started] == [("t1", {"celsius": 20})]
        assert mesh.calls.started[0].timeout_ms == 7000

    run(body, call_timeout_s=7.0)


def test_a_skill_that_has_an_argument_called_agent_keeps_it() -> None:
    async def body(mesh: McpMesh) -> None:
        schema = {"type": "object", "properties": {"agent": {"type": "integer"}}}
        mesh.add("t1", Skill("assign", input_schema=schema))
        shown = (await tools(mesh))["assign"]["inputSchema"]["properties"]
        assert shown["agent"] == {"type": "integer"}
        assert shown["mesh_agent"]["enum"] == ["t1"]
        await mesh.call("assign", {"agent": 7, "mesh_agent": "t1"})
        assert [(call.wanted, call.arguments) for call in mesh.calls.started] == [("t1", {"agent": 7})]

    run(body)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"x": {"type": "strange"}}},
        {"type": "object", "description": "x" * 2000},
    ],
)
def test_a_schema_that_cannot_be_used_does_not_spoil_the_list(schema: dict[str, Any]) -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("odd", input_schema=schema))
        tool = (await tools(mesh))["odd"]
        assert list(tool["inputSchema"]["properties"]) == ["agent"]
        assert "cannot be used" in tool["description"]
        assert (await mesh.call("odd", {"x": []}))["structuredContent"] == {"x": []}

    run(body, schema_bytes_max=1024)


def test_answers_become_content_as_they_are() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("say"))
        answers: list[tuple[bytes, str | None]] = [
            (b'{"a": 1}', None),
            (b"[1]", "application/json"),
            ("grün".encode(), None),
            (b"\x89PNG\xff", "image/png"),
            (b"\x00\xff", None),
        ]
        mesh.calls.serve = lambda call: call.answer(*answers[len(mesh.calls.started) - 1])
        results = [await mesh.call("say", {}) for _ in answers]
        assert results[0]["content"] == [{"type": "text", "text": '{"a": 1}'}]
        assert results[0]["structuredContent"] == {"a": 1}
        assert text(results[1]) == "[1]"
        assert text(results[2]) == "grün"
        assert all("structuredContent" not in result for result in results[1:])
        assert results[3]["content"][0] == {
            "type": "image",
            "data": base64.b64encode(b"\x89PNG\xff").decode(),
            "mimeType": "image/png",
        }
        resource = results[4]["content"][0]["resource"]
        assert (resource["uri"], resource["blob"]) == (f"call:///{mesh.calls.started[4].id}", "AP8=")

    run(body)


def test_what_the_mesh_refuses_is_an_error_the_model_can_read() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("say"))
        result = await mesh.call("say", {"agent": "nobody"})
        assert (result["isError"], text(result)) == (True, "unknown-agent: no agent 'nobody' is here")
        mesh.calls.serve = lambda call: call.refuse(Reason.DEADLINE_PASSED, "no answer in 60 s")
        result = await mesh.call("say", {})
        assert (result["isError"], text(result)) == (True, "deadline-passed: no answer in 60 s")

    run(body)


def test_an_answer_is_held_to_the_schema_the_skill_promised() -> None:
    async def body(mesh: McpMesh) -> None:
        schema = {"properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
        mesh.add("t1", Skill("check", output_schema=schema))
        assert (await tools(mesh))["check"]["outputSchema"] == {**schema, "type": "object"}
        mesh.calls.serve = lambda call: call.answer(b'{"ok": true}')
        assert (await mesh.call("check", {}))["structuredContent"] == {"ok": True}
        for answer in (b'{"ok": 3}', b"fine"):
            mesh.calls.serve = lambda call, answer=answer: call.answer(answer)  # type: ignore[misc]
            result = await mesh.call("check", {})
            assert result["isError"]
            assert text(result).startswith("failed: ")

    run(body)


def test_partial_answers_are_progress_for_who_wants_it() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))

        def serve(call: Any) -> None:
            call.part(b"half")
            call.part(b"\xff")
            asyncio.get_running_loop().call_soon(call.answer, b"done")

        mesh.calls.serve = serve
        message, headers = modern("tools/call", {"name": "slow", "arguments": {}, "_meta": {"progressToken": "p"}})
        _, lines, told = await mesh.post(message, headers)
        assert lines["content-type"].startswith("text/event-stream")
        assert [event.get("params") for event in told[:-1]] == [
            {"progressToken": "p", "progress": 1, "message": "half"},
            {"progressToken": "p", "progress": 2},
        ]
        assert told[-1]["result"]["content"] == [{"type": "text", "text": "done"}]
        _, lines, _ = await mesh.ask("tools/call", {"name": "slow", "arguments": {}})
        assert lines["content-type"].startswith("application/json")

    run(body)


def test_annotated_arguments_must_be_in_headers_too() -> None:
    async def body(mesh: McpMesh) -> None:
        schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
        mesh.add("t1", Skill("route", input_schema=schema))
        params = {"name": "route", "arguments": {"region": "west"}}
        status, _, answer = await mesh.ask("tools/call", params)
        assert (status, answer["error"]["code"]) == (400, -32020)
        status, _, answer = await mesh.ask("tools/call", params, {"Mcp-Param-Region": "east"})
        assert (status, answer["error"]["code"]) == (400, -32020)
        assert (await mesh.ask("tools/call", params, {"Mcp-Param-Region": "west"}))[0] == 200

    run(body)


def test_arguments_arrive_as_they_were_given() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("say"))
        given = {"n": 12345678901234567890, "t": "ü\u2028", "deep": [{"x": None}]}
        await mesh.call("say", given)
        assert mesh.calls.started[0].arguments == given
        for levels in (150, 400):
            nested: Any = {}
            for _ in range(levels):
                nested = {"x": [nested]} if levels == 400 else {"x": nested}
            result = await mesh.call("say", nested)
            assert json.loads(text(result)) == nested
            assert result.get("structuredContent") == (nested if levels == 150 else None)
        assert text(await mesh.call("say", {"t": "\ud800"})).startswith("arguments-invalid: ")

    run(body)


def test_a_call_nobody_answers_ends_with_its_deadline() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda asked: None
        result = await mesh.call("slow", {})
        assert (result["isError"], text(result)) == (True, "deadline-passed: no answer within 50 ms")
        assert mesh.calls.started[0].cancelled.is_set()

    run(body, call_timeout_s=0.05)


def test_only_servers_of_exactly_this_schema_are_asked() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("a", Skill("move", input_schema={"type": "object", "properties": {"x": {}}}))
        assert "move" in await tools(mesh)
        mesh.add("b", Skill("move", input_schema={"type": "object", "properties": {"y": {}}}))
        for _ in range(4):
            await mesh.call("move", {"x": 1})
        assert {asked.agent for asked in mesh.calls.started} == {"a"}
        refused = await mesh.call("move", {"x": 1, "agent": "b"})
        assert text(refused).startswith("unknown-skill: ")

    run(body)

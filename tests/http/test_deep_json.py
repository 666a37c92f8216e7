"""JSON nested beyond reading, over HTTP and in what answers hold: a sentence or the text as it came, never a fault."""

from __future__ import annotations

import asyncio
import json

import pytest

from dragoman.adapters.a2a.views import part_of
from dragoman.adapters.links import a2a_wire
from dragoman.adapters.mcp.contents import answer_result
from dragoman.adapters.serving import a2a_forms, mcp_forms
from dragoman.adapters.serving.a2a_forms import FormError
from dragoman.adapters.serving.json_in import DEPTH_MAX, read_json, shallow
from dragoman.routing.refusals import Refusal
from tests.http.http_mesh import eventually, http_mesh

DEEP = "[" * 5000 + "]" * 5000
ALL_BUT_DEEP = "[" * 700 + "]" * 700
"""Python reads it, and could not write it inside of something else."""

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("deep", [DEEP, ALL_BUT_DEEP])
def test_a_document_nested_too_deeply_is_refused_in_a_sentence(deep: str) -> None:
    async def main() -> None:
        async with http_mesh() as mesh:
            order = f'{{"skill": "x", "arguments": {deep}}}'
            event = f'{{"specversion": "1.0", "data": {deep}}}'
            kind = {"Content-Type": "application/cloudevents+json"}
            for path, body, headers in (("/v1/calls", order, JSON), ("/v1/channels/c", event, kind)):
                status, problem, _ = await mesh.ask("POST", path, data=body.encode(), headers=headers)
                assert (status, "nested deeper than 200 levels" in problem["detail"]) == (400, True), problem
            async with mesh.http.ws_connect(mesh.url + "/v1/stream") as socket:
                await socket.send_str(f'{{"type": "publish", "ref": 7, "channel": "a", "payload": {deep}}}')
                answer = await socket.receive_json(timeout=5)
                assert (answer["type"], "nested deeper" in answer["problem"]["detail"]) == ("error", True)
                await socket.send_str('{"type": "publish", "ref": 8, "channel": "a", "payload": "x"}')
                assert (await socket.receive_json(timeout=5))["ref"] == 8

    asyncio.run(main())


@pytest.mark.parametrize("deep", [DEEP, ALL_BUT_DEEP])
def test_an_answer_nested_too_deeply_is_shown_as_the_text_it_is(deep: str) -> None:
    async def main() -> None:
        async with http_mesh() as mesh:
            card = {"card": {"name": "w", "skills": [{"id": "think"}]}}
            await mesh.ask("PUT", "/v1/agents/writer", token="alice", json=card)
            headers = {"Authorization": "Bearer alice"}
            async with mesh.events("/v1/agents/writer/asks?skill=think", headers=headers) as asks:
                await eventually(lambda: mesh.broker.directory.offers("think") != [])
                calling = asyncio.ensure_future(mesh.ask("POST", "/v1/calls", json={"skill": "think"}))
                where = f"/v1/calls/{(await asks.next()).data['call']}"
                for query in ("?partial=true", ""):
                    said = mesh.ask("POST", f"{where}/answer{query}", token="alice", data=deep.encode(), headers=JSON)
                    assert (await said)[0] == 204
                for _, call, _ in (await calling, await mesh.ask("GET", where)):
                    assert (call["state"], call["payload"], "result" in call) == ("done", deep, False)
                    assert [e["payload"] for e in call["events"] if e["kind"] == "part"] == [deep]

    asyncio.run(main())


def test_depth_is_bounded_where_it_is_read() -> None:
    assert read_json("[" * DEPTH_MAX + "]" * DEPTH_MAX, object)
    assert read_json(b"[" + b"[]," * 1000 + b"[]]", object)
    assert shallow([[[1]]], 3)
    assert not shallow([[[[1]]]], 3)


@pytest.mark.parametrize("odd", ['{"a":1e400}', '{"a":[{"b":-1e999}]}', '{"a":NaN}', '{"a":' + DEEP + "}"])
def test_what_no_json_can_say_again_stays_text(odd: str) -> None:
    """A number beyond numbers became null in MCP's structured content, and Infinity in what links pass on."""
    result = answer_result(odd.encode(), "application/json", "x:y")
    assert ("structuredContent" in result, result["content"]) == (False, [{"type": "text", "text": odd}])
    assert part_of(odd.encode(), "application/json") == {"text": odd, "mediaType": "application/json"}
    assert a2a_forms.part_of(odd.encode(), "application/json") == {"text": odd, "mediaType": "application/json"}
    assert isinstance(mcp_forms.arguments_of(odd.encode()), Refusal)
    with pytest.raises(FormError, match="no JSON"):
        a2a_wire._parsed(odd.encode())


def test_a_number_that_is_one_is_still_structured() -> None:
    result = answer_result(b'{"a":1e300,"b":123456789012345678901234567890}', None, "x:y")
    assert json.dumps(result["structuredContent"]) == '{"a": 1e+300, "b": 123456789012345678901234567890}'

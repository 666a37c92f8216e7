"""Anything that is JSON, and much that is nearly right: an answer of the protocol each time, never a fault of ours.

What is answered is read strictly, as the official types have it: an unknown field or a wrong enum would not parse.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
from a2a import types
from a2a_mesh import A2aMesh, a2a_mesh
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message as Proto
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dragoman.adapters.a2a.settings import A2aSettings
from dragoman.routing.cards import Skill

RESULTS: dict[str, type[Proto]] = {
    "SendMessage": types.SendMessageResponse,
    "SendStreamingMessage": types.StreamResponse,
    "GetTask": types.Task,
    "ListTasks": types.ListTasksResponse,
    "CancelTask": types.Task,
    "SubscribeToTask": types.StreamResponse,
}
REST = {"SendMessage": "message:send", "SendStreamingMessage": "message:stream", "CancelTask": "tasks/x:cancel"}
METHODS = [*RESULTS, "GetExtendedAgentCard", "GetTaskPushNotificationConfig", "message/send", ""]
INTERNAL = -32603
REACHED = {"TASK_STATE_COMPLETED", "TASK_STATE_REJECTED"}
"""What a run must have seen, or it tried nothing but the first check."""

STRICT = {"messageId": "m", "role": "ROLE_USER", "parts": [{"data": {}}], "metadata": {"skill": "strict"}}
REFUSED = {"message": STRICT}
"""Said in any case: which examples are drawn depends on what other modules are loaded."""

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=12)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@st.composite
def bent(draw: st.DrawFn, good: st.SearchStrategy[Any]) -> Any:
    """Mostly as it should be; else wrong in one place, so that what lies behind the first check is reached too."""
    value = draw(good)
    places = list(_places(value))
    if places and draw(st.integers(0, 2)) == 0:
        inside, key = draw(st.sampled_from(places))
        if isinstance(inside, dict) and draw(st.booleans()):
            del inside[key]
        else:
            inside[key] = draw(junk)
    return value


def act(skill: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A part that asks the mesh's own agent."""
    given_ = {name.removesuffix("_"): value for name, value in arguments.items() if not name.endswith("_")}
    more = {name.removesuffix("_"): value for name, value in arguments.items() if name.endswith("_")}
    asked = st.fixed_dictionaries(given_, optional=more)
    return st.fixed_dictionaries({"data": st.fixed_dictionaries({"skill": st.just(skill), "arguments": asked})})


channels = st.sampled_from(["a", "a/b", "c/é"])
filters = channels | st.sampled_from(["#", "+/b", "$mesh/v1/agents/#", "a//b"])
limits = st.integers(1, 3)
own_parts = st.one_of(
    act(
        "publish",
        channel=channels,
        text=words,
        headers_=st.dictionaries(words, words, max_size=2),
        key_=words,
        correlation_base64_=st.sampled_from(["AP8=", "?"]),
        reply_to_=channels,
        cause_=st.sampled_from(["1-0", "because"]),
        expires_s_=st.floats(0.1, 9),
        retain_=st.booleans(),
    ),
    act("publish", channel=channels, base64=st.sampled_from(["AP8=", "", "AA"])),
    act("publish", channel=channels, tombstone=st.just(True)),
    act("read", channel=channels, limit_=limits, offset_=st.integers(0, 3)),
    # What the mesh's agent itself says no to, often enough that every run sees it.
    act("read", channel=st.sampled_from(["a//b", "$mesh", "\0"])),
    act("publish", channel=channels, base64=st.just("?")),
    act("watch", channel=filters, limit_=limits, timeout_s_=st.floats(0.001, 0.01)),
    act("find", text_=words, skill_=words, limit_=limits),
)
parts = st.one_of(
    st.fixed_dictionaries({"text": words}, optional={"mediaType": words}),
    st.fixed_dictionaries({"raw": st.sampled_from(["", "AA==", "_-8", "/+8="])}, optional={"mediaType": words}),
    st.fixed_dictionaries({"data": st.dictionaries(words, junk, max_size=3)}),
)
configurations = some(
    returnImmediately=st.booleans(), historyLength=st.integers(0, 2), acceptedOutputModes=st.lists(words, max_size=2)
)


def messages(part: st.SearchStrategy[Any], **metadata: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "messageId": st.uuids().map(str),
            "role": st.just("ROLE_USER"),
            "parts": st.lists(part, min_size=1, max_size=1),
            "metadata": st.fixed_dictionaries(metadata, optional={"deadline_ms": st.integers(1, 50)}),
        },
        optional={"contextId": words, "extensions": st.lists(words, max_size=2)},
    )


def sends(agent: str) -> st.SearchStrategy[Any]:
    said = messages(parts, skill=st.sampled_from(["echo", "strict"])) if agent == "t1" else messages(own_parts)
    return st.fixed_dictionaries({"message": said}, optional={"configuration": configurations})


pages = some(
    historyLength=st.integers(0, 2),
    pageSize=st.integers(1, 100),
    pageToken=st.sampled_from(["", "MTox"]),
    status=st.sampled_from(["TASK_STATE_COMPLETED", "TASK_STATE_UNSPECIFIED", ""]),
    statusTimestampAfter=st.sampled_from(["2026-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"]),
    contextId=words,
    includeArtifacts=st.booleans(),
)
tasks = st.fixed_dictionaries({"id": words}, optional={"historyLength": st.integers(0, 2)})


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, Any]:
    """An agent, a method, and parameters that mostly fit."""
    agent = draw(st.sampled_from(["t1", "mesh"]))
    method = draw(st.sampled_from([*METHODS, *["SendMessage", "SendStreamingMessage", "ListTasks"] * 3]))
    good = {"ListTasks": pages}.get(method, sends(agent) if method.startswith("Send") else tasks)
    address = agent if draw(st.integers(0, 9)) else draw(st.sampled_from(["nobody", "%FF", "%2F"]))
    return address, method, draw(bent(good))


class World(NamedTuple):
    """A mesh that goes on through all examples of a test."""

    loop: asyncio.Runner
    mesh: A2aMesh
    states: set[str]

    def post(self, path: str, body: bytes | None, method: str = "POST") -> tuple[int, Any]:
        async def ask() -> tuple[int, Any]:
            async with asyncio.timeout(10):
                status, _, answer = await self.mesh.post(path, body, method=method)
                return status, answer

        return self.loop.run(ask())

    def check(self, method: str, result: Any) -> None:
        """It is what the official types say it is."""
        read = ParseDict(result, RESULTS[method]())
        if isinstance(read, types.SendMessageResponse):
            self.states.add(types.TaskState.Name(read.task.status.state))


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """Tasks and waits of this one are short, so that nothing that was asked at random stays for long."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        short = A2aSettings(deadline_ms=50, send_wait_max_s=0.2)
        mesh = runner.run(stack.enter_async_context(a2a_mesh(short)))
        mesh.add("t1", Skill("echo"), Skill("strict", "", {"type": "object", "required": ["a"]}))
        yield World(runner, mesh, set())
        runner.run(stack.aclose())
    faults = [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
    assert not faults, faults


fuzz = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_json_rpc_answers_whatever_is_asked(world: World) -> None:
    @fuzz
    @example(asked=("t1", "SendMessage", REFUSED))
    @given(asked=requests())
    def ask(asked: tuple[str, str, Any]) -> None:
        agent, method, params = asked
        body = json.dumps({"jsonrpc": "2.0", "id": "x", "method": method, "params": params}).encode()
        status, answer = world.post(f"/{agent}", body)
        assert status == 200, answer
        for item in answer if isinstance(answer, list) else [answer]:
            assert (item["jsonrpc"], item["id"]) == ("2.0", "x")
            assert ("result" in item) != ("error" in item), item
            if "result" in item:
                world.check(method, item["result"])
            else:
                assert item["error"]["code"] != INTERNAL, item
                assert all("@type" in detail for detail in item["error"].get("data", []))

    ask()
    assert world.states >= REACHED


def test_rest_answers_whatever_is_asked(world: World) -> None:
    @fuzz
    @example(asked=("t1", "SendMessage", REFUSED))
    @given(asked=requests().filter(lambda asked: asked[1] in REST))
    def ask(asked: tuple[str, str, Any]) -> None:
        agent, method, params = asked
        status, answer = world.post(f"/{agent}/{REST[method]}", json.dumps(params).encode())
        if status == 200:
            for item in answer if isinstance(answer, list) else [answer]:
                world.check(method, item)
        else:
            assert status in (400, 404, 409, 413, 429), answer
            assert answer["error"]["code"] == status

    ask()
    assert world.states >= REACHED


def test_what_is_no_request_is_told_so(world: World) -> None:
    @fuzz
    @given(body=st.binary(max_size=40) | junk.map(lambda value: json.dumps(value).encode()))
    def ask(body: bytes) -> None:
        status, answer = world.post("/t1", body)
        assert (status, answer["jsonrpc"]) == (200, "2.0")
        assert answer["error"]["code"] in (-32700, -32600)

    ask()


def test_a_query_may_be_anything(world: World) -> None:
    good = some(
        pageSize=st.sampled_from(["1", "100"]),
        status=st.sampled_from(["TASK_STATE_WORKING", ""]),
        historyLength=st.just("0"),
        includeArtifacts=st.booleans().map(lambda value: str(value).lower()),
        contextId=st.sampled_from(["%F0%9F%92%A9", "c"]),
        tenant=st.just("t1"),
    )
    strange = st.sampled_from(["", "-1", "perhaps", "%00", "%FF", "1e9", "9" * 30])
    statuses: set[int] = set()

    @fuzz
    @given(query=good, wrong=st.none() | st.tuples(st.sampled_from(["pageSize", "pageToken", "status"]), strange))
    def ask(query: dict[str, str], wrong: tuple[str, str] | None) -> None:
        asked = {**query, **({wrong[0]: wrong[1]} if wrong else {})}
        text = "&".join([f"{name}={value}" for name, value in asked.items()])
        status, answer = world.post(f"/t1/tasks?{text}", None, "GET")
        statuses.add(status)
        if status == 200:
            world.check("ListTasks", answer)
        else:
            assert answer["error"]["code"] == status

    ask()
    assert statuses == {200, 400}

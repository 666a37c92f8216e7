"""The streams of a handshake session, in raw requests: notices, what is followed, and what comes after a cut."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp_mesh import McpMesh, events, eventually, listening, next_event, next_frame, note, opened, request, run

from dragoman.adapters.mcp.session import McpSession
from dragoman.adapters.mcp.voices import REPLY_EVENTS_MAX, Notices, Reply
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.principal import Principal
from dragoman.routing.cards import Skill
from dragoman.routing.message import Message
from dragoman.routing.refusals import Refusal

UPDATED = "notifications/resources/updated"
QUIET = {"tools_changed_debounce_s": 0.0, "notices_gap_s": 0.0, "channels_look_ms": 3_600_000}


def publish(mesh: McpMesh, name: str, payload: bytes) -> None:
    """Somebody of another protocol says something."""
    session = McpSession(Principal("plant"), "")
    assert mesh.broker.attach(session) is None
    assert not isinstance(mesh.broker.publish(session, Message(name, payload)), Refusal)
    mesh.broker.detach(session)


async def subscribe(mesh: McpMesh, lines: dict[str, str | None], uri: str, verb: str = "subscribe") -> Any:
    status, _, answer = await mesh.post(request(f"resources/{verb}", {"uri": uri}), lines)
    assert status == 200
    return answer


def test_the_stream_of_a_session_tells_of_new_tools() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        async with mesh.http.get(mesh.url, headers={**listening(lines), "Accept": "application/json"}) as answer:
            assert answer.status == 406
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            assert stream.content_type == "text/event-stream"
            assert await next_frame(stream.content) == ("0-0", None)
            async with mesh.http.get(mesh.url, headers=listening(lines)) as second:
                assert second.status == 429, "a principal has so many streams"
            mesh.add("t1", Skill("x"))
            assert (await next_event(stream.content))["method"] == "notifications/tools/list_changed"
            mesh.add("t2", Skill("y"))
            assert (await next_event(stream.content))["method"] == "notifications/tools/list_changed"
        async with mesh.http.delete(mesh.url, headers=listening(lines)) as answer:
            assert answer.status == 204

    run(body, **QUIET, listens_per_principal_max=1)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18"])
def test_older_clients_get_no_event_without_data(version: str) -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh, version)
        mesh.add("t1", Skill("x"))
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            seen, told = await next_frame(stream.content)
            assert (seen, told["method"]) == ("0-1", "notifications/tools/list_changed")

    run(body, **QUIET)


def test_a_session_has_one_stream_and_a_client_that_returns_takes_it_over() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            assert await next_frame(stream.content) == ("0-0", None)
            async with mesh.http.get(mesh.url, headers=listening(lines)) as second:
                assert second.status == 409
            async with mesh.http.get(mesh.url, headers=listening(lines, "0-0")) as third:
                assert third.status == 200
                assert await stream.read() == b"", "the older connection ends"
                mesh.add("t1", Skill("x"))
                assert await next_frame(third.content) == ("0-0", None)
                assert (await next_frame(third.content))[0] == "0-1"

    run(body, **QUIET)


def test_a_followed_resource_is_told_when_another_protocol_says_something() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        for uri in ("channel:///a", "channel:///a", "channel:///?name=a"):
            assert (await subscribe(mesh, lines, uri))["result"] == {}
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            assert (await next_frame(stream.content))[1] is None
            publish(mesh, "b", b"not followed")
            publish(mesh, "a", b"1")
            for uri in ("channel:///a", "channel:///?name=a"):
                told = await next_event(stream.content)
                assert told == {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": uri}}
            assert (await subscribe(mesh, lines, "channel:///?name=a", "unsubscribe"))["result"] == {}
            publish(mesh, "a", b"2")
            assert (await next_event(stream.content))["params"]["uri"] == "channel:///a"
            assert (await subscribe(mesh, lines, "channel:///a", "unsubscribe"))["result"] == {}
            assert (await subscribe(mesh, lines, "channel:///a", "unsubscribe"))["result"] == {}, "again is no fault"
            assert not mesh.broker.channels.by_name["a"].wanted, "nobody reads it any more"
            publish(mesh, "a", b"3")
            await subscribe(mesh, lines, "channel:///c")
            publish(mesh, "c", b"4")
            assert (await next_event(stream.content))["params"]["uri"] == "channel:///c"
        channel = mesh.broker.channels.by_name["c"]
        assert channel.wanted
        async with mesh.http.delete(mesh.url, headers=listening(lines)) as answer:
            assert answer.status == 204
        assert not channel.wanted, "the end of the session ends what it follows"
        assert not list(mesh.broker.sessions())

    run(body, **QUIET)


def test_what_cannot_be_followed_is_refused() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        for uri in ("file:///x", "channel:///secret/1", "channel:///", "channel:///%00"):
            answer = await subscribe(mesh, lines, uri)
            assert answer["error"]["code"] == -32602, uri
        for name in ("a", "b"):
            assert (await subscribe(mesh, lines, f"channel:///{name}"))["result"] == {}
        answer = await subscribe(mesh, lines, "channel:///c")
        assert answer["error"]["message"].startswith("quota-exceeded: 2 resources")
        assert (await subscribe(mesh, lines, "channel:///a"))["result"] == {}, "it is followed already"

    run(
        body,
        GateSettings(rules=(RuleSettings(effect="deny", actions=("read",), filters=("secret/#",)),)),
        listen_uris_max=2,
    )


def test_a_client_without_a_session_cannot_follow() -> None:
    async def body(mesh: McpMesh) -> None:
        status, _, answer = await mesh.ask("resources/subscribe", {"uri": "channel:///a"})
        assert (status, answer["error"]["code"]) == (404, -32601)
        assert not list(mesh.broker.sessions())

    run(body)


def test_changes_nobody_heard_become_one_and_wait_for_the_stream() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        await subscribe(mesh, lines, "channel:///a")
        await subscribe(mesh, lines, "channel:///b")
        for n in range(500):
            publish(mesh, "a", b"%d" % n)
        publish(mesh, "b", b"x")
        publish(mesh, "a", b"last")
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            assert (await next_frame(stream.content))[1] is None
            assert [(await next_event(stream.content))["params"]["uri"] for _ in range(2)] == [
                "channel:///b",
                "channel:///a",
            ]
            publish(mesh, "b", b"y")
            assert (await next_event(stream.content))["params"]["uri"] == "channel:///b"

    run(body, **QUIET)


def test_a_stream_goes_on_after_the_last_event_the_client_saw() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        for name in ("a", "b"):
            await subscribe(mesh, lines, f"channel:///{name}")
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            first, _ = await next_frame(stream.content)
            publish(mesh, "a", b"1")
            seen, told = await next_frame(stream.content)
            publish(mesh, "b", b"2")
            lost, _ = await next_frame(stream.content)
        publish(mesh, "a", b"3")
        async with mesh.http.get(mesh.url, headers=listening(lines, seen)) as stream:
            assert (await next_frame(stream.content)) == (seen, None)
            again, told = await next_frame(stream.content)
            assert (again, told["params"]["uri"]) == (lost, "channel:///b"), "it may have been lost"
            newest, told = await next_frame(stream.content)
            assert told["params"]["uri"] == "channel:///a"
        async with mesh.http.get(mesh.url, headers=listening(lines, first)) as stream:
            assert (await next_frame(stream.content)) == (first, None)
            assert (await next_frame(stream.content))[0] == lost, "what changed again is told once"
            assert (await next_frame(stream.content))[0] == newest
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            assert (await next_frame(stream.content)) == (newest, None), "without an id: what was never told"
        for unknown in ("1-1", "x", "0-", "-1-1", "0-1-1", "99999999999-1"):
            async with mesh.http.get(mesh.url, headers=listening(lines, unknown)) as answer:
                # Requests were numbered 1 to 3, but none of them was told as events.
                assert answer.status == (204 if unknown == "1-1" else 400), unknown

    run(body, **QUIET)


def test_no_client_talks_itself_past_what_comes_and_what_it_left_is_not_told() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        for name in ("a", "b"):
            await subscribe(mesh, lines, f"channel:///{name}")
            publish(mesh, name, b"1")
        await subscribe(mesh, lines, "channel:///a", "unsubscribe")
        async with mesh.http.get(mesh.url, headers=listening(lines, "0-999999")) as stream:
            assert await next_frame(stream.content) == ("0-0", None)
            assert (await next_event(stream.content))["params"]["uri"] == "channel:///b"

    run(body, **QUIET)


async def cut(mesh: McpMesh, lines: dict[str, str | None], token: str = "t") -> str:
    """Asks the skill ``slow``, hears one progress of it and loses the connection; the last event id."""
    params = {"name": "slow", "_meta": {"progressToken": token}}
    headers = {name: str(value) for name, value in lines.items()}
    headers |= {"Accept": "application/json, text/event-stream"}
    mesh.calls.asked.clear()
    asking = asyncio.create_task(mesh.http.post(mesh.url, json=request("tools/call", params, token), headers=headers))
    await asyncio.wait_for(mesh.calls.asked.wait(), 5)
    mesh.calls.started[-1].part(b"one")
    async with await asking as stream:
        assert stream.content_type == "text/event-stream"
        primed, nothing = await next_frame(stream.content)
        assert nothing is None
        seen, told = await next_frame(stream.content)
        assert seen != primed
        assert told["params"] == {"progressToken": token, "progress": 1, "message": "one"}
        stream.close()
    return seen


def test_a_call_whose_connection_broke_goes_on_and_its_answer_is_heard_over_another() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        lines = await opened(mesh)
        seen = await cut(mesh, lines)
        mesh.calls.started[0].part(b"two")
        async with mesh.http.get(mesh.url, headers=listening(lines, seen)) as stream:
            assert (await next_frame(stream.content)) == (seen, None)
            assert (await next_event(stream.content))["params"]["message"] == "two"
            mesh.calls.started[0].answer(b"done")
            answer = await next_event(stream.content)
            assert (answer["id"], answer["result"]["content"][0]["text"]) == ("t", "done")
            assert not (await stream.read()).strip(), "the stream ends with the answer"
        # Was the answer heard? Nobody knows but the client, which asks again if not.
        async with mesh.http.get(mesh.url, headers=listening(lines, seen)) as stream:
            assert [message.get("id") for message in events(await stream.read())] == [None, "t"]

    run(body, **QUIET)


def test_an_answer_waits_for_a_client_that_returns_late_and_a_cancelled_call_has_none() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        lines = await opened(mesh)
        seen = await cut(mesh, lines)
        mesh.calls.started[0].answer(b"done")
        await eventually(lambda: all(not session.requests for session in mesh.endpoint._handshakes.sessions))
        async with mesh.http.get(mesh.url, headers=listening(lines, seen)) as stream:
            assert (await next_frame(stream.content)) == (seen, None)
            assert (await next_event(stream.content))["result"]["content"][0]["text"] == "done"
        other = await opened(mesh)
        async with mesh.http.get(mesh.url, headers=listening(other, seen)) as answer:
            assert answer.status == 400, "an event id is its session's"
        seen = await cut(mesh, lines, "u")
        await mesh.post(note("notifications/cancelled", {"requestId": "u"}), lines)
        await asyncio.wait_for(mesh.calls.started[1].cancelled.wait(), 5)
        async with mesh.http.get(mesh.url, headers=listening(lines, seen)) as answer:
            assert answer.status == 204, "there is nothing to come back for"

    run(body, **QUIET)


def test_a_cancelled_call_ends_its_stream_without_an_answer() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: call.part(b"one")
        lines = await opened(mesh)
        params = {"name": "slow", "_meta": {"progressToken": 7}}
        asking = asyncio.create_task(mesh.post(request("tools/call", params, 5), lines))
        await asyncio.wait_for(mesh.calls.asked.wait(), 5)
        await mesh.post(note("notifications/cancelled", {"requestId": 5}), lines)
        await asyncio.wait_for(mesh.calls.started[0].cancelled.wait(), 5)
        status, _, told = await asking
        assert status in (200, 202)
        assert [message["method"] for message in told] == ["notifications/progress"] * len(told)

    run(body, **QUIET)


def test_finished_answers_are_held_within_their_bound() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("slow"))
        mesh.calls.serve = lambda call: None
        lines = await opened(mesh)
        (session,) = mesh.endpoint._handshakes.sessions
        seen = []
        for n in range(3):
            seen.append(await cut(mesh, lines, f"t{n}"))
            mesh.calls.started[n].answer(b"x" * 900)
            await eventually(lambda: not session.requests)
        for place, status in zip(seen, (204, 204, 200), strict=True):
            async with mesh.http.get(mesh.url, headers=listening(lines, place)) as answer:
                assert answer.status == status

    run(body, **QUIET, session_replay_bytes_max=1024)


def test_streams_end_cleanly_when_the_mesh_does() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        await subscribe(mesh, lines, "channel:///a")
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            await next_frame(stream.content)
            mesh.broker.say_goodbye()
            assert await stream.read() == b"", "an end, not a broken connection"
        assert (await mesh.post(request("ping"), lines))[0] == 404
        assert not list(mesh.broker.sessions())

    run(body, **QUIET)


def test_the_end_of_a_session_ends_its_streams() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            await next_frame(stream.content)
            async with mesh.http.delete(mesh.url, headers=listening(lines)) as answer:
                assert answer.status == 204
            assert await stream.read() == b""

    run(body, **QUIET)


def test_a_session_is_nobody_elses() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh, Authorization="Bearer good")
        await subscribe(mesh, lines, "channel:///a")
        for stranger in ("Bearer other", None):
            headers: dict[str, Any] = {**lines, "Authorization": stranger}
            assert (await mesh.post(request("ping"), headers))[0] == 404
            assert (await mesh.post(note("notifications/cancelled", {"requestId": 1}), headers))[0] == 404
            given = {name: value for name, value in headers.items() if value is not None}
            for verb in ("GET", "DELETE"):
                accept = {"Accept": "text/event-stream"}
                async with mesh.http.request(verb, mesh.url, headers=given | accept) as answer:
                    assert answer.status == 404, verb
        assert (await mesh.post(request("ping"), lines))[0] == 200

    run(body)


def test_idle_sessions_end_by_themselves_with_what_they_follow() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        await subscribe(mesh, lines, "channel:///a")
        (session,) = mesh.endpoint._handshakes.sessions
        session.used_ms -= 2_000
        mesh.endpoint._handshakes.sessions._sweep()
        assert session.closed
        assert not list(mesh.broker.sessions())
        assert (await mesh.post(request("ping"), lines))[0] == 404

    run(body, session_idle_s=1.0)


def test_progress_is_bounded_and_the_answer_is_never_what_is_left_out() -> None:
    async def body() -> None:
        reply = Reply(3)
        for n in range(REPLY_EVENTS_MAX + 10):
            await reply.notify("notifications/progress", {"progress": n})
        reply.finish(b"answer")
        told = reply.since(0)
        assert len(told) == REPLY_EVENTS_MAX
        assert told[-1] == (REPLY_EVENTS_MAX + 11, b"answer")
        assert reply.since(told[-2][0]) == told[-1:]
        assert reply.spoke

    asyncio.run(body())


def test_notices_keep_the_newest_of_each() -> None:
    notices = Notices()
    notices.note("a")
    notices.note(UPDATED, "x")
    notices.note("a")
    notices.note(UPDATED, "y")
    assert notices.told == 0
    assert [number for number, _ in notices.since(0)] == [2, 3, 4]
    assert notices.told == 4
    notices.forget(UPDATED, "y")
    assert [number for number, _ in notices.since(2)] == [3]


def test_changes_in_a_short_pause_become_one() -> None:
    async def body(mesh: McpMesh) -> None:
        lines = await opened(mesh)
        await subscribe(mesh, lines, "channel:///a")
        async with mesh.http.get(mesh.url, headers=listening(lines)) as stream:
            await next_frame(stream.content)
            publish(mesh, "a", b"0")
            assert (await next_frame(stream.content))[0] == "0-1"
            for n in range(100):
                publish(mesh, "a", b"%d" % n)
                await asyncio.sleep(0)
            seen, _ = await next_frame(stream.content)
            assert seen == "0-101", "all that came in the pause is one"

    run(body, **{**QUIET, "notices_gap_s": 0.3})

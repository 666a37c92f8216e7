"""The tools every caller has, through the real transport and a real broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp_mesh import McpMesh, Server, eventually, run

from dragoman.adapters.mcp.session import Inbox, McpSession
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.presence import State
from dragoman.broker.principal import ANONYMOUS
from dragoman.routing.cards import Skill
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Reason, Refusal


def text(result: dict[str, Any]) -> str:
    assert len(result["content"]) == 1
    told = result["content"][0]["text"]
    assert isinstance(told, str)
    return told


def test_what_has_expired_is_not_read() -> None:
    async def body(mesh: McpMesh) -> None:
        await mesh.call("mesh_join", {"channel": "a", "cursor": "c"})
        for said, expires_s in (("gone", 1e-9), ("here", 1000)):
            await mesh.call("mesh_publish", {"channel": "a", "text": said, "expires_s": expires_s})
        for given in ({"channel": "a"}, {"channel": "a", "offset": 0}):
            read = (await mesh.call("mesh_read", given))["structuredContent"]
            assert ([m["text"] for m in read["messages"]], read["next_offset"]) == (["here"], 2)
        waited = (await mesh.call("mesh_wait", {"cursor": "c", "timeout_s": 5}))["structuredContent"]
        assert [m["text"] for m in waited["messages"]] == ["here"]

    run(body)


def test_a_cursor_full_of_what_has_expired_goes_on() -> None:
    inbox = Inbox(2, 1 << 20)
    for expires_ms in (10, 20):
        assert inbox.offer("a", Message("a", b"x", envelope=Envelope(expires_ms=expires_ms)))
    assert not inbox.offer("a", Message("a", b"y"))
    assert not inbox.drop_expired(9)
    assert inbox.drop_expired(10)
    assert inbox.offer("a", Message("a", b"y"))
    assert [message.payload for _, message in inbox.take(9, 1 << 20)] == [b"x", b"y"]


def test_what_a_model_delays_waits_for_its_time() -> None:
    async def body(mesh: McpMesh) -> None:
        await mesh.call("mesh_join", {"channel": "later", "cursor": "c"})
        for seconds in ("3600", "0"):
            result = await mesh.call("mesh_publish", {"channel": f"$delayed/{seconds}/later", "text": seconds})
            assert not result.get("isError"), result
        waited = (await mesh.call("mesh_wait", {"cursor": "c", "timeout_s": 5}))["structuredContent"]
        assert [m["text"] for m in waited["messages"]] == ["0"]
        assert (await mesh.call("mesh_publish", {"channel": "$delayed/soon/a", "text": "x"}))["isError"]
        assert (await mesh.call("mesh_read", {"channel": "$delayed/3600/later"}))["isError"]

    run(body)


def test_what_is_published_is_read_with_all_it_came_with() -> None:
    async def body(mesh: McpMesh) -> None:
        given = {
            "channel": "line/1",
            "text": "grün",
            "content_type": "text/x",
            "headers": {"a": "b"},
            "key": "k",
            "reply_to": "answers",
            "correlation": "c1",
            "cause": "1-0",
            "expires_s": 1000,
            "retain": True,
        }
        published = (await mesh.call("mesh_publish", given))["structuredContent"]
        assert (published["channel"], published["offset"]) == ("line/1", 0)
        await mesh.call("mesh_publish", {"channel": "line/1", "base64": "AP8="})
        read = (await mesh.call("mesh_read", {"channel": "line/1"}))["structuredContent"]
        first, second = read["messages"]
        assert first["id"] == published["id"]
        assert {name: first[name] for name in ("text", "content_type", "reply_to", "correlation", "cause")} == {
            "text": "grün",
            "content_type": "text/x",
            "reply_to": "answers",
            "correlation": "c1",
            "cause": "1-0",
        }
        assert first["headers"] == [{"name": "a", "value": "b"}]
        assert first["key"] == "k"
        assert first["expires_ms"] - first["time_ms"] in range(999_000, 1_001_000)
        assert (second["base64"], read["next_offset"]) == ("AP8=", 2)
        assert read["retained"]["text"] == "grün"
        message = mesh.broker.last_of("line/1")
        assert message is not None
        assert message.payload == b"\x00\xff"

    run(body)


@pytest.mark.parametrize(
    "given",
    [
        {"channel": "a"},
        {"channel": "a", "text": "x", "base64": "AA=="},
        {"channel": "a", "base64": "?"},
        {"channel": "a/#", "text": "x"},
        {"channel": "", "text": "x"},
        {"channel": "$mesh/v1/presence/x", "text": "x"},
        {"channel": "a", "text": "x", "cause": "nonsense"},
        {"channel": "a", "text": "x", "reply_to": "a/+"},
        {"channel": "a", "text": "\ud800"},
        {"channel": "a", "text": "x", "key": "\ud800"},
        {"channel": "a", "text": "x", "expires_s": 1e308},
        {"channel": "a", "text": "x", "typo": 1},
    ],
)
def test_what_cannot_be_published_is_refused(given: dict[str, Any]) -> None:
    async def body(mesh: McpMesh) -> None:
        assert (await mesh.call("mesh_publish", given))["isError"]
        assert mesh.broker.last_of("a") is None
        assert not list(mesh.broker.sessions())

    run(body)


def test_publishing_again_with_the_same_key_says_nothing_again() -> None:
    async def body(mesh: McpMesh) -> None:
        given = {"channel": "a", "text": "x", "idempotency_key": "k"}
        first = await mesh.call("mesh_publish", given)
        again = await mesh.call("mesh_publish", given)
        assert first["structuredContent"]["id"] == again["structuredContent"]["id"]
        other = await mesh.call("mesh_publish", given, Authorization="Bearer good")
        assert other["structuredContent"]["offset"] == 1

    run(body)


def test_the_newest_are_read_unless_an_offset_is_given() -> None:
    async def body(mesh: McpMesh) -> None:
        for n in range(10):
            await mesh.call("mesh_publish", {"channel": "a", "text": str(n)})

        async def read(**given: int) -> tuple[list[str], int]:
            found = (await mesh.call("mesh_read", {"channel": "a", **given}))["structuredContent"]
            return [message["text"] for message in found["messages"]], found["next_offset"]

        assert await read(limit=3) == (["7", "8", "9"], 10)
        assert await read(offset=0, limit=2) == (["0", "1"], 2)
        assert await read(offset=2, limit=2) == (["2", "3"], 4)
        assert await read(offset=10) == ([], 10)
        assert await read(offset=0.0, limit=1.0) == (["0"], 1), "in JSON a number is whole by its value"  # type: ignore[arg-type]
        for wrong in ({"offset": -1}, {"offset": 0.5}, {"limit": 0}, {"limit": 1001}, {"offset": 1e300}):
            assert text(await mesh.call("mesh_read", {"channel": "a", **wrong})).startswith("arguments-invalid: ")
        refused = await mesh.call("mesh_read", {"channel": "no/such"})
        assert text(refused).startswith("unknown-channel: ")

    run(body)


def test_one_answer_holds_a_bounded_number_of_bytes() -> None:
    async def body(mesh: McpMesh) -> None:
        cursor = (await mesh.call("mesh_join", {"channel": "a"}))["structuredContent"]["cursor"]
        for n in range(5):
            await mesh.call("mesh_publish", {"channel": "a", "text": f"{n}" * 700})
        read = (await mesh.call("mesh_read", {"channel": "a", "offset": 0}))["structuredContent"]
        assert len(read["messages"]) == read["next_offset"] == 2
        heard = (await mesh.call("mesh_wait", {"cursor": cursor}))["structuredContent"]
        assert len(heard["messages"]) == 1
        assert heard["waiting"] > 0

    run(body, read_bytes_max=1024)


def test_waiting_hears_what_is_said_from_now_on() -> None:
    async def body(mesh: McpMesh) -> None:
        await mesh.call("mesh_publish", {"channel": "a/1", "text": "before", "retain": True})
        waiting = asyncio.create_task(mesh.call("mesh_wait", {"channel": "a/+", "timeout_s": 5}))
        await eventually(lambda: any(list(mesh.broker.subscriptions(each)) for each in mesh.broker.sessions()))
        await mesh.call("mesh_publish", {"channel": "a/2", "text": "now"})
        heard = (await waiting)["structuredContent"]["messages"]
        assert [(message["channel"], message["text"]) for message in heard] == [("a/2", "now")]
        nothing = await mesh.call("mesh_wait", {"channel": "a/1", "timeout_s": 0})
        assert nothing["structuredContent"] == {"messages": []}
        assert not list(mesh.broker.sessions())

    run(body)


def test_a_cursor_misses_nothing_between_two_waits() -> None:
    async def body(mesh: McpMesh) -> None:
        joined = (await mesh.call("mesh_join", {"channel": "a"}))["structuredContent"]
        for n in range(10):
            await mesh.call("mesh_publish", {"channel": "a", "text": str(n)})
        wait = {"cursor": joined["cursor"], "limit": 3}
        heard: list[str] = []
        for _ in range(4):
            found = (await mesh.call("mesh_wait", wait))["structuredContent"]
            assert "lost" not in found
            assert found["waiting"] <= 4
            heard += [message["text"] for message in found["messages"]]
        assert heard == [str(n) for n in range(10)], "more than its memory holds: the channel kept its place"
        left = (await mesh.call("mesh_leave", {"cursor": joined["cursor"]}))["structuredContent"]
        assert left == {"channel": "a", "unread": 0}
        gone = await mesh.call("mesh_wait", wait)
        assert text(gone).startswith("gone: ")

    run(body, cursor_messages_max=4)


def test_what_is_no_text_is_shown_as_base64() -> None:
    async def body(mesh: McpMesh) -> None:
        envelope = Envelope(
            headers=(("a", b"\xff"), ("b", None), ("a", b"")), correlation=b"\xff", key=b"\xfe", sent_ms=7
        )
        session = McpSession(ANONYMOUS, "")
        assert mesh.broker.attach(session) is None
        assert mesh.broker.publish(session, Message("a", None, envelope=envelope)) == 0
        mesh.broker.detach(session)
        (shown,) = (await mesh.call("mesh_read", {"channel": "a"}))["structuredContent"]["messages"]
        assert shown["headers"] == [{"name": "a", "value_base64": "/w=="}, {"name": "b"}, {"name": "a", "value": ""}]
        assert (shown["correlation_base64"], shown["key_base64"], shown["sent_ms"]) == ("/w==", "/g==", 7)
        assert "text" not in shown
        assert "base64" not in shown

    run(body)


def test_two_may_wait_on_one_cursor_and_each_message_goes_to_one_of_them() -> None:
    async def body(mesh: McpMesh) -> None:
        wait = {"cursor": (await mesh.call("mesh_join", {"channel": "a"}))["structuredContent"]["cursor"], "limit": 1}
        both = [asyncio.create_task(mesh.call("mesh_wait", wait)) for _ in range(2)]
        await eventually(lambda: len(list(mesh.broker.sessions())) == 3)
        for word in ("one", "two"):
            await mesh.call("mesh_publish", {"channel": "a", "text": word})
        heard = [message["text"] for done in both for message in (await done)["structuredContent"]["messages"]]
        assert sorted(heard) == ["one", "two"]

    run(body)


def test_a_cursor_the_mesh_ended_can_be_joined_anew() -> None:
    async def body(mesh: McpMesh) -> None:
        join = {"channel": "a", "cursor": "mine"}
        await mesh.call("mesh_join", join)
        (session,) = mesh.broker.sessions()
        waiting = asyncio.create_task(mesh.call("mesh_wait", {"cursor": "mine"}))
        await eventually(lambda: len(list(mesh.broker.sessions())) == 2)
        session.close(Refusal(Reason.DISCONNECTED, "by the administrator"))
        assert text(await waiting).startswith("disconnected: ")
        assert text(await mesh.call("mesh_wait", {"cursor": "mine"})).startswith("disconnected: ")
        assert text(await mesh.call("mesh_wait", {"cursor": "mine"})).startswith("gone: ")
        await mesh.call("mesh_join", join)
        (session,) = mesh.broker.sessions()
        session.close(Refusal(Reason.DISCONNECTED, "again"))
        assert "isError" not in await mesh.call("mesh_join", join)
        assert len(list(mesh.broker.sessions())) == 1

    run(body, cursors_per_principal_max=1)


def test_joining_again_is_the_same_cursor_and_another_channel_is_a_conflict() -> None:
    async def body(mesh: McpMesh) -> None:
        join = {"channel": "a", "cursor": "mine", "lease_s": 10}
        assert (await mesh.call("mesh_join", join))["structuredContent"] == {
            "cursor": "mine",
            "channel": "a",
            "lease_s": 10,
        }
        await mesh.call("mesh_publish", {"channel": "a", "text": "x"})
        await mesh.call("mesh_join", {**join, "lease_s": 10_000})
        found = (await mesh.call("mesh_wait", {"cursor": "mine"}))["structuredContent"]
        assert [message["text"] for message in found["messages"]] == ["x"]
        assert text(await mesh.call("mesh_join", {**join, "channel": "b"})).startswith("conflict: ")
        other = await mesh.call("mesh_wait", {"cursor": "mine"}, Authorization="Bearer good")
        assert text(other).startswith("gone: "), "a cursor is its owner's"

    run(body)


def test_cursors_are_bounded_and_end_with_their_lease() -> None:
    async def body(mesh: McpMesh) -> None:
        assert text(await mesh.call("mesh_join", {"channel": "a/#/b"})).startswith("filter-invalid: ")
        joined = await mesh.call("mesh_join", {"channel": "a", "lease_s": 0.01})
        refused = await mesh.call("mesh_join", {"channel": "b"})
        assert text(refused).startswith("quota-exceeded: ")
        await eventually(lambda: not list(mesh.broker.sessions()))
        gone = await mesh.call("mesh_wait", {"cursor": joined["structuredContent"]["cursor"]})
        assert text(gone).startswith("gone: ")
        assert (await mesh.call("mesh_join", {"channel": "b"}))["structuredContent"]["channel"] == "b"

    run(body, cursors_per_principal_max=1)


def test_a_cursor_makes_its_agent_present_until_it_leaves() -> None:
    async def body(mesh: McpMesh) -> None:
        me = {"Authorization": "Bearer good", "Mesh-Agent": "desk"}
        joined = (await mesh.call("mesh_join", {"channel": "a", "cursor": "c"}, **me))["structuredContent"]
        desk = mesh.directory.get("desk")
        assert desk is not None
        assert (desk.state, desk.via) == (State.ONLINE, "mcp")
        members = (await mesh.call("mesh_members", {"channel": "a"}))["structuredContent"]["members"]
        assert [member["agent"] for member in members] == ["desk"]
        published = await mesh.call("mesh_publish", {"channel": "a", "text": "x"}, **me)
        assert published["structuredContent"]["offset"] == 0
        heard = (await mesh.call("mesh_wait", {"cursor": "c"}, **me))["structuredContent"]
        assert heard["messages"][0]["sender"] == "desk"
        elsewhere = await mesh.call("mesh_wait", {"cursor": "c"}, Authorization="Bearer good")
        assert text(elsewhere).startswith("gone: "), "the cursor belongs to the agent that joined"
        await mesh.call("mesh_leave", {"cursor": joined["cursor"]}, **me)
        assert desk.state is State.GONE
        assert mesh.directory.members("a") == []

    run(body)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Mesh-Agent": "desk"}, 403),
        ({"Authorization": "Bearer good", "Mesh-Agent": "t1"}, 403),
        ({"Authorization": "Bearer other", "Mesh-Agent": "desk"}, 403),
        ({"Authorization": "Bearer other", "Mesh-Agent": "bobs%20own"}, 200),
        ({"Authorization": "Bearer good", "Mesh-Agent": "%zz"}, 400),
    ],
)
def test_only_an_agent_of_ones_own_may_be_named(headers: dict[str, str], status: int) -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", principal="plant")
        mesh.add("bobs own", principal="bob")
        assert (await mesh.ask("tools/list", None, dict(headers)))[0] == status

    run(body)


def test_agents_are_found_by_what_they_can_do() -> None:
    async def body(mesh: McpMesh) -> None:
        mesh.add("t1", Skill("set_temperature", "Heats."))
        mesh.add("t2", Skill("open_door"))
        found = (await mesh.call("mesh_find_agents", {"skill": "open_door"}))["structuredContent"]
        assert [agent["agent"] for agent in found["agents"]] == ["t2"]
        found = (await mesh.call("mesh_find_agents", {"limit": 1}))["structuredContent"]
        assert (len(found["agents"]), found["more"], found["agents"][0]["state"]) == (1, True, "online")
        assert (await mesh.call("mesh_members", {"channel": "room"}))["structuredContent"] == {"members": []}

    run(body)


def test_a_room_is_a_fresh_channel_with_an_end() -> None:
    async def body(mesh: McpMesh) -> None:
        given = {"invite": ["t1"], "lease_s": 60, "title": "Repairs"}
        first = (await mesh.call("mesh_open_room", given))["structuredContent"]
        second = (await mesh.call("mesh_open_room", {}))["structuredContent"]
        assert first["channel"] != second["channel"]
        left_ms = first["until_ms"] - mesh.broker.clock.now_ms()
        assert 50_000 < left_ms <= 60_000
        refused = await mesh.call("mesh_open_room", {"invite": ["\x07"]})
        assert text(refused).startswith("name-invalid: ")
        say = {"channel": first["channel"], "text": "here"}
        assert text(await mesh.call("mesh_publish", say, Authorization="Bearer other")).startswith("not-authorized: ")
        cursor = (await mesh.call("mesh_join", {"channel": first["channel"]}))["structuredContent"]["cursor"]
        await mesh.call("mesh_publish", say)
        assert mesh.broker.rooms.close(Server(ANONYMOUS, ""), first["channel"]) is None
        heard = (await mesh.call("mesh_wait", {"cursor": cursor}))["structuredContent"]
        assert [message["text"] for message in heard["messages"]] == ["here"], "what was said before the end"
        assert text(await mesh.call("mesh_wait", {"cursor": cursor})).startswith("gone: ")
        assert not list(mesh.broker.sessions())

    run(body)


def test_the_gate_judges_every_mesh_tool() -> None:
    rules = GateSettings(rules=(RuleSettings(effect="deny", who=("anonymous",), filters=("secret/#",)),))

    async def body(mesh: McpMesh) -> None:
        allowed = await mesh.call("mesh_publish", {"channel": "secret/1", "text": "x"}, Authorization="Bearer good")
        assert allowed["structuredContent"]["offset"] == 0
        for name, given in {
            "mesh_publish": {"channel": "secret/1", "text": "x"},
            "mesh_read": {"channel": "secret/1"},
            "mesh_wait": {"channel": "secret/1", "timeout_s": 0},
            "mesh_join": {"channel": "secret/1"},
            "mesh_members": {"channel": "secret/1"},
        }.items():
            result = await mesh.call(name, given)
            assert text(result).startswith("not-authorized: "), name
        listed = (await mesh.ask("resources/list"))[2]["result"]["resources"]
        assert listed == []
        status, _, answer = await mesh.ask("resources/read", {"uri": "channel:///secret/1"})
        assert (status, answer["error"]["code"]) == (400, -32602)
        mine = (await mesh.ask("resources/list", None, {"Authorization": "Bearer good"}))[2]["result"]["resources"]
        assert [resource["uri"] for resource in mine] == ["channel:///secret/1"]

    run(body, rules)

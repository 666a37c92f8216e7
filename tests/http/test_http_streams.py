"""Event streams and WebSockets against a real server: order, resumption, gaps, slow readers, ends."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from dragoman.adapters.http.settings import HttpSettings
from dragoman.adapters.serving.sse import frame, wants_events
from dragoman.broker.settings import BrokerSettings
from tests.http.http_mesh import eventually, http_mesh


def test_frames_are_what_the_standard_says():
    assert frame(b"a\nb\r\nc\rd", event="e", id="1-2") == b"id: 1-2\nevent: e\ndata: a\ndata: b\ndata: c\ndata: d\n\n"
    assert frame(b"") == b"data: \n\n"
    with pytest.raises(AssertionError):
        frame(b"", id="1\n2")
    with pytest.raises(AssertionError):
        frame(b"", event="e\r")


def test_only_who_names_events_gets_events():
    assert wants_events("text/event-stream")
    assert wants_events("application/json, Text/Event-Stream;q=0.5")
    assert not wants_events("*/*")
    assert not wants_events("text/event-stream;q=0")
    assert not wants_events("")


def test_a_stream_begins_with_the_retained_value_and_goes_on_in_order():
    async def main():
        async with http_mesh() as mesh:
            await mesh.publish("c", "kept", retain="true")
            await mesh.publish("c", "before")
            async with mesh.events("/v1/channels/c") as events:
                first = await events.next()
                assert (first.data["payload"], first.data["retained"], first.id) == ("kept", True, None)
                published = [await mesh.publish("c", f"{i}\n") for i in range(3)]
                for expected in published:
                    event = await events.next()
                    assert event.id == expected["id"] == event.data["id"]
                    assert "retained" not in event.data
                assert event.data["payload"] == "2\n"
            await eventually(lambda: mesh.broker.metrics.sessions == 0)
            assert mesh.broker.metrics.subscriptions == 0

    asyncio.run(main())


def test_a_reader_comes_back_where_it_was_and_a_foreign_number_is_a_gap():
    async def main():
        async with http_mesh() as mesh:
            ids = [(await mesh.publish("c", str(i)))["id"] for i in range(4)]
            async with mesh.events("/v1/channels/c", headers={"Last-Event-ID": ids[1]}) as events:
                assert [(await events.next()).data["payload"] for _ in range(2)] == ["2", "3"]
            async with mesh.events("/v1/channels/c", headers={"Last-Event-ID": "ffff-1"}) as events:
                gap = await events.next()
                assert (gap.kind, gap.data["channel"]) == ("gap", "c")
                assert (await events.next()).data["payload"] == "0"
            async with mesh.events("/v1/channels/c?start=earliest") as events:
                assert (await events.next()).data["payload"] == "0"
            async with mesh.events("/v1/stream?filter=c", headers={"Last-Event-ID": ids[2]}) as events:
                assert (await events.next()).data["payload"] == "3"
            status, problem, _ = await mesh.ask(
                "GET", "/v1/channels/c", headers={"Last-Event-ID": "x", "Accept": "text/event-stream"}
            )
            assert (status, problem["type"]) == (400, "arguments-invalid")

    asyncio.run(main())


def test_what_the_ring_no_longer_holds_is_a_counted_gap():
    async def main():
        async with http_mesh(broker_settings=BrokerSettings(ring_bytes_max=1 << 16)) as mesh:
            first = await mesh.publish("c", b"x" * 30_000)
            for _ in range(4):
                await mesh.publish("c", b"y" * 30_000)
            number = first["number"]
            oldest = mesh.broker.channels.by_name["c"].ring.first_offset
            assert oldest > 1
            async with mesh.events("/v1/channels/c", headers={"Last-Event-ID": f"{number}-0"}) as events:
                gap = await events.next()
                assert (gap.kind, gap.data) == ("gap", {"channel": "c", "count": oldest - 1})
                assert (await events.next()).data["offset"] == oldest
            _, page, _ = await mesh.ask("GET", "/v1/channels/c?offset=0")
            assert page["lost"] == oldest

    asyncio.run(main())


def test_a_stream_over_filters_hears_each_message_once_and_cannot_resume():
    async def main():
        async with http_mesh() as mesh:
            async with mesh.events("/v1/stream?filter=a/%23&filter=%2B/x") as events:
                for name in ("a/x", "b/y", "b/x", "a"):
                    await mesh.publish(name, name)
                assert [(await events.next()).data["channel"] for _ in range(3)] == ["a/x", "b/x", "a"]
            async with mesh.events("/v1/stream?filter=a/%23", headers={"Last-Event-ID": "1-1"}) as events:
                assert (await events.next()).kind == "gap"
            for query in ("", "?filter=a%23b"):
                status, _, _ = await mesh.ask("GET", f"/v1/stream{query}")
                assert status == 400

    asyncio.run(main())


def test_a_slow_reader_costs_its_place_and_not_memory():
    async def main():
        settings = HttpSettings(stream_max_messages=4, stream_max_bytes=1 << 20)
        async with http_mesh(settings) as mesh, mesh.events("/v1/channels/c", read_bufsize=1024) as events:
            session = next(iter(mesh.broker.sessions()))
            payload = "x" * 400_000
            for _ in range(40):
                await mesh.publish("c", payload)
            assert len(session._inbox) <= 4
            feed = mesh.broker.channels.by_name["c"].feed_of(session)
            assert feed.lag is not None
            for offset in range(40):
                assert (await events.next()).data["offset"] == offset
            await mesh.publish("c", "last")
            assert (await events.next()).data["payload"] == "last"

    asyncio.run(main())


def test_a_reader_that_takes_nothing_is_cut_off():
    async def main():
        settings = HttpSettings(stall_max_ms=100, stream_max_messages=4)
        async with http_mesh(settings) as mesh:
            reader, writer = await asyncio.open_connection(*mesh.url.removeprefix("http://").split(":"), limit=1024)
            writer.write(b"GET /v1/channels/c HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
            await eventually(lambda: mesh.broker.metrics.subscriptions == 1)
            for _ in range(40):
                await mesh.publish("c", b"x" * 400_000)
            await eventually(lambda: mesh.broker.metrics.subscriptions == 0)
            writer.close()
            assert reader is not None

    asyncio.run(main())


def test_silent_streams_say_something_and_the_end_is_said():
    async def main():
        async with http_mesh(HttpSettings(keep_alive_ms=100)) as mesh:
            async with mesh.events("/v1/channels/c") as events:
                while await events.line() != ":\n":
                    pass
                mesh.broker.say_goodbye()
                end = await events.next()
                assert (end.kind, end.data["type"]) == ("end", "shutting-down")
                assert await events.line() in ("", "\n")
            status, problem, _ = await mesh.ask("POST", "/v1/channels/c")
            assert (status, problem["type"]) == (503, "shutting-down")

    asyncio.run(main())


def test_there_are_only_so_many_streams():
    async def main():
        async with http_mesh(HttpSettings(streams_max=2, streams_per_principal_max=1)) as mesh:
            async with mesh.events("/v1/channels/c"):
                status, problem, head = await mesh.ask("GET", "/v1/stream?filter=c")
                assert (status, problem["type"], head["retry-after"]) == (429, "quota-exceeded", "1")
                headers = {"Authorization": "Bearer alice"}
                async with mesh.events("/v1/channels/c", headers=headers):
                    status, problem, _ = await mesh.ask("GET", "/v1/stream?filter=c", token="bob")
                    assert (status, problem["type"]) == (503, "busy")
            await eventually(lambda: mesh.broker.metrics.sessions == 0)
            async with mesh.events("/v1/channels/c"):
                pass

    asyncio.run(main())


def test_an_agent_is_a_member_while_its_stream_is_held():
    async def main():
        async with http_mesh() as mesh:
            headers = {"Authorization": "Bearer alice", "Mesh-Agent": "desk"}
            async with mesh.events("/v1/channels/c", headers=headers):
                assert [agent for agent, _ in mesh.broker.directory.members("c")] == ["desk"]
                assert mesh.broker.directory.get("desk").state == "online"
            await eventually(lambda: mesh.broker.directory.members("c") == [])
            assert mesh.broker.directory.get("desk").state == "lost", "a stream breaks; it says no goodbye"
            status, problem, _ = await mesh.ask(
                "GET", "/v1/stream?filter=c", token="bob", headers={"Mesh-Agent": "desk"}
            )
            assert (status, problem["type"]) == (403, "not-authorized")

    asyncio.run(main())


def test_verbs_are_heard_on_a_stream_and_have_no_place():
    async def main():
        async with http_mesh() as mesh:
            headers = {"Authorization": "Bearer alice", "Mesh-Agent": "desk"}
            async with mesh.events("/v1/stream?filter=mesh/serve/greet/%2B", headers=headers) as events:
                order = {"skill": "greet", "arguments": {"who": "you"}}
                calling = asyncio.ensure_future(mesh.ask("POST", "/v1/calls", json=order))
                asked = await events.next()
                assert asked.id is None
                assert json.loads(asked.data["payload"]) == {"who": "you"}
                call = asked.data["channel"].rpartition("/")[2]
                agent = {"Mesh-Agent": "desk"}
                answer = f"/v1/channels/mesh/answer/{call}"
                status, _, _ = await mesh.ask("POST", answer, token="alice", headers=agent, json={"hello": 1})
                assert status == 202
                status, answered, _ = await calling
                assert (status, answered["result"]) == (200, {"hello": 1})
            status, problem, _ = await mesh.ask("POST", "/v1/channels/mesh/dance")
            assert status == 400, problem

    asyncio.run(main())


# -- WebSocket ---------------------------------------------------------------------------------------


async def _say(socket: aiohttp.ClientWebSocketResponse, **frame: object) -> dict[str, object]:
    await socket.send_str(json.dumps(frame))
    return await socket.receive_json(timeout=5)


def test_a_websocket_publishes_and_subscribes():
    async def main():
        async with http_mesh() as mesh, mesh.http.ws_connect(mesh.url + "/v1/stream") as socket:
            assert await _say(socket, type="subscribe", ref=1, filter="a/#") == {"type": "ack", "ref": 1}
            assert await _say(socket, type="subscribe", ref=1, filter="a/#") == {"type": "ack", "ref": 1}
            assert mesh.broker.metrics.subscriptions == 1
            await socket.send_str(json.dumps({"type": "publish", "ref": 2, "channel": "a/b", "payload": "hello"}))
            heard = [await socket.receive_json(timeout=5) for _ in range(2)]
            by_type = {frame["type"]: frame for frame in heard}
            assert by_type["ack"]["ref"] == 2
            assert by_type["ack"]["kept"] == "memory"
            assert by_type["message"]["message"]["payload"] == "hello"
            assert by_type["message"]["message"]["id"] == by_type["ack"]["id"]
            assert await _say(socket, type="unsubscribe", ref=3, filter="a/#") == {"type": "ack", "ref": 3}
            assert mesh.broker.metrics.subscriptions == 0
            id_ = by_type["ack"]["id"]
            number, _, offset = id_.partition("-")
            assert offset == "0"
            await mesh.publish("a/b", "second")
            await socket.send_str(json.dumps({"type": "subscribe", "ref": 4, "filter": "a/b", "start": id_}))
            heard = [await socket.receive_json(timeout=5) for _ in range(2)]
            assert {"second"} == {f["message"]["payload"] for f in heard if f["type"] == "message"}
            assert number == f"{mesh.broker.channels.by_name['a/b'].number:x}"

    asyncio.run(main())


@pytest.mark.parametrize(
    "frame",
    [
        "no json",
        '{"type": "dance", "ref": 7}',
        '{"ref": 7}',
        '{"type": "subscribe", "ref": 7, "filter": "a#"}',
        '{"type": "subscribe", "ref": 7, "filter": "a", "start": "yesterday"}',
        '{"type": "subscribe", "ref": 7, "filter": "a", "extra": 1}',
        '{"type": "unsubscribe", "ref": 7, "filter": "never"}',
        '{"type": "publish", "ref": 7, "channel": "+"}',
        '{"type": "publish", "ref": 7, "channel": "a", "payload": "x", "payload_base64": "eA=="}',
        '{"type": "publish", "ref": 7, "channel": "a", "payload_base64": "?"}',
        '{"type": "publish", "ref": 7, "channel": "a", "wish": 3}',
        '{"type": "publish", "ref": 7, "channel": "$mesh/v1/x"}',
    ],
)
def test_a_frame_that_does_not_fit_is_an_error_and_ends_nothing(frame):
    async def main():
        async with http_mesh() as mesh, mesh.http.ws_connect(mesh.url + "/v1/stream") as socket:
            await socket.send_str(frame)
            answer = await socket.receive_json(timeout=5)
            assert answer["type"] == "error"
            assert answer.get("ref") == (7 if "7" in frame else None)
            assert answer["problem"]["detail"]
            assert mesh.broker.metrics.subscriptions == 0
            assert (await _say(socket, type="publish", ref=8, channel="ok", payload="x"))["type"] == "ack"

    asyncio.run(main())


def test_binary_frames_are_refused_and_goodbyes_are_said():
    async def main():
        async with http_mesh() as mesh:
            headers = {"Authorization": "Bearer alice", "Mesh-Agent": "desk"}
            async with mesh.http.ws_connect(mesh.url + "/v1/channels/c", headers=headers) as socket:
                await eventually(lambda: mesh.broker.metrics.subscriptions == 1)
                await socket.send_bytes(b"x")
                assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 1003
            async with mesh.http.ws_connect(mesh.url + "/v1/channels/c", headers=headers):
                await eventually(lambda: mesh.broker.directory.get("desk").state == "online")
            await eventually(lambda: mesh.broker.directory.get("desk").state == "gone")
            async with mesh.http.ws_connect(mesh.url + "/v1/channels/c") as socket:
                await eventually(lambda: mesh.broker.metrics.subscriptions == 1)
                mesh.broker.say_goodbye()
                assert (await socket.receive_json(timeout=5))["problem"]["type"] == "shutting-down"
                assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 1001

    asyncio.run(main())


def test_a_slow_websocket_is_fed_from_its_place():
    async def main():
        settings = HttpSettings(stream_max_messages=4)
        async with http_mesh(settings) as mesh, mesh.http.ws_connect(mesh.url + "/v1/channels/c") as socket:
            await eventually(lambda: mesh.broker.metrics.subscriptions == 1)
            session = next(iter(mesh.broker.sessions()))
            for _ in range(60):
                await mesh.publish("c", b"x" * 400_000)
            assert len(session._inbox) <= 4
            offsets = [(await socket.receive_json(timeout=5))["message"]["offset"] for _ in range(60)]
            assert offsets == list(range(60))

    asyncio.run(main())

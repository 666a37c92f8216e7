"""Publishing and reading over HTTP, with aiohttp's client and curl."""

from __future__ import annotations

import asyncio
import json

import pytest

from dragoman.adapters.http.settings import HttpSettings
from dragoman.adapters.serving.web_settings import WebSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.settings import BrokerSettings
from tests.http.http_mesh import CURL, curl, eventually, http_mesh


def test_what_is_published_is_read_back_as_it_was():
    async def main():
        async with http_mesh() as mesh:
            status, answer, head = await mesh.ask(
                "POST",
                "/v1/channels/factory/line%201/temp",
                data=b"\x00\xff21",
                headers={
                    "Content-Type": "application/x-own; v=1",
                    "Mesh-H-Unit%43ode": "caf%C3%A9",
                    "Mesh-H-plain": "b%25",
                    "Mesh-Reply-To": "answers/to%20me",
                    "Mesh-Correlation": "%00%01",
                    "Mesh-Key": "k",
                    "Mesh-Cause": "1f-3",
                    "Mesh-Hops": "2",
                    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                },
            )
            assert status == 201, answer
            assert answer["channel"] == "factory/line 1/temp"
            assert answer["offset"] == 0
            assert answer["kept"] == "memory"
            assert head["location"].startswith("/v1/channels/factory/line%201/temp?offset=0&")

            status, raw, head = await mesh.ask("GET", "/v1/channels/factory/line%201/temp?last=true")
            assert (status, raw) == (200, b"\x00\xff21")
            assert head["content-type"] == "application/x-own; v=1"
            assert head["mesh-id"] == answer["id"]
            assert head["mesh-h-unit%43ode"] == "caf%C3%A9"
            assert head["mesh-h-plain"] == "b%25"
            assert head["mesh-reply-to"] == "answers/to%20me"
            assert head["mesh-correlation"] == "%00%01"
            assert (head["mesh-key"], head["mesh-cause"], head["mesh-hops"]) == ("k", "1f-3", "2")
            assert head["traceparent"].startswith("00-0af7")
            assert head["x-content-type-options"] == "nosniff"

            _, page, _ = await mesh.ask("GET", "/v1/channels/factory/line%201/temp")
            (message,) = page["messages"]
            assert message["payload_base64"] == "AP8yMQ=="
            assert "payload" not in message
            assert message["correlation"] == "\x00\x01"
            assert {h["name"]: h["value"] for h in message["headers"]}["unitCode"] == "café"

    asyncio.run(main())


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize("name", ["a/./b", "a/../b", "a//b", "/a", "a/", "ü/%2F/ x?", "$x/y", "a b"])
def test_every_name_can_be_spelt_through_curl(name):
    async def main():
        async with http_mesh() as mesh:
            where = f"{mesh.url}/v1/channels"
            status, body = await curl("-G", "--data-urlencode", f"name={name}", "-X", "POST", where)
            assert status == 201, body
            assert json.loads(body)["channel"] == name
            status, body = await curl("-G", "--data-urlencode", f"name={name}", where)
            assert status == 200, body
            assert [m["channel"] for m in json.loads(body)["messages"]] == [name]
            assert mesh.broker.channels.find(name) is not None

    asyncio.run(main())


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_paths_that_a_client_may_fold_are_refused_and_not_misread():
    async def main():
        async with http_mesh() as mesh:
            for path in ("a/%2e/b", "a/%2E%2E/b", "a//b", "a%2Fb", "a/%FF", "a/%G0", "a/%2B"):
                status, body = await curl("--path-as-is", "-d", "x", f"{mesh.url}/v1/channels/{path}")
                assert status == 400, (path, body)
                assert json.loads(body)["type"] == "name-invalid", path
            assert not [name for name in mesh.broker.channels.by_name if name.startswith("a")]
            status, body = await curl("-d", "x", f"{mesh.url}/v1/channels/a/%C3%BC%20%25")
            assert status == 201, body
            assert json.loads(body)["channel"] == "a/ü %"

    asyncio.run(main())


def test_pages_go_on_where_they_ended_and_say_what_is_missing():
    async def main():
        async with http_mesh() as mesh:
            for i in range(5):
                await mesh.publish("c", str(i))
            _, page, _ = await mesh.ask("GET", "/v1/channels/c?limit=2")
            assert [m["payload"] for m in page["messages"]] == ["0", "1"]
            assert page["next_offset"] == 2
            _, page, _ = await mesh.ask("GET", f"/v1/channels/c?offset=2&number={page['number']}")
            assert [m["payload"] for m in page["messages"]] == ["2", "3", "4"]
            assert "restarted" not in page
            _, page, _ = await mesh.ask("GET", "/v1/channels/c?offset=3&number=ffff")
            assert page["restarted"] is True
            assert page["messages"][0]["offset"] == 0
            _, page, _ = await mesh.ask("GET", "/v1/channels/c?start=last")
            assert [m["payload"] for m in page["messages"]] == ["4"]
            _, page, _ = await mesh.ask("GET", "/v1/channels/c?start=new")
            assert page["messages"] == []
            assert page["next_offset"] == 5

    asyncio.run(main())


def test_a_reader_waits_for_the_next_message_and_is_no_member():
    async def main():
        async with http_mesh() as mesh:
            for name, said in (("c", 1), ("fresh", 0)):
                if said:
                    await mesh.publish(name, "old")
                before = mesh.broker.metrics.subscriptions
                query = {"wait_ms": "5000", "offset": "1"} if said else {"wait_ms": "5000"}
                waiting = asyncio.ensure_future(
                    mesh.ask("GET", f"/v1/channels/{name}", params=query, token="alice", headers={"Mesh-Agent": "desk"})
                )
                await eventually(lambda n=before: mesh.broker.metrics.subscriptions > n)
                assert mesh.broker.directory.members(name) == []
                await mesh.publish(name, "news")
                status, page, _ = await waiting
                assert status == 200
                assert [m["payload"] for m in page["messages"]] == ["news"]
                assert page["next_offset"] == said + 1
            status, page, _ = await mesh.ask("GET", "/v1/channels/c?offset=2&wait_ms=10")
            assert (status, page["messages"], page["next_offset"]) == (200, [], 2)
            assert mesh.broker.metrics.subscriptions == 0

    asyncio.run(main())


def test_retained_values_and_tombstones():
    async def main():
        async with http_mesh() as mesh:
            await mesh.publish("r", "kept", retain="true")
            await mesh.publish("r", "newer")
            assert (await mesh.ask("GET", "/v1/channels/r?retained=true"))[:2] == (200, b"kept")
            assert (await mesh.ask("GET", "/v1/channels/r?last=true"))[:2] == (200, b"newer")
            await mesh.publish("r", tombstone="true")
            assert (await mesh.ask("GET", "/v1/channels/r?last=true"))[:2] == (204, b"")
            _, page, _ = await mesh.ask("GET", "/v1/channels/r?start=last")
            assert page["messages"][0]["tombstone"] is True
            await mesh.publish("r", "", retain="true")
            status, problem, _ = await mesh.ask("GET", "/v1/channels/r?retained=true")
            assert (status, problem["type"]) == (404, "unknown-channel")

    asyncio.run(main())


def test_the_same_key_is_said_once():
    async def main():
        async with http_mesh() as mesh:
            answers = []
            await mesh.ask("POST", "/v1/channels/another", token="alice", headers={"Idempotency-Key": "k"})
            await mesh.publish("another", "x")
            for token, key in (("alice", "k"), ("alice", "k"), ("bob", "k"), ("alice", "other")):
                headers = {"Idempotency-Key": key}
                answers.append(await mesh.ask("POST", "/v1/channels/c", data="x", token=token, headers=headers))
            assert [(answer["channel"], answer["offset"]) for _, answer, _ in answers] == [
                ("c", 0),
                ("c", 0),
                ("c", 1),
                ("c", 2),
            ]
            assert mesh.broker.channels.by_name["c"].visible == 3
            status, problem, _ = await mesh.ask("POST", "/v1/channels/c", headers={"Idempotency-Key": "k" * 256})
            assert (status, problem["type"]) == (400, "arguments-invalid")

    asyncio.run(main())


EVENT = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/plant", "ce-type": "org.temp"}


def test_cloudevents_come_and_go_in_binary_and_structured_mode():
    async def main():
        async with http_mesh() as mesh:
            headers = {**EVENT, "ce-time": "2026-01-02T03:04:05Z", "ce-partitionkey": "p1", "ce-note": "a%20b"}
            status, answer, _ = await mesh.ask("POST", "/v1/channels/c", data="{}", headers=headers)
            assert status == 201, answer
            _, _, head = await mesh.ask("GET", "/v1/channels/c?last=true")
            assert {n: head[n] for n in EVENT} == EVENT
            assert (head["ce-note"], head["mesh-key"]) == ("a%20b", "p1")
            assert head["mesh-sent-ms"] == "1767323045000"

            event = {"specversion": "1.0", "id": "8", "source": "/s", "type": "t", "data": {"x": 1}}
            kind = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
            body = json.dumps(event).encode()
            status, answer, _ = await mesh.ask("POST", "/v1/channels/c", data=body, headers=kind)
            assert status == 201, answer
            _, raw, head = await mesh.ask("GET", "/v1/channels/c?last=true")
            assert raw == body
            assert head["content-type"] == kind["Content-Type"]
            assert (head["ce-id"], head["ce-specversion"]) == ("8", "1.0")

            for bad in ({**EVENT, "ce-specversion": "0.3"}, {n: v for n, v in EVENT.items() if n != "ce-id"}):
                status, problem, _ = await mesh.ask("POST", "/v1/channels/c", headers=bad)
                assert (status, problem["type"]) == (400, "payload-invalid")
            for kind_, wanted in (("application/cloudevents-batch+json", 415), ("application/cloudevents+avro", 415)):
                status, problem, _ = await mesh.ask(
                    "POST", "/v1/channels/c", data="[]", headers={"Content-Type": kind_}
                )
                assert (status, problem["type"]) == (wanted, "unsupported")
            assert mesh.broker.channels.by_name["c"].visible == 2

    asyncio.run(main())


def test_what_a_declared_channel_keeps_is_there_after_a_restart(tmp_path):
    async def main():
        async with http_mesh(log=DiskLog(LogSettings(tmp_path))) as mesh:
            status, channel, _ = await mesh.ask("PUT", "/v1/channels/d", json={"keeps": "acked"})
            assert (status, channel["declared"]) == (200, "acked")
            assert (await mesh.publish("d", "safe"))["kept"] == "log"
            assert (await mesh.publish("d", "not", wish="0"))["kept"] == "memory"
            headers = {"Idempotency-Key": "once"}
            _, first, _ = await mesh.ask("POST", "/v1/channels/d", data="safe too", headers=headers)
        async with http_mesh(log=DiskLog(LogSettings(tmp_path))) as mesh:
            _, again, _ = await mesh.ask("POST", "/v1/channels/d", data="safe too", headers=headers)
            assert again == first
            _, page, _ = await mesh.ask("GET", "/v1/channels/d")
            assert [m["payload"] for m in page["messages"]] == ["safe", "safe too"]
            assert page["number"] == first["number"]
            assert (await mesh.ask("GET", "/readyz"))[0] == 200

    asyncio.run(main())


def test_what_is_declared_has_limits_that_hold_after_a_restart(tmp_path):
    async def main():
        limits = {"retention_ms": 86_400_000, "retention_bytes": 1 << 20, "retention_messages": 2}
        async with http_mesh(log=DiskLog(LogSettings(tmp_path))) as mesh:
            status, channel, _ = await mesh.ask("PUT", "/v1/channels/d", json={"keeps": "all", **limits})
            assert (status, {name: channel[name] for name in limits}) == (200, limits)
        async with http_mesh(log=DiskLog(LogSettings(tmp_path)), broker_settings=BrokerSettings(sweep_ms=10)) as mesh:
            _, listed, _ = await mesh.ask("GET", "/v1/channels?filter=d")
            assert {name: listed["channels"][0][name] for name in limits} == limits
            for text in "abcd":
                await mesh.publish("d", text)
            number = mesh.broker.channels.by_name["d"].number
            await eventually(lambda: mesh.broker.log.bounds(number) == (2, 4))
            status, channel, _ = await mesh.ask("PUT", "/v1/channels/d", json={"keeps": "all"})
            assert status == 200
            assert not limits.keys() & channel.keys(), "declared anew: what is left out is no limit"

    asyncio.run(main())


@pytest.mark.parametrize("limit", ["retention_ms", "retention_bytes", "retention_messages"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 1 << 53, "1", True])
def test_a_limit_that_is_none_is_refused(limit, value):
    async def main():
        async with http_mesh() as mesh:
            status, problem, _ = await mesh.ask("PUT", "/v1/channels/d", json={"keeps": "all", limit: value})
            assert (status, problem["type"]) == (400, "arguments-invalid")
            assert limit in problem["detail"]
            assert "d" not in mesh.broker.channels.by_name

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("mesh", 400, "name-invalid"),
        ("mesh/to/w", 400, "name-invalid"),
        ("mesh/call/w/write", 400, "name-invalid"),
        ("$mesh/v1/x", 403, "not-authorized"),
        ("$mail/w", 403, "not-authorized"),
        ("$own/x", 403, "not-authorized"),
        ("a/%2B", 400, "name-invalid"),
    ],
)
def test_only_channels_are_declared(name, status, kind):
    async def main():
        async with http_mesh() as mesh:
            before = set(mesh.broker.channels.by_name)
            for token in ("alice", "root"):
                for path in (f"/v1/channels/{name}", f"/v1/channels?name={name}"):
                    got, problem, _ = await mesh.ask("PUT", path, token=token, json={"keeps": "all"})
                    assert (got, problem["type"]) == (status, kind), path
            assert set(mesh.broker.channels.by_name) == before

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind"),
    [
        ("GET", "/v1/channels/c?offset=-1", {}, 400, "arguments-invalid"),
        ("GET", "/v1/channels/c?offset=1.5", {}, 400, "arguments-invalid"),
        ("GET", "/v1/channels/c?ofset=1", {}, 400, "arguments-invalid"),
        ("GET", "/v1/channels/c?limit=0", {}, 400, "arguments-invalid"),
        ("GET", "/v1/channels/c?limit=1&limit=2", {}, 400, "arguments-invalid"),
        ("GET", "/v1/channels/c?number=XY", {}, 400, "arguments-invalid"),
        ("GET", "/v1/channels/c?start=somewhere", {}, 400, "arguments-invalid"),
        ("GET", "/v1/channels/c?last=yes", {}, 400, "arguments-invalid"),
        ("GET", "/v1/channels/nowhere", {}, 404, "unknown-channel"),
        ("GET", "/v1/channels?filter=a%23", {}, 400, "filter-invalid"),
        ("POST", "/v1/channels/c?wish=3", {}, 400, "arguments-invalid"),
        ("POST", "/v1/channels", {}, 400, "arguments-invalid"),
        ("POST", "/v1/channels/c", {"Mesh-Cause": "no id"}, 400, "payload-invalid"),
        ("POST", "/v1/channels/c", {"Mesh-Expires-Ms": "soon"}, 400, "payload-invalid"),
        ("POST", "/v1/channels/$mesh/v1/x", {}, 403, "not-authorized"),
        ("PATCH", "/v1/channels/c", {}, 405, "about:blank"),
        ("GET", "/nowhere", {}, 404, "about:blank"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(method, path, headers, status, kind):
    async def main():
        async with http_mesh() as mesh:
            got, problem, head = await mesh.ask(method, path, headers=headers)
            assert (got, problem["type"]) == (status, kind)
            assert head["content-type"] == "application/problem+json"
            assert problem["status"] == status
            assert len(problem["detail"]) > 10
            assert kind != "about:blank" or "/openapi.json" in problem["detail"]
            assert "Traceback" not in str(problem)

    asyncio.run(main())


def test_a_body_beyond_the_limit_is_refused_before_and_while_it_is_read():
    async def main():
        settings = HttpSettings(web=WebSettings(body_max_bytes=1024))
        async with http_mesh(settings) as mesh:

            async def slices():
                for _ in range(8):
                    yield b"x" * 512

            for data in (b"x" * 1025, slices()):
                status, problem, _ = await mesh.ask("POST", "/v1/channels/c", data=data)
                assert (status, problem["type"]) == (413, "too-large")
                assert "1025 bytes, at most 1024" in problem["detail"] or not isinstance(data, bytes)
            status, _, _ = await mesh.ask("POST", "/v1/channels/c", data=b"x" * 1024)
            assert status == 201
            status, problem, _ = await mesh.ask(
                "POST", "/v1/channels/c", data=b"x", headers={"Content-Encoding": "gzip"}
            )
            assert (status, problem["type"]) == (415, "unsupported")

    asyncio.run(main())


def test_the_list_shows_only_what_may_be_read():
    async def main():
        rules = (RuleSettings(effect="deny", who=("alice",), actions=("read",), filters=("secret/#",)),)
        async with http_mesh(gate=GateSettings(rules=rules)) as mesh:
            for name in ("b", "a/x", "secret/x", "a/y", "$own/z"):
                await mesh.publish(name)
            _, everything, _ = await mesh.ask("GET", "/v1/channels", token="bob")
            assert [c["name"] for c in everything["channels"]] == ["a/x", "a/y", "b", "secret/x"]
            _, some, _ = await mesh.ask("GET", "/v1/channels", token="alice", params={"limit": "2"})
            assert ([c["name"] for c in some["channels"]], some["next"]) == (["a/x", "a/y"], "a/y")
            _, rest, _ = await mesh.ask("GET", "/v1/channels", token="alice", params={"after": "a/y"})
            assert [c["name"] for c in rest["channels"]] == ["b"]
            _, few, _ = await mesh.ask("GET", "/v1/channels", token="alice", params={"filter": "a/+"})
            assert [c["name"] for c in few["channels"]] == ["a/x", "a/y"]
            for path in ("/v1/channels/secret/x", "/v1/channels/secret/x?last=true"):
                status, problem, _ = await mesh.ask("GET", path, token="alice")
                assert (status, problem["type"]) == (403, "not-authorized")

    asyncio.run(main())


def test_what_has_expired_is_not_shown():
    async def main():
        async with http_mesh() as mesh:
            for lifetime, status in (("0", 201), ("60000", 201)):
                got, _, _ = await mesh.ask("POST", "/v1/channels/c", headers={"Mesh-Expires-Ms": lifetime})
                assert got == status
            _, page, _ = await mesh.ask("GET", "/v1/channels/c")
            assert [m["offset"] for m in page["messages"]] == [1]
            _, _, head = await mesh.ask("GET", "/v1/channels/c?last=true")
            assert 0 < int(head["mesh-expires-ms"]) <= 60_000

    asyncio.run(main())

"""What no cell of the table says: other clients on the same ways, verbatim passage, and who may say what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import aiohttp
import aiomqtt
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.processes import run_client
from tests.crossings.peers import PATIENCE_S, Http, Mcp, Mqtt, Peers, credentials
from tests.crossings.said import Said

IDENTITY = ("mesh-id", "mesh-from")


def _mqtt(peers: Peers) -> tuple[Mqtt, Mqtt]:
    sayer, seer = peers.sayers["mqtt5"], peers.seers["mqtt5"]
    assert isinstance(sayer, Mqtt)
    assert isinstance(seer, Mqtt)
    return sayer, seer


def _say(client: mqtt.Client, channel: str, pairs: list[tuple[str, str]], payload: bytes = b"x") -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = pairs
    client.publish(channel, payload, 1, properties=properties).wait_for_publish(PATIENCE_S)


def test_mqtt_to_mqtt_is_verbatim(peers: Peers):
    sayer, seer = _mqtt(peers)
    pairs = [("b", "1"), ("mesh-key", "k"), ("a", "2"), ("mesh-hops", "no number"), ("x;b64", "!"), ("b", "3")]
    seer.listen("more/verbatim")
    _say(sayer.client, "more/verbatim", pairs)
    assert seer.properties("more/verbatim").UserProperty == pairs


def test_a_header_with_a_mark_that_fits_not_keeps_it(peers: Peers):
    sayer, _ = _mqtt(peers)
    pairs = [("x;b64", "!"), ("y;null", "value"), ("mesh-hops", "many"), ("mesh-cause", "nothing")]
    _say(sayer.client, "more/marks", pairs)
    seen = peers.seers["http"].see("more/marks")["page"]
    assert seen.headers == [(name, value.encode()) for name, value in pairs]
    assert (seen.hops, seen.cause) == (None, None)


@pytest.mark.parametrize("name", [*IDENTITY, "mesh-lost"])
def test_who_spoke_is_the_meshs_to_say(peers: Peers, name: str):
    sayer, seer = _mqtt(peers)
    channel = f"more/forged/{name}"
    seer.listen(channel)
    _say(sayer.client, channel, [("a", "1"), (name, "admin")])
    said = dict(seer.properties(channel).UserProperty)
    assert said["a"] == "1"
    assert said["mesh-from"] == "say-mqtt5"
    assert "admin" not in said.values()
    http, mcp = peers.sayers["http"], peers.sayers["mcp"]
    for other in (http, mcp):
        other.publish(channel, Said(b"x", headers=[(name, b"admin")]))
        said = dict(seer.properties(channel).UserProperty)
        assert said["mesh-from"] == other.name
        assert said[f"mesh-h-{name}"] == "admin"


def test_mail_says_who_it_is_from(peers: Peers):
    sayer, seer = _mqtt(peers)
    seer.client.message_callback_add("mesh/me/in", lambda _, __, message: seer._seen["mail"].put(message))
    seer.listen("mail")
    seer.client.subscribe("mesh/me/in", 1)
    seer._ready.get(timeout=PATIENCE_S)
    _say(sayer.client, "mesh/to/see-mqtt5", [("a", "1"), ("mesh-from", "admin")])
    assert ("mesh-from", "say-mqtt5") in seer.properties("mail").UserProperty
    sayer.client.publish("mesh/to/see-mqtt5", b"plain", 1)
    assert ("mesh-from", "say-mqtt5") in seer.properties("mail").UserProperty
    seer.client.message_callback_remove("mesh/me/in")
    seer.client.unsubscribe("mesh/me/in")


def test_what_mqtt_cannot_hold_is_named(peers: Peers):
    _, seer = _mqtt(peers)
    mcp = peers.sayers["mcp"]
    long = b"v" * 70_000
    seer.listen("more/long")
    mcp.publish(
        "more/long",
        Said(
            b"x",
            headers=[("fits", b"1"), ("long", long), ("nul\0", b"2"), ("nul", b"a\0b")],
            key=long,
            correlation=long,
            content_type="a\0b",
        ),
    )
    properties = seer.properties("more/long")
    said = [(name, value) for name, value in properties.UserProperty if name not in IDENTITY]
    lost = ["content-type", "correlation", "long", "header", "mesh-key"]
    assert said == [("fits", "1"), ("nul;b64", "YQBi"), *(("mesh-lost", name) for name in lost)]
    assert not hasattr(properties, "CorrelationData")
    mcp.publish("more/long", Said(b"next"))
    assert seer.see("more/long")["message"].payload == b"next"


@pytest.mark.parametrize("reply_to", ["answers/+", "", "a%00b"])
def test_a_reply_goes_to_a_channel(peers: Peers, reply_to: str):
    http = peers.sayers["http"]
    assert isinstance(http, Http)
    status, body, _ = http.ask("POST", "/v1/channels/more/reply", b"x", [("Mesh-Reply-To", reply_to)])
    assert (status, json.loads(body)["type"]) == (400, "name-invalid")


@pytest.mark.parametrize("source", ["mqtt5", "http", "mcp"])
def test_an_event_says_its_key_and_its_time(peers: Peers, source: str):
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "partitionkey": "p1"}
    headers = [(name, value.encode()) for name, value in {**event, "time": "2026-01-02T03:04:05.678Z"}.items()]
    peers.sayers[source].publish(f"more/event/{source}", Said(b"x", headers=list(headers)))
    seen = peers.seers["http"].see(f"more/event/{source}")["page"]
    assert (seen.key, seen.sent_ms) == (b"p1", 1_767_323_045_678)
    peers.sayers[source].publish(f"more/no-event/{source}", Said(b"x", headers=list(headers[1:])))
    seen = peers.seers["http"].see(f"more/no-event/{source}")["page"]
    assert (seen.key, seen.sent_ms) == (None, None)


def test_mcp_headers_may_be_an_object(peers: Peers):
    mcp = peers.sayers["mcp"]
    assert isinstance(mcp, Mcp)
    mcp.tool("mesh_publish", {"channel": "more/object", "text": "x", "headers": {"a": "1", "traceparent": "mine"}})
    meta = {"traceparent": "the request's"}
    mcp.tool("mesh_publish", {"channel": "more/object", "text": "x", "headers": {"traceparent": "mine"}}, meta)
    mcp.tool("mesh_publish", {"channel": "more/object", "text": "x", "headers": {"a": "1"}}, meta)
    found = mcp.tool("mesh_read", {"channel": "more/object", "offset": 0})["messages"]
    assert [[(h["name"], h["value"]) for h in message["headers"]] for message in found] == [
        [("a", "1"), ("traceparent", "mine")],
        [("traceparent", "mine")],
        [("a", "1"), ("traceparent", "the request's")],
    ]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"text": "x", "base64": "eA=="},
        {"text": "x", "tombstone": True},
        {"text": "x", "key": "k", "key_base64": "aw=="},
        {"text": "x", "key_base64": "?"},
        {"text": "x", "headers": [{"name": "a", "value": "1", "value_base64": "MQ=="}]},
        {"text": "x", "headers": [{"value": "1"}]},
    ],
)
def test_mcp_refuses_what_says_two_things(peers: Peers, given: dict[str, object]):
    mcp = peers.sayers["mcp"]
    assert isinstance(mcp, Mcp)
    result = mcp.run(mcp.client.call_tool("mesh_publish", {"channel": "more/two", **given}))
    assert result.is_error
    assert result.content[0].text.startswith(("arguments-invalid: ", "payload-invalid: "))


def test_websocket_and_aiomqtt(peers: Peers):
    url = peers.mesh.url.replace("http", "ws", 1)
    host, port = peers.mesh.address("mqtt")

    async def main() -> None:
        async with (
            aiohttp.ClientSession(headers=credentials("say-http")) as web,
            web.ws_connect(f"{url}/v1/channels/more/ws") as socket,
            aiomqtt.Client(host, port, protocol=aiomqtt.ProtocolVersion.V5, identifier="aio") as device,
        ):
            await device.subscribe("more/aio", 1)
            order = {"type": "publish", "channel": "more/aio", "payload": "grün", "headers": [["a", "1"], ["b", None]]}
            await socket.send_json({**order, "key": "k", "cause": "2a-7", "reply_to": "mesh/me/reply/1"})
            assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "ack"
            heard = await asyncio.wait_for(anext(aiter(device.messages)), PATIENCE_S)
            assert heard.payload == "grün".encode()
            assert heard.properties is not None
            assert heard.properties.ResponseTopic == "mesh/to/say-http/reply/1"
            pairs = [pair for pair in heard.properties.UserProperty if pair[0] != "mesh-id"]
            own = [("mesh-from", "say-http"), ("mesh-cause", "2a-7"), ("mesh-key", "k")]
            assert pairs == [("a", "1"), ("b;null", ""), *own]
            await device.publish("more/ws", b"\xff", 1)
            seen = (await socket.receive_json(timeout=PATIENCE_S))["message"]
            assert (seen["payload_base64"], seen["from"]) == ("/w==", "aio")

    asyncio.run(main())


def test_curl(peers: Peers, require: Callable[[str], str], tmp_path: Path):
    body = tmp_path / "body"
    body.write_bytes(b"\x00\r\n\xff")
    url = f"{peers.mesh.url}/v1/channels/more/curl"
    _, seer = _mqtt(peers)
    seer.listen("more/curl")
    lines = ["-H", "Content-Type: image/x", "-H", "Mesh-H-colour: red", "-H", "ce-specversion: 1.0", "-H", "ce-id: 1"]
    lines += ["-H", "ce-source: /s", "-H", "ce-type: t", "-H", "Expect:"]
    said = run_client([require("curl"), "-sS", "--fail", "--data-binary", f"@{body}", *lines, url]).stdout
    assert json.loads(said)["channel"] == "more/curl"
    seen = seer.see("more/curl")["message"]
    assert (seen.payload, seen.content_type) == (body.read_bytes(), "image/x")
    names = [name for name, _ in seen.headers]
    assert names == ["specversion", "id", "source", "type", "colour"]
    raw = run_client([require("curl"), "-sS", "--fail", "-D", "-", "-o", str(tmp_path / "got"), f"{url}?last=true"])
    assert (tmp_path / "got").read_bytes() == body.read_bytes()
    fields = raw.stdout.lower()
    assert "ce-specversion: 1.0" in fields
    assert f"mesh-id: {seen.id}" in fields


@pytest.mark.slow
def test_mqtt_js_and_the_typescript_mcp_client(peers: Peers, require: Callable[[str], str]):
    require("npm:mqtt")
    node = require("npm:@modelcontextprotocol/client")
    host, port = peers.mesh.address("mqtt")
    script = Path(__file__).with_name("samples.mjs")
    seen = json.loads(run_client([node, str(script), f"mqtt://{host}:{port}", peers.mesh.url]).stdout)
    read = seen["read"]
    assert (read["base64"], read["content_type"], read["sender"]) == ("/wA=", "text/plain", "js-device")
    assert (read["reply_to"], read["correlation_base64"]) == ("js/answers", "AP8=")
    headers = [{"name": "colour", "value": value} for value in ("red", "blue")]
    assert read["headers"] == [*headers, {"name": "signature", "value_base64": "AP8="}]
    assert (seen["payload"], seen["correlation"]) == ("grün", [0, 255])
    assert seen["user"]["mesh-cause"] == read["id"]
    assert (seen["user"]["colour"], seen["user"]["signature;b64"]) == (["red", "blue"], "AP8=")

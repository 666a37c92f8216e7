"""The same no in each protocol: a client says something where it may not, and learns why in its protocol's words."""

from __future__ import annotations

import json
import queue
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer

from tests.crossings.a2a_peer import A2a
from tests.crossings.kafka_peer import settings
from tests.crossings.peers import PATIENCE_S, Http, Mcp, Mqtt, Peers
from tests.crossings.said import Said
from tests.crossings.table import PROTOCOLS

WHY = "not-authorized"


def _mqtt(sayer: Mqtt, channel: str) -> object:
    """MQTT 3.1.1 has no word for it: the publish is acknowledged, and dropped."""
    told: queue.Queue[Any] = queue.Queue()
    sayer.client.on_publish = lambda _client, _data, _mid, code, _properties: told.put(code)
    try:
        sayer.client.publish(channel, b"x", 1)
        return told.get(timeout=PATIENCE_S).value
    finally:
        sayer.client.on_publish = None


def _kafka(peers: Peers, topic: str) -> object:
    producer = Producer(settings(peers.mesh, "say-kafka", **{"message.timeout.ms": 1000 * PATIENCE_S}))
    told: list[KafkaError | None] = []
    producer.produce(topic, b"x", on_delivery=lambda error, _: told.append(error))
    assert producer.flush(2 * PATIENCE_S) == 0
    (error,) = told
    assert error is not None
    return error.code()


def _http(sayer: Http, channel: str) -> object:
    status, body, _ = sayer.ask("POST", f"/v1/channels/{channel}", b"x")
    return status, json.loads(body)["type"]


def _mcp(sayer: Mcp, channel: str) -> object:
    result = sayer.run(sayer.client.call_tool("mesh_publish", {"channel": channel, "text": "x"}))
    return bool(result.is_error), result.content[0].text.partition(":")[0]


def _a2a(sayer: A2a, channel: str) -> object:
    data = {"data": {"channel": channel, "text": "x"}}
    seen = sayer.run(sayer.task("mesh", data, {"skill": "publish"}))
    return seen["state"], seen["status"]["message"]["metadata"]["reason"]


SAYS = {
    "mqtt3": (lambda peers: _mqtt(peers.sayers["mqtt3"], "closed/mqtt3"), 0),
    "mqtt5": (lambda peers: _mqtt(peers.sayers["mqtt5"], "closed/mqtt5"), 0x87),
    "kafka": (lambda peers: _kafka(peers, "closed.kafka"), KafkaError.TOPIC_AUTHORIZATION_FAILED),
    "http": (lambda peers: _http(peers.sayers["http"], "closed/http"), (403, WHY)),
    "mcp": (lambda peers: _mcp(peers.sayers["mcp"], "closed/mcp"), (True, WHY)),
    "a2a": (lambda peers: _a2a(peers.sayers["a2a"], "closed/a2a"), ("TASK_STATE_REJECTED", WHY)),
}


@pytest.mark.parametrize("source", PROTOCOLS)
def test_who_may_not_is_told_so(source: str, peers: Peers):
    say, told = SAYS[source]
    assert say(peers) == told
    http = peers.seers["http"]
    assert isinstance(http, Http)
    status, page, _ = http.ask("GET", f"/v1/channels/closed/{source}")
    # Kafka's clients ask after a topic before they say anything, and so it is there.
    assert status == 404 or not json.loads(page)["messages"], "and nothing was said"
    # A no costs nobody the connection: the same client goes on.
    peers.sayers[source].publish(f"open/{source}", Said(b"x"))
    assert http.ask("GET", f"/v1/channels/open/{source}?last=true")[1] == b"x"

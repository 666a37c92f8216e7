"""What expires before it is read is given to nobody who comes later, whatever protocol it was said in.

But Kafka, whose readers get records as they are: there it comes with the time at which it expired.
All is said first, in a channel for each pair, then one wait is enough for all of them.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from tests.crossings.a2a_peer import A2a
from tests.crossings.kafka_peer import Kafka
from tests.crossings.peers import PATIENCE_S, Http, Mcp, Mqtt, Peers
from tests.crossings.said import Said
from tests.crossings.table import PROTOCOLS, PUBLISHING

LIFETIME_S = 1
"""The least that MQTT 5 can say."""

PAIRS = [(c.cell.source, c.cell.target) for c in PUBLISHING if c.cell.field == "expiry" and c.crosses]
PAIRS += [(source, "mqtt3") for source in PROTOCOLS if (source, "mqtt5") in PAIRS]
"""Who can say it, to whom; MQTT 3.1.1 cannot show it, and is given as little of what has expired."""

_walked: set[tuple[str, str]] = set()


def _channel(source: str, target: str) -> str:
    return f"expire/{source}/{target}"


@pytest.fixture(scope="module")
def later(peers: Peers) -> Peers:
    """All is said, to readers who are away or not there yet, and the first of each channel has expired."""
    for source, target in PAIRS:
        reader = peers.seers[target]
        if isinstance(reader, Mqtt | Mcp):
            reader.leave_standing(_channel(source, target))
    for source, target in PAIRS:
        peers.sayers[source].publish(_channel(source, target), Said(b"gone", retain=True, expires_s=LIFETIME_S))
    gone_s = time.time() + LIFETIME_S
    for source, target in PAIRS:
        peers.sayers[source].publish(_channel(source, target), Said(b"here"))
    time.sleep(max(0.0, gone_s - time.time()) + 0.01)
    return peers


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_who_reads_later_is_not_given_it(source: str, target: str, later: Peers):
    channel, reader = _channel(source, target), later.seers[target]
    if isinstance(reader, Kafka):
        gone, here = reader.records(channel)
        assert (gone.payload, here.payload) == (b"gone", b"here")
        assert gone.expires_s is not None
        assert gone.expires_s < 0
    else:
        for way, payloads in _ways(reader, channel).items():
            assert payloads == [b"here"], way
    _walked.add((source, target))


def test_every_pair_was_walked():
    """Run with its module: a pair without a run is red."""
    assert _walked == set(PAIRS)
    assert len(_walked) == len([p for p in PROTOCOLS if p != "mqtt3"]) * len(PROTOCOLS)


def _ways(reader: object, channel: str) -> dict[str, list[bytes]]:
    """What a reader that comes now is given, by each way of its protocol; what was retained has expired as well."""
    if isinstance(reader, Mqtt):
        return {"session": reader.come_back(channel), "retained or new": reader.newcomer(channel)}
    if isinstance(reader, Http):
        return _http(reader, channel)
    if isinstance(reader, Mcp):
        read = reader.tool("mesh_read", {"channel": channel, "offset": 0})
        newest = reader.tool("mesh_read", {"channel": channel, "limit": 5})
        waited = reader.tool("mesh_wait", {"cursor": channel, "timeout_s": PATIENCE_S})
        assert "retained" not in read
        return {
            "read": _payloads(read, "text", "base64"),
            "newest": _payloads(newest, "text", "base64"),
            "wait": _payloads(waited, "text", "base64"),
            "resource": [reader.retained(channel).payload or b""],
        }
    assert isinstance(reader, A2a)
    read = reader.act("read", {"channel": channel, "offset": 0})
    newest = reader.act("read", {"channel": channel, "limit": 5})
    assert "retained" not in read
    return {"read": _payloads(read, "text", "base64"), "newest": _payloads(newest, "text", "base64")}


def _http(reader: Http, channel: str) -> dict[str, list[bytes]]:
    status, body, _ = reader.ask("GET", f"/v1/channels/{channel}?offset=0")
    assert status == 200, body
    assert reader.ask("GET", f"/v1/channels/{channel}?retained=true")[0] == 404
    return {
        "page": _payloads(json.loads(body), "payload", "payload_base64"),
        "event": _payloads({"messages": [reader.event(channel)]}, "payload", "payload_base64"),
        "raw": [reader.ask("GET", f"/v1/channels/{channel}?last=true")[1]],
    }


def _payloads(page: dict[str, Any], text: str, binary: str) -> list[bytes]:
    return [m[text].encode() if text in m else base64.b64decode(m[binary]) for m in page["messages"]]

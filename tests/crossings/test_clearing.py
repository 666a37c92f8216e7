"""A retained value is cleared from any protocol, and seen to be cleared in every other."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, TopicPartition
from mcp import MCPError

from tests.crossings.a2a_peer import A2a
from tests.crossings.kafka_peer import polled, said_of, settings
from tests.crossings.peers import Http, Mcp, Peer, Peers
from tests.crossings.said import Said
from tests.crossings.table import PROTOCOLS

READERS = [protocol for protocol in PROTOCOLS if protocol != "kafka"]
"""Who has a word for a retained value."""

SAYS_EMPTY = ("mqtt3", "mqtt5")
"""Who clears with an empty payload; the others with none at all."""


@pytest.mark.parametrize("source", PROTOCOLS)
def test_a_cleared_value_is_gone_for_everybody(source: str, peers: Peers):
    channel = f"clear/{source}"
    sayer, http = peers.sayers[source], peers.seers["http"]
    watchers = {name: peers.seers[name] for name in ("mqtt3", "mqtt5")}
    for watcher in watchers.values():
        watcher.listen(channel)
    sayer.publish(channel, Said(b"kept", retain=True))
    for reader in READERS:
        assert peers.seers[reader].retained(channel).payload == b"kept", reader
    sayer.publish(channel, Said(b"" if source in SAYS_EMPTY else None, retain=True))
    assert isinstance(http, Http)
    assert http.ask("GET", f"/v1/channels/{channel}?retained=true")[0] == 404
    for reader in ("mcp", "a2a"):
        _is_gone_for_agents(peers.seers[reader], channel, empty=source in SAYS_EMPTY)
    for watcher in watchers.values():
        (kept,) = watcher.see(channel).values()
        (cleared,) = watcher.see(channel).values()
        assert (kept.payload, cleared.payload or b"") == (b"kept", b"")
    assert _records(peers, channel) == [(b"kept", True), (None, True)]


def _is_gone_for_agents(reader: Peer, channel: str, *, empty: bool) -> None:
    """The value is not shown as such any more, and what cleared it is the newest message, as it was said."""
    if isinstance(reader, Mcp):
        read = reader.tool("mesh_read", {"channel": channel, "offset": 0})
        if empty:
            assert reader.retained(channel).payload == b""
        else:
            with pytest.raises(MCPError, match="not found"):
                reader.retained(channel)
    else:
        assert isinstance(reader, A2a)
        read = reader.act("read", {"channel": channel, "offset": 0})
    assert "retained" not in read
    kept, cleared = read["messages"]
    assert kept["text"] == "kept"
    assert (cleared.get("text"), cleared.get("tombstone")) == (("", None) if empty else (None, True))


def _records(peers: Peers, channel: str) -> list[tuple[bytes | None, bool | None]]:
    consumer = Consumer(settings(peers.mesh, "see-kafka", **{"group.id": "none", "enable.auto.commit": False}))
    try:
        consumer.assign([TopicPartition(channel.replace("/", "."), 0, 0)])
        said = [said_of(polled(consumer)) for _ in range(2)]
        return [(each.payload, each.retain) for each in said]
    finally:
        consumer.close()

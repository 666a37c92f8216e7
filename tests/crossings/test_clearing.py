"""A retained value is cleared from any protocol, and seen to be cleared in every other."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.crossings.kafka_peer import polled, said_of, settings
from tests.crossings.peers import Http, Peers
from tests.crossings.said import Said
from tests.crossings.table import PROTOCOLS

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
    assert peers.seers["mqtt5"].retained(channel).payload == b"kept"
    sayer.publish(channel, Said(b"" if source in SAYS_EMPTY else None, retain=True))
    assert isinstance(http, Http)
    assert http.ask("GET", f"/v1/channels/{channel}?retained=true")[0] == 404
    for watcher in watchers.values():
        (kept,) = watcher.see(channel).values()
        (cleared,) = watcher.see(channel).values()
        assert (kept.payload, cleared.payload or b"") == (b"kept", b"")
    assert _records(peers, channel) == [(b"kept", True), (None, True)]


def _records(peers: Peers, channel: str) -> list[tuple[bytes | None, bool | None]]:
    consumer = Consumer(settings(peers.mesh, "see-kafka", **{"group.id": "none", "enable.auto.commit": False}))
    try:
        consumer.assign([TopicPartition(channel.replace("/", "."), 0, 0)])
        said = [said_of(polled(consumer)) for _ in range(2)]
        return [(each.payload, each.retain) for each in said]
    finally:
        consumer.close()

"""What can be configured about Kafka."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dragoman.adapters.kafka.group_settings import GroupSettings
from dragoman.adapters.serving.sockets import address_problem
from dragoman.broker.settings_key import key


def _advertised_problem(value: object) -> str | None:
    assert isinstance(value, str)
    return address_problem(value) if value else None


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Limits of the Kafka listener and what it tells its clients."""

    advertised: str = key(
        "",
        unit="HOST:PORT",
        why="the address told to clients, who connect to it again; empty = the one they reached us by",
        check=_advertised_problem,
    )
    request_bytes_max: int = key(
        16 << 20,
        unit="bytes",
        low=1 << 12,
        high=1 << 30,
        why="one request; of a larger Produce up to 100 MiB the records are refused, any other ends the connection",
        peers="Kafka 100 MiB",
        live=True,
    )
    batch_bytes_max: int = key(
        1_048_588,
        unit="bytes",
        low=1 << 10,
        high=1 << 30,
        why="one record batch, where its topic does not say otherwise",
        live=True,
    )
    stranger_bytes_max: int = key(
        64 << 10, unit="bytes", low=1 << 10, why="one request of somebody who has not shown who it is", live=True
    )
    auto_create: bool = key(
        True, why="a topic nobody knows comes to be when a client asks for it, as channels do", live=True
    )
    partitions: int = key(
        1, unit="partitions", low=1, high=1_000, why="of topics made without saying how many", live=True
    )
    fetch_bytes_max: int = key(
        50 << 20,
        unit="bytes",
        low=1 << 16,
        why="records in one answer, whatever the client asks for",
        peers="Kafka 55 MiB",
        live=True,
    )
    fetch_wait_ms_max: int = key(30_000, unit="ms", low=0, why="longest a fetch waits for something to come", live=True)
    idle_s: float = key(
        600.0,
        unit="s",
        low=0,
        why="a connection on which nothing was asked for so long is closed, which clients are used to; 0 = never",
        peers="Kafka 10 min",
    )
    asks_max: int = key(
        100,
        unit="requests",
        low=1,
        why="of one connection not answered yet; above it the connection is not read",
        live=True,
    )
    synthesised_bytes_max: int = key(
        16 << 20,
        unit="bytes",
        low=1 << 16,
        why="batches made of messages that came by other protocols, remembered for the next consumer",
    )
    groups: GroupSettings = dataclasses.field(default_factory=GroupSettings)

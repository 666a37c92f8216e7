"""What can be configured about channels and delivery."""

from __future__ import annotations

from dataclasses import dataclass

from dragoman.broker.settings_key import key


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Bounds and policies of the broker itself, the same for every protocol."""

    node: int = key(0, low=0, high=65_535, why="high 16 bits of channel numbers; differs where several meshes may meet")
    message_bytes_max: int = key(
        16 << 20,
        unit="bytes",
        low=1,
        why="payload of one message; large enough for an image, small enough for many at once",
        peers="mosquitto 256 MiB, EMQX 1 MiB, Kafka 1 MiB, NATS 1 MiB",
    )
    ring_bytes_max: int = key(
        128 << 20,
        unit="bytes",
        low=1 << 16,
        why="recent messages of all channels in memory, for readers that fall behind",
    )
    channels_max: int = key(
        1_000_000,
        unit="channels",
        low=1,
        why="about 0.5 KB each; names may come from a model, so there must be an end",
        live=True,
    )
    channels_per_principal_max: int = key(
        100_000,
        unit="channels",
        low=1,
        why="created by one principal and still there; one runaway model is not everybody's",
        live=True,
    )
    channel_idle_ms: int = key(
        60_000, unit="ms", low=0, why="how long a channel that nothing refers to stays before it evaporates"
    )
    sweep_ms: int = key(
        5_000, unit="ms", low=10, why="how often idle channels, expired values and freed messages are looked for"
    )
    retained_max: int = key(1_000_000, unit="channels", low=0, why="channels that may hold a retained value", live=True)
    retained_bytes_max: int = key(
        1 << 30, unit="bytes", low=0, why="payload of all retained values; they are kept in memory", live=True
    )
    partitions_max: int = key(
        256,
        unit="partitions",
        low=1,
        why="of one topic; each is a log of its own, and the name may come from a model",
        live=True,
    )
    producers_max: int = key(
        100_000,
        unit="producers",
        low=1,
        why="windows of numbered producers remembered, one per producer and partition; oldest forgotten first",
    )
    producers_ms: int = key(
        86_400_000, unit="ms", low=60_000, why="how long a silent producer is remembered", peers="Kafka 1 d"
    )
    dedupe_max: int = key(
        100_000, unit="keys", low=1, why="idempotence keys remembered; oldest forgotten first, about 200 bytes each"
    )
    dedupe_ms: int = key(
        600_000,
        unit="ms",
        low=1_000,
        why="how long a key is remembered: longer than any client retries",
        peers="NATS 2 min",
    )
    cursor_flush_ms: int = key(
        200,
        unit="ms",
        low=1,
        why="readers' places go to the log at least this often; a crash redelivers what came after",
    )
    cursor_done_max: int = key(
        65_535, unit="messages", low=1, why="acknowledged above a gap per durable reader; MQTT's largest window"
    )
    uncommitted_bytes_max: int = key(
        32 << 20,
        unit="bytes",
        low=1 << 16,
        why="not yet committed, of all producers: above it no durable producer is read",
        live=True,
    )
    uncommitted_session_bytes_max: int = key(
        1 << 20,
        unit="bytes",
        low=1 << 10,
        why="not yet committed, of one connection: above it that connection is not read",
        live=True,
    )
    delayed_max: int = key(
        100_000,
        unit="messages",
        low=0,
        why="published to $delayed/... and not out yet; kept in memory and on disk; 0 = nothing can be delayed",
        peers="EMQX unlimited",
        live=True,
    )
    delayed_bytes_max: int = key(
        128 << 20, unit="bytes", low=0, why="of those messages, all together; one row each", live=True
    )
    bans_max: int = key(10_000, unit="bans", low=1, why="clients, principals and address blocks kept out; a row each")
    sessions_max: int = key(100_000, unit="sessions", low=1, why="connected at once; about 11 KB each", live=True)
    subscriptions_per_session_max: int = key(
        10_000,
        unit="subscriptions",
        low=1,
        why="of one session; a gateway may need many, a mistake would need more",
        live=True,
    )
    slow_policy: str = key(
        "keep",
        choices=("keep", "disconnect"),
        why="a reader that stays behind: keep = it goes on, and what it comes too late for is a counted gap",
        peers="mosquitto drops, EMQX keeps, NATS disconnects",
        live=True,
    )
    slow_after_s: float = key(
        60.0,
        unit="s",
        low=1,
        why="behind for so long a reader is slow: counted, disconnected if that is the policy; looked at each sweep_ms",
        live=True,
    )

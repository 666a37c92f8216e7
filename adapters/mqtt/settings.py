"""What can be configured about MQTT."""

from __future__ import annotations

from dataclasses import dataclass

from dragoman.adapters.mqtt.auto_subscribe import AutoSubscribeSettings
from dragoman.adapters.mqtt.listener_settings import ListenerSettings, listeners_problem, redirect_problem
from dragoman.adapters.mqtt.rewrite import RewriteSettings
from dragoman.adapters.serving.sockets import OFF
from dragoman.broker.settings_key import key


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """Limits told to clients in CONNACK where the protocol can, enforced everywhere."""

    packet_bytes_max: int = key(
        16 << 20,
        unit="bytes",
        low=256,
        why="told as Maximum Packet Size; refused before the body is buffered",
        high=268_435_460,
        live=True,
    )
    connect_bytes_max: int = key(
        64 << 10, unit="bytes", low=64, why="a CONNECT with its will; nobody has shown who it is before that", live=True
    )
    receive_max: int = key(
        1_024,
        unit="messages",
        low=1,
        high=65_535,
        why="QoS 1 and 2 publishes of one client not yet acknowledged; more is answered with 0x93",
        peers="mosquitto 20, EMQX 32, HiveMQ 10",
        live=True,
    )
    receive_max_policy: str = key(
        "disconnect",
        choices=("disconnect", "warn"),
        why="5.0 clients that exceed it; warn = counted, one line in the log, and not read until they are answered",
        peers="mosquitto 2.1.1 and later let it pass",
        live=True,
    )
    inflight_max: int = key(
        1_024,
        unit="messages",
        low=1,
        high=65_535,
        why="QoS 1 and 2 deliveries to one client not yet acknowledged, where it does not ask for fewer",
        peers="mosquitto 20, EMQX 32",
        live=True,
    )
    topic_alias_max: int = key(
        16,
        unit="aliases",
        low=0,
        high=65_535,
        why="a 5.0 client may give on a connection, told as Topic Alias Maximum; each may hold 64 KB; 0 = none",
        peers="mosquitto 10, EMQX 65535",
        live=True,
    )
    topic_alias_broker_max: int = key(
        16,
        unit="aliases",
        low=0,
        high=65_535,
        why="given to a client that takes them, to its first topics; its messages are then encoded for it alone",
        peers="mosquitto 10",
        live=True,
    )
    out_bytes_max: int = key(
        1 << 20,
        unit="bytes",
        low=1 << 12,
        why="written to one connection in a turn; then the broker keeps its place",
        live=True,
    )
    session_expiry_s_max: int = key(
        7 * 24 * 3600,
        unit="s",
        low=0,
        high=0xFFFF_FFFF,
        why="longest an absent client's session is kept; also what clean session 0 of 3.1.1 means",
        peers="mosquitto unlimited, EMQX 2 h",
        live=True,
    )
    will_retry_s: int = key(
        3_600,
        unit="s",
        low=0,
        why="how long a will is tried again that a full disk or a rate has refused; 0 = it is dropped, counted, logged",
        peers="mosquitto drops it",
        live=True,
    )
    keepalive_s_max: int = key(
        0,
        unit="s",
        low=0,
        high=65_535,
        why="told 5.0 clients as Server Keep Alive if they ask for more or none; 0 = theirs holds",
        live=True,
    )
    qos_max: int = key(
        2,
        unit="QoS",
        low=0,
        high=2,
        why="of what clients publish, told as Maximum QoS; more is answered with 0x9B (3.1.1: closed), and granted to "
        "nobody who subscribes",
        live=True,
    )
    retain_available: bool = key(
        True,
        why="whether clients may publish retained values; if not, those are answered with 0x9A (3.1.1: closed)",
        live=True,
    )
    shared_subscriptions: bool = key(
        True, why="whether $share/... may be subscribed to; if not, SUBACK 0x9E", live=True
    )
    wildcard_subscriptions: bool = key(
        True, why="whether '+' and '#' may be subscribed with; if not, SUBACK 0xA2", live=True
    )
    subscription_identifiers: bool = key(
        True, why="whether a SUBSCRIBE may have one; if not, it ends the connection with 0xA1", live=True
    )
    redirect_to: str = key(
        "",
        why="servers such as 'b.example:1883', a space between several: every client is told to go there (0x9C; 3.1.1: "
        "3) and comes no further; empty = they may come in",
        check=redirect_problem,
        live=True,
    )
    redirect_permanent: bool = key(
        False, why="whether it is for good: 0x9D (server moved) for 0x9C (use another)", live=True
    )
    connect_time_max_s: int = key(
        0,
        unit="s",
        low=0,
        why="longest a connection lasts; then it is told 0xA0 and its will is said; 0 = for ever",
        live=True,
    )
    packet_time_max_s: int = key(
        60,
        unit="s",
        low=0,
        why="for a packet to be whole once it was begun, and a second more for every packet_bytes_per_s_min of it that "
        "has come; looked at about as often; then 0x8D; 0 = any time",
        peers="Apache's mod_reqtimeout 20 s and 500 bytes a second",
        live=True,
    )
    packet_bytes_per_s_min: int = key(
        100,
        unit="bytes per second",
        low=1,
        why="what the slowest link brings; slower ones are cut within a packet",
        live=True,
    )
    topic_levels_max: int = key(
        128,
        unit="levels",
        low=1,
        high=128,
        why="of topics and filters; deeper ones are refused with 0x90 and 0x8F",
        live=True,
    )
    topic_bytes_max: int = key(
        65_535,
        unit="bytes",
        low=1,
        high=65_535,
        why="of topics and filters; longer ones are refused like deeper ones",
        live=True,
    )
    sessions_max: int = key(
        100_000, unit="sessions", low=1, why="kept for clients that are away or connected", live=True
    )
    listeners: tuple[ListenerSettings, ...] = key(
        (), why="MQTT listeners besides those of [listen], each with settings of its own", check=listeners_problem
    )
    rewrite: tuple[RewriteSettings, ...] = key(
        (), why="what clients' topics and filters become; see docs/mqtt.md", live=True
    )
    rewrite_bytes_max: int = key(
        512,
        unit="bytes",
        low=1,
        high=65_535,
        why="of a topic that a rewrite rule is for; a longer one is refused: an expression's work grows with it",
        live=True,
    )
    auto_subscribe: tuple[AutoSubscribeSettings, ...] = key(
        (), why="what each client subscribes to without asking; see docs/mqtt.md", live=True
    )
    websocket_path: str = key(
        "/mqtt", why="where MQTT in WebSocket frames is on the HTTP listeners, if MQTT listens at all; empty = nowhere"
    )
    agents_from_username: bool = key(
        False, why="the agent is the client id; true = the user name (one agent, several connections)"
    )
    exclusive_subscriptions: bool = key(
        True,
        why="$exclusive/{filter} is for one client at a time; concerns nobody else; false = 0x8F",
        peers="EMQX false",
        live=True,
    )
    denied_subscribe: str = key(
        "reveal",
        choices=("reveal", "conceal"),
        why="a filter a 5.0 client may not read is answered with 0x87, or with 0x80, which does not tell why",
        live=True,
    )
    sys_interval_s: int = key(
        10,
        unit="s",
        low=0,
        high=65_535,
        why="how often $SYS/broker/... is looked at, and what has changed there told; 0 = there is no $SYS",
        peers="mosquitto 10",
    )
    denied_publish: str = key(
        "drop",
        choices=("drop", "disconnect"),
        why="QoS 0 (and 3.1.1) publishes that may not be made: nothing in the protocol can say no to them",
        peers="mosquitto drops",
        live=True,
    )
    payload_format_check: bool = key(
        False,
        why="whether a payload its sender calls UTF-8 is UTF-8: if not, 0x99 (QoS 0 and wills: dropped, counted)",
        live=True,
    )
    connects_per_s: int = key(
        0,
        unit="clients per second",
        low=0,
        why="taken in, all listeners together; more are told 0x9F (3.1.1: 3) and come back; 0 = no limit",
        peers="EMQX 1000 connections a listener",
        live=True,
    )
    client_messages_per_s: int = key(
        0, unit="messages per second", low=0, why="published by one connection; 0 = no limit", live=True
    )
    client_burst: int = key(
        1_000, unit="messages", low=1, why="per connection; how much may come at once after a pause", live=True
    )
    client_bytes_per_s: int = key(
        0, unit="bytes per second", low=0, why="payload published by one connection; 0 = no limit", live=True
    )
    client_bytes_burst: int = key(
        1 << 20, unit="bytes", low=1, why="per connection; how much may come at once after a pause", live=True
    )
    rate_policy: str = key(
        "pause",
        choices=("pause", "refuse", "disconnect"),
        why="beyond these rates or the gate's: not read for a while, told 0x97 (QoS 0: dropped), or closed with 0x96",
        peers="EMQX pauses",
        live=True,
    )
    session_queue_messages_max: int = key(
        0,
        unit="messages",
        low=0,
        why="waiting for one kept session, QoS 1 and 2, beside those in flight; 0 = as many as the log holds",
        peers="mosquitto 1000, EMQX 1000",
        live=True,
    )
    session_queue_bytes_max: int = key(
        0, unit="bytes", low=0, why="payload waiting for one kept session; 0 = as much as the log holds", live=True
    )
    session_queue_s_max: int = key(
        0, unit="s", low=0, why="how long a message waits for a kept session; 0 = as long as the session", live=True
    )
    session_queue_policy: str = key(
        "drop_old",
        choices=("drop_old", "drop_new", "end"),
        why="too much waits: the oldest go, or the newest, counted; end = the session ends, its client is told 0x97",
        peers="mosquitto drops the new, EMQX the old",
        live=True,
    )

    def every_listener(self, mqtt: str, mqtts: str) -> tuple[ListenerSettings, ...]:
        """Those of [listen], which have just an address or are off, and those with settings of their own."""
        simple = [ListenerSettings("mqtt", mqtt), ListenerSettings("mqtts", mqtts, tls=True)]
        return (*(listener for listener in simple if listener.address != OFF), *self.listeners)

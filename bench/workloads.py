"""What is measured. One function a workload, one row of the table each; ``python -m bench --list`` prints it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import crew, handshakes, load, watch
from bench.crew import Counters, Figures
from bench.wire import MQTT, TOPICS, Address, Wire

ACKED_TOPICS: Final = tuple(topic.replace("bench", "acked") for topic in TOPICS)
ONE_TOPIC: Final = ("acked/single",)
WINDOW: Final = 20_000


@dataclass(frozen=True)
class Scale:
    """How much of it. Messages with numbers in them (``checked``) are checked one by one in an untimed pass."""

    seconds: float
    runs: int
    checked: int
    acked: int
    connects: int
    retained: int
    agents: int
    idle: int
    alone: bool
    """Every workload gets a broker of its own; otherwise one broker serves all."""


FULL: Final = Scale(
    seconds=2.0,
    runs=5,
    checked=50_000,
    acked=300_000,
    connects=2_000,
    retained=50_000,
    agents=200,
    idle=15_000,
    alone=True,
)
TINY: Final = Scale(
    seconds=0.1,
    runs=1,
    checked=2_000,
    acked=1_000,
    connects=40,
    retained=200,
    agents=10,
    idle=50,
    alone=False,
)


@dataclass(frozen=True)
class Site:
    """A broker that runs."""

    address: Address
    wire: Wire
    durable: bool
    pid: int


@dataclass(frozen=True)
class Outcome:
    """One run. ``loss`` and ``duplicates`` count messages; ``notes`` are further figures, names with units last."""

    value: float
    loss: int = 0
    duplicates: int = 0
    disorders: int = 0
    notes: dict[str, float] = field(default_factory=dict)


OURS: Final = ("dragoman", "dragoman-compiled")
MQTT_ONLY: Final = (*OURS, "mosquitto")
ALL: Final = (*MQTT_ONLY, "nats-server")


@dataclass(frozen=True)
class Workload:
    """``unit`` ends in ``/s`` if more is better, otherwise less is."""

    name: str
    says: str
    unit: str
    run: Callable[[Site, Scale], Outcome]
    peers: tuple[str, ...] = OURS
    durable: bool = False
    fresh: bool = False
    """Each run has a broker of its own: what an earlier one left behind would be counted."""

    @property
    def more_is_better(self) -> bool:
        """Whether a greater value is the better one."""
        return self.unit.endswith("/s")


def one_to_one(site: Site, scale: Scale) -> Outcome:
    """QoS 0, one publisher, one subscriber."""
    return _fan_out(site, scale, receivers=1)


def one_to_five(site: Site, scale: Scale) -> Outcome:
    """QoS 0, one publisher, five subscribers."""
    return _fan_out(site, scale, receivers=5)


def acked_one(site: Site, scale: Scale) -> Outcome:
    """QoS 1, one connection with 100 in flight."""
    return _acked(site, scale, connections=1, in_flight=100)


def acked_fifty(site: Site, scale: Scale) -> Outcome:
    """QoS 1, fifty connections with 10 in flight each."""
    return _acked(site, scale, connections=50, in_flight=10)


def qos1(site: Site, scale: Scale) -> Outcome:
    """QoS 1 from end to end, one publisher, one subscriber."""
    return _handshaken(site, scale, qos=1)


def qos2(site: Site, scale: Scale) -> Outcome:
    """QoS 2 from end to end, one publisher, one subscriber."""
    return _handshaken(site, scale, qos=2)


def idling(site: Site, scale: Scale) -> Outcome:
    """What a connection costs that does nothing, resident."""
    before = _resident(site.pid)
    part = crew.start(handshakes.idle, site.address, connections=scale.idle)
    part.wait_ready()
    after = _resident(site.pid)
    figures = part.result()
    return Outcome(max(1, after - before) / scale.idle / 1_000, loss=_missing(figures))


def connecting(site: Site, scale: Scale) -> Outcome:
    """CONNECT, CONNACK, DISCONNECT."""
    figures = crew.start(load.connects, site.address, count=scale.connects, at_once=20).result()
    return Outcome(figures["got"][0] / figures["seconds"][0], loss=_missing(figures))


def acked_in_a_flood(site: Site, scale: Scale) -> Outcome:
    """One QoS 1 publish at a time while a QoS 0 flood keeps the broker's loop busy."""
    counters = Counters(1)
    receiver = crew.start(load.receive, site.address, site.wire, counters, 0, check=False)
    receiver.wait_ready()
    if site.durable:
        _keep(site.address, ONE_TOPIC)
    flood = crew.start(load.flood, site.address, site.wire, counters, window=WINDOW, seconds=scale.seconds)
    single = crew.start(
        load.acknowledged,
        site.address,
        ONE_TOPIC,
        connections=1,
        in_flight=1,
        seconds=scale.seconds * 0.9,
        messages=scale.acked,
    )
    acked, got = single.result(), receiver.result()
    sent = flood.result()["sent"][0]
    latencies = sorted(acked["latencies"])
    notes = {
        "p50_ms": _percentile(latencies, 0.5) * 1e3,
        "max_ms": _percentile(latencies, 1.0) * 1e3,
        "flood_per_s": _rate([got]),
    }
    loss = _missing(acked) + int(sent - got["got"][0])
    return Outcome(_percentile(latencies, 0.99) * 1e3, loss=loss, disorders=int(acked["disorders"][0]), notes=notes)


def retained(site: Site, scale: Scale) -> Outcome:
    """Retained messages of many topics, replayed to one new subscriber at QoS 1, each acknowledged."""
    figures = crew.start(handshakes.replay, site.address, topics=scale.retained).result()
    return Outcome(
        figures["got"][0] / figures["seconds"][0], loss=_missing(figures), duplicates=int(figures["duplicates"][0])
    )


def watching(site: Site, scale: Scale) -> Outcome:
    """From an agent's CONNECT until a watcher has read that it is online."""
    figures = crew.start(watch.presence, site.address, agents=scale.agents).result()
    latencies = sorted(figures["latencies"])
    notes = {"p99_ms": _percentile(latencies, 0.99) * 1e3}
    return Outcome(_percentile(latencies, 0.5) * 1e3, loss=_missing(figures), notes=notes)


WORKLOADS: Final = (
    Workload("qos0-1-1", "QoS 0, 1 publisher → 1 subscriber, 100 bytes", "deliveries/s", one_to_one, ALL),
    Workload("qos0-1-5", "QoS 0, 1 publisher → 5 subscribers, 100 bytes", "deliveries/s", one_to_five, ALL),
    Workload("qos1-1-1", "QoS 1 from end to end, 1 → 1, 100 in flight", "deliveries/s", qos1, MQTT_ONLY),
    Workload("qos2-1-1", "QoS 2 from end to end, 1 → 1, 100 in flight", "deliveries/s", qos2, MQTT_ONLY),
    Workload("acked-1x100", "QoS 1, 1 connection × 100 in flight, in memory", "acks/s", acked_one, MQTT_ONLY),
    Workload("acked-50x10", "QoS 1, 50 connections × 10 in flight, in memory", "acks/s", acked_fifty, MQTT_ONLY),
    Workload("acked-1x100-disk", "the same, acknowledged when on disk", "acks/s", acked_one, durable=True),
    Workload("acked-50x10-disk", "the same, acknowledged when on disk", "acks/s", acked_fifty, durable=True),
    Workload("connect", "connect, be accepted, leave; 20 at once", "connects/s", connecting, MQTT_ONLY),
    Workload("busy-ack", "ack of one QoS 1 publish in a QoS 0 flood, p99", "ms", acked_in_a_flood, MQTT_ONLY),
    Workload("busy-ack-disk", "the same, acknowledged when on disk", "ms", acked_in_a_flood, durable=True),
    Workload("retained", "retained topics replayed at QoS 1 to a new subscriber", "messages/s", retained, MQTT_ONLY),
    Workload("idle", "a connection that is only kept, resident memory", "KB", idling, MQTT_ONLY, fresh=True),
    Workload("presence", "an agent's CONNECT until a watcher sees it, p50", "ms", watching),
)


def _fan_out(site: Site, scale: Scale, receivers: int) -> Outcome:
    checked, sent = _flooded(site, receivers, check=True, seconds=load.QUIET_S, messages=scale.checked)
    loss = sum(int(sent - part["got"][0]) for part in checked)
    timed, sent = _flooded(site, receivers, check=False, seconds=scale.seconds, messages=None)
    return Outcome(
        _rate(timed),
        loss=loss + sum(int(sent - part["got"][0]) for part in timed),
        duplicates=sum(int(part["duplicates"][0]) for part in checked),
        disorders=sum(int(part["disorders"][0]) for part in checked),
        notes={"sent": sent},
    )


def _flooded(
    site: Site, receivers: int, *, check: bool, seconds: float, messages: int | None
) -> tuple[list[Figures], float]:
    counters = Counters(receivers)
    parts = [crew.start(load.receive, site.address, site.wire, counters, n, check=check) for n in range(receivers)]
    for part in parts:
        part.wait_ready()
    flood = crew.start(load.flood, site.address, site.wire, counters, window=WINDOW, seconds=seconds, messages=messages)
    got = [part.result() for part in parts]
    return got, flood.result()["sent"][0]


def _acked(site: Site, scale: Scale, connections: int, in_flight: int) -> Outcome:
    if site.durable:
        _keep(site.address, ACKED_TOPICS)
    figures = crew.start(
        load.acknowledged,
        site.address,
        ACKED_TOPICS,
        connections=connections,
        in_flight=in_flight,
        seconds=scale.seconds,
        messages=scale.acked,
    ).result()
    return Outcome(
        figures["got"][0] / figures["seconds"][0], loss=_missing(figures), disorders=int(figures["disorders"][0])
    )


def _handshaken(site: Site, scale: Scale, qos: int) -> Outcome:
    counters = Counters(1)
    receiver = crew.start(handshakes.receive, site.address, counters, qos=qos)
    receiver.wait_ready()
    sent = crew.start(handshakes.publish, site.address, counters, qos=qos, seconds=scale.seconds).result()
    got = receiver.result()
    return Outcome(
        _rate([got]),
        loss=int(max(sent["sent"][0] - sent["acked"][0], sent["acked"][0] - got["got"][0])),
        duplicates=int(got["duplicates"][0]),
        disorders=int(got["disorders"][0]),
    )


def _resident(pid: int) -> int:
    """Bytes of memory a process really has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _keep(address: Address, topics: tuple[str, ...]) -> None:
    """A persistent session that is away: for its sake the channels log what is acknowledged.

    One from an earlier run is discarded first, and with it what was logged for it.
    """
    MQTT.join(address, "bench-keeper").close()
    with MQTT.join(address, "bench-keeper", clean=False) as keeper:
        MQTT.listen(keeper, topics, qos=1)


def _rate(parts: list[Figures]) -> float:
    took = max(part["last"][0] for part in parts) - min(part["first"][0] for part in parts)
    return sum(part["got"][0] for part in parts) / took if took > 0 else 0.0


def _missing(figures: Figures) -> int:
    return int(figures["sent"][0] - figures["got"][0])


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

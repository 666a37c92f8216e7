"""``$SYS/broker/…``: what the mesh says about its MQTT side, under mosquitto's names and in its words.

Every ``mqtt.sys_interval_s`` the numbers are looked at, and what has changed is said to whoever listens.
Who subscribes gets what was said last. Nothing is kept in any channel or log.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp
from typing import TYPE_CHECKING, Final, final

from dragoman.routing.message import Wish
from dragoman.routing.names import matches

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.realm import Realm

ROOT: Final = "$SYS"
BROKER: Final = "$SYS/broker/"
WISH: Final = Wish.EXACTLY_ONCE

SPANS: Final = (("1min", 60.0), ("5min", 300.0), ("15min", 900.0))
"""What loads are averaged over, in seconds."""

LOADS: Final = (
    ("messages/received", "messages/received"),
    ("messages/sent", "messages/sent"),
    ("publish/dropped", "publish/messages/dropped"),
    ("publish/received", "publish/messages/received"),
    ("publish/sent", "publish/messages/sent"),
    ("bytes/received", "bytes/received"),
    ("bytes/sent", "bytes/sent"),
    ("sockets", "connections/socket/count"),
)
"""Each load and the counter it is the load of."""

DROPS: Final = (
    "larger-than-receiver-takes",
    "share-without-member",
    "share-returned-full",
    "commit-failed",
    "no-longer-readable",
    "subscription-no-longer-allowed",
)
"""Reasons for which a reader did not get what was for it. A publish that was denied was never for anybody."""


@final
class Load:
    """How often something happens a minute: moving averages over ``SPANS``, weighted as mosquitto weighs them."""

    __slots__ = ("_count", "averages")

    def __init__(self, count: int) -> None:
        self._count = count
        self.averages = [0.0 for _ in SPANS]

    def move(self, count: int, passed_s: float) -> None:
        """So often it has happened by now, ``passed_s`` (above 0) after the last look."""
        a_minute = (count - self._count) * 60.0 / passed_s
        self._count = count
        self.averages = [
            a_minute + exp(-passed_s / span_s) * (average - a_minute)
            for average, (_, span_s) in zip(self.averages, SPANS, strict=True)
        ]


@final
class SysTree:
    """The names below ``$SYS/broker/`` and what each says. ``start`` once; it ends with the broker's timers."""

    def __init__(self, realm: Realm, version: str) -> None:
        self._realm = realm
        self._version = version
        self._interval_ms = realm.settings.sys_interval_s * 1000
        self._started_ms = self._looked_ms = self._due_ms = realm.broker.clock.monotonic_ms()
        self._numbers: dict[str, int] = {}
        self._loads: dict[str, Load] = {}
        self._said: dict[str, bytes] = {}

    def start(self) -> None:
        """Says everything for the first time. With an interval of 0 there is no ``$SYS`` at all."""
        if not self._interval_ms:
            return
        self._say("version", f"dragoman version {self._version}")
        numbers = self._count()
        self._loads = {load: Load(numbers[counter]) for load, counter in LOADS}
        self._loads["connections"] = Load(self._realm.traffic.connects)
        self._look()
        self._realm.broker.news.enter(ROOT, self.find, WISH, None)

    def find(self, filter_: str) -> Iterator[tuple[str, bytes]]:
        """What was said last under the names a filter matches."""
        return (said for said in self._said.items() if matches(filter_, said[0]))

    # -- within --------------------------------------------------------------------------------------

    def _look(self) -> None:
        now_ms = self._realm.broker.clock.monotonic_ms()
        passed_s = (now_ms - self._looked_ms) / 1000
        self._looked_ms = now_ms
        self._say("uptime", f"{(now_ms - self._started_ms) // 1000} seconds")
        numbers = self._count()
        for name, number in numbers.items():
            if self._numbers.get(name) != number:
                self._say(name, str(number))
        self._numbers = numbers
        if passed_s:
            for load, counter in LOADS:
                self._loads[load].move(numbers[counter], passed_s)
            self._loads["connections"].move(self._realm.traffic.connects, passed_s)
        for name, load_of in self._loads.items():
            for average, (span, _) in zip(load_of.averages, SPANS, strict=True):
                self._say(f"load/{name}/{span}", f"{average:.2f}")
        # From when it was due, not from when it ran: the looks keep their distance.
        self._due_ms = max(self._due_ms + self._interval_ms, now_ms)
        self._realm.broker.timers.at(self._due_ms, self._look)

    def _say(self, name: str, text: str) -> None:
        """Says it if it is not what was said last."""
        name = BROKER + name
        payload = text.encode()
        if self._said.get(name) != payload:
            self._said[name] = payload
            self._realm.broker.news.mention(name, payload, WISH)

    def _count(self) -> dict[str, int]:
        """Every plain number, by its name below ``$SYS/broker/``."""
        realm = self._realm
        traffic, counters, metrics, standings = realm.traffic, realm.counters, realm.metrics, realm.standings
        total = len(standings.by_client)
        away = total - traffic.connected
        dropped = metrics.lost + sum(metrics.dropped.get(reason, 0) for reason in DROPS)
        return {
            "clients/total": total,
            "clients/maximum": traffic.connected_max,
            "clients/disconnected": away,
            "clients/inactive": away,
            "clients/connected": traffic.connected,
            "clients/active": traffic.connected,
            "clients/expired": standings.expired_total,
            "subscriptions/count": standings.filters,
            "shared_subscriptions/count": standings.shared_filters,
            "retained messages/count": realm.core.commits.retained_count,
            "messages/received": traffic.packets_in,
            "messages/sent": traffic.packets_out,
            "bytes/received": counters.bytes_in,
            "bytes/sent": counters.bytes_out,
            "publish/bytes/received": traffic.publish_bytes_in,
            "publish/bytes/sent": traffic.publish_bytes_out,
            "publish/messages/dropped": dropped,
            "publish/messages/received": traffic.publishes_in,
            "publish/messages/sent": traffic.publishes_out,
            "connections/socket/count": counters.connections + counters.turned_away,
        }

"""All links of one mesh: opened with it, stopped with it, reported on together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.links.link import Link, Make
from dragoman.adapters.links.outlet import forget_cursors
from dragoman.adapters.links.state import Phase
from dragoman.broker.identity import mesh_id

if TYPE_CHECKING:
    from dragoman.adapters.links.settings import LinkSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.metrics import Metrics

DRAIN_S_MAX: Final = 2.0
"""What is on its way when the mesh stops gets so long; what it does not finish is said again after the restart."""


def _mqtt() -> Make:
    from dragoman.adapters.links.mqtt import MqttOutside

    return MqttOutside


def _a2a() -> Make:
    from dragoman.adapters.links.a2a import A2aOutside

    return A2aOutside


def _mcp() -> Make:
    from dragoman.adapters.links.mcp import McpOutside

    return McpOutside


def _nats() -> Make:
    from dragoman.adapters.links.nats import NatsOutside

    return NatsOutside


def _kafka() -> Make:
    from dragoman.adapters.links.kafka import KafkaOutside

    return KafkaOutside


KINDS: Final[dict[str, Callable[[], Make]]] = {"a2a": _a2a, "kafka": _kafka, "mcp": _mcp, "mqtt": _mqtt, "nats": _nats}
"""A client library is imported only where a link needs it."""


@final
class Links:
    """Made after the broker has started, before anybody publishes. ``start`` once, ``stop`` once."""

    def __init__(self, broker: Broker, settings: tuple[LinkSettings, ...]) -> None:
        forget_cursors(broker, {link.name for link in settings})
        mesh = mesh_id(broker.log)
        self._links = [Link(broker, link, mesh, KINDS[link.kind]()) for link in settings]
        self._probe(broker.metrics)

    async def start(self) -> None:
        """Begins to connect; an outside that is not there yet is waited for."""
        for link in self._links:
            link.start()

    def stop_accepting(self) -> None:
        """Takes no more from either side."""
        for link in self._links:
            link.hush()

    async def stop(self, deadline_s: float) -> None:
        """Finishes what is on its way, at most so long; then disconnects."""
        drain_s = min(deadline_s, DRAIN_S_MAX)
        await asyncio.gather(*(link.stop(drain_s) for link in self._links))

    def report(self) -> list[dict[str, object]]:
        """How each link stands."""
        return [link.report() for link in self._links]

    def _probe(self, metrics: Metrics) -> None:
        standings = [link.standing for link in self._links]
        up = Phase.UP
        metrics.probe("dragoman_links", "Links configured", lambda: len(standings))
        metrics.probe("dragoman_links_up", "Links that are up", lambda: sum(s.phase is up for s in standings))
        metrics.probe(
            "dragoman_links_waiting",
            "Messages on their way over links and not acknowledged",
            lambda: sum(link.intake.waiting + link.outlet.open_count for link in self._links),
        )
        for name, text, read in (
            ("pulled", "Messages that came in over links", lambda: sum(s.pulled for s in standings)),
            ("pushed", "Messages that outsides took over links", lambda: sum(s.pushed for s in standings)),
            ("connects", "Connections links have made", lambda: sum(s.connects for s in standings)),
        ):
            metrics.probe(f"dragoman_links_{name}", text, read, "counter")

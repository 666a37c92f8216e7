"""Whether it runs, whether it works, what it counts.

``/healthz``: the process answers. ``/readyz``: a message goes in through our own socket and comes out of a
commit; so it fails when the listener, the gate, the loop or the log's writer does. ``/metrics``: Prometheus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from dragoman.adapters.http.definitions import Definition, Exchange, Reply, respond
from dragoman.adapters.http.documents import Document
from dragoman.adapters.http.session import RequestSession
from dragoman.adapters.serving.problems import Problem, respond_with
from dragoman.adapters.serving.web import OWN_TOKEN
from dragoman.broker.channel import Keep
from dragoman.broker.principal import EMBEDDED
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.http.surface import Surface
    from dragoman.broker.metrics import Metrics

READY_CHANNEL: Final = "$dragoman/ready"
"""Where the probe's messages go. Names that begin with $ match no wildcard, so nobody hears them by accident."""

REMEMBERED_MS: Final = 1_000
"""One outcome serves everybody who asks within this time: the probe costs a commit, and needs no credentials."""


class HealthDocument(Document):
    """It answers."""

    status: str


class ReadyDocument(Document):
    """A message went in over our own socket and its commit came back, in so many milliseconds."""

    status: str
    round_trip_ms: int


async def _health(exchange: Exchange) -> web.StreamResponse:
    return respond(HealthDocument(status="up"))


async def _ready(exchange: Exchange) -> web.StreamResponse:
    outcome = await exchange.request.app[READINESS].outcome(exchange.surface, exchange.request.app[OWN_TOKEN])
    if isinstance(outcome, str):
        return respond_with(Problem("not-ready", "not ready", 503, outcome))
    return respond(ReadyDocument(status="ready", round_trip_ms=outcome))


@final
class Readiness:
    """Probes when asked, one probe at a time. An outcome is the round trip in milliseconds, or what is wrong."""

    __slots__ = ("_at_ms", "_outcome", "_probing")

    def __init__(self) -> None:
        self._outcome: int | str = "never probed"
        self._at_ms: int | None = None
        self._probing = asyncio.Lock()

    async def outcome(self, surface: Surface, token: str) -> int | str:
        """The outcome of a probe made now, or a moment ago."""
        clock = surface.broker.clock
        async with self._probing:
            if self._at_ms is None or clock.monotonic_ms() - self._at_ms >= REMEMBERED_MS:
                self._outcome = await _probe(surface, token)
                self._at_ms = clock.monotonic_ms()
            return self._outcome


async def _probe(surface: Surface, token: str) -> int | str:
    broker, within_ms = surface.broker, surface.settings.ready_max_ms
    if surface.base_url is None:
        return "the listener has not started"
    declared = broker.declare(RequestSession(EMBEDDED, ""), READY_CHANNEL, Keep.ALL)
    if isinstance(declared, Refusal):
        return f"the probe's channel cannot be made: {declared}"
    began_ms = broker.clock.monotonic_ms()
    timeout = aiohttp.ClientTimeout(total=within_ms / 1000)
    # Our own certificate need not name the address we reach it by.
    connector = aiohttp.TCPConnector(ssl=False, force_close=True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
            client.post(
                f"{surface.base_url}/v1/channels",
                params={"name": READY_CHANNEL},
                data=b"ready?",
                headers={"Authorization": f"Bearer {token}"},
            ) as response,
        ):
            if response.status != 201:
                return f"our own listener answered {response.status}: {(await response.text())[:500]}"
            place = await response.json()
    except TimeoutError:
        return f"a message sent through our own listener was not committed within {within_ms} ms"
    except aiohttp.ClientError as error:
        return f"our own listener does not answer: {error}"
    broker.log.release(int(place["number"], 16), int(place["offset"]) + 1)
    return broker.clock.monotonic_ms() - began_ms


READINESS: Final = web.AppKey("readiness", Readiness)
"""Set by ``add_routes``: one a web application."""


# -- metrics ---------------------------------------------------------------------------------------


@final
class MeshCollector(Collector):
    """Prometheus' view of the mesh's counters."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """The counters as families: samples of one name come in a row."""
        family: Metric | None = None
        for sample in self._metrics.collect():
            if family is None or family.name != sample.name:
                if family is not None:
                    yield family
                kind = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                family = kind(sample.name, sample.help, labels=[name for name, _ in sample.labels])
            assert isinstance(family, CounterMetricFamily | GaugeMetricFamily), f"{family!r} is of another kind"
            family.add_metric([value for _, value in sample.labels], sample.value)
        if family is not None:
            yield family


async def _metrics(exchange: Exchange) -> web.StreamResponse:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MeshCollector(exchange.broker.metrics))
    return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


DEFINITIONS: Final = (
    Definition(
        "GET",
        "/healthz",
        "health",
        "health",
        "Whether the process answers",
        _health,
        replies=(Reply(200, "It does", HealthDocument),),
        open=True,
    ),
    Definition(
        "GET",
        "/readyz",
        "ready",
        "health",
        "Whether a message goes in over our own socket and through a commit",
        _ready,
        replies=(Reply(200, "It does", ReadyDocument),),
        problems=(503,),
        open=True,
    ),
    Definition(
        "GET",
        "/metrics",
        "metrics",
        "health",
        "The counters, for Prometheus",
        _metrics,
        replies=(Reply(200, "Prometheus text format", content="text/plain"),),
    ),
)

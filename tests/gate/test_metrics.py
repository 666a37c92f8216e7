from __future__ import annotations

import re

import pytest

from dragoman.broker import metrics as module
from dragoman.broker.metrics import Metrics, Sample
from dragoman.routing.refusals import Reason
from tests.attributes import attributes


def test_every_counter_is_collected_under_its_own_name() -> None:
    metrics = Metrics()
    counters = [slot for slot in attributes(Metrics) if slot not in ("dropped", "refused")]
    for value, slot in enumerate(counters, start=1):
        setattr(metrics, slot, value)
    collected = {sample.value for sample in metrics.collect()}
    assert collected == set(range(1, len(counters) + 1))


def test_every_wire_counter_is_collected() -> None:
    metrics = Metrics()
    wire = metrics.wire("mqtt")
    assert wire is metrics.wire("mqtt")
    counters = [slot for slot in attributes(type(wire)) if slot != "protocol"]
    for value, slot in enumerate(counters, start=100):
        setattr(wire, slot, value)
    samples = [sample for sample in metrics.collect() if sample.labels == (("protocol", "mqtt"),)]
    assert sorted(sample.value for sample in samples) == list(range(100, 100 + len(counters)))


def test_names_are_good_prometheus_names_and_come_in_a_row() -> None:
    metrics = Metrics()
    metrics.wire("mqtt")
    metrics.wire("http")
    metrics.drop("slow-reader")
    metrics.drop("expired")
    order = list(dict.fromkeys(sample.name for sample in metrics.collect()))
    runs = [sample.name for sample in metrics.collect()]
    assert [name for i, name in enumerate(runs) if i == 0 or runs[i - 1] != name] == order
    for sample in metrics.collect():
        assert re.fullmatch(r"dragoman_[a-z_]+", sample.name)
        assert not sample.name.endswith("_total")
        assert sample.help


def test_drops_are_counted_by_reason() -> None:
    metrics = Metrics()
    metrics.drop("expired")
    metrics.drop("expired", 4)
    assert Sample("dragoman_dropped", "counter", "Messages dropped, by reason", (("reason", "expired"),), 5) in list(
        metrics.collect()
    )


def test_reasons_cannot_grow_without_bound() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.drop(f"mistake-{number}")
    assert len(metrics.dropped) == module.REASONS_MAX + 1
    assert sum(metrics.dropped.values()) == 1000


def test_refusals_are_counted_by_their_stable_name() -> None:
    metrics = Metrics()
    metrics.refuse(Reason.BUSY)
    metrics.refuse(Reason.BUSY, 2)
    assert metrics.refused == {"busy": 3}
    assert any(s.labels == (("reason", "busy"),) and s.value == 3 for s in metrics.collect())


def test_a_probe_is_read_when_collected() -> None:
    metrics = Metrics()
    waiting = [1.0]
    metrics.probe("dragoman_waiting_bytes", "Bytes waiting", lambda: waiting[0])
    waiting[0] = 7.0
    assert list(metrics.collect())[-1] == Sample("dragoman_waiting_bytes", "gauge", "Bytes waiting", (), 7.0)
    with pytest.raises(AssertionError):
        metrics.probe("dragoman_waiting_bytes", "again", lambda: 0.0)

"""Keys land where Java's producer puts them."""

from __future__ import annotations

import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.routing.partition import murmur2, partition_of

with warnings.catch_warnings():
    # Its import reads its schemas in a way Python is about to give up.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.partitioner.default import DefaultPartitioner
    from kafka.partitioner.default import murmur2 as murmur2_of_kafka_python

JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""The vectors of Kafka's own test of it, as Java's signed numbers."""


@pytest.mark.parametrize(("data", "hash"), JAVA.items())
def test_the_vectors_of_java(data, hash):
    assert murmur2(data) == hash & 0xFFFF_FFFF


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=70), st.integers(1, 50))
def test_any_key_is_where_kafka_puts_it(key, partitions):
    assert murmur2(key) == murmur2_of_kafka_python(key) & 0xFFFF_FFFF
    everywhere = set(range(partitions))
    cluster = SimpleNamespace(
        topics=lambda: {"t"},
        partitions_for_topic=lambda _: everywhere,
        available_partitions_for_topic=lambda _: everywhere,
    )
    there = DefaultPartitioner().partition("t", None, key, None, None, cluster)
    assert partition_of(key, "sender", partitions) == there


def test_without_a_key_a_sender_keeps_to_one_partition():
    assert partition_of(None, "me", 7) == partition_of(b"me", "", 7)
    assert partition_of(b"", "me", 7) == partition_of(b"", "you", 7), "an empty key is a key"


def test_senders_are_spread():
    found = Counter(partition_of(None, f"agent-{i}", 8) for i in range(800))
    assert min(found[i] for i in range(8)) > 50

"""Odd batches given to a running mesh: what is taken apart leaves as it came, and what unfolds too far hurts nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dragoman.adapters.kafka.apis import ApiKey
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.records import PARTS_MAX
from dragoman.adapters.kafka.shapes_data import PartitionProduceData, ProduceRequest, TopicProduceData
from tests.clients.mesh import MeshProcess
from tests.kafka.batch_forms import (
    PLAIN,
    RICH,
    Record,
    batch,
    by_aiokafka,
    gzipped,
    read_by_kafka_python,
    record_of,
    varint,
)
from tests.kafka.kafka_bare import Bare, fetch_request

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    listeners = {"kafka": "127.0.0.1:0", "http": "127.0.0.1:0"}
    with MeshProcess(tmp_path_factory.mktemp("batches"), listeners=listeners) as process:
        yield process
        assert "Traceback" not in process.stderr
        assert "fault of ours" not in process.stderr


def produced(bare: Bare, topic: str, data: bytes) -> int:
    """The error code of the answer."""
    partition = PartitionProduceData(index=0, records=memoryview(data))
    request = ProduceRequest(
        acks=-1, timeout_ms=9_000, topic_data=[TopicProduceData(topic, partition_data=[partition])]
    )
    answer = bare.ask(ApiKey.PRODUCE, 9, request)
    return int(answer.responses[0].partition_responses[0].error_code)


def consumed(bare: Bare, topic: str) -> list[tuple[int, Record]]:
    answer = bare.ask(ApiKey.FETCH, 11, fetch_request(topic))
    return read_by_kafka_python(bytes(answer.responses[0].partitions[0].records))


@pytest.mark.parametrize("codec", [0, 1])
def test_what_is_taken_apart_leaves_as_it_came(mesh, codec):
    asking = Record(b"k", b"v", (("z", None), ("content-type", b"a/b"), ("content-type", None), ("mesh-retain", b"1")))
    with Bare(mesh) as bare:
        assert produced(bare, f"apart.{codec}", by_aiokafka([*RICH, asking], codec)) == ErrorCode.NONE
        assert consumed(bare, f"apart.{codec}") == list(enumerate([*RICH, asking]))


def test_what_unfolds_too_far_is_refused_where_it_would_be_read(mesh):
    """The header asked for is in each, so that the mesh has to look."""
    asking = record_of(b"\0\0\x01\x01\x02", varint(11), b"mesh-retain", b"\x01")
    headers = record_of(b"\0\0\x01\x01", varint(2_000_000), b"\0\x01" * 2_000_000)
    with Bare(mesh) as bare:
        bomb = batch(gzipped(asking + headers), 2, attributes=1)
        assert produced(bare, "bomb", bomb) == ErrorCode.INVALID_RECORD
        bomb = batch(gzipped(PLAIN * (PARTS_MAX + 1)), PARTS_MAX + 1, attributes=1)
        assert produced(bare, "bomb", bomb) == ErrorCode.MESSAGE_TOO_LARGE
        assert produced(bare, "bomb", batch(gzipped(bytes(20 << 20)), attributes=1)) == ErrorCode.INVALID_RECORD
        assert produced(bare, "bomb", by_aiokafka(RICH)) == ErrorCode.NONE
        assert consumed(bare, "bomb") == list(enumerate(RICH))

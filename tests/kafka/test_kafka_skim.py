"""Produce requests that are too large: read as they come, refused without being kept, and the connection goes on."""

from __future__ import annotations

import random
import uuid

import codec_oracle as oracle
import pytest

from dragoman.adapters.kafka import codec
from dragoman.adapters.kafka.apis import BY_KEY, ApiKey
from dragoman.adapters.kafka.shapes_data import (
    MetadataRequest,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from dragoman.adapters.kafka.skim import KEPT_BYTES_MAX, Skim
from dragoman.adapters.kafka.wire import WireError
from tests.kafka.kafka_bare import request

VERSIONS = range(3, 14)


def large(version: int, batches: list[bytes | None]) -> ProduceRequest:
    """Two topics with these batches each."""
    topics = []
    for name in ("a", "b.c"):
        data = [
            PartitionProduceData(index, None if batch is None else memoryview(batch))
            for index, batch in enumerate(batches)
        ]
        about = (name, uuid.UUID(int=0)) if version < 13 else ("", uuid.uuid4())
        topics.append(TopicProduceData(*about, data))
    return ProduceRequest("tx" if version % 2 else None, -1, 30_000, topics)


def skimmed(whole: bytes, sizes: list[int], length: int | None = None) -> tuple[Skim, int]:
    """A request without its length, fed in pieces of these sizes in turn; and how much was not taken."""
    skim = Skim(len(whole) if length is None else length)
    at = turn = 0
    while at < len(whole) and skim.left:
        piece = memoryview(whole)[at : at + sizes[turn % len(sizes)]]
        taken = skim.feed(piece)
        at, turn = at + taken, turn + 1
        if taken < len(piece):
            break
    return skim, len(whole) - at


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sizes", [[1], [7, 1, 64], [1 << 16]], ids=str)
def test_what_is_kept_is_the_request_without_its_records(version: int, sizes: list[int]):
    batches = [b"r" * 300, None, b"", random.Random(version).randbytes(70_000)]
    whole = request(ApiKey.PRODUCE, version, large(version, batches), 77)[4:]
    skim, rest = skimmed(whole, sizes)
    assert (skim.left, rest) == (0, 0)
    head = codec.request_head(memoryview(skim.kept))
    assert (head.api_version, head.correlation_id, head.client_id) == (version, 77, "bare")
    kept = codec.decode_request(ApiKey.PRODUCE, version, memoryview(skim.kept)[head.length :])
    assert isinstance(kept, ProduceRequest)
    asked = codec.decode_request(ApiKey.PRODUCE, version, memoryview(whole)[head.length :])
    assert isinstance(asked, ProduceRequest)
    for topic in asked.topic_data:
        for data in topic.partition_data:
            data.records = None
    assert kept == asked


@pytest.mark.parametrize("version", VERSIONS)
def test_what_kio_writes_is_skimmed_to_its_end(version: int):
    api = BY_KEY[ApiKey.PRODUCE]
    for seed in range(30):
        shape = oracle.made(api.request, version, seed)
        body = oracle.written(oracle.carried(shape, oracle.request_class(api, version), version))
        head = request(ApiKey.PRODUCE, version, ProduceRequest())[4:18]
        whole = head + (b"\0" if version >= api.flexible else b"") + body
        skim, rest = skimmed(whole, [5])
        assert (skim.left, rest) == (0, 0)
        assert codec.decode_request(ApiKey.PRODUCE, version, memoryview(skim.kept)[len(whole) - len(body) :])


def test_what_follows_is_left():
    whole = request(ApiKey.PRODUCE, 9, large(9, [b"x" * 100]))[4:]
    skim, rest = skimmed(whole + b"next", [1 << 16], len(whole))
    assert (skim.left, rest) == (0, 4)


@pytest.mark.parametrize(
    ("whole", "why"),
    [
        (request(ApiKey.METADATA, 12, MetadataRequest())[4:], "API 3 version 12"),
        (request(ApiKey.PRODUCE, 3, ProduceRequest())[4:6] + b"\0\2" + bytes(80), "API 0 version 2"),
        (request(ApiKey.PRODUCE, 9, large(9, [b"x" * 500]))[4:300], "end beyond it"),
        (request(ApiKey.PRODUCE, 9, large(9, [None] * 9_000))[4:], f"more than {KEPT_BYTES_MAX} bytes"),
        (request(ApiKey.PRODUCE, 9, ProduceRequest())[4:19] + b"\xff" * 9, "more than five bytes"),
        (request(ApiKey.PRODUCE, 9, ProduceRequest())[4:19] + b"\xff\xff\xff\xff\x0f", f"more than {KEPT_BYTES_MAX}"),
    ],
    ids=["another API", "of old", "cut", "too many partitions", "a count", "a length"],
)
def test_what_cannot_be_skimmed(whole: bytes, why: str):
    with pytest.raises(WireError, match=why):
        skimmed(whole, [11])


def test_nothing_of_the_records_is_kept():
    whole = request(ApiKey.PRODUCE, 9, large(9, [bytes(1 << 20)] * 8))[4:]
    skim, _ = skimmed(whole, [1 << 16])
    assert len(skim.kept) < 200

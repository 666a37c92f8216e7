"""How much a fetch brings, and where in a topic a time is: what foreign clients rely on when they read."""

from __future__ import annotations

from collections.abc import Iterator

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition

from dragoman.adapters.kafka.apis import ApiKey
from dragoman.adapters.kafka.shapes_data import (
    FetchPartition,
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from tests.clients.mesh import MeshProcess
from tests.kafka.kafka_bare import Bare, fetch_request
from tests.kafka.kafka_clients import WAIT_S, Record, Where
from tests.kafka.kafka_clients_python import Confluent

pytestmark = pytest.mark.slow

PARTITIONS = 4
BATCH = 100_000
CLIENT = Confluent()


@pytest.fixture(scope="module", params=["kept", "memory"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """Reading is done at once where everything is in memory, and later where it is not."""
    listeners, config = {"kafka": "127.0.0.1:0"}, f"[kafka]\npartitions = {PARTITIONS}\n"
    folder, memory = tmp_path_factory.mktemp("kafka"), request.param == "memory"
    with MeshProcess(folder, config, memory=memory, listeners=listeners) as process:
        fill(process)
        if not memory:
            process.restart()
        yield process


def at(mesh: MeshProcess) -> Where:
    host, port = mesh.address("kafka")
    return Where(f"{host}:{port}")


def fill(mesh: MeshProcess) -> None:
    """In each partition of one topic three large batches; another with times of its own."""
    producer = confluent_kafka.Producer(CLIENT.options(at(mesh)))
    for n in range(3):
        for partition in range(PARTITIONS):
            producer.produce("large", bytes([n]) * BATCH, partition=partition)
        producer.flush(WAIT_S)
    for moment in (1_000, 3_000, 2_000, 5_000):
        producer.produce("times", b"%d" % moment, partition=0, timestamp=moment)
        producer.flush(WAIT_S)
    for moment in (6_000, 9_000, 7_000):
        producer.produce("times", b"%d" % moment, partition=0, timestamp=moment)
    assert producer.flush(WAIT_S) == 0


def fetched(mesh: MeshProcess, *, each: int, together: int) -> list[int]:
    """How many large batches a fetch of all partitions brings of each."""
    wanted = fetch_request("large", max_bytes=together, wait_ms=10_000)
    wanted.min_bytes = 10 * BATCH * PARTITIONS if together < BATCH else 1
    wanted.topics[0].partitions = [
        FetchPartition(partition=p, fetch_offset=0, partition_max_bytes=each) for p in range(PARTITIONS)
    ]
    with Bare(mesh) as bare:
        bare.socket.settimeout(5)
        answer = bare.ask(ApiKey.FETCH, 11, wanted)
    return [len(partition.records or b"") // BATCH for partition in answer.responses[0].partitions]


@pytest.mark.parametrize(
    ("each", "together", "found"),
    [
        (10 * BATCH, 100 * BATCH, [3, 3, 3, 3]),
        (BATCH // 2, 100 * BATCH, [1, 1, 1, 1]),
        (BATCH * 5 // 2, 100 * BATCH, [2, 2, 2, 2]),
        (1, 1, [1, 0, 0, 0]),
        (10 * BATCH, BATCH // 2, [1, 0, 0, 0]),
        (10 * BATCH, BATCH * 9 // 2, [3, 1, 1, 0]),
    ],
)
def test_a_fetch_brings_what_fits_and_at_least_one_batch(mesh: MeshProcess, each: int, together: int, found: list[int]):
    assert fetched(mesh, each=each, together=together) == found


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (0, 0),
        (1_000, 0),
        (1_001, 1),
        (3_000, 1),
        (3_001, 3),
        (5_001, 4),
        (6_001, 5),
        (8_000, 5),
        (9_000, 5),
        (9_001, 7),
    ],
)
def test_the_first_record_at_a_time_or_after_it(mesh: MeshProcess, asked: int, found: int):
    consumer = CLIENT.consumer(at(mesh), "nobody")
    try:
        (place,) = consumer.offsets_for_times([TopicPartition("times", 0, asked)], WAIT_S)
    finally:
        consumer.close()
    # librdkafka says -1, the end, where there is none.
    assert place.offset == (found if found < 7 else -1)


@pytest.mark.parametrize(
    ("special", "found"), [(-1, (7, -1)), (-2, (0, -1)), (-3, (5, 9_000)), (-4, (0, -1)), (-5, (-1, -1))]
)
def test_places_with_a_name(mesh: MeshProcess, special: int, found: tuple[int, int]):
    wanted = ListOffsetsTopic(name="times", partitions=[ListOffsetsPartition(partition_index=0, timestamp=special)])
    with Bare(mesh) as bare:
        answer = bare.ask(ApiKey.LIST_OFFSETS, 9, ListOffsetsRequest(topics=[wanted])).topics[0].partitions[0]
    assert (answer.offset, answer.timestamp) == found


def test_a_time_is_found_in_what_other_protocols_said(mesh: MeshProcess):
    said = [Record(b"k", b"v", (("mesh-retain", b"true"),))]
    CLIENT.produce(at(mesh), "retained", said)
    consumer = CLIENT.consumer(at(mesh), "nobody")
    try:
        (place,) = consumer.offsets_for_times([TopicPartition("retained", 0, 1)], WAIT_S)
    finally:
        consumer.close()
    assert place.offset == 0

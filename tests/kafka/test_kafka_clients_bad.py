"""Peers on Kafka's port that are none, or no good ones: each costs only its own connection."""

from __future__ import annotations

import os
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer

from dragoman.adapters.kafka.apis import APIS, ApiKey
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.shapes_data import (
    ApiVersionsRequest,
    MetadataRequest,
    MetadataRequestTopic,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from tests.clients.mesh import MeshProcess
from tests.kafka.kafka_bare import Bare, fetch_request, request
from tests.kafka.kafka_clients import Record, Where, until
from tests.kafka.kafka_clients_python import Confluent

pytestmark = pytest.mark.slow

MEGABYTE = 1 << 20
LISTENERS = {"kafka": "127.0.0.1:0", "http": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """One for all; what one peer does must not hurt the next."""
    with MeshProcess(tmp_path_factory.mktemp("kafka"), listeners=LISTENERS, arguments=["-v"]) as process:
        yield process
        assert "Traceback" not in process.stderr
        assert "fault of ours" not in process.stderr


@pytest.fixture
def neighbour(mesh: MeshProcess) -> Iterator[Bare]:
    """A well-behaved connection, which is as well afterwards."""
    with Bare(mesh) as bare:
        bare.ask(ApiKey.API_VERSIONS, 3, ApiVersionsRequest("test", "1"))
        yield bare
        assert bare.ask(ApiKey.METADATA, 12, MetadataRequest(topics=[])).brokers


def head(key: int, version: int, correlation: int = 1) -> bytes:
    return (
        key.to_bytes(2, "big", signed=True) + version.to_bytes(2, "big", signed=True) + correlation.to_bytes(4, "big")
    )


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)

CUT = {
    "garbage": (b"\xde\xad\xbe\xef" * 16, "a request of -559038737 bytes"),
    "text": (b"hello there, is this a shell?\r\n", "a request of 1751477356 bytes"),
    "tls": (CLIENT_HELLO, "the peer speaks TLS"),
    "http-get": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "the peer speaks HTTP"),
    "http-post": (b"POST /v1/x HTTP/1.1\r\nHost: x\r\n\r\n", "the peer speaks HTTP"),
    "negative": (b"\xff\xff\xff\xff", "a request of -1 bytes"),
    "nothing": (bytes(4), "a request of 0 bytes"),
    "huge": (b"\x7f\xff\xff\xff", "a request of 2147483647 bytes"),
    "larger than Kafka takes": ((100 * MEGABYTE + 1).to_bytes(4, "big"), f"a request of {100 * MEGABYTE + 1} bytes"),
    "too large, and no produce": (
        (16 * MEGABYTE + 1).to_bytes(4, "big") + head(3, 12),
        "a request of API 3 version 12 that is too large",
    ),
    "half a head": (framed(b"\x00\x12\x00"), "malformed request"),
    "a client's name beyond the end": (framed(head(18, 0) + b"\x7f\xff" + b"abc"), "malformed request"),
    "a client's name that is no text": (framed(head(18, 0) + b"\x00\x02\xff\xfe"), "malformed request"),
    "unknown request": (framed(head(999, 0) + b"\xff\xff"), "asks for API 999 version 0, which is not offered"),
    "negative request": (framed(head(-1, 0) + b"\xff\xff"), "asks for API -1 version 0, which is not offered"),
    "a version of old": (framed(head(1, 0) + b"\xff\xff"), "asks for API 1 version 0, which is not offered"),
    "a version to come": (framed(head(3, 99) + b"\xff\xff"), "asks for API 3 version 99, which is not offered"),
}


def errors(mesh: MeshProcess) -> int:
    """How often peers broke the protocol, as the operator sees it."""
    with urllib.request.urlopen(f"{mesh.url}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found = re.search(r'^dragoman_protocol_errors(?:_total)?{protocol="kafka"} (\d+)', text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("what", CUT)
def test_what_is_no_request_costs_its_connection_and_one_line(mesh: MeshProcess, what: str):
    data, why = CUT[what]
    before, counted = len(mesh.stderr), errors(mesh)
    with Bare(mesh) as bare:
        bare.send(data)
        assert bare.frame() is None
    mesh.child.until(lambda: True if why in mesh.stderr[before:] else None, f"a line with {why!r}")
    lines = [line for line in mesh.stderr[before:].splitlines() if "kafka" in line]
    assert len(lines) == 1, lines
    assert errors(mesh) == counted + 1


@pytest.mark.usefixtures("neighbour")
def test_a_body_that_is_none_is_answered_and_the_connection_goes_on(mesh: MeshProcess):
    with Bare(mesh) as bare:
        whole = request(ApiKey.METADATA, 12, MetadataRequest(topics=[MetadataRequestTopic(name="x")]), 7)
        bare.send(framed(whole[4:-3]))
        answer = bare.answer(ApiKey.METADATA, 12, 7)
        assert not answer.topics
        assert bare.ask(ApiKey.METADATA, 13, MetadataRequest(topics=[])).error_code == ErrorCode.NONE


@pytest.mark.usefixtures("neighbour")
def test_every_request_without_a_body_is_answered(mesh: MeshProcess):
    """With nothing where all the fields should be, each has an answer of its own shape, or none is due."""
    for api in APIS:
        for version in (max(api.low, api.served), api.high):
            with Bare(mesh) as bare:
                tags = b"\0" if version >= api.flexible else b""
                bare.send(framed(head(api.key, version, 5) + b"\xff\xff" + tags))
                bare.answer(api.key, version, 5)
                assert bare.ask(ApiKey.API_VERSIONS, 0, ApiVersionsRequest()).api_keys, api


def test_a_newer_client_learns_what_is_known(mesh: MeshProcess):
    with Bare(mesh) as bare:
        bare.send(framed(head(18, 99, 3) + b"\xff\xff" + b"whatever is to come"))
        answer = bare.answer(ApiKey.API_VERSIONS, 0, 3)
        assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION
        assert {api.api_key for api in answer.api_keys} >= {ApiKey.PRODUCE, ApiKey.FETCH, ApiKey.API_VERSIONS}


def test_a_byte_at_a_time(mesh: MeshProcess):
    with Bare(mesh) as bare:
        bare.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = MetadataRequest(topics=[MetadataRequestTopic(name="slowly")])
        data = request(ApiKey.METADATA, 12, body, 1) + request(ApiKey.API_VERSIONS, 3, ApiVersionsRequest("t", "1"), 2)
        for at in range(len(data)):
            bare.send(data[at : at + 1])
        assert [topic.name for topic in bare.answer(ApiKey.METADATA, 12, 1).topics] == ["slowly"]
        assert bare.answer(ApiKey.API_VERSIONS, 3, 2).api_keys


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("part", [2, 4, 5, 20])
def test_who_ends_in_the_middle_of_a_request_is_forgotten(mesh: MeshProcess, part: int):
    whole = request(ApiKey.METADATA, 12, MetadataRequest(topics=[MetadataRequestTopic(name="never.made")]))
    with Bare(mesh) as bare:
        bare.send(whole[:part])
        bare.socket.shutdown(socket.SHUT_WR)
        assert bare.frame() is None
    with Bare(mesh) as bare:
        assert "never.made" not in [topic.name for topic in bare.ask(ApiKey.METADATA, 12, MetadataRequest()).topics]


def memory_bytes(mesh: MeshProcess) -> int:
    """What the mesh takes of the machine's memory now."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{mesh.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.usefixtures("neighbour")
def test_a_request_that_is_only_announced_takes_little_room(mesh: MeshProcess):
    before = memory_bytes(mesh)
    peers = [Bare(mesh) for _ in range(20)]
    try:
        for bare in peers:
            bare.send((16 * MEGABYTE).to_bytes(4, "big") + head(0, 9))
        # Each of them is read before this one, which came later.
        with Bare(mesh) as bare:
            assert bare.ask(ApiKey.API_VERSIONS, 0, ApiVersionsRequest()).api_keys
        assert memory_bytes(mesh) - before < 40 * MEGABYTE
    finally:
        for bare in peers:
            bare.socket.close()


def test_a_producer_of_too_large_records_is_told_so_and_goes_on(mesh: MeshProcess):
    """librdkafka, told that the broker takes more than it does."""
    host, port = mesh.address("kafka")
    lost: list[KafkaError] = []
    told: list[tuple[int | None, int]] = []
    producer = Producer(
        {
            "bootstrap.servers": f"{host}:{port}",
            "message.max.bytes": 200_000_000,
            "linger.ms": 0,
            "message.timeout.ms": 30_000,
            "error_cb": lost.append,
        }
    )
    # The connection is there, and nothing is left of the last request.
    producer.produce("weighty", b"light", on_delivery=lambda e, m: told.append((e and e.code(), m.offset())))
    assert producer.flush(30) == 0
    before = memory_bytes(mesh)
    for value in (os.urandom(20_000_000), os.urandom(60_000_000), b"light again"):
        producer.produce("weighty", value, on_delivery=lambda e, m: told.append((e and e.code(), m.offset())))
        assert producer.flush(30) == 0
    large = KafkaError.MSG_SIZE_TOO_LARGE
    assert [(code, offset if code is None else None) for code, offset in told] == [
        (None, 0),
        (large, None),
        (large, None),
        (None, 1),
    ]
    assert not lost, "no connection was closed"
    assert memory_bytes(mesh) - before < 16 * MEGABYTE


@pytest.mark.usefixtures("neighbour")
def test_all_of_a_request_that_is_too_large_is_refused_in_order(mesh: MeshProcess):
    """With requests before and behind it at once, and in all its partitions; also where nothing is answered."""
    batch = memoryview(bytes(9 * MEGABYTE))
    topics = [
        TopicProduceData(name, partition_data=[PartitionProduceData(0, batch), PartitionProduceData(1, None)])
        for name in ("large.a", "large.b")
    ]
    with Bare(mesh) as bare:
        bare.send(request(ApiKey.API_VERSIONS, 0, ApiVersionsRequest(), 1))
        bare.send(request(ApiKey.PRODUCE, 9, ProduceRequest(None, -1, 1_000, topics), 2))
        bare.send(request(ApiKey.PRODUCE, 9, ProduceRequest(None, 0, 1_000, topics), 3))
        bare.send(request(ApiKey.API_VERSIONS, 0, ApiVersionsRequest(), 4))
        assert bare.answer(ApiKey.API_VERSIONS, 0, 1).api_keys
        answer = bare.answer(ApiKey.PRODUCE, 9, 2)
        assert [topic.name for topic in answer.responses] == ["large.a", "large.b"]
        for topic in answer.responses:
            codes = [(partition.index, partition.error_code) for partition in topic.partition_responses]
            assert codes == [(0, ErrorCode.MESSAGE_TOO_LARGE), (1, ErrorCode.MESSAGE_TOO_LARGE)]
        assert bare.answer(ApiKey.API_VERSIONS, 0, 4).api_keys


def test_a_large_request_arrives_whole_in_pieces(mesh: MeshProcess):
    topics = [MetadataRequestTopic(name=f"no!topic {n:06} {'x' * 200}") for n in range(15_000)]
    data = request(ApiKey.METADATA, 4, MetadataRequest(topics=topics, allow_auto_topic_creation=False), 9)
    assert 3 * MEGABYTE < len(data) < 4 * MEGABYTE
    with Bare(mesh) as bare:
        bare.send(data)
        answer = bare.answer(ApiKey.METADATA, 4, 9)
    assert [topic.name for topic in answer.topics] == [topic.name for topic in topics]


def test_who_asks_and_never_reads_holds_only_itself_up(mesh_process: Callable[..., MeshProcess]):
    """All of a large topic is asked for, a megabyte at a time and all at once; what waits to be read stays small."""
    mesh = mesh_process(listeners={"kafka": "127.0.0.1:0"})
    host, port = mesh.address("kafka")
    where = Where(f"{host}:{port}")
    count, client = 64, Confluent()
    client.produce(where, "deaf", [Record(b"%d" % n, bytes([n]) * 1_000_000) for n in range(count)])
    fetches = [request(ApiKey.FETCH, 11, fetch_request("deaf", n, max_bytes=1), n) for n in range(count)]
    # What was only just said is still in memory.
    mesh.restart()
    with Bare(mesh) as deaf, Bare(mesh) as neighbour:
        before = memory_bytes(mesh)
        deaf.send(b"".join(fetches))
        for _ in range(50):
            assert neighbour.ask(ApiKey.FETCH, 11, fetch_request("deaf", count, wait_ms=1)).responses
        assert client.read(where, "deaf", "meanwhile", 1)
        assert memory_bytes(mesh) - before < 32 * MEGABYTE
        for n in range(count):
            records = deaf.answer(ApiKey.FETCH, 11, n).responses[0].partitions[0].records
            assert bytes([n]) * 1_000_000 in bytes(records)


def test_what_waits_behind_a_fetch_is_answered_in_order(mesh: MeshProcess):
    with Bare(mesh) as bare:
        bare.ask(
            ApiKey.METADATA,
            4,
            MetadataRequest(topics=[MetadataRequestTopic(name="quiet")], allow_auto_topic_creation=True),
        )
        fetch = fetch_request("quiet", wait_ms=300)
        asked = [request(ApiKey.FETCH, 11, fetch, 101), request(ApiKey.FETCH, 11, fetch, 102)]
        asked += [request(ApiKey.API_VERSIONS, 0, ApiVersionsRequest(), n) for n in (103, 104)]
        bare.send(b"".join(asked))
        for n in (101, 102):
            assert not bare.answer(ApiKey.FETCH, 11, n).responses[0].partitions[0].error_code
        for n in (103, 104):
            assert bare.answer(ApiKey.API_VERSIONS, 0, n).api_keys


def test_a_fetch_of_nothing_is_answered_at_once(mesh: MeshProcess):
    """Clients that close say goodbye with one and wait for its answer."""
    nothing = fetch_request("", wait_ms=20_000)
    nothing.topics = []
    with Bare(mesh) as bare:
        bare.socket.settimeout(5)
        assert not bare.ask(ApiKey.FETCH, 12, nothing).responses


def test_who_is_silent_before_it_has_logged_in_is_cut(mesh_process: Callable[..., MeshProcess]):
    config = '[login]\nanonymous = "never"\n[limits]\nconnect_deadline_s = 1\n'
    mesh = mesh_process(config, memory=True, listeners={"kafka": "127.0.0.1:0"}, arguments=["-v"])
    with Bare(mesh) as silent, Bare(mesh) as asking:
        asking.send(request(ApiKey.METADATA, 4, MetadataRequest(topics=[])))
        assert asking.frame() is None
        assert silent.frame() is None
    with Bare(mesh) as bare:
        bare.send((65 * 1024).to_bytes(4, "big"))
        assert bare.frame() is None
    until(lambda: "at most 65536 are taken" in mesh.stderr, "a line about it")

"""One connection's conversation without a socket: what is answered when, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from admin_mesh import ALICE, Mesh
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from dragoman.adapters.kafka import shapes_data as data
from dragoman.adapters.kafka.apis import BY_KEY, ApiKey
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.handlers import HANDLERS
from dragoman.adapters.kafka.schema import form_of
from dragoman.adapters.kafka.session import KafkaSession
from dragoman.adapters.kafka.wire import Cursor, Output
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.log.memory import MemoryLog
from dragoman.routing.refusals import Reason, Refusal

VERSIONS = {ApiKey.PRODUCE: 9, ApiKey.FETCH: 12, ApiKey.METADATA: 12, ApiKey.API_VERSIONS: 3}


class Wire:
    """The socket's side, remembered."""

    def __init__(self) -> None:
        self.held = False
        self.accepted_count = 0

    def wake(self) -> None:
        """Looked at by hand."""

    def hold(self, held: bool) -> None:
        self.held = held

    def accepted(self) -> None:
        self.accepted_count += 1

    def abort(self) -> None:
        raise AssertionError("nothing here is worth that")


class Door:
    """Lets everybody in as alice, or nobody."""

    open = True

    def check(self, credentials: object, then: Callable[[object], None]) -> None:
        then(ALICE if self.open else Refusal(Reason.NOT_AUTHENTICATED, "who are you?"))


class Client:
    """What a client says and reads, on its own connection."""

    def __init__(self, mesh: Mesh) -> None:
        self.wire = Wire()
        self.session = KafkaSession(
            mesh.realm, self.wire, peer="p", host="127.0.0.1", reached=("127.0.0.1", 9092), loopback=True
        )
        self.session.begin()
        self._asked: dict[int, ApiKey] = {}
        self._correlation = 0

    def ask(self, key: ApiKey, request: object) -> int:
        self._correlation += 1
        self._asked[self._correlation] = key
        version, api = VERSIONS[key], BY_KEY[key]
        output = Output()
        for value in (key, version):
            output.int16(value)
        output.int32(self._correlation)
        output.int16(1)
        output.tail += b"c\0"
        form_of(api.request, version, True).write(output, request)
        self.session.received(memoryview(b"".join(output.parts())))
        return self._correlation

    def read(self) -> list[tuple[int, Any]]:
        """The answers that have left, with their correlation."""
        out = b"".join(self.session.take_out())
        answers = []
        while out:
            length = int.from_bytes(out[:4], "big")
            cursor = Cursor(memoryview(out[4 : 4 + length]))
            out = out[4 + length :]
            correlation = cursor.int32()
            key = self._asked[correlation]
            if key is not ApiKey.API_VERSIONS:
                cursor.skip_tags()
            answers.append((correlation, form_of(BY_KEY[key].response, VERSIONS[key], True).read(cursor)))
            assert not cursor.left
        return answers


def play(scene: Callable[[Mesh], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        mesh = await Mesh(MemoryLog(), ManualClock(), GateSettings()).start()
        mesh.realm.authenticator = Door()  # type: ignore[assignment]
        try:
            await scene(mesh)
        finally:
            await mesh.broker.stop()

    asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def batch(*values: bytes) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for index, value in enumerate(values):
        builder.append(index, 1_000, None, value, [])
    return bytes(builder.build())


def produce(topic: str, *values: bytes) -> data.ProduceRequest:
    partition = data.PartitionProduceData(index=0, records=memoryview(batch(*values)))
    return data.ProduceRequest(acks=-1, topic_data=[data.TopicProduceData(name=topic, partition_data=[partition])])


def fetch(topic: str, offset: int, wait_ms: int = 30_000) -> data.FetchRequest:
    wanted = data.FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)
    return data.FetchRequest(
        max_wait_ms=wait_ms, min_bytes=1, topics=[data.FetchTopic(topic=topic, partitions=[wanted])]
    )


ANY = data.MetadataRequest(topics=[data.MetadataRequestTopic(name="t")], allow_auto_topic_creation=True)


def test_answers_leave_in_the_order_of_their_requests() -> None:
    async def scene(mesh: Mesh) -> None:
        reader, writer = Client(mesh), Client(mesh)
        writer.ask(ApiKey.METADATA, ANY)
        writer.read()
        parked = reader.ask(ApiKey.FETCH, fetch("t", 0))
        behind = reader.ask(ApiKey.METADATA, ANY)
        await turns()
        assert reader.read() == [], "who waits holds back those behind"
        writer.ask(ApiKey.PRODUCE, produce("t", b"x"))
        await turns()
        (_, said), *_ = writer.read()
        assert said.responses[0].partition_responses[0].base_offset == 0
        answers = reader.read()
        assert [correlation for correlation, _ in answers] == [parked, behind]
        assert answers[0][1].responses[0].partitions[0].high_watermark == 1

    play(scene)


def test_fetches_take_turns_and_all_are_answered() -> None:
    async def scene(mesh: Mesh) -> None:
        reader, writer = Client(mesh), Client(mesh)
        writer.ask(ApiKey.PRODUCE, produce("t", b"x", b"y"))
        await turns()
        asked = [reader.ask(ApiKey.FETCH, fetch("t", 0)) for _ in range(4)]
        assert [correlation for correlation, _ in reader.read()] == asked[:1], "the others have not begun"
        reader.session.backed_up(True)
        await turns()
        assert reader.read() == [], "a peer that does not read is read nothing for"
        reader.session.backed_up(False)
        await turns(20)
        assert [correlation for correlation, _ in reader.read()] == asked[1:]

    play(scene)


def test_a_parked_fetch_leaves_nothing_behind_when_its_connection_ends() -> None:
    async def scene(mesh: Mesh) -> None:
        reader = Client(mesh)
        reader.ask(ApiKey.METADATA, ANY)
        for _ in range(3):
            reader.ask(ApiKey.FETCH, fetch("t", 0))
        await turns()
        channel = mesh.broker.channels.find("t")
        assert channel is not None
        assert channel.watchers
        reader.session.gone()
        await turns()
        assert not channel.watchers

    play(scene)


def test_a_request_that_cannot_be_read_is_answered_in_its_own_shape_and_the_next_as_well() -> None:
    async def scene(mesh: Mesh) -> None:
        client = Client(mesh)
        bad = bytes.fromhex("0003000c00000001000163") + b"\0" + b"\xff\xff\xff"
        client._asked[1] = ApiKey.METADATA
        client._correlation = 1
        client.session.received(memoryview(bad))
        good = client.ask(ApiKey.METADATA, ANY)
        (_, refused), (correlation, answer) = client.read()
        assert isinstance(refused, data.MetadataResponse)
        assert (correlation, answer.topics[0].name) == (good, "t")
        assert not client.session.closing

    play(scene)


def test_a_fault_of_ours_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(mesh: Mesh) -> None:
        client = Client(mesh)

        def fails(ask: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setitem(HANDLERS, ApiKey.FETCH, fails)
            with pytest.raises(ZeroDivisionError):
                client.ask(ApiKey.FETCH, fetch("t", 0))
            client.session.failed()
        client.ask(ApiKey.METADATA, ANY)
        (_, refused), (_, answer) = client.read()
        assert refused.error_code == ErrorCode.UNKNOWN_SERVER_ERROR
        assert answer.topics[0].error_code == ErrorCode.NONE

    play(scene)


def test_a_stranger_may_ask_what_is_spoken_here_and_nothing_else() -> None:
    async def scene(mesh: Mesh) -> None:
        mesh.realm.authenticator.open = False  # type: ignore[attr-defined]
        stranger = Client(mesh)
        assert stranger.wire.accepted_count == 0
        stranger.ask(ApiKey.API_VERSIONS, data.ApiVersionsRequest("x", "1"))
        ((_, answer),) = stranger.read()
        assert {api.api_key for api in answer.api_keys} == BY_KEY.keys()
        stranger.ask(ApiKey.METADATA, ANY)
        assert stranger.session.closing
        assert stranger.read() == []
        assert stranger.session.request_bytes_max == mesh.settings.stranger_bytes_max

    play(scene)


def test_a_connection_with_too_much_under_way_is_not_read() -> None:
    async def scene(mesh: Mesh) -> None:
        reader = Client(mesh)
        reader.ask(ApiKey.METADATA, ANY)
        for _ in range(mesh.settings.asks_max):
            assert not reader.wire.held
            reader.ask(ApiKey.FETCH, fetch("t", 0))
        assert reader.wire.held
        writer = Client(mesh)
        writer.ask(ApiKey.PRODUCE, produce("t", b"x"))
        await turns(3 * mesh.settings.asks_max)
        assert not reader.wire.held
        assert len(reader.read()) == mesh.settings.asks_max + 1

    play(scene)

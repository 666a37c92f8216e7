"""aiokafka, the client for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from tests.kafka.kafka_clients import CODECS, LONG_POLL_MS, PATIENCE_MS, WAIT_S, Record, Refused, Shares, Where


class Token(AbstractTokenProvider):
    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token


def options(where: Where) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if where.user:
        more.update(sasl_mechanism=where.mechanism, sasl_plain_username=where.user, sasl_plain_password=where.password)
    if where.mechanism == "OAUTHBEARER":
        more.update(sasl_oauth_token_provider=Token(where.password))
    if where.ca:
        more.update(ssl_context=ssl.create_default_context(cafile=where.ca))
    return {"bootstrap_servers": where.bootstrap, "security_protocol": where.protocol, **more}


@contextlib.asynccontextmanager
async def started(thing: Any) -> AsyncIterator[Any]:
    """Stopped whatever happens, also when it could not start."""
    try:
        await thing.start()
        yield thing
    finally:
        await (thing.close() if isinstance(thing, AIOKafkaAdminClient) else thing.stop())


def consumer(where: Where, group: str | None, **more: Any) -> AIOKafkaConsumer:
    defaults = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "heartbeat_interval_ms": 200}
    return AIOKafkaConsumer(group_id=group, session_timeout_ms=6_000, **options(where), **{**defaults, **more})


def record(message: Any) -> Record:
    return Record(message.key, message.value, tuple(message.headers))


async def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.01)


class Aiokafka:
    """Every call is a loop of its own."""

    name = "aiokafka"
    codecs = CODECS
    headers = "all"

    def produce(self, where: Where, topic: str, records: list[Record], codec: str = "none") -> list[int]:
        compression = None if codec == "none" else codec

        async def main() -> list[int]:
            producer = AIOKafkaProducer(
                **options(where),
                compression_type=compression,
                acks="all",
                max_request_size=64 << 20,
                request_timeout_ms=PATIENCE_MS,
                linger_ms=20,
            )
            async with started(producer):
                waiting = [
                    await producer.send(topic, r.value, r.key, partition=0, headers=list(r.headers)) for r in records
                ]
                return [(await asyncio.wait_for(future, WAIT_S)).offset for future in waiting]

        return _run(main())

    def read(self, where: Where, topic: str, group: str, count: int) -> list[Record]:
        async def main() -> list[Record]:
            async with started(consumer(where, group)) as reader:
                reader.subscribe([topic])
                found = [record(await asyncio.wait_for(reader.getone(), WAIT_S)) for _ in range(count)]
                await reader.commit()
                return found

        return _run(main())

    def share(self, where: Where, topic: str, group: str) -> Shares:
        def held(member: AIOKafkaConsumer) -> frozenset[int]:
            return frozenset(p.partition for p in member.assignment())

        async def main() -> Shares:
            async with started(consumer(where, group)) as first:
                first.subscribe([topic])
                async with started(consumer(where, group)) as second:
                    second.subscribe([topic])
                    await until(lambda: len(held(first)) == len(held(second)) == 2, "two partitions each")
                    both = (held(first), held(second))
                await until(lambda: len(held(first)) == 4, "four partitions for the one who stays")
                return Shares(both, held(first))

        return _run(main())

    def woken_s(self, where: Where, topic: str) -> float:
        async def main() -> float:
            reader = consumer(where, None, fetch_max_wait_ms=LONG_POLL_MS)
            async with started(reader), started(AIOKafkaProducer(**options(where))) as producer:
                await producer.send_and_wait(topic, b"first", partition=0)
                reader.assign([TopicPartition(topic, 0)])
                await asyncio.wait_for(reader.getone(), WAIT_S)
                assert not await reader.getmany(timeout_ms=500)
                await producer.send_and_wait(topic, b"second", partition=0)
                begun = time.monotonic()
                await asyncio.wait_for(reader.getone(), WAIT_S)
                return time.monotonic() - begun

        return _run(main())

    def create(self, where: Where, topic: str, partitions: int) -> None:
        async def main() -> None:
            async with started(AIOKafkaAdminClient(**options(where))) as admin:
                answer = await admin.create_topics([NewTopic(topic, partitions, 1)])
                refused = [f"error {code}: {text}" for _, code, text in answer.topic_errors if code]
                if refused:
                    raise Refused(str(refused))

        _run(main())

    def delete(self, where: Where, topic: str) -> None:
        async def main() -> None:
            async with started(AIOKafkaAdminClient(**options(where))) as admin:
                await admin.delete_topics([topic])

        _run(main())

    def topics(self, where: Where) -> dict[str, int]:
        async def main() -> dict[str, int]:
            async with started(AIOKafkaAdminClient(**options(where))) as admin:
                return {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics()}

        return _run(main())


def _run(work: Any) -> Any:
    try:
        return asyncio.run(asyncio.wait_for(work, 2 * WAIT_S))
    except KafkaError as error:
        raise Refused(f"{type(error).__name__}: {error}") from error

"""Links to Kafka clusters, by aiokafka.

What is pulled is said once: how far each partition has been taken stands in the very commit of its records, and after
any crash the consumer is put there. The group's offsets outside follow, for those who watch lag. A group that is new
begins at what the cluster still has. What is pushed is acknowledged by all replicas in sync; a mesh killed between
that and its own note of it says it again, with the same ``mesh-origin``. A message with a key goes to the partition of
its key, one without to that of its channel, so that the order of a channel holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from dragoman.adapters.links.link import LinkError
from dragoman.adapters.links.pairs import envelope_from, pairs_from
from dragoman.adapters.links.places import InOrder, Places
from dragoman.routing.message import Message
from dragoman.routing.partition import partition_of
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from dragoman.adapters.links.link import Link
    from dragoman.adapters.links.naming import Naming
    from dragoman.adapters.links.outlet import Leaving

REQUEST_MS: Final = 10_000
METADATA_MS: Final = 5_000
"""How often topics that match a pattern are looked for."""

LOOK_S: Final = 2.0
"""Between two looks whether the cluster still answers: the client library would try for ever without a word."""

COMMIT_S: Final = 0.5
POLL_MS: Final = 1_000
REQUEST_BYTES_MAX: Final = 64 << 20
LEAVE_S: Final = 3.0
EVENT_PREFIX: Final = "ce_"

_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordTooLargeError)
_NEVER: Final = (InvalidTopicError, PolicyViolationError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError)


def message_of(record: ConsumerRecord[bytes, bytes], name: str, wish: int) -> Message:
    """The message that a record says, called ``name`` here."""
    envelope, retain = envelope_from(record.headers, EVENT_PREFIX)
    if record.key is not None:
        envelope.key = record.key
    if envelope.sent_ms is None and record.timestamp >= 0:
        envelope.sent_ms = record.timestamp
    return Message(name, record.value, wish, "", retain, envelope)


def topics_of(routes: list[Naming]) -> re.Pattern[str]:
    """One expression for all topics that any of the routes takes."""
    parts = (route.filter if route.filter.startswith("^") else re.escape(route.filter) for route in routes)
    return re.compile("|".join(f"(?:{part})\\Z" for part in parts))


@final
class KafkaOutside:
    """Implements ``link.Outside``."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._settings = link.settings
        self._places = Places(link.broker.log, link.settings.name)
        link.intake.undo = self._places.roll_back
        self.lag: int | None = None

    async def converse(self) -> None:
        """One connection, of up to three clients of the library."""
        try:
            async with contextlib.AsyncExitStack() as clients:
                admin = AIOKafkaAdminClient(**self._access(), request_timeout_ms=REQUEST_MS)
                clients.push_async_callback(_bounded, admin.close)
                await admin.start()
                cluster = str((await admin.describe_cluster()).get("cluster_id") or "")
                work: list[Callable[[], Awaitable[None]]] = [partial(self._watch, admin)]
                if self._link.pulls:
                    work.append((await clients.enter_async_context(self._pulling(cluster))).pull)
                producer = await clients.enter_async_context(self._producing())
                work.append(_Pushing(self._link, producer).push)
                self._link.up(cluster)
                async with asyncio.TaskGroup() as tasks:
                    for part in work:
                        tasks.create_task(_awaited(part))
        except* KafkaError as group:
            raise LinkError(_text_of(group)) from None

    def _access(self) -> dict[str, Any]:
        settings = self._settings
        login = "SASL_" if settings.username else ""
        return {
            "bootstrap_servers": [f"{host}:{port}" for host, port in settings.hosts],
            "client_id": settings.known_as,
            "security_protocol": login + ("SSL" if settings.tls else "PLAINTEXT"),
            "ssl_context": ssl.create_default_context(cafile=settings.ca or None) if settings.tls else None,
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": settings.username or None,
            "sasl_plain_password": settings.password or None,
        }

    async def _watch(self, admin: AIOKafkaAdminClient) -> None:
        """Ends when the cluster answers no more, by raising why."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.wait_for(admin.describe_topics([]), REQUEST_MS / 1000)

    @contextlib.asynccontextmanager
    async def _pulling(self, cluster: str) -> AsyncIterator[_Pulling]:
        consumer = AIOKafkaConsumer(
            **self._access(),
            group_id=self._settings.known_as,
            # The same after a kill: then it has its partitions back at once, instead of when the dead one is missed.
            group_instance_id=f"{self._settings.known_as}-{self._link.mesh}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=REQUEST_MS,
            metadata_max_age_ms=METADATA_MS,
        )
        pulling = _Pulling(self._link, consumer, self._places, cluster, self._told)
        try:
            await consumer.start()
            wanted = [route.filter for route in self._link.pulls]
            if any(topic.startswith("^") for topic in wanted):
                consumer.subscribe(pattern=topics_of(self._link.pulls).pattern, listener=pulling)
            else:
                # By name, since one that is not there yet is then noticed at once.
                consumer.subscribe(topics=wanted, listener=pulling)
            yield pulling
        finally:
            await _bounded(consumer.stop)

    def _told(self, lag: int | None) -> None:
        self.lag = lag

    @contextlib.asynccontextmanager
    async def _producing(self) -> AsyncIterator[AIOKafkaProducer]:
        sure = self._settings.qos > 0
        producer = AIOKafkaProducer(
            **self._access(),
            acks="all" if sure else 0,
            enable_idempotence=sure,
            max_request_size=REQUEST_BYTES_MAX,
            request_timeout_ms=REQUEST_MS,
        )
        try:
            await producer.start()
            yield producer
        finally:
            # Stopped as it likes, it would first wait for a cluster that may be gone: what it holds goes out again.
            if producer._sender is not None:
                await producer._sender.close()
            await _bounded(producer.stop)


@final
class _Pulling(ConsumerRebalanceListener):  # type: ignore[misc]
    """The consumer's side of one connection."""

    def __init__(
        self,
        link: Link,
        consumer: AIOKafkaConsumer,
        places: Places,
        cluster: str,
        tell: Callable[[int | None], None],
    ) -> None:
        self._link = link
        self._consumer = consumer
        self._places = places
        self._cluster = cluster
        self._tell = tell
        self._lines: dict[TopicPartition, InOrder[int]] = {}
        self._safe: dict[TopicPartition, int] = {}

    def _source(self, partition: TopicPartition) -> str:
        return f"{self._cluster}/{partition.topic}/{partition.partition}"

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Told by the consumer: each begins where this mesh knows that it is."""
        for partition in assigned:
            self._lines[partition] = InOrder(partial(self._kept, partition))
            place = self._places.get(self._source(partition))
            if place is not None:
                self._consumer.seek(partition, place)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Told by the consumer: others go on there."""
        for partition in revoked:
            self._lines.pop(partition, None)
            self._safe.pop(partition, None)

    async def pull(self) -> None:
        """Says here what comes, in order of each partition."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._commit())
            while True:
                found = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=self._link.settings.window)
                for partition, records in found.items():
                    for record in records:
                        await self._take(partition, record)
                self._tell(self._lag())

    async def _take(self, partition: TopicPartition, record: ConsumerRecord[bytes, bytes]) -> None:
        line = self._lines.get(partition)
        if line is None:
            # Taken away meanwhile: whoever has the partition now reads it too.
            return
        link, after = self._link, record.offset + 1
        done = line.enter(after)
        name = self._name(record.topic)
        if name is None:
            link.standing.drop("link-name")
            done()
            return
        message = message_of(record, name, link.settings.qos)
        place = partial(self._places.put, self._source(partition), after)
        await link.intake.take(message, done, beside=place, most=link.settings.window)

    def _name(self, topic: str) -> str | None:
        for route in self._link.pulls:
            name = route.name_for(topic)
            if name is not None:
                return None if isinstance(name, Refusal) else name
        return None

    def _kept(self, partition: TopicPartition, after: int) -> None:
        self._places.confirm(self._source(partition), after)
        self._safe[partition] = after

    async def _commit(self) -> None:
        """Tells the group outside what is safe here."""
        while True:
            await asyncio.sleep(COMMIT_S)
            safe, self._safe = self._safe, {}
            mine = {partition: after for partition, after in safe.items() if partition in self._lines}
            if mine:
                # A group that is just being shared out anew does not listen; the next commit says it, or our own place.
                with contextlib.suppress(KafkaError):
                    await self._consumer.commit(mine)

    def _lag(self) -> int | None:
        waiting = 0
        for partition in self._consumer.assignment():
            end, place = self._consumer.highwater(partition), self._places.get(self._source(partition))
            if end is not None:
                waiting += max(0, end - (place or 0))
        return waiting


@final
class _Pushing:
    """The producer's side of one connection."""

    def __init__(self, link: Link, producer: AIOKafkaProducer) -> None:
        self._link = link
        self._producer = producer
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def push(self) -> None:
        """Sends what is to go out, in order."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_awaited(lambda: self._failed))
            while True:
                item = await self._link.outlet.next()
                try:
                    sent = await self._send(item)
                except (*_TOO_LARGE, *_NEVER) as error:
                    self._refused(item, error)
                else:
                    sent.add_done_callback(partial(self._settled, item))

    async def _send(self, item: Leaving) -> asyncio.Future[Any]:
        message, envelope = item.message, item.envelope
        count = len(await self._producer.partitions_for(item.name))
        name = message.name.encode()
        key = name if envelope.key is None else envelope.key
        sent: asyncio.Future[Any] = await self._producer.send(
            item.name,
            message.payload,
            # The library sends no record that has neither: a tombstone without a key is its channel's.
            name if message.payload is None and envelope.key is None else envelope.key,
            partition_of(key, "", count) if count else None,
            message.time_ms if envelope.sent_ms is None else envelope.sent_ms,
            pairs_from(message, envelope, EVENT_PREFIX),
        )
        return sent

    def _settled(self, item: Leaving, sent: asyncio.Future[Any]) -> None:
        if sent.cancelled():
            return
        error = sent.exception()
        if error is None:
            self._link.outlet.settle(item)
        elif isinstance(error, (*_TOO_LARGE, *_NEVER)):
            self._refused(item, error)
        elif not self._failed.done():
            self._failed.set_exception(error)

    def _refused(self, item: Leaving, error: BaseException) -> None:
        """What the cluster will never take is dropped, by name."""
        self._link.standing.complain(f"the cluster refuses {item.name!r}: {error}")
        self._link.outlet.drop(item, "link-too-large" if isinstance(error, _TOO_LARGE) else "link-refused")


async def _awaited(start: Callable[[], Awaitable[None]]) -> None:
    await start()


async def _bounded(leave: Callable[[], Awaitable[None]]) -> None:
    """Says goodbye to a cluster that may be gone."""
    with contextlib.suppress(KafkaError, TimeoutError):
        await asyncio.wait_for(leave(), LEAVE_S)


def _text_of(group: BaseExceptionGroup[BaseException]) -> str:
    failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    name = type(failure).__name__
    return str(failure).removeprefix(f"{name}: ") or name

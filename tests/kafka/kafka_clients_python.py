"""Kafka's clients for Python: kafka-python and confluent-kafka (librdkafka)."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.kafka.kafka_clients import CODECS, LONG_POLL_MS, PATIENCE_MS, WAIT_S, Record, Refused, Shares, Where, until

with warnings.catch_warnings():
    # It reads its schemas in a way that Python deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.errors import KafkaError as PythonError
    from kafka.net.compat import KafkaNetClient
    from kafka.net.sasl.oauth import AbstractTokenProvider

BIG = 64 << 20
"""What a client may send where the mesh is to say that it is too much."""


Found = TypeVar("Found")


def _told(act: Callable[[list[KafkaNetClient]], Found]) -> Found:
    """What ``act`` finds, or ``Refused`` with kafka-python's words.

    ``act`` is given a list for the connections it makes: a client that could not be made leaves them open.
    """
    made: list[KafkaNetClient] = []
    try:
        return act(made)
    except PythonError as error:
        for connections in made:
            connections.close()
        raise Refused(f"{type(error).__name__}: {error}") from error


def _kept_in(made: list[KafkaNetClient]) -> Callable[..., KafkaNetClient]:
    def make(**options: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**options))
        return made[-1]

    return make


class Token(AbstractTokenProvider):
    """For OAUTHBEARER."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        return self._token


class _Member:
    """A consumer in a thread of its own, since it lives only while it is polled."""

    def __init__(self, poll: Callable[[], frozenset[int]], close: Callable[[], None]) -> None:
        self.partitions: frozenset[int] = frozenset()
        self._poll = poll
        self._close = close
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self.partitions = self._poll()
        self._close()

    def leave(self) -> None:
        self._over.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "a consumer that does not close"


def _shares(member: Callable[[], _Member]) -> Shares:
    first, second = member(), member()
    try:
        until(lambda: _pause() or _even(first.partitions, second.partitions), "two members with two partitions each")
        both = (first.partitions, second.partitions)
        second.leave()
        until(lambda: _pause() or len(first.partitions) == 4, "four partitions for the one who stays")
        return Shares(both, first.partitions)
    finally:
        first.leave()
        second.leave()


def _even(first: frozenset[int], second: frozenset[int]) -> bool:
    return len(first) == len(second) == 2 and not first & second


def _pause() -> bool:
    time.sleep(0.01)
    return False


class KafkaPython:
    """Idempotent unless told otherwise."""

    name = "kafka-python"
    codecs = CODECS
    headers = "valued"

    def options(self, where: Where) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if where.user:
            more.update(sasl_mechanism=where.mechanism)
            more.update(sasl_plain_username=where.user, sasl_plain_password=where.password)
        if where.mechanism == "OAUTHBEARER":
            more.update(sasl_oauth_token_provider=Token(where.password))
        if where.ca:
            more.update(ssl_cafile=where.ca)
        return {"bootstrap_servers": where.bootstrap, "security_protocol": where.protocol, **more}

    def consumer(self, where: Where, group: str | None, **more: Any) -> KafkaConsumer:
        defaults: dict[str, Any] = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
        if group is not None:
            defaults |= {"heartbeat_interval_ms": 200, "session_timeout_ms": 6_000}
        return KafkaConsumer(group_id=group, **self.options(where), **{**defaults, **more})

    def produce(self, where: Where, topic: str, records: list[Record], codec: str = "none") -> list[int]:
        return _told(lambda made: self._produce(made, where, topic, records, codec))

    def _produce(
        self, made: list[KafkaNetClient], where: Where, topic: str, records: list[Record], codec: str
    ) -> list[int]:
        producer = KafkaProducer(
            **self.options(where),
            compression_type=None if codec == "none" else codec,
            max_request_size=BIG,
            max_block_ms=PATIENCE_MS,
            bootstrap_timeout_ms=PATIENCE_MS,
            linger_ms=20,
            kafka_client=_kept_in(made),
        )
        try:
            waiting = [
                producer.send(topic, key=r.key, value=r.value, headers=list(r.headers), partition=0) for r in records
            ]
            producer.flush(WAIT_S)
            return [future.get(WAIT_S).offset for future in waiting]
        finally:
            producer.close(WAIT_S)

    def read(self, where: Where, topic: str, group: str, count: int) -> list[Record]:
        return _told(lambda made: self._read(made, where, topic, group, count))

    def _read(self, made: list[KafkaNetClient], where: Where, topic: str, group: str, count: int) -> list[Record]:
        consumer = self.consumer(where, group, bootstrap_timeout_ms=PATIENCE_MS, kafka_client=_kept_in(made))
        found: list[Record] = []

        def enough() -> bool:
            for batch in consumer.poll(200, max_records=count - len(found)).values():
                found.extend(Record(r.key, r.value, tuple(map(tuple, r.headers))) for r in batch)
            return len(found) >= count

        try:
            consumer.subscribe([topic])
            until(enough, f"{count} records, only {found}")
            consumer.commit()
        finally:
            consumer.close()
        return found

    def share(self, where: Where, topic: str, group: str) -> Shares:
        def member() -> _Member:
            consumer = self.consumer(where, group)
            consumer.subscribe([topic])

            def poll() -> frozenset[int]:
                consumer.poll(50)
                return frozenset(p.partition for p in consumer.assignment())

            return _Member(poll, consumer.close)

        return _shares(member)

    def woken_s(self, where: Where, topic: str) -> float:
        self.produce(where, topic, [Record(b"k", b"first")])
        consumer = self.consumer(where, None, fetch_max_wait_ms=LONG_POLL_MS)
        try:
            consumer.assign([TopicPartition(topic, 0)])
            until(lambda: bool(consumer.poll(200)), "the first record")
            assert not consumer.poll(500)
            self.produce(where, topic, [Record(b"k", b"second")])
            begun = time.monotonic()
            until(lambda: bool(consumer.poll(200)), "the second record")
            return time.monotonic() - begun
        finally:
            consumer.close()

    def admin(self, where: Where) -> KafkaAdminClient:
        return KafkaAdminClient(**self.options(where))

    def create(self, where: Where, topic: str, partitions: int) -> None:
        admin = self.admin(where)
        try:
            _told(lambda _: admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}}))
        finally:
            admin.close()

    def delete(self, where: Where, topic: str) -> None:
        admin = self.admin(where)
        try:
            admin.delete_topics([topic])
        finally:
            admin.close()

    def topics(self, where: Where) -> dict[str, int]:
        admin = self.admin(where)
        try:
            return {t["name"]: len(t["partitions"]) for t in admin.describe_topics()}
        finally:
            admin.close()


class Confluent:
    """librdkafka."""

    name = "confluent-kafka"
    codecs = CODECS
    headers = "all"

    def options(self, where: Where, **more: Any) -> dict[str, Any]:
        said: dict[str, Any] = {
            "bootstrap.servers": where.bootstrap,
            "security.protocol": where.protocol,
            "topic.metadata.refresh.interval.ms": 500,
            "topic.metadata.propagation.max.ms": 0,
        }
        if where.user:
            said |= {"sasl.mechanism": where.mechanism, "sasl.username": where.user, "sasl.password": where.password}
        if where.mechanism == "OAUTHBEARER":
            said |= {"oauth_cb": lambda _: (where.password, time.time() + 3_600)}
        if where.ca:
            said |= {"ssl.ca.location": where.ca}
        return said | more

    def consumer(self, where: Where, group: str, **more: Any) -> confluent_kafka.Consumer:
        defaults = {
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "heartbeat.interval.ms": 200,
            "session.timeout.ms": 6_000,
        }
        return confluent_kafka.Consumer(self.options(where, **{**defaults, **more}))

    def produce(self, where: Where, topic: str, records: list[Record], codec: str = "none") -> list[int]:
        told: list[KafkaError] = []
        options = {
            "compression.type": codec,
            "message.max.bytes": BIG,
            "message.timeout.ms": PATIENCE_MS,
            "linger.ms": 20,
            "enable.idempotence": True,
        }
        producer = confluent_kafka.Producer(self.options(where, error_cb=told.append, **options))
        reports: list[tuple[KafkaError | None, confluent_kafka.Message]] = []
        for r in records:
            report = lambda error, message: reports.append((error, message))  # noqa: E731
            producer.produce(topic, r.value, r.key, 0, headers=list(r.headers), on_delivery=report)
        assert producer.flush(WAIT_S) == 0, "neither acknowledged nor refused in time"
        if any(error for error, _ in reports):
            raise Refused("; ".join(str(error) for error in [*told, *(error for error, _ in reports)]))
        return [message.offset() for _, message in reports]

    def read(self, where: Where, topic: str, group: str, count: int) -> list[Record]:
        told: list[KafkaError] = []
        consumer = self.consumer(where, group, error_cb=told.append)
        found: list[Record] = []
        try:
            consumer.subscribe([topic])

            def enough() -> bool:
                for m in consumer.consume(count - len(found), 0.2):
                    if m.error() is None:
                        headers = tuple((name, value) for name, value in m.headers() or ())
                        found.append(Record(m.key(), m.value(), headers))
                if any("auth" in str(error).lower() for error in told):
                    raise Refused(str(told))
                return len(found) >= count

            until(enough, f"{count} records, only {found}, {told}")
            consumer.commit(asynchronous=False)
        finally:
            consumer.close()
        return found

    def share(self, where: Where, topic: str, group: str) -> Shares:
        def member() -> _Member:
            consumer = self.consumer(where, group)
            consumer.subscribe([topic])

            def poll() -> frozenset[int]:
                consumer.poll(0.05)
                return frozenset(p.partition for p in consumer.assignment())

            return _Member(poll, consumer.close)

        return _shares(member)

    def woken_s(self, where: Where, topic: str) -> float:
        self.produce(where, topic, [Record(b"k", b"first")])
        consumer = self.consumer(where, "none", **{"fetch.wait.max.ms": LONG_POLL_MS})
        try:
            consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
            until(lambda: consumer.poll(0.2) is not None, "the first record")
            assert consumer.poll(0.5) is None
            self.produce(where, topic, [Record(b"k", b"second")])
            begun = time.monotonic()
            until(lambda: consumer.poll(0.2) is not None, "the second record")
            return time.monotonic() - begun
        finally:
            consumer.close()

    def create(self, where: Where, topic: str, partitions: int) -> None:
        admin = AdminClient(self.options(where))
        try:
            admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(WAIT_S)
        except KafkaException as error:
            raise Refused(str(error)) from error

    def delete(self, where: Where, topic: str) -> None:
        admin = AdminClient(self.options(where))
        admin.delete_topics([topic])[topic].result(WAIT_S)

    def topics(self, where: Where) -> dict[str, int]:
        admin = AdminClient(self.options(where))
        found = admin.list_topics(timeout=WAIT_S).topics
        return {name: len(topic.partitions) for name, topic in found.items()}

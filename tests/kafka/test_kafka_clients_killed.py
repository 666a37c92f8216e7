"""A mesh that is killed while idempotent producers of three libraries say things and a group reads them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import KafkaException, TopicPartition

from tests.clients.mesh import MeshProcess
from tests.clients.processes import Child
from tests.kafka.kafka_clients import WAIT_S, Record, Where, until
from tests.kafka.kafka_clients_aiokafka import options as aiokafka_options
from tests.kafka.kafka_clients_aiokafka import started
from tests.kafka.kafka_clients_python import Confluent

pytestmark = pytest.mark.slow

TOPIC = "through.crashes"
PARTITIONS = 3
COUNT = 2_500
"""Records of each producer."""
CHUNK = 25
"""Records a producer has on their way before it waits for the first of them."""
DELIVERY_S = 40

Said = Callable[[str], None]
"""Called with each record that is acknowledged."""


def values(name: str) -> list[tuple[str, int]]:
    """What a producer says, and into which partition."""
    return [(f"{name} {n}", n % PARTITIONS) for n in range(COUNT)]


def with_confluent(where: Where, said: Said) -> None:
    options = {"enable.idempotence": True, "message.timeout.ms": DELIVERY_S * 1000, "reconnect.backoff.max.ms": 200}
    producer = confluent_kafka.Producer(Confluent().options(where, **options))

    def told(error: object, message: confluent_kafka.Message) -> None:
        if error is None:
            said(message.value().decode())

    for value, partition in values("confluent"):
        producer.produce(TOPIC, value.encode(), partition=partition, on_delivery=told)
        while len(producer) > CHUNK:
            producer.poll(0.01)
    assert producer.flush(DELIVERY_S) == 0


def with_kafka_python(where: Where, said: Said) -> None:
    script = Path(__file__).with_name("kafka_python_says.py")
    told = (where.bootstrap, TOPIC, str(COUNT), str(PARTITIONS), str(CHUNK))
    with Child([sys.executable, "-W", "ignore", script, *told]) as child:
        known = 0
        while known < COUNT:
            running, lines = child.running, child.stdout.split("\n")[:-1]
            for value in lines[known:]:
                said(value)
            known = len(lines)
            assert running or known == COUNT, child.story("ended too early")
            time.sleep(0.01)
        assert child.wait().code == 0


def with_aiokafka(where: Where, said: Said) -> None:
    async def main() -> None:
        producer = AIOKafkaProducer(
            **aiokafka_options(where), enable_idempotence=True, request_timeout_ms=DELIVERY_S * 1000
        )
        async with started(producer):
            waiting = []
            for value, partition in values("aiokafka"):
                waiting.append((value, await producer.send(TOPIC, value.encode(), partition=partition)))
                if len(waiting) > CHUNK:
                    first, future = waiting.pop(0)
                    await future
                    said(first)
            for value, future in waiting:
                await future
                said(value)

    asyncio.run(asyncio.wait_for(main(), DELIVERY_S))


class Group(threading.Thread):
    """One member of a group: reads, commits, and remembers both."""

    def __init__(self, where: Where) -> None:
        super().__init__(daemon=True)
        self.seen: dict[tuple[int, int], str] = {}
        self.committed: dict[int, int] = {}
        self.again: list[tuple[int, int]] = []
        self._over = threading.Event()
        more = {"reconnect.backoff.max.ms": 200, "retry.backoff.max.ms": 200}
        self._consumer = Confluent().consumer(where, "the.group", **more)
        self._consumer.subscribe([TOPIC])
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            taken = [m for m in self._consumer.consume(200, 0.05) if m.error() is None]
            for message in taken:
                place = (message.partition(), message.offset())
                self.seen[place] = message.value().decode()
                if place[1] < self.committed.get(place[0], 0):
                    self.again.append(place)
            if taken:
                try:
                    done = self._consumer.commit(asynchronous=False)
                except KafkaException:
                    continue
                self.committed.update({p.partition: p.offset for p in done if p.error is None and p.offset >= 0})
        self._consumer.close()

    def end(self) -> None:
        self._over.set()
        self.join(WAIT_S)
        assert not self.is_alive()


def everything(where: Where) -> dict[int, list[str]]:
    """What each partition holds, from its beginning to its end."""
    consumer = Confluent().consumer(where, "nobody")
    found: dict[int, list[str]] = {partition: [] for partition in range(PARTITIONS)}
    ends = {p: consumer.get_watermark_offsets(TopicPartition(TOPIC, p), WAIT_S)[1] for p in found}
    consumer.assign([TopicPartition(TOPIC, p, 0) for p in found])
    place = dict.fromkeys(found, 0)

    def all_read() -> bool:
        for message in consumer.consume(1000, 0.1):
            assert message.error() is None, message.error()
            found[message.partition()].append(message.value().decode())
            place[message.partition()] = message.offset() + 1
        return place == ends

    until(all_read, f"up to {ends}")
    consumer.close()
    return found


def test_killed_twice_under_idempotent_producers_and_a_group(mesh_process: Callable[..., MeshProcess]):
    mesh = mesh_process(f"[kafka]\npartitions = {PARTITIONS}\n", listeners={"kafka": "127.0.0.1:0"})
    host, port = mesh.address("kafka")
    where = Where(f"{host}:{port}")
    Confluent().create(where, TOPIC, PARTITIONS)
    said: list[str] = []
    faults: list[BaseException] = []

    def guarded(produce: Callable[[Where, Said], None]) -> None:
        try:
            produce(where, said.append)
        except BaseException as error:
            faults.append(error)

    makers = (with_confluent, with_kafka_python, with_aiokafka)
    producers = [threading.Thread(target=guarded, args=(make,), daemon=True) for make in makers]
    group = Group(where)
    for thread in producers:
        thread.start()
    total = COUNT * len(makers)
    for part in (total // 4, total // 2):
        until(lambda part=part: len(said) >= part or bool(faults) or time.sleep(0.002) or False, f"{part} records")
        mesh.kill()
        assert len(said) < total, "too fast to be killed in the middle"
        mesh.restart()
    for thread in producers:
        thread.join(DELIVERY_S)
    assert not faults
    assert len(said) == total

    found = everything(where)
    expected = {
        value: partition for make in ("confluent", "kafka-python", "aiokafka") for value, partition in values(make)
    }
    for partition, there in found.items():
        assert sorted(there) == sorted(value for value, p in expected.items() if p == partition)
        for name in ("confluent", "kafka-python", "aiokafka"):
            numbers = [int(value.split()[1]) for value in there if value.startswith(name + " ")]
            assert numbers == sorted(numbers), (partition, name)

    ends = {partition: len(there) for partition, there in found.items()}
    until(lambda: group.committed == ends or time.sleep(0.01) or False, f"{group.committed} to become {ends}")
    group.end()
    assert {place: found[place[0]][place[1]] for place in group.seen} == group.seen
    assert len(group.seen) == total
    assert not group.again

    mesh.kill()
    mesh.restart()
    more = [Record(None, b"after %d" % n) for n in range(10)]
    Confluent().produce(where, TOPIC, more)
    assert Confluent().read(where, TOPIC, "the.group", len(more)) == more

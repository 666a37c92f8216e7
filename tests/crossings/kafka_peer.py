"""Kafka's side of the crossings, with librdkafka (confluent-kafka): to say and to see, to ask and to serve."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.clients.mesh import MeshProcess
from tests.crossings.calling import PATIENCE_S, Ask, Asked, Got, Server
from tests.crossings.said import FACTS, Header, Said

ESCAPE = "mesh-h-"
FIELDS = ("content-type", "reply-to", "correlation-id", "expires-at")
ATTRIBUTE = "ce_"
HEADER_FACTS = ("mesh-cause", "mesh-hops", "mesh-id", "mesh-from")


def topic_of(channel: str) -> str:
    """The spelling of a name that has nothing to escape."""
    return channel.replace("/", ".")


def channel_of(topic: str) -> str:
    return topic.replace(".", "/")


def settings(mesh: MeshProcess, name: str, **more: Any) -> dict[str, Any]:
    """What librdkafka is told."""
    host, port = mesh.address("kafka")
    return {
        "bootstrap.servers": f"{host}:{port}",
        "client.id": name,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "walker",
        "sasl.password": "crossings-and-nothing-else",
        "topic.metadata.refresh.interval.ms": 200,
        "topic.metadata.propagation.max.ms": 0,
        "linger.ms": 0,
        **more,
    }


def headers_of(said: Said) -> list[Header]:
    """What of a message is said in headers."""
    pairs: list[Header] = []
    for name, value in said.headers:
        if said.event:
            pairs.append((ATTRIBUTE + name, value))
        else:
            pairs.append((ESCAPE + name if name in FACTS else name, value))
    if said.content_type is not None:
        pairs.append(("content-type", said.content_type.encode()))
    if said.reply_to is not None and not said.reply_to.startswith("mesh/me/"):
        # Who is no agent has no "me" to be answered at.
        pairs.append(("reply-to", topic_of(said.reply_to).encode()))
    if said.correlation is not None:
        pairs.append(("correlation-id", said.correlation))
    if said.expires_s is not None:
        pairs.append(("expires-at", str(int((time.time() + said.expires_s) * 1000)).encode()))
    for name, fact in (("mesh-cause", said.cause), ("mesh-hops", said.hops)):
        if fact is not None:
            pairs.append((name, str(fact).encode()))
    if said.retain:
        pairs.append(("mesh-retain", b"true"))
    return pairs


def said_of(message: Message) -> Said:
    """What a record says."""
    said = Said(message.value(), retain=False, key=message.key())
    ours = False
    clock: int | None = None
    for name, value in message.headers() or ():
        text = (value or b"").decode("latin-1")
        if name == "mesh-retain":
            said.retain = True
        elif name == "content-type":
            said.content_type = text
        elif name == "reply-to":
            said.reply_to = channel_of(text)
        elif name == "correlation-id":
            said.correlation = value
        elif name == "expires-at":
            said.expires_s = int(text) / 1000 - time.time()
        elif name in HEADER_FACTS:
            word = {"mesh-from": "sender"}.get(name, name.removeprefix("mesh-"))
            setattr(said, word, int(text) if word == "hops" else text)
            ours = ours or word == "id"
        elif name == "mesh-sent-ms":
            clock = int(text)
        else:
            said.headers.append((name.removeprefix(ESCAPE).removeprefix(ATTRIBUTE), value))
    # A record from elsewhere has the mesh's time where its sender had none, and says so by the header's absence.
    said.sent_ms = clock if ours else message.timestamp()[1]
    return said


class Kafka:
    """A producer and, for each channel that is looked at, a consumer."""

    def __init__(self, mesh: MeshProcess, name: str) -> None:
        self.name = name
        self._mesh = mesh
        self._producer = Producer(settings(mesh, name))

    def publish(self, channel: str, said: Said) -> None:
        more = {} if said.sent_ms is None else {"timestamp": said.sent_ms}
        produce(self._producer, topic_of(channel), said.payload, said.key, headers_of(said), **more)

    def listen(self, channel: str) -> None:
        """A reader has no need to be there."""

    def see(self, channel: str) -> dict[str, Said]:
        consumer = Consumer(settings(self._mesh, self.name, **{"group.id": "none", "enable.auto.commit": False}))
        try:
            consumer.assign([TopicPartition(topic_of(channel), 0, 0)])
            return {"record": said_of(polled(consumer))}
        finally:
            consumer.close()

    def records(self, channel: str) -> list[Said]:
        """All there are now, as a consumer from the beginning sees them."""
        consumer = Consumer(settings(self._mesh, self.name, **{"group.id": "none", "enable.auto.commit": False}))
        place = TopicPartition(topic_of(channel), 0, 0)
        try:
            consumer.assign([place])
            low, high = consumer.get_watermark_offsets(place, PATIENCE_S)
            return [said_of(polled(consumer)) for _ in range(low, high)]
        finally:
            consumer.close()

    def retained(self, channel: str) -> Said:
        raise AssertionError("Kafka has no word for newcomers")

    def close(self) -> None:
        self._producer.flush(PATIENCE_S)


def produce(
    producer: Producer, topic: str, value: bytes | None, key: bytes | None, headers: list[Header], **more: Any
) -> None:
    """Returns when the record is acknowledged."""
    faults: list[object] = []
    producer.produce(topic, value, key, headers=headers, on_delivery=lambda error, _: faults.append(error), **more)
    assert producer.flush(PATIENCE_S) == 0, "not acknowledged in time"
    assert faults == [None], faults


def polled(consumer: Consumer) -> Message:
    """The next record."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            return message
    raise AssertionError("no record came")


class _Reader:
    """A consumer in a thread of its own, from the end of a topic that is there already."""

    def __init__(self, mesh: MeshProcess, name: str, topic: str, heard: Callable[[Message], None]) -> None:
        self._consumer = Consumer(settings(mesh, name, **{"group.id": f"{name}-reader", "enable.auto.commit": False}))
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self._heard = heard
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._heard(message)

    def close(self) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)
        self._consumer.close()


class KafkaServer(Server):
    """Registered by a record, asked by records, answering with records."""

    def __init__(self, mesh: MeshProcess, name: str, skills: list[str]) -> None:
        super().__init__()
        self._producer = Producer(settings(mesh, name))
        card = {"name": name, "skills": [{"name": skill} for skill in skills]}
        produce(self._producer, "mesh.agents", json.dumps(card).encode(), name.encode(), [])
        self._reader = _Reader(mesh, name, f"{name}.asks", self._asked)

    def _asked(self, message: Message) -> None:
        said = dict(message.headers() or ())
        if "mesh-cancel" in said:
            self.cancelled.put(said["mesh-cancel"].decode())
            return
        assert said["reply-to"] == b"mesh.answer"
        assert said["correlation-id"] == said["mesh-call"]
        left_s = int(said["expires-at"]) / 1000 - time.time()
        caller, cause = (said[name].decode() if name in said else None for name in ("mesh-caller", "mesh-cause"))
        self.act(Asked(said["mesh-call"].decode(), said["mesh-skill"].decode(), message.value(), left_s, caller, cause))

    def answer(
        self, call: str, payload: bytes, *, part: int = 0, error: bool = False, content_type: str | None = None
    ) -> None:
        headers: list[Header] = [("correlation-id", call.encode())]
        if part or error:
            headers.append(("mesh-status", b"error" if error else b"part"))
        if content_type is not None:
            headers.append(("content-type", content_type.encode()))
        produce(self._producer, "mesh.answer", payload, None, headers)

    def close(self) -> None:
        self._reader.close()
        self._producer.flush(PATIENCE_S)


class KafkaCaller:
    """Asks with a record, and hears the answer in a topic of its own."""

    def __init__(self, mesh: MeshProcess, name: str) -> None:
        self.name = name
        self._count = 0
        self._producer = Producer(settings(mesh, name))
        self._replies = f"answers.{name}"
        self._heard: queue.Queue[Message] = queue.Queue()
        produce(self._producer, self._replies, b"open", None, [])
        self._reader = _Reader(mesh, name, self._replies, self._heard.put)
        self._heard.get(timeout=PATIENCE_S)

    def call(self, agent: str, skill: str, ask: Ask) -> Got:
        self._count += 1
        reference = f"k{self._count}"
        headers: list[Header] = [("reply-to", self._replies.encode()), ("correlation-id", reference.encode())]
        if ask.deadline_s is not None:
            headers.append(("expires-at", str(int((time.time() + ask.deadline_s) * 1000)).encode()))
        if ask.cause is not None:
            headers.append(("mesh-cause", ask.cause.encode()))
        topic = f"mesh.call.{agent}.{skill}" + (f".{reference}" if ask.cancel is not None else "")
        produce(self._producer, topic, ask.payload, None, headers)
        if ask.cancel is not None:
            assert ask.cancel.wait(PATIENCE_S)
            produce(self._producer, f"mesh.me.cancel.{reference}", b"", None, [])
        got = Got()
        while not self._taken(got, reference):
            pass
        return got

    def _taken(self, got: Got, reference: str) -> bool:
        """Takes one record in; whether it was the final one."""
        message = self._heard.get(timeout=PATIENCE_S)
        said = dict(message.headers() or ())
        assert said["correlation-id"] == reference.encode()
        value = message.value()
        match said["mesh-status"]:
            case b"part":
                got.parts.append(value.decode())
                return False
            case b"ok":
                got.payload = value
                got.content_type = said["content-type"].decode() if "content-type" in said else None
            case _:
                error = json.loads(value)["error"]
                got.error, got.reason = error["message"], error["code"]
        return True

    def close(self) -> None:
        self._reader.close()
        self._producer.flush(PATIENCE_S)


__all__ = ["Kafka", "KafkaCaller", "KafkaServer"]

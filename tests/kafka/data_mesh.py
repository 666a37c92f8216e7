"""A broker that does nothing on its own, and Kafka clients of it without sockets: all is done by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dragoman.adapters.kafka import shapes_data as data
from dragoman.adapters.kafka.apis import BY_KEY, ApiKey
from dragoman.adapters.kafka.batches import KIND, open_bundle
from dragoman.adapters.kafka.realm import Realm
from dragoman.adapters.kafka.schema import form_of
from dragoman.adapters.kafka.session import KafkaSession
from dragoman.adapters.kafka.settings import KafkaSettings
from dragoman.adapters.kafka.wire import Cursor, Output
from dragoman.broker.broker import Broker
from dragoman.broker.channel import Channel
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.topics import Topic
from dragoman.broker.verb_replies import Voice
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Refusal
from tests.broker.manual_log import FAILED, FakeLoop, ManualLog
from tests.kafka.batch_forms import Record, read_by_kafka_python

ALICE = Principal("alice")
BOB = Principal("bob")


class Party:
    """A reader of another protocol: what it was given, in order."""

    protocol = "test"

    def __init__(self, mesh: DataMesh, principal: Principal, agent: str) -> None:
        self.principal = principal
        self.agent = agent
        self.got: list[Message] = []
        assert mesh.broker.attach(self) is None

    def deliver(self, feed: object, message: Message) -> bool:
        self.got.append(message)
        return True

    def lost(self, feed: object, count: int) -> None:
        raise AssertionError(f"{count} lost")

    def committed(self, ticket: int) -> None:
        """Looked at by hand."""

    def refused(self, ticket: int, refusal: Refusal) -> None:
        """Looked at by hand."""

    def close(self, refusal: Refusal) -> None:
        """Nothing to close."""


class DataMesh:
    """One process on a log that commits when told."""

    def __init__(
        self,
        *rules: RuleSettings,
        log: ManualLog | None = None,
        clock: ManualClock | None = None,
        broker: BrokerSettings | None = None,
        **settings: Any,
    ) -> None:
        self.clock = clock or ManualClock()
        self.loop = FakeLoop(self.clock)
        self.log = log or ManualLog()
        self.rules = rules
        self.settings = KafkaSettings(**settings)
        self.broker_settings = broker or BrokerSettings()
        self._said = settings
        self.broker = Broker(
            self.broker_settings,
            AgentSettings(),
            clock=self.clock,
            log=self.log,  # type: ignore[arg-type]
            gate=Gate(GateSettings(rules=rules)),
            loop=self.loop,  # type: ignore[arg-type]
            metrics=Metrics(),
        )
        self.broker.core.bundles.add(KIND, open_bundle)
        asyncio.run(self._start())
        self.realm = Realm(self.broker, self, self.settings)  # type: ignore[arg-type]
        self.principal: Principal | Refusal = ALICE
        self.unchecked: list[Callable[[], None]] | None = None

    async def _start(self) -> None:
        starting = asyncio.ensure_future(self.broker.start())
        while not starting.done():
            await asyncio.sleep(0)
            self.loop.run()
            self.log.commit()
        starting.result()

    def crashed(self) -> DataMesh:
        """The next process, on what was committed."""
        return DataMesh(*self.rules, log=self.log.crash(), clock=self.clock, broker=self.broker_settings, **self._said)

    mechanisms: tuple[str, ...] = ()

    def begin(self, mechanism: str) -> None:
        """The authenticator: of all mechanisms only the plain password."""

    def check(self, credentials: object, then: Callable[[Principal | Refusal], None]) -> None:
        """The authenticator: everybody is ``principal``, at once unless checks are held back."""
        who = self.principal
        if self.unchecked is None:
            then(who)
        else:
            self.unchecked.append(lambda: then(who))

    # -- by hand -------------------------------------------------------------------------------------

    def turn(self) -> None:
        """What can be done without the disk."""
        self.loop.run()

    def commit(self) -> None:
        """Until nothing is left to do now."""
        self.loop.run()
        while self.log.commit():
            self.loop.run()

    def refuse(self) -> None:
        """The disk says no to all that waits."""
        self.loop.run()
        self.log.refuse(FAILED)
        self.loop.run()

    def advance(self, by_ms: int, step_ms: int = 0) -> None:
        """Time passes."""
        for _ in range(max(1, by_ms // (step_ms or by_ms))):
            self.loop.advance(step_ms or by_ms)
            self.commit()

    # -- who is there --------------------------------------------------------------------------------

    def client(self, principal: Principal = ALICE) -> Client:
        self.principal = principal
        return Client(self)

    def party(self, *filters: str, principal: Principal = ALICE, agent: str = "") -> Party:
        party = Party(self, principal, agent)
        for each in filters:
            subscription = self.broker.subscribe(party, each)  # type: ignore[arg-type]
            assert not isinstance(subscription, Refusal), subscription
        self.commit()
        return party

    def say(self, name: str, payload: bytes | None, *, wish: int = 0, retain: bool = False, **envelope: Any) -> None:
        """Somebody says something by another protocol."""
        message = Message(name, payload, wish, "", retain, Envelope(**envelope) if envelope else None)
        answer = self.broker.publish(Voice(ALICE, ""), message)
        assert not isinstance(answer, Refusal), answer

    def topic(self, name: str, partitions: int = 1, **options: str) -> Topic:
        said = {option.replace("_", "."): value for option, value in options.items()}
        topic = self.broker.topics.create(Voice(ALICE, ""), name, partitions=partitions, options=said)
        assert isinstance(topic, Topic), topic
        self.commit()
        return topic

    def channel(self, name: str) -> Channel:
        channel = self.broker.channels.find(name)
        assert channel is not None, f"no channel {name!r}"
        return channel

    def topic_values(self, name: str) -> list[bytes | None]:
        """What is kept of a topic of single messages."""
        number = self.channel(name).number
        return [entry.payload for entry in self.log.safe if isinstance(entry, Message) and entry.number == number]


class Wire:
    """The socket's side, remembered."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.held = False
        self.accepted_count = 0
        self.took_up = 0

    def wake(self) -> None:
        """Looked at by hand."""

    def hold(self, held: bool) -> None:
        self.held = held

    def take_up(self) -> None:
        self.took_up += 1
        self._client.mesh.loop.call_soon(self._client.resume)

    def accepted(self) -> None:
        self.accepted_count += 1

    def abort(self) -> None:
        raise AssertionError("nothing here is worth that")


class Client:
    """What a client says and reads, on its own connection. Requests go as bytes, so do answers."""

    def __init__(self, mesh: DataMesh) -> None:
        self.mesh = mesh
        self.wire = Wire(self)
        self.session = KafkaSession(
            mesh.realm, self.wire, peer="p", host="127.0.0.1", reached=("127.0.0.1", 9092), loopback=True
        )
        self.session.begin()
        self._asked: dict[int, tuple[ApiKey, int]] = {}

    def ask(self, request: object, version: int) -> int:
        """Sends a request; its correlation."""
        key = next(api.key for api in BY_KEY.values() if api.request is type(request))
        correlation = len(self._asked) + 1
        self._asked[correlation] = (key, version)
        flexible = version >= BY_KEY[key].flexible
        output = Output()
        for value in (key, version):
            output.int16(value)
        output.int32(correlation)
        output.int16(1)
        output.tail += b"c\0" if flexible else b"c"
        form_of(BY_KEY[key].request, version, flexible).write(output, request)
        self.send(b"".join(output.parts()))
        return correlation

    def send(self, request: bytes) -> None:
        """Bytes, as they come from the socket."""
        self.session.arrived(len(request))
        view = memoryview(request)
        if not self.session.postpones(view):
            self.session.received(view)

    def resume(self) -> None:
        while (request := self.session.resumed()) is not None:
            self.session.received(request)

    def read(self) -> list[tuple[int, Any]]:
        """The answers that have left, with their correlations."""
        out = b"".join(self.session.take_out())
        answers = []
        while out:
            length = int.from_bytes(out[:4], "big")
            cursor = Cursor(memoryview(out[4 : 4 + length]))
            out = out[4 + length :]
            correlation = cursor.int32()
            key, version = self._asked[correlation]
            flexible = version >= BY_KEY[key].flexible
            if flexible and key is not ApiKey.API_VERSIONS:
                cursor.skip_tags()
            answers.append((correlation, form_of(BY_KEY[key].response, version, flexible).read(cursor)))
            assert not cursor.left
        return answers

    def got(self) -> Any:
        """The one answer that has left."""
        ((_, answer),) = self.read()
        return answer

    def answer(self, request: object, version: int) -> Any:
        """Asks, and what is answered once everything is safe."""
        self.ask(request, version)
        self.mesh.commit()
        return self.got()

    def produce(self, topic: str, batch: bytes, *, partition: int = 0, version: int = 9, acks: int = -1) -> Any:
        """The one partition's answer."""
        answer = self.answer(producing(topic, batch, partition=partition, acks=acks), version)
        return answer.responses[0].partition_responses[0]

    def fetch(self, topic: str, offset: int, *, version: int = 12, **how: Any) -> Any:
        """The one partition's answer, now."""
        how.setdefault("wait_ms", 0)
        return self.answer(fetching((topic, 0, offset), **how), version).responses[0].partitions[0]


def producing(
    topic: str, *batches: bytes | None, partition: int = 0, acks: int = -1, transactional: str | None = None
) -> data.ProduceRequest:
    rows = [
        data.PartitionProduceData(index=partition + i, records=None if each is None else memoryview(each))
        for i, each in enumerate(batches)
    ]
    topics = [data.TopicProduceData(name=topic, partition_data=rows)]
    return data.ProduceRequest(transactional_id=transactional, acks=acks, timeout_ms=1_000, topic_data=topics)


def fetching(
    *wanted: tuple[str, int, int],
    wait_ms: int = 30_000,
    min_bytes: int = 1,
    max_bytes: int = 1 << 20,
    partition_bytes: int = 1 << 20,
) -> data.FetchRequest:
    """(topic, partition, offset) of each."""
    topics = [
        data.FetchTopic(
            topic=topic,
            partitions=[data.FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=partition_bytes)],
        )
        for topic, index, offset in wanted
    ]
    return data.FetchRequest(max_wait_ms=wait_ms, min_bytes=min_bytes, max_bytes=max_bytes, topics=topics)


def records_in(answer: Any) -> list[tuple[int, Record]]:
    """(offset, record) of what a partition's answer brings."""
    return read_by_kafka_python(bytes(answer.records)) if answer.records else []


def values_in(answer: Any) -> list[tuple[int, bytes | None]]:
    """(offset, value) likewise."""
    return [(offset, record.value) for offset, record in records_in(answer)]

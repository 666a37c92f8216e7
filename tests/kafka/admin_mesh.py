"""A real broker asked by the requests of administration, and what it answers, written and read again on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dragoman.adapters.kafka import codec
from dragoman.adapters.kafka.apis import BY_KEY, ApiKey
from dragoman.adapters.kafka.handlers import HANDLERS
from dragoman.adapters.kafka.realm import Realm
from dragoman.adapters.kafka.schema import form_of
from dragoman.adapters.kafka.settings import KafkaSettings
from dragoman.adapters.kafka.wire import Cursor
from dragoman.broker.broker import Broker
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.log.contract import Log
from dragoman.broker.log.disk_log import DiskLog
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.log.settings import LogSettings
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.topics import Topic
from dragoman.routing.message import Message

ALICE = Principal("alice")
BOB = Principal("bob")
ROOT = Principal("root", admin=True)


class Ask:
    """One request, and its answer when it has come."""

    def __init__(self, session: Any, key: ApiKey, version: int, request: object) -> None:
        self.session = session
        self.key = key
        self.version = version
        self.request = request
        self.got: list[Any] = []

    def answer(self, response: object) -> None:
        assert not self.got, "answered twice"
        body = b"".join(codec.encode_response(self.key, self.version, response))
        api = BY_KEY[self.key]
        cursor = Cursor(memoryview(body))
        self.got.append(form_of(api.response, self.version, self.version >= api.flexible).read(cursor))
        assert not cursor.left

    def error(self, code: int) -> None:
        self.answer(codec.error_response(self.key, self.request, code))


class Mesh:
    """One process: a broker, and what its Kafka listeners share."""

    def __init__(self, log: Any, clock: ManualClock, gate: GateSettings) -> None:
        self.log = log
        self.clock = clock
        self.gate_settings = gate
        self.settings = KafkaSettings(partitions=2, batch_bytes_max=5_000)

    async def start(self) -> Mesh:
        self.broker = Broker(
            BrokerSettings(partitions_max=8),
            AgentSettings(),
            clock=self.clock,
            log=self.log,
            gate=Gate(self.gate_settings),
            loop=asyncio.get_running_loop(),
            metrics=Metrics(),
        )
        await self.broker.start()
        self.realm = Realm(self.broker, SimpleNamespace(), self.settings)  # type: ignore[arg-type]
        return self

    async def stop(self) -> None:
        self.realm.stop()
        await self.broker.stop()

    async def restarted(self) -> Mesh:
        """The next process on the same disk."""
        await self.stop()
        return await Mesh(DiskLog(self.log._settings, self.clock), self.clock, self.gate_settings).start()

    async def turn(self) -> None:
        """Until nothing is left to do now."""
        for _ in range(3):
            while self.broker.timers.run_due():
                pass
            await self.log.idle()
            await asyncio.sleep(0)

    def session(self, principal: Principal) -> Any:
        return SimpleNamespace(
            realm=self.realm, principal=principal, agent="", host="10.0.0.1", address=("mesh.example", 9092)
        )

    def ask(self, request: object, version: int, principal: Principal = ALICE) -> Ask:
        key = next(api.key for api in BY_KEY.values() if api.request is type(request))
        ask = Ask(self.session(principal), key, version, request)
        HANDLERS[key](ask)  # type: ignore[arg-type]
        return ask

    async def answer(self, request: object, version: int, principal: Principal = ALICE) -> Any:
        ask = self.ask(request, version, principal)
        await self.turn()
        [answer] = ask.got
        return answer

    def topic(self, name: str) -> Topic:
        topic = self.broker.topics.find(name)
        assert topic is not None
        return topic

    async def made(self, name: str, partitions: int = 1, principal: Principal = ALICE, **options: str) -> Topic:
        """A topic somebody has made."""
        said = {name.replace("_", "."): value for name, value in options.items()}
        topic = self.broker.topics.create(self.session(principal), name, partitions=partitions, options=said)
        assert isinstance(topic, Topic), topic
        await self.turn()
        return topic

    async def filled(self, name: str, count: int, principal: Principal = ALICE) -> Topic:
        """A topic with messages in its one partition."""
        topic = await self.made(name, principal=principal)
        for index in range(count):
            message = Message(name, b"%d" % index, 1)
            topic.channel.append(message)
        await self.turn()
        assert topic.channel.visible == count
        return topic


Scene = Callable[[Mesh], Coroutine[Any, Any, Mesh | None]]


def run(scene: Scene, *rules: RuleSettings, folder: Path | None = None) -> None:
    """Plays a scene, in memory or on disk; what it gives back is the process to stop."""

    async def main() -> None:
        clock = ManualClock()
        log: Log = MemoryLog(clock=clock)
        if folder is not None:
            log = DiskLog(LogSettings(folder=folder, reserve_free_bytes=0, map_bytes=1 << 28, threads=False), clock)
        mesh = await Mesh(log, clock, GateSettings(rules=rules)).start()
        await ((await scene(mesh)) or mesh).stop()

    asyncio.run(main())

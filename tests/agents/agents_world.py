"""A small world for the rooms of agents: a clock moved by hand, rows in memory, sessions that remember."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dragoman.broker.calls import Call, Calls
from dragoman.broker.clock import ManualClock
from dragoman.broker.directory import Directory
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.principal import Principal
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.timers import Timers
from dragoman.broker.verbs import Verbs
from dragoman.routing.cards import Skill
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Refusal

ALICE = Principal("alice")
BOB = Principal("bob")


class Rows:
    """The part of a log these rooms use. ``kept`` outlives the world, like a disk."""

    durable = True

    def __init__(self, kept: dict[tuple[Table, bytes], bytes] | None = None) -> None:
        self.kept = {} if kept is None else kept
        self.puts = 0

    def put(self, table: Table, key: bytes, value: bytes | None) -> Ticket:
        assert len(key) <= 511
        self.puts += 1
        if value is None:
            self.kept.pop((table, key), None)
        else:
            self.kept[table, key] = value
        return Ticket(self.puts)

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self.kept.get((table, key))

    def rows(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((k, v) for (t, k), v in self.kept.items() if t is table and k.startswith(prefix)))


@dataclass(eq=False)
class FakeSession:
    """A connected party: ``credit`` messages it takes, then it says no."""

    principal: Principal = ALICE
    agent: str = ""
    protocol: str = "mqtt"
    credit: int = 1_000
    got: list[Message] = field(default_factory=list)
    closed: Refusal | None = None

    def deliver(self, feed: Any, message: Message) -> bool:
        if self.credit <= 0:
            return False
        self.credit -= 1
        self.got.append(message)
        return True

    def lost(self, feed: Any, count: int) -> None: ...

    def committed(self, ticket: Ticket) -> None: ...

    def refused(self, ticket: Ticket, refusal: Refusal) -> None: ...

    def close(self, refusal: Refusal) -> None:
        self.closed = refusal


class Alarm:
    def __init__(self, world: World, due_ms: int, fn: Callable[..., object], args: tuple[object, ...]) -> None:
        self.world, self.due_ms, self.fn, self.args = world, due_ms, fn, args

    def cancel(self) -> None:
        self.world.alarms = [alarm for alarm in self.world.alarms if alarm is not self]


class World:
    """Clock, loop, log, gate, news and a directory; ``after_crash`` is a new one on the same rows."""

    def __init__(
        self,
        settings: AgentSettings | None = None,
        *,
        gate: GateSettings | None = None,
        declared: dict[str, str] | None = None,
        log: Rows | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.log = log or Rows()
        self.settings = settings or AgentSettings(flap_ms=0)
        self.gate_settings = gate or GateSettings()
        self.declared = declared
        self.gate = Gate(self.gate_settings)
        self.alarms: list[Alarm] = []
        self.soon: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self.news: list[tuple[str, bytes]] = []
        self.timers = Timers(self.clock, self.call_later, self.log)  # type: ignore[arg-type]
        self.directory = Directory(
            self.clock,
            self.timers,
            self.gate,
            self.log,  # type: ignore[arg-type]
            self.tell,
            self.later,
            self.settings,
            declared,
        )
        self.directory.start()

    def call_later(self, seconds: float, fn: Callable[..., object], *args: object) -> Alarm:
        alarm = Alarm(self, self.clock.monotonic_ms() + round(seconds * 1000), fn, args)
        self.alarms.append(alarm)
        return alarm

    def later(self, fn: Callable[..., object], *args: object) -> None:
        self.soon.append((fn, args))

    def tell(self, name: str, payload: bytes) -> None:
        self.news.append((name, payload))

    def turn(self) -> None:
        """To the end of the loop's turn."""
        for _ in range(100_000):
            if not self.soon:
                return
            fn, args = self.soon.popleft()
            fn(*args)
        raise AssertionError("the turn does not end")

    def wait(self, ms: int) -> None:
        """Lets time pass, a millisecond-accurate alarm at a time."""
        end = self.clock.monotonic_ms() + ms
        self.turn()
        while True:
            due = min((alarm.due_ms for alarm in self.alarms), default=end + 1)
            if due > end:
                break
            self.clock.advance(max(0, due - self.clock.monotonic_ms()))
            for alarm in [alarm for alarm in self.alarms if alarm.due_ms <= self.clock.monotonic_ms()]:
                alarm.cancel()
                alarm.fn(*alarm.args)
                self.turn()
        self.clock.advance(end - self.clock.monotonic_ms())

    def after_crash(self) -> World:
        """What a new process finds: rows and the wall clock."""
        clock = ManualClock(self.clock.now_ms())
        return World(
            self.settings, gate=self.gate_settings, declared=self.declared, log=Rows(self.log.kept), clock=clock
        )

    def take_news(self) -> list[tuple[str, bytes]]:
        self.turn()
        news, self.news = self.news, []
        return news

    def arrive(
        self, agent: str, principal: Principal = ALICE, *, keeps: bool = False, protocol: str = "mqtt"
    ) -> FakeSession:
        session = FakeSession(principal, agent, protocol)
        number = self.directory.arrive(session, agent, keeps=keeps)
        assert isinstance(number, int), number
        return session


@dataclass(eq=False)
class FakeCaller:
    """Who asks: remembers parts and finals, and in what order."""

    session: FakeSession
    parts: list[bytes] = field(default_factory=list)
    finals: list[Any] = field(default_factory=list)

    def part(self, call: Any, payload: bytes, content_type: str | None) -> None:
        assert not self.finals, "a part after the end"
        self.parts.append(payload)

    def final(self, call: Any, outcome: Any) -> None:
        self.finals.append(outcome)

    @property
    def answer(self) -> bytes:
        """The one answer."""
        [outcome] = self.finals
        assert outcome.refusal is None, outcome.refusal
        assert outcome.payload is not None
        return outcome.payload

    @property
    def reason(self) -> Any:
        """Why there is none."""
        [outcome] = self.finals
        return outcome.refusal.reason


class Server:
    """A connection that serves skills: remembers what it was asked; ``full`` says no."""

    def __init__(
        self,
        world: CallWorld,
        agent: str,
        *skills: str,
        keeps: bool = False,
        principal: Principal = BOB,
        session: FakeSession | None = None,
    ) -> None:
        self.world = world
        self.session = session or world.arrive(agent, principal, keeps=keeps)
        self.asked: list[Any] = []
        self.cancelled: list[str] = []
        self.full = False
        self.offers = [
            world.directory.offer(
                self.session, agent, Skill(name=skill), self.ask, lambda call: self.cancelled.append(call.id)
            )
            for skill in skills
        ]
        assert all(not isinstance(offer, Refusal) for offer in self.offers), self.offers

    def ask(self, call: Any) -> bool:
        if self.full:
            return False
        self.asked.append(call)
        return True

    def answer(self, call: Any, payload: bytes = b"done", **options: Any) -> Refusal | None:
        return self.world.calls.answer(self.session, call.id, payload, **options)

    def leave(self, *, clean: bool = True, keeps: bool = False) -> None:
        self.world.directory.depart(self.session, clean=clean, keeps=keeps)


class CallWorld(World):
    """A world with calls."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.unsafe: list[Callable[[Refusal | None], None]] | None = None
        self.calls = Calls(
            self.clock,
            self.timers,
            self.directory,
            self.gate,
            self.log,  # type: ignore[arg-type]
            self.tell,
            self.later,
            self.when_safe,
            self.settings,
        )
        self.calls.start_up()

    def when_safe(self, ticket: Ticket, then: Callable[[Refusal | None], None]) -> None:
        """Everything is safe at once, unless a test holds it back."""
        if self.unsafe is None or ticket == 0:
            then(None)
        else:
            self.unsafe.append(then)

    def caller(self, agent: str = "caller", principal: Principal = ALICE) -> FakeCaller:
        known = self.directory.get(agent)
        session = known.connections[0][0] if known is not None and known.connections else self.arrive(agent, principal)
        return FakeCaller(session)  # type: ignore[arg-type]

    def call(self, caller: FakeCaller, skill: str, agent: str | None = None, **options: Any) -> Call:
        call = self.calls.start(caller, agent=agent, skill=skill, arguments=options.pop("arguments", b"{}"), **options)
        assert not isinstance(call, Refusal), call
        self.turn()
        self.calls.check()
        self.directory.check()
        return call

    def after_crash(self) -> CallWorld:
        clock = ManualClock(self.clock.now_ms())
        return CallWorld(
            self.settings, gate=self.gate_settings, declared=self.declared, log=Rows(self.log.kept), clock=clock
        )


class VerbWorld(CallWorld):
    """A world with calls and verbs; ``channels`` is what was said in ordinary ones."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.channels: list[tuple[str, Message]] = []
        self.verbs = Verbs(
            self.clock, self.directory, self.calls, self.gate, self.later, self.publish_in_channel, self.settings
        )

    def publish_in_channel(self, session: Any, message: Message) -> Ticket:
        message.sender = session.agent
        self.channels.append((session.principal.name, message))
        return Ticket(0)

    def say(
        self, session: FakeSession, name: str, payload: bytes | None = b"", envelope: Envelope | None = None
    ) -> Ticket | Refusal:
        """Publishes, and lets the turn end."""
        answer = self.verbs.publish(session, Message(name, payload, 1, "forged", False, envelope))  # type: ignore[arg-type]
        self.turn()
        self.calls.check()
        self.directory.check()
        return answer

    def listen(self, session: FakeSession, *filters: str) -> list[Any]:
        subscriptions = [self.verbs.subscribe(session, filter_, wish=1) for filter_ in filters]  # type: ignore[arg-type]
        assert not any(isinstance(subscription, Refusal) for subscription in subscriptions), subscriptions
        self.turn()
        return subscriptions

    def leave(self, session: FakeSession, *, clean: bool = True, keeps: bool = False) -> None:
        self.verbs.detach(session)  # type: ignore[arg-type]
        self.directory.depart(session, clean=clean, keeps=keeps)
        self.turn()

    def after_crash(self) -> VerbWorld:
        clock = ManualClock(self.clock.now_ms())
        return VerbWorld(
            self.settings, gate=self.gate_settings, declared=self.declared, log=Rows(self.log.kept), clock=clock
        )

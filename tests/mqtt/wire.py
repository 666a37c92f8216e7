"""A mesh with MQTT on it and nothing else that moves: the loop's turns, the clock and the commits are made by hand.

The broker, its memory log, the listener's connections and sessions are the real ones; only the transport
below them and the loop are ours. A client is a decoder and the list of what it got.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import copyreg
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

from dragoman.adapters.mqtt.codec import CLIENT, Decoder
from dragoman.adapters.mqtt.listener import Connection, Listener
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
)
from dragoman.adapters.mqtt.promises import PLACED
from dragoman.adapters.mqtt.properties import NO_PROPERTIES, Properties
from dragoman.adapters.mqtt.realm import Realm
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.credentials import Authenticator
from dragoman.adapters.serving.limits import ConnectionLimits
from dragoman.adapters.serving.settings import LimitSettings, LoginSettings
from dragoman.broker.broker import Broker
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.log.contract import Ticket
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.metrics import Metrics
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.settings_groups import GroupSettings
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Reason, Refusal
from tests.attributes import attributes
from tests.mqtt.encode_any import encode_any

TURNS_MAX = 10_000


def _anew(message: Message) -> tuple[Any, ...]:
    """How to copy one: a compiled class has no way of its own."""
    return _made, ({name: getattr(message, name) for name in attributes(Message)},)


def _made(given: dict[str, Any]) -> Message:
    message = Message("", None)
    for name, value in given.items():
        with contextlib.suppress(AttributeError):  # what is worked out cannot be set
            setattr(message, name, value)
    return message


def _same(envelope: Envelope) -> tuple[Any, ...]:
    """Nobody changes one that is kept."""
    return lambda: envelope, ()


copyreg.pickle(Message, _anew)  # type: ignore[arg-type]
copyreg.pickle(Envelope, _same)  # type: ignore[arg-type]


class HandTimer:
    def __init__(self, due_ms: float, fn: Callable[..., object], args: tuple[object, ...]) -> None:
        self.due_ms, self.fn, self.args = due_ms, fn, args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class HandLoop:
    """The part of an event loop the broker uses. ``turns`` runs it until nothing is left to do."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.soon: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self.called = threading.Event()
        self.timers: list[HandTimer] = []

    def call_soon(self, callback: Callable[..., object], *args: object, context: object = None) -> object:
        self.soon.append((callback, args))
        return None

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> object:
        self.call_soon(callback, *args)
        self.called.set()
        return None

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> HandTimer:
        timer = HandTimer(self.clock.monotonic_ms() + delay * 1000, callback, args)
        self.timers.append(timer)
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast("asyncio.AbstractEventLoop", self))

    def get_debug(self) -> bool:
        return False

    def turns(self) -> None:
        for _ in range(TURNS_MAX):
            if not self.soon:
                return
            for _ in range(len(self.soon)):
                callback, args = self.soon.popleft()
                callback(*args)
        raise AssertionError("the loop does not come to rest")

    def advance(self, by_ms: int) -> None:
        """Moves the clock and runs the timers that become due, in their order, and the turns after each."""
        until = self.clock.monotonic_ms() + by_ms
        self.turns()
        while True:
            self.timers = [timer for timer in self.timers if not timer.cancelled]
            due = min(self.timers, key=lambda timer: timer.due_ms, default=None)
            if due is None or due.due_ms > until:
                break
            self.clock.advance(max(0, round(due.due_ms - self.clock.monotonic_ms())))
            self.timers.remove(due)
            due.fn(*due.args)
            self.turns()
        self.clock.advance(max(0, until - self.clock.monotonic_ms()))
        self.turns()


class CommitDoor:
    """What the log takes for the loop. Shut, commits wait behind it until somebody lets them through."""

    def __init__(self, loop: HandLoop) -> None:
        self._loop = loop
        self.shut = False
        self.waiting: list[Callable[[], object]] = []

    def call_soon(self, commit: Callable[[], object]) -> None:
        def through() -> None:
            if self.shut:
                self.waiting.append(commit)
            else:
                commit()

        self._loop.call_soon(through)


class HandTransport:
    """A socket's other half. ``got`` is what the peer has received; ``stuck``: the peer does not read."""

    def __init__(self, world: World, host: str) -> None:
        self.world = world
        self.host = host
        self.got = bytearray()
        self.unread = bytearray()
        self.held: deque[bytes] = deque()
        self.reading = True
        self.stuck = False
        self.closing = False
        self.closed = False
        self.aborted = False
        self.connection: Connection | None = None

    def get_extra_info(self, name: str) -> object:
        return (self.host, 40_000) if name == "peername" else None

    def set_protocol(self, protocol: Any) -> None:
        self.connection = protocol

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self.high, self.low = high, low

    def get_write_buffer_size(self) -> int:
        return len(self.unread)

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the end"
        if not self.stuck:
            self.got += data
            return
        before = len(self.unread)
        self.unread += data
        if before <= self.high < len(self.unread):
            assert self.connection is not None
            self.connection.pause_writing()

    def unstick(self) -> None:
        """The peer reads again, all there is."""
        self.stuck = False
        paused = len(self.unread) > self.high
        self.got += self.unread
        self.unread.clear()
        assert self.connection is not None
        if paused and not self.closed:
            self.connection.resume_writing()
        if self.closing:
            self._lose()

    def is_closing(self) -> bool:
        return self.closing or self.closed

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True
        self.world.loop.call_soon(self._pass_on)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert self.reading, "nobody would notice that the peer closes too"
        self.close()

    def close(self) -> None:
        self.closing = True
        if not self.unread:
            self._lose()

    def abort(self) -> None:
        self.aborted = True
        self._lose()

    def _lose(self) -> None:
        if not self.closed:
            self.closed = True
            assert self.connection is not None
            self.world.loop.call_soon(self.connection.connection_lost, None)

    def receive(self, data: bytes) -> None:
        self.held.append(data)
        self._pass_on()

    def _pass_on(self) -> None:
        assert self.connection is not None
        while self.held and self.reading and not self.is_closing():
            data = self.held.popleft()
            room = self.connection.get_buffer(-1)
            part, rest = data[: len(room)], data[len(room) :]
            if rest:
                self.held.appendleft(rest)
            room[: len(part)] = part
            self.connection.buffer_updated(len(part))


class World:
    """One mesh with an MQTT listener. ``late`` holds commits back until ``commit`` or ``refuse``."""

    def __init__(
        self,
        mqtt: MqttSettings | None = None,
        broker: BrokerSettings | None = None,
        gate: GateSettings | None = None,
        login: LoginSettings | None = None,
        *,
        limits: LimitSettings | None = None,
        listener: ListenerSettings | None = None,
        log: MemoryLog | None = None,
        clock: ManualClock | None = None,
        durable: bool = False,
        groups: GroupSettings | None = None,
    ) -> None:
        self._made_with = (mqtt, broker, gate, login)
        self.clock = clock or ManualClock()
        self.loop = HandLoop(self.clock)
        self.metrics = Metrics()
        self.log = log or MemoryLog(clock=self.clock)
        self.door = CommitDoor(self.loop)
        self.broker = Broker(
            broker or BrokerSettings(),
            AgentSettings(),
            groups or GroupSettings(),
            clock=self.clock,
            log=self.log,
            gate=Gate(gate or GateSettings()),
            loop=self.loop,
            metrics=self.metrics,
        )
        self.finish(self.broker.start())
        self.authenticator = Authenticator(login or LoginSettings(), self.loop, self.metrics, self.broker.bans)
        self.broker.delayed.named = self.authenticator.named
        self.realm = Realm(self.broker, self.authenticator, mqtt or MqttSettings())
        self.realm.standings.load()
        self.limits = ConnectionLimits(limits or LimitSettings(), self.broker.bans, self.clock)
        self.listener = Listener(self.realm, self.limits, listener or ListenerSettings("mqtt", "127.0.0.1:0"), [])
        self.clients: list[Client] = []
        self._kept: dict[str, Any] = {}
        if durable:
            told = self.log._on_commit
            assert told is not None

            def safe(ticket: Ticket) -> None:
                # What the commit holds, and nothing that is put because of it.
                self._keep()
                told(ticket)

            self.log._on_commit = safe
            self.turn()
            self._keep()

    def finish(self, work: Coroutine[object, object, None]) -> None:
        """Runs a coroutine of the broker's to its end on the hand loop."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(cast("asyncio.AbstractEventLoop", _Opening(self)))
        try:
            while True:
                try:
                    work.send(None)
                except StopIteration:
                    return
                self.loop.turns()
        finally:
            asyncio._set_running_loop(before)

    def client(self, version: int = 5, host: str = "127.0.0.1") -> Client:
        """A peer that has connected its socket and said nothing yet."""
        client = Client(self, version, host)
        self.clients.append(client)
        return client

    def connected(self, client_id: str, version: int = 5, **options: Any) -> Client:
        """A client whose CONNECT was accepted, with its CONNACK read."""
        client = self.client(version)
        client.connect(client_id, **options)
        return client

    def turn(self) -> None:
        """Runs the loop until it rests, and looks whether all promises hold."""
        self.loop.turns()
        self.check()

    def advance(self, by_ms: int) -> None:
        """Lets time go by."""
        self.loop.advance(by_ms)
        self.check()

    def check(self) -> None:
        """What must hold whenever the loop rests."""
        for standing in self.realm.standings.by_client.values():
            standing.check()
            if standing.connection is not None:
                assert len(standing.flights) <= 65_535
        self.broker.directory.check()

    def login(self) -> None:
        """Waits for the thread that checks a password, and lets the outcome in."""
        assert self.loop.called.wait(10), "no password was checked"
        self.loop.called.clear()
        self.turn()

    def commit(self) -> None:
        """Lets the commits through that wait behind the door."""
        self.loop.turns()
        waiting, self.door.waiting = self.door.waiting, []
        for commit in waiting:
            commit()
        self.turn()

    def refuse(self, reason: Reason = Reason.STORAGE_FAILED) -> None:
        """The open commit fails: its messages are gone, its state rows ride with the next one."""
        self.loop.turns()
        assert self.door.waiting, "nothing waits for a commit"
        self.door.waiting.clear()
        log = self.log
        ticket = Ticket(log._ticket)
        log._ticket += 1
        log._waiting = False
        log._waiting_bytes = 0
        log._open = []
        self.broker._refused(ticket, Refusal(reason, "the disk says no"))
        self.turn()

    def crash(self, *, gate: GateSettings | None = None, login: LoginSettings | None = None) -> World:
        """The mesh is killed; another one starts on what was committed, perhaps with other rules and users."""
        log = MemoryLog(clock=self.clock)
        log.__dict__.update(copy.deepcopy(self._kept))
        mqtt, broker, *before = self._made_with
        return World(mqtt, broker, gate or before[0], login or before[1], log=log, clock=self.clock, durable=True)

    def restart(self, down_ms: int = 0) -> World:
        """The mesh is stopped in good order and another one starts."""
        self.broker.say_goodbye()
        self.turn()
        self.finish(self.broker.stop())
        self._keep()
        self._kept["_closed"] = False
        self.clock.advance(down_ms)
        return self.crash()

    def _keep(self) -> None:
        state = {k: v for k, v in self.log.__dict__.items() if k not in ("_loop", "_on_commit", "_clock")}
        self._kept = copy.deepcopy(state)


class _Opening:
    """The running loop while the log is opened: futures and calls are the hand loop's, commits go by the door."""

    def __init__(self, world: World) -> None:
        self._world = world

    def call_soon(self, callback: Callable[..., object], *args: object, context: object = None) -> object:
        if not args:
            self._world.door.call_soon(callback)
            return None
        return self._world.loop.call_soon(callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        return self._world.loop.create_future()


class Client:
    """One peer: says packets, remembers what it is told. ``closed``: its socket has been closed by the mesh."""

    def __init__(self, world: World, version: int, host: str) -> None:
        self.world = world
        self.version = version
        self.transport = HandTransport(world, host)
        self.connection = Connection(world.listener)
        self.transport.connection = self.connection
        self.connection.connection_made(cast("asyncio.Transport", self.transport))
        self.decoder = Decoder(max_packet_bytes=1 << 28, max_alias=0xFFFF, role=CLIENT, version=version)
        self._read = 0
        self._waiting: deque[Packet] = deque()

    # -- to the mesh -----------------------------------------------------------------------------

    def raw(self, data: bytes) -> None:
        """Sends bytes, and lets the loop come to rest."""
        self.transport.receive(data)
        self.world.turn()

    def say(self, *packets: Packet) -> None:
        """Sends packets in one piece."""
        self.raw(b"".join(encode_any(self.version, packet) for packet in packets))

    def connect(
        self,
        client_id: str = "c",
        *,
        clean: bool = True,
        keepalive: int = 0,
        will: Will | None = None,
        username: str | None = None,
        password: bytes | None = None,
        **properties: Any,
    ) -> Connack:
        """Says CONNECT and reads the CONNACK; what else came with it stays to be read."""
        given = Properties(**properties) if properties else NO_PROPERTIES
        self.say(Connect(self.version, client_id, clean, keepalive, username, password, will, given))
        packets = self.packets(1)
        (packet,) = packets
        assert isinstance(packet, Connack)
        return packet

    def subscribe(
        self, *filters: Subscription | str, qos: int = 0, identifier: int = 0, packet_id: int = 1
    ) -> list[int]:
        """Subscribes and reads the SUBACK's codes; what else came stays to be read."""
        wanted = [f if isinstance(f, Subscription) else Subscription(f, qos) for f in filters]
        given = Properties(subscription_identifiers=[identifier]) if identifier else NO_PROPERTIES
        self.say(Subscribe(packet_id, wanted, given))
        packets = self.packets(1)
        (packet,) = packets
        assert isinstance(packet, Suback)
        return packet.codes

    def unsubscribe(self, *filters: str, packet_id: int = 1) -> None:
        self.say(Unsubscribe(packet_id, list(filters)))

    def publish(
        self,
        topic: str,
        payload: bytes = b"",
        qos: int = 0,
        *,
        retain: bool = False,
        dup: bool = False,
        packet_id: int = 0,
        **properties: Any,
    ) -> None:
        """Says PUBLISH. Without ``packet_id`` a QoS above 0 takes 1."""
        raw = Properties(**properties).encode() if properties else b""
        self.say(Publish(topic.encode(), payload, qos, retain, dup, packet_id or (1 if qos else 0), raw))

    def disconnect(self, code: int = 0, **properties: Any) -> None:
        self.say(Disconnect(code, Properties(**properties) if properties else NO_PROPERTIES))

    def vanish(self) -> None:
        """The network goes away without a word."""
        self.transport.abort()
        self.world.turn()

    # -- from the mesh ---------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self.transport.closed

    def packets(self, most: int | None = None) -> list[Packet]:
        """The packets that came since the last look, at most so many."""
        self.world.turn()
        return list(self._take(most))

    def _take(self, most: int | None) -> Iterable[Packet]:
        data = bytes(self.transport.got[self._read :])
        self._read += len(data)
        self._waiting.extend(self.decoder.feed(data))
        assert self.decoder.error is None, self.decoder.error
        while self._waiting and (most is None or most > 0):
            yield self._waiting.popleft()
            most = None if most is None else most - 1

    def expect(self, *packets: Packet, closed: bool = False) -> None:
        """What came since the last look is exactly this, and the connection is in this state."""
        got = [facts(packet) for packet in self.packets()]
        wanted = [facts(packet) for packet in packets]
        assert got == wanted, f"\n   got {got}\nwanted {wanted}"
        assert self.closed is closed, "closed" if self.closed else "still open"


def pub(
    topic: str,
    payload: bytes = b"",
    qos: int = 0,
    packet_id: int = 0,
    *,
    retain: bool = False,
    dup: bool = False,
    **properties: Any,
) -> Publish:
    """A PUBLISH as a client gets it."""
    raw = Properties(**properties).encode() if properties else b""
    return Publish(topic.encode(), payload, qos, retain, dup, packet_id, raw)


def at(position: int) -> int:
    """The packet id of a kept session's QoS 1 delivery of what is there in the log, from 1."""
    return PLACED + position


def facts(packet: Packet) -> tuple[object, ...]:
    """All a packet says, to compare. Reason strings are for people and left out."""
    found: list[object] = [type(packet).__name__]
    if isinstance(packet, Publish):
        return (
            "Publish",
            packet.topic,
            packet.payload,
            f"qos{packet.qos} id{packet.packet_id}" + " retain" * packet.retain + " dup" * packet.dup,
            packet.properties,
        )
    for slot in attributes(type(packet)):
        value = getattr(packet, slot)
        if isinstance(value, Properties):
            value = {
                name: getattr(value, name)
                for name in attributes(type(value))
                if name != "reason_string" and getattr(value, name) not in (None, [])
            }
        found.append(value)
    return tuple(found)

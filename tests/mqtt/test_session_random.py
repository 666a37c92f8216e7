"""Random lives of five clients on a mesh that dies and restarts, beside a model that says what must be left of them.

The model knows sessions (there or not, until when), wills (held, waiting, said) and retained values; what had not been
committed when the mesh died never happened in it either. Of messages it demands: no acknowledged one of QoS 1 or 2
is lost to who subscribed before it was said, none of QoS 2 comes twice, none begins after its expiry, order per
publisher, topic and QoS, and never more in flight than a receiver asked for.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Unsuback, Will
from dragoman.adapters.mqtt.properties import Properties
from dragoman.broker.log.contract import Table
from tests.mqtt.wire import Client, World

WINDOW = 3
TOPICS = ("a", "b")
DAY_S = 86_400
NOBODY = Code.NO_MATCHING_SUBSCRIBERS
WILL_TOPIC = b"will"
TIMES_MS = (1_003, 7_001, 41_007)
"""No sum of few of these is a whole number of seconds, so that nothing is due within a millisecond of a look."""


# -- the model -------------------------------------------------------------------------------------


@dataclass
class Life:
    """A session as it must be. ``gone_ms`` None: connected. ``will``: text, delay in s, when it is due if it waits."""

    expiry_s: int
    gone_ms: int | None = None
    filters: set[str] = field(default_factory=set)


@dataclass
class Model:
    """What is so at the mesh. ``said``: the wills, in order."""

    lives: dict[str, Life] = field(default_factory=dict)
    wills: dict[str, tuple[bytes, int, int | None]] = field(default_factory=dict)
    said: list[bytes] = field(default_factory=list)
    retained: dict[str, tuple[bytes, int | None]] = field(default_factory=dict)

    def arrive(self, name: str, now_ms: int, expiry_s: int, will: tuple[bytes, int], *, clean: bool) -> bool:
        """CONNECT; whether the session was there."""
        life = self.lives.get(name)
        resumes = life is not None and life.expiry_s > 0 and not clean
        if life is not None and life.gone_ms is None:
            self.part(name, now_ms, resumed=resumes)
        if name in self.lives and not resumes:
            self._end(name)
        if resumes:
            self.wills.pop(name, None)
        life = self.lives.setdefault(name, Life(expiry_s))
        life.gone_ms = None
        self.wills[name] = (*will, None)
        return resumes

    def part(self, name: str, now_ms: int, *, resumed: bool = False) -> None:
        """The connection breaks."""
        life = self.lives[name]
        life.gone_ms = now_ms
        if name in self.wills:
            text, delay_s, _ = self.wills[name]
            delay_s = min(delay_s, life.expiry_s)
            if delay_s and resumed:
                del self.wills[name]
            elif delay_s:
                self.wills[name] = (text, delay_s, now_ms + delay_s * 1000)
            else:
                self._say(name)
        if not life.expiry_s:
            self._end(name)

    def goodbye(self, name: str, now_ms: int) -> None:
        """DISCONNECT."""
        self.wills.pop(name, None)
        self.part(name, now_ms)

    def died(self, now_ms: int) -> None:
        """All connections are gone, and the mesh is there again."""
        for name in [name for name, life in self.lives.items() if life.gone_ms is None]:
            self.part(name, now_ms)

    def until(self, now_ms: int) -> None:
        """Time has gone by."""
        for name, (_, _, due_ms) in sorted(self.wills.items(), key=lambda item: item[1][2] or 0):
            if due_ms is not None and due_ms <= now_ms:
                self._say(name)
        for name, life in list(self.lives.items()):
            if life.gone_ms is not None and life.gone_ms + life.expiry_s * 1000 <= now_ms:
                self._end(name)
        self.retained = {t: v for t, v in self.retained.items() if v[1] is None or v[1] > now_ms}

    def _say(self, name: str) -> None:
        self.said.append(self.wills.pop(name)[0])

    def _end(self, name: str) -> None:
        if name in self.wills:
            self._say(name)
        del self.lives[name]


# -- the clients -----------------------------------------------------------------------------------


class Party:
    """A client with a will that says whose it is and of which connection."""

    def __init__(self, name: str, expiry_s: int, delay_s: int) -> None:
        self.name, self.expiry_s, self.delay_s = name, expiry_s, delay_s
        self.client: Client | None = None
        self.connections = 0

    def come(self, world: World, model: Model, *, clean: bool = False) -> None:
        if self.client is not None:
            self.read()
        self.connections += 1
        text = f"{self.name}{self.connections}".encode()
        raw = Properties(will_delay_interval=self.delay_s).encode() if self.delay_s else b""
        will = Will(WILL_TOPIC, text, 2, properties=raw, delay=self.delay_s)
        expected = model.arrive(self.name, world.clock.now_ms(), self.expiry_s, (text, self.delay_s), clean=clean)
        self.client = world.client()
        options = {"session_expiry_interval": self.expiry_s} if self.expiry_s else {}
        connack = self.client.connect(self.name, clean=clean, will=will, receive_maximum=WINDOW, **options)
        assert connack.session_present is expected
        self.came(present=expected)

    def came(self, *, present: bool) -> None: ...

    def read(self) -> None:
        assert self.client is not None
        assert not self.client.packets()

    def leave(self) -> Client:
        client = self.client
        assert client is not None
        self.read()
        self.client = None
        return client


class Reader(Party):
    """Keeps its half of QoS 2 as long as its session lives; acknowledges when the test says so."""

    def __init__(self, name: str, qos: int, deadlines: dict[bytes, int]) -> None:
        super().__init__(name, 30, 60 if qos == 2 else 5)
        self.qos = qos
        self.deadlines = deadlines
        self.looked_ms = 0
        self.unanswered: list[Publish | Pubrel] = []
        self.held: set[int] = set()
        self.got: list[tuple[int, bytes]] = []
        #: what it need not get: said when it was not subscribed for all of its way
        self.waived: set[bytes] = set()

    def came(self, *, present: bool) -> None:
        assert self.client is not None
        self.looked_ms = self.client.world.clock.now_ms()
        self.unanswered.clear()
        if not present:
            self.held.clear()

    def read(self) -> None:
        assert self.client is not None
        for packet in self.client.packets():
            assert isinstance(packet, Publish | Pubrel), packet
            self.unanswered.append(packet)
            if isinstance(packet, Pubrel) or packet.packet_id in self.held:
                continue
            if packet.payload not in {payload for _, payload in self.got}:
                assert self.deadlines.get(packet.payload, 1 << 62) > self.looked_ms, "begun after its expiry"
            if packet.qos == 2:
                self.held.add(packet.packet_id)
            self.got.append((packet.qos, packet.payload))
        waiting = {p.packet_id for p in self.unanswered if isinstance(p, Publish) and p.qos}
        assert len(waiting) <= WINDOW
        self.looked_ms = self.client.world.clock.now_ms()

    def answer(self, count: int) -> None:
        assert self.client is not None
        self.read()
        now, self.unanswered = self.unanswered[:count], self.unanswered[count:]
        for packet in now:
            if isinstance(packet, Pubrel):
                self.held.discard(packet.packet_id)
                self.client.say(Pubcomp(packet.packet_id))
            elif packet.qos:
                self.client.say(Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))


@dataclass
class Said:
    topic: str
    qos: int
    payload: bytes
    #: the readers that subscribed whenever it was said
    readers: set[str]
    #: whether anybody subscribed, each time it was sent
    heard: list[bool]


class Writer(Party):
    """Keeps its half too: what is not acknowledged is said again after a reconnect."""

    def __init__(self, name: str, delay_s: int) -> None:
        super().__init__(name, DAY_S, delay_s)
        self.open: dict[int, Publish | Pubrel] = {}
        self.of_id: dict[int, Said] = {}
        self.said: list[Said] = []
        self.safe: list[Said] = []

    def again(self, model: Model, deadlines: dict[bytes, int]) -> None:
        """After a reconnect."""
        assert self.client is not None
        for packet_id, packet in list(self.open.items()):
            if isinstance(packet, Publish):
                packet.dup = True
                said = self.of_id[packet_id]
                said.readers &= subscribers(model, said.topic)
                said.heard.append(bool(subscribers(model, said.topic)))
                if said.payload in deadlines:
                    # It may have been taken in then or only now.
                    deadlines[said.payload] = self.client.world.clock.now_ms() + 6_000
            self.client.say(packet)

    def publish(self, model: Model, topic: str, qos: int, deadlines: dict[bytes, int], *, expires: bool) -> None:
        assert self.client is not None
        self.read()
        payload = f"{self.name}{len(self.said)}".encode()
        packet_id = next(n for n in range(1, 200) if n not in self.open) if qos else 0
        raw = Properties(message_expiry_interval=6).encode() if expires else b""
        packet = Publish(topic.encode(), payload, qos, packet_id=packet_id, properties=raw)
        said = Said(topic, qos, payload, subscribers(model, topic), [bool(subscribers(model, topic))])
        self.said.append(said)
        if expires:
            said.readers.clear()
            deadlines[payload] = self.client.world.clock.now_ms() + 6_000
        if qos:
            self.open[packet_id] = packet
            self.of_id[packet_id] = said
        self.client.say(packet)

    def read(self) -> None:
        assert self.client is not None
        for packet in self.client.packets():
            assert isinstance(packet, Puback | Pubrec | Pubcomp), packet
            if isinstance(packet, Pubcomp):
                assert packet.code == 0
            elif packet.code == NOBODY:
                assert False in self.of_id[packet.packet_id].heard
            else:
                assert packet.code == 0
                # The answer to a QoS 2 publish sent again only says that it was taken in.
                assert True in self.of_id[packet.packet_id].heard or isinstance(packet, Pubrec)
            waiting = self.open.get(packet.packet_id)
            if isinstance(packet, Pubrec) and isinstance(waiting, Publish):
                self.safe.append(self.of_id[packet.packet_id])
                self.open[packet.packet_id] = release = Pubrel(packet.packet_id)
                self.client.say(release)
            elif isinstance(packet, Puback):
                self.safe.append(self.of_id[packet.packet_id])
                del self.open[packet.packet_id]
            elif isinstance(packet, Pubcomp):
                self.open.pop(packet.packet_id, None)


def subscribers(model: Model, topic: str) -> set[str]:
    return {name for name, life in model.lives.items() if topic in life.filters}


# -- a play ----------------------------------------------------------------------------------------


class Play:
    def __init__(self) -> None:
        self.world = World(durable=True)
        self.model = Model()
        self.committed: Model | None = None
        self.deadlines: dict[bytes, int] = {}
        self.readers = [Reader("r", 2, self.deadlines), Reader("q", 1, self.deadlines)]
        self.writers = [Writer("s", 0), Writer("t", 5)]
        self.brief = Party("u", 0, 5)
        self.parties: list[Party] = [*self.readers, *self.writers, self.brief]
        self.values = 0
        watcher = self.world.connected("w", clean=False, session_expiry_interval=DAY_S)
        watcher.subscribe(WILL_TOPIC.decode(), qos=2)
        watcher.disconnect()
        for party in self.parties:
            self.come(party)

    @property
    def shut(self) -> bool:
        return self.world.door.shut

    def come(self, party: Party, *, clean: bool = False) -> None:
        party.come(self.world, self.model, clean=clean)
        if isinstance(party, Writer):
            party.again(self.model, self.deadlines)
        if isinstance(party, Reader) and not self.model.lives[party.name].filters:
            self.waive(party)
            for topic in () if self.shut else TOPICS:
                self.subscribe(party, topic)

    def waive(self, reader: Reader) -> None:
        reader.waived.update(said.payload for writer in self.writers for said in writer.said)

    def subscribe(self, reader: Reader, topic: str) -> None:
        assert reader.client is not None
        reader.read()
        filters = self.model.lives[reader.name].filters
        if topic in filters:
            filters.discard(topic)
            reader.client.unsubscribe(topic)
            assert isinstance(reader.client.packets(1)[0], Unsuback)
        else:
            filters.add(topic)
            assert reader.client.subscribe(topic, qos=reader.qos) == [reader.qos]
        self.waive(reader)

    def do(self, what: str, at: int, topic: str, n: int) -> None:
        party = self.parties[(at * 3 + n) % 5]
        writer, reader = self.writers[at], self.readers[at]
        now_ms = self.world.clock.now_ms()
        if what in ("publish", "expiring") and writer.client is not None:
            writer.publish(self.model, topic, n, self.deadlines, expires=what == "expiring")
        elif what == "acknowledged" and writer.client is not None:
            writer.read()
        elif what == "answer" and reader.client is not None:
            reader.answer(n + 1)
        elif what == "subscribe" and reader.client is not None and not self.shut:
            self.subscribe(reader, topic)
        elif what == "retain":
            self.retain(topic, n)
        elif what == "come":
            self.come(party, clean=n == 2 and not isinstance(party, Writer) and not self.shut)
        elif what == "break" and party.client is not None:
            party.leave().vanish()
            self.model.part(party.name, now_ms)
        elif what == "goodbye" and party.client is not None:
            party.leave().disconnect()
            self.model.goodbye(party.name, now_ms)
        elif what == "time":
            self.world.advance(TIMES_MS[n * at])
        elif what == "door":
            self.committed = None if self.shut else copy.deepcopy(self.model)
            self.world.door.shut = not self.shut
            self.world.commit()
        elif what in ("kill", "restart"):
            self.die(gracefully=what == "restart", down_ms=TIMES_MS[n] if at else 0)
        self.look()

    def retain(self, topic: str, n: int) -> None:
        self.values += 1
        payload = b"" if self.values % 4 == 0 else b"%d" % self.values
        client = self.world.connected("k")
        properties = {"message_expiry_interval": 20} if self.values % 3 == 0 else {}
        client.publish(f"kept/{topic}", payload, n, retain=True, **properties)
        client.disconnect()
        self.model.retained.pop(topic, None)
        if payload:
            self.model.retained[topic] = (payload, self.world.clock.now_ms() + 20_000 if properties else None)

    def die(self, *, gracefully: bool, down_ms: int) -> None:
        if gracefully and self.shut:
            self.do("door", 0, "a", 0)
        for party in self.parties:
            if party.client is not None:
                party.read()
        if gracefully:
            self.model.died(self.world.clock.now_ms())
            self.world = self.world.restart(down_ms)
        else:
            self.model = self.committed or self.model
            self.world.clock.advance(down_ms)
            self.world = self.world.crash()
            self.model.died(self.world.clock.now_ms())
        for party in self.parties:
            party.client = None
        self.committed = None
        self.world.advance(3)

    def look(self) -> None:
        """Everybody looks what came, and the model and the mesh are compared."""
        self.model.until(self.world.clock.now_ms())
        for party in self.parties:
            if party.client is not None:
                party.read()
        self.world.turn()
        standings = self.world.realm.standings
        lives = {name: standing for name, standing in standings.by_client.items() if name not in "wk"}
        assert set(lives) == set(self.model.lives)
        for name, life in self.model.lives.items():
            assert set(lives[name].filters) == life.filters
            assert (lives[name].connection is not None) is (life.gone_ms is None)
        assert {held.client_id: held.will.payload for held in standings.wills.held.values()} == {
            name: text for name, (text, _, _) in self.model.wills.items()
        }
        if not self.shut:
            fresh = self.world.connected("k")
            fresh.subscribe("kept/#")
            found = {p.topic.decode()[5:]: p.payload for p in fresh.packets() if isinstance(p, Publish)}
            assert found == {topic: value for topic, (value, _) in self.model.retained.items()}
            fresh.disconnect()

    def end(self) -> None:
        """Everybody comes and everything is finished."""
        if self.shut:
            self.do("door", 0, "a", 0)
        for party in self.parties:
            if party.client is None:
                self.come(party)
        before = -1
        for _ in range(400):
            for writer in self.writers:
                writer.read()
            for reader in self.readers:
                reader.answer(100)
            self.world.advance(300)
            said = sum(len(client.transport.got) for client in self.world.clients)
            if said == before:
                break
            before = said
        assert not any(writer.open for writer in self.writers)
        self.look()
        self.finished()

    def finished(self) -> None:
        watcher = self.world.connected("w", clean=False, session_expiry_interval=DAY_S)
        said: list[bytes] = []
        while found := [p for p in watcher.packets() if isinstance(p, Publish)]:
            said += [p.payload for p in found]
            watcher.say(*[Pubrec(p.packet_id) for p in found])
            watcher.say(*[Pubcomp(p.packet_id) for p in found])
        assert sorted(said) == sorted(self.model.said), "each will once"
        for party in self.parties:
            mine = [text for text in said if text.startswith(party.name.encode())]
            assert mine == [text for text in self.model.said if text.startswith(party.name.encode())]
        self.world.advance(1_000)
        assert not list(self.world.log.rows(Table.INFLIGHT))
        for standing in self.world.realm.standings.by_client.values():
            assert not standing.flights
            assert not standing.received
            assert standing.connection is None or standing.connection.window == 0
            assert standing.backlog is None or standing.backlog.low == self.world.log.end()


WHAT = (
    ["publish"] * 6
    + ["answer"] * 4
    + ["acknowledged", "come", "come", "come", "break", "break", "door", "kill"]
    + ["expiring", "subscribe", "retain", "goodbye", "time", "time", "door", "restart"]
)
STEP = st.tuples(st.sampled_from(WHAT), st.integers(0, 1), st.sampled_from(TOPICS), st.integers(0, 2))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_random_lives(steps: list[tuple[str, int, str, int]]):
    live(steps)


@pytest.mark.parametrize("seed", range(25))
def test_long_lives(seed: int):
    """Hypothesis prefers short ones, which seldom get into trouble."""
    dice = random.Random(seed)
    live([(dice.choice(WHAT), dice.randint(0, 1), dice.choice(TOPICS), dice.randint(0, 2)) for _ in range(120)])


def live(steps: list[tuple[str, int, str, int]]) -> None:
    play = Play()
    for step in steps:
        play.do(*step)
    play.end()
    for reader in play.readers:
        payloads = [payload for _, payload in reader.got]
        for writer in play.writers:
            for topic in TOPICS:
                for qos in (0, 1, 2):
                    said = [s.payload for s in writer.said if (s.topic, s.qos) == (topic, qos)]
                    got = [p for p in payloads if p in set(said)]
                    fresh = list(dict.fromkeys(got))
                    assert fresh == [p for p in said if p in set(fresh)], "in order"
                    if min(qos, reader.qos) != 1:
                        assert got == fresh, "not twice"
            for s in writer.safe:
                if reader.name in s.readers and s.payload not in reader.waived:
                    assert s.payload in payloads, "what was acknowledged arrives"

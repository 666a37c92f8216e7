"""Random conversations of two publishers and two kept sessions, with breaks and crashes, against what must always hold.

QoS 2: each message exactly once, as the receiver counts it. QoS 1: each acknowledged message at least once.
Order per publisher, topic and QoS. Nobody gets more at once than it asked for.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel
from tests.mqtt.wire import Client, World

KEPT = {"clean": False, "session_expiry_interval": 3_600}
WINDOW = 3


class Receiver:
    """A subscriber that keeps its half of QoS 2 across connections, and acknowledges when the test says so."""

    def __init__(self, name: str, filters: tuple[str, ...], qos: int) -> None:
        self.name, self.filters, self.qos = name, filters, qos
        self.client: Client | None = None
        self.known = False
        self.unanswered: list[Publish | Pubrel] = []
        self.held: dict[int, Publish] = {}
        self.got: list[tuple[str, int, bytes, bool]] = []

    def connect(self, world: World) -> None:
        self.client = world.client()
        self.unanswered.clear()
        present = self.client.connect(self.name, receive_maximum=WINDOW, **KEPT).session_present
        assert present is self.known
        if not self.known:
            self.client.subscribe(*self.filters, qos=self.qos)
        self.known = True

    def leave(self) -> None:
        assert self.client is not None
        self.read()
        self.client.vanish()
        self.client = None

    def read(self) -> None:
        assert self.client is not None
        for packet in self.client.packets():
            assert isinstance(packet, Publish | Pubrel), packet
            self.unanswered.append(packet)
            if isinstance(packet, Publish) and packet.qos < 2:
                self.got.append((packet.topic.decode(), packet.qos, packet.payload, packet.dup))
            elif isinstance(packet, Publish) and packet.packet_id not in self.held:
                self.held[packet.packet_id] = packet
                self.got.append((packet.topic.decode(), 2, packet.payload, False))
        waiting = [p for p in self.unanswered if isinstance(p, Publish) and p.qos]
        assert len({p.packet_id for p in waiting} | set(self.held)) <= WINDOW

    def answer(self, count: int) -> None:
        assert self.client is not None
        self.read()
        now, self.unanswered = self.unanswered[:count], self.unanswered[count:]
        for packet in now:
            if isinstance(packet, Pubrel):
                self.held.pop(packet.packet_id, None)
                self.client.say(Pubcomp(packet.packet_id))
            elif packet.qos:
                self.client.say(Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))


class Sender:
    """A publisher that keeps its half too: what is not acknowledged is said again after a reconnect."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client: Client | None = None
        self.count = 0
        self.open: dict[int, Publish | Pubrel] = {}
        self.safe: list[tuple[str, int, bytes]] = []
        self.said: list[tuple[str, int, bytes]] = []
        self.texts: dict[int, tuple[str, int, bytes]] = {}

    def connect(self, world: World) -> None:
        self.client = world.client()
        self.client.connect(self.name, **KEPT)
        for packet in list(self.open.values()):
            if isinstance(packet, Publish):
                packet.dup = True
            self.client.say(packet)

    def leave(self) -> None:
        assert self.client is not None
        self.client.vanish()
        self.client = None

    def publish(self, topic: str, qos: int) -> None:
        assert self.client is not None
        self.read()
        self.count += 1
        payload = f"{self.name}{self.count}".encode()
        packet_id = next(n for n in range(1, 100) if n not in self.open) if qos else 0
        packet = Publish(topic.encode(), payload, qos, packet_id=packet_id)
        self.said.append((topic, qos, payload))
        if qos:
            self.open[packet_id] = packet
            self.texts[packet_id] = (topic, qos, payload)
        self.client.say(packet)

    def read(self) -> None:
        assert self.client is not None
        for packet in self.client.packets():
            assert isinstance(packet, Puback | Pubrec | Pubcomp), packet
            assert packet.code == 0
            waiting = self.open.get(packet.packet_id)
            if isinstance(packet, Pubrec) and isinstance(waiting, Publish):
                self.safe.append(self.texts[packet.packet_id])
                self.open[packet.packet_id] = release = Pubrel(packet.packet_id)
                self.client.say(release)
            elif isinstance(packet, Puback):
                self.safe.append(self.texts[packet.packet_id])
                del self.open[packet.packet_id]
            elif isinstance(packet, Pubcomp):
                self.open.pop(packet.packet_id, None)


class Play:
    def __init__(self) -> None:
        self.world = World(durable=True)
        self.receivers = [Receiver("r", ("a", "b"), 2), Receiver("q", ("+",), 1)]
        self.senders = [Sender("s"), Sender("t")]
        for who in (*self.receivers, *self.senders):
            who.connect(self.world)

    def do(self, what: str, at: int, topic: str, qos: int) -> None:
        sender, receiver = self.senders[at], self.receivers[at]
        if what == "publish" and sender.client is not None:
            sender.publish(topic, qos)
        elif what == "acknowledged" and sender.client is not None:
            sender.read()
        elif what == "answer" and receiver.client is not None:
            receiver.answer(qos + 1)
        elif what == "break":
            who = (sender, receiver)[qos % 2]
            who.connect(self.world) if who.client is None else who.leave()
        elif what == "time":
            self.world.advance(300)
        elif what == "shut":
            self.world.door.shut = not self.world.door.shut
            self.world.commit()
        elif what == "kill":
            for who in (*self.senders, *self.receivers):
                if who.client is not None:
                    who.read()
                who.client = None
            self.world = self.world.crash()
        self.world.check()

    def end(self) -> None:
        """Everybody comes and everything is finished."""
        self.world.door.shut = False
        self.world.commit()
        for who in (*self.receivers, *self.senders):
            if who.client is None:
                who.connect(self.world)
        before = -1
        for _ in range(200):
            for sender in self.senders:
                sender.read()
            for receiver in self.receivers:
                receiver.answer(100)
            self.world.turn()
            said = sum(len(client.transport.got) for client in self.world.clients)
            if said == before:
                break
            before = said
        assert not any(sender.open for sender in self.senders)
        for standing in self.world.realm.standings.by_client.values():
            assert not standing.flights
            assert not standing.received
            if standing.backlog is not None:
                assert standing.backlog.low == self.world.log.end()


PLACES = st.integers(0, 1)
STEP = st.tuples(
    st.sampled_from(["publish"] * 6 + ["answer"] * 4 + ["acknowledged"] * 2 + ["break"] * 2 + ["time", "shut", "kill"]),
    PLACES,
    st.sampled_from(["a", "b"]),
    st.integers(0, 2),
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_random_conversations(steps: list[tuple[str, int, str, int]]):
    play = Play()
    for step in steps:
        play.do(*step)
    play.end()
    for sender in play.senders:
        assert len(set(sender.safe)) == len(sender.safe)
    for receiver in play.receivers:
        for sender in play.senders:
            mine = [g for g in receiver.got if g[2].startswith(sender.name.encode())]
            for topic in ("a", "b"):
                for qos in (0, 1, 2):
                    said = [p for t, q, p in sender.said if (t, q) == (topic, qos)]
                    wish = min(qos, receiver.qos)
                    got = [p for t, q, p, _ in mine if t == topic and q == wish and p in set(said)]
                    fresh = list(dict.fromkeys(got))
                    assert fresh == [p for p in said if p in set(fresh)], "in order"
                    if qos == 2 and receiver.qos == 2:
                        assert got == fresh, "exactly once"
                    if qos:
                        kept = [p for t, q, p in sender.safe if (t, q) == (topic, qos)]
                        assert set(kept) <= set(fresh), "what was acknowledged arrives"
                    else:
                        assert got == fresh, "at most once"

"""QoS 0 beside what waits: it waits for no window, and overtakes nothing of its topic (§4.6)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.mqtt.packets import Packet, Puback, Pubcomp, Publish, Pubrec, Pubrel
from dragoman.broker.settings import BrokerSettings
from tests.mqtt.wire import Client, World, at, facts, pub

KEPT = {"session_expiry_interval": 1_000}


def reader(world: World, *filters: str, window: int = 1, qos: int = 1) -> Client:
    client = world.connected("s", receive_maximum=window, **KEPT)
    client.subscribe(*(filters or ("#",)), qos=qos)
    return client


def test_it_waits_behind_what_the_window_holds_back_of_its_topic_and_of_no_other():
    world = World()
    client, publisher = reader(world), world.connected("p")
    publisher.publish("a", b"1", 1)
    publisher.publish("a", b"2", 1)
    publisher.publish("a", b"3")
    publisher.publish("a", b"4", 1)
    publisher.publish("b", b"at once")
    client.expect(pub("a", b"1", 1, at(1)), pub("b", b"at once"))
    client.say(Puback(at(1)))
    client.expect(pub("a", b"2", 1, at(2)), pub("a", b"3"))
    client.say(Puback(at(2)))
    client.expect(pub("a", b"4", 1, at(3)))
    world.check()


def test_it_passes_while_only_later_ones_of_its_topic_wait():
    world = World()
    client, publisher = reader(world), world.connected("p")
    for n, qos in enumerate((1, 1, 0, 1, 1, 0, 1)):
        publisher.publish("a", b"%d" % n, qos)
    got = []
    while (packets := client.packets()) != []:
        got += [int(packet.payload) for packet in packets]
        client.say(*(Puback(packet.packet_id) for packet in packets if packet.qos))
    assert got == list(range(7))


def test_room_for_several_at_once_does_not_let_them_past_it():
    world = World()
    client, publisher = reader(world, window=2), world.connected("p")
    for n in range(12):
        publisher.publish("a", b"%d" % n, (n + 1) % 2)
    got = []
    while (packets := client.packets()) != []:
        got += [int(packet.payload) for packet in packets]
        client.say(*(Puback(packet.packet_id) for packet in packets if packet.qos))
    assert got == list(range(12))
    world.check()


def test_a_wish_of_zero_has_nothing_to_wait_for():
    world = World()
    client = reader(world, "a")
    client.subscribe("b", qos=0)
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1)
    publisher.publish("a", b"2", 1)
    publisher.publish("b", b"1", 1)
    publisher.publish("b", b"2")
    client.expect(pub("a", b"1", 1, at(1)), pub("b", b"1"), pub("b", b"2"))


def test_what_waited_while_the_client_was_away_goes_first():
    world = World()
    reader(world).disconnect()
    publisher = world.connected("p")
    publisher.publish("a", b"1", 1)
    publisher.publish("a", b"2", 1)
    client = world.client()
    assert client.connect("s", clean=False, receive_maximum=1, **KEPT).session_present
    publisher.publish("a", b"3")
    publisher.publish("b", b"nothing of this topic was ever kept")
    client.expect(pub("a", b"1", 1, at(1)), pub("b", b"nothing of this topic was ever kept"))
    client.say(Puback(at(1)))
    client.expect(pub("a", b"2", 1, at(2)), pub("a", b"3"))
    client.say(Puback(at(2)))
    publisher.publish("a", b"4")
    client.expect(pub("a", b"4"))
    world.check()


def test_it_waits_behind_a_frame_that_waits_for_its_commit():
    world = World()
    client, publisher = reader(world, qos=2), world.connected("p")
    world.door.shut = True
    publisher.publish("a", b"1", 2)
    world.commit()  # the message; the packet id of its delivery waits for the next
    publisher.publish("a", b"2")
    client.expect()
    world.door.shut = False
    world.commit()
    client.expect(pub("a", b"1", 2, 1), pub("a", b"2"))


def test_what_waits_so_is_bounded_and_its_loss_counted():
    world = World(broker=BrokerSettings(ring_bytes_max=1 << 16))
    client, publisher = reader(world), world.connected("p")
    publisher.publish("a", b"kept", 1)
    publisher.publish("a", b"kept", 1)
    texts = [b"%d" % n + bytes(10_000) for n in range(10)]
    for text in texts:
        publisher.publish("a", text)
    client.expect(pub("a", b"kept", 1, at(1)))
    client.say(Puback(at(1)))
    kept, *others = client.packets()
    assert facts(kept) == facts(pub("a", b"kept", 1, at(2)))
    assert [packet.payload for packet in others if isinstance(packet, Publish)] == texts[-len(others) :]
    assert 0 < len(others) == 10 - world.metrics.lost < 10


def test_the_fast_way_is_open_again_once_nothing_waits():
    world = World()
    client, publisher = reader(world, qos=2), world.connected("p")
    session = next(iter(world.realm.standings.by_client["s"].connection for _ in "1"))
    assert session is not None
    straight = session.out_form
    publisher.publish("a", b"1", 1)
    publisher.publish("a", b"2", 1)
    assert session.out_form != straight
    client.say(Puback(at(1)), Puback(at(2)))
    client.packets()
    client.say(Puback(at(2)))
    assert session.out_form == straight


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from("ab"), st.integers(0, 2)),
        st.tuples(st.just("answer"), st.just(""), st.integers(1, 3)),
        st.tuples(st.sampled_from(("shut", "commit", "open", "return")), st.just(""), st.just(0)),
    ),
    max_size=40,
)


def _answer(packet: Publish | Pubrel) -> Packet:
    if isinstance(packet, Pubrel):
        return Pubcomp(packet.packet_id)
    return Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id)


class Reader:
    """A kept session that answers when it is told to, and takes what it has had for a repetition."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = reader(world, "a", "b", window=2, qos=2)
        self.open: list[Publish | Pubrel] = []
        self.got: dict[str, list[int]] = {"a": [], "b": []}

    def read(self) -> None:
        for packet in self.client.packets():
            assert isinstance(packet, Publish | Pubrel)
            if not isinstance(packet, Publish) or packet.qos:
                self.open.append(packet)
            if isinstance(packet, Publish) and int(packet.payload) not in self.got[packet.topic.decode()]:
                self.got[packet.topic.decode()].append(int(packet.payload))

    def answer(self, most: int) -> None:
        self.read()
        now, self.open = self.open[:most], self.open[most:]
        self.client.say(*(_answer(packet) for packet in now))
        self.read()

    def come_back(self) -> None:
        self.read()
        self.client.vanish()
        self.open.clear()
        self.client = self.world.client()
        self.client.connect("s", clean=False, receive_maximum=2, **KEPT)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(steps=STEPS)
def test_each_topic_arrives_in_the_order_it_was_said_whatever_the_qos(steps: list[tuple[str, str, int]]):
    world = World()
    s, publisher = Reader(world), world.connected("p")
    said: dict[str, list[int]] = {"a": [], "b": []}
    sure: dict[str, list[int]] = {"a": [], "b": []}
    for n, (what, topic, number) in enumerate(steps):
        if what == "say":
            publisher.publish(topic, b"%d" % n, number, packet_id=(n + 1) * (number > 0))
            said[topic].append(n)
            if number:
                sure[topic].append(n)
        elif what == "answer":
            s.answer(number)
        elif what == "return":
            s.come_back()
        else:
            world.door.shut = what == "shut" or (what == "commit" and world.door.shut)
            world.commit()
    world.door.shut = False
    world.commit()
    for _ in range(200):
        s.answer(10)
    for topic, got in s.got.items():
        assert got == [n for n in said[topic] if n in got]
        assert set(sure[topic]) <= set(got)
    world.check()

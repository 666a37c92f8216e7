"""Topics: declared, with partitions; read merged and written by key by those who know no partitions."""

from __future__ import annotations

from mesh_fakes import ALICE, BOB, World, bundle_of

from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.principal import Principal
from dragoman.broker.retention import Limits
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.subscription import Start
from dragoman.broker.topics import Topic
from dragoman.routing.message import Envelope, Message
from dragoman.routing.partition import partition_of
from dragoman.routing.refusals import Reason, Refusal


def made(world: World, name: str = "orders", **options: object) -> Topic:
    topic = world.broker.topics.create(world.party("owner"), name, **options)  # type: ignore[arg-type]
    assert isinstance(topic, Topic), topic
    world.commit()
    return topic


def keyed(world: World, name: str, key: bytes | None, payload: bytes, agent: str = "alice") -> Message:
    message = Message(name, payload, 1, "", False, Envelope(key=key))
    ticket = world.broker.publish(world.party(agent), message)
    assert not isinstance(ticket, Refusal), ticket
    return message


def test_a_topic_is_made_once_and_found():
    world = World()
    topic = made(world, limits=Limits(ms=1_000), options={"retention.ms": "1000"})
    assert world.broker.topics.find("orders") == topic
    assert [t.name for t in world.broker.topics.all()] == ["orders"]
    again = world.broker.topics.create(world.party(), "orders")
    assert isinstance(again, Refusal)
    assert again.reason is Reason.CONFLICT


def test_a_channel_that_keeps_less_becomes_one_and_keeps_its_number():
    world = World()
    world.party("alice").say("orders", b"x")
    number = world.channel("orders").number
    assert world.broker.topics.find("orders") is None
    assert made(world).number == number


def test_topics_and_partitions_and_options_survive_a_crash():
    world = World()
    topic = made(world, partitions=3, options={"a": "b"})
    for partition in topic.partitions:
        partition.append_bundle(bundle_of(partition, b"%d" % partition.partition))
    world.commit()
    after = world.after_crash()
    again = after.broker.topics.find("orders")
    assert again is not None
    assert [p.number for p in again.partitions] == [p.number for p in topic.partitions]
    assert [p.partition for p in again.partitions] == [0, 1, 2]
    assert [p.visible for p in again.partitions] == [1, 1, 1]
    assert again.options == {"a": "b"}
    after.check()


def test_who_knows_no_partitions_reads_all_of_them():
    world = World()
    topic = made(world, partitions=3)
    exact, wild = world.party("exact"), world.party("wild")
    exact.read("orders")
    wild.read("#")
    durable = world.durable(b"d", "orders")
    for index, partition in enumerate(topic.partitions):
        partition.append_bundle(bundle_of(partition, b"%d" % index))
    world.commit()
    for got in (exact.payloads, wild.payloads, durable.payloads):
        assert sorted(p for p in got if p) == [b"0", b"1", b"2"]
    late = world.party("late")
    late.read("orders", start=Start.EARLIEST)
    world.loop.run()
    assert sorted(p for p in late.payloads if p) == [b"0", b"1", b"2"]


def test_messages_go_to_the_partition_of_their_key_or_of_their_sender():
    world = World()
    topic = made(world, partitions=4)
    for n in range(32):
        key = b"key-%d" % n
        message = keyed(world, "orders", key, b"x")
        assert topic.partitions[partition_of(key, "", 4)].number == message.number
    spread = {keyed(world, "orders", b"key-%d" % n, b"x").number for n in range(32)}
    assert len(spread) == 4, "keys do not all fall into one"
    mine = {keyed(world, "orders", None, b"x", "bob").number for _ in range(8)}
    assert len(mine) == 1, "a sender's order is kept"


def test_a_retained_value_is_the_topics_whatever_its_key():
    world = World()
    made(world, partitions=4)
    alice = world.party("alice")
    for n in range(8):
        alice.say("orders", b"%d" % n, wish=1, retain=True)
    world.commit()
    held = world.broker.retained_of("orders")
    assert held is not None
    assert held.payload == b"7"


def test_partitions_grow_and_never_get_fewer():
    world = World()
    topic = made(world)
    owner = world.party("owner2")
    assert world.broker.topics.grow(owner, topic, 3) is None
    grown = world.broker.topics.find("orders")
    assert grown is not None
    assert len(grown.partitions) == 3
    refusal = world.broker.topics.grow(owner, grown, 2)
    assert isinstance(refusal, Refusal)
    world.commit()


def test_too_many_partitions_are_refused_with_the_setting_named():
    world = World(BrokerSettings(partitions_max=2))
    refusal = world.broker.topics.create(world.party(), "orders", partitions=3)
    assert isinstance(refusal, Refusal)
    assert "partitions_max" in refusal.detail
    assert world.broker.channels.find("orders") is None


def test_a_reader_that_came_before_the_partitions_reads_them_too():
    world = World()
    reader = world.party("reader")
    reader.read("orders")
    topic = made(world, partitions=2)
    topic.partitions[1].append_bundle(bundle_of(topic.partitions[1], b"x"))
    world.commit()
    assert reader.payloads == [b"x"]


def test_a_deleted_topic_is_gone_with_all_it_kept_and_its_subscribers_go_on():
    world = World()
    topic = made(world, partitions=2, options={"a": "b"})
    reader = world.party("reader")
    subscription = reader.read("orders")
    topic.partitions[1].append_bundle(bundle_of(topic.partitions[1], b"old"))
    world.party("alice").say("orders", b"kept", wish=1, retain=True)
    world.commit()
    assert not isinstance(world.broker.topics.delete(world.party("owner2"), topic), Refusal)
    world.commit()
    assert world.broker.topics.find("orders") is None
    assert world.broker.retained_of("orders") is None
    assert world.channel("orders").number != topic.number
    world.party("bob").say("orders", b"new")
    assert reader.payloads[-1] == b"new"
    world.broker.unsubscribe(subscription)
    world.check()
    again = world.after_crash().broker
    assert again.topics.find("orders") is None


def test_a_truncated_partition_begins_later():
    world = World()
    topic = made(world)
    for n in range(4):
        topic.channel.append_bundle(bundle_of(topic.channel, b"%d" % n, b"x"))
    world.commit()
    assert world.broker.topics.truncate(world.party("owner2"), topic.channel, 5) is None
    world.commit()
    assert topic.channel.oldest == 5
    late = world.party("late")
    late.read("orders", start=Start.EARLIEST)
    world.loop.run()
    assert late.offsets == [5, 6, 7]


def test_who_may_not_create_changes_nothing():
    rules = (RuleSettings(effect="deny", who=("bob",), actions=("create",)),)
    world = World(gate=GateSettings(rules=rules))
    topic = made(world)
    bob = world.party("bob", BOB)
    assert ALICE is not BOB
    for refusal in (
        world.broker.topics.create(bob, "other"),
        world.broker.topics.grow(bob, topic, 2),
        world.broker.topics.change(bob, topic, {}, Limits()),
        world.broker.topics.truncate(bob, topic.channel, 0),
        world.broker.topics.delete(bob, topic),
    ):
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.NOT_AUTHORIZED


def test_only_who_made_a_topic_or_an_administrator_changes_it():
    world = World()
    topic = made(world, partitions=2)
    bob, root = world.party("bob", BOB), world.party("root", Principal("root", admin=True))
    for refusal in (
        world.broker.topics.grow(bob, topic, 3),
        world.broker.topics.change(bob, topic, {}, Limits()),
        world.broker.topics.truncate(bob, topic.partitions[1], 0),
        world.broker.topics.delete(bob, topic),
    ):
        assert isinstance(refusal, Refusal)
        assert "somebody else" in refusal.detail
    assert world.broker.topics.change(root, topic, {"a": "b"}, Limits()) is None
    assert not isinstance(world.broker.topics.delete(root, topic), Refusal)


def test_what_the_mesh_keeps_for_itself_is_no_topic():
    world = World()
    refusal = world.broker.topics.create(world.party(), "$mail/x")
    assert isinstance(refusal, Refusal)
    verb = world.broker.topics.create(world.party(), "mesh/answer/x")
    assert isinstance(verb, Refusal)

"""``$queue/…`` and ``$stream/…``: work that is shared and kept, and what was said before one asked."""

from __future__ import annotations

from typing import Any

import pytest

from dragoman.adapters.mqtt import kept_filters
from dragoman.adapters.mqtt.kept_filters import Asked
from dragoman.adapters.mqtt.packets import (
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from dragoman.adapters.mqtt.properties import NO_PROPERTIES, Properties
from dragoman.broker.channel import Keep
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_groups import GroupSettings
from dragoman.broker.streams import LATEST
from dragoman.routing.refusals import Refusal
from tests.mqtt.wire import Client, World, pub


def asked(text: str, offset: str | None = None) -> Asked | Refusal | None:
    given = Properties(user_properties=[("other", "1"), ("stream-offset", offset)]) if offset else NO_PROPERTIES
    return kept_filters.parse(text, Subscribe(1, [Subscription(text)], given))


def subscribe(client: Client, text: str, qos: int = 1, offset: str | None = None, identifier: int = 0) -> list[int]:
    """Subscribes and reads the SUBACK's codes; what came after it stays to be read."""
    given = Properties(
        user_properties=[("stream-offset", offset)] if offset else [],
        subscription_identifiers=[identifier] if identifier else [],
    )
    client.say(Subscribe(1, [Subscription(text, qos)], given))
    (packet,) = client.packets(1)
    assert isinstance(packet, Suback), packet
    return packet.codes


def texts(client: Client, *, acknowledge: bool = True) -> list[str]:
    """The payloads that came, acknowledged."""
    found = [packet for packet in client.packets() if isinstance(packet, Publish)]
    if acknowledge:
        client.say(*(Puback(packet.packet_id) for packet in found if packet.qos == 1))
    return [packet.payload.decode() for packet in found]


# -- what is asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "offset", "meant"),
    [
        ("$queue/jobs", None, Asked("jobs", None, 0)),
        ("$queue/jobs/a/+/#", None, Asked("jobs", "a/+/#", 0)),
        ("$q/a/b", None, Asked("a%2Fb", "a/b", 0)),
        ("$stream/plant.line1", None, Asked(None, "plant/line1", LATEST)),
        ("$stream/s/a/+", "earliest", Asked(None, "a/+", 0)),
        ("$stream/s/a/+", "latest", Asked(None, "a/+", LATEST)),
        ("$stream/s/a", "1700000000000001", Asked(None, "a", 1_700_000_000_001)),
        ("$s/earliest/a/b", None, Asked(None, "a/b", 0)),
        ("$s/1700000000000000/#", "latest", Asked(None, "#", 1_700_000_000_000)),
        ("$share/g/a", None, None),
        ("$queues/a", None, None),
        ("$stream", None, Refusal),
        ("$queue", None, Refusal),
        ("$queue/", None, Refusal),
        ("$queue/a/", None, Refusal),
        ("$q/", None, Refusal),
        ("$s/earliest", None, Refusal),
        ("$s/tomorrow/a", None, Refusal),
        ("$s/-1/a", None, Refusal),
        ("$stream/s/a", "yesterday", Refusal),
        ("$stream/s/a", "9" * 19, Refusal),
        ("$stream/a+b", None, Refusal),
        ("$queue/j/$share/g/a", None, Refusal),
        ("$queue/j/a/#/b", None, Refusal),
    ],
)
def test_what_a_filter_means(text: str, offset: str | None, meant: Any) -> None:
    found = asked(text, offset)
    assert isinstance(found, Refusal) if meant is Refusal else found == meant


def test_what_it_cannot_mean_is_0x8f_and_the_connection_goes_on() -> None:
    client = World().connected("c")
    for text in ("$queue/", "$s/tomorrow/a", "$stream/s/a/#/b"):
        assert subscribe(client, text) == [0x8F], text
    old = World().connected("o", 4)
    assert old.subscribe("$s/never/a", qos=1) == [0x80]


# -- queues ------------------------------------------------------------------------------------------


def test_each_message_is_for_one_worker_and_waits_when_there_is_none() -> None:
    world = World()
    publisher, first = world.connected("p"), world.connected("w1")
    assert subscribe(first, "$queue/jobs/work/#", qos=2) == [1], "at least once is the best there is"
    first.disconnect()
    for n in range(4):
        publisher.publish(f"work/{n}", str(n).encode(), 1, packet_id=n + 1)
    second, third = world.connected("w2"), world.connected("w3")
    assert subscribe(second, "$queue/jobs") == [1], "there is one, so its filter need not be said"
    assert texts(second) == ["0", "1", "2", "3"]
    assert subscribe(third, "$queue/jobs/work/#") == [1]
    for n in range(4, 8):
        publisher.publish(f"work/{n}", str(n).encode(), 1, packet_id=n + 1)
    shared = (texts(second), texts(third))
    assert sorted([*shared[0], *shared[1]]) == ["4", "5", "6", "7"]
    assert all(len(part) == 2 for part in shared), "the least busy is next"


def test_a_queue_that_is_not_there_or_is_another_is_refused() -> None:
    world = World()
    client = world.connected("c")
    assert subscribe(client, "$queue/jobs") == [0x83]
    assert subscribe(client, "$queue/jobs/a") == [1]
    assert subscribe(client, "$queue/jobs/b") == [0x83]


def test_what_a_worker_leaves_unacknowledged_goes_to_another_at_once_and_dies_in_the_end() -> None:
    world = World(groups=GroupSettings(deliveries_max=2))
    publisher, first, second = (world.connected(name) for name in ("p", "w1", "w2"))
    subscribe(first, "$queue/jobs/a")
    publisher.publish("a", b"poison", 1)
    assert texts(first, acknowledge=False) == ["poison"]
    subscribe(second, "$queue/jobs")
    first.vanish()
    assert texts(second, acknowledge=False) == ["poison"]
    second.vanish()
    third = world.connected("w3")
    subscribe(third, "$queue/jobs")
    assert texts(third) == []
    reader = world.connected("r")
    assert subscribe(reader, "$stream/dead.jobs", offset="earliest") == [1]
    assert texts(reader) == ["poison"]


def test_what_a_worker_refuses_comes_again_after_the_backoff() -> None:
    world = World(groups=GroupSettings(backoff_ms=1_000, backoff_max_ms=1_000))
    publisher, worker = world.connected("p"), world.connected("w")
    subscribe(worker, "$queue/jobs/a")
    publisher.publish("a", b"x", 1)
    (packet,) = worker.packets()
    assert isinstance(packet, Publish)
    worker.say(Puback(packet.packet_id, 0x80))
    world.loop.advance(900)
    assert texts(worker) == []
    world.loop.advance(200)
    assert texts(worker) == ["x"]
    world.loop.advance(60_000)
    assert texts(worker) == []


def test_a_worker_takes_what_its_window_holds_and_others_the_rest() -> None:
    world = World()
    publisher = world.connected("p")
    small = world.connected("w1", receive_maximum=1)
    subscribe(small, "$queue/jobs/a")
    for n in range(3):
        publisher.publish("a", str(n).encode(), 1, packet_id=n + 1)
    (held,) = small.packets()
    assert isinstance(held, Publish)
    wide = world.connected("w2")
    subscribe(wide, "$queue/jobs")
    assert texts(wide) == ["1", "2"]
    small.say(Puback(held.packet_id))
    publisher.publish("a", b"3", 1)
    assert texts(small) + texts(wide) == ["3"]


def test_who_only_unsubscribes_may_still_acknowledge_what_it_holds() -> None:
    world = World()
    publisher, worker = world.connected("p"), world.connected("w")
    subscribe(worker, "$queue/jobs/a")
    publisher.publish("a", b"1", 1)
    (packet,) = worker.packets()
    assert isinstance(packet, Publish)
    worker.unsubscribe("$queue/jobs/a")
    publisher.publish("a", b"2", 1)
    assert len(worker.packets()) == 1, "the UNSUBACK"
    worker.say(Puback(packet.packet_id))
    worker.vanish()
    other = world.connected("o")
    subscribe(other, "$queue/jobs")
    assert texts(other) == ["2"]


def test_what_asks_the_mesh_to_do_something_is_no_queue_and_not_shared() -> None:
    world = World()
    client = world.connected("c")
    for kind in ("$share/g", "$queue/q", "$stream/s"):
        assert subscribe(client, f"{kind}/mesh/serve/add/+") == [0x8F]
    assert list(world.broker.groups.list()) == []


def test_a_worker_that_rules_deny_since_gets_nothing_more_though_the_owner_may_read() -> None:
    world = World()
    owner, worker = world.connected("o"), world.connected("w")
    subscribe(owner, "$queue/jobs/for/w")
    subscribe(worker, "$queue/jobs")
    owner.disconnect()
    world.broker.gate.replace(GateSettings(rules=(RuleSettings("deny", actions=("subscribe",), filters=("for/%c",)),)))
    world.connected("p").publish("for/w", b"1", 1)
    assert texts(worker) == []
    world.broker.gate.replace(GateSettings())
    world.broker.groups.wake()
    assert texts(worker) == ["1"], "it has waited for somebody who may read it"


def test_each_worker_gets_only_what_it_may_read_and_the_rest_waits() -> None:
    rules = (RuleSettings(effect="deny", actions=("read",), filters=("work/not-%c",)),)
    world = World(gate=GateSettings(rules=rules))
    maker, publisher, first = (world.connected(name) for name in ("m", "p", "w1"))
    subscribe(maker, "$queue/jobs/work/+")
    maker.disconnect()
    subscribe(first, "$queue/jobs")
    publisher.publish("work/not-w1", b"for others", 1, packet_id=1)
    publisher.publish("work/any", b"for all", 1, packet_id=2)
    assert texts(first) == ["for all"], "what it may not read does not stand in the way"
    second = world.connected("w2")
    subscribe(second, "$queue/jobs")
    assert texts(second) == ["for others"]


def test_what_is_too_large_for_one_worker_is_for_another_and_for_nobody_a_dead_letter() -> None:
    world = World(groups=GroupSettings(deliveries_max=2, backoff_ms=0, backoff_max_ms=0))
    publisher, small = world.connected("p"), world.connected("w1", maximum_packet_size=64)
    subscribe(small, "$queue/jobs/a")
    large = world.connected("w2")
    subscribe(large, "$queue/jobs")
    publisher.publish("a", bytes(200), 1, packet_id=1)
    assert texts(large) == [bytes(200).decode()]
    large.disconnect()
    publisher.publish("a", bytes(200), 1, packet_id=2)
    publisher.publish("a", b"fits", 1, packet_id=3)
    assert texts(small) == ["fits"]
    reader = world.connected("r")
    subscribe(reader, "$stream/dead.jobs", offset="earliest")
    assert texts(reader) == [bytes(200).decode()]


def test_a_queue_and_what_it_holds_survive_a_crash() -> None:
    world = World(durable=True)
    publisher, worker = world.connected("p"), world.connected("w", session_expiry_interval=600)
    subscribe(worker, "$queue/jobs/a")
    for n in range(3):
        publisher.publish("a", str(n).encode(), 1, packet_id=n + 1)
    first, *_ = worker.packets()
    assert isinstance(first, Publish)
    worker.say(Puback(first.packet_id))
    world.loop.advance(1_000)
    world = world.crash()
    again = world.client()
    assert again.connect("w", clean=False, session_expiry_interval=600).session_present
    assert texts(again) == ["1", "2"], "it works there still, and what was acknowledged does not come again"


def test_a_worker_at_most_once_holds_nothing() -> None:
    world = World()
    publisher, worker = world.connected("p"), world.connected("w")
    assert subscribe(worker, "$queue/jobs/a", qos=0) == [0]
    publisher.publish("a", b"1", 1)
    worker.expect(pub("a", b"1"))
    worker.vanish()
    other = world.connected("o")
    subscribe(other, "$queue/jobs")
    assert texts(other) == []


def test_a_queue_that_is_made_anew_has_nothing_of_the_old_one() -> None:
    world = World()
    publisher, old = world.connected("p"), world.connected("old")
    subscribe(old, "$queue/jobs/a")
    (maker,) = (session for session in world.broker.sessions() if session.agent == "old")
    assert world.broker.groups.close(maker, "jobs") is None
    new = world.connected("new")
    assert subscribe(new, "$queue/jobs/a") == [1]
    for n in range(4):
        publisher.publish("a", b"%d" % n, 1, packet_id=n + 1)
    assert (texts(old), texts(new)) == ([], ["0", "1", "2", "3"])
    old.vanish()
    third = world.connected("third")
    subscribe(third, "$queue/jobs")
    for n in range(4, 6):
        publisher.publish("a", b"%d" % n, 1)
    assert sorted([*texts(new), *texts(third)]) == ["4", "5"]
    third.vanish()
    publisher.publish("a", b"6", 1)
    assert texts(new) == ["6"], "who leaves the old one takes nothing of the new with it"


@pytest.mark.parametrize("form", ["$share/g/a", "$queue/jobs/a"])
def test_what_is_too_large_for_one_and_goes_to_another_is_not_counted_as_dropped(form: str) -> None:
    world = World()
    publisher, small = world.connected("p"), world.connected("w1", maximum_packet_size=64)
    subscribe(small, form)
    large = world.connected("w2")
    subscribe(large, form)
    for n in range(3):
        publisher.publish("a", bytes(200), 1, packet_id=n + 1)
    assert (texts(small), texts(large)) == ([], [bytes(200).decode()] * 3)
    assert "larger-than-receiver-takes" not in world.metrics.dropped


@pytest.mark.parametrize(("first", "second"), [("$queue/jobs/a", "$queue/jobs"), ("$q/a", "$queue/a/a")])
def test_a_queue_in_two_spellings_is_left_with_the_last(first: str, second: str) -> None:
    world = World()
    publisher, worker = world.connected("p"), world.connected("w")
    subscribe(worker, first, identifier=1)
    subscribe(worker, second, qos=0, identifier=2)
    publisher.publish("a", b"0", 1)
    worker.expect(pub("a", b"0", subscription_identifiers=[2]))
    worker.unsubscribe(second)
    worker.packets()
    publisher.publish("a", b"1", 1)
    (packet,) = worker.packets()
    assert isinstance(packet, Publish)
    assert (packet.qos, packet.properties) == (1, Properties(subscription_identifiers=[1]).encode())
    worker.say(Puback(packet.packet_id))
    worker.unsubscribe(first)
    worker.packets()
    publisher.publish("a", b"2", 1)
    assert texts(worker) == []


# -- streams -----------------------------------------------------------------------------------------


def kept(world: World, name: str = "log/a") -> Client:
    """A publisher of a channel that keeps all, with three messages said a second apart."""
    publisher = world.connected("p")
    session = next(iter(world.broker.sessions()))
    assert not isinstance(world.broker.declare(session, name, Keep.ALL), Refusal)
    for n in range(3):
        publisher.publish(name, str(n).encode(), 1, packet_id=n + 1)
        world.loop.advance(1_000)
    return publisher


@pytest.mark.parametrize("text", ["$stream/log.a", "$stream/any/log/+", "$stream/any/log/a", "$s/earliest/log/a"])
def test_from_the_beginning_and_then_what_comes(text: str) -> None:
    world = World()
    publisher = kept(world)
    reader = world.connected("r")
    assert subscribe(reader, text, offset="earliest", identifier=7) == [1]
    found = reader.packets()
    assert [packet.payload for packet in found if isinstance(packet, Publish)] == [b"0", b"1", b"2"]
    assert all(packet.properties == Properties(subscription_identifiers=[7]).encode() for packet in found)  # type: ignore[union-attr]
    publisher.publish("log/a", b"3", 1)
    assert texts(reader)[-1] == "3"


def test_latest_is_what_it_begins_at_unless_something_else_is_said() -> None:
    world = World()
    publisher = kept(world)
    reader = world.connected("r")
    subscribe(reader, "$stream/log.a")
    assert texts(reader) == []
    publisher.publish("log/a", b"3", 1)
    assert texts(reader) == ["3"]


def test_from_a_time() -> None:
    world = World()
    began_ms = world.clock.now_ms()
    kept(world)
    reader = world.connected("r", 4)
    reader.subscribe(f"$s/{(began_ms + 1_000) * 1_000}/log/a", qos=1)
    assert texts(reader) == ["1", "2"]
    after = world.connected("r2", 4)
    after.subscribe(f"$s/{(began_ms + 1_000) * 1_000 + 1}/log/a", qos=1)
    assert texts(after) == ["2"]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_it_obeys_the_window_of_its_client(qos: int) -> None:
    world = World()
    kept(world)
    reader = world.connected("r", receive_maximum=1)
    subscribe(reader, "$stream/log.a", qos=qos, offset="earliest")
    got = []
    for _ in range(9):
        for packet in reader.packets():
            if isinstance(packet, Publish):
                got.append(packet.payload)
                if packet.qos == 1:
                    reader.say(Puback(packet.packet_id))
                elif packet.qos == 2:
                    reader.say(Pubrec(packet.packet_id))
            elif isinstance(packet, Pubrel):
                reader.say(Pubcomp(packet.packet_id))
    assert got == [b"0", b"1", b"2"]


def test_a_kept_session_reads_a_stream_as_any_other_and_has_none_when_it_is_back() -> None:
    world = World()
    publisher = kept(world)
    reader = world.connected("r", session_expiry_interval=600)
    reader.subscribe("log/b", qos=1)
    subscribe(reader, "$stream/log.a", offset="earliest")
    assert texts(reader) == ["0", "1", "2"]
    reader.vanish()
    publisher.publish("log/a", b"3", 1)
    publisher.publish("log/b", b"b", 1)
    again = world.client()
    assert again.connect("r", clean=False, session_expiry_interval=600).session_present
    assert texts(again) == ["b"]
    subscribe(again, "$stream/log.a", offset="earliest")
    assert texts(again) == ["0", "1", "2", "3"]


def test_beside_an_ordinary_subscription_it_brings_its_own() -> None:
    world = World()
    publisher = kept(world)
    reader = world.connected("r")
    reader.subscribe("log/a", qos=1, identifier=1)
    subscribe(reader, "$stream/log.a", offset="earliest", identifier=2)
    assert texts(reader) == ["0", "1", "2"]
    publisher.publish("log/a", b"3", 1)
    last = [packet.properties for packet in reader.packets() if isinstance(packet, Publish)]
    assert sorted(last) == [Properties(subscription_identifiers=[n]).encode() for n in (1, 2)]


def test_asked_again_it_begins_again_and_unsubscribed_it_is_over() -> None:
    world = World()
    publisher = kept(world)
    reader = world.connected("r")
    for _ in range(2):
        subscribe(reader, "$stream/log.a", offset="earliest")
        assert texts(reader) == ["0", "1", "2"]
    reader.unsubscribe("$stream/log.a")
    reader.packets()
    publisher.publish("log/a", b"3", 1)
    assert texts(reader) == []
    reader.unsubscribe("$stream/log.a")
    (packet,) = reader.packets()
    assert packet.codes == [0x11]  # type: ignore[union-attr]


def test_what_may_not_be_read_is_not_in_it() -> None:
    world = World(gate=GateSettings(rules=(RuleSettings(effect="deny", actions=("read",), filters=("log/a",)),)))
    kept(world)
    publisher = world.connected("q")
    publisher.publish("log/b", b"b", 1)
    reader = world.connected("r")
    assert subscribe(reader, "$stream/log.a", offset="earliest") == [0x87]
    assert subscribe(reader, "$stream/any/log/+", offset="earliest") == [1]
    assert texts(reader) == ["b"]
    assert subscribe(reader, "$stream/any/mesh/me/in", offset="earliest") == [0x8F], "verbs keep nothing"


def test_streams_count_among_the_subscriptions_of_a_session() -> None:
    world = World(broker=BrokerSettings(subscriptions_per_session_max=2))
    reader = world.connected("r")
    assert [subscribe(reader, f"$stream/s{n}") for n in range(3)] == [[1], [1], [0x97]]
    assert subscribe(reader, "$stream/s0") == [1]


def test_a_stream_that_is_unsubscribed_before_its_suback_is_out_never_reads() -> None:
    world = World()
    publisher = kept(world)
    reader = world.connected("r", session_expiry_interval=600)
    asking = Subscribe(1, [Subscription("$s/earliest/log/#", 1)], NO_PROPERTIES)
    reader.say(asking, Unsubscribe(2, ["$s/earliest/log/#"]))
    publisher.publish("log/a", b"3", 1)
    assert texts(reader) == []
    assert not world.broker.core.filters.match("log/a")
    reader.say(asking)
    reader.vanish()
    assert not world.broker.core.filters.match("log/a"), "nor when its connection ended before"


def test_a_stream_that_is_asked_for_twice_in_one_breath_is_one() -> None:
    world = World()
    publisher = kept(world)
    reader = world.connected("r", session_expiry_interval=600)
    reader.say(Subscribe(1, [Subscription("$s/earliest/log/#", 1)] * 2, NO_PROPERTIES))
    assert texts(reader) == ["0", "1", "2"]
    publisher.publish("log/a", b"3", 1)
    assert texts(reader) == ["3"]
    reader.vanish()
    assert not world.broker.core.filters.match("log/a")


def test_streams_whose_connection_ends_before_the_suback_is_safe_never_read() -> None:
    world = World(durable=True)
    reader = world.connected("r", session_expiry_interval=600)
    world.door.shut = True
    reader.say(Subscribe(1, [Subscription("$s/earliest/log/#", 1), Subscription("b", 1)], NO_PROPERTIES))
    reader.vanish()
    world.door.shut = False
    world.commit()
    assert not world.broker.core.filters.match("log/a")

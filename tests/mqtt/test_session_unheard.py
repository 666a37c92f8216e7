"""PUBACK and PUBREC 0x10: who publishes where nobody listens is told so (§3.4.2.1, §3.5.2.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dragoman.adapters.mqtt.packets import Puback, Pubcomp, Pubrec, Pubrel
from dragoman.broker.channel import Keep
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.principal import EMBEDDED
from dragoman.broker.subscription import Subscription
from tests.mqtt.wire import Client, World

NOBODY = 0x10
KEPT = {"clean": False, "session_expiry_interval": 1_000}


def heard(client: Client, topic: str = "a/b", *, retain: bool = False) -> bool:
    """Publishes at QoS 1 and 2, and looks what the answers say."""
    client.publish(topic, b"x", 1, packet_id=101, retain=retain)
    client.publish(topic, b"x", 2, packet_id=102, retain=retain)
    puback, pubrec = [p for p in client.packets() if isinstance(p, Puback | Pubrec)]
    client.say(Pubrel(102))
    assert next(p for p in client.packets() if isinstance(p, Pubcomp)).code == 0
    assert puback.code == pubrec.code
    assert puback.code in (0, NOBODY)
    return puback.code == 0


@pytest.mark.parametrize("filter_", ["a/b", "a/+", "#", "$share/g/a/#", "$stream/s/a/+"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_from_the_first_subscription_to_the_last(filter_: str, qos: int):
    world = World()
    publisher, reader, other = (world.connected(name) for name in "pro")
    assert not heard(publisher)
    reader.subscribe(filter_, qos=qos)
    assert heard(publisher)
    other.subscribe(filter_, qos=qos)
    reader.unsubscribe(filter_)
    assert heard(publisher)
    other.vanish()
    assert not heard(publisher)
    assert not heard(publisher, "a")  # a name never seen before


def test_the_publisher_itself_listens():
    client = World().connected("c")
    client.subscribe("a/b", qos=0)
    assert heard(client)
    client.unsubscribe("a/b")
    assert not heard(client)


def test_a_value_that_is_retained_has_no_listener_yet():
    world = World()
    publisher = world.connected("p")
    assert not heard(publisher, retain=True)
    world.connected("r").subscribe("a/b", qos=1)
    assert heard(publisher, retain=True)


def test_a_kept_session_that_is_away_listens_through_a_crash_until_it_ends():
    world = World(durable=True)
    reader = world.connected("r", **KEPT)
    reader.subscribe("a/+", qos=1)
    reader.vanish()
    assert heard(world.connected("p"))
    world = world.crash()
    publisher = world.connected("p")
    assert heard(publisher)
    world.advance(1_001_000)
    assert not heard(publisher)


def test_what_a_kept_session_gets_only_while_it_is_here_it_does_not_hear_while_it_is_away():
    world = World()
    reader, publisher = world.connected("r", **KEPT), world.connected("p")
    reader.subscribe("a/b", qos=0)
    reader.vanish()
    assert not heard(publisher)


def test_a_queue_listens_while_nobody_works():
    world = World()
    worker, publisher = world.connected("w"), world.connected("p")
    worker.subscribe("$queue/jobs/a/#", qos=1)
    worker.vanish()
    assert heard(publisher)


def test_a_share_of_kept_sessions_listens_while_all_are_away():
    world = World()
    member, publisher = world.connected("m", **KEPT), world.connected("p")
    member.subscribe("$share/g/a/#", qos=1)
    member.vanish()
    assert heard(publisher)


def test_who_may_not_receive_it_does_not_listen():
    deny = RuleSettings(effect="deny", actions=("receive",), filters=("a/b",))
    world = World(gate=GateSettings(rules=(deny,)))
    reader, publisher = world.connected("r"), world.connected("p")
    reader.subscribe("#", qos=1)
    assert not heard(publisher)
    assert heard(publisher, "a/c")


def test_readers_of_other_protocols_count():
    world = World()
    publisher = world.connected("p")
    assert not heard(publisher)
    session = InnerSession(EMBEDDED, "sse", lambda feed, message: True)
    world.broker.attach(session)
    subscription = world.broker.subscribe(session, "a/#")
    assert isinstance(subscription, Subscription)
    assert heard(publisher)
    world.broker.unsubscribe(subscription)
    assert not heard(publisher)


def test_a_fetch_that_waits_counts():
    world = World()
    publisher = world.connected("p")
    assert not heard(publisher)
    watcher: Callable[[object], object] = lambda channel: None  # noqa: E731
    world.broker.channels.by_name["a/b"].watch(watcher)
    assert heard(publisher)
    world.broker.channels.by_name["a/b"].unwatch(watcher)
    assert not heard(publisher)


def test_a_channel_that_keeps_all_is_read_by_who_comes_later():
    world = World()
    publisher = world.connected("p")
    assert not heard(publisher)
    session = InnerSession(EMBEDDED, "owner", lambda feed, message: True)
    world.broker.attach(session)
    world.broker.declare(session, "a/b", Keep.ALL)
    assert heard(publisher)


def test_before_5_there_is_no_word_for_it():
    client = World().connected("c", 4)
    client.publish("a", b"x", 1, packet_id=1)
    client.publish("a", b"x", 2, packet_id=2)
    client.expect(Puback(1), Pubrec(2))


def test_answers_stay_in_order_when_some_wait_for_the_disk():
    world = World()
    world.door.shut = True
    client = world.connected("c")
    client.publish("kept", b"x", 1, packet_id=1, retain=True)
    client.publish("a", b"x", 1, packet_id=2)
    client.expect()
    world.commit()
    client.expect(Puback(1, NOBODY), Puback(2, NOBODY))

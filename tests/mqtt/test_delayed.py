"""``$delayed/{seconds}/{topic}``: out at its time, once, as it was said, whoever died meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.packets import Connect, Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Will
from dragoman.adapters.mqtt.properties import Properties, parse_properties
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.credentials import hash_password
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.delayed import SECONDS_MAX
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.settings import BrokerSettings
from dragoman.routing.refusals import Reason, Refusal
from tests.http.http_mesh import http_mesh
from tests.mqtt.wire import Client, World, at, facts, pub

KEPT = {"clean": False, "session_expiry_interval": 3_600}


def listener(world: World, *filters: str, qos: int = 2, **options: object) -> Client:
    client = world.connected("w", **options)  # type: ignore[arg-type]
    client.subscribe(*(filters or ("#",)), qos=qos)
    return client


def deny(*filters: str) -> GateSettings:
    return GateSettings(rules=(RuleSettings(effect="deny", who=("*",), actions=("publish",), filters=filters),))


@pytest.mark.parametrize("version", [3, 4, 5])
def test_it_goes_out_after_so_many_seconds_and_nobody_sees_it_before(version: int):
    world = World()
    watcher = listener(world)
    world.connected("p", version).publish("$delayed/10/a/b", b"x")
    world.advance(9_999)
    watcher.expect()
    world.advance(2)
    watcher.expect(pub("a/b", b"x"))
    world.advance(100_000)
    watcher.expect()


def test_it_keeps_qos_retain_and_properties():
    world = World()
    watcher = listener(world)
    given = {
        "payload_format_indicator": 1,
        "content_type": "t",
        "response_topic": "r",
        "correlation_data": b"\0c",
        "user_properties": [("b", "1"), ("a", "2"), ("b", "3")],
    }
    world.connected("p").publish("$delayed/5/a", b"x", 2, retain=True, **given)
    world.advance(5_001)
    (packet,) = watcher.packets()
    assert facts(packet)[1:4] == (b"a", b"x", "qos2 id1")
    assert isinstance(packet, Publish)
    found = parse_properties(packet.properties, codes.PUBLISH)
    assert {name: getattr(found, name) for name in given} == given
    late = world.connected("late")
    late.subscribe("a")
    assert [p.retain for p in late.packets()] == [True]  # type: ignore[union-attr]


def test_its_expiry_counts_from_when_it_was_said():
    world = World()
    watcher = listener(world)
    publisher = world.connected("p")
    publisher.publish("$delayed/5/a", b"lives", message_expiry_interval=8)
    publisher.publish("$delayed/5/a", b"dies", message_expiry_interval=4)
    world.advance(5_001)
    (packet,) = watcher.packets()
    assert isinstance(packet, Publish)
    assert (packet.payload, packet.expiry) == (b"lives", 3)
    assert world.metrics.dropped == {"delayed-expired": 1}
    assert world.broker.delayed.count == 0


def test_those_of_one_moment_go_out_in_the_order_they_were_said_also_after_a_crash():
    world = World(durable=True)
    listener(world, **KEPT)
    publisher = world.connected("p")
    for n in range(300):
        publisher.publish("$delayed/5/a", b"%d" % n, 1)
    after = world.crash()
    watcher = after.connected("w", **KEPT)
    after.advance(5_001)
    assert [p.payload for p in watcher.packets() if isinstance(p, Publish)] == [b"%d" % n for n in range(300)]


def test_qos_1_and_2_are_acknowledged_when_it_is_safe():
    world = World(durable=True)
    publisher = world.connected("p")
    world.door.shut = True
    publisher.publish("$delayed/5/a", b"x", 1, packet_id=7)
    publisher.publish("$delayed/5/a", b"y", 2, packet_id=8)
    publisher.expect()
    assert world.crash().broker.delayed.count == 0
    world.commit()
    publisher.expect(Puback(7), Pubrec(8))
    publisher.say(Publish(b"$delayed/5/a", b"y", 2, False, True, 8))
    publisher.say(Pubrel(8))
    world.commit()
    publisher.expect(Pubrec(8), Pubcomp(8))
    assert world.broker.delayed.count == 2, "the repeated QoS 2 publish was no new one"


def test_what_the_disk_refused_is_refused_and_never_said():
    world = World(durable=True)
    watcher = listener(world)
    publisher = world.connected("p")
    world.door.shut = True
    publisher.publish("$delayed/5/a", b"x", 1)
    world.refuse()
    world.door.shut = False
    publisher.expect(Puback(1, 0x97))
    world.advance(6_000)
    watcher.expect()
    assert world.broker.delayed.count == world.broker.delayed.bytes == 0
    assert world.crash().broker.delayed.count == 0


def test_it_outlives_its_publisher_and_the_mesh_with_its_deadline():
    world = World(durable=True)
    listener(world, **KEPT)
    publisher = world.connected("p")
    publisher.publish("$delayed/10/a", b"1", 1)
    publisher.publish("$delayed/100/a", b"2", 2)
    publisher.vanish()
    world.advance(4_000)
    after = world.crash()
    watcher = after.connected("w", **KEPT)
    after.advance(5_999)
    watcher.expect()
    after.advance(3)
    watcher.expect(pub("a", b"1", 1, at(1)))
    watcher.say(Puback(at(1)))
    # Stopped, and due while nobody was there: it is said at once, and what was said is not said again.
    later = after.restart(down_ms=200_000)
    watcher = later.connected("w", **KEPT)
    later.advance(1)
    watcher.expect(pub("a", b"2", 2, 1))
    again = later.crash()
    again.advance(1_000)
    assert again.broker.delayed.count == 0


def test_what_is_said_after_a_restart_takes_nobodys_place():
    world = World(durable=True)
    listener(world, **KEPT)
    world.connected("p").publish("$delayed/5/a", b"before", 1)
    after = world.crash()
    publisher = after.connected("p")
    publisher.publish("$delayed/5/a", b"after", 1)
    assert after.broker.delayed.count == 2
    watcher = after.connected("w", **KEPT)
    after.advance(5_001)
    watcher.expect(pub("a", b"before", 1, at(1)), pub("a", b"after", 1, at(2)))


def test_one_that_is_due_at_the_start_finds_the_kept_sessions():
    world = World(durable=True)
    listener(world, **KEPT)
    world.connected("p").publish("$delayed/1/a", b"1", 1)
    world.restart(down_ms=5_000)
    after = world.restart(down_ms=5_000)
    after.advance(1)
    after.connected("w", **KEPT).expect(pub("a", b"1", 1, at(1)))


def test_a_disk_that_refuses_when_it_is_due_is_asked_again():
    world = World(durable=True)
    watcher = listener(world, **KEPT)
    world.connected("p").publish("$delayed/5/a", b"x", 1)
    world.door.shut = True
    world.advance(5_001)
    world.refuse()
    watcher.expect()
    world.door.shut = False
    world.commit()
    assert world.broker.delayed.count == 1
    assert world.crash().broker.delayed.count == 1
    world.advance(1_001)
    (packet,) = watcher.packets()
    assert isinstance(packet, Publish)
    assert packet.payload == b"x"
    world.turn()
    assert (world.broker.delayed.count, world.broker.delayed.said_total) == (0, 1)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic",
    [
        "$delayed",
        "$delayed/",
        "$delayed/5",
        "$delayed/5/",
        "$delayed/x/a",
        "$delayed/-1/a",
        "$delayed/1.5/a",
        "$delayed//a",
        f"$delayed/{SECONDS_MAX + 1}/a",
        f"$delayed/{'1' * 5_000}/a",
        "$delayed/٣/a",
        "$delayed/5/$delayed/5/a",
        "$delayed/5/mesh/to/w",
        "$delayed/5/" + "a/" * 127 + "a",
    ],
)
def test_what_names_no_time_or_no_channel_is_told_0x90(topic: str):
    world = World()
    client = world.connected("p")
    client.publish(topic, b"x", 1)
    client.expect(Puback(1, 0x90))
    client.publish(topic, b"x")
    client.expect(Disconnect(0x90), closed=True)
    old = world.connected("p", 4)
    old.publish(topic, b"x", 1)
    old.expect(closed=True)
    assert world.broker.delayed.count == 0


def test_0_seconds_and_the_most_there_are_are_taken():
    world = World(broker=BrokerSettings(sweep_ms=1 << 40))
    watcher = listener(world)
    publisher = world.connected("p")
    publisher.publish("$delayed/0/a", b"now")
    publisher.publish(f"$delayed/{SECONDS_MAX}/a", b"in 49 days")
    world.advance(1)
    watcher.expect(pub("a", b"now"))
    world.advance(SECONDS_MAX * 1_000)
    watcher.expect(pub("a", b"in 49 days"))


def test_the_real_topic_is_judged_when_it_is_said():
    world = World(gate=deny("secret/#"))
    publisher = world.connected("p")
    publisher.publish("$delayed/5/secret/a", b"x", 1)
    publisher.expect(Puback(1, 0x87))
    publisher.publish("$delayed/5/$SYS/a", b"x", 1)
    publisher.expect(Puback(1, 0x87))
    publisher.publish("$delayed/5/open", b"x", 1)
    publisher.expect(Puback(1))
    assert world.broker.delayed.count == 1


def test_and_again_when_it_goes_out():
    world = World(durable=True)
    listener(world, **KEPT)
    publisher = world.connected("p")
    publisher.publish("$delayed/5/secret", b"x", 1)
    publisher.publish("$delayed/5/open", b"y", 1)
    after = world.crash(gate=deny("secret"))
    watcher = after.connected("w", **KEPT)
    after.advance(5_001)
    watcher.expect(pub("open", b"y", 1, at(1)))
    assert after.metrics.dropped == {"delayed-not-authorized": 1}


def test_a_user_is_judged_by_the_groups_it_has_when_it_goes_out():
    def login(*groups: str) -> LoginSettings:
        return LoginSettings(anonymous="everyone", users=(UserSettings("ann", password=HASH, groups=groups),))

    HASH = hash_password(b"pw")
    rules = (
        RuleSettings(effect="allow", who=("@writers",), actions=("publish",), filters=("a",)),
        RuleSettings(effect="deny", who=("ann",), actions=("publish",), filters=("a",)),
    )
    world = World(gate=GateSettings(rules=rules), login=login("writers"), durable=True)
    client = world.client()
    client.say(Connect(5, "p", True, 0, "ann", b"pw", None))
    world.login()
    client.packets()
    client.publish("$delayed/5/a", b"x", 1)
    client.expect(Puback(1))
    after = world.crash(login=login())
    after.advance(6_000)
    assert after.metrics.dropped == {"delayed-not-authorized": 1}
    same = world.crash(login=login("writers"))
    same.advance(6_000)
    assert same.broker.delayed.said_total == 1


@pytest.mark.parametrize("crashed", [False, True])
def test_a_user_that_is_gone_says_nothing_with_the_groups_it_had(crashed: bool):
    ann = UserSettings("ann", password=hash_password(b"pw"), groups=("ops",))
    root = UserSettings("root", password=hash_password(b"pw"))
    rules = (RuleSettings(effect="allow", who=("@ops",), actions=("publish",), filters=("sec/#",)),)
    gate = GateSettings(default="deny", rules=rules)
    world = World(gate=gate, login=LoginSettings(users=(ann, root)), durable=True)
    client = world.client()
    will = Will(b"sec/will", b"w", 1, properties=Properties(will_delay_interval=5).encode(), delay=5)
    client.say(Connect(5, "p", True, 0, "ann", b"pw", will, Properties(session_expiry_interval=3_600)))
    world.login()
    client.packets()
    client.publish("$delayed/5/sec/x", b"x", 1)
    client.expect(Puback(1))
    client.vanish()
    without = LoginSettings(users=(root,))
    if crashed:
        world = world.crash(login=without)
    else:
        world.authenticator.replace(without)
        world.broker.gate.replace(gate)
    world.advance(6_000)
    assert world.metrics.dropped == {"delayed-not-authorized": 1, "will-not-authorized": 1}


def test_what_a_banned_client_has_left_is_not_said():
    world = World()
    watcher = listener(world)
    world.connected("p").publish("$delayed/5/a", b"x")
    world.broker.bans.add("client", "p", reason="", by="root", duration_ms=0)
    world.advance(6_000)
    watcher.expect()
    assert world.metrics.dropped == {"delayed-banned": 1}


def test_nobody_subscribes_there():
    world = World()
    for version, code in ((4, 0x80), (5, 0x87)):
        client = world.connected("c", version)
        assert client.subscribe("$delayed/#", "$delayed/5/a", "$delayed/+/a", "$stream/x/$delayed/#") == [code] * 4
        for kind in ("$share/g", "$queue/q", "$exclusive"):
            assert client.subscribe(f"{kind}/$delayed/#", f"{kind}/$delayed/5/a") == [code] * 2
        assert client.subscribe("#") == [0]
    assert list(world.broker.groups.list()) == []
    assert list(world.broker.groups.list_shares()) == []
    client.publish("$delayed/5/a", b"x")
    client.expect()


def test_too_many_or_too_much_is_told_0x97():
    world = World(broker=BrokerSettings(delayed_max=2))
    publisher = world.connected("p")
    for packet_id, code in ((1, 0), (2, 0), (3, 0x97)):
        publisher.publish("$delayed/5/a", b"x", 1, packet_id=packet_id)
        publisher.expect(Puback(packet_id, code))
    world.advance(6_000)
    publisher.publish("$delayed/5/a", b"x", 1)
    publisher.expect(Puback(1))
    world = World(broker=BrokerSettings(delayed_bytes_max=1_000))
    publisher = world.connected("p")
    publisher.publish("$delayed/5/a", b"x" * 990, 1)
    publisher.expect(Puback(1, 0x97))
    publisher.publish("$delayed/5/a", b"x" * 900, 1)
    publisher.expect(Puback(1))
    publisher.publish("$delayed/5/a", b"x" * 100, 1)
    publisher.expect(Puback(1, 0x97))
    assert World(broker=BrokerSettings(delayed_max=0)).connected("p").publish("$delayed/5/a") is None


def test_a_payload_larger_than_any_may_be_is_told_so_at_once():
    world = World(broker=BrokerSettings(message_bytes_max=100))
    publisher = world.connected("p")
    publisher.publish("$delayed/5/a", b"x" * 101, 1)
    publisher.expect(Puback(1, 0x97))


def test_a_rate_is_asked_when_it_goes_out_and_what_is_over_it_waits():
    world = World(MqttSettings(rate_policy="refuse"), gate=GateSettings(messages_per_s=1, burst=1))
    watcher = listener(world)
    publisher = world.connected("p")
    for n in range(3):
        publisher.publish("$delayed/5/a", b"%d" % n, 1, packet_id=n + 1)
    world.advance(5_500)
    assert len(watcher.packets()) == 1
    world.advance(5_000)
    assert len(watcher.packets()) == 2
    assert world.metrics.dropped == {}


def test_a_stopping_mesh_says_nothing_and_loses_nothing():
    world = World(durable=True)
    listener(world, **KEPT)
    world.connected("p").publish("$delayed/5/a", b"x", 1)
    world.broker.say_goodbye()
    world.turn()
    world.advance(7_000)
    after = world.crash()
    after.advance(2_001)
    after.connected("w", **KEPT).expect(pub("a", b"x", 1, at(1)))


def test_a_will_may_be_delayed_by_its_topic():
    world = World()
    watcher = listener(world)
    world.connected("c", will=Will(b"$delayed/5/gone", b"w")).vanish()
    world.advance(4_000)
    watcher.expect()
    world.advance(1_001)
    watcher.expect(pub("gone", b"w"))


# -- from elsewhere ----------------------------------------------------------------------------------


def test_over_http_it_is_the_same_and_the_administration_lists_and_cancels_it():
    async def main():
        async with http_mesh() as mesh:
            for n in (3_600, 60, 60):
                path = f"/v1/channels/%24delayed/{n}/plan/{n}"
                status, answer, _ = await mesh.ask("POST", path, token="alice", data=b"x")
                assert (status, answer) == (202, b""), answer
            assert (await mesh.ask("POST", "/v1/channels/%24delayed/soon/a", token="alice"))[0] == 400
            assert (await mesh.ask("GET", "/v1/channels/%24delayed/5/a", token="alice"))[0] == 403
            assert (await mesh.ask("GET", "/v1/admin/delayed", token="bob"))[0] == 403
            _, listed, _ = await mesh.ask("GET", "/v1/admin/delayed?limit=2", token="root")
            assert (listed["total"], [one["channel"] for one in listed["messages"]]) == (3, ["plan/60", "plan/60"])
            first = listed["messages"][0]
            assert first["due_ms"] - first["said_ms"] == 60_000
            assert first["principal"] == "alice"
            for expected in (204, 410):
                path = f"/v1/admin/delayed/{first['id']}"
                assert (await mesh.ask("DELETE", path, token="root"))[0] == expected
            assert (await mesh.ask("DELETE", "/v1/admin/delayed/1", token="bob"))[0] == 403
            assert mesh.broker.delayed.count == 2
            _, text, _ = await mesh.ask("GET", "/metrics")
            assert "dragoman_delayed_waiting 2" in str(text)

    asyncio.run(main())


def test_what_was_cancelled_stays_so_after_a_crash():
    world = World(durable=True)
    world.connected("p").publish("$delayed/5/a", b"x", 1)
    (waiting,) = world.broker.delayed.listed(10)
    assert not isinstance(world.broker.delayed.cancel(waiting.id), Refusal)
    world.turn()
    assert world.broker.delayed.count == world.broker.delayed.bytes == 0
    assert world.crash().broker.delayed.count == 0
    again = world.broker.delayed.cancel(waiting.id)
    assert isinstance(again, Refusal)
    assert again.reason is Reason.GONE

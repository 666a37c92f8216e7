"""A configuration that is changed while its mesh runs: what real clients see of it, and what the operator is told."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from dragoman.adapters.kafka.apis import ApiKey
from dragoman.adapters.kafka.shapes_data import (
    MetadataRequest,
    MetadataRequestTopic,
    SaslAuthenticateRequest,
    SaslHandshakeRequest,
)
from dragoman.adapters.serving.credentials import hash_password
from tests.cli.raw_mqtt import RawMqtt
from tests.cli.reloading import OPS, WAIT_S, Client, Operator, rule, user
from tests.clients.mesh import ANY_PORT, MeshProcess
from tests.kafka.kafka_bare import Bare

pytestmark = pytest.mark.slow


@pytest.fixture
def operator(mesh_process: Callable[..., MeshProcess]) -> Callable[[str], Operator]:
    return lambda config: Operator(mesh_process(config, memory=True))


def test_users_come_and_go(operator: Callable[[str], Operator]) -> None:
    old, new = hash_password(b"old"), hash_password(b"new")
    plant = operator(OPS + user("ann") + user("bob") + user("eve", password=old))
    with (
        Client(plant.mesh, "ann") as ann,
        Client(plant.mesh, "bob") as bob,
        Client(plant.mesh, "eve", "old") as eve,
    ):
        said = plant.hup(OPS + user("ann", groups=["team"]) + user("carol") + user("eve", password=new))
        assert said.endswith(
            " the configuration was reloaded: changed: login.users; sessions ended, since their login is no more: 2\n"
        )
        # 0x98, administrative action: who is gone, and whose password is another now.
        assert (bob.ended.get(timeout=WAIT_S), eve.ended.get(timeout=WAIT_S)) == (0x98, 0x98)
        with Client(plant.mesh, "carol") as carol, Client(plant.mesh, "eve", "new") as again:
            assert (carol.code, again.code) == (0, 0)
            carol.say("greetings", "here I am")
        assert ann.heard.get(timeout=WAIT_S) == "greetings here I am"
        assert ann.ended.empty()
    for name, password in (("bob", "bob!"), ("eve", "old")):
        with Client(plant.mesh, name, password) as refused:
            assert refused.code == 0x86
    assert plant.get("/v1/agents", "carol!")[0] == 200
    assert plant.get("/v1/agents", "bob!")[0] == 401


def test_streams_of_who_is_gone_end(operator: Callable[[str], Operator]) -> None:
    plant = operator(OPS + user("ann") + user("bob"))
    with plant.stream("bob!") as bob, plant.stream("ann!") as ann:
        plant.hup(OPS + user("ann"))
        told = bob.read().decode()
        assert "event: end" in told
        assert "log in anew" in told
        plant.post_message("a", "hello")
        while b"hello" not in (line := ann.readline()):
            assert line, "the other stream goes on"


def test_rules_and_groups_apply_to_who_is_connected(operator: Callable[[str], Operator]) -> None:
    plant = operator(OPS + user("ann") + user("bob"))
    with Client(plant.mesh, "ann") as ann, Client(plant.mesh, "bob") as bob:
        bob.say("a/secret", "1")
        assert ann.heard.get(timeout=WAIT_S) == "a/secret 1"
        secret = rule("deny", "@outsiders", "read", "a/secret")
        said = plant.hup(OPS + user("ann", groups=["outsiders"]) + user("bob") + secret)
        assert said.endswith("changed: login.users, gate.rules\n"), said
        bob.say("a/secret", "2")
        bob.say("a/open", "3")
        assert ann.heard.get(timeout=WAIT_S) == "a/open 3"
        # The group alone goes: the rule says nothing of her any more.
        plant.hup(OPS + user("ann") + user("bob") + secret)
        bob.say("a/secret", "4")
        assert ann.heard.get(timeout=WAIT_S) == "a/secret 4"
        # And who may write: bob's way into the channel is open already.
        plant.hup(OPS + user("ann") + user("bob") + rule("deny", "bob", "publish", "a/secret"))
        bob.say("a/secret", "5")
        bob.say("a/open", "6")
        assert ann.heard.get(timeout=WAIT_S) == "a/open 6"
        assert ann.ended.empty()
        assert bob.ended.empty()


def test_a_bad_file_changes_nothing_and_is_explained(operator: Callable[[str], Operator]) -> None:
    good = OPS + user("ann")
    plant = operator(good)
    with Client(plant.mesh, "ann") as ann:
        bad = OPS + '[[gate.rules]]\neffect = "maybe"\n[mqtt]\nreceive_mix = 3\n'
        line = bad.split("\n").index('effect = "maybe"') + 1
        said = plant.hup(bad)
        assert f"was not reloaded, nothing has changed: {plant.mesh.config}:{line}: gate.rules[1].effect: " in said
        assert f"{plant.mesh.config}:{line + 2}: mqtt.receive_mix: there is no such key; did you mean" in said
        status, problem = plant.post()
        assert (status, problem["type"]) == (409, "conflict")
        assert f":{line}: gate.rules[1].effect: must be one of" in problem["detail"]
        assert plant.value("gate.rules") == ([], "default")
        ann.say("still", "here")
        assert ann.heard.get(timeout=WAIT_S) == "still here"
        plant.write(good)
        assert plant.post() == (200, {"changed": [], "restart": [], "tls": [], "ended": 0})


def test_a_file_that_is_cut_off_does_not_open_the_mesh(operator: Callable[[str], Operator]) -> None:
    login = '[login]\nanonymous = "never"\n'
    good = f'{login}{OPS}[gate]\ndefault = "deny"\n'
    plant = operator(good)
    for half, gone in (
        ("", "everything"),
        ("# soon\n", "everything"),
        (login, "[[login.users]], [gate]"),
        (login + OPS, "[gate]"),
        (f"{login}{OPS}[gate]\n", "[gate]"),
        ("grace_s = 5\n", "[[login.users]], [login], [gate]"),
        ('[login]\nusers = []\n[gate]\ndefault = "deny"\n', "[[login.users]]"),
    ):
        plant.write(half)
        status, problem = plant.post()
        assert status == 409, half
        assert f"{plant.mesh.config}: {gone} would be gone, as if the file were half written; a restart" in str(problem)
        assert plant.post(token="stranger")[0] == 401
    assert f"nothing has changed: {plant.mesh.config}: everything would be gone" in plant.hup("")
    assert plant.value("gate.default")[0] == "deny"
    plant.write(f'{OPS}[gate]\ndefault = "allow"\n')
    assert plant.post()[1]["changed"] == ["login.anonymous", "gate.default"]


def test_what_needs_a_restart_is_named_and_the_rest_applied(operator: Callable[[str], Operator]) -> None:
    plant = operator(OPS)
    tables = 'grace_s = 3\n[listen]\nmqtt = "127.0.0.1:1"\n[broker]\nsweep_ms = 700\n[gate]\nburst = 5\n'
    plant.write(tables + OPS + user("ann"))
    status, done = plant.post()
    assert (status, done) == (
        200,
        {
            "changed": ["login.users", "gate.burst"],
            "restart": ["grace_s", "broker.sweep_ms"],
            "tls": [],
            "ended": 0,
        },
    )
    assert "; needs a restart: grace_s, broker.sweep_ms\n" in plant.lines()[-1]
    # Said of what is in force, not of what the file would like.
    assert plant.value("grace_s") == (10.0, "default")
    assert plant.value("gate.burst") == (5, f"{plant.mesh.config}:7")
    # What the command line said still wins.
    assert plant.value("listen.mqtt") == ("127.0.0.1:0", "--mqtt")
    with Client(plant.mesh, "ann") as ann:
        assert ann.code == 0
    # It stays so until the restart, however often it is asked for.
    assert plant.post()[1]["restart"] == ["grace_s", "broker.sweep_ms"]
    assert plant.post("reload", "ann!")[0] == 403


def test_the_first_users_close_the_door_behind_strangers(operator: Callable[[str], Operator]) -> None:
    """Whoever came while nobody had to log in was even the operator."""
    plant = operator("# nothing yet\n")
    with RawMqtt(plant.mesh.address("mqtt"), "stranger") as stranger:
        plant.hup(OPS)
        assert stranger.receive()[0] == 0xE0
        assert stranger.receive() == (0, b"")
    assert plant.post(token="wrong")[0] == 401


def test_limits_hold_for_who_is_connected(operator: Callable[[str], Operator]) -> None:
    users = OPS + user("ann")
    plant = operator(users)
    with Client(plant.mesh, "ann") as ann:
        ann.say("a", "1")
        ann.say("a", "2")
        rate = 'client_messages_per_s = 1\nclient_burst = 1\nrate_policy = "disconnect"\nsys_interval_s = 3\n'
        said = plant.hup(f"{users}[limits]\nconnect_deadline_s = 5\n[mqtt]\n{rate}")
        assert said.endswith(
            "changed: limits.connect_deadline_s, mqtt.client_messages_per_s, mqtt.client_burst, mqtt.rate_policy; "
            "needs a restart: mqtt.sys_interval_s\n"
        )
        ann.say("a", "3")
        ann.send("a", "4")
        assert ann.ended.get(timeout=WAIT_S) == 0x96


def _topic(client: Bare, name: str) -> int:
    """The error code that Kafka's metadata have for a topic."""
    asked = MetadataRequest([MetadataRequestTopic(uuid.UUID(int=0), name)], True, False, False)
    (topic,) = client.ask(ApiKey.METADATA, 9, asked).topics
    return int(topic.error_code)


def test_kafka_and_the_limits_of_the_mesh(mesh_process: Callable[..., MeshProcess]) -> None:
    at = {"kafka": ANY_PORT, "http": ANY_PORT}
    plant = Operator(mesh_process(OPS + user("bob"), memory=True, listeners=at))
    with Bare(plant.mesh) as stranger, Bare(plant.mesh) as bob:
        bob.ask(ApiKey.SASL_HANDSHAKE, 1, SaslHandshakeRequest("PLAIN"))
        answer = bob.ask(ApiKey.SASL_AUTHENTICATE, 1, SaslAuthenticateRequest(b"\0bob\0bob!"))
        assert answer.error_code == 0
        assert (_topic(bob, "made"), _topic(stranger, "made.too")) == (0, 0)
        said = plant.hup(OPS + user("bob") + "[kafka]\nauto_create = false\n[broker]\nchannels_max = 1\n")
        assert said.endswith("changed: broker.channels_max, kafka.auto_create\n")
        # 3, unknown topic: none is made any more.
        assert (_topic(bob, "another"), _topic(bob, "made")) == (3, 0)
        plant.hup(OPS + user("bob") + "[broker]\nchannels_max = 1\n")
        assert _topic(bob, "another") != 0
        plant.hup(OPS)
        assert bob.frame() is None, "the connection is closed"
        assert _topic(stranger, "made") == 0

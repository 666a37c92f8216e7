"""``[[mqtt.rewrite]]``: what clients name becomes something else, before anything else is asked."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.mqtt.packets import Connack, Connect, Disconnect, Puback, Subscribe, Subscription, Unsuback, Will
from dragoman.adapters.mqtt.patterns import compiled, problem
from dragoman.adapters.mqtt.rewrite import Rewrites, RewriteSettings
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.config import ConfigError, load
from dragoman.routing.refusals import Reason, Refusal
from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import run_client
from tests.mqtt.test_live_wills import Watcher
from tests.mqtt.wire import World, at, pub


def rule(source: str, regex: str, target: str, action: str = "all") -> RewriteSettings:
    return RewriteSettings(source, regex, target, action)


def mesh(*rules: RewriteSettings, **options: object) -> World:
    return World(MqttSettings(rewrite=rules), **options)  # type: ignore[arg-type]


EXAMPLES = (
    rule("x/y/+", r"^x/y/(\d+)$", "z/y/$1"),
    rule("x/#", "^x/y/(.+)$", "z/y/x/$1"),
    rule("y/+/z/#", "^y/(.+)/z/(.+)$", "y/z/$2"),
)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("y/a/z/b", "y/z/b"),
        ("y/def", "y/def"),
        ("x/1/2", "x/1/2"),
        ("x/y/2", "z/y/2"),
        # The first rule whose source matches has the word, though its expression does not match.
        ("x/y/z", "x/y/z"),
        ("x/y/z/1", "z/y/x/z/1"),
        # Wildcards of a filter are text.
        ("x/y/#", "x/y/#"),
        ("x/y/a/+", "z/y/x/a/+"),
        ("y/+/z/#", "y/z/#"),
        ("x/#", "x/#"),
        ("#", "#"),
        ("$share/g/x/y/2", "$share/g/z/y/2"),
        ("$queue/q/x/y/2", "$queue/q/z/y/2"),
        ("$queue/x", "$queue/x"),
        ("$exclusive/x/y/2", "$exclusive/z/y/2"),
        ("$delayed/5/x/y/2", "$delayed/5/z/y/2"),
        ("$stream/s/x/y/2", "$stream/s/z/y/2"),
        ("$s/earliest/x/y/2", "$s/earliest/z/y/2"),
    ],
)
def test_the_first_source_that_matches_decides(name: str, becomes: str):
    rewrites = Rewrites(EXAMPLES, 512)
    assert rewrites.filter(name, "c", "u") == becomes
    assert rewrites.topic(name, "c", "u") == becomes


def test_targets_know_groups_client_and_user():
    def made(target: str, client_id: str = "c", user: str = "u") -> str | Refusal:
        return Rewrites([rule("a/#", "^a/(b)?(.*)$", target)], 512).topic("a/xy", client_id, user)

    assert made("t/$2/$1/$2") == "t/xy//xy"
    assert made("%c/%u/100%%/$a/$") == "c/u/100%/$a/$"
    assert made("%c", client_id="%u$1") == "%u$1"
    for unfit in ("", "a/b", "+", "a#", "\0"):
        for target in ("%c", "x%u"):
            refusal = made(target, unfit, unfit)
            assert isinstance(refusal, Refusal)
            assert refusal.reason is Reason.NAME_INVALID


def test_publishes_of_every_kind_go_out_under_the_new_topic():
    world = mesh(rule("old/#", "^old/(.+)$", "new/%c/$1"))
    watcher = world.connected("w")
    watcher.subscribe("#", qos=1)
    for version in (3, 4, 5):
        client = world.connected("p", version)
        for payload in (b"1", b"2"):
            client.publish("old/a", payload)
        client.publish("old/a", b"3", 1, retain=True)
        watcher.expect(pub("new/p/a", b"1"), pub("new/p/a", b"2"), *watcher_qos_1(version))
    client.publish("other", b"x")
    watcher.expect(pub("other", b"x"))
    late = world.connected("l", 4)
    late.subscribe("new/#")
    late.expect(pub("new/p/a", b"3", retain=True))


def watcher_qos_1(turn: int) -> list[object]:
    return [pub("new/p/a", b"3", 1, turn - 2)]


def test_a_topic_alias_means_the_new_topic_too():
    world = mesh(rule("old/#", "^old/(.+)$", "new/$1"))
    watcher = world.connected("w")
    watcher.subscribe("#")
    client = world.connected("p")
    client.publish("old/a", b"1", topic_alias=1)
    client.publish("", b"2", topic_alias=1)
    watcher.expect(pub("new/a", b"1"), pub("new/a", b"2"))


def test_an_expression_is_asked_once_a_topic_not_once_a_message():
    world = mesh(rule("old/#", "^old/(.+)$", "new/$1"))
    client = world.connected("p")
    asked: list[str] = []
    rewrites = world.realm.rewrites
    (only,) = rewrites.publishes
    before = only.regex

    class Spy:
        def search(self, text: str) -> re.Match[str] | None:
            asked.append(text)
            return before.search(text)

    only.regex = Spy()  # type: ignore[assignment]
    for n in range(10):
        client.publish(f"old/{n % 2}", b"x")
    assert asked == ["old/0", "old/1"]


def test_filters_are_subscribed_and_unsubscribed_under_the_new_name_also_after_a_restart():
    kept = {"clean": False, "session_expiry_interval": 60}
    world = mesh(rule("old/#", "^old/(.+)$", "new/$1", "subscribe"), durable=True)
    client = world.connected("c", **kept)
    assert client.subscribe("old/a", "old/+/b", "$share/g/old/s", qos=1) == [1, 1, 1]
    publisher = world.connected("p")
    publisher.publish("old/a", b"is not meant for publishes")
    client.expect()
    after = world.crash()
    client = after.connected("c", **kept)
    publisher = after.connected("p")
    for topic in ("new/a", "new/x/b"):
        publisher.publish(topic, b"x", 1)
        client.expect(pub(topic, b"x", 1, at(1 if topic == "new/a" else 2)))
    client.unsubscribe("old/a", "old/a", "old/+/b", "$share/g/old/s")
    client.expect(Unsuback(1, codes=[0, 0x11, 0, 0]))
    publisher.publish("new/a", b"x", 1)
    client.expect()


def test_rules_of_the_gate_see_the_new_name():
    deny = RuleSettings(effect="deny", who=("*",), actions=("publish", "read"), filters=("new/#",))
    world = mesh(rule("old/#", "^old/(.+)$", "new/$1"), gate=GateSettings(rules=(deny,)))
    client = world.connected("c")
    client.publish("old/a", b"x", 1)
    client.expect(Puback(1, 0x87))
    assert client.subscribe("old/a", "other") == [0x87, 0]


def test_with_delay_as_target():
    world = mesh(rule("later/#", "^later/([^/]+)/(.+)$", "$delayed/$1/$2", "publish"))
    watcher = world.connected("w")
    watcher.subscribe("#")
    client = world.connected("p", 3)
    client.publish("later/5/a", b"x")
    world.advance(4_000)
    watcher.expect()
    world.advance(1_001)
    watcher.expect(pub("a", b"x"))
    client.publish("later/soon/a", b"x")
    client.expect(closed=True)


def test_a_wills_topic_is_rewritten_too():
    world = mesh(rule("old/#", "^old/(.+)$", "new/%c/$1"))
    watcher = world.connected("w")
    watcher.subscribe("#")
    client = world.connected("c", will=Will(b"old/gone", b"w"), session_expiry_interval=9)
    again = world.connected("c", will=Will(b"old/gone", b"w"))
    watcher.expect(pub("new/c/gone", b"w"))
    again.vanish()
    watcher.expect(pub("new/c/gone", b"w"))
    assert client.closed
    for version, code in ((5, 0x90), (4, 3)):
        late = world.client(version)
        late.say(Connect(version, "a/b", True, will=Will(b"old/gone", b"w")))
        (connack,) = late.packets()
        assert isinstance(connack, Connack)
        assert connack.code == code
        assert late.closed


def test_what_becomes_no_topic_is_told_so():
    world = mesh(rule("old/#", "^old/(.*)$", "+/$1"), rule("me", "^", "%c"))
    for topic in ("old/a", "me", "old/" + "a" * 600):
        client = world.connected("a/b")
        assert client.subscribe(topic) == ([0] if topic == "old/a" else [0x8F])
        client.unsubscribe("me")
        client.expect(Unsuback(1, codes=[0x11]))
        client.publish(topic, b"x", 1)
        client.expect(Puback(1, 0x90))
    old = world.connected("a/b", 4)
    assert old.subscribe("me") == [0x80]


def test_a_filter_may_become_a_shared_one_but_not_with_no_local():
    world = mesh(rule("work", "^", "$share/g/work"))
    client = world.connected("c")
    assert client.subscribe("work") == [0]
    assert world.realm.standings.shared_filters == 1
    client.say(Subscribe(2, [Subscription("work", no_local=True)]))
    client.expect(Disconnect(0x82), closed=True)


# -- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ('source = "a/#/b"\nregex = "^"\ntarget = "t"', "# must be the last level"),
        ('source = "$share/g/a"\nregex = "^"\ntarget = "t"', "leave out what stands before the topic"),
        ('source = "a"\nregex = "("\ntarget = "t"', "is no regular expression"),
        ('source = "a"\nregex = "^(a+)+$"\ntarget = "t"', "can take for ever"),
        ('source = "a"\nregex = "^(.+)/(.+)/(.+)/(.+)$"\ntarget = "t"', "can take too long"),
        ('source = "a"\nregex = "(?=a)"\ntarget = "t"', "only (?:...)"),
        ('source = "a"\nregex = "^(a)$"\ntarget = "t/$2"', "speaks of $2"),
        ('source = "a"\nregex = "^(a)$"\ntarget = "t/$0"', "speaks of $0"),
        ('source = "a"\nregex = "^"\ntarget = "t/%x"', "after % comes"),
        ('source = "a"\nregex = "^"\ntarget = ""', "an empty topic"),
        ('source = "a"\nregex = "^"', "'target' is missing"),
        ('source = "a"\nregex = "^"\ntarget = "t"\naction = "read"', 'must be one of "all", "publish", "subscribe"'),
    ],
)
def test_a_bad_rule_is_a_sentence_before_anything_starts(keys: str, sentence: str, tmp_path: Path):
    file = tmp_path / "d.toml"
    file.write_text(f"[[mqtt.rewrite]]\n{keys}\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    shown = "\n".join(map(str, caught.value.faults))
    assert sentence in shown
    assert "mqtt.rewrite[1]" in shown


@pytest.mark.parametrize(
    "pattern",
    [
        r"^y/(.+)/z/(.+)$",
        r"^([^/]+)/([^/]+)/([^/]+)/([^/]+)/(\w+)$",
        r"^(ab)+$",
        r"^(?:[a-z]{3}-\d{4})+$",
        r"^a/(.+)$|^b/(.+)$",
        r"x{",
        r"^a[]/]b$",
        r"^\((.+?)\)$",
    ],
)
def test_expressions_as_people_write_them_are_taken(pattern: str):
    assert problem(pattern) is None


@pytest.mark.parametrize(
    "pattern", ["(a|a)*b", "(a?)*b", "(a*)*b", "((a+)b?)+c", r"(a)\1", "(?i)a", "(?P<n>a)", "a*a*a*b"]
)
def test_expressions_that_can_take_for_ever_are_not(pattern: str):
    assert problem(pattern) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            f"^{part * times}{'a' * times}$"
            for part in ("a?", "a??", "(?:a?)", "(?:x|.)", "(?:a|a)")
            for times in (20, 60)
        ),
        f"^{'(?:a|' * 20}b{')' * 20}{'(?:x|.)' * 20}$",
        f"^(.+)x(.+)y{'a?' * 8}$",
        f"^{'[^/]+/{0}' * 8}$",
        f"^{'.{1,500}' * 3}$",
        r"^(?:(?:\b){65535}){65535}",
        r"^(?:(?:\b){9999,}){9999,}",
    ],
)
def test_many_optional_parts_and_choices_multiply(pattern: str):
    said = problem(pattern)
    assert said is not None
    assert said.endswith(("and use few of ? and |", "write it without"))


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                ".",
                "/",
                "[^/]",
                r"\d",
                "*",
                "+",
                "?",
                "{2}",
                "{1,}",
                "(",
                "(?:",
                ")",
                "|",
                "^",
                "$",
                "??",
                "a?",
                "(?:x|.)",
            ]
        ),
        max_size=10,
    ).map("".join),
    st.sampled_from([1, 2, 9, 18, 40]),
)
def test_what_is_taken_ends_soon(piece: str, times: int):
    for pattern in (piece, f"^{piece * times}$"):
        if problem(pattern) is None:
            for text in ("a" * 511 + "!", "/" * 511 + "!", "a/" * 255 + "!", "a" * 199 + "\n"):
                began_s = time.process_time()
                compiled(pattern).search(text)
                # Time of ours, not of a busy machine: what is exponential takes for ever at 40 times the piece.
                assert time.process_time() - began_s < 2.0, pattern


# -- with clients ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mosquitto_says_the_old_topic_and_paho_hears_the_new_one(
    mesh_process: Callable[..., MeshProcess], require: Callable[[str], str]
):
    rules = '[[mqtt.rewrite]]\nsource = "sensor/#"\nregex = "^sensor/(.+)$"\ntarget = "plant/%c/$1"\n'
    mesh = mesh_process(rules + 'action = "publish"\n', listeners=MQTT_ONLY)
    watcher = Watcher(mesh, "watcher")
    watcher.subscribe("plant/press7/temp")
    host, port = mesh.address("mqtt")
    to = ["-h", host, "-p", str(port), "-i", "press7", "-q", "1"]
    run_client([require("mosquitto_pub"), *to, "-t", "sensor/temp", "-m", "21"])
    assert watcher.take()[1] == b"21"
    watcher.end()

from __future__ import annotations

import json
import time

import pytest
from agents_world import ALICE, BOB, FakeSession, World

from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.history import Change, What
from dragoman.broker.presence import State
from dragoman.broker.principal import ANONYMOUS
from dragoman.broker.settings_agents import AgentSettings
from dragoman.routing.cards import Card, Query, Skill
from dragoman.routing.refusals import Reason, Refusal


def card(agent: str, *skills: str) -> Card:
    return Card(agent=agent, name=agent.title(), skills=tuple(Skill(name=skill) for skill in skills))


def state(world: World, agent: str) -> State | None:
    world.directory.check()
    entry = world.directory.get(agent)
    return entry.state if entry is not None else None


def reason(answer: object) -> Reason | None:
    return answer.reason if isinstance(answer, Refusal) else None


def presence_news(world: World, agent: str) -> list[str]:
    return [
        json.loads(payload)["state"] if payload else ""
        for name, payload in world.take_news()
        if name == f"$mesh/v1/presence/{agent}"
    ]


# -- states --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "keeps", "expected"),
    [
        (True, True, State.ASLEEP),
        (True, False, State.GONE),
        (False, True, State.LOST),
        (False, False, State.LOST),
    ],
)
def test_how_a_connection_ended_decides(clean: bool, keeps: bool, expected: State) -> None:
    world = World()
    session = world.arrive("a", keeps=keeps)
    assert state(world, "a") is State.ONLINE
    world.directory.depart(session, clean=clean, keeps=keeps)
    assert state(world, "a") is expected
    assert presence_news(world, "a") == ["online", expected.value]


def test_the_gone_leave_after_a_while_and_that_is_news() -> None:
    world = World()
    world.directory.depart(world.arrive("a"), clean=True, keeps=False)
    world.wait(59_000)
    assert state(world, "a") is State.GONE
    world.wait(2_000)
    assert state(world, "a") is None
    assert presence_news(world, "a") == ["online", "gone", ""]


def test_the_lost_without_a_session_are_gone_after_a_while_and_those_with_one_are_waited_for() -> None:
    world = World()
    world.directory.depart(world.arrive("a"), clean=False, keeps=False)
    world.directory.depart(world.arrive("b", keeps=True), clean=False, keeps=True)
    world.wait(61_000)
    assert state(world, "a") is State.GONE
    world.wait(61_000)
    assert state(world, "a") is None
    assert state(world, "b") is State.LOST
    world.directory.release("b", "mqtt")
    assert state(world, "b") is State.GONE
    world.wait(61_000)
    assert state(world, "b") is None


def test_who_returns_in_time_stays() -> None:
    world = World()
    world.directory.depart(world.arrive("a"), clean=True, keeps=False)
    world.wait(59_000)
    world.arrive("a")
    world.wait(120_000)
    assert state(world, "a") is State.ONLINE


def test_online_if_any_transport_is_and_the_last_to_leave_decides() -> None:
    world = World()
    mqtt = world.arrive("a", keeps=True)
    http = world.arrive("a", protocol="http")
    world.directory.depart(mqtt, clean=False, keeps=True)
    assert state(world, "a") is State.ONLINE
    world.directory.depart(http, clean=True, keeps=False)
    assert state(world, "a") is State.ASLEEP, "its MQTT session still keeps"


def test_late_news_of_an_old_connection_is_ignored_and_counted() -> None:
    world = World()
    old = world.arrive("a")
    world.directory.depart(old, clean=False, keeps=False)
    new = world.arrive("a")
    world.take_news()
    world.directory.depart(old, clean=True, keeps=False)
    assert state(world, "a") is State.ONLINE
    assert world.directory.late_news_total == 1
    assert world.take_news() == []
    entry = world.directory.get("a")
    assert entry is not None
    assert entry.connections[0][0] is new


def test_a_takeover_whose_old_end_comes_late_leaves_the_agent_online() -> None:
    world = World()
    old = world.arrive("a")
    world.arrive("a")
    world.directory.depart(old, clean=False, keeps=False)
    world.wait(200_000)
    assert state(world, "a") is State.ONLINE


def test_seq_never_goes_back_over_a_crash() -> None:
    world = World()

    def seq() -> int:
        ((_, payload),) = world.directory._roster.presences(None, lambda name: True)
        return int(json.loads(payload)["seq"])

    session = world.arrive("a", keeps=True)
    world.directory.depart(session, clean=True, keeps=True)
    before = seq()
    world = world.after_crash()
    there = seq()
    world.arrive("a", keeps=True)
    assert before <= there < seq()


def test_session_numbers_rise_even_when_the_agent_was_forgotten_and_over_a_crash() -> None:
    world = World()
    numbers = []
    for _ in range(3):
        session = FakeSession(ALICE, "a")
        numbers.append(world.directory.arrive(session, "a", keeps=False))
        world.directory.depart(session, clean=True, keeps=False)
        world.wait(200_000)
        assert world.directory.get("a") is None
    world = world.after_crash()
    numbers.append(world.directory.arrive(FakeSession(ALICE, "a"), "a", keeps=False))
    assert all(isinstance(number, int) for number in numbers)
    assert numbers == sorted(set(numbers))  # type: ignore[type-var]


def test_a_flap_is_not_news_but_is_the_truth() -> None:
    world = World(AgentSettings(flap_ms=2_000))
    session = world.arrive("a", keeps=True)
    world.take_news()
    world.directory.depart(session, clean=False, keeps=True)
    assert state(world, "a") is State.LOST
    world.wait(1_500)
    again = world.arrive("a", keeps=True)
    world.wait(5_000)
    assert presence_news(world, "a") == ["online"]
    world.directory.depart(again, clean=False, keeps=True)
    world.wait(1_000)
    assert presence_news(world, "a") == []
    world.wait(1_500)
    assert presence_news(world, "a") == ["lost"]


def test_each_break_waits_its_own_while_before_it_is_news() -> None:
    world = World(AgentSettings(flap_ms=2_000))
    world.directory.depart(world.arrive("a"), clean=False, keeps=False)
    world.wait(1_000)
    world.directory.depart(world.arrive("a"), clean=False, keeps=False)
    world.wait(1_500)
    assert presence_news(world, "a") == ["online", "online"]
    world.wait(1_000)
    assert presence_news(world, "a") == ["lost"]


def test_a_goodbye_is_news_at_once_however_flaps_are_treated() -> None:
    world = World(AgentSettings(flap_ms=2_000))
    world.directory.depart(world.arrive("a", keeps=True), clean=True, keeps=True)
    assert presence_news(world, "a") == ["online", "asleep"]


def test_busy_is_a_reached_limit_and_a_limit_of_nothing_declares_it() -> None:
    world = World()
    world.arrive("a")
    entry = world.directory.get("a")
    assert entry is not None
    world.directory.set_limit("a", 2)
    world.directory.loaded(entry, +1)
    assert state(world, "a") is State.ONLINE
    world.directory.loaded(entry, +1)
    assert state(world, "a") is State.BUSY
    world.directory.loaded(entry, -1)
    assert state(world, "a") is State.ONLINE
    world.directory.set_limit("a", 0)
    assert state(world, "a") is State.BUSY
    assert presence_news(world, "a") == ["online", "busy", "online", "busy"]
    assert reason(world.directory.set_limit("a", -1)) is Reason.ARGUMENTS_INVALID
    assert reason(world.directory.set_limit("nobody", 1)) is Reason.UNKNOWN_AGENT


def test_presence_says_what_the_reference_says() -> None:
    world = World()
    world.arrive("a")
    [(name, payload)] = world.take_news()
    entry = world.directory.get("a")
    assert entry is not None
    assert name == "$mesh/v1/presence/a"
    assert json.loads(payload) == {
        "state": "online",
        "since": world.clock.now_ms(),
        "via": "mqtt",
        "session": entry.session_number,
        "seq": world.directory.revision,
    }


# -- bindings ------------------------------------------------------------------------------------


def test_an_id_belongs_to_who_used_it_first() -> None:
    world = World()
    session = world.arrive("a", ALICE)
    assert reason(world.directory.arrive(FakeSession(BOB, "a"), "a", keeps=False)) is Reason.AGENT_TAKEN
    world.directory.depart(session, clean=True, keeps=False)
    assert reason(world.directory.arrive(FakeSession(BOB, "a"), "a", keeps=False)) is Reason.AGENT_TAKEN
    register = world.directory.register(BOB, "a", card("a"), lease_ms=1_000, via="http")
    assert reason(register) is Reason.AGENT_TAKEN
    assert reason(world.directory.unregister(BOB, "a")) is Reason.AGENT_TAKEN
    assert state(world, "a") is State.GONE
    world.wait(61_000)
    world.arrive("a", BOB)


def test_anonymous_binds_too() -> None:
    world = World()
    world.arrive("a", ANONYMOUS)
    world.arrive("a", ANONYMOUS)
    assert reason(world.directory.arrive(FakeSession(ALICE, "a"), "a", keeps=False)) is Reason.AGENT_TAKEN


def test_a_declared_id_is_not_for_squatters() -> None:
    world = World(declared={"planner": "alice"})
    assert reason(world.directory.arrive(FakeSession(BOB, "planner"), "planner", keeps=False)) is Reason.AGENT_TAKEN
    world.arrive("planner", ALICE)


def test_a_declaration_wins_over_an_earlier_user_who_is_not_connected() -> None:
    world = World()
    session = world.arrive("planner", BOB, keeps=True)
    world.directory.depart(session, clean=True, keeps=True)
    world.declared = {"planner": "alice"}
    world = world.after_crash()
    world.arrive("planner", ALICE)
    assert world.directory.get("planner").principal_name == "alice"  # type: ignore[union-attr]
    world.directory.check()


@pytest.mark.parametrize("agent", ["", "a\nb", "\ud800", "x" * 2_000])
def test_what_is_no_id_is_refused(agent: str) -> None:
    world = World()
    assert reason(world.directory.arrive(FakeSession(ALICE, agent), agent, keeps=False)) is Reason.NAME_INVALID
    assert world.directory.get(agent) is None


def test_bindings_of_kept_sessions_and_cards_survive_a_crash_and_others_do_not() -> None:
    world = World()
    long = "x" * 1_000
    world.arrive("kept", keeps=True)
    world.directory.depart(world.arrive(long, keeps=True), clean=True, keeps=True)
    world.arrive("fleeting")
    world.directory.register(ALICE, "leased", card("leased", "talk"), lease_ms=60_000, via="http")
    world.directory.offer(world.directory.get("kept").connections[0][0], "kept", Skill(name="heat"), lambda call: True)  # type: ignore[union-attr]
    world = world.after_crash()
    assert state(world, "kept") is State.LOST, "its connection broke with the process"
    assert state(world, long) is State.ASLEEP
    assert state(world, "leased") is State.ASLEEP
    assert state(world, "fleeting") is None
    assert [agent.id for agent in world.directory.holders("heat")] == ["kept"]
    assert [agent.id for agent in world.directory.holders("talk")] == ["leased"]
    for agent in ("kept", long, "leased"):
        assert reason(world.directory.arrive(FakeSession(BOB, agent), agent, keeps=False)) is Reason.AGENT_TAKEN
    world.wait(61_000)
    assert state(world, "leased") is None, "its lease went on while nobody was there"
    world.directory.release("kept", "mqtt")
    world.wait(61_000)
    assert [row for row in world.log.kept if row[1] == b"=kept"] == []


# -- cards ---------------------------------------------------------------------------------------


def test_a_card_stays_as_long_as_its_lease_and_renewing_is_a_sign_of_life() -> None:
    world = World()
    assert isinstance(world.directory.register(ALICE, "a", card("a"), lease_ms=10_000, via="http"), int)
    assert state(world, "a") is State.ASLEEP
    world.wait(9_000)
    assert isinstance(world.directory.renew(ALICE, "a", lease_ms=10_000), int)
    world.wait(9_000)
    assert state(world, "a") is State.ASLEEP
    world.take_news()
    world.wait(2_000)
    assert state(world, "a") is None
    assert world.take_news() == [("$mesh/v1/presence/a", b""), ("$mesh/v1/agents/a", b"")]
    assert reason(world.directory.renew(ALICE, "a")) is Reason.UNKNOWN_AGENT


def test_when_the_lease_ends_the_connected_lose_the_card_only() -> None:
    world = World()
    world.arrive("a")
    world.directory.register(ALICE, "a", card("a", "talk"), lease_ms=10_000, via="http")
    world.wait(11_000)
    assert state(world, "a") is State.ONLINE
    assert world.directory.get("a").card is None  # type: ignore[union-attr]
    assert world.directory.holders("talk") == []
    assert reason(world.directory.renew(ALICE, "a")) is Reason.GONE


def test_a_leased_card_holds_an_agent_that_is_gone_and_an_unleased_one_does_not() -> None:
    world = World()
    for agent, lease_ms in (("leased", 600_000), ("unleased", None)):
        session = world.arrive(agent)
        world.directory.register(ALICE, agent, card(agent), lease_ms=lease_ms, via="mqtt")
        world.directory.depart(session, clean=True, keeps=False)
    world.wait(100_000)
    assert state(world, "leased") is State.GONE
    assert state(world, "unleased") is None


def test_a_card_without_lease_or_connection_gets_the_configured_lease() -> None:
    world = World(AgentSettings(flap_ms=0, card_lease_ms=5_000))
    world.directory.register(ALICE, "a", card("a"), lease_ms=None, via="http")
    world.wait(4_000)
    assert state(world, "a") is State.ASLEEP
    world.wait(2_000)
    assert state(world, "a") is None


def test_unregistering_takes_card_and_agent() -> None:
    world = World()
    world.directory.register(ALICE, "a", card("a", "talk"), lease_ms=10_000, via="http")
    assert world.directory.unregister(ALICE, "a") is None
    assert state(world, "a") is None
    assert world.log.kept.keys() == World().log.kept.keys()
    assert reason(world.directory.unregister(ALICE, "a")) is Reason.UNKNOWN_AGENT


def test_find_shows_only_what_its_reader_may_see() -> None:
    deny = RuleSettings(effect="deny", who=("bob",), actions=("read",), filters=("$mesh/v1/agents/secret",))
    world = World(gate=GateSettings(rules=(deny,)))
    for agent in ("secret", "open"):
        world.directory.register(ALICE, agent, card(agent, "talk"), lease_ms=10_000, via="http")
    assert [agent.id for agent in world.directory.find(BOB, Query())] == ["open"]
    assert [agent.id for agent in world.directory.find(BOB, Query(id="secret"))] == []
    assert [agents for _, _, agents in world.directory.skills(BOB)] == [["open"]]
    assert [agents for _, _, agents in world.directory.skills(ALICE)] == [["secret", "open"]]


def test_find_by_skill_state_and_load() -> None:
    world = World()
    for agent in ("a", "b", "c"):
        world.arrive(agent)
        world.directory.register(ALICE, agent, card(agent, "talk"), lease_ms=None, via="mqtt")
    world.directory.loaded(world.directory.get("a"), +3)  # type: ignore[arg-type]
    world.directory.set_limit("b", 0)
    assert [agent.id for agent in world.directory.find(ALICE, Query(skill="talk"))] == ["b", "c", "a"]
    assert [agent.id for agent in world.directory.find(ALICE, Query(state="online"))] == ["c", "a"]
    assert [agent.id for agent in world.directory.find(ALICE, Query(load_max=1))] == ["b", "c"]


def test_registering_and_leaving_is_cheap() -> None:
    world = World()
    cards = [card(f"agent{i}", "talk", "walk") for i in range(3_000)]
    begun = time.perf_counter()
    for each in cards:
        world.directory.register(ALICE, each.agent, each, lease_ms=600_000, via="http")
    for each in cards:
        world.directory.unregister(ALICE, each.agent)
    assert time.perf_counter() - begun < 1.5, "at least 4,000 changes a second on a slow machine"
    world.directory.check()


# -- offers --------------------------------------------------------------------------------------


def test_serving_makes_a_minimal_card_which_a_kept_session_keeps() -> None:
    world = World()
    session = world.arrive("a", keeps=True)
    offer = world.directory.offer(session, "a", Skill(name="heat"), lambda call: True)
    assert not isinstance(offer, Refusal)
    assert [skill.name for skill in world.directory.get("a").card.skills] == ["heat"]  # type: ignore[union-attr]
    world.directory.depart(session, clean=True, keeps=True)
    assert world.directory.offers("heat") == []
    assert [agent.id for agent in world.directory.holders("heat")] == ["a"]
    session = world.arrive("a", keeps=True)
    world.take_news()
    offer = world.directory.offer(session, "a", Skill(name="heat"), lambda call: True)
    assert world.take_news() == [], "offering it again is no news"
    world.directory.withdraw(offer)  # type: ignore[arg-type]
    assert world.directory.holders("heat") == []
    world.directory.check()


def test_a_new_session_does_not_inherit_what_the_old_one_served() -> None:
    world = World()
    session = world.arrive("a", keeps=True)
    world.directory.offer(session, "a", Skill(name="heat"), lambda call: True)
    world.directory.depart(session, clean=True, keeps=True)
    world.arrive("a", keeps=False)
    assert world.directory.holders("heat") == []


def test_a_declared_card_gains_what_is_served_beyond_it() -> None:
    world = World()
    session = world.arrive("a")
    described = Skill(name="heat", description="warms")
    declared = Card(agent="a", name="A", skills=(described,))
    world.directory.register(ALICE, "a", declared, lease_ms=None, via="mqtt")
    world.directory.offer(session, "a", Skill(name="heat"), lambda call: True)
    world.directory.offer(session, "a", Skill(name="cool"), lambda call: True)
    assert world.directory.get("a").card.skills == (described, Skill(name="cool"))  # type: ignore[union-attr]


def test_only_who_speaks_as_the_agent_may_offer_for_it_and_offers_are_bounded() -> None:
    world = World(AgentSettings(offers_per_session_max=2))
    session = world.arrive("a")
    stranger = FakeSession(ALICE, "a")
    assert reason(world.directory.offer(stranger, "a", Skill(name="x"), lambda call: True)) is Reason.UNKNOWN_AGENT
    for name in ("x", "y"):
        assert reason(world.directory.offer(session, "a", Skill(name=name), lambda call: True)) is None
    assert reason(world.directory.offer(session, "a", Skill(name="z"), lambda call: True)) is Reason.QUOTA_EXCEEDED


def test_the_gate_judges_serving_and_registering() -> None:
    deny = RuleSettings(effect="deny", who=("bob",), actions=("serve", "register"))
    world = World(gate=GateSettings(rules=(deny,)))
    session = world.arrive("a", BOB)
    assert reason(world.directory.offer(session, "a", Skill(name="x"), lambda call: True)) is Reason.NOT_AUTHORIZED
    assert reason(world.directory.register(BOB, "b", card("b"), lease_ms=1, via="http")) is Reason.NOT_AUTHORIZED
    assert world.directory.get("b") is None


# -- watching ------------------------------------------------------------------------------------


def test_a_watch_hears_each_change_once_at_the_end_of_the_turn() -> None:
    world = World()
    heard: list[Change] = []
    unwatch = world.directory.watch(heard.append)
    session = world.arrive("a")
    world.directory.register(ALICE, "a", card("a"), lease_ms=None, via="mqtt")
    assert heard == []
    world.turn()
    assert [(change.agent, change.what) for change in heard] == [("a", What.STATE), ("a", What.CARD)]
    assert [change.revision for change in heard] == [world.directory.revision - 1, world.directory.revision]
    unwatch()
    world.directory.depart(session, clean=True, keeps=False)
    world.turn()
    assert len(heard) == 2


def test_a_watch_resumes_from_a_revision_or_learns_that_it_cannot() -> None:
    world = World(AgentSettings(history_max=3))
    world.arrive("a")
    known = world.directory.revision
    world.arrive("b")
    world.arrive("c")
    assert [change.agent for change in world.directory.since(known) or []] == ["b", "c"]
    assert world.directory.since(world.directory.revision) == []
    world.arrive("d")
    world.arrive("e")
    assert world.directory.since(known) is None
    assert world.directory.since(world.directory.revision + 1) is None
    newest = world.directory.revision
    world = world.after_crash()
    assert world.directory.since(newest) is None
    assert world.directory.revision > newest


# -- bounds --------------------------------------------------------------------------------------


def test_the_directory_is_bounded_and_lets_the_gone_go_first() -> None:
    world = World(AgentSettings(agents_max=3, agents_per_principal_max=2))
    session = world.arrive("a1")
    world.arrive("a2")
    assert reason(world.directory.arrive(FakeSession(ALICE, "a3"), "a3", keeps=False)) is Reason.QUOTA_EXCEEDED
    world.arrive("b1", BOB)
    assert reason(world.directory.arrive(FakeSession(BOB, "b2"), "b2", keeps=False)) is Reason.QUOTA_EXCEEDED
    world.directory.depart(session, clean=True, keeps=False)
    world.arrive("b2", BOB)
    assert state(world, "a1") is None
    assert state(world, "a2") is State.ONLINE


# -- members and the projection --------------------------------------------------------------------


def test_members_come_and_go_with_their_subscriptions() -> None:
    world = World()
    one, other = world.arrive("a"), world.arrive("a", protocol="http")
    world.take_news()
    world.directory.joined("plant/one", one)
    world.directory.joined("plant/one", other)
    world.directory.joined("plant/one", FakeSession(ALICE, ""))
    name = "$mesh/v1/channels/plant%2Fone"
    assert world.take_news() == [
        (
            f"{name}/members/a",
            json.dumps({"role": "member", "since": world.clock.now_ms()}, separators=(",", ":")).encode(),
        ),
        (name, b'{"members":1}'),
    ]
    world.directory.left("plant/one", one)
    assert [agent for agent, _ in world.directory.members("plant/one")] == ["a"]
    assert world.take_news() == []
    world.directory.left("plant/one", other)
    assert world.directory.members("plant/one") == []
    assert world.take_news() == [(f"{name}/members/a", b""), (name, b"")]
    world.directory.left("plant/one", other)
    assert world.take_news() == []


def test_the_projection_is_what_the_news_added_up_to() -> None:
    world = World()
    session = world.arrive("a/b c")
    world.directory.register(ALICE, "a/b c", card("a/b c", "talk"), lease_ms=None, via="mqtt")
    world.directory.depart(world.arrive("gone"), clean=True, keeps=False)
    world.directory.joined("x", session)
    world.directory.register(ALICE, "leased", card("leased"), lease_ms=1_000, via="http")
    world.wait(70_000)
    added_up: dict[str, object] = {}
    for name, payload in world.take_news():
        if payload:
            added_up[name] = json.loads(payload)
        else:
            del added_up[name]
    shown = {name: json.loads(payload) for name, payload in world.directory.projected("$mesh/#")}
    assert shown == added_up
    assert sorted(shown) == [
        "$mesh/v1/agents/a%2Fb%20c",
        "$mesh/v1/channels/x",
        "$mesh/v1/channels/x/members/a%2Fb%20c",
        "$mesh/v1/presence/a%2Fb%20c",
    ]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("$mesh/v1/presence/a", ["$mesh/v1/presence/a"]),
        ("$mesh/v1/presence/+", ["$mesh/v1/presence/a", "$mesh/v1/presence/b"]),
        ("$mesh/v1/+/a", ["$mesh/v1/presence/a", "$mesh/v1/agents/a"]),
        ("$mesh/v1/presence/#", ["$mesh/v1/presence/a", "$mesh/v1/presence/b"]),
        ("$mesh/+/agents/#", ["$mesh/v1/agents/a"]),
        ("$mesh/v1/channels/+", ["$mesh/v1/channels/x"]),
        ("$mesh/v1/channels/x/members/+", ["$mesh/v1/channels/x/members/a"]),
        ("$mesh/v1/channels/+/members/a", ["$mesh/v1/channels/x/members/a"]),
        ("$mesh/v2/#", []),
        ("$mesh/v1/presence/%", []),
        ("$mesh", []),
        ("#", []),
        ("+/v1/presence/a", []),
    ],
)
def test_the_projection_answers_any_filter(filter_: str, expected: list[str]) -> None:
    world = World()
    session = world.arrive("a")
    world.arrive("b")
    world.directory.register(ALICE, "a", card("a"), lease_ms=None, via="mqtt")
    world.directory.joined("x", session)
    assert [name for name, _ in world.directory.projected(filter_)] == expected

"""Cards are read from every form, refused with a path, and found by what they say."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.routing.cards import (
    DESCRIPTION_CHARS_MAX,
    NAME_CHARS_MAX,
    SCHEMA_DEPTH_MAX,
    SKILLS_MAX,
    TAGS_MAX,
    Card,
    Query,
    Skill,
    card_json,
    parse_card,
    search,
    skill_key,
)
from dragoman.routing.refusals import Reason, Refusal

DEGREES = {"type": "object", "properties": {"celsius": {"type": "number", "minimum": 5}}, "required": ["celsius"]}

A2A_1_0 = {
    "name": "Route planner",
    "description": "Plans routes",
    "version": "1.2.0",
    "supportedInterfaces": [
        {"url": "https://planner.example/a2a", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
        {"url": "https://planner.example/rest", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
    ],
    "capabilities": {"streaming": True},
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
    "provider": {"organization": "Acme", "url": "https://acme.example"},
    "skills": [
        {"id": "plan", "name": "Plan a route", "description": "From A to B", "tags": ["maps"], "examples": ["to Rome"]}
    ],
}


def parsed(data: object) -> Card:
    card = parse_card(data, "agent-1")
    assert isinstance(card, Card), card
    return card


def refused(data: object) -> str:
    refusal = parse_card(data, "agent-1")
    assert isinstance(refusal, Refusal), refusal
    assert refusal.reason is Reason.CARD_INVALID
    assert len(refusal.detail) < 300
    return refusal.detail


def nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth - 1):
        value = {"not": value}
    return value


# -- reading -------------------------------------------------------------------------------------


def test_our_minimal_form():
    data = {
        "name": "Thermostat",
        "description": "Hall, ground floor",
        "skills": [
            {"name": "set_temperature", "description": "Sets it", "input_schema": DEGREES, "tags": ["heating"]},
            {"name": "read", "title": "Read it"},
        ],
        "tags": ["hall"],
    }
    assert parsed(data) == Card(
        agent="agent-1",
        name="Thermostat",
        description="Hall, ground floor",
        skills=(
            Skill("set_temperature", "Sets it", input_schema=DEGREES, tags=("heating",)),
            Skill("read", title="Read it"),
        ),
        tags=("hall",),
    )


def test_an_a2a_card():
    assert parsed(A2A_1_0) == Card(
        agent="agent-1",
        name="Route planner",
        description="Plans routes",
        version="1.2.0",
        skills=(Skill("plan", "From A to B", tags=("maps",), title="Plan a route"),),
        url="https://planner.example/a2a",
    )
    older = {**A2A_1_0, "url": "https://planner.example/v0"}
    assert parsed(older).url == "https://planner.example/v0"


def test_the_least_a_card_can_be_and_null_is_absent():
    least = Card("agent-1", "x")
    assert parsed({"name": "x"}) == least
    assert parsed({"name": "x", "agent": "someone-else", "surprise": 1}) == least
    everything = ("description", "version", "skills", "tags", "url", "supportedInterfaces")
    assert parsed({"name": "x", **dict.fromkeys(everything)}) == least
    skill = {"id": None, "name": "s", "description": None, "tags": None, "inputSchema": None, "outputSchema": None}
    assert parsed({"name": "x", "skills": [skill]}).skills == (Skill("s"),)


@pytest.mark.parametrize("key", ["inputSchema", "input_schema"])
def test_both_spellings_of_a_schema(key):
    other = key.replace("input", "output")
    skill = parsed({"name": "x", "skills": [{"name": "s", key: DEGREES, other: {"type": "array"}}]}).skills[0]
    assert (skill.input_schema, skill.output_schema) == (DEGREES, {"type": "array"})


def test_nothing_of_what_was_read_is_kept():
    data = {"name": "x", "skills": [{"name": "s", "inputSchema": copy.deepcopy(DEGREES)}]}
    card = parsed(data)
    data["skills"][0]["inputSchema"]["properties"]["celsius"]["minimum"] = -273
    data["skills"][0]["inputSchema"]["required"].append("x")
    assert card.skills[0].input_schema == DEGREES


def test_a_card_cannot_be_changed():
    card = parsed(A2A_1_0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.name = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.skills[0].name = "other"


def test_a_skill_is_found_by_name():
    card = parsed(A2A_1_0)
    assert card.skill("plan") is card.skills[0]
    assert card.skill("Plan a route") is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "card must be an object, not null"),
        ([], "card must be an object, not a list"),
        ("{}", "card must be an object, not text"),
        ({}, "name is missing"),
        ({"name": ""}, "name is empty"),
        ({"name": " "}, "name is empty"),
        ({"name": 5}, "name must be text, not a number"),
        ({"name": True}, "name must be text, not a boolean"),
        ({"name": "a\nb"}, "name holds a control character"),
        ({"name": "\ud800"}, "name holds text UTF-8 cannot hold"),
        ({"name": "x" * (NAME_CHARS_MAX + 1)}, "name has 129 characters, at most 128"),
        ({"name": "x", "description": ["y"]}, "description must be text, not a list"),
        ({"name": "x", "description": "\x1b[2J"}, "description holds a control character"),
        ({"name": "x", "description": "y" * (DESCRIPTION_CHARS_MAX + 1)}, "description has 8193 characters"),
        ({"name": "x", "version": 1.0}, "version must be text, not a number"),
        ({"name": "x", "version": "1" * 65}, "version has 65 characters"),
        ({"name": "x", "url": {}}, "url must be text, not an object"),
        ({"name": "x", "url": "u" * 2_049}, "url has 2049 characters"),
        ({"name": "x", "supportedInterfaces": {}}, "supportedInterfaces must be a list"),
        ({"name": "x", "supportedInterfaces": ["u"]}, "supportedInterfaces[0] must be an object"),
        ({"name": "x", "supportedInterfaces": [{"url": 1}]}, "supportedInterfaces[0].url must be text"),
        ({"name": "x", "tags": "t"}, "tags must be a list, not text"),
        ({"name": "x", "tags": ["t", 1]}, "tags[1] must be text, not a number"),
        ({"name": "x", "tags": [None]}, "tags[0] is missing"),
        ({"name": "x", "tags": ["t" * 65]}, "tags[0] has 65 characters"),
        ({"name": "x", "tags": ["t"] * (TAGS_MAX + 1)}, "tags has 65 entries, at most 64"),
        ({"name": "x", "skills": {}}, "skills must be a list, not an object"),
        ({"name": "x", "skills": ["s"]}, "skills[0] must be an object, not text"),
        ({"name": "x", "skills": [{}]}, "skills[0].name is missing"),
        ({"name": "x", "skills": [{"name": "s"}, {"id": ""}]}, "skills[1].id is empty"),
        ({"name": "x", "skills": [{"id": "s", "name": 5}]}, "skills[0].name must be text"),
        ({"name": "x", "skills": [{"name": "s", "title": 5}]}, "skills[0].title must be text"),
        ({"name": "x", "skills": [{"name": "s", "description": 5}]}, "skills[0].description must be text"),
        ({"name": "x", "skills": [{"name": "s", "tags": [""]}]}, "skills[0].tags[0] is empty"),
        ({"name": "x", "skills": [{"name": "s"}, {"id": "s"}]}, "skills[1] is a second skill called 's'"),
    ],
)
def test_a_broken_card_is_refused_with_the_place(data, says):
    assert says in refused(data)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("object", "must be an object, not text"),
        ([], "must be an object, not a list"),
        ({"type": "string"}, "must describe an object, not 'string'"),
        ({"type": ["object", "null"]}, "must describe an object"),
        (nested(SCHEMA_DEPTH_MAX + 1), "nested deeper than 32"),
        (nested(500_000), "nested deeper than 32"),
        ({"a": [[[[["\ud800"]]]]]}, "UTF-8"),
        ({"\ud800": 1}, "UTF-8"),
        ({"minimum": float("nan")}, "not finite"),
        ({"minimum": float("inf")}, "not finite"),
        ({"minimum": 2**64}, "64 bits"),
        ({"minimum": -(2**63) - 1}, "64 bits"),
        ({1: "x"}, "a key that is a number"),
        ({"a": b"x"}, "a bytes, which JSON does not know"),
    ],
)
def test_a_broken_schema_is_refused_with_the_place(schema, says):
    detail = refused({"name": "x", "skills": [{"name": "r"}, {"name": "s", "inputSchema": schema}]})
    assert detail.startswith("skills[1].inputSchema ")
    assert says in detail


def test_the_limits_themselves_are_allowed():
    schema = nested(SCHEMA_DEPTH_MAX)
    card = parsed(
        {
            "name": "x" * NAME_CHARS_MAX,
            "description": "y\n\t" + "z" * (DESCRIPTION_CHARS_MAX - 3),
            "skills": [{"name": f"s{i}", "inputSchema": schema} for i in range(SKILLS_MAX)],
            "tags": ["t"] * TAGS_MAX,
        }
    )
    assert len(card.skills) == SKILLS_MAX
    assert card.skills[0].input_schema == schema
    many = [{"name": f"s{i}"} for i in range(SKILLS_MAX + 1)]
    assert refused({"name": "x", "skills": many}) == "skills has 257 entries, at most 256 are allowed"
    numbers = {"minimum": -(2**63), "maximum": 2**64 - 1}
    assert parsed({"name": "x", "skills": [{"name": "s", "inputSchema": numbers}]}).skills[0].input_schema == numbers


# -- writing -------------------------------------------------------------------------------------


def test_the_projection_uses_the_field_names_of_a2a():
    card = Card(
        agent="agent-1",
        name="T",
        version="1",
        skills=(Skill("set", "d", DEGREES, {"type": "number"}, ("a",), "Set it"), Skill("read")),
        tags=("b",),
        url="http://x",
    )
    assert card_json(card) == {
        "agent": "agent-1",
        "name": "T",
        "description": "",
        "version": "1",
        "skills": [
            {
                "id": "set",
                "name": "Set it",
                "description": "d",
                "tags": ["a"],
                "inputSchema": DEGREES,
                "outputSchema": {"type": "number"},
            },
            {"id": "read", "name": "read", "description": "", "tags": []},
        ],
        "tags": ["b"],
        "url": "http://x",
    }


labels = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=9).filter(str.strip)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
schemas = st.one_of(st.none(), st.dictionaries(st.text(max_size=4).filter(lambda k: k != "type"), values, max_size=3))
tag_tuples = st.lists(labels, max_size=2).map(tuple)
skills = st.builds(Skill, labels, labels, schemas, schemas, tag_tuples, st.one_of(st.just(""), labels))
skill_tuples = st.lists(skills.filter(lambda s: s.title != s.name), max_size=2, unique_by=lambda s: s.name).map(tuple)
cards = st.builds(
    Card, st.just("agent-1"), labels, st.text("ab\n", max_size=5), labels, skill_tuples, tag_tuples, st.none() | labels
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(cards)
def test_what_is_written_is_read_back_as_the_same_card(card):
    assert parsed(json.loads(json.dumps(card_json(card)))) == card


# -- the identity of a skill -----------------------------------------------------------------------


def test_ten_thousand_thermostats_are_one_tool():
    text = json.dumps(DEGREES)
    keys = {skill_key(Skill("set", f"room {i}", json.loads(text), tags=(f"r{i}",), title=f"{i}")) for i in range(200)}
    assert len(keys) == 1
    assert keys.pop().startswith("set:")


def test_the_layout_of_the_json_does_not_matter():
    one = {"type": "object", "properties": {"a": {"maximum": 1, "minimum": 0}, "b": {}}}
    two = {"properties": {"b": {}, "a": {"minimum": -0.0, "maximum": 1.0}}, "type": "object"}
    assert skill_key(Skill("s", input_schema=one)) == skill_key(Skill("s", input_schema=two))


def test_what_differs_is_another_tool():
    different = [
        Skill("s"),
        Skill("t"),
        Skill("s", input_schema={}),
        Skill("s", output_schema={}),
        Skill("s", input_schema={"maximum": 1}),
        Skill("s", input_schema={"maximum": 1.5}),
        Skill("s", input_schema={"maximum": True}),
        Skill("s", input_schema={"maximum": "1"}),
        Skill("s", output_schema={"maximum": 1}),
        Skill("s", input_schema={"enum": [1, 2]}),
        Skill("s", input_schema={"enum": [2, 1]}),
        Skill("s", input_schema={"enum": ["é"]}),
    ]
    assert len({skill_key(skill) for skill in different}) == len(different)


def test_the_key_is_stable_over_releases():
    """Tool names hold its digest, and models remember tool names."""
    assert skill_key(Skill("set", input_schema=DEGREES)) == "set:47d8d82caa04de4e"


# -- search ----------------------------------------------------------------------------------------


@dataclass
class Someone:
    agent: str
    card: Card | None = None
    state: str = "online"
    load: float = 0


HEATER = Someone("heater-1", Card("heater-1", "Heater", "Warms the hall", skills=(Skill("set", tags=("HVAC",)),)))
PLANNER = Someone("planner", Card("planner", "Planner", "Plans heating", tags=("Maps",)), state="busy", load=4)
CLIMATE = Someone(
    "climate",
    Card("climate", "Climate", "x", skills=(Skill("heat", "Raises", title="Heating up"), Skill("set"))),
    load=2,
)
BARE = Someone("bare", state="asleep", load=1)
EVERYONE = [PLANNER, BARE, CLIMATE, HEATER]


def ids(query: Query, entries: list[Someone] = EVERYONE) -> list[str]:
    return [entry.agent for entry in search(entries, query)]


def test_everyone_is_found_least_busy_first():
    assert ids(Query()) == ["heater-1", "bare", "climate", "planner"]
    assert ids(Query(text="  ")) == ["heater-1", "bare", "climate", "planner"]
    same = [Someone("c"), Someone("a"), Someone("b")]
    assert ids(Query(), same) == ["a", "b", "c"]
    assert search(iter(EVERYONE), Query()) == search(EVERYONE, Query())


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(id="climate"), ["climate"]),
        (Query(id="bare"), ["bare"]),
        (Query(id="Climate"), []),
        (Query(state="busy"), ["planner"]),
        (Query(state="online"), ["heater-1", "climate"]),
        (Query(load_max=0), ["heater-1"]),
        (Query(load_max=2), ["heater-1", "bare", "climate"]),
        (Query(skill="set"), ["heater-1", "climate"]),
        (Query(skill="heat"), ["climate"]),
        (Query(skill="hea"), []),
        (Query(tag="hvac"), ["heater-1"]),
        (Query(tag="MAPS"), ["planner"]),
        (Query(tag="map"), []),
        (Query(skill="set", tag="hvac", state="online", load_max=9, id="heater-1", text="hall"), ["heater-1"]),
        (Query(skill="set", tag="maps"), []),
        (Query(id="", text="heat"), []),
        (Query(tag=""), []),
        (Query(skill=""), []),
    ],
)
def test_everything_asked_for_must_hold(query, found):
    assert ids(query) == found


def test_text_ranks_names_before_skills_before_descriptions_whatever_the_load():
    assert ids(Query(text="HEAT")) == ["heater-1", "climate", "planner"]
    busy = dataclasses.replace(HEATER, load=99)
    assert ids(Query(text="heat"), [PLANNER, CLIMATE, busy]) == ["heater-1", "climate", "planner"]


def test_every_word_must_occur_somewhere():
    assert ids(Query(text="hall warms")) == ["heater-1"]
    assert ids(Query(text="hall maps")) == []
    assert ids(Query(text="bare")) == ["bare"]
    assert ids(Query(text="hvac")) == ["heater-1"]
    assert ids(Query(text="raises")) == ["climate"]


def test_words_do_not_match_across_fields():
    entry = Someone("ab", Card("ab", "cd", "ef", tags=("gh", "ij")))
    for text in ("abcd", "ghij", "cdef"):
        assert ids(Query(text=text), [entry]) == []


def test_the_order_does_not_depend_on_the_order_of_the_directory():
    chance = random.Random(3)
    entries = [Someone(f"{i:03}", HEATER.card if i % 3 else PLANNER.card, load=i % 4) for i in range(60)]
    expected = ids(Query(text="heat"), entries)
    assert len(expected) == 60
    for _ in range(5):
        chance.shuffle(entries)
        assert ids(Query(text="heat"), entries) == expected
